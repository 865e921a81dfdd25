"""Warm-up, stable, decay: rates, branches that equal a run planned so, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cm3leon import checkpoint, seeds
from cm3leon.config import TrainConfig
from cm3leon.errors import UserError
from cm3leon.training.loop import Problem, train
from cm3leon.training.schedule import decay_from, find_state, learning_rate, run_settings

STABLE = TrainConfig(
    steps=20, batch=4, warmup=3, schedule="wsd", keep_every=6, save_every=5, log_every=4,
    eval_every=40, precision="float32",
)  # fmt: skip
OPTIMIZERS = ("adamw", "muon")


class Killed(Exception):
    pass


def network() -> nn.Module:
    """A matrix that Muon takes between two that it does not."""
    layers = nn.Linear(6, 8), nn.ModuleDict({"blocks": nn.Linear(8, 8)}), nn.Linear(8, 6)
    module = nn.ModuleList(layers)
    generator = seeds.torch_generator(0, "schedule")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def batch(step: int) -> torch.Tensor:
    return torch.randn(4, 6, generator=seeds.torch_generator(1, "schedule", step))


def loss(module, x, step):
    y = module[2](module[1]["blocks"](module[0](x).relu()).relu())
    return (y - x.flip(1)).square().mean(), {"tokens": 10 + step % 3}


def run(folder, config, start=None, dies=None, **about) -> str:
    """Train to the end; the digest of the weights and of the optimiser's state."""

    def source(step):
        if step == dies:
            raise Killed
        return batch(step)

    module = network()
    train(module, Problem(loss, source, about=about), config, folder, start=start)
    return json.loads((folder / "state.json").read_text())["sha256"]


def log(folder) -> list[dict]:
    clock = ("seconds", "tokens_per_s", "steps_per_s")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in clock} for line in lines]


