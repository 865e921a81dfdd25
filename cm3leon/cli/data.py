"""The commands that work with systems and data: draw, encode, index, export-scenes.

Options are fields of dataclasses. torch and the rest are imported by the command that needs them,
so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cm3leon.decoding.config import DecodeChanges
from cm3leon.errors import UserError, printable
from cm3leon.files import SHIPPED, TUNED, baselines_folder
from cm3leon.options import Count, Documents, Engine, Pictures, Range, Samples, Whole, Workers
from cm3leon.progress import alive

GAP = 2  # pixels between the pictures of a grid

SHOWN = 10  # lines about what could not be read
TRIED, POOR = 16, 20.0  # pictures put through a tokenizer; dB below which they are not recognised


@dataclass(frozen=True)
class Draw:
    """Draw a caption: `cm3leon draw "a large red star on the sand" --out star.png`.

    A model that was tuned on tasks draws after a map too (`--condition MAP.png --kind
    segmentation`), with things in boxes (`--box "a red star: 10 20 60 70"`), or a sign
    (`--letters ABC`).
    """

    prompt: tyro.conf.Positional[str | None] = None
    """the caption; with --box it may be left out, with --letters there is none"""
    out: Path = Path("drawing.png")
    """PNG file to write; with --count above 1 a grid, row by row, white lines between"""
    system: str | None = None
    """a shipped model, or the folder of one; left out: scenes-s, or scenes-s-tuned for a task"""
    seed: int = 0
    """picture k of a caption depends on seed and k alone"""
    count: Pictures = 1
    """how many pictures"""
    samples: Samples = 1
    """drawn for each picture, of which the scenes CLIP keeps the nearest to the caption"""
    condition: Path | None = None
    """PNG of the model's size: a map of what is to be where, of a --kind"""
    kind: Literal["segmentation", "edges", "hed", "depth", "normal", "pose", "scribble"] | None = (
        None
    )
    """of the --condition"""
    box: tuple[str, ...] = ()
    """NAME: X1 Y1 X2 Y2, pixels of the picture to be drawn, the last two outside; one or more"""
    letters: str | None = None
    """what a sign says"""
    documents: Documents | None = None
    """retrieved documents before a caption, 0 to 4; left out: as many as the model's recipe"""
    bank: Path | None = None
    """what `cm3leon encode` or `index` made, to retrieve from; left out: the model's own bank"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    weights: Literal["float32", "bfloat16", "int8"] = "float32"
    """of the transformer; int8 needs torchao and halves what bfloat16 takes, for large models"""
    engine: Engine = "auto"
    """what takes the steps; auto: C on a CPU, a CUDA graph on a GPU, torch where they cannot"""
    decode: Annotated[DecodeChanges, tyro.conf.arg(name="")] = field(default_factory=DecodeChanges)

    def run(self) -> int:
        """Load, draw, write, print the path."""
        from cm3leon.clip import load_clip
        from cm3leon.decoding.rerank import Reranked
        from cm3leon.images import check_name, write_png
        from cm3leon.loading import load_system
        from cm3leon.seeds import derive

        self._check()
        if self.asks:
            return self._asked()
        check_name(self.out)
        system = load_system(
            self.system or SHIPPED, device=self.device, documents=self.documents, bank=self.bank,
            weights=self.weights,
        )  # fmt: skip
        system = system.with_decode(replace(system.decode, **self.decode.given))
        system = system.with_engine(self.engine)
        check_sheet(self.count, system.size)
        if self.samples != 1:
            system = Reranked(system, load_clip("scenes"), self.samples)
        seeds = [derive(self.seed, self.prompt, k) for k in range(self.count)]
        images_BHW3 = system.draw([self.prompt] * self.count, seeds)
        print(write_png(self.out, tile(images_BHW3), self._about(system)))
        return 0

    @property
    def asks(self) -> bool:
        """Whether something stands beside the caption: a task of a tuned model."""
        return self.condition is not None or bool(self.box) or self.letters is not None

    def _check(self) -> None:
        """Raise UserError for options that do not go together."""
        given = [name for name in ("condition", "box", "letters") if getattr(self, name)]
        if len(given) > 1:
            raise UserError(f"give --{given[0]} or --{given[1]}, not both")
        if (self.condition is None) != (self.kind is None):
            raise UserError("--condition MAP.png needs its --kind, and --kind its --condition")
        if self.letters is not None and self.prompt is not None:
            raise UserError("--letters stand alone; leave the caption out")
        if self.prompt is None and not self.box and self.letters is None:
            raise UserError("no caption: say what to draw")
        if self.asks and (self.samples > 1 or self.documents or self.bank):
            raise UserError(
                "--samples, --documents and --bank are of captions alone; leave them out"
            )

    def _asked(self) -> int:
        """Draw after a map, with boxes, or a sign."""
        import numpy as np

        from cm3leon.cli.ask import read_box
        from cm3leon.images import check_name, read_picture, write_png
        from cm3leon.loading import load_system
        from cm3leon.seeds import derive
        from cm3leon.tasks import WRITE

        check_name(self.out)
        boxes = [read_box(one) for one in self.box]
        shown = None if self.condition is None else read_picture(self.condition)
        system = load_system(
            self.system or TUNED, device=self.device, documents=0, weights=self.weights
        )
        system = system.with_engine(self.engine)
        check_sheet(self.count, system.size)
        if shown is not None and shown.shape[:2] != (system.size, system.size):
            height, width = shown.shape[:2]
            raise UserError(
                f"{self.condition} is {width} x {height} pixels; a condition of {system.name} must "
                f"have {system.size} x {system.size}"
            )
        prompt = self.prompt or " and ".join(name for name, _ in boxes)
        seeds = [derive(self.seed, prompt or self.letters, k) for k in range(self.count)]
        prompts = [prompt] * self.count
        if shown is not None:
            maps = np.stack([shown] * self.count)
            images = system.draw(prompts, seeds, condition=maps, kind=self.kind, **self._changes)
        elif boxes:
            images = system.draw(prompts, seeds, boxes=[boxes] * self.count, **self._changes)
        else:
            asked = [{"letters": self.letters}] * self.count
            images = system.draw_asked(WRITE, asked, seeds, self.decode.given)
        print(write_png(self.out, tile(images), self._about(system)))
        return 0

    @property
    def _changes(self) -> dict:
        return {"changes": self.decode.given} if self.decode.given else {}

    def _about(self, system) -> dict[str, str]:
        """What the file tells of its making."""
        about = {
            "prompt": self.prompt or "",
            "seed": str(self.seed),
            "count": str(self.count),
            "system": system.name,
            "weights_sha256": system.weights_sha256,
            "config": str(system.config),
        }
        names = ("condition", "kind", "box", "letters")
        return about | {name: str(getattr(self, name)) for name in names if getattr(self, name)}


@dataclass(frozen=True)
class Retrieve:
    """What stands before a caption when it is drawn: `cm3leon retrieve "a red star on the sand"`.

    Prints score, text and picture file of each document, the best first.
    """

    caption: tyro.conf.Positional[str]
    """the caption"""
    k: Annotated[int, Range(1, 4)] = 2
    """how many documents"""
    out: Path = Path("retrieved")
    """folder for their pictures, 1.png and on"""
    system: str | None = None
    """a model that was trained with retrieval; left out: the shipped one"""
    bank: Path | None = None
    """what `cm3leon encode` or `index` made, to retrieve from; left out: the model's own bank"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one"""
    json: bool = False
    """print JSON instead of lines"""

    def run(self) -> int:
        """Look up, write the pictures, print."""
        import json

        from cm3leon.images import write_png
        from cm3leon.loading import find_retrieving, load_system

        system = load_system(
            find_retrieving(self.system), device=self.device, documents=self.k, bank=self.bank
        )
        rows = []
        for place, one in enumerate(system.retrieve(self.caption, self.k), 1):
            path = write_png(self.out / f"{place}.png", one.image, {"text": one.text, "id": one.id})
            rows.append({"score": one.score, "text": one.text, "picture": str(path), "id": one.id})
        if self.json:
            print(json.dumps(rows, indent=2))
            return 0
        for row in rows:
            print(f"{row['score']:.3f}  {printable(row['text'])}  {printable(row['picture'])}")
        return 0


