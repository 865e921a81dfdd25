"""A tokenizer's folder: whole or not there, and loaded under the contract of its users."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cm3leon import checkpoint, seeds
from cm3leon.config import VQConfig
from cm3leon.errors import UserError
from cm3leon.tokenizers import vq
from cm3leon.tokenizers.folder import expected_shapes, load_tokenizer, save_tokenizer
from cm3leon.tokenizers.vq import VQ

CONFIG = VQConfig(16, 8, (1, 2), 1, (8,), 6, 32, 4, groups=4)


@pytest.fixture(scope="module")
def network():
    with seeds.torch_default(0, "folder"):
        return VQ(CONFIG).eval()


def pictures(count: int) -> np.ndarray:
    return seeds.generator(0, "folder").integers(0, 256, (count, 16, 16, 3), np.uint8)


def test_what_is_saved_is_loaded(tmp_path, network):
    extra = {"licence": "MIT", "source": {"files": {"x.ckpt": "0" * 64}}}
    digest = save_tokenizer(tmp_path / "new" / "vq", CONFIG, network.state_dict(), extra)
    found = load_tokenizer(tmp_path / "new" / "vq")
    assert (found.codebook_size, found.grid, found.image_size) == (32, 8, 16)
    assert (found.licence, found.sha256) == ("MIT", digest)
    assert digest == checkpoint.digest(tmp_path / "new" / "vq")
    codes = found.encode(pictures(3))
    assert codes.dtype == torch.int64 and codes.shape == (3, 64)
    assert torch.equal(codes, network.encode(pictures(3)))
    assert (found.decode(codes) == network.decode(codes)).all()
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["vq"]


def test_a_folder_that_is_there_is_left_alone(tmp_path, network):
    (tmp_path / "vq").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("vq", "link"):
        with pytest.raises(UserError, match=f"{name} exists; name a new folder"):
            save_tokenizer(tmp_path / name, CONFIG, network.state_dict(), {})
    assert not list((tmp_path / "vq").iterdir()) and not (tmp_path / "nowhere").exists()


def test_nothing_half_written_stays(tmp_path, network, monkeypatch):
    def full(*_, **__):
        raise UserError("no space left")

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    with pytest.raises(UserError, match="no space left"):
        save_tokenizer(tmp_path / "vq", CONFIG, network.state_dict(), {})
    assert not list(tmp_path.iterdir())


def test_weights_of_another_build_are_refused(tmp_path, network):
    save_tokenizer(tmp_path / "vq", replace(CONFIG, code_dim=5), network.state_dict(), {})
    with pytest.raises(UserError, match=r"vq: .*must fit"):
        load_tokenizer(tmp_path / "vq")
    checkpoint.save(tmp_path / "text", "text", {}, {})
    with pytest.raises(UserError, match="holds a 'text', not a 'vq'"):
        load_tokenizer(tmp_path / "text")


def test_shapes_are_those_of_the_network(network):
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert expected_shapes(CONFIG) == shapes
    only = expected_shapes(replace(CONFIG, decodes=False))
    assert shapes.keys() - only.keys() == {name for name in shapes if name.startswith("decoder.")}


@pytest.mark.parametrize("pictures_at_once", [1, 2, 5])
def test_memory_is_that_of_a_piece(network, monkeypatch, pictures_at_once):
    """Large batches are cut; what comes out does not tell."""
    images, sizes = pictures(5), []
    codes, rebuilt = network.encode(images), network.decode(network.encode(images))
    monkeypatch.setattr(vq, "WORK", pictures_at_once * max(16 * 16 * 8, 64 * 32))
    network.encoder.register_forward_hook(lambda *_: sizes.append(len(_[2])))
    assert torch.equal(network.encode(images), codes)
    assert max(sizes) <= pictures_at_once and sum(sizes) == 5
    assert abs(network.decode(codes).astype(int) - rebuilt).max() <= 1
