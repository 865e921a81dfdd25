"""Sections of the report from templates: `text/NAME.md`, Jinja2 around a little Markdown.

A file begins with `# Title` or `## Title`, and `command: ...` where a command would fill it. Blocks
stand between empty lines:

    **Lead.** Words with `code`, *emphasis*, [@citation], [#reference] and {{ value }}.
    - an item of a list
    > what is missing: `command` would measure it
    $$ a formula as typst sets it, and on the next line as HTML shows it
    ![caption]({{ table_or_picture }})      and below it a note, if it has one

A value is a number with its source, a name, a table or a picture; whatever it holds is put in as it
is and never read as markup. What a template may call is in its context (`sections.CONTEXT`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cm3leon.reports.paper.model import (
    Block,
    Bullets,
    Formula,
    Grid,
    Missing,
    Paragraph,
    Part,
    Parts,
    Picture,
    Section,
    code,
    emph,
    prose,
)

FOLDER = Path(__file__).with_name("text")
HEAD = re.compile(r"(?P<level>#+) (?P<title>.+)(?:\ncommand: (?P<command>.+))?")
LEAD = re.compile(r"\*\*(?P<lead>.+?)\*\* (?P<rest>.+)", re.DOTALL)
SHOWN = re.compile(
    r"!\[(?P<caption>.*)\]\(\{(?P<value>v\d+)\}\)(?:\n(?P<note>.+))?", re.DOTALL
)  # fmt: skip


@functools.cache
def environment():
    """Templates whose values are held apart from their text, under `{v0}`, `{v1}` ..."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        finalize=jinja2.pass_context(_hold),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"emph": emph, "code": code, "see": see}
    return found


def see(label: str) -> Part:
    """A reference to a table, picture or section."""
    return Part("see", label, target=label)


def _hold(context, value) -> str:
    """Keep a value, and leave its name in the text; a number without a source is refused."""
    if not isinstance(value, str | Part | tuple | Block):
        raise TypeError(f"{context.name} shows {value}, which has no source")
    held = context["held"]
    held[name := f"v{len(held)}"] = value
    return f"{{{name}}}"


def section(name: str, context: Mapping) -> Section | None:
    """The section that a template makes; its name is the section's label. None for an empty one."""
    text, held = _rendered(name, context)
    if not text:
        return None
    head, *blocks = re.split(r"\n\s*\n", text)
    found = HEAD.fullmatch(head)
    assert found, f"{name}.md must begin with its title"
    command = found["command"] or ""
    made = tuple(_block(block, command, held) for block in blocks)
    return Section(name, found["title"], made, len(found["level"]), command)


def paragraph(name: str, context: Mapping) -> Parts:
    """A template of one paragraph, without a title."""
    return _parts(*_rendered(name, context))


def references() -> dict[str, str]:
    """Key -> text of what the report may cite."""
    blocks = (FOLDER / "references.md").read_text(encoding="utf-8").strip().split("\n\n")
    pairs = (re.fullmatch(r"\[(\w+)\] (.+)", block, re.DOTALL).groups() for block in blocks)
    return {key: " ".join(text.split()) for key, text in pairs}


def _rendered(name: str, context: Mapping) -> tuple[str, dict]:
    held: dict = {}
    text = environment().get_template(f"{name}.md").render(context, held=held)
    return text.strip(), held


def _parts(text: str, held: Mapping) -> Parts:
    return prose(" ".join(text.split()), **held)


def _block(text: str, command: str, held: Mapping) -> Block:
    """What a block of a template says."""
    if shown := SHOWN.fullmatch(text):
        return _captioned(held[shown["value"]], shown, held)
    if text.startswith("- "):
        items = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
        return Bullets(tuple(_parts(item, held) for item in items))
    if text.startswith("> "):
        runs = (code(command),) if command else ()
        return Missing(_parts(text[2:], held), runs)
    if text.startswith("$$ "):
        return Formula(*text[3:].split("\n"))
    lead = LEAD.fullmatch(text)
    if lead:
        return Paragraph(_parts(lead["rest"], held), lead["lead"])
    return Paragraph(_parts(text, held))


def _captioned(value: Grid | Picture, shown: re.Match, held: Mapping) -> Grid | Picture:
    value = replace(value, caption=_parts(shown["caption"], held))
    return replace(value, notes=(_parts(shown["note"], held),)) if shown["note"] else value
