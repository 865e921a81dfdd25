"""Pictures that a training has too are found by what stands in them, and are equal in pixels."""

import numpy as np

from cm3leon.world.repeats import content, in_training, training_plans
from cm3leon.world.scenes import scene

TRAINED = 3000


def test_repeats_are_those_that_comparing_all_pixels_finds():
    known = {scene("stock", "train", index).image.tobytes() for index in range(TRAINED)}
    wanted = [scene("coco", "test", index).image.tobytes() in known for index in range(400)]
    found = in_training("coco", "test", range(400), TRAINED)
    assert found.tolist() == wanted and 0 < found.sum() < 40
    assert in_training("stock", "train", [5, TRAINED - 1, 7], TRAINED).all()
    assert not in_training("coco", "tail", range(1, 40, 2), TRAINED).any()  # never in `train`


def test_equal_content_is_equal_pixels_but_where_things_overlap():
    same = [places for places in training_plans(TRAINED).values() if len(places) > 1]
    assert same
    for first, *others in same:
        for other in others:
            one, two = scene("stock", "train", first), scene("stock", "train", other)
            assert content(one.plan) == content(two.plan)
            assert np.mean(one.image != two.image) < 0.02
