"""The image tokenizer: pictures to codes and back; names as in taming-transformers' checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from baselines.tokenizers import VQ_SHAPE
from cm3leon import seeds
from cm3leon.config import VQConfig, from_dict
from cm3leon.errors import UserError
from cm3leon.tokenizers.vq import (
    VQ,
    AttnBlock,
    Downsample,
    NearestCodes,
    ResnetBlock,
    Upsample,
    lowest_equal,
    to_bytes,
    to_unit,
)
from cm3leon.training.image_tokenizer import reconstruct
from cm3leon.world.scenes import scene

PLAIN = VQConfig(16, 8, (1, 2), 1, (), 6, 32, 4)
SHAPES = {
    "plain": PLAIN,
    "attention": replace(PLAIN, attention=(8,)),
    "gumbel": replace(PLAIN, attention=(16,), quantiser="gumbel"),
    "one level": replace(PLAIN, multipliers=(2,), resolution=4),
    "deep": replace(PLAIN, multipliers=(1, 1, 2, 2), blocks=2, channels=4),
    "cell": replace(PLAIN, reach="cell"),
    "odd widths": replace(PLAIN, channels=12, multipliers=(1, 3)),
}
F8 = VQConfig(256, 128, (1, 1, 2, 4), 2, (32,), 256, 8192, 256, "gumbel")  # vqgan_gumbel_f8


def made(config: VQConfig) -> VQ:
    """A network whose codes differ from place to place."""
    with seeds.torch_default(0, "test"):
        vq = VQ(config).eval()
        for parameter in vq.parameters():
            nn.init.normal_(parameter, std=0.1 if parameter.ndim < 2 else 0.3)
    return vq


def pictures(count: int, side: int) -> np.ndarray:
    return seeds.generator(0, "pictures", side).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.fixture(params=SHAPES)
def vq(request) -> VQ:
    return made(SHAPES[request.param])


@pytest.fixture(scope="module")
def shipped() -> VQ:
    """The trained tokenizer of the embedded world."""
    from cm3leon.files import baselines_folder
    from cm3leon.loading import load_tokenizers

    home = baselines_folder() / "scenes"
    if not (home / "vq" / "config.json").exists() or not (home / "text").exists():
        pytest.skip("the shipped tokenizers are not trained yet")
    return load_tokenizers(home)[1]


def test_shapes_types_and_ranges(vq):
    config = vq.config
    side = config.resolution
    codes = vq.encode(pictures(3, side))
    assert codes.shape == (3, config.grid**2) and codes.dtype == torch.int64
    assert codes.min() >= 0 and codes.max() < config.codebook_size
    assert len(codes.unique()) > 1
    back = vq.decode(codes)
    assert back.shape == (3, side, side, 3) and back.dtype == np.uint8
    larger = vq.encode(pictures(1, 2 * side))  # any multiple of the stride can be encoded
    assert larger.shape == (1, 4 * config.grid**2)
    assert vq.decode(larger).shape == (1, 2 * side, 2 * side, 3)


def test_a_batch_cannot_be_seen(vq):
    images = pictures(7, vq.config.resolution)
    together = vq.encode(images)
    for size in (1, 2, 5):
        parts = [vq.encode(images[k : k + size]) for k in range(0, 7, size)]
        assert torch.equal(torch.cat(parts), together)
    alone = np.concatenate([vq.decode(row[None]) for row in together])
    difference = abs(alone.astype(int) - vq.decode(together))
    assert difference.max() <= 1  # of 255: rounding


@pytest.mark.parametrize(("reach", "far"), [("cell", False), ("picture", True)])
def test_what_a_code_depends_on(reach, far):
    """With reach "cell" nothing but the cell's own pixels; moving them moves the code."""
    vq = made(replace(PLAIN, reach=reach))
    images = pictures(1, 16).repeat(3, 0)
    images[1, 2:] = pictures(1, 16)[0, :14, :, ::-1]  # the first row of cells stays
    images[2] = np.roll(images[0], (2, 4), (0, 1))  # by one row and two columns of cells
    one, other, moved = (vq.latents(to_unit(image[None]))[0] for image in images)
    assert (not torch.allclose(one[:, 0], other[:, 0], atol=1e-5)) == far
    back = moved.roll((-1, -2), (1, 2))
    assert (not torch.allclose(one, back, atol=1e-5)) == far


def test_nothing_goes_in_and_nothing_comes_out(vq):
    side, count = vq.config.resolution, vq.config.grid**2
    codes = vq.encode(np.zeros((0, side, side, 3), np.uint8))
    assert codes.shape == (0, count) and codes.dtype == torch.int64
    back = vq.decode(codes)
    assert back.shape == (0, side, side, 3) and back.dtype == np.uint8


