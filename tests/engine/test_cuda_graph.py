"""A step of fixed shapes gives torch's logits, and a recording of it may be replayed.

There is seldom a GPU where tests run, so `recorded` stands in for a CUDA graph: it notes every
operation with the very tensors it read, and repeats them in place. A shape, a number or an address
that belongs to one step alone would show as wrong logits in the next.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cm3leon.config import MODELS
from cm3leon.engine import cuda_graph, torch_step
from cm3leon.engine.capture import Captured
from cm3leon.engine.cuda_graph import Bucket, Graphed, bucket
from cm3leon.engine.rule import find, step_of
from cm3leon.engine.torch_step import TorchStep
from cm3leon.errors import UserError
from cm3leon.model.kv_cache import Cache
from cm3leon.model.transformer import Transformer
from cm3leon.seeds import torch_generator

IDS = (500, 561)
ON_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


class Recorder(TorchDispatchMode):
    """What was done, as (operation, arguments, result)."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        assert "_local_scalar" not in str(func), "a number was read from the device"
        self.done.append((func, args, kwargs or {}, made))
        return made

    def replay(self):
        for func, args, kwargs, made in self.done:
            again = func(*args, **kwargs)
            pairs = zip(tree_leaves(made), tree_leaves(again), strict=True)
            for old, new in pairs:
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def recorded(run, device, pool=None) -> Captured:
    with Recorder() as recorder:
        made = run()
    made.fill_(torch.nan)  # nothing is there before the first replay
    return Captured(recorder.replay, made)


@pytest.fixture
def graphs(monkeypatch):
    """Graphs of small buckets on a CPU; those that were recorded."""
    found = []

    def capture_one(run, device, pool=None):
        found.append(run)
        return recorded(run, device, pool)

    monkeypatch.setattr(cuda_graph, "capture", capture_one)
    monkeypatch.setattr(cuda_graph, "pool_of", lambda device: None)
    monkeypatch.setattr(cuda_graph, "BUCKET", 8)
    monkeypatch.setattr(cuda_graph, "LEAST", 1)
    monkeypatch.setattr(cuda_graph, "_right", {})
    monkeypatch.setattr(torch_step, "rule", lambda *_: torch_step.plain)  # as on a GPU: no copies
    return found


def small(dtype=torch.float32, width: int = 48, heads: int = 3) -> Transformer:
    config = replace(MODELS["scenes-xs"](), layers=2, width=width, heads=heads, context=40)
    model = Transformer(config, torch_generator(0, "init")).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.normal_(0, 0.1, generator=torch_generator(1, str(weight.shape)))
    return model.to(dtype)


def ids(rows: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 500, (rows, tokens), generator=torch_generator(seed, "ids"))


def read(model: Transformer, lengths: list[int], capacity: int = 40, seed: int = 0) -> Cache:
    cache = model.cache(len(lengths), capacity)
    ids_BT = ids(len(lengths), max(lengths), seed).to(model.token_embedding.weight.device)
    places_BT = torch.arange(max(lengths)).expand_as(ids_BT)  # of a text
    model.prefill(ids_BT, torch.tensor(lengths), cache, positions_BT=places_BT)
    return cache


class Pair:
    """Two caches that hold the same: one takes its steps by graphs, or otherwise, one by torch."""

    def __init__(self, model: Transformer, caches: tuple[Cache, Cache], by=None):
        self.model, self.caches = model, caches
        self.by = by or Graphed(model, caches[0].batch, *IDS)

    def __iter__(self):
        return iter(self.caches)


def pair(model: Transformer, lengths: list[int], capacity: int = 40, by=None) -> Pair:
    return Pair(model, (read(model, lengths, capacity), read(model, lengths, capacity)), by)


def both_step(both: Pair, step: int, rtol=1e-5, atol=2e-5) -> None:
    """One token more in both caches: the same logits, and the same held."""
    model, caches = both.model, both.caches
    ids_B = ids(caches[0].batch, 1, 99 + step)[:, 0]
    found = [model.step(ids_B, caches[0], *IDS, both.by), model.step(ids_B, caches[1], *IDS)]
    torch.testing.assert_close(*found, rtol=rtol, atol=atol)
    assert torch.equal(caches[0].lengths_B, caches[1].lengths_B)
    torch.testing.assert_close(caches[0].kv, caches[1].kv, rtol=rtol, atol=atol)


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8),
    slots=st.integers(16, 40),
    shape=st.sampled_from([(48, 3), (32, 1), (40, 5)]),
)
def test_the_logits_of_torch_in_any_bucket(lengths, slots, shape):
    """Three steps of fixed shapes, with the slot as a tensor."""
    model = small(torch.float32, *shape)
    advance, at = TorchStep(model, len(lengths), *IDS), torch.zeros(1, dtype=torch.int64)

    def fixed(x_BD, cache):
        at.fill_(cache.longest)
        return advance(x_BD, Bucket(cache, at, slots))

    both = pair(model, lengths, by=fixed)
    for step in range(3):
        both_step(both, step)


