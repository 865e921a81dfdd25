"""Caption metrics: by hand, laws, and the reference implementation where it is installed."""

import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest

from cm3leon.errors import UserError
from cm3leon.evaluation.text.captions import bleu, cider_d, longest_common, rouge_l, tokens
from cm3leon.evaluation.text.ptb import DROPPED

MINI = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco-mini"
TEXT = "a red blue star ring on the sand grass two small large next to of"
WORDS = re.findall("[a-z]+", TEXT)


def corpus(images: int, seed: int = 0) -> tuple[list, list]:
    """Random candidates and one to five references each, with words in common."""
    dice = random.Random(seed)

    def sentence(low: int = 1):
        return [dice.choice(WORDS) for _ in range(dice.randint(low, 12))]

    candidates = [sentence(0) for _ in range(images)]
    references = [[sentence() for _ in range(dice.randint(1, 5))] for _ in range(images)]
    for row in range(0, images, 3):  # some candidates are nearly right
        candidates[row] = [*references[row][0], *candidates[row][:1]]
    return candidates, references


def test_tokens():
    assert tokens("A man isn't riding, he's on a T-shirt.") == [
        "a", "man", "is", "n't", "riding", "he", "'s", "on", "a", "t-shirt",
    ]  # fmt: skip
    assert tokens('"Two" (2) dogs; 1,000 birds -- wow!...') == [
        "two", "-lrb-", "2", "-rrb-", "dogs", "1,000", "birds", "wow",
    ]  # fmt: skip
    assert tokens("") == tokens(" . ") == []


OWN = ("10AM to 5PM 10A.M.", "(555) 555-1234 555-1234")  # known to differ: a time, a telephone
ROWS = [
    line.split("\t")
    for line in Path(__file__).with_name("ptb_captions.tsv").read_text("utf-8").split("\n")[:-1]
]


def test_tokens_are_the_jar_s():
    """What Stanford's jar made of 273 captions, without the punctuation that coco-caption drops."""
    found = {caption: tokens(caption) for caption, _ in ROWS}
    wanted = {
        caption: [one for one in told.split() if one not in DROPPED] for caption, told in ROWS
    }
    assert [one for one in wanted if found[one] != wanted[one]] == list(OWN)
    assert len(wanted) == 273


def test_scores_of_number_heavy_captions_are_the_official_ones():
    """coco-caption with Java, on the same strings: BLEU-4 0.5902, CIDEr 2.9837."""
    candidates = [
        "a bus on 20th street",
        "a woman in her 30s holding a 12-pack",
        "a clock tower that reads 12:30",
        "a 10-speed bike",
        "the man\u2019s dog isn\u2019t here",
    ]
    references = [
        ["a bus on 21st street", "a bus parked on 20th avenue"],
        ["a woman in her 30s with a 12-pack of soda", "a lady"],
        ["the clock reads 12:35", "a tower with a clock"],
        ["a 10-speed bicycle against a wall", "a bike"],
        ["the man's dog isn't here", "a dog is gone"],
    ]
    ours = [tokens(one) for one in candidates]
    theirs = [[tokens(one) for one in own] for own in references]
    assert bleu(ours, theirs)[0][3] == pytest.approx(0.5902, abs=5e-5)
    assert cider_d(ours, theirs).mean() == pytest.approx(2.9837, abs=5e-5)


@pytest.mark.parametrize("score", [bleu, rouge_l, cider_d])
def test_strings_are_not_scored_letter_by_letter(score):
    words = ["a", "dog"]
    for candidates, references in (
        (["a dog", words], [[words], [words]]),
        ([words, words], [["a dog"], [words]]),
        ([words, words], ["a dog", [words]]),
    ):
        with pytest.raises(UserError, match=r"image 0: captions are lists of tokens, got a string"):
            score(candidates, references)
    with pytest.raises(UserError, match="a caption must be text, got list"):
        tokens(words)


