"""The learning rate of every step, and what may follow on a run that is under way.

"linear" is the paper's schedule (A10). "wsd" is warm-up, stable, decay (Hu et al. 2024, arXiv
2404.06395, section 4; Hägele et al. 2024, arXiv 2405.18392): how long the stable part is need not
be known when it begins, and short decays from several of its states are models of several budgets.
A plan is a schedule's end: `PLAN`. It may change while the steps made so far had the same rates.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cm3leon.checkpoint import STATE, read_state, refuse_other, state_file
from cm3leon.config import TrainConfig, from_dict, to_dict
from cm3leon.errors import UserError, note

PLAN = ("steps", "decay", "final")  # fields of TrainConfig that say how a run ends
CADENCE = ("save_every", "eval_every", "log_every")  # those that change no weight
ROUNDING = ("accumulate",)  # beside them: what a run is made by, of which only rounding hangs
LATER = {"schedule": "linear", "decay": 0}  # fields that runs of older versions do not name


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear from 0 to the peak at step == warmup, the peak until `config.decay_start`, then
    linear to `final` of it at the last step.
    """
    if step < config.warmup:
        return config.rate * step / config.warmup
    if config.steps == config.decay_start:
        return config.rate
    done = (step - config.decay_start) / (config.steps - config.decay_start)
    return config.rate * (1 + (config.final - 1) * min(1.0, max(0.0, done)))


def run_settings(config: TrainConfig) -> dict:
    """The settings that name a run: all but `keep_every`, which changes no weight."""
    values = to_dict(config)
    del values["keep_every"]
    return {name: value for name, value in values.items() if LATER.get(name) != value}


def check_same_run(stored: dict, identity: dict, place: Path) -> None:
    """Raise UserError unless the run `identity` may go on from a stored state of a run.

    It may when all that names it is the same, but for what changes no weight (`CADENCE`) or only
    its rounding (`ROUNDING`, with a note), and for the plan (`PLAN`), which may be another one
    where both give the same learning rate to every step up to the stored one.
    """
    old, new = stored["identity"], identity
    free = {name: new["train"].get(name) for name in (*PLAN, *CADENCE) if name in new["train"]}
    train = {name: value for name, value in old.get("train", {}).items() if name not in PLAN}
    rounded = {name: new[name] for name in ROUNDING if name in old and name in new}
    refuse_other({**old, **rounded, "train": train | free}, new, place)
    was, now = (from_dict(TrainConfig, one["train"]) for one in (old, new))
    step = stored["position"]["step"]
    if now.steps < step:
        raise UserError(
            f"{place} stands at step {step} already, --steps {now.steps} lies before; give more "
            "steps, or train into a new --out"
        )
    check_same_rates(was, now, step, place)
    for name, value in rounded.items():
        if old[name] != value:
            note(
                f"{place} was trained with {name} {old[name]} so far and goes on with {value}: the "
                "same sums, rounded otherwise"
            )


def check_same_rates(was: TrainConfig, now: TrainConfig, done: int, place: Path) -> None:
    """Raise UserError where two plans give one of the first `done` steps another rate."""
    for step in range(1, 1 + (done if was != now else 0)):
        if learning_rate(step, was) != learning_rate(step, now):
            way = ", or branch from its stable part" if was.schedule == "wsd" else ""
            raise UserError(
                f"{place} stands at step {done} {_end(was)}, in which step {step} has another "
                f"learning rate than in one {_end(now)}; use the same plan{way}, or train into a "
                "new --out"
            )


def _end(config: TrainConfig) -> str:
    """How a plan ends, in words."""
    if config.schedule == "wsd":
        return f"of {config.steps} steps with a decay of {config.decay} to {config.final:g}"
    return f"of {config.steps} steps down to {config.final:g} of the peak"


def decay_from(
    run: Path, decay: int, out: Path, step: int | None = None
) -> tuple[TrainConfig, Path | None]:
    """Settings and start of a branch: `train(..., config, out, start=start)` goes on from a state
    of the stable part of `run`, that of a step or the newest, and decays for `decay` steps.

    It ends as a run with these settings that was never branched does, to the last bit on a CPU.
    Where `out` was begun, it goes on there. Raises UserError as `find_state` does.
    """
    if (out / STATE).exists():
        config, start = stored_config(read_state(out / STATE)), None
        step = config.decay_start if step is None else step
    else:
        start, state = find_state(run, step)
        config, step = stored_config(state), state["position"]["step"]
    return replace(config, steps=step + decay, decay=decay), start


def find_state(run: Path, step: int | None = None) -> tuple[Path, dict]:
    """A state of the stable part of a run, its file and content: that of a step, or the newest.

    Raises UserError where there is none, where the run's schedule is "linear", or where the step
    lies in the decay: of a rate that fell, no plan can be made again.
    """
    states = {}
    for path in [run / STATE, *run.glob("state-*.json")]:
        if path.exists():
            found = read_state(path)
            states[found["position"]["step"]] = (path, found)
    if not states:
        raise UserError(f"{run} holds no state of a training; name the folder of one")
    configs = {at: stored_config(found) for at, (_, found) in states.items()}
    if "wsd" not in (config.schedule for config in configs.values()):
        raise UserError(
            f"{run} was trained with schedule 'linear', whose rate falls from the warm-up on; "
            "decay from a run with 'wsd'"
        )
    stable = [at for at, config in configs.items() if config.warmup <= at <= config.decay_start]
    kept = ", ".join(map(str, sorted(stable))) or "none"
    if step is None and stable:
        step = max(stable)
    if step not in stable:
        at = "a state" if step is None else f"step {step}"
        why = "lies outside of the stable part" if step in states else "is not kept"
        raise UserError(f"{at} of {run} {why}; kept of the stable part: {kept}")
    return states[step]


def keeps_state(run: Path, step: int) -> bool:
    """Whether the state of a step of the stable part is kept in the folder of a run."""
    return state_file(run, step).with_suffix(".json").exists()


def stored_config(state: dict) -> TrainConfig:
    """The settings of the run that a state is of."""
    return from_dict(TrainConfig, state["identity"]["train"])
