"""Several data sets as one: how often each is read, and that nothing is read twice too soon."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cm3leon.data.mixture import Mixture
from cm3leon.errors import UserError

THOUSAND = 1000
TABLE_5 = [  # examples of its 18 data sets
    127, 300, 3_000, 1_000, 1_000, 1_000, 142, 1_000, 1_000, 500, 591, 144, 14, 164, 1_300, 92, 26,
    6,
]  # fmt: skip


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(0, 99))
@settings(max_examples=50)
def test_a_pass_reads_each_data_set_by_its_weight(sizes, seed):
    mixture = Mixture(sizes, seed)
    mean = np.exp(np.mean(np.log(sizes)))
    expected = [max(1, round(float(np.clip(mean / n, 0.3, 3)) * n)) for n in sizes]
    assert list(mixture.counts) == expected and len(mixture) == sum(expected)
    places = [mixture.at(place) for place in range(4 * len(mixture))]
    for turn in range(4):
        part = places[turn * len(mixture) : (turn + 1) * len(mixture)]
        found = Counter(data_set for data_set, _ in part)
        assert [found[at] for at in range(len(sizes))] == expected
    for data_set, size in enumerate(sizes):
        own = [record for one, record in places if one == data_set]
        for epoch in range(0, len(own) - size + 1, size):  # all of it before any comes again
            assert sorted(own[epoch : epoch + size]) == list(range(size))
    assert mixture.epochs(4 * len(mixture)) == pytest.approx(
        [4 * n / size for n, size in zip(expected, sizes, strict=True)]
    )


def test_a_place_is_a_function_of_the_seed_alone():
    mixture = Mixture([7, 30], 3)
    forward = [mixture.at(place) for place in range(200)]
    other = Mixture([7, 30], 3)
    assert [other.at(place) for place in reversed(range(200))] == forward[::-1]
    assert [Mixture([7, 30], 4).at(place) for place in range(200)] != forward


def test_the_sizes_of_table_5():
    """The geometric mean is about 260,000 (FACTS2 A.3): the largest are cut to 0.3, the smallest
    read three times, which is nearly the whole of the 30B tokens' one to two passes.
    """
    mixture = Mixture([THOUSAND * n for n in TABLE_5], 0)
    assert mixture.target == pytest.approx(260 * THOUSAND, rel=0.02)
    counts = dict(zip(TABLE_5, mixture.counts, strict=True))
    assert counts[3_000] == 900 * THOUSAND and counts[6] == 18 * THOUSAND
    assert counts[1_000] == 300 * THOUSAND and counts[14] == 42 * THOUSAND
    assert THOUSAND * 127 < counts[127] < 3 * THOUSAND * 127


def test_another_target_and_thresholds():
    assert Mixture([10, 100], 0, target=50).counts == (30, 50)
    assert Mixture([10, 100], 0, least=1, most=1).counts == (10, 100)
    with pytest.raises(UserError, match=r"mixing thresholds must be positive and in order"):
        Mixture([10], 0, least=2, most=1)
    with pytest.raises(UserError, match="data sets must not be empty"):
        Mixture([10, 0], 0)
