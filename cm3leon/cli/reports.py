"""The commands that read records: compare, report, dashboard, from an installed package too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from cm3leon.errors import UserError


@dataclass(frozen=True)
class Compare:
    """Two runs side by side: `cm3leon compare RUN_A RUN_B`; a run is a record's path, or
    bench/system for the one that speaks for it. B is judged.
    """

    run_a: tyro.conf.Positional[str]
    run_b: tyro.conf.Positional[str]
    results: Path | None = None
    """folder of records; left out: results/ of the checkout, or of the folder we stand in"""

    def run(self) -> int:
        """Print what differs, then every measure; 2 for runs that do not compare."""
        needed("jsonschema")
        from cm3leon.reports import compare, guarded
        from cm3leon.reports.records.store import RESULTS

        return guarded(
            lambda: compare.print_comparison(self.run_a, self.run_b, self.results or RESULTS)
        )


@dataclass(frozen=True)
class Dashboard:
    """One page of all records: history, marks against the run before, figures; needs no server."""

    results: Path | None = None
    """folder of records; left out: results/ of the checkout, or of the folder we stand in"""
    out: Path | None = None
    """folder of the reports, reports/out by default: the page goes to dashboard/index.html in it"""
    picture: bool = False
    """take a picture of the page too (needs chromium)"""

    def run(self) -> int:
        """Write the page; 3 where there is no record."""
        needed("jsonschema", "matplotlib", "jinja2")
        from cm3leon.reports import OUT, guarded
        from cm3leon.reports.dashboard.page import write_dashboard
        from cm3leon.reports.records.store import RESULTS

        where = self.results or RESULTS, self.out or OUT
        return guarded(lambda: write_dashboard(*where, picture=self.picture))


@dataclass(frozen=True)
class Report:
    """The paper-style report of all records: PDF, HTML, and JSON that traces every number."""

    results: Path | None = None
    """folder of records; left out: results/ of the checkout, or of the folder we stand in"""
    out: Path | None = None
    """folder for the three files, reports/out by default"""
    picture: bool = False
    """write a picture of the first pages too"""

    def run(self) -> int:
        """Write the three files; 3 where there is no record."""
        needed("jsonschema", "matplotlib", "jinja2", "typst")
        from cm3leon.reports import OUT, guarded
        from cm3leon.reports.paper.main import write_report
        from cm3leon.reports.records.store import RESULTS

        where = self.results or RESULTS, self.out or OUT
        return guarded(lambda: write_report(*where, picture=self.picture))


def needed(*packages: str) -> None:
    """Raise UserError, with the way out, for packages that the extra `report` brings."""
    import importlib.util

    if gone := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UserError(f"{', '.join(gone)} not installed; pip install 'cm3leon[report]'")
