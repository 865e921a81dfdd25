"""Tables and plot of `latency`, from its record alone: one image, throughput, the roofline's share.

Rows are the protocol's sizes x types x batches; what could not be timed keeps its row, with a note.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from cm3leon.reports import extra
from cm3leon.reports.plots import drawn, saved
from cm3leon.reports.records.store import device
from cm3leon.reports.tables import Table, number, span

QUOTED = "Fig. 10"  # the paper's table of seconds an image
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#222222", "#6e6e6e")
LEGEND_COLUMNS = 4
PEERS = {  # end of a peer's numbers -> its name in protocols and of its table, column, loop, notes
    "hf": ("peers", "HF", "Hugging Face's OPTForCausalLM.generate (same shape)", ()),
    "llamagen": (
        "llamagen", "LlamaGen", "LlamaGen's own loop (same layers, width and heads; its SwiGLU)",
        ("its prompt is one class token, its caches are as long as what it draws",),
    ),
}  # fmt: skip
LINES = {"float32": ("-", "o"), "bfloat16": ("--", "s"), "int8": (":", "^")}


def latency_tables(record: Mapping, published: Mapping) -> dict[str, Table]:
    """File stem -> table; the peers' only where they were timed."""
    tables = {
        "one_image": one_image_table(record, published),
        "throughput": throughput_table(record),
        "roofline": roofline_table(record),
        "ceilings": ceilings_table(record),
    }
    return tables | {PEERS[peer][0]: peer_table(record, peer) for peer in timed_peers(record)}


def timed_peers(record: Mapping) -> list[str]:
    """Those that were timed in turn with ours; records from before a peer do not know its name."""
    return [peer for peer, (named, *_) in PEERS.items() if record["protocol"].get(named)]


def configurations(record: Mapping) -> Iterator[tuple[str, str, int, str]]:
    """(size, dtype, batch, name of its numbers), in the protocol's order."""
    protocol = record["protocol"]
    for size in protocol["sizes"]:
        for dtype in protocol["dtypes"]:
            for batch in protocol["batches"]:
                yield size, dtype, batch, f"{size}.{dtype}.b{batch}"


def note(record: Mapping, name: str) -> str:
    """What the record says of a configuration, or nothing."""
    start = f"{name}: "
    return next((text[len(start) :] for text in record["warnings"] if text.startswith(start)), "")


def grouped_notes(record: Mapping) -> list[str]:
    """All notes, one line for the batches of a size and type that share one."""
    found: dict[tuple, list[str]] = {}
    for size, dtype, batch, name in configurations(record):
        if text := note(record, name):
            found.setdefault((size, dtype, text), []).append(str(batch))
    return [
        f"{size}, {dtype}, batch {', '.join(batches)}: {text}"
        for (size, dtype, text), batches in found.items()
    ]


def one_image_table(record: Mapping, published: Mapping) -> Table:
    """Figure 10: seconds of one picture, ours above the quoted; their hardware is another."""
    ours = [
        (size, dtype, f"{_tokens(record, size)} tokens", *_value(record, name), "measured")
        for size, dtype, batch, name in configurations(record)
        if batch == 1 and extra(record, f"{name}.seconds_per_image")
    ]
    quoted = [row for row in published["rows"] if row["table"] == QUOTED]
    theirs = [
        (row["model"], "", row["metric"].removeprefix("seconds per image at "),
         f"{row['value']:.1f}", "", "quoted")
        for row in quoted
    ]  # fmt: skip
    notes = [f"measured on {device(record)}; {_how(record)}"]
    notes += [
        f"{size}, {dtype}: {text}"
        for size, dtype, batch, name in configurations(record)
        if batch == 1 and (text := note(record, name))
    ]
    if quoted:
        notes.append(
            f"quoted from {quoted[0]['source']}: TPUv4 (Imagen, Parti, Muse), A100 (LDM), not "
            "stated (CM3Leon); other hardware, NOT comparable with measured"
        )
    return Table(
        headers=("model", "dtype", "picture", "seconds an image", "interval", "source"),
        rows=(*ours, *theirs),
        caption="Seconds of one picture, batch 1 (the paper's Figure 10)",
        notes=tuple(notes),
        numbers=frozenset({2, 3}),
        ours=frozenset(range(len(ours))),
        rule_after=len(ours) if ours and theirs else None,
    )


