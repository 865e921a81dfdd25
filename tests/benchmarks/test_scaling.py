"""The sweep in miniature: plans, every run once, resumed as unbroken, refusals, tables, figures."""

import itertools
import json
from dataclasses import replace

import pytest

from baselines import transformers
from benchmarks import scaling as bench
from benchmarks.ablations import scaling_plan, scaling_runs
from benchmarks.ablations.scaling_points import Points
from benchmarks.harness import core
from cm3leon.data.locks import held
from cm3leon.errors import UserError
from cm3leon.reports.benches.scaling import points_of, scaling_tables
from cm3leon.reports.benches.scaling_figures import scaling_plots
from tests.baselines.test_recipes import home, small  # noqa: F401 (fixtures)

TINY = scaling_plan.Plan("tiny", ("8x1", "16x1"), (1e9, 2e9, 3e9), batch=4, queries=48)
RUNS = {"8x1-plain-0", "16x1-plain-0"}


@pytest.fixture
def options(home, small, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(scaling_plan.PLANS, "tiny", TINY)
    monkeypatch.setattr(scaling_runs, "REFERENCE", 8)
    places = {name: tmp_path / name for name in ("runs", "results", "reports")}
    return bench.Options(plan="tiny", weights=home, resamples=5, **places)


@pytest.fixture
def trained(monkeypatch) -> list[tuple]:
    """Branches that are asked for, as (run, budget)."""
    found, original = [], scaling_runs.Worker.trained

    def noted(self, run, budget):
        found.append((run.name, budget))
        return original(self, run, budget)

    monkeypatch.setattr(scaling_runs.Worker, "trained", noted)
    return found


def kept(options) -> dict:
    """Numbers of all points, timings aside."""
    files = (options.runs / "scaling" / "points").glob("*.json")
    found = {path.name: json.loads(path.read_text())["content"]["numbers"] for path in files}
    for numbers in found.values():
        numbers.pop("seconds", None)
    return found


def test_a_sweep_that_was_cut_ends_as_an_unbroken_one(options, trained, tmp_path, monkeypatch):
    options = replace(options, draw=4)
    record, _ = bench.scaling(options)
    assert sorted(trained) == sorted({*trained}) and {name for name, _ in trained} == RUNS
    whole, asked = kept(options), [0]
    assert len(whole) == 12  # six points, six with drawings

    source = transformers.Shop.source

    def failing(self, recipe):
        real = source(self, recipe)

        def rows(*of):
            asked[0] += 1
            if asked[0] in (9, 60):
                raise OSError("the power went")
            return real.rows(*of)

        return replace(real, rows=rows)

    monkeypatch.setattr(transformers.Shop, "source", failing)
    other = replace(options, runs=tmp_path / "other")
    for _ in range(2):
        with pytest.raises(OSError, match="the power went"):
            bench.scaling(other)
    again, _ = bench.scaling(other)
    assert kept(other) == whole
    assert again["value"] == record["value"] and again["interval"] == record["interval"]
    trained.clear()
    bench.scaling(other)
    assert trained == []  # what is measured is not trained again

    torn = next((other.runs / "scaling" / "points").glob("8x1-plain-0-????????-1e+09.json"))
    torn.write_bytes(torn.read_bytes()[:-40])
    mended, _ = bench.scaling(other)
    assert trained == [("8x1-plain-0", 1e9)] and kept(other) == whole
    assert mended["cost"]["counters"]["damaged"] == 1
    assert record["cost"]["counters"] == {"points": 6, "devices": 1, "damaged": 0}

    assert record["interval"]["method"] == bench.METHOD_OF_POINTS  # of one seed each
    assert bench.DEPENDENT in record["warnings"]
    points = points_of(record)
    assert len(points) == 6 and {one["size"] for one in points} == {"8x1", "16x1"}
    for one in points:
        assert one["flops"] == 6 * one["parameters"] * one["tokens"]
        assert one["flops"] == pytest.approx(one["budget"], rel=0.1)
        assert one["natural.fid_with_0"] > 0
    tables = scaling_tables(record)
    assert len(tables["points"].rows) == 6 and tables["laws"].rows
    assert {path.stem for path in scaling_plots(record, tmp_path / "figures")} == {
        "curves", "compute", "fid",
    }  # fmt: skip


def test_arms_of_the_small_ladder_meet_at_equal_queries():
    """With documents a budget reads the queries that the one below reads without (S3 of LOG.md)."""
    found = {(run.size, run.arm): run for run in scaling_plan.SMALL.runs if run.seed == 0}
    for size in scaling_plan.SMALL.sizes:
        plain, documents = (found[size, arm] for arm in scaling_plan.ARMS)
        assert len(plain.budgets) >= 2 and plain.budgets == documents.budgets
        for below, above in itertools.pairwise(plain.budgets):
            assert documents.steps(above) == pytest.approx(plain.steps(below), rel=0.03)
        names = [part.split for part in documents.recipe(above).queries]
        assert names == ["train", "study"]


class Formula:
    """Measures points by a law instead of training them."""

    def __init__(self, options, points):
        self.points = points

    def point(self, run, budget):
        tokens = budget / (6 * run.parameters)
        loss = 0.5 + 30 / run.parameters**0.5 + 40 / tokens**0.5 + run.seed / 100
        more = {"documents": 0.25, "plain": 0.0}[run.arm]
        steps = run.steps(budget)
        numbers = {"parameters": run.parameters, "blocks": run.blocks, "steps": steps}
        numbers |= {"tokens": tokens, "flops": budget, "seconds": 1.0, "device": "none"}
        numbers |= {"queries": steps * run.plan.batch, "held_out_loss": loss + more}
        numbers |= dict.fromkeys(("held_out_image", "held_out_text"), loss + more)
        numbers["held_out_tail_image"] = loss - more * (1 + run.seed / 10)
        self.points.measured(self.points.name(run, budget), lambda: numbers)


@pytest.mark.parametrize("sizes", [("8x1", "16x1"), ("8x1", "16x1", "24x1", "32x1")])
def test_both_arms_are_compared(sizes, options, tmp_path, monkeypatch):
    """Where each seed has both, what documents change stands in the record, table and figure."""
    budgets = tuple(6e9 * scaling_plan.ROWS_APART**k for k in (0, 1, 2))
    both = replace(TINY, sizes=sizes, arms=scaling_plan.ARMS, seeds=(2,), budgets=budgets)
    monkeypatch.setitem(scaling_plan.PLANS, "tiny", both)
    monkeypatch.setattr(bench, "worker_of", Formula)
    record, _ = bench.scaling(options)
    assert record["interval"]["method"] == bench.METHOD  # trainings, as each size has two
    assert bench.DEPENDENT not in record["warnings"]
    for meeting in ("equal_flops.all", "equal_flops.8x1"):
        changes = record["extra"][f"{meeting}.held_out_image_minus_plain"]
        assert changes["value"] == pytest.approx(0.25)
        changes = record["extra"][f"{meeting}.held_out_tail_image_minus_plain"]
        assert changes["value"] == pytest.approx(-0.25 * 1.05) and changes["low"] < -0.25
    assert any(name.startswith("equal_queries.8x1.") for name in record["extra"])
    laws = any(name.startswith("retrieval_") for name in record["extra"])
    assert laws == (len(sizes) > 2)  # of two sizes none can be left out, which is said
    assert laws or any(text.startswith("laws with retrieval: ") for text in record["warnings"])
    table = scaling_tables(record)["arms"]
    assert [row[:2] for row in table.rows][:2] == [
        ("equal FLOPs", "8x1"), ("equal FLOPs", "16x1"),
    ]  # fmt: skip
    assert table.rows[-1][:2] == ("equal queries", "slope over ln N")
    stems = {path.stem for path in scaling_plots(record, tmp_path / "figures")}
    assert stems == {"curves", "compute", "isoflop", "gains"} - (
        {"isoflop"} if len(sizes) < 3 else set()
    )


def test_of_two_workers_each_run_has_one(options, trained, capsys):
    made_of = {"made_of": bench.Subject(options.weights).config}
    run = next(run for run in TINY.runs if run.name == "8x1-plain-0")
    lock = Points(options.runs / "scaling", TINY, made_of).lock(run)
    with held(lock) as ours:
        assert ours
        with pytest.raises(core.NothingMeasured, match=r"3 of 6 points .* 8x1-plain-0 is held by"):
            bench.scaling(options)
    assert {name for name, _ in trained} == {"16x1-plain-0"}
    assert not lock.exists()
    bench.scaling(options)
    assert len(trained) == 6 and {name for name, _ in trained[3:]} == {"8x1-plain-0"}


def test_plans_share_what_they_train(options, trained, monkeypatch):
    """A larger plan goes on from a smaller one's stable part; another training has other names."""
    bench.scaling(options)
    trained.clear()
    wider = replace(TINY, budgets=(*TINY.budgets, 6e9))
    monkeypatch.setitem(scaling_plan.PLANS, "tiny", wider)
    bench.scaling(options)
    assert {budget for _, budget in trained} == {6e9} and len(trained) == 2
    made_of = {"made_of": bench.Subject(options.weights).config}
    own, others = (Points(options.runs / "scaling", TINY, one) for one in (made_of, {"vq": "b"}))
    run, other = TINY.runs[0], replace(TINY, batch=3).runs[0]
    assert None not in own.of(run)
    assert own.of(other) == others.of(run) == [None] * 3  # another batch, another tokenizer


@pytest.mark.parametrize("name", scaling_plan.PLANS)
def test_branches_of_a_run_share_its_stable_part(name):
    plan = scaling_plan.PLANS[name]
    assert len({run.name for run in plan.runs}) == len(plan.runs)
    for run in plan.runs:
        assert len(run.budgets) == len({*run.budgets}) and run.budgets == sorted(run.budgets)
        trains = [run.recipe(budget).train for budget in run.budgets]
        alike = {replace(one, steps=10**6, decay=0) for one in trains}
        starts = [one.decay_start for one in trains]
        assert len(alike) == 1 and starts == sorted({*starts})
        for budget, train in zip(run.budgets, trains, strict=True):
            spent = 6 * run.parameters * run.batch_tokens * train.steps
            assert spent == pytest.approx(budget, rel=0.05)
            assert train.warmup <= train.decay_start
            assert train.decay == pytest.approx(train.steps / 5, abs=1)
    told = scaling_plan.dry_run(plan, 1e10)
    assert f"{sum(len(run.budgets) for run in plan.runs)} points" in told
    assert f"{sum(run.flops for run in plan.runs) / 1e10 / 3600:,.2f} hours" in told


def test_the_full_plan_is_the_ladder():
    runs = scaling_plan.FULL.runs
    assert {run.arm for run in runs} == {"plain", "documents"}
    assert len({run.size for run in runs}) >= 6
    for size in scaling_plan.FULL.sizes:
        seeds = {run.seed for run in runs if run.size == size}
        count = next(run.parameters for run in runs if run.size == size)
        assert len(seeds) == (3 if count < 2e6 else 2)
    assert max(scaling_plan.FULL.budgets) / min(scaling_plan.FULL.budgets) > 10**2.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": ("8x1", "8x1", "16x1")}, "two equal runs: 8x1-plain-0 of 1e[+]09 FLOPs"),
        ({"budgets": (1e9, 1e9, 2e9)}, "two equal runs"),
        ({"budgets": (1e6, 2e9, 4e9)}, "1e[+]06 FLOPs is below one batch of 8x1, plain; give at"),
        ({"budgets": (1e9, 2e9)}, "plain has 4 points; a fit needs at least 6"),
        ({"arms": ("with",)}, "plan.arms must be of plain, documents"),
        ({"sizes": ("8",)}, "plan.sizes must be like 64x2"),
        ({"draw": 3}, "plan.draw must be 0 or at least 4"),
        ({"seeds": (1, 2, 3)}, "plan.seeds must be a count"),
        ({"most": (1e9,)}, "plan.most must be empty, or a number for each size"),
        ({"most": (1e9, 1e9)}, "plain has 2 points; a fit needs at least 6"),
        ({"ratio": (1e8, 1e9)}, "plain has 0 points; a fit needs at least 6"),
        ({"arms": ()}, "no arm has 0 points"),
    ],
)
def test_bad_plans(change, message):
    with pytest.raises(UserError, match=message) as error:
        replace(TINY, **change)
    assert "\n" not in str(error.value)


def test_a_plan_of_ones_own(tmp_path, capsys):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"sizes": ["32x1", "48x1"], "budgets": [1e11, 2e11, 4e11]}))
    assert bench.main(["--plan", str(path), "--dry-run"]) == 0
    assert "2 runs, 6 points" in capsys.readouterr().out
    path.write_text(json.dumps({"sizes": ["32x1"], "budget": [1e11]}))
    assert bench.main(["--plan", str(path), "--dry-run"]) == 2
    assert "Plan has no field 'budget'" in capsys.readouterr().err
    assert bench.main(["--plan", "none", "--dry-run"]) == 2
    assert "no plan 'none'; name quick, default, small, full" in capsys.readouterr().err
