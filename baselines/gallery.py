"""The gallery: what each shipped model draws and says, with documents, seeds and commands.

    python -m baselines.gallery          docs/gallery.md and its pictures, docs/gallery/

The page holds what its own commands made: each is run here, in a folder of its own, as the page
prints it. Samples are the first of their split, none chosen. Cost: some two minutes.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cm3leon.checkpoint import read_about
from cm3leon.errors import UserError
from cm3leon.files import write_atomic
from cm3leon.options import Range

PAGE = Path(__file__).resolve().parents[1] / "docs" / "gallery.md"
SPLIT = "natural"  # of the captions
SCENES = ("scenes", "stock", "test")  # folder, dialect and split of the pictures that are given
MAPS = ("segmentation", "depth", "edges", "scribble")
GAP, ZOOM, COLOURS = 2, 2, 64  # pixels between pictures; times larger, of one alone; of a PNG
HEAD = """# Gallery

What each shipped model draws: the first {count} captions of `{split}`, which no training has seen,
then every task of the tuned one, on the first scenes of `stock`, `test`. First samples, none
chosen; every row is what its command made. The page is written by `nox -s gallery`, which runs
them.
"""
GIVEN = """
The pictures that are given are made by

```bash
{command}
```
"""


@dataclass(frozen=True)
class Options:
    """Write the gallery of the shipped models."""

    systems: tuple[str, ...] = ()
    """models, by name or folder; left out: all that are shipped"""
    captions: Annotated[int, Range(1, 100)] = 4
    """captions a model"""
    page: Path = PAGE
    """the page; its pictures lie in a folder of its name beside it"""


@dataclass
class Sample:
    """A row of the page: pictures that were given, what was made of them, what is said of it."""

    command: str
    given: list[Path] = field(default_factory=list)
    drawn: Path | None = None
    words: list[str] = field(default_factory=list)


def run(words: list[str]) -> str:
    """What a command of cm3leon prints; UserError where it fails."""
    from cm3leon.cli.main import main as cm3leon

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cm3leon(words)
    if code:
        raise UserError(f"{spoken(words)} ended with exit code {code}")
    return said.getvalue().strip()


def spoken(words: list[str]) -> str:
    """Words as one types them; a model in a folder by its name."""
    return shlex.join(["cm3leon", *words])


def captioned(system: str, number: int, documents: bool) -> Sample:
    """A caption of the split, what is retrieved for it, and its drawing."""
    from cm3leon.world.scenes import scene

    caption, out = scene("coco", SPLIT, number).captions[0], Path(f"drawing-{number}.png")
    found = []
    if documents:
        folder = f"documents-{number}"
        asked = ["retrieve", caption, "--system", system, "--out", folder, "--json"]
        found = json.loads(run(asked))
    words = ["draw", caption, "--seed", "0", "--system", system, "--out", str(out)]
    run(words)
    told = [f"*{caption}*", *(f"{one['score']:.3f} {one['text']}" for one in found)]
    return Sample(spoken(words), [Path(one["picture"]) for one in found], out, told)


def tasks(system: str, known: set[str]) -> list[Sample]:
    """Every task that a model was tuned on, of those that have a command."""
    from cm3leon.data.layouts.world import MAKE
    from cm3leon.world.scenes import scene

    folder, dialect, split = SCENES
    scenes = [scene(dialect, split, k) for k in range(4)]
    texts = [{name: MAKE[name](one).texts for name in ("edit", "answer")} for one in scenes]
    picture = [f"{folder}/{split}/{one.index:012d}.png" for one in scenes]
    found: list[Sample] = []

    def add(task: str, words: list[str], given: list[str], draws: bool = True) -> None:
        if task not in known:
            return
        out = Path(f"task-{len(found)}.png")
        words += [*(["--out", str(out)] if draws else []), "--system", system]
        said = run(words)
        told = [f"**{task}**"] if draws else [f"**{task}**", f"*{said}*"]
        found.append(Sample(spoken(words), [Path(one) for one in given], out if draws else None,
                            told))  # fmt: skip

    for k in range(3):
        add("edit", ["edit", picture[k], texts[k]["edit"][0]["instruction"]], [picture[k]])
    for k, kind in enumerate(MAPS):
        shown = f"{folder}/conditions/{kind}/{split}/{scenes[k].index:012d}.png"
        words = ["draw", scenes[k].captions[0], "--condition", shown, "--kind", kind]
        add(kind, words, [shown])
    boxes = ["a red star: 0 8 24 32", "a blue cross: 32 16 56 40"]
    add("grounded", ["draw", "a star and a cross on the grass", "--box", *boxes], [])
    add("write", ["draw", "--letters", "SKY"], [])
    add("answer", ["answer", picture[0], texts[0]["answer"][0]["question"]], [picture[0]], False)
    add("caption-long", ["caption", picture[1], "--long"], [picture[1]], False)
    return found


def strip(paths: list[Path], out: Path) -> Path:
    """Pictures side by side as one small PNG."""
    import numpy as np
    from PIL import Image

    from cm3leon.images import read_picture

    shown = [read_picture(path) for path in paths]
    bar = np.full((shown[0].shape[0], GAP, 3), 255, np.uint8)
    parts = [part for one in shown for part in (bar, one)][1:]
    zoom = ZOOM if len(shown) == 1 else 1
    large = np.concatenate(parts, axis=1).repeat(zoom, 0).repeat(zoom, 1)
    data = io.BytesIO()
    Image.fromarray(large).quantize(COLOURS).save(data, "PNG", optimize=True)
    return write_atomic(out, data.getvalue())


def table(samples: list[Sample], prefix: str, folder: Path) -> str:
    """The rows of a model as Markdown; their pictures go into a folder."""
    rows = ["| given, and made | |", "|---|---|"]
    for number, one in enumerate(samples, 1):
        cells = []
        for part, paths in (("given", one.given), ("made", [one.drawn] if one.drawn else [])):
            name = f"{prefix}-{number}-{part}.png"
            if paths:
                strip(paths, folder / name)
                cells.append(f"![{part}]({folder.name}/{name})")
        told = "<br>".join([*(word.replace("|", "/") for word in one.words), f"`{one.command}`"])
        rows.append(f"| {'<br>'.join(cells)} | {told} |")
    return "\n".join(rows)


def section(system: str, options: Options, folder: Path) -> list[str]:
    """The parts of a model's section."""
    from cm3leon.loading import find_model

    about = read_about(find_model(system))
    extra, name = about["extra"], Path(system).name
    drawn = [captioned(system, k, "retrieval" in extra) for k in range(options.captions)]
    parts = [f"## {name}", f"Weights `{about['sha256'][:12]}`.", table(drawn, name, folder)]
    if known := set(extra.get("tasks", {})):
        where, dialect, split = SCENES
        words = ["export-scenes", where, "--dialect", dialect, "--split", split, "--count", "4",
                 "--kind", "captions", "conditions"]  # fmt: skip
        run(words)
        asked = table(tasks(system, known), f"{name}-task", folder)
        parts += [f"### Tasks of {name}", GIVEN.format(command=spoken(words)).strip(), asked]
    return parts


def main(options: Options) -> int:
    """Run every command, write page and pictures; the exit code."""
    from cm3leon.loading import model_names

    page = options.page.resolve()
    systems = [
        str(Path(one).resolve()) if Path(one).is_dir() else one
        for one in options.systems or model_names()
    ]
    parts = [HEAD.format(count=options.captions, split=SPLIT).strip()]
    with tempfile.TemporaryDirectory() as work, contextlib.chdir(work):
        for system in systems:
            parts += section(system, options, page.with_suffix(""))
            print(f"{system}: done", file=sys.stderr)
    print(write_atomic(page, "\n\n".join(parts) + "\n"))
    return 0


if __name__ == "__main__":
    from cm3leon.cli.main import guarded, parse

    sys.exit(guarded(lambda: main(parse(Options, None, "python -m baselines.gallery"))))
