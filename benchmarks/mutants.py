"""Do the tests notice a fault? The share of small changes of the code that make a test fail.

    nox -s mutants                                       25 changes of each module of MODULES
    nox -s mutants -- --modules statistics logits --n 50 --seed 1
    nox -s mutants -- --minutes 20                       again: goes on where it stopped
    nox -s mutants -- --survivors                        those that lived when last tried
    nox -s mutants -- --planted                          18 faults that once went unnoticed

Each change (verify/mutations.py) is made in a copy of the tree, and the tests that reach its lines
run against it: the module's own test file, or where there is none those that import the module
(`TESTS` names more), without tests marked full or longer than 5 s, the quick ones first until 20 s
are spent. A change that no test reaches has survived. The changes of a module are drawn by the
seed, all alike; one that changes nothing that can be seen stands in verify/planted.py with the
reason and is not drawn. What was tried is kept in .cache/mutants, by the content of module and
tests. One process.

mutmut and cosmic-ray do not fit: the first runs all changes of a module and knows no seed, the
second writes into the working tree and starts Python and torch for each change.
"""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path

from benchmarks.harness import core
from benchmarks.verify.mutations import Mutation, applied, mutations_of, place_of
from benchmarks.verify.planted import EQUIVALENT, PLANTED, Planted
from cm3leon.cli.main import parse
from cm3leon.errors import UserError
from cm3leon.evaluation.statistics.intervals import WILSON_METHOD, binomial_interval
from cm3leon.files import sha256_bytes, write_atomic
from cm3leon.identity import seal, unseal
from cm3leon.options import Count, Positive, Whole
from cm3leon.progress import progress
from cm3leon.seeds import generator

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).parent / "verify" / "mutation_worker.py"
MODULES = {
    "statistics": (
        "cm3leon/evaluation/statistics/frechet.py",
        "cm3leon/evaluation/statistics/intervals.py",
        "cm3leon/evaluation/statistics/significance.py",
        "cm3leon/evaluation/statistics/paired.py",
    ),
    "metrics": (
        "cm3leon/evaluation/text/captions.py",
        "cm3leon/evaluation/metrics/clip_score.py",
        "cm3leon/evaluation/metrics/cmmd.py",
        "cm3leon/evaluation/metrics/composition.py",
        "cm3leon/evaluation/metrics/copying.py",
        "cm3leon/evaluation/metrics/fid.py",
        "cm3leon/evaluation/metrics/impossible.py",
        "cm3leon/evaluation/metrics/inception_score.py",
        "cm3leon/evaluation/metrics/kid.py",
        "cm3leon/evaluation/metrics/precision_recall.py",
        "cm3leon/evaluation/text/ptb.py",
    ),
    "measures": ("cm3leon/evaluation/measures.py", "cm3leon/evaluation/sides.py"),
    "masking": ("cm3leon/sequence/masking.py",),
    "logits": ("cm3leon/decoding/sampling.py",),
    "select": ("cm3leon/retrieval/select.py",),
    "places": ("cm3leon/sequence/positions.py",),
    "schedule": ("cm3leon/training/schedule.py",),
    "roles": ("cm3leon/training/roles.py",),
    "gate": ("cm3leon/reports/compare.py", "cm3leon/reports/regress.py"),
}
SIDES = "evaluation/test_sides.py"  # all metrics from features and truth to a record's numbers
DEFAULTS = "evaluation/test_defaults.py"
TESTS = {  # test files of a module, where not just the one that stands where it does
    **{
        path: (f"evaluation/metrics/test_{Path(path).stem}.py", SIDES, DEFAULTS)
        for path in MODULES["metrics"]
        if "/metrics/" in path
    },
    "cm3leon/evaluation/metrics/fid.py": (
        "evaluation/metrics/test_fid.py",
        "evaluation/statistics/test_intervals.py",
        SIDES,
        DEFAULTS,
    ),
    "cm3leon/evaluation/statistics/intervals.py": (
        "evaluation/statistics/test_intervals.py",
        "evaluation/statistics/test_significance.py",
        DEFAULTS,
    ),
    "cm3leon/evaluation/statistics/significance.py": (
        "evaluation/statistics/test_significance.py",
        DEFAULTS,
    ),
    "cm3leon/evaluation/statistics/paired.py": (
        "evaluation/statistics/test_paired.py",
        "evaluation/statistics/test_significance.py",
        DEFAULTS,
    ),
    "cm3leon/evaluation/text/ptb.py": ("evaluation/text/test_captions.py",),
    "cm3leon/retrieval/select.py": ("retrieval/test_select.py", DEFAULTS),
}
LONGEST_S = 5.0  # CPU seconds of a test that is run for a change
ENOUGH_S = 20.0  # CPU seconds of all tests that are run for a change, the quick ones first
SPARE_S = 20.0  # CPU seconds a change may take beyond five times what its tests took before
NOTICED = ("killed", "timeout")


