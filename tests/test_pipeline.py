"""Prompt -> picture on tiny random weights: what a picture depends on, and what bad folders say."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.images import generated as images
from cm3leon import checkpoint
from cm3leon.config import ModelConfig, VocabularyConfig, VQConfig
from cm3leon.decoding import loop
from cm3leon.decoding.config import DecodeConfig
from cm3leon.engine.rule import step_of
from cm3leon.errors import UserError
from cm3leon.loading import load_system
from cm3leon.model.transformer import Transformer
from cm3leon.seeds import torch_generator
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import VQ
from cm3leon.world.scenes import scene

PROMPTS = ["a red star", "a small blue circle on the sand", "", "two green hearts", "snow, 雪"]
SEEDS = [11, 12, 13, 14, 2**63 - 1]


def write_tiny_baselines(home: Path, name: str = "scenes-s", **model) -> Path:
    """Baselines of random weights in `home`, pictures of 32 pixels; returns the model's folder.

    `model` are further fields of its configuration.
    """
    scenes = home / "scenes"
    captions = [
        caption for index in range(40) for caption in scene("stock", "train", index).captions
    ]
    text = TextTokenizer.train(captions, 300)
    text.save(scenes / "text" / "tokenizer.json")
    vq_config = VQConfig(
        resolution=32, channels=8, multipliers=(1, 1, 1, 1), attention=(),
        z_channels=8, codebook_size=32, code_dim=8,
    )  # fmt: skip
    vq_digest = checkpoint.save(scenes / "vq", "vq", vq_config, random_state(VQ(vq_config), 0.3))
    ids = VocabularyConfig(text.size, 32, 4)
    config = ModelConfig(name, 2, width=32, heads=2, context=96, vocabulary=ids, **model)
    extra = {"text_sha256": text.digest, "vq_sha256": vq_digest}
    state = random_state(Transformer(config), 0.3)
    checkpoint.save(scenes / name, "transformer", config, state, extra)
    return scenes / name


def random_state(module: torch.nn.Module, std: float) -> dict[str, torch.Tensor]:
    """Normal weights everywhere, so that every input of the network matters."""
    generator = torch_generator(0, "tiny", type(module).__name__)
    return {
        name: torch.randn(value.shape, generator=generator) * std
        for name, value in module.state_dict().items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_baselines(tmp_path_factory.mktemp("baselines"))


@pytest.fixture(scope="module")
def system(folder):
    return load_system(folder)


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the model's folder with its tokenizers, to be spoilt."""
    shutil.copytree(folder.parent, tmp_path / "scenes")
    return tmp_path / "scenes" / folder.name


def test_pictures_and_their_types(system):
    images = system.draw(PROMPTS, SEEDS)
    assert images.dtype == np.uint8
    assert images.shape == (5, 32, 32, 3)
    assert len({image.tobytes() for image in images}) == 5


def same(images, others) -> bool:
    """Equal pictures: a processor may sum the decoder's convolutions of another batch in another
    order, which moves few pixels by one step of 255; another code moves a whole cell by more.
    """
    steps = np.abs(images.astype(int) - others.astype(int))
    return steps.max() <= 1 and np.count_nonzero(steps) <= 1e-3 * steps.size


@pytest.mark.parametrize("size", [1, 2, 32])
def test_batch_size_cannot_be_seen(folder, system, size):
    images = load_system(folder, batch_size=size).draw(PROMPTS, SEEDS)
    assert same(images, system.draw(PROMPTS, SEEDS))


def test_a_picture_depends_on_its_prompt_and_seed_alone(system):
    images = system.draw(PROMPTS, SEEDS)
    assert same(system.draw(PROMPTS[::-1], SEEDS[::-1]), images[::-1])
    assert same(system.draw(PROMPTS[3:4], SEEDS[3:4]), images[3:4])
    other_seed = system.draw(PROMPTS[:1], [99])
    other_prompt = system.draw(PROMPTS[1:2], SEEDS[:1])
    assert not same(other_seed[0], images[0])
    assert not same(other_prompt[0], images[0])


@pytest.mark.parametrize(
    "decode",
    [
        DecodeConfig(guidance=1),
        DecodeConfig(guidance=0),
        DecodeConfig(temperature=0.1),
        DecodeConfig(top_p=0.3),
    ],
)
def test_decoding_moves_pictures_and_config(system, decode):
    other = system.with_decode(decode)
    assert other.config != system.config
    assert other.weights_sha256 == system.weights_sha256
    assert not np.array_equal(
        other.draw(PROMPTS[:2], SEEDS[:2]), system.draw(PROMPTS[:2], SEEDS[:2])
    )


def test_guidance_zero_ignores_the_caption(system):
    free = system.with_decode(DecodeConfig(guidance=0))
    one, two = free.draw(PROMPTS[:2], [5, 5])
    assert np.array_equal(one, two)


def test_no_prompts_give_no_pictures(system):
    images = system.draw([], [])
    assert (images.shape, images.dtype) == ((0, 32, 32, 3), np.uint8)


def test_config_is_json_and_names_what_moves_the_drawing(system):
    config = json.loads(json.dumps(system.config))
    assert config["decode"]["guidance"] == DecodeConfig().guidance
    assert (config["model"], config["size"], config["dtype"]) == ("scenes-s", 32, "float32")


