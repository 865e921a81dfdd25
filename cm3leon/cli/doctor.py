"""`cm3leon doctor`: what this machine has, what is missing, and the command that gets it.

A line that starts with `!` is a fault (exit code 2), one with `-` something that a benchmark lacks.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cm3leon.errors import UserError
from cm3leon.files import baselines_folder, sha256_file
from cm3leon.interop.known_weights import HASHED, KNOWN, find, how_to_get

CORE = ("torch", "numpy", "safetensors", "tokenizers", "pillow", "faiss-cpu", "open_clip_torch")
REPORT = ("jsonschema", "matplotlib", "pandas", "scipy", "threadpoolctl")
BENCH = (*REPORT, "clean-fid", "pycocotools", "torchmetrics", "torchvision")
TOKENIZERS = ("text", "vq")
RETRIEVAL = ("clip", "bank", *TOKENIZERS)
WIDTH = 16  # of a line's first word


@dataclass(frozen=True)
class Need:
    """What a benchmark asks for besides the package itself."""

    packages: tuple[str, ...] = BENCH
    extra: str = "bench,report"  # of pyproject.toml, which brings them
    shipped: tuple[str, ...] = ()  # folders under baselines/scenes/
    weights: tuple[str, ...] = ()  # keys of KNOWN
    further: tuple[str, ...] = ()  # keys of KNOWN that add numbers
    files: tuple[str, ...] = ()  # keys of FILES


IMAGES = "http://images.cocodataset.org"
FILES: dict[str, str] = {  # the user's own: name -> what it is and how to get it
    "MS-COCO": (
        "--coco-root FOLDER with annotations/ and val2014/ (--dev: train2014/; coco2017-5k: those "
        f"of 2017); curl -LO {IMAGES}/annotations/annotations_trainval2014.zip "
        f"-O {IMAGES}/zips/val2014.zip && unzip -q '*2014.zip'"
    ),
    "CIFAR-10": (
        "--cifar10 cifar-10-batches-bin; "
        "curl -L https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz | tar xz"
    ),
    "pipeline": "a text-to-image model in diffusers' form; hf download NAME --local-dir FOLDER",
    "model": (
        "Janus, Emu3 or Chameleon's layout in transformers' form; "
        "hf download NAME --local-dir FOLDER"
    ),
    "LlamaGen": (
        "FOLDER with t2i_XL_stage1_256.pt, t5/ and vq/; "
        "hf download peizesun/llamagen_t2i --local-dir FOLDER && "
        "hf download google/flan-t5-xl --local-dir FOLDER/t5 && "
        "cm3leon convert-tokenizer vq_ds16_t2i.pt --out FOLDER/vq"
    ),
    "LlamaGen's code": (
        "a checkout, for --llamagen FOLDER; "
        "git clone https://github.com/FoundationVision/LlamaGen FOLDER"
    ),
    "tokenizer": (
        "vqgan_gumbel_f8 or another of https://github.com/CompVis/taming-transformers, LlamaGen's "
        "or Chameleon's; cm3leon convert-tokenizer last.ckpt --out FOLDER"
    ),
    "shards": "webdataset tars of pictures and captions, as img2dataset writes CC12M",
    "pictures": "drawn elsewhere: PNG files named by image id, or an .npz",
}
FOREIGN = (*BENCH, "transformers")
BESIDE = ("dinov2", "clip-openai-l14-336", "clip-openai")  # FD-DINOv2, CMMD, CLIP score
NEEDS: dict[str, Need] = {
    "fid_coco": Need(shipped=("scenes-s", *TOKENIZERS, "features")),
    "fid_coco --protocol NAME": Need(weights=("inception",), further=BESIDE, files=("MS-COCO",)),
    "fid_coco --data coco": Need(shipped=("features",), files=("MS-COCO",)),
    "fid_coco --images FOLDER": Need(shipped=("features",), files=("pictures",)),
    "fid_coco --samples 8 --rerank-clip local-dir:FOLDER": Need(weights=("clip",)),
    "fid_coco --system diffusers:FOLDER": Need(
        (*FOREIGN, "diffusers"), "bench,report,diffusers", files=("pipeline",)
    ),
    "fid_coco --system transformers:FOLDER": Need(
        FOREIGN,
        "bench,report,transformers",
        files=("model",),
    ),
    "fid_coco --system llamagen:FOLDER": Need(
        FOREIGN, "bench,report,transformers", files=("LlamaGen",)
    ),
    "tasks": Need(shipped=(*TOKENIZERS, "clip")),
    "outputs": Need(),
    "rfid": Need(shipped=("vq", "features")),
    "rfid --tokenizer FOLDER": Need(files=("tokenizer",)),
    "verify_fid": Need(),
    "verify_fid of published files": Need(
        weights=("inception", "inception-jit"), files=("CIFAR-10",)
    ),
    "latency": Need(shipped=("scenes-s", *TOKENIZERS)),
    "latency --peers": Need(
        FOREIGN, "bench,report,transformers", shipped=("scenes-s", *TOKENIZERS)
    ),
    "latency --llamagen FOLDER": Need(
        shipped=("scenes-s", *TOKENIZERS), files=("LlamaGen's code",)
    ),
    "latency --dtypes int8": Need(
        (*BENCH, "torchao"), "bench,report,int8", shipped=("scenes-s", *TOKENIZERS)
    ),
    "ablate_retrieval": Need(shipped=("scenes-s", "features", *RETRIEVAL)),
    "ablate_decoding": Need(shipped=("scenes-xs", "scenes-s", "features", *RETRIEVAL)),
    "choose_decoding": Need(shipped=("scenes-s", *TOKENIZERS, "features")),
    "equal_compute": Need(),
    "scaling": Need(shipped=("features", *RETRIEVAL)),
    "ablate_pretraining": Need(shipped=("features", *RETRIEVAL)),
    "ablate_positions": Need(shipped=("features", *RETRIEVAL)),
    "train_speed": Need(),
    "bank_speed": Need(),
    "faults": Need(),
    "mutants": Need((*BENCH, "hypothesis", "pytest"), "bench,report,dev"),
    "train_speed --peers": Need(FOREIGN, "bench,report,transformers"),
    "cm3leon train --model 350m": Need((), weights=("clip",), files=("shards", "tokenizer")),
}


@dataclass(frozen=True)
class Fact:
    """One line: fine, a fault (exit code 2), or something that a benchmark lacks."""

    kind: Literal["fine", "lacks", "fault"]
    about: str  # a key of HEADINGS
    name: str
    text: str
    way: str = ""  # the command that mends it

    def line(self) -> str:
        """As it is printed."""
        mark = {"fine": "", "lacks": "- ", "fault": "! "}[self.kind]
        way = f"; {self.way}" if self.way else ""
        return f"{mark}{self.name:{WIDTH - len(mark)}}{self.text}{way}".rstrip()


@dataclass(frozen=True)
class Doctor:
    """Say what this machine has and what is missing; exit code 2 when something needed is."""

    json: bool = False
    """print the facts as JSON"""

    def run(self) -> int:
        """The facts by heading: `!` is a fault, `-` what a benchmark lacks, with what gets it."""
        facts = all_facts()
        code = 2 if any(fact.kind == "fault" for fact in facts) else 0
        if self.json:
            said = {"exit_code": code, "facts": [asdict(fact) for fact in facts]}
            print(json.dumps(said, indent=2, ensure_ascii=False))
        else:
            print("\n".join(page(facts)))
        return code


HEADINGS = {
    "machine": "This machine",
    "shipped": "Weights of this repository",
    "weights": "Public weights (found by the variable, else where the libraries keep them)",
    "files": "Files of your own, by the command line",
    "benchmark": "Benchmarks",
}


def all_facts() -> list[Fact]:
    """Everything the doctor looks at, in order."""
    facts = [*package_facts(), *device_facts(), disk_fact(), *shipped_facts()]
    return [*facts, *known_facts(), *file_facts(), *benchmark_facts()]


def page(facts: list[Fact]) -> list[str]:
    """Lines under headings; a count at the end."""
    lines = []
    for about, heading in HEADINGS.items():
        lines += [f"{heading}:", *(fact.line() for fact in facts if fact.about == about), ""]
    faults = sum(fact.kind == "fault" for fact in facts)
    lacks = sum(fact.kind == "lacks" and fact.about == "benchmark" for fact in facts)
    faulty = f"{faults} fault{'' if faults == 1 else 's'} (lines with !)"
    if not in_checkout():
        return [*lines, faulty]
    return [*lines, f"{faulty}; {lacks} of {len(NEEDS)} benchmarks lack something (lines with -)"]


def package_facts() -> list[Fact]:
    """Versions of Python, of this package and of what it computes with."""
    from importlib import metadata

    from cm3leon import __version__

    facts = [
        Fact("fine", "machine", "python", platform.python_version()),
        Fact("fine", "machine", "cm3leon", __version__),
    ]
    for name in CORE:
        try:
            facts.append(Fact("fine", "machine", name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            facts.append(Fact("fault", "machine", name, "is not installed", f"pip install {name}"))
    return facts


def device_facts() -> list[Fact]:
    """What torch can compute on."""
    try:
        import torch
    except ImportError as error:
        way = "see constraints.txt for a version that fits"
        return [Fact("fault", "machine", "torch", f"cannot be imported: {error}", way)]
    from cm3leon.config import TrainConfig
    from cm3leon.engine.cpu_step import compiled
    from cm3leon.training.loop import precision

    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()
    able = precision(TrainConfig(), "cuda" if cuda else "cpu") is torch.bfloat16
    found = {
        "device": f"{'cuda' if cuda else 'cpu'} ({name})",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "bfloat16": "in hardware" if able else "not in hardware: training uses float32",
        "drawing": "steps in C"
        if compiled()
        else "steps by torch: no C compiler (cc, or $CC), or it failed",
    }
    return [Fact("fine", "machine", name, text) for name, text in found.items()]


def disk_fact() -> Fact:
    """Free space where results and drawings go."""
    free = f"{shutil.disk_usage('.').free / 1e9:.1f} GB free in {Path.cwd()}"
    return Fact("fine", "machine", "disk", free)


def shipped_facts() -> list[Fact]:
    """Every checkpoint under `baselines/scenes/`, with its digest checked."""
    from cm3leon.checkpoint import digest, read_about

    try:
        home = baselines_folder() / "scenes"
    except UserError as error:
        return [Fact("fault", "shipped", "weights", str(error))]
    facts = []
    for folder in sorted(path.parent for path in home.glob("*/config.json")):
        try:
            about, found = read_about(folder), digest(folder)
        except UserError as error:
            facts.append(Fact("fault", "shipped", "weights", str(error)))
            continue
        torn = about["sha256"] != found
        text = f"{folder.name} ({about['kind']}) sha256 {found[:16]}"
        text += ", not what its config.json names" if torn else ""
        facts.append(Fact("fault" if torn else "fine", "shipped", "weights", text))
    if facts:
        return facts
    way = "run `nox -s train_baselines`"
    return [Fact("fault", "shipped", "weights", f"no weights under {home}", way)]


def known_facts() -> list[Fact]:
    """Every file of public weights: where it is and its digest, or that it is nowhere."""
    facts = []
    for key, known in KNOWN.items():
        try:
            path = find(key)
            if path is None:
                text = f"{key}: {known.what} ({known.licence}), not found"
                facts.append(Fact("lacks", "weights", "weights", text, how_to_get(key)))
            else:
                facts.append(known_fact(key, path))
        except (UserError, OSError) as error:
            facts.append(Fact("fault", "weights", "weights", f"{key}: {error}"))
    return facts


def known_fact(key: str, path: Path) -> Fact:
    """Place and digest of weights that were found; a digest that differs is a fault."""
    where = f"{key} in {path}"
    if path.is_dir():
        return Fact("fine", "weights", "weights", where)
    size = path.stat().st_size
    if size > HASHED:
        text = f"{where}, {size / 1e9:.1f} GB, too large to check here"
        return Fact("fine", "weights", "weights", text)
    digest, wanted = sha256_file(path), KNOWN[key].sha256
    if path.suffix in (".pt", ".pth") and not digest.startswith(wanted):
        text = f"{where} has sha256 {digest[:16]}, published is {wanted[:16]}"
        return Fact("fault", "weights", "weights", text, f"get it again: {how_to_get(key)}")
    return Fact("fine", "weights", "weights", f"{where} sha256 {digest[:16]}")


def file_facts() -> list[Fact]:
    """What the user's own files are and how to get them."""
    return [Fact("fine", "files", name, text) for name, text in FILES.items()]


