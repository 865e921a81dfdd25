"""Real pictures, where the sample data is at hand: 256 pixels become 1,024 tokens of a cache."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cm3leon.cli import main as cli
from cm3leon.data.sources import Item, find_source
from cm3leon.data.token_cache import TokenCache
from cm3leon.files import baselines_folder
from cm3leon.images import crop_square
from cm3leon.tokenizers.folder import load_tokenizer
from cm3leon.tokenizers.pixels import to_unit
from tests.public_layouts import Public

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TAR = SHARED / "cc12m" / "cc12m-train-0000.tar"
F8 = Public("taming", mult=(1, 1, 2, 4), attn=(3,), z=16, codes=8192, dim=16, gumbel=True)


def first_samples(path: Path, count: int) -> None:
    """The first samples of the shard as a tar of their own."""
    keys: list[str] = []
    with tarfile.open(TAR) as whole, tarfile.open(path, "w") as part:
        for member in whole:
            key = member.name.partition(".")[0]
            keys += [key] if key not in keys else []
            if len(keys) > count:
                break
            part.addfile(member, whole.extractfile(member))


@pytest.mark.skipif(not TAR.exists(), reason="no shared data beside the checkout")
def test_photographs_through_the_build_of_gumbel_f8(tmp_path, monkeypatch, capsys):
    """vqgan_gumbel_f8 with a quarter of its channels, random: convert, encode, the same codes."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": F8.weights}, "last.ckpt")
    assert cli.main(["convert-tokenizer", "last.ckpt", "--out", "home/vq"]) == 0
    assert "256 px -> 1024 tokens" in capsys.readouterr().out
    shutil.copytree(baselines_folder() / "scenes" / "text", "home/text")
    options = ["--clip", "none", "--tokenizers", "home"]
    first_samples(tmp_path / "few.tar", 5)
    assert cli.main(["encode", "few.tar", "cache", *options]) == 0
    cache, vq = TokenCache(tmp_path / "cache"), load_tokenizer("home/vq")
    items = [one for one in find_source("few.tar").read(0) if isinstance(one, Item)]
    assert len(cache) == len(items) == 5
    images = np.stack([crop_square(one.image, vq.image_size) for one in items[:2]])
    with torch.inference_mode():
        expected = F8.encode(to_unit(images)).numpy()
    assert expected.shape == (2, 1024)
    stored = np.stack([cache.codes(index) for index in range(2)])
    assert (stored == expected).mean() > 0.999  # what is left is rounding at equal scores
    assert vq.decode(stored).shape == (2, 256, 256, 3)
