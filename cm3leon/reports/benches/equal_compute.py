"""The table of `equal_compute`: a retrieval-augmented model beside its twin without documents.

A record's extras are `twin.split.measure`, where a twin is one of `TWINS`: of FID a ratio (ours
over the twin's), of the others a difference (ours less the twin's); `twin.split.fid` and
`ours.split.fid` are the FIDs themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

from cm3leon.reports import extra
from cm3leon.reports.tables import Table, cell

TWINS = {"queries": "equal query tokens", "flops": "equal FLOPs"}
DIFFERENCES = {
    "overall": "composition",
    "position": "position",
    "attribution": "attribution",
    "entity": "entity",
    "entity_unseen": "never seen",
}
ONE_SEED = "one training seed each: an interval is over captions, not over trainings"


def compute_table(record: Mapping) -> Table:
    """A row for each twin and split: FID of both, their ratio, differences of composition."""
    protocol = record["protocol"]
    twins = {key: label for key, label in TWINS.items() if key in protocol["twins"]}
    kept = [
        key
        for key in DIFFERENCES
        if any(extra(record, f"{twin}.{split}.{key}") for twin in twins
               for split in protocol["captions"])
    ]  # fmt: skip
    rows = [
        (
            f"{protocol['twins'][twin]}, {label}",
            split,
            cell(record, f"ours.{split}.fid", 2),
            cell(record, f"{twin}.{split}.fid", 2),
            cell(record, f"{twin}.{split}.fid_ratio", 2),
            *(cell(record, f"{twin}.{split}.{key}", 3) for key in kept),
        )
        for twin, label in twins.items()
        for split in protocol["captions"]
    ]
    name, documents = record["system"]["name"], protocol["documents"]
    heads = ("twin", "captions", name, "twin", "FID over the twin's")
    return Table(
        headers=(*heads, *(DIFFERENCES[key] for key in kept)),
        rows=tuple(rows),
        caption=f"What retrieval brings: {name} with {documents} documents beside its twin trained "
        "without (95% intervals over captions)",
        notes=(
            "FID over the twin's: below 1 retrieval helps; shares: those of "
            f"{name} less the twin's, above 0 retrieval helps; paired over captions",
            *_costs(record, twins),
            ONE_SEED,
        ),
        numbers=frozenset(range(2, len(heads) + len(kept))),
    )


def _costs(record: Mapping, twins: Mapping) -> list[str]:
    """Queries, tokens and FLOPs that the trainings took, where the checkpoints say so."""
    names = {"ours": record["system"]["name"], **{key: record["protocol"]["twins"][key]
             for key in twins}}  # fmt: skip
    parts = []
    for key, name in names.items():
        tokens, flops = extra(record, f"{key}.tokens"), extra(record, f"{key}.flops")
        queries = extra(record, f"{key}.queries")
        if tokens and flops and queries:
            parts.append(
                f"{name} {queries['value'] / 1e3:,.0f}k queries, {tokens['value'] / 1e6:.1f}M "
                f"tokens, {flops['value']:.2g} FLOPs"
            )
    return [f"trained on: {'; '.join(parts)} (6ND)"] if parts else []