def throughput_table(record: Mapping) -> Table:
    """Figure 11: seconds and pictures a second against the batch, memory, load, what was cut."""
    measures = ("images_per_s", "tokens_per_s", "seconds_per_batch", "peak_memory_gib")
    rows, timed = [], timed_peers(record)
    for size, dtype, batch, name in configurations(record):
        seconds, interval = _value(record, name)
        load = extra(record, f"{name}.load_of_others")
        cells = (_cell(record, f"{name}.{measure}") for measure in measures)
        shown = "-" if load is None else f"{load['value']:.0%}"
        rows.append((size, dtype, str(batch), seconds, interval, *cells, shown, note(record, name)))
    return Table(
        headers=("size", "dtype", "batch", "s/image", "interval", "images/s", "tokens/s", "s/batch",
                 "peak GiB", "others", "note"),
        rows=tuple(_merged(rows)),
        caption="Throughput against the batch (the paper's Figure 11)",
        notes=(
            f"{device(record)}; {_how(record)}",
            "peak GiB: of the device, on a processor of the whole process"
            + (f" with the peer{'s' * (len(timed) - 1)} in it" if timed else "")
            + "; others: share of the processors that other programs used meanwhile",
        ),
        numbers=frozenset(range(2, 10)),
    )  # fmt: skip


def roofline_table(record: Mapping) -> Table:
    """A decode step, prefill taken out, beside the ideal one by this run's ceilings."""
    rows = []
    for size, dtype, batch, name in configurations(record):
        share = extra(record, f"{name}.roofline_share")
        if share is None:
            continue
        memory, compute = (extra(record, f"{name}.ideal_{one}_ms")["value"]
                           for one in ("memory", "compute"))  # fmt: skip
        rows.append(
            (size, dtype, str(batch), _cell(record, f"{name}.decode_tokens_per_s"),
             _cell(record, f"{name}.decode_ms"), f"{max(memory, compute):.3g}",
             "memory" if memory >= compute else "compute", f"{share['value']:.3f}",
             span(share["value"], share["low"], share["high"], 3))
        )  # fmt: skip
    return Table(
        headers=("size", "dtype", "batch", "tokens/s", "step ms", "ideal ms", "bound", "share",
                 "interval"),
        rows=tuple(rows),
        caption="Decoding alone against the roofline",
        notes=(
            "ideal step: the longer of reading weights and filled cache once at the measured "
            "bandwidth and multiplying at the measured peak",
        ),
        numbers=frozenset({2, 3, 4, 5, 7}),
    )  # fmt: skip


def peer_table(record: Mapping, peer: str) -> Table:
    """Decoding alone of ours and of a peer's loop, timed in turn."""
    _, column, loop, known = PEERS[peer]
    rows = []
    for size, dtype, batch, name in configurations(record):
        gain = extra(record, f"{name}.gain_over_{peer}")
        if gain is not None:
            speeds = (_cell(record, f"{name}.decode_tokens_per_s{end}") for end in ("", f"_{peer}"))
            rows.append(
                (size, dtype, str(batch), *speeds, f"{gain['value']:.2f}x",
                 span(gain["value"], gain["low"], gain["high"]))
            )  # fmt: skip
    return Table(
        headers=("size", "dtype", "batch", "ours, tokens/s", f"{column}, tokens/s", "gain",
                 "interval"),
        rows=tuple(rows),
        caption=f"Decoding alone beside {loop}",
        notes=("rounds in turn; the gain is of each round's pair of steps", *known),
        numbers=frozenset({2, 3, 4, 5}),
    )  # fmt: skip


def ceilings_table(record: Mapping) -> Table:
    """What the machine did at most in this run."""
    rows = []
    for name in record["extra"]:
        value = number(extra(record, name)["value"])
        if name.startswith("ceiling.read_gb_per_s."):
            size = int(name.rsplit(".", 1)[1].removesuffix("KiB"))
            rows.append((f"read, working set {_round(size / 1024)} MiB", value, "GB/s"))
        elif name.startswith("ceiling.gflop_per_s."):
            rows.append((f"matrix product, {name.rsplit('.', 1)[1]}", value, "GFLOP/s"))
    return Table(
        headers=("ceiling", "value", "unit"),
        rows=tuple(rows),
        caption=f"Ceilings of {device(record)}, measured in this run",
        numbers=frozenset({1}),
    )


def latency_plot(record: Mapping, folder: Path | str, stem: str = "latency") -> list[Path]:
    """Seconds an image, and the share of the roofline, against the batch. Writes .svg and .png."""
    return saved(lambda figure: draw_latency(figure, record), latency_size(record), folder, stem)


