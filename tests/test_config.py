"""Configurations check themselves, in one line with field and value; JSON brings them back."""

import json
import math
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.clip import ClipConfig
from cm3leon.config import (
    MODELS,
    PAPER_VOCABULARY,
    ModelConfig,
    ObjectiveConfig,
    RetrievalConfig,
    TrainConfig,
    VocabularyConfig,
    VQConfig,
    from_dict,
    to_dict,
)
from cm3leon.decoding.config import DecodeChanges, DecodeConfig
from cm3leon.errors import UserError
from cm3leon.tokenizers.vq_loss import VQLossConfig

NAN, INF = math.nan, math.inf
GOOD = {
    "vocabulary": VocabularyConfig(),
    "model": ModelConfig("x", 2, 8, 2),
    "objective": ObjectiveConfig(),
    "decode": DecodeConfig(),
    "vq": VQConfig(),
    "train": TrainConfig(),
    "vq_loss": VQLossConfig(),
    "retrieval": RetrievalConfig(),
    "clip": ClipConfig(),
}
BAD = [  # section, field, values it refuses
    ("vocabulary", "text_size", [0, -1]),
    ("vocabulary", "image_size", [0]),
    ("vocabulary", "sentinels", [0]),
    ("vocabulary", "multiple", [0]),
    ("model", "positions", ["rotary"]),
    ("model", "position_text", [0, -1]),
    ("model", "position_grid", [0]),
    ("model", "position_pairs", [0]),
    ("model", "layers", [0]),
    ("model", "width", [0, 7]),
    ("model", "heads", [0, 3]),
    ("model", "context", [0]),
    ("model", "init_std", [0, -1.0, NAN, INF]),
    ("model", "position_std", [-1.0, NAN, INF]),
    ("objective", "rate", [-0.1, NAN, INF]),
    ("objective", "fewest", [-1]),
    ("objective", "most", [0]),
    ("objective", "p_full", [-0.1, 1.1, NAN]),
    ("objective", "spans", ["word", ""]),
    ("objective", "sentinel_weight", [-1, NAN, INF]),
    ("objective", "document_weight", [-1, NAN, INF]),
    ("retrieval", "documents", [-1, 5]),
    ("retrieval", "by", ["sound"]),
    ("retrieval", "each", [0, 5]),
    ("retrieval", "threshold", [-1.1, NAN, INF]),
    ("retrieval", "order", ["sorted"]),
    ("retrieval", "modality", ["video"]),
    ("retrieval", "query_dropout", [-0.1, 1.0, NAN]),
    ("clip", "width", [0, 7]),
    ("clip", "heads", [0]),
    ("clip", "image_layers", [0]),
    ("clip", "text_layers", [0]),
    ("clip", "image_size", [0, 60]),
    ("clip", "patch", [0]),
    ("clip", "text_size", [0]),
    ("clip", "context", [0, 1]),
    ("decode", "guidance", [NAN, INF, -INF]),
    ("decode", "temperature", [-1.0, NAN, INF]),
    ("decode", "top_p", [0, 1.1, -0.5, NAN]),
    ("decode", "unconditional", ["none"]),
    ("decode", "strategy", ["beam"]),
    ("decode", "alpha", [0, 1.1, NAN]),
    ("decode", "k", [0, -1]),
    ("decode", "amateur_temperature", [0, -1.0, NAN, INF]),
    ("decode", "top_k", [0]),
    ("vq", "resolution", [0, 60, -64]),
    ("vq", "channels", [0]),
    ("vq", "blocks", [0]),
    ("vq", "z_channels", [0]),
    ("vq", "codebook_size", [0]),
    ("vq", "code_dim", [0]),
    ("vq", "multipliers", [(), (1, 0), (1, -2)]),
    ("vq", "quantiser", ["cosine"]),
    ("vq", "reach", ["row"]),
    ("vq", "groups", [-1, 3, 32]),
    ("train", "steps", [0]),
    ("train", "batch", [0]),
    ("train", "save_every", [0]),
    ("train", "eval_every", [0]),
    ("train", "log_every", [0]),
    ("train", "warmup", [-1, 1001]),
    ("train", "rate", [0, -1.0, NAN, INF]),
    ("train", "final", [-0.1, 1.1, NAN]),
    ("train", "schedule", ["cosine"]),
    ("train", "decay", [-1, 1]),
    ("train", "keep_every", [-1, 1]),
    ("train", "betas", [(0.9,), (0.9, 1.0), (-0.1, 0.9), (0.9, 0.9, 0.9)]),
    ("train", "weight_decay", [-0.1, NAN]),
    ("train", "clip", [0, -1.0, NAN]),
    ("train", "precision", ["half"]),
    ("train", "optimizer", ["sgd"]),
    ("train", "matrix_ratio", [0.0, -1.0, NAN]),
    ("vq_loss", "l1", [-1, NAN, INF]),
    ("vq_loss", "l2", [-1]),
    ("vq_loss", "perceptual", [-1]),
    ("vq_loss", "commitment", [-1]),
    ("vq_loss", "decay", [-0.1, 1.0, NAN]),
    ("vq_loss", "plain_steps", [0, 1]),
    ("vq_loss", "freeze_step", [400]),
    ("vq_loss", "revive_every", [0]),
    ("vq_loss", "revive_below", [-1, NAN]),
]
CASES = [(section, name, value) for section, name, values in BAD for value in values]
UNCHECKED = {  # any value of their type is fine
    "model": {"name", "vocabulary", "tied"},
    "decode": {"guided_expert"},
    "objective": {"cross_break"},
    "vq": {"attention", "decodes"},
    "train": {"seed"},
    "vq_loss": {"seed"},
}


