"""Small inputs, made by the commands themselves, and what each command makes of them unbroken.

A `tree` is a folder that a command line made; it is made when first asked for and kept. A `Job` is
a command line that reads trees and leaves a result, told by a digest. All of it happens in one
folder, `now`, since models and banks name the folders that they were made of.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.fault_cases.child import Done, Line, run
from benchmarks.harness import core
from cm3leon.errors import UserError

TINY = {
    "name": "tiny", "layers": 1, "width": 32, "heads": 2, "context": 512, "init_std": 0.02,
    "vocabulary": {"text_size": 512, "image_size": 512, "sentinels": 16, "multiple": 64},
}  # fmt: skip
PROMPT = "a red star"
MOST_S = 600.0  # for a line of the workshop itself
CPU = ("--device", "cpu")
LOGGED = "log: "  # before lines of a result that damage to a log may cost, if it is told


def cm3leon(*words: str) -> Line:
    """A line of the product's command."""
    return Line("cm3leon.cli.main", words)


def _train(out: str, cache: str, bank: str, held: str, *more: str) -> Line:
    return cm3leon(
        "train", cache, "--out", out, "--bank", bank, "--held-out", held, "--hold-out", "3",
        "--model", "tiny.json", "--fit-vocabulary", "--batch", "2", "--documents", "0.5", "0.5",
        "--schedule", "wsd", "--save-every", "2", "--keep-every", "2", "--log-every", "1",
        "--eval-every", "4", "--warmup", "2", "--threads", "1", *CPU, *more,
    )  # fmt: skip


def _fid(results: str, cache: str, temperature: str) -> Line:
    return Line("benchmarks.fid_coco", (
        "--system", "scenes-xs", "--split", "test", "--n", "4", "--real", "8", "--resamples", "2",
        "--temperature", temperature, "--quick", "--batch-size", "2",
        "--results", results, "--reports", "out", "--cache", cache,
    ))  # fmt: skip


def _pinned(results: str, cache: str, images: str) -> Line:
    return Line("benchmarks.fid_coco", (
        "--protocol", "coco2014-30k/clean", "--coco-root", "coco", "--n", "6", "--features",
        "scenes", "--resamples", "2", "--images", images, "--results", results, "--reports", "out",
        "--cache", cache,
    ))  # fmt: skip


def _tune(out: str, records: str, *more: str) -> Line:
    return cm3leon(
        "tune", "model", records, "--out", out, "--hold-out", "3", "--batch", "2", "--save-every",
        "2", "--log-every", "1", "--eval-every", "4", "--warmup", "1", "--precision", "float32",
        "--schedule", "wsd", "--threads", "1", *CPU, *more,
    )  # fmt: skip


def _questions(place: str, out: str) -> Line:
    words = ("encode", f"scenes:stock/{place}", out, "--task", "answer", "--tokenizers", "model")
    return cm3leon(*words, *CPU)


def _tokenizer(out: str, seed: str, steps: str) -> Line:
    return cm3leon(
        "train-tokenizer", "drawn", out, "--resolution", "16", "--stride", "4", "--channels", "8",
        "--codes", "16", "--batch", "2", "--hold-out", "2", "--steps", steps, "--seed", seed,
        "--threads", "1", *CPU,
    )  # fmt: skip


def _score(images: str, cache: str) -> Line:
    return cm3leon(
        "score", images, "coco/val2014", "--metrics", "fid", "--cache", cache, "--save",
        f"{cache}/reference.npz", *CPU,
    )  # fmt: skip


