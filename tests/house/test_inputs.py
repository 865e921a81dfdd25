"""Inputs by entry points: what every command takes from a disk is attacked by `nox -s faults`, and
all of them refuse a device that is not there in the same line.
"""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import get_type_hints

import pytest
from PIL import Image

from benchmarks.fault_cases import hostile
from benchmarks.fault_cases.options import command_lines, leaves, walked
from cm3leon.cli import main as cli

ENTRIES = {entry.name: entry for entry in hostile.ENTRIES}
MODEL, TOKENIZER, CLIP, PICTURE = "draw", "encode tokenizer", "encode clip", "caption"
READS = {  # option -> the entry whose inputs it gets; where options are read alike, the same one
    "draw.system": MODEL, "draw.condition": "draw condition", "draw.bank": "draw bank",
    "caption.system": MODEL, "caption.pictures": PICTURE,
    "infill.system": MODEL, "infill.picture": "infill",
    "edit.system": "edit system", "edit.picture": "edit",
    "answer.system": "answer system", "answer.picture": "answer",
    "retrieve.system": MODEL, "retrieve.bank": "retrieve bank",
    "serve.system": MODEL,
    "score.images": "score images npz", "score.reference": "score reference npz",
    "score.network": "score network", "score.cache": "score cache",
    "encode.source": "encode picture", "encode.conditions": "encode task conditions",
    "encode.pictures": "encode records", "encode.clip": CLIP, "encode.tokenizers": TOKENIZER,
    "index.cache": "index",
    "convert-tokenizer.source": "convert-tokenizer pt",
    "train-text.source": "train-text caption",
    "train-tokenizer.pictures": "train-tokenizer picture",
    "train.cache": "index", "train.model": "train model", "train.tokenizers": TOKENIZER,
    "train.bank": "train bank", "train.clip": "train clip", "train.held_out": "train held out",
    "train.decay_from": "train state",
    "tune.model": "tune model", "tune.caches": "tune cache", "tune.held_out": "tune held out",
    "export.system": "export",
    "import.folder": "import", "import.tokenizers": "import tokenizers",
    "compare.run_a": "compare", "compare.run_b": "compare", "compare.results": "cm3leon compare",
    "dashboard.results": "cm3leon dashboard", "report.results": "cm3leon report",
    "ablate_decoding.rerank_clip": CLIP, "ablate_decoding.retrieving": MODEL,
    "ablate_positions.weights": TOKENIZER, "ablate_pretraining.weights": TOKENIZER,
    "ablate_retrieval.system": MODEL, "choose_decoding.system": MODEL,
    "equal_compute.system": MODEL, "equal_compute.queries": "tables",
    "equal_compute.flops": "tables",
    "codes.weights": "codes",
    "fid_coco.system": MODEL, "fid_coco.coco_root": "fid_coco reference picture",
    "fid_coco.prompts": "fid_coco prompts csv", "fid_coco.reference": "fid_coco reference",
    "fid_coco.weights": "fid_coco weights", "fid_coco.images": "fid_coco picture",
    "fid_coco.dino_weights": "fid_coco weights", "fid_coco.cmmd_weights": CLIP,
    "fid_coco.clip_weights": CLIP, "fid_coco.inception_weights": "fid_coco weights",
    "fid_coco.rerank_clip": CLIP,
    "outputs.results": "outputs", "outputs.references": "outputs references",
    "outputs.beside": "outputs beside",
    "rfid.tokenizer": "rfid tokenizer", "rfid.data": "rfid",
    "scaling.plan": "scaling plan", "scaling.weights": TOKENIZER,
    "tasks.system": "tasks system", "tasks.beside": MODEL,
    "verify_fid.statistics": "verify_fid statistics",
    "latency.llamagen": None, "train_speed.base": None, "interleave.base": None,  # our sources
    "verify_fid.cifar10": None,  # of a pinned digest
}  # fmt: skip
WRITES = {"out", "save", "sheet", "results", "reports", "into", "cache", "runs", "only_prompts",
          "folder"}  # fmt: skip
WORDS = {
    "prompt", "box", "letters", "device", "text", "caption", "instruction", "question", "choices",
    "metrics", "weights_sha256", "prompts_sha256", "record", "task", "licence", "name", "gpu",
    "sizes", "parts", "arms", "only", "features", "protocol", "coco_split", "modules", "faults",
    "dtypes", "optimizers", "unconditional", "strategy", "schedule", "optimizer", "precision",
    "spans", "by", "order", "modality", "loss",
}  # fmt: skip
LINES = {line.name: line for line in command_lines()}


def places(kind: type) -> list[str]:
    """Options that take a path or a text."""
    return [name for name, hint in walked(kind) if {"Path", "str"} & set(named(hint))]


def named(hint) -> list[str]:
    return [getattr(one, "__name__", "") for one in leaves(hint)]


def test_every_option_that_reads_has_an_entry_of_the_campaign():
    found = {f"{name}.{one}" for name, line in LINES.items() for one in places(line.kind)}
    found = {one for one in found if one.rpartition(".")[2] not in WORDS or one in READS}
    unknown = {one for one in found if one.rpartition(".")[2] not in WRITES} - set(READS)
    assert not unknown, f"name an entry of benchmarks/fault_cases/hostile.py: {sorted(unknown)}"
    assert set(READS) <= found
    assert {entry for entry in READS.values() if entry} <= set(ENTRIES)


DEVICES = {  # words of every command with a device; what they read lies there
    "draw": ("x",),
    "caption": ("a.png",),
    "infill": ("a.png", "--box", "0", "0", "9", "9"),
    "edit": ("a.png", "x"),
    "answer": ("a.png", "x"),
    "retrieve": ("x",),
    "serve": ("--port", "0"),
    "score": ("in", "in"),
    "encode": ("scenes:stock/train:0:3", "c"),
    "train-tokenizer": ("in", "vq"),
    "train": ("--dry-run",),
    "tune": ("scenes-s", "a", "--dry-run"),
    "rfid": ("--data", "in"),
    "latency": ("--sizes", "scenes-xs"),
    "train_speed": ("--sizes", "scenes-xs"),
    "tasks": (),
}


def test_every_command_with_a_device_is_here():
    hints = {name: get_type_hints(line.kind) for name, line in LINES.items()}
    assert set(DEVICES) == {name for name, found in hints.items() if found.get("device") is str}


@pytest.mark.parametrize("device", ["xpu", "meta", "cuda:7", "mtia:3", "cpu:1"])
@pytest.mark.parametrize("command", DEVICES)
def test_a_device_that_is_not_there(command, device, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "in" / "a.png"):
        Image.new("RGB", (40, 40)).save(path)
    line = LINES[command].line
    words = [*DEVICES[command], "--device", device]
    if line.module == "cm3leon.cli.main":
        code = cli.main([command, *words])
    else:
        code = importlib.import_module(line.module).main([*words, "--results", "results"])
    out, err = capsys.readouterr()
    assert (code, err) == (2, f"error: device {device!r} is not there; use 'cpu'\n")
    assert out == "" and sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "in"]


def test_fields_inside_are_walked():
    names = [name for name, _ in walked(LINES["train"].kind)]
    assert {"cache", "schedule", "spans"} <= set(names)
    assert len(fields(LINES["train"].kind)) < len(names)
