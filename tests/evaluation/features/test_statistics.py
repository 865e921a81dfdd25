"""Reference statistics: there and back, pytorch-fid's keys, and files that are none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.evaluation.features.statistics import (
    Statistics,
    cache_folder,
    export_statistics,
    import_statistics,
)
from cm3leon.evaluation.sides import Held
from cm3leon.evaluation.statistics.frechet import frechet_from_features, moments


def statistics(seed=0, n=40, dim=5):
    rows = np.random.default_rng(seed).normal(size=(n, dim)) + seed
    return rows, Statistics(*moments(rows), {"pictures": n})


@given(st.integers(0, 50), st.integers(1, 6))
def test_there_and_back(tmp_path_factory, seed, dim):
    path = tmp_path_factory.mktemp("s") / "a.npz"
    _, given_one = statistics(seed, dim=dim)
    export_statistics(path, given_one)
    back = import_statistics(path, dim)
    assert (back.mu == given_one.mu).all() and np.allclose(back.sigma, given_one.sigma, rtol=1e-15)
    assert back.about == {"pictures": 40}


def test_other_readers_find_their_keys(tmp_path):
    """pytorch-fid reads `mu` and `sigma` by numpy, and writes nothing else."""
    _, one = statistics()
    with np.load(export_statistics(tmp_path / "a.npz", one)) as file:
        assert file["mu"].shape == (5,) and file["sigma"].dtype == np.float64
    np.savez(tmp_path / "theirs.npz", mu=one.mu.astype(np.float32), sigma=one.sigma)
    assert import_statistics(tmp_path / "theirs.npz", 5).about == {}


def test_distance_is_that_of_the_features():
    (rows, one), (others, _) = statistics(0), statistics(1, n=30)
    mine = one.distance(Held(others))
    assert mine == pytest.approx(frechet_from_features(rows, others), rel=1e-9)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(5)}, "lacks mu or sigma"),
        ({"mu": np.zeros(4), "sigma": np.eye(4)}, "gives 5 features; take the statistics of the"),
        ({"mu": np.zeros(5), "sigma": np.eye(4)}, "has mu \\[5\\] and sigma \\[4, 4\\]"),
        ({"mu": np.full(5, np.nan), "sigma": np.eye(5)}, "mu must be finite"),
        ({"mu": np.array(["a"] * 5), "sigma": np.eye(5)}, "mu must be finite real numbers"),
        ({"mu": np.zeros(5), "sigma": np.tri(5)}, "sigma is no covariance"),
        ({"mu": np.zeros(5), "sigma": -np.eye(5)}, "sigma is no covariance"),
        ({"mu": np.array([None] * 5), "sigma": np.eye(5)}, "no whole .npz of plain arrays"),
    ],
)
def test_files_that_are_no_statistics(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message):
        import_statistics(tmp_path / "a.npz", 5)


def test_torn_and_missing(tmp_path):
    path = export_statistics(tmp_path / "a.npz", statistics()[1])
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(UserError, match=r"no whole \.npz"):
        import_statistics(path, 5)
    with pytest.raises(UserError, match=r"no file .*none\.npz; statistics are an .npz"):
        import_statistics(tmp_path / "none.npz", 5)
    np.savez(tmp_path / "b.npz", mu=np.zeros(5), sigma=np.eye(5), about=np.array("{"))
    assert import_statistics(tmp_path / "b.npz", 5).about == {}


def test_the_cache_lies_outside_the_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("CM3LEON_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "reference"
    assert cache_folder("features") == tmp_path / "features"
    assert cache_folder("features", tmp_path / "mine") == tmp_path / "mine" / "_features"
