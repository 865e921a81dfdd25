"""Files of other projects: what is read, what becomes an empty shell, what is refused."""

import argparse
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cm3leon.errors import UserError
from cm3leon.files import sha256_file
from cm3leon.safe_load import digests, read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(4)}


def same(found) -> bool:
    return found.keys() == WEIGHTS.keys() and all(
        torch.equal(found[name], WEIGHTS[name]) for name in WEIGHTS
    )


def test_the_same_tensors_from_every_form(tmp_path):
    torch.save(WEIGHTS, tmp_path / "new.pt")
    torch.save(WEIGHTS, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(WEIGHTS, tmp_path / "one.safetensors")
    for name in ("new.pt", "old.pt", "one.safetensors"):
        assert same(read_weights(tmp_path / name))
        assert digests(tmp_path / name) == {name: sha256_file(tmp_path / name)}


PRETENDERS = {
    "is a Git LFS pointer, not the file itself": b"version https://git-lfs.github.com/spec/v1\noid",
    "is a web page, not weights": b"\n<!DOCTYPE html><html>Sign in</html>",
    "is empty": b"",
}


@pytest.mark.parametrize("message", PRETENDERS)
@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("how", ["read", "clip", "import"])
def test_what_often_lies_in_the_place_of_weights_is_named(tmp_path, message, suffix, how):
    from cm3leon.clip import load_clip
    from cm3leon.interop.hf_folder import read_shards

    path = tmp_path / f"model{suffix}"
    path.write_bytes(PRETENDERS[message])
    read = {
        "read": lambda: read_weights(path),
        "clip": lambda: load_clip(f"ViT-B-32:{path}"),
        "import": lambda: read_shards(path.rename(tmp_path / "model.safetensors").parent),
    }[how]
    with pytest.raises(UserError, match=message):
        read()


def test_tensors_under_two_names(tmp_path):
    """As safetensors.torch.save_model writes them: one name in the file, one in its metadata."""
    save_file({"a.weight": WEIGHTS["a.weight"]}, tmp_path / "one.safetensors", {"b": "a.weight"})
    found = read_weights(tmp_path / "one.safetensors")
    assert found.keys() == {"a.weight", "b"} and torch.equal(found["b"], found["a.weight"])


def test_a_flipped_byte_of_an_archive(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(1000)}, path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is damaged: .* fails its CRC; copy it again"):
        read_weights(path)


def test_a_folder_of_safetensors_and_only_what_is_chosen(tmp_path):
    for name, value in WEIGHTS.items():
        save_file({name: value}, tmp_path / f"{name}.safetensors")
    assert same(read_weights(tmp_path))
    assert list(digests(tmp_path)) == ["a.weight.safetensors", "b.bias.safetensors"]
    asked = []
    found = read_weights(tmp_path, lambda names: asked.append(names) or ["b.bias"])
    assert list(found) == ["b.bias"] and sorted(asked[0]) == sorted(WEIGHTS)


@pytest.fixture
def lightning(monkeypatch):
    """The package whose class taming's checkpoints name, there while a file is written."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    kind = type("ModelCheckpoint", (), {"__module__": module.__name__})
    module.ModelCheckpoint = kind
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", module.__name__]
    for name in names[:2]:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield kind
    for name in names:
        sys.modules.pop(name, None)


def test_settings_of_a_training_become_shells(tmp_path, lightning):
    """As in taming's last.ckpt: a class as a key of `callbacks`; and LlamaGen's options."""
    options = argparse.Namespace(vq_model="VQ-16", paths=[Path("data")])
    content = {"state_dict": WEIGHTS, "callbacks": {lightning: {"best": 1.0}}, "args": options}
    torch.save(content, tmp_path / "last.ckpt")
    for name in list(sys.modules):
        if name.startswith("pytorch_lightning"):
            del sys.modules[name]
    with pytest.raises(Exception, match="ModelCheckpoint"):  # what torch says by itself
        torch.load(tmp_path / "last.ckpt", weights_only=True)
    found = read_weights(tmp_path / "last.ckpt")
    assert same(found["state_dict"]) and list(found["callbacks"].values()) == [{"best": 1.0}]
    assert not hasattr(found["args"], "vq_model")
    assert "pytorch_lightning" not in sys.modules


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, new):
    content = {"state_dict": WEIGHTS, "x": Harm(tmp_path / "harm")}
    torch.save(content, tmp_path / "bad.ckpt", _use_new_zipfile_serialization=new)
    with pytest.raises(UserError, match="mkdir") as error:
        read_weights(tmp_path / "bad.ckpt")
    assert "\n" not in str(error.value) and not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["new.pt", "old.pt", "one.safetensors"])
def test_a_truncated_file_is_one_line(tmp_path, name):
    large = {f"w{k}": torch.randn(64, 64, generator=torch.Generator()) for k in range(4)}
    if name.endswith("pt"):
        torch.save(large, tmp_path / name, _use_new_zipfile_serialization=name == "new.pt")
    else:
        save_file(large, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for length in (0, 3, 40, len(data) // 2, len(data) - 1):
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(UserError) as error:
            read_weights(tmp_path / name)
        assert "\n" not in str(error.value) and name in str(error.value)


def test_what_is_no_weight_file_is_one_line(tmp_path):
    (tmp_path / "text.pt").write_text("weights\n" * 100)
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "text.pt", r"text\.pt cannot be read safely: (?!Please)\w+"),
        (tmp_path / "empty", r"holds no \.safetensors"),
        (tmp_path / "nowhere.pt", "cannot read .*nowhere.pt"),
    ):
        with pytest.raises(UserError, match=message) as error:
            read_weights(path)
        assert "\n" not in str(error.value)