@dataclass(frozen=True)
class Encode:
    """Encode pictures and captions into tokens and vectors; continues where it was killed.

    A source is a folder of pictures with a .txt beside each, one caption a line, a root of MS-COCO
    (root:split where it has several), a .tar of webdataset's layout or a folder of them, or
    scenes:DIALECT/SPLIT:START:COUNT. Given again it makes anew what was damaged, and the shards
    whose source changed. Given several times at once, on any machines, they share the shards.

    With a task (or a .jsonl file of records, docs/records.md) it encodes records for tuning
    instead: from VQAv2, OKVQA, VizWiz, ScienceQA, InstructPix2Pix, MagicBrush, MS-COCO's boxes,
    Karpathy's splits, folders of conditions, or scenes:...
    """

    source: tyro.conf.Positional[str]
    """what to encode"""
    out: tyro.conf.Positional[Path]
    """folder of the token cache; made if it is not there"""
    task: str | None = None
    """of the records: caption, caption-long, answer, answer-choice, answer-explained, edit,
    segmentation, edges, hed, depth, normal, pose, scribble, grounded or write"""
    wordings: Literal["table", "figures", "both"] = "table"
    """of a task: those of the paper's Table 5, of its figures and text, or both"""
    annotations: Literal["instances", "panoptic", "person_keypoints"] = "instances"
    """of grounded records: the boxes of MS-COCO to read"""
    conditions: Path | None = None
    """folder of the maps of a structure task; left out: conditions/TASK of the source"""
    pictures: Path | None = None
    """folder of the pictures of a .json or .jsonl file; left out: its own"""
    clip: str = "scenes"
    """scenes, local-dir:FOLDER, ARCHITECTURE:FILE, or none: tokens without vectors; of no task"""
    tokenizers: Path | None = None
    """folder with text/ and vq/; left out: those of the shipped baselines"""
    workers: Workers = 0
    """processes that read and crop pictures; 0: this one does"""
    device: str = "auto"
    """cpu, cuda, or auto: CUDA where there is one; codes can differ between devices by rounding"""

    def run(self) -> int:
        """Encode, then say what was read and what was not."""
        from cm3leon.clip import load_clip
        from cm3leon.config import VQConfig
        from cm3leon.data.sources import find_source
        from cm3leon.data.token_cache import encode
        from cm3leon.loading import checked_device, load_module
        from cm3leon.tokenizers.text import TextTokenizer
        from cm3leon.tokenizers.vq import VQ

        device = checked_device(self.device)
        home = self.tokenizers or baselines_folder() / "scenes"
        vq, _ = load_module(home / "vq", "vq", VQConfig, VQ)
        text = TextTokenizer.load(home / "text")
        if self.task is not None or self.source.endswith(".jsonl"):
            return self.encode_task(vq.to(device), text)
        source = find_source(self.source, vq.config.resolution)
        clip = None if self.clip == "none" else load_clip(self.clip)
        if clip is not None:
            clip.model.to(device)
        cache = encode(source, vq.to(device), text, self.out, clip=clip, workers=self.workers)
        if self.tokenizers is None and source.about["kind"] != "scenes":
            self.tell_loss(source, vq)
        print(f"{len(cache)} documents in {self.out}, {len(cache.skipped)} not readable")
        tell_skipped(cache.skipped, f"listed in {self.out}/shard-*.json")
        return 0

    def encode_task(self, vq, text) -> int:
        """Encode the records of a task, then say what was read and what was not."""
        from cm3leon.data.record_cache import encode_records
        from cm3leon.tasks import TASKS
        from cm3leon.tasks.source import find_records

        where = {"annotations": self.annotations, "conditions": self.conditions}
        source = find_records(
            self.source, self.task, TASKS, vq.config.resolution, self.wordings,
            pictures=self.pictures, **where,
        )  # fmt: skip
        cache = encode_records(source, vq, text, self.out, workers=self.workers)
        told = ", ".join(f"{count:,} of {name}" for name, count in cache.tasks.items())
        print(f"{len(cache):,} records ({told}) in {self.out}, {len(cache.skipped):,} skipped")
        tell_skipped(cache.skipped, f"listed in {self.out}/shard-*.json")
        return 0

    def tell_loss(self, source, vq) -> None:
        """Say it where the embedded world's image tokenizer cannot show such pictures."""
        from itertools import islice

        import numpy as np

        from cm3leon.data.sources import Skipped
        from cm3leon.images import crop_square

        read = (one for one in source.read(0) if not isinstance(one, Skipped))
        some = [crop_square(one.image, vq.config.resolution) for one in islice(read, TRIED)]
        if not some or not vq.config.decodes:
            return
        kept = vq.decode(vq.encode(np.stack(some)))
        error = np.mean((np.stack(some).astype(np.float64) - kept) ** 2)
        psnr = 10 * np.log10(255**2 / max(error, 1e-9))
        if psnr < POOR:
            print(
                f"note: the embedded world's tokenizers give these pictures back with a PSNR of "
                f"{psnr:.1f} dB; name others with --tokenizers (`cm3leon convert-tokenizer`)",
                file=sys.stderr,
            )


