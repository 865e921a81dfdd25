"""Time two revisions in turn on one machine: the rounds that `nox -s regress` judges.

    python -m benchmarks.speed.interleave --base main~1 --rounds 9

Each round runs `perf/` of the base (from a checkout in a temporary folder) and of this tree, in an
order that alternates, each in a process of its own; files base-000.json, head-000.json, .. lie in
`out`. Machines drift within minutes: only pairs of one round are compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cm3leon.cli.main import guarded, parse
from cm3leon.errors import UserError
from cm3leon.files import sha256_file, write_atomic
from cm3leon.options import Count, Threads

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Options:
    """Rounds of the performance suite, base and this tree in turn."""

    base: str
    """a git revision"""
    rounds: Count = 9
    """of each; fewer than 3 give no verdict"""
    out: Path = Path(".perf")
    """where the rounds go; older ones there are removed"""
    threads: Threads = 1
    """of the processor"""
    only: str = ""
    """tests whose name holds this"""

    def __post_init__(self):
        if self.rounds < 1:
            raise UserError(f"rounds must be at least 1, got {self.rounds}")


def interleave(options: Options) -> int:
    """Run all rounds; returns the exit code."""
    options.out.mkdir(parents=True, exist_ok=True)
    for old in [*options.out.glob("base-*.json"), *options.out.glob("head-*.json")]:
        old.unlink()
        digest_of(old).unlink(missing_ok=True)
    with checkout(options.base) as base:
        if not (base / "perf").is_dir():
            raise UserError(f"{options.base} has no perf/ to time; name a later revision")
        for number in range(options.rounds):
            sides = [("base", base), ("head", ROOT)]
            for side, tree in sides if number % 2 == 0 else sides[::-1]:
                file = (options.out / f"{side}-{number:03d}.json").resolve()
                run_round(tree, file, options)
                print(f"round {number + 1} of {options.rounds}: {side}", file=sys.stderr)
    return 0


def run_round(tree: Path, file: Path, options: Options) -> None:
    """Time `perf/` of a tree into a file; UserError when the suite fails there."""
    line = [sys.executable, "-m", "pytest", "perf", "-q", "--benchmark-json", str(file)]
    line += ["-p", "no:cacheprovider", *(["-k", options.only] if options.only else [])]
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = os.environ | threads | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(line, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[-1]
        raise UserError(f"perf/ fails in {tree}: {last}; run nox -s perf there")
    write_atomic(digest_of(file), f"{sha256_file(file)}  {file.name}\n")


def digest_of(file: Path) -> Path:
    """Where the digest of a round lies, as `sha256sum` writes it."""
    return file.with_name(f"{file.name}.sha256")


@contextmanager
def checkout(revision: str, root: Path = ROOT) -> Iterator[Path]:
    """The tree of a revision in a temporary folder, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        _git(root, "worktree", "add", "--detach", str(tree), revision)
        try:
            yield tree
        finally:
            _git(root, "worktree", "remove", "--force", str(tree))


def _git(root: Path, *words: str) -> None:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {words[0]}: {done.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    sys.exit(guarded(lambda: interleave(parse(Options, None, "interleave"))))
