"""Multi-scale SSIM of two maps (ControlNet++ prints it as "SSIM" of hed and line art).

torchmetrics', with values in 0..1. Five scales of a window of 11 pixels need sides above 160.
"""

from __future__ import annotations

import numpy as np

from cm3leon.errors import UserError

LEAST = 161  # pixels of a side


def ms_ssim(truth, read) -> float:
    """MS-SSIM of two uint8 maps [H, W]; UserError for two sizes, and sides of 160 or less."""
    truth, read = np.asarray(truth), np.asarray(read)
    if truth.shape != read.shape or truth.ndim != 2 or min(truth.shape) < LEAST:
        shapes = f"{list(truth.shape)} and {list(read.shape)}"
        raise UserError(f"MS-SSIM needs two maps of one size above 160 pixels, got {shapes}")
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    one, other = (torch.tensor(each / 255.0)[None, None] for each in (read, truth))
    found = multiscale_structural_similarity_index_measure(one, other, data_range=1.0)
    return float(found)
