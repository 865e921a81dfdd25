"""Inception of FID: the TF 2015-12-05 graph in pytorch-fid's layout, as functions of its weights.

It is torchvision's Inception v3 with four differences: 1,008 logits; averages of the 3 x 3 pools
leave the padding out; the last block pools by maximum; no auxiliary head. The key names of
`shapes()` are the contract with the published file. `Plain` computes as it is written down; `Fast`
does the same arithmetic in fewer, larger steps: normalisation folded into the convolutions, all
1 x 1 convolutions of a block's input in one, averages after the convolution that narrows them
(both are linear), channels last. They differ by rounding alone; `nox -s verify_fid` measures both.

Axes: B batch, C channels, H x W pixels, D = 2048 features of pool3, K = 1008 logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cm3leon.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SIDE, DIM, LOGITS = 299, 2048, 1008
EPS = 1e-3  # of the batch normalisation
STEM = (
    ("Conv2d_1a_3x3", 3, 32, (3, 3)),
    ("Conv2d_2a_3x3", 32, 32, (3, 3)),
    ("Conv2d_2b_3x3", 32, 64, (3, 3)),
    ("Conv2d_3b_1x1", 64, 80, (1, 1)),
    ("Conv2d_4a_3x3", 80, 192, (3, 3)),
)
HALVED = {
    "Conv2d_1a_3x3",
    "Mixed_6a.branch3x3",
    "Mixed_6a.branch3x3dbl_3",
    "Mixed_7a.branch3x3_2",
    "Mixed_7a.branch7x7x3_4",
}  # stride 2
UNPADDED = HALVED | {"Conv2d_2a_3x3", "Conv2d_4a_3x3"}
NORMS = ("weight", "bias", "running_mean", "running_var")
A_BLOCKS = (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64))
C_BLOCKS = (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192))
E_BLOCKS = (("Mixed_7b", 1280, "mean"), ("Mixed_7c", 2048, "max"))


def convolutions() -> Iterator[tuple[str, int, int, tuple[int, int]]]:
    """(name, channels in, channels out, kernel) of all 94 convolutions."""
    yield from STEM
    for block, inner, pooled in A_BLOCKS:
        yield from _chain(f"{block}.branch1x1", inner, (64, 1, 1), single=True)
        yield from _chain(f"{block}.branch5x5", inner, (48, 1, 1), (64, 5, 5))
        yield from _chain(f"{block}.branch3x3dbl", inner, (64, 1, 1), (96, 3, 3), (96, 3, 3))
        yield from _chain(f"{block}.branch_pool", inner, (pooled, 1, 1), single=True)
    yield from _chain("Mixed_6a.branch3x3", 288, (384, 3, 3), single=True)
    yield from _chain("Mixed_6a.branch3x3dbl", 288, (64, 1, 1), (96, 3, 3), (96, 3, 3))
    for block, c in C_BLOCKS:
        double = ((c, 1, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7))
        yield from _chain(f"{block}.branch1x1", 768, (192, 1, 1), single=True)
        yield from _chain(f"{block}.branch7x7", 768, (c, 1, 1), (c, 1, 7), (192, 7, 1))
        yield from _chain(f"{block}.branch7x7dbl", 768, *double)
        yield from _chain(f"{block}.branch_pool", 768, (192, 1, 1), single=True)
    yield from _chain("Mixed_7a.branch3x3", 768, (192, 1, 1), (320, 3, 3))
    long = ((192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3))
    yield from _chain("Mixed_7a.branch7x7x3", 768, *long)
    for block, inner, _ in E_BLOCKS:
        yield from _chain(f"{block}.branch1x1", inner, (320, 1, 1), single=True)
        yield from _chain(f"{block}.branch3x3", inner, (384, 1, 1))
        yield from _fork(f"{block}.branch3x3_2", 384)
        yield from _chain(f"{block}.branch3x3dbl", inner, (448, 1, 1), (384, 3, 3))
        yield from _fork(f"{block}.branch3x3dbl_3", 384)
        yield from _chain(f"{block}.branch_pool", inner, (192, 1, 1), single=True)


def _chain(name: str, inner: int, *steps: tuple[int, int, int], single: bool = False):
    """Convolutions one after another: name_1, name_2 and so on, or one called `name`."""
    for number, (outer, height, width) in enumerate(steps, 1):
        yield (name if single else f"{name}_{number}"), inner, outer, (height, width)
        inner = outer


def _fork(name: str, width: int):
    """A 1 x 3 and a 3 x 1 convolution of the same input."""
    yield f"{name}a", width, width, (1, 3)
    yield f"{name}b", width, width, (3, 1)


def shapes() -> dict[str, tuple[int, ...]]:
    """Key name -> shape of every tensor of the published file that counts."""
    found: dict[str, tuple[int, ...]] = {}
    for name, inner, outer, kernel in convolutions():
        found[f"{name}.conv.weight"] = (outer, inner, *kernel)
        found |= {f"{name}.bn.{part}": (outer,) for part in NORMS}
    return found | {"fc.weight": (LOGITS, DIM), "fc.bias": (LOGITS,)}


def check_weights(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those tensors, float32; UserError (one line) where they are not Inception of FID.

    `num_batches_tracked`, which counts training steps, may be there or not.
    """
    wanted = shapes()
    found = {key: value for key, value in weights.items() if not key.endswith("_tracked")}
    if missing := [key for key in wanted if key not in found]:
        if any(key.startswith("AuxLogits") for key in found):
            raise UserError(
                f"{name} is torchvision's classifier, not Inception of FID; take pytorch-fid's file"
            )
        raise UserError(
            f"{name} has no {missing[0]!r} ({len(missing)} of {len(wanted)} tensors are missing); "
            "it is another network than Inception of FID"
        )
    wrong = [key for key, shape in wanted.items() if tuple(found[key].shape) != shape]
    if wrong or (further := sorted(found.keys() - wanted.keys())):
        key = wrong[0] if wrong else further[0]
        told = f"{list(found[key].shape)}, not {list(wanted[key])}" if wrong else "too much"
        raise UserError(f"{name} is another network than Inception of FID: {key} is {told}")
    if bad := [key for key in wanted if not bool(found[key].isfinite().all())]:
        raise UserError(f"{name} is damaged: {bad[0]} is not finite; get the file again")
    return {key: found[key].float() for key in wanted}


