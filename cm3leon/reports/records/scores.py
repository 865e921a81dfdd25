"""What `cm3leon score` measured, kept as a record (`evaluation/score.py` makes the `Scores`)."""

from __future__ import annotations

from pathlib import Path

from cm3leon.reports.records import record
from cm3leon.reports.records.store import RESULTS


def keep(scores, name: str, folder: Path | None = None) -> Path:
    """Write the numbers as a record `score/NAME` of a folder (None: results/ where we stand, or of
    the checkout), for `compare`, `records` and the dashboard; its path.

    The first number is the record's own. Raises UserError for a name that is no folder's.
    """
    from cm3leon.evaluation.statistics.intervals import FRECHET_METHOD

    first, own = next(iter(scores.numbers.items()))
    method = FRECHET_METHOD if first in ("fid", "fd_dinov2") else "as the measure's own"
    interval = None
    if own.low is not None and own.high is not None:
        interval = record.Interval(own.low, own.high, 0.95, method)
    protocol = {
        **scores.network,
        "reference_sha256": scores.reference.sha256,
        "reference_pictures": scores.reference.pictures,
        "n": scores.images.pictures,
    }
    found = record.Measurement(
        value=own.value,
        n=scores.images.pictures or 1,
        interval=interval,
        extra={
            key: (one.value, one.low, one.high)
            for key, one in scores.numbers.items()
            if key != first
        },
        missing=scores.missing,
        warnings=scores.warnings,
    )
    bench = record.Bench("score", 1, own.title, own.better, protocol, measure=keep)
    system = record.Named(name, {"images": Path(scores.images.source).name})
    made = record.build_record(bench, system, found, protocol, record.Phases())
    return record.save(made, RESULTS if folder is None else folder)
