"""FID by a pinned protocol: features by shard, moments, and what stands beside the value.

The value is against the protocol's first reference. Beside it: the other reference, the distance of
the first 5,000, 10,000 and 20,000 prompts, the line through them at 1/N = 0, and what
`measures.py` names. Memory does not grow with the number of pictures.

Shapes: N pictures, K sets (one a sampling seed), D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.evaluate import measures
from benchmarks.harness import core, sharding
from benchmarks.images import generated as images
from benchmarks.images.listings import drawn_listing, real_listing, remarks_on
from benchmarks.protocols.coco import IMAGES, Protocol
from benchmarks.protocols.coco_files import PinnedTask, read_task
from benchmarks.protocols.lists import write_list
from benchmarks.protocols.prompts import digest
from cm3leon.errors import UserError
from cm3leon.evaluation.features.cache import Kept, features_of
from cm3leon.evaluation.features.network import Features, load_features
from cm3leon.evaluation.features.statistics import (
    Statistics,
    cache_folder,
    export_statistics,
    import_statistics,
)
from cm3leon.evaluation.measures import Missing

SIZES = (5_000, 10_000, 20_000)  # prompts, of which the distance is told too
NONE = 1e-3  # a Fréchet distance that no two sets of pictures have
SHOWN = 24  # pictures in the grid


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
    images: Path | None = None
    seeds: tuple[int, ...] = (0,)
    cache: Path | None = None
    batch_size: int = 64
    written: Path | None = None  # folder for prompts.jsonl and the grid

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
    job: Job, group: sharding.Group, system, protocol: dict, phases: core.Phases
) -> core.Measurement:
    """Everything between a system and its record; ranks other than 0 leave after their share."""
    with phases("prompts"):
        task = job.task()
    features = network(job)
    named = find_named(job)
    with phases("draw"):
        drawn = pictures(job, group, system, task)
    with phases("features"):
        real = None
        if job.reference is None:
            home = cache_folder("reference", job.cache)
            real = features_of(real_listing(job.protocol, task.entries), features, home, group)
        home = cache_folder("features", job.cache)
        fakes = [
            features_of(drawn_listing(job.protocol, system.name, one), features, home, group)
            for one in drawn
        ]
        vq = getattr(system, "vq", None)
        home = cache_folder("reference", job.cache)
        rebuilt = measures.rebuild(job.protocol, task, vq, features, real, home, group)
    with phases("features beside"):
        takens = [take(job, task, one, system.name, drawn, group) for one in named]
    group.part()
    with phases("statistics"):
        references = statistics(job, task, features, real)
        found = numbers(job, references, real, fakes)
        found["extra"] |= measures.scale(task.own_N, features, real, fakes, rebuilt)
    with phases("statistics beside"):
        captions = [prompt.caption for prompt in task.prompts]
        among = None if next(iter(references)) == "all" else task.own_N
        others, by, said = measures.numbers_beside(takens, among, captions)
        found["extra"] |= others
    said += own_pictures(found)
    with phases("report"):
        if job.written is not None:  # beside the tables of this very run
            write_list(job.written / "prompts.jsonl", task.prompts)
        write_grid(job.written, task.prompts, drawn[0])
    return core.Measurement(
        **found,
        by=by,
        missing=not_measured(job, found["extra"], real, features, system),
        n=len(task.prompts),
        samples=samples(task, real, fakes),
        warnings=warnings(job, task, features, real, references, drawn) + said,
        protocol=known(task, features, real, references),
        counters=counters(drawn, fakes, real),
        device=getattr(system, "device", None),
    )


def own_pictures(found: dict) -> list[str]:
    """A warning where a distance is none: the pictures scored are those of the reference."""
    values = [found["value"], found["extra"].get("fid_prompts", found["value"])]
    if min(values) < NONE:
        return ["the pictures scored are the reference's own: their distance is 0"]
    return []


def network(job: Job) -> Features:
    """The feature network on the GPU of this rank, where there is one."""
    from cm3leon.loading import checked_device

    own = job.protocol.features_sha256 if job.network == job.protocol.features else None
    given = {
        "weights": job.weights,
        "sha256": job.weights_sha256 or own or None,
        "download": job.download,
    }
    given = {key: value for key, value in given.items() if value}
    return load_features(job.network, checked_device("auto"), **given)


def find_named(job: Job) -> list[measures.Named]:
    """The further networks whose weights were named; without real pictures those that need none."""
    found = []
    for beside in measures.BESIDE:
        given = getattr(job, beside.option)
        if job.reference is not None and beside.key != "clip_score":
            if given is not None:
                option = measures.option_of(beside)
                raise UserError(f"{option} needs the real pictures; leave out --reference or it")
            continue
        named = measures.find_named(beside, given)
        if named is not None and not named.path.exists():  # before hours of drawing
            option = measures.option_of(beside)
            raise UserError(f"{option}: no file {named.path}; name the weights, {beside.file}")
        found += [] if named is None else [named]
    return found


def take(
    job: Job,
    task: PinnedTask,
    named: measures.Named,
    label: str,
    drawn: Sequence[images.Pictures],
    group: sharding.Group,
) -> measures.Taken:
    """The features of another network, computed by all ranks."""
    from cm3leon.loading import checked_device

    unchecked = job.weights_sha256 if job.weights_sha256 == "any" else None
    features = named.load(checked_device("auto"), unchecked)
    real = None
    if named.beside.key != "clip_score":
        home = cache_folder("reference", job.cache)
        real = features_of(real_listing(job.protocol, task.entries), features, home, group)
    home = cache_folder("features", job.cache)
    fakes = [
        features_of(drawn_listing(job.protocol, label, x), features, home, group) for x in drawn
    ]
    return measures.Taken(named, features, real, fakes)


def not_measured(
    job: Job, extra: dict, real: Kept | None, features: Features, system
) -> list[Missing]:
    """Every number that the record lacks."""
    tokenizer = getattr(system, "vq", None) is not None
    said = measures.missing(extra, real is not None, features, tokenizer)
    done = {named.beside.key for named in find_named(job)}
    return said + [measures.lacking(one) for one in measures.BESIDE if one.key not in done]


def write_prompts(job: Job, path: Path, group: sharding.Group) -> int:
    """The protocol's prompts as a file, for those who draw elsewhere; the exit code."""
    if group.first:
        prompts = job.task().prompts
        print(f"{len(prompts)} prompts: {path} (SHA-256 {write_list(path, prompts)})")
    return 0