_TRAINED = ("tokens", "tokens2", "bank")  # what a training read
_WHOLE = (*_TRAINED, "model")
TREES: dict[str, tuple[tuple[str, ...], Line | str]] = {  # folder -> (what it needs, what makes it)
    "tars": ((), "tars"),
    "tars2": ((), "tars"),
    "coco": ((), "coco"),
    "drawn": ((), "drawn"),
    "drawn2": ((), "drawn"),
    "tokens": (("tars",), cm3leon("encode", "tars", "tokens", *CPU)),
    "tokens2": (("tars2",), cm3leon("encode", "tars2", "tokens2", *CPU)),
    "bank": (("tokens",), cm3leon("index", "tokens", "bank")),
    "bank2": (("tokens2",), cm3leon("index", "tokens2", "bank2")),
    "model": (
        ("tokens", "tokens2", "bank"), _train("model", "tokens", "bank", "tokens2", "--steps", "4"),
    ),
    "model2": (
        ("tokens", "tokens2", "bank2"),
        _train("model2", "tokens2", "bank2", "tokens", "--steps", "4", "--seed", "1"),
    ),
    "asked": (_WHOLE, _questions("train:0:8", "asked")),
    "asked2": (_WHOLE, _questions("train:8:8", "asked2")),
    "tuned": ((*_WHOLE, "asked"), _tune("tuned", "asked", "--steps", "4")),
    "tuned2": ((*_WHOLE, "asked2"), _tune("tuned2", "asked2", "--steps", "4", "--seed", "1")),
    "vq": (("drawn",), _tokenizer("vq", "0", "4")),
    "vq2": (("drawn",), _tokenizer("vq2", "1", "4")),
    "kept": (("drawn", "coco"), _score("drawn", "kept")),
    "kept2": (("drawn2", "coco"), _score("drawn2", "kept2")),
    "hf": (("model", "tokens", "bank"), cm3leon("export", "model", "hf")),
    "hf2": (("model2", "tokens2", "bank2"), cm3leon("export", "model2", "hf2")),
    "results": ((), _fid("results", "pictures", "0.8")),
    "results2": ((), _fid("results2", "pictures2", "0.9")),
    "scored": (("coco", "drawn"), _pinned("scored", "features", "drawn")),
    "scored2": (("coco", "drawn2"), _pinned("scored2", "features2", "drawn2")),
    "prompts": (
        ("coco",),
        Line("benchmarks.fid_coco", (
            "--protocol", "coco2014-30k/clean", "--coco-root", "coco", "--n", "6",
            "--only-prompts", "prompts/prompts.jsonl",
        )),
    ),
}  # fmt: skip
BESIDE = {  # further folders that a tree's line makes
    "results": ("pictures",), "results2": ("pictures2",),
    "scored": ("features",), "scored2": ("features2",),
}  # fmt: skip
OTHER = {name: f"{name}2" for name in TREES if f"{name}2" in TREES} | {
    "pictures": "pictures2", "features": "features2",
}  # fmt: skip
HOME = {part: name for name, parts in BESIDE.items() for part in parts}  # which tree it comes with


@dataclass(frozen=True)
class Job:
    """A command line on trees; `result` gives a text for each thing that it left."""

    name: str
    line: Line
    needs: tuple[str, ...]
    result: Callable[[Path, Done], Iterable[str]]
    made: tuple[str, ...] = ()  # what it writes, for a full disk; empty where it has no such case
    again: bool = True  # the same command may be given again when it has ended


def bytes_of(*patterns: str) -> Callable[[Path, Done], Iterable[str]]:
    """Names and digests of the files of those patterns."""

    def result(now: Path, done: Done) -> Iterable[str]:
        for pattern in patterns:
            for path in sorted(now.glob(pattern)):
                left = any(part.startswith(".") for part in path.relative_to(now).parts)
                if path.is_file() and not left:  # by a kill, until the next run a minute later
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    yield f"{path.relative_to(now)} {digest}"

    return result


def contents_of(*patterns: str) -> Callable[[Path, Done], Iterable[str]]:
    """The contents of sealed JSON files, without what stands beside them."""

    def result(now: Path, done: Done) -> Iterable[str]:
        for pattern in patterns:
            for path in sorted(now.glob(pattern)):
                content = json.loads(path.read_bytes())["content"]
                yield f"{path.relative_to(now)} {json.dumps(content, sort_keys=True)}"

    return result


def all_of(*parts) -> Callable[[Path, Done], Iterable[str]]:
    """Several results one after the other."""
    return lambda now, done: (one for part in parts for one in part(now, done))


