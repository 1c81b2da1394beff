"""ODS, OIS, AP and R50 of counts, against figures worked out by hand."""

import numpy as np
import pytest

from hf_contour.metrics.boundary.curves import (
    EdgeCounts,
    average_precision,
    best_point,
    edge_scores,
    recall_at_half_precision,
)

EXACT = 1e-12


def counts(rows: list[list[int]], thresholds: tuple[float, ...] = (0.25, 0.5, 0.75)) -> EdgeCounts:
    """Rows: matched drawn, drawn, matched predicted, predicted."""
    return EdgeCounts.from_array(np.array(thresholds), np.array(rows))


FIRST = counts([[8, 4, 2], [10, 10, 10], [8, 6, 3], [32, 8, 3]])  # R .8 .4 .2, P .25 .75 1
SECOND = counts([[9, 6, 0], [30, 30, 30], [4, 3, 0], [4, 3, 0]])  # R .3 .2 0, P 1 1 0


def f1(recall: float, precision: float) -> float:
    return 2 * recall * precision / (recall + precision)


def test_ois_takes_each_image_at_its_best_threshold_and_ods_one_for_all() -> None:
    scores = edge_scores([FIRST, SECOND])
    # FIRST is best at 0.5 (F .522), SECOND at 0.25 (F .462).
    assert scores.ois_point.recall == pytest.approx((4 + 9) / 40, abs=EXACT)
    assert scores.ois_point.precision == pytest.approx((6 + 4) / 12, abs=EXACT)
    assert scores.ois == pytest.approx(f1(13 / 40, 10 / 12), abs=EXACT)
    assert scores.recall == pytest.approx([17 / 40, 10 / 40, 2 / 40], abs=EXACT)
    assert scores.precision == pytest.approx([12 / 36, 9 / 11, 3 / 3], abs=EXACT)
    assert scores.f1 == pytest.approx([f1(17 / 40, 1 / 3), f1(1 / 4, 9 / 11), f1(1 / 20, 1)], abs=EXACT)
    # The best of the line between the first two points, tried at 100 places.
    share = np.linspace(0, 1, 100)
    line = f1(17 / 40 * (1 - share) + share / 4, (1 - share) / 3 + share * 9 / 11)
    assert scores.ods == pytest.approx(line.max(), abs=EXACT)
    assert scores.ods_point.threshold == pytest.approx(0.25 + 0.25 * share[line.argmax()], abs=EXACT)
    assert scores.ods > max(scores.f1)
    assert scores.image_thresholds[1] == pytest.approx(0.25)
    assert scores.image_f1[1] == pytest.approx(f1(0.3, 1), abs=EXACT)


def test_average_precision_sums_the_curve_where_there_is_one() -> None:
    # From recall .2 to .6 precision falls from .9 to .5: 41 places with a mean of .7.
    assert average_precision(np.array([0.6, 0.2]), np.array([0.5, 0.9])) == pytest.approx(41 * 0.7 / 100, abs=EXACT)
    assert average_precision(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(1.01, abs=EXACT)
    assert average_precision(np.array([0.4, 0.4]), np.array([0.5, 0.9])) == 0
    # Of two points with one recall the lower threshold's counts.
    one = average_precision(np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.8, 0.2]))
    assert one == pytest.approx(51 * 0.2 / 100, abs=EXACT)


def test_recall_at_half_precision() -> None:
    recall = np.array([0.9, 0.6, 0.1])
    assert recall_at_half_precision(recall, np.array([0.3, 0.7, 0.9])) == pytest.approx(0.75, abs=EXACT)
    assert recall_at_half_precision(recall, np.array([0.6, 0.7, 0.9])) == pytest.approx(0.9, abs=EXACT)
    assert recall_at_half_precision(recall, np.array([0.1, 0.2, 0.49])) is None
    # Where nothing is found any more precision counts as 0.
    assert recall_at_half_precision(np.array([0.9, 0.6, 0.0]), np.array([0.3, 0.7, 0.0])) == pytest.approx(0.75)


@pytest.mark.parametrize(
    "rows",
    [
        [[0, 0, 0], [9, 9, 9], [0, 0, 0], [0, 0, 0]],  # an empty map
        [[0, 0, 0], [0, 0, 0], [0, 0, 0], [5, 3, 1]],  # nobody drew anything
        [[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]],  # both
    ],
)
def test_nothing_over_nothing_is_zero(rows: list[list[int]]) -> None:
    scores = edge_scores([counts(rows)])
    assert (scores.ods, scores.ois, scores.ap, scores.r50) == (0, 0, 0, None)
    assert scores.ods_point.threshold == 0.25
    assert scores.recall == scores.precision == scores.f1 == [0, 0, 0]


def test_a_perfect_map_has_one_everywhere_and_no_curve() -> None:
    scores = edge_scores([counts([[9, 9, 9], [9, 9, 9], [5, 5, 5], [5, 5, 5]])])
    assert (scores.ods, scores.ois, scores.r50) == (1, 1, 1)
    assert scores.ap == 0  # as in the original: a single point encloses no area


def test_a_single_threshold_has_no_line_to_search() -> None:
    point = best_point(np.array([0.3]), np.array([0.5]), np.array([0.25]))
    assert (point.threshold, point.recall, point.precision) == (0.3, 0.5, 0.25)
    scores = edge_scores([counts([[8], [10], [8], [10]], (0.3,))])
    assert scores.ods == pytest.approx(0.8, abs=EXACT)
    assert scores.to_dict()["ods_point"]["threshold"] == 0.3


def test_counts_add_up() -> None:
    total = FIRST + SECOND
    np.testing.assert_array_equal(total.to_array(), FIRST.to_array() + SECOND.to_array())
    with pytest.raises(ValueError, match="different thresholds"):
        FIRST + counts([[1, 1, 1]] * 4, (0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match=r"the array is \(3, 3\); expected \(4, 3\)"):
        counts([[1, 1, 1]] * 3)
    with pytest.raises(ValueError, match="there are no counts"):
        edge_scores([])
