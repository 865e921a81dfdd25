"""The one training loop: image tokenizer, feature network and transformer all go through `train`.

A batch is a pure function of the step, so a run that was killed continues with the bytes an
unbroken one would have had (same machine, same number of threads, CPU). A run folder holds
`state.json`, which names the one valid `state-<step>.safetensors`, and `log.jsonl`.
Steps count from 1: step s draws batch(s), uses learning_rate(s) and is the s-th update.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from cm3leon.checkpoint import STATE, read_state
from cm3leon.config import TrainConfig
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes, write_atomic
from cm3leon.progress import QUIET_S, alive, progress, spoke
from cm3leon.training.optimizer import precision
from cm3leon.training.parallel import ALONE, Alone, whole
from cm3leon.training.schedule import check_same_run, learning_rate, run_settings

Loss = Callable[[nn.Module, object, int], tuple[torch.Tensor, dict]]
LOG = "log.jsonl"


@dataclass(frozen=True)
class Problem:
    """What a training minimises, and on what.

    `loss(module, batch, step)` gives a scalar to minimise and a dict of scalars to log: each is
    averaged over the steps since the last record, except "tokens", which is summed and becomes
    tokens_per_s and "tokens", those of all steps so far. `batch(step)` is a tensor, or a dict,
    tuple or list of tensors, and must depend on nothing but the step. `parts(batch)`, if given,
    cuts a batch into pieces whose losses and scalars are summed: gradient accumulation
    (`batches.split`). `evaluate(module)` gives held-out numbers every `eval_every` steps. `about`
    is whatever else names this run (model configuration, digests of the data); a folder begun with
    another one is refused. With `flops_per_token` (forward and backward) and `device_flops` (peak
    FLOP/s) the log holds the model FLOPs utilisation, `mfu`.
    """

    loss: Loss
    batch: Callable[[int], object]
    parts: Callable[[object], Sequence] | None = None
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None
    about: Mapping = field(default_factory=dict)
    flops_per_token: float = 0.0
    device_flops: float = 0.0


def train(
    module: nn.Module,
    problem: Problem,
    config: TrainConfig,
    folder: str | Path,
    *,
    start: Path | None = None,
    ranks: Alone = ALONE,
) -> dict:
    """Train `module` in place for `config.steps` updates; continues where `folder` stopped.

    `start` is the file of a state, of another folder, that a run begins from
    (`schedule.decay_from`); its log comes along. `ranks` are the processes of the training
    (`parallel.py`), of which this is one: `module` and the batches are what they make of them.

    Returns {"step", "seconds", "loss", "tokens"} at the end. SIGTERM and SIGINT finish the step,
    save and raise SystemExit(128 + signal). Raises UserError for another configuration in
    `folder`, for a loss or gradient that is not finite (the last good state stays), and for a full
    disk.
    """
    folder = Path(folder)
    identity = _identity(config, problem.about)
    ranks.check_same(identity)
    device, optimizer = next(module.parameters()).device, ranks.optimizer(module, config)
    keep_memory(device)
    cast = precision(config, device)
    peak = problem.device_flops
    mfu = problem.flops_per_token / peak if peak else 0.0
    stop = 0
    log_of, bar_of = (_Log(folder / LOG), _Progress(config.steps)) if ranks.first else (SILENT,) * 2
    with _Signals() as signals, log_of as log, bar_of as bar, alive("training"):
        source = start if start and not (folder / STATE).exists() else folder
        run = _Run(ranks.load_state(source, module, optimizer, identity, check_same_run), ranks)
        log.begin(run.step, None if source == folder else source.parent / LOG, run.log)
        bar.start(run.step, source)
        module.train()
        for step in range(run.step + 1, config.steps + 1):
            run.note(step, _update(module, optimizer, problem, step, config, cast))
            stop = ranks.agreed(signals.received)  # read once: it may change at any line below
            evaluates, logs, saves = _due(step, config, problem.evaluate is not None)
            if logs or saves or stop:
                run.settle()
            if logs:
                record = run.record(learning_rate(step, config), mfu) | ranks.memory(device)
                if evaluates:
                    record |= _held_out(module, problem.evaluate, device, cast)
                    run.window_started = time.monotonic()  # speed means speed of training
                log.append(record)
                bar.show(step, record)
            if saves or stop:
                log.sync()
                at = run.position() | {"log": log.known()}
                ranks.save_state(folder, module, optimizer, identity, at, config.keeps(step))
            if stop:
                break
    if run.step < config.steps:
        if ranks.first:
            print(
                f"stopped: step {run.step} of {config.steps} is saved in {folder}", file=sys.stderr
            )
        raise SystemExit(128 + stop)
    return {"step": run.step, "seconds": run.seconds(), "loss": run.loss, "tokens": run.tokens}


def _due(step: int, config: TrainConfig, evaluated: bool) -> tuple[bool, bool, bool]:
    """Whether held-out numbers, a log record and a state are due behind a step."""
    ends = step == config.steps
    evaluates = evaluated and (ends or step % config.eval_every == 0)
    logs = evaluates or ends or step == 1 or step % config.log_every == 0
    return evaluates, logs, ends or config.keeps(step) or step % config.save_every == 0


def steps_for_tokens(tokens: float, tokens_per_step: float) -> int:
    """Updates needed to see `tokens`: 2.4e12 at 8e6 a step are 300,000 (Table 3, Fig. 3)."""
    if not (tokens > 0 and tokens_per_step > 0):
        raise UserError(
            f"tokens and tokens_per_step must be positive, got {tokens}, {tokens_per_step}"
        )
    return math.ceil(tokens / tokens_per_step)


def _identity(config: TrainConfig, about: Mapping) -> dict:
    """What names a run, in JSON's types."""
    named = {"train": run_settings(config), **about}
    return json.loads(json.dumps(named, default=str))


