"""Protocols of FID on MS-COCO, pinned: a named one means the same everywhere, or is not that one.

    nox -s fid_coco -- --protocol coco2014-30k/pytorch-fid --coco-root FOLDER

COCO-30k is not one benchmark: published values differ in list, reference, crop, filter, file format
and network, each worth up to several points. What is fixed here is the whole of it. Prompts: n
distinct pictures of the split in seeded order, one caption each (the first of a seeded shuffle), so
that a shorter list is the beginning of a longer one. References: A "all", every picture of the
split; B "prompts", the pictures of the prompts. The value is against the first named, the other
stands beside it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace

from cm3leon.errors import UserError
from cm3leon.images import CROP

ROUNDED = "centre-crop-rounded-lanczos"  # GigaGAN's: an odd rest is rounded to even
CROPS = (CROP, ROUNDED)
FORMATS = ("png", "jpeg")
REFERENCES = ("all", "prompts")
QUICK = 128  # captions of --quick
DEV = 8000  # captions of --dev, of the training split
IMAGES = {"val2014": 40_504, "val2017": 5_000, "train2014": 82_783, "train2017": 118_287}
LISTS = {  # SHA-256 of published lists of captions -> their names
    "716e8ab3703f1a987cc5068f9be5def6104dbe21e943708005beec426feb3ac5": "LlamaGen coco_captions.csv"
}


@dataclass(frozen=True)
class Protocol:
    """All that moves a FID on MS-COCO besides the system."""

    name: str
    split: str
    n: int
    features: str  # a name of `features.load_features`; its own resize belongs to it
    features_sha256: str = ""  # as its publisher names it, or the beginning; "" where nobody does
    references: tuple[str, ...] = ("all", "prompts")
    crop: str = CROP
    size: int = 256  # pixels of a side that both sides are cropped to
    format: str = "png"  # of drawn pictures: lossless, or through one JPEG
    quality: int | None = None  # of the JPEG
    seed: int = 0  # of the list of prompts
    note: str = ""

    def __post_init__(self):
        if self.crop not in CROPS or self.format not in FORMATS:
            raise UserError(
                f"protocol {self.name}: crop must be one of {', '.join(CROPS)} and format one of "
                f"{', '.join(FORMATS)}, got {self.crop!r} and {self.format!r}"
            )
        if not self.references or set(self.references) - set(REFERENCES):
            raise UserError(f"protocol {self.name}: references must be {' or '.join(REFERENCES)}")
        if (self.format == "jpeg") != (self.quality is not None):
            raise UserError(f"protocol {self.name}: a quality belongs to jpeg, and to nothing else")
        if self.n < 2 or self.size < 1:
            raise UserError(f"protocol {self.name}: n must be at least 2 and size at least 1")


PYTORCH_FID = Protocol(
    "coco2014-30k/pytorch-fid",
    "val2014",
    30_000,
    "inception",
    "6726825d",  # pt_inception-2015-12-05-6726825d.pth
    note="FID of CM3Leon's own tool: bilinear without antialiasing to 299 inside the network",
)
CLEAN = replace(
    PYTORCH_FID,
    name="coco2014-30k/clean",
    features="inception-clean",
    note="clean-fid's mode clean: bicubic by float channels to 299",
)
NAMED = (
    PYTORCH_FID,
    CLEAN,
    replace(
        CLEAN,
        name="coco2014-30k/gigagan",
        crop=ROUNDED,
        references=("all",),
        note="GigaGAN's script, which LlamaGen and Janus use too",
    ),
    replace(
        PYTORCH_FID,
        name="coco2014-30k/pytorch-fid-jpeg",
        format="jpeg",
        quality=75,
        note="drawn pictures saved as JPEG, as CM3Leon's team did",
    ),
    replace(PYTORCH_FID, name="coco2017-5k/pytorch-fid", split="val2017", n=5_000),
    replace(CLEAN, name="coco2017-5k/clean", split="val2017", n=5_000),
)
PROTOCOLS: dict[str, Protocol] = {one.name: one for one in NAMED}


def find_protocol(name: str, quick: bool = False, dev: bool = False) -> Protocol:
    """The protocol of that name, or its variant; UserError with the nearest names."""
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=2, cutoff=0.4) or sorted(PROTOCOLS)
        raise UserError(f"unknown protocol {name!r}; did you mean {' or '.join(near)}?")
    found = PROTOCOLS[name]
    if dev:
        found = dev_of(found)
    return quick_of(found) if quick else found


def quick_of(protocol: Protocol) -> Protocol:
    """A look: the first 128 captions, against their own pictures."""
    return replace(protocol, name=f"{protocol.name}/quick", n=QUICK, references=("prompts",))


def dev_of(protocol: Protocol) -> Protocol:
    """To choose settings on: 8,000 captions of the training split, against their own pictures.

    The validation split is not opened.
    """
    split = protocol.split.replace("val", "train")
    name = f"{protocol.name}/dev"
    return replace(protocol, name=name, split=split, n=DEV, references=("prompts",))
