"""Real pictures through a CLIP of ViT-B/32's architecture with random weights: the way is real."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from cm3leon.clip import load_clip
from cm3leon.config import RetrievalConfig
from cm3leon.data.sources import Coco, Item, Tars
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.select import Query, select
from cm3leon.seeds import torch_default

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside the checkout")
def test_coco_and_cc12m_become_a_bank_of_vit_b_32(tmp_path):
    import open_clip

    with torch_default(0, "vit"):
        network = open_clip.create_model("ViT-B-32", pretrained=None)
    file = tmp_path / "vit.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    clip = load_clip(f"ViT-B-32:{file}")
    assert clip.width == 512
    mini = SHARED / "coco-mini"
    sources = [Coco(mini, "train2017"), Coco(mini, "val2017"), Tars([*SHARED.glob("cc12m/*.tar")])]
    items = [item for source in sources for shard in range(source.shards)
             for item in source.read(shard)]  # fmt: skip
    assert all(isinstance(item, Item) for item in items) and len(items) == 80 + 79 + 32
    some = items[::4]  # of all sources; the large network takes its time
    documents = [(item.id, item.captions[0], item.image) for item in some]
    bank = MemoryBank.build(documents, clip, {"kind": "shared"})
    bank.save(tmp_path / "bank")
    kept = MemoryBank.load(tmp_path / "bank")
    kept.check_clip(clip)
    np.testing.assert_array_equal(kept.vectors, bank.vectors)
    texts = clip.texts([caption for _, caption, _ in documents[:5]])
    images = clip.images([image for _, _, image in documents[:5]])
    one = np.abs(images - clip.images([documents[0][2]])).max(1)
    assert one[0] < 1e-4 < one[1:].min()  # different pictures, different vectors
    config = RetrievalConfig(documents=4, threshold=2.0)  # random weights: all alike
    rows = select(Query(texts, images, kept.ids[:5]), kept, config)
    assert rows.shape == (5, 4) and not (rows == np.arange(5)[:, None]).any()
