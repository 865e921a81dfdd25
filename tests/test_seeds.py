"""Random numbers: named by what they are for, the same everywhere, and nobody else makes any."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon import seeds
from cm3leon.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PARTS = st.one_of(st.integers(), st.text("ab/ é0", max_size=8))
SEEDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6)


def test_golden_seeds():
    """A change here changes every picture, weight and drawing of the project."""
    assert seeds.derive(0) == 4761921975702974394
    assert seeds.derive(0, "decode", "coco-test-17", 2) == 5230343341591042653
    drawn = seeds.generator(0, "scene").integers(2**32, size=3)
    assert drawn.tolist() == [3129887026, 900494279, 833553535]
    assert seeds.uniforms([7], 2).tolist() == [[0.8720734548204873, 0.29536538151378355]]


@settings(max_examples=50)
@given(st.integers(), st.lists(PARTS, max_size=4))
def test_a_seed_is_63_bits_and_depends_on_its_name_alone(root, path):
    value = seeds.derive(root, *path)
    assert 0 <= value < 2**63
    seeds.generator(root, "other").random(3)
    assert seeds.derive(root, *path) == value


def test_different_purposes_have_different_seeds():
    names = [(root, "use", k) for root in range(5) for k in range(120)]
    assert len({seeds.derive(*name) for name in names}) == len(names)
    bits = np.array([[seeds.derive(*name) >> bit & 1 for bit in range(63)] for name in names])
    assert abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / len(names) ** 0.5  # five standard errors


def test_generators_repeat_and_leave_the_global_ones_alone():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, two = seeds.generator(1, "a"), seeds.generator(1, "a")
    assert (one.random(5) == two.random(5)).all()
    first = torch.rand(4, generator=seeds.torch_generator(1, "a"))
    assert torch.equal(first, torch.rand(4, generator=seeds.torch_generator(1, "a")))
    assert not torch.equal(first, torch.rand(4, generator=seeds.torch_generator(1, "b")))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_a_block_has_torch_seeded_and_the_state_comes_back():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeds.torch_default(3, "weights"):
        drawn = torch.rand(4)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    with seeds.torch_default(3, "weights"):
        assert torch.equal(torch.rand(4), drawn)


@settings(max_examples=40)
@given(SEEDS, st.integers(0, 20), st.integers(0, 20))
def test_a_row_depends_on_its_seed_alone(values, count, more):
    rows = seeds.uniforms(values, count)
    assert rows.shape == (len(values), count) and rows.dtype == np.float64
    assert ((rows >= 0) & (rows < 1)).all()
    for k, seed in enumerate(values):
        assert (seeds.uniforms([np.int64(seed)], count)[0] == rows[k]).all()
    assert (seeds.uniforms(values[::-1], count) == rows[::-1]).all()
    assert (seeds.uniforms(values, count + more)[:, :count] == rows).all()  # the start stays


def test_uniforms_are_uniform_and_none_is_fine():
    rows = seeds.uniforms(range(200), 100)
    counts = np.histogram(rows, 20, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
    assert seeds.uniforms([], 3).shape == (0, 3)


def test_a_negative_seed_is_one_line():
    with pytest.raises(UserError, match="seed must not be negative, got -4") as error:
        seeds.uniforms([1, -4], 3)
    assert "\n" not in str(error.value)


def makers(path: Path) -> list[str]:
    """Names used in a file that make or seed random numbers."""
    strange = {"manual_seed", "default_rng", "RandomState", "Philox", "seed_all", "PCG64"}
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in strange:
            found.append(node.attr)
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name == "random"]
        if isinstance(node, ast.ImportFrom) and node.module in ("random", "numpy.random"):
            found.append(node.module)
    return found


def test_only_seeds_makes_random_numbers():
    assert makers(ROOT / "cm3leon" / "seeds.py")  # the search finds what it should
    packages = ("cm3leon", "benchmarks", "baselines")
    files = [path for name in packages for path in sorted((ROOT / name).rglob("*.py"))]
    found = {str(path.relative_to(ROOT)): makers(path) for path in files if makers(path)}
    theirs = "benchmarks/verify/published.py"  # another program's subsets, drawn as it does
    assert set(found) - {theirs} == {"cm3leon/seeds.py"}
    assert found[theirs] == ["RandomState", "RandomState"]


def test_half_characters_have_seeds_too():
    """The tokenizer is what refuses such a text, in words."""
    assert seeds.derive(0, "a \udcff") != seeds.derive(0, "a \udcfe") != seeds.derive(0, "a ")
