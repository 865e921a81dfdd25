"""Janus and Emu3 of transformers' own classes, tiny and random: samples, oracles, bad folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

from benchmarks.images import generated as images  # noqa: E402
from benchmarks.protocols.prompts import Prompt  # noqa: E402
from benchmarks.systems.adapter import folder_digest  # noqa: E402
from benchmarks.systems.chameleon import prompt_ids  # noqa: E402
from benchmarks.systems.find import find_system  # noqa: E402
from benchmarks.systems.transformers import restored  # noqa: E402
from cm3leon.config import VQConfig  # noqa: E402
from cm3leon.errors import UserError  # noqa: E402
from cm3leon.tokenizers.folder import load_tokenizer, save_tokenizer  # noqa: E402
from cm3leon.tokenizers.vq import VQ  # noqa: E402
from tests.tiny_models import write_chameleon, write_emu3, write_janus  # noqa: E402

PROMPTS, SEEDS = ["a star", "two blue circles on sand", ""], [1, 2**62, 3]
OPTIONS = {"janus": "", "emu3": "?image_area=1024", "chameleon": "?vq={folder}/vq&top_p=1"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("models")
    makers = {"janus": write_janus, "emu3": write_emu3, "chameleon": write_chameleon}
    return {kind: make(home / kind) for kind, make in makers.items()}


@pytest.fixture(scope="module")
def systems(folders):
    return {
        kind: find_system(f"transformers:{folder}{OPTIONS[kind].format(folder=folder)}")
        for kind, folder in folders.items()
    }


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_sample_depends_on_its_prompt_and_seed_alone(systems, kind):
    system = systems[kind]
    state = torch.get_rng_state()
    together = system.draw(PROMPTS, SEEDS)
    assert torch.equal(state, torch.get_rng_state())  # nobody else's draws are moved
    assert together.shape == (3, 32, 32, 3) and together.dtype == np.uint8
    backwards = [system.draw([PROMPTS[k]], [SEEDS[k]])[0] for k in (2, 1, 0)]
    assert np.array_equal(together, np.stack(backwards[::-1]))
    other = system.draw([PROMPTS[0]], [SEEDS[1]])[0]
    assert not np.array_equal(together[0], other)
    with pytest.raises(UserError, match="one seed a prompt, got 3 and 1"):
        system.draw(PROMPTS, [1])


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_a_record_says(folders, systems, kind):
    system = systems[kind]
    assert system.config["model"] == type(system.model).__name__
    assert system.config["transformers"] == transformers.__version__
    json.dumps(system.config)
    assert system.config["call"]["guidance_scale"] in (3.0, 5.0)  # defaults are told as well
    assert system.weights_sha256 == folder_digest(folders[kind])
    names = {"janus": "janus", "emu3": "emu3+image_area1024", "chameleon": "chameleon+top_p1"}
    assert system.name == names[kind] and str(folders[kind]) not in str(system.config)


def test_janus_equals_its_own_recipe(folders):
    """Greedy, so that no random draw hides a difference; the library's words for each step."""
    system = find_system(f"transformers:{folders['janus']}?do_sample=false&guidance_scale=3")
    model, processor = system.model, system.processor
    inputs = processor(text=["a star"], generation_mode="image", return_tensors="pt")
    codes = model.generate(**inputs, generation_mode="image", do_sample=False, guidance_scale=3.0)
    assert codes.shape == (1, 16)
    with torch.no_grad():
        decoded = model.model.vqmodel.decode(codes)[0].permute(1, 2, 0)
    wanted = processor.postprocess([decoded], return_tensors="pt")["pixel_values"][0]
    drawn = system.draw(["a star"], [0])[0].astype(int)
    assert np.abs(drawn - wanted.movedim(0, -1).numpy()).max() <= 1  # it computes in float32


def test_emu3_equals_its_own_recipe(folders):
    """The recipe of its page, where the closing tokens are asked for one by one."""
    options = "image_area=1536&do_sample=false&guidance_scale=2"
    system = find_system(f"transformers:{folders['emu3']}?{options}")
    model, processor = system.model, system.processor
    asked = {"return_for_image_generation": True, "return_tensors": "pt", "image_area": 1536}
    inputs, free = processor(text=["a star"], **asked), processor(text=[""], **asked)
    height, width = inputs.pop("image_sizes")[0]
    names = ("<|extra_200|>", "<|extra_201|>", "<|image end|>", "<|extra_204|>", "<|image token|>")
    row, frame, image, end, wrapper = processor.tokenizer.convert_tokens_to_ids(list(names))

    def allowed(_, ids):
        offset = len(ids) - torch.nonzero(ids == wrapper)[0][0]
        if offset % (width + 1) == 0:
            return [row]
        closing = {1: frame, 2: image, 3: end}.get(int(offset) - (width + 1) * height)
        return model.vocabulary_mapping.image_tokens if closing is None else [closing]

    tokens = model.generate(
        **inputs, max_new_tokens=100, do_sample=False, guidance_scale=2.0,
        prefix_allowed_tokens_fn=allowed, negative_prompt_ids=free["input_ids"],
        negative_prompt_attention_mask=free["attention_mask"],
    )[:, inputs["input_ids"].shape[1] :]  # fmt: skip
    assert tokens.shape == (1, height * (width + 1) + 3)
    decoded = model.decode_image_tokens(image_tokens=tokens, height=height, width=width)
    wanted = restored(decoded[0].movedim(0, -1), processor.image_processor, "recipe")
    assert np.array_equal(system.draw(["a star"], [0])[0], wanted)


