"""What a training's log tells, to look at: loss.png, and loss.csv with a column a number."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
from pathlib import Path

from cm3leon.files import write_atomic

LOG = "log.jsonl"
HELD_OUT = "held_out"
PICTURE, COLUMNS = "loss.png", "loss.csv"


def write_curves(run: Path) -> list[Path]:
    """Write loss.csv and, where matplotlib is installed, loss.png of a run's log beside it."""
    log = read_lines(run / LOG)
    if not log:
        return []
    made = [write_columns(log, run / COLUMNS)]
    if losses(log) and importlib.util.find_spec("matplotlib") is not None:
        made.append(draw_losses(log, run / PICTURE))
    return made


def read_lines(path: Path) -> list[dict]:
    """Records of a log without the lines that are none: only pictures are made of them."""
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return [record for record in found if isinstance(record, dict) and "step" in record]


def write_columns(log: list[dict], path: Path) -> Path:
    """A row a record, a column a number: step, losses in nats, rate, tokens a second, ..."""
    names = list(dict.fromkeys(name for record in log for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(log)
    return write_atomic(path, out.getvalue())


def draw_losses(log: list[dict], path: Path) -> Path:
    """Training and held-out losses against steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for name in losses(log):
        points = [(one["step"], one[name]) for one in log if isinstance(one.get(name), int | float)]
        held = name.startswith(HELD_OUT)
        style = {"marker": "o", "markersize": 3} if held else {}
        axes.plot(*zip(*points, strict=True), linewidth=1, label=label(name), **style)
    axes.set(xlabel="step", ylabel="loss")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return write_atomic(path, buffer.getvalue())


def losses(log: list[dict]) -> list[str]:
    """Which numbers are losses: by kind where a training tells those, and what is held out."""
    names = dict.fromkeys(name for record in log for name in record)
    kinds = [name for name in names if name.endswith("_loss") and not name.startswith(HELD_OUT)]
    held = [name for name in (f"{HELD_OUT}_image", f"{HELD_OUT}_text") if name in names]
    if not held:
        held = [name for name in names if name.startswith(HELD_OUT) and name.endswith("loss")]
    return [*(kinds or [name for name in ("loss",) if name in names]), *held]


def label(name: str) -> str:
    """A loss in words: "image tokens, held out"."""
    held = name.startswith(HELD_OUT)
    kind = name.removeprefix(f"{HELD_OUT}_").removesuffix("_loss")
    what = f"{kind} tokens" if kind in ("image", "text") else "loss" if kind == "loss" else kind
    return f"{what}, {'held out' if held else 'training'}"