def _update(module, optimizer, problem: Problem, step: int, config: TrainConfig, cast) -> dict:
    """One optimiser step on the sum of the pieces' losses; returns scalars still on the device."""
    device, sums = next(module.parameters()).device, {}
    inputs = _moved(problem.batch(step), device)
    optimizer.zero_grad(set_to_none=True)
    for piece in problem.parts(inputs) if problem.parts else [inputs]:
        with _autocast(device, cast):
            value, scalars = problem.loss(module, piece, step)
        value.backward()
        for name, scalar in {"loss": value.detach(), **scalars}.items():
            sums[name] = sums[name] + scalar if name in sums else scalar
    norm = whole(nn.utils.clip_grad_norm_(module.parameters(), config.clip))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.step()
    return {"loss": sums.pop("loss"), "gradient_norm": norm, **sums}


def _held_out(module, evaluate, device, cast) -> dict:
    """Held-out numbers, each under the name `held_out_<name>`."""
    module.eval()
    with torch.no_grad(), _autocast(device, cast):
        found = {f"held_out_{name}": float(value) for name, value in evaluate(module).items()}
    module.train()
    return found


def _autocast(device: torch.device, cast: torch.dtype):
    if cast == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, cast)


def _moved(batch, device: torch.device):
    """The batch with every tensor in it on the device."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(_moved(value, device) for value in batch)
    return batch


def keep_memory(device: torch.device) -> None:
    """On a CPU let the C library keep what this process frees instead of handing it back: on Linux
    a step's large tensors otherwise cost a page fault every 4 KiB, again each step (LOG.md).
    """
    if device.type != "cpu":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL("libc.so.6")
        for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            library.mallopt(option, 2**30)


def read_log(folder: Path) -> list[dict]:
    """The log of a run that has ended, a record a line, as its state knows it.

    Raises UserError for one that is missing or damaged.
    """
    path, known = folder / LOG, read_state(folder / STATE)["position"].get("log")
    try:
        data = path.read_bytes()
        if known and sha256_bytes(data[: known[0]]) != known[1]:
            raise ValueError("it is not what its state names")
        return [json.loads(line) for line in data.splitlines()]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot read {path}: {reason}; copy it again, or remove {folder} to train anew"
        ) from None


class _Run:
    """Where a run stands: the step, the seconds spent and the sums since the last log record."""

    def __init__(self, position: dict | None, ranks: Alone = ALONE):
        was, self.ranks = position or {}, ranks
        self.step, self.loss = was.get("step", 0), was.get("loss", math.nan)
        self.tokens = was.get("tokens", math.nan if was else 0)  # older states do not say
        self.count, self.sums = was.get("count", 0), dict(was.get("sums", {}))
        self.spent = was.get("seconds", 0.0)  # in earlier processes
        self.window_spent = was.get("window_seconds", 0.0)  # of those, since the last record
        self.started = self.window_started = time.monotonic()
        self.log = was.get("log")  # [bytes, digest] of the log then
        self.late: tuple[int, dict] | None = None

    def position(self) -> dict:
        """What a later process needs to go on, in JSON's types."""
        return {
            "step": self.step,
            "loss": self.loss,
            "tokens": self.tokens,
            "count": self.count,
            "sums": self.sums,
            "seconds": self.seconds(),
            "window_seconds": self.window_spent + time.monotonic() - self.window_started,
        }

    def seconds(self) -> float:
        """Seconds of training in all processes so far."""
        return self.spent + time.monotonic() - self.started

    def note(self, step: int, values: dict) -> None:
        """Take the results of a step and count those of the step before.

        Reading one step late means that an accelerator never waits for this process.
        """
        before, self.late = self.late, (step, values)
        if before:
            self._count(*before)

    def settle(self) -> None:
        """Count the results of the newest step."""
        if self.late:
            self._count(*self.late)
        self.late = None

    def _count(self, step: int, values: dict) -> None:
        values = self.ranks.summed({name: float(value) for name, value in values.items()})
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(values[name]):
                raise UserError(
                    f"{name} is {values[name]} at step {step}{self.ranks.where(name)}; train into "
                    "a new folder with a lower rate or clip (the state saved last is kept)"
                )
        self.step, self.loss = step, values["loss"]
        self.count += 1
        self.tokens += round(values.get("tokens", 0))
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def record(self, rate: float, mfu_per_token_s: float) -> dict:
        """The log record of the steps since the last one, which it forgets."""
        window = max(self.window_spent + time.monotonic() - self.window_started, 1e-9)
        means = {name: total / self.count for name, total in self.sums.items() if name != "tokens"}
        record = {
            "step": self.step,
            "seconds": round(self.seconds(), 3),
            "learning_rate": rate,
            **means,
        }
        if "tokens" in self.sums:
            record["tokens"] = self.tokens
            record["tokens_per_s"] = round(self.sums["tokens"] / window, 1)
            if mfu_per_token_s:
                record["mfu"] = record["tokens_per_s"] * mfu_per_token_s
        record["steps_per_s"] = round(self.count / window, 4)
        self.sums, self.count, self.window_spent = {}, 0, 0.0
        self.window_started = time.monotonic()
        return record


