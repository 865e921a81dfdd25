"""Scores of tasks: against official code (pycocotools, torch), closed forms, and laws."""

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.evaluation.tasks.average_precision import (
    Detection,
    average_precision,
    iou,
    iou_recall,
    matches,
)
from cm3leon.evaluation.tasks.clip_edit import clip_direction, clip_similarity
from cm3leon.evaluation.tasks.depth_rmse import depth_rmse
from cm3leon.evaluation.tasks.edge_f1 import edge_f1
from cm3leon.evaluation.tasks.edit_pixels import l1, l2, psnr, squared_error
from cm3leon.evaluation.tasks.letters import edit_distance, letters_right
from cm3leon.evaluation.tasks.mean_iou import confusion, mean_iou, pixel_accuracy
from cm3leon.evaluation.tasks.ms_ssim import ms_ssim
from cm3leon.evaluation.tasks.ndcg import ndcg
from cm3leon.evaluation.tasks.oks import SIGMAS, oks
from cm3leon.evaluation.tasks.scienceqa_accuracy import letter_of, scienceqa_accuracy
from cm3leon.evaluation.tasks.vqa_accuracy import normalised, vqa_accuracy

RANDOM = np.random.default_rng(0)


# ---- answers
@pytest.mark.parametrize(("same", "wanted"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1)])
def test_vqa_accuracy_by_how_many_humans_agree(same, wanted):
    humans = ["yes"] * same + [f"no {k}" for k in range(10 - same)]
    assert vqa_accuracy("yes", humans) == pytest.approx(wanted)


def test_vqa_accuracy_of_one_mind_is_letter_by_letter():
    """The script normalises only where humans disagree."""
    assert vqa_accuracy("The dog", ["dog"] * 10) == 0
    assert vqa_accuracy("The dog", ["dog"] * 9 + ["a cat"]) == 1
    assert vqa_accuracy(" dog\n", ["dog"] * 10) == 1
    for humans in (["dog"], "dog"):
        with pytest.raises(UserError, match="two humans or more"):
            vqa_accuracy("dog", humans)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("Two dogs", "2 dogs"),
        ("none", "0"),
        ("a cat, an owl", "cat owl"),  # a comma at a space goes
        ("black/white", "black white"),  # inside a word it is a space
        ("1,000", "1000"),  # between digits it goes, and with it every mark
        ("t-shirt 1,000", "tshirt 1000"),
        ("10.5 m.", "10.5 m"),
        ("5.", "5"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("yall'd've", "y'all'd've"),
        ("what?", "what"),
    ],
)
def test_answers_are_normalised_as_the_official_script_has_it(answer, wanted):
    assert normalised(answer) == wanted


def test_ndcg():
    assert ndcg([3, 2, 1], [1, 0.5, 0]) == pytest.approx(1)
    assert ndcg([2, 3], [1, 0.5]) == pytest.approx(
        (0.5 + 1 / math.log2(3)) / (1 + 0.5 / math.log2(3))
    )
    assert ndcg([1, 2, 3], [1, 0, 0]) == 0  # K = 1: the first of the ranking alone counts
    for scores, relevance in (([1], [0]), ([1, 2], [1]), ([math.nan], [1]), ([1], [-1])):
        with pytest.raises(UserError, match="NDCG needs"):
            ndcg(scores, relevance)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.randoms())
def test_no_ranking_is_better_than_by_relevance(relevance, random):
    relevance = [*relevance, 1.0]
    scores = list(range(len(relevance)))
    random.shuffle(scores)
    assert -1e-9 <= ndcg(scores, relevance) <= 1 + 1e-9
    assert ndcg(relevance, relevance) == pytest.approx(1)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("(B)", "B"), ("B", "B"), ("B.", "B"), ("it is red, so. So the answer is (C)", "C"),
        ("the answer is A or the answer is D.", "D"), ("blue", None), ("the answer is Any", None),
    ],
)  # fmt: skip
def test_the_letter_of_a_choice(answer, letter):
    assert letter_of(answer) == letter
    assert scienceqa_accuracy(answer, "(B)") == (letter == "B")


