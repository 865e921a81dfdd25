"""Hostile inputs at every entry: nothing runs or hangs, each is refused in one line or named."""

from __future__ import annotations

import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.fault_cases.child import Line, run
from benchmarks.fault_cases.rows import HELD, Row, refusal
from benchmarks.fault_cases.workshop import CPU, Workshop, cm3leon, png
from cm3leon import seeds

MEMORY = 4 * 2**30  # bytes of data that a command may have
RAN = "ran"  # a file that hostile code would make
GOOD = np.full((64, 64, 3), 90, np.uint8)


class _Program:
    def __reduce__(self):
        return os.mkdir, (RAN,)


def program(path: Path) -> None:
    """A pickle that runs."""
    path.write_bytes(pickle.dumps(_Program()))


def zipped_program(path: Path) -> None:
    """torch's layout of a file with a pickle that runs."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(_Program()))
        file.writestr("archive/version", "3\n")


def npz_bomb(path: Path) -> None:
    """An .npz whose array says that it has 400 GB."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (400000000000,), }"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + bytes(99)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("arr_0", "mu", "sigma"):
            file.writestr(f"{name}.npy", data)


def tar_bomb(path: Path) -> None:
    """A tar with a picture of 2 GB, of which the disk holds nothing."""
    with open(path, "wb") as file:
        for name, size in (("000.txt", 5), ("000.png", 2 * 2**30)):
            member = tarfile.TarInfo(name)
            member.size = size
            file.write(member.tobuf())
            file.write(b"hello".ljust(512, b"\0") if size == 5 else b"")
        file.truncate(file.tell() + 2 * 2**30 + 1024)


