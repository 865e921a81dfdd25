"""How a system is found: by name, by the folder of another library's model, by its place."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks.systems import find as systems
from benchmarks.systems.find import KINDS, NEEDS, SYSTEMS, find_system
from cm3leon.errors import UserError

RECIPE = """
import numpy as np

class Mine:
    name, config, weights_sha256 = "mine", {"size": 8}, "0" * 64

    def draw(self, prompts, seeds):
        return np.stack([np.full((8, 8, 3), seed % 256, np.uint8) for seed in seeds])

SYSTEM = Mine()

def make():
    return SYSTEM

def needs_more(path):
    return SYSTEM

class Half:
    name = "half"
"""


@pytest.fixture
def module(monkeypatch, tmp_path):
    """A file of one's own in the current folder."""
    (tmp_path / "my_recipe.py").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_recipe", raising=False)
    return "my_recipe"


@pytest.mark.parametrize("attribute", ["SYSTEM", "Mine", "make"])
def test_ten_lines_of_one_s_own(module, attribute):
    system = find_system(f"{module}:{attribute}")
    assert all(hasattr(system, need) for need in NEEDS)
    assert system.draw(["a", "b"], [3, 260])[:, 0, 0, 0].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scenes-sx", "unknown system 'scenes-sx'; did you mean scenes-s"),
        ("my_recipe:nothing", "module 'my_recipe' has no 'nothing'"),
        ("my_recipe:needs_more", "cannot be called without arguments"),
        ("my_recipe:Half", "is no system: it has no 'config'"),
        ("no_such_module:X", "cannot import 'no_such_module'"),
        ("diffusers:nowhere", "no folder nowhere"),
        ("transformers:nowhere?x=1", "no folder nowhere"),
        ("diffusers:", "no folder named"),
    ],
)
def test_what_is_no_system_gets_one_line(module, name, message):
    with pytest.raises(UserError) as caught:
        find_system(name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (
            "1 / 0",
            "SYSTEM",
            r"cannot import 'bad' \(bad:SYSTEM\): ZeroDivisionError at .*bad.py:1: ",
        ),
        ("raise SystemExit(3)", "SYSTEM", r"SystemExit at .*bad.py:1: 3"),
        ("x = (", "SYSTEM", "SyntaxError at"),
        (
            "def f():\n    raise KeyError('k')",
            "f",
            r"bad:f cannot be made: KeyError at .*bad.py:2",
        ),
    ],
)
def test_a_module_that_raises_is_one_line_with_the_place(module, tmp_path, text, name, message):
    (tmp_path / "bad.py").write_text(text)
    sys.modules.pop("bad", None)
    with pytest.raises(UserError, match=message) as caught:
        find_system(f"bad:{name}")
    assert "\n" not in str(caught.value)


def test_every_kind_is_a_file_with_a_loader():
    for kind, load in KINDS.items():
        with pytest.raises(UserError, match="no folder nowhere"):
            load("nowhere")
        assert kind not in SYSTEMS


def test_noise_is_of_the_seed_alone():
    noise = find_system("noise")
    both = noise.draw(["a", "b"], [1, 2])
    assert np.array_equal(noise.draw(["c"], [2])[0], both[1]) and isinstance(noise, systems.Noise)
