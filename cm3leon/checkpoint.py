"""Weights on disk: `model.safetensors` and, written after it, `config.json` that names its digest
and carries its own. Weights of more than `SHARD_BYTES` lie in several files, as Hugging Face's; the
index that lists them names their digests, and `config.json` that of the index.

Never pickle. A folder that does not fit what was asked for gives one line and no tensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cm3leon.config import to_dict
from cm3leon.errors import UserError
from cm3leon.files import parse_json, read_file, sha256_bytes, sha256_file, write_atomic

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # of several files
MAPPED_BYTES = 2**30  # of a file of weights above which it is mapped
SHARD_BYTES = 5 * 10**9  # of a file of weights, at the most, unless one tensor alone is larger
CONFIG = "config.json"
STATE = "state.json"
INCOMPLETE = ".incomplete"  # how the names of folders end that processes still fill
OWN = "about_sha256"  # in both: the digest of all else in them
KINDS = {"format": int, "kind": str, "config": dict, "sha256": str, "extra": dict}
FORMAT = 1


def save(
    folder: str | Path,
    kind: str,
    config,
    tensors: Mapping[str, torch.Tensor],
    extra: dict | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """Write a checkpoint and return the SHA-256 that names its weights.

    `config` is a dataclass or a plain dict; `dtype` (e.g. torch.bfloat16) is the type in which
    floating tensors are stored, None keeps each one's own. Integers keep theirs always.
    Raises UserError when the folder cannot be written.
    """
    folder = Path(folder)
    files = weight_files({name: stored_bytes(value, dtype) for name, value in tensors.items()})
    digests = {
        file: write_tensors(folder / file, {name: tensors[name] for name in names}, dtype)
        for file, names in files.items()
    }
    return finish(folder, kind, config, files, digests, extra)


def finish(
    folder: Path,
    kind: str,
    config,
    files: Mapping[str, list[str]],
    digests: Mapping[str, str],
    extra: dict | None = None,
) -> str:
    """The end of `save`, where the files of weights (`weight_files`) lie in the folder."""
    digest = digests.get(WEIGHTS)
    if digest is None:
        places = {name: file for file, names in files.items() for name in names}
        total = sum((folder / file).stat().st_size for file in files)
        about = {"total_size": total, "sha256": dict(digests)}
        index = json.dumps({"metadata": about, "weight_map": places}, indent=2)
        write_atomic(folder / INDEX, index + "\n")
        digest = sha256_bytes(index.encode() + b"\n")
    about = {
        "format": FORMAT,
        "kind": kind,
        "config": to_dict(config) if is_dataclass(config) else dict(config),
        "sha256": digest,
        "extra": dict(extra or {}),
    }
    write_about(folder / CONFIG, about)
    for old in [folder / WEIGHTS, folder / INDEX, *folder.glob("model-*-of-*.safetensors")]:
        if old.name not in digests and (old.name != INDEX or WEIGHTS in digests):
            old.unlink(missing_ok=True)
    return digest


def stored_bytes(value: torch.Tensor, dtype: torch.dtype | None) -> int:
    """Bytes of a tensor as `save` stores it."""
    cast = dtype if dtype is not None and value.is_floating_point() else value.dtype
    return value.numel() * cast.itemsize


def weight_files(sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """File -> names of its tensors, of so many bytes each: all in `model.safetensors`, or in order
    in as few files as keep each below `SHARD_BYTES`.
    """
    parts: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if parts[-1] and held + size > SHARD_BYTES:
            parts.append([])
            held = 0
        parts[-1].append(name)
        held += size
    if len(parts) == 1:
        return {WEIGHTS: parts[0]}
    return {
        f"model-{number:05d}-of-{len(parts):05d}.safetensors": names
        for number, names in enumerate(parts, 1)
    }


def load(folder: str | Path, kind: str) -> tuple[dict, dict[str, torch.Tensor], dict]:
    """Read a checkpoint of `kind`: (config, tensors on the CPU in their stored type, extra).

    Raises UserError for a missing file, torn JSON, another kind or format, or weights whose
    digest is not the one `config.json` names.
    """
    folder = Path(folder)
    about = read_about(folder)
    if about["kind"] != kind:
        raise UserError(f"{folder} holds a {about['kind']!r}, not a {kind!r}; name another folder")
    tensors = {}
    for file, sha256 in listed_files(folder, about["sha256"]).items():
        tensors |= read_tensors(folder / file, sha256)
    return about["config"], tensors, about["extra"]


def listed_files(folder: Path, sha256: str) -> dict[str, str]:
    """The files of weights in a folder -> their digests, by the digest that names the weights.

    Raises UserError for an index that is missing, damaged or names files elsewhere.
    """
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return {WEIGHTS: sha256}
    found = digest(folder)
    if found != sha256:
        raise UserError(
            f"{folder / INDEX} has digest {found[:12]}, its config.json names {sha256[:12]}; "
            "copy or train it again"
        )
    files = read_json(folder / INDEX)["metadata"]["sha256"]
    if strange := [file for file in files if Path(file).name != file]:
        raise UserError(f"{folder / INDEX} names {strange[0]!r}; copy the folder again")
    return files


def read_about(folder: str | Path) -> dict:
    """The checked content of a checkpoint's `config.json`, without reading the weights."""
    path = Path(folder) / CONFIG
    about = read_own(path, KINDS, "it is not a cm3leon checkpoint")
    if about["format"] != FORMAT:
        raise UserError(f"{path} has format {about['format']}, this version reads {FORMAT}")
    return about