def benchmark_facts() -> list[Fact]:
    """Each benchmark: ready, or what it lacks and the command that gets it."""
    if not in_checkout():
        text = "none is here: they are run in a checkout; `cm3leon score` measures pictures"
        return [Fact("fine", "benchmark", "benchmarks", text)]
    return [benchmark_fact(name, need) for name, need in NEEDS.items()]


def in_checkout() -> bool:
    """Whether this is a checkout, and no installed package."""
    return (Path(__file__).resolve().parents[2] / "benchmarks" / "fid_coco.py").is_file()


def benchmark_fact(name: str, need: Need) -> Fact:
    """One line: what is missing with the commands, then what the user names."""
    missing, parts = lacks(need), []
    if missing:
        parts.append("lacks " + ", ".join(thing for thing, _ in missing))
    if need.files:
        parts.append(f"needs {' and '.join(need.files)} (above)")
    further = [KNOWN[key].what.split(": ")[-1] for key in need.further if _found(key) is None]
    if further:
        parts.append(f"does without {', '.join(further)} (weights above)")
    ways = dict.fromkeys(way for _, way in missing if way)
    kind = "lacks" if missing else "fine"
    text = f"{name}: " + ("; ".join(parts) or "ready")
    return Fact(kind, "benchmark", "benchmark", text, " && ".join(ways))


def lacks(need: Need) -> list[tuple[str, str]]:
    """(What is missing, the command that gets it) of one benchmark; weights have theirs above."""
    missing = []
    if packages := [name for name in need.packages if not installed(name)]:
        missing.append((", ".join(packages), f"pip install -e '.[{need.extra}]'"))
    try:
        home = baselines_folder() / "scenes"
        shipped = [name for name in need.shipped if not (home / name).is_dir()]
    except UserError:
        shipped = list(need.shipped)
    if shipped:
        way = f"nox -s train_baselines -- --parts {' '.join(shipped)}"
        missing.append((f"shipped {', '.join(shipped)}", way))
    missing += [(f"weights {key} (above)", "") for key in need.weights if _found(key) is None]
    return missing


def _found(key: str) -> Path | None:
    """The file of known weights; None where there is none, or a fault that was said above."""
    try:
        return find(key)
    except UserError:
        return None


def installed(name: str) -> bool:
    """Whether a package is installed, without importing it."""
    from importlib import metadata

    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
