"""What the shipped baselines draw and write, code by code, as kept in goldens/draws.json.

In float32 on a CPU. Ways of computing differ by rounding, which can move a token that a uniform
all but touches; kept are draws that none of the ways moves, nor noise on all weights a few times
what float32 rounds, so that they are equal on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.guard import entry_points as at

SEEDS = 8  # tried for draws that no rounding moves
WAYS = [(True, 1), (True, 2), (False, 1), (False, 2)]  # (C or torch, threads)
SHAKES = 2

PLAIN = {"guidance": 1.0, "temperature": 1.0}
CDK = {"strategy": "contrast", "temperature": 1.0}
STRATEGIES = {
    "own": {},
    "plain": PLAIN,
    "most-likely": {"guidance": 1.0, "temperature": 0.0},
    "most-likely-guided": {"guidance": 3.0, "temperature": 0.0},
    "temperature-0.5": {"guidance": 1.0, "temperature": 0.5},
    "top-p-0.8": PLAIN | {"top_p": 0.8},
    "top-k-12": PLAIN | {"top_k": 12},
    "top-k-top-p": {"guidance": 1.5, "temperature": 0.9, "top_k": 20, "top_p": 0.9},
    "guidance-0": {"guidance": 0.0},
    "guidance-3-mask": {"guidance": 3.0, "temperature": 1.0, "unconditional": "mask"},
    "guidance-3-drop": {"guidance": 3.0, "temperature": 1.0, "unconditional": "drop"},
    "guidance-3-bare": {"guidance": 3.0, "temperature": 1.0, "unconditional": "bare"},
    "contrastive": CDK | {"k": 1, "alpha": 0.1},
    "cd-k": CDK | {"k": 8, "alpha": 0.5},
    "cd-k-amateur": CDK | {"k": 8, "alpha": 0.5, "amateur_temperature": 0.7},
    "cd-k-guided-expert": CDK | {"k": 4, "alpha": 0.3, "guided_expert": True, "guidance": 2.0},
    "cd-k-top-p": CDK | {"k": 16, "alpha": 0.3, "top_p": 0.8},
}
DRAWS = {f"xs-{name}": ("scenes-xs", {}, decode) for name, decode in STRATEGIES.items()}
DRAWS |= {
    f"documents{count}-{name}": ("scenes-s", {"documents": count}, STRATEGIES[name])
    for count in (0, 1, 2)
    for name in ("own", "plain", "guidance-3-mask", "guidance-3-bare", "cd-k")
}
DRAWS |= {
    f"documents2-{modality}": ("scenes-s", {"documents": 2, "modality": modality}, {})
    for modality in ("text", "image")
}


def check(golden, system, draw: Callable) -> None:
    """Fail unless `draw(system, seed)` gives what is kept, with the seed kept beside it."""
    if golden.writes:
        golden.write(sure(system, draw))
    kept = golden.wanted
    assert draw(system, kept["seed"]) == kept["drawn"]


def sure(system, draw: Callable) -> dict:
    """The first seed whose draws no way of computing moves, and the draws."""
    shakes = [at.shaken(system, shake) for shake in range(SHAKES)]

    def moved(drawn, seed: int) -> bool:
        if any(draw(one, seed) != drawn for one in shakes):
            return True
        for way in WAYS:
            with at.one_way(*way):
                if draw(system, seed) != drawn:
                    return True
        return False

    for seed in range(SEEDS):
        drawn = draw(system, seed)
        if not moved(drawn, seed):
            return {"seed": seed, "drawn": drawn}
    pytest.fail(f"rounding moves the draws of all of {SEEDS} seeds")


@pytest.mark.parametrize("case", DRAWS)
def test_codes_drawn(case, golden):
    name, retrieval, decode = DRAWS[case]
    captions = at.prompts("tail" if retrieval.get("documents") else "natural")

    def draw(system, seed):
        return at.draw(system, captions, [seed, seed + 100], **decode)

    check(golden, at.shipped(name, **retrieval), draw)


def test_the_best_of_several_samples(golden):
    captions = at.prompts("test")
    check(
        golden, at.shipped("scenes-xs"),
        lambda system, seed: at.best_drawn(system, captions, [seed, seed + 100], 3),
    )  # fmt: skip


SAMPLED = {"temperature": 0.9, "top_p": 0.95}
CAPTIONS = {
    "greedy": {},
    "sampled": SAMPLED,
    "guided": SAMPLED | {"guidance": 2.0},
    "cd-k": {"strategy": "contrast", "temperature": 1.0, "k": 4, "alpha": 0.2},
    "beam": {"beam": {"width": 3}},
    "beam-mean": {"beam": {"width": 2, "penalty": "mean"}},
}


@pytest.mark.parametrize("case", CAPTIONS)
def test_captions_written(case, golden):
    images, settings = at.pictures("natural", 3), CAPTIONS[case]

    def write(system, seed):
        return at.caption(system, images, [seed, seed + 100, seed + 200], **settings)

    check(golden, at.shipped("scenes-xs" if case != "greedy" else "scenes-s"), write)


@pytest.mark.parametrize("documents", [0, 1, 2])
def test_captions_written_with_documents(documents, golden):
    images = at.pictures("tail")

    def write(system, seed):
        return at.caption(system, images, [seed, seed + 100], documents=documents, **SAMPLED)

    check(golden, at.shipped("scenes-s"), write)


GAPS = ["a <mask> on the sand", "<mask> red <mask>"]
TEXTS = {"greedy": {}, "guided": SAMPLED | {"guidance": 1.5}, "beam": {"beam": {"width": 3}}}


@pytest.mark.parametrize("seen", [True, False], ids=["picture", "text-alone"])
@pytest.mark.parametrize("case", TEXTS)
def test_texts_filled(case, seen, golden):
    images = at.pictures("test") if seen else None

    def fill(system, seed):
        return at.fill_text(system, GAPS, images, [seed, seed + 100], **TEXTS[case])

    check(golden, at.shipped("scenes-xs"), fill)


CAPTION = ["a blue star on the sand", "two green circles in the snow"]
BOXES = {
    "forward": {},
    "forward-tries": {"tries": 3},
    "span": {"method": "span"},
    "spans": {"method": "spans"},
    "no-caption": {"captions": [None, None]},
    "one-caption": {"captions": [CAPTION[0], None], "tries": 2},
    "two-weights": {"edit": {"image": 1.2, "text": 2.0}},
    "cd-k": CDK | {"k": 8, "alpha": 0.5},
    "plain": PLAIN,
}


@pytest.mark.parametrize("case", BOXES)
def test_boxes_filled(case, golden):
    images, settings = at.pictures("test"), {"captions": CAPTION} | BOXES[case]

    def fill(system, seed):
        return at.fill_box(
            system, images, seeds=[seed, seed + 100], box=(8, 16, 40, 56), **settings
        )

    check(golden, at.shipped("scenes-xs"), fill)


def test_a_box_filled_with_documents(golden):
    images, captions = at.pictures("tail"), at.prompts("tail")

    def fill(system, seed):
        return at.fill_box(system, images, captions, [seed, seed + 100], (16, 16, 56, 56))

    check(golden, at.shipped("scenes-s"), fill)


def test_pictures_read_as_codes(golden):
    images = at.pictures("natural", 4)
    check(golden, at.shipped("scenes-xs"), lambda system, _: at.codes(system, images))
