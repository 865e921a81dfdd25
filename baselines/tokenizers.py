"""Recipes of the two tokenizers: byte-level BPE of the captions, VQ of the pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from baselines.corpus import texts
from cm3leon import seeds
from cm3leon.checkpoint import save
from cm3leon.config import TrainConfig, VQConfig, to_dict
from cm3leon.files import sha256_bytes, write_atomic
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import VQ, to_unit
from cm3leon.tokenizers.vq_loss import VQLossConfig, VQTraining, compact_codes, merge_codes
from cm3leon.training.loop import train
from cm3leon.training.trainer import device_name
from cm3leon.world.conditions import CONDITIONS
from cm3leon.world.scenes import PLAIN, SEEN, Scene, scene
from cm3leon.world.signs import sign_scene

TEXT_SIZE = 1024  # a name is 3 tokens (5.3 with 512); 1,536 shorten names alone, to 2.6 (LOG.md)
VQ_SHAPE = VQConfig(
    channels=8, multipliers=(1, 2, 4, 8), attention=(), codebook_size=2048, reach="cell"
)
VQ_LOSS = VQLossConfig(plain_steps=700, freeze_step=6000, decay=0.99, revive_below=0.004)
VQ_TRAIN = TrainConfig(
    steps=9000,
    batch=8,
    rate=2.5e-3,
    warmup=200,
    final=0.05,
    weight_decay=0.0,
    precision="float32",  # the search for the nearest code needs it
    save_every=500,
    eval_every=1500,
    log_every=50,
)
# What a picture of the image tokenizer's training shows, in turn: of 20 ten `telling` scenes, four
# tail entities, four conditions (two of them edges), two signs.
SHOWN = ("telling", "entity", "telling", "condition", "telling") * 3 + (
    *("telling", "sign", "condition", "sign", "entity"),
)
# In the end, when codes no longer change: more of what is hardest to draw.
SHOWN_LAST = ("telling", "entity", "sign", "entity", "condition") * 2 + (
    *("telling", "entity", "entity", "telling", "condition"),
)
# Edges are the finest of the conditions and have the most cells.
CONDITIONED = ("edges", "segmentation", "edges", "scribble", "edges", "depth")
MERGE_RADIUS = 2.0  # codes nearer than this become one
# The decoder alone, on the codes that are left.
VQ_DECODER = replace(VQ_TRAIN, steps=4000, rate=1.5e-3, warmup=100, final=0.03, eval_every=1000)
DECODER_FOLDER = "decoder"  # of a run: its second part
MERGE_PICTURES = 4_000  # over which the codes' use is counted, those of the first steps
ROUND_TO = 64  # the codebook's size after merging is a multiple of it
HELD_OUT = 128  # pictures of `val`


def train_text(folder: Path) -> TextTokenizer:
    """Train the BPE on the world's texts and save `tokenizer.json`; half a minute."""
    tokenizer = TextTokenizer.train(texts(), TEXT_SIZE)
    tokenizer.save(folder / "tokenizer.json")
    return tokenizer


def telling(index: int) -> Scene:
    """A scene that teaches much: every third one shows a tail entity, if one of 24 neighbours
    does; of the others the one of two neighbours with more objects.
    """
    if index % 3 == 0:
        for number in range(24 * index, 24 * index + 24):
            found = scene("stock", "train", number)
            if any(thing[4] for thing in found.plan.things):  # the entity's name
                return found
    pair = [scene("stock", "train", 2 * index + k) for k in range(2)]
    return max(pair, key=lambda one: len(one.plan.things))


def about_an_entity(index: int) -> Scene:
    """A scene about a tail entity of the training, each as often: in company (`study`) or alone
    (`bank`); never about one of those that training must not show.
    """
    number = seeds.derive(0, "entity", index) % (SEEN - PLAIN)
    return scene("stock", ("study", "bank")[index % 2], PLAIN + number)


def shown(index: int, order: tuple[str, ...] = SHOWN) -> np.ndarray:
    """Picture `index` of the image tokenizer's training, uint8 [64,64,3]; kinds by turns."""
    turn, place = divmod(index, len(order))
    what = order[place]
    number = turn * order.count(what) + order[:place].count(what)  # the how-manieth of its kind
    if what == "telling":
        return telling(number).image
    if what == "entity":
        return about_an_entity(number).image
    if what == "sign":
        return sign_scene("stock", "train", number).image
    turn, place = divmod(number, len(CONDITIONED))
    truth = sign_scene("stock", "train", turn) if turn % 6 == 0 else telling(number)
    return CONDITIONS[CONDITIONED[place]](truth)


