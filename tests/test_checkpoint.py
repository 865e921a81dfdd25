"""Checkpoints: what goes in comes out, and whatever does not fit is refused in one line."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cm3leon import checkpoint
from cm3leon.config import VocabularyConfig, from_dict, scenes_xs
from cm3leon.errors import UserError
from cm3leon.files import sha256_file
from cm3leon.training.parallel import ALONE


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.fixture
def folder(tmp_path):
    """A saved checkpoint of two small layers."""
    checkpoint.save(tmp_path / "x", "layers", {"width": 3}, layers().state_dict(), {"note": "a"})
    return tmp_path / "x"


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and text
    return text


def test_what_goes_in_comes_out(tmp_path):
    module = layers()
    digest = checkpoint.save(tmp_path, "layers", {"width": 3}, module.state_dict(), {"steps": 7})
    config, tensors, extra = checkpoint.load(tmp_path, "layers")
    assert (config, extra) == ({"width": 3}, {"steps": 7})
    assert all(torch.equal(tensors[key], value) for key, value in module.state_dict().items())
    assert digest == checkpoint.digest(tmp_path) == sha256_file(tmp_path / "model.safetensors")
    assert digest == checkpoint.module_digest(module)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_large_files_stay_where_they_lie(folder, monkeypatch):
    _, read, _ = checkpoint.load(folder, "layers")
    monkeypatch.setattr(checkpoint, "MAPPED_BYTES", 0)
    _, mapped, _ = checkpoint.load(folder, "layers")
    assert read.keys() == mapped.keys()
    assert all(torch.equal(value, mapped[name]) for name, value in read.items())
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="its description names"):
        checkpoint.load(folder, "layers")
    path.unlink()
    with pytest.raises(UserError, match="cannot read"):
        checkpoint.load(folder, "layers")


def test_a_dataclass_comes_back(tmp_path):
    checkpoint.save(tmp_path, "transformer", scenes_xs(), {"a": torch.ones(1)})
    config, _, extra = checkpoint.load(tmp_path, "transformer")
    assert extra == {}
    assert isinstance(config["vocabulary"], dict)
    assert from_dict(type(scenes_xs()), config) == scenes_xs()
    assert from_dict(VocabularyConfig, config["vocabulary"]) == scenes_xs().vocabulary


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stored_small_and_cast_back(tmp_path, dtype):
    module = layers()
    module.register_buffer("count", torch.tensor([1_000_003]))
    checkpoint.save(tmp_path, "layers", {}, module.state_dict(), dtype=dtype)
    _, tensors, _ = checkpoint.load(tmp_path, "layers")
    assert tensors["0.weight"].dtype == dtype
    assert tensors["count"].dtype == torch.int64  # whole numbers are never rounded
    other = layers()
    other.register_buffer("count", torch.tensor([0]))
    checkpoint.load_into(other, tensors)
    for key, value in module.state_dict().items():
        expected = value.to(dtype).float() if value.is_floating_point() else value
        assert torch.equal(other.state_dict()[key], expected)
        assert other.state_dict()[key].dtype == value.dtype


@given(st.permutations(["b", "a", "d", "c"]))
def test_bytes_do_not_depend_on_order(order):
    values = {key: torch.full((2, 3), float(ord(key))) for key in "abcd"}
    shuffled = {key: values[key] for key in order}
    assert checkpoint.to_bytes(shuffled) == checkpoint.to_bytes(values)


def test_tied_and_strided_tensors(tmp_path):
    table = torch.arange(12.0).view(3, 4)
    checkpoint.save(tmp_path, "x", {}, {"in": table, "out": table, "turned": table.T})
    _, tensors, _ = checkpoint.load(tmp_path, "x")
    assert torch.equal(tensors["in"], table) and torch.equal(tensors["out"], table)
    assert torch.equal(tensors["turned"], table.T)


def spoil_weights(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def edit(folder, **changes):
    path = folder / "config.json"
    about = json.loads(path.read_text()) | changes
    checkpoint.write_about(path, {key: val for key, val in about.items() if val is not None})


SPOILT = {
    "no config": (lambda f: (f / "config.json").unlink(), "cannot read .*config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot read .*model.safetensors"),
    "torn": (lambda f: (f / "config.json").write_text('{"form'), "no JSON: .* line 1 column 2"),
    "not text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "no UTF-8 text"),
    "a list": (lambda f: (f / "config.json").write_text("[1]"), "JSON object, got list"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 200_000), "no JSON"),
    "other kind": (lambda f: edit(f, kind="vq"), "holds a 'vq', not a 'layers'"),
    "other format": (lambda f: edit(f, format=9), "format 9"),
    "no digest": (lambda f: edit(f, sha256=None), "no str 'sha256'"),
    "config no dict": (lambda f: edit(f, config=3), "no dict 'config'"),
    "a flipped bit": (spoil_weights, "has digest .*, its description names"),
    "cut weights": (lambda f: os.truncate(f / "model.safetensors", 50), "has digest"),
}


def test_no_flipped_bit_passes_a_configuration(folder):
    """Each is refused, or was between the values and changes none."""
    path, right = folder / "config.json", checkpoint.read_about(folder)
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in (0, 1, 5):
            path.write_bytes(data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :])
            try:
                assert checkpoint.read_about(folder) == right
            except UserError:
                continue


def test_an_older_configuration_has_no_digest(folder):
    path, right = folder / "config.json", checkpoint.read_about(folder)
    path.write_text(json.dumps(right))
    assert checkpoint.read_about(folder) == right
    path.write_text(json.dumps(right | {"about_sha256": None}))
    assert checkpoint.read_about(folder) == right
    path.write_text(json.dumps(right | {"about_sha256": "0" * 64}))
    with pytest.raises(UserError, match="is not what was written"):
        checkpoint.read_about(folder)


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_checkpoints_are_refused(folder, case):
    spoil, message = SPOILT[case]
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        checkpoint.load(folder, "layers")
    assert str(folder) in one_line(error)


def test_no_safetensors_file(tmp_path):
    (tmp_path / "x").write_bytes(b"hello")
    with pytest.raises(UserError, match="no safetensors file"):
        checkpoint.read_tensors(tmp_path / "x", sha256_file(tmp_path / "x"))
    with pytest.raises(UserError, match="cannot read"):
        checkpoint.digest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("1.bias"), "have no '1.bias', which this Sequential needs"),
        (lambda t: t.update(extra=torch.ones(1)), "have 'extra', which this Sequential has not"),
        (lambda t: t.update({"0.bias": torch.ones(5)}), r"'0.bias' has shape \(5,\) .* \(4,\)"),
    ],
)
def test_load_into_is_strict_and_leaves_the_module(change, message):
    module, tensors = layers(), dict(layers().state_dict())
    before = checkpoint.module_digest(module)
    change(tensors)
    with pytest.raises(UserError, match=message) as error:
        checkpoint.load_into(module, tensors)
    one_line(error)
    assert checkpoint.module_digest(module) == before


def test_full_disk_leaves_the_old_checkpoint(folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device") as error:
        checkpoint.save(folder, "layers", {}, layers().state_dict())
    one_line(error)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_another_process_makes_meanwhile_holds_no_state_yet(tmp_path, monkeypatch):
    """Whether it is a folder is asked once: it may come between two questions."""
    run, kind = tmp_path / "run", Path.is_dir

    def is_dir(path: Path) -> bool:
        found = kind(path)
        run.mkdir(exist_ok=True)
        return found

    monkeypatch.setattr(Path, "is_dir", is_dir)
    module = layers()
    optimizer = torch.optim.AdamW(module.parameters())
    assert checkpoint.load_state(run, module, optimizer, {}) is None
    assert ALONE.load_state(run, module, optimizer, {}, lambda *_: None) is None
    run.mkdir(exist_ok=True)
    assert checkpoint.load_state(run, module, optimizer, {}) is None
