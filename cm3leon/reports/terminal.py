"""A table as text of at most so many columns: cells wrap, and what is wider still stands in parts.

Columns of numbers keep their cells whole, their headers wrap. Where even that is too wide, the
columns stand in several blocks below each other, each beginning with the first column.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cm3leon.reports.tables import Table

WIDTH = 120  # columns of a terminal that a table takes at most
LEAST = 20  # of a column of words, if it has so many
GAP = 2  # between columns, and before the first
NOTE = 72  # a note's line at least


def text_of(table: Table, width: int = WIDTH) -> str:
    """Aligned columns; our rows begin with `>`."""
    cells = [[one_line(cell) for cell in row] for row in (table.headers, *table.rows)]
    columns = list(zip(*cells, strict=True))
    widths = fitted(columns, table.numbers, width)
    blocks = ["\n".join(block(table, cells, widths, part)) for part in parts(widths, width)]
    longest = max(len(line) for text in blocks for line in text.split("\n"))
    notes = [
        textwrap.fill(
            one_line(note), max(longest, NOTE), initial_indent="  ", subsequent_indent="    "
        )
        for note in table.notes
    ]
    return "\n".join([one_line(table.caption), *blocks, *notes])


def one_line(cell: str) -> str:
    """One printable line: captions and names must not move the terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in cell)


def fitted(columns: Sequence[Sequence[str]], numbers: frozenset[int], width: int) -> list[int]:
    """A width for each column so that all fit, where that goes: the widest gives way first."""
    widths = [max(map(len, column)) for column in columns]
    floors = [
        min(own, max(map(len, column[1:] if place in numbers else ()), default=LEAST))
        for place, (own, column) in enumerate(zip(widths, columns, strict=True))
    ]
    for place in numbers:  # a header wraps between its words
        longest = max(map(len, columns[place][0].split()), default=0)
        floors[place] = min(widths[place], max(floors[place], longest))
    while total(widths) > width:
        loose = [place for place, own in enumerate(widths) if own > floors[place]]
        if not loose:
            break
        place = max(loose, key=lambda place: widths[place])
        widths[place] -= 1
    return widths


def total(widths: Sequence[int]) -> int:
    """Columns of a terminal that so many take side by side."""
    return sum(widths) + GAP * len(widths)


def parts(widths: Sequence[int], width: int) -> Iterator[list[int]]:
    """Places of the columns of each block; the first column is in all of them."""
    part = [0]
    for place in range(1, len(widths)):
        if len(part) > 1 and total([widths[one] for one in (*part, place)]) > width:
            yield part
            part = [0]
        part.append(place)
    yield part


def block(
    table: Table, cells: Sequence[Sequence[str]], widths: Sequence[int], part: Sequence[int]
) -> Iterator[str]:
    """Lines of some columns, between rules."""
    rule = " " * GAP + "-" * (total([widths[place] for place in part]) - GAP)
    yield rule
    for index, row in enumerate(cells):
        wrapped = [wrap(row[place], widths[place]) for place in part]
        for height in range(max(map(len, wrapped))):
            line = []
            for place, lines in zip(part, wrapped, strict=True):
                text = lines[height] if height < len(lines) else ""
                right = place in table.numbers
                line.append(text.rjust(widths[place]) if right else text.ljust(widths[place]))
            mark = ">" if index - 1 in table.ours and not height else ""
            yield (mark.ljust(GAP) + (" " * GAP).join(line)).rstrip()
        if not index or index == table.rule_after < len(cells) - 1:
            yield rule
    yield rule


def wrap(cell: str, width: int) -> list[str]:
    """The lines of a cell; one that fits stays as it is."""
    return [cell] if len(cell) <= width else textwrap.wrap(cell, width)
