"""The embedded world: same arguments, same bytes; truth fits the pixels; captions fit the truth."""

import hashlib
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.errors import UserError
from cm3leon.world import scenes
from cm3leon.world.language import OPPOSITE
from cm3leon.world.scenes import SEEN_ENTITIES, entities, export_coco, scene
from cm3leon.world.sprites import COLOURS, PLACES, SHAPES, place_picture

ADDRESSES = st.tuples(
    st.sampled_from(scenes.DIALECTS),
    st.sampled_from(list(scenes.SPLITS)),
    st.integers(0, 1999),
)
GOLDEN = {  # sha256 of the pixels of scenes 0..31; a change here changes every trained weight
    ("stock", "train", 64): "07415e3cf3be76276944e96b4db13c5acdf695b804425c1715be2e0a2bee9de5",
    ("coco", "test", 64): "fedee9c93afcbdbbf59edb539c02c451a10042af18e360321605f86da6f0725f",
    ("coco", "tail", 64): "367bc65af3340335f51d344a9be28a065620462e9aa080e00775314484614bd3",
    ("stock", "study", 32): "deb0ec49b1c1d90511da24abdd413fe6631bfb32211cca49f80b34862fc5901a",
    ("coco", "natural", 64): "030c8b6b2a3d132e4391f2dbbd02685f57c236ac0793031cf0e7013e54c67eaf",
    ("stock", "bank", 32): "ff1a018fd059b7f47ab60f7c3a88f4ca6dec1134e44d9bd76fa69c9e9d02e861",
}
GOLDEN_CAPTIONS = (
    "A cyan triangle with stripes can be seen on the water.",
    "A picture of a small striped triangle on the water.",
    "A picture of a striped cyan triangle on the water.",
    "There is a cyan triangle with stripes on the water.",
    "A cyan triangle is sitting on the water.",
)


def pixels_digest(dialect: str, split: str, size: int) -> str:
    pixels = b"".join(scene(dialect, split, index, size).image.tobytes() for index in range(32))
    return hashlib.sha256(pixels).hexdigest()


@pytest.mark.parametrize("address", list(GOLDEN), ids=str)
def test_pictures_are_the_golden_bytes(address):
    assert pixels_digest(*address) == GOLDEN[address]


def test_captions_are_the_golden_words():
    assert scene("coco", "test", 0).captions == GOLDEN_CAPTIONS


@settings(max_examples=60, deadline=None)
@given(ADDRESSES)
def test_order_does_not_matter(address):
    first = scene(*address)
    scene("stock", "train", 5)
    again = scene(*address)
    assert (first.image == again.image).all()
    assert first.captions == again.captions and first.meanings == again.meanings


@settings(max_examples=60, deadline=None)
@given(ADDRESSES)
def test_the_truth_fits_the_pixels(address):
    one = scene(*address)
    bare = place_picture(one.place, 64).astype(int)
    changed = (abs(one.image.astype(int) - bare) > 0).any(-1)
    covered = np.zeros((64, 64), bool)
    for thing in one.objects:
        assert thing.mask.any() and not (covered & thing.mask).any()
        covered |= thing.mask
        x0, y0, x1, y1 = (int(value) for value in thing.box)
        rows, columns = np.nonzero(thing.mask)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)
    assert not (changed & ~_grown(covered)).any()  # nothing is drawn outside the masks' rims
    assert one.image.shape == (64, 64, 3) and one.image.dtype == np.uint8


def _grown(mask):
    padded = np.pad(mask, 2)
    return np.any([padded[r : r + 64, c : c + 64] for r in range(5) for c in range(5)], axis=0)


@settings(max_examples=100, deadline=None)
@given(ADDRESSES)
def test_captions_claim_what_is_there(address):
    one = scene(*address)
    shown = [(t.shape, t.colour, t.size, t.pattern, t.entity) for t in one.objects]
    centres = {t.entity or (t.shape, t.colour): t.centre for t in one.objects}
    assert len(one.captions) == len(one.meanings) == 5
    for text, meaning in zip(one.captions, one.meanings, strict=True):
        assert meaning.place in (None, one.place)
        assert meaning.place is None or meaning.place in text.lower()
        for said in meaning.objects:
            fitting = [
                thing
                for thing in shown
                if (thing[4] == said.entity if said.entity else thing[0] == said.shape)
                and all(
                    value in (None, thing[at])
                    for at, value in ((1, said.colour), (2, said.size), (3, said.pattern))
                )
            ]
            assert len(fitting) == said.count
            assert (said.entity or said.shape) in text.lower()
            assert said.colour is None or said.colour in text.lower()
        if meaning.relation:
            i, word, j = meaning.relation
            assert word in text and i != j
            by_noun = {thing.entity or thing.shape: thing.centre for thing in one.objects}
            (xi, yi), (xj, yj) = (
                by_noun[meaning.objects[k].entity or meaning.objects[k].shape] for k in (i, j)
            )
            gap = {"left of": xj - xi, "right of": xi - xj, "above": yj - yi, "below": yi - yj}
            assert gap[word] >= 16 and gap[OPPOSITE[word]] <= -16
    assert centres


def test_objects_overlap_little():
    for index in range(300):
        one = scene("coco", "test", index)
        for thing in one.objects:
            hidden = scenes._mask(one.plan.things[thing.depth], 64).sum() - thing.mask.sum()
            assert hidden <= 0.08 * thing.mask.sum()


def test_every_word_of_the_world_occurs():
    seen = [scene("stock", "train", index) for index in range(600)]
    things = [thing for one in seen for thing in one.plan.things]
    assert {one.place for one in seen} == set(PLACES)
    assert {thing[0] for thing in things} == set(SHAPES)
    assert {thing[1] for thing in things} == set(COLOURS)
    assert {len(one.plan.things) for one in seen} == {1, 2, 3}


def test_dialects_differ_in_distribution():
    def share_of_one(dialect):
        return np.mean([len(scene(dialect, "val", k).plan.things) == 1 for k in range(800)])

    assert share_of_one("stock") > share_of_one("coco") + 0.05


def test_entities_are_all_different_and_the_last_200_never_seen_in_training():
    everything = entities()
    assert len({entity.name for entity in everything}) == 4000
    assert len({(e.shape, e.first, e.second, e.mark) for e in everything}) == 4000
    unseen = {entity.name for entity in everything[SEEN_ENTITIES:]}
    trained = {t[4] for k in range(3000) for t in scene("stock", "train", k).plan.things if t[4]}
    assert trained and not trained & unseen
    asked = [scene("coco", "tail", k).plan.things for k in range(200)]
    for index, things in enumerate(asked):
        names = {thing[4] for thing in things if thing[4]}
        assert len(names) == 1 and (names <= unseen) == (index % 2 == 1)


def test_natural_asks_for_entities_as_often_as_train_shows_them():
    """Shares and ranks agree within sampling error; no unseen entity; the rest are plain scenes."""
    rank = {entity.name: k for k, entity in enumerate(entities())}
    drawn = {}
    for dialect, split in (("stock", "train"), ("coco", "natural")):
        plans = [scene(dialect, split, index).plan for index in range(3000)]
        drawn[split] = [rank[t[4]] for plan in plans for t in plan.things if t[4]]
    shares = {split: len(ranks) / 3000 for split, ranks in drawn.items()}
    error = np.sqrt(2 * 0.04 * 0.96 / 3000)
    assert abs(shares["natural"] - shares["train"]) < 4 * error
    assert abs(shares["natural"] - 0.04) < 4 * error  # and it is no accident of two wrong ones
    assert max(drawn["natural"]) < SEEN_ENTITIES
    # Zipf: equal mass below and above the median rank of `train`'s law, sqrt(3801) - 1 = 60.7
    common = np.mean(np.array(drawn["natural"]) <= 60)
    assert abs(common - 0.5) < 4 * 0.5 / np.sqrt(len(drawn["natural"]))
    assert len({scene("coco", "natural", k).image.tobytes() for k in range(50)}) == 50


def test_study_and_bank_end_with_six_scenes_an_entity_and_the_bank_shows_it_alone():
    company = []
    for index in (20_000, 20_005, 20_006, 43_999, *range(21_000, 21_060)):
        wanted = entities()[(index - 20_000) // 6].name
        shown = scene("stock", "bank", index)
        assert [(t[4], t[2]) for t in shown.plan.things] == [(wanted, "small")]
        assert shown.place == PLACES[(index - 20_000) % 6]
        things = scene("stock", "study", index).plan.things
        assert [t[4] for t in things if t[4]] == [wanted]
        company.append(len(things))
    assert set(company) == {1, 2, 3}
    plain = [len(scene("stock", "bank", index).plan.things) for index in range(100)]
    assert set(plain) == {1, 2, 3}


@pytest.mark.parametrize("size", [32, 40, 64, 128, 256])
def test_a_scene_is_the_same_at_every_size(size):
    one, reference = scene("coco", "test", 3, size), scene("coco", "test", 3, 64)
    assert one.plan == reference.plan and one.captions == reference.captions
    assert one.image.shape == (size, size, 3)
    for thing, same in zip(one.objects, reference.objects, strict=True):
        scaled = np.array(thing.box) * 64 / size
        assert abs(scaled - same.box).max() <= 2.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("klingon", "test", 0), "klingon"),
        (("coco", "exam", 0), "exam"),
        (("coco", "test", -1), "-1"),
        (("coco", "val", 5000), "0..4999"),
        (("coco", "test", 0, 60), "multiple of 8"),
        (("coco", "test", 0, 512), "512"),
    ],
)
def test_an_unknown_address_is_one_line(arguments, words):
    with pytest.raises(UserError) as error:
        scene(*arguments)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_six_hundred_pictures_a_second():
    assert scene("stock", "train", 0).image.any()
    start = time.process_time()
    for index in range(400):
        assert scene("stock", "train", index).image.any()
    assert 400 / (time.process_time() - start) >= 600


def test_pycocotools_reads_the_export(tmp_path):
    tools = pytest.importorskip("pycocotools.coco")
    export_coco(tmp_path, "coco", "val", 12)
    instances = tools.COCO(str(tmp_path / "annotations" / "instances_val.json"))
    captions = tools.COCO(str(tmp_path / "annotations" / "captions_val.json"))
    for index in range(12):
        one = scene("coco", "val", index)
        found = instances.loadAnns(instances.getAnnIds(imgIds=[index]))
        texts = [a["caption"] for a in captions.loadAnns(captions.getAnnIds(imgIds=[index]))]
        assert tuple(texts) == one.captions and len(found) == len(one.objects)
        for annotation, thing in zip(found, one.objects, strict=True):
            assert (instances.annToMask(annotation).astype(bool) == thing.mask).all()
            assert annotation["attributes"]["colour"] == thing.colour


def test_our_own_reader_reads_the_export(tmp_path):
    from cm3leon.data.coco import read_captions, read_reference

    export_coco(tmp_path, "stock", "test", 5)
    entries = read_captions(tmp_path)
    reference = read_reference(entries, 64)
    for index, (image_id, picture) in enumerate(reference):
        assert image_id == index and (picture == scene("stock", "test", index).image).all()
    assert not reference.unreadable
