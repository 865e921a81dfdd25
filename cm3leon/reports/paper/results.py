"""What the report is made from: records, trainings, quoted rows; and numbers taken from them.

`Inputs` holds everything that was read; the functions choose and take numbers, each a `Part` that
knows its source (paper_model.numeral).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cm3leon.config import ModelConfig, from_dict
from cm3leon.errors import UserError
from cm3leon.reports import extra, key_of, leading, main_arm
from cm3leon.reports.paper.model import PUBLISHED_NAME, Part, Parts, numeral, plain
from cm3leon.reports.records.store import column, digest, largest_n, weight

ZERO_SHOT = "zero-shot FID-30K on MS-COCO"
TUNED = "FID-30K on MS-COCO after tuning on it"
A100_FLOPS, UTILISATION, DAY = 312e12, 0.4, 86400.0  # for quoted trainings without a cost
VOCABULARY = 65536  # of the paper, as we read it
DASH = (plain("\N{EN DASH}"),)


@dataclass(frozen=True)
class Run:
    """A record and its path below the results folder, written `results/...`."""

    record: Mapping
    path: str

    @property
    def bench(self) -> str:
        return self.record["bench"]

    @property
    def system(self) -> str:
        return self.record["system"]["name"]

    @property
    def on_coco(self) -> bool:
        """Whether it is of MS-COCO, not of the embedded world."""
        return self.record["protocol"].get("data") == "coco"

    @property
    def main_arm(self) -> str | None:
        """Split and arm of the headline; None where the record is of one split."""
        return main_arm(self.record)


@dataclass(frozen=True)
class Model:
    """A shipped transformer: config.json, training log, the grid of its drawings (JPEG)."""

    name: str
    about: Mapping
    log: tuple[Mapping, ...] = ()
    samples: bytes | None = None

    @property
    def folder(self) -> str:
        return f"baselines/scenes/{self.name}"

    @property
    def start(self) -> str | None:
        """The model whose training it went on from."""
        return self.about["extra"].get("start")

    @property
    def retrieves(self) -> bool:
        """Whether it was trained with documents."""
        return "retrieval" in self.about["extra"]

    @property
    def logged(self) -> bool:
        """Whether its log has losses to draw."""
        return any("image_loss" in one for one in self.log)


@dataclass(frozen=True)
class Inputs:
    """Everything the report is made from; runs oldest first."""

    runs: tuple[Run, ...]
    published: Mapping
    models: tuple[Model, ...] = ()
    pages: Mapping[str, bytes] = field(default_factory=dict)  # split -> JPEG of retrieval

    def of(self, bench: str) -> list[Run]:
        """The newest run of every system and protocol of a benchmark."""
        latest = {(run.system, column(run.record)): run for run in self.runs if run.bench == bench}
        return list(latest.values())

    @property
    def benches(self) -> set[str]:
        """The benchmarks that have a record."""
        return {run.bench for run in self.runs}

    @property
    def sizes(self) -> list[Part]:
        """Parameters of the models, the fewest first."""
        return sorted(map(parameters, self.models), key=lambda part: part.trace.value)

    def model(self, name: str) -> Model | None:
        """The shipped model a system stands for: its name before the first `+`."""
        return next((one for one in self.models if one.name == name.split("+")[0]), None)


def columns(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs by bench, version and protocol, in the order of `store.weight`: newest version, largest
    n, then most systems first; in each the best value first.

    Raises UserError where equal digests hide different contents.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if digest(run.record["protocol"]) != run.record["protocol_digest"]:
            raise UserError(f"{run.path}: protocol_digest does not fit protocol; measure again")
        groups.setdefault(column(run.record), []).append(run)
    most = largest_n([run.record for run in runs])
    ordered = sorted(groups.values(), key=lambda group: _weight(group, most), reverse=True)
    return [sorted(group, key=_goodness) for group in ordered]


def headline(groups: Sequence[Sequence[Run]]) -> list[Sequence[Run]]:
    """Of each tier (`data` of the protocol) the first group of its test split."""
    found: dict[str, Sequence[Run]] = {}
    for group in groups:
        protocol = group[0].record["protocol"]
        tier = str(protocol.get("data", "unknown"))
        if tier != "scenes" or leading(protocol):  # `val` is to choose on
            found.setdefault(tier, group)
    return list(found.values())


def largest(runs: Sequence[Run]) -> Run | None:
    """The run that speaks for a benchmark (`store.weight`)."""
    most = largest_n([run.record for run in runs])
    return max(runs, key=lambda run: weight(run.record, most), default=None)


def own(run: Run, decimals: int | None = None) -> Part:
    """The record's own value with its interval."""
    ends = run.record["interval"] or {}
    return numeral(
        run.record["value"],
        run.path,
        "/value",
        ends=(ends.get("low"), ends.get("high")),
        shown=decimals,
    )


def more(run: Run, name: str, decimals: int | None = None) -> Part | None:
    """An extra value with its interval; None where the record has none of that name."""
    entry = extra(run.record, name)
    if entry is None:
        return None
    value, low, high = (entry[key] for key in ("value", "low", "high"))
    name = key_of(run.record, name)
    key = f"/extra/{_escaped(name)}"
    if isinstance(run.record["extra"][name], Mapping):
        key += "/value"
    return numeral(value, run.path, key, ends=(low, high), shown=decimals)


def cell(run: Run, name: str, decimals: int | None = None) -> Parts:
    """An extra value as a table's cell; a dash where there is none."""
    part = more(run, name, decimals)
    return DASH if part is None else (part,)


