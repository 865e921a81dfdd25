"""The loop: schedule, precision, log, and that a killed run ends as an unbroken one does."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cm3leon import checkpoint, seeds
from cm3leon.config import TrainConfig
from cm3leon.errors import UserError
from cm3leon.training.loop import (
    Problem,
    learning_rate,
    precision,
    steps_for_tokens,
    train,
)
from cm3leon.training.optimizer import make_optimizer
from tests.training.rank_processes import forking

CONFIG = TrainConfig(
    steps=24, batch=8, warmup=6, save_every=5, eval_every=8, log_every=4, precision="float32"
)


def network() -> nn.Module:
    """Two layers and a buffer that training moves."""
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
    generator = seeds.torch_generator(0, "test")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    module.register_buffer("seen", torch.zeros((), dtype=torch.int64))
    return module


def batch(step: int) -> dict:
    x = torch.randn(8, 6, generator=seeds.torch_generator(1, "batch", step))
    return {"inputs": (x, x.flip(1)), "note": "kept"}


def loss(module, inputs, step):
    x, y = inputs["inputs"]
    module.seen += len(x)
    value = (module(x) - y).square().mean()
    return value, {"tokens": len(x), "root": value.detach().sqrt()}


def records(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def timeless(folder) -> list[dict]:
    """The log without what a clock wrote."""
    clock = ("seconds", "tokens_per_s", "steps_per_s")
    return [{k: v for k, v in record.items() if k not in clock} for record in records(folder)]


def run(folder, source=batch, config=CONFIG, **more) -> str:
    """Train to the end; the digest of the final weights."""
    module = network()
    train(module, Problem(loss, source, evaluate=held_out, **more), config, folder)
    return checkpoint.module_digest(module)


def held_out(module) -> dict:
    assert not module.training and not torch.is_grad_enabled()
    x, y = batch(10**6)["inputs"]
    return {"loss": float((module(x) - y).square().mean())}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Digest and log of a run nobody disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    return run(folder), timeless(folder)


class Killed(Exception):
    pass


def killed_at(step: int):
    """A batch source that dies at a step, as if the process had."""

    def source(now: int) -> dict:
        if now == step:
            raise Killed
        return batch(now)

    return source


def test_learning_rate_of_the_paper():
    config = TrainConfig(steps=300_000, warmup=1500, rate=1.2e-4)
    assert learning_rate(1500, config) == 1.2e-4
    assert learning_rate(0, config) == 0
    assert learning_rate(750, config) == pytest.approx(0.6e-4)
    assert learning_rate(300_000, config) == pytest.approx(1.2e-5)
    assert learning_rate(150_750, config) == pytest.approx(1.2e-4 * 0.55)
    assert [steps_for_tokens(n, 8e6) for n in (1.4e12, 1.9e12, 2.4e12)] == [175e3, 237.5e3, 300e3]
    assert steps_for_tokens(10, 3) == 4
    with pytest.raises(UserError, match="must be positive"):
        steps_for_tokens(1, 0)


@given(st.integers(1, 50), st.integers(0, 50), st.floats(0, 1))
def test_learning_rate_rises_then_falls(steps, warmup, final):
    config = TrainConfig(steps=steps, warmup=min(warmup, steps), final=final, rate=1.0)
    rates = [learning_rate(step, config) for step in range(1, steps + 1)]
    top = max(1, config.warmup)
    assert max(rates) <= 1.0
    assert rates[:top] == sorted(rates[:top])
    assert rates[top - 1 :] == sorted(rates[top - 1 :], reverse=True)
    assert config.warmup == steps or rates[-1] == pytest.approx(final)


def test_precision():
    automatic = TrainConfig(precision="auto")
    able = torch.cpu.get_capabilities()
    fast = able.get("avx512_bf16") or able.get("amx_bf16")
    assert precision(automatic, "cpu") == (torch.bfloat16 if fast else torch.float32)
    assert precision(automatic, "meta") == torch.float32
    assert precision(TrainConfig(precision="bfloat16"), "cpu") == torch.bfloat16
    assert precision(TrainConfig(precision="float32"), "cuda") == torch.float32


def test_matrices_decay_and_nothing_else():
    module = nn.ModuleDict({"linear": nn.Linear(3, 4), "position_embedding": nn.Embedding(5, 4)})
    decayed, free = make_optimizer(module, CONFIG).param_groups
    assert decayed["params"] == [module["linear"].weight] and decayed["weight_decay"] == 0.1
    assert free["params"] == [module["linear"].bias, module["position_embedding"].weight]
    assert free["weight_decay"] == 0 and decayed["betas"] == (0.9, 0.98)


def test_log(unbroken):
    log = unbroken[1]
    assert [record["step"] for record in log] == [1, 4, 8, 12, 16, 20, 24]
    assert [record["step"] for record in log if "held_out_loss" in record] == [8, 16, 24]
    first = network()
    x, y = batch(1)["inputs"]
    assert log[0]["loss"] == pytest.approx((first(x) - y).square().mean().item())
    assert log[0]["root"] == pytest.approx(math.sqrt(log[0]["loss"]))
    assert log[-1]["learning_rate"] == pytest.approx(CONFIG.rate * CONFIG.final)
    assert log[-1]["held_out_loss"] < log[2]["held_out_loss"] and log[0]["gradient_norm"] > 0


def test_speed_and_utilisation(tmp_path):
    run(tmp_path, flops_per_token=100.0, device_flops=1e9)
    for record in records(tmp_path):
        assert record["mfu"] == pytest.approx(record["tokens_per_s"] * 1e-7)
        assert record["tokens_per_s"] > 0 and record["seconds"] >= 0


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(2, 24), min_size=1, max_size=3))
def test_killed_runs_end_alike(tmp_path_factory, unbroken, steps):
    folder = tmp_path_factory.mktemp("killed")
    for step in sorted(steps):
        with pytest.raises(Killed):
            run(folder, killed_at(step))
    assert (run(folder), timeless(folder)) == unbroken
    assert len(list(folder.glob("state-*"))) == 1


def test_layout_in_memory_survives(tmp_path):
    def convolution() -> nn.Module:
        module = nn.Sequential(nn.Conv2d(4, 5, 3), nn.Conv2d(5, 2, 3))
        generator = seeds.torch_generator(0, "convolution")
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        return module.to(memory_format=torch.channels_last)

    def pictures(step):
        x = torch.randn(2, 4, 6, 6, generator=seeds.torch_generator(2, step))
        return x.contiguous(memory_format=torch.channels_last)

    def dying(step):
        if step == 12:
            raise Killed
        return pictures(step)

    def energy(module, x, step):
        return (module(x) - x[:, :2, 2:4, 2:4]).square().mean(), {}

    def final(folder, source):
        module = convolution()
        train(module, Problem(energy, source), CONFIG, folder)
        return checkpoint.module_digest(module)

    with pytest.raises(Killed):
        final(tmp_path / "killed", dying)
    assert final(tmp_path / "killed", pictures) == final(tmp_path / "whole", pictures)


def test_a_finished_run_is_left_alone(tmp_path, unbroken):
    assert run(tmp_path) == run(tmp_path, killed_at(24)) == unbroken[0]
    assert timeless(tmp_path) == unbroken[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves(tmp_path, unbroken, number, capsys):
    before = signal.getsignal(number)

    def source(step):
        if step == 7:
            os.kill(os.getpid(), number)
        return batch(step)

    with pytest.raises(SystemExit) as stop:
        run(tmp_path, source)
    assert stop.value.code == 128 + number
    assert "step 7 of 24 is saved" in capsys.readouterr().err
    assert json.loads((tmp_path / "state.json").read_text())["position"]["step"] == 7
    assert signal.getsignal(number) is before
    assert (run(tmp_path), timeless(tmp_path)) == unbroken


def slow(step: int) -> dict:
    time.sleep(0.02)
    return batch(step)


def test_kill_nine(tmp_path, unbroken):
    child = forking().Process(target=run, args=(tmp_path, slow))
    child.start()
    late = time.monotonic() + 600  # only a machine far too busy needs it
    while not (tmp_path / "state.json").exists() and time.monotonic() < late:
        assert child.is_alive()
        time.sleep(0.005)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL  # killed in the middle, not ended by itself
    with open(tmp_path / "log.jsonl", "ab") as log:
        log.write(b'{"step": 9, "lo')  # what a kill during a write leaves
    assert (run(tmp_path), timeless(tmp_path)) == unbroken


DAMAGE = {  # of a line of the log's bytes: how many records are left out
    "a byte that is no UTF-8": (lambda data, at: data[:at] + b"\xff" + data[at + 1 :], 1),
    "a brace": (lambda data, at: data[:at] + b" " + data[at + 1 :], 1),
    "two lines in one": (lambda data, at: data.replace(b"\n{", b" {", 1), 2),
    "a number": (lambda data, at: data.replace(b'"learning_rate": 0', b'"learning_rate": 9', 1), 0),
    "nothing": (lambda data, at: data, 0),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_line_of_the_log_costs_itself_and_is_said(tmp_path, unbroken, capsys, case):
    run(tmp_path)
    path, (change, lost) = tmp_path / "log.jsonl", DAMAGE[case]
    before = path.read_bytes()
    path.write_bytes(change(before, before.index(b"\n") + 1))
    harmed = path.read_bytes()
    capsys.readouterr()
    assert run(tmp_path) == unbroken[0]  # finished: nothing is trained again
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(records(tmp_path)) == len(unbroken[1]) - lost
    assert len(said) == (case != "nothing") and (case == "nothing" or str(path) in said[0])
    if lost:
        assert path.with_suffix(".damaged").read_bytes() == harmed
        run(tmp_path)  # no second time
        assert len(records(tmp_path)) == len(unbroken[1]) - lost


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 1e-3}, r"train.rate = 0.002, this run has 0.001"),
        ({"betas": (0.9, 0.95)}, r"train.betas = \[0.9, 0.98\], this run has \[0.9, 0.95\]"),
        ({"steps": 48, "seed": 3}, r"train.seed = 0, this run has 3"),
        ({"steps": 48}, r"of 24 steps .*, in which step 7 has another learning rate than in one"),
        ({"steps": 20}, r"stands at step 24 already, --steps 20 lies before"),
    ],
)
def test_another_configuration_is_refused(tmp_path, change, message):
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=message) as error:
        run(tmp_path, config=replace(CONFIG, **change))
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_model_is_refused(tmp_path):
    run(tmp_path, about={"model": {"width": 8}, "data": "abc"})
    with pytest.raises(UserError, match=r"model.width = 8, this run has 9"):
        run(tmp_path, about={"model": {"width": 9}, "data": "abd"})
    with pytest.raises(UserError, match="data = 'abc', this run has None"):
        run(tmp_path, about={"model": {"width": 8}})
    with pytest.raises(UserError, match="in this Sequential"):
        problem = Problem(loss, batch, about={"model": {"width": 8}, "data": "abc"})
        train(nn.Sequential(nn.Linear(6, 6)), problem, CONFIG, tmp_path)


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_nan_stops_and_the_last_state_stays(tmp_path, unbroken, part):
    def spoilt(module, inputs, step):
        value, scalars = loss(module, inputs, step)
        if step == 12:
            slope = float("inf") if part == "gradient" else float("nan")
            value = value + slope * (module[0].weight[0, 0] - module[0].weight[0, 0].detach())
            if part == "gradient":
                value = value.nan_to_num(0.5) if value.isnan() else value
        return value, scalars

    with pytest.raises(UserError, match=r"(loss|gradient_norm) is (nan|inf) at step 12") as error:
        train(network(), Problem(spoilt, batch, evaluate=held_out), CONFIG, tmp_path)
    assert "\n" not in str(error.value)
    assert json.loads((tmp_path / "state.json").read_text())["position"]["step"] == 10
    assert run(tmp_path) == unbroken[0]


def test_the_console_says_which_loss_and_where_it_goes_on(tmp_path, unbroken, capsys):
    with pytest.raises(Killed):
        run(tmp_path, killed_at(14))
    assert "goes on" not in capsys.readouterr().err
    run(tmp_path)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == f"step 10 of 24 of {tmp_path} goes on"
    last = unbroken[1][-1]
    shown = f"training loss {last['loss']:.4f}, held out {last['held_out_loss']:.4f}  "
    assert rest[-1].startswith(f"step 24/24  {shown}")
    run(tmp_path)
    told = f"step 24 of 24 of {tmp_path} is there already: nothing is trained\n"
    assert capsys.readouterr().err == told


def test_a_damaged_state_is_refused(tmp_path):
    run(tmp_path)
    state = (tmp_path / "state.json").read_text()
    (tmp_path / "state.json").write_text(state[:30])
    with pytest.raises(UserError, match=r"state.json is no JSON"):
        run(tmp_path)
    (tmp_path / "state.json").write_text('{"tensors": "x"}')
    with pytest.raises(UserError, match="has no str 'sha256'"):
        run(tmp_path)
    (tmp_path / "state.json").write_text(state.replace('"step": 24', '"step": 20'))
    with pytest.raises(UserError, match="is not what was written"):
        run(tmp_path)
    (tmp_path / "state.json").write_text(state)
    next(tmp_path.glob("state-*")).unlink()
    with pytest.raises(UserError, match=r"cannot read .*24.safetensors: .*; train into a new fold"):
        run(tmp_path)


def test_one_training_at_a_time(tmp_path):
    def source(step):
        if step == 2:
            run(tmp_path)
        return batch(step)

    with pytest.raises(UserError, match="in use by another training"):
        run(tmp_path, source)


def test_full_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with pytest.raises(Killed):
        run(tmp_path, killed_at(7))
    before = (tmp_path / "state.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left on device") as error:
            run(tmp_path)
    assert "\n" not in str(error.value)
    assert (tmp_path / "state.json").read_bytes() == before


def test_bfloat16_casts_products_and_keeps_weights(tmp_path):
    seen = []

    def watched(module, inputs, step):
        value, scalars = loss(module, inputs, step)
        seen.append(module[0](inputs["inputs"][0]).dtype)
        return value, scalars

    module = network()
    config = replace(CONFIG, steps=6, precision="bfloat16")
    train(module, Problem(watched, batch), config, tmp_path)
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_a_step_is_of_the_sum_of_its_parts(tmp_path):
    """Two halves, each at half its loss, train as the whole batch does; scalars are summed."""

    def halves(inputs):
        x, y = inputs["inputs"]
        return [{"inputs": (x[at], y[at])} for at in (slice(0, 4), slice(4, 8))]

    def half(module, inputs, step):
        value, scalars = loss(module, inputs, step)
        return value / 2, {"tokens": scalars["tokens"], "share": 0.5}

    config = replace(CONFIG, log_every=1)
    whole, parted = network(), network()
    train(whole, Problem(loss, batch), config, tmp_path / "whole")
    train(parted, Problem(half, batch, parts=halves), config, tmp_path / "parted")
    for one, other in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)
    pairs = zip(records(tmp_path / "whole"), records(tmp_path / "parted"), strict=True)
    for one, other in pairs:
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5) and other["share"] == 1
    assert int(whole.seen) == int(parted.seen) == 24 * 8


FAULTS_OF_A_STEP = """
import resource, torch
from cm3leon.training.loop import keep_memory
keep_memory(torch.device("cpu"))
for _ in range(4):
    torch.ones(2**24).add_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24).add_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of the C library of Linux")
def test_memory_of_a_step_is_kept_for_the_next():
    """In a new process (a fork has its parent's heap): freed tensors come without a page fault."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS_OF_A_STEP], capture_output=True, text=True, check=True
    )
    faults = int(done.stdout)
    assert faults < 1000  # of the 16,384 pages