@pytest.mark.parametrize("lengths", [[5], [5, 5, 5], [5, 2, 7, 7, 1, 4, 7, 3]])
def test_a_replay_takes_the_next_step_in_and_across_buckets(graphs, lengths):
    model = small()
    both = pair(model, lengths)
    for step in range(20):
        both_step(both, step)
    assert len(graphs) == 4 and not both.by.lost and both.by.name == "graph"


def test_bfloat16_is_close(graphs):
    model = small(torch.bfloat16)
    both = pair(model, [5, 2, 9])
    for step in range(12):
        both_step(both, step, rtol=2e-2, atol=2e-2)


def test_the_logits_of_the_whole_row(graphs):
    model = small()
    rows = [ids(2, 9)[0, :5].tolist(), ids(2, 9)[1].tolist()]
    cache, by = read(model, [5, 9]), Graphed(model, 2, *IDS)
    for token in (11, 12, 13):
        found = model.step(torch.tensor([token, token]), cache, *IDS, by)
        for row, logits in zip(rows, found, strict=True):
            row.append(token)
            whole = model(torch.tensor([row]), torch.arange(len(row))[None])[0, -1, slice(*IDS)]
            torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)


def test_what_is_put_moved_and_reordered_is_seen_by_the_same_graphs(graphs):
    model = small()
    caches = pair(model, [5, 2, 9], capacity=24)
    for step in range(3):
        both_step(caches, step)
    for cache in caches:
        cache.put(torch.tensor([2, 0]), read(model, [3, 4], seed=5), torch.tensor([0, 1]))
    both_step(caches, 3)
    known = len(graphs)
    for cache in caches:
        cache.settle()
        cache.reorder(torch.tensor([1, 1, 0]), 1)
    both_step(caches, 4)
    for cache in caches:  # all rows equally long, then not
        cache.put(torch.arange(3), read(model, [6, 6, 6], seed=6), torch.arange(3))
    for step in range(2):
        both_step(caches, 5 + step)
    for cache in caches:
        cache.put(torch.tensor([1]), read(model, [2], seed=7), torch.tensor([0]))
    both_step(caches, 7)
    assert len(graphs) == known


def test_a_copied_cache_has_graphs_of_its_own(graphs):
    model = small()
    caches = pair(model, [5, 2])
    both_step(caches, 0)
    others = [model.cache(3, 40) for _ in caches]
    for other, cache in zip(others, caches, strict=True):
        other.copy(cache, torch.tensor([1, 0, 1]))
    others = Pair(model, others)
    for step in range(2):
        both_step(others, step)
        both_step(caches, step)
    assert len(graphs) == 2


def test_logits_outlive_the_next_step(graphs):
    model = small()
    cache, by = read(model, [4]), Graphed(model, 1, *IDS)
    first = model.step(torch.tensor([7]), cache, *IDS, by)
    kept = first.clone()
    model.step(torch.tensor([8]), cache, *IDS, by)
    assert torch.equal(first, kept)


def changed_in_place(model):
    model.blocks[0].up.weight.mul_(3)


def replaced(model):
    model.blocks[0].up.weight = torch.nn.Parameter(model.blocks[0].up.weight * 3, False)


def loaded(model):
    state = {name: weight * 2 for name, weight in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def moved(model):
    model.to(torch.float64).to(torch.float32)


@pytest.mark.parametrize(
    "change,records", [(changed_in_place, 1), (replaced, 2), (loaded, 2), (moved, None)]
)
def test_weights_that_changed_are_seen(graphs, change, records):
    model = small()
    both = pair(model, [3, 2])
    both_step(both, 0)
    change(model)
    both_step(both, 1)
    assert records is None or len(graphs) == records


def test_a_type_that_changed_needs_a_new_cache_and_new_graphs(graphs):
    model = small()
    cache, by = read(model, [3]), Graphed(model, 1, *IDS)
    model.step(torch.tensor([1]), cache, *IDS, by)
    model.to(torch.bfloat16)
    both_step(pair(model, [3], by=by), 0, 2e-2, 2e-2)
    assert len(graphs) == 2


def test_what_cannot_be_recorded_is_taken_by_torch(graphs, monkeypatch):
    model, tries = small(), []

    def refuse(run, device, pool=None):
        tries.append(run())
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "capture", refuse)
    caches = pair(model, [5, 2])
    for step in range(6):
        both_step(caches, step)
    assert len(tries) == 1 and caches.by.name == "torch"


