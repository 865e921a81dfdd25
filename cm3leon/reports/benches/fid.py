"""The numbers beside a pinned FID as a table, and a line on each that was not measured."""

from __future__ import annotations

from collections.abc import Mapping

from cm3leon.reports import extra
from cm3leon.reports.tables import ASIDE, Table, number, span

ROWS = {  # extra of a record, or how its name begins -> (label, which way is better)
    "fid_prompts": ("FID against the prompts' pictures", "lower"),
    "fid_infinity": ("FID at infinitely many pictures", "lower"),
    "kid": ("KID", "lower"),
    "precision": ("precision", "higher"),
    "recall": ("recall", "higher"),
    "inception_score": ("Inception score", "higher"),
    "fd_dinov2": ("FD-DINOv2", "lower"),
    "cmmd": ("CMMD", "lower"),
    "clip_score": ("CLIP score, plain cosine", "higher"),
    "clip_score_s": ("CLIP score, 2.5 max(0, cosine)", "higher"),
}
NETWORKS = (
    "fd_dinov2",
    "cmmd",
    "clip_score_s",
    "clip_score",
)  # may end in another network's name


def beside_table(record: Mapping) -> Table | None:
    """One row a number; None for a record of no pinned protocol."""
    lines = tuple(text for text in record["warnings"] if text.startswith(ASIDE))
    rows = [row for key in record["extra"] if (row := _row(record, key))]
    if not lines:
        return None
    return Table(
        headers=("beside the FID", "value", "interval", "better"),
        rows=tuple(rows),
        caption=f"Further numbers of {record['system']['name']} (n={record['n']:,})",
        notes=lines,
        numbers=frozenset({1}),
    )


def _row(record: Mapping, key: str) -> tuple[str, ...] | None:
    """The cells of an extra, None for one of another table."""
    label, better = ROWS.get(key, ("", ""))
    for name in NETWORKS:
        if not label and key.startswith(f"{name}_"):
            label, better = ROWS[name]
            label = f"{label} ({key.removeprefix(f'{name}_')})"
    if not label:
        return None
    value, low, high = (extra(record, key)[part] for part in ("value", "low", "high"))
    return label, number(value), span(value, low, high), better
