"""Every file that the product writes and reads again: what checks it, and which jobs read it.

`docs/design.md` prints this list, the campaign damages these files, and a test holds both against
what the commands really leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kept:
    """Files of one kind: `pattern` below a tree's folder; the jobs read them in what they do."""

    tree: str  # of the workshop
    pattern: str
    what: str
    check: str  # what finds damage, and what follows
    jobs: tuple[str, ...]
    optional: bool = False  # need not be there: its absence is no damage


FILES = (
    Kept(
        "tokens", "cache.json", "token cache: its identity",
        "its own digest (sealed); names that of all shards",
        ("encode", "index", "train", "draw"),
    ),
    Kept(
        "tokens", "shard-*.json", "token cache: a shard's marker",
        "its own digest (sealed), the shard's number in it; derived anew by `encode`",
        ("encode", "index", "train", "draw"),
    ),
    Kept(
        "tokens", "*.npy", "token cache: codes, texts, offsets, captions, vectors",
        "digests in the shard's marker; derived anew by `encode`",
        ("encode", "index", "train", "draw"),
    ),
    Kept(
        "bank", "bank.json", "memory bank: its identity",
        "its own digest (sealed); names those of the rest",
        ("train", "draw", "draw bank"),
    ),
    Kept(
        "bank", "*.npy", "memory bank: vectors",
        "digest in `bank.json`",
        ("train", "draw", "draw bank"),
    ),
    Kept(
        "bank", "ids.json", "memory bank: ids",
        "digest in `bank.json`",
        ("train", "draw", "draw bank"),
    ),
    Kept(
        "model", "config.json", "checkpoint: kind, shape, settings",
        "its own digest (`about_sha256`); names that of the weights",
        ("draw", "export", "draw bank"),
    ),
    Kept(
        "model", "model.safetensors", "checkpoint: weights",
        "digest in `config.json`",
        ("draw", "export", "draw bank"),
    ),
    Kept(
        "model", "text/tokenizer.json", "text tokenizer",
        "digest beside it, and in a model's `config.json` and a cache's identity",
        ("draw", "export", "train on", "encode tokenizers"),
    ),
    Kept(
        "model", "text/tokenizer.json.sha256", "text tokenizer: its digest",
        "against the tokenizer",
        ("draw", "export", "train on", "encode tokenizers"),
    ),
    Kept(
        "model", "vq/config.json", "image tokenizer: shape",
        "its own digest (`about_sha256`)",
        ("draw", "export", "train on", "encode tokenizers"),
    ),
    Kept(
        "model", "vq/model.safetensors", "image tokenizer: weights",
        "digest in its `config.json`, and in a model's",
        ("draw", "export", "train on", "encode tokenizers"),
    ),
    Kept(
        "model", "run/state.json", "training: where it stands",
        "its own digest (sealed); names that of the tensors",
        ("train on",),
    ),
    Kept(
        "model", "run/state-*.json", "training: a kept state",
        "its own digest (sealed), the same file's name in it",
        ("train branch", "train on"),
    ),
    Kept(
        "model", "run/state-*.safetensors", "training: tensors of a state",
        "digest in the file that names them",
        ("train branch", "train on"),
    ),
    Kept(
        "model", "run/log.jsonl", "training: log",
        "digest in the state; else line by line, the rest left out with a note",
        ("train on", "train branch"),
    ),
    Kept(
        "model", "run/neighbours-*.npy", "training: documents found",
        "digest behind the array, of its name too; derived anew",
        ("train on",),
    ),
    Kept(
        "model", "log.jsonl", "model: copy of the log",
        "read for plots of shipped models alone, line by line",
        ("draw",),
    ),
    Kept(
        "asked", "cache.json", "record cache: its identity",
        "its own digest (sealed); names that of all shards",
        ("encode task", "tune"),
    ),
    Kept(
        "asked", "shard-*.json", "record cache: a shard's marker",
        "its own digest (sealed), the shard's number in it; derived anew by `encode`",
        ("encode task", "tune"),
    ),
    Kept(
        "asked", "*.npy", "record cache: ids, spans, kinds, segments, tasks",
        "digests in the shard's marker; derived anew by `encode`",
        ("encode task", "tune"),
    ),
    Kept(
        "tuned", "*.*", "tuned model: weights, configuration, log",
        "as a model's",
        ("answer",),
    ),
    Kept(
        "tuned", "[tv]*/*", "tuned model: tokenizers",
        "as a model's",
        ("answer",),
    ),
    Kept(
        "tuned", "run/state*", "tuning: where it stands",
        "as a training's",
        ("tune on",),
    ),
    Kept(
        "tuned", "run/log.jsonl", "tuning: log",
        "as a training's",
        ("tune on",),
    ),
    Kept(
        "vq", "*.*", "trained image tokenizer",
        "as a model's; written anew when its training is gone on with",
        ("train-tokenizer ended",),
    ),
    Kept(
        "vq", "run/**/state*", "training of a tokenizer and of its decoder: where it stands",
        "as a training's",
        ("train-tokenizer ended",),
    ),
    Kept(
        "vq", "run/**/log.jsonl", "training of a tokenizer: logs",
        "as a training's",
        ("train-tokenizer ended",),
    ),
    Kept(
        "kept", "*/*.npz", "`score`: features kept",
        "checksums of zip, place of the shard in it; derived anew",
        ("score",),
    ),
    Kept(
        "kept", "*/*.json", "`score`: identity of features kept",
        "compared with what is asked for; derived anew",
        ("score",),
    ),
    Kept(
        "kept", "reference.npz", "`score --save`: statistics",
        "checksums of zip",
        ("score kept",),
    ),
    Kept(
        "hf", "*.safetensors", "export: weights",
        "`SHA256SUMS`",
        ("import",),
    ),
    Kept(
        "hf", "config.json", "export: configuration",
        "`SHA256SUMS`",
        ("import",),
    ),
    Kept(
        "hf", "text/*", "export: text tokenizer",
        "`SHA256SUMS`, and the digests it brings along",
        ("import",),
    ),
    Kept(
        "hf", "vq/*", "export: image tokenizer",
        "`SHA256SUMS`, and the digests it brings along",
        ("import",),
    ),
    Kept(
        "hf", "SHA256SUMS", "export: digests",
        "against the files",
        ("import",),
    ),
    Kept(
        "pictures", "*/*/*.png", "drawings kept",
        "checksums of PNG, caption, seed and system in it; derived anew",
        ("fid_coco drawn",),
    ),
    Kept(
        "pictures", "*/*/system.json", "drawings kept: their size",
        "its own digest; derived anew",
        ("fid_coco drawn",),
    ),
    Kept(
        "features", "**/*.npz", "features kept, statistics",
        "checksums of zip, place of the shard in it; derived anew",
        ("fid_coco pinned",),
    ),
    Kept(
        "features", "**/*.json", "features kept: their identity",
        "compared with what is asked for; derived anew",
        ("fid_coco pinned",),
    ),
    Kept(
        "results", "*/*/*.json", "record",
        "its own digest (`sha256`)",
        ("tables", "compare"),
    ),
    Kept(
        "results", "*/*/*.npz", "record: scores of samples",
        "digest in the record",
        ("compare",),
        True,
    ),
    Kept(
        "prompts", "prompts.jsonl", "list of prompts",
        "digest beside it",
        ("fid_coco prompts",),
    ),
    Kept(
        "prompts", "prompts.jsonl.sha256", "list of prompts: its digest",
        "against the list",
        ("fid_coco prompts",),
    ),
)  # fmt: skip
MORE = (  # files that no tree of the workshop holds: (pattern, what, check)
    ("bank/index.faiss", "memory bank: approximate index of a large one", "digest in `bank.json`"),
    ("bank/bank.npz", "packed bank of a shipped model",
     "checksums of zip, lengths and types; the digests of its CLIP and tokenizers"),
    ("clip/*, features/*", "a CLIP, the feature network", "as a checkpoint's, a text tokenizer's"),
    ("arm-*/scores.json", "ablations: scores of a run",
     "its own digest (sealed), the run's name in it; derived anew"),
    ("scaling/points/*.json", "sweeps: numbers of a point",
     "its own digest (sealed), the point's name in it, of which a digest of its training is a "
     "part; derived anew"),
    ("scaling/locks/*.lock", "sweeps: who trains a run",
     "one that cannot be read is nobody's, and says so; it decides no number"),
    ("lines-*.json, tried.jsonl", "mutation runs: lines that tests reach, outcomes of changes",
     "their own digest (sealed), a digest a line; derived anew"),
    ("base-*.json, head-*.json", "`interleave`: rounds", "digest beside each"),
    ("model/run/state-*/files.json", "training: files of a state of many ranks",
     "its own digest; the state names that of the file"),
    ("model/run/state-*/*.safetensors", "training: tensors of a state of many ranks",
     "digests in `files.json`"),
    ("model/model.safetensors.index.json, model/model-*.safetensors", "weights of more than 5 GB",
     "digests in the index, whose digest `config.json` names"),
    ("*.so", "C files, compiled", "digest in the name, owner and mode; derived anew"),
    ("*.part.npz", "features kept: an unfinished shard", "as a shard; derived anew"),
)  # fmt: skip
UNREAD = {  # written for people and other libraries, read by no command of ours
    "model": ("run/loss.csv", "run/loss.png"),
    "tuned": ("run/loss.csv", "run/loss.png"),
    "vq": ("run/loss.csv", "run/loss.png", "run/decoder/loss.csv", "run/decoder/loss.png"),
    "hf": (
        "README.md", "generation_config.json", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json",
    ),
}  # fmt: skip


def files_of(one: Kept, folder: Path) -> list[Path]:
    """The files of that kind in a tree's folder, sorted."""
    return sorted(path for path in folder.glob(one.pattern) if path.is_file())


def unlisted(tree: str, folder: Path) -> Iterator[Path]:
    """Files of a tree that no kind names."""
    known = {path for one in FILES if one.tree == tree for path in files_of(one, folder)}
    known |= {folder / name for name in UNREAD.get(tree, ())}
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file() and path not in known)


def table() -> str:
    """The list as Markdown."""
    rows = [f"| `{one.tree}/{one.pattern}` | {one.what} | {one.check} |" for one in FILES]
    rows += [f"| `{pattern}` | {what} | {check} |" for pattern, what, check in MORE]
    return "\n".join(["| file | what | what checks it |", "|---|---|---|", *rows])
