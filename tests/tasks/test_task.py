"""Tasks: the paper's words, which of them are the answer, and what a newcomer has to add."""

import re
from pathlib import Path

import numpy as np
import pytest

from cm3leon.data.examples import Example
from cm3leon.errors import UserError
from cm3leon.tasks import TASKS
from cm3leon.tasks.task import Task

TABLE = {  # Table 5 as it is printed, `|` for <break>; its slips are kept
    "edit": [
        "Edit first image following the instruction | {image1} | edit instruction | {image 2}"
    ],
    "write": ['draw "{ocr_content}" | {image}'],
    "grounded": [
        "Generate high quality image of {caption} with segmentations {obj1} at {loc1}, {obj2} at "
        "{loc2} ... | {image}"
    ],
    "edges": [
        "Make high quality image from canny edge features | {edge image} | {caption} | {image}"
    ],
    "segmentation": [
        "Make high quality image from a segmentation map | {seg image} | {caption} | {image}"
    ],
    "hed": ["Make high quality image from hed features | {seg image} | {caption} | {image}"],
    "pose": ["Make high quality image from openpose features | {seg image} | {caption} | {image}"],
    "depth": ["Make high quality image from depth features | {depth image} | {caption} | {image}"],
    "normal": [
        "Make high quality image from 3D norm features | {depth image} | {caption} | {image}"
    ],
    "scribble": [
        "Make high quality image from children's scribbles | {scribble image} | {caption} | {image}"
    ],
    "caption": ["{caption} | {image}", "Describe the given picture. {caption} | {image}"],
    "caption-long": [
        "Describe the given picture in very detail. {caption} | {image}",
        "Describe all the objects in the given image in very detail. {caption} | {image}",
        "Generate a long caption for the given image. {caption} | {image}",
        "Generate a long narration of what is happening in the given image. {caption} | {image}",
    ],
    "answer": [
        "Question: {question} Answer: {answer}. | image",
        "Question: {question} [newline] {answer} | image",
        "Question: {question} The answer is {answer}. | image",
    ],
    "answer-choice": [
        "Question: {q} [newline] Context: {context} [newline] Options: {choices_text} [newline] "
        "Answer: {answer}. | {image}"
    ],
    "answer-explained": [
        "Question: {q} [newline] Context: {context} [newline] Options: {choices_text} [newline] "
        "Answer: Let's think step-by-step: {explanation} So the answer is {answer}. | {image}"
    ],
}
PLACEHOLDERS = [  # how the table calls a field -> how we do
    ("{image 2}", "{image2}"), ("edit instruction", "{instruction}"), ("| image", "| {image}"),
    ("{ocr_content}", "{letters}"), ("{q}", "{question}"), ("{choices_text}", "{options}"),
    ("{obj1} at {loc1}, {obj2} at {loc2} ...", "{objects}"), (" [newline] ", "\n"),
    *((f"{{{kind} image}}", "{condition}") for kind in ("edge", "seg", "depth", "scribble")),
]  # fmt: skip


def ours(printed: str) -> str:
    for theirs, name in PLACEHOLDERS:
        printed = printed.replace(theirs, name)
    return printed


@pytest.mark.parametrize("name", TASKS)
def test_templates_are_those_of_table_5(name):
    assert list(TASKS[name].templates) == [ours(printed) for printed in TABLE[name]]


def test_every_row_of_the_table_has_its_task():
    assert set(TABLE) == set(TASKS) and all(TASKS[name].name == name for name in TASKS)


def test_a_newcomer_adds_one_file_and_one_row():
    """Each task lives in one file below `tasks/`, and the table alone names them all."""
    folder = Path(__file__).parents[2] / "cm3leon" / "tasks"
    kept = {path.stem for path in folder.glob("*.py")} - {
        "__init__",
        "task",
        "rows",
        "source",
        "ask",
    }
    table = (folder / "__init__.py").read_text()
    assert all(f"from cm3leon.tasks.{stem} import" in table for stem in kept)
    rows = re.findall(r"for task in \((.*)\)", table)[0].replace("*", "").split(", ")
    imported = re.findall(r"^from cm3leon\.tasks\.(?!task )\w+ import (.*)$", table, re.M)
    assert sorted(rows) == sorted(name for names in imported for name in names.split(", "))
    counting = Task("count", ("How many? {number} | {image}",), ("number",), ("image",))
    record = counting.record(counting.templates[0], {"number": "3", "image": PICTURES["image"]})
    assert [one.text for one in record.segments[:2]] == ["How many?", " 3"]


