"""Weight files of other projects, read without running anything that is in them.

safetensors hold nothing but tensors. Of `.ckpt`, `.pt`, `.pth` and `.bin` torch's restricted reader
(`weights_only=True`) takes tensors and plain containers. Trainings often left settings beside the
weights (Lightning's callbacks, omegaconf's configurations, argparse's options), for which that
reader refuses the file; those few kinds are replaced by an empty shell, anything else is refused.
Of a TorchScript archive (OpenAI's CLIPs are such) the tensors are read by a reader of our own: the
program beside them is neither compiled nor run.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from cm3leon.errors import UserError
from cm3leon.files import check_unpacked, open_file, sha256_file

SETTINGS = ("argparse", "collections", "lightning", "lightning_fabric", "numpy", "omegaconf")
SETTINGS += ("pathlib", "pytorch_lightning", "typing")  # top packages of what becomes a shell
PLAIN = {f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple")}


class Shell:
    """Stands for an object of another package: takes whatever it is given, keeps nothing."""

    def __init__(self, *given, **named):
        pass

    def __setstate__(self, state):
        pass


def read_weights(path: str | Path, choose: Callable[[list[str]], list[str]] = list):
    """What a weight file holds: a dict of tensors, or the containers of a training's checkpoint.

    Also a folder of safetensors, as transformers writes them; `choose` picks those names of
    safetensors that are read. Raises UserError for a missing, truncated or unsafe file.
    """
    path = Path(path)
    try:
        for file in _files(path):
            check_weights_file(file)
        if path.is_dir() or path.suffix == ".safetensors":
            return _read_safetensors(path, choose)
        if is_program(path):
            return program_tensors(path)
        return _read_torch(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def check_weights_file(path: str | Path) -> None:
    """Raise UserError for what is often found in the place of weights, and called by its name."""
    with open_file(path) as file:
        start = file.read(200).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a Git LFS pointer, not the file itself; run git lfs pull there")
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise UserError(f"{path} is a web page, not weights; download the file itself")
    if not start:
        raise UserError(f"{path} is empty; get it again")


def digests(path: str | Path) -> dict[str, str]:
    """File name -> SHA-256 of a weight file, or of every safetensors file of a folder."""
    return {file.name: sha256_file(file) for file in _files(Path(path))}


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if files := sorted(path.glob("*.safetensors")):
        return files
    raise UserError(f"{path} holds no .safetensors; name a weight file")


def _read_safetensors(path: Path, choose: Callable[[list[str]], list[str]]) -> dict:
    from safetensors import SafetensorError, safe_open

    where: dict[str, Path] = {}
    kept: dict[str, str] = {}
    found: dict = {}
    for file in _files(path):
        try:
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
                kept |= dict.fromkeys(names) | other_names(opened.metadata(), names)
                where |= dict.fromkeys(kept.keys() - where.keys(), file)
        except SafetensorError as error:
            raise UserError(f"{file} is truncated or no safetensors file: {error}") from None
    chosen = choose(list(where))
    for file in sorted({where[name] for name in chosen}):
        with safe_open(file, framework="pt") as opened:
            own = [name for name in chosen if where[name] == file]
            found |= {name: opened.get_tensor(kept[name] or name) for name in own}
    return found


def other_names(metadata: Mapping[str, str] | None, names: Collection[str]) -> dict[str, str]:
    """Further name -> name in the file of tensors that stand for two, as
    `safetensors.torch.save_model` notes them in a file's metadata.
    """
    noted = (metadata or {}).items()
    return {name: kept for name, kept in noted if kept in names and name not in names}


def _read_torch(path: Path):
    import torch
    from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

    with open_file(path) as file:
        start = file.read(4)
    whole = zipfile.is_zipfile(path)
    if start == b"PK\x03\x04" and not whole:
        raise UserError(f"{path} is truncated: its list of contents is missing; copy it again")
    check_unpacked(path)
    try:
        if whole:
            with zipfile.ZipFile(path) as archive:
                if (torn := archive.testzip()) is not None:
                    raise UserError(f"{path} is damaged: {torn} fails its CRC; copy it again")
        names = get_unsafe_globals_in_checkpoint(path) if whole else []
        with safe_globals([_shell(name, path) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=whole)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} cannot be read safely: {_reason(str(error))}") from None
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged file makes the reader stumble over anything
        raise UserError(f"{path} is truncated or no weight file: {_line(str(error))}") from None


def _shell(name: str, path: Path) -> type:
    """An empty class under the name of a harmless one; UserError for any other."""
    module, _, kind = name.rpartition(".")
    if name.split(".")[0] not in SETTINGS and name not in PLAIN:
        raise UserError(
            f"{path} would call {name} when it is opened; save its weights alone, as safetensors"
        )
    return type(kind, (Shell,), {"__module__": module, "__qualname__": kind})


def is_program(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def program_text(path: str | Path) -> str:
    """The source of the program in a TorchScript archive, which tells what it computes."""
    check_unpacked(path)
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
        return "\n".join(archive.read(name).decode("utf-8", "replace") for name in names)


def program_tensors(path: str | Path) -> dict:
    """Parameters and buffers of a TorchScript archive by name; UserError for a damaged one."""
    check_unpacked(path)
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                whole = _ProgramReader(file, archive, name.removesuffix("data.pkl")).load()
            return dict(_named_tensors(whole, ""))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # a damaged archive makes the reader stumble over anything
        raise UserError(f"{path} is no TorchScript archive: {_line(str(error))}") from None


class _Module:
    """A module of an archive: its attributes alone."""

    def __setstate__(self, state):
        if not isinstance(state, dict):
            raise UserError("the archive has a module that only its program can read")
        self.attributes = state


class _ProgramReader(pickle.Unpickler):
    """Reads the attributes of modules, and storages as the tensors need them."""

    def __init__(self, file, archive: zipfile.ZipFile, prefix: str):
        super().__init__(file)
        self.archive, self.prefix = archive, prefix
        self.storages: dict[str, object] = {}

    def find_class(self, module: str, name: str):
        """Modules become `_Module`, tensors are rebuilt; UserError for anything else."""
        import torch

        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name.endswith("Storage"):
            return name.removesuffix("Storage").lower()
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda flat, offset, size, stride, *_: torch.as_strided(
                flat, size, stride, offset
            ).clone()
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":
            return lambda value, *_: value  # lists of numbers, and types that are told twice
        raise UserError(f"the archive would call {module}.{name}; save its weights as safetensors")

    def persistent_load(self, told):
        """The flat tensor of a storage."""
        import torch

        _, kind, key, *_ = told
        dtype = getattr(torch, {"char": "int8", "byte": "uint8"}.get(kind, kind))
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.prefix}data/{key}"))
            self.storages[key] = (
                torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            )
        return self.storages[key]


def _named_tensors(module: _Module, prefix: str):
    """(dotted name, tensor) of a module and those inside."""
    import torch

    for name, value in module.attributes.items():
        if isinstance(value, _Module):
            yield from _named_tensors(value, f"{prefix}{name}.")
        elif torch.is_tensor(value):
            yield prefix + name, value


def _reason(text: str) -> str:
    """Of torch's advice on unsafe files the line that names the fault."""
    told = [line for line in text.splitlines() if "GLOBAL" in line]
    return _line(told[0] if told else text.partition("Unpickler error:")[2] or text)


def _line(text: str) -> str:
    """The first line of a message, shortened."""
    return (text.strip().splitlines() or ["no reason given"])[0][:160]
