"""FID by a pinned protocol: features by shard, moments, and what stands beside the value.

The value is against the protocol's first reference. Beside it: the other reference, floor and rFID,
and whatever `sides.numbers` and `networks.py` can tell. Memory does not grow with the number of
pictures.

Shapes: N pictures, K sets (one a sampling seed), D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.evaluate import fid, networks
from benchmarks.harness import core
from benchmarks.images import generated as images
from benchmarks.images.listings import drawn_listing, real_listing, rebuilt_listing, remarks_on
from benchmarks.protocols.coco import IMAGES, Protocol
from benchmarks.protocols.coco_files import PinnedTask, read_task
from benchmarks.protocols.lists import write_list
from benchmarks.protocols.prompts import Prompt, digest
from cm3leon.evaluation.features.cache import Kept, features_of
from cm3leon.evaluation.features.network import Features, load_features
from cm3leon.evaluation.features.statistics import (
    Statistics,
    cache_folder,
    export_statistics,
    import_statistics,
)
from cm3leon.evaluation.measures import Missing
from cm3leon.evaluation.metrics.fid import fid as fid_of
from cm3leon.evaluation.sides import MORE, Sides, numbers
from cm3leon.evaluation.statistics.frechet import frechet_from_features
from cm3leon.training import ranks

RFID_PICTURES = 5_000  # reference pictures that go through the image tokenizer


@dataclass(frozen=True)
class Job:
    """A pinned protocol with what a command line says of it."""

    protocol: Protocol
    root: Path | None = None
    n: int | None = None
    prompts: Path | None = None
    prompts_sha256: str | None = None
    reference: Path | None = None  # statistics instead of pictures
    features: str | None = None  # another network than the protocol's: a trial
    weights: Path | None = None
    weights_sha256: str | None = None  # "any": unchecked, a trial
    download: bool = False
    dino_weights: str | None = None  # of FD-DINOv2: FILE, or NETWORK:FILE
    cmmd_weights: str | None = None  # of CMMD
    clip_weights: str | None = None  # of CLIP score
    inception_weights: str | None = None  # of the Inception score by another network than FID's
    images: Path | None = None
    seeds: tuple[int, ...] = (0,)
    cache: Path | None = None
    batch_size: int = 64
    reports: Path | None = None  # where folders of runs go, with prompts.jsonl and the grid

    @property
    def network(self) -> str:
        """The feature network of this job."""
        return self.features or self.protocol.features

    def task(self) -> PinnedTask:
        """Prompts and reference pictures."""
        given = self.root, self.n, self.prompts, self.prompts_sha256
        return read_task(self.protocol, *given, statistics=self.reference is not None)

    @property
    def unit(self) -> str:
        """FID for its own network, else with the network's name."""
        return "fid" if self.network.startswith("inception") else f"fid_{self.network}"


def about(job: Job) -> dict:
    """The protocol as a record states it; digests are added when they are known."""
    said = asdict(job.protocol)
    said |= {"protocol": said.pop("name"), "data": "coco", "features": job.network}
    del said["features_sha256"], said["note"]
    return said


def measure(
    job: Job, group: ranks.Group, system, protocol: dict, phases: core.Phases
) -> core.Measurement:
    """Everything between a system and its record; ranks other than 0 leave after their share."""
    with phases("prompts"):
        task = job.task()
    features = network(job)
    named, missing = networks.find_all(job, features.name, job.reference is None)
    with phases("draw"):
        drawn = pictures(job, group, system, task)
    kept = Keeper(job, task, drawn, system, group)
    with phases("features"):
        real, fakes = kept.real(features), kept.fakes(features)
        rebuilt = kept.rebuilt(features, real)
    with phases("features beside"):
        others = networks.sides_by(named, kept.sides, device(), unchecked(job))
    group.part()
    with phases("statistics"):
        references = statistics(job, task, features, real)
        (_, headline), *more = references.items()
        found = fid_of(headline, fakes)
        extra = {
            f"fid_{name}": float(np.mean([one.distance(fake) for fake in fakes]))
            for name, one in more
        }
        told, lacks = numbers(Sides(headline, fakes, features, real, kept.among))
        around, without = scale(task, real, rebuilt, getattr(system, "vq", None))
        extra |= told | around
    with phases("statistics beside"):
        beside = networks.take(others)
    with phases("report"):
        if job.reports is not None:
            folder = core.report_folder(job.reports, "fid_coco")
            write_list(folder / "prompts.jsonl", task.prompts)
            fid.write_grid(folder, task.prompts, drawn[0])
    distances = [found.value, extra.get("fid_prompts", found.value)]
    said = [*beside.remarks, *fid.own_pictures(distances)]
    return core.Measurement(
        **fid.headline(found),
        extra=extra | beside.extra,
        by=beside.by,
        missing=[*lacks, *without, *missing, *beside.missing],
        n=len(task.prompts),
        samples={} if real is None else fid.samples(task.prompts, real, fakes),
        warnings=warnings(job, task, features, real, references, drawn) + said,
        protocol=known(task, features, real, references),
        counters=counters(drawn, fakes, real),
        device=getattr(system, "device", None),
    )


