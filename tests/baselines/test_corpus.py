"""The texts of the text tokenizer: nothing kept for evaluation, names and numbers short."""

import re

import pytest

from baselines import corpus
from cm3leon.tokenizers.text import TextTokenizer
from cm3leon.world.coordinates import at_location
from cm3leon.world.descriptions import describe
from cm3leon.world.scenes import SEEN_ENTITIES, entities, scene


@pytest.fixture(scope="module")
def small() -> list[str]:
    return list(corpus.texts(pictures=1500, tasks=400, about=2400))


@pytest.fixture(scope="module")
def tokenizer(small) -> TextTokenizer:
    return TextTokenizer.train(small, 1024)


def test_no_caption_kept_for_evaluation_is_in_it_and_no_entity_never_seen(monkeypatch):
    asked, scene_of, sign_of = set(), corpus.scene, corpus.sign_scene
    monkeypatch.setattr(corpus, "scene", lambda *a: asked.add(a) or scene_of(*a))
    monkeypatch.setattr(corpus, "sign_scene", lambda *a: asked.add(a) or sign_of(*a))
    found = list(corpus.texts(pictures=20, tasks=20, about=20))
    assert {address[0] for address in asked} == {"stock"}
    assert {address[1] for address in asked} == {"train", "bank", "study"}
    assert len(found) > 20 * (5 + 7 + 20)
    assert corpus.PLAIN + (corpus.SEEN - corpus.PLAIN) == corpus.SEEN
    last = corpus.texts.__defaults__[2] // 6
    assert last == SEEN_ENTITIES


def test_every_kind_of_text_is_in_it(small):
    text = "\n".join(small)
    wanted = ("at location (", "Question: ", "step-by-step", "so three", "that says", "turn the")
    for words in (*wanted, "canny edge", "in very detail", "children's scribbles"):
        assert words in text
    assert "{" not in text
    quoted = re.findall(r'"([A-Z]+)"', text)
    assert quoted and set(map(len, quoted)) == {1}


def test_names_numbers_and_letters(tokenizer):
    names = [entity.name for entity in entities()]
    lengths = [len(ids) for ids in tokenizer.encode_batch(names)]
    assert sum(lengths[SEEN_ENTITIES:]) / 200 < 3.4  # unseen ones share the syllables
    assert sum(lengths) / 4000 < 3.4  # 2.99 with the whole corpus, both
    assert max(len(ids) for ids in tokenizer.encode_batch([str(k) for k in range(256)])) <= 3
    corners = tokenizer.encode(at_location((1, 2, 4, 5), 8))
    assert len(corners) == 13  # at, location, 4 brackets, 4 numbers, 2 commas, an arrow
    word = tokenizer.encode('draw "MORN"')
    assert [tokenizer.decode([k]) for k in word[-5:]] == ["M", "O", "R", "N", '"']


def test_long_captions_have_at_most_110_tokens(tokenizer):
    for dialect in ("stock", "coco"):
        for index in range(150):
            one = scene(dialect, "val", index)
            assert len(tokenizer.encode(describe(one))) <= 60
            assert len(tokenizer.encode(describe(one, located=True))) <= 110