@dataclass(frozen=True)
class Options:
    """The share of small changes of the code that the tests notice."""

    n: Count = 25
    """changes of each module"""
    seed: Whole = 0
    """draws them"""
    modules: tuple[str, ...] = tuple(MODULES)
    """groups (statistics, metrics, masking ...), names of modules (sampling) or paths"""
    minutes: Positive | None = None
    """then stop; the same command goes on"""
    survivors: bool = False
    """try those that survived before, of the chosen modules; no record"""
    planted: bool = False
    """try the planted faults; no record"""
    faults: tuple[str, ...] = ()
    """names of those to plant; left out: all"""
    cache: Path = ROOT / ".cache" / "mutants"
    """what was tried"""
    results: Path = core.RESULTS
    """where the record goes"""


@dataclass(frozen=True)
class Tried:
    """A change and what came of it."""

    path: str
    change: Mutation
    outcome: str
    by: str | None

    @property
    def noticed(self) -> bool:
        """Whether a test failed, or did not end."""
        return self.outcome in NOTICED

    def __str__(self) -> str:
        where = f"{self.path}:{self.change.line}"
        return f"{where} {self.change.before} -> {self.change.after} ({self.outcome})"


class Journal:
    """What came of changes, one JSON line each, by the content of module, tests and change."""

    def __init__(self, folder: Path):
        self.path = folder / "tried.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, dict] = {}
        self.last: dict[tuple[str, str], dict] = {}  # of (path, name), whatever the tests were
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                content = json.loads(line)["content"]
                if seal(content) == f"{line}\n":
                    self._take(content)
            except (ValueError, KeyError, TypeError):
                continue  # damaged, or the last line of a killed run: it is tried again

    def _take(self, one: dict) -> None:
        self.found[one["key"]] = one
        self.last[one["path"], one["name"]] = one

    def add(self, key: str, path: str, change: Mutation, said: Mapping) -> dict:
        """Keep what came of a change."""
        one = {"key": key, "path": path, "name": change.name, "line": change.line,
               "kind": change.kind, **said}  # fmt: skip
        with self.path.open("a") as file:
            file.write(seal(one))
        self._take(one)
        return one


