"""Pipelines of diffusers: the real class, tiny and random, where it is installed; else a stand-in.

The stand-in has the interface the adapter uses and nothing else: it tests the adapter's own rules.
"""

from __future__ import annotations

import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.systems.find import find_system
from benchmarks.verify.made_weights import stable_diffusion
from cm3leon.errors import UserError


class Pipeline:
    """Noise of the generator, brightened by the prompt's length."""

    fault = None

    def __init__(self):
        self.safety_checker = object()

    @classmethod
    def from_pretrained(cls, folder, **options):
        assert options["use_safetensors"] and options["local_files_only"]
        assert options["dtype"] == torch.float32
        if cls.fault == "torn":
            raise OSError("no file named model_index.json\nfound in directory")
        return cls()

    def set_progress_bar_config(self, disable):
        assert disable

    def to(self, device):
        assert device == "cpu"
        return self

    def __call__(
        self, prompt=None, height=8, num_inference_steps=50, generator=None, output_type="pil"
    ):
        assert output_type == "np" and self.safety_checker is None
        images = torch.rand((1, height, 8, 3), generator=generator).numpy() / (1 + len(prompt))
        if self.fault == "nan":
            images[0, 0, 0, 0] = np.nan
        return SimpleNamespace(images=images.repeat(2 if self.fault == "two" else 1, axis=0))


class FromAPicture(Pipeline):
    """Needs more than a prompt."""

    def __call__(self, image, prompt=None, generator=None):
        raise AssertionError("never called")


@pytest.fixture
def library(monkeypatch, tmp_path):
    """The stand-in under the library's name, and a folder for it."""
    module = types.ModuleType("diffusers")
    module.DiffusionPipeline, module.__version__ = Pipeline, "0"
    monkeypatch.setitem(sys.modules, "diffusers", module)
    (tmp_path / "model_index.json").write_text("{}")
    return module


def test_single_samples_and_the_record(library, tmp_path):
    system = find_system(f"diffusers:{tmp_path}?height=4&num_inference_steps=2")
    assert system.config == {
        "pipeline": "Pipeline",
        "call": {"height": 4, "num_inference_steps": 2},
        "dtype": "float32",
        "diffusers": "0",
    }
    assert system.name.endswith("+height4+num_inference_steps2")
    together = system.draw(["a", "bb", "a"], [5, 2**62, 6])
    assert together.shape == (3, 4, 8, 3) and together.dtype == np.uint8
    assert np.array_equal(system.draw(["bb"], [2**62])[0], together[1])
    assert not np.array_equal(together[0], together[2])


@given(st.permutations(range(4)))
def test_order_does_not_matter(order):
    from benchmarks.systems.diffusers import DiffusersSystem

    pipeline = Pipeline()
    pipeline.safety_checker = None
    system = DiffusersSystem("x", {}, "0", pipeline, {}, "cpu")
    straight = system.draw(list("abcd"), list(range(4)))
    mixed = system.draw(["abcd"[k] for k in order], list(order))
    assert np.array_equal(mixed, straight[list(order)])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?colour=red", "Pipeline has no option 'colour'; it has height, num_inference_steps"),
        ("?output_type=pil", "option output_type of Pipeline is the benchmark's own"),
        ("?dtype=int8", "dtype must be one of"),
        ("?device=abacus", "got 'abacus'"),
    ],
)
def test_bad_options(library, tmp_path, query, message):
    with pytest.raises(UserError) as caught:
        find_system(f"diffusers:{tmp_path}{query}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_faults_of_the_pipeline(library, tmp_path, monkeypatch):
    system = find_system(f"diffusers:{tmp_path}")
    for fault, message in (("nan", "drew NaN"), ("two", "drew 2 pictures of one prompt")):
        monkeypatch.setattr(Pipeline, "fault", fault)
        with pytest.raises(UserError, match=message):
            system.draw(["a"], [1])
    monkeypatch.setattr(Pipeline, "fault", "torn")
    with pytest.raises(UserError, match=r"cannot be loaded: no file named model_index.json found"):
        find_system(f"diffusers:{tmp_path}")
    monkeypatch.setattr(Pipeline, "fault", None)
    library.DiffusionPipeline = FromAPicture
    with pytest.raises(UserError, match="a FromAPicture, which draws no text: it needs image"):
        find_system(f"diffusers:{tmp_path}")


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match="diffusers is not installed; pip install diffusers"):
        find_system(f"diffusers:{tmp_path}")


def test_the_real_class(tmp_path):
    pytest.importorskip("diffusers")
    folder = tmp_path / "sd"
    stable_diffusion(folder)
    system = find_system(f"diffusers:{folder}?num_inference_steps=2&guidance_scale=3")
    together = system.draw(["a star", "sand", ""], [1, 2**62, 3])
    assert together.shape == (3, 16, 16, 3) and together.std() > 1
    assert np.array_equal(system.draw(["sand"], [2**62])[0], together[1])
    assert system.config["pipeline"] == "StableDiffusionPipeline"
    half = find_system(f"diffusers:{folder}?num_inference_steps=2&dtype=bfloat16")
    assert half.pipeline.unet.dtype == torch.bfloat16
    assert half.draw(["sand"], [1]).dtype == np.uint8
