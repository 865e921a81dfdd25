"""What a task is: its wordings, which of their fields are asked for, and how it is decoded.

A template is written as Table 5 of the paper prints it (arXiv 2309.02591): ` | ` is the `<break>`
between segments, `{name}` a field. A field that is a picture is a segment of its own. Fields of
`targets` are what the model answers; words between two targets of one text belong to the answer
(`{explanation} So the answer is {answer}`), the space before a target too.

A newcomer adds a task as one file with a `Task` and one row of the table in `cm3leon.tasks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from cm3leon import seeds
from cm3leon.data.examples import Example
from cm3leon.data.record_cache import Bundle
from cm3leon.data.records import Record, Segment
from cm3leon.data.sources import Skipped
from cm3leon.errors import UserError
from cm3leon.identity import joined

BREAK = " | "
FIELD = re.compile(r"\{(\w+)\}")
WORDINGS = ("table", "figures", "both")
UNKNOWN = "?"  # stands for a text that is not known yet: where it stands is all that counts


@dataclass(frozen=True)
class Task:
    """A task of the paper's section 4; see the module.

    `templates` are Table 5's, `others` further wordings of the paper. `streams` are what each
    stream of guidance or contrast lacks (`rows.DROPS`), the full one (None) first; `decode` the
    settings of decoding by name, the paper's where it gives any: with guidance 1 the full stream
    stands alone. `measures` name how answers are scored.
    """

    name: str
    templates: tuple[str, ...]
    targets: tuple[str, ...]
    pictures: tuple[str, ...]
    others: tuple[str, ...] = ()
    streams: tuple[str | None, ...] = (None,)
    decode: Mapping[str, float] = field(default_factory=dict)
    measures: tuple[str, ...] = ()
    check_text: Callable[[str], object] | None = None  # raises UserError for a text that is wrong

    def __post_init__(self):
        for template in self.templates + self.others:
            found = set(FIELD.findall(template))
            if missing := {*self.targets, *self.pictures} - found:
                raise UserError(f"template {template!r} of {self.name} lacks {min(missing)!r}")
            for part in template.split(BREAK):
                named = FIELD.findall(part)
                if set(named) & set(self.pictures) and part != f"{{{named[0]}}}":
                    raise UserError(f"a picture is a segment of its own, {part!r} is not")

    @property
    def digest(self) -> str:
        """Of all that records of it depend on."""
        return joined([self.name, *self.templates, "", *self.others, "", *self.targets])

    @property
    def draws(self) -> bool:
        """Whether what it answers is a picture."""
        return any(name in self.pictures for name in self.targets)

    def wordings(self, which: str = "table") -> tuple[str, ...]:
        """Its templates: Table 5's, those of the figures and the text, or both.

        Where one of the two has none the other's are taken. Raises UserError for another word.
        """
        if which not in WORDINGS:
            raise UserError(f"wordings are one of {', '.join(WORDINGS)}, got {which!r}")
        found = {"table": self.templates, "figures": self.others}
        return found.get(which) or self.templates + self.others

    def record(self, template: str, fields: Mapping, source: str = "") -> Record:
        """The record that a template makes of its fields: texts, and uint8 pictures [H,W,3].

        Raises UserError for a field that is missing, blank or of the wrong kind.
        """
        segments = []
        for part in template.split(BREAK):
            names = FIELD.findall(part)
            if names and names[0] in self.pictures:
                segments.append(self._picture(names[0], fields))
            else:
                segments += self._text(part, fields)
        return self.checked(Record(self.name, tuple(segments), source))

    def checked(self, record: Record) -> Record:
        """A record of this task; UserError where its texts are wrong, or it answers in other
        modality than the task.
        """
        for kind, run in groupby(record.segments, lambda one: one.kind):
            if kind == "text" and self.check_text is not None:
                self.check_text("".join(one.text for one in run))
        kinds = {one.kind for one in record.segments if one.role == "target"}
        wanted = "image" if self.draws else "text"
        if kinds != {wanted}:
            raise UserError(f"{self.name} answers with {wanted}, got {' and '.join(sorted(kinds))}")
        return record

    def records(self, example: Example, which: str = "table") -> Bundle:
        """A record of each of an example's texts, in a wording drawn by its name; those that make
        none are skipped, by name and reason.
        """
        made, skipped, templates = [], [], self.wordings(which)
        for k, (name, texts) in enumerate(zip(example.names, example.texts, strict=True)):
            pick = seeds.generator(0, "wording", self.name, name, k).integers(len(templates))
            try:
                fields = {**example.pictures, **texts}
                made.append(self.record(templates[int(pick)], fields, name))
            except UserError as error:
                skipped.append(Skipped(name, str(error)))
        return Bundle(tuple(made), tuple(skipped))

    def ask(self, template: str | None = None, **fields) -> Record:
        """A record whose answer is not known: stand-ins of one word, or one black pixel.

        `rows.prompt_of` makes of it, encoded, what the model is given.
        """
        unknown = {
            name: np.zeros((1, 1, 3), np.uint8) if name in self.pictures else UNKNOWN
            for name in self.targets
        }
        return self.record(template or self.templates[0], unknown | fields)

    def _picture(self, name: str, fields: Mapping) -> Segment:
        image = fields.get(name)
        if not isinstance(image, np.ndarray):
            raise UserError(f"{self.name} needs a picture {name!r}, got {image!r}")
        return Segment(self._role(name), image=image)

    def _text(self, part: str, fields: Mapping) -> list[Segment]:
        """The pieces of one text: prompt, answer, prompt."""
        pieces: list[tuple[str, str]] = []  # (role, text)
        for k, piece in enumerate(FIELD.split(part)):
            role = self._role(piece) if k % 2 else "prompt"
            text = self._filled(piece, fields) if k % 2 else piece
            pieces.append((role, text))
        inside = [k for k, (role, _) in enumerate(pieces) if role == "target"]
        first, last = (inside[0], inside[-1] + 1) if inside else (len(pieces), len(pieces))
        before = "".join(text for _, text in pieces[:first])
        answer = "".join(text for _, text in pieces[first:last])
        after = "".join(text for _, text in pieces[last:])
        if answer and before.endswith(" "):
            before, answer = before[:-1], f" {answer}"
        roles = (("prompt", before), ("target", answer), ("prompt", after))
        return [Segment(role, text) for role, text in roles if text]

    def _role(self, name: str) -> str:
        return "target" if name in self.targets else "prompt"

    def _filled(self, name: str, fields: Mapping) -> str:
        text = fields.get(name)
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{self.name} needs a text {name!r}, got {text!r}")
        return text.strip()


def find_task(name: str, tasks: Mapping[str, Task]) -> Task:
    """A task by its name; UserError names those there are."""
    if name not in tasks:
        raise UserError(f"no task {name!r}; there are {', '.join(tasks)}")
    return tasks[name]
