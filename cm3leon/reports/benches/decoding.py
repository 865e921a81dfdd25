"""Tables and verdicts of `ablate_decoding`, from its record alone.

A record's extras are `part.cell.measure`; its protocol holds the settings of every cell.
"""

from __future__ import annotations

from collections.abc import Mapping

from cm3leon.reports import extra
from cm3leon.reports.tables import Table, cell, number, span
from cm3leon.reports.verdicts import (
    FAILS,
    FLOOR_NOTE,
    HOLDS,
    OPEN,
    POWER_NOTE,
    carried,
    judged,
    power_cell,
)

STRATEGIES = ("temperature", "top-p", "cd-k", "mixed")
TITLES = {"temperature": "temperature", "top-p": "top-p", "cd-k": "CD-K", "mixed": "top-p + CD-K"}
MARGIN = 1.1  # set beforehand: CD-K competes below so many times top-p; less gain is stagnation
CAPTIONS = {
    "cider": "CIDEr-D", "bleu4": "BLEU-4", "true": "all true", "exact": "true and complete",
    "infilled": "hidden words back", "infilled_true": "infilled, all true",
}  # fmt: skip


def decoding_tables(record: Mapping) -> dict[str, Table]:
    """File stem -> table, of the parts that the record has."""
    made = {
        "pool": pool_table,
        "guidance": guidance_table,
        "surface": surface_table,
        "nucleus": nucleus_table,
        "readings": readings_table,
        "captions": captions_table,
    }
    parts = record["protocol"]["parts"]
    tables = {name: build(record) for name, build in made.items() if name in parts}
    if verdicts(record):
        tables["verdicts"] = verdicts_table(record)
    return tables


def counts(record: Mapping) -> list[int]:
    """Samples a prompt of the pool: 1, 2, 4, .."""
    most = record["protocol"]["plan"]["pool_samples"]
    return [2**k for k in range(most.bit_length()) if 2**k <= most]


def settings(decode: Mapping) -> str:
    """A way to draw in a few words."""
    if decode["strategy"] == "contrast":
        said = f"k={decode['k']}, alpha={decode['alpha']:g}"
    else:
        said = f"guidance {decode['guidance']:g}"
    said += f", T={decode['temperature']:g}"
    return said + (f", p={decode['top_p']:g}" if decode["top_p"] < 1 else "")


def pool_table(record: Mapping) -> Table:
    """Figure 4, right, in numbers: FID by strategy and samples a prompt, on `test`."""
    cells, last = record["protocol"]["cells"]["pool"], counts(record)[-1]
    rows = [
        (
            TITLES[name],
            settings(cells[name]["decode"]) if name in cells else "half of each",
            *(cell(record, f"pool.{name}-n{count}.fid") for count in counts(record)),
            cell(record, f"pool.{name}-n{last}.right"),
        )
        for name in STRATEGIES
    ]
    return Table(
        headers=(
            "strategy", "settings", *(f"{n} samples" if n > 1 else "1 sample"
            for n in counts(record)), f"composition at {last}",
        ),
        rows=tuple(rows),
        caption=f"FID on test against samples a prompt, the nearest by CLIP kept "
        f"(n={record['n']} captions, 95% intervals)",
        notes=(
            "settings: the best cell of each strategy on val; fewer samples are disjoint groups "
            "of the same pool, their FIDs averaged",
            *floor_notes(record, "pool"),
            "composition: share of GenEval's questions about a caption answered right",
        ),
        numbers=frozenset(range(2, 3 + len(counts(record)))),
    )  # fmt: skip


def sizes_of(record: Mapping) -> list[str]:
    """Systems whose weights were compared."""
    cells = record["protocol"]["cells"]["guidance"].values()
    return list(dict.fromkeys(one["system"] for one in cells))


def guidance_rows(record: Mapping, size: str) -> list[tuple[float, str]]:
    """(weight, cell) of one size, by weight."""
    cells = record["protocol"]["cells"]["guidance"]
    rows = [
        (one["decode"]["guidance"], name) for name, one in cells.items() if one["system"] == size
    ]
    return sorted(rows)


def guidance_table(record: Mapping) -> Table:
    """Figure 4, left, in numbers."""
    sizes = sizes_of(record)
    columns = [dict(guidance_rows(record, size)) for size in sizes]
    rows = [
        (
            f"{weight:g}",
            *(cell(record, f"guidance.{column[weight]}.fid") for column in columns),
            *(cell(record, f"guidance.{column[weight]}.right") for column in columns),
            *(cell(record, f"guidance.{column[weight]}.clip") for column in columns),
        )
        for weight in columns[0]
    ]
    best = tuple(cell(record, f"guidance.{size}.best_weight") for size in sizes)
    rows.append(("best weight", *best, *("" for _ in sizes * 2)))
    return Table(
        headers=(
            "guidance weight",
            *(f"FID, {size}" for size in sizes),
            *(f"composition, {size}" for size in sizes),
            *(f"CLIP score, {size}" for size in sizes),
        ),
        rows=tuple(rows),
        caption=f"Guidance on val, temperature 1, "
        f"n={record['protocol']['plan']['weight_prompts']} (95% intervals)",
        notes=(
            "best weight: the lowest FID; its interval is over resamples of the captions",
            *floor_notes(record, "guidance"),
        ),
        numbers=frozenset(range(1, 1 + 3 * len(sizes))),
        rule_after=len(columns[0]),
    )


