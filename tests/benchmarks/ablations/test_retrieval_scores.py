"""Which captions ask for entities that training never shows."""

from benchmarks.ablations.retrieval_scores import asks_for_unseen, unseen_names
from benchmarks.protocols.prompts import scenes_prompts
from cm3leon.world.scenes import SEEN_ENTITIES, entities, scene


def test_unseen_entities_are_those_that_train_never_shows():
    names = [one.name for one in entities()]
    assert (
        len(names) == 4000 and unseen_names() == frozenset(names[3800:]) and SEEN_ENTITIES == 3800
    )
    shown = {thing.entity for k in range(400) for thing in scene("stock", "train", k).objects}
    assert not shown & unseen_names()
    asked = [asks_for_unseen(one) for one in scenes_prompts(40, "tail")]
    assert not any(asked[::2]) and sum(asked[1::2]) > 10  # even indices: entities of `train`
