"""FID of a text-to-image system, zero-shot, as in Table 1 of the paper.

    nox -s fid_coco                                    scenes-s on captions of the small world
    nox -s fid_coco -- --system my_file:MY_SYSTEM      your own: any object with a `draw`
    nox -s fid_coco -- --only-prompts prompts.jsonl    what to draw elsewhere, and
    nox -s fid_coco -- --images FOLDER                 to score it: IMAGE_ID.png for each prompt
    nox -s fid_coco -- --protocol coco2014-30k/pytorch-fid --coco-root FOLDER     MS-COCO, pinned
    nox -s fid_coco -- --data coco --coco-root FOLDER  MS-COCO files: a trial of the way, no score
    torchrun --nproc-per-node 8 -m -- benchmarks.fid_coco ...   the same value, by many processes

Cost: 3 to 4 minutes on 2 cores, most of it drawing; a second run reuses the drawings. Protocol of
the embedded world (version 2): one caption a picture, 1,000 of `natural` (about an entity as often
as training is), 200 each of `test` (never) and `tail` (always); with 0, 1 and 2 documents where the
system retrieves. The value is that of `natural` with the system's own number of documents, against
1,000 other real pictures of the split; features of the scenes network (hence `fid_scenes`: never
comparable with an Inception FID). Beside it stand the plain setting of drawing (guidance 1,
temperature 1), the distance to the captions' own pictures, its scale (real pictures, rFID, noise),
and GenEval's six scores, which say whether what was asked for is there (evaluate/scenes_fid.py).

A `--protocol` fixes prompts, references, crop, file format and network (protocols/coco.py); its
value is an Inception FID. It writes its prompts as `prompts.jsonl`, with their SHA-256.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from benchmarks.harness import core
from benchmarks.images import generated as images
from benchmarks.protocols.coco import find_protocol
from benchmarks.protocols.prompts import Prompt, scenes_prompts
from benchmarks.systems import settings
from benchmarks.systems.find import find_system
from cm3leon.cli.main import parse
from cm3leon.decoding.config import DecodeChanges
from cm3leon.errors import UserError
from cm3leon.images import CROP
from cm3leon.options import Batch, Count, Documents, Engine, Resamples, Samples
from cm3leon.training import ranks
from cm3leon.training.ranks import ALONE, Group

OWN = (  # options of a pinned protocol alone, which its job takes as they are
    "prompts", "prompts_sha256", "reference", "features", "weights", "weights_sha256", "download",
)  # fmt: skip
SHARED = (
    *("dino_weights", "cmmd_weights", "clip_weights", "inception_weights"),
    *("images", "seeds", "cache", "batch_size"),
)


@dataclass(frozen=True)
class Options:
    """FID of a text-to-image system on captions it was never trained on (Table 1)."""

    system: str = "scenes-s"
    """a name of systems/find.py, module:object, or KIND:FOLDER with diffusers, transformers,
    llamagen"""
    data: Literal["scenes", "coco"] = "scenes"
    """the embedded world, or MS-COCO files"""
    split: tuple[Literal["natural", "test", "tail", "val"], ...] = ("natural", "test", "tail")
    """of scenes; the first is the headline's; `val` is there to choose settings on"""
    real: int = 1000
    """other real pictures of each split of scenes, which its FID is against"""
    coco_root: Path | None = None
    """root of an MS-COCO copy: annotations/captions_<split>.json and pictures"""
    coco_split: str | None = None
    """e.g. val2014; left out: the validation split"""
    protocol: str | None = None
    """a pinned protocol on MS-COCO, e.g. coco2014-30k/clean (protocols/coco.py)"""
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
    """file of DINOv2 ViT-L/14, for FD-DINOv2 (or NETWORK:FILE, as those below)"""
    cmmd_weights: str | None = None
    """file of OpenAI's ViT-L/14 at 336 pixels, for CMMD; `scenes`: the embedded world's own CLIP"""
    clip_weights: str | None = None
    """file of OpenAI's ViT-B/32, for CLIP score; `scenes`: the embedded world's own CLIP"""
    inception_weights: str | None = None
    """file of FID's Inception, for the Inception score where FID is by another network"""
    only_prompts: Path | None = None
    """write the prompts to this .jsonl and stop: to draw elsewhere, IMAGE_ID.png each, and score
    them with --images"""
    n: Count | None = None
    """captions (of each split of scenes); left out: 1,000 of natural and val, 200 of test and
    tail, all of coco, what the protocol says"""
    seeds: tuple[int, ...] = (0,)
    """sampling seeds; each gives one FID, the value is their mean"""
    images: Path | None = None
    """score these pictures, one a prompt, instead of drawing"""
    name: str | None = None
    """of the system that drew --images; left out: the folder's last name"""
    decode: Annotated[DecodeChanges, tyro.conf.arg(name="")] = field(default_factory=DecodeChanges)
    engine: Engine = "auto"
    """what takes the steps; auto: C on a CPU, a CUDA graph on a GPU, torch where they cannot"""
    documents: tuple[Documents, ...] | None = None
    """retrieved documents before each caption, 0 to 4; several in scenes alone, where the largest
    is the headline's; left out: the system's own, in scenes beside 0, 1 and 2"""
    samples: Samples = 1
    """drawn for each caption, of which CLIP keeps one (the paper's Table 1: 8)"""
    rerank_clip: str = "scenes"
    """the CLIP that keeps it: scenes, local-dir:FOLDER, or ARCHITECTURE:FILE"""
    quick: bool = False
    """128 captions, 64 of test and tail (of a protocol: against their own pictures): a look, and
    another protocol"""
    batch_size: Batch = 64
    """captions drawn at once; moves speed, not pictures"""
    resamples: Resamples | None = None
    """of the distance at infinitely many pictures; left out: 200 (other intervals need none)"""
    results: Path = core.RESULTS
    """where the record goes"""
    reports: Path = core.OUT
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
        self._check_scenes()
        if self.protocol is not None:
            find_protocol(self.protocol)
            return
        for name in ("dev", *OWN):
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

    def _check_scenes(self) -> None:
        """The options of the embedded world."""
        for name in ("split", "documents"):
            given = getattr(self, name)
            if given is not None and (not given or len(set(given)) < len(given)):
                raise UserError(f"{name} must name different ones, got {list(given)}")
        if self.real < 2:
            raise UserError(f"real must be at least 2 (a covariance), got {self.real}")
        if len(self.documents or ()) > 1 and not self.embedded:
            shown = " ".join(map(str, self.documents))
            raise UserError(f"--documents {shown}: several are of scenes alone; give one number")

    @property
    def embedded(self) -> bool:
        """Whether the embedded world is asked for, not MS-COCO."""
        return self.data == "scenes" and self.protocol is None

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of documents that a system of scenes is drawn with, beside its own."""
        return settings.DOCUMENTS if self.documents is None else self.documents


def fid_coco(options: Options, system=None, group: Group = ALONE) -> tuple[dict, Path]:
    """Measure and save: (record, its path). `system`, if given, stands for `options.system`.

    Ranks of `group` other than 0 do their share of the work and raise `ranks.Finished`.
    """
    if options.images is not None:
        system = images.Folder(options.images, options.name)
        system.check_name(options.results / BENCH.name)
    documents = None if options.documents is None else max(options.documents)
    base = settings.tuned(system or find_system(options.system), options.decode.given, documents)
    base = settings.by_engine(base, options.engine)
    system = best_of(base, options)
    if options.protocol is not None:
        return pinned_fid(options, system, group)
    protocol = {
        "data": options.data,
        "seeds": list(options.seeds),
        "samples_per_prompt": options.samples,
        "features": "scenes",
        "crop": CROP,
    }
    arms = ()
    if options.embedded:
        from benchmarks.evaluate import scenes_fid  # scipy: late, `--help` answers at once

        arms = [
            settings.Arm(arm.name, best_of(arm.system, options))
            for arm in settings.arms(base, options.counts)
        ]
        protocol |= scenes_fid.protocol(options)
    bench = replace(BENCH, measure=partial(measure, options, group, arms))
    return core.run(bench, system, protocol, options.results)


def measure(options: Options, group: Group, arms: Sequence[settings.Arm], *run) -> core.Measurement:
    """By the network of the embedded world, of its captions or of MS-COCO files."""
    from benchmarks.evaluate import scenes_fid, trial

    if options.embedded:
        return scenes_fid.measure(options, group, arms, *run)
    return trial.measure(options, group, *run)


def best_of(system, options: Options):
    """The system, or what keeps the best of its samples."""
    return settings.best_of(system, options.samples, options.rerank_clip)


def pinned_fid(options: Options, system, group: Group) -> tuple[dict, Path]:
    """The same by a pinned protocol."""
    from benchmarks.evaluate import pinned  # scipy: imported late

    job = pinned_job(options)
    protocol = pinned.about(job) | {
        "seeds": list(options.seeds),
        "samples_per_prompt": options.samples,
    }
    bench = replace(BENCH, unit=job.unit, measure=partial(pinned.measure, job, group))
    return core.run(bench, system, protocol, options.results)


def pinned_job(options: Options):
    """The protocol with what the options say of it."""
    from benchmarks.evaluate.pinned import Job

    return Job(
        find_protocol(options.protocol, options.quick, options.dev),
        root=options.coco_root,
        n=options.n,
        reports=options.reports,
        **{name: getattr(options, name) for name in (*OWN, *SHARED)},
    )


def report(options: Options, record: dict) -> None:
    """The tables on the terminal, and as files beside the grid with a plot of the scale."""
    from cm3leon.reports.benches.fid import beside_table
    from cm3leon.reports.benches.splits import splits_table
    from cm3leon.reports.plots import fid_scale_plot
    from cm3leon.reports.tables import fid_table, read_published, scale_table, write_all

    folder = core.report_folder(options.reports, "fid_coco")
    tables = {
        "fid_coco": fid_table(record, read_published()),
        "splits": splits_table(record),
        "scale": scale_table(record),
        "beside": beside_table(record),
    }
    for stem, table in tables.items():
        if table is not None:
            print(f"\n{table.to_text()}")
            write_all(table, folder, stem)
    fid_scale_plot(record, folder)
    print(f"\ntables, grid of pictures and plot: {folder}")


BENCH = core.Bench("fid_coco", 2, "fid_scenes", "lower", protocol={}, measure=measure)


def all_prompts(options: Options) -> list[Prompt]:
    """What the options ask to be drawn."""
    from benchmarks.evaluate import scenes_fid, trial

    if options.protocol is not None:
        return pinned_job(options).task().prompts
    if options.data == "coco":
        return trial.load_task(options, 1).prompts
    captions = scenes_fid.captions_of(options).items()
    return [prompt for split, count in captions for prompt in scenes_prompts(count, split)]


def command(options: Options, group: Group) -> int:
    """Measure, report; the exit code."""
    if options.only_prompts is not None:
        from benchmarks.evaluate.pinned import write_prompts

        return write_prompts(all_prompts(options), options.only_prompts, group)
    record, path = fid_coco(options, group=group)
    report(options, record)
    print(f"record: {path}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point: 0 measured, 2 a user's mistake, 3 nothing measured, 130 interrupted."""

    def work() -> int:
        with ranks.first_alone_speaks():
            options = parse(Options, argv, "fid_coco")
        return ranks.together(lambda group: command(options, group))

    return core.exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
