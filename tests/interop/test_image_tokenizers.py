"""Key maps and inferred configurations against networks of the public names, on random weights."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon import seeds
from cm3leon.checkpoint import load_into
from cm3leon.errors import UserError
from cm3leon.interop.image_tokenizers import (
    PREFIXES,
    check_whole,
    convert,
    find_weights,
    infer_config,
    tokenizer_names,
)
from cm3leon.tokenizers.folder import expected_shapes
from cm3leon.tokenizers.vq import VQ
from tests.public_layouts import Public

NETWORKS = {
    "taming f16's build": Public("taming", mult=(1, 2, 3), attn=(2,), blocks=2),
    "gumbel f8's build": Public("taming", mult=(1, 1, 2), attn=(2,), z=6, gumbel=True),
    "Chameleon's build": Public("taming", attn=(), z=8, dim=8),
    "attention twice": Public("taming", attn=(0, 1)),
    "LlamaGen's build": Public("llamagen", mult=(1, 1, 2), attn=(2,), blocks=2),
    "LlamaGen, one level": Public("llamagen", mult=(2,), attn=(0,)),
}


def pictures(count: int, side: int) -> torch.Tensor:
    """Floats in [-1,1], smooth enough that rounding moves no code."""
    generator = seeds.torch_generator(0, "pictures", side)
    return torch.rand(count, 3, side, side, generator=generator) * 2 - 1


def built(weights, **options) -> VQ:
    """Our network with converted weights."""
    converted = convert(weights)
    config = infer_config(converted, **options)
    check_whole(expected_shapes(config), converted.tensors)
    vq = VQ(config)
    load_into(vq, converted.tensors)
    return vq.eval()


def codes_of(vq: VQ, x: torch.Tensor) -> torch.Tensor:
    z = vq.latents(x)
    return vq.quantize.codes(z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])).view(len(x), -1)


def drawn(vq: VQ, codes: torch.Tensor) -> torch.Tensor:
    side = int(codes.shape[1] ** 0.5)
    return vq.pictures(vq.quantize.vectors(codes).transpose(1, 2).unflatten(2, (side, side)))


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_the_same_codes_and_pictures_as_the_public_network(name):
    public = NETWORKS[name]
    vq = built(public.weights, resolution=32)
    x = pictures(2, 32)
    codes = public.encode(x)
    assert len(codes.unique()) > 5
    assert torch.equal(codes_of(vq, x), codes)
    expected = public.decode(codes)
    assert expected.std() > 0.1
    assert torch.allclose(drawn(vq, codes), expected, atol=1e-5, rtol=0)


def test_what_the_shapes_tell():
    config = infer_config(convert(NETWORKS["gumbel f8's build"].weights), resolution=64)
    assert (config.channels, config.multipliers, config.blocks) == (32, (1, 1, 2), 1)
    assert (config.z_channels, config.code_dim, config.codebook_size) == (6, 6, 40)
    assert (config.quantiser, config.groups, config.stride, config.grid) == ("gumbel", 32, 4, 16)
    assert config.attention == (16,) and config.decodes
    assert infer_config(convert(NETWORKS["Chameleon's build"].weights)).attention == (0,)
    twice = infer_config(convert(NETWORKS["attention twice"].weights))
    assert (twice.attention, twice.resolution) == ((256, 128), 256)
    llamagen = convert(NETWORKS["LlamaGen's build"].weights)
    assert infer_config(llamagen).quantiser == "unit"
    assert infer_config(llamagen, quantiser="nearest").quantiser == "nearest"


@settings(max_examples=25)
@given(
    st.sampled_from(["taming", "llamagen"]),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(1, 2),
    st.booleans(),
)
def test_every_name_of_any_build_has_its_place(layout, mult, blocks, attend):
    attn = (len(mult) - 1,) if attend else ()
    public = Public(layout, mult=tuple(mult), blocks=blocks, attn=attn)
    converted = convert(public.weights)
    assert converted.layout == layout and converted.left_out == {}
    assert len(converted.tensors) == len(public.weights)  # no two names become one
    shapes = {name: tuple(value.shape) for name, value in converted.tensors.items()}
    assert shapes == expected_shapes(infer_config(converted))


def test_counters_do_not_hide_the_weights():
    weights, counters = {"quantize.embedding.weight": torch.ones(2)}, {"decay": torch.ones(())}
    content = {"ema": counters, "model": {}, "state_dict": weights}
    assert find_weights(content) == (weights, "state_dict")
    assert find_weights({"ema": counters, **weights}) == (weights, "")
    assert find_weights({"ema": counters}) == (counters, "ema")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_is_below_a_prefix_is_taken(prefix):
    public = NETWORKS["LlamaGen's build"]
    larger = {f"{prefix}{name}": value for name, value in public.weights.items()}
    larger |= {"lm_head.weight": torch.zeros(2), "loss.logvar": torch.zeros(())}
    larger |= {f"{prefix}loss.lpips.weight": torch.zeros(3)}
    converted = convert(larger)
    assert converted.tensors.keys() == convert(public.weights).tensors.keys()
    assert converted.left_out == {f"outside {prefix}*": 2, "loss.*": 1}
    names = tokenizer_names(list(larger))
    assert all(name.startswith(prefix) for name in names) and len(names) == len(larger) - 2
    assert tokenizer_names(["a", "b"]) == ["a", "b"]


def test_moving_averages_come_first_then_the_model_then_lightning():
    a, b, c = ({"x": torch.full((1,), float(k))} for k in range(3))
    for content, part in (
        ({"model": b, "ema": a, "optimizer": {}, "steps": 5}, "ema"),
        ({"state_dict": c, "model": a}, "model"),
        ({"state_dict": a, "epoch": 3, "callbacks": {}}, "state_dict"),
        ({"ema": None, "model": {"x": a["x"]}}, "model"),
        (a, ""),
    ):
        found, name = find_weights(content)
        assert name == part and found["x"].item() == 0
    for nothing in ({}, [], torch.zeros(2), {"model": {"layers": 3}}, None):
        with pytest.raises(UserError, match="no named tensors"):
            find_weights(nothing)


def without(weights, *parts):
    return {name: value for name, value in weights.items() if not name.startswith(parts)}


TAMING = NETWORKS["Chameleon's build"].weights
WRONG = {
    "another network": ({"fc.weight": torch.zeros(2)}, "no image tokenizer we know: it has fc.wei"),
    "no codebook": (without(TAMING, "quantize"), "without a codebook"),
    "no first layer": (without(TAMING, "encoder.conv_in"), "encoder.conv_in.weight is missing"),
    "grey": (TAMING | {"encoder.conv_in.weight": torch.zeros(32, 1, 3, 3)}, "reads 1 channels"),
    "lacks": (without(TAMING, "decoder.mid.attn_1"), r"10 tensors are missing: .* and 7 more"),
    "strange": (TAMING | {"quantize.used": torch.zeros(3)}, "1 tensors have no place here: quanti"),
    "shape": (TAMING | {"quant_conv.bias": torch.zeros(9)}, r"shape \(9,\), expected \(8,\)"),
    "NaN": (TAMING | {"quant_conv.bias": torch.full((8,), torch.nan)}, "holds NaN"),
}


@pytest.mark.parametrize("case", WRONG)
def test_weights_of_another_build_are_one_line(case):
    weights, message = WRONG[case]
    with pytest.raises(UserError, match=message) as error:
        built(weights, resolution=32)
    assert "\n" not in str(error.value)


def test_a_resolution_that_does_not_fit_is_refused():
    converted = convert(TAMING)
    for bad in (0, 33, -2):
        with pytest.raises(UserError, match=r"vq\.resolution must be a positive multiple"):
            infer_config(converted, resolution=bad)


def redrawn(network):
    """Weights of a size at which codes differ from place to place; transformers begins small."""
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network


@torch.inference_mode()
def test_chameleon_as_transformers_has_it():
    """Names and computation of another's code; it has no decoder."""
    pytest.importorskip("transformers")
    from transformers.models.chameleon.modeling_chameleon import (
        ChameleonVQVAE,
        ChameleonVQVAEConfig,
    )

    shape = ChameleonVQVAEConfig(
        base_channels=32, channel_multiplier=[1, 2], num_res_blocks=2, latent_channels=16,
        embed_dim=8, num_embeddings=64, resolution=32,
    )  # fmt: skip
    with seeds.torch_default(0, "chameleon"):
        theirs = redrawn(ChameleonVQVAE(shape))
    larger = {f"model.vqmodel.{name}": value for name, value in theirs.state_dict().items()}
    converted = convert(larger | {"model.norm.weight": torch.zeros(3)})
    config = infer_config(converted)
    assert (converted.layout, config.resolution, config.decodes) == ("chameleon", 512, False)
    assert config.attention == (0,)
    theirs, vq = theirs.double(), built(larger, resolution=32).double()
    x = pictures(2, 32).double()  # rounding aside
    codes = codes_of(vq, x)
    assert torch.equal(codes, theirs.encode(x).image_tokens.view(2, -1))
    assert len(codes.unique()) > 3
    with pytest.raises(UserError, match="has no decoder"):
        vq.decode(codes)


