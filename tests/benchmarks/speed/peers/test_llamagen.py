"""LlamaGen's loop as a peer: imported from a folder that leaves no trace, of our shape, drawing."""

import os
import sys
import types

import pytest
import torch

from benchmarks.speed.peers import llamagen as llamagen_peer
from benchmarks.speed.peers.llamagen import read_checkout, square
from benchmarks.speed.subjects import find_subject
from cm3leon.errors import UserError
from tests.llamagen_code import CODE, written_checkout

GPT, LOOP = "autoregressive/models/gpt.py", "autoregressive/models/generate.py"
REAL = os.environ.get("CM3LEON_LLAMAGEN")  # a checkout of FoundationVision/LlamaGen


def own_modules() -> dict:
    return {name: sys.modules[name] for name in sys.modules
            if name.split(".")[0] in llamagen_peer.ROOTS}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_peer_has_our_shape_and_draws(tmp_path, dtype, guidance):
    code = read_checkout(written_checkout(tmp_path))
    subject = find_subject("2x64x2", 32)
    model = code.make(subject, dtype, "cpu")
    shape = model.config
    assert (shape.n_layer, shape.dim, shape.n_head) == (2, 64, 2)
    assert (shape.vocab_size, shape.block_size, shape.model_type) == (4076, 36, "c2i")
    assert {weight.dtype for weight in model.parameters()} == {getattr(torch, dtype)}
    assert torch.get_default_dtype() == torch.float32 and not model.training
    assert (model.norm.weight == 1).all() and 0.01 < model.output.weight.float().std() < 0.03
    codes = code.drawing(model, 3, guidance, 0.9)(5)
    assert codes.shape == (3, 5) and codes.dtype == torch.int64 and int(codes.max()) < 4076
    asked = {"cfg_scale": guidance, "temperature": 1.0, "top_k": 0, "top_p": 0.9}
    (call,) = code.loop.CALLS
    assert call == asked | {"sample_logits": True}


def test_names_and_paths_are_as_before(tmp_path, monkeypatch):
    """Also where another package bears the name `utils`, which its code must not get."""
    other, path = types.ModuleType("utils"), list(sys.path)
    monkeypatch.setitem(sys.modules, "utils", other)
    before = own_modules()
    one = read_checkout(written_checkout(tmp_path / "one"))
    changed = CODE["autoregressive/models/generate.py"].replace("CALLS = []", "CALLS = [7]")
    two = read_checkout(written_checkout(tmp_path / "two", generate=changed))
    assert (one.loop.CALLS, two.loop.CALLS) == ([], [7])  # two checkouts, each its own code
    assert own_modules() == before and before["utils"] is other and sys.path == path
    assert one.sha256 != two.sha256 and len(one.sha256) == 64


@pytest.mark.parametrize("name", CODE)
def test_a_missing_file_is_one_line(tmp_path, name):
    folder = written_checkout(tmp_path)
    (folder / name).unlink()
    with pytest.raises(UserError) as raised:
        read_checkout(folder)
    assert str(raised.value) == (
        f"{folder} has no {name}; --llamagen takes a checkout of FoundationVision/LlamaGen"
    )


def test_code_that_does_not_import_is_one_line(tmp_path):
    before = own_modules()
    folder = written_checkout(tmp_path, generate="import no_such_package\n\n\nmore\n")
    with pytest.raises(UserError, match="cannot be loaded: No module named 'no_such_package'"):
        read_checkout(folder)
    assert own_modules() == before


FAULTS = {  # of the published code: what stands in which file, in its place, and the line
    "generate of another torch": (LOOP, "model.begin", "torch.gone", "its generate does .*'gone'"),
    "generate that looks up": (LOOP, "model.begin", "{}['x']", "its generate does not .*: 'x'"),
    "generate that divides": (
        LOOP,
        "model.begin",
        "1 / 0; model.begin",
        "its generate does not run",
    ),
    "a network of other options": (GPT, "cls_token_num", "cls_tokens", "its ModelArgs does not"),
    "a network that does not begin": (GPT, "super().__init__()", "1 / 0", "its Transformer does"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_code_that_does_not_run_is_one_line(tmp_path, fault):
    file, old, new, message = FAULTS[fault]
    folder = written_checkout(tmp_path)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message) as error:
        code = read_checkout(folder)
        code.drawing(code.make(find_subject("2x64x2", 16), "float32", "cpu"), 1, 3.0, 0.9)(4)
    assert "\n" not in str(error.value)


def test_a_loop_without_memory_is_no_fault_of_the_code(tmp_path):
    loop = CODE[LOOP].replace("model.begin", "(_ for _ in ()).throw(MemoryError('all gone'))")
    code = read_checkout(written_checkout(tmp_path, generate=loop))
    draw = code.drawing(code.make(find_subject("2x64x2", 16), "float32", "cpu"), 1, 3.0, 0.9)
    with pytest.raises(MemoryError, match="all gone"):  # which `latency` keeps a row for
        draw(4)


def test_a_loop_that_gives_something_else_is_one_line(tmp_path):
    loop = CODE[LOOP] + "\n_generate = generate\n\n\ndef generate(*a, **k):\n    return 7\n"
    code = read_checkout(written_checkout(tmp_path, generate=loop))
    draw = code.drawing(code.make(find_subject("2x64x2", 16), "float32", "cpu"), 1, 3.0, 0.9)
    with pytest.raises(UserError, match=r"its generate gave \[\], not \[1, 4\] codes"):
        draw(4)


def test_heads_it_cannot_turn_are_named(tmp_path):
    code = read_checkout(written_checkout(tmp_path))
    with pytest.raises(UserError, match="multiple of 4 numbers, those of 2x36x6 have 6"):
        code.make(find_subject("2x36x6", 16), "float32", "cpu")


def test_squares():
    assert [square(tokens) for tokens in (1, 2, 16, 17, 64, 256, 1000, 1024)] == [
        1, 4, 16, 25, 64, 256, 1024, 1024,
    ]  # fmt: skip


@pytest.mark.skipif(REAL is None, reason="CM3LEON_LLAMAGEN names no checkout of LlamaGen")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_published_code_draws(dtype, guidance):
    """Up to the last place: the longest drawing fills the picture."""
    code, subject = read_checkout(REAL), find_subject("2x64x2", 20)
    model = code.make(subject, dtype, "cpu")
    draw = code.drawing(model, 2, guidance, 0.9)
    assert draw(4).shape == (2, 4)
    codes = draw(subject.tokens)
    assert codes.shape == (2, 20) and codes.dtype == torch.int64
    assert int(codes.min()) >= 0 and int(codes.max()) < 4076
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    wide = code.make(find_subject("2x256x8", 16), dtype, "cpu")
    weights = sum(weight.numel() for weight in wide.layers.parameters() if weight.ndim > 1)
    assert weights / (2 * 12 * 256**2) == pytest.approx(1.083, abs=1e-3)