class _Log:
    """JSON lines of one run; open in one process at a time."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> _Log:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "a+b")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; name a folder") from None
        with contextlib.suppress(ImportError):  # not on Windows
            import fcntl

            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.file.close()
                raise UserError(
                    f"{self.path.parent} is in use by another training; wait or name another folder"
                ) from None
        return self

    def __exit__(self, *error) -> None:
        self.file.close()

    def begin(self, step: int, other: Path | None, known: list | None = None) -> None:
        """Drop what follows `step`, and a torn tail: the resumed run logs those steps again.

        `known` is what the state says of the log, its bytes and their digest: where they differ it
        is read line by line, and what is damaged is left out with a note. With `other`, the log of
        the run that this one branches from is taken over first.
        """
        with self._writing():
            if other and other.exists():
                self.file.truncate(0)
                self.file.write(other.read_bytes())
                self.file.flush()
            data = self.path.read_bytes()
            if known and sha256_bytes(data[: known[0]]) == known[1]:
                self.file.truncate(known[0])
                return
            kept, lost = whole_lines(data, step)
            if known or lost:
                told = f"{lost} damaged lines are left out" if lost else "all its lines can be read"
                print(
                    f"note: {self.path} is not what was written up to step {step}; {told}",
                    file=sys.stderr,
                )
            if not data.startswith(kept):
                write_atomic(self.path.with_suffix(".damaged"), data)
                with open(self.path, "r+b") as file:  # where it is: this process has it locked
                    file.write(kept)
            self.file.truncate(len(kept))

    def known(self) -> list:
        """[bytes, SHA-256] of what is written."""
        data = self.path.read_bytes()
        return [len(data), sha256_bytes(data)]

    def append(self, record: dict) -> None:
        """Write one record; numbers that are not finite become null."""
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in record.items()
        }
        with self._writing():
            self.file.write(json.dumps(finite).encode() + b"\n")
            self.file.flush()

    def sync(self) -> None:
        """Make the log at least as new on the disk as the state that follows it."""
        with self._writing():
            os.fsync(self.file.fileno())

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free space") from None


def whole_lines(data: bytes, step: int) -> tuple[bytes, int]:
    """(the lines of a log up to a step, how many are damaged); a torn last line is no damage."""
    kept, lost = [], 0
    for line in data.split(b"\n")[:-1]:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            lost += 1
    return b"".join(kept), lost


class _Silent:
    """Log and progress of a process that is not the first."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *error) -> None:
        pass

    def __getattr__(self, name: str) -> Callable:
        return lambda *given: None


SILENT = _Silent()


class _Signals:
    """Remembers SIGTERM or SIGINT; a second one acts as it did before us."""

    def __init__(self):
        self.received = 0
        self.before: dict = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error) -> None:
        while self.before:
            signal.signal(*self.before.popitem())

    def _note(self, number, frame) -> None:
        self.received = number
        self.__exit__()


class _Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, steps: int):
        self.steps, self.done, self.bar = steps, 0, None
        self.started, self.spoke = time.monotonic(), -math.inf

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error) -> None:
        if self.bar:
            self.bar.close()

    def start(self, done: int, source: Path) -> None:
        """Begin after `done` steps of earlier processes, whose state lies at `source`."""
        self.done = done
        if done:
            told = "goes on" if done < self.steps else "is there already: nothing is trained"
            print(f"step {done} of {self.steps} of {source} {told}", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            self.bar = progress(self.steps, "train", done, "step")

    def show(self, step: int, record: dict) -> None:
        """Report a log record."""
        loss = f"training loss {record['loss']:.4f}"
        if "held_out_loss" in record:
            loss += f", held out {record['held_out_loss']:.4f}"
        speed = f"{record['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in record else ""
        if self.bar:
            self.bar.set_postfix_str(f"{loss} {speed}", refresh=False)
            self.bar.update(step - self.bar.n)
            return
        now = time.monotonic()
        if now - self.spoke < QUIET_S and step != self.steps:
            return
        self.spoke = now
        spoke()
        eta = (now - self.started) / max(1, step - self.done) * (self.steps - step)
        left = f"{int(eta // 60)}:{int(eta % 60):02d} left"
        print(
            f"step {step}/{self.steps}  {loss}  {speed}  {left}",
            file=sys.stderr,
            flush=True,
        )
