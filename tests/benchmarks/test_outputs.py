"""Outputs of others: results files in, scores with intervals and pairs out; nothing dropped."""

import json

import pytest

from benchmarks import outputs as bench
from benchmarks.outputs import as_number
from cm3leon.evaluation.text.captions import cider_d, tokens

CAPTIONS = {1: ["a red star on the sand", "red star"], 2: ["two blue circles in the snow"],
            3: ["a green cross on the grass today"]}  # fmt: skip


@pytest.fixture
def run(tmp_path, capsys):
    """Write files, run; (exit code, record or None, stderr)."""

    def call(files: dict, *options):
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name).write_text(text)
        given = [str(tmp_path / one) if one in files else one for one in options]
        places = ("--into", str(tmp_path / "results"), "--reports", str(tmp_path / "out"))
        code = bench.main([*given, *places])
        found = sorted((tmp_path / "results").rglob("*.json"))
        record = json.loads(found[-1].read_text()) if found else None
        return code, record, capsys.readouterr().err

    return call


def captions(**said):
    return [{"image_id": int(name[1:]), "caption": text} for name, text in said.items()]


REFERENCES = {
    "annotations": [
        {"image_id": name, "caption": one} for name, own in CAPTIONS.items() for one in own
    ]
}
ANNOTATIONS = {
    "annotations": [
        {"question_id": 7, "answer_type": "yes/no", "answers": [{"answer": "yes"}] * 10},
        {"question_id": 8, "answer_type": "number",
         "answers": [{"answer": "2"}] * 3 + [{"answer": "three"}] * 7},
    ]
}  # fmt: skip


def test_captions_beside_anothers(run):
    ours = captions(i1="a red star on the sand", i2="two blue circles in the snow", i3="a cross")
    theirs = captions(i1="a star", i2="a star", i3="a cross")
    files = {"a.json": ours, "b.json": theirs, "r.json": REFERENCES}
    options = ("--results", "a.json", "--references", "r.json", "--beside", "b.json")
    code, record, _ = run(files, *options)
    wanted = cider_d([tokens(one["caption"]) for one in ours],
                     [[tokens(text) for text in CAPTIONS[name]] for name in CAPTIONS])  # fmt: skip
    assert code == 0 and record["value"] == pytest.approx(wanted.mean())
    assert record["extra"]["cider_minus_b"]["value"] > 0 and record["n"] == 3
    assert record["interval"]["low"] <= record["value"] <= record["interval"]["high"]


def test_answers_by_the_official_rule(run):
    results = [{"question_id": 7, "answer": "Yes"}, {"question_id": 8, "answer": "two"}]
    files = {"a.json": results, "r.json": ANNOTATIONS}
    code, record, _ = run(files, "--kind", "vqa", "--results", "a.json", "--references", "r.json")
    assert code == 0  # "Yes" is not "yes" where the humans agree; "two" is "2" where they do not
    assert record["extra"]["number.vqa_accuracy"]["value"] == pytest.approx(0.9)
    assert record["extra"]["yes-no.vqa_accuracy"]["value"] == 0
    assert record["value"] == pytest.approx(0.45)


def test_refused_and_unparsed_are_counted_and_stay(run):
    scores = [4, "5", None, "I cannot say", 3.0, None]
    lines = "\n".join(json.dumps({"id": k, "score": one}) for k, one in enumerate(scores))
    code, record, _ = run({"j.jsonl": lines}, "--kind", "judge", "--results", "j.jsonl")
    assert code == 0 and record["value"] == 4 and record["n"] == 3
    extra = record["extra"]
    assert (extra["refused"], extra["unparsed"]) == (2, 1)
    assert extra["with_failures.judged"]["value"] == 2
    assert {"2 refused", "1 unparsed"} <= set(record["warnings"])
    assert as_number("nan") is None and as_number(True) is None and as_number("2.5") == 2.5


BAD = {
    "an image that was not asked": (
        {"a.json": captions(i9="x"), "r.json": REFERENCES},
        ("--results", "a.json", "--references", "r.json"), "answers image_id 9, which",
    ),
    "twice": (
        {"a.json": captions(i1="x") * 2, "r.json": REFERENCES},
        ("--results", "a.json", "--references", "r.json"), "image_id 1 stands twice",
    ),
    "no list": ({"a.json": {}, "r.json": REFERENCES},
                ("--results", "a.json", "--references", "r.json"), "holds no list of results"),
    "another key": ({"a.json": [{"id": 1, "caption": "x"}], "r.json": REFERENCES},
                    ("--results", "a.json", "--references", "r.json"), "needs 'image_id'"),
    "no references": ({"a.json": []}, ("--results", "a.json"), "needs --references"),
    "nothing judged": ({"a.json": [{"id": 1, "score": None}]},
                       ("--kind", "judge", "--results", "a.json"), "no score is readable"),
    "torn": ({"a.json": "[{"}, ("--kind", "judge", "--results", "a.json"), "a.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(run, case):
    files, options, told = BAD[case]
    code, record, error = run(files, *options)
    assert (code, record) == (2, None) and told in error and error.count("\n") == 1
