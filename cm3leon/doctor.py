"""`cm3leon doctor`: what this machine has, what is missing, and the command that gets it.

A line that starts with `!` is a fault (exit code 2), one with `-` something that a benchmark lacks.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from cm3leon.errors import UserError
from cm3leon.files import baselines_folder, sha256_file
from cm3leon.known_weights import HASHED, KNOWN, find, how_to_get

REPORT = ("jsonschema", "matplotlib", "pandas", "scipy", "threadpoolctl")
BENCH = (*REPORT, "clean-fid", "pycocotools", "torchmetrics", "torchvision")
TOKENIZERS = ("text", "vq")
RETRIEVAL = ("clip", "bank", *TOKENIZERS)


@dataclass(frozen=True)
class Need:
    """What a benchmark asks for besides the package itself."""

    packages: tuple[str, ...] = BENCH
    extra: str = "bench,report"  # of pyproject.toml, which brings them
    shipped: tuple[str, ...] = ()  # folders under baselines/scenes/
    weights: tuple[str, ...] = ()  # keys of KNOWN
    files: str = ""  # the user's own, named on the command line


COCO = "MS-COCO 2014 from cocodataset.org; pass --coco-root FOLDER (annotations/ and val2014/)"
CIFAR = "CIFAR-10 in binary form, from cs.toronto.edu/~kriz; pass --cifar10 FOLDER"
NEEDS: dict[str, Need] = {
    "fid_coco": Need(shipped=("scenes-s", *TOKENIZERS, "features")),
    "fid_coco --data coco": Need(
        shipped=("features",), weights=("inception", "clip-openai"), files=COCO
    ),
    "fid_coco --protocol NAME": Need(weights=("inception",), files=COCO),
    "fid_coco --system diffusers:FOLDER": Need(("diffusers", "transformers"), "diffusers"),
    "fid_coco --system transformers:FOLDER": Need(("transformers",), "transformers"),
    "rfid": Need(shipped=("vq", "features")),
    "verify_fid": Need(),
    "verify_fid of published files": Need(
        weights=("inception", "inception-jit", "clip-openai", "dinov2"), files=CIFAR
    ),
    "latency": Need(shipped=("scenes-s", *TOKENIZERS)),
    "ablate_retrieval": Need(shipped=("scenes-s", "scenes-s-documents", "features", *RETRIEVAL)),
    "ablate_decoding": Need(
        shipped=("scenes-xs", "scenes-s", "scenes-s-documents", "features", *RETRIEVAL)
    ),
    "ablate_pretraining": Need(shipped=("features", *RETRIEVAL)),
}


@dataclass(frozen=True)
class Doctor:
    """Say what this machine has and what is missing; exit code 2 when something needed is."""

    def run(self) -> int:
        """One line a fact; what is missing starts with `!`."""
        facts = [*package_facts(), *device_facts(), *weight_facts(), *known_facts(), disk_fact()]
        facts += benchmark_facts()
        print("\n".join(facts))
        return 2 if any(fact.startswith("!") for fact in facts) else 0


def package_facts() -> list[str]:
    """Versions of Python, of this package and of what it computes with."""
    from importlib import metadata

    from cm3leon import __version__

    facts = [f"python        {platform.python_version()}", f"cm3leon       {__version__}"]
    for name in (
        "torch",
        "numpy",
        "safetensors",
        "tokenizers",
        "pillow",
        "faiss-cpu",
        "open_clip_torch",
    ):
        try:
            facts.append(f"{name:13} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            facts.append(f"! {name} is not installed; pip install {name}")
    return facts


def device_facts() -> list[str]:
    """What torch can compute on."""
    try:
        import torch
    except ImportError as error:
        return [f"! torch cannot be imported: {error}; see constraints.txt for a version that fits"]
    from cm3leon.config import TrainConfig
    from cm3leon.train import precision

    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    able = precision(TrainConfig(), "cuda" if cuda else "cpu") is torch.bfloat16
    return [
        f"device        {'cuda' if cuda else 'cpu'} ({name})",
        f"threads       {torch.get_num_threads()} of {os.cpu_count()} cores",
        f"bfloat16      {'in hardware' if able else 'not in hardware: training uses float32'}",
    ]


def weight_facts() -> list[str]:
    """Every checkpoint under `baselines/scenes/`, with its digest checked."""
    from cm3leon.checkpoint import digest, read_about

    try:
        home = baselines_folder() / "scenes"
    except UserError as error:
        return [f"! {error}"]
    facts = []
    for folder in sorted(path.parent for path in home.glob("*/config.json")):
        try:
            about, found = read_about(folder), digest(folder)
        except UserError as error:
            facts.append(f"! {error}")
            continue
        torn = about["sha256"] != found
        mark, end = ("! ", ", not what its config.json names") if torn else ("", "")
        facts.append(
            f"{mark}weights       {folder.name} ({about['kind']}) sha256 {found[:16]}{end}"
        )
    return facts or [f"! no weights under {home}; run `nox -s train_baselines`"]


def known_facts() -> list[str]:
    """Every file of public weights: where it is and its digest, or that it is nowhere."""
    facts = []
    for key, known in KNOWN.items():
        try:
            path = find(key)
            facts.append(
                f"- weights     {key} ({known.what}) not found; ${known.variable} can name it"
                if path is None
                else known_fact(key, path)
            )
        except (UserError, OSError) as error:
            facts.append(f"! {error}")
    return facts


def known_fact(key: str, path: Path) -> str:
    """Place and digest of weights that were found; a digest that differs is a fault."""
    if path.is_dir():
        return f"weights       {key} in {path}"
    size = path.stat().st_size
    if size > HASHED:
        return f"weights       {key} in {path}, {size / 1e9:.1f} GB, too large to check here"
    digest, wanted = sha256_file(path), KNOWN[key].sha256
    if path.suffix in (".pt", ".pth") and not digest.startswith(wanted):
        return (
            f"! weights       {key} in {path} has sha256 {digest[:16]}, published is "
            f"{wanted[:16]}; get it again: {how_to_get(key)}"
        )
    return f"weights       {key} in {path} sha256 {digest[:16]}"


def benchmark_facts() -> list[str]:
    """Each benchmark: ready, or what it lacks and the command that gets it."""
    facts = []
    for name, need in NEEDS.items():
        missing = lacks(need)
        facts += [f"- {name} lacks {thing}; {command}" for thing, command in missing]
        if not missing:
            facts.append(
                f"benchmark     {name}: " + (f"needs {need.files}" if need.files else "ready")
            )
    return facts


def lacks(need: Need) -> list[tuple[str, str]]:
    """(What is missing, the command that gets it) of one benchmark."""
    missing = []
    if packages := [name for name in need.packages if not installed(name)]:
        missing.append((", ".join(packages), f"pip install -e '.[{need.extra}]'"))
    try:
        home = baselines_folder() / "scenes"
        shipped = [name for name in need.shipped if not (home / name).is_dir()]
    except UserError:
        shipped = list(need.shipped)
    if shipped:
        parts = " ".join(shipped)
        missing.append(
            (f"shipped {', '.join(shipped)}", f"nox -s train_baselines -- --parts {parts}")
        )
    for key in need.weights:
        try:
            found = find(key)
        except UserError:
            found = None  # a fault, said above
        if found is None:
            missing.append((f"weights {key} ({KNOWN[key].licence})", how_to_get(key)))
    return missing


def installed(name: str) -> bool:
    """Whether a package is installed, without importing it."""
    from importlib import metadata

    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def disk_fact() -> str:
    """Free space where results and drawings go."""
    return f"disk          {shutil.disk_usage('.').free / 1e9:.1f} GB free in {Path.cwd()}"