def device() -> str:
    """The GPU of this rank, where there is one."""
    from cm3leon.loading import checked_device

    return checked_device("auto")


def unchecked(job: Job) -> str | None:
    """`any` where the job does not check digests."""
    return job.weights_sha256 if job.weights_sha256 == "any" else None


def network(job: Job) -> Features:
    """FID's own feature network."""
    own = job.protocol.features_sha256 if job.network == job.protocol.features else None
    given = {
        "weights": job.weights,
        "sha256": job.weights_sha256 or own or None,
        "download": job.download,
    }
    given = {key: value for key, value in given.items() if value}
    return load_features(job.network, device(), **given)


@dataclass(frozen=True)
class Keeper:
    """Features of a job's pictures by any network, computed by all ranks and kept on disk."""

    job: Job
    task: PinnedTask
    drawn: Sequence[images.Pictures]
    system: object
    group: ranks.Group

    @property
    def among(self) -> np.ndarray | None:
        """Which real pictures are the reference: bool [N], None for all of them."""
        return None if "all" in self.job.protocol.references else self.task.own_N

    def real(self, features: Features) -> Kept | None:
        """The reference pictures; None where it came as statistics."""
        if self.job.reference is not None:
            return None
        listing = real_listing(self.job.protocol, self.task.entries)
        return features_of(listing, features, cache_folder("reference", self.job.cache), self.group)

    def fakes(self, features: Features) -> list[Kept]:
        """Each set of drawn pictures."""
        home = cache_folder("features", self.job.cache)
        listings = [drawn_listing(self.job.protocol, self.system.name, one) for one in self.drawn]
        return [features_of(one, features, home, self.group) for one in listings]

    def rebuilt(self, features: Features, real: Kept | None) -> tuple[np.ndarray, Kept] | None:
        """Which reference pictures went through the system's image tokenizer (bool [N]), and what
        came back; None without tokenizer or pictures."""
        vq = getattr(self.system, "vq", None)
        if vq is None or real is None:
            return None
        among = np.ones(real.count, bool) if self.among is None else self.among
        places = np.flatnonzero(among)[:RFID_PICTURES]
        marked = np.zeros(real.count, bool)
        marked[places] = True
        entries = [self.task.entries[place] for place in places]
        listing = rebuilt_listing(self.job.protocol, entries, vq)
        home = cache_folder("reference", self.job.cache)
        return marked, features_of(listing, features, home, self.group)

    def sides(self, features: Features) -> Sides:
        """Reference and drawings by another network than FID's."""
        real, captions = self.real(features), [prompt.caption for prompt in self.task.prompts]
        fakes = self.fakes(features)
        reference = None
        if real is not None:
            reference = Statistics(*real.moments(self.among).finish(), {})
        return Sides(reference, fakes, features, real, self.among, captions)


def scale(
    task: PinnedTask, real: Kept | None, rebuilt: tuple[np.ndarray, Kept] | None, vq
) -> tuple[dict[str, float], list[Missing]]:
    """Floor (real pictures that no prompt is of, to those of the prompts) and rFID."""
    found, missing = {}, []
    needs = "the real pictures, not --reference alone"
    if real is not None:
        needs = "real pictures without a prompt"
        own = real.moments(task.own_N)
        if min(own.n, real.moments(~task.own_N).n) >= 2:
            found["floor"] = Statistics(*own.finish(), {}).distance(real, ~task.own_N)
    if "floor" not in found:
        missing.append(Missing("floor", needs))
    needs = "a system with an image tokenizer" if vq is None else needs
    if rebuilt is not None:
        marked, back = rebuilt
        rows_ND, back_ND, needs = real.rows(marked), back.rows(np.ones(back.count, bool)), MORE
        if len(rows_ND) >= 2:
            found["rfid"] = frechet_from_features(rows_ND, back_ND)
    return found, missing + [Missing("rFID", needs)] * ("rfid" not in found)


