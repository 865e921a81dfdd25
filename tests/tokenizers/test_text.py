"""The text tokenizer: any text comes back, training is deterministic, bad files get one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.files import sha256_file
from cm3leon.tokenizers.text import TextTokenizer

CAPTIONS = [
    "a red star",
    "Red circles on sand",
    "two blue hearts",
    "a star left of a red cross",
] * 9
TOKENIZER = TextTokenizer.train(CAPTIONS, 290)
law = settings(max_examples=100, deadline=None)  # a shared machine has no deadlines
unicode = st.text(st.characters(exclude_categories=["Cs"]))


@law
@given(unicode)
@example("")
@example(" ")
@example("  two  spaces  ")
@example("\x00\r\n\t")
@example("<eos> <mask:0>")
@example("e\u0301 \u00e9 \u200d \ufffd \U0001f388")
def test_any_text_comes_back(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert all(type(index) is int and 0 <= index < TOKENIZER.size for index in ids)
    assert (ids == []) == (text == "")


@law
@given(st.lists(unicode, max_size=5))
def test_batch_is_each(texts):
    assert TOKENIZER.encode_batch(texts) == [TOKENIZER.encode(text) for text in texts]


@law
@given(st.lists(st.integers(0, TOKENIZER.size - 1)))
def test_any_ids_decode(ids):
    assert isinstance(TOKENIZER.decode(ids), str)


def test_word_has_one_token_wherever_it_stands():
    """The start of a caption is no exception; capitals are kept apart."""
    (star,) = TOKENIZER.encode("star")
    assert TOKENIZER.encode("star star")[1] == star
    assert star in TOKENIZER.encode("a star left")
    assert TOKENIZER.encode("Star") != TOKENIZER.encode("star")
    assert TOKENIZER.decode(TOKENIZER.encode("Red")) == "Red"


def test_training_compresses():
    assert len(TOKENIZER.encode(CAPTIONS[3])) < len(CAPTIONS[3]) / 2
    assert TextTokenizer.train([], 300).size == 256
    assert TextTokenizer.train(["once"], 300).size == 256


@pytest.mark.parametrize("size", [256, 257, 280])
def test_size_is_as_asked(size):
    assert TextTokenizer.train(CAPTIONS, size).size == size


def test_order_of_captions_does_not_matter():
    assert TextTokenizer.train(iter(CAPTIONS[::-1]), 290).digest == TOKENIZER.digest


def test_training_in_another_process_gives_the_same_bytes():
    code = (
        "from cm3leon.tokenizers.text import TextTokenizer\n"
        f"print(TextTokenizer.train({CAPTIONS!r}, 290).digest)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == TOKENIZER.digest, done.stderr


def test_importing_is_light():
    """It must not load the tokenizers library: command lines start with it."""
    code = "import sys, cm3leon.tokenizers.text; assert 'tokenizers' not in sys.modules"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_no_other_file_stands_for_a_tokenizer(tmp_path):
    """Damage, and another whole tokenizer in its place, are told by the digest beside it."""
    path = TOKENIZER.save(tmp_path)
    beside = tmp_path / "tokenizer.json.sha256"
    other = TextTokenizer.train(["another one", "and another"], 270)
    other.save(tmp_path / "other.json")
    path.write_bytes((tmp_path / "other.json").read_bytes())
    with pytest.raises(UserError, match=r"is not what tokenizer.json.sha256 names"):
        TextTokenizer.load(tmp_path)
    for text in ("", "0" * 64):
        beside.write_text(text)
        with pytest.raises(UserError, match=r"is not what tokenizer.json.sha256 names"):
            TextTokenizer.load(tmp_path)
    beside.unlink()
    assert TextTokenizer.load(tmp_path).digest == other.digest


@pytest.mark.parametrize("name", ["text", "text/tokenizer.json", "other.json"])
def test_saved_and_loaded(tmp_path, name):
    written = TOKENIZER.save(tmp_path / name)
    assert written.suffix == ".json"
    for path in (tmp_path / name, written, str(written)):
        again = TextTokenizer.load(path)
        assert (again.digest, again.size) == (TOKENIZER.digest, TOKENIZER.size)
    assert again.digest == sha256_file(written)
    assert again.encode("a red star") == TOKENIZER.encode("a red star")


def test_foreign_readers_agree(tmp_path):
    """The file alone, read by the library, encodes a caption as we do."""
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(TOKENIZER.save(tmp_path)))
    for caption in CAPTIONS[:4]:
        assert reader.encode(caption).ids == TOKENIZER.encode(caption)


def torn(content):
    return json.dumps(content)[:-40]


def with_special(content):
    special = {"id": 1, "content": "<eos>", "single_word": False, "lstrip": False, "rstrip": False}
    return json.dumps(
        content | {"added_tokens": [special | {"normalized": False, "special": True}]}
    )


def without_byte(content):
    vocabulary = {name: i for i, name in enumerate(content["model"]["vocab"]) if name != "z"}
    vocabulary = {name: i for i, name in enumerate(vocabulary)}
    return json.dumps(content | {"model": content["model"] | {"vocab": vocabulary, "merges": []}})


def with_hole(content):
    vocabulary = content["model"]["vocab"] | {"unused": 999}
    return json.dumps(content | {"model": content["model"] | {"vocab": vocabulary}})


@pytest.mark.parametrize(
    "spoil, message",
    [
        (torn, "torn or no tokenizer"),
        (lambda content: "", "torn or no tokenizer"),
        (lambda content: "[]", "torn or no tokenizer"),
        (lambda content: "{}", "torn or no tokenizer"),
        (lambda content: json.dumps(content | {"decoder": None}), "plain byte-level BPE"),
        (lambda content: json.dumps(content | {"pre_tokenizer": None}), "plain byte-level BPE"),
        (lambda content: json.dumps(content | {"normalizer": {"type": "Lowercase"}}), "plain"),
        (with_special, "has special tokens"),
        (without_byte, "lacks 1 of 256 bytes \\('z'\\)"),
        (with_hole, "must have ids 0..290, each once"),
    ],
)
def test_bad_files(tmp_path, spoil, message):
    file = TOKENIZER.save(tmp_path / "good.json")
    bad = tmp_path / "bad.json"
    bad.write_text(spoil(json.loads(file.read_text())))
    with pytest.raises(UserError, match=message) as caught:
        TextTokenizer.load(bad)
    assert str(bad) in str(caught.value) and "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="torn or no tokenizer"):
        TextTokenizer.load(tmp_path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read tokenizer .*tokenizer.json: No such file"):
        TextTokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: TextTokenizer.train(CAPTIONS, 255), r"at least 256 .*, got 255$"),
        (lambda: TextTokenizer.train("a red star", 300), "captions must be a sequence of strings"),
        (lambda: TextTokenizer.train(["a", None], 300), "caption must be a string, got NoneType"),
        (lambda: TOKENIZER.encode_batch("red"), "texts must be a sequence of strings"),
        (lambda: TOKENIZER.encode(7), "caption must be a string, got int"),
        (lambda: TOKENIZER.encode("a\ud800"), "lone surrogate at character 1"),
        (lambda: TOKENIZER.decode([0, 290]), r"text id must lie in \[0, 290\), got 290$"),
        (lambda: TOKENIZER.decode([-1]), r"text id must lie in \[0, 290\), got -1$"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(UserError, match=message):
        call()
