"""The whole id space in one tokenizer.json: our ids for any text, names for every other id."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cm3leon.errors import UserError
from cm3leon.interop.hf_tokenizer import token_names, tokenizer_files
from cm3leon.sequence.documents import Vocabulary, build_prompt
from cm3leon.tokenizers.text import TextTokenizer

TEXT = TextTokenizer.train([f"a red star {k} on the <sand>" for k in range(30)], 280)
VOCABULARY = Vocabulary(TEXT.size, 20, 4)
FILES = tokenizer_files(TEXT._payload, VOCABULARY, 64)
WHOLE = Tokenizer.from_str(FILES["tokenizer.json"])
WORDS = st.text(st.one_of(st.sampled_from(" <>:mask0image"), st.characters(codec="utf-8")))
CAPTIONS = WORDS.filter(lambda text: not any(name in text for name in token_names(VOCABULARY)))


@given(CAPTIONS)
def test_any_text_has_our_ids_and_comes_back(caption):
    ids = TEXT.encode(caption)
    assert WHOLE.encode(caption).ids == ids
    assert WHOLE.decode(ids) == caption


@given(CAPTIONS, st.lists(st.integers(0, 19), min_size=1, max_size=5))
def test_a_sample_is_written_by_names(caption, codes):
    written = f"<eos>{caption}<break>" + "".join(f"<image:{code}>" for code in codes)
    prompt = build_prompt(TEXT.encode(caption), [], VOCABULARY).tolist()
    ids = WHOLE.encode(written).ids
    assert ids == prompt + [VOCABULARY.image(code) for code in codes]
    assert WHOLE.decode(ids, skip_special_tokens=True) == caption


@given(st.integers(1, 30), st.integers(1, 30))
def test_every_id_behind_the_text_has_a_name(images, sentinels):
    vocabulary = Vocabulary(TEXT.size, images, sentinels)
    whole = Tokenizer.from_str(tokenizer_files(TEXT._payload, vocabulary, 8)["tokenizer.json"])
    names = token_names(vocabulary)
    ids = list(range(vocabulary.image_start, vocabulary.eom + 1))
    assert [whole.token_to_id(name) for name in names] == ids
    assert len(set(names)) == len(names) and whole.get_vocab_size() == vocabulary.eom + 1


def test_the_other_files():
    about = json.loads(FILES["tokenizer_config.json"])
    assert about["model_max_length"] == 64 and about["pad_token"] == "<pad>"
    assert json.loads(FILES["special_tokens_map.json"])["eos_token"] == "<eos>"


def test_a_tokenizer_of_another_size():
    with pytest.raises(UserError, match=rf"has 20 text tokens, the tokenizer {TEXT.size}; export"):
        tokenizer_files(TEXT._payload, Vocabulary(20, 5, 5), 64)
