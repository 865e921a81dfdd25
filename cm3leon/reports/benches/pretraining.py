"""Tables of `ablate_pretraining`, from its record alone: scores of every arm and verdicts."""

from __future__ import annotations

from collections.abc import Mapping

from cm3leon.reports import extra
from cm3leon.reports.tables import Table, cell, span
from cm3leon.reports.verdicts import OPEN, POWER_NOTE, judged, power_cell

SCORES = {
    "held_out_image_alone": "nats, no documents",
    "held_out_image": "nats, 2 documents",
    "held_out_tail_gain": "gain on entities",
    "fid_with_0": "FID, none",
    "fid_with_2": "FID, 2",
    "composition_with_0": "composition, none",
    "entity_with_2": "entity there, 2",
}
HYPOTHESES = (  # name, statement, arm, score, sign of (arm - default) that the statement wants
    ("H6", "masks across <break> worsen the loss without documents", "cross-break",
     "held_out_image_alone", 1),
    ("H6", "masks across <break> worsen FID without documents", "cross-break", "fid_with_0", 1),
    ("H6", "weighting documents 0.1 worsens the loss without documents", "document-weight-0.1",
     "held_out_image_alone", 1),
    ("H6", "weighting documents 0.1 worsens FID without documents", "document-weight-0.1",
     "fid_with_0", 1),
    ("H7", "without diversity the loss with documents is worse", "no-diversity",
     "held_out_image", 1),
    ("H7", "without diversity entities gain less", "no-diversity", "held_out_tail_gain", -1),
    ("H7", "query dropout of 0.2 betters the loss with documents", "query-dropout-0.2",
     "held_out_image", -1),
    ("H7", "with query dropout of 0.2 entities gain more", "query-dropout-0.2",
     "held_out_tail_gain", 1),
)  # fmt: skip


def pretraining_tables(record: Mapping) -> dict[str, Table]:
    """File stem -> table: all arms, and the verdicts."""
    return {"arms": arms_table(record), "verdicts": verdicts_table(record)}


def arms_table(record: Mapping) -> Table:
    """Scores of every arm with intervals over training seeds."""
    names = list(record["protocol"]["arms"])
    rows = tuple((name, *(cell(record, f"{name}.{score}") for score in SCORES)) for name in names)
    return Table(
        headers=("arm", *SCORES.values()),
        rows=rows,
        caption=f"Pretraining, {len(record['protocol']['seeds'])} training seeds (mean, 95% "
        "interval)",
        notes=("gain: nats an image token that two documents save on entities' pictures",),
        numbers=frozenset(range(1, 1 + len(SCORES))),
        ours=frozenset({names.index("default")}),
    )


def verdicts(record: Mapping) -> list[dict]:
    """Every hypothesis whose arm was run."""
    found = []
    for name, statement, arm, score, sign in HYPOTHESES:
        entry = extra(record, f"{arm}.{score}_minus_default")
        if entry is None:
            continue
        low, high = sorted((sign * entry["low"], sign * entry["high"]))
        resolved = len(record["protocol"]["seeds"]) > 1
        verdict = judged({"low": low, "high": high}, 0.0)
        found.append(
            {"hypothesis": name, "statement": statement, "score": score, **entry}
            | {"verdict": verdict if resolved else OPEN}
            | ({"none": 0.0, "ratio": False} if resolved else {})
        )
    return found


def verdicts_table(record: Mapping) -> Table:
    """Hypothesis, difference of the arm to the default, and what it says."""
    return Table(
        headers=("", "statement", "arm - default", "could have seen", "verdict"),
        rows=tuple(
            (
                one["hypothesis"],
                one["statement"],
                f"{one['value']:+.4f} {span(one['value'], one['low'], one['high'], 4)}",
                power_cell(one, one.get("ratio")),
                one["verdict"],
            )
            for one in verdicts(record)
        ),
        caption="Hypotheses about pretraining (paired by training seed)",
        notes=(POWER_NOTE,),
    )
