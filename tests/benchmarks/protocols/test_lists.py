"""Lists of prompts: laws of the seeded list, files there and back, and lists that do not fit."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.protocols.lists import list_digest, read_list, to_jsonl, write_list
from benchmarks.protocols.prompts import Prompt, entry_prompt, shuffled
from cm3leon.data.coco import Caption, Entry
from cm3leon.errors import UserError
from cm3leon.files import sha256_file
from cm3leon.seeds import derive

CSV = Path(__file__).resolve().parents[4] / "shared" / "data" / "prompts" / "coco_captions_30k.csv"
PARTI = CSV.with_name("parti_prompts.tsv")

entries = st.dictionaries(st.integers(1, 10**6), st.integers(1, 5), min_size=1, max_size=30).map(
    lambda found: [
        Entry(image, Path("x"), tuple(Caption(10 * image + k, f"{k} of {image}") for k in range(n)))
        for image, n in sorted(found.items())
    ]
)


@given(entries, st.integers(0, 5))
def test_laws_of_the_seeded_list(entries, seed):
    chosen = shuffled(entries, seed)
    prompts = [entry_prompt(entry, seed) for entry in chosen]
    assert len({prompt.image_id for prompt in prompts}) == len(entries)  # distinct pictures
    assert len({prompt.id for prompt in prompts}) == len(entries)
    assert shuffled(entries, seed) == chosen  # the seed fixes the order
    for n in range(len(entries) + 1):  # a shorter list is the beginning of a longer one
        assert to_jsonl(prompts).startswith(to_jsonl(prompts[:n]))
    for prompt, entry in zip(prompts, chosen, strict=True):  # one of its own captions
        assert (int(prompt.id), prompt.caption) in entry.captions


@given(entries)
def test_a_picture_s_caption_does_not_depend_on_the_others(entries):
    alone = [entry_prompt(entry) for entry in entries]
    assert alone == [entry_prompt(entry) for entry in reversed(entries)][::-1]


words = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=9)
captions = st.lists(words, min_size=1, max_size=4).map(" ".join)


@given(st.dictionaries(st.integers(0, 10**9), captions, min_size=1, max_size=9))
def test_written_and_read_again(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("list") / "prompts.jsonl"
    prompts = [Prompt(str(10 * k + 1), text, str(k)) for k, text in found.items()]
    sha256 = write_list(path, prompts)
    back = read_list(path)
    assert back.prompts == prompts and back.pictured
    assert back.sha256 == sha256 == sha256_file(path) == list_digest(prompts)
    row = json.loads(path.read_text().splitlines()[0])
    assert list(row) == ["image_id", "caption_id", "caption", "seed"]
    assert row["seed"] == derive(0, prompts[0].id)


def test_another_digest_is_another_list(tmp_path):
    path = tmp_path / "prompts.jsonl"
    sha256 = write_list(path, [Prompt("1", "a star", "5")])
    assert read_list(path, sha256.upper()).sha256 == sha256
    with pytest.raises(UserError, match=f"SHA-256 {sha256[:12]}, expected 000000000000: it is an"):
        read_list(path, "0" * 64)
    path.write_text(path.read_text().replace("star", "ring"))
    with pytest.raises(UserError, match=f"expected {sha256[:12]}: it is another list"):
        read_list(path)


@pytest.mark.parametrize("heading", ["", "Prompt\n", "caption\n"])
def test_lines_are_captions_whatever_they_hold(tmp_path, heading):
    path = tmp_path / "list.csv"
    path.write_text(heading + 'a "red" star, alone\n"two  rings, one ""big"""\n"a" and "b"\n')
    found = read_list(path)
    assert [prompt.caption for prompt in found.prompts] == [
        'a "red" star, alone',
        'two rings, one "big"',
        '"a" and "b"',
    ]
    assert [prompt.image_id for prompt in found.prompts] == ["0", "1", "2"]
    assert not found.pictured and found.name == "list.csv"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "{", "line 1: needs image_id, caption_id, caption as JSON"),
        ("a.jsonl", '{"image_id": 1, "caption_id": 2}', "line 1: needs image_id"),
        ("a.jsonl", "[1, 2, 3]", "line 1: needs image_id"),
        ("a.jsonl", '{"image_id": 1, "caption_id": 2, "caption": " "}', "a caption must be words"),
        ("a.jsonl", '{"image_id": 1, "caption_id": 2, "caption": 7}', "must be words, got 7"),
        (
            "a.jsonl",
            '{"image_id": 1, "caption_id": 2, "caption": "a"}\n' * 2,
            "line 2: image_id 1 occurs twice",
        ),
        (
            "a.jsonl",
            '{"image_id": 1, "caption_id": 2, "caption": "a"}\n'
            '{"image_id": 3, "caption_id": 2, "caption": "a"}',
            "line 2: caption_id 2 occurs twice",
        ),
        (
            "a.jsonl",
            '{"image_id": 1, "caption_id": 2, "caption": "a", "seed": 5}',
            "line 1: seed 5 is not that of caption 2",
        ),
        ("a.csv", "Prompt\n", "has no prompts"),
        ("a.csv", "a\n\nb\n", "line 2: a caption must be words"),
        ("a.csv", b"\xff\xfe", "is not UTF-8"),
        ("a.txt", "a\rb\rc", "ends lines with CR alone"),
        ("a.json", '["a"]', "is no list of prompts by its name"),
        ("prompts", "a", "is no list of prompts by its name"),
        ("a.csv", "7,a dog\n8,a cat\n", "has 2 columns .by comma. and no heading"),
        ("a.tsv", "7\ta dog\n8\ta cat\n", "has 2 columns .by tab. and no heading"),
        ("a.csv", "id,caption\n7,a dog, alone\n", "line 2: 3 cells under 2 headings"),
        ("a.csv", "prompt,caption\na,b\n", "has the columns prompt, caption; leave one"),
        ("a.csv", "image_id,caption\n1,a\n1,b\n", "line 3: image_id 1 occurs twice"),
        ("a.csv", "image_id,caption\n,a\n", "line 2: an id is empty"),
        ("a.jsonl", '{"image_id": null, "caption_id": 2, "caption": "a"}', "ids are numbers or"),
        ("a.jsonl", '{"image_id": 1, "caption_id": 2, "caption": "a \\ud83d"}', "half a character"),
    ],
)
def test_lists_that_do_not_fit(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as error:
        read_list(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


PLAIN = ["a red dog on the sand", "a green kite, high", "a blue dog"]


def captions_of(path) -> list[str]:
    return [prompt.caption for prompt in read_list(path).prompts]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.txt", "a.tsv"])
def test_marks_and_line_ends_do_not_move_a_caption(tmp_path, name, end, encoding):
    path = tmp_path / name
    path.write_bytes((end.join(["Caption", *PLAIN]) + end).encode(encoding))
    assert captions_of(path) == PLAIN


@pytest.mark.parametrize(
    "mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]
)
def test_no_other_mark_ends_a_line(tmp_path, mark):
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join([PLAIN[0].replace(" on", f"{mark}on"), *PLAIN[1:]]).encode())
    assert captions_of(path) == PLAIN
    rows = [
        json.dumps({"image_id": k, "caption_id": k, "caption": f"a{mark}b"}, ensure_ascii=False)
        for k in range(2)
    ]
    path = tmp_path / "a.JSONL"
    path.write_bytes("\ufeff".encode() + "\r\n".join(rows).encode())
    found = read_list(path)
    assert found.pictured and len(found.prompts) == 2


@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
@given(st.lists(st.tuples(captions, captions), min_size=1, max_size=5))
def test_a_table_is_what_the_csv_module_writes(tmp_path_factory, delimiter, rows):
    path = tmp_path_factory.mktemp("list") / "a.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("Category", "Prompt"), *rows, ('x"', 'one "two\nthree", four')])
    found = read_list(path)
    assert [prompt.caption for prompt in found.prompts] == [
        *(caption for _, caption in rows),
        'one "two three", four',
    ]
    assert not found.pictured
    assert found.warnings[0] == "a.csv: columns left out: category"
    assert found.warnings[1] == f"1 captions run over several lines, first line {len(rows) + 2}"


def test_ids_of_a_table_name_pictures(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('image_id,caption\n7,"a, b"\n9,c\n')
    found = read_list(path)
    assert found.pictured and not found.warnings
    assert found.prompts == [Prompt("7", "a, b", "7"), Prompt("9", "c", "9")]
    path.write_text("caption_id,image_id,caption\n3,7,a\n4,9,c\n")
    assert read_list(path).prompts == [Prompt("3", "a", "7"), Prompt("4", "c", "9")]


def test_flickr_s_table_gives_its_captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("image,caption\n1_a.jpg,A child .\n1_a.jpg,A girl .\n")
    found = read_list(path)
    assert [prompt.caption for prompt in found.prompts] == ["A child .", "A girl ."]
    assert found.warnings == ("captions.txt: columns left out: image",)


@pytest.mark.parametrize("text", ["", "half a0b1", "0" * 63, "\x00"])
def test_a_promised_digest_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "prompts.jsonl"
    write_list(path, [Prompt("1", "a star", "5")])
    (tmp_path / "prompts.jsonl.sha256").write_text(text)
    with pytest.raises(UserError, match=r"prompts.jsonl.sha256 holds no SHA-256"):
        read_list(path)
    with pytest.raises(UserError, match="--prompts-sha256 holds no SHA-256"):
        read_list(path, text)


@pytest.mark.skipif(not PARTI.is_file(), reason="PartiPrompts are not on this machine")
def test_parti_prompts_are_prompts_alone():
    found = read_list(PARTI)
    assert len(found.prompts) == 1632
    assert found.prompts[0].caption == "bond"
    assert all("\t" not in prompt.caption for prompt in found.prompts)


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*: No such file"):
        read_list(tmp_path / "none.csv")


@pytest.mark.skipif(not CSV.is_file(), reason="LlamaGen's list is not on this machine")
def test_the_published_list_is_known():
    found = read_list(CSV)
    assert len(found.prompts) == 30_000 and not found.pictured
    lines = CSV.read_text().splitlines()[1:]
    assert [prompt.caption for prompt in found.prompts] == [
        " ".join(line.split()) for line in lines
    ]
    assert found.name == "LlamaGen coco_captions.csv"
