"""What an image tokenizer loses: rFID, PSNR, SSIM, and how much of its codebook it uses.

    nox -s rfid                                     the shipped tokenizer on 1,000 scenes
    nox -s rfid -- --tokenizer FOLDER               what cm3leon convert-tokenizer made
    nox -s rfid -- --data FOLDER                    picture files; also a .tar, or tars
    nox -s rfid -- --data COCO_ROOT:val2014         MS-COCO, a sample with --n 5000

Cost: 20 seconds on 2 cores for the default; a 256-pixel VQGAN of 70M parameters takes seconds a
picture on a CPU. Protocol: pictures cropped to a square at the tokenizer's own size, so two
tokenizers of different sizes are in different columns; rFID between features of the pictures and of
what comes back. With the scenes network (`rfid_scenes`) it is not a published rFID.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.harness import core
from cm3leon.errors import UserError
from cm3leon.files import baselines_folder
from cm3leon.options import Batch, Count, Resamples

QUICK = 128  # pictures of --quick
NAMED = 5  # unreadable pictures named in the record


@dataclass(frozen=True)
class Options:
    """rFID, PSNR, SSIM and use of the codebook of an image tokenizer."""

    tokenizer: Path | None = None
    """folder of a tokenizer; left out: the shipped one of the embedded world"""
    name: str | None = None
    """in the record; left out: that of the folder, or of the folder above one called vq"""
    data: str = "scenes"
    """scenes, a folder of pictures, an MS-COCO root (or root:split), a .tar or a folder of tars"""
    n: Count | None = None
    """pictures; left out: 1,000 of scenes, else all"""
    quick: bool = False
    """at most 128 pictures: a look, and another protocol"""
    features: str = "scenes"
    """the feature network behind rFID"""
    batch_size: Batch = 16
    """pictures at once; moves speed, not numbers"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    resamples: Resamples = 200
    """of the intervals"""
    results: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.OUT
    """where the table goes"""

    def __post_init__(self):
        if self.n is not None and self.n < 2:
            raise UserError(f"n must be at least 2 (a covariance needs two pictures), got {self.n}")
        if self.batch_size < 1 or self.resamples < 2:
            raise UserError(
                f"rfid needs batch_size >= 1 and resamples >= 2, "
                f"got {self.batch_size} and {self.resamples}"
            )


@dataclass(frozen=True)
class Tokenizer:
    """The system of a record: a VQ by path."""

    name: str
    config: dict
    weights_sha256: str
    vq: object


def find_tokenizer(options: Options) -> Tokenizer:
    """The tokenizer that the options name."""
    from benchmarks.images.generated import safe
    from cm3leon.checkpoint import read_about
    from cm3leon.loading import checked_device
    from cm3leon.tokenizers.folder import load_tokenizer

    device = checked_device(options.device)
    folder = options.tokenizer or baselines_folder() / "scenes" / "vq"
    vq = load_tokenizer(folder, device)
    place = folder.resolve()
    name = options.name or (place.parent.name if place.name == "vq" else place.name)
    config = read_about(folder)["config"] | {"licence": vq.licence}
    return Tokenizer(safe(name), config, vq.sha256, vq)


def measure(
    options: Options, system: Tokenizer, protocol: dict, phases: core.Phases
) -> core.Measurement:
    """One pass over the pictures, then the numbers."""
    import numpy as np

    from benchmarks.evaluate.reconstruction import code_use, paired_interval, rebuild
    from benchmarks.images.real import find_pictures
    from benchmarks.protocols.scenes import batches
    from cm3leon.evaluation.features.network import load_features
    from cm3leon.evaluation.statistics.frechet import frechet_from_features
    from cm3leon.evaluation.statistics.intervals import bootstrap_interval

    features, size = load_features(options.features), system.vq.image_size
    most = QUICK if options.quick else None
    pictures = find_pictures(options.data, options.n, size, most)
    found = rebuild(system.vq, batches(pictures, options.batch_size), features, phases, options.n)
    if len(found) < 2:
        raise core.NothingMeasured(f"rfid measured nothing: {len(found)} pictures were readable")
    with phases("statistics"):
        value = frechet_from_features(found.real_ND, found.rebuilt_ND)
        interval = None
        if len(found) >= 4:
            pair = found.real_ND, found.rebuilt_ND
            interval = paired_interval(*pair, value)
        extra = code_use(found.counts_K)
        finite = np.isfinite(found.psnr_N)
        for name, values in (("psnr", found.psnr_N[finite]), ("ssim", found.ssim_N)):
            if len(values) >= 2:
                ends = bootstrap_interval(values, resamples=options.resamples)
                extra[name] = (float(values.mean()), *ends)
    return core.Measurement(
        value=value,
        n=len(found),
        interval=interval,
        extra=extra,
        warnings=warnings(options, pictures.unreadable, found, features.dim),
        protocol=pictures.about
        | {
            "n": len(found),
            "size": size,
            "pictures_sha256": found.sha256,
            "features_sha256": features.digest,
        },
        tokens=int(found.counts_K.sum()),
        device=str(system.vq.device),
    )


def warnings(options: Options, unreadable: Sequence, found, dim: int) -> list[str]:
    """What a reader must know before quoting the number."""
    said = []
    if options.features == "scenes" and options.data != "scenes":
        said.append("a trial of the way, not a published rFID: features=scenes on photographs")
    if len(found) <= dim:
        said.append(f"n={len(found)} is not above the {dim} features: the covariances are singular")
    if exact := int((found.psnr_N == float("inf")).sum()):
        said.append(f"{exact} pictures came back exactly and are left out of psnr")
    if unreadable:
        shown = "; ".join(f"{one[0]}: {one[-1]}" for one in unreadable[:NAMED])
        said.append(f"{len(unreadable)} unreadable pictures left out: {shown}")
    return said


BENCH = core.Bench("rfid", 2, "rfid", "lower", protocol={}, measure=measure)


def rfid(options: Options) -> tuple[dict, Path]:
    """Measure and save: (record, its path)."""
    system = find_tokenizer(options)
    bench = replace(BENCH, unit=f"rfid_{options.features}", measure=partial(measure, options))
    protocol = {"features": options.features}
    return core.run(bench, system, protocol, options.results)


def report(options: Options, record: dict) -> None:
    """The table beside the records of the same protocol."""
    from cm3leon.reports.benches.rfid import rfid_table, same_protocol
    from cm3leon.reports.tables import write_all

    table = rfid_table(same_protocol(record, options.results))
    print(f"\n{table.to_text()}")
    write_all(table, core.report_folder(options.reports, "rfid"), "rfid")


main = core.command(Options, "rfid", rfid, report)


if __name__ == "__main__":
    sys.exit(main())
