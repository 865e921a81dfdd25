"""What is timed: names, shapes, weights made where they are used, prompts."""

import sys

import numpy as np
import pytest
import torch

from benchmarks.speed import subjects
from benchmarks.speed.subjects import Drawing, find_subject, make_model
from cm3leon.engine.rule import find
from cm3leon.errors import UserError
from cm3leon.loading import model_names


def test_shapes_are_those_of_the_peers():
    found = find_subject("12x512x8")
    assert found.config.vocabulary.size == 4608
    assert (found.config.layers, found.config.width, found.config.heads) == (12, 512, 8)
    assert (found.tokens, found.folder, find_subject("12x512x8", 40).tokens) == (256, None, 40)
    assert (found.shape.blocks, found.shape.head) == (12 * 12 * 512**2, 4076)


def test_sizes_of_the_paper_and_shipped_ones():
    seven = find_subject("7b")
    assert seven.tokens == 1024 and seven.config.parameters == 6_727_663_616
    # 13.5 GB of bfloat16; the floor of 3.3 s an image is this over 4.2 TB/s, 1,024 times
    assert seven.weights_bytes("bfloat16") == 2 * seven.config.parameters
    assert seven.cache_bytes("bfloat16", 2, 1056) == 2 * 32 * 4096 * 2 * 1056 * 2
    for name in model_names():
        assert find_subject(name).folder.name == name and find_subject(name).tokens == 64


@pytest.mark.parametrize(
    "name,new,said",
    [
        ("scenes-xxl", None, "unknown size 'scenes-xxl'; known are"),
        ("12x512", None, "unknown size '12x512'"),
        ("2x30x4", None, "size 2x30x4: model.width must be a multiple of model.heads"),
        ("0x32x2", None, "size 0x32x2: model.layers must be at least 1"),
        ("2x32x2", 5000, "size 2x32x2 has room for 2016 tokens, got --new 5000"),
    ],
)
def test_bad_names_are_one_line(name, new, said):
    with pytest.raises(UserError) as error:
        find_subject(name, new)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_weights_are_the_same_each_time(dtype):
    one, other = (make_model(find_subject("2x32x2"), dtype, "cpu") for _ in range(2))
    state = one.state_dict()
    for name, weight in other.state_dict().items():
        assert weight.dtype == getattr(torch, dtype) and torch.equal(weight, state[name])
        assert 0.5 < float(weight.float().std()) / subjects.STD < 1.5
    rows = one.token_embedding.weight.unique(dim=0)
    assert len(rows) == len(one.token_embedding.weight)  # no two ids are alike


def test_int8_without_its_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(UserError, match="int8 needs torchao"):
        make_model(find_subject("2x32x2"), "int8", "cpu")


@pytest.mark.parametrize("guidance,streams", [(3.0, (32, 3)), (1.0, (32,))])
def test_a_drawing_is_what_was_asked(guidance, streams):
    subject = find_subject("2x32x2", 16)
    drawing = Drawing(make_model(subject, "float32", "cpu"), subject, 3, guidance, 0.9)
    assert drawing.streams == streams
    assert len({prompt.tobytes() for prompt in drawing.prompts[0]}) == 3  # nothing to share
    whole, few = drawing.draw(16), drawing.draw(4)
    assert whole.shape == (3, 16) and whole.dtype == np.int64
    assert whole.min() >= 0 and whole.max() < 4076
    assert (whole[:, :4] == few).all() and (drawing.draw(16) == whole).all()
    rows = 3 * len(streams)
    assert drawing.counters["step_tokens"] == rows * (15 + 3 + 15)


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_what_took_the_steps_is_counted(engine):
    subject = find_subject("2x32x2", 16)
    model = make_model(subject, "float32", "cpu")
    drawing = Drawing(model, subject, 3, 3.0, 0.9, engine)
    drawing.draw(5)
    steps = {name: n for name, n in drawing.counters.items() if name.startswith("steps_by_")}
    assert steps == {f"steps_by_{find(model, engine)}": 4}


def test_work_counts_both_streams():
    subject = find_subject("2x32x2")
    one, two = subject.work("float32", 5, (40.0,)), subject.work("float32", 5, (40.0, 11.0))
    assert two.bytes - one.bytes == 2 * 2 * 32 * 5 * 11 * 4
    weights = 12 * 2 * 32**2 + 4076 * 32
    assert two.flops - one.flops == 2 * 5 * weights + 4 * 2 * 32 * 5 * 11
    assert one.bytes == 4 * (weights + 2 * 2 * 32 * 5 * 40)
