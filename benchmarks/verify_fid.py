"""Are the feature networks and the numbers made from them the published ones?

    nox -s verify_fid                              what can be checked here; the rest is named
    nox -s verify_fid -- --speed                   and pictures a second of Inception's forms
    nox -s verify_fid -- --speed --compiled        torch.compile among them
    nox -s verify_fid -- --cifar10 FOLDER          published values: 10 minutes more
    nox -s verify_fid -- --statistics A.npz B.npz --expected 8.9669

Cost: a minute on 2 cores; --speed four more, --compiled six. Files of every layout are made with
random weights and loaded as real ones are; published files are taken from where `cm3leon doctor`
finds them. Nothing is fetched. The value is the number of failed checks: exit code 2 unless 0.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from benchmarks.harness import core
from cm3leon.cli.main import parse
from cm3leon.errors import UserError
from cm3leon.options import Batch, Count


@dataclass(frozen=True)
class Options:
    """Check feature networks and FID against published values and other people's code."""

    speed: bool = False
    """also time the forms of Inception against each other"""
    cifar10: Path | None = None
    """folder of cifar-10-batches-bin: FID, IS, precision and recall as torch-fidelity published"""
    statistics: tuple[Path, Path] | None = None
    """two .npz of moments (mu, sigma) of known FID"""
    expected: float | None = None
    """the FID of --statistics"""
    batch_sizes: tuple[Batch, ...] = (1, 8, 32)
    """pictures at once of --speed"""
    repeats: Count = 5
    """runs of each form of --speed, in turn; medians are shown"""
    compiled: bool = False
    """--speed also times pytorch-fid's network by torch.compile (needs a C++ compiler, minutes)"""
    results: Path = core.RESULTS
    """where the record goes"""

    def __post_init__(self):
        if self.repeats < 5 or not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UserError(
                f"verify_fid needs repeats >= 5 and batch_sizes >= 1, "
                f"got {self.repeats} and {self.batch_sizes}"
            )
        if (self.statistics is None) != (self.expected is None):
            raise UserError("--statistics and --expected belong together; give both or none")
        for path in self.statistics or ():
            if not path.is_file():
                raise UserError(f"no file {path}; --statistics takes two .npz with mu and sigma")
        if self.cifar10 is not None and not self.cifar10.is_dir():
            raise UserError(f"no folder {self.cifar10}; --cifar10 takes cifar-10-batches-bin")


@dataclass(frozen=True)
class Networks:
    """The system of a record: the code itself, which has no weights of its own."""

    name: str = "feature-networks"
    config: dict = field(default_factory=dict)
    weights_sha256: None = None


def measure(options: Options, system, protocol: dict, phases: core.Phases) -> core.Measurement:
    """Make every check, then the timings; prints both tables."""
    from benchmarks.verify.checks import HEADERS
    from benchmarks.verify.published import published_checks
    from benchmarks.verify.random_weights import made_checks
    from cm3leon.reports.tables import Table

    with phases("checks"), tempfile.TemporaryDirectory(prefix="verify_fid.") as folder:
        found = list(made_checks(Path(folder)))
        found += published_checks(options.cifar10, options.statistics, options.expected)
    made = [check for check in found if check.made]
    failed = [check.name for check in made if check.failed]
    rows = tuple(check.row() for check in found)
    caption = f"{len(made)} checks made, {len(failed)} failed, {len(found) - len(made)} not made"
    notes = tuple(dict.fromkeys(f"{one.missing}: {one.way}" for one in found if not one.made))
    print(Table(HEADERS, rows, caption, notes, numbers=frozenset({1, 2, 3, 4})).to_text())
    extra = {}
    if options.speed:
        with phases("speed"):
            extra = timings(options)
    return core.Measurement(
        value=float(len(failed)),
        n=len(made),
        extra=extra,
        warnings=[f"failed: {name}" for name in failed],
        protocol={"checks": [check.name for check in made]},
    )


def timings(options: Options) -> dict[str, float]:
    """Time, print the table, and give pictures a second by form, and the shares of the best."""
    from benchmarks.verify.inception_speed import ours, shares, speeds
    from cm3leon.reports.tables import Table

    found, lacking = speeds(options.batch_sizes, options.repeats, compiled=options.compiled)
    plain = {one.batch: one for one in found if one.name == "plain"}
    base = max(plain.values(), key=lambda one: one.wall)
    rows = tuple(
        (one.name, str(one.batch), f"{one.wall:.2f}", f"{one.wall / base.wall:.2f}x",
         f"{one.cpu:.2f}", f"{one.cpu / base.cpu:.2f}x", f"{one.error:.1e}")
        for one in found
    )  # fmt: skip
    headers = ("form", "batch", "pictures/s", "to plain", "per CPU s", "to plain", "error")
    said = shares(found, ours())
    caption = f"Inception, medians of {options.repeats} rounds in turn, against plain at its best"
    notes = [
        f"{ours()} reaches {said['ours_to_best_wall']:.2f} of the fastest in float32 "
        f"({said['ours_to_best_cpu']:.2f} by processor time)",
        f"from files to features on disk {said['extraction_to_best_wall']:.2f} "
        f"({said['extraction_to_best_cpu']:.2f})",
        *lacking,
    ]
    table = Table(headers, rows, caption, tuple(notes), numbers=frozenset(range(1, 7)))
    print(f"\n{table.to_text()}")
    speed = {f"{one.name} batch {one.batch}".replace(" ", "_"): one for one in found}
    return (
        {f"{name}_pictures_per_s": one.wall for name, one in speed.items()}
        | {f"{name}_error": one.error for name, one in speed.items()}
        | said
    )


BENCH = core.Bench("verify_fid", 1, "failed checks", "lower", protocol={}, measure=measure)


def command(argv: Sequence[str] | None) -> int:
    """Parse, check, save the record; 2 where a check failed."""
    options = parse(Options, argv, "verify_fid")
    bench = replace(BENCH, measure=partial(measure, options))
    record, path = core.run(bench, Networks(), {}, options.results)
    print(f"record: {path}")
    for warning in record["warnings"]:
        print(f"error: {warning}", file=sys.stderr)
    return 2 if record["value"] else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 all is well, 2 a check failed or a user's mistake, 130 interrupted."""
    return core.exit_code(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
