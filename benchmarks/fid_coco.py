"""FID of a text-to-image system, zero-shot, as in Table 1 of the paper.

    nox -s fid_coco                                    scenes-s, 1,000 captions of the small world
    nox -s fid_coco -- --system my_file:MY_SYSTEM      your own: any object with a `draw`
    nox -s fid_coco -- --images FOLDER                 pictures drawn elsewhere, named by image id
    nox -s fid_coco -- --protocol coco2014-30k/pytorch-fid --coco-root FOLDER     MS-COCO, pinned
    nox -s fid_coco -- --data coco --coco-root FOLDER  MS-COCO files: a trial of the way, no score
    torchrun --nproc-per-node 8 -m -- benchmarks.fid_coco ...   the same value, by many processes

Cost: about 3 minutes on 2 cores for 1,000 captions, most of it drawing; a second run reuses the
drawings. Protocol: one caption a picture; the reference are the pictures the captions were written
for; features of the scenes network (hence `fid_scenes`: never comparable with an Inception FID).
Beside the number stands its scale at the same n: floor (the reference against n other real
pictures), rFID (the reference through the image tokenizer) and noise. Where meanings are known,
GenEval's six scores say whether what was asked for is there.

A `--protocol` fixes prompts, references, crop, file format and network (harness/protocols.py); its
value is an Inception FID. It writes its prompts as `prompts.jsonl`, with their SHA-256.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from benchmarks.harness import core, images, rerank_score, sharding
from benchmarks.harness.features import Features, extract, load_features
from benchmarks.harness.prompts import digest
from benchmarks.harness.protocols import QUICK, find_protocol
from benchmarks.harness.sharding import ALONE, Group
from benchmarks.harness.systems import find_system
from benchmarks.harness.tasks import Task, batches, coco_task, scenes_task
from cm3leon.cli import parse
from cm3leon.drawing import DecodeChanges
from cm3leon.errors import UserError
from cm3leon.pictures import CROP

NAMED = 5  # unreadable pictures named in the record
OWN = (  # options of a pinned protocol alone, which its job takes as they are
    "prompts", "prompts_sha256", "reference", "features", "weights", "weights_sha256", "download",
    "dino_weights", "cmmd_weights", "clip_weights",
)  # fmt: skip
SHARED = ("images", "seeds", "cache", "batch_size")


@dataclass(frozen=True)
class Options:
    """FID of a text-to-image system on captions it was never trained on (Table 1)."""

    system: str = "scenes-s"
    """a name of harness/systems.py, module:object, or KIND:FOLDER with diffusers, transformers,
    llamagen"""
    data: Literal["scenes", "coco"] = "scenes"
    """the embedded world, or MS-COCO files"""
    split: Literal["test", "val"] = "test"
    """of scenes; `val` is there to choose settings on, and another protocol"""
    coco_root: Path | None = None
    """root of an MS-COCO copy: annotations/captions_<split>.json and pictures"""
    coco_split: str | None = None
    """e.g. val2014; left out: the validation split"""
    protocol: str | None = None
    """a pinned protocol on MS-COCO, e.g. coco2014-30k/clean (harness/protocols.py)"""
    dev: bool = False
    """of a protocol: 8,000 captions of the training split, to choose settings on"""
    prompts: Path | None = None
    """of a protocol: another list, prompts.jsonl or one caption a line (LlamaGen's CSV)"""
    prompts_sha256: str | None = None
    """the digest that --prompts must have; left out: that of FILE.sha256, where there is one"""
    reference: Path | None = None
    """of a protocol: statistics (.npz with mu, sigma) instead of the real pictures"""
    features: str | None = None
    """of a protocol: another network than its own, a trial"""
    weights: Path | None = None
    """file of the feature network's weights; left out: where they usually lie"""
    weights_sha256: str | None = None
    """their digest; left out: the protocol's; `any`: unchecked, a trial"""
    download: bool = False
    """fetch the feature network's weights where they are not here"""
    dino_weights: str | None = None
    """of a protocol: file of DINOv2 ViT-L/14, for FD-DINOv2 (or NETWORK:FILE, as the two below)"""
    cmmd_weights: str | None = None
    """of a protocol: file of OpenAI's ViT-L/14 at 336 pixels, for CMMD"""
    clip_weights: str | None = None
    """of a protocol: file of OpenAI's ViT-B/32, for CLIP score"""
    only_prompts: Path | None = None
    """write the protocol's prompts to this .jsonl and stop"""
    n: int | None = None
    """captions; left out: 1,000 of scenes, all of coco, what the protocol says"""
    seeds: tuple[int, ...] = (0,)
    """sampling seeds; each gives one FID, the value is their mean"""
    images: Path | None = None
    """score these pictures, one a prompt, instead of drawing"""
    name: str | None = None
    """of the system that drew --images; left out: the folder's last name"""
    decode: Annotated[DecodeChanges, tyro.conf.arg(name="")] = field(default_factory=DecodeChanges)
    documents: int | None = None
    """retrieved documents before each caption, 0 to 4; left out: the system's own"""
    samples: int = 1
    """drawn for each caption, of which CLIP keeps one (the paper's Table 1: 8)"""
    rerank_clip: str = "scenes"
    """the CLIP that keeps it: scenes, local-dir:FOLDER, or ARCHITECTURE:FILE"""
    quick: bool = False
    """128 captions (of a protocol: against their own pictures): a look, and another protocol"""
    batch_size: int = 64
    """captions drawn at once; moves speed, not pictures"""
    resamples: int | None = None
    """of the distance at infinitely many pictures; left out: 200 (other intervals need none)"""
    results: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.ROOT / "reports" / "out"
    """where table, grid and plot go"""
    cache: Path | None = None
    """where drawings are kept; left out: $CM3LEON_CACHE/images or .cache/images"""

    def __post_init__(self):
        if self.n is not None and self.n < 2:
            raise UserError(f"n must be at least 2 (a covariance needs two pictures), got {self.n}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds must be different numbers, got {list(self.seeds)}")
        if self.samples < 1:
            raise UserError(f"samples must be at least 1, got {self.samples}")
        if self.resamples is not None and self.resamples < 2:
            raise UserError(f"resamples must be at least 2, got {self.resamples}; 200 is usual")
        self._check_images()
        if self.coco_root and self.data != "coco" and self.protocol is None:
            raise UserError(f"--coco-root {self.coco_root} needs --data coco or a --protocol")
        if self.protocol is not None:
            find_protocol(self.protocol)
            return
        for name in ("dev", "only_prompts", *OWN):
            if getattr(self, name):
                raise UserError(f"--{name.replace('_', '-')} needs a --protocol")

    def _check_images(self) -> None:
        """Options that have no effect on pictures drawn elsewhere, or without them."""
        if self.images is None:
            if self.name is not None:
                raise UserError(f"--name {self.name} is of --images; a system has its own name")
            return
        own = {one.name: one.default for one in fields(self)}
        drawing = ("system", "seeds", "samples", "batch_size", "documents")
        for name in [one for one in drawing if getattr(self, one) != own[one]]:
            raise UserError(
                f"--{name.replace('_', '-')} has no effect on --images, one picture a prompt; "
                "leave it out (--name names the system that drew them)"
            )
        if self.decode.given:
            option = next(iter(self.decode.given)).replace("_", "-")
            raise UserError(f"--{option} has no effect on --images; leave it out")


def fid_coco(options: Options, system=None, group: Group = ALONE) -> tuple[dict, Path]:
    """Measure and save: (record, its path). `system`, if given, stands for `options.system`.

    Ranks of `group` other than 0 do their share of the work and raise `sharding.Finished`.
    """
    if options.images is not None:
        system = images.Folder(options.images, options.name)
        system.check_name(options.results / BENCH.name)
    system = best_of(tuned(system or find_system(options.system), options), options)
    if options.protocol is not None:
        return pinned_fid(options, system, group)
    protocol = {
        "data": options.data,
        "seeds": list(options.seeds),
        "samples_per_prompt": options.samples,
        "features": "scenes",
        "crop": CROP,
    }
    bench = replace(BENCH, measure=partial(measure, options, group))
    return core.run(bench, system, protocol, options.results)


def pinned_fid(options: Options, system, group: Group) -> tuple[dict, Path]:
    """The same by a pinned protocol."""
    from benchmarks.harness import pinned  # scipy: imported late

    job = pinned_job(options)
    protocol = pinned.about(job) | {
        "seeds": list(options.seeds),
        "samples_per_prompt": options.samples,
    }
    bench = replace(BENCH, unit=job.unit, measure=partial(pinned.measure, job, group))
    return core.run(bench, system, protocol, options.results)


def pinned_job(options: Options):
    """The protocol with what the options say of it."""
    from benchmarks.harness.pinned import Job

    return Job(
        find_protocol(options.protocol, options.quick, options.dev),
        root=options.coco_root,
        n=options.n,
        written=options.reports / "fid_coco",
        **{name: getattr(options, name) for name in (*OWN, *SHARED)},
    )


def tuned(system, options: Options):
    """The system under the options given, its name saying which differ from its own."""
    documents = {} if options.documents is None else {"documents": options.documents}
    name = system.name
    for kind, given in (("decode", options.decode.given), ("retrieval", documents)):
        if not given:
            continue
        own = current(system, kind)
        if own is None:
            option = next(iter(given)).replace("_", "-")
            raise UserError(f"--{option} does not apply to system {system.name}; leave it out")
        other = {key: value for key, value in given.items() if value != getattr(own, key)}
        name = "+".join([name, *(f"{key}{_short(value)}" for key, value in other.items())])
        system = getattr(system, f"with_{kind}")(replace(own, **given))
    return replace(system, name=name) if name != system.name else system


def best_of(system, options: Options):
    """The system, or, with several samples, what keeps the best of them by CLIP."""
    if options.samples == 1:
        return system
    from cm3leon.clip import load_clip
    from cm3leon.rerank import Reranked

    if current(system, "decode") is None:
        raise UserError(f"--samples does not apply to system {system.name}; leave it out")
    return Reranked(system, load_clip(options.rerank_clip), options.samples)


def _short(value) -> str:
    """A setting inside a system's name."""
    return f"{value:g}" if isinstance(value, (int, float)) else f"-{value}"


def current(system, kind: str):
    """A system's own settings of decoding or retrieval; None where it has none."""
    if kind == "decode":
        return getattr(system, "decode", None)
    return getattr(getattr(system, "retriever", None), "config", None)


def measure(
    options: Options, group: Group, system, protocol: dict, phases: core.Phases
) -> core.Measurement:
    """Everything between a system and its record; `protocol` comes back with the digests found."""
    from benchmarks.harness import fid  # scipy: imported late, `--help` answers at once
    from benchmarks.harness.pinned import write_grid

    features = load_features(protocol["features"])
    resamples = 200 if options.resamples is None else options.resamples
    with phases("prompts"):
        task = load_task(options, features.size)
        real = np.concatenate(list(batches(task.reference)) or [np.zeros((0, 1, 1, 3), np.uint8)])
    with phases("draw"):
        drawn = pictures(options, group, system, task, features.size)
    group.part()
    with phases("features"):
        real_ND = extract(features, fid.pieces(real), len(real), "features of real pictures")
        fakes = [
            extract(features, one.batches(), len(one), f"features of {system.name}")
            for one in drawn
        ]
        tokenizer = getattr(system, "vq", None) or shipped_tokenizer()
        extra = fid.scale(task, real, real_ND, features, tokenizer)
    with phases("statistics"):
        per_seed = fid.per_seed(real_ND, fakes)
        spread = fid.spread(real_ND, fakes)
        extra |= fid.companions(real_ND, fakes, resamples)
    with phases("composition"):
        answered, meant = composition(task, drawn, features.size)
        near, said = rerank_score.score_picked(system, task.prompts, drawn)
        extra |= meant | near
    with phases("report"):
        write_grid(options.reports / "fid_coco", task.prompts, drawn[0])
    return core.Measurement(
        value=float(np.mean(per_seed)),
        n=len(task.prompts),
        interval=spread.pop("both"),
        spread=spread,
        per_seed=per_seed,
        samples=fid.samples(task.prompts, real_ND, fakes, answered),
        extra=extra,
        warnings=[*warnings(options, task, len(real), features, drawn), *said],
        protocol=found(task, real, features),
        counters={name: sum(getattr(one, name) for one in drawn) for name in ("drawn", "reused")},
        device=getattr(system, "device", None),
    )


def composition(task: Task, drawn: Sequence[images.Pictures], size: int) -> tuple:
    """Answers to what the captions claim, and the shares right; (None, {}) where none is known."""
    from benchmarks.harness import judged

    if any(prompt.meaning is None for prompt in task.prompts):
        return None, {}
    answered = judged.answers(task.prompts, drawn, size)
    return answered, judged.composition(*answered, [prompt.image_id for prompt in task.prompts])


def found(task: Task, real_NSS3: np.ndarray, features: Features) -> dict:
    """What the protocol could not know before: the very prompts, pictures and weights."""
    return task.about | {
        "n": len(task.prompts),
        "prompts_sha256": digest(task.prompts),
        "reference_sha256": hashlib.sha256(real_NSS3.tobytes()).hexdigest(),
        "features_sha256": features.digest,
    }


def load_task(options: Options, size: int) -> Task:
    """Prompts and real pictures that the options ask for."""
    n = options.n
    if options.data == "scenes":
        return scenes_task(n or (QUICK if options.quick else 1000), size, options.split)
    task = coco_task(options.coco_root, options.coco_split, n, size)
    if options.quick and n is None and len(task.prompts) > QUICK:
        return coco_task(options.coco_root, options.coco_split, QUICK, size)
    return task


def pictures(
    options: Options, group: Group, system, task: Task, size: int
) -> list[images.Pictures]:
    """The pictures to score, one set a seed: drawn, taken from the cache, or from `--images`."""
    if options.images is not None:
        return [images.from_folder(options.images, task.prompts, size)]
    return [
        sharding.draw(group, system, task.prompts, seed, options.cache, options.batch_size)
        for seed in options.seeds
    ]


def shipped_tokenizer():
    """The image tokenizer under `baselines/scenes/vq`, for systems that have none of their own."""
    from cm3leon.config import VQConfig
    from cm3leon.files import baselines_folder
    from cm3leon.loading import load_module
    from cm3leon.vq import VQ

    return load_module(baselines_folder() / "scenes" / "vq", "vq", VQConfig, VQ)[0]


def warnings(
    options: Options, task: Task, n_real: int, features: Features, drawn: Sequence[images.Pictures]
) -> list[str]:
    """What a reader must know before quoting the number."""
    n, said = len(task.prompts), []
    if options.data == "coco":
        said.append(f"a trial of the way, not a score: features=scenes on photographs, n={n}")
    if min(n, n_real) <= features.dim:
        said.append(
            f"n={min(n, n_real)} is not above the {features.dim} features: FID is far too high"
        )
    for name, source in (("reference", task.reference), ("floor", task.further)):
        if gone := getattr(source, "unreadable", ()):
            shown = ", ".join(f"{one.image_id} ({one.path.name})" for one in gone[:NAMED])
            said.append(f"{len(gone)} unreadable pictures left out of the {name}: {shown}")
    extra = [name for one in drawn for name in one.extra]
    if extra:
        said.append(f"{len(extra)} files of --images belong to no prompt, first {extra[0]}")
    return said


def report(options: Options, record: dict) -> None:
    """The tables on the terminal, and as files beside the grid with a plot of the scale."""
    from reports.beside import beside_table
    from reports.plots import fid_scale_plot
    from reports.tables import composition_table, fid_table, read_published, scale_table, write_all

    folder = options.reports / "fid_coco"
    tables = {
        "fid_coco": fid_table(record, read_published()),
        "scale": scale_table(record),
        "beside": beside_table(record),
        "composition": composition_table(record),
    }
    for stem, table in tables.items():
        if table is not None:
            print(f"\n{table.to_text()}")
            write_all(table, folder, stem)
    fid_scale_plot(record, folder)
    print(f"\ntables, grid of pictures and plot: {folder}")


BENCH = core.Bench("fid_coco", 2, "fid_scenes", "lower", protocol={}, measure=measure)


def command(options: Options, group: Group) -> int:
    """Measure, report; the exit code."""
    if options.only_prompts is not None:
        from benchmarks.harness.pinned import write_prompts

        return write_prompts(pinned_job(options), options.only_prompts, group)
    record, path = fid_coco(options, group=group)
    report(options, record)
    print(f"record: {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 measured, 2 a user's mistake, 3 nothing measured, 130 interrupted."""

    def work() -> int:
        with sharding.first_alone_speaks():
            options = parse(Options, argv, "fid_coco")
        return sharding.together(lambda group: command(options, group))

    return core.exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