class Subjects:
    """Modules of a copied tree with their tests, and the process that runs these."""

    def __init__(self, tree: Path, paths: Sequence[str], cache: Path, tests: Mapping = TESTS):
        self.tree, self.cache = tree, cache
        self.sources = {path: (tree / path).read_text(encoding="utf-8") for path in paths}
        self.files = {path: related(tree, path, tests) for path in paths}
        around = sorted([*tree.glob("tests/**/conftest.py"), WORKER])
        self._around = "\0".join(one.read_text(encoding="utf-8") for one in around)
        self.process: subprocess.Popen | None = None
        self._tests: dict[str, dict] = {}  # of a file: test -> seconds, lines
        self._on_import: dict[str, list[int]] | None = None

    def key(self, path: str, change: Mutation) -> str:
        """Names a change by the content of module and tests."""
        where = f"{change.start}:{change.stop}:{change.after}"
        return sha256_bytes(f"{self._digest(path, self.files[path])}/{where}".encode())[:32]

    def run(self, path: str, change: Mutation) -> dict:
        """What comes of a change: outcome, the test that noticed it, CPU seconds."""
        self._start()
        names, on_import = self.reaching(path, change)
        if not names:
            return {"outcome": "unreached", "by": None}
        cost = sum(self._tests[name.split("::")[0]][name]["seconds"] for name in names)
        asked = {
            "target": path, "function": change.function, "tests": names,
            "seconds": SPARE_S + 5 * cost, "source": applied(self.sources[path], change),
        }  # fmt: skip
        said = _exchange(self.process, asked)
        if said["outcome"] == "unknown" or (on_import and said["outcome"] not in NOTICED):
            said = self._on_disk(path, asked)  # what ran on import runs anew
        return said

    def reaching(self, path: str, change: Mutation) -> tuple[list[str], bool]:
        """Tests that run the change's lines, the quick ones first, all where importing does; and
        whether it does."""
        reach = set(range(change.lines[0], change.lines[1] + 1))
        on_import = change.function is None or bool(reach & set(self._on_import.get(path, ())))
        found = {}
        for file in self.files[path]:
            for name, one in self._tests[file].items():
                here = on_import or reach & set(one["lines"].get(path, ()))
                if here and one["seconds"] <= LONGEST_S:
                    found[name] = one["seconds"]
        order = sorted(found, key=found.get)
        spent = accumulate(found[name] for name in order)
        return [
            name for name, all_ in zip(order, spent, strict=True) if all_ <= ENOUGH_S
        ], on_import

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            _ended(self.process)

    def _digest(self, path: str, files: Sequence[str]) -> str:
        texts = [(self.tree / one).read_text(encoding="utf-8") for one in (path, *files)]
        return sha256_bytes("\0".join([path, *texts, self._around]).encode())

    def _start(self) -> None:
        """Collect all tests; run those unchanged whose lines are not kept from before."""
        if self.process is not None:
            return
        every = list(dict.fromkeys(file for files in self.files.values() for file in files))
        for file in every:
            kept = self._kept(file)
            with suppress(UserError):  # not there yet, or damaged
                self._tests[file] = unseal(kept, "it is made anew")
        self.process = self._worker()
        said = _exchange(self.process, {
            "targets": list(self.sources), "tests": every, "known": list(self._tests),
        })  # fmt: skip
        if "tests" not in said:
            raise UserError(f"the tests cannot be collected ({said['by']}); run pytest on them")
        self._on_import = said["on_import"]
        for file in every:
            if file not in self._tests:
                own = {name: one for name, one in said["tests"].items()
                       if name.split("::")[0] == file}  # fmt: skip
                self._tests[file] = own
                write_atomic(self._kept(file), seal(own))
        for path, files in self.files.items():
            if not any(self._tests[file] for file in files):
                raise UserError(
                    f"{path}: no test of {', '.join(files) or 'tests'} passes unchanged"
                )

    def _kept(self, file: str) -> Path:
        paths = [path for path, files in self.files.items() if file in files]
        whole = "".join(self._digest(path, [file]) for path in paths)
        return self.cache / f"lines-{Path(file).stem}-{sha256_bytes(whole.encode())[:16]}.json"

    def _on_disk(self, path: str, asked: dict) -> dict:
        """Run tests by a new process that imports the changed module."""
        place = self.tree / path
        place.write_text(asked["source"], encoding="utf-8")
        try:
            files = list(dict.fromkeys(name.split("::")[0] for name in asked["tests"]))
            process = self._worker("--once")
            said = _exchange(process, {
                "targets": [path], "tests": files, "names": asked["tests"],
                "seconds": asked["seconds"],
            })  # fmt: skip
            _ended(process)
            return said
        finally:
            place.write_text(self.sources[path], encoding="utf-8")

    def _worker(self, *options: str) -> subprocess.Popen:
        environment = os.environ | {
            "PYTHONPATH": str(self.tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
            "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-P", str(WORKER), *options], cwd=self.tree, env=environment,
            text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def _exchange(process: subprocess.Popen, asked: dict) -> dict:
    """Say a line, read one; a process that ended could not even collect."""
    try:
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass
    line = process.stdout.readline()
    return json.loads(line) if line else {"outcome": "timeout", "by": "the process ended"}


def _ended(process: subprocess.Popen) -> None:
    process.stdin.close()
    process.stdout.close()
    process.wait()


@contextmanager
def copied(root: Path = ROOT) -> Iterator[Path]:
    """A copy of the files of a checkout that git tracks or would, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder).resolve() / "tree"
        listed = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), "ls-files", "-coz",
             "--exclude-standard"], capture_output=True, text=True,
        )  # fmt: skip
        if listed.returncode:
            hidden = shutil.ignore_patterns(".*", "__pycache__", "out")
            shutil.copytree(root, tree, ignore=hidden)
        else:
            for name in filter(None, listed.stdout.split("\0")):
                if (root / name).is_file():
                    (tree / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(root / name, tree / name)
        beside = root.parent / "shared"  # inputs that some tests look for there
        if beside.is_dir():
            (tree.parent / "shared").symlink_to(beside.resolve())
        yield tree


def related(tree: Path, path: str, tests: Mapping = TESTS) -> list[str]:
    """Test files of a module: those of `tests`, else the one that stands where it does, else those
    that import it.
    """
    own = Path(path).relative_to("cm3leon") if path.startswith("cm3leon/") else Path(path)
    names = tests.get(path, (str(own.with_name(f"test_{own.name}")),))
    found = [tree / "tests" / name for name in names if (tree / "tests" / name).is_file()]
    if not found:
        module = ".".join(Path(path).with_suffix("").parts)
        files = sorted((tree / "tests").rglob("test_*.py"))
        found = [one for one in files if module in imported(one)]
    if not found:
        raise UserError(f"no test file below tests imports {path}; write one")
    return [str(one.relative_to(tree)) for one in found]


def imported(file: Path) -> set[str]:
    """Dotted names of the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{one.name}" for one in node.names]
            found |= {node.module, *inside}
    return found


def chosen(names: Sequence[str]) -> list[str]:
    """Paths of modules by group, name or path, each once."""
    every = [path for group in MODULES.values() for path in group]
    found = []
    for name in names:
        fits = MODULES.get(name) or [one for one in every if name in (one, Path(one).stem)]
        if not fits and name.endswith(".py") and (ROOT / name).is_file():
            fits = [name]
        if not fits:
            known = ", ".join([*MODULES, *(Path(one).stem for one in every)])
            raise UserError(f"--modules are paths below {ROOT} or of {known}; got {name!r}")
        found += fits
    return list(dict.fromkeys(found))


def drawn(source: str, path: str, count: int, seed: int) -> list[Mutation]:
    """`count` changes of a module drawn by a seed, without those listed as equivalent."""
    every = mutations_of(source)
    order = generator(seed, "mutants", path).permutation(len(every))
    known = EQUIVALENT.get(path, {})
    kept = [every[place] for place in order.tolist() if every[place].name not in known]
    return kept[:count]


def planted(names: Sequence[str]) -> list[Planted]:
    """The planted faults of these names, or all."""
    if strange := set(names) - {one.name for one in PLANTED}:
        known = ", ".join(one.name for one in PLANTED)
        raise UserError(f"--faults are of {known}; got {sorted(strange)[0]!r}")
    return [one for one in PLANTED if not names or one.name in names]


def as_change(fault: Planted, root: Path = ROOT) -> Mutation:
    """A planted fault as a change of its file; UserError where its text is not there once."""
    source = (root / fault.path).read_text(encoding="utf-8")
    if (count := source.count(fault.before)) != 1:
        raise UserError(
            f"planted fault {fault.name!r}: {fault.path} holds its text {count} times instead of "
            "once; write it anew in benchmarks/verify/planted.py"
        )
    start = len(source[: source.index(fault.before)].encode())
    stop = start + len(fault.before.encode())
    return place_of(
        source, Mutation("planted", start, stop, fault.before, fault.after, 0, (0, 0), None)
    )


def tried(
    asked: Mapping[str, Sequence[Mutation]],
    cache: Path,
    end: float = math.inf,
    root: Path = ROOT,
    tests: Mapping[str, Sequence[str]] = TESTS,
) -> Iterator[Tried]:
    """What came of changes by path of module, until a time of `time.monotonic`."""
    journal = Journal(cache)
    total = sum(map(len, asked.values()))
    with copied(root) as tree, progress(total, "changes", unit="change") as bar:
        subjects = Subjects(tree, list(asked), cache, tests)
        try:
            for path, change in ((path, one) for path, changes in asked.items() for one in changes):
                key = subjects.key(path, change)
                one = journal.found.get(key)
                if one is None:
                    if time.monotonic() > end:
                        return
                    one = journal.add(key, path, change, subjects.run(path, change))
                    bar.write(f"{Tried(path, change, one['outcome'], one['by'])}", sys.stderr)
                bar.update()
                yield Tried(path, change, one["outcome"], one["by"])
        finally:
            subjects.close()


def measured(found: Sequence[Tried], complete: bool) -> core.Measurement:
    """Shares in all, by group and by module, with Wilson's intervals; survivors by name."""
    if not complete:
        raise core.NothingMeasured(
            f"the time was up after {len(found)} changes; the same command goes on"
        )
    groups = {path: group for group, paths in MODULES.items() for path in paths}
    parts: dict[str, list[bool]] = {}
    for one in found:
        for name in dict.fromkeys((groups.get(one.path, "others"), Path(one.path).stem)):
            parts.setdefault(f"killed.{name}", []).append(one.noticed)
    killed = sum(one.noticed for one in found)
    low, high = binomial_interval(killed, len(found))
    return core.Measurement(
        value=killed / len(found),
        n=len(found),
        interval=core.Interval(low, high, 0.95, WILSON_METHOD),
        extra={
            name: (sum(part) / len(part), *binomial_interval(sum(part), len(part)))
            for name, part in parts.items()
        },
        warnings=[f"survived: {one}" for one in found if not one.noticed],
        counters={
            "unreached": sum(one.outcome == "unreached" for one in found),
            "timeout": sum(one.outcome == "timeout" for one in found),
            "equivalent": sum(map(len, EQUIVALENT.values())),
        },
    )


def measure(asked, options: Options, system, protocol, phases) -> core.Measurement:
    """Try all changes."""
    with phases("changes"):
        found = list(tried(asked, options.cache, deadline(options)))
    return measured(found, len(found) == sum(map(len, asked.values())))


def deadline(options: Options) -> float:
    """When to stop, in the time of `time.monotonic`."""
    return math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes


class Tests:
    """What the record says was measured: this project's tests."""

    name = "tests"
    config: Mapping = {"longest_s": LONGEST_S, "enough_s": ENOUGH_S}
    weights_sha256 = None


BENCH = core.Bench("mutants", 1, "share killed", "higher", protocol={}, measure=measure)


def mutants(options: Options) -> tuple[dict, Path]:
    """Measure and save: (record, its path)."""
    paths = chosen(options.modules)
    sources = {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}
    asked = {path: drawn(text, path, options.n, options.seed) for path, text in sources.items()}
    protocol = {"n": options.n, "seed": options.seed, "modules": paths}
    bench = replace(BENCH, measure=partial(measure, asked, options))
    return core.run(bench, Tests(), protocol, options.results)


def survivors(options: Options) -> dict[str, list[Mutation]]:
    """Changes of the chosen modules that survived when they were last tried."""
    last, found = Journal(options.cache).last, {}
    for path in chosen(options.modules):
        lived = {
            name for (where, name), one in last.items()
            if where == path and one["outcome"] not in NOTICED
            and name not in EQUIVALENT.get(path, {})
        }  # fmt: skip
        every = mutations_of((ROOT / path).read_text(encoding="utf-8"))
        found[path] = [one for one in every if one.name in lived]
    return {path: changes for path, changes in found.items() if changes}


def again(options: Options) -> int:
    """Try planted faults or survivors, and say what came of them; 2 where one lives."""
    names, asked, tests = {}, {}, TESTS
    if not options.planted:
        asked = survivors(options)
    else:
        tests = {}
        for fault in planted(options.faults):
            change = as_change(fault)
            names[fault.path, change] = fault.name
            asked.setdefault(fault.path, []).append(change)
            tests[fault.path] = (*tests.get(fault.path, ()), *fault.tests)
    found = list(tried(asked, options.cache, deadline(options), tests=tests))
    for one in found:
        name = names.get((one.path, one.change))
        print(f"{name:32} {one.outcome:9} {one.by}" if name else one)
    return 0 if all(one.noticed for one in found) else 2


def command(argv: Sequence[str] | None) -> int:
    """Parse, try, print; the exit code."""
    options = parse(Options, argv, "mutants")
    if options.survivors or options.planted:
        return again(options)
    record, path = mutants(options)
    for line in record["warnings"]:
        print(line)
    for name, one in record["extra"].items():
        print(f"{name:28} {one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]")
    print(f"record: {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 measured, 2 a user's mistake or a fault that lives, 3 not all was tried."""
    return core.exit_code(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
