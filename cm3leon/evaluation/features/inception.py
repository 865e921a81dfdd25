"""Inception of FID: the TF 2015-12-05 graph in pytorch-fid's layout, as functions of its weights.

It is torchvision's Inception v3 with four differences: 1,008 logits; averages of the 3 x 3 pools
leave the padding out; the last block pools by maximum; no auxiliary head. The key names of
`shapes()` are the contract with the published file. `Plain` computes as it is written down; `Fast`
does the same arithmetic in fewer, larger steps: normalisation folded into the convolutions, the
1 x 1 convolutions of a block's input in one, averages after the convolution that narrows them
(both are linear), channels last; `Packed` also lays the weights out for oneDNN beforehand and lets
it rectify. They differ by rounding alone; `nox -s verify_fid -- --speed` times them in turn.

Axes: B batch, C channels, H x W pixels, D = 2048 features of pool3, K = 1008 logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
FANS: dict[str, tuple[tuple[str, ...], str]] = {  # block -> 1 x 1s of its input, pool before a last
    **dict.fromkeys([name for name, *_ in A_BLOCKS],
                    (("branch1x1", "branch5x5_1", "branch3x3dbl_1"), "mean")),
    **dict.fromkeys([name for name, _ in C_BLOCKS],
                    (("branch1x1", "branch7x7_1", "branch7x7dbl_1"), "mean")),
    "Mixed_7a": (("branch3x3_1", "branch7x7x3_1"), ""),
    **{name: (("branch1x1", "branch3x3_1", "branch3x3dbl_1"), pool) for name, _, pool in E_BLOCKS},
}  # fmt: skip
PACKED_FOR = 8  # pictures at once, for which oneDNN chooses the layout of the weights


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
        x_BCHW = F.conv2d(x_BCHW, weight, None, *_steps(name, weight.shape[2:]))
        return F.batch_norm(x_BCHW, mean, variance, gain, shift, False, 0.0, EPS).relu()

    def fan(self, block: str, x_BCHW: Tensor) -> list[Tensor]:
        """The 1 x 1 convolutions of a block's input, and of its input pooled."""
        names, pool = FANS[block]
        outs = [self.conv(f"{block}.{name}", x_BCHW) for name in names]
        if pool:
            outs.append(self.conv(f"{block}.branch_pool", _pooled(x_BCHW, pool)))
        return outs