@pytest.mark.parametrize(("section", "name", "value"), CASES)
def test_a_value_out_of_range_is_one_line(section, name, value):
    with pytest.raises(UserError) as error:
        replace(GOOD[section], **{name: value})
    text, shown = str(error.value), value
    if (name, value) == ("heads", 3):  # the width is told, and the heads it does not fit
        name, shown = "width", GOOD["model"].width
    assert text.startswith(f"{section}.{name} must ") and text.endswith(f", got {shown!r}")
    assert "\n" not in text


def test_every_field_is_checked_or_free():
    for section, config in GOOD.items():
        checked = {name for part, name, _ in BAD if part == section}
        assert checked | UNCHECKED.get(section, set()) == {field.name for field in fields(config)}
        assert not checked & UNCHECKED.get(section, set())


@pytest.mark.parametrize("config", [*GOOD.values(), *(make() for make in MODELS.values())])
def test_json_brings_every_preset_back(config):
    plain = json.loads(json.dumps(to_dict(config), allow_nan=False))
    assert from_dict(type(config), plain) == config
    assert to_dict(from_dict(type(config), plain)) == plain


def test_a_setting_keeps_its_first_name_in_files():
    """Shipped configs, records and kept pictures are told by it; the new name is read too."""
    config = DecodeConfig(unconditional="bare")
    assert to_dict(config)["free"] == "bare" and "unconditional" not in to_dict(config)
    for name in ("free", "unconditional"):
        assert from_dict(DecodeConfig, {name: "bare"}) == config


@settings(max_examples=40)
@given(
    st.builds(
        TrainConfig,
        steps=st.integers(100, 10**9),
        batch=st.integers(1, 4096),
        rate=st.floats(1e-9, 10),
        final=st.floats(0, 1),
        betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
        clip=st.floats(1e-6, 1e6),
        seed=st.integers(),
    )
)
def test_floats_come_back_exactly(config):
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainConfig, {"step": 3}, r"TrainConfig has no field 'step'; it has \['batch'"),
        (TrainConfig, [1], "TrainConfig must be a mapping, got list"),
        (TrainConfig, {"rate": "fast"}, "TrainConfig.rate must be of type float, got 'fast'"),
        (TrainConfig, {"betas": 0.9}, r"TrainConfig.betas must be of type tuple.*, got 0.9"),
        (TrainConfig, {"seed": None}, "TrainConfig.seed must be of type int, got None"),
        (VQConfig, {"channels": 8.5}, "VQConfig.channels must be of type int, got 8.5"),
        (VQConfig, {"multipliers": [1, "2"]}, r"multipliers must be .* got \[1, '2'\]"),
        (VQConfig, {"blocks": True}, "VQConfig.blocks must be of type int, got True"),
        (VQConfig, {"quantiser": 1}, "VQConfig.quantiser must be of type str, got 1"),
        (VQConfig, {"blocks": 0}, "vq.blocks must be at least 1, got 0"),
        (ObjectiveConfig, {"cross_break": 1}, "cross_break must be of type bool, got 1"),
        (ModelConfig, {"name": "x", "layers": 2, "width": 8}, "ModelConfig lacks 'heads'"),
        (ModelConfig, {"vocabulary": 5}, "VocabularyConfig must be a mapping, got int"),
        (ModelConfig, {"vocabulary": {"text": 5}}, "VocabularyConfig has no field 'text'"),
    ],
)
def test_a_strange_dict_is_one_line(kind, values, message):
    with pytest.raises(UserError, match=message) as error:
        from_dict(kind, values)
    assert "\n" not in str(error.value)


def test_from_dict_leaves_its_argument_alone():
    values = to_dict(MODELS["scenes-s"]())
    copy = json.loads(json.dumps(values))
    from_dict(ModelConfig, values)
    assert values == copy


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 40))
def test_stride_and_grid(levels, grid):
    stride = 2 ** (levels - 1)
    config = VQConfig(resolution=grid * stride, multipliers=(1,) * levels, attention=())
    assert (config.stride, config.grid) == (stride, grid)
    if stride > 1:
        with pytest.raises(UserError, match=f"multiple of the stride {stride}"):
            replace(config, resolution=grid * stride + 1)


def test_lists_become_tuples_so_that_configurations_can_be_keys():
    config = VQConfig(multipliers=[1, 2], attention=[])
    assert config.multipliers == (1, 2) and config.attention == ()
    assert len({config, VQConfig(multipliers=(1, 2), attention=())}) == 1
    assert TrainConfig(betas=[0.9, 0.95]).betas == (0.9, 0.95)


def test_the_presets_of_the_paper():
    """Table 3: layers, width, heads, and context; the vocabulary of section 2."""
    rows = {"350m": (24, 1024, 16), "760m": (24, 1536, 16), "7b": (32, 4096, 32)}
    for name, row in rows.items():
        model = MODELS[name]()
        assert (model.layers, model.width, model.heads, model.context) == (*row, 4096)
        assert (model.init_std, model.position_std, model.tied) == (0.006, 0.0002, True)
        assert model.vocabulary == PAPER_VOCABULARY == VocabularyConfig(56_320, 8_192, 512, 512)
    assert [make().name for make in MODELS.values()] == list(MODELS)


def test_every_setting_of_drawing_can_be_changed():
    names = {field.name for field in fields(DecodeConfig)}
    assert {field.name for field in fields(DecodeChanges)} == names
    assert DecodeChanges().given == {}
    changes = DecodeChanges(k=3, temperature=0.0, guided_expert=True)
    assert replace(DecodeConfig(), **changes.given) == DecodeConfig(
        k=3, temperature=0.0, guided_expert=True
    )
