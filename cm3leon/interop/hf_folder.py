"""A CM3Leon as a folder of Hugging Face's layout, and back.

    config.json, generation_config.json      OPT's, with our own block
    model.safetensors                        or shards of at most 5 GB and their index
    tokenizer.json and its two companions    the whole id space
    text/, vq/                               our own tokenizers, byte for byte
    clip/, bank/                             of a model that retrieves from what lies beside it
    README.md                                the card
    SHA256SUMS                               of all these, as sha256sum has it; an import checks it

Weights go from the mapped file to the new ones without being held in between: a model that fills
the disk's cache but not the memory can be exported. A folder appears whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cm3leon import checkpoint
from cm3leon.checkpoint import INDEX, SHARD_BYTES
from cm3leon.config import ModelConfig, VocabularyConfig, VQConfig, from_dict, to_dict
from cm3leon.decoding.config import DecodeConfig
from cm3leon.errors import UserError, note
from cm3leon.files import check_free, new_folder, sha256_file
from cm3leon.interop.hf_card import card
from cm3leon.interop.hf_tokenizer import tokenizer_files
from cm3leon.interop.opt import (
    HEAD,
    OURS,
    from_opt_config,
    from_opt_state_dict,
    to_opt_config,
    to_opt_state_dict,
)
from cm3leon.retrieval.packed import BANK, unpack
from cm3leon.safe_load import check_weights_file, other_names
from cm3leon.sequence.documents import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

SUMS = "SHA256SUMS"
PARTS = {  # folders that go with a model -> their files
    "text": ("tokenizer.json", "tokenizer.json.sha256"),
    "vq": (checkpoint.WEIGHTS, checkpoint.CONFIG),
    "clip": (checkpoint.WEIGHTS, checkpoint.CONFIG, "tokenizer.json"),  # the last where it has one
    "bank": (BANK,),
}
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def export_hf(name: str | Path, out: str | Path, shard_bytes: int = SHARD_BYTES) -> Path:
    """Write a shipped model or a model folder for transformers; returns the new folder.

    Weights keep the type they are stored in; `config.json` asks for float32, in which we compute.
    Raises UserError when `out` exists, when the model is broken or its tokenizers are others than
    it was trained with, and when the disk is full; nothing is left behind then.
    """
    from cm3leon.loading import Beside, check_fit, find_model, home_of
    from cm3leon.tokenizers.text import TextTokenizer

    source, out = find_model(name), Path(out)
    check_free(out)
    home = home_of(source)
    text_file, vq = home / "text" / "tokenizer.json", home / "vq"
    text, about = TextTokenizer.load(text_file), checkpoint.read_about(vq)
    model, extra = mapped_model(source)
    vq_config = from_dict(VQConfig, about["config"])
    check_fit(source, model.config, extra, Beside(home, text, vq_config, checkpoint.digest(vq)))
    parts = carried(home, extra)
    config = to_opt_config(model.config)
    config[OURS] |= {"name": source.name, "sha256": checkpoint.digest(source), "extra": extra}
    vocabulary = Vocabulary.from_config(model.config.vocabulary)
    files = tokenizer_files(text_file.read_bytes(), vocabulary, model.config.context)
    files |= {
        "config.json": as_json(config),
        "generation_config.json": as_json(generation_config(config, extra)),
        "README.md": card(source.name, model.config, vq_config, extra, config[OURS]["sha256"]),
    }
    with new_folder(out) as folder:
        for part in parts:
            copy_files(home / part, folder / part, PARTS[part])
        text.save(folder / "text")  # its digest too, which may have been lost
        for file, content in files.items():
            (folder / file).write_text(content, encoding="utf-8")
        tensors = to_opt_state_dict(model)
        if model.config.tied:
            del tensors[HEAD]
        write_shards(folder, tensors, shard_bytes)
        write_sums(folder)
    return out


def carried(home: Path, extra: dict) -> list[str]:
    """The parts beside a model that go with it; UserError when CLIP or bank are damaged.

    A bank that a training was given by its path may be of any size, and stays where it is.
    """
    if "retrieval" not in extra:
        return ["text", "vq"]
    if "bank" in extra:
        note(
            f"its CLIP ({extra['clip']['name']}) and memory bank ({extra['bank']['cache']}) stay "
            "where they are; elsewhere name a --bank, or ask for --documents 0"
        )
        return ["text", "vq"]
    check_digest(home / "clip", checkpoint.read_about(home / "clip"))
    unpack(home / "bank" / BANK)
    return list(PARTS)


def import_hf(
    source: str | Path,
    out: str | Path,
    vocabulary: VocabularyConfig | None = None,
    tokenizers: Path | None = None,
) -> Path:
    """Read such a folder, or a plain OPT of our kind, into a model folder; returns it.

    What an export of ours brings along (`text/`, `vq/`, `clip/`, `bank/`) is put into `out`.
    `vocabulary` says which ids mean what for a plain OPT, `tokenizers` where its `text/` and `vq/`
    are; without both they must lie beside `out`. Raises UserError when `out` exists, for files that
    are damaged or weights that are not finite, when the tokenizers are not those of the model, and
    for any network that is not ours.
    """
    from cm3leon.loading import Beside, check_fit
    from cm3leon.tokenizers.folder import load_tokenizer
    from cm3leon.tokenizers.text import TextTokenizer

    source, out = Path(source), Path(out)
    check_free(out)
    check_sums(source)
    values = checkpoint.read_json(source / checkpoint.CONFIG)
    ours = values.get(OURS)
    try:
        config = from_opt_config(values, vocabulary, out.name)
        state = from_opt_state_dict(read_shards(source), config)
        check_finite(state)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    extra = dict(ours.get("extra") or {}) if isinstance(ours, dict) else {}
    home = find_tokenizers(source, out.parent, tokenizers)
    text, vq = TextTokenizer.load(home / "text"), load_tokenizer(home / "vq")
    digests = {"text": text.digest, "vq": vq.sha256}
    extra = {f"{part}_sha256": digests[part] for part in digests} | extra
    check_fit(source, config, extra, Beside(home, text, vq.config, vq.sha256))
    parts = {part: home for part in ("text", "vq") if home != out.parent}
    if "retrieval" in extra and "bank" not in extra:
        if all((source / part).is_dir() for part in PARTS):
            parts |= {part: source for part in carried(source, extra) if part not in ("text", "vq")}
        else:
            note(f"{source} has no clip/ and bank/ to retrieve from; ask for --documents 0")
    with new_folder(out) as folder:
        for part, place in parts.items():
            copy_files(place / part, folder / part, PARTS[part])
        write_checkpoint(folder, config, state, extra)
    return out


def find_tokenizers(source: Path, beside: Path, named: Path | None) -> Path:
    """The folder with `text/` and `vq/`: named, the source itself, or the one around the model."""
    if named is not None:
        return named
    for home in (source, beside):
        if (home / "text").is_dir() or (home / "vq").is_dir():
            return home
    raise UserError(
        f"{source} brings no text/ and vq/ along, without which it cannot draw; name their folder "
        "with --tokenizers"
    )


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError naming the first tensor that holds NaN or infinity."""
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"{name} holds NaN or infinity; the file is damaged, or its training")


