"""Ways to write captions, hidden words, and what a perfect or a foolish writer scores."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.ablations.caption_settings import (
    HIDDEN,
    best_of_each,
    captioned,
    infilled,
    shown,
    ways,
)

ASKED = shown("val", 12)


def writer(captions, filled):
    return SimpleNamespace(
        caption=lambda images, seeds, how: captions,
        infill_text=lambda gapped, images, seeds, how: filled,
    )


def test_two_words_are_hidden_and_known():
    for gapped, hidden, one in zip(ASKED.gapped, ASKED.hidden, ASKED.scenes, strict=True):
        assert gapped.count("<mask>") == 1 and len(hidden.split()) == HIDDEN
        assert gapped.replace("<mask>", hidden) in {" ".join(c.split()) for c in one.captions}
    again = shown("val", 12)
    assert again.gapped == ASKED.gapped and again.seeds == ASKED.seeds
    assert len(set(ASKED.seeds)) == 12


def test_the_truth_scores_best():
    truth = [one.captions[0] for one in ASKED.scenes]
    filled = [g.replace("<mask>", h) for g, h in zip(ASKED.gapped, ASKED.hidden, strict=True)]
    way = ways()[0]
    good = captioned(writer(truth, filled), ASKED, way)
    bad = captioned(writer(["nothing at all"] * 12, filled), ASKED, way)
    assert good["true"].mean() == 1 and bad["true"].mean() == 0
    assert good["cider"].mean() > 1 > bad["cider"].mean()
    assert infilled(writer(truth, filled), ASKED, way)["infilled"].mean() == 1
    wrong = [gapped.replace("<mask>", "green green") for gapped in ASKED.gapped]
    assert infilled(writer(truth, wrong), ASKED, way)["infilled"].mean() < 0.2


def test_ways_have_names_and_families():
    names = [way.name for way in ways()]
    assert len(set(names)) == len(names) and not any("." in name for name in names)
    assert {way.family for way in ways()} == {"plain", "guidance", "cd-k"}


def test_the_best_of_each_family():
    scores = {way.name: 0.0 for way in ways()} | {"beam-5": 2.0, "guided-3": 1.0}
    best = best_of_each(scores)
    assert best["plain"] == "beam-5" and best["guidance"] == "guided-3"
    assert best["cd-k"] == next(way.name for way in ways() if way.family == "cd-k")


@pytest.mark.parametrize("measure", ["cider", "bleu4", "true", "exact", "words"])
def test_every_measure_has_a_number_a_scene(measure):
    truth = [one.captions[1] for one in ASKED.scenes]
    found = captioned(writer(truth, truth), ASKED, ways()[0])[measure]
    assert found.shape == (12,) and np.isfinite(found).all()
