"""The hot functions timed by pytest-benchmark: nox -s perf

Sizes are those of `scenes-s` at work. Drawing also notes exact counters (`extra_info`), which the
regression gate holds at zero tolerance.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cm3leon.config import MODELS, ObjectiveConfig, RetrievalConfig
from cm3leon.decoding import sampling
from cm3leon.decoding.config import DecodeConfig
from cm3leon.decoding.images import generate_images
from cm3leon.decoding.loop import Decoder
from cm3leon.engine.rule import step_of
from cm3leon.evaluation.statistics.frechet import frechet_distance, moments
from cm3leon.model.transformer import Transformer
from cm3leon.retrieval.bank import MemoryBank
from cm3leon.retrieval.select import Query, select
from cm3leon.seeds import generator, torch_generator
from cm3leon.sequence import masking
from cm3leon.sequence.documents import Document, Vocabulary, build_sample

BATCH = 16
SIZE = replace(MODELS["scenes-s"](), positions="row")  # any ids have a place
VOCABULARY = Vocabulary.from_config(SIZE.vocabulary)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(SIZE).eval()


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    shape = 2 * BATCH, SIZE.vocabulary.image_size
    return torch.randn(shape, generator=torch_generator(0, "perf", "logits"))


def documents(count: int) -> list[Document]:
    """Captions of 14 tokens with pictures of 64 codes."""
    draws = generator(0, "perf", "documents")
    return [
        Document.pair(draws.integers(0, 500, 14).tolist(), draws.integers(0, 1024, 64).tolist())
        for _ in range(count)
    ]


def test_step(benchmark, model):
    """One token of 2 x 16 rows behind 150 others."""
    ids = torch.full((2 * BATCH, 150), 5)
    cache = model.cache(2 * BATCH, 300)
    model.prefill(ids, torch.full((2 * BATCH,), 150), cache)
    by = step_of(model, cache.batch, 0, None)
    benchmark.pedantic(model.step, (ids[:, 0], cache, 0, None, by), rounds=60, warmup_rounds=3)


def test_prefill(benchmark, model):
    ids, lengths = torch.full((BATCH, 150), 5), torch.full((BATCH,), 150)
    benchmark(lambda: model.prefill(ids, lengths, model.cache(BATCH, 214)))


def test_guide(benchmark, logits):
    benchmark(sampling.guide, *logits.chunk(2), 3.0)


def test_contrast(benchmark, logits):
    benchmark(sampling.contrast, *logits.chunk(2), 0.1, 8)


def test_top_p(benchmark, logits):
    benchmark(sampling.top_p, logits, 0.9)


def test_draw(benchmark, logits):
    uniforms = torch.rand(2 * BATCH, generator=torch_generator(0, "perf"), dtype=torch.float64)
    benchmark(sampling.draw, logits, uniforms)


def test_choose(benchmark, model, logits):
    """Temperature, top-p and draw together, as generation calls them."""
    decoder = Decoder(model, VOCABULARY, DecodeConfig(temperature=1.0, top_p=0.9))
    uniforms = torch.rand(2 * BATCH, generator=torch_generator(0, "perf"), dtype=torch.float64)
    benchmark(decoder.choose, logits, uniforms)


def test_rotate(benchmark):
    """A training sample of three documents and a query, masked."""
    sample = build_sample(documents(1)[0], documents(3), VOCABULARY)

    def mask():
        draws = generator(0, "perf", "spans")
        spans = masking.draw_spans(sample, VOCABULARY, ObjectiveConfig(), draws)
        return masking.rotate(sample, spans, VOCABULARY)

    benchmark(mask)


def test_select(benchmark):
    """Two documents for each of 256 queries out of 20,000."""
    draws = generator(0, "perf", "bank")
    vectors = draws.standard_normal((20_256, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    bank = MemoryBank(vectors[256:], [str(row) for row in range(20_000)], "perf", {})
    query = Query(texts=vectors[:256])
    config = RetrievalConfig(documents=2, by="text")
    benchmark.pedantic(select, (query, bank, config), rounds=7, warmup_rounds=1)


def test_frechet(benchmark):
    draws = generator(0, "perf", "frechet")
    sides = [moments(draws.standard_normal((1000, 128))) for _ in range(2)]
    benchmark(frechet_distance, *sides[0], *sides[1])


def test_draw_pictures(benchmark, model):
    """Sixteen pictures with guidance, two documents before each prompt; work is counted."""
    draws, counters = generator(0, "perf", "prompts"), {}
    prompts = [draws.integers(0, 500, 150) for _ in range(BATCH)]
    free = [np.concatenate([prompt[:140], prompt[:3]]) for prompt in prompts]
    uniforms = draws.random((BATCH, 64))
    decoder = Decoder(model, VOCABULARY, DecodeConfig(guidance=3.0))
    generate_images(replace(decoder, counters=counters), prompts, free, uniforms)
    tokens = counters["prefill_tokens"] + counters["step_tokens"]
    counters["flops"] = 2 * SIZE.parameters * tokens
    benchmark.extra_info.update(counters)
    drawing = decoder, prompts, free, uniforms
    benchmark.pedantic(generate_images, drawing, rounds=3, warmup_rounds=1)
