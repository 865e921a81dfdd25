"""The command line: `cm3leon draw | encode | index | doctor | export-scenes`.

Options are fields of dataclasses. torch and the rest are imported by the command that needs them,
so that `--help` answers at once.
Exit codes: 0 fine, 2 a mistake in the input (one line on stderr), 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cm3leon.drawing import DecodeChanges
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder

PACKAGES = ("torch", "numpy", "safetensors", "tokenizers", "pillow", "faiss-cpu", "open-clip-torch")


@dataclass(frozen=True)
class Draw:
    """Draw a caption: `cm3leon draw "a large red star on the sand" --out star.png`."""

    prompt: tyro.conf.Positional[str]
    """the caption"""
    out: Path = Path("drawing.png")
    """PNG file to write; with --count above 1 a grid, row by row, without borders"""
    system: str = "scenes-s"
    """a shipped model, or the folder of one"""
    seed: int = 0
    """picture k of a caption depends on seed and k alone"""
    count: int = 1
    """how many pictures"""
    samples: int = 1
    """drawn for each picture, of which the scenes CLIP keeps the nearest to the caption"""
    documents: int | None = None
    """retrieved documents before the caption, 0 to 4; left out: as many as the model's recipe"""
    bank: Path | None = None
    """what `cm3leon encode` made, to retrieve from; left out: the shipped memory bank"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    decode: Annotated[DecodeChanges, tyro.conf.arg(name="")] = field(default_factory=DecodeChanges)

    def run(self) -> int:
        """Load, draw, write, print the path."""
        from cm3leon.clip import load_clip
        from cm3leon.pictures import write_png
        from cm3leon.pipeline import load_system
        from cm3leon.rerank import Reranked
        from cm3leon.seeds import derive

        if self.count < 1:
            raise UserError(f"count must be at least 1, got {self.count}")
        system = load_system(
            self.system, device=self.device, documents=self.documents, bank=self.bank
        )
        system = system.with_decode(replace(system.decode, **self.decode.given))
        if self.samples != 1:
            system = Reranked(system, load_clip("scenes"), self.samples)
        seeds = [derive(self.seed, self.prompt, k) for k in range(self.count)]
        images_BHW3 = system.draw([self.prompt] * self.count, seeds)
        about = {
            "prompt": self.prompt,
            "seed": str(self.seed),
            "count": str(self.count),
            "system": system.name,
            "weights_sha256": system.weights_sha256,
            "config": str(system.config),
        }
        print(write_png(self.out, tile(images_BHW3), about))
        return 0


@dataclass(frozen=True)
class Encode:
    """Encode pictures and captions into tokens and vectors; continues where it was killed.

    A source is a folder of pictures with a .txt beside each, a root of MS-COCO (or root:split), a
    .tar of webdataset's layout or a folder of them, or scenes:DIALECT/SPLIT:START:COUNT.
    """

    source: tyro.conf.Positional[str]
    """what to encode"""
    out: tyro.conf.Positional[Path]
    """folder of the token cache; made if it is not there"""
    clip: str = "scenes"
    """scenes, local-dir:FOLDER, ARCHITECTURE:FILE, or none: tokens without vectors"""
    tokenizers: Path | None = None
    """folder with text/ and vq/; left out: those of the shipped baselines"""

    def run(self) -> int:
        """Encode, then say what was read and what was not."""
        from cm3leon.cache import encode
        from cm3leon.clip import load_clip
        from cm3leon.config import VQConfig
        from cm3leon.pipeline import load_module
        from cm3leon.sources import find_source
        from cm3leon.text import TextTokenizer
        from cm3leon.vq import VQ

        home = self.tokenizers or baselines_folder() / "scenes"
        vq, _ = load_module(home / "vq", "vq", VQConfig, VQ)
        text = TextTokenizer.load(home / "text")
        source = find_source(self.source, vq.config.resolution)
        clip = None if self.clip == "none" else load_clip(self.clip)
        cache = encode(source, vq, text, self.out, clip=clip)
        print(f"{len(cache)} documents in {self.out}, {len(cache.skipped)} not readable")
        for name, reason in cache.skipped:
            print(f"not readable: {name}: {reason}", file=sys.stderr)
        return 0


@dataclass(frozen=True)
class Index:
    """Make a memory bank of an encoded source: `cm3leon index CACHE BANK`."""

    cache: tyro.conf.Positional[Path]
    """what `cm3leon encode` made"""
    out: tyro.conf.Positional[Path]
    """folder of the bank; made if it is not there"""
    exact: int = 1_000_000
    """documents up to which search is exact; above, an inverted file is trained"""

    def run(self) -> int:
        """Build, save, say how large it is and how well it finds."""
        from cm3leon.bank import MemoryBank
        from cm3leon.cache import TokenCache

        bank = MemoryBank.of_cache(TokenCache(self.cache), exact=self.exact)
        bank.save(self.out)
        how = "exact search" if bank.index is None else f"recall@10 {bank.recall:.3f}"
        print(f"{len(bank)} documents of width {bank.width} in {self.out}, {how}")
        return 0


@dataclass(frozen=True)
class Doctor:
    """Say what this machine has and what is missing; exit code 2 when something needed is."""

    def run(self) -> int:
        """One line a fact; what is missing starts with `!`."""
        facts = [*package_facts(), *device_facts(), *weight_facts(), disk_fact()]
        print("\n".join(facts))
        return 2 if any(fact.startswith("!") for fact in facts) else 0


@dataclass(frozen=True)
class ExportScenes:
    """Write pictures of the embedded world in MS-COCO's layout: PNG files, captions, instances."""

    folder: tyro.conf.Positional[Path]
    """where to; made if it is not there"""
    dialect: Literal["stock", "coco"] = "coco"
    split: Literal["train", "val", "test", "tail", "study", "bank"] = "test"
    count: int = 100
    """how many pictures, from index 0 on"""
    size: int = 64
    """pixels of a side, a multiple of 8 from 32 to 256"""

    def run(self) -> int:
        """Render and write."""
        from cm3leon.scenes import export_coco

        if self.count < 1:
            raise UserError(f"count must be at least 1, got {self.count}")
        export_coco(self.folder, self.dialect, self.split, self.count, self.size)
        print(self.folder)
        return 0


