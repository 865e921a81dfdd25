"""Recipe of the scenes CLIP: captions and pictures of one scene brought together.

Half of a batch are scenes of `stock`, `train`, half are scenes of `study` about the entities that
occur in `train`; no evaluation split and none of the entities that never occur. A
second text looks for each: another caption of the scene, or a caption of another document about the
entity. First it is brought to the caption, then to the document's vector, the mean of caption and
picture, and so is the other document's picture: so a name counts, even one whose picture was never
seen, as rare words do in a CLIP of the web, and so does a look. Several pictures of a batch may fit
one caption: the world has few words, so recall is bounded below 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cm3leon import seeds
from cm3leon.checkpoint import save
from cm3leon.clip import Clip, ClipConfig, Words, make_clip
from cm3leon.config import TrainConfig, to_dict
from cm3leon.files import write_atomic
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import to_unit
from cm3leon.training.loop import Problem, train
from cm3leon.training.trainer import device_name
from cm3leon.world.scenes import ABOUT_ONE, PLAIN, SEEN, scene

CLIP_SHAPE = ClipConfig()
TEXT_PICTURES = 20_000  # of `stock`, `train`, five captions each, for the text tokenizer
FIRST = TrainConfig(
    steps=400,
    batch=128,
    rate=1e-3,
    optimizer="muon",
    matrix_ratio=5.0,
    warmup=40,
    final=0.02,
    save_every=100,
    eval_every=200,
    log_every=20,
)
SECOND = replace(FIRST, steps=150, rate=6e-4, warmup=10, save_every=50, eval_every=150)
HELD_OUT = 500  # pictures of `stock`, `val`, each with its first caption
LARGEST_SCALE = 100.0  # of the logits, as in CLIP


def stock_captions(pictures: int) -> Iterator[str]:
    """All captions of the first pictures of `stock`, `train`."""
    for index in range(pictures):
        yield from scene("stock", "train", index).captions


class ClipTraining(nn.Module):
    """CLIP's symmetric cross-entropy over a batch: pictures and captions, texts and what they look
    for, which is captions or, with `documents`, the documents' vectors; then pictures look too.
    """

    def __init__(self, model: nn.Module, documents: bool):
        super().__init__()
        self.model, self.documents = model, documents

    def forward(
        self, pixels: Tensor, ids_NL: Tensor, others_NL: Tensor, others: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss in nats of N pictures, their captions, a text that looks for each and pictures that
        look for the last ones; and what is logged.
        """
        image_ND = self.model.encode_image(pixels, normalize=True)
        text_ND = self.model.encode_text(ids_NL, normalize=True)
        other_ND = self.model.encode_text(others_NL, normalize=True)
        scale = self.model.logit_scale.exp().clamp(max=LARGEST_SCALE)
        parts, logged = {}, {"scale": scale.detach()}
        parts["pictures"], logged["right"] = attraction(scale * image_ND @ text_ND.T)
        wanted_ND = F.normalize(image_ND + text_ND, dim=-1) if self.documents else text_ND
        parts["texts"], logged["found"] = attraction(scale * other_ND @ wanted_ND.T)
        if self.documents:
            looking_MD = self.model.encode_image(others, normalize=True)
            asked_MD = wanted_ND[len(wanted_ND) - len(looking_MD) :]
            logits_MM = scale * looking_MD @ asked_MD.T
            parts["looks"], logged["found_by_look"] = attraction(logits_MM)
        logged |= {f"{name}_loss": value.detach() for name, value in parts.items()}
        return sum(parts.values()) / len(parts), logged


