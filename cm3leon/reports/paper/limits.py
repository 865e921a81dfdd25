"""What the report's numbers cannot say, drawn from the records themselves."""

from __future__ import annotations

from collections.abc import Sequence

from cm3leon.reports import remarks
from cm3leon.reports.paper.model import Parts, code, count, plain, prose
from cm3leon.reports.paper.results import Inputs, Run, at
from cm3leon.reports.records.store import device

MOST_WARNINGS = 2  # of a record in words


def limit_items(inputs: Inputs) -> tuple[Parts, ...]:
    """One item a limit: world, size, seeds, devices, code, quoted numbers, warnings."""
    runs = inputs.runs
    items = [_world(runs), _size(runs), _seeds(runs), *_trainings(inputs), _devices(runs)]
    items += [_code(runs), _quoted(inputs), *_warnings(runs)]
    return tuple(items)


def _world(runs: Sequence[Run]) -> Parts:
    outside = [run for run in runs if run.record["protocol"].get("data") == "coco"]
    said = prose(
        "*World.* {inside} of {all} records are of the embedded world: eight shapes on six places, "
        "captions of a grammar, pictures of 64 tokens. What holds there need not hold on "
        "photographs; what does not hold there may.",
        inside=count(len(runs) - len(outside), "results", "records not of MS-COCO"),
        all=count(len(runs), "results", "records"),
    )
    if outside:
        said += prose(" Those of MS-COCO are a trial of the way, by the same small features.")
    return said


def _size(runs: Sequence[Run]) -> Parts:
    small = min(runs, key=lambda run: run.record["n"])
    large = max(runs, key=lambda run: run.record["n"])
    return prose(
        "*Number of pictures.* Records rest on {small} to {large} captions, the quoted FIDs on "
        "30,000. FID falls with n, so values of unlike n do not compare even within this report.",
        small=at(small, "/n"),
        large=at(large, "/n"),
    )


def _seeds(runs: Sequence[Run]) -> Parts:
    single = [run for run in runs if run.record["spread"]["seeds"] is None]
    return prose(
        "*Seeds.* {single} of {all} records keep no spread over sampling seeds of their own: one "
        "seed, or an older form of record.",
        single=count(len(single), "results", "records without a spread of seeds"),
        all=count(len(runs), "results", "records"),
    )


def _trainings(inputs: Inputs) -> list[Parts]:
    if not inputs.models:
        return []
    return [
        prose(
            "*Trainings.* Each of the {n} shipped transformers was trained once; no interval here "
            "contains the chance of a training. They are orders of magnitude smaller than the "
            "paper's and saw orders of magnitude fewer tokens.",
            n=count(len(inputs.models), "baselines/scenes", "transformers"),
        )
    ]


def _devices(runs: Sequence[Run]) -> Parts:
    names = sorted({device(run.record) for run in runs})
    shown = prose("{name}", name=names[0])
    for name in names[1:]:
        shown += prose("; {name}", name=name)
    return prose(
        "*Device.* Measured on {names}. Pictures depend on the device by rounding; seconds depend "
        "on it altogether and are compared nowhere.",
        names=shown,
    )


def _code(runs: Sequence[Run]) -> Parts:
    commits = {run.record["code"]["commit"] for run in runs}
    dirty = [run for run in runs if run.record["code"]["dirty"] is not False]
    return prose(
        "*Code.* The records come from {commits} commits; {dirty} of them with uncommitted "
        "changes or from outside a checkout.",
        commits=count(len(commits), "results", "commits"),
        dirty=count(len(dirty), "results", "records with dirty or unknown code"),
    )


def _quoted(inputs: Inputs) -> Parts:
    rows = inputs.published["rows"]
    second = [row for row in rows if row["mark"] != "V"]
    disputed = [row for row in rows if (row["note"] or "").startswith("conflict")]
    path = "baselines/published.json"
    return prose(
        "*Quoted numbers.* Of {all} quoted values {second} were read second hand, and {disputed} "
        "carry a conflict between sources, noted where they stand.",
        all=count(len(rows), path, "rows"),
        second=count(len(second), path, "rows of mark V2"),
        disputed=count(len(disputed), path, "rows with a conflict"),
    )


def _warnings(runs: Sequence[Run]) -> list[Parts]:
    """An item a record with warnings that no record before it has, the first of them in words."""
    items, seen = [], set()
    for run in runs:
        new = [text for text in dict.fromkeys(remarks(run.record)) if text not in seen]
        seen.update(new)
        if not new:
            continue
        said = "; ".join(text.rstrip(".") for text in new[:MOST_WARNINGS])
        more = f"; and {len(new) - MOST_WARNINGS} more" if len(new) > MOST_WARNINGS else ""
        item = prose("*Warnings* of {path}: {text}.", path=code(run.path), text=plain(said + more))
        items.append(item)
    return items
