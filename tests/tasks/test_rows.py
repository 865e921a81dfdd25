"""Rows of tasks: the answer alone is moved, weights are those of the policy, nothing is lost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3leon import seeds
from cm3leon.config import ModelConfig, ObjectiveConfig
from cm3leon.data.records import Encoded, EncodedRecord
from cm3leon.errors import UserError
from cm3leon.sequence.documents import Vocabulary
from cm3leon.sequence.masking import unrotate
from cm3leon.sequence.positions import place, place_prompt
from cm3leon.tasks.rows import RowsConfig, lay, prompt_of, row_of, rows_of, too_long

WORDS = Vocabulary(60, 30, 12)
CODES = 4
NONE = {"drop_text": 0.0, "drop_image": 0.0, "drop_both": 0.0}
ALWAYS = {name: NONE | {f"drop_{name}": 1.0} for name in ("text", "image", "both")}


def text(*ids, role="prompt"):
    return Encoded("text", role, np.array(ids, np.int32))


def image(*codes, role="prompt"):
    return Encoded("image", role, np.array(codes, np.int32))


def record(*parts, task="x"):
    return EncodedRecord(task, parts)


ANSWER = record(text(1, 2, 3), text(4, 5, role="target"), text(6), image(0, 1, 2, 3))
EDIT = record(
    text(1, 2), image(9, 9, 8, 8), text(3, 4, 5), image(7, 7, 6, 6, role="target"), task="edit"
)


@st.composite
def records(draw):
    """Any record with a target that has tokens."""
    roles = draw(st.lists(st.booleans(), min_size=1, max_size=6).filter(any))
    parts = []
    for target in roles:
        role = "target" if target else "prompt"
        if draw(st.booleans()):
            codes = draw(st.lists(st.integers(0, 29), min_size=1, max_size=4))
            parts.append(image(*codes, role=role))
        else:
            ids = draw(st.lists(st.integers(0, 59), min_size=int(target), max_size=4))
            parts.append(text(*ids, role=role))
    return record(*parts)


def draws(seed):
    return seeds.generator(0, "rows", seed)


def targets(one: EncodedRecord) -> list[int]:
    """Ids of all targets, in order."""
    ids = []
    for part in one.segments:
        if part.role == "target":
            ids += (part.ids + (WORDS.image_start if part.kind == "image" else 0)).tolist()
    return ids


@given(records(), st.sampled_from(("all", "target", "cm3")), st.integers(0, 99))
def test_every_policy_is_undone(one, loss, seed):
    config = RowsConfig(loss=loss, **NONE, objective=ObjectiveConfig(rate=2.0))
    ids, weights, counts = row_of(one, WORDS, config, draws(seed))
    laid = lay(one, WORDS)
    assert np.array_equal(unrotate(ids, WORDS), laid.ids) and len(ids) == len(weights)
    assert counts["rows"] == 1 and counts["target_tokens"] == len(targets(one))


@given(records())
def test_exactly_the_answers_are_moved(one):
    ids, _, _ = row_of(one, WORDS, RowsConfig(**NONE), draws(0))
    laid = lay(one, WORDS)
    found = []
    opens = np.flatnonzero(WORDS.is_mask(ids))[len(laid.answers) :]
    for at, end in zip(opens, np.flatnonzero(ids == WORDS.eom), strict=True):
        found += ids[at + 1 : end].tolist()
    last = laid.targets[-1]
    if last not in laid.answers:  # stands at the end of its row
        assert ids[: len(ids)].tolist().count(WORDS.eom) == len(laid.targets) - 1
        found += laid.ids[last[0] : last[1]].tolist()
    assert found == targets(one)


@given(records(), st.integers(0, 99))
def test_target_weighs_the_targets_and_what_closes_them(one, seed):
    ids, weights, _ = row_of(one, WORDS, RowsConfig(loss="target", **NONE), draws(seed))
    laid = lay(one, WORDS)
    closed = len(laid.targets)
    assert weights.sum() == len(targets(one)) + closed
    weighed = ids[weights == 1]
    inner = weighed[weighed < WORDS.pad].tolist()
    assert sorted(inner) == sorted(targets(one)) and set(weights) <= {0.0, 1.0}
    assert set(weighed[weighed >= WORDS.pad]) <= {WORDS.eom, WORDS.eos, WORDS.break_}
    still = RowsConfig(loss="target", rotated=0.0, **NONE)  # in place the same tokens count
    ids, weights, _ = row_of(one, WORDS, still, draws(seed))
    assert np.array_equal(ids, laid.ids)
    inside = ids[(weights == 1) & (ids < WORDS.pad)]
    assert inside.tolist() == targets(one)


@given(records(), st.sampled_from(("all", "cm3")), st.integers(0, 99))
def test_all_and_cm3_weigh_everything_but_sentinels(one, loss, seed):
    config = RowsConfig(loss=loss, **NONE, objective=ObjectiveConfig(document_weight=0.1))
    ids, weights, _ = row_of(one, WORDS, config, draws(seed))
    assert np.array_equal(weights[1:], ~WORDS.is_mask(ids[1:])) and weights[0] == 0


@given(records(), st.sampled_from(("text", "image", "both")))
def test_what_is_dropped_is_nowhere_in_the_row(one, drop):
    laid = lay(one, WORDS)
    config = RowsConfig(loss="target", **ALWAYS[drop])
    ids, weights, counts = row_of(one, WORDS, config, draws(0))
    gone = {"text": laid.texts, "image": laid.images}
    hidden = sum(stop - start for kind in gone if drop in (kind, "both")
                 for start, stop in gone[kind])  # fmt: skip
    kept = ids[ids < WORDS.image_end]
    whole = laid.ids[laid.ids < WORDS.image_end]
    assert len(kept) == len(whole) - hidden
    assert weights.sum() == len(targets(one)) + len(laid.targets)
    assert counts["dropped_text"] == (drop in ("text", "both") and bool(laid.texts))
    assert counts["dropped_image"] == (drop in ("image", "both") and bool(laid.images))


@given(records(), st.sampled_from((None, "text", "image", "both")))
def test_a_prompt_is_how_a_row_of_training_begins(one, drop):
    config = RowsConfig(**(ALWAYS[drop] if drop else NONE))
    ids, _, _ = row_of(one, WORDS, config, draws(0))
    prompt = prompt_of(one, WORDS, drop)
    assert np.array_equal(ids[: len(prompt)], prompt)
    laid = lay(one, WORDS)
    first = (laid.answers or laid.targets)[0]
    assert ids[len(prompt)] == laid.ids[first[0]]  # what is asked for comes next
    assert WORDS.is_mask(prompt[-1]) if laid.answers else prompt[-1] in (WORDS.break_, WORDS.eos,
        *laid.ids[first[0] - 1 : first[0]])  # fmt: skip


def test_rows_by_hand():
    b, e, m, c = WORDS.break_, WORDS.eos, WORDS.mask, WORDS.eom
    i = WORDS.image_start
    ids, weights, _ = row_of(ANSWER, WORDS, RowsConfig(loss="target", **NONE), draws(0))
    assert ids.tolist() == [e, 1, 2, 3, m(0), 6, b, i, i + 1, i + 2, i + 3, e, m(0), 4, 5, c]
    assert weights.tolist() == [0] * 13 + [1, 1, 1]
    assert prompt_of(ANSWER, WORDS).tolist() == ids[:13].tolist()
    free = prompt_of(ANSWER, WORDS, "image")
    assert free.tolist() == [e, 1, 2, 3, m(0), 6, b, m(1), e, m(0)]
    both = prompt_of(EDIT, WORDS, "both")
    assert both.tolist() == [e, m(0), b, m(1), b, m(2), b]
    only = prompt_of(EDIT, WORDS, "text")
    assert only.tolist() == [e, m(0), b, i + 9, i + 9, i + 8, i + 8, b, m(1), b]
    ids, weights, _ = row_of(EDIT, WORDS, RowsConfig(loss="target", **NONE), draws(0))
    assert weights.tolist() == [0] * 13 + [1] * 5 and ids[-1] == e


def model(positions: str) -> ModelConfig:
    return ModelConfig(
        "x", 1, 8, 1, context=40, positions=positions, position_text=10, position_grid=2,
        position_pairs=2,
    )  # fmt: skip


def test_source_and_target_pictures_have_places_of_their_own():
    ids, _, _ = row_of(EDIT, WORDS, RowsConfig(**NONE), draws(0))
    assert place(ids, WORDS, model("row")).tolist() == list(range(len(ids)))
    for positions in ("anchored", "grid"):
        places = place(ids, WORDS, model(positions))
        cells = places[WORDS.is_image(ids)]
        assert cells.tolist() == [10, 11, 12, 13, 24, 25, 26, 27]  # of pair 0, of pair 1
        assert places[1:3].tolist() == [1, 2] and places[9:12].tolist() == [15, 16, 17]
        for drop in ("text", "image", "both"):  # each stream draws at the same places
            prompt = prompt_of(EDIT, WORDS, drop)
            drawn = place_prompt(prompt, np.full(4, WORDS.image(0)), WORDS, model(positions))
            assert drawn[-4:].tolist() == [24, 25, 26, 27]
    two = record(image(1, 2, 3, 4), image(5, 6, 7, 8), text(9, role="target"))
    ids, _, _ = row_of(two, WORDS, RowsConfig(**NONE), draws(0))
    with pytest.raises(UserError, match="more than 2 texts"):  # a text behind two lone pictures
        place(ids, WORDS, model("grid"))
    assert too_long(two, model("grid"), WORDS).startswith("3 texts with their pictures")
    ids, _, _ = row_of(record(*two.segments[:1], image(5, 6, 7, 8, role="target")), WORDS,
                       RowsConfig(**NONE), draws(0))  # fmt: skip
    assert place(ids, WORDS, model("grid"))[WORDS.is_image(ids)].tolist() == [
        10, 11, 12, 13, 24, 25, 26, 27,
    ]  # fmt: skip


def test_a_moved_answer_stands_where_it_was():
    ids, _, _ = row_of(ANSWER, WORDS, RowsConfig(**NONE), draws(0))
    places = place(ids, WORDS, model("grid"))
    assert places[4] == 4 and places[12:].tolist() == [4, 4, 5, 6]
    assert places[WORDS.is_image(ids)].tolist() == [10, 11, 12, 13]


@given(records(), st.sampled_from(("row", "anchored", "grid")))
def test_what_is_said_to_fit_has_places(one, positions):
    reason = too_long(one, model(positions), WORDS)
    ids, _, _ = row_of(one, WORDS, RowsConfig(**NONE), draws(0))
    if reason is None:
        assert len(ids) <= 40 + 3 and len(place(ids, WORDS, model(positions))) == len(ids)
    else:
        assert positions != "row" or len(ids) > 40
        long = max((len(p.ids) for p in one.segments), default=0)
        assert "pairs" in reason or "pictures" in reason or "tokens" in reason, long


def test_shares_of_what_is_dropped_and_moved():
    config = RowsConfig(rotated=0.5, drop_text=0.1, drop_image=0.2, drop_both=0.3)
    both = record(text(1), image(1), text(2), text(3, role="target"), image(2, 3))
    rows, counts = rows_of([both] * 1500, WORDS, config, draws(1))
    assert counts["rows"] == len(rows) == 1500
    for name, share in (("dropped_text", 0.4), ("dropped_image", 0.5)):
        assert abs(counts[name] / 1500 - share) < 4 * (share * (1 - share) / 1500) ** 0.5
    moved = sum(WORDS.eom in ids for ids, _ in rows) / 1500
    assert abs(moved - 0.5) < 4 * (0.25 / 1500) ** 0.5
    again, _ = rows_of([both] * 1500, WORDS, config, draws(1))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(rows, again, strict=True))


WRONG = {
    "text id": (record(text(60, role="target")), r"text ids of x must lie in \[0, 60\), got 60"),
    "code": (record(text(1, role="target"), image(-1)), r"image ids of x .* got -1"),
    "no codes": (record(text(1, role="target"), image()), "has no codes"),
    "no target": (record(text(1), image(1)), "has no target with tokens"),
    "empty answer": (record(text(role="target"), image(1)), "has no target with tokens"),
    "role": (record(text(1, role="answer")), "segment of 'text' as 'answer'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_record_is_refused(case):
    one, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        lay(one, WORDS)


def test_options_are_checked():
    with pytest.raises(UserError, match=r"rows.loss must be one of all, target, cm3, got 'answer'"):
        RowsConfig(loss="answer")
    with pytest.raises(UserError, match=r"add up to at most 1, got 1\.5"):
        RowsConfig(drop_text=0.5, drop_image=0.5, drop_both=0.5)
    with pytest.raises(UserError, match="what a prompt can lack is one of text, image, both"):
        prompt_of(EDIT, WORDS, "caption")


def test_balance_makes_rows_count_alike_whatever_their_length():
    def total(record, balance: float) -> float:
        config = RowsConfig(loss="target", balance=balance, **NONE)
        return float(row_of(record, WORDS, config, draws(0))[1].sum())

    short, long = total(ANSWER, 0.0), total(EDIT, 0.0)
    assert short < long
    assert total(ANSWER, 1.0) == pytest.approx(1) and total(EDIT, 1.0) == pytest.approx(1)
    assert total(EDIT, 0.5) / total(ANSWER, 0.5) == pytest.approx((long / short) ** 0.5)
    with pytest.raises(UserError, match=r"rows.balance must lie in \[0, 1\]"):
        RowsConfig(balance=1.5)
