"""CLIPs from files: OpenAI's archives give what open_clip's own weights give; what is no CLIP."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory

from benchmarks.harness.features import load_features
from benchmarks.harness.towers import FACTS, is_program, load_tower
from cm3leon import seeds
from cm3leon.errors import UserError

NAME = "ViT-B-32-quickgelu"
SMALL = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """The same random weights as a list of tensors and as a program with OpenAI's extra numbers."""
    folder = tmp_path_factory.mktemp("towers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(factory._MODEL_CONFIGS, NAME, SMALL)
        with seeds.torch_default(0, "towers"):
            model = open_clip.create_model(NAME, load_weights=False).eval()
        torch.save(model.state_dict(), folder / "tensors.pt")
        model.attn_mask = model._buffers.pop("attn_mask")  # a constant, as in OpenAI's program
        for fact in FACTS:
            if hasattr(model, fact):
                delattr(model, fact)
            model.register_buffer(fact, torch.tensor(32))
        given = {
            "encode_image": torch.zeros(1, 3, 32, 32),
            "encode_text": torch.zeros(1, 77, dtype=torch.int64),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's
            program = torch.jit.trace_module(model, given, check_trace=False)
        torch.jit.save(program, str(folder / "program.pt"))
        yield folder / "tensors.pt", folder / "program.pt"


def test_a_program_is_told_from_a_list(files, tmp_path):
    (tmp_path / "text").write_text("none")
    assert [is_program(path) for path in (*files, tmp_path / "text")] == [False, True, False]


def test_both_forms_give_the_same_vectors(files):
    listed, program = (load_tower(NAME, path) for path in files)
    assert np.array_equal(listed.images(PICTURES), program.images(PICTURES))
    texts = ["a dog", "A photo depicts two kites"]
    assert np.array_equal(listed.texts(texts), program.texts(texts))
    assert listed.sha256 == program.sha256
    features = load_features(f"open_clip:{NAME}:{files[1]}", sha256="any")
    assert np.array_equal(features(PICTURES), program.images(PICTURES))
    assert (features.dim, features.size) == (16, 32)


def test_programs_of_other_networks_are_refused(files, tmp_path, monkeypatch):
    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-L-14", SMALL | {"embed_dim": 32})
    other = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(other, str(tmp_path / "other.pt"))
    torn = tmp_path / "torn.pt"
    torn.write_bytes(files[1].read_bytes()[:5000])
    for architecture, path, message in (
        (NAME, tmp_path / "other.pt", f"other.pt is not {NAME}: Error"),
        ("ViT-L-14", files[1], "is not ViT-L-14"),
        ("none", files[1], "no CLIP 'none'"),
        (NAME, torn, "torn.pt"),
    ):
        with pytest.raises(UserError) as error:
            load_tower(architecture, path)
        assert message in str(error.value) and "\n" not in str(error.value)
