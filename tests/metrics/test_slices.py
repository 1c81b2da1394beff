"""Parts of a split: every image in one of them, with figures counted by hand."""

import numpy as np
import pytest

from hf_contour.metrics.classification import ScoreSettings
from hf_contour.metrics.slices import Slice, SliceRequest, make_slices, parse_slice, slice_scores


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sub_category", SliceRequest("sub_category")),
        ("skin_fraction<=0.02", SliceRequest("skin_fraction", "<=", 0.02)),
        (" year >= 2012 ", SliceRequest("year", ">=", 2012.0)),
        ("share of skin<-1e-3", SliceRequest("share of skin", "<", -0.001)),
        ("x!=3", SliceRequest("x", "!=", 3.0)),
    ],
)
def test_a_text_says_column_sign_and_number(text, expected):
    assert parse_slice(text) == expected


@pytest.mark.parametrize("text", ["", "  ", "<=3", "x<=", "x<=y", "x<nan", "x<=inf", "x==__import__('os')"])
def test_what_is_no_slice_is_refused(text):
    with pytest.raises(ValueError, match="slice"):
        parse_slice(text)


def members(slices):
    return {part.name: np.flatnonzero(part.members).tolist() for part in slices}


def test_words_give_a_slice_each_and_rare_ones_are_pooled_by_name():
    words = ["top", "sari", "top", "dress", "top", None, "dress", "kurta"]
    assert members(make_slices(SliceRequest("kind"), words, min_size=2)) == {
        "kind = top": [0, 2, 4],
        "kind = dress": [3, 6],
        "kind = kurta, sari": [1, 7],
        "kind unknown": [5],
    }


def test_a_pooled_slice_does_not_list_everything():
    words = [f"w{number}" for number in range(9)]
    (part,) = make_slices(SliceRequest("word"), words, min_size=2)
    assert part.name == "word = w0, w1, w2, w3, w4, w5 and 3 more"
    assert part.members.all()


def test_truth_values_are_values():
    assert members(make_slices(SliceRequest("worn"), [True, False, True], min_size=1)) == {
        "worn = True": [0, 2],
        "worn = False": [1],
    }


@pytest.mark.parametrize(
    ("sign", "names"),
    [
        ("<=", {"x <= 0.5": [0, 1], "x > 0.5": [2]}),
        ("<", {"x < 0.5": [0], "x >= 0.5": [1, 2]}),
        (">", {"x > 0.5": [2], "x <= 0.5": [0, 1]}),
        ("==", {"x == 0.5": [1], "x != 0.5": [0, 2]}),
    ],
)
def test_a_comparison_has_two_sides_and_nan_is_on_neither(sign, names):
    values = [0.1, 0.5, 0.9, float("nan")]
    assert members(make_slices(SliceRequest("x", sign, 0.5), values)) == {**names, "x unknown": [3]}


def test_a_side_without_images_is_left_out():
    assert members(make_slices(SliceRequest("x", "<", 5.0), [1, 2])) == {"x < 5": [0, 1]}


def test_thirds_are_named_for_their_bounds():
    values = [9, 1, 5, 2, 8, 3, 7, 4, 6]
    assert members(make_slices(SliceRequest("n"), values)) == {
        "n <= 3": [1, 3, 5],
        "3 < n <= 6": [2, 7, 8],
        "n > 6": [0, 4, 6],
    }


def test_equal_numbers_stay_together():
    assert members(make_slices(SliceRequest("ratio"), [0.75] * 8 + [1.0])) == {
        "ratio <= 0.75": list(range(8)),
        "ratio > 0.75": [8],
    }
    assert members(make_slices(SliceRequest("ratio"), [2, 2])) == {"ratio <= 2": [0, 1]}
    assert members(make_slices(SliceRequest("ratio"), [None, None])) == {"ratio unknown": [0, 1]}


def test_any_values_are_split_into_parts_without_overlap():
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=101).tolist(), rng.integers(0, 4, 50).tolist(), list("abcabcaaa")):
        slices = make_slices(SliceRequest("x"), values, min_size=3)
        assert (sum(part.members.astype(int) for part in slices) == 1).all()


def test_what_cannot_be_sliced_by_names_column_and_row():
    with pytest.raises(ValueError, match="kind holds words"):
        make_slices(SliceRequest("kind", "<", 1.0), ["a", "b"])
    with pytest.raises(ValueError, match=r"row 1 has \[2\] in the column boxes"):
        make_slices(SliceRequest("boxes"), [1, [2]])


def test_the_scores_of_a_slice_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 0])
    predictions = np.array([0, 0, 1, 1, 0, 1])
    part = Slice("first five", np.array([True] * 5 + [False]))
    figures = slice_scores(
        part,
        labels == predictions,
        np.array([0, 0, 7, 8, 9, 9]),
        labels=labels,
        predictions=predictions,
        settings=ScoreSettings(num_resamples=200),
    )
    assert figures["num_samples"] == 5
    assert figures["num_groups"] == 4
    assert figures["accuracy"] == pytest.approx(3 / 5)
    assert figures["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    low, high = figures["accuracy_interval"]
    assert 0 <= low < 3 / 5 < high <= 1


def test_a_slice_of_one_class_has_the_recall_of_that_class():
    labels, predictions = np.array([1, 1, 0]), np.array([1, 0, 0])
    part = Slice("women", labels == 1)
    figures = slice_scores(part, labels == predictions, np.arange(3), labels=labels, predictions=predictions)
    assert figures["balanced_accuracy"] == figures["accuracy"] == 0.5
    assert slice_scores(part, labels == predictions, np.arange(3))["balanced_accuracy"] is None