def random_weights(seed: int = 0) -> dict[str, Tensor]:
    """Weights of the published names and shapes, drawn so that activations keep their size."""
    import torch

    from cm3leon import seeds

    generator = seeds.torch_generator(seed, "inception")
    weights = {}
    for key, shape in shapes().items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("running_var"):
            weights[key] = (0.2 * noise).exp()
        elif len(shape) > 1:
            weights[key] = noise * math.sqrt(2 / math.prod(shape[1:]))
        else:
            weights[key] = 0.1 * noise + (1.0 if key.endswith("bn.weight") else 0.0)
    return weights


class Plain:
    """Every step as it is written down: convolution, normalisation, rectifier; float32."""

    def __init__(self, weights: Mapping[str, Tensor], device: str = "cpu"):
        self.weights = {key: value.to(device) for key, value in weights.items()}

    def place(self, x_BCHW: Tensor) -> Tensor:
        """Pictures as the convolutions take them."""
        return x_BCHW.contiguous()

    def conv(self, name: str, x_BCHW: Tensor) -> Tensor:
        """One convolution with what follows it."""
        import torch.nn.functional as F

        weight = self.weights[f"{name}.conv.weight"]
        gain, shift, mean, variance = (self.weights[f"{name}.bn.{part}"] for part in NORMS)
        x_BCHW = F.conv2d(x_BCHW, weight, None, *_steps(name, weight))
        return F.batch_norm(x_BCHW, mean, variance, gain, shift, False, 0.0, EPS).relu()

    def fan(self, block: str, names: tuple[str, ...], x_BCHW: Tensor, pool: str) -> list[Tensor]:
        """The 1 x 1 convolutions of a block's input, and of its input pooled ("" for none)."""
        outs = [self.conv(f"{block}.{name}", x_BCHW) for name in names]
        if pool:
            outs.append(self.conv(f"{block}.branch_pool", _pooled(x_BCHW, pool)))
        return outs


class Fast:
    """The same, folded and joined; float32, or bfloat16 where that was asked for."""

    def __init__(self, weights: Mapping[str, Tensor], device: str = "cpu", dtype: str = "float32"):
        import torch

        self.dtype, self.device = getattr(torch, dtype), device
        self.folded = {}
        for name, *_ in convolutions():
            kernel = weights[f"{name}.conv.weight"].double()
            gain, shift, mean, variance = (weights[f"{name}.bn.{part}"].double() for part in NORMS)
            scale = gain / (variance + EPS).sqrt()
            self.folded[name] = (kernel * scale[:, None, None, None], shift - mean * scale)
        self.joined: dict[str, tuple] = {}
        self.ready = {name: self._ready(*pair) for name, pair in self.folded.items()}

    def _ready(self, weight, bias):
        import torch

        weight = weight.to(self.device, self.dtype).to(memory_format=torch.channels_last)
        return weight, bias.to(self.device, self.dtype)

    def place(self, x_BCHW: Tensor) -> Tensor:
        """Pictures as the convolutions take them."""
        import torch

        return x_BCHW.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def conv(self, name: str, x_BCHW: Tensor) -> Tensor:
        """One convolution with what follows it."""
        import torch.nn.functional as F

        weight, bias = self.ready[name]
        return F.conv2d(x_BCHW, weight, bias, *_steps(name, weight)).relu_()

    def fan(self, block: str, names: tuple[str, ...], x_BCHW: Tensor, pool: str) -> list[Tensor]:
        """The 1 x 1 convolutions of a block's input in one, and of its input pooled."""
        import torch
        import torch.nn.functional as F

        inside = (*names, "branch_pool") if pool == "mean" else names
        if block not in self.joined:
            parts = [self.folded[f"{block}.{name}"] for name in inside]
            pair = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
            self.joined[block] = (*self._ready(*pair), [len(part[1]) for part in parts])
        weight, bias, widths = self.joined[block]
        *outs, last = F.conv2d(x_BCHW, weight, bias).split(widths, 1)
        outs.append(_pooled(last, "mean") if pool == "mean" else last)
        outs = [out.relu() for out in outs]
        if pool == "max":
            outs.append(self.conv(f"{block}.branch_pool", _pooled(x_BCHW, pool)))
        return outs