def test_chameleon_equals_whole_forwards(folders):
    """Greedy: each code is the most likely after all before it, computed without a cache."""
    folder = folders["chameleon"]
    system = find_system(f"transformers:{folder}?vq={folder}/vq&temperature=0&guidance_scale=2")
    model, processor = system.model, system.processor
    ids = model.model.vocabulary_mapping.img2bpe
    ids_K = torch.tensor([ids[code] for code in range(len(ids))])
    streams = [prompt_ids(processor, "a star"), [256, processor.image_start_token_id]]
    assert streams[0][0] == 256 and streams[0][-2] == processor.tokenizer.sep_token_id
    codes = []
    for _ in range(16):
        with torch.no_grad():
            cond, free = (
                model.lm_head(model.model(torch.tensor([row])).last_hidden_state)[0, -1, ids_K]
                for row in streams
            )
        codes.append(int((free + 2 * (cond - free)).argmax()))
        streams = [[*row, ids[codes[-1]]] for row in streams]
    vq = load_tokenizer(folder / "vq")
    assert np.array_equal(system.draw(["a star"], [0])[0], vq.decode(torch.tensor([codes]))[0])
    assert len(set(codes)) > 1


def test_a_chameleon_needs_its_decoder(folders, tmp_path):
    folder = folders["chameleon"]
    for options, message in (
        ("", "needs vq=FOLDER"),
        ("?vq=nowhere", "nowhere"),
        ("?guidance=3", "has no option 'guidance'"),
        (f"?vq={folder}/vq&temperature=-1", "decode.temperature must be finite and not negative"),
    ):
        with pytest.raises(UserError, match=message):
            find_system(f"transformers:{folder}{options}")
    config = VQConfig(16, 8, (1, 1), 1, (), 8, codebook_size=5, code_dim=8)
    save_tokenizer(tmp_path / "vq", config, VQ(config).state_dict(), {})
    with pytest.raises(UserError, match="has 5 codes, the model draws 32"):
        find_system(f"transformers:{folder}?vq={tmp_path}/vq")


def test_the_harness_draws_with_it(systems, tmp_path):
    prompts = [Prompt(f"p{k}", caption, str(k)) for k, caption in enumerate(PROMPTS)]
    drawn = images.draw(systems["janus"], prompts, folder=tmp_path, batch_size=2)
    assert (drawn.drawn, drawn.reused) == (3, 0)
    assert images.draw(systems["janus"], prompts, folder=tmp_path).reused == 3


def test_pixels_that_are_no_numbers(systems):
    processor = systems["janus"].processor.image_processor
    broken = torch.zeros(4, 4, 3)
    broken[1, 2, 0] = float("nan")
    with pytest.raises(UserError, match="x drew NaN or infinite pixels"):
        restored(broken, processor, "x")
    assert (restored(torch.full((2, 2, 3), 9.0), processor, "x") == 255).all()


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def pickled(folder: Path) -> None:
    state = {"a": torch.zeros(2)}
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


BAD_FOLDERS = {
    "holds a 'bert', which is not known to draw; known are janus, emu3, chameleon": lambda folder: (
        folder / "config.json"
    ).write_text('{"model_type": "bert"}'),
    "is no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "janus cannot be loaded: Error while deserializing": cut,
    "janus cannot be loaded: ": pickled,
    "cannot be loaded": lambda folder: (folder / "tokenizer.json").write_text("{"),
}


@pytest.mark.parametrize("message", BAD_FOLDERS)
def test_bad_folders_get_one_line(folders, tmp_path, message):
    folder = Path(shutil.copytree(folders["janus"], tmp_path / "janus"))
    BAD_FOLDERS[message](folder)
    with pytest.raises(UserError) as caught:
        find_system(f"transformers:{folder}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_options_that_are_none(folders):
    for option in ("colour=red", "num_return_sequences=2", "image_area=64"):
        with pytest.raises(UserError, match=f"no option '{option.split('=')[0]}'"):
            find_system(f"transformers:{folders['janus']}?{option}")