def picture_batch(step: int, batch: int, order: tuple[str, ...] = SHOWN) -> torch.Tensor:
    """Pictures of one step, [B,3,64,64] in [-1,1]."""
    images = np.stack([shown((step - 1) * batch + k, order) for k in range(batch)])
    return to_unit(images).contiguous(memory_format=torch.channels_last)


def held_out_pictures(count: int = HELD_OUT) -> np.ndarray:
    """The first pictures of `stock`, `val`: uint8 [count,64,64,3]."""
    return np.stack([scene("stock", "val", index).image for index in range(count)])


def reconstruct(vq: VQ, images: np.ndarray, batch: int = 64) -> np.ndarray:
    """Pictures after encoding and decoding, uint8 of the same shape."""
    parts = [vq.decode(vq.encode(images[k : k + batch])) for k in range(0, len(images), batch)]
    return np.concatenate(parts) if parts else images


def evaluate_vq(training: VQTraining) -> dict[str, float]:
    """PSNR of held-out reconstructions and the number of codes they use."""
    images = held_out_pictures()
    vq = training.vq
    error = (reconstruct(vq, images).astype(np.float64) - images) ** 2
    codes = torch.cat([vq.encode(images[k : k + 64]) for k in range(0, len(images), 64)])
    return {
        "psnr": float(10 * np.log10(255**2 / error.mean())),
        "codes_used": len(torch.unique(codes)),
    }


def make_vq(config: VQConfig = VQ_SHAPE, seed: int = 0) -> VQ:
    """A VQ with seeded initial weights."""
    with seeds.torch_default(seed, "vq"):
        return VQ(config).to(memory_format=torch.channels_last)


def merge(vq: VQ, radius: float = MERGE_RADIUS) -> VQ:
    """The tokenizer with codes that are nearly one merged and unused ones dropped."""
    counts_K = count_codes(vq)
    merge_codes(vq, counts_K, radius)
    return compact_codes(vq, count_codes(vq), ROUND_TO)


def count_codes(vq: VQ) -> torch.Tensor:
    """How often each code is used in the first pictures of the training, int64 [K]."""
    counts_K = torch.zeros(vq.config.codebook_size, dtype=torch.int64)
    for start in range(0, MERGE_PICTURES, 100):
        images = np.stack([shown(start + k) for k in range(100)])
        codes = vq.encode(images).flatten().cpu()
        counts_K += torch.bincount(codes, minlength=len(counts_K))
    return counts_K


def train_vq(run: Path, folder: Path, device: str, config: TrainConfig = VQ_TRAIN) -> None:
    """Train the image tokenizer in `run` and save it to `folder`."""
    training = VQTraining(make_vq(), VQ_LOSS).to(device)
    done = train(
        training,
        lambda module, pictures, step: module(pictures, step),
        lambda step: picture_batch(step, config.batch),
        config,
        run,
        evaluate=evaluate_vq,
        about={"vq": to_dict(VQ_SHAPE), "loss": to_dict(VQ_LOSS)},
    )
    merged = merge(training.vq)
    last = train_decoder(merged, run / DECODER_FOLDER, config.steps, device)
    extra = {
        "recipe": to_dict(config),
        "loss": to_dict(VQ_LOSS),
        "merge_radius": MERGE_RADIUS,
        "codes_left": len(merged.quantize.embedding.weight.unique(dim=0)),
        "decoder": to_dict(VQ_DECODER),
        "seconds": round(done["seconds"] + last["seconds"]),
        "device": device_name(device),
    }
    write_atomic(folder / "log.jsonl", (run / "log.jsonl").read_bytes())
    save(folder, "vq", merged.config, merged.state_dict(), extra)


def train_decoder(vq: VQ, run: Path, after: int, device: str) -> dict:
    """Train the decoder on the codes of a finished encoder, in place, on the pictures of steps
    behind `after`; "step", "seconds" and "loss".
    """
    codes = digest_of(vq.quantize.embedding.weight)
    return train(
        VQTraining(vq, VQ_LOSS).to(device),
        lambda module, pictures, _: module(pictures, VQ_LOSS.freeze_step),
        lambda step: picture_batch(after + step, VQ_DECODER.batch, SHOWN_LAST),
        VQ_DECODER,
        run,
        evaluate=evaluate_vq,
        about={"vq": to_dict(vq.config), "codes_sha256": codes},
    )


def digest_of(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return sha256_bytes(tensor.detach().cpu().contiguous().numpy().tobytes())
