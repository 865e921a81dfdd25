"""Where public weights are looked for: the variable first, then the libraries' own caches."""

from __future__ import annotations

import pytest

from cm3leon.errors import UserError
from cm3leon.interop.known_weights import KNOWN, candidates, find, how_to_get, roots

VARIABLES = ("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE")


@pytest.fixture
def home(monkeypatch, tmp_path):
    """An empty home: no variable set, no cache filled."""
    for variable in (*VARIABLES, *(known.variable for known in KNOWN.values())):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path


def put(home, place: str):
    """A file at one of the places, with something for each wildcard."""
    root, _, pattern = place.partition("/")
    path = roots()[root.strip("{}")] / pattern.replace("*", "a1b2")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("key", KNOWN)
def test_every_place_is_looked_at_and_the_variable_wins(home, monkeypatch, key):
    assert find(key) is None
    for place in reversed(KNOWN[key].places):
        path = put(home, place)
        assert home in path.parents and find(key) == path
    (home / "mine.pt").write_bytes(b"mine")
    monkeypatch.setenv(KNOWN[key].variable, str(home / "mine.pt"))
    assert find(key) == home / "mine.pt"
    (home / "mine.pt").unlink()
    with pytest.raises(UserError, match=f"{KNOWN[key].variable} names .*mine.pt, which is not"):
        find(key)


@pytest.mark.parametrize(
    ("variable", "key"),
    [("TORCH_HOME", "inception"), ("HF_HOME", "clip"), ("HF_HUB_CACHE", "clip"),
     ("XDG_CACHE_HOME", "dinov2")],
)  # fmt: skip
def test_caches_can_be_elsewhere(home, monkeypatch, variable, key):
    monkeypatch.setenv(variable, str(home / "elsewhere"))
    path = put(home, KNOWN[key].places[0])
    assert home / "elsewhere" in path.parents and list(candidates(KNOWN[key])) == [path]


def test_a_way_to_get_each():
    for key, known in KNOWN.items():
        command = how_to_get(key)
        assert f"export {known.variable}=$PWD/" in command and "\n" not in command
        assert known.url.rsplit("/", 1)[1] in command and known.licence
    assert len({known.variable for known in KNOWN.values()}) == len(KNOWN)
    with pytest.raises(UserError, match="unknown weights 'vgg'; known are: inception"):
        find("vgg")