def _steps(name: str, weight: Tensor) -> tuple[int, tuple[int, int] | int]:
    """(stride, padding) of a convolution."""
    padding = 0 if name in UNPADDED else (weight.shape[2] // 2, weight.shape[3] // 2)
    return (2 if name in HALVED else 1), padding


def _pooled(x_BCHW: Tensor, pool: str) -> Tensor:
    """3 x 3 pools that keep the size; averages leave the padding out."""
    import torch.nn.functional as F

    if pool == "max":
        return F.max_pool2d(x_BCHW, 3, 1, 1)
    return F.avg_pool2d(x_BCHW, 3, 1, 1, count_include_pad=False)


def pool3(net: Plain | Fast, x_BCHW: Tensor) -> Tensor:
    """Float32 features [B, D] of pictures [B, 3, 299, 299] in about [-1, 1]."""
    import torch.nn.functional as F

    x = net.place(x_BCHW)
    for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
        x = net.conv(name, x)
    x = net.conv("Conv2d_3b_1x1", F.max_pool2d(x, 3, 2))
    x = F.max_pool2d(net.conv("Conv2d_4a_3x3", x), 3, 2)
    for block, *_ in A_BLOCKS:
        x = _block_a(net, block, x)
    x = _block_b(net, "Mixed_6a", x)
    for block, _ in C_BLOCKS:
        x = _block_c(net, block, x)
    x = _block_d(net, "Mixed_7a", x)
    for block, _, pool in E_BLOCKS:
        x = _block_e(net, block, x, pool)
    return x.float().mean((2, 3))


def _run(net: Plain | Fast, x: Tensor, prefix: str, *ends: str) -> Tensor:
    for end in ends:
        x = net.conv(f"{prefix}{end}", x)
    return x


def _block_a(net, block: str, x: Tensor) -> Tensor:
    import torch

    names = ("branch1x1", "branch5x5_1", "branch3x3dbl_1")
    one, five, three, pooled = net.fan(block, names, x, "mean")
    five = _run(net, five, f"{block}.branch5x5_", "2")
    three = _run(net, three, f"{block}.branch3x3dbl_", "2", "3")
    return torch.cat([one, five, three, pooled], 1)


def _block_b(net, block: str, x: Tensor) -> Tensor:
    import torch
    import torch.nn.functional as F

    three = _run(net, x, f"{block}.branch3x3dbl_", "1", "2", "3")
    return torch.cat([net.conv(f"{block}.branch3x3", x), three, F.max_pool2d(x, 3, 2)], 1)


def _block_c(net, block: str, x: Tensor) -> Tensor:
    import torch

    names = ("branch1x1", "branch7x7_1", "branch7x7dbl_1")
    one, seven, double, pooled = net.fan(block, names, x, "mean")
    seven = _run(net, seven, f"{block}.branch7x7_", "2", "3")
    double = _run(net, double, f"{block}.branch7x7dbl_", "2", "3", "4", "5")
    return torch.cat([one, seven, double, pooled], 1)


def _block_d(net, block: str, x: Tensor) -> Tensor:
    import torch
    import torch.nn.functional as F

    three, seven = net.fan(block, ("branch3x3_1", "branch7x7x3_1"), x, "")
    three = _run(net, three, f"{block}.branch3x3_", "2")
    seven = _run(net, seven, f"{block}.branch7x7x3_", "2", "3", "4")
    return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


def _block_e(net, block: str, x: Tensor, pool: str) -> Tensor:
    import torch

    names = ("branch1x1", "branch3x3_1", "branch3x3dbl_1")
    one, three, double, pooled = net.fan(block, names, x, pool)
    double = _run(net, double, f"{block}.branch3x3dbl_", "2")
    forks = [
        net.conv(f"{block}.branch{name}", inner)
        for name, inner in (
            ("3x3_2a", three),
            ("3x3_2b", three),
            ("3x3dbl_3a", double),
            ("3x3dbl_3b", double),
        )
    ]
    return torch.cat([one, *forks, pooled], 1)