FIELDS = {
    "caption": "a red star", "question": "what is it?", "answer": "a star", "context": "N/A",
    "options": "(A) a", "explanation": "it has points.", "instruction": "make it blue",
    "objects": "star at location (1, 2) -> (3, 4)", "with_objects": "with a", "letters": "AB",
}  # fmt: skip
PICTURES = {name: np.full((4, 4, 3), k, np.uint8)
            for k, name in enumerate(("image", "image1", "image2", "condition"))}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("which", ["table", "figures", "both"])
def test_a_template_says_its_fields_and_asks_for_the_targets(name, which):
    task = TASKS[name]
    for template in task.wordings(which):
        record = task.record(template, FIELDS | PICTURES, "here")
        whole, filled = template.format(**FIELDS | {p: f"<{p}>" for p in PICTURES}).split(" | "), []
        for segment in record.segments:
            shown = segment.text
            if segment.kind == "image":
                shown = next(f"<{p}>" for p in PICTURES if segment.image is PICTURES[p])
            joins = filled and segment.kind == "text" and not filled[-1].startswith("<")
            filled[-1:] = [filled[-1] + shown] if joins else [*filled[-1:], shown]
        assert filled == whole
        asked = [one for one in record.segments if one.role == "target"]
        assert len(asked) == 1
        if task.draws:
            assert asked[0] is record.segments[-1]  # drawn from left to right
        else:
            assert record.segments[-1].kind == "image"  # text stands before its picture
            assert asked[0].text.strip() == (
                "it has points. So the answer is a star" if "explanation" in task.targets
                else FIELDS[task.targets[-1]]
            )  # fmt: skip
        blind = task.ask(template, **FIELDS | PICTURES | {t: None for t in ()})
        assert [(s.role, s.kind) for s in blind.segments] == [
            (s.role, s.kind) for s in record.segments
        ]


def test_streams_and_settings_are_the_papers():
    edit, seg = TASKS["edit"], TASKS["segmentation"]
    assert edit.decode == {"image_guidance": 1.5, "text_guidance": 7.5}
    assert edit.streams == (None, "text", "both") and seg.streams == (None, "both")
    assert seg.decode == {"guidance": 3.0}
    for name in ("caption", "answer"):  # greedy, one stream; the other is for contrast
        task = TASKS[name]
        assert task.streams == (None, "image") and task.decode["guidance"] == 1 and not task.draws


def test_a_wording_is_drawn_by_name_alone():
    task = TASKS["answer"]
    texts = [{"question": f"q{k}?", "answer": "a"} for k in range(300)]
    example = Example.of("x", {"image": PICTURES["image"]}, texts)
    made = task.records(example).records
    starts = [record.segments[0].text.removeprefix(f"Question: q{k}?")
              for k, record in enumerate(made)]  # fmt: skip
    counts = {word: starts.count(word) for word in set(starts)}
    assert set(counts) == {" Answer:", "\n", " The answer is"} and min(counts.values()) > 60
    alone = Example.of("x", {"image": PICTURES["image"]}, texts[:5])
    again = task.records(alone).records
    assert [r.segments[0].text for r in again] == [r.segments[0].text for r in made[:5]]


WRONG = {
    "no text": ("answer", {"question": " ", "answer": "a"}, r"answer needs a text 'question'"),
    "no picture": ("caption", {"image": None}, r"needs a picture 'image', got None"),
    "over 255": (
        "grounded", {"objects": "star at location (1, 2) -> (256, 4)"},
        r"coordinates must lie in 0..255, got 256",
    ),
    "reversed": (
        "grounded", {"objects": "star at location (9, 2) -> (3, 4)"}, r"from top left to bottom",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_record_is_told(case):
    name, fields, message = WRONG[case]
    task = TASKS[name]
    with pytest.raises(UserError, match=message):
        task.record(task.templates[0], FIELDS | PICTURES | fields)
    bundle = task.records(Example.of("here", PICTURES | {}, [FIELDS | fields]))
    assert not bundle.records and bundle.skipped[0].id == "here"


def test_a_task_is_checked_where_it_is_written():
    with pytest.raises(UserError, match=r"template '\{image\}' of x lacks 'caption'"):
        Task("x", ("{image}",), ("caption",), ("image",))
    with pytest.raises(UserError, match="a picture is a segment of its own"):
        Task("x", ("of {image} {caption}",), ("caption",), ("image",))
    with pytest.raises(UserError, match="wordings are one of table, figures, both, got 'all'"):
        TASKS["edit"].wordings("all")
