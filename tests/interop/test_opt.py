"""OPT's words for our network and back: logits of the real class, laws of the round trip, refusals.

Axes as in cm3leon/model/transformer.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon import config as configs
from cm3leon.config import POSITIONS, ModelConfig, VocabularyConfig
from cm3leon.errors import UserError
from cm3leon.interop.opt import (
    from_opt_config,
    from_opt_state_dict,
    opt_shapes,
    to_opt_config,
    to_opt_state_dict,
    written_out,
)
from cm3leon.model.transformer import Transformer
from cm3leon.seeds import torch_generator

TINY = ModelConfig(
    "tiny", layers=2, width=32, heads=4, context=24, vocabulary=VocabularyConfig(30, 20, 6, 16)
)
SHAPES = st.builds(
    lambda layers, heads, size, context, ids, tied, places: ModelConfig(
        "drawn", layers, heads * size, heads, context, VocabularyConfig(*ids), tied=tied,
        position_text=places[0], position_grid=places[1], position_pairs=places[2],
    ),
    *(st.integers(1, high) for high in (3, 4, 6, 20)),
    st.tuples(*[st.integers(1, 40)] * 4),
    st.booleans(),
    st.tuples(st.integers(3, 6), st.integers(1, 3), st.integers(1, 3)),
)  # fmt: skip


def random_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """Every matrix random, residual outputs and positions too."""
    model, generator = Transformer(config), torch_generator(seed, "export")
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model.eval()


@pytest.mark.parametrize("kind", POSITIONS)
@given(SHAPES, st.integers(0, 2**31))
@settings(max_examples=12)
def test_there_and_back_is_the_same(kind, config, seed):
    config = replace(config, positions=kind)
    model = random_model(config, seed)
    again = config if config.positions != "grid" else replace(config, positions="anchored")
    assert from_opt_config(to_opt_config(config)) == again
    there = to_opt_state_dict(model)
    assert {name: tuple(value.shape) for name, value in there.items()} == opt_shapes(config)
    back = from_opt_state_dict(there, again)
    own = model.state_dict() | {"position_embedding.weight": model.position_table()}
    Transformer(again).load_state_dict(back)
    assert set(back) == set(own)
    assert all(torch.equal(back[name], value) for name, value in own.items())


@pytest.mark.parametrize("kind", POSITIONS)
@given(SHAPES, st.integers(0, 2**31))
@settings(max_examples=4)
def test_transformers_computes_the_same_logits(kind, config, seed):
    transformers = pytest.importorskip("transformers")
    config = replace(config, positions=kind)
    model = random_model(config, seed)
    opt = transformers.OPTForCausalLM(transformers.OPTConfig(**to_opt_config(config))).eval()
    opt.load_state_dict(to_opt_state_dict(model))
    draws, shape = torch_generator(seed, "ids"), (3, config.context)
    ids_BT = torch.randint(0, model.vocabulary_size, shape, generator=draws)
    places_BT = torch.randint(0, config.places, shape, generator=draws)
    with torch.no_grad():
        wanted, found = model(ids_BT, places_BT), opt(ids_BT, position_ids=places_BT).logits
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        if config.positions == "row":  # OPT counts by itself
            torch.testing.assert_close(opt(ids_BT).logits, model(ids_BT), rtol=1e-4, atol=1e-4)


def test_nothing_is_copied_but_the_positions():
    model = random_model(TINY)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    for name, value in to_opt_state_dict(model).items():
        copied = value.untyped_storage().data_ptr() not in own
        assert copied == name.endswith("embed_positions.weight"), name
        assert not value.requires_grad and value.is_contiguous()


@pytest.mark.parametrize("name", configs.MODELS)
def test_every_preset_has_a_config(name):
    config = configs.MODELS[name]()
    values = to_opt_config(config)
    assert from_opt_config(values) == written_out(config)
    assert values["vocab_size"] > values["pad_token_id"] >= config.vocabulary.text_size
    del values["cm3leon"]  # a plain OPT, whose ids we are told
    again = from_opt_config(values, config.vocabulary, name)
    silent = {key: getattr(config, key) for key in ("init_std", "position_std", "position_grid")}
    indices = replace(config, positions="row", context=config.places)
    assert replace(again, **silent) == indices


BAD_CONFIGS = {
    "enable_bias must be False, got True": {"enable_bias": True},
    "layer_norm_elementwise_affine must be False, got True": {
        "layer_norm_elementwise_affine": None
    },
    "activation_function must be 'relu', got 'gelu'": {"activation_function": "gelu"},
    "do_layer_norm_before must be True, got False": {"do_layer_norm_before": False},
    "model_type must be 'opt', got 'llama'": {"model_type": "llama"},
    "_remove_final_layer_norm must be False": {"_remove_final_layer_norm": True},
    "word_embed_proj_dim must be 32 at a width of 32, got 16": {"word_embed_proj_dim": 16},
    "ffn_dim must be 128 at a width of 32, got 64": {"ffn_dim": 64},
    "hidden_size must be a whole number, got '32'": {"hidden_size": "32"},
    "model.width must be a multiple of model.heads": {"num_attention_heads": 5},
    "says layers = 3 and 2 outside and inside": {"num_hidden_layers": 3},
    "says max_position_embeddings = 25, its 'cm3leon' block means 24": {
        "max_position_embeddings": 25
    },
    "vocab_size is 63, the id space has 64": {"vocab_size": 63},
    "a torn 'cm3leon' block": {"cm3leon": 3},
    "ModelConfig has no field 'colour'": {"cm3leon": {"config": {"colour": 1}}},
    "does not say which of them are text": {"cm3leon": None},
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_other_networks_get_one_line(message):
    values = {**to_opt_config(TINY), **BAD_CONFIGS[message]}
    values = {key: value for key, value in values.items() if value is not None}
    with pytest.raises(UserError) as caught:
        from_opt_config(values)
    assert message in str(caught.value) and "\n" not in str(caught.value)


LAYER = "model.decoder.layers.1."
BAD_TENSORS = {
    "'model.decoder.layers.1.fc1.bias', which": {LAYER + "fc1.bias": torch.zeros(128)},
    "'model.decoder.project_in.weight', which": {
        "model.decoder.project_in.weight": torch.zeros(32, 16)
    },
    "lacks 'model.decoder.layers.1.fc2.weight'": {LAYER + "fc2.weight": None},
    "has shape (3, 32), its config.json means (32, 32)": {
        LAYER + "self_attn.q_proj.weight": torch.zeros(3, 32)
    },
    "holds torch.int8": {LAYER + "fc2.weight": torch.zeros(32, 128, dtype=torch.int8)},
    "differs from the embedding although": {"lm_head.weight": torch.zeros(64, 32)},
}


@pytest.mark.parametrize("message", BAD_TENSORS)
def test_other_tensors_get_one_line(message):
    tensors = to_opt_state_dict(random_model(TINY)) | BAD_TENSORS[message]
    tensors = {name: value for name, value in tensors.items() if value is not None}
    with pytest.raises(UserError) as caught:
        from_opt_state_dict(tensors, TINY)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_names_of_the_bare_decoder_and_a_head_left_out():
    model = random_model(TINY)
    tensors = to_opt_state_dict(model)
    del tensors["lm_head.weight"]
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    for given_ in (tensors, bare):
        back = from_opt_state_dict(given_, TINY)
        assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match=r"lacks 'lm_head.weight'"):
        from_opt_state_dict(tensors, replace(TINY, tied=False))
