"""The table of `fid_coco` version 2: a row for each split and number of documents.

A record's extras are `split.arm.measure`, where an arm is `documentsK`, or `plain` (guidance 1,
temperature 1), and `split.measure` for what scales them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cm3leon.reports import extra, main_arm
from cm3leon.reports.tables import TASKS, Table, cell, number

HEADS = {"colors": "colours", "attribution": "attrib.", "overall": "overall", "counting": "count"}
SIX = tuple(key for key in TASKS if key != "overall")
NAMES = {"entity": "entity", "entity_unseen": "never seen", "impossible": "impossible"}
SHARES = tuple(NAMES)  # columns that some records have


def arms_of(record: Mapping, split: str) -> list[str]:
    """Names of the arms measured on a split, in the order of the record."""
    names = [key.split(".")[1] for key in record["extra"] if key.startswith(f"{split}.")]
    return [name for name in dict.fromkeys(names) if extra(record, f"{split}.{name}.fid")]


def splits_table(record: Mapping) -> Table | None:
    """All splits and numbers of documents of a record; None for one of another version."""
    if main_arm(record) is None:
        return None
    captions = record["protocol"]["captions"]
    arms = [(split, arm) for split in captions for arm in arms_of(record, split)]
    further = [
        key for key in SHARES if any(extra(record, f"{split}.{arm}.{key}") for split, arm in arms)
    ]
    retrieves = any(extra(record, f"{split}.{arm}.fid_over_documents0") for split, arm in arms)
    rows = [
        (
            split,
            documents_of(record, arm),
            cell(record, f"{split}.{arm}.fid"),
            *([cell(record, f"{split}.{arm}.fid_over_documents0")] if retrieves else []),
            _short(record, f"{split}.{arm}.fid_own", number),
            _short(record, f"{split}.{arm}.kid", number),
            cell(record, f"{split}.{arm}.overall", 3),
            *(_short(record, f"{split}.{arm}.{key}", _three) for key in SIX),
            *(
                cell(record, f"{split}.{arm}.{key}", 3)
                if key == "entity"
                else _short(record, f"{split}.{arm}.{key}", _three)
                for key in further
            ),
        )
        for split, arm in arms
    ]
    unit = record["unit"]
    headers = (
        "captions",
        "documents",
        unit,
        *(["over none"] if retrieves else []),
        "own pictures",
        "KID",
        "overall",
        *(HEADS.get(key, key) for key in SIX),
        *(NAMES[key] for key in further),
    )
    counts = ", ".join(f"{count:,} of {split}" for split, count in captions.items())
    return Table(
        headers=headers,
        rows=tuple(rows),
        caption=f"{record['system']['name']} by split and documents ({counts}; 95% intervals over "
        "captions)",
        notes=tuple(_notes(record, further, retrieves)),
        numbers=frozenset(range(1, len(headers))),
        ours=frozenset(k for k, pair in enumerate(arms) if ".".join(pair) == main_arm(record)),
    )


def splits_tables(record: Mapping) -> list[Table]:
    """The same as two tables that fit a page: distances, and what the pictures hold."""
    whole = splits_table(record)
    if whole is None:
        return []
    first = whole.headers.index("overall")
    return [
        columns_of(whole, range(first)),
        replace(
            columns_of(whole, (0, 1, *range(first, len(whole.headers)))),
            caption=f"What the pictures of {record['system']['name']} hold",
            notes=(),
        ),
    ]


def columns_of(table: Table, places: Sequence[int]) -> Table:
    """A table with these columns alone."""
    return replace(
        table,
        headers=tuple(table.headers[k] for k in places),
        rows=tuple(tuple(row[k] for k in places) for row in table.rows),
        numbers=frozenset(at for at, k in enumerate(places) if k in table.numbers),
    )


def _notes(record: Mapping, further: list[str], retrieves: bool) -> list[str]:
    """What the columns mean."""
    unit, real = record["unit"], record["protocol"]["real"]
    floors = ", ".join(
        f"{split} {number(entry['value'])}"
        for split in record["protocol"]["captions"]
        if (entry := extra(record, f"{split}.floor"))
    )
    notes = [
        f"{unit}: against {real:,} other real pictures of the split; the captions' own real "
        f"pictures stand there at {floors} (floor). It falls with the number of captions: splits "
        "of other numbers do not compare. own pictures: against those the captions were written "
        "for, of which the floor is 0",
        f"plain: guidance 1, temperature 1, the documents of the headline; else {_setting(record)}",
        "overall: mean of GenEval's six scores; all shares: of captions whose picture holds it",
    ]
    shares = [
        f"{split} {entry['value']:.1%}"
        for split in record["protocol"]["captions"]
        if (entry := extra(record, f"{split}.in_training"))
    ]
    if shares:
        notes.append(
            "the captions' own pictures that the training has too, pixel for pixel (the world is "
            f"small): {', '.join(shares)}"
        )
    if retrieves:
        notes.append("over none: FID over that without documents, below 1 documents help; paired")
    if "entity_unseen" in further:
        notes.append("never seen: captions about an entity that never occurs in training")
    if "impossible" in further:
        notes.append(
            "impossible: pictures with a code in a column where no real picture has it; lower is "
            "better"
        )
    return notes


def _setting(record: Mapping) -> str:
    """The system's own setting of drawing in words."""
    decode = record["system"]["config"].get("decode")
    if not decode:
        return "as the system draws"
    way = "CD-K" if decode["strategy"] == "contrast" else f"guidance {decode['guidance']:g}"
    cut = "" if decode["top_p"] == 1 else f", top-p {decode['top_p']:g}"
    return f"{way}, temperature {decode['temperature']:g}{cut}"


def documents_of(record: Mapping, arm: str) -> str:
    """An arm as a cell: how many documents, and `plain` for the setting of that name."""
    if arm == "plain":
        return f"{main_arm(record).rpartition('documents')[2]}, plain"
    return arm.removeprefix("documents")


def _short(record: Mapping, key: str, form) -> str:
    entry = extra(record, key)
    return "-" if entry is None else form(entry["value"])


def _three(value: float) -> str:
    return f"{value:.3f}"


def choice_table(record: Mapping) -> Table:
    """Every cell of `choose_decoding`, the chosen one marked, and the plain setting below."""
    wanted = {key: record["extra"][f"chosen.{key}"] for key in ("guidance", "temperature")}
    cells = record["protocol"]["cells"]
    ours = [
        place
        for place, (name, decode) in enumerate(cells.items())
        if name != "plain" and {key: decode[key] for key in wanted} == wanted
    ]
    shown = [key for key in SHARES if any(extra(record, f"{name}.{key}") for name in cells)]
    heads = (
        "guidance",
        "temperature",
        record["unit"],
        "composition",
        *(NAMES[key] for key in shown),
    )
    rows = [
        (
            f"{decode['guidance']:g}",
            f"{decode['temperature']:g}",
            cell(record, f"{name}.fid"),
            *(cell(record, f"{name}.{key}", 3) for key in ("overall", *shown)),
        )
        for name, decode in cells.items()
    ]
    return Table(
        headers=heads,
        rows=tuple(rows),
        caption=f"Settings of drawing of {record['system']['name']} (n={record['n']:,}, 95% "
        "intervals over captions)",
        notes=(
            f"chosen: the {record['protocol']['rule']}; the last row is the plain setting",
            record["protocol"]["prompts"],
        ),
        numbers=frozenset(range(len(heads))),
        ours=frozenset(ours),
        rule_after=len(rows) - 1,
    )
