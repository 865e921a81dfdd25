"""`cm3leon score`: numbers of pictures against reference pictures, and what they compare with."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from cm3leon.cli.reports import needed
from cm3leon.options import Range


@dataclass(frozen=True)
class Score:
    """Numbers of pictures against reference pictures: `cm3leon score DRAWN REAL`.

    A side is a folder of pictures, a .zip or .tar of them, an .npz or .npy of uint8 [N, H, W, 3],
    or statistics (.npz with mu and sigma). Below the table stands what the numbers can and cannot
    be compared with: network, resize, number of pictures, floor.
    """

    images: tyro.conf.Positional[str]
    """the pictures to judge"""
    reference: tyro.conf.Positional[str]
    """what they shall be like"""
    metrics: tuple[str, ...] = ()
    """fid, fid_infinity, kid, precision, recall, inception_score, fd_dinov2, cmmd; left out: fid
    kid precision recall"""
    network: str = "scenes"
    """scenes, which is shipped, or NAME:FILE: inception (pytorch-fid's resize), inception-clean,
    inception-tf, dinov2, open_clip:ARCHITECTURE:FILE; without FILE where the libraries keep it"""
    weights_sha256: str | None = None
    """of FILE, or its beginning; left out: the published one; any: not checked"""
    n: Annotated[int, Range(2, 10**9)] | None = None
    """at most so many pictures a side, chosen by a fixed seed"""
    cache: Path | None = None
    """folder in which features are kept for the next time; left out: none are kept"""
    save: Path | None = None
    """.npz to write the reference's statistics to, to give in its place the next time"""
    record: str | None = None
    """keep the numbers as a record of this name in results/ (`cm3leon compare`, `dashboard`)"""
    results: Path | None = None
    """of --record: another folder than results/"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    json: bool = False
    """print JSON instead of a table"""

    def run(self) -> int:
        """Measure, print, keep."""
        from cm3leon.evaluation.score import DEFAULT, checked_npz, find_network, score

        if self.record is not None:  # before anything is measured
            needed("jsonschema")
            from cm3leon.reports.records.record import check_name

            check_name("record", self.record)
        if self.save is not None:
            checked_npz(self.save)
        network = find_network(self.network, self.device, self.weights_sha256)
        found = score(
            self.images, self.reference, self.metrics or DEFAULT, network=network, n=self.n,
            cache=self.cache,
        )  # fmt: skip
        print(json.dumps(found.to_dict(), indent=2) if self.json else found)
        if self.save is not None:
            print(f"reference: {found.save_reference(self.save)}", file=sys.stderr)
        if self.record is not None:
            from cm3leon.reports.records.scores import keep

            print(f"record: {keep(found, self.record, self.results)}", file=sys.stderr)
        return 0
