"""Signs: letters at their place, and the edit distance between what was asked and what is read.

OneIG reports the share without a difference and the mean distance, AnyText 1 - distance / longer.
"""

from __future__ import annotations


def letters_right(text: str, read: str) -> int:
    """Letters of `text` that stand at their place in `read`; none where the lengths differ."""
    return sum(a == b for a, b in zip(text, read, strict=True)) if len(text) == len(read) else 0


def edit_distance(text: str, read: str) -> int:
    """Levenshtein's: fewest letters to put in, take out or exchange."""
    above = list(range(len(read) + 1))
    for row, letter in enumerate(text, 1):
        line = [row]
        for column, other in enumerate(read, 1):
            swapped = above[column - 1] + (letter != other)
            line.append(min(above[column] + 1, line[-1] + 1, swapped))
        above = line
    return above[-1]