def surface_table(record: Mapping) -> Table:
    """CD-K over k and alpha: FID, and how alike drawings become."""
    return cells_table(
        record, "surface", "CD-K on val, temperature 1: k and alpha",
        ("recall: share of real pictures the drawings cover; apart: mean distance of two drawings "
         "of one caption; greedy: k = 1 and always the likeliest token",),
    )  # fmt: skip


def nucleus_table(record: Mapping) -> Table:
    """Temperature x top-p."""
    return cells_table(record, "nucleus", "Temperature and top-p on val, own guidance", ())


def readings_table(record: Mapping) -> Table:
    """A32: what the unconditional stream sees."""
    return cells_table(
        record, "readings", "Readings of the unconditional stream (A32) on val",
        ("mask: documents and <mask>; drop: documents alone; bare: <mask> alone",),
    )  # fmt: skip


def cells_table(record: Mapping, part: str, title: str, notes: tuple[str, ...]) -> Table:
    """All cells of a part with their measures; the lowest FID stands out."""
    names = list(record["protocol"]["cells"][part])
    plan = record["protocol"]["plan"]
    measures = ("fid", "right", "precision", "recall", "apart")
    fids = [extra(record, f"{part}.{name}.fid")["value"] for name in names]
    return Table(
        headers=("cell", "settings", "FID", "composition", "precision", "recall", "apart"),
        rows=tuple(
            (
                name.replace("_", "."),
                settings(record["protocol"]["cells"][part][name]["decode"]),
                *(cell(record, f"{part}.{name}.{measure}") for measure in measures),
            )
            for name in names
        ),
        caption=f"{title} ({plan['cell_prompts']} captions x {len(plan['cell_seeds'])} seeds, "
        "95% intervals)",
        notes=(*notes, *floor_notes(record, part)),
        numbers=frozenset(range(2, 7)),
        ours=frozenset({fids.index(min(fids))}),
    )


def captions_table(record: Mapping) -> Table:
    """Captioning and infilling: all ways on val, the chosen ones on test."""
    keys = [key for key in record["extra"] if key.startswith("captions.")]
    names = list(dict.fromkeys(key.split(".")[1] for key in keys))
    chosen = record["protocol"]["captions_chosen"]
    rows = [
        (name.replace("_", "."), "val", *(cell(record, f"captions.{name}.{m}") for m in CAPTIONS))
        for name in names
    ]
    rows += [
        (
            chosen[family].replace("_", "."),
            "test",
            *(cell(record, f"captions_test.{family}.{measure}") for measure in CAPTIONS),
        )
        for family in chosen
    ]
    return Table(
        headers=("way", "split", *CAPTIONS.values()),
        rows=tuple(rows),
        caption=f"Text by every way of decoding, {record['protocol']['plan']['captions']} scenes "
        "(95% intervals)",
        notes=(
            "unconditional stream and CD-K's amateur: the same prompt without the picture",
            "true and complete: every claim holds and every kind of thing there is named",
            "test: the way of each family with the highest CIDEr-D on val",
        ),
        numbers=frozenset(range(2, 2 + len(CAPTIONS))),
        rule_after=len(names),
    )


def verdicts(record: Mapping) -> list[dict]:
    """Every claim that the record can judge: name, statement, on, effect {value, low, high}."""
    return [*_agreement(record), *_pool(record), *_text(record)]


def _agreement(record: Mapping) -> list[dict]:
    found = []
    for key, value in record["extra"].items():
        if key.startswith("guidance.") and ".steps_from_" in key:
            one, other = key.removeprefix("guidance.").split(".steps_from_")
            verdict = OPEN
            if value["low"] >= -1 and value["high"] <= 1:
                verdict = HOLDS
            elif value["low"] > 0 or value["high"] < 0:
                verdict = FAILS
            statement = f"the best weight of {one} and {other} is the same or a neighbour"
            if ends := [name for name in (one, other) if _at_an_end(record, name)]:
                verdict = OPEN  # two sizes may both have theirs beyond, far apart
                statement += f" (of {' and '.join(ends)} at the end of the grid)"
            n = record["protocol"]["plan"]["weight_prompts"]
            floor = floor_of(record, "guidance")
            fids = [_lowest(record, size) for size in (one, other)] if floor else []
            verdict = carried(verdict, n, fids, floor)
            about = (statement, "val", "weights of the grid apart", key, verdict)
            found.append(_said(record, "H3", *about))
    return found


def floor_of(record: Mapping, part: str) -> dict | None:
    """FID of as many real pictures as one cell of a part draws; None where it was not measured."""
    return extra(record, f"{part}.real.floor")