def test_the_form_of_the_input_does_not_matter(recwarn):
    vq, images = made(PLAIN), pictures(2, 16)
    codes = vq.encode(images)
    read_only = images.copy()
    read_only.setflags(write=False)
    turned = np.ascontiguousarray(images.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    for same in (read_only, turned, torch.from_numpy(images)):
        assert torch.equal(vq.encode(same), codes)
    picture = vq.decode(codes)
    for kind in (np.uint16, np.int32, np.int64):
        stored = codes.numpy().astype(kind)
        stored.setflags(write=False)
        assert (vq.decode(stored) == picture).all()
    assert not recwarn


BAD_PICTURES = {
    "float": (np.zeros((1, 16, 16, 3), np.float32), r"uint8 \[B,H,W,3\], got float32"),
    "torch float": (torch.zeros(1, 16, 16, 3), "got float32"),
    "one picture": (np.zeros((16, 16, 3), np.uint8), r"got uint8 \[16, 16, 3\]"),
    "channels first": (np.zeros((1, 3, 16, 16), np.uint8), r"got uint8 \[1, 3, 16, 16\]"),
    "alpha": (np.zeros((1, 16, 16, 4), np.uint8), r"got uint8 \[1, 16, 16, 4\]"),
    "no multiple": (np.zeros((1, 15, 15, 3), np.uint8), "multiple of 2, got 15 x 15"),
    "oblong": (np.zeros((1, 16, 32, 3), np.uint8), "square .* got 16 x 32"),
    "no pixels": (np.zeros((1, 0, 0, 3), np.uint8), "got 0 x 0"),
}
BAD_CODES = {
    "too large": (np.full((1, 64), 32), r"codes must lie in 0..31, got 32..32"),
    "negative": (np.full((1, 64), -1), r"0..31, got -1..-1"),
    "no square": (np.zeros((1, 63), np.int64), "square number, got 63"),
    "none": (np.zeros((1, 0), np.int64), "square number, got 0"),
    "float": (np.zeros((1, 64)), r"integers \[B,N\], got float64"),
    "bool": (torch.zeros(1, 64, dtype=torch.bool), "got bool"),
    "one row": (torch.zeros(64, dtype=torch.int64), r"got int64 \[64\]"),
    "grid": (torch.zeros(1, 8, 8, dtype=torch.int64), r"got int64 \[1, 8, 8\]"),
}


@pytest.mark.parametrize("case", BAD_PICTURES)
def test_strange_pictures_are_one_line(case):
    images, message = BAD_PICTURES[case]
    with pytest.raises(UserError, match=message) as error:
        made(PLAIN).encode(images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", BAD_CODES)
def test_strange_codes_are_one_line(case):
    codes, message = BAD_CODES[case]
    with pytest.raises(UserError, match=message) as error:
        made(PLAIN).decode(codes)
    assert "\n" not in str(error.value)


def test_every_byte_comes_back():
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    unit = to_unit(images)
    assert unit.dtype == torch.float32 and unit.shape == (1, 3, 16, 16)
    assert (unit.min(), unit.max()) == (-1, 1)
    assert (to_bytes(unit) == images).all()
    assert to_bytes(torch.tensor([-9.0, 9.0, 0.0]).view(1, 3, 1, 1)).tolist() == [[[[0, 255, 128]]]]


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 40]))
def test_the_nearest_row_is_taken(seed, count):
    with seeds.torch_default(seed, "table"):
        quantize = NearestCodes(PLAIN)
    generator = seeds.torch_generator(seed, "nearest")
    z_MD = torch.randn(count, 4, generator=generator) * 0.3
    far = torch.cdist(z_MD.double(), quantize.embedding.weight.double())
    codes = quantize.codes(z_MD)
    assert torch.allclose(far[torch.arange(count), codes], far.min(1).values, atol=1e-6)
    rows = torch.arange(32)
    assert torch.equal(quantize.codes(quantize.vectors(rows)), rows)  # a row is its own code


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_equal_rows_are_one_code(values):
    """Merged codes: whichever of them is nearest, the lowest index is named."""
    table_KD = torch.tensor(values, dtype=torch.float32)[:, None] * torch.ones(5)
    expected = [values.index(value) for value in values]
    assert lowest_equal(table_KD).tolist() == expected
    quantize = NearestCodes(replace(PLAIN, codebook_size=len(values), code_dim=5))
    with torch.no_grad():
        quantize.embedding.weight.copy_(table_KD)
    assert quantize.codes(table_KD + 0.1).tolist() == expected


