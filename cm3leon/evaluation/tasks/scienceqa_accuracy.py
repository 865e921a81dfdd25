"""Accuracy on multiple choice in ScienceQA's form: the letter that an answer names.

Of `.. So the answer is (B).` it is the letter behind the last "answer is"; else an answer that is a
letter alone, in brackets or not. What names none is wrong, and counted.
"""

from __future__ import annotations

import re

_SAID = re.compile(r"answer is:?\s*\(?([A-Z])\)?(?![A-Za-z])")
_ALONE = re.compile(r"\s*\(?([A-Z])\)?[.:]?\s*")


def letter_of(answer: str) -> str | None:
    """The letter an answer names; None where it names none."""
    if said := _SAID.findall(answer):
        return said[-1]
    alone = _ALONE.fullmatch(answer)
    return alone[1] if alone else None


def scienceqa_accuracy(answer: str, letter: str) -> float:
    """1 where the answer names this letter, `B` or `(B)`, else 0."""
    return float(letter_of(answer) == letter.strip("() "))
