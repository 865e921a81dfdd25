"""The card of an export: its id table covers every id once, its facts are the model's."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cm3leon.config import VocabularyConfig, VQConfig, cm3leon_7b, scenes_s
from cm3leon.interop.hf_card import card, ids
from cm3leon.sequence.documents import Vocabulary


@given(st.tuples(*[st.integers(1, 600)] * 4))
def test_the_table_covers_every_id_once(sizes):
    vocabulary = Vocabulary(*sizes)
    rows = [map(int, row) for row in re.findall(r"^\| (\d+) to (\d+) \|", ids(vocabulary), re.M)]
    covered = [index for low, high in rows for index in range(low, high + 1)]
    assert covered == list(range(vocabulary.size))


def test_the_facts_are_the_model_s():
    text = card("mine", cm3leon_7b(), VQConfig(), {}, "ab" * 32)
    assert "6,727,663,616, tied head" in text and "32 layers x 4096, 32 heads" in text
    assert "64 x 64 pixels, 64 tokens of 512 codes" in text and "ab" * 32 in text
    assert "documents" not in text and "--system models/mine" in text
    assert text.count("```") == 2 and text.startswith("---\n")
    untied = replace(scenes_s(), tied=False, vocabulary=VocabularyConfig(300, 20, 4))
    text = card("other", untied, VQConfig(), {"retrieval": {}}, "")
    assert "untied head" in text and "memory bank and CLIP are in `bank/` and `clip/`" in text
    text = card("other", untied, VQConfig(), {"retrieval": {}, "bank": {}}, "")
    assert "memory bank and CLIP are not in this folder" in text
