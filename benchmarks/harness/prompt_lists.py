"""Lists of prompts as files: written for others, read from others, told apart by their SHA-256.

    prompts.jsonl          {"image_id", "caption_id", "caption", "seed"} a line
    prompts.jsonl.sha256   its digest, as `sha256sum` writes and checks it
    NAME.csv, NAME.txt     one caption a line, under a heading or none; no pictures belong to them

`seed` is that of the first sample of a caption. Pictures drawn elsewhere are named by `image_id`;
those of a list without ids by the number of the line, from 0, the heading not counted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.prompts import Prompt
from benchmarks.harness.protocols import LISTS
from cm3leon.errors import UserError
from cm3leon.files import sha256_bytes, write_atomic
from cm3leon.seeds import derive

HEADINGS = ("prompt", "prompts", "caption", "captions", "text")
FIELDS = ("image_id", "caption_id", "caption")


@dataclass(frozen=True)
class PromptList:
    """Prompts in order, the digest of their file, and whether each was written for a picture."""

    prompts: list[Prompt]
    sha256: str
    pictured: bool
    name: str


def to_jsonl(prompts: Sequence[Prompt]) -> bytes:
    """The bytes of `prompts.jsonl`: the same prompts, the same bytes."""
    rows = [
        {
            "image_id": _number(prompt.image_id),
            "caption_id": _number(prompt.id),
            "caption": prompt.caption,
            "seed": derive(0, prompt.id),
        }
        for prompt in prompts
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def list_digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompts as `prompts.jsonl`."""
    return sha256_bytes(to_jsonl(prompts))


def write_list(path: str | Path, prompts: Sequence[Prompt]) -> str:
    """Write the prompts, and their digest beside them; returns the digest."""
    path, data = Path(path), to_jsonl(prompts)
    found = sha256_bytes(data)
    write_atomic(path, data)
    write_atomic(path.with_name(f"{path.name}.sha256"), f"{found}  {path.name}\n")
    return found


def read_list(path: str | Path, sha256: str | None = None) -> PromptList:
    """The prompts of a file, checked against `sha256`, else against the digest beside it.

    Raises UserError for a missing or empty file, another digest, a torn line, a blank caption, and
    an id that occurs twice.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        text = data.decode()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; a list of prompts is text") from None
    found, wanted = sha256_bytes(data), sha256 or _beside(path)
    if wanted and not found.startswith(wanted.lower()):
        raise UserError(
            f"{path} has SHA-256 {found[:12]}, expected {wanted[:12]}: it is another list"
        )
    pictured = path.suffix == ".jsonl"
    prompts = _objects(text, path) if pictured else _lines(text, path)
    if not prompts:
        raise UserError(f"{path} has no prompts")
    return PromptList(prompts, found, pictured, LISTS.get(found, path.name))


def _beside(path: Path) -> str | None:
    """The digest in `<name>.sha256`, None where there is none."""
    beside = path.with_name(f"{path.name}.sha256")
    words = beside.read_text().split() if beside.is_file() else []
    return words[0] if words else None


def _objects(text: str, path: Path) -> list[Prompt]:
    """Prompts of JSON lines."""
    prompts, seen = [], {"image_id": set(), "caption_id": set()}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            image_id, own, caption = (row[field] for field in FIELDS)
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}, line {number}: needs {', '.join(FIELDS)} as JSON") from None
        prompt = Prompt(str(own), _words(caption, path, number), str(image_id))
        for field, value in (("image_id", prompt.image_id), ("caption_id", prompt.id)):
            if value in seen[field]:
                raise UserError(f"{path}, line {number}: {field} {value} occurs twice")
            seen[field].add(value)
        if row.get("seed", derive(0, prompt.id)) != derive(0, prompt.id):
            raise UserError(
                f"{path}, line {number}: seed {row['seed']} is not that of caption {prompt.id}, "
                f"{derive(0, prompt.id)}; leave the field out"
            )
        prompts.append(prompt)
    return prompts


def _lines(text: str, path: Path) -> list[Prompt]:
    """Prompts of lines; commas belong to the caption, quotes around a whole line do not."""
    lines = text.splitlines()
    first = 1 if lines and lines[0].strip().lower() in HEADINGS else 0
    return [
        Prompt(str(place), _words(_bare(line), path, place + first + 1), str(place))
        for place, line in enumerate(lines[first:])
    ]


def _bare(line: str) -> str:
    """A line without the quotes that CSV puts around a cell."""
    line = line.strip()
    if len(line) < 2 or line[0] != '"' or line[-1] != '"':
        return line
    inner = line[1:-1].replace('""', "\0")
    return line if '"' in inner else inner.replace("\0", '"')


def _words(caption, path: Path, number: int) -> str:
    if not isinstance(caption, str) or not caption.split():
        raise UserError(f"{path}, line {number}: a caption must be words, got {caption!r}")
    return " ".join(caption.split())


def _number(text: str) -> int | str:
    """COCO's ids as numbers, others as they are."""
    return int(text) if text.isdecimal() and str(int(text)) == text else text
