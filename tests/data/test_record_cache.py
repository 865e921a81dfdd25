"""Record cache: exact, restartable, pictures kept once, honest about what it could not read."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.data.record_cache import Bundle, RecordCache, encode_records, open_records
from cm3leon.data.records import Record, Segment, encode_pieces
from cm3leon.data.sources import Skipped
from cm3leon.data.token_cache import TokenCache
from cm3leon.errors import UserError
from cm3leon.identity import joined
from cm3leon.tokenizers.text import TextTokenizer
from tests.data.test_token_cache import Blocks

COUNT, SHARD = 10, 4
PIECES = ("Question: what colour is the star? Answer:", " red", ".")


def picture(value: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Grey, brighter to the right."""
    ramp = np.linspace(0, 60, width).astype(np.uint8)
    return np.broadcast_to(value + ramp[None, :, None], (height, width, 3)).copy()


@dataclass(frozen=True)
class Asked:
    """One part: two questions about a picture; number 7 cannot be read, 5 has a wrong condition."""

    number: int
    word: str = "red"

    @property
    def id(self) -> str:
        return f"asked-{self.number}"

    def digest(self) -> str:
        return joined([self.id, self.word])

    def load(self):
        if self.number == 7:
            return self.digest(), Skipped(self.id, "is torn")
        image = picture(10 * self.number)
        shown = Segment("prompt", image=image)
        answer = [Segment("prompt", PIECES[0]), Segment("target", f" {self.word}"),
                  Segment("prompt", PIECES[2])]  # fmt: skip
        drawn = picture(200, 32, 40 if self.number == 5 else 32)
        edit = [Segment("prompt", "make it light"), shown, Segment("target", image=drawn)]
        return self.digest(), Bundle((
            Record("answer", (*answer, shown), f"{self.id}#0"),
            Record("edit", tuple(edit), f"{self.id}#1"),
        ))  # fmt: skip


class Source:
    """Ten such parts in three shards."""

    def __init__(self, word: str = "red"):
        self.word = word
        self.about = {"kind": "asked", "count": COUNT, "shard": SHARD}
        self.shards = 3

    def parts(self, shard: int):
        for number in range(shard * SHARD, min(COUNT, (shard + 1) * SHARD)):
            yield Asked(number, self.word if number >= 8 else "red")

    def stamp(self, shard: int) -> str:
        return joined([self.word if shard == 2 else "", f"{shard}"])


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.train([" ".join(PIECES), "make it light", "red blue"] * 3, 300)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "cache"
    encode_records(Source(), Blocks(), tokenizer, path)
    return path


def test_a_record_comes_back_as_its_tokens(folder, tokenizer):
    cache = open_records(folder)
    assert len(cache) == 2 * COUNT - 3 and cache.tasks == {"answer": 9, "edit": 8}
    task, segments = cache[2]
    assert task == "answer" and cache.ids[2] == "asked-1#0"
    assert [(one.kind, one.role) for one in segments] == [
        ("text", "prompt"), ("text", "target"), ("text", "prompt"), ("image", "prompt"),
    ]  # fmt: skip
    assert all(one.ids.dtype == np.int32 for one in segments)
    assert "".join(tokenizer.decode(one.ids) for one in segments[:3]) == "".join(PIECES).replace(
        " red", "red"
    )
    ids = [index for one in segments[:3] for index in one.ids]
    assert tokenizer.decode(ids) == "".join(PIECES)
    codes = Blocks().encode(picture(10)[None])[0].numpy()
    assert np.array_equal(segments[3].ids, codes)
    assert np.array_equal(cache[3].segments[1].ids, codes)
    assert cache.lengths.tolist() == [sum(len(p.ids) for p in one.segments) for one in cache]
    with pytest.raises(IndexError, match=r"record must lie in 0..16, got 17"):
        cache[17]


def test_what_is_skipped_is_named(folder):
    assert open_records(folder).skipped == [
        ("asked-5#1", "pictures of one record must have one size, got 32 x 32 and 40 x 32 pixels"),
        ("asked-7", "is torn"),
    ]


def test_a_picture_is_encoded_and_kept_once(folder, tokenizer, tmp_path):
    blocks = Blocks()
    cache = encode_records(Source(), blocks, tokenizer, tmp_path)
    assert blocks.pictures == 9 + 3  # each shard has its own light one
    kept = sum(len(shard["ids"]) for shard in cache.shards)
    assert kept == cache.lengths.sum() - 16 * (9 + 8 + 8 - 12)


def test_it_goes_on_where_it_was_killed_and_sees_a_changed_source(folder, tokenizer, tmp_path):
    class Killed(Blocks):
        def encode(self, images):
            if self.pictures:
                raise KeyboardInterrupt
            return super().encode(images)

    with pytest.raises(KeyboardInterrupt):
        encode_records(Source(), Killed(), tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"was not encoded to its end; run `cm3leon encode`"):
        open_records(tmp_path)
    again = Blocks()
    encode_records(Source(), again, tokenizer, tmp_path)
    assert again.pictures == 12 - 5  # the first shard was whole
    old, new = (RecordCache(path).about for path in (folder, tmp_path))
    assert old == new
    changed = Blocks()
    cache = encode_records(Source("blue"), changed, tokenizer, tmp_path)
    assert changed.pictures == 2 + 1 and cache.about != old
    assert tokenizer.decode(cache[len(cache) - 2].segments[1].ids) == "blue"


def test_damage_and_other_folders_are_refused(folder, tokenizer, tmp_path):
    encode_records(Source(), Blocks(), tokenizer, tmp_path)
    path = tmp_path / "spans-00001.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"spans-00001.npy is damaged: .*run `cm3leon encode`"):
        open_records(tmp_path)
    with pytest.raises(UserError, match="has format records-1, this version reads 3"):
        TokenCache(folder)
    about = json.loads((folder / "cache.json").read_text())["content"]
    assert about["source"]["kind"] == "asked" and about["vq_sha256"]


TOKENIZER = TextTokenizer.train(
    ["a red star. a blue star, 12 stars\n(A) what's that?", "ab abba ab1 b1"] * 2, 320
)


@given(st.lists(st.text(st.sampled_from("ab1 .,'(\n\u00e9\u0301"), max_size=6), max_size=5))
def test_pieces_join_to_the_text(pieces):
    ids = encode_pieces(pieces, TOKENIZER)
    assert len(ids) == len(pieces)
    first = next((k for k, piece in enumerate(pieces) if piece), 0)
    if first == 0:
        assert TOKENIZER.decode([index for own in ids for index in own]) == "".join(pieces)


def test_a_piece_has_the_same_ids_whatever_stands_before_it():
    one, two = (
        encode_pieces(["a star is", " red", "."], TOKENIZER),
        encode_pieces(["the answer:", " red", "."], TOKENIZER),
    )
    assert one[1:] == two[1:] and one[1] == TOKENIZER.encode("red")
