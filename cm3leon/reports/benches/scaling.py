"""Tables of `scaling`, from its record alone: the laws, what documents change, every point.

Numbers of a point are `SIZE.ARM.SEED.BUDGET.measure`, those of a law `ARM.measure`.
"""

from __future__ import annotations

from collections.abc import Mapping

from cm3leon.reports import extra
from cm3leon.reports.tables import Table, cell

ARMS = ("plain", "documents")
LAW = {
    "loss_exponent": "gamma of L - E ~ C^-gamma",
    "loss_exponent_minus_plain": "gamma less that without documents",
    "size_exponent": "a of N ~ C^a, the law's",
    "size_exponent_isoflop": "a of N ~ C^a, isoFLOP",
    "chinchilla_E": "E",
    "chinchilla_alpha": "alpha",
    "chinchilla_beta": "beta",
    "loss_exponent_largest_left_out": "gamma, largest size left out",
    "loss_exponent_smallest_left_out": "gamma, smallest size left out",
    "left_out_error": "relative error on sizes left out",
}
MEETINGS = {"equal_flops": "equal FLOPs", "equal_queries": "equal queries"}
CHANGES = {  # of the arm with documents against the other, and how many decimals
    "held_out_image_minus_plain": ("pictures, nats", 3),
    "held_out_tail_image_minus_plain": ("entities' pictures, nats", 3),
    "held_out_text_minus_plain": ("texts, nats", 3),
    "natural.fid_over_plain": ("FID natural, x", 2),
    "tail.fid_over_plain": ("FID tail, x", 2),
    "natural.composition_minus_plain": ("composition natural", 3),
    "tail.composition_minus_plain": ("composition tail", 3),
    "tail.entity_minus_plain": ("entities tail", 3),
}
OVER_SIZES = {
    "all": "mean of sizes",
    "all.first": "mean of sizes, least budgets",
    "slope": "slope over ln N",
}


def points_of(record: Mapping) -> list[dict]:
    """Every point: its size, arm, seed and numbers, small ones first."""
    found: dict[tuple, dict] = {}
    for name in record["extra"]:
        parts = name.split(".", 4)
        if len(parts) == 5 and parts[1] in ARMS:
            size, arm, seed, at, measure = parts
            about = {"size": size, "arm": arm, "seed": int(seed), "at": int(at)}
            found.setdefault(tuple(parts[:4]), about)[measure] = extra(record, name)["value"]
    order = ("parameters", "arm", "seed", "flops")
    return sorted(found.values(), key=lambda one: tuple(one[key] for key in order))


def scaling_tables(record: Mapping) -> dict[str, Table]:
    """File stem -> table: laws, what documents change where both arms are there, and points."""
    found = {"laws": laws_table(record)}
    if any(name.startswith(tuple(MEETINGS)) for name in record["extra"]):
        found["arms"] = arms_table(record)
    return found | {"points": points_table(record)}


def laws_table(record: Mapping) -> Table:
    """A row for each constant, a column for each arm."""
    arms = record["protocol"]["arms"]
    rows = [
        (title, *(cell(record, f"{arm}.{key}", 4) for arm in arms))
        for key, title in LAW.items()
        if any(extra(record, f"{arm}.{key}") for arm in arms)
    ]
    return Table(
        headers=("", *arms),
        rows=tuple(rows),
        caption="Scaling laws of the held-out loss (95% intervals)",
        notes=("N: all parameters, D: all tokens read, C: 6ND", *record["warnings"]),
        numbers=frozenset(range(1, 1 + len(arms))),
    )


def arms_table(record: Mapping) -> Table:
    """With documents minus without: a row for each size, and over sizes; measures that documents
    change nowhere (no entity drawn by either) have no column.
    """
    shown = {
        key: about
        for key, about in CHANGES.items()
        if any(
            name.endswith(f".{key}") and extra(record, name)["value"] for name in record["extra"]
        )
    }
    rows, sizes = [], {size: size for size in record["protocol"]["sizes"]}
    for meeting, title in MEETINGS.items():
        for key, name in (sizes | OVER_SIZES).items():
            cells = [cell(record, f"{meeting}.{key}.{end}", n) for end, (_, n) in shown.items()]
            if any(one != "-" for one in cells):
                rows.append((title, name, *cells))
    return Table(
        headers=("at", "size", *(title for title, _ in shown.values())),
        rows=tuple(rows),
        caption="With retrieved documents against without (mean of training seeds, 95% intervals)",
        notes=(
            "of each size its largest budget; drawings with two documents against none",
            "FID as a ratio, below 1 where documents help; losses and shares as differences",
        ),
        numbers=frozenset(range(2, 2 + len(shown))),
    )


def points_table(record: Mapping) -> Table:
    """A row for each point."""
    points = points_of(record)
    drawn = sorted({key for one in points for key in one if "fid_with" in key})
    rows = tuple(
        (
            f"{one['size']}, {one['arm']}, seed {one['seed']}",
            f"{one['parameters'] / 1e6:.2f}M",
            f"{one['tokens'] / 1e6:.3g}M",
            f"{one['flops']:.3g}",
            f"{one['held_out_loss']:.4f}",
            f"{one['held_out_image']:.4f}",
            f"{one['held_out_tail_image']:.4f}",
            *(f"{one[key]:.1f}" if key in one else "-" for key in drawn),
        )
        for one in points
    )
    heads = ("run", "N", "D", "FLOPs", "loss", "pictures", "entities' pictures")
    return Table(
        headers=(*heads, *(key.replace(".fid_with_", " FID, ") for key in drawn)),
        rows=rows,
        caption="Points of the sweep (nats a token on held-out pairs)",
        numbers=frozenset(range(1, len(heads) + len(drawn))),
    )
