"""Recipes of the two tokenizers: byte-level BPE of the captions, VQ of the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from baselines.corpus import texts
from cm3leon import seeds
from cm3leon.config import TrainConfig, VQConfig
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq_loss import VQLossConfig
from cm3leon.training.image_tokenizer import Pictures, VQRecipe, train_image_tokenizer
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
MERGE_PICTURES = 4_000  # over which the codes' use is counted, those of the first steps
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


def picture_batch(step: int, batch: int, order: tuple[str, ...] = SHOWN) -> np.ndarray:
    """Pictures of one step, uint8 [B,64,64,3]."""
    return np.stack([shown((step - 1) * batch + k, order) for k in range(batch)])


def held_out_pictures(count: int = HELD_OUT) -> np.ndarray:
    """The first pictures of `stock`, `val`: uint8 [count,64,64,3]."""
    return np.stack([scene("stock", "val", index).image for index in range(count)])


def counted() -> Iterator[np.ndarray]:
    """The first pictures of the training, over which the codes' use is counted."""
    for start in range(0, MERGE_PICTURES, 100):
        yield np.stack([shown(start + k) for k in range(100)])


def train_vq(run: Path, folder: Path, device: str, config: TrainConfig = VQ_TRAIN) -> None:
    """Train the image tokenizer in `run` and save it to `folder`."""
    last, held_out = lambda *of: picture_batch(*of, SHOWN_LAST), lambda: held_out_pictures()
    pictures = Pictures(picture_batch, last, counted, held_out, about={})
    recipe = VQRecipe(VQ_SHAPE, VQ_LOSS, config, VQ_DECODER, MERGE_RADIUS)
    train_image_tokenizer(recipe, pictures, run, folder, device, None)