def at(run: Run, pointer: str) -> Part:
    """Any number of a record by its JSON pointer."""
    value = resolve(run.record, pointer)
    return numeral(value, run.path, pointer, shown=_whole(value))


def quoted(published: Mapping, row: Mapping, decimals: int = 2) -> Part:
    """The value of a quoted row."""
    place = published["rows"].index(row)
    return numeral(row["value"], PUBLISHED_NAME, f"/rows/{place}/value", shown=decimals)


def setting(model: Model, pointer: str) -> Part:
    """A number of a model's config.json."""
    value = resolve(model.about, pointer)
    return numeral(value, f"{model.folder}/config.json", pointer, shown=_whole(value))


def logged(model: Model, key: str, decimals: int = 3) -> Part | None:
    """The last value of a key in the training log; None where it was never logged."""
    for place in range(len(model.log) - 1, -1, -1):
        if key in model.log[place]:
            path, pointer = f"{model.folder}/log.jsonl", f"/{place}/{_escaped(key)}"
            return numeral(model.log[place][key], path, pointer, shown=decimals)
    return None


def parameters(model: Model) -> Part:
    """How many parameters a model has, in millions."""
    path = f"{model.folder}/config.json"
    try:
        total = from_dict(ModelConfig, model.about["config"]).parameters
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    how = "12 layers width^2 + (vocabulary + position vectors) width"
    return numeral(total, path, "/config", shown=f"{total / 1e6:.1f}M", how=how)


def tokens(model: Model) -> list[float]:
    """Tokens seen up to each entry of the log: of every window its speed times its time."""
    totals, total, before = [], 0.0, 0
    for entry in model.log:
        steps = entry["step"] - before
        total += entry.get("tokens_per_s", 0.0) * steps / max(entry.get("steps_per_s", 0.0), 1e-9)
        before = entry["step"]
        totals.append(total)
    return totals


def seen(model: Model) -> Part:
    """Tokens of this training alone, in millions."""
    total, how = sum(tokens(model)[-1:]), "sum over windows of tokens_per_s * steps / steps_per_s"
    path = f"{model.folder}/log.jsonl"
    return numeral(total, path, "", shown=f"{total / 1e6:.1f}M", how=how)


def compute(inputs: Inputs, model: Model) -> Part:
    """FLOPs of the training with the stages it went on from: 6 N D."""
    stages, one = [], model
    while one is not None and one not in stages:
        stages.append(one)
        one = inputs.model(one.start) if one.start else None
    total = sum(6 * parameters(stage).trace.value * sum(tokens(stage)[-1:]) for stage in stages)
    how = "6 N D, summed over " + ", ".join(stage.name for stage in reversed(stages))
    path = f"{model.folder}/log.jsonl"
    return numeral(total, path, "", shown=scientific(total), how=how)


def quoted_days(published: Mapping, row: Mapping) -> Part | None:
    """A100-days behind a quoted FID: as quoted, or for CM3Leon 6 N D at 40 % utilisation."""
    rows = published["rows"]
    model = row["model"]
    for cost in rows:
        if cost["table"] == "training compute" and cost["model"] == model:
            return quoted(published, cost, 0)
    facts = {
        one["metric"]: one for one in rows if (one["table"], one["model"]) == ("Table 3", model)
    }
    if not {"layers", "width", "training tokens"} <= facts.keys():
        return None
    layers, width, seen_tokens = (
        facts[key]["value"] for key in ("layers", "width", "training tokens")
    )
    size = 12 * layers * width**2 + VOCABULARY * width
    days = 6 * size * seen_tokens / (A100_FLOPS * UTILISATION * DAY)
    how = f"6 N D at {UTILISATION:.0%} of 312 TFLOP/s, N = 12 layers width^2 + {VOCABULARY:,} width"
    key = f"/rows/{rows.index(facts['training tokens'])}/value"
    return numeral(days, PUBLISHED_NAME, key, shown=f"about {days:,.0f}", how=how)


def group_of(published: Mapping, row: Mapping) -> str:
    """Letter of the group that a quoted FID belongs to: a to d."""
    if row["metric"] == TUNED:
        return "d"
    name = [row["table"], row["model"], row["documents"]]
    found = [one["group"] for one in published.get("groups", ()) if name in one["members"]]
    return found[0] if found else "a"


def resolve(value, pointer: str):
    """The value at a JSON pointer (RFC 6901); KeyError or IndexError where there is none."""
    for token in pointer.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        value = value[int(token)] if isinstance(value, (list, tuple)) else value[token]
    return value


def scientific(value: float) -> str:
    """`2.2 x 10^14` with a raised exponent."""
    mantissa, exponent = f"{value:.1e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} \N{MULTIPLICATION SIGN} 10{raised}"


def level(runs: Sequence[Run]) -> str:
    """The intervals' level, such as `95%`."""
    found = (run.record["interval"]["level"] for run in runs if run.record["interval"])
    return f"{next(found, 0.95):.0%}"


def value_name(run: Run) -> Parts:
    """The unit as a table's head shows it."""
    return (plain(run.record["unit"], "code"),)


def _weight(group: Sequence[Run], most: int) -> tuple:
    *said, date = max(weight(run.record, most) for run in group)
    return said[:4], len(group), date


def _goodness(run: Run) -> float:
    return run.record["value"] * (1 if run.record["better"] == "lower" else -1)


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _whole(value) -> str:
    return f"{value:,}" if isinstance(value, int) else re.sub(r"e([+-])0*", r"e\1", f"{value:g}")