def test_a_graph_of_other_logits_is_dropped_and_looked_at_once(graphs, monkeypatch):
    monkeypatch.setattr(cuda_graph, "TOLERANCE", -1.0)
    model = small()
    for _ in range(2):
        caches = pair(model, [5, 2])
        for step in range(6):
            both_step(caches, step)
    assert len(graphs) == 1 and list(cuda_graph._right.values()) == [False]


def test_nothing_is_recorded_for_a_few_steps(graphs, monkeypatch):
    monkeypatch.setattr(cuda_graph, "LEAST", 4)
    model = small()
    caches = pair(model, [5, 2], capacity=18)
    counts = []
    for step in range(13):
        both_step(caches, step)
        counts.append(len(graphs))
    assert counts == [0, 0, 0] + [1] * 10  # slots 5..7, 8..15, 16 and 17


def test_buckets():
    assert [bucket(at, 1000) for at in (0, 127, 128, 900)] == [128, 128, 256, 1000]
    assert bucket(5, 60) == 60


@pytest.mark.parametrize("lengths", [[6, 6], [6, 2]])
def test_one_trace_serves_all_slots(lengths):
    """torch.compile finds no read from the device and no number that changes from step to step."""
    model, traces = small(), []

    def count(graph, inputs):
        traces.append(graph)
        return graph.forward

    cache, advance = read(model, lengths), TorchStep(model, 2, *IDS)
    compiled = torch.compile(
        lambda x_BD, at: advance(x_BD, Bucket(cache, at, 24)), backend=count, fullgraph=True
    )
    both = Pair(
        model, (cache, read(model, lengths)),
        lambda x_BD, cache: compiled(x_BD, torch.tensor([cache.longest])),
    )  # fmt: skip
    for step in range(5):
        both_step(both, step)
    assert len(traces) == 1


def test_the_rule_is_the_device():
    model = small()
    assert find(model) != "graph"
    with pytest.raises(UserError, match="the model is on cpu, not on a CUDA device"):
        find(model, "graph")
    there = SimpleNamespace(weight=SimpleNamespace(is_cuda=True))
    on_gpu = SimpleNamespace(token_embedding=there)
    assert find(on_gpu) == find(on_gpu, "graph") == "graph" and find(on_gpu, "torch") == "torch"


@pytest.mark.gpu
@ON_A_GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[5, 5], [5, 2, 9]])
def test_on_a_gpu(dtype, lengths, monkeypatch):
    monkeypatch.setattr(cuda_graph, "BUCKET", 8)
    monkeypatch.setattr(cuda_graph, "LEAST", 1)
    monkeypatch.setattr(cuda_graph, "_right", {})
    model = small(dtype).cuda()
    caches = [read(model, lengths) for _ in range(2)]
    by = Graphed(model, len(lengths), *IDS)
    close = (1e-4, 1e-4) if dtype == torch.float32 else (2e-2, 2e-2)
    for step in range(20):
        ids_B = ids(len(lengths), 1, step)[:, 0].cuda()
        found = [model.step(ids_B, caches[0], *IDS, by), model.step(ids_B, caches[1], *IDS)]
        torch.testing.assert_close(*found, rtol=close[0], atol=close[1])
    buckets = {bucket(max(lengths) + step, 40) for step in range(20)}
    assert not by.lost and by.graphs.keys() == buckets


@pytest.mark.gpu
@ON_A_GPU
def test_drawing_on_a_gpu_takes_graphs():
    model = small(torch.bfloat16).cuda()
    cache, by = read(model, [4, 3]), step_of(model, 2, *IDS)
    for _ in range(5):
        assert torch.isfinite(model.step(torch.tensor([1, 2]).cuda(), cache, *IDS, by)).all()
    assert by.name == "graph" and not by.lost and len(cuda_graph._right) >= 1
