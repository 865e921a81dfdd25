"""The decoding ablation on a tiny plan, from drawings to tables, plots and verdicts."""

from dataclasses import replace

import pytest

from benchmarks import ablate_decoding as bench
from benchmarks.ablations import decoding_settings
from benchmarks.evaluate import clip_beside
from cm3leon.errors import UserError
from cm3leon.reports.benches.decoding import decoding_tables, verdicts
from cm3leon.reports.benches.decoding_figures import decoding_plots
from cm3leon.reports.verdicts import UNMEASURABLE
from tests.benchmarks.evaluate.test_clip_beside import other_clip

TINY = decoding_settings.Plan(
    weights=(1.0, 2.0), weight_prompts=4, ks=(1, 2), alphas=(0.5, 1.0), temperatures=(0.6,),
    masses=(0.9, 1.0), cell_prompts=4, pool_prompts=5, pool_samples=2, captions=3,
)  # fmt: skip
PARTS = ("guidance", "surface", "nucleus", "pool", "captions")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> bench.Options:
    folder = tmp_path_factory.mktemp("decoding")
    return bench.Options(
        sizes=("scenes-xs",), parts=PARTS, quick=True, resamples=8, results=folder / "results",
        reports=folder / "reports", cache=folder / "cache",
    )  # fmt: skip


@pytest.fixture(scope="module")
def record(options) -> dict:
    before = decoding_settings.QUICK
    decoding_settings.QUICK = TINY
    try:
        return bench.ablate_decoding(options)[0]
    finally:
        decoding_settings.QUICK = before


def test_every_cell_has_numbers(record):
    for part in ("guidance", "surface", "nucleus"):
        for name in record["protocol"]["cells"][part]:
            assert record["extra"][f"{part}.{name}.fid"]["value"] > 0
    assert record["extra"]["surface.greedy.apart"]["value"] < 1e-3  # the same picture twice
    assert record["extra"]["surface.k2-a1.apart"]["value"] > 1e-3
    assert record["cost"]["counters"] == {"drawn": 2 * 4 + 5 * 8 + 2 * 8 + 3 * 10, "reused": 0}


def test_the_pool_uses_what_was_best_on_val(record):
    extra, cells = record["extra"], record["protocol"]["cells"]
    fids = {name: extra[f"surface.{name}.fid"]["value"] for name in cells["surface"]}
    fids.pop(decoding_settings.GREEDY)
    best = cells["surface"][min(fids, key=fids.get)]["decode"]
    assert cells["pool"]["cd-k"]["decode"] == best
    assert extra["pool.mixed-n1.fid"] == extra["pool.top-p-n1.fid"]
    assert record["value"] == min(
        extra[f"pool.{name}-n2.fid"]["value"] for name in ("temperature", "top-p", "cd-k", "mixed")
    )


def test_a_second_run_draws_nothing(options, record, monkeypatch):
    monkeypatch.setattr(decoding_settings, "QUICK", TINY)
    again = bench.ablate_decoding(replace(options, parts=("surface", "nucleus", "pool")))[0]
    assert again["cost"]["counters"]["drawn"] == 0
    assert again["extra"]["pool.cd-k-n2.fid"] == record["extra"]["pool.cd-k-n2.fid"]


def test_another_clip_picks_and_is_measured(options, record, monkeypatch, tmp_path):
    assert record["missing"] == [{"measure": "CLIP score", "needs": clip_beside.SAME}]
    assert not [name for name in record["extra"] if name.endswith(".clip") and "pool" in name]
    monkeypatch.setattr(decoding_settings, "QUICK", TINY)
    parts = ("surface", "nucleus", "pool")
    changes = dict(parts=parts, rerank_clip=str(other_clip(tmp_path / "clip")))
    again = bench.ablate_decoding(replace(options, **changes))[0]
    assert again["protocol"]["rerank_clip"] == "another" and not again["missing"]
    assert again["protocol"]["rerank_clip_sha256"] != record["protocol"]["rerank_clip_sha256"]
    for name in ("temperature", "top-p", "cd-k", "mixed"):
        one = again["extra"][f"pool.{name}-n2.clip"]
        assert one["low"] <= one["value"] <= one["high"] < 1
        alone = f"pool.{name}-n1.fid"  # of one sample there is nothing to pick
        assert again["extra"][alone] == record["extra"][alone]


def test_report_from_the_record(record, options):
    tables = decoding_tables(record)
    assert set(tables) == {*PARTS, "verdicts"}
    for table in tables.values():
        assert table.to_text() and table.to_latex() and table.to_csv()
    names = {path.name for path in decoding_plots(record, options.reports)}
    assert names == {"figure4.svg", "figure4.png", "surface.svg", "surface.png"}
    claims = [one["hypothesis"] for one in verdicts(record)]
    assert claims.count("H4") == 2 and claims.count("H5") == 5 and "Q5" in claims
    assert {one["verdict"] for one in verdicts(record)} == {UNMEASURABLE}  # a dozen captions


def test_every_part_has_the_floor_of_its_n(record):
    floors = {part: record["extra"][f"{part}.real.floor"] for part in PARTS if part != "captions"}
    assert all(0 <= one["low"] <= one["value"] <= one["high"] for one in floors.values())
    # `surface` and `nucleus` draw as many pictures; `pool` is of another split.
    assert floors["surface"] == floors["nucleus"] != floors["pool"]


def test_a_page_of_the_report(record, options):
    from cm3leon.reports.paper.results import Inputs, Run
    from cm3leon.reports.paper.sections import context_of
    from cm3leon.reports.paper.text import section

    missing = section("decoding", context_of(Inputs((), {})))
    assert "nox -s ablate_decoding" in str(missing.blocks)
    inputs = Inputs((Run(record, "results/x.json"),), {})
    assert len(section("decoding", context_of(inputs)).blocks) == 5


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(parts=("surfaces",)), "parts are guidance, .* got 'surfaces'"),
        (dict(parts=()), "must name at least one"),
        (dict(parts=("pool",)), "pool takes its settings from surface and nucleus"),
        (dict(resamples=1), "resamples must be at least 2, got 1"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(UserError, match=message):
        bench.Options(**changes)


def test_a_system_without_settings(tmp_path, capsys):
    code = bench.main(["--sizes", "noise", "--parts", "guidance", "--results", str(tmp_path)])
    assert code == 2 and "system noise has no settings of drawing" in capsys.readouterr().err
