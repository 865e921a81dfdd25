"""`cm3leon doctor`: what this machine has, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from cm3leon.errors import UserError
from cm3leon.files import baselines_folder


@dataclass(frozen=True)
class Doctor:
    """Say what this machine has and what is missing; exit code 2 when something needed is."""

    def run(self) -> int:
        """One line a fact; what is missing starts with `!`."""
        facts = [*package_facts(), *device_facts(), *weight_facts(), disk_fact()]
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


def disk_fact() -> str:
    """Free space where results and drawings go."""
    return f"disk          {shutil.disk_usage('.').free / 1e9:.1f} GB free in {Path.cwd()}"
