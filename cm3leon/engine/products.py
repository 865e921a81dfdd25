"""Matrix products with fixed weights by the fastest of several equal ways, measured at start.

A step of generation multiplies few rows by every matrix of the model. On a CPU the library that
torch takes by itself is up to several times slower at this than one that has the weights laid out
for it beforehand; which way wins depends on the processor, the sizes and the threads, so it is
measured, once for each shape. The ways differ by rounding only. Weights in int8 have ways of their
own on every device (quantise.py).

Axes: M rows, N outputs, K inputs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cm3leon.engine import int8 as int8_weights
from cm3leon.engine.capture import capture, seconds

Product = Callable[[Tensor], Tensor]  # [M, K] -> [M, N]
SAMPLED = 4  # weights of a shape that are timed: together more than the nearest caches hold
GAIN = 0.93  # another way than the plain one must take at most this share of its time


def plain(weight_NK: Tensor) -> Product:
    """What torch does by itself, from the weights where they lie."""
    return lambda x_MK: F.linear(x_MK, weight_NK)


def transposed(weight_NK: Tensor) -> Product:
    """The same from a copy laid out [K, N]."""
    weight_KN = weight_NK.t().contiguous()
    return lambda x_MK: x_MK @ weight_KN


def packed(weight_NK: Tensor) -> Product:
    """oneDNN's product from a copy in its own blocks."""
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight_NK)
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x_MK: product(x_MK, blocks, None, "none", [], "")


WAYS: dict[str, Callable[[Tensor], Product]] = {
    "plain": plain,
    "transposed": transposed,
    "packed": packed,
}
_chosen: dict[tuple, str] = {}
_prepared: WeakKeyDictionary[nn.Module, Prepared] = WeakKeyDictionary()
_lock = threading.Lock()


class Prepared:
    """What was made from one module's weights as they are."""

    def __init__(self, stamp: tuple):
        self.stamp = stamp
        self.things: dict[str, object] = {}


def kept(module: nn.Module, name: str, make: Callable[[], object]) -> object:
    """What `make` made from the module's weights, under a name; weights that were changed in place
    or replaced since then are its reason to be made anew.
    """
    held = [part for weight in module.parameters() for part in parts(weight)]
    stamp = tuple((one.data_ptr(), version(one)) for one in held)
    with _lock:
        prepared = _prepared.get(module)
        if prepared is None or prepared.stamp != stamp:
            prepared = _prepared[module] = Prepared(stamp)
        if name not in prepared.things:
            prepared.things[name] = make()
        return prepared.things[name]


def products(module: nn.Module, name: str, weights: Sequence[Tensor], rows: int) -> list[Product]:
    """The product of each of the module's `weights` [N, K], all of one shape, for `rows` rows.

    `name` tells this list of weights from the module's others. A copy of a matrix is made for the
    ways in use. On other devices than a CPU the plain way is taken for all but int8.
    """
    way = fastest_way(weights, rows)
    make = ways_for(weights[0], rows)[way]
    return kept(module, f"{name} {way}", lambda: [make(weight) for weight in weights])


def ways_for(weight: Tensor, rows: int) -> dict[str, Callable[[Tensor], Product]]:
    """The ways that such weights have."""
    if parts(weight)[0] is not weight:
        return {"plain": plain, **int8_weights.ways(weight, rows)}
    return WAYS if weight.device.type == "cpu" else {"plain": plain}


def parts(weight: Tensor) -> list[Tensor]:
    """The tensors in which a weight's numbers lie: itself, or those that a wrapper of another type
    holds, such as whole numbers and their scales; a wrapper has no address of its own.
    """
    if type(weight) in (Tensor, nn.Parameter):
        return [weight]
    return [one for one in vars(weight).values() if isinstance(one, Tensor)] or [weight]


def version(weight: Tensor) -> int:
    """How often a tensor was changed in place; made under inference mode it does not count."""
    return -1 if weight.is_inference() else weight._version


def fastest_way(weights: Sequence[Tensor], rows: int) -> str:
    """The name of the way that is fastest for such weights and so many rows, on this thread."""
    weight = weights[0]
    rows = 1 << (rows - 1).bit_length()  # one measurement for numbers of rows that are near
    ways = ways_for(weight, rows)
    if len(ways) == 1:
        return "plain"
    place = weight.device, torch.get_num_threads()
    key = (tuple(weight.shape), type(weight), weight.dtype, rows, *place)
    if key not in _chosen:
        _chosen[key] = choose_way(timed(weights[:SAMPLED], rows, ways))
    return _chosen[key]


def choose_way(seconds: dict[str, float]) -> str:
    """The fastest way, if it is clearly faster than the plain one, which needs no copy."""
    best = min(seconds, key=seconds.get)
    return best if seconds[best] < GAIN * seconds["plain"] else "plain"


def timed(weights: Sequence[Tensor], rows: int, ways: dict | None = None) -> dict[str, float]:
    """Way -> median seconds of a pass over the weights; a way the machine lacks is absent."""
    device = weights[0].device
    x_MK = torch.ones(rows, weights[0].shape[1], dtype=weights[0].dtype, device=device)
    found = {}
    for name, way in (ways or WAYS).items():
        try:
            found[name] = _pass([way(weight) for weight in weights], x_MK)
        except (RuntimeError, AttributeError):  # no such operator in this build of torch
            continue
    return found


def _pass(ready: Sequence[Product], x_MK: Tensor) -> float:
    """Median seconds of all products; on a GPU without the starting of kernels, which a graph of
    the step does not pay either.
    """

    def run() -> Tensor:
        return [product(x_MK) for product in ready][-1]

    if x_MK.is_cuda:
        run = capture(run, x_MK.device).replay
    return seconds(run, x_MK.device)
