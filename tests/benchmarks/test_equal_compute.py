"""The comparison of twins: laws on made records, what is refused, and its table."""

import numpy as np
import pytest
import torch

from benchmarks import equal_compute as module
from benchmarks.equal_compute import Options
from benchmarks.harness import core
from cm3leon import checkpoint
from cm3leon.errors import UserError
from cm3leon.evaluation.metrics.composition import ALL
from cm3leon.files import sha256_bytes
from cm3leon.reports import read_published
from cm3leon.reports.benches.equal_compute import compute_table
from cm3leon.reports.paper.main import build
from cm3leon.reports.paper.results import Inputs, Run
from cm3leon.reports.readme import block
from tests.record_maker import splits_record

N, WIDTH = 60, 4
SPLITS = ("natural", "test", "tail")


def samples(arms, shift: float, right: float) -> dict:
    """Arrays as fid_coco keeps them; the farther `shift` the worse FID, `right` are right."""
    kept = {"prompts": np.array([f"p{k}" for k in range(3 * N)]), "tasks": np.array(ALL)}
    for place, split in enumerate(SPLITS):
        random = np.random.default_rng(place)
        others, own = random.standard_normal((2, N, WIDTH))
        hard_N = random.permutation(np.linspace(0, 1, N, endpoint=False))
        asked_NT = np.ones((N, len(ALL)), np.int8)
        if split == "test":
            asked_NT[:, ALL.index("entity")] = 0
        kept |= {
            f"{split}.images": np.array([f"{split}-{k}" for k in range(N)]),
            f"{split}.own_ND": own, f"{split}.others_MD": others,
            f"{split}.unseen_N": (np.arange(N) % 2 == 1) & (split == "tail"),
        }  # fmt: skip
        for arm in arms:
            kept |= {
                f"{split}.{arm}.features_KND": (own + shift)[None],
                f"{split}.{arm}.right_NT": asked_NT * (hard_N < right)[:, None].astype(np.int8),
                f"{split}.{arm}.asked_NT": asked_NT,
            }
    return kept


def save(folder, name: str, documents, shift: float, right: float, **changes) -> None:
    arms = [f"documents{count}" for count in documents]
    packed = core.packed_samples(samples(arms, shift, right))
    one = splits_record(40.0, name, documents, samples={"sha256": sha256_bytes(packed)}, **changes)
    core.save(core.stamped(one), folder, packed)


@pytest.fixture
def options(tmp_path):
    def make(**changes):
        return Options(
            **(
                {"results": tmp_path / "r", "reports": tmp_path / "o", "resamples": 60}
                | {"flops": "scenes-s-plain+flops"}
                | changes
            )
        )

    return make


def pair(folder, ours=(0.2, 0.8), queries=(0.6, 0.5), flops=(0.4, 0.6)) -> None:
    save(folder, "scenes-s", (0, 1, 2), *ours)
    save(folder, "scenes-s-plain", (0,), *queries)
    save(folder, "scenes-s-plain+flops", (0,), *flops)


def test_what_was_planted_is_found(options, tmp_path, capsys):
    pair(tmp_path / "r")
    record, path = module.equal_compute(options())
    extra = record["extra"]
    for split in SPLITS:
        for kind, right in (("queries", 0.5), ("flops", 0.6)):
            ratio = extra[f"{kind}.{split}.fid_ratio"]
            sides = [extra[f"{one}.{split}.fid"]["value"] for one in ("ours", kind)]
            assert ratio["value"] == pytest.approx(sides[0] / sides[1])
            assert ratio["low"] <= ratio["value"] <= ratio["high"]
            for task in ("overall", "position", "attribution"):
                found = extra[f"{kind}.{split}.{task}"]
                assert found["value"] == pytest.approx(0.8 - right)
                assert 0 < found["low"] < found["value"] < found["high"]
        asked = f"queries.{split}.entity" in extra
        assert asked == (split != "test")
    assert "queries.tail.entity_unseen" in extra and "queries.natural.entity_unseen" not in extra
    assert record["value"] == extra["flops.natural.fid_ratio"]["value"] < 1
    assert record["value"] > extra["queries.natural.fid_ratio"]["value"]
    assert core.load(path) == record
    module.report(options(), record)
    shown = " ".join(capsys.readouterr().out.split())
    twins = {row[0] for row in compute_table(record).rows}
    assert twins == {"scenes-s-plain, equal query tokens", "scenes-s-plain+flops, equal FLOPs"}
    assert "scenes-s-plain" in shown and "one training seed" in shown


