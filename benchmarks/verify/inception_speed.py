"""Pictures a second of Inception in several forms, in turn on one machine, random weights.

Seconds depend on the machine and on what else it does; the ratios of one run are the finding. Each
round times every form with every batch once, and the whole way from picture files to features on
disk, so that whatever disturbs a round disturbs all of them.

Axes: B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cm3leon.evaluation.features.inception import DIM, SIDE, Fast, Packed, Plain, fastest, pool3

EXACT = 1e-5  # the largest error of a form that may be ours
EXTRACTION = "extraction"
PICTURES, PIXELS = 64, 256  # of the extraction: files, pixels of a side
COMPILED = "compiled"


class ChannelsLast(Plain):
    """Plain with the channels innermost."""

    def place(self, x_BCHW):
        """Pictures as the convolutions take them."""
        import torch

        return x_BCHW.contiguous(memory_format=torch.channels_last)


class FoldedLast(Fast):
    """Normalisation folded in, every convolution by itself, channels innermost."""

    joins, fan = False, Plain.fan


class Folded(FoldedLast):
    """Normalisation folded in, every convolution by itself."""

    place = Plain.place

    def _laid_out(self, weight, bias):
        return weight.to(self.device, self.dtype).contiguous(), bias.to(self.device, self.dtype)


@dataclass(frozen=True)
class Speed:
    """One form with one batch: pictures a second of wall and of processor time (medians)."""

    name: str
    batch: int
    wall: float
    cpu: float
    error: float  # largest difference to plain against the largest feature

    @property
    def exact(self) -> bool:
        """Whether its features are plain's, up to rounding in float32."""
        return self.error <= EXACT


@dataclass(frozen=True)
class Cell:
    """What is timed: a call that makes the features of `count` pictures."""

    name: str
    batch: int
    count: int
    call: Callable[[], object]
    error: float


def ours(device: str = "cpu") -> str:
    """The form that `load_features` uses for float32."""
    return "packed" if Packed.possible(device, "float32") else "fast"


def shares(found: Sequence[Speed], name: str) -> dict[str, float]:
    """What the form `name` and the extraction reach of the fastest exact cell, by either clock.

    The form with its best batch, as the caller is free to choose it.
    """
    said = {}
    for clock in ("wall", "cpu"):
        bare = [one for one in found if one.exact and one.name != EXTRACTION]
        best = max(getattr(one, clock) for one in bare)
        for label, wanted in (("ours", name), (EXTRACTION, EXTRACTION)):
            own = [getattr(one, clock) for one in found if one.name == wanted]
            if own:
                said[f"{label}_to_best_{clock}"] = max(own) / best
    return said


def speeds(
    batches: Sequence[int],
    repeats: int,
    device: str = "cpu",
    side: int = SIDE,
    compiled: bool = False,
    pictures: int = PICTURES,
) -> tuple[list[Speed], list[str]]:
    """(Every cell timed `repeats` times in turn after a run that does not count, what is lacking).

    `pictures`: files of the extraction, 0 for none; `compiled`: also by torch.compile (minutes).
    """
    import torch

    from cm3leon.evaluation.features.inception import random_weights

    weights, lacking = random_weights(), []
    if not bfloat16_in_hardware(device):
        lacking.append(f"bfloat16 is not timed: {device} has it in no hardware")
    with tempfile.TemporaryDirectory(prefix="inception_speed.") as folder, torch.inference_mode():
        cells = list(form_cells(weights, batches, device, side))
        if compiled:
            try:
                cells += list(compiled_cells(weights, batches, device, side))
            except Exception as error:  # a compiler can fail in any way
                reason = (str(error).splitlines() or [""])[0][:120]
                lacking.append(f"{COMPILED} is not timed: {type(error).__name__}: {reason}")
        if pictures:
            cells.append(extraction_cell(weights, device, Path(folder), pictures))
        runs = [[timed(cell.call) for cell in cells] for _ in range(repeats)]
    return [
        Speed(
            cell.name,
            cell.batch,
            cell.count / statistics.median(pairs[place][0] for pairs in runs),
            cell.count / max(statistics.median(pairs[place][1] for pairs in runs), 1e-9),
            cell.error,
        )
        for place, cell in enumerate(cells)
    ], lacking


def forms(weights: dict, device: str) -> dict[str, Plain | Fast]:
    """Name -> network, the plain one first."""
    found = {
        "plain": Plain(weights, device),
        "channels-last": ChannelsLast(weights, device),
        "folded": Folded(weights, device),
        "folded channels-last": FoldedLast(weights, device),
        "fast": Fast(weights, device),
    }
    if Packed.possible(device, "float32"):
        found["packed"] = Packed(weights, device)
    if bfloat16_in_hardware(device):
        found["bfloat16"] = Fast(weights, device, "bfloat16")
    return found