def attraction(logits_NN: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric cross-entropy of the diagonal, and how often a row's largest lies on it."""
    truth_N = torch.arange(len(logits_NN), device=logits_NN.device)
    loss = (F.cross_entropy(logits_NN, truth_N) + F.cross_entropy(logits_NN.T, truth_N)) / 2
    return loss, (logits_NN.argmax(1) == truth_N).float().mean()


def pairs(step: int, batch: int, words: Words) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures [B,3,64,64] in [-1,1], a caption of each and a text like it, ids [B,L], of one step.

    The other text is another caption of the scene, or one of another document about its entity;
    those documents' pictures come last.
    """
    half = batch // 2
    first = [scene("stock", "train", (step - 1) * half + k) for k in range(half)]
    second = list(first)
    generator = seeds.generator(0, "clip-pairs", step)
    for index in entity_documents(step, batch - half):
        first.append(scene("stock", "study", index))
        shift = int(generator.integers(1, ABOUT_ONE))
        second.append(scene("stock", "study", another(index, shift)))
    picks = [generator.permutation(5)[:2] for _ in first]
    texts = [one.captions[pick[0]] for one, pick in zip(first, picks, strict=True)]
    others = [one.captions[pick[1]] for one, pick in zip(second, picks, strict=True)]
    shown, looking = (
        to_unit(np.stack([one.image for one in part])) for part in (first, second[half:])
    )
    return shown, words(texts), words(others), looking


def another(index: int, shift: int) -> int:
    """The document `shift` places on among those about the same entity, in a circle."""
    entity, place = divmod(index - PLAIN, ABOUT_ONE)
    return PLAIN + entity * ABOUT_ONE + (place + shift) % ABOUT_ONE


def entity_documents(step: int, count: int) -> list[int]:
    """Indices in `study` of scenes about entities that occur in `train`: an epoch has each
    once.
    """
    size = SEEN - PLAIN
    at = np.arange((step - 1) * count, step * count)
    epochs = {e: seeds.generator(0, "clip-bank", e).permutation(size) for e in set(at // size)}
    return [PLAIN + int(epochs[k // size][k % size]) for k in at.tolist()]


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


def train_clip(
    run: Path,
    out: Path,
    device: str,
    first: TrainConfig = FIRST,
    second: TrainConfig = SECOND,
) -> None:
    """Train the CLIP in `run` and `run`-documents and save it to `out`/clip in bfloat16 with the
    log of the second and its own text tokenizer, that of captions alone.
    """
    tokenizer = TextTokenizer.train(stock_captions(TEXT_PICTURES), CLIP_SHAPE.text_size)
    words = Words(tokenizer, CLIP_SHAPE.context)
    with seeds.torch_default(first.seed, "clip"):
        model = make_clip(CLIP_SHAPE).to(device)
    about = {"clip": to_dict(CLIP_SHAPE), "text_sha256": tokenizer.digest}
    spent = train_stage(ClipTraining(model, False), words, first, run, about)
    run = run.with_name(f"{run.name}-documents")
    about["first"] = to_dict(first)
    spent += train_stage(ClipTraining(model, True), words, second, run, about)
    extra = {
        "first": to_dict(first),
        "second": to_dict(second),
        "text_sha256": tokenizer.digest,
        "seconds": round(spent),
        "device": device_name(device),
    }
    tensors = {name: value.cpu() for name, value in model.state_dict().items()}
    tokenizer.save(out / "clip")
    write_atomic(out / "clip" / "log.jsonl", (run / "log.jsonl").read_bytes())
    save(out / "clip", "clip", CLIP_SHAPE, tensors, extra, dtype=torch.bfloat16)


def train_stage(
    training: ClipTraining, words: Words, config: TrainConfig, run: Path, about: dict
) -> float:
    """One stage, in place; the seconds it took."""

    def frozen(module: ClipTraining) -> Clip:
        return Clip(module.model, words, lambda image: to_unit(image[None])[0], "training")

    problem = Problem(
        lambda module, batch, step: module(*batch),
        lambda step: pairs(step, config.batch, words),
        evaluate=lambda module: held_out_recall(frozen(module)),
        about=about,
    )
    return train(training, problem, config, run)["seconds"]