def test_equal_rows_are_one_code_whatever_the_rounding():
    """A matrix product may round equal rows differently, here at the edge of its blocks."""
    generator = seeds.torch_generator(0, "edge")
    rows_KD = torch.randn(3, 64, generator=generator)
    quantize = NearestCodes(replace(PLAIN, codebook_size=7, code_dim=64))
    with torch.no_grad():
        quantize.embedding.weight.copy_(rows_KD[[0, 1, 2, 0, 1, 2, 0]])
    z_MD = rows_KD.repeat(700, 1) + 0.3 * torch.randn(2100, 64, generator=generator)
    assert torch.equal(quantize.codes(z_MD), torch.arange(3).repeat(700))


def test_gumbel_takes_the_best_scored_code():
    vq = made(replace(SHAPES["gumbel"], z_channels=6, code_dim=4))
    z = vq.latents(to_unit(pictures(2, 16)))
    assert z.shape == (2, 4, 8, 8)  # quant_conv: z_channels -> code_dim, also for this quantiser
    expected = vq.quantize.proj(z).argmax(1).flatten(1)
    assert torch.equal(vq.encode(pictures(2, 16)), expected)


def test_codes_go_row_by_row(monkeypatch):
    vq, seen = made(PLAIN), []

    def pictures_of(z_BDhw):
        seen.append(z_BDhw)
        return torch.zeros(len(z_BDhw), 3, 16, 16)

    monkeypatch.setattr(vq, "pictures", pictures_of)
    codes = torch.arange(128).view(2, 64) * 5 % 32
    vq.decode(codes)
    table = vq.quantize.embedding.weight
    assert torch.equal(seen[0][1, :, 3, 6], table[codes[1, 8 * 3 + 6]])  # row 3, column 6
    monkeypatch.setattr(vq, "latents", lambda x: seen[0])
    assert torch.equal(vq.encode(pictures(2, 16)), codes)


def test_attention_is_softmax_of_scaled_products():
    block, x = AttnBlock(8), torch.randn(2, 8, 3, 5, generator=seeds.torch_generator(0, "x"))
    y = block.norm(x)
    q, k, v = (conv(y).flatten(2) for conv in (block.q, block.k, block.v))
    weights = (torch.einsum("bci,bcj->bij", q, k) / 8**0.5).softmax(-1)
    mixed = torch.einsum("bij,bcj->bci", weights, v).view_as(x)
    assert torch.allclose(block(x), x + block.proj_out(mixed), atol=1e-5)


def test_attention_stands_where_it_is_asked_for():
    def attentive(**changes):
        names = VQ(replace(PLAIN, **changes)).state_dict()
        return {name.rsplit(".", 2)[0] for name in names if ".q." in name}

    middle = {"encoder.mid.attn_1", "decoder.mid.attn_1"}
    assert attentive(attention=()) == set()
    assert attentive(attention=(0,)) == middle  # taming with no resolutions
    found = attentive(attention=(8,))
    levels = {"encoder.down.1.attn.0", "decoder.up.1.attn.0", "decoder.up.1.attn.1"}
    assert found == middle | levels


def test_halving_pads_right_and_below():
    """taming pads (0, 1, 0, 1): output (r, c) sees rows 2r..2r+2 and columns 2c..2c+2."""
    layer = Downsample(1)
    nn.init.ones_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    rows = [[x[0, 0, r : r + 3, c : c + 3].sum().item() for c in (0, 2)] for r in (0, 2)]
    assert layer(x)[0, 0].tolist() == rows


def test_doubling_repeats_pixels_before_its_convolution():
    layer = Upsample(2)
    x = torch.randn(1, 2, 3, 3, generator=seeds.torch_generator(0, "up"))
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(layer(x), layer.conv(repeated))


@pytest.mark.parametrize(("inner", "outer"), [(8, 8), (8, 16)])
def test_a_block_is_a_shortcut_and_two_convolutions(inner, outer):
    block = ResnetBlock(inner, outer)
    x = torch.randn(1, inner, 4, 4, generator=seeds.torch_generator(0, "block"))
    y = block.conv2(F.silu(block.norm2(block.conv1(F.silu(block.norm1(x))))))
    shortcut = F.conv2d(x, block.nin_shortcut.weight, block.nin_shortcut.bias) if outer == 16 else x
    assert torch.allclose(block(x), shortcut + y, atol=1e-6)


