"""A checkout with LlamaGen's files, names and signatures, and a network of a few lines of ours."""

from __future__ import annotations

from pathlib import Path

NETWORK = """
from dataclasses import dataclass

import torch
from utils.drop_path import DropPath


@dataclass
class ModelArgs:
    dim: int = 64
    n_layer: int = 2
    n_head: int = 2
    num_classes: int = 1000
    vocab_size: int = 16384
    cls_token_num: int = 1
    block_size: int = 256
    model_type: str = "c2i"


class Transformer(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.num_classes = config, config.num_classes
        self.begin = torch.nn.Embedding(config.num_classes + 1, config.dim)
        self.tok_embeddings = torch.nn.Embedding(config.vocab_size, config.dim)
        self.norm = torch.nn.RMSNorm(config.dim)
        self.output = torch.nn.Linear(config.dim, config.vocab_size, bias=False)
        self.drop_path = DropPath()
"""
LOOP = """
import torch

CALLS = []


@torch.no_grad()
def generate(model, cond, max_new_tokens, emb_masks=None, cfg_scale=1.0, cfg_interval=-1,
             **sampling_kwargs):
    CALLS.append({"cfg_scale": cfg_scale, **sampling_kwargs})
    hidden_BD, drawn = model.begin(cond), []
    for _ in range(max_new_tokens):
        probs_BV = model.output(model.norm(hidden_BD)).float().softmax(-1)
        drawn.append(torch.multinomial(probs_BV, 1))
        hidden_BD = model.tok_embeddings(drawn[-1][:, 0])
    return torch.cat(drawn, dim=1).int()
"""
DROP = "import torch\n\n\nclass DropPath(torch.nn.Identity):\n    pass\n"
CODE = {
    "autoregressive/models/gpt.py": NETWORK,
    "autoregressive/models/generate.py": LOOP,
    "utils/drop_path.py": DROP,
}


def written_checkout(folder: Path, **changes: str) -> Path:
    """The files of `CODE` in a folder; `changes` replace a file's text by its stem."""
    for name, text in CODE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changes.get(path.stem, text))
    return folder