def tell_skipped(skipped: Sequence[tuple[str, str]], where: str) -> None:
    """Lines about what could not be read, (id, reason) each; `where` all of them are told."""
    for name, reason in skipped[:SHOWN]:
        print(f"not readable: {printable(f'{name}: {reason}')}", file=sys.stderr)
    if more := len(skipped[SHOWN:]):
        print(f"not readable: {more:,} more, {where}", file=sys.stderr)


@dataclass(frozen=True)
class Index:
    """Make a memory bank of an encoded source: `cm3leon index CACHE BANK`.

    Given several times at once, on any machines, the processes share the work. Given again it finds
    the bank made.
    """

    cache: tyro.conf.Positional[Path]
    """what `cm3leon encode` made"""
    out: tyro.conf.Positional[Path]
    """folder of the bank; made if it is not there"""
    index: Literal["auto", "exact", "ivf", "ivfpq"] = "auto"
    """exact: every vector is compared; ivf: those of the nearest lists; ivfpq: their codes, and the
    vectors of the best again (tens of bytes a document in memory); auto: exact, or ivf"""
    exact: Whole = 1_000_000
    """of auto: documents up to which search is exact"""
    code_bytes: Count = 64
    """of ivfpq: bytes of a document's code, at most"""

    def run(self) -> int:
        """Build, save, say how large it is and how well it finds."""
        from cm3leon.data.token_cache import TokenCache
        from cm3leon.retrieval.parts import Parts

        with alive("index"):
            cache, kind = TokenCache(self.cache), self.index
            if kind == "auto":
                kind = "exact" if len(cache) <= self.exact else "ivf"
            bank = Parts(cache, self.out, kind, self.code_bytes).make()
        how = "exact search"
        if bank.index is not None:
            how = f"{kind}, {bank.index.nprobe} of {bank.index.nlist} lists searched, "
            how += f"recall@10 {bank.recall:.3f}"
        print(f"{len(bank)} documents of width {bank.width} in {self.out}, {how}")
        return 0