def conv(name: str, inner: int, outer: int, side: int) -> dict:
    return {f"{name}.weight": (outer, inner, side, side), f"{name}.bias": (outer,)}


def norm(name: str, width: int) -> dict:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def block(name: str, inner: int, outer: int) -> dict:
    shortcut = conv(f"{name}.nin_shortcut", inner, outer, 1) if inner != outer else {}
    first = norm(f"{name}.norm1", inner) | conv(f"{name}.conv1", inner, outer, 3)
    return first | norm(f"{name}.norm2", outer) | conv(f"{name}.conv2", outer, outer, 3) | shortcut


def attention(name: str, width: int) -> dict:
    out = norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        out |= conv(f"{name}.{part}", width, width, 1)
    return out


def taming_gumbel_f8() -> dict:
    """Names and shapes of taming-transformers' GumbelVQ, f=8, 8192 codes, without its loss.

    Written down level by level from taming's Encoder, Decoder, GumbelQuantize and the published
    configuration (ch 128, ch_mult 1 1 2 4, 2 blocks, attention at 32, z and embedding 256).
    """
    out = conv("encoder.conv_in", 3, 128, 3) | conv("decoder.conv_in", 256, 512, 3)
    for side in ("encoder", "decoder"):
        out |= block(f"{side}.mid.block_1", 512, 512) | block(f"{side}.mid.block_2", 512, 512)
        out |= attention(f"{side}.mid.attn_1", 512)
    widths = {
        "encoder.down": [(128, 128), (128, 128), (128, 256), (256, 512)],
        "decoder.up": [(128, 128), (256, 128), (512, 256), (512, 512)],
    }
    for name, pairs in widths.items():
        count = 2 if name == "encoder.down" else 3
        for level, (inner, outer) in enumerate(pairs):
            for k in range(count):
                out |= block(f"{name}.{level}.block.{k}", outer if k else inner, outer)
        for k in range(count):
            out |= attention(f"{name}.3.attn.{k}", 512)
    for level, width in ((0, 128), (1, 128), (2, 256)):
        out |= conv(f"encoder.down.{level}.downsample.conv", width, width, 3)
    for level, width in ((1, 128), (2, 256), (3, 512)):
        out |= conv(f"decoder.up.{level}.upsample.conv", width, width, 3)
    out |= norm("encoder.norm_out", 512) | conv("encoder.conv_out", 512, 256, 3)
    out |= norm("decoder.norm_out", 128) | conv("decoder.conv_out", 128, 3, 3)
    out |= conv("quantize.proj", 256, 8192, 1) | {"quantize.embed.weight": (8192, 256)}
    return out | conv("quant_conv", 256, 256, 1) | conv("post_quant_conv", 256, 256, 1)


def names_and_shapes(config: VQConfig) -> tuple[dict, VQ]:
    with torch.device("meta"):
        vq = VQ(config)
    return {name: tuple(value.shape) for name, value in vq.state_dict().items()}, vq


def test_public_gumbel_weights_fit_by_name(monkeypatch):
    for kind in (nn.Conv2d, nn.GroupNorm, nn.Embedding):  # nothing to draw on the meta device
        monkeypatch.setattr(kind, "reset_parameters", lambda self: None)
    found, vq = names_and_shapes(F8)
    expected = taming_gumbel_f8()
    assert found.keys() ^ expected.keys() == set()
    assert found == expected
    assert (F8.stride, F8.grid**2) == (8, 1024)
    groups = {module.num_groups for module in vq.modules() if isinstance(module, nn.GroupNorm)}
    assert groups == {32}
    found, _ = names_and_shapes(replace(F8, quantiser="nearest"))
    gone = {"quantize.proj.weight", "quantize.proj.bias", "quantize.embed.weight"}
    assert found.keys() ^ expected.keys() == gone | {"quantize.embedding.weight"}


def test_the_shipped_tokenizer_rebuilds_pictures(shipped):
    codes = {"codebook_size": VQ_SHAPE.codebook_size}  # fewer are left after merging
    assert replace(shipped.config, **codes) == VQ_SHAPE == from_dict(VQConfig, vars(VQ_SHAPE))
    assert (shipped.config.stride, shipped.config.grid) == (8, 8)
    images = np.stack([scene("coco", "val", index).image for index in range(12)])
    back = reconstruct(shipped, images)
    assert (reconstruct(shipped, images, batch=5) == back).mean() > 0.999
    error = ((back.astype(float) - images) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 24
    codes = shipped.encode(images)
    assert torch.equal(codes, torch.cat([shipped.encode(image[None]) for image in images]))
    assert len(codes.unique()) > 64
