"""LlamaGen as a system: its published layout with a T5 of transformers' own class, all tiny."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from tests.benchmarks.systems.test_llamagen_model import random_tensors

transformers = pytest.importorskip("transformers")

from benchmarks.systems import llamagen as llamagen_system  # noqa: E402
from benchmarks.systems.find import find_system  # noqa: E402
from benchmarks.systems.llamagen import cleaned, decoding  # noqa: E402
from benchmarks.systems.llamagen_model import LlamaGenConfig  # noqa: E402
from cm3leon.config import VQConfig  # noqa: E402
from cm3leon.errors import UserError  # noqa: E402
from cm3leon.seeds import torch_default  # noqa: E402
from cm3leon.tokenizers.folder import save_tokenizer  # noqa: E402
from cm3leon.tokenizers.vq import VQ  # noqa: E402

CONFIG = LlamaGenConfig(16, 2, 2, 24, 20, 12, 10, 4)
PROMPTS, SEEDS = ["a star", "two blue circles on sand", ""], [1, 2**62, 3]
WORDS = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
WORDS += [(letter, -2.0) for letter in "abcdefghijklmnopqrstuvwxyz"]


def write_t5(folder, width=12):
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    with torch_default(0, "t5"):
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder)  # as published
    transformers.T5Tokenizer(vocab=WORDS, extra_ids=0).save_pretrained(folder)


def write_vq(folder, codes=20):
    config = VQConfig(
        8, 32, (1, 1), 1, (0,), 32, codebook_size=codes, code_dim=8, quantiser="unit", groups=32
    )
    with torch_default(0, "vq"):
        save_tokenizer(folder, config, VQ(config).state_dict(), {"licence": "MIT"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("llamagen")
    torch.save({"model": random_tensors(CONFIG), "steps": 3}, home / "t2i_XS_stage1_8.pt")
    write_t5(home / "t5")
    write_vq(home / "vq")
    return home


@pytest.fixture(scope="module")
def system(folder):
    return find_system(f"llamagen:{folder}?heads=2")


def test_a_sample_depends_on_its_prompt_and_seed_alone(system, folder):
    together = system.draw(PROMPTS, SEEDS)
    assert together.shape == (3, 8, 8, 3) and together.dtype == np.uint8
    backwards = [system.draw([PROMPTS[k]], [SEEDS[k]])[0] for k in (2, 1, 0)]
    assert np.array_equal(together, np.stack(backwards[::-1]))
    assert not np.array_equal(together[0], system.draw([PROMPTS[0]], [SEEDS[1]])[0])
    batched = find_system(f"llamagen:{folder}?heads=2&batch=2")
    assert np.abs(batched.draw(PROMPTS, SEEDS).astype(int) - together).max() <= 1
    assert system.draw([], []).shape == (0, 8, 8, 3)
    with pytest.raises(UserError, match="one seed a prompt, got 3 and 1"):
        system.draw(PROMPTS, [1])


def test_captions_are_those_of_a_padded_batch(system):
    """LlamaGen's own way: padded at the right under a mask, then turned around to the left."""
    captions_BCW, words_BC = system.text(PROMPTS)
    tokenizer, model = system.text.tokenizer, system.text.model
    padded = tokenizer(
        PROMPTS, max_length=10, padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = model(**padded).last_hidden_state
    for row, mask in enumerate(padded["attention_mask"]):
        count = int(mask.sum())
        assert words_BC[row].tolist() == [False] * (10 - count) + [True] * count
        turned = torch.cat([hidden[row, count:], hidden[row, :count]]) * words_BC[row][:, None]
        assert torch.allclose(captions_BCW[row], turned, atol=1e-5)
    assert words_BC.sum(1).tolist() == [8, 10, 1] and padded["input_ids"][1, -1] == 1  # </s> kept


def test_what_a_record_says(system, folder):
    json.dumps(system.config)
    assert system.name == f"{folder.name}+heads2"
    wanted = {"cfg_scale": 7.5, "temperature": 1.0, "top_k": 1000, "top_p": 1.0, "image_size": 8}
    assert wanted.items() <= system.config["call"].items()
    assert system.config["file"] == "t2i_XS_stage1_8.pt" and str(folder) not in str(system.config)
    elsewhere = find_system(f"llamagen:{folder}?heads=2&vq={folder}/vq&t5={folder}/t5")
    assert (elsewhere.name, elsewhere.config) == (system.name, system.config)
    assert elsewhere.weights_sha256 == system.weights_sha256


def test_options_move_pictures(folder, system):
    pair = PROMPTS[:2], SEEDS[:2]
    base = find_system(f"llamagen:{folder}?heads=2&cfg_scale=1").draw(*pair)
    assert not np.array_equal(base, system.draw(*pair))
    for option in ("temperature=0", "top_k=1", "top_p=0.1", "temperature=9", "image_size=4"):
        drawn = find_system(f"llamagen:{folder}?heads=2&cfg_scale=1&{option}").draw(*pair)
        assert drawn.shape != base.shape or not np.array_equal(drawn, base), option
    half = find_system(f"llamagen:{folder}?heads=2&dtype=bfloat16")
    assert half.draw(*pair).shape == base.shape and half.name.endswith("+bfloat16")
    call = {"cfg_scale": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    assert decoding(call, 20).top_k is None and decoding(call, 20).streams == 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("guidance=3", "LlamaGen has no option 'guidance'; it has cfg_scale"),
        ("cfg_scale=0.5", "cfg_scale must be at least 1 (no guidance), got 0.5"),
        ("top_k=1.5", "top_k must be a whole number of at least 0, got 1.5"),
        ("batch=0", "batch must be a whole number of at least 1, got 0"),
        ("temperature=hot", "temperature must be a number, got 'hot'"),
        ("clean=5", "clean must be true or false, got 5"),
        ("top_p=2", "decode.top_p must lie in (0, 1], got 2"),
        ("image_size=7", "image_size must be a multiple of the tokenizer's 2, got 7"),
        ("heads=3", "heads must cut a width of 16"),
        ("vq=nowhere", "no folder nowhere: cm3leon convert-tokenizer"),
        ("t5=nowhere", "no folder nowhere: put flan-t5-xl there"),
        ("dtype=int8", "dtype must be one of"),
    ],
)
def test_bad_options(folder, query, message):
    with pytest.raises(UserError) as caught:
        find_system(f"llamagen:{folder}?{'heads=2&' if 'heads' not in query else ''}{query}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_do_not_belong_together(folder, tmp_path):
    write_t5(tmp_path / "t5", width=16)
    with pytest.raises(UserError, match="T5 of width 16, the transformer reads 12; LlamaGen's is"):
        find_system(f"llamagen:{folder}?heads=2&t5={tmp_path}/t5")
    write_vq(tmp_path / "vq", codes=5)
    with pytest.raises(UserError, match="it draws 20 codes, the image tokenizer has 5"):
        find_system(f"llamagen:{folder}?heads=2&vq={tmp_path}/vq")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    file = broken / "t2i_XS_stage1_8.pt"
    torch.save({"model": {"cls_embedding.embedding_table.weight": torch.zeros(2, 2)}}, file)
    with pytest.raises(UserError, match=r"t2i_XS_stage1_8\.pt: a class-conditional LlamaGen"):
        find_system(f"llamagen:{broken}?heads=2")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="truncated"):
        find_system(f"llamagen:{broken}?heads=2")
    file.unlink()
    with pytest.raises(UserError, match="must hold one weight file, e"):
        find_system(f"llamagen:{broken}?heads=2")
    (broken / "t5" / "model.safetensors").write_bytes(b"torn")
    torch.save({"model": random_tensors(CONFIG)}, file)
    with pytest.raises(UserError, match="t5 cannot be loaded"):
        find_system(f"llamagen:{broken}?heads=2")


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("  A Man riding  a wave. ", "a man riding a wave."),
        ("A dog,cat and a bird/fish", "a dog, cat and a bird fish"),
        ("A cat \u2013 on a (red) mat!", "a cat - on a red mat!"),
        ("“Stop” sign & a street\n", '"stop" sign a street'),
        ('"a whole quote"', "a whole quote"),
        ("one...two", "one two"),
        ("a%20b+c", "a b c"),
        ("a-b-c_d-e", "a b c d e"),
        ("it's 5 o'clock -", "it's 5 o'clock"),
        ("", ""),
    ],
)
def test_captions_are_cleaned(caption, wanted):
    assert cleaned(caption) == wanted


def test_cleaning_can_be_left_out(folder, system):
    raw = find_system(f"llamagen:{folder}?heads=2&clean=false")
    assert not np.array_equal(raw.draw(["a(b"], [0]), system.draw(["a(b"], [0]))
    assert llamagen_system.OPTIONS["clean"] is True