def test_a_system_is_shown_in_a_line():
    shown = repr(load_system("scenes-s"))
    assert len(shown) < 400
    assert "44,000 documents" in shown
    assert "guidance=" in shown


def test_an_engine_that_is_named_takes_the_steps(system, monkeypatch):
    """By the rule nothing is said of it, so that what was drawn is known again."""
    took = []
    monkeypatch.setattr(loop, "step_of", lambda *asked: took.append(asked[-1]) or step_of(*asked))
    named = system.with_engine("torch")
    assert named.steps_by == "torch" and system.steps_by in ("c", "torch")
    assert named.config == system.config | {"engine": "torch"}
    codes_BN = named.draw_codes(PROMPTS[:2], SEEDS[:2])
    assert named.caption(named.decode_codes(codes_BN)) and set(took) == {"torch"}
    assert named.with_engine("auto").config == system.config
    with pytest.raises(
        UserError, match="engine 'graph' cannot take the steps: the model is on cpu"
    ):
        system.with_engine("graph")
    with pytest.raises(UserError, match="engine must be one of auto, torch, c, graph, got 'x'"):
        system.with_engine("x")


OTHERWISE = {"config.json": ("heads", 4), "../vq/config.json": ("quantiser", "unit")}


@pytest.mark.parametrize("file", OTHERWISE)
def test_the_same_weights_in_another_shape_are_another_system(system, copy, file):
    path, (field, value) = copy / file, OTHERWISE[file]
    about = json.loads(path.read_text())
    assert about["config"].get(field) != value
    about["config"][field] = value
    checkpoint.write_about(path, about)
    other = load_system(copy)
    assert other.weights_sha256 == system.weights_sha256 and images.key(other) != images.key(system)


def test_found_by_name(folder, monkeypatch):
    monkeypatch.setenv("CM3LEON_BASELINES", str(folder.parent.parent))
    system = load_system("scenes-s")
    assert (system.name, len(system.weights_sha256)) == ("scenes-s", 64)
    with pytest.raises(UserError, match=r"shipped are: scenes-s; did you mean scenes-s\?"):
        load_system("scenes-z")


def test_weights_digest_covers_all_three_parts(system, copy):
    vq, text = copy.parent / "vq", copy.parent / "text"
    about = checkpoint.read_about(copy)
    config, tensors, _ = checkpoint.load(vq, "vq")
    tensors["post_quant_conv.bias"] += 1
    about["extra"]["vq_sha256"] = checkpoint.save(vq, "vq", config, tensors)
    checkpoint.write_about(copy / "config.json", about)
    assert text.is_dir()
    assert load_system(copy).weights_sha256 != system.weights_sha256


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_mismatched_prompts_and_seeds(system):
    with pytest.raises(UserError, match="one seed a prompt, got 2 and 1"):
        system.draw(PROMPTS[:2], [1])


def test_caption_too_long(system):
    with pytest.raises(UserError) as error:
        system.draw(["star " * 100], [1])
    message = one_line(error)
    assert "takes at most 80" in message and "shorten it" in message


def test_path_without_a_model(tmp_path):
    with pytest.raises(UserError, match=r"no model at .*config.json is missing"):
        load_system(tmp_path / "nothing")


def test_tokenizer_of_another_size(copy):
    TextTokenizer.train(["a red star"] * 3, 260).save(copy.parent / "text" / "tokenizer.json")
    with pytest.raises(UserError, match="text tokens") as error:
        load_system(copy)
    one_line(error)


def test_image_tokenizer_that_was_retrained(copy):
    config, tensors, _ = checkpoint.load(copy.parent / "vq", "vq")
    tensors["post_quant_conv.bias"] += 1
    checkpoint.save(copy.parent / "vq", "vq", config, tensors)
    with pytest.raises(UserError, match="was trained with 32 vq tokens of") as error:
        load_system(copy)
    one_line(error)


def test_torn_config_and_foreign_weights(copy):
    (copy / "config.json").write_text('{"format": 1, "kind":')
    with pytest.raises(UserError, match="is no JSON") as error:
        load_system(copy)
    one_line(error)


def test_truncated_weights(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(UserError, match="has digest") as error:
        load_system(copy)
    one_line(error)


def test_config_of_another_model(copy):
    about = json.loads((copy / "config.json").read_text())
    about["config"]["layers"] = 3
    checkpoint.write_about(copy / "config.json", about)
    with pytest.raises(UserError, match=r"blocks\.2") as error:
        load_system(copy)
    one_line(error)


@pytest.mark.parametrize("device", ["tpux", "cuda"])
def test_device_that_is_not_there(folder, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UserError, match="device"):
        load_system(folder, device=device)


def test_batch_size_of_nothing(folder):
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        load_system(folder, batch_size=0)


def test_one_string_is_not_many(system):
    with pytest.raises(UserError, match="prompts must be a sequence of strings, got one: 'a red"):
        system.draw("a red star", list(range(10)))
    with pytest.raises(UserError, match="captions must be a sequence of strings, got one: 'a <"):
        system.infill_text("a <mask>")
