"""Image tokenizers side by side: what each loses and how much of its codebook it uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cm3leon.reports import extra, newest, own, remarks
from cm3leon.reports.records.store import column, read_all
from cm3leon.reports.tables import Table, features_name, number, span


def same_protocol(record: Mapping, results: Path | str) -> list[Mapping]:
    """The newest record of every tokenizer measured as this one was, this one last."""
    name = record["system"]["name"]
    others = [
        one
        for one in newest(read_all(results, record["bench"]))
        if column(one) == column(record) and one["system"]["name"] != name
    ]
    return [*others, record]


def rfid_table(records: Sequence[Mapping]) -> Table:
    """A row for each record of one protocol; the last stands out."""
    last = records[-1]
    notes = [f"{last['protocol']['pictures']}; features: {features_name(last)}"]
    notes += sorted({f"warning: {text}" for record in records for text in remarks(record)})
    return Table(
        headers=(
            "tokenizer", "codes", "tokens", "rFID", "95 % interval", "PSNR dB", "SSIM",
            "codes used", "perplexity",
        ),
        rows=tuple(_row(record) for record in records),
        caption=f"Reconstruction of {last['n']:,} pictures of {last['protocol']['size']} pixels",
        notes=tuple(notes),
        numbers=frozenset({1, 2, 3, 5, 6, 7, 8}),
        ours=frozenset({len(records) - 1}),
    )  # fmt: skip


def _row(record: Mapping) -> tuple[str, ...]:
    config, value = record["system"]["config"], own(record)
    stride = 2 ** (len(config["multipliers"]) - 1)
    cells = {name: extra(record, name) for name in ("psnr", "ssim", "codes_used", "perplexity")}
    shown = {name: one["value"] if one else None for name, one in cells.items()}
    used = "-" if shown["codes_used"] is None else f"{100 * shown['codes_used']:.1f} %"
    return (
        record["system"]["name"],
        f"{config['codebook_size']:,}",
        f"{(record['protocol']['size'] // stride) ** 2:,}",
        number(value["value"]),
        span(value["value"], value["low"], value["high"]),
        number(shown["psnr"]),
        "-" if shown["ssim"] is None else f"{shown['ssim']:.3f}",
        used,
        number(shown["perplexity"]),
    )
