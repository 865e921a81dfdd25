"""Files of records, and tasks asked of examples: what is encoded, what is refused."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from cm3leon.cli.main import main
from cm3leon.data.record_cache import encode_records, open_records
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder
from cm3leon.images import write_png
from cm3leon.tasks import TASKS
from cm3leon.tasks.source import RecordFile, find_records
from cm3leon.tasks.task import Task
from cm3leon.tokenizers.text import TextTokenizer
from tests.data.test_token_cache import Blocks

PAGE = Path(__file__).parents[2] / "docs" / "records.md"
PICTURE = {"role": "prompt", "image": "a.png"}
ASKED = {"role": "prompt", "text": "Question: what? Answer: a star.", "answer": [24, 30]}
RECORD = {"task": "answer", "segments": [ASKED, PICTURE]}


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(("a.png", "pictures/1.png", "pictures/2.png", "wide.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        size = (32, 40) if name == "wide.png" else (32, 32)
        write_png(tmp_path / name, np.full((*size, 3), 40 * k, np.uint8))
    return tmp_path


def write(folder, *records) -> Path:
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.load(baselines_folder() / "scenes" / "text")


def test_the_sample_of_the_page_is_encoded(folder, tokenizer):
    sample = re.search(r"```json\n(.*?)```", PAGE.read_text(), re.S)[1]
    (folder / "records.jsonl").write_text(sample)
    source = RecordFile(folder / "records.jsonl", TASKS)
    cache = encode_records(source, Blocks(), tokenizer, folder / "out")
    assert cache.tasks == {"answer": 2, "caption": 1, "edit": 1, "grounded": 1}
    assert cache.ids == [f"records.jsonl:{k}" for k in range(1, 6)] and not cache.skipped
    targets = [
        tokenizer.decode(one.ids)
        for record in cache for one in record.segments
        if one.role == "target" and one.kind == "text"
    ]  # fmt: skip
    assert targets == ["two", "snow", "a red star on the sand"]
    for name in TASKS:
        assert f"`{name}`" in PAGE.read_text()


def test_a_changed_line_or_picture_is_seen(folder, tokenizer):
    path = write(folder, RECORD)
    source = RecordFile(path, TASKS)
    first = encode_records(source, Blocks(), tokenizer, folder / "out").about
    write_png(folder / "a.png", np.full((32, 32, 3), 200, np.uint8))
    second = encode_records(RecordFile(path, TASKS), Blocks(), tokenizer, folder / "out").about
    write(folder, RECORD | {"segments": [ASKED | {"answer": [26, 30]}, PICTURE]})
    third = encode_records(RecordFile(path, TASKS), Blocks(), tokenizer, folder / "out").about
    assert len({one["source"]["sha256"] for one in (first, second, third)}) == 3


def test_a_picture_that_cannot_be_read_is_skipped_by_line(folder, tokenizer):
    two = {
        "task": "edit",
        "segments": [
            PICTURE,
            {"role": "prompt", "text": "widen"},
            {"role": "target", "image": "wide.png"},
        ],
    }
    gone = RECORD | {"segments": [ASKED, PICTURE | {"image": "gone.png"}]}  # fmt: skip
    source = RecordFile(write(folder, RECORD, gone, two), TASKS)
    cache = encode_records(source, Blocks(), tokenizer, folder / "out")
    assert len(cache) == 1 and [name for name, _ in cache.skipped] == [
        "records.jsonl:2", "records.jsonl:3",
    ]  # fmt: skip
    assert "must have one size, got 32 x 32 and 40 x 32" in cache.skipped[1][1]


def changed(**more) -> dict:
    return RECORD | more


def segments(*given) -> dict:
    return RECORD | {"segments": list(given)}


WRONG = {
    "no task": (changed(task=None), "needs a text 'task' and a list 'segments'"),
    "unknown task": (changed(task="answers"), "no task 'answers'; there are caption, "),
    "source": (changed(source=3), "source must be a text, got 3"),
    "no segments": (segments(), "a record needs a target segment"),
    "no target": (segments(PICTURE), "a record needs a target segment"),
    "segment": (segments("x"), "a segment is an object, got 'x'"),
    "role": (segments(PICTURE | {"role": "user"}), "role is prompt or target, got 'user'"),
    "key": (segments(PICTURE | {"url": "x"}), "has role, text or image, answer; got 'url'"),
    "both": (segments(PICTURE | {"text": "x"}), "is either a text or an image"),
    "neither": (segments({"role": "prompt"}), "is either a text or an image"),
    "text": (segments({"role": "target", "text": 3}), "text must be a string, got 3"),
    "blank": (segments({"role": "target", "text": " "}, PICTURE), "must not be blank"),
    "span outside": (segments(ASKED | {"answer": [24, 99]}, PICTURE), "inside its text of 31, got"),
    "span reversed": (segments(ASKED | {"answer": [9, 9]}, PICTURE), "inside its text of 31, got"),
    "span": (segments(ASKED | {"answer": "two"}, PICTURE), "an answer is [start, stop] inside"),
    "outside": (segments(ASKED, PICTURE | {"image": "../a.png"}), "inside the folder, got '../a"),
    "absolute": (segments(ASKED, PICTURE | {"image": "/a.png"}), "inside the folder, got '/a.png'"),
    "no name": (segments(ASKED, PICTURE | {"image": 3}), "inside the folder, got 3"),
    "kind": (changed(task="edit"), "edit answers with image, got text"),
    "over 255": (
        {"task": "grounded", "segments": [
            {"role": "prompt", "text": "a at location (1, 2) -> (3, 256)"},
            {"role": "target", "image": "a.png"}]},
        "coordinates must lie in 0..255, got 256",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_record_is_one_line_and_nothing_is_written(folder, case, capsys):
    record, message = WRONG[case]
    path = write(folder, RECORD, record)
    assert main(["encode", str(path), str(folder / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{path} line 2: " in said and message in said, said
    assert not (folder / "out").exists()


def test_other_mistakes_of_a_file(folder, capsys):
    path = write(folder, RECORD)
    with pytest.raises(UserError, match=r"task is 'answer', asked for are records of 'edit'"):
        find_records(str(path), "edit", TASKS, 64, "table")
    path.write_text("{\n")
    with pytest.raises(UserError, match=r"records.jsonl line 1 is no JSON"):
        RecordFile(path, TASKS)
    path.write_text("\n[1]\n")
    with pytest.raises(UserError, match="line 2: a record is an object, got list"):
        RecordFile(path, TASKS)
    path.write_text("\n")
    with pytest.raises(UserError, match="holds no records"):
        RecordFile(path, TASKS)
    with pytest.raises(UserError, match=r"cannot read .*none.jsonl"):
        RecordFile(folder / "none.jsonl", TASKS)
    for words, message in (
        (["nowhere", "--task", "edits"], "no task 'edits'; there are caption"),
        (["nowhere", "--task", "edit"], "no source at nowhere"),
        (["scenes:stock/train:0:2", "--task", "pose"], "the embedded world has no pose"),
        (["nowhere", "--task", "edit", "--wordings", "all"], "--wordings"),
    ):
        assert main(["encode", words[0], str(folder / "out"), *words[1:]]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and message in said, said
    assert not (folder / "out").exists()


def test_the_command_encodes_a_task(folder, capsys):
    home = baselines_folder() / "scenes"
    words = ["encode", "scenes:stock/train:0:2", str(folder / "out"), "--task", "edit"]
    assert main([*words, "--tokenizers", str(home)]) == 0
    said = capsys.readouterr().out
    cache = open_records(folder / "out")
    assert said == f"{len(cache)} records ({len(cache)} of edit) in {folder / 'out'}, 0 skipped\n"
    assert cache.about["source"]["task"] == "edit" and cache.about["size"] == 64
    assert [len(one.ids) for one in cache[0].segments if one.kind == "image"] == [64, 64]


@pytest.mark.parametrize("task", ["grounded", "edit"])
def test_other_processes_read_what_this_one_would(folder, task):
    """Parts, with their task, go to them and back."""
    source = find_records("scenes:stock/train:3:1", task, TASKS, 64, "both")
    (part,) = source.parts(0)
    (digest, one), (again, two) = part.load(), pickle.loads(pickle.dumps(part)).load()
    assert digest == again and len(one.records) == len(two.records) > 0
    for a, b in zip(one.records[0].segments, two.records[0].segments, strict=True):
        assert (a.role, a.text) == (b.role, b.text) and np.array_equal(a.image, b.image)


def test_a_newcomers_task_needs_nothing_but_its_row(folder, tokenizer):
    count = Task("count", ("How many? {number} | {image}",), ("number",), ("image",))
    record = {
        "task": "count",
        "segments": [
            {"role": "prompt", "text": "How many?"},
            {"role": "target", "text": " 3"},
            PICTURE,
        ],
    }
    path = write(folder, record)  # fmt: skip
    with pytest.raises(UserError, match="no task 'count'"):
        RecordFile(path, TASKS)
    source = find_records(str(path), "count", TASKS | {"count": count}, 64, "table")
    cache = encode_records(source, Blocks(), tokenizer, folder / "out")
    assert cache.tasks == {"count": 1}