def package_facts() -> list[str]:
    """Versions of Python, of this package and of what it computes with."""
    from importlib import metadata

    from cm3leon import __version__

    facts = [f"python        {platform.python_version()}", f"cm3leon       {__version__}"]
    for name in (
        "torch",
        "numpy",
        "safetensors",
        "tokenizers",
        "pillow",
        "faiss-cpu",
        "open_clip_torch",
    ):
        try:
            facts.append(f"{name:13} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            facts.append(f"! {name} is not installed; pip install {name}")
    return facts


def device_facts() -> list[str]:
    """What torch can compute on."""
    try:
        import torch
    except ImportError as error:
        return [f"! torch cannot be imported: {error}; see constraints.txt for a version that fits"]
    from cm3leon.config import TrainConfig
    from cm3leon.train import precision

    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    able = precision(TrainConfig(), "cuda" if cuda else "cpu") is torch.bfloat16
    return [
        f"device        {'cuda' if cuda else 'cpu'} ({name})",
        f"threads       {torch.get_num_threads()} of {os.cpu_count()} cores",
        f"bfloat16      {'in hardware' if able else 'not in hardware: training uses float32'}",
    ]


def weight_facts() -> list[str]:
    """Every checkpoint under `baselines/scenes/`, with its digest checked."""
    from cm3leon.checkpoint import digest, read_about

    try:
        home = baselines_folder() / "scenes"
    except UserError as error:
        return [f"! {error}"]
    facts = []
    for folder in sorted(path.parent for path in home.glob("*/config.json")):
        try:
            about, found = read_about(folder), digest(folder)
        except UserError as error:
            facts.append(f"! {error}")
            continue
        torn = about["sha256"] != found
        mark, end = ("! ", ", not what its config.json names") if torn else ("", "")
        facts.append(
            f"{mark}weights       {folder.name} ({about['kind']}) sha256 {found[:16]}{end}"
        )
    return facts or [f"! no weights under {home}; run `nox -s train_baselines`"]


def disk_fact() -> str:
    """Free space where results and drawings go."""
    return f"disk          {shutil.disk_usage('.').free / 1e9:.1f} GB free in {Path.cwd()}"


def tile(images_BHW3):
    """B pictures as one, [rows * H, columns * W, 3], about square; black where none is left."""
    import numpy as np

    count, height, width, _ = images_BHW3.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, 3), np.uint8)
    sheet[:count] = images_BHW3
    grid = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, 3)


def parse(kind, argv: Sequence[str] | None, prog: str):
    """Options of dataclass `kind` from a command line; a mistake in it is a UserError of one line.

    `--help` prints and raises SystemExit(0).
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=argv, prog=prog)
    except SystemExit as stop:
        if not stop.code:
            raise
    raise UserError(one_line(said.getvalue(), prog))


def one_line(box: str, prog: str) -> str:
    """What tyro says in a box, as one line: the fault, the nearest options, where to read on."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    rows = [row.strip("│╭╮╰╯ ") for row in plain.splitlines()]
    sections: list[list[str]] = [[]]
    for row in filter(None, rows):
        if set(row) <= set("─-") or row.startswith("─ "):  # a rule, or the border with the title
            sections.append([])
        else:
            sections[-1].append(row)
    sections = [section for section in sections if section]
    if (
        "─" not in plain and len(sections) > 1
    ):  # where the terminal has no lines, the title is a row
        sections = sections[1:]
    fault = " ".join(sections[0]) if sections else "unreadable options"
    near = [row.split()[0] for part in sections[1:] for row in part if row.startswith("--")]
    hint = f"did you mean {' or '.join(near[:2])}? " if near and "Unrecog" in fault else ""
    return f"{fault}; {hint}see {prog} --help"


def guarded(command: Callable[[], int]) -> int:
    """Exit code of a command; a user's mistake becomes one line on stderr, never a traceback."""
    try:
        return command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {place}{error.strerror or error}; check the path and the space left",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    return guarded(
        lambda: parse(Draw | Encode | Index | Doctor | ExportScenes, argv, "cm3leon").run()
    )


if __name__ == "__main__":
    sys.exit(main())
