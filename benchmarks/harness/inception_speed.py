"""Pictures a second of Inception in several forms, in turn on one machine, random weights.

Seconds depend on the machine and on what else it does; the ratios of one run are the finding.

Axes: B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.harness.inception import SIDE, Fast, Plain, pool3, random_weights

OURS = "fast"  # what `load_features` uses


class ChannelsLast(Plain):
    """Plain with the channels innermost."""

    def place(self, x_BCHW):
        """Pictures as the convolutions take them."""
        import torch

        return x_BCHW.contiguous(memory_format=torch.channels_last)


class Folded(Fast):
    """Normalisation folded in, every convolution by itself."""

    fan = Plain.fan


@dataclass(frozen=True)
class Speed:
    """One form: pictures a second of wall and of processor time (medians), and its error."""

    name: str
    wall: float
    cpu: float
    error: float  # largest difference to plain against the largest feature


def speeds(batch: int, repeats: int, device: str = "cpu", side: int = SIDE) -> list[Speed]:
    """Every form, timed in turn `repeats` times after one run that is not counted."""
    import torch

    from cm3leon.seeds import torch_generator

    generator = torch_generator(0, "speed")
    x_BCHW = (torch.rand(batch, 3, side, side, generator=generator) * 2 - 1).to(device)
    nets = forms(random_weights(), device)
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in nets}
    with torch.inference_mode():
        found = {name: pool3(net, x_BCHW) for name, net in nets.items()}
        for _ in range(repeats):
            for name, net in nets.items():
                runs[name].append(timed(lambda net=net: pool3(net, x_BCHW).cpu()))
    plain = found["plain"]
    return [
        Speed(
            name,
            batch / statistics.median(wall for wall, _ in pairs),
            batch / max(statistics.median(cpu for _, cpu in pairs), 1e-9),
            float((found[name] - plain).abs().max() / plain.abs().max()),
        )
        for name, pairs in runs.items()
    ]


def forms(weights: dict, device: str) -> dict[str, Plain | Fast]:
    """Name -> network, the plain one first."""
    return {
        "plain": Plain(weights, device),
        "channels-last": ChannelsLast(weights, device),
        "folded": Folded(weights, device),
        OURS: Fast(weights, device),
        "bfloat16": Fast(weights, device, "bfloat16"),
    }


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """(wall, processor) seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu
