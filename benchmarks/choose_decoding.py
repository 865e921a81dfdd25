"""At which guidance weight and temperature is a model drawn best? Chosen on `val`, never on `test`.

    nox -s choose_decoding -- --system scenes-s            the table, and the choice
    nox -s choose_decoding -- --system scenes-s --write    and into the model's config.json

Every cell of the grid draws the same 1,000 captions: of `val`, and, as often as `natural` asks for
entities, of the second half of `tail` (those about entities that training shows); no number is
reported on either. The model's own number of documents stands before them. Of the cells whose
composition is not below the best one's interval the one with the lowest FID is chosen: guidance
trades the one for the other, and a picture must show what was asked for. `plain` (guidance 1,
temperature 1) stands beside the choice. Cost on 2 cores: 15 times drawing 1,000 pictures; a killed
run keeps its drawings.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.harness import core
from benchmarks.protocols.prompts import digest, scenes_prompts
from benchmarks.protocols.scenes import Rendered, Task
from benchmarks.systems import settings
from benchmarks.systems.find import find_system
from benchmarks.systems.settings import Arm
from cm3leon.config import to_dict
from cm3leon.decoding.config import DecodeConfig
from cm3leon.errors import UserError
from cm3leon.options import Batch, Count, NotNegative, Share

TAIL = range(1000, 2000, 2)  # the half of `tail` nothing is reported on; even: known entities
SHARE = 0.04  # of the captions about an entity, as of `natural`
REAL = 1000  # other real pictures, mixed alike, that FID is against
SPLIT = "mixture"


@dataclass(frozen=True)
class Options:
    """Choose a model's settings of drawing on captions that nothing is reported on."""

    system: str = "scenes-s"
    """a model of ours, by name or KIND:FOLDER"""
    guidance: tuple[float, ...] = (0.75, 1.0, 1.25, 1.5, 2.0)
    """weights of the grid"""
    temperature: tuple[NotNegative, ...] = (0.6, 0.8, 1.0)
    """temperatures of the grid"""
    n: Count = 1000
    """captions"""
    tail: Share = SHARE
    """share of the captions about an entity"""
    real: Count = REAL
    """other real pictures that FID is against"""
    write: bool = False
    """name the choice in the config.json of a shipped model, which is drawn so from then on"""
    batch_size: Batch = 64
    """captions drawn at once; moves speed, not pictures"""
    results: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.ROOT / "reports" / "out"
    """where the table goes"""
    cache: Path | None = None
    """where drawings are kept; left out: $CM3LEON_CACHE/images or .cache/images"""

    def __post_init__(self):
        if not self.guidance or not self.temperature:
            raise UserError("guidance and temperature must name at least one value each")
        for guidance, temperature in product(self.guidance, self.temperature):
            DecodeConfig(guidance=guidance, temperature=temperature)
        if not 0 <= self.tail <= 1:
            raise UserError(f"tail must be a share in [0, 1], got {self.tail}")
        for name, value in (("n", self.n), ("real", self.real)):
            most = {"val": 2500, "tail": len(TAIL) // 2}
            val, tail = shares_of(value, self.tail)
            if value < 4 or val > most["val"] or tail > most["tail"]:
                raise UserError(
                    f"{name} must be at least 4, with at most {most['val']} captions of val and "
                    f"{most['tail']} of tail, got {value} ({val} and {tail})"
                )


@dataclass(frozen=True)
class Together:
    """Pictures of several splits, one after the other."""

    parts: tuple[Rendered, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __iter__(self) -> Iterator[tuple]:
        for part in self.parts:
            yield from part


def shares_of(count: int, tail: float) -> tuple[int, int]:
    """How many of so many captions are of `val` and of `tail`."""
    about = round(count * tail)
    return count - about, about


def mixture(options: Options, size: int) -> Task:
    """Captions of `val` and `tail`, their pictures, and other pictures mixed alike."""
    val, tail = shares_of(options.n, options.tail)
    more_val, more_tail = shares_of(options.real, options.tail)
    named = scenes_prompts(TAIL.stop, "tail")
    prompts = [*scenes_prompts(val, "val"), *(named[index] for index in TAIL[:tail])]
    own = Rendered("coco", "val", range(val), size), Rendered("coco", "tail", TAIL[:tail], size)
    last = len(TAIL) - more_tail
    further = (
        Rendered("coco", "val", range(2500, 2500 + more_val), size),
        Rendered("coco", "tail", TAIL[last:], size),
    )
    return Task(prompts, Together(own), Together(further))


def cells(system, options: Options) -> list[Arm]:
    """The system at every setting of the grid, then at the plain one."""
    decode = settings.current(system, "decode")
    if decode is None:
        raise UserError(f"system {system.name} has no settings of drawing to choose")
    found = {
        f"w{label(guidance)}-t{label(temperature)}": replace(
            decode, guidance=guidance, temperature=temperature, strategy="guide"
        )
        for guidance, temperature in product(options.guidance, options.temperature)
    }
    found["plain"] = replace(decode, **settings.PLAIN)
    return [Arm(name, system.with_decode(one)) for name, one in found.items()]


def label(value: float) -> str:
    """A number inside a cell's name: 1.5 -> 1_5."""
    return f"{value:g}".replace(".", "_")


def choose(fid: Mapping[str, float], overall: Mapping[str, tuple[float, float, float]]) -> str:
    """Of the cells whose composition is at least the low end of the best one's interval the one
    with the lowest FID.
    """
    best = max(overall, key=lambda name: overall[name][0])
    good = [name for name in overall if overall[name][0] >= overall[best][1]]
    return min(good, key=fid.get)


def choose_decoding(options: Options, system=None) -> tuple[dict, Path]:
    """Measure and save: (record, its path). `system`, if given, stands for `options.system`."""
    system = system or find_system(options.system)
    grid = cells(system, options)
    val, tail = shares_of(options.n, options.tail)
    protocol = {
        "data": "scenes",
        "prompts": f"scenes coco, {val} of val and {tail} of tail from {TAIL.start} on",
        "reference": "other pictures of val and tail, mixed alike",
        "real": options.real,
        "features": "scenes",
        "cells": {arm.name: to_dict(arm.system.decode) for arm in grid},
        "rule": "lowest FID of the cells whose composition is within the best one's interval",
    }
    bench = replace(BENCH, measure=partial(measure, options, grid))
    record, path = core.run(bench, system, protocol, options.results)
    if options.write:
        write_choice(options.system, chosen(record))
    return record, path


def measure(
    options: Options, grid: Sequence[Arm], system, protocol: dict, phases: core.Phases
) -> core.Measurement:
    """Draw every cell, judge, choose."""
    from benchmarks.evaluate import fid, scenes_fid  # scipy: imported late
    from cm3leon.evaluation.features.network import load_features
    from cm3leon.training.ranks import ALONE

    features = load_features(protocol["features"])
    with phases("prompts"):
        split = scenes_fid.Split(SPLIT, mixture(options, features.size))
    with phases("draw"):
        scenes_fid.draw(ALONE, grid, [split], (0,), options.cache, options.batch_size)
    with phases("features"):
        scenes_fid.embed(split, features)
    with phases("composition"):
        scenes_fid.read_back(split, features, system.vq)
    with phases("statistics"):
        measured = scenes_fid.measure_split(split, None, "")
    tried = {name: one.measures for name, one in measured.items() if name != "plain"}
    best = choose(
        {name: one["fid"][0] for name, one in tried.items()},
        {name: one["overall"] for name, one in tried.items()},
    )
    extra = {
        f"{name}.{key}": value
        for name, one in measured.items()
        for key, value in one.measures.items()
    }
    decode = protocol["cells"][best]
    extra |= {f"chosen.{key}": decode[key] for key in ("guidance", "temperature")}
    return core.Measurement(
        value=tried[best]["fid"][0],
        n=len(split.prompts),
        interval=fid.intervals(measured[best].fid)["both"],
        extra=extra,
        protocol={"prompts_sha256": digest(split.prompts), "features_sha256": features.digest},
        counters=fid.counters(scenes_fid.drawings([split])),
        device=getattr(system, "device", None),
    )


def chosen(record: Mapping) -> dict:
    """The settings that a record chose, those of `DecodeConfig`."""
    wanted = {key: record["extra"][f"chosen.{key}"] for key in ("guidance", "temperature")}
    return next(
        decode
        for name, decode in record["protocol"]["cells"].items()
        if name != "plain" and {key: decode[key] for key in wanted} == wanted
    )


def write_choice(name: str, decode: Mapping) -> Path:
    """Name the settings in a model's config.json; the weights stay as they are."""
    from cm3leon.checkpoint import CONFIG, read_about, write_about
    from cm3leon.loading import find_model

    folder = find_model(name.removeprefix("cm3leon:"))
    about = read_about(folder)
    about["extra"]["decode"] = dict(decode)
    write_about(folder / CONFIG, about)
    return folder / CONFIG


def report(options: Options, record: Mapping) -> None:
    """The table on the terminal and as files."""
    from cm3leon.reports.benches.splits import choice_table
    from cm3leon.reports.tables import write_all

    table = choice_table(record)
    print(f"\n{table.to_text()}\n")
    write_all(table, core.report_folder(options.reports, BENCH.name), BENCH.name)


BENCH = core.Bench("choose_decoding", 1, "fid_scenes", "lower", protocol={}, measure=measure)


main = core.command(Options, BENCH.name, choose_decoding, report)


if __name__ == "__main__":
    sys.exit(main())