def write_sums(folder: Path) -> None:
    """The digests of all files of a folder, as `sha256sum` writes them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path) -> None:
    """Raise UserError unless what `SHA256SUMS` names is there, byte for byte.

    Not checked is what an import does not read, and what other libraries have written anew: for
    that there is no digest.
    """
    path = folder / SUMS
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
        digest, _, name = line.partition("  ")
        if rewritten(folder / name) or not is_read(name):
            continue
        try:
            same = sha256_file(folder / name) == digest
        except OSError:
            same = False
        if not same:
            raise UserError(
                f"{folder / name} is missing or not what {SUMS} names; copy it again (or remove "
                f"{SUMS}, if it was changed on purpose)"
            )


def is_read(name: str) -> bool:
    """Whether an import reads a file of an export."""
    return "/" in name or name in (checkpoint.CONFIG, INDEX) or name.endswith(".safetensors")


def rewritten(path: Path) -> bool:
    """Whether another library wrote this file anew: weights without our note in their header, a
    configuration with transformers' version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.parent.name in PARTS:
            return False
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return OURS not in (file.metadata() or {})
        named = path.name == checkpoint.CONFIG
        return named and "transformers_version" in checkpoint.read_json(path)
    except (SafetensorError, OSError, UserError):
        return False


def mapped_model(folder: Path):
    """A Transformer whose weights are the mapped file's, in their stored type; and its extra.

    Nothing is read before it is used. Raises UserError as `checkpoint.load` does.
    """
    import torch

    from cm3leon.model.transformer import Transformer

    about = checkpoint.read_about(folder)
    if about["kind"] != "transformer":
        raise UserError(f"{folder} holds a {about['kind']!r}, not a 'transformer'; name a model")
    check_digest(folder, about)
    tensors = read_shards(folder)
    with torch.device("meta"):
        model = Transformer(from_dict(ModelConfig, about["config"]))
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: config.json and weights do not fit: {reason}") from None
    return model.eval(), about["extra"]