def png_bomb(path: Path) -> None:
    """A PNG that says that it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        length, check = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return length + kind + data + check

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b""))


def linked(target: str) -> Callable[[Path], None]:
    """A link to something."""
    return lambda path: path.symlink_to(target)


def bytes_that(data: bytes) -> Callable[[Path], None]:
    """A file of those bytes."""
    return lambda path: path.write_bytes(data)


INPUTS: dict[str, Callable[[Path], None]] = {
    "pickle": program,
    "torch pickle": zipped_program,
    "npz bomb": npz_bomb,
    "tar bomb": tar_bomb,
    "PNG bomb": png_bomb,
    "deep list": bytes_that(b"[" * 200_000),
    "deep object": bytes_that(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "long integer": bytes_that(b'{"format": 1, "heads": ' + b"9" * 5000 + b"}"),
    "numbers": bytes_that(b"[1, 2, NaN, Infinity]"),
    "null": bytes_that(b"null"),
    "object": bytes_that(b"{}"),
    "Latin-1": bytes_that("un café, déjà vu\n".encode("latin-1")),
    "half a pair": bytes_that(b'{"caption": "\\ud83d", "image_id": 1, "caption_id": 1}\n'),
    "HTML": bytes_that(b"<!DOCTYPE html><html><body>404</body></html>\n"),
    "Git LFS": bytes_that(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n"
    ),
    "empty": bytes_that(b""),
    "zeros": bytes_that(bytes(4096)),
    "noise": bytes_that(seeds.generator(0, "noise").bytes(4096)),
    "long header": bytes_that(struct.pack("<Q", 2**62) + b"{}"),
    "loop": lambda path: path.symlink_to(path.name),
    "endless": linked("/dev/zero"),
    "nothing": linked("/dev/null"),
    "full": linked("/dev/full"),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "missing": lambda path: None,
    "broken link": linked("nowhere"),
}  # fmt: skip


class Entry(NamedTuple):
    """A command line and the place where it takes a file; `before` makes what must lie around."""

    name: str
    place: str
    line: Line
    before: Callable[[Workshop], None] = lambda workshop: None
    several: bool = False  # one of many: may be left out, if it is named


def _fid(*words: str) -> Line:
    return Line("benchmarks.fid_coco", (
        "--protocol", "coco2014-30k/clean", "--coco-root", "coco", "--n", "6", "--features",
        "scenes", "--resamples", "2", "--images", "drawn", "--results", "results", "--reports",
        "out", "--cache", "cache", *words,
    ))  # fmt: skip


def _beside(workshop: Workshop) -> None:
    (workshop.now / "in").mkdir()
    (workshop.now / "in" / "good.png").write_bytes(png(GOOD))
    (workshop.now / "in" / "good.txt").write_text("a red star")
    (workshop.now / "in" / "a.txt").write_text("a red star")


def _text(workshop: Workshop) -> None:
    _beside(workshop)
    (workshop.now / "in" / "a.png").write_bytes(png(GOOD))
    (workshop.now / "in" / "a.txt").unlink()


def _maps(workshop: Workshop) -> None:
    _text(workshop)
    (workshop.now / "maps").mkdir()
    (workshop.now / "maps" / "good.png").write_bytes(png(GOOD))


def _pictures(workshop: Workshop) -> None:
    (workshop.now / "in").mkdir()
    for name in "bcde":
        (workshop.now / "in" / f"{name}.png").write_bytes(png(GOOD))


def _begun(workshop: Workshop) -> None:
    _pictures(workshop)
    (workshop.now / "made" / "run").mkdir(parents=True)


def _home(workshop: Workshop) -> None:
    workshop.clear("hf")
    (workshop.now / "home" / "text").mkdir(parents=True)


def _inside(*trees: str) -> Callable[[Workshop], None]:
    """Trees of the workshop, one of whose files gives way."""
    return lambda workshop: workshop.clear(*trees)


def _outputs(*words: str) -> Line:
    return Line("benchmarks.outputs", (*words, "--into", "results", "--reports", "out"))


def _judged(workshop: Workshop) -> None:
    (workshop.now / "good.jsonl").write_text('{"id": 1, "score": 2}\n{"id": 2, "score": 3}\n')


_TUNED = ("--system", "tuned", *CPU)
_ASKED = ("tokens", "tokens2", "bank", "model", "asked")
_DRAW = cm3leon("draw", "a red star", "--system", "model", "--out", "x.png", *CPU)
ENTRIES = (
    Entry("caption", "in.png", cm3leon("caption", "in.png", "--system", "scenes-xs", *CPU)),
    Entry(
        "infill", "in.png",
        cm3leon("infill", "in.png", "--box", "0", "0", "16", "16", "--caption", "a red star",
                "--system", "scenes-xs", "--out", "x.png", *CPU),
    ),
    Entry("edit", "in.png", cm3leon("edit", "in.png", "x", "--out", "x.png", *CPU)),
    Entry("edit system", "tuned/config.json",
          cm3leon("edit", "drawn/1.png", "x", "--out", "x.png", *_TUNED),
          _inside("tuned", "drawn")),
    Entry("answer", "in.png", cm3leon("answer", "in.png", "how many?", *CPU)),
    Entry("answer system", "tuned/model.safetensors",
          cm3leon("answer", "drawn/1.png", "how many?", *_TUNED), _inside("tuned", "drawn")),
    Entry("draw condition", "in.png",
          cm3leon("draw", "x", "--condition", "in.png", "--kind", "depth", "--out", "x.png", *CPU)),
    Entry("retrieve bank", "bank/vectors.npy",
          cm3leon("retrieve", "x", "--system", "model", "--bank", "bank", "--out", "made", *CPU),
          _inside("tokens", "tokens2", "bank", "model")),
    *(
        Entry(f"score {side} {kind}", f"in.{kind}",
              cm3leon("score", *(one.format(kind) for one in sides), "--metrics", "fid", *CPU),
              _inside("drawn"))
        for side, sides in (("images", ("in.{}", "drawn")), ("reference", ("drawn", "in.{}")))
        for kind in ("zip", "tar", "npz", "npy")
    ),
    Entry("score picture", "drawn/1.png",
          cm3leon("score", "drawn", "drawn2", "--metrics", "fid", *CPU), _inside("drawn", "drawn2"),
          True),
    Entry("score network", "in.pth",
          cm3leon("score", "drawn", "drawn2", "--network", "inception-clean:in.pth", *CPU),
          _inside("drawn", "drawn2")),
    Entry("score cache", "kept",
          cm3leon("score", "drawn", "drawn2", "--cache", "kept", "--metrics", "fid", *CPU),
          _inside("drawn", "drawn2")),
    Entry("train-tokenizer picture", "in/a.png",
          cm3leon("train-tokenizer", "in", "made", "--resolution", "16", "--stride", "4", "--steps",
                  "3", "--channels", "8", "--codes", "16", "--hold-out", "1", *CPU),
          _pictures, True),
    Entry("train-tokenizer archive", "in.zip",
          cm3leon("train-tokenizer", "in.zip", "made", "--steps", "3", *CPU)),
    Entry("train-tokenizer state", "made/run/state.json",
          cm3leon("train-tokenizer", "in", "made", "--resolution", "16", "--stride", "4", "--steps",
                  "3", "--channels", "8", "--codes", "16", "--hold-out", "1", *CPU),
          _begun),
    Entry("tune model", "model/config.json",
          cm3leon("tune", "model", "asked", "--dry-run", *CPU), _inside(*_ASKED)),
    Entry("tune cache", "asked/cache.json",
          cm3leon("tune", "model", "asked", "--dry-run", *CPU), _inside(*_ASKED)),
    Entry("tune held out", "asked/shard-00000.json",
          cm3leon("tune", "model", "tokens", "--held-out", "asked", "--dry-run", *CPU),
          _inside(*_ASKED)),
    Entry("encode records", "in.jsonl", cm3leon("encode", "in.jsonl", "made", *CPU)),
    Entry("encode task json", "in.json",
          cm3leon("encode", "in.json", "made", "--task", "caption", "--pictures", "drawn", *CPU),
          _inside("drawn")),
    Entry("encode task parquet", "in.parquet",
          cm3leon("encode", "in.parquet", "made", "--task", "edit", *CPU)),
    Entry("encode task questions", "in/v2_OpenEnded_mscoco_val2014_questions.json",
          cm3leon("encode", "in", "made", "--task", "answer", *CPU),
          lambda workshop: (workshop.now / "in").mkdir()),
    Entry("encode task conditions", "maps/a.png",
          cm3leon("encode", "in", "made", "--task", "depth", "--conditions", "maps", *CPU), _maps,
          True),
    Entry("encode picture", "in/a.png", cm3leon("encode", "in", "made", *CPU), _beside, True),
    Entry("encode caption", "in/a.txt", cm3leon("encode", "in", "made", *CPU), _text, True),
    Entry("train-text caption", "in/a.txt",
          cm3leon("train-text", "in", "--out", "made", "--size", "300"), _text, True),
    Entry("encode tar", "in.tar", cm3leon("encode", "in.tar", "made", *CPU)),
    Entry("encode tars", "tars/in.tar", cm3leon("encode", "tars", "made", *CPU), _inside("tars"),
          True),
    Entry("encode MS-COCO", "coco/annotations/captions_val2014.json",
          cm3leon("encode", "coco", "made", *CPU), _inside("coco")),
    Entry("encode into", "tokens/cache.json", cm3leon("encode", "tars", "tokens", *CPU),
          _inside("tars", "tokens")),
    Entry("encode tokenizer", "model/text/tokenizer.json",
          cm3leon("encode", "tars", "made", "--tokenizers", "model", *CPU),
          _inside("tars", "model")),
    Entry("encode clip", "in.pt", cm3leon("encode", "tars", "made", "--clip", "ViT-B-32:in.pt",
                                          *CPU), _inside("tars")),
    Entry("index", "tokens/codes-00001.npy", cm3leon("index", "tokens", "made"),
          _inside("tokens")),
    Entry("draw", "model/config.json", _DRAW, _inside("tokens", "tokens2", "bank", "model")),
    Entry("draw weights", "model/model.safetensors", _DRAW,
          _inside("tokens", "tokens2", "bank", "model")),
    Entry("draw bank", "bank/bank.json", _DRAW, _inside("tokens", "tokens2", "bank", "model")),
    Entry("train model", "in.json",
          cm3leon("train", "--dry-run", "--model", "in.json", "--tokens", "1000")),
    Entry("train bank", "bank/ids.json",
          cm3leon("train", "tokens", "--bank", "bank", "--model", "tiny.json", "--fit-vocabulary",
                  "--steps", "1", "--batch", "1", "--out", "made", *CPU),
          _inside("tokens", "bank")),
    Entry("train state", "model/run/state.json",
          cm3leon("train", "tokens", "--out", "made", "--model", "tiny.json", "--fit-vocabulary",
                  "--decay-from", "model", "--decay", "1", *CPU), _inside("tokens", "model")),
    Entry("train held out", "tokens2/cache.json",
          cm3leon("train", "tokens", "--bank", "bank", "--held-out", "tokens2", "--model",
                  "tiny.json", "--fit-vocabulary", "--steps", "1", "--batch", "1", "--out", "made",
                  *CPU), _inside("tokens", "tokens2", "bank")),
    Entry("train clip", "in.pt",
          cm3leon("train", "tokens", "--bank", "bank", "--clip", "ViT-B-32:in.pt", "--model",
                  "tiny.json", "--fit-vocabulary", "--steps", "1", "--batch", "1", "--out", "made",
                  *CPU), _inside("tokens", "bank")),
    Entry("export", "model/config.json", cm3leon("export", "model", "made"),
          _inside("tokens", "tokens2", "bank", "model")),
    Entry("import tokenizers", "home/text/tokenizer.json",
          cm3leon("import", "hf", "made/m", "--tokenizers", "home"),
          _home),
    Entry("import", "hf/config.json", cm3leon("import", "hf", "made/m"), _inside("hf")),
    Entry("import weights", "hf/model.safetensors", cm3leon("import", "hf", "made/m"),
          _inside("hf")),
    *(
        Entry(f"convert-tokenizer {kind}", f"in.{kind}",
              cm3leon("convert-tokenizer", f"in.{kind}", "--out", "made"))
        for kind in ("ckpt", "pt", "safetensors")
    ),
    *(
        Entry(f"fid_coco prompts {kind}", f"in.{kind}", _fid("--prompts", f"in.{kind}"),
              _inside("coco", "drawn"))
        for kind in ("jsonl", "csv", "tsv", "txt")
    ),
    Entry("fid_coco reference", "in.npz", _fid("--reference", "in.npz"), _inside("coco", "drawn")),
    Entry("fid_coco npz", "in.npz", _fid()._replace(words=tuple(
        "in.npz" if word == "drawn" else word for word in _fid().words)), _inside("coco")),
    Entry("fid_coco picture", "drawn/1.png", _fid(), _inside("coco", "drawn")),
    Entry("fid_coco reference picture", "coco/val2014/COCO_val2014_000000000001.jpg", _fid(),
          _inside("coco", "drawn"), True),
    Entry("fid_coco weights", "in.pth", _fid("--features", "inception-clean", "--weights",
                                             "in.pth", "--weights-sha256", "any"),
          _inside("coco", "drawn")),
    Entry("fid_coco program", "in.pt", _fid("--features", "inception-jit", "--weights", "in.pt",
                                            "--weights-sha256", "any"), _inside("coco", "drawn")),
    Entry("rfid tokenizer", "vq/config.json", Line("benchmarks.rfid", (
        "--tokenizer", "vq", "--data", "drawn", "--results", "results", "--reports", "out")),
          _inside("vq", "drawn")),
    Entry("codes", "vq/config.json",
          Line("benchmarks.evaluate.codes", ("--weights", "vq")),
          _inside("vq")),
    Entry("outputs", "in.jsonl", _outputs("--results", "in.jsonl", "--kind", "judge")),
    Entry("outputs beside", "in.jsonl",
          _outputs("--results", "good.jsonl", "--kind", "judge", "--beside", "in.jsonl"), _judged),
    Entry("outputs references", "in.json",
          _outputs("--results", "coco/annotations/captions_val2014.json", "--references",
                   "in.json"), _inside("coco")),
    Entry("scaling plan", "in.json",
          Line("benchmarks.scaling", ("--plan", "in.json", "--dry-run"))),
    Entry("verify_fid statistics", "in.npz", Line("benchmarks.verify_fid", (
        "--statistics", "in.npz", "in.npz", "--expected", "1", "--results", "results"))),
    Entry("tasks system", "tuned/config.json",
          Line("benchmarks.tasks", ("--system", "tuned", "--n", "2", "--results", "results",
                                    "--reports", "out")), _inside("tuned")),
    Entry("rfid", "in/a.png", Line("benchmarks.rfid", (
        "--data", "in", "--results", "results", "--reports", "out")), _beside, True),
    Entry("tables", "results/fid_coco/scenes-xs/x.json", Line("cm3leon.reports.tables", (
        "--bench", "fid_coco", "--results", "results")), _inside("results")),
    Entry("compare", "in.json", Line("cm3leon.reports.compare", ("in.json", "in.json"))),
    *(
        Entry(f"cm3leon {command}", "results/fid_coco/scenes-xs/x.json",
              cm3leon(command, *words, "--results", "results"), _inside("results"))
        for command, words in (
            ("compare", ("fid_coco/scenes-xs", "fid_coco/scenes-xs")),
            ("dashboard", ("--out", "out")), ("report", ("--out", "out")),
        )
    ),
    Entry("regress", "in/base-000.json", Line("cm3leon.reports.regress", ("--perf", "in")),
          lambda workshop: (workshop.now / "in").mkdir()),
)  # fmt: skip


def hostile(workshop: Workshop, generator: np.random.Generator) -> Row:
    """One hostile input at one entry."""
    entry = ENTRIES[generator.integers(len(ENTRIES))]
    kind = list(INPUTS)[generator.integers(len(INPUTS))]
    return given(workshop, entry, kind)


def given(workshop: Workshop, entry: Entry, kind: str) -> Row:
    """The case of that entry and input."""
    workshop.clear()
    entry.before(workshop)
    path = workshop.now / entry.place
    path.unlink(missing_ok=True)
    INPUTS[kind](path)
    done = run(entry.line, workshop.now, workshop.limit_s, memory=MEMORY)
    outcome = refusal(done)
    if outcome == "silent" and entry.several and left_out(done.err + done.out):
        outcome = HELD
    if outcome == "silent" and harmless(kind, entry):
        outcome = HELD
    if (workshop.now / RAN).exists():
        outcome = "silent"
    return Row(entry.name, kind, outcome, done.told)


def left_out(said: str) -> bool:
    """Whether something is said to be left out."""
    some = "not readable" in said and ", 0 not readable" not in said
    return (
        some or "unreadable" in said or "cannot be read and are left out" in " ".join(said.split())
    )


def harmless(kind: str, entry: Entry) -> bool:
    """Whether such an input is right there."""
    text = entry.place.endswith((".txt", ".csv", ".tsv")) and kind in TEXTS
    made = kind in ("missing", "broken link")
    folder = kind == "folder" and entry.name in FOLDERS
    anew = kind == "loop" and entry.name == "encode into"  # as where it is missing
    return text or folder or anew or (made and entry.name in OPTIONAL)


OPTIONAL = (  # that a file is not there is fine
    "encode into",
    "encode tars",
    "tables",
    "cm3leon compare",
    "cm3leon dashboard",
    "cm3leon report",
    "score cache",
    "score picture",
    "train-tokenizer picture",
    "train-tokenizer state",
)
FOLDERS = (  # in which one is looked into, or is no file of the kind that is read
    "score picture",
    "score cache",
    "train-tokenizer picture",
    "cm3leon compare",
    "cm3leon dashboard",
    "cm3leon report",
)
TEXTS = (
    "numbers", "null", "object", "HTML", "Git LFS", "long integer", "half a pair",
    "deep list", "deep object",
)  # fmt: skip