def latency_picture(record: Mapping) -> bytes:
    """The plot as an SVG's bytes; the same record, the same bytes."""
    return drawn(lambda figure: draw_latency(figure, record), latency_size(record))


def latency_size(record: Mapping) -> tuple[float, float]:
    """Inches of the plot, with room for its legend."""
    return 7.6, 3.1 + 0.17 * -(-len(_drawn(record)) // LEGEND_COLUMNS)


def draw_latency(figure, record: Mapping) -> None:
    """Both panels and one legend below them."""
    left, right = figure.subplots(1, 2)
    sizes, drawn = list(record["protocol"]["sizes"]), _drawn(record)
    several = len({dtype for _, dtype in drawn}) > 1
    for size, dtype in drawn:
        look = (COLOURS[sizes.index(size) % len(COLOURS)], *LINES[dtype])
        label = f"{size}, {dtype}" if several else size
        _line(left, record, size, dtype, "seconds_per_image", look, label)
        _line(right, record, size, dtype, "roofline_share", look, label)
    left.set_yscale("log")
    left.set_ylabel("seconds an image (lower is better)")
    right.set_ylabel("share of the roofline")
    top = right.get_ylim()[1] * 1.1
    right.axhline(1, color="#6e6e6e", lw=0.8, ls=":")
    right.set_ylim(0, top)
    batches = record["protocol"]["batches"]
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.tick_params(axis="x", which="minor", length=0)
        axes.set_xlabel("pictures drawn at once")
        axes.grid(axis="y", color="#dddddd", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    _decades(left)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=LEGEND_COLUMNS,
        frameon=False,
    )  # fmt: skip


def _decades(axes) -> None:
    """Ticks of a log axis: decades alone, or 1, 2, 5 where there are too few."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _drawn(record: Mapping) -> list[tuple[str, str]]:
    """(size, dtype) of every line."""
    found = (
        (size, dtype)
        for size, dtype, _, name in configurations(record)
        if extra(record, f"{name}.seconds_per_image")
    )
    return list(dict.fromkeys(found))


def _line(axes, record: Mapping, size: str, dtype: str, measure: str, look, label: str) -> None:
    points = [
        (batch, entry)
        for one, kind, batch, name in configurations(record)
        if (one, kind) == (size, dtype) and (entry := extra(record, f"{name}.{measure}"))
    ]
    if not points:
        return
    colour, line, marker = look
    entries = [entry for _, entry in points]
    bars = [
        [0 if one[end] is None else abs(one["value"] - one[end]) for one in entries]
        for end in ("low", "high")
    ]
    axes.errorbar(
        [batch for batch, _ in points], [entry["value"] for entry in entries], yerr=bars,
        color=colour, ls=line, marker=marker, ms=4, lw=1.3, elinewidth=0.8, capsize=2, label=label,
    )  # fmt: skip


def _merged(rows: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Rows without numbers and with the same note become one: `8..256`."""
    for (size, dtype, empty, text), group in groupby(
        rows, key=lambda row: (row[0], row[1], row[3] == "-", row[-1] if row[3] == "-" else row[2])
    ):
        same = list(group)
        if empty and text and len(same) > 1:
            batches = f"{same[0][2]}..{same[-1][2]}"
            yield (size, dtype, batches, *same[0][3:])
        else:
            yield from same


def _value(record: Mapping, name: str) -> tuple[str, str]:
    """Seconds an image and their interval as cells."""
    entry = extra(record, f"{name}.seconds_per_image")
    if entry is None:
        return "-", ""
    return number(entry["value"]), span(**entry)


def _cell(record: Mapping, name: str) -> str:
    entry = extra(record, name)
    return "-" if entry is None else number(entry["value"])


def _tokens(record: Mapping, size: str) -> int:
    """Tokens of one picture."""
    return record["protocol"]["sizes"][size]


def _round(size: float) -> str:
    return f"{size:,.0f}" if size >= 100 else f"{size:.3g}"


def _how(record: Mapping) -> str:
    """What was drawn and how often, in a few words."""
    protocol = record["protocol"]
    streams = "one stream" if protocol["guidance"] == 1 else f"guidance {protocol['guidance']:g}"
    return (
        f"{streams}, top-p {protocol['top_p']:g}, a prompt of {protocol['prompt_tokens']} tokens, "
        f"tokens of the picture alone; medians of up to {protocol['rounds']} rounds, intervals "
        "between order statistics around them (5 rounds: smallest to largest, 94%)"
    )
