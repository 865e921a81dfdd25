"""Pictures that one CLIP picked, measured by another; by the same they are not measured."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.evaluate.clip_beside import SAME, judge_beside, score_picked
from benchmarks.images.generated import Pictures
from benchmarks.protocols.prompts import scenes_prompts
from cm3leon import checkpoint
from cm3leon.clip import ClipConfig, load_clip
from cm3leon.config import from_dict
from cm3leon.evaluation.measures import Missing
from cm3leon.files import baselines_folder
from cm3leon.world.scenes import scene

PROMPTS = scenes_prompts(4, "test")
IMAGES = [scene("coco", "test", index, 64).image for index in range(4)]
DRAWN = [Pictures(tuple(map(Path, "0123")), lambda path: IMAGES[int(path.name)])]


def other_clip(folder: Path) -> Path:
    """The shipped CLIP with a little added to its weights, its tokenizer beside it."""
    values, tensors, extra = checkpoint.load(baselines_folder() / "scenes" / "clip", "clip")
    moved = {name: value.float() + 0.01 for name, value in tensors.items()}
    checkpoint.save(folder, "clip", from_dict(ClipConfig, values), moved, extra)
    for name in ("tokenizer.json", "tokenizer.json.sha256"):
        shutil.copyfile(baselines_folder() / "scenes" / "clip" / name, folder / name)
    return folder


def picked_by(sha256: str):
    return SimpleNamespace(config={"rerank_clip_sha256": sha256})


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return load_clip(other_clip(tmp_path_factory.mktemp("other") / "clip"))


def test_another_clip_is_measured_and_the_same_is_not(other):
    torch.set_num_threads(1)
    clip = load_clip("scenes")
    assert other.sha256 != clip.sha256
    found, said = score_picked(picked_by(other.sha256), PROMPTS, DRAWN)
    texts = clip.texts([prompt.caption for prompt in PROMPTS])
    each = (clip.images(np.stack(IMAGES)) * texts).sum(1)
    value, low, high = found["clip"]
    assert value == pytest.approx(each.mean(), abs=1e-5) and low < value < high and not said
    lacks = Missing("CLIP score", SAME)
    assert score_picked(picked_by(clip.sha256), PROMPTS, DRAWN) == ({}, [lacks])
    assert judge_beside(clip.sha256) == (None, [lacks]) and "\n" not in SAME


def test_nothing_picked_or_no_meanings(other):
    assert score_picked(SimpleNamespace(config={}), PROMPTS, DRAWN) == ({}, [])
    assert score_picked(object(), PROMPTS, DRAWN) == ({}, [])
    photographs = [replace(prompt, meaning=None) for prompt in PROMPTS]
    assert score_picked(picked_by(other.sha256), photographs, DRAWN) == ({}, [])
