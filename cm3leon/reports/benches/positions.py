"""The table of `ablate_positions`, from its record alone: scores of every arm, over seeds."""

from __future__ import annotations

from collections.abc import Mapping

from cm3leon.reports import extra
from cm3leon.reports.tables import Table, cell, span

SCORES = {
    "held_out_loss": "nats a token, held out",
    "held_out_image": "nats an image token",
    "held_out_tail_image": "the same, entities",
    "fid_with_0": "FID",
    "composition_with_0": "composition",
    "impossible_with_0": "impossible drawings",
}
DIFFERENCE = "{}.held_out_loss_minus_row"


def positions_table(record: Mapping) -> Table:
    """Every arm with intervals over training seeds, and its loss minus that of "row"."""
    arms = [name.removesuffix(".held_out_loss") for name in record["extra"] if _is_loss(name)]
    return Table(
        headers=("positions", *SCORES.values(), "loss minus row's"),
        rows=tuple(
            (arm, *(cell(record, f"{arm}.{score}") for score in SCORES), _difference(record, arm))
            for arm in arms
        ),
        caption=f"Positions, {record['n']} training seeds (mean, 95% interval)",
        notes=("paired by training seed; drawn without documents",),
        numbers=frozenset(range(1, 2 + len(SCORES))),
    )


def _is_loss(name: str) -> bool:
    return name.endswith(".held_out_loss")


def _difference(record: Mapping, arm: str) -> str:
    entry = extra(record, DIFFERENCE.format(arm))
    if entry is None:
        return "-"
    value, low, high = entry["value"], entry["low"], entry["high"]
    return f"{value:+.3f} {span(value, low, high, 3)}"