def pictures(job: Job, group: sharding.Group, system, task: PinnedTask) -> list[images.Pictures]:
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


def numbers(
    job: Job, references: dict[str, Statistics], real: Kept | None, fakes: Sequence[Kept]
) -> dict:
    """Value, interval and companions, as `core.Measurement` takes them."""
    (_, headline), *others = references.items()
    moments = [fake.moments().finish() for fake in fakes]
    per_seed = [headline.distance(*one) for one in moments]
    spread = measures.intervals(headline, fakes, per_seed)
    extra = {
        f"fid_{name}": float(np.mean([other.distance(*one) for one in moments]))
        for name, other in others
    }
    extra |= smaller(headline, fakes[0], per_seed[0])
    if real is not None:
        extra |= measures.kernel_distance(real, fakes)
    return {
        "value": float(np.mean(per_seed)),
        "per_seed": per_seed,
        "interval": spread.pop("both"),
        "spread": spread,
        "extra": extra,
    }


def smaller(headline: Statistics, fake: Kept, value: float) -> dict[str, float]:
    """Distances of the first prompts alone, and at infinity by the line over 1/N through all."""
    count, least = fake.count, fake.dim
    sizes = [size for size in SIZES if size < count] or [count // 4, count // 2]
    sizes = [size for size in sizes if size > least]
    if not sizes:
        return {}  # below the dimension there is no line
    first = np.arange(count)
    values = [headline.distance(*fake.moments(first < size).finish()) for size in sizes]
    found = {f"fid_at_{size}": one for size, one in zip(sizes, values, strict=True)}
    line = np.polyfit(1 / np.array([*sizes, count]), [*values, value], 1)
    return found | {"fid_infinity": float(line[1])}


def samples(task: PinnedTask, real: Kept | None, fakes: Sequence[Kept]) -> dict:
    """Features of single pictures for paired comparison, where they are few."""
    from benchmarks.evaluate import fid

    if real is None:
        return {}
    rows = real.count + sum(fake.count for fake in fakes)
    if rows * real.dim * 4 > fid.KEPT_BYTES:
        return {}
    drawn = [fake.rows(np.ones(fake.count, bool)) for fake in fakes]
    return fid.samples(task.prompts, real.rows(real.readable), drawn)


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
    found = {name: sum(getattr(one, name) for one in drawn) for name in ("drawn", "reused")}
    return found | {"feature_shards": made}


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
    if extra := [name for one in drawn for name in one.extra]:
        said.append(f"{len(extra)} files of --images belong to no prompt, first {extra[0]}")
    return said


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


def write_grid(folder: Path | None, prompts: Sequence, drawn: images.Pictures) -> None:
    """The first pictures with their captions, always the same ones, as grid.png in the folder."""
    from cm3leon.reports.plots import sample_grid

    if folder is not None:
        first = next(drawn.batches(SHOWN))
        captions = [prompt.caption for prompt in prompts[: len(first)]]
        sample_grid(first, captions, folder / "grid.png")
