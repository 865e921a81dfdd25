"""The table of measures: every name is found, directions follow what is compared."""

import pytest

from cm3leon.evaluation.measures import (
    MEASURES,
    Measure,
    declared,
    find_measure,
    of_number,
    undeclared,
)


@pytest.mark.parametrize(
    "number,unit,better",
    [
        ("natural.documents2.fid", "", "lower"),
        ("value.held_out_tail_image", "nats", "lower"),
        ("a.held_out_tail_gain", "nats", "higher"),
        ("a.held_out_tail_gain_minus_default", "nats", "higher"),
        ("a.held_out_image_minus_default", "nats", "lower"),
        ("tail.documents-2.fid_vs_threshold-0.8", "ratio", "higher"),
        ("tail.documents-2.right_vs_random", "share", "higher"),
        ("captions_test.guidance.cider_vs_plain", "", "higher"),
        ("captions_test.guidance.words_vs_plain", "words", "none"),
        ("pool.mixed.gain_vs_cd-k", "ratio", "higher"),
        ("tail.documents2.fid_over_documents0", "ratio", "lower"),
        ("a.fid_with_2_minus_default", "", "lower"),
        ("8x256x8.float32.b1.gain_over_hf", "ratio", "higher"),
        ("8x256x8.float32.b1.seconds_per_image_hf", "s", "lower"),
        ("ceiling.read_gb_per_s.4096KiB", "GB/s", "none"),
        ("fast_batch_8_pictures_per_s", "1/s", "higher"),
        ("clip_score_s_ViT-B-32", "", "higher"),
        ("clip_score_ViT-B-32", "cosine", "higher"),
        ("overall", "share", "higher"),
        ("kid_std", "", "none"),
    ],
)
def test_names_of_every_form(number, unit, better):
    end, measure = find_measure(number)
    assert number == end or number.endswith(f".{end}")
    assert (measure.unit, measure.better, measure.name) == (unit, better, end)


def test_every_row_finds_itself_and_titles_tell_apart():
    for one in MEASURES:
        _, found = find_measure(one.name.replace("*", "500"))
        assert (found.unit, found.better) == (one.unit, one.better), one.name
    plain = [one.title for one in MEASURES if "*" not in one.name]
    assert len({one.name for one in MEASURES}) == len(MEASURES)
    assert len(plain) - len(set(plain)) == 1  # `right` and `composition` are one thing


def test_what_a_record_declares_is_found_by_the_longest_end():
    names = ["a.b.fid", "a.fid_vs_c-0.8", "mine", "x.8"]
    assert undeclared(names) == ["mine", "x.8"]
    own = [Measure("mine", "Mine", "m", "higher")]
    told = declared(names, own)
    assert of_number("mine", told) == own[0]
    assert of_number("a.fid_vs_c-0.8", told).unit == "ratio"  # not that of `8`
    assert of_number("x.8", told) == Measure("8", "8", "", "none")
    assert of_number("other", told) is None
    with pytest.raises(ValueError, match="x: better is lower, higher or none, got 'up'"):
        Measure("x", "x", "", "up")
