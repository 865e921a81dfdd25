"""ScienceQA: `problems.json`, `pid_splits.json`, pictures in `images/<split>/<id>/image.png`.

Its context is the hint, "N/A" where there is none; options are `(A) shiny (B) salty`, the answer a
letter in brackets (Figure 7). Questions without a picture are skipped: Table 5's 6k are those with
one. The explanation is the solution; a problem without one is skipped by the task that needs it.
"""

from __future__ import annotations

from pathlib import Path

from cm3leon.checkpoint import read_json
from cm3leon.data.coco import field_of
from cm3leon.data.examples import Examples, Shown
from cm3leon.data.sources import Skipped
from cm3leon.errors import UserError

PROBLEMS, SPLITS = "problems.json", "pid_splits.json"
LETTERS = "ABCDEFGHIJ"


def scienceqa(root: str | Path, split: str | None = None) -> Examples:
    """The problems of a split that have a picture.

    Raises UserError for a missing file or split and for a problem that is misbuilt.
    """
    root = Path(root)
    path = root / PROBLEMS
    problems, splits = read_json(path), read_json(root / SPLITS)
    if split not in splits:
        wanted = "several splits" if split is None else f"no split {split!r}"
        raise UserError(f"{root / SPLITS} has {wanted}; name one of {', '.join(splits)}")
    parts, lost = [], []
    for number in splits[split]:
        name, problem = f"scienceqa-{number}", problems.get(str(number))
        if not isinstance(problem, dict):
            raise UserError(f"{path} lacks problem {number} of split {split!r}")
        if not problem.get("image"):
            lost.append(Skipped(name, "has no picture"))
            continue
        own = problem.get("split") or split
        picture = root / "images" / str(own) / str(number) / "image.png"
        parts.append(Shown(name, {"image": picture}, (_fields(problem, name, path),)))
    return Examples("scienceqa", parts, lost, {"split": split})


def _fields(problem: dict, name: str, path: Path) -> dict[str, str]:
    choices = problem.get("choices")
    if not isinstance(choices, list) or not all(isinstance(one, str) for one in choices):
        raise UserError(f"{path}: {name} needs a list of texts 'choices', got {choices!r}")
    answer = field_of(problem, "answer", int, name, path)
    if not 0 <= answer < min(len(choices), len(LETTERS)):
        raise UserError(
            f"{path}: answer {answer} of {name} is not among its {len(choices)} choices"
        )
    options = " ".join(
        f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)
    )
    return {
        "question": field_of(problem, "question", str, name, path),
        "context": problem.get("hint") or "N/A",
        "options": options,
        "explanation": problem.get("solution") or "",
        "answer": f"({LETTERS[answer]})",
    }
