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
from cm3leon.errors import UserError

PLAN = ("steps", "decay", "final")  # fields of TrainConfig that say how a "wsd" run ends
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

    It may when all that names it is the same, but for the plan of a "wsd" run (`PLAN`): that may
    be another one where both give the same learning rate to every step up to the stored one.
    """
    old, new = stored["identity"], identity
    if old.get("train", {}).get("schedule") != "wsd":
        return refuse_other(old, new, place)
    plan = {name: value for name, value in new["train"].items() if name in PLAN}
    kept = {name: value for name, value in old["train"].items() if name not in PLAN}
    refuse_other({**old, "train": kept | plan}, new, place)
    was, now = (from_dict(TrainConfig, one["train"]) for one in (old, new))
    for step in range(1, stored["position"]["step"] + 1):
        if learning_rate(step, was) != learning_rate(step, now):
            end = f"of {was.steps} steps with a decay of {was.decay} to {was.final:g}"
            raise UserError(
                f"{place} stands at step {stored['position']['step']} {end}, in which step {step} "
                f"has another learning rate than in {now.steps} with {now.decay} to "
                f"{now.final:g}; use the same plan, or branch from its stable part"
            )


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
