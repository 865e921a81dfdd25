"""VQA accuracy (Antol et al. 2015): each human's answer against the others', three make it right.

The rule and the normalisation are those of the official script (GT-Vision-Lab/VQA, vqaEval.py) with
its known quirks: answers are normalised only where the humans disagree; a mark of punctuation is
taken out where it stands at a space, or where a comma stands between digits anywhere, and is a
space otherwise; any full stop that no digit follows goes. OKVQA has five answers, each twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cm3leon.errors import UserError

ENOUGH = 3  # humans of the others who must have said the same
NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
} | {"none": "0"}  # fmt: skip
ARTICLES = ("a", "an", "the")
MARKS = ';/[]"{}()=+\\_-><@`,?!'
_POINT = re.compile(r"(?!<=\d)(\.)(?!\d)")  # as printed: its first group looks for "<="
_THOUSANDS = re.compile(r"(\d)(\,)(\d)")
_ONCE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock
oughtn't shan't should've shouldn't somebody'll somebody's someone'd someone'll someone's
something'd something'll that's there'd there're there's they'd they'll they're they've wasn't
we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's
who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've 'twas
"""
_TWICE = """
couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've
someone'd've something'd've there'd've they'd've we'd've who'd've wouldn't've you'd've y'all'll
"""
_ODD = {
    "somebody'd": "somebodyd",
    "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at",
    "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've",
}  # fmt: skip


def _without(word: str, place: int) -> str:
    """A word without its apostrophe number `place`."""
    parts = word.split("'")
    return "'".join([*parts[:place], parts[place] + parts[place + 1], *parts[place + 2 :]])


CONTRACTIONS = (
    {_without(word, 0): word for word in _ONCE.split()}
    | {_without(word, place): word for word in _TWICE.split() for place in (0, 1)}
    | _ODD
)


def normalised(answer: str) -> str:
    """An answer as it is compared: without punctuation and articles, numbers to ten as digits."""
    text = answer
    bare = _THOUSANDS.search(answer) is not None
    for mark in MARKS:
        lone = bare or f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if lone else " ")
    text = _POINT.sub("", text, count=32)  # the script gives a flag, 32, where the count stands
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, humans: Sequence[str]) -> float:
    """How right an answer is, 0 to 1, beside what humans answered; UserError without two of them.

    With ten humans of whom m say the same: 0, 0.3, 0.6, 0.9, 1 for m = 0, 1, 2, 3, 4 and more.
    """
    if isinstance(humans, str) or len(humans) < 2:
        raise UserError(f"VQA accuracy needs the answers of two humans or more, got {humans!r}")
    humans, answer = [_plain(one) for one in humans], _plain(answer)
    if len(set(humans)) > 1:
        humans, answer = [normalised(one) for one in humans], normalised(answer)
    same = sum(one == answer for one in humans)
    scores = [min(1.0, (same - (one == answer)) / ENOUGH) for one in humans]
    return sum(scores) / len(scores)


def _plain(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
