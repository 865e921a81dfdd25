"""Tables of `fid_coco` version 2 and of the twins at equal compute, every number traced."""

from __future__ import annotations

from cm3leon.reports.benches.equal_compute import DIFFERENCES, ONE_SEED, TWINS
from cm3leon.reports.benches.splits import SHARES, arms_of, documents_of
from cm3leon.reports.paper.model import Grid, Panel, Row, emph, plain, prose, words
from cm3leon.reports.paper.results import Run, at, cell, level, more

NAMES = {"overall": "composition", "entity_unseen": "never seen"}


def splits_grid(run: Run) -> Grid:
    """Every split and number of documents of one system."""
    captions = run.record["protocol"]["captions"]
    arms = [(split, arm) for split in captions for arm in arms_of(run.record, split)]
    keys = ["fid", "fid_over_documents0", "fid_own", "overall", "position", "attribution"]
    kept = [
        key
        for key in (*keys, *SHARES)
        if any(more(run, f"{split}.{arm}.{key}") for split, arm in arms)
    ]
    heads = {"fid": "FID", "fid_over_documents0": "over none", "fid_own": "own pictures"} | NAMES
    rows = [
        Row(
            (
                words(split),
                words(documents_of(run.record, arm)),
                *(cell(run, f"{split}.{arm}.{key}", 2 if "fid" in key else 3) for key in kept),
            ),
            "ours",
        )
        for split, arm in arms
    ]
    names = tuple(words(text) for text in ("captions", "documents"))
    panel = Panel(
        (*names, *(words(heads.get(key, key)) for key in kept)),
        tuple(rows),
        "ll" + "r" * len(kept),
        stacked=True,
    )
    return Grid(
        label=f"table-splits-{run.system}",
        caption=prose(
            "{name} by split and number of retrieved documents, {level} intervals. FID is against "
            "{real} other real pictures of the split, and falls with the number of captions "
            "({counts}): splits of other numbers do not compare. Over none: FID over that without "
            "documents, paired over captions. Plain: guidance 1, temperature 1. Measured.",
            name=emph(run.system),
            level=level([run]),
            real=at(run, "/protocol/real"),
            counts=_joined([_count(run, split) for split in captions]),
        ),
        panels=(panel,),
        wide=True,
    )


def compute_grid(run: Run) -> Grid:
    """The retrieval-augmented model against its twin without documents."""
    protocol = run.record["protocol"]
    twins = {key: label for key, label in TWINS.items() if key in protocol["twins"]}
    pairs = [(twin, split) for twin in twins for split in protocol["captions"]]
    kept = [
        key
        for key in DIFFERENCES
        if any(more(run, f"{twin}.{split}.{key}") for twin, split in pairs)
    ]
    rows = [
        Row(
            (
                words(f"{protocol['twins'][twin]}, {twins[twin]}"),
                words(split),
                cell(run, f"ours.{split}.fid", 2),
                cell(run, f"{twin}.{split}.fid", 2),
                cell(run, f"{twin}.{split}.fid_ratio", 2),
                *(cell(run, f"{twin}.{split}.{key}", 3) for key in kept),
            ),
            "ours",
        )
        for twin, split in pairs
    ]
    heads = ("twin", "captions", "FID", "twin's", "FID over the twin's")
    panel = Panel(
        tuple(words(text) for text in (*heads, *(DIFFERENCES[key] for key in kept))),
        tuple(rows),
        "ll" + "r" * (len(heads) + len(kept) - 2),
        stacked=True,
    )
    return Grid(
        label="table-equal-compute",
        caption=prose(
            "What retrieval brings, all else equal: {name} with {documents} documents against its "
            "twin trained without, {level} intervals over captions, paired. Below 1 of FID, above "
            "0 of the shares retrieval helps. Measured; " + ONE_SEED + ".",
            name=emph(run.system),
            documents=at(run, "/protocol/documents"),
            level=level([run]),
        ),
        panels=(panel,),
        wide=True,
    )


def _count(run: Run, split: str) -> tuple:
    n = at(run, f"/protocol/captions/{split}")
    return prose("{n} of {split}", n=n, split=plain(split, "code"))


def _joined(parts: list) -> tuple:
    """Phrases with commas between them."""
    out: list = []
    for part in parts:
        out += [*([plain(", ")] if out else []), *part]
    return tuple(out)
