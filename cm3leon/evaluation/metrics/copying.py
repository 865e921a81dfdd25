"""How often a drawn picture is a copy of a document that stood before its prompt.

A real picture of the same prompt is like the documents too, as far as prompt and documents agree,
and is no copy. So "copy" means nearer to a document than all but a small share of the real
pictures: that share is what a system that copies nothing reaches.

A document's object on another ground is a copy too, which neither whole pixels nor features see:
`shared_block` looks for the largest square of image codes that a picture has from a document, code
for code, wherever it stands in either.

Shapes: N pictures, S documents of each, D numbers of a picture: its pixels, or its features; G x G
image codes of a picture.
"""

from __future__ import annotations

import numpy as np

from cm3leon.errors import UserError


def nearest_distance(pictures_ND: np.ndarray, documents_NSD: np.ndarray) -> np.ndarray:
    """Root mean square difference to the nearest of a picture's own documents, float64 [N]."""
    if documents_NSD.ndim != 3 or not documents_NSD.shape[1]:
        raise UserError(f"documents must have shape [N, S, D], got {list(documents_NSD.shape)}")
    if pictures_ND.shape != documents_NSD[:, 0].shape:
        raise UserError(
            f"pictures of shape {list(pictures_ND.shape)} do not fit documents of shape "
            f"{list(documents_NSD.shape)}"
        )
    apart = pictures_ND[:, None].astype(np.float64) - documents_NSD
    return np.sqrt((apart**2).mean(2)).min(1)


def shared_block(pictures_NGG: np.ndarray, documents_NSGG: np.ndarray) -> np.ndarray:
    """Side in codes of the largest square that a picture shares with a document, int64 [N].

    0 where no code of the picture is in any of its own documents.
    """
    if documents_NSGG.ndim != 4 or not documents_NSGG.shape[1]:
        raise UserError(f"documents must have shape [N, S, G, G], got {list(documents_NSGG.shape)}")
    if pictures_NGG.shape != documents_NSGG[:, 0].shape:
        raise UserError(
            f"codes of shape {list(pictures_NGG.shape)} do not fit documents of shape "
            f"{list(documents_NSGG.shape)}"
        )
    side, largest_N = pictures_NGG.shape[1], np.zeros(len(pictures_NGG), np.int64)
    for down in range(1 - side, side):
        for right in range(1 - side, side):
            ours, theirs = zip(*(_overlap(shift, side) for shift in (down, right)), strict=True)
            same = pictures_NGG[:, None, *ours] == documents_NSGG[:, :, *theirs]
            largest_N = np.maximum(largest_N, _largest_square(same).max(1))
    return largest_N


def _overlap(shift: int, side: int) -> tuple[slice, slice]:
    """Places of two rows of `side` codes that meet when the second is moved by `shift`."""
    return slice(max(shift, 0), side + min(shift, 0)), slice(max(-shift, 0), side - max(shift, 0))


def _largest_square(same_NSHW: np.ndarray) -> np.ndarray:
    """Side of the largest square of True in each map, int64 [N, S]."""
    squares = same_NSHW.astype(np.int64)  # the largest that ends at each place
    for row in range(1, squares.shape[2]):
        for column in range(1, squares.shape[3]):
            around = np.minimum(squares[..., row - 1, column], squares[..., row, column - 1])
            squares[..., row, column] *= 1 + np.minimum(around, squares[..., row - 1, column - 1])
    return squares.max((2, 3))


def copies(drawn_N: np.ndarray, real_N: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Bool [N]: drawn pictures nearer to their documents than all but `share` of the real ones."""
    if not 0 < share < 1:
        raise UserError(f"share of the control must lie in (0, 1), got {share}")
    return np.asarray(drawn_N) < np.quantile(np.asarray(real_N), share)
