"""The paper's accounting: rows, steps, FLOPs, and what fits a context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cm3leon.config import MODELS, TrainConfig, paper_recipe
from cm3leon.errors import UserError
from cm3leon.sequence.documents import Document, Vocabulary, build_sample
from cm3leon.training.estimate import (
    PIECE_TOKENS,
    Estimate,
    check_row,
    most_documents,
    pieces_of,
    row_tokens,
    schedule,
)

PAPER = {  # Table 3 and FACTS 0.4: rate, steps at 8e6 tokens, 6ND
    "350m": (6e-4, 175_000, 3.1e21),
    "760m": (5e-4, 237_500, 8.9e21),
    "7b": (1.2e-4, 300_000, 9.7e22),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_sizes(name):
    rate, steps, flops = PAPER[name]
    train = schedule(paper_recipe(name), 4096.0, None, {})
    assert (train.rate, train.steps, train.warmup) == (rate, steps, 1500)
    assert train.batch * 4096 == pytest.approx(8e6, rel=1e-3)
    assert Estimate(MODELS[name](), train, 4096.0).flops == pytest.approx(flops, rel=0.02)


def test_models_that_are_not_the_papers_have_our_defaults():
    assert paper_recipe("scenes-s") is None
    assert schedule(paper_recipe("scenes-s"), 80.0, None, {}) == TrainConfig()
    assert schedule(paper_recipe("mini.json"), 80.0, None, {"steps": 5, "batch": 2}).warmup == 1


def test_what_is_given_goes_before_the_paper():
    given_ = {"steps": 40, "batch": 16, "rate": 1e-3, "seed": 3}
    train = schedule(paper_recipe("350m"), 3000.0, None, given_)
    assert {name: getattr(train, name) for name in given_} == given_ and train.warmup == 4
    assert schedule(paper_recipe("350m"), 1000.0, 1e6, {"batch": 10}).steps == 100
    with pytest.raises(UserError, match="give --steps 40 or --tokens 1e\\+06, not both"):
        schedule(paper_recipe("350m"), 3000.0, 1e6, given_)
    with pytest.raises(UserError, match=r"train.batch must be at least 1, got 0"):
        schedule(paper_recipe("350m"), 3000.0, 1e6, {"batch": 0})


def test_the_warmup_of_a_stable_run_outlives_its_length():
    wsd = {"schedule": "wsd", "batch": 4}
    runs = [
        schedule(paper_recipe("scenes-s"), 80.0, None, wsd | {"steps": steps})
        for steps in (300, 900, 5000)
    ]
    assert [run.warmup for run in runs] == [100] * 3
    short = schedule(None, 80.0, None, wsd | {"steps": 60, "decay": 20})
    assert short.warmup == short.decay_start == 40


@given(st.integers(0, 4), st.integers(0, 20), st.integers(1, 30))
def test_tokens_of_a_row_are_those_of_a_sample(documents, text, codes):
    pair = Document.pair([0] * text, [0] * codes)
    sample = build_sample(pair, [pair] * documents, Vocabulary(4, 4, 1))
    assert len(sample) == row_tokens(text + codes + 2, documents)


@given(st.integers(8, 5000), st.floats(4, 2000))
def test_the_most_documents_are_those_that_fit(context, pair):
    most = most_documents(context, pair)
    assert 0 <= most <= 3
    assert most == 0 or row_tokens(pair, most) <= context
    assert most == 3 or row_tokens(pair, most + 1) > context


def test_three_documents_of_the_paper_do_not_fit_its_context():
    """FACTS 9.5: 4 x (1,024 + 9) + 9 is more than 4,096."""
    assert most_documents(4096, 1024 + 9 + 2) == 2
    check_row(4096, 1035, 2)
    with pytest.raises(UserError, match=r"rows with 3 documents take about 4,141 .* 2 documents f"):
        check_row(4096, 1035, 3)


@given(st.integers(1, 5000), st.floats(1, 50_000))
def test_pieces_are_small_and_never_more_than_rows(batch, row):
    pieces = pieces_of(batch, row)
    assert 1 <= pieces <= batch
    rows = -(-batch // pieces)
    assert rows == 1 or rows * row <= PIECE_TOKENS


def test_the_lines_hold_the_numbers():
    train = TrainConfig(steps=10, batch=4, warmup=1)
    first, step, run = Estimate(MODELS["scenes-xs"](), train, 50.0, 2, documents=20).lines()
    assert first.startswith("model scenes-xs: 1.2M parameters, 2,752 ids, context 512")
    assert "4 rows of about 50 tokens, 200 tokens, in 2 pieces" in step
    assert "10 steps, 2e+03 tokens, 2.00 epochs; 6ND" in run
