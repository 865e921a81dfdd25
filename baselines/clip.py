"""Recipe of the scenes CLIP: captions and pictures of `stock`, `train` brought together.

It sees no evaluation split and no memory bank. Several pictures of a batch may fit one caption: the
world has few words, so recall is bounded well below 1, by the words and not by the network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.tokenizers import device_name
from cm3leon import seeds
from cm3leon.checkpoint import save
from cm3leon.clip import Clip, ClipConfig, Words, make_clip
from cm3leon.config import TrainConfig, to_dict
from cm3leon.files import write_atomic
from cm3leon.scenes import scene
from cm3leon.text import TextTokenizer
from cm3leon.train import train
from cm3leon.vq import to_unit

CLIP_SHAPE = ClipConfig()
CLIP_TRAIN = TrainConfig(
    steps=600,
    batch=128,
    rate=1e-3,
    warmup=60,
    final=0.02,
    save_every=100,
    eval_every=200,
    log_every=20,
)
HELD_OUT = 500  # pictures of `stock`, `val`, each with its first caption
LARGEST_SCALE = 100.0  # of the logits, as in CLIP


class ClipTraining(nn.Module):
    """The symmetric cross-entropy of CLIP over the pairs of a batch."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, ids_NL: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of N pairs in nats, and what is logged."""
        image_ND = self.model.encode_image(pixels, normalize=True)
        text_ND = self.model.encode_text(ids_NL, normalize=True)
        scale = self.model.logit_scale.exp().clamp(max=LARGEST_SCALE)
        logits_NN = scale * image_ND @ text_ND.T
        truth_N = torch.arange(len(logits_NN), device=logits_NN.device)
        by_image, by_text = (
            F.cross_entropy(logits_NN, truth_N),
            F.cross_entropy(logits_NN.T, truth_N),
        )
        right = (logits_NN.argmax(1) == truth_N).float().mean()
        return (by_image + by_text) / 2, {"scale": scale.detach(), "right": right}


def pairs(step: int, batch: int, words: Words) -> tuple[Tensor, Tensor]:
    """Pictures [B,3,64,64] in [-1,1] and caption ids [B,L] of one step."""
    scenes = [scene("stock", "train", (step - 1) * batch + k) for k in range(batch)]
    chosen = seeds.generator(0, "clip-caption", step).integers(5, size=batch)
    images = np.stack([one.image for one in scenes])
    texts = [one.captions[k] for one, k in zip(scenes, chosen, strict=True)]
    return to_unit(images), words(texts)


def held_out_recall(clip: Clip) -> dict[str, float]:
    """Recall at 1, 5 and 10 on `stock`, `val`, of pictures by text and of texts by picture."""
    scenes = [scene("stock", "val", index) for index in range(HELD_OUT)]
    texts_ND = clip.texts([one.captions[0] for one in scenes])
    images_ND = clip.images([one.image for one in scenes])
    return recalls(texts_ND @ images_ND.T)


def recalls(scores_NN: np.ndarray) -> dict[str, float]:
    """Recall at 1, 5, 10 of text -> image (rows are texts) and image -> text; ties count half."""
    found = {}
    for name, scores in (("text_to_image", scores_NN), ("image_to_text", scores_NN.T)):
        own = np.diagonal(scores)[:, None]
        rank = (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
        found |= {f"{name}_recall_at_{k}": float((rank < k).mean()) for k in (1, 5, 10)}
    return found


def train_clip(run: Path, out: Path, device: str, config: TrainConfig = CLIP_TRAIN) -> None:
    """Train the CLIP in `run` and save it to `out`/clip in bfloat16; its text tokenizer is
    `out`/text.
    """
    tokenizer = TextTokenizer.load(out / "text")
    words = Words(tokenizer, CLIP_SHAPE.context)
    with seeds.torch_default(config.seed, "clip"):
        training = ClipTraining(make_clip(CLIP_SHAPE)).to(device)

    def frozen(module: ClipTraining) -> Clip:
        return Clip(module.model, words, lambda image: to_unit(image[None])[0], "training")

    done = train(
        training,
        lambda module, batch, step: module(*batch),
        lambda step: pairs(step, config.batch, words),
        config,
        run,
        evaluate=lambda module: held_out_recall(frozen(module)),
        about={"clip": to_dict(CLIP_SHAPE), "text_sha256": tokenizer.digest},
    )
    extra = {
        "recipe": to_dict(config),
        "text_sha256": tokenizer.digest,
        "seconds": round(done["seconds"]),
        "device": device_name(device),
    }
    tensors = {name: value.cpu() for name, value in training.model.state_dict().items()}
    write_atomic(out / "clip" / "log.jsonl", (run / "log.jsonl").read_bytes())
    save(out / "clip", "clip", CLIP_SHAPE, tensors, extra, dtype=torch.bfloat16)