@torch.inference_mode()
def test_llamagen_as_transformers_has_it_in_janus():
    """Janus draws with LlamaGen's network: an encoder and a decoder of another's code."""
    pytest.importorskip("transformers")
    from transformers.models.janus.modeling_janus import JanusVQVAE, JanusVQVAEConfig

    shape = JanusVQVAEConfig(
        base_channels=32, channel_multiplier=[1, 1, 2], num_res_blocks=2, latent_channels=16,
        embed_dim=8, num_embeddings=64, num_patches=8,
    )  # fmt: skip
    with seeds.torch_default(0, "janus"):
        theirs = redrawn(JanusVQVAE(shape)).eval()
        rows = torch.nn.functional.normalize(torch.randn(64, 8))
        theirs.quantize.embedding.weight.copy_(rows)  # theirs compares rows as they are
    theirs, vq = theirs.double(), built(theirs.state_dict(), resolution=32).double()
    x = pictures(2, 32).double()  # rounding aside
    assert vq.config.quantiser == "unit" and vq.config.attention == (8,)
    codes = codes_of(vq, x)
    assert torch.equal(codes, theirs.encode(x).image_tokens.view(2, -1))
    assert len(codes.unique()) > 3
    assert torch.allclose(drawn(vq, codes), theirs.decode(codes), atol=1e-9, rtol=0)