def total_cost(extra: Mapping) -> dict[str, float]:
    """Queries, tokens and FLOPs of a model's training, with those of the training of the same kind
    that it goes on from; nothing for a model that does not say.
    """
    before = extra.get("before", {})
    return {key: float(value + before.get(key, 0)) for key, value in extra.get("cost", {}).items()}


def digest(folder: str | Path) -> str:
    """SHA-256 (hex) that names a checkpoint's weights: of their file, or the index of several."""
    path = Path(folder) / WEIGHTS
    if not path.exists() and path.with_name(INDEX).exists():
        path = path.with_name(INDEX)
    try:
        return sha256_file(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; name a checkpoint folder") from None


def module_digest(module: torch.nn.Module) -> str:
    """SHA-256 of a module's tensors as safetensors bytes: names the weights actually in memory."""
    return sha256_bytes(to_bytes(module.state_dict()))


def load_into(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors into a module of the same names and shapes, cast to the module's types.

    Raises UserError naming the first missing, unexpected or mis-shaped tensor; the module is
    unchanged then.
    """
    import torch

    own = module.state_dict()
    name = type(module).__name__
    for key, value in own.items():
        if key not in tensors:
            raise UserError(f"the weights have no {key!r}, which this {name} needs")
        if tensors[key].shape != value.shape:
            ours, theirs = tuple(value.shape), tuple(tensors[key].shape)
            raise UserError(f"{key!r} has shape {theirs} in the weights, {ours} in this {name}")
    if strange := sorted(set(tensors) - set(own)):
        raise UserError(f"the weights have {strange[0]!r}, which this {name} has not")
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(tensors[key])


def save_state(
    folder: Path,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict,
    position: dict,
    keep: bool = False,
) -> None:
    """Write the state of a training: tensors first, then the file that names them.

    `position` (with "step") is where the run stands, `identity` which run it is. A kill at any
    moment leaves the old state or the new one; older tensors are removed at the end, but for
    those of a state that was written with `keep`: `state-<step>.json` names them too.
    """
    names = {parameter: name for name, parameter in module.named_parameters()}
    tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
    for parameter, state in optimizer.state.items():
        tensors |= {f"optimizer/{names[parameter]}/{key}": value for key, value in state.items()}
    name = state_file(folder, position["step"]).name
    digest = write_tensors(folder / name, tensors)
    about = {"tensors": name, "sha256": digest, "position": position, "identity": identity}
    finish_state(folder, about, keep)


def finish_state(folder: Path, about: dict, keep: bool) -> None:
    """Name the tensors of a state, which lie in the folder; older ones go, but for kept ones."""
    name = about["tensors"]
    if keep:
        write_about(folder / Path(name).with_suffix(".json"), about, allow_nan=True)
    write_about(folder / STATE, about, allow_nan=True)  # what an older state did not count
    for old in [*folder.glob("state-*"), *folder.glob(".state*")]:
        kept = old.suffix != INCOMPLETE and old.with_suffix(".json").exists()
        if old.suffix == ".json" or old.name == name or kept:
            continue
        if old.is_dir():  # of many processes
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def state_file(folder: Path, step: int) -> Path:
    """Where the tensors of a step's state lie; those of a kept one are named by a .json beside."""
    return folder / f"state-{step:08d}.safetensors"


def described_in(path: Path) -> Path:
    """The description of a state: a state's file itself, or that in a folder, which another process
    may make at any moment.
    """
    return path if path.is_file() else path / STATE


def load_state(
    path: Path,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict,
    check: Callable[[dict, dict, Path], None] | None = None,
) -> dict | None:
    """Restore module and optimiser from a state's file, or from that in a folder of `save_state`,
    and return the position; None when there is none.

    Raises UserError naming the first field in which the stored identity differs (or what
    `check(state, identity, folder)` raises instead), or for a damaged state.
    """
    path = described_in(path)
    if not path.exists():
        return None
    about, folder = read_state(path), path.parent
    if check:
        check(about, identity, folder)
    else:
        refuse_other(about["identity"], identity, folder)
    way = "train into a new folder, or decay from a kept state"
    tensors = read_tensors(folder / about["tensors"], about["sha256"], way)
    load_into(module, _below(tensors, "module/"))
    for name, parameter in module.named_parameters():
        if found := _below(tensors, f"optimizer/{name}/"):
            optimizer.state[parameter] = {
                key: _like(parameter, value) for key, value in found.items()
            }
    return about["position"]


def read_state(path: Path) -> dict:
    """The checked content of a state's file, without reading its tensors."""
    kinds = {"tensors": str, "sha256": str, "position": dict, "identity": dict}
    return read_own(path, kinds, "name a new folder")


def write_about(path: Path, about: Mapping, allow_nan: bool = False) -> None:
    """Write a JSON object with its own digest in it, atomically."""
    plain = {key: value for key, value in about.items() if key != OWN}
    text = json.dumps(plain | {OWN: own_digest(plain)}, indent=2, allow_nan=allow_nan)
    write_atomic(path, text + "\n")


def read_own(path: Path, kinds: Mapping[str, type], way_out: str) -> dict:
    """The JSON object in a file of `write_about`, which has values of these kinds and no other.

    Raises UserError, which ends in `way_out`, for anything else, and where the file is not what was
    written; one that is older than such digests has none.
    """
    about = read_json(path)
    found = about.pop(OWN, None)
    for key, expected in kinds.items():
        if not isinstance(about.get(key), expected):
            raise UserError(f"{path} has no {expected.__name__} {key!r}; {way_out}")
    if strange := sorted(set(about) - set(kinds)):
        raise UserError(f"{path} has {strange[0]!r}, which is unknown; {way_out}")
    if found is not None and found != own_digest(about):
        raise UserError(
            f"{path} is not what was written: its digest does not fit; copy it again (or remove "
            f"{OWN} in it, if it was changed on purpose)"
        )
    return about


def own_digest(about: Mapping) -> str:
    """SHA-256 of a JSON object, whatever its layout."""
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))
    return sha256_bytes(text.encode())