def floor_notes(record: Mapping, part: str) -> tuple[str, ...]:
    """A table's note on the floor of its FIDs."""
    floor = floor_of(record, part)
    if floor is None:
        return ("real against real at this n (floor): not measured by this run",)
    ends = span(floor["value"], floor["low"], floor["high"])
    return (f"real against real at this n (floor): FID {number(floor['value'])} {ends}",)


def _lowest(record: Mapping, size: str) -> dict:
    """The lowest FID of a size over the weights."""
    fids = (extra(record, f"guidance.{name}.fid") for _, name in guidance_rows(record, size))
    return min(fids, key=lambda one: one["value"])


def _at_an_end(record: Mapping, size: str) -> bool:
    """Whether the lowest FID of a size stands at an end of the grid of weights, or may do so."""
    weights, best = (
        record["protocol"]["plan"]["weights"],
        extra(record, f"guidance.{size}.best_weight"),
    )
    return best["low"] <= min(weights) or best["high"] >= max(weights)


def _pool(record: Mapping) -> list[dict]:
    if "pool" not in record["protocol"]["parts"]:
        return []
    start, last = record["protocol"]["gain_from"], record["protocol"]["gain_to"]
    # claim, statement, kind, key, value of no effect, whether none is claimed, FIDs compared
    rows = [
        (
            "H4", f"CD-K's FID is at most {MARGIN:g} times that of top-p, best of {count}",
            "FID of top-p / CD-K", f"pool.cd-k-n{count}.fid_vs_top-p", 1 / MARGIN, False,
            (f"cd-k-n{count}", f"top-p-n{count}"),
        )
        for count in dict.fromkeys((1, last))
    ]  # fmt: skip
    for name in ("top-p", "cd-k"):
        statement = f"{TITLES[name]} alone gains under a tenth from {start} to {last} samples"
        cells = f"{name}-n{start}", f"{name}-n{last}"
        rows.append(("H5", statement, "FID before / after", f"pool.{name}.gain", 1.0, True, cells))
    statement = f"top-p + CD-K gain from {start} to {last} samples"
    ours = f"mixed-n{start}", f"mixed-n{last}"
    rows.append(("H5", statement, "FID before / after", "pool.mixed.gain", 1.0, False, ours))
    for name in ("top-p", "cd-k"):
        statement = f"top-p + CD-K gain more than {TITLES[name]} alone"
        cells = *ours, f"{name}-n{start}", f"{name}-n{last}"
        key = f"pool.mixed.gain_vs_{name}"
        rows.append(("H5", statement, "gain / gain", key, 1.0, False, cells))
    found, n = [], record["protocol"]["plan"]["pool_prompts"]
    for claim, statement, kind, key, wanted, stagnates, cells in rows:
        effect = extra(record, key)
        verdict = judged(effect, wanted)
        if stagnates:
            verdict = HOLDS if effect["high"] < MARGIN else OPEN
            verdict = FAILS if effect["low"] > 1 else verdict
        fids = [extra(record, f"pool.{name}.fid") for name in cells]
        verdict = carried(verdict, n, fids, floor_of(record, "pool"))
        found.append(_said(record, claim, statement, "test", kind, key, verdict, wanted))
    return found


def _text(record: Mapping) -> list[dict]:
    found = []
    for family, title in (("guidance", "guidance"), ("cd-k", "CD-K")):
        for measure in ("cider", "exact", "infilled"):
            key = f"captions_test.{family}.{measure}_vs_plain"
            if extra(record, key) is not None:
                n = record["protocol"]["plan"]["captions"]
                verdict = carried(judged(extra(record, key), 0.0), n)
                statement = f"{title} betters text: {CAPTIONS[measure]}"
                about = (statement, "test", "lead over plain", key, verdict)
                found.append(_said(record, "Q5", *about, 0.0))
    return found


def _said(
    record: Mapping,
    claim: str,
    statement: str,
    split: str,
    kind: str,
    key: str,
    verdict: str,
    none: float | None = None,
) -> dict:
    about = {"hypothesis": claim, "statement": statement, "split": split, "kind": kind}
    if none is not None:
        about |= {"none": none, "ratio": none != 0}
    return about | {"key": key, "verdict": verdict, **extra(record, key)}


def verdicts_table(record: Mapping) -> Table:
    """Claim, effect with interval, and what it says."""
    rows = tuple(
        (
            one["hypothesis"], one["statement"], one["split"],
            f"{one['kind']}: {one['value']:.3f} {span(one['value'], one['low'], one['high'], 3)}",
            power_cell(one, one.get("ratio")), one["verdict"],
        )
        for one in verdicts(record)
    )  # fmt: skip
    return Table(
        headers=("", "statement", "on", "effect", "could have seen", "verdict"),
        rows=rows,
        caption=f"Claims about decoding ({record['system']['name']})",
        notes=(
            "a verdict needs the whole 95% interval on one side; the best weights agree when it "
            "lies within one step of the grid",
            POWER_NOTE,
            FLOOR_NOTE,
            "Q5: the paper's open question 5, contrastive decoding beyond pictures",
        ),
    )
