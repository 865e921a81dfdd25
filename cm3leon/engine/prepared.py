"""What is made from a module's weights as they are, such as copies in another order."""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from cm3leon.model.transformer import version


class Prepared:
    """What was made from one module's weights as they are."""

    def __init__(self, stamp: tuple):
        self.stamp = stamp
        self.things: dict[str, object] = {}


_prepared: WeakKeyDictionary[nn.Module, Prepared] = WeakKeyDictionary()
_lock = threading.Lock()


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


def parts(weight: Tensor) -> list[Tensor]:
    """The tensors in which a weight's numbers lie: itself, or those that a wrapper of another type
    holds, such as whole numbers and their scales; a wrapper has no address of its own.
    """
    if type(weight) in (Tensor, nn.Parameter):
        return [weight]
    return [one for one in vars(weight).values() if isinstance(one, Tensor)] or [weight]