# ---- boxes
def random_pictures(count):
    pictures = []
    for _ in range(count):
        true, found = [], []
        for name in ("star", "cross", "none"):
            for _ in range(RANDOM.integers(0, 4)):
                x, y, w, h = RANDOM.integers(1, 30, 4).tolist()
                if name != "none":
                    true.append((name, (x, y, x + w, y + h)))
                shift = RANDOM.integers(-3, 4, 4)
                box = np.array([x, y, x + w, y + h]) + shift
                if RANDOM.random() < 0.8 and box[2] > box[0] and box[3] > box[1]:
                    score = float(RANDOM.integers(0, 5) / 5)  # ties are common
                    found.append(Detection(name, tuple(box.tolist()), score))
        pictures.append((found, true))
    return pictures


def official(pictures):
    """AP and AP50 by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    names = ["star", "cross", "none"]
    truth = {
        "images": [{"id": k + 1} for k in range(len(pictures))],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
        "annotations": [],
    }
    results = []
    for at, (found, true) in enumerate(pictures, 1):
        for name, (x0, y0, x1, y1) in true:
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": at, "iscrowd": 0,
                 "category_id": names.index(name) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
                 "area": (x1 - x0) * (y1 - y0)}
            )  # fmt: skip
        for name, (x0, y0, x1, y1), score in found:
            results.append({"image_id": at, "category_id": names.index(name) + 1, "score": score,
                            "bbox": [x0, y0, x1 - x0, y1 - y0]})  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:2]


@pytest.mark.parametrize("count", [1, 5, 40])
def test_average_precision_is_pycocotools(count):
    pictures = random_pictures(count)
    ours = average_precision([matches(found, true) for found, true in pictures])
    assert ours == pytest.approx(tuple(official(pictures)), abs=1e-9)


def test_boxes():
    box = (0, 0, 4, 4)
    assert iou(box, box) == 1 and iou(box, (4, 0, 8, 4)) == 0 and iou(box, (0, 0, 2, 4)) == 0.5
    found, true = [Detection("a", box, 1.0)], [("a", box), ("b", box)]
    assert average_precision([matches(found, true)]) == (0.5, 0.5)
    assert iou_recall(found, true) == 0.5 and math.isnan(iou_recall(found, []))
    assert math.isnan(average_precision([matches(found, [])])[0])


def test_oks_is_pycocotools():
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    true = np.column_stack([RANDOM.uniform(0, 50, (17, 2)), [2, 1, 0] * 5 + [2, 0]])
    found = true + np.column_stack([RANDOM.normal(0, 3, (17, 2)), np.zeros(17)])
    points = [float(one) for one in true.ravel()]
    area = 900.0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": 1}], "categories": [{"id": 1, "name": "person"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": area,
                             "bbox": [0, 0, 50, 50], "keypoints": points,
                             "num_keypoints": int((true[:, 2] > 0).sum())}],
        }  # fmt: skip
        coco.createIndex()
        result = {"image_id": 1, "category_id": 1, "score": 1.0,
                  "keypoints": [float(one) for one in found.ravel()]}  # fmt: skip
        evaluation = COCOeval(coco, coco.loadRes([result]), "keypoints")
        evaluation.evaluate()
    ((wanted,),) = evaluation.ious[1, 1]
    assert oks(true, found[:, :2], area) == pytest.approx(wanted, rel=1e-12)
    assert oks(true, true[:, :2], area) == 1 and len(SIGMAS) == 17
    with pytest.raises(UserError, match="a labelled point"):
        oks(true * [1, 1, 0], found[:, :2], area)


# ---- maps and pixels
@settings(max_examples=30)
@given(st.integers(2, 5), st.integers(0, 2**31))
def test_miou_and_accuracy_are_those_of_counting(classes, seed):
    draws = np.random.default_rng(seed)
    truth, read = draws.integers(0, classes, (2, 3, 6, 6))
    tables = [confusion(a, b, classes) for a, b in zip(truth, read, strict=True)]
    shares = [
        ((truth == c) & (read == c)).sum() / ((truth == c) | (read == c)).sum()
        for c in np.unique(truth)
    ]
    assert mean_iou(tables) == pytest.approx(np.mean(shares))
    assert pixel_accuracy(tables) == pytest.approx((truth == read).mean())
    assert mean_iou(confusion(truth, truth, classes)) == 1


def test_maps_that_do_not_fit():
    with pytest.raises(UserError, match="one shape"):
        confusion(np.zeros((2, 2), int), np.zeros((2, 3), int), 2)
    with pytest.raises(UserError, match=r"classes lie in 0\.\.1"):
        confusion(np.zeros(2, int), np.full(2, 2), 2)
    with pytest.raises(UserError, match="one shape"):
        depth_rmse(np.zeros((2, 2)), np.zeros((2, 3)))


def test_edges_depth_and_ssim():
    truth, read = np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 1, 0]], bool)
    assert edge_f1(truth, read) == 0.5 and edge_f1(truth, truth) == 1
    assert edge_f1(truth & False, read & False) == 1 and edge_f1(truth, read & False) == 0
    assert depth_rmse([[0, 1, 2]], [[0, 10, 20]]) == 0  # each by its own maximum
    assert depth_rmse([[0.0, 1.0]], [[1.0, 1.0]]) == pytest.approx(255 / math.sqrt(2))
    one = RANDOM.integers(0, 256, (176, 176)).astype(np.uint8)
    assert ms_ssim(one, one) == pytest.approx(1, abs=1e-6)
    assert ms_ssim(one, 255 - one) < 0.5
    with pytest.raises(UserError, match="above 160 pixels"):
        ms_ssim(one[:160], one[:160])


def test_pixels_of_edits():
    grey = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(*squared_error(grey, grey)) == math.inf
    assert psnr(*squared_error(grey, grey + 1)) == pytest.approx(48.1308, abs=1e-4)
    other = grey.copy()
    other[0] = 0
    rest = np.ones((4, 4), bool)
    rest[0] = False
    assert psnr(*squared_error(grey, other, rest)) == math.inf
    assert l1(grey, other) == pytest.approx(100 / 255 / 4)
    assert l2(grey, other) == pytest.approx((100 / 255) ** 2 / 4)
    with pytest.raises(UserError, match="uint8 of one shape"):
        l1(grey, grey.astype(float))


def test_clip_direction_is_torchs_cosine():
    features = RANDOM.normal(size=(4, 6, 8))
    before, after, words, others = (torch.tensor(each) for each in features)
    unit = torch.nn.functional.normalize
    wanted = torch.cosine_similarity(unit(after) - unit(before), unit(others) - unit(words))
    assert np.allclose(clip_direction(*features[[0, 1, 2, 3]]), wanted.numpy())
    assert np.allclose(
        clip_similarity(features[0], features[1]), torch.cosine_similarity(before, after).numpy()
    )
    assert (clip_direction(features[0], features[0], features[2], features[3]) == 0).all()


# ---- signs
@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_the_edit_distance_is_a_metric(one, other, third):
    assert (edit_distance(one, other) == 0) == (one == other)
    assert edit_distance(one, other) == edit_distance(other, one)
    assert edit_distance(one, third) <= edit_distance(one, other) + edit_distance(other, third)
    assert abs(len(one) - len(other)) <= edit_distance(one, other) <= max(len(one), len(other))


def test_letters():
    assert edit_distance("kitten", "sitting") == 3
    assert letters_right("ABC", "AXC") == 2 and letters_right("ABC", "BC") == 0