def check_digest(folder: Path, about: dict) -> None:
    """Raise UserError unless a checkpoint's weights are those that its config.json names."""
    for file, sha256 in checkpoint.listed_files(folder, about["sha256"]).items():
        try:
            found = sha256_file(folder / file)
        except OSError as error:
            raise UserError(
                f"cannot read {folder / file}: {error.strerror}; name a checkpoint folder"
            ) from None
        if found != sha256:
            raise UserError(
                f"{folder / file} has digest {found[:12]}, its description names {sha256[:12]}; "
                "copy or train it again"
            )


def mapped(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, mapped into memory, under all their names (`other_names`).

    Raises UserError when it is missing or torn.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_weights_file(path)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            names = other_names(file.metadata(), tensors)
    except UserError:
        raise
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}; copy it again") from None
    return tensors | {name: tensors[kept] for name, kept in names.items()}


def read_shards(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder of Hugging Face's layout, mapped; UserError for pickled weights."""
    one, index = folder / checkpoint.WEIGHTS, folder / INDEX
    if one.is_file():
        return mapped(one)
    if not index.is_file():
        pickled = [name for name in PICKLED if (folder / name).is_file()]
        if pickled:
            raise UserError(
                f"{pickled[0]} is pickled, which is never loaded; save it as safetensors first"
            )
        raise UserError(f"no {checkpoint.WEIGHTS} there; name a folder of save_pretrained")
    places = checkpoint.read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in places.values()
    ):
        raise UserError(f"{INDEX} has no weight_map of file names; copy the folder again")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        tensors |= mapped(folder / name)
    if different := sorted(set(places) ^ set(tensors)):
        raise UserError(f"{INDEX} and its files differ in {different[0]!r}; copy the folder again")
    return tensors


def write_shards(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int) -> None:
    """One safetensors file, or as many as keep each below `shard_bytes`, with their index."""
    shards = split(tensors, shard_bytes)
    if len(shards) == 1:
        write_tensors(folder / checkpoint.WEIGHTS, shards[0])
        return
    places, total = {}, 0
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / name, shard)
        places |= dict.fromkeys(shard, name)
        total += sum(value.nbytes for value in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX).write_text(as_json(index), encoding="utf-8")


def split(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[dict[str, Tensor]]:
    """Tensors in order, in groups of at most `shard_bytes`; a larger tensor stands alone."""
    if shard_bytes < 1:
        raise UserError(f"a shard must hold at least 1 byte, got {shard_bytes}")
    shards: list[dict[str, Tensor]] = [{}]
    held = 0
    for name, value in tensors.items():
        if shards[-1] and held + value.nbytes > shard_bytes:
            shards.append({})
            held = 0
        shards[-1][name] = value
        held += value.nbytes
    return shards


def write_tensors(path: Path, tensors: Mapping[str, Tensor], note: bool = True) -> None:
    """One safetensors file of the tensors where they lie; `note` is what transformers asks for."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        noted = {"format": "pt", OURS: "export"} if note else None
        save_file(dict(tensors), path, metadata=noted)
        sort_header(path)
    except SafetensorError as error:
        raise UserError(f"cannot write {path.name}: {error}; free space") from None


def sort_header(path: Path) -> None:
    """Put the notes in a safetensors file's header into order: the library writes them as they lie
    in memory, another way each time.
    """
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if notes := header.get("__metadata__"):
            header["__metadata__"] = dict(sorted(notes.items()))
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            if len(text) <= size:
                file.seek(8)
                file.write(text.ljust(size))


def write_checkpoint(
    folder: Path, config: ModelConfig, state: Mapping[str, Tensor], extra: dict
) -> None:
    """Our own checkpoint, as `checkpoint.save` writes it but without a copy in memory."""
    path = folder / checkpoint.WEIGHTS
    write_tensors(path, {name: value.contiguous() for name, value in state.items()}, note=False)
    about = {
        "format": checkpoint.FORMAT,
        "kind": "transformer",
        "config": to_dict(config),
        "sha256": sha256_file(path),
        "extra": extra,
    }
    checkpoint.write_about(folder / checkpoint.CONFIG, about)


def generation_config(config: dict, extra: dict) -> dict:
    """How transformers draws by default: our ids, temperature and top-p; it has no guidance."""
    decode = from_dict(DecodeConfig, extra.get("decode", {}))
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    warm = {"temperature": decode.temperature, "top_p": decode.top_p}
    return ids | {"do_sample": decode.temperature > 0} | (warm if decode.temperature > 0 else {})


def copy_files(source: Path, target: Path, names) -> None:
    """Copy those files of one folder that are there into another, which is made."""
    target.mkdir(exist_ok=True)
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def as_json(value) -> str:
    """JSON as our checkpoints have it."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