def _like(parameter: torch.nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """An optimiser's tensor as it was: on the parameter's device, in the parameter's layout.

    Fused optimisers walk through memory and trust that both lie in the same order
    (channels_last or not).
    """
    import torch

    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _below(tensors: Mapping[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `start`, under what follows it."""
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}


def refuse_other(stored: dict, wanted: dict, folder: Path, above: str = "") -> None:
    """Raise for the first field, in the order of the new identity, that differs."""
    for key in [*wanted, *(key for key in stored if key not in wanted)]:
        old, new = stored.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            refuse_other(old, new, folder, f"{above}{key}.")
        elif old != new:
            raise UserError(
                f"{folder} was begun with {above}{key} = {old!r}, this run has {new!r}; "
                "use the same value or another folder"
            )


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None
) -> str:
    """Write one safetensors file atomically; returns the SHA-256 of its bytes."""
    data = to_bytes(tensors, dtype)
    write_atomic(path, data)
    return sha256_bytes(data)


def read_tensors(
    path: Path, sha256: str, way_out: str = "copy or train it again"
) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file; UserError, which ends in `way_out`, of another digest.

    Those of a file above `MAPPED_BYTES` stay in it until they are used: weights of many gigabytes
    are never all in memory beside the model that they are copied into.
    """
    import safetensors
    from safetensors.torch import load, load_file

    try:
        large = path.stat().st_size > MAPPED_BYTES
        data = None if large else read_file(path)
        found = sha256_file(path) if large else sha256_bytes(data)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {way_out}") from None
    if found != sha256:
        raise UserError(
            f"{path} has digest {found[:12]}, its description names {sha256[:12]}; {way_out}"
        )
    try:
        return load_file(path) if large else load(data)
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path} is no safetensors file: {error}") from None


def to_bytes(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None) -> bytes:
    """Safetensors bytes; a function of names, types and values alone."""
    from safetensors.torch import save as pack

    plain, seen = {}, set()
    for key, value in tensors.items():
        value = value.detach().to("cpu")
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        value = value.contiguous()
        storage = value.untyped_storage().data_ptr()
        # safetensors refuses two names for one memory (tied weights), so the second is copied
        plain[key] = value.clone() if storage in seen else value
        seen.add(storage)
    return pack(plain)


def read_json(path: Path) -> dict:
    """A JSON object from a file; UserError naming the file (and the place, when it is torn)."""
    try:
        text = read_file(path).decode()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; name an existing file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text at byte {error.start}") from None
    value = parse_json(text, path)
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
