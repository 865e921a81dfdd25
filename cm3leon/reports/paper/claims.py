"""The paper's claims as hypotheses H1..H9, and what the records say of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cm3leon.evaluation.statistics.significance import benjamini_hochberg, effect_p, holm
from cm3leon.reports import extra
from cm3leon.reports.benches import decoding, pretraining, retrieval
from cm3leon.reports.paper.model import Grid, Panel, Part, Parts, Row, emph, plain, prose, words
from cm3leon.reports.paper.results import (
    Inputs,
    Run,
    columns,
    headline,
    largest,
    more,
    own,
    parameters,
)
from cm3leon.reports.verdicts import (
    FAILS,
    HOLDS,
    OPEN,
    UNMEASURABLE,
    carried,
    judged,
    power_cell,
)

MOST_ROWS = 26  # of a table, which no page breaks
CLAIMS = {  # name -> statement; and, as prose, the command that would measure it
    "H1": ("retrieval lowers FID: two documents below one, one below none",
           "`nox -s ablate_retrieval`"),
    "H2": ("size lowers FID", "`nox -s fid_coco -- --system NAME`"),
    "H3": ("the best guidance weight is the same for all sizes", "`nox -s ablate_decoding`"),
    "H4": ("contrastive decoding (CD-K) competes with top-p and guidance",
           "`nox -s ablate_decoding`"),
    "H5": ("top-p and CD-K together keep improving with more samples, where each alone stagnates",
           "`nox -s ablate_decoding`"),
    "H6": ("no masks across <break> and no weights on documents help drawing without retrieval",
           "`nox -s ablate_pretraining`"),
    "H7": ("diversity and query dropout help",
           "`nox -s ablate_retrieval` and `nox -s ablate_pretraining`"),
    "H8": ("documents of both modalities beat text alone and pictures alone",
           "`nox -s ablate_retrieval`"),
    "Q5": ("contrastive decoding betters text too (the paper's open question 5)",
           "`nox -s ablate_decoding`"),
    "H9": ("FID and loss fall with compute, with retrieval faster than without",
           "`nox -s scaling -- --plan small`"),
}  # fmt: skip
COUNTS = {2: "two documents", 1: "one document"}
UNKNOWN = "not measured yet"


@dataclass(frozen=True)
class Finding:
    """One statement judged by records: the effect with its interval, and the verdict."""

    claim: str
    statement: Parts
    on: str
    effect: Parts
    verdict: str
    p: float | None = None  # that there is no effect, for one statement alone
    seen: str = "-"  # the effect that four of five such runs resolve


def findings(inputs: Inputs) -> list[Finding]:
    """Every statement that some record can judge, in the order of the claims."""
    found = [*_splits(inputs), *_retrieval(inputs), *_sizes(inputs), *_decoding(inputs)]
    found += [*_pretraining(inputs), *_scaling(inputs)]
    return sorted(found, key=lambda one: list(CLAIMS).index(one.claim))


def _splits(inputs: Inputs) -> list[Finding]:
    """FID with documents over that without, on every split of the best system that retrieves."""
    for group in headline(columns(inputs.of("fid_coco"))):
        for run in group:
            found = [
                _split_finding(run, split, count, key)
                for split in run.record["protocol"].get("captions", ())
                for count in COUNTS
                if more(run, key := f"{split}.documents{count}.fid_over_documents0")
            ]
            if found:
                return found
    return []


def _split_finding(run: Run, split: str, count: int, key: str) -> Finding:
    part = more(run, key, 3)
    entry = extra(run.record, key)
    # Below 1 is what is claimed: the quotient turned over.
    turned = {"low": 1 / entry["high"], "high": 1 / entry["low"]}
    fids = [extra(run.record, f"{split}.documents{each}.fid") for each in (0, count)]
    known = [one for one in fids if one is not None]
    n, floor = run.record["protocol"]["captions"][split], extra(run.record, f"{split}.floor")
    verdict = carried(judged(turned, 1.0), n, known, floor)
    effect = prose("FID of {name} with {count} over none: {effect}", name=emph(run.system),
                   count=COUNTS[count], effect=part)  # fmt: skip
    statement = f"{COUNTS[count]} {'lower' if count > 1 else 'lowers'} FID below none"
    p = effect_p(entry["value"], entry["low"], entry["high"], 1.0, True)
    return Finding("H1", words(statement), split, effect, verdict, p, power_cell(entry, True))


def _retrieval(inputs: Inputs) -> list[Finding]:
    run = largest(inputs.of("ablate_retrieval"))
    if run is None:
        return []
    key = ("hypothesis", "statement", "split")
    known = {tuple(one[name] for name in key): one for one in retrieval.verdicts(run.record)}
    default, found = run.record["protocol"]["default"], []
    for name, statement, split, measure, arm in retrieval.HYPOTHESES:
        one = known.get((name, statement, split))
        if one is None:
            continue
        part = more(run, f"{split}.{default}.{measure}_vs_{arm}", 2 if measure == "fid" else 3)
        kind = "FID of {arm} / {default}: {effect}"
        if measure != "fid":
            kind = "share of {default} less {arm}: {effect}"
        effect = prose(kind, arm=arm, default=default, effect=part)
        found.append(Finding(name, words(statement), split, effect, *_said(one)))
    return found


def _said(one: Mapping) -> tuple[str, float | None, str]:
    """Verdict, p and power of a judged statement."""
    return one["verdict"], _p(one), power_cell(one, one.get("ratio"))


def _p(one: Mapping) -> float | None:
    """p of a verdict with an effect; None where no number is "no effect" (H3, one seed)."""
    if "none" not in one or one["low"] is None:
        return None
    ends = one["value"], one["low"], one["high"]
    return effect_p(*ends, one["none"], one["ratio"])


def _decoding(inputs: Inputs) -> list[Finding]:
    run = largest(inputs.of("ablate_decoding"))
    found = []
    for one in decoding.verdicts(run.record) if run else ():
        effect = prose("{kind}: {effect}", kind=one["kind"], effect=more(run, one["key"], 3))
        about = words(one["statement"]), one["split"], effect
        found.append(Finding(one["hypothesis"], *about, *_said(one)))
    return found


def _pretraining(inputs: Inputs) -> list[Finding]:
    run = largest(inputs.of("ablate_pretraining"))
    if run is None:
        return []
    known = {one["statement"]: one for one in pretraining.verdicts(run.record)}
    found = []
    for name, statement, arm, score, _ in pretraining.HYPOTHESES:
        if statement in known:
            part = more(run, f"{arm}.{score}_minus_default", 3)
            effect = prose("{arm} less default: {effect}", arm=arm, effect=part)
            about = words(statement), "pretraining", effect
            found.append(Finding(name, *about, *_said(known[statement])))
    return found


SWEPT = (  # number of a sweep, statement, on, value of no effect, holds below it
    ("plain.loss_exponent", "loss falls with compute, without documents", "val", 0.0, False),
    ("documents.loss_exponent", "loss falls with compute, with documents", "val", 0.0, False),
    ("documents.loss_exponent_minus_plain", "with documents it falls faster", "val", 0.0, False),
    ("equal_flops.all.held_out_image_minus_plain", "at equal FLOPs documents lower the loss", "val",
     0.0, True),
    ("equal_flops.all.held_out_tail_image_minus_plain", "at equal FLOPs documents lower the loss",
     "tail", 0.0, True),
    ("equal_flops.all.natural.fid_over_plain", "at equal FLOPs documents lower FID", "natural", 1.0,
     True),
    ("equal_flops.all.tail.fid_over_plain", "at equal FLOPs documents lower FID", "tail", 1.0,
     True),
)  # fmt: skip


def _scaling(inputs: Inputs) -> list[Finding]:
    """What a sweep of sizes and budgets says, its intervals over trainings."""
    run, found = largest(inputs.of("scaling")), []
    for key, statement, split, none, below in SWEPT if run else ():
        entry = extra(run.record, key)
        if entry is None or entry["low"] is None:
            continue
        ratio = none == 1.0
        ends = {"low": entry["low"], "high": entry["high"]}
        verdict = judged({"low": -ends["high"], "high": -ends["low"]} if below else ends,
                         -none if below else none)  # fmt: skip
        if ratio:
            verdict = carried(verdict, run.record["protocol"]["drawn"])
        p = effect_p(entry["value"], entry["low"], entry["high"], none, ratio)
        effect = prose("{effect}", effect=more(run, key, 3))
        seen = power_cell(entry, ratio)
        found.append(Finding("H9", words(statement), split, effect, verdict, p, seen))
    return found


def _sizes(inputs: Inputs) -> list[Finding]:
    """Each size trained from scratch against the next larger, by one protocol."""
    found = []
    for group in headline(columns(inputs.of("fid_coco"))):
        ladder = []
        for run in group:
            model = inputs.model(run.system)
            if model is not None and model.name == run.system and model.start is None:
                ladder.append((run, parameters(model)))
        ladder.sort(key=lambda one: one[1].trace.value)
        found += [_size_finding(*pair) for pair in pairwise(ladder)]
    return found


def _size_finding(small: tuple[Run, Part], large: tuple[Run, Part]) -> Finding:
    (small_run, small_size), (large_run, large_size) = small, large
    one, other = small_run.record["interval"], large_run.record["interval"]
    verdict = OPEN
    if one and other and other["high"] < one["low"]:
        verdict = HOLDS
    elif one and other and other["low"] > one["high"]:
        verdict = FAILS
    n = min(small_run.record["n"], large_run.record["n"])
    both = [{"value": run.record["value"]} for run in (small_run, large_run)]
    verdict = carried(verdict, n, both, extra(large_run.record, "floor"))
    statement = prose(
        "{large} parameters lower FID below {small}", large=large_size, small=small_size
    )
    effect = prose("from {small} to {large}", small=own(small_run), large=own(large_run))
    return Finding("H2", statement, _split(large_run), effect, verdict)


def _split(run: Run) -> str:
    if "headline" in run.record["protocol"]:
        return run.record["protocol"]["headline"]
    asked = str(run.record["protocol"].get("prompts", "")).replace(",", " ").split()
    return next((word for word in asked if word in ("test", "val", "tail")), "captions")


def claims_tables(found: Sequence[Finding], level: str) -> tuple[Grid, ...]:
    """H1 to H9, a row a statement, on as many tables as pages take; what no record judges says so,
    with its command.
    """
    tables: list[list[Row]] = [[]]
    adjusted = adjusted_p(found)
    for name, (claim, command) in CLAIMS.items():
        of_claim = [one for one in found if one.claim == name]
        if len(tables[-1]) + len(of_claim) > MOST_ROWS:
            tables.append([])
        rows = tables[-1]
        title = words(f"{name}: {claim}")
        if not of_claim:
            title = (emph(f"{name}: {claim}"),)
            cells = (title, (), prose(f"run {command}"), (), (), (), _verdict(UNKNOWN))
            rows.append(Row(cells, "thin"))
            continue
        rows.append(Row((title,), "group"))
        for one in of_claim:
            both = [words(f"{p:.1g}") for p in adjusted.get(id(one), ())] or [(), ()]
            about = one.statement, words(one.on), one.effect, words(one.seen)
            rows.append(Row((*about, *both, _verdict(one.verdict))))
    heads = ("statement", "on", f"effect [{level}]", "could have seen", "p, Holm", "p, BH")
    heads = (*heads, "verdict")
    heads = tuple(map(words, heads))
    widths = ("1.4fr", "auto", "1fr", "auto", "auto", "auto", "auto")
    panels = (Panel(heads, tuple(rows), "lllrrrr", widths=widths) for rows in tables)
    return tuple(
        Grid(f"table-claims-{place}" if place else "table-claims", (panel,), wide=True)
        for place, panel in enumerate(panels)
    )


def adjusted_p(found: Sequence[Finding]) -> dict[int, tuple[float, float]]:
    """id of a finding with a p -> (by Holm, by Benjamini and Hochberg) over all of them."""
    known = [one for one in found if one.p is not None]
    each = [one.p for one in known]
    pairs = zip(holm(each), benjamini_hochberg(each), strict=True)
    return {id(one): tuple(map(float, pair)) for one, pair in zip(known, pairs, strict=True)}


def tally(found: Sequence[Finding]) -> dict[str, int]:
    """How many statements hold, do not, are not resolved, cannot be measured at their n; and of the
    claims, not measured.
    """
    kinds = HOLDS, FAILS, OPEN, UNMEASURABLE
    counts = {kind: sum(one.verdict == kind for one in found) for kind in kinds}
    return counts | {UNKNOWN: len(CLAIMS) - len({one.claim for one in found})}


def _verdict(text: str) -> Parts:
    return (plain(text, "verdict"),)
