"""Lists of prompts as files: written for others, read from others, told apart by their SHA-256.

    prompts.jsonl            {"image_id", "caption_id", "caption", "seed"} a line
    prompts.jsonl.sha256     its digest, as `sha256sum` writes and checks it
    NAME.csv, .tsv, .txt     one caption a line, under a heading or none; no pictures belong to them
    the same as a table      a heading names the columns, one of them the caption's (HEADINGS);
                             `image_id` names pictures, other columns are left out with a warning

`seed` is that of the first sample of a caption. Pictures drawn elsewhere are named by `image_id`;
those of a list without ids by the number of the line, from 0, the heading not counted. UTF-8, with
or without a byte order mark; a line ends with LF or CR LF and nothing else. Quotes are CSV's only
where they enclose a whole cell: published lists hold captions that merely begin with a quote, which
the csv module refuses (strict) or strips of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.protocols.coco import LISTS
from benchmarks.protocols.prompts import Prompt
from cm3leon.errors import UserError
from cm3leon.files import read_file, sha256_bytes, write_atomic
from cm3leon.seeds import derive

HEADINGS = ("prompt", "prompts", "caption", "captions", "text", "sentence", "description")
FIELDS = ("image_id", "caption_id", "caption")
KINDS = (".jsonl", ".csv", ".tsv", ".txt")
DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon"}


@dataclass(frozen=True)
class PromptList:
    """Prompts in order, the digest of their file, and whether each was written for a picture."""

    prompts: list[Prompt]
    sha256: str
    pictured: bool
    name: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """The cells of one row and the line it begins on, from 1; `lines` it runs over."""

    cells: tuple[str, ...]
    line: int
    lines: int


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

    Raises UserError for a missing or empty file, one of another kind, another digest or none where
    one was promised, a torn line, columns that nothing names, a blank caption, and an id that
    occurs twice.
    """
    path = Path(path)
    if path.suffix.lower() not in KINDS:
        raise UserError(
            f"{path} is no list of prompts by its name; write {', '.join(FIELDS)} as .jsonl, or "
            "captions as .txt, .csv or .tsv"
        )
    try:
        data = read_file(path)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; a list of prompts is text, save it so") from None
    found, wanted = sha256_bytes(data), _promised(path, sha256)
    if wanted and found != wanted:
        raise UserError(
            f"{path} has SHA-256 {found[:12]}, expected {wanted[:12]}: it is another list"
        )
    if re.search(r"\r(?!\n)", text):
        raise UserError(f"{path} ends lines with CR alone; save it with LF, as text for Unix")
    if path.suffix.lower() == ".jsonl":
        prompts, pictured, said = _objects(text, path), True, []
    else:
        prompts, pictured, said = _captions(text, path)
    if not prompts:
        raise UserError(f"{path} has no prompts")
    return PromptList(prompts, found, pictured, LISTS.get(found, path.name), tuple(said))


def _promised(path: Path, sha256: str | None) -> str | None:
    """The digest that a file must have: the one given, else that in `<name>.sha256`; or None."""
    beside = path.with_name(f"{path.name}.sha256")
    if sha256 is None and not beside.is_file():
        return None
    source = "--prompts-sha256" if sha256 is not None else str(beside)
    try:
        words = (beside.read_text(encoding="utf-8-sig") if sha256 is None else sha256).split()
    except (OSError, UnicodeDecodeError):
        words = []
    if not words or not re.fullmatch(r"[0-9a-fA-F]{64}", words[0]):
        raise UserError(
            f"{source} holds no SHA-256 (64 hex digits), so {path} cannot be checked; write it "
            f"with sha256sum, or leave it out"
        )
    return words[0].lower()


def _objects(text: str, path: Path) -> list[Prompt]:
    """Prompts of JSON lines."""
    prompts, seen = [], _Seen(path)
    for number, line in enumerate(_lines(text), 1):
        try:
            row = json.loads(line)
            image_id, own, caption = (row[field] for field in FIELDS)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f"{path}, line {number}: needs {', '.join(FIELDS)} as JSON") from None
        for value in (image_id, own):
            if isinstance(value, bool) or not isinstance(value, (int, str)):
                raise UserError(f"{path}, line {number}: ids are numbers or text, got {value!r}")
        prompt = Prompt(str(own), _words(caption, path, number), str(image_id))
        seen.add(prompt, number)
        if row.get("seed", derive(0, prompt.id)) != derive(0, prompt.id):
            raise UserError(
                f"{path}, line {number}: seed {row['seed']} is not that of caption {prompt.id}, "
                f"{derive(0, prompt.id)}; leave the field out"
            )
        prompts.append(prompt)
    return prompts


class _Seen:
    """Ids of a list so far, each of which may occur once."""

    def __init__(self, path: Path):
        self.path, self.ids = path, {"image_id": set(), "caption_id": set()}

    def add(self, prompt: Prompt, number: int) -> None:
        for field, value in (("image_id", prompt.image_id), ("caption_id", prompt.id)):
            if value in self.ids[field]:
                raise UserError(f"{self.path}, line {number}: {field} {value} occurs twice")
            self.ids[field].add(value)