def bfloat16_in_hardware(device: str) -> bool:
    """Whether it can be faster than float32 here."""
    import torch

    from cm3leon.config import TrainConfig
    from cm3leon.training.loop import precision

    return precision(TrainConfig(), device) is torch.bfloat16


def form_cells(weights: dict, batches: Sequence[int], device: str, side: int) -> Iterator[Cell]:
    """Every form with every batch, warmed up."""
    nets = forms(weights, device)
    for batch in batches:
        x_BCHW = noise(batch, side, device)
        wanted = pool3(nets["plain"], x_BCHW)
        for name, net in nets.items():
            error = difference(pool3(net, x_BCHW), wanted)
            call = lambda net=net, x=x_BCHW: pool3(net, x).cpu()  # noqa: E731
            yield Cell(name, batch, batch, call, error)


def compiled_cells(weights: dict, batches: Sequence[int], device: str, side: int) -> Iterator[Cell]:
    """pytorch-fid's own network, channels innermost, by torch.compile with its weights frozen."""
    import torch
    from torch._inductor import config

    from benchmarks.verify.random_weights import their_network
    from cm3leon.clip import quiet

    with torch.inference_mode(False), torch.no_grad(), quiet():
        network = their_network(dict(weights)).to(device, memory_format=torch.channels_last)
        network.fc = torch.nn.Identity()
        plain = Plain(weights, device)
        for batch in batches:
            x_BCHW = noise(batch, side, device).to(memory_format=torch.channels_last)
            with config.patch(freezing=True):
                program = torch.compile(network, dynamic=False)
                error = difference(program(x_BCHW).flatten(1), pool3(plain, x_BCHW))
            yield Cell(COMPILED, batch, batch, without_gradients(program, x_BCHW), error)


def without_gradients(program: Callable, x_BCHW) -> Callable[[], object]:
    """A call outside inference mode: a program is compiled for one mode."""
    import torch

    def call():
        with torch.inference_mode(False), torch.no_grad():
            return program(x_BCHW).cpu()

    return call


def extraction_cell(weights: dict, device: str, folder: Path, pictures: int) -> Cell:
    """From PNG files to features on disk by the shipped way: decoded and cropped meanwhile."""
    import numpy as np

    from cm3leon.evaluation.features import cache as feature_cache
    from cm3leon.evaluation.features.network import Features
    from cm3leon.evaluation.features.published import in_chunks
    from cm3leon.evaluation.features.resize import bilinear
    from cm3leon.images import crop_square, read_picture
    from cm3leon.seeds import generator

    write_pictures(folder, pictures)
    net = fastest(weights, device)

    def embed(images_BHW3: np.ndarray) -> np.ndarray:
        return in_chunks(images_BHW3, DIM, lambda x: pool3(net, bilinear(x, device)), device)

    features = Features("inception", "0" * 64, DIM, SIDE, embed, True)
    paths = sorted(folder.glob("*.png"))
    listing = feature_cache.Listing(
        "speed", range(pictures), lambda k: (crop_square(read_picture(paths[k]), PIXELS), ""), {}
    )

    def call() -> None:
        shard = feature_cache.compute(listing, features, range(pictures))
        feature_cache.write_shard(folder / "shard.npz", shard)

    images = generator(0, "check").integers(0, 256, (1, PIXELS, PIXELS, 3), np.uint8)
    wanted = pool3(Plain(weights, device), bilinear(images, device))
    error = difference(net_features(embed, images), wanted)
    call()
    return Cell(EXTRACTION, feature_cache.BATCH, pictures, call, error)


def net_features(embed: Callable, images):
    """`embed` of pictures as a tensor."""
    import torch

    return torch.from_numpy(embed(images))


def write_pictures(folder: Path, count: int) -> None:
    """Smooth noise as PNG files: it costs to decode what a drawn picture costs."""
    import numpy as np
    from PIL import Image

    from cm3leon.seeds import generator

    for k in range(count):
        small = generator(k, "speed pictures").integers(0, 256, (48, 48, 3), np.uint8)
        large = Image.fromarray(small).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
        large.save(folder / f"{k:05}.png")


def noise(batch: int, side: int, device: str):
    """Float32 [batch, 3, side, side] in [-1, 1]."""
    import torch

    from cm3leon.seeds import torch_generator

    generator = torch_generator(0, "speed")
    return (torch.rand(batch, 3, side, side, generator=generator) * 2 - 1).to(device)


def difference(found, wanted) -> float:
    """Largest difference against the largest wanted value."""
    return float((found.cpu() - wanted.cpu()).abs().max() / wanted.abs().max())


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """(wall, processor) seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu
