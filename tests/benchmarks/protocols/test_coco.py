"""Pinned protocols: what is told apart, what their variants change, and that nothing else does."""

from dataclasses import asdict, replace

import pytest

from benchmarks.protocols.coco import (
    DEV,
    LISTS,
    PROTOCOLS,
    QUICK,
    ROUNDED,
    find_protocol,
)
from cm3leon.errors import UserError
from cm3leon.images import CROP


def test_protocols_differ_in_what_moves_a_number():
    """Two names never stand for the same measurement."""
    seen = {}
    for name, protocol in PROTOCOLS.items():
        moving = tuple(
            str(value) for key, value in asdict(protocol).items() if key not in ("name", "note")
        )
        assert moving not in seen, f"{name} is {seen.get(moving)}"
        seen[moving] = name


def test_the_paper_s_protocol():
    paper = find_protocol("coco2014-30k/pytorch-fid")
    assert (paper.split, paper.n, paper.size, paper.crop) == ("val2014", 30_000, 256, CROP)
    assert paper.references == ("all", "prompts") and paper.format == "png"
    assert "pt_inception-2015-12-05-6726825d.pth".count(paper.features_sha256) == 1
    assert find_protocol("coco2014-30k/gigagan").crop == ROUNDED
    jpeg = find_protocol("coco2014-30k/pytorch-fid-jpeg")
    assert replace(jpeg, name=paper.name, format="png", quality=None, note=paper.note) == paper


@pytest.mark.parametrize("name", PROTOCOLS)
def test_variants(name):
    whole, quick, dev = (find_protocol(name, **kind) for kind in ({}, {"quick": 1}, {"dev": 1}))
    assert (
        quick.n == QUICK and dev.n == DEV and find_protocol(name, quick=True, dev=True).n == QUICK
    )
    assert quick.references == dev.references == ("prompts",)
    assert dev.split == whole.split.replace("val", "train") and quick.split == whole.split
    assert len({one.name for one in (whole, quick, dev)}) == 3
    for one in (quick, dev):  # crop, network and format stay
        kept = dict(name=name, n=whole.n, split=whole.split, references=whole.references)
        assert replace(one, **kept) == whole


def test_lists_are_named_by_digests():
    assert all(len(digest) == 64 and int(digest, 16) for digest in LISTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": "squash"}, "crop must be one of"),
        ({"format": "webp"}, "format one of png, jpeg"),
        ({"quality": 90}, "a quality belongs to jpeg"),
        ({"format": "jpeg"}, "a quality belongs to jpeg"),
        ({"references": ()}, "references must be"),
        ({"references": ("train",)}, "references must be"),
        ({"n": 1}, "n must be at least 2"),
    ],
)
def test_a_protocol_checks_itself(changes, message):
    with pytest.raises(UserError, match=message):
        replace(PROTOCOLS["coco2014-30k/clean"], **changes)


def test_unknown_names_get_the_nearest():
    with pytest.raises(UserError, match="did you mean coco2014-30k/clean"):
        find_protocol("coco2014-30k/clear")
    with pytest.raises(UserError, match="unknown protocol 'x'; did you mean coco2014"):
        find_protocol("x")