ON_SHEET = 4  # scenes of a contact sheet


@dataclass(frozen=True)
class ExportScenes:
    """Write pictures of the embedded world, and what is said of them, in the layouts of real data.

    captions and instances: MS-COCO (captions write both); panoptic: its maps; vqa: VQAv2's two
    files; edits: InstructPix2Pix' folders; signs: COCO-Text; conditions: PNG beside the pictures.
    """

    folder: tyro.conf.Positional[Path]
    """where to; made if it is not there"""
    kind: tuple[
        Literal["captions", "instances", "panoptic", "vqa", "edits", "signs", "conditions"], ...
    ] = ("captions",)
    """one or more layouts"""
    dialect: Literal["stock", "coco"] = "coco"
    split: Literal["train", "val", "test", "tail", "natural", "study", "bank"] = "test"
    count: Count = 100
    """how many pictures, from index 0 on"""
    size: Annotated[int, Range(32, 256)] = 64
    """pixels of a side, a multiple of 8 from 32 to 256"""
    sheet: Path | None = None
    """also a contact sheet (PNG) of the first pictures and all that is drawn and said of them"""

    def run(self) -> int:
        """Render and write."""
        from cm3leon.world.coco_export import export

        if not self.kind:
            raise UserError("no layout named; give --kind captions, for instance")
        export(self.folder, self.kind, self.dialect, self.split, self.count, self.size)
        if self.sheet:
            self.write_sheet(self.sheet)
        print(self.folder)
        return 0

    def write_sheet(self, path: Path) -> None:
        """The first pictures, each in all kinds."""
        from cm3leon.images import write_png
        from cm3leon.world.sheet import contact_sheet

        write_png(path, contact_sheet(self.dialect, self.split, min(self.count, ON_SHEET)))


def check_sheet(count: int, size: int) -> None:
    """Raise UserError where so many pictures of `size` pixels a side are too many for a grid."""
    from cm3leon.images import MOST_PIXELS

    most = MOST_PIXELS // size**2
    if count > most:
        raise UserError(f"a grid holds {most} pictures of {size} x {size} pixels, got {count}")


def tile(images_BHW3):
    """B pictures as one, [rows * (H + GAP) - GAP, columns * (W + GAP) - GAP, 3], about square.

    White lines stand between them; it is black where none is left.
    """
    import numpy as np

    count, height, width, _ = images_BHW3.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height + GAP, width + GAP, 3), 255, np.uint8)
    sheet[:, :height, :width] = 0
    sheet[:count, :height, :width] = images_BHW3
    grid = sheet.reshape(rows, columns, height + GAP, width + GAP, 3).swapaxes(1, 2)
    whole = grid.reshape(rows * (height + GAP), columns * (width + GAP), 3)
    return np.ascontiguousarray(whole[:-GAP, :-GAP])