def planned(kind: str, start: int, decay: int) -> TrainConfig:
    return replace(STABLE, optimizer=kind, steps=start + decay, decay=decay)


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    """For each optimiser the folder of a run of 20 steps without a decay."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in OPTIMIZERS}
    for kind, folder in folders.items():
        run(folder, replace(STABLE, optimizer=kind))
    return folders


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40), st.floats(0, 1))
def test_rates_rise_stay_and_fall(steps, warmup, decay, final):
    decay = min(decay, steps)
    config = TrainConfig(
        steps=steps, warmup=min(warmup, steps - decay), decay=decay, final=final, rate=1.0,
        schedule="wsd",
    )  # fmt: skip
    rates = [learning_rate(step, config) for step in range(1, steps + 1)]
    start = steps - decay
    assert rates[: config.warmup] == [step / config.warmup for step in range(1, config.warmup + 1)]
    assert set(rates[config.warmup : start]) <= {1.0}
    fall = [1 - (1 - final) * (at + 1) / decay for at in range(decay)]
    assert rates[start:] == pytest.approx(fall)


@given(st.integers(1, 40), st.integers(0, 40), st.floats(0, 1))
def test_a_decay_over_all_but_the_warmup_is_the_papers_schedule(steps, warmup, final):
    linear = TrainConfig(steps=steps, warmup=min(warmup, steps), final=final)
    wsd = replace(linear, schedule="wsd", decay=steps - linear.warmup)
    for step in range(steps + 1):
        assert learning_rate(step, wsd) == learning_rate(step, linear)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("start", [6, 20])  # one that is kept on the way, and the last
def test_a_branch_equals_a_run_planned_so(stable, tmp_path, kind, start):
    config, state = decay_from(stable[kind], 7, tmp_path / "branch", start)
    assert config == replace(planned(kind, start, 7), keep_every=0)
    whole = run(tmp_path / "whole", planned(kind, start, 7))
    assert run(tmp_path / "branch", config, state) == whole
    last = log(tmp_path / "branch")[-1]
    assert last["learning_rate"] == pytest.approx(config.rate * config.final)
    assert last["tokens"] == sum(10 + step % 3 for step in range(1, start + 8))
    steps = [line["step"] for line in log(tmp_path / "branch")]
    assert steps == sorted(set(steps)) and steps[0] == 1  # the log tells the whole way


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("dies", [10, 12, 13, 15, 17])
def test_a_killed_run_ends_alike_wherever_it_died(tmp_path, kind, dies):
    config = planned(kind, 12, 5)
    whole = run(tmp_path / "whole", config)
    with pytest.raises(Killed):
        run(tmp_path / "killed", config, dies=dies)
    assert run(tmp_path / "killed", config) == whole
    assert log(tmp_path / "killed") == log(tmp_path / "whole")


@pytest.mark.parametrize("dies", [13, 14, 16])  # before the branch has a state, and after
def test_a_killed_branch_goes_on_as_its_own(stable, tmp_path, dies):
    run(tmp_path / "first", replace(planned("muon", 12, 0), save_every=2))
    config, state = decay_from(tmp_path / "first", 5, tmp_path / "branch")
    with pytest.raises(Killed):
        run(tmp_path / "branch", config, state, dies=dies)
    config, state = decay_from(tmp_path / "first", 5, tmp_path / "branch")
    assert (state is None) == (dies > 14)
    assert run(tmp_path / "branch", config, state) == run(
        tmp_path / "whole", replace(planned("muon", 12, 5), save_every=2)
    )


def test_a_stable_run_may_be_made_longer(stable, tmp_path):
    run(tmp_path, planned("adamw", 8, 0))
    assert run(tmp_path, planned("adamw", 20, 0)) == run(stable["adamw"], planned("adamw", 20, 0))
    kept = [find_state(tmp_path, step)[1]["position"]["step"] for step in (6, 8, 12, 18, 20)]
    assert kept == [6, 8, 12, 18, 20]
    assert len(list(tmp_path.glob("state-*.safetensors"))) == 5
    # a decay that was planned and has not begun can be moved, and its end changed
    with pytest.raises(Killed):
        run(tmp_path / "moved", planned("adamw", 10, 6), dies=11)
    later = replace(planned("adamw", 14, 6), final=0.5)
    assert run(tmp_path / "moved", later) == run(tmp_path / "planned", later)


def test_a_decay_that_began_stays_as_it_was_planned(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, planned("adamw", 10, 6), dies=16)
    before = (tmp_path / "state.json").read_bytes()
    for config in (
        planned("adamw", 14, 6),
        planned("adamw", 10, 7),
        planned("adamw", 16, 0),
        replace(planned("adamw", 10, 6), final=0.5),
    ):
        with pytest.raises(UserError, match=r"in which step 11 has another learning") as error:
            run(tmp_path, config)
        assert "\n" not in str(error.value)
    assert (tmp_path / "state.json").read_bytes() == before
    assert find_state(tmp_path)[1]["position"]["step"] == 10


def test_a_decay_needs_a_stable_state_of_the_same_run(stable, tmp_path):
    config, state = decay_from(stable["adamw"], 5, tmp_path / "b", 12)
    with pytest.raises(UserError, match="data = None, this run has 'another'"):
        run(tmp_path / "b", config, state, data="another")
    with pytest.raises(UserError, match=r"train.rate = 0.002, this run has 0.001"):
        run(tmp_path / "b", replace(config, rate=1e-3), state)
    with pytest.raises(UserError, match=r"step 13 of .* is not kept; .* part: 6, 12, 18, 20"):
        decay_from(stable["adamw"], 5, tmp_path / "b", 13)
    run(tmp_path / "decayed", planned("adamw", 5, 4))
    with pytest.raises(UserError, match=r"step 9 of .* lies outside .* part: 5$"):
        decay_from(tmp_path / "decayed", 5, tmp_path / "b", 9)
    run(tmp_path / "linear", replace(STABLE, schedule="linear", keep_every=0))
    with pytest.raises(UserError, match="was trained with schedule 'linear'"):
        decay_from(tmp_path / "linear", 5, tmp_path / "b")
    with pytest.raises(UserError, match=r"of 20 steps down to 0\.1 of the peak, in which step 4"):
        run(tmp_path / "linear", replace(STABLE, schedule="linear", keep_every=0, steps=30))
    with pytest.raises(UserError, match="holds no state of a training"):
        decay_from(tmp_path / "nothing", 5, tmp_path / "b")
    damaged = stable["adamw"] / "state-00000012.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match="has digest"):
        run(tmp_path / "b", config, state)
    damaged.write_bytes(whole)


def test_runs_of_older_versions_go_on(tmp_path):
    config = replace(STABLE, schedule="linear", keep_every=0)
    assert {"schedule", "decay", "keep_every"}.isdisjoint(run_settings(config))
    with pytest.raises(Killed):
        run(tmp_path, config, dies=12)
    path = tmp_path / "state.json"
    about = json.loads(path.read_text())
    del about["position"]["tokens"]  # which they did not count
    checkpoint.write_about(path, about)
    assert run(tmp_path, config) == run(tmp_path / "whole", config)
    assert log(tmp_path)[-1]["tokens"] is None


def test_moments_of_the_optimiser_come_along(stable, tmp_path):
    """A branch from weights alone ends elsewhere, so the equality above is one of all of it."""
    config, state = decay_from(stable["adamw"], 5, tmp_path / "branch", 12)
    right = run(tmp_path / "branch", config, state)
    about = json.loads(state.read_text())
    tensors = checkpoint.read_tensors(state.parent / about["tensors"], about["sha256"])
    bare = {name: value for name, value in tensors.items() if name.startswith("module/")}
    (tmp_path / "bare").mkdir()
    about["sha256"] = checkpoint.write_tensors(tmp_path / "bare" / about["tensors"], bare)
    checkpoint.write_about(tmp_path / "bare/state.json", about)
    assert run(tmp_path / "other", config, tmp_path / "bare/state.json") != right


FREE = {"save_every": 2, "eval_every": 3, "log_every": 1}


@pytest.mark.parametrize("kind", ["linear", "wsd"])
def test_what_changes_no_weight_may_change_on_the_way(tmp_path, kind):
    config = replace(STABLE, schedule=kind, keep_every=0)
    with pytest.raises(Killed):
        run(tmp_path / "a", config, dies=13)
    run(tmp_path / "whole", config)
    assert run(tmp_path / "a", replace(config, **FREE)) == run(tmp_path / "whole", config)
    assert [one["step"] for one in log(tmp_path / "a")] == [1, 4, 8, *range(11, 21)]


def test_a_plan_never_ends_before_where_it_stands(stable, tmp_path):
    with pytest.raises(UserError, match="stands at step 20 already, --steps 9 lies before"):
        run(stable["adamw"], replace(STABLE, steps=9))


def test_a_plan_is_free_in_the_warmup(tmp_path):
    config = replace(STABLE, schedule="linear", keep_every=0, warmup=15)
    with pytest.raises(Killed):
        run(tmp_path / "a", config, dies=12)  # stands at 10
    with pytest.raises(UserError, match=r"train.warmup = 15, this run has 14"):
        run(tmp_path / "a", replace(config, warmup=14))
    longer = replace(config, steps=24, final=0.5)
    assert run(tmp_path / "a", longer) == run(tmp_path / "whole", longer)


def test_pieces_may_change_with_a_note(tmp_path, capsys):
    run(tmp_path, STABLE, accumulate=2)
    run(tmp_path, replace(STABLE, steps=22), accumulate=3)
    said = capsys.readouterr().err
    assert "was trained with accumulate 2 so far and goes on with 3: the same sums" in said
    assert json.loads((tmp_path / "state.json").read_text())["identity"]["accumulate"] == 3
    run(tmp_path, replace(STABLE, steps=22), accumulate=3)
    assert "accumulate" not in capsys.readouterr().err