def about_of(folder: str) -> Callable[[Path, Done], Iterable[str]]:
    """A checkpoint's configuration and how it was made; no times."""

    def result(now: Path, done: Done) -> Iterable[str]:
        about = json.loads((now / folder / "config.json").read_bytes())
        about["extra"].pop("seconds")
        about.pop("about_sha256", None)
        yield json.dumps(about, sort_keys=True)

    return result


def model_of(folder: str) -> Callable[[Path, Done], Iterable[str]]:
    """A trained model: weights, configuration, held-out losses; no times."""

    def result(now: Path, done: Done) -> Iterable[str]:
        yield from bytes_of(f"{folder}/model.safetensors", f"{folder}/text/*", f"{folder}/vq/*")(
            now, done
        )
        yield from about_of(folder)(now, done)
        for line in (now / folder / "log.jsonl").read_text().splitlines():
            timed = ("seconds", "tokens_per_s", "steps_per_s")
            yield LOGGED + str({k: v for k, v in json.loads(line).items() if k not in timed})

    return result


def records_of(folder: str) -> Callable[[Path, Done], Iterable[str]]:
    """What a benchmark's records say that the same command reproduces, each once."""

    def result(now: Path, done: Done) -> Iterable[str]:
        found = [json.loads(path.read_bytes()) for path in sorted(now.glob(f"{folder}/**/*.json"))]
        yield from sorted({json.dumps(core.comparable(one), sort_keys=True) for one in found})

    return result


def said(now: Path, done: Done) -> Iterable[str]:
    """What it printed."""
    yield done.out