def write_prompts(prompts: Sequence[Prompt], path: Path, group: ranks.Group) -> int:
    """Prompts as a file, for those who draw elsewhere; the exit code."""
    if group.first:
        print(f"{len(prompts)} prompts: {path} (SHA-256 {write_list(path, prompts)})")
    return 0


def pictures(job: Job, group: ranks.Group, system, task: PinnedTask) -> list[images.Pictures]:
    """The pictures to score, one set a seed."""
    if job.images is not None:
        return [images.from_folder(job.images, task.prompts, job.protocol.size)]
    return [
        images.draw_together(group, system, task.prompts, seed, job.cache, job.batch_size)
        for seed in job.seeds
    ]


def statistics(
    job: Job, task: PinnedTask, features: Features, real: Kept | None
) -> dict[str, Statistics]:
    """Reference name -> its moments, in the protocol's order; also an `.npz` beside its shards."""
    if real is None:
        return {"imported": import_statistics(job.reference, features.dim)}
    found = {}
    for name in job.protocol.references:
        if name == "prompts" and not task.own_N.any():
            continue  # a list without image ids
        seen = real.moments(None if name == "all" else task.own_N)
        if seen.n < 2:
            raise core.NothingMeasured(
                f"fid_coco measured nothing: {seen.n} of {real.count} reference pictures readable"
            )
        said = {"reference": name, "pictures": seen.n, "features_sha256": features.digest}
        said |= {"split": job.protocol.split, "crop": job.protocol.crop, "size": job.protocol.size}
        found[name] = Statistics(*seen.finish(), said | {"features": features.name})
        own = name if name == "all" else f"{name}-{task.list_sha256[:8]}"
        export_statistics(real.folder / f"{own}.npz", found[name])
    return found


def known(
    task: PinnedTask, features: Features, real: Kept | None, references: dict[str, Statistics]
) -> dict:
    """What the protocol could not know before: the very prompts, pictures, weights."""
    first = next(iter(references))
    said = {
        "n": len(task.prompts),
        "prompts": task.list_name,
        "prompts_sha256": digest(task.prompts),
        "prompts_list_sha256": task.list_sha256,
        "features_sha256": features.digest,
        "reference": first,
        "references": list(references),
    }
    if real is None:
        return said | {"reference_sha256": references[first].sha256}
    counted = references[first].about["pictures"]
    return said | {"reference_key": real.folder.name, "reference_n": counted}


def counters(drawn: Sequence[images.Pictures], fakes: Sequence[Kept], real: Kept | None) -> dict:
    """Pictures drawn and reused by all ranks; shards of features that rank 0 computed."""
    made = sum(one.made for one in [*fakes, *([] if real is None else [real])])
    return fid.counters(drawn) | {"feature_shards": made}


def warnings(
    job: Job,
    task: PinnedTask,
    features: Features,
    real: Kept | None,
    references: dict[str, Statistics],
    drawn: Sequence[images.Pictures],
) -> list[str]:
    """What a reader must know before quoting the number."""
    said, pinned = list(task.warnings), job.protocol
    if job.network != pinned.features:
        said.append(f"a trial, not {pinned.name}: features={job.network}, not {pinned.features}")
    elif not features.digest.startswith(pinned.features_sha256):
        said.append(
            f"a trial, not {pinned.name}: the network's weights are {features.digest[:8]}, "
            f"not {pinned.features_sha256[:8]}"
        )
    if of_network := getattr(features, "warning", ""):
        said.append(of_network)
    if len(task.prompts) <= features.dim:
        said.append(f"n={len(task.prompts)} is not above the {features.dim} features: FID too high")
    if real is not None:
        said += remarks_on(real, task.entries)
        if bad := sum(task.entries[place].path.is_file() for place in real.unreadable):
            said.append(f"a trial, not {pinned.name}: {bad} reference pictures cannot be read")
    elif job.reference is not None:
        said += foreign_statistics(pinned, features, references["imported"])
    return said + fid.unasked(drawn)


def foreign_statistics(pinned: Protocol, features: Features, given: Statistics) -> list[str]:
    """How imported statistics differ from the protocol's, as far as they say."""
    if not given.about:
        return ["the reference was imported and does not say how it was made"]
    wanted = {"split": pinned.split, "crop": pinned.crop, "size": pinned.size}
    wanted |= {"features_sha256": features.digest}
    if given.about.get("reference") == "all" and pinned.split in IMAGES:
        wanted |= {"pictures": IMAGES[pinned.split]}
    return [
        f"a trial, not {pinned.name}: the imported reference has {key} {given.about.get(key)}"
        for key, value in wanted.items()
        if given.about.get(key) != value
    ]
