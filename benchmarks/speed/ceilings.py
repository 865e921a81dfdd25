"""What a machine can do at most, and the ideal decode step that follows: a roofline.

An ideal step reads the weights once for all rows, and every row's keys and values; or it does all
its multiplications at the peak, whichever takes longer:

    ideal step = max(bytes / read bandwidth at that working set, flops / matmul peak)

Bandwidth and peak are measured, in the run whose steps they judge: shared machines change.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

MIB = 2**20
BLOCKS = 5  # a measurement is the median of so many blocks
LARGEST = {"cpu": 2**30, "cuda": 2**32}  # bytes of a buffer; beyond it bandwidth is flat
SIDES = {"cpu": 2048, "cuda": 8192}  # of the largest matrices multiplied
LONGEST_PRODUCT_S = 0.25


@dataclass(frozen=True)
class Shape:
    """What a decode step reads of a network: `layers` of 12 width^2 weights, `head` output rows."""

    layers: int
    width: int
    head: int

    @property
    def blocks(self) -> int:
        """Weights of all layers."""
        return 12 * self.layers * self.width**2


@dataclass(frozen=True)
class Work:
    """Least work of one decode step."""

    bytes: float
    flops: float


def decode_work(shape: Shape, rows: int, slots: float, weight_bytes: int, state_bytes: int) -> Work:
    """Work of one step over `rows` that have read `slots` tokens, all rows together.

    `weight_bytes` and `state_bytes` are the bytes of a layer's weight, and of a number of the
    head, the keys and the values. Weights are read once however many rows there are; norms,
    embeddings and the draw are not counted.
    """
    head = shape.head * shape.width
    kept = 2 * shape.layers * shape.width * slots  # keys and values
    return Work(
        bytes=shape.blocks * weight_bytes + (head + kept) * state_bytes,
        flops=2 * rows * (shape.blocks + head) + 2 * kept,
    )


@dataclass(frozen=True)
class Ideal:
    """Seconds of an ideal step by each of the two limits."""

    memory_s: float
    compute_s: float

    @property
    def step_s(self) -> float:
        """The longer of the two."""
        return max(self.memory_s, self.compute_s)

    @property
    def bound(self) -> str:
        """ "memory" or "compute": which limit it is."""
        return "memory" if self.memory_s >= self.compute_s else "compute"


def ideal(work: Work, read_bytes_per_s: float, flops_per_s: float) -> Ideal:
    """The roofline of a piece of work."""
    return Ideal(work.bytes / read_bytes_per_s, work.flops / flops_per_s)


def working_set(size: float, largest: int) -> int:
    """The size at which bandwidth is measured for `size` bytes: the nearest half power of two.

    Never below 1 MiB nor above `largest`.
    """
    steps = round(2 * math.log2(max(size, MIB) / MIB))
    return min(largest, round(MIB * 2 ** (steps / 2)))


def median_seconds(function: Callable, device: str = "cpu", least_s: float = 0.1) -> float:
    """Median seconds of a call, over blocks of calls that last `least_s` together."""
    function()  # warm
    once = block_seconds(function, 1, device)
    count = max(1, int(least_s / BLOCKS / max(once, 1e-7)))
    return statistics.median(block_seconds(function, count, device) for _ in range(BLOCKS))


def block_seconds(function: Callable, count: int, device: str) -> float:
    """Seconds a call of `count` calls in a row, the device idle before and after."""
    wait_for(device)
    started = time.perf_counter()
    for _ in range(count):
        function()
    wait_for(device)
    return (time.perf_counter() - started) / count


def wait_for(device: str) -> None:
    """Return when the device has done what it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def read_bandwidth(size: int, device: str = "cpu", least_s: float = 0.1) -> float:
    """Bytes a second read from a buffer of `size` bytes: the better of a sum and a product.

    Nothing is written: this is how weights and a cache are read.
    """
    import torch

    columns = 1024
    buffer = torch.ones(max(1, size // 4 // columns), columns, device=device)
    vector = torch.ones(columns, device=device)
    seconds = min(
        median_seconds(buffer.sum, device, least_s),
        median_seconds(lambda: torch.mv(buffer, vector), device, least_s),
    )
    return buffer.nbytes / seconds


def matmul_peak(dtype: str, device: str = "cpu", least_s: float = 0.2) -> float:
    """Flops a second of square products of type `dtype`, the best way and size that torch has.

    On a processor oneDNN is asked beside torch's own choice, which in float32 may be half as fast.
    """
    import torch

    kind = torch.device(device).type
    side, best = 256, 0.0
    while True:
        a, b = (torch.full((side, side), 0.5, device=device).to(getattr(torch, dtype))
                for _ in range(2))  # fmt: skip
        seconds = min(median_seconds(way, device, least_s) for way in products(a, b))
        best = max(best, 2 * side**3 / seconds)
        if 2 * side > SIDES[kind] or 8 * seconds > LONGEST_PRODUCT_S:
            return best
        side *= 2


def products(a, b) -> list[Callable]:
    """The ways to multiply two matrices that this torch has on their device."""
    import torch

    ways = [lambda: a @ b]
    if a.device.type == "cpu":

        def fused():
            return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")

        try:
            fused()
        except (RuntimeError, AttributeError):
            return ways
        ways.append(fused)
    return ways


class Ceilings:
    """The ceilings of a device, measured as they are asked for; the best of several looks counts.

    Others on the machine can only lower a look, never raise it.
    """

    def __init__(self, device: str = "cpu", least_s: float = 0.1):
        self.device, self.least_s = device, least_s
        self.largest = LARGEST["cuda" if device.startswith("cuda") else "cpu"]
        self.bandwidths: dict[int, float] = {}  # working set in bytes -> bytes a second
        self.peaks: dict[str, float] = {}  # dtype -> flops a second

    def look(self, dtype: str, size: float) -> None:
        """Measure, or measure again, what a step of `size` bytes in `dtype` needs."""
        place = working_set(size, self.largest)
        found = read_bandwidth(place, self.device, self.least_s)
        self.bandwidths[place] = max(found, self.bandwidths.get(place, 0.0))
        self.peak(dtype)

    def peak(self, dtype: str) -> float:
        """Flops a second of products of this type."""
        if dtype not in self.peaks:
            self.peaks[dtype] = matmul_peak(dtype, self.device, 2 * self.least_s)
        return self.peaks[dtype]

    def ideal(self, work: Work, dtype: str) -> Ideal:
        """The roofline of work whose working set has been looked at."""
        place = working_set(work.bytes, self.largest)
        return ideal(work, self.bandwidths[place], self.peaks[dtype])

    def numbers(self) -> dict[str, float]:
        """Everything measured, for a record: GB/s by KiB of working set, GFLOP/s by type."""
        read = {
            f"ceiling.read_gb_per_s.{place // 1024}KiB": rate / 1e9
            for place, rate in sorted(self.bandwidths.items())
        }
        peaks = {f"ceiling.gflop_per_s.{name}": rate / 1e9 for name, rate in self.peaks.items()}
        return read | peaks