JOBS = {
    job.name: job
    for job in (
        Job(
            "encode", cm3leon("encode", "tars", "tokens", *CPU), ("tars",),
            all_of(bytes_of("tokens/*.npy"), contents_of("tokens/*.json")), ("tokens",),
        ),
        Job(
            "encode workers", cm3leon("encode", "tars", "tokens", "--workers", "1", *CPU),
            ("tars",), all_of(bytes_of("tokens/*.npy"), contents_of("tokens/*.json")),
        ),
        Job(
            "encode tokenizers",
            cm3leon("encode", "tars", "fresh", "--tokenizers", "model", *CPU), ("tars", "model"),
            all_of(bytes_of("fresh/*.npy"), contents_of("fresh/*.json")),
        ),
        Job(
            "index", cm3leon("index", "tokens", "made"), ("tokens",),
            all_of(bytes_of("made/*.npy", "made/ids.json"), contents_of("made/bank.json")),
            ("made",),
        ),
        Job(
            "train", _train("model", "tokens", "bank", "tokens2", "--steps", "6"), _TRAINED,
            model_of("model"), ("model",),
        ),
        Job(
            "train on", _train("model", "tokens", "bank", "tokens2", "--steps", "8"),
            _WHOLE, model_of("model"),
        ),
        Job(
            "train branch",
            cm3leon(
                *_train("branch", "tokens", "bank", "tokens2").words, "--decay-from", "model@2",
                "--decay", "2",
            ),
            _WHOLE, model_of("branch"),
        ),
        Job(
            "train-text",
            cm3leon("train-text", "scenes:stock/train:0:60", "--out", "made", "--size", "300"), (),
            bytes_of("made/*.json"), ("made",), again=False,
        ),
        Job(
            "draw", cm3leon("draw", PROMPT, "--system", "model", "--out", "made/x.png", *CPU),
            _WHOLE, bytes_of("made/x.png"), ("made",),
        ),
        Job(
            "draw bank",
            cm3leon(
                "draw", PROMPT, "--system", "model", "--bank", "bank", "--out", "made/x.png", *CPU
            ),
            _WHOLE, bytes_of("made/x.png"),
        ),
        Job(
            "export", cm3leon("export", "model", "made"), _WHOLE, bytes_of("made/**/*"),
            ("made",), again=False,
        ),
        Job(
            "import", cm3leon("import", "hf", "made/m"), (*_TRAINED, "hf"), bytes_of("made/**/*"),
            ("made",), again=False,
        ),
        Job(
            "encode task", _questions("train:0:8", "asked"), _WHOLE,
            all_of(bytes_of("asked/*.npy"), contents_of("asked/*.json")), ("asked",),
        ),
        Job(
            "tune", _tune("tuned", "asked", "--steps", "6"), (*_WHOLE, "asked"),
            model_of("tuned"), ("tuned",),
        ),
        Job(
            "tune on", _tune("tuned", "asked", "--steps", "8"), (*_WHOLE, "asked", "tuned"),
            model_of("tuned"),
        ),
        Job(
            "answer",
            cm3leon("answer", "drawn/1.png", "how many stars are there?", "--system", "tuned",
                    *CPU),
            (*_WHOLE, "tuned", "drawn"), said,
        ),
        Job(
            "retrieve bank",
            cm3leon("retrieve", PROMPT, "--system", "model", "--bank", "bank", "--out", "made",
                    *CPU),
            _WHOLE, all_of(said, bytes_of("made/*.png")), ("made",),
        ),
        Job(
            "train-tokenizer", _tokenizer("vq", "0", "6"), ("drawn",),
            all_of(bytes_of("vq/*.safetensors"), about_of("vq")), ("vq",),
        ),
        Job(
            "train-tokenizer ended", _tokenizer("vq", "0", "4"), ("drawn", "vq"),
            all_of(bytes_of("vq/*.safetensors"), about_of("vq")),
        ),
        Job(
            "score", _score("drawn", "kept"), ("drawn", "coco", "kept"), said,
        ),
        Job(
            "score kept", cm3leon("score", "drawn", "kept/reference.npz", "--metrics", "fid", *CPU),
            ("drawn", "kept"), said,
        ),
        Job(
            "export-scenes",
            cm3leon("export-scenes", "made", "--count", "6", "--kind", "captions", "vqa", "edits"),
            (), bytes_of("made/**/*"), ("made",),
        ),
        Job(
            "fid_coco", _fid("results", "pictures", "0.8"), (),
            all_of(records_of("results"), bytes_of("pictures/**/*.png")), ("results", "pictures"),
        ),
        Job("fid_coco drawn", _fid("again", "pictures", "0.8"), ("results",), records_of("again")),
        Job(
            "fid_coco pinned", _pinned("again", "features", "drawn"), ("coco", "drawn", "scored"),
            records_of("again"),
        ),
        Job(
            "fid_coco prompts",
            Line("benchmarks.fid_coco", (
                "--protocol", "coco2014-30k/clean", "--coco-root", "coco", "--n", "6",
                "--features", "scenes", "--resamples", "2", "--images", "drawn", "--results",
                "again", "--reports", "out", "--cache", "fresh", "--prompts",
                "prompts/prompts.jsonl",
            )),
            ("coco", "drawn", "prompts"), records_of("again"),
        ),
        Job(
            "tables",
            Line("cm3leon.reports.tables", ("--bench", "fid_coco", "--results", "results")),
            ("results",), said,
        ),
        Job(
            "compare",
            Line("cm3leon.reports.compare", (
                "results/fid_coco/*/*.json", "results2/fid_coco/*/*.json",
            )),
            ("results", "results2"), said,
        ),
    )
}  # fmt: skip


