"""The only place where the guards (`test_*.py` beside it) know where things lie: names of today's
modules and options. What moves is followed here, and what the guards keep stays equal.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines import clip as clip_recipe
from baselines import features as feature_recipe
from baselines import tokenizers
from benchmarks import (
    ablate_decoding,
    ablate_retrieval,
    choose_decoding,
    equal_compute,
    fid_coco,
)
from benchmarks.ablations import decoding_settings
from benchmarks.evaluate import codes as codes_bench
from benchmarks.evaluate import pinned, scenes_fid
from cm3leon.cli.main import main
from cm3leon.clip import load_clip
from cm3leon.config import VQConfig
from cm3leon.decoding.config import GREEDY, EditGuidance
from cm3leon.decoding.image_infill import InfillConfig, hidden_by_box
from cm3leon.decoding.rerank import Reranked
from cm3leon.decoding.text import BeamConfig, TextDecode
from cm3leon.engine import cpu_sample, rule, torch_step
from cm3leon.evaluation.features.network import extract, load_features
from cm3leon.evaluation.metrics import fid, impossible
from cm3leon.loading import load_system
from cm3leon.pipeline import System
from cm3leon.seeds import torch_default
from cm3leon.tokenizers.folder import save_tokenizer
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.tokenizers.vq import VQ
from cm3leon.training import image_tokenizer
from cm3leon.world.scenes import scene
from tests.benchmarks.test_equal_compute import pair
from tests.benchmarks.test_fid_coco import write_all_baselines
from tests.coco_maker import stub_features, write_coco
from tests.retrieval.test_retriever import add_bank
from tests.test_pipeline import write_tiny_baselines

SHAKE = 4e-7  # relative noise on weights: a few times what float32 rounds


load = lru_cache(load_system)


def shipped(name: str, **retrieval) -> System:
    """A shipped system, with another number of documents or another strategy of retrieval."""
    system = load(name)
    if not retrieval:
        return system
    return system.with_retrieval(replace(system.retriever.config, **retrieval))


def prompts(split: str, count: int = 2) -> list[str]:
    """The first captions of a split of the embedded world."""
    return [scene("coco", split, index).captions[0] for index in range(count)]


def pictures(split: str, count: int = 2) -> np.ndarray:
    """Its first pictures, uint8 [B, 64, 64, 3]."""
    return np.stack([scene("coco", split, index).image for index in range(count)])


def draw(system: System, captions: Sequence[str], seeds: Sequence[int], **decode) -> list[str]:
    """The codes drawn, a line a caption; `decode` changes the system's own settings."""
    system = system.with_decode(replace(system.decode, **decode))
    return lines(system.draw_with_codes(captions, seeds)[1])


def best_drawn(system: System, captions: Sequence[str], seeds: Sequence[int], samples: int):
    """Which of several samples of a caption the shipped CLIP keeps."""
    best = Reranked(system, load_clip("scenes"), samples)
    drawn_BHW3, pool_BKHW3 = best.draw(captions, seeds), best.pool(captions, seeds)
    apart_BK = np.abs(pool_BKHW3.astype(int) - drawn_BHW3[:, None]).sum((2, 3, 4))
    return apart_BK.argmin(1).tolist()


def caption(system: System, images: np.ndarray, seeds, beam=None, documents=0, **decode):
    """What the pictures show: greedy, sampled under `decode`, or by a beam search."""
    return system.caption(images, seeds, how(beam, decode), documents)


def fill_text(system: System, texts: Sequence[str], images, seeds, beam=None, **decode):
    """Texts with every <mask> filled in."""
    return system.infill_text(texts, images, seeds, how(beam, decode))


def how(beam: dict | None, decode: dict) -> TextDecode:
    """How text is chosen."""
    beam = None if beam is None else BeamConfig(**beam)
    return TextDecode(replace(GREEDY, **decode), beam)


def fill_box(system: System, images, captions, seeds, box, method="forward", tries=1, edit=None,
             **decode) -> list[str]:  # fmt: skip
    """The pictures' codes, those that a box of pixels touches drawn anew."""
    hidden = np.stack([hidden_by_box(box, system.size, system.vq.config.grid)] * len(images))
    edit = None if edit is None else EditGuidance(**edit)
    system = system.with_decode(replace(system.decode, **decode))
    codes = system.infill_image(images, hidden, captions, seeds, InfillConfig(method, edit, tries))
    return lines(codes.numpy())


def lines(codes_BN: np.ndarray) -> list[str]:
    """Codes as text, a line a picture."""
    return [" ".join(map(str, codes)) for codes in codes_BN.tolist()]


def codes(system: System, images: np.ndarray) -> list[str]:
    """The codes of pictures, a line a picture."""
    return lines(system.encode(images).numpy())


# Ways to take a step that differ by rounding --------------------------------------------------


