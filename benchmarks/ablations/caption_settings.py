"""Captioning and text infilling under every way of decoding (open question 5 of the paper).

Captions are judged against the scene: CIDEr-D and BLEU-4 by the scene's own five captions, and
whether everything they claim is true and everything that is there is named. Of infilling two words
of a caption are hidden; asked is whether they come back, and whether the caption is true.

Shapes: N scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cm3leon import seeds
from cm3leon.decoding.config import DecodeConfig
from cm3leon.decoding.text import BeamConfig, TextDecode
from cm3leon.evaluation.text.caption_truth import judge_caption
from cm3leon.evaluation.text.captions import bleu, cider_d, tokens
from cm3leon.pipeline import System
from cm3leon.world.scenes import Scene, scene

HIDDEN = 2  # words of a caption
PLAIN = DecodeConfig(guidance=1.0, temperature=1.0, top_p=1.0)
GREEDY = replace(PLAIN, temperature=0.0)
GUIDED = replace(PLAIN, guidance=2.0)
CONTRAST = replace(PLAIN, strategy="contrast", alpha=0.3, k=4)


@dataclass(frozen=True)
class Way:
    """One way to decode text; question 5 asks about the families "guidance" and "cd-k"."""

    name: str
    family: str
    decode: DecodeConfig
    beam: BeamConfig | None = None

    @property
    def how(self) -> TextDecode:
        """As `System.caption` takes it."""
        return TextDecode(self.decode, self.beam)


def ways() -> list[Way]:
    """All ways; sampled ones draw once a scene."""
    found = [
        Way("greedy", "plain", GREEDY),
        Way("beam-5", "plain", GREEDY, BeamConfig(5)),
        Way("sampled", "plain", PLAIN),
        Way("top-p-0_8", "plain", replace(PLAIN, top_p=0.8)),
    ]
    for weight in (1.5, 3.0):
        name = f"guided-{weight:g}".replace(".", "_")
        decode = replace(GUIDED, guidance=weight)
        found.append(Way(f"{name}-greedy", "guidance", replace(decode, temperature=0.0)))
        found.append(Way(name, "guidance", decode))
    for k, alpha in ((1, 0.1), (2, 0.3), (4, 0.5)):
        name = f"cd-k{k}-a{alpha:g}".replace(".", "_")
        decode = replace(CONTRAST, k=k, alpha=alpha)
        found.append(Way(f"{name}-greedy", "cd-k", replace(decode, temperature=0.0)))
        found.append(Way(name, "cd-k", decode))
    return found


def best_of_each(scores: dict[str, float]) -> dict[str, str]:
    """Family -> its way with the highest score; of equal ones the first."""
    by_name = {way.name: way.family for way in ways()}
    best: dict[str, str] = {}
    for name, score in scores.items():
        family = by_name[name]
        if family not in best or score > scores[best[family]]:
            best[family] = name
    return best


@dataclass(frozen=True)
class Shown:
    """Scenes of a split, and one caption of each with two words hidden."""

    split: str
    scenes: Sequence[Scene]
    gapped: Sequence[str]
    hidden: Sequence[str]

    @property
    def images(self) -> np.ndarray:
        """Uint8 [N, H, W, 3]."""
        return np.stack([one.image for one in self.scenes])

    @property
    def seeds(self) -> list[int]:
        """One a scene."""
        return [seeds.derive(0, "caption", one.id) for one in self.scenes]


def shown(split: str, count: int) -> Shown:
    """The first scenes of a split of the `coco` dialect; which words are hidden is fixed."""
    scenes = [scene("coco", split, index) for index in range(count)]
    gapped, hidden = zip(*(hide(one) for one in scenes), strict=True)
    return Shown(split, scenes, gapped, hidden)


def hide(one: Scene) -> tuple[str, str]:
    """One of a scene's captions with `<mask>` for two neighbouring words, and these words."""
    generator = seeds.generator(0, "hidden words", one.id)
    words = one.captions[int(generator.integers(len(one.captions)))].split()
    start = int(generator.integers(max(1, len(words) - HIDDEN + 1)))
    gone = words[start : start + HIDDEN]
    return " ".join([*words[:start], "<mask>", *words[start + len(gone) :]]), " ".join(gone)


def captioned(system: System, asked: Shown, way: Way) -> dict[str, np.ndarray]:
    """Measure -> float64 [N] of the captions one way writes."""
    made = system.caption(asked.images, asked.seeds, way.how)
    split = [tokens(caption) for caption in made]
    references = [[tokens(caption) for caption in one.captions] for one in asked.scenes]
    verdicts = [judge_caption(text, one) for text, one in zip(made, asked.scenes, strict=True)]
    return {
        "cider": cider_d(split, references),
        "bleu4": bleu(split, references)[1][:, 3],
        "true": share(verdicts, lambda one: one["all"]),
        "exact": share(verdicts, lambda one: one["all"] and one["named"]),
        "words": np.array([len(words) for words in split], np.float64),
    }


def infilled(system: System, asked: Shown, way: Way) -> dict[str, np.ndarray]:
    """Measure -> float64 [N] of hidden words one way fills in, seeing the picture."""
    made = system.infill_text(asked.gapped, asked.images, asked.seeds, way.how)
    verdicts = [judge_caption(text, one) for text, one in zip(made, asked.scenes, strict=True)]
    wanted = [
        gap.replace("<mask>", words) for gap, words in zip(asked.gapped, asked.hidden, strict=True)
    ]
    same = [tokens(one) == tokens(other) for one, other in zip(made, wanted, strict=True)]
    return {
        "infilled": np.array(same, np.float64),
        "infilled_true": share(verdicts, lambda one: one["all"]),
    }


def share(verdicts: Sequence[dict], right: Callable[[dict], bool]) -> np.ndarray:
    """1 where a verdict is right, 0 where not."""
    return np.array([bool(right(one)) for one in verdicts], np.float64)