@dataclass
class Workshop:
    """A folder with kept trees, and `now`, where the next case happens."""

    home: Path
    limit_s: float
    loading_s: float = 0.0  # that a new interpreter takes for its imports
    truths: dict[str, tuple[str, float]] = field(default_factory=dict)
    logless: dict[str, str] = field(default_factory=dict)  # as `truths`, without logs

    @property
    def now(self) -> Path:
        """Where all command lines run."""
        return self.home / "now"

    def kept(self, tree: str) -> Path:
        """Where a tree lies whole; made if it is not there yet."""
        path = self.home / "kept" / tree
        if not path.exists():
            self._make(HOME.get(tree, tree))
        return path

    def clear(self, *trees: str) -> Path:
        """An empty `now` but for copies of trees; its path."""
        for tree in trees:
            self.kept(tree)
        shutil.rmtree(self.now, ignore_errors=True)
        self.now.mkdir(parents=True)
        self.fill(*trees)
        return self.now

    def fill(self, *trees: str) -> None:
        """Copies of trees alone in `now`, which is there."""
        for path in self.now.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (self.now / "tiny.json").write_text(json.dumps(TINY))
        for tree in trees:
            for part in (tree, *BESIDE.get(tree, ())):
                shutil.copytree(self.kept(part), self.now / part, symlinks=True)

    def run(self, job: Job, **how) -> Done:
        """Run a job in `now`."""
        return run(self.placed(job.line), self.now, how.pop("seconds", self.limit_s), **how)

    def placed(self, line: Line) -> Line:
        """The line with its patterns of files filled in."""
        words = [
            str(next(iter(sorted(self.now.glob(word))), word)) if "*" in word else word
            for word in line.words
        ]
        return Line(line.module, tuple(words))

    def truth(self, job: Job) -> tuple[str, float]:
        """(digest of the result, seconds) of an unbroken run."""
        if job.name not in self.truths:
            self.clear(*job.needs)
            done = self.run(job, seconds=MOST_S)
            if done.code:
                raise UserError(f"{job.line} ends with {done.code} unbroken: {done.told}")
            self.truths[job.name] = self.digest(job, done), done.seconds
            self.logless[job.name] = self.digest(job, done, log=False)
        return self.truths[job.name]

    def digest(self, job: Job, done: Done, log: bool = True) -> str:
        """Names what a job left in `now`, its log or not; empty where that cannot be read."""
        try:
            found = [one for one in job.result(self.now, done) if log or not one.startswith(LOGGED)]
        except (OSError, ValueError, KeyError):
            return ""
        return hashlib.sha256("\n".join(found).encode()).hexdigest() if found else ""

    def _make(self, tree: str) -> None:
        needs, line = TREES[tree]
        self.clear(*needs)
        if isinstance(line, str):
            MAKERS[line](self.now / tree, 100 if tree.endswith("2") else 0)
        else:
            done = run(line, self.now, MOST_S)
            if done.code:
                raise UserError(f"{line} ends with {done.code} unbroken: {done.told}")
        for part in (tree, *BESIDE.get(tree, ())):
            (self.home / "kept").mkdir(exist_ok=True)
            shutil.move(self.now / part, self.home / "kept" / part)


def make_tars(folder: Path, first: int) -> None:
    """Three tars of webdataset's layout, four scenes each."""
    from cm3leon.world.scenes import scene

    folder.mkdir()
    for number in range(3):
        with tarfile.open(folder / f"{number:02d}.tar", "w") as tar:
            for index in range(4 * number, 4 * number + 4):
                one = scene("stock", "train", first + index)
                for kind, data in (("png", png(one.image)), ("txt", one.captions[0].encode())):
                    member = tarfile.TarInfo(f"{index:03d}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def make_coco(folder: Path, first: int) -> None:
    """A small MS-COCO of 2014's layout."""
    from cm3leon.world.scenes import scene

    (folder / "val2014").mkdir(parents=True)
    (folder / "annotations").mkdir()
    pictures, captions = [], []
    for index in range(1, 9):
        one, name = scene("coco", "val", first + index), f"COCO_val2014_{index:012d}.jpg"
        (folder / "val2014" / name).write_bytes(png(one.image, "JPEG"))
        pictures.append({"id": index, "file_name": name})
        for k in range(2):
            said = {"id": 100 * index + k, "image_id": index, "caption": one.captions[k]}
            captions.append(said)
    content = {"images": pictures, "annotations": captions}
    (folder / "annotations" / "captions_val2014.json").write_text(json.dumps(content))


def make_drawn(folder: Path, first: int) -> None:
    """Pictures named by image id."""
    from cm3leon.world.scenes import scene

    folder.mkdir()
    for index in range(1, 9):
        (folder / f"{index}.png").write_bytes(png(scene("coco", "val", first + index + 20).image))


def png(image_HW3: np.ndarray, kind: str = "PNG") -> bytes:
    """A picture file's bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image_HW3)).save(buffer, kind)
    return buffer.getvalue()


MAKERS = {"tars": make_tars, "coco": make_coco, "drawn": make_drawn}