@contextmanager
def one_way(compiled: bool, threads: int) -> Iterator[None]:
    """Steps and draws by the rule, which is C, or by torch, on so many threads."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(rule, "find", lambda *_: "torch")
            patch.setattr(cpu_sample, "draw", lambda *_, **__: None)
            patch.setattr(torch_step, "rule", lambda *_: torch_step.plain)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def shaken(system: System, seed: int) -> System:
    """The system with a little noise on the weights of transformer and CLIP: another machine's
    rounding, and more.
    """
    generator = torch.Generator().manual_seed(seed)

    def moved(module):
        module = copy.deepcopy(module)
        with torch.no_grad():
            for weight in module.parameters():
                weight *= 1 + SHAKE * torch.randn(weight.shape, generator=generator)
        return module

    system = replace(system, model=moved(system.model))
    if system.retriever is None:
        return system
    clip = copy.copy(system.retriever.clip)
    object.__setattr__(clip, "model", moved(clip.model))
    return replace(system, retriever=replace(system.retriever, clip=clip))


# Benchmarks ------------------------------------------------------------------------------------


def write_home(folder: Path) -> Path:
    """Baselines of random weights: `scenes-s` with a memory bank, `scenes-xs` without, tokenizers,
    CLIP and feature network; the same on every machine, whatever is shipped.
    """
    write_all_baselines(folder)
    with torch_default(0, "guard"):
        add_bank(folder / "scenes" / "scenes-s", 24)
    write_tiny_baselines(folder, "scenes-xs")
    return folder


def small_runs(patch: pytest.MonkeyPatch) -> None:
    """What has no option of its own and would take a small run minutes; no tables and plots."""
    for bench in (
        ablate_decoding,
        ablate_retrieval,
        choose_decoding,
        equal_compute,
        fid_coco,
    ):
        patch.setattr(bench, "report", lambda *_: None)
    patch.setattr(scenes_fid, "columns_of", lambda vq: impossible.columns_of(vq, 100))
    patch.setattr(ablate_retrieval, "REFERENCE", 12)
    patch.setattr(ablate_decoding, "REFERENCE", 12)
    patch.setattr(decoding_settings, "QUICK", PLAN)
    patch.setattr(pinned, "load_features", stub_features)
    patch.setattr(fid, "SIZES", ())


PLAN = decoding_settings.Plan(
    weights=(1.0, 2.0), weight_prompts=4, ks=(2,), alphas=(0.5,), temperatures=(0.6,),
    masses=(0.9, 1.0), cell_prompts=4, pool_prompts=4, pool_samples=2, captions=3,
)  # fmt: skip


def run_bench(name: str, arguments: Sequence[str]) -> int:
    """`python -m benchmarks.NAME ARGUMENTS` in this process: its exit code."""
    return importlib.import_module(f"benchmarks.{name}").main(list(arguments))


def codes_table(n: int, read: int) -> None:
    """What `python -m benchmarks.evaluate.codes` prints."""
    assert codes_bench.run(codes_bench.Options(n=n, read=read)) == 0


def write_twins(folder: Path) -> None:
    """Records of three systems, for equal_compute."""
    pair(folder)


def write_coco_files(folder: Path) -> None:
    """Generated files of MS-COCO's layout."""
    write_coco(folder)


def features(images: np.ndarray) -> np.ndarray:
    """Features of pictures by the shipped network, float [B, D]."""
    return extract(load_features("scenes"), [images], len(images), "features")


# Trainings -------------------------------------------------------------------------------------


def command(*words: str) -> int:
    """`cm3leon WORDS` in this process: its exit code."""
    return main(list(words))


def write_image_tokenizer(home: Path) -> None:
    """An image tokenizer of random weights in `home`/vq: 32 pixels, 4 x 4 of 64 codes."""
    config = VQConfig(
        resolution=32, channels=8, multipliers=(1, 1, 1, 1), attention=(), z_channels=8,
        codebook_size=64, code_dim=8,
    )  # fmt: skip
    with torch_default(0, "guard", "vq"):
        save_tokenizer(home / "vq", config, VQ(config).state_dict(), {"licence": "none"})


def text_ids(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """Texts as the ids of a tokenizer."""
    tokenizer = TextTokenizer.load(folder)
    return [list(tokenizer.encode(text)) for text in texts]


def train_part(part: str, folder: Path) -> list[Path]:
    """A few steps of the recipe of a shipped part in small; the folders of its logs."""
    run, few = folder / "run", {"save_every": 100, "eval_every": 10, "log_every": 2}
    with pytest.MonkeyPatch.context() as patch:
        if part == "vq":
            loss = replace(tokenizers.VQ_LOSS, plain_steps=6, freeze_step=16)
            patch.setattr(tokenizers, "VQ_LOSS", loss)
            patch.setattr(tokenizers, "MERGE_PICTURES", 100)
            held_out = tokenizers.held_out_pictures
            patch.setattr(tokenizers, "held_out_pictures", lambda: held_out(8))
            last = replace(tokenizers.VQ_DECODER, steps=4, batch=4, warmup=2, **few)
            patch.setattr(tokenizers, "VQ_DECODER", last)
            config = replace(tokenizers.VQ_TRAIN, steps=20, batch=4, warmup=4, **few)
            tokenizers.train_vq(run, folder / "vq", "cpu", config)
            return [run, run / image_tokenizer.DECODER_FOLDER]
        few |= {"precision": "float32"}
        if part == "features":
            config = replace(feature_recipe.TRAIN, steps=10, batch=4, warmup=4, **few)
            feature_recipe.train_features(run, folder / "features", "cpu", config)
            return [run]
        shape = replace(clip_recipe.CLIP_SHAPE, width=16, heads=2, image_layers=1, text_layers=1)
        patch.setattr(clip_recipe, "CLIP_SHAPE", replace(shape, text_size=300))
        patch.setattr(clip_recipe, "TEXT_PICTURES", 60)
        patch.setattr(clip_recipe, "HELD_OUT", 12)
        first = replace(clip_recipe.FIRST, steps=10, batch=6, warmup=3, **few)
        second = replace(clip_recipe.SECOND, steps=10, batch=6, warmup=3, **few)
        clip_recipe.train_clip(run, folder, "cpu", first, second)
        return [run, run.with_name(f"{run.name}-documents")]