def test_a_model_beside_itself_differs_by_nothing(options, tmp_path):
    pair(tmp_path / "r", ours=(0.3, 0.7), queries=(0.3, 0.7), flops=(0.3, 0.7))
    extra = module.equal_compute(options())[0]["extra"]
    for split in SPLITS:
        assert extra[f"flops.{split}.fid_ratio"] == {"value": 1, "low": 1, "high": 1}
        assert extra[f"flops.{split}.overall"] == {"value": 0, "low": 0, "high": 0}


def test_one_twin_is_enough(options, tmp_path):
    pair(tmp_path / "r")
    record, _ = module.equal_compute(options(flops=None))
    assert not any(key.startswith("flops.") for key in record["extra"])
    assert record["value"] == record["extra"]["queries.natural.fid_ratio"]["value"]
    assert {row[0] for row in compute_table(record).rows} == {"scenes-s-plain, equal query tokens"}


def test_readme_and_report_show_it(options, tmp_path):
    pair(tmp_path / "r")
    record, _ = module.equal_compute(options())
    table = compute_table(record)
    assert len(table.rows) == 6 and len(table.headers) == 10
    assert table.rows[0][4].startswith("0.") and table.rows[0][5].startswith("0.300")
    assert "What retrieval brings" in block([splits_record()], [record])
    assert "What retrieval brings" not in block([splits_record()])
    runs = Run(splits_record(), "results/a.json"), Run(record, "results/b.json")
    document = build(Inputs(runs, read_published()))
    labels = {getattr(part, "label", "") for one in document.sections for part in one.blocks}
    assert "table-equal-compute-scenes-s" in labels


def test_what_is_refused(options, tmp_path):
    with pytest.raises(UserError, match="no records in"):
        module.equal_compute(options())
    pair(tmp_path / "r")
    with pytest.raises(
        UserError, match=r"no record of fid_coco version 2 of other in .*--system o"
    ):
        module.equal_compute(options(queries="other"))
    with pytest.raises(UserError, match="--flops scenes-s draws with documents; name the twin"):
        module.equal_compute(options(flops="scenes-s"))
    with pytest.raises(UserError, match="scenes-s-plain draws without documents: there is nothing"):
        module.equal_compute(options(system="scenes-s-plain"))
    other = splits_record()["protocol"] | {"real": 500}
    save(tmp_path / "r", "elsewhere", (0,), 0.4, 0.5, protocol=other)
    with pytest.raises(UserError, match="were measured by different protocols"):
        module.equal_compute(options(queries="elsewhere"))
    for path in (tmp_path / "r").rglob("scenes-s-plain/*.npz"):
        path.unlink()
    with pytest.raises(
        UserError, match=r"has no samples beside it .* --system scenes-s-plain again"
    ):
        module.equal_compute(options())
    with pytest.raises(UserError, match="name a twin"):
        options(queries=None, flops=None)


def test_costs_stand_below_the_table(options, tmp_path, monkeypatch):
    pair(tmp_path / "r")
    monkeypatch.setenv("CM3LEON_BASELINES", str(tmp_path / "home"))
    for name, queries in (("scenes-s", 160_000), ("scenes-s-plain", 160_000)):
        cost = {"queries": queries, "tokens": 30_000_000, "flops": 9e14}
        folder = tmp_path / "home" / "scenes" / name
        checkpoint.save(folder, "transformer", {}, {"w": torch.zeros(1)}, {"cost": cost})
    record, _ = module.equal_compute(options())
    assert record["extra"]["ours.tokens"] == 30e6 and "flops.tokens" not in record["extra"]
    (line,) = [note for note in compute_table(record).notes if note.startswith("trained on")]
    assert line == (
        "trained on: scenes-s 160k queries, 30.0M tokens, 9e+14 FLOPs; scenes-s-plain 160k "
        "queries, 30.0M tokens, 9e+14 FLOPs (6ND)"
    )
