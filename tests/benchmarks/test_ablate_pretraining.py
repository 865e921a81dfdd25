"""The pretraining ablation in miniature: every arm trained once, kept, compared by seed."""

from dataclasses import replace

import numpy as np
import pytest

from baselines import transformers
from benchmarks import ablate_pretraining as bench
from benchmarks.ablations import pretraining_runs
from benchmarks.harness import core
from cm3leon.errors import UserError
from cm3leon.identity import unseal
from cm3leon.reports.benches.pretraining import HYPOTHESES, arms_table, pretraining_tables, verdicts
from tests.baselines.test_recipes import TINY, home, small  # noqa: F401 (fixtures)

FIELDS = (
    *("objective", "shares", "retrieval", "train", "model"),
    *("queries", "start", "bursts"),
)


def tiny_arms(steps: int) -> dict:
    """Two arms of the real list, at the size of a test."""
    default = replace(TINY, train=replace(TINY.train, steps=steps))
    weight = replace(default.objective, document_weight=0.1)
    return {
        "default": default,
        "no-retrieval": replace(default, shares=(1.0,)),
        "document-weight-0.1": replace(default, objective=weight),
    }


@pytest.fixture
def options(home, small, tmp_path, monkeypatch):  # noqa: F811
    if not (home / "bank").exists():
        transformers.make_bank(home, tmp_path / "runs")
    monkeypatch.setattr(bench, "arms", tiny_arms)
    monkeypatch.setattr(pretraining_runs, "REFERENCE", 8)
    places = {name: tmp_path / name for name in ("runs", "results", "reports")}
    return bench.Options(seeds=(0, 1), n=4, steps=10, weights=home, **places)


@pytest.mark.full
def test_a_whole_run_is_kept_and_compared(options):
    with pytest.raises(core.NothingMeasured, match="1 of 6 runs are done and kept"):
        bench.ablate_pretraining(replace(options, minutes=1e-9))
    record, _ = bench.ablate_pretraining(options)
    made = sorted(path.name for path in options.runs.glob("arm-*"))
    assert len(made) == 6
    extra = record["extra"]
    for name in tiny_arms(10):
        for score in ("held_out_image_alone", "held_out_tail_gain", "fid_with_0"):
            entry = extra[f"{name}.{score}"]
            assert entry["low"] <= entry["value"] <= entry["high"]
        with_two = f"{name}.fid_with_2" in extra
        assert with_two == (name != "no-retrieval")
    assert extra["no-retrieval.held_out_tail_gain"]["value"] == 0
    scores = [unseal(options.runs / name / "scores.json", "") for name in made]
    weights = sorted(one["scores"]["held_out_image_alone"] for one in scores)
    assert len(set(weights)) == 6  # six different trainings
    own = [extra["default.held_out_image_alone"]["value"], extra["document-weight-0.1."
           "held_out_image_alone"]["value"]]  # fmt: skip
    apart = extra["document-weight-0.1.held_out_image_alone_minus_default"]["value"]
    assert apart == pytest.approx(own[1] - own[0])
    tables = pretraining_tables(record)
    assert len(tables["arms"].rows) == 3 and tables["verdicts"].rows
    assert {one["hypothesis"] for one in verdicts(record)} == {"H6"}


def test_arms_can_be_chosen_by_name(options):
    record, _ = bench.ablate_pretraining(replace(options, seeds=(0,), arms=("no-retrieval",)))
    assert list(record["protocol"]["arms"]) == ["default", "no-retrieval"]
    with pytest.raises(UserError, match=r"arms are default, .* got 'none'"):
        bench.ablate_pretraining(replace(options, arms=("none",)))


def test_verdicts_follow_the_sign_that_is_claimed():
    def record(values: dict) -> dict:
        extra = {name: dict(zip(("value", "low", "high"), v, strict=True))
                 for name, v in values.items()}  # fmt: skip
        return {"extra": extra, "protocol": {"seeds": [0, 1, 2], "arms": {"default": {}}}}

    names = [f"{arm}.{score}_minus_default" for _, _, arm, score, _ in HYPOTHESES]
    for low, high in ((0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1)):
        found = verdicts(record({name: ((low + high) / 2, low, high) for name in names}))
        for one, (_, _, _, _, sign) in zip(found, HYPOTHESES, strict=True):
            wanted = "holds" if sign * low > 0 else "does not"
            assert one["verdict"] == ("not resolved" if low < 0 < high else wanted)
    assert arms_table(record({})).rows[0][0] == "default"


def test_every_arm_differs_from_the_default_in_one_thing():
    arms = bench.arms(800)
    default = arms.pop("default")
    for name, recipe in arms.items():
        changed = [field for field in FIELDS if getattr(recipe, field) != getattr(default, field)]
        assert len(changed) == 1, name
    hypothesised = {arm for _, _, arm, _, _ in HYPOTHESES}
    assert hypothesised <= set(arms)


def test_spread_by_hand():
    value, low, high = bench.spread(np.array([1.0, 2.0, 3.0]))
    assert value == 2 and high - value == pytest.approx(4.3027 / np.sqrt(3), rel=1e-3)
    assert low == pytest.approx(4 - high)
    assert bench.spread(np.array([5.0])) == (5.0, 5.0, 5.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": ()}, "seeds must be different"),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"n": 3}, "n must be at least 4"),
        ({"steps": 9}, "steps must be at least 10"),
    ],
)
def test_bad_options(change, message):
    with pytest.raises(UserError, match=message):
        bench.Options(**change)