class Fast:
    """The same, folded and joined; float32, or bfloat16 where that was asked for."""

    joins = True

    def __init__(self, weights: Mapping[str, Tensor], device: str = "cpu", dtype: str = "float32"):
        import torch

        self.dtype, self.device = getattr(torch, dtype), device
        self.layers = {name: self._laid_out(*pair) for name, pair in self._joined(weights)}

    def _joined(self, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, tuple]]:
        """(name, (kernel, bias)) of every convolution; those of a fan as one, BLOCK.fan."""
        import torch

        fans: dict[str, list] = {}
        for name, *_ in convolutions():
            block, _, branch = name.partition(".")
            pair = _folded(weights, name)
            if self.joins and branch in FANS.get(block, ((),))[0]:
                fans.setdefault(block, []).append((branch, *pair))
            else:
                yield name, pair
        self.widths = {}
        for block, parts in fans.items():
            parts.sort(key=lambda part, block=block: FANS[block][0].index(part[0]))
            self.widths[block] = [len(part[2]) for part in parts]
            yield f"{block}.fan", tuple(torch.cat([part[k] for part in parts]) for k in (1, 2))

    def _laid_out(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        weight = weight.to(self.device, self.dtype).to(memory_format=torch.channels_last)
        return weight, bias.to(self.device, self.dtype)

    def place(self, x_BCHW: Tensor) -> Tensor:
        """Pictures as the convolutions take them."""
        import torch

        return x_BCHW.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def conv(self, name: str, x_BCHW: Tensor, rectify: bool = True) -> Tensor:
        """One convolution with what follows it."""
        import torch.nn.functional as F

        weight, bias = self.layers[name]
        x_BCHW = F.conv2d(x_BCHW, weight, bias, *_steps(name, weight.shape[2:]))
        return x_BCHW.relu_() if rectify else x_BCHW

    def fan(self, block: str, x_BCHW: Tensor) -> list[Tensor]:
        """The 1 x 1 convolutions of a block's input in one, and of its input pooled."""
        outs = list(self.conv(f"{block}.fan", x_BCHW).split(self.widths[block], 1))
        if (pool := FANS[block][1]) == "max":
            outs.append(self.conv(f"{block}.branch_pool", _pooled(x_BCHW, pool)))
        elif pool:
            outs.append(_pooled(self.conv(f"{block}.branch_pool", x_BCHW, False), pool).relu_())
        return outs


class Packed(Fast):
    """The same with weights in oneDNN's own blocks; float32 on CPUs alone."""

    def conv(self, name: str, x_BCHW: Tensor, rectify: bool = True) -> Tensor:
        """One convolution with what follows it; the weights are laid out at the first call."""
        import torch

        stride, padding = _steps(name, self.layers[name][0].shape[2:])
        steps = padding, (stride, stride), (1, 1), 1
        weight, bias = self.layers[name]
        if weight.layout == torch.strided:
            size = PACKED_FOR, *x_BCHW.shape[1:]
            weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *steps, size)
            self.layers[name] = weight, bias
        after = "relu" if rectify else "none"
        return torch.ops.mkldnn._convolution_pointwise(x_BCHW, weight, bias, *steps, after, [], "")

    @staticmethod
    def possible(device: str, dtype: str) -> bool:
        """Whether torch has oneDNN's convolutions here; their names are private to it."""
        import torch

        names = ("_reorder_convolution_weight", "_convolution_pointwise")
        here = torch.backends.mkldnn.is_available() and device == "cpu" and dtype == "float32"
        return here and all(hasattr(torch.ops.mkldnn, name) for name in names)


def fastest(weights: Mapping[str, Tensor], device: str = "cpu", dtype: str = "float32") -> Fast:
    """The form that was measured fastest: packed for float32 on CPUs, else folded and joined."""
    return (Packed if Packed.possible(device, dtype) else Fast)(weights, device, dtype)


def _folded(weights: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Float64 (kernel, bias) of a convolution with its normalisation."""
    kernel = weights[f"{name}.conv.weight"].double()
    gain, shift, mean, variance = (weights[f"{name}.bn.{part}"].double() for part in NORMS)
    scale = gain / (variance + EPS).sqrt()
    return kernel * scale[:, None, None, None], shift - mean * scale


def _steps(name: str, kernel: Sequence[int]) -> tuple[int, tuple[int, int]]:
    """(stride, padding) of a convolution."""
    padding = (0, 0) if name in UNPADDED else (kernel[0] // 2, kernel[1] // 2)
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
    for block, *_ in E_BLOCKS:
        x = _block_e(net, block, x)
    return x.float().mean((2, 3))


def _run(net: Plain | Fast, x: Tensor, prefix: str, *ends: str) -> Tensor:
    for end in ends:
        x = net.conv(f"{prefix}{end}", x)
    return x


def _block_a(net, block: str, x: Tensor) -> Tensor:
    import torch

    one, five, three, pooled = net.fan(block, x)
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

    one, seven, double, pooled = net.fan(block, x)
    seven = _run(net, seven, f"{block}.branch7x7_", "2", "3")
    double = _run(net, double, f"{block}.branch7x7dbl_", "2", "3", "4", "5")
    return torch.cat([one, seven, double, pooled], 1)


def _block_d(net, block: str, x: Tensor) -> Tensor:
    import torch
    import torch.nn.functional as F

    three, seven = net.fan(block, x)
    three = _run(net, three, f"{block}.branch3x3_", "2")
    seven = _run(net, seven, f"{block}.branch7x7x3_", "2", "3", "4")
    return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


def _block_e(net, block: str, x: Tensor) -> Tensor:
    import torch

    one, three, double, pooled = net.fan(block, x)
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
