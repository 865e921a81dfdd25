"""Records in other harnesses' words."""

import json
import subprocess

import pytest

from cm3leon.reports.exports import export, to_every_eval_ever, to_lm_eval
from cm3leon.reports.records.store import NothingThere
from tests.record_maker import record, saved

LM_EVAL = {
    "results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
    "config", "git_hash", "date", "pretty_env_info",
}  # fmt: skip
EEE = {
    "schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata", "model_info",
    "eval_library", "evaluation_results",
}  # fmt: skip


def test_lm_eval_s_keys():
    run = to_lm_eval([record(), record(bench="other", unit="share", better="higher")])
    assert set(run) >= LM_EVAL
    task = run["results"]["fid_coco@1"]
    assert task["FID,none"] == 12.345
    assert task["FID_stderr,none"] == pytest.approx(1 / 1.959964)
    assert task["single,none"] == 0.9 and task["single_stderr,none"] == "N/A"
    assert "floor,none" not in task
    losses = to_lm_eval([record(extra={"a.held_out_loss": 2.0, "a.fid_with_2": 3.0, "words": 9.0})])
    assert losses["higher_is_better"]["fid_coco@1"] == {
        "FID": False, "a.held_out_loss": False, "a.fid_with_2": False
    }  # fmt: skip
    assert run["higher_is_better"]["fid_coco@1"] == {
        "FID": False, "kid": False, "overall": True, "single": True
    }  # fmt: skip
    assert run["higher_is_better"]["other@1"]["share"]
    assert run["n-samples"]["fid_coco@1"] == {"original": 1000, "effective": 1000}
    with pytest.raises(ValueError, match="is of one system, got"):
        to_lm_eval([record(), record(name="scenes-xs")])


def test_a_trial_does_not_replace_the_run(tmp_path, capsys):
    trial = {"protocol": {"n": 12}, "n": 79, "date": "2026-09-09T00:00:00Z"}
    trial |= {"warnings": ["a trial, not coco2014-30k/clean: n=79 of 30000"]}
    run = to_lm_eval([record(25.15), record(637.67, **trial)])
    assert run["results"]["fid_coco@1"]["FID,none"] == 25.15
    saved(tmp_path / "results", record(25.15), record(637.67, **trial))
    export("every-eval-ever", results=tmp_path / "results", out=tmp_path / "out")
    (made,) = (tmp_path / "out").rglob("*.json")
    assert "637.67" not in made.read_text() and "1 trials left out" in capsys.readouterr().err
    saved(tmp_path / "alone", record(637.67, **trial))
    with pytest.raises(NothingThere, match=r"nothing to export of .* but trials"):
        export("lm-eval", results=tmp_path / "alone", out=tmp_path / "out")


def test_every_eval_ever_s_form():
    made = to_every_eval_ever(record())
    assert set(made) >= EEE and made["schema_version"] == "0.3.0"
    first, *others = made["evaluation_results"]
    assert first["metric_config"]["lower_is_better"]
    assert first["score_details"]["score"] == 12.345
    interval = first["score_details"]["uncertainty"]["confidence_interval"]
    assert interval == {
        "lower": 11.345, "upper": 13.345, "confidence_level": 0.95, "method": "x"
    }  # fmt: skip
    assert len({one["evaluation_result_id"] for one in made["evaluation_results"]}) == 4
    last = others[-1]["metric_config"]
    assert (last["metric_name"], last["metric_unit"]) == ("single object", "share")
    assert not last["lower_is_better"]

    def texts(value, inside=False):  # all their additional details are text
        if isinstance(value, dict):
            for key, item in value.items():
                texts(item, inside or key == "additional_details")
        elif inside:
            assert isinstance(value, str)

    texts(made)


def test_the_command(tmp_path, run_module):
    saved(tmp_path / "results", record(), record(30.0, "scenes-xs"))

    def command(*words: str) -> subprocess.CompletedProcess:
        folders = ("--results", str(tmp_path / "results"), "--out", str(tmp_path / "out"))
        return run_module("cm3leon.reports.exports", *words, *folders)

    done = command("--form", "lm-eval", "--system", "scenes-xs")
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "out" / "lm-eval" / "scenes-xs.json").read_text())
    assert made["results"]["fid_coco@1"]["FID,none"] == 30.0
    done = command("--form", "lm-eval")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = command("--form", "every-eval-ever")
    assert done.stdout.count("\n") == 2
    done = command("--form", "every-eval-ever", "--bench", "none")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