def _captions(text: str, path: Path) -> tuple[list[Prompt], bool, list[str]]:
    """Prompts of a list or table of captions, whether ids name pictures, and what to warn of."""
    for delimiter in DELIMITERS:
        heading = next(_rows(text, delimiter), Row((), 1, 1))
        names = [cell.strip().lower() for cell in heading.cells]
        if len(names) > 1 and set(names) & set(HEADINGS) and all(map(_is_heading, names)):
            return _table(list(_rows(text, delimiter))[1:], names, delimiter, path)
    rows = list(_rows(text, None, runs_on=path.suffix.lower() != ".txt"))
    headed = bool(rows) and rows[0].cells[0].strip().lower() in HEADINGS
    if not headed and path.suffix.lower() != ".txt":
        _check_one_column(text, path)
    prompts = [
        Prompt(str(place), _words(row.cells[0], path, row.line), str(place))
        for place, row in enumerate(rows[headed:])
    ]
    return prompts, False, _long(rows)


def _is_heading(name: str) -> bool:
    """Whether a cell can head a column: a few words, not a sentence."""
    return 0 < len(name.split()) <= 3


def _table(
    rows: list[Row], names: list[str], delimiter: str, path: Path
) -> tuple[list[Prompt], bool, list[str]]:
    """As `_captions`, of rows under a heading."""
    chosen = [place for place, name in enumerate(names) if name in HEADINGS]
    if len(chosen) > 1 or len(set(names)) < len(names):
        raise UserError(
            f"{path} has the columns {', '.join(names)}; leave one of "
            f"{', '.join(HEADINGS)} as the caption's"
        )
    pictured, prompts, seen = "image_id" in names, [], _Seen(path)
    for place, row in enumerate(rows):
        if len(row.cells) != len(names):
            raise UserError(
                f"{path}, line {row.line}: {len(row.cells)} cells under {len(names)} headings; "
                f'put "quotes" around a cell that holds a {DELIMITERS[delimiter]}'
            )
        cells = dict(zip(names, row.cells, strict=True))
        image_id = cells["image_id"].strip() if pictured else str(place)
        own = cells.get("caption_id", image_id).strip() if pictured else image_id
        if not image_id or not own:
            raise UserError(f"{path}, line {row.line}: an id is empty")
        prompt = Prompt(own, _words(row.cells[chosen[0]], path, row.line), image_id)
        seen.add(prompt, row.line)
        prompts.append(prompt)
    used = {names[chosen[0]], *(("image_id", "caption_id") if pictured else ())}
    left_out = [name for name in names if name not in used]
    said = [f"{path.name}: columns left out: {', '.join(left_out)}"] if left_out else []
    return prompts, pictured, said + _long(rows)


def _check_one_column(text: str, path: Path) -> None:
    """Raise UserError for rows that all have the same several cells, under no heading."""
    for delimiter, name in DELIMITERS.items():
        counts = {len(row.cells) for row in _rows(text, delimiter)}
        if text.count("\n") > 1 and len(counts) == 1 and (count := counts.pop()) > 1:
            raise UserError(
                f"{path} has {count} columns (by {name}) and no heading that names the caption's "
                f"({', '.join(HEADINGS)}); add one, or name the file .txt if each line is a caption"
            )


def _long(rows: list[Row]) -> list[str]:
    """A warning of quoted captions that run over several lines of the file."""
    found = [row.line for row in rows if row.lines > 1]
    return [f"{len(found)} captions run over several lines, first line {found[0]}"] if found else []


def _rows(text: str, delimiter: str | None, runs_on: bool = True) -> Iterator[Row]:
    """Rows of cells; a cell in quotes may hold delimiters and, where it `runs_on`, line ends."""
    inside = '[^"]*' if runs_on else '[^"\n]*'
    plain, end = f"[^\n{delimiter or ''}]*?", f"{delimiter}|\n" if delimiter else "\n"
    cell = re.compile(rf' *"({inside}(?:""{inside})*)" *\r?({end}|\Z)|({plain})\r?({end}|\Z)')
    place, line, cells, begins = 0, 1, [], 1
    while place < len(text) or cells:
        found = cell.match(text, place)
        inner, last = found[1], found[4] if found[1] is None else found[2]
        cells.append(found[3] if inner is None else inner.replace('""', '"'))
        line += found[0].count("\n")
        place = found.end()
        if last in ("\n", ""):
            yield Row(tuple(cells), begins, line - begins + (not last))
            cells, begins = [], line


def _lines(text: str) -> list[str]:
    """Lines of a text by LF or CR LF alone; the last line end ends the text."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if not lines[-1] else lines


def _words(caption, path: Path, number: int) -> str:
    if not isinstance(caption, str) or not caption.split():
        raise UserError(f"{path}, line {number}: a caption must be words, got {caption!r}")
    if any("\ud800" <= letter <= "\udfff" for letter in caption):
        raise UserError(
            f"{path}, line {number}: half a character (a lone surrogate) in {caption!r}"
        )
    return " ".join(caption.split())


def _number(text: str) -> int | str:
    """COCO's ids as numbers, others as they are."""
    return int(text) if text.isdecimal() and str(int(text)) == text else text