def test_a_candidate_equal_to_its_only_reference():
    """CIDEr-D 10, BLEU 1, ROUGE-L 1, where no n-gram is shared between images."""
    sentences = [list("abcd"), list("efghi")]
    references = [[one] for one in sentences]
    np.testing.assert_allclose(cider_d(sentences, references), [10, 10])
    np.testing.assert_allclose(rouge_l(sentences, references), [1, 1])
    whole, each = bleu(sentences, references)
    np.testing.assert_allclose(whole, 1, rtol=1e-6)
    np.testing.assert_allclose(each, 1, rtol=1e-6)
    assert cider_d([[], ["e"]], references)[0] == 0
    assert rouge_l([[], ["x"]], references).tolist() == [0, 0]


def test_by_hand():
    """Candidate "the cat", reference "the cat sat": BLEU-1 e^(1 - 3/2); LCS 2 of 2 and of 3."""
    whole, _ = bleu([["the", "cat"]], [[["the", "cat", "sat"]]])
    assert whole[0] == pytest.approx(math.exp(-0.5))
    recall, precision = 2 / 3, 1.0
    wanted = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l([["the", "cat"]], [[["the", "cat", "sat"]]])[0] == pytest.approx(wanted)
    assert longest_common("abcbdab", "bdcaba") == 4


def test_words_repeated_are_clipped():
    references = [[["a", "star"]], [["b", "ring"]]]
    honest, stuffed = (
        cider_d([["a", "star"], ["b"]], references),
        cider_d([["a", "star", "star", "star"], ["b"]], references),
    )
    assert stuffed[0] < honest[0]


def test_order_of_images_and_references_does_not_matter():
    candidates, references = corpus(30)
    order = list(range(30))
    random.Random(1).shuffle(order)
    mixed = [candidates[k] for k in order], [references[k][::-1] for k in order]
    for metric in (cider_d, rouge_l):
        np.testing.assert_allclose(metric(*mixed), metric(candidates, references)[order])
    np.testing.assert_allclose(bleu(*mixed)[0], bleu(candidates, references)[0])


def reference_scores(candidates, references):
    """coco-caption's own numbers on the same tokens."""
    ciders = pytest.importorskip("pycocoevalcap.cider.cider")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    made = {row: [" ".join(one)] for row, one in enumerate(candidates)}
    true = {row: [" ".join(one) for one in own] for row, own in enumerate(references)}
    return {
        "cider": ciders.Cider().compute_score(true, made)[1],
        "bleu": Bleu(4).compute_score(true, made, verbose=0),
        "rouge": Rouge().compute_score(true, made)[1],
    }


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_reference_implementation(seed):
    candidates, references = corpus(40, seed)
    candidates = [one or ["nothing"] for one in candidates]  # it fails on empty ones
    wanted = reference_scores(candidates, references)
    np.testing.assert_allclose(cider_d(candidates, references), wanted["cider"], atol=1e-6)
    np.testing.assert_allclose(rouge_l(candidates, references), wanted["rouge"], atol=1e-9)
    whole, each = bleu(candidates, references)
    np.testing.assert_allclose(whole, wanted["bleu"][0], atol=1e-9)
    np.testing.assert_allclose(each.T, wanted["bleu"][1], atol=1e-9)


def test_real_captions_against_their_own_references():
    """A person's caption beats a caption of another picture, by every metric."""
    files = sorted(MINI.glob("annotations/captions*.json"))
    if not files:
        pytest.skip("no MS-COCO sample here")
    by_image: dict[int, list] = {}
    for one in json.loads(files[0].read_text())["annotations"]:
        by_image.setdefault(one["image_id"], []).append(tokens(one["caption"]))
    groups = [own for own in by_image.values() if len(own) >= 2]
    own = [group[0] for group in groups]
    others, rest = own[1:] + own[:1], [group[1:] for group in groups]
    for metric in (cider_d, rouge_l):
        assert metric(own, rest).mean() > 2 * metric(others, rest).mean()
    assert bleu(own, rest)[0][3] > 2 * bleu(others, rest)[0][3]


def test_bad_input():
    with pytest.raises(UserError, match="got 1 candidates and 2 images"):
        cider_d([["a"]], [[["a"]], [["b"]]])
    with pytest.raises(UserError, match="got 0 candidates"):
        bleu([], [])
    with pytest.raises(UserError, match="image 0 has no reference caption; leave it out"):
        rouge_l([["a"]], [[]])
