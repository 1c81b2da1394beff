"""Paired comparison of two classifiers: figures worked out by hand, and scipy's exact test."""

import numpy as np
import pytest
from scipy.stats import binomtest

from hf_contour.metrics.classification import ScoreSettings
from hf_contour.metrics.paired import mcnemar_probability, paired_scores


def test_figures_of_ten_images():
    first = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    second = np.array([1, 1, 1, 1, 1, 0, 1, 1, 1, 0], dtype=bool)
    scores = paired_scores(first, second)
    assert (scores.first_accuracy, scores.second_accuracy) == (0.6, 0.8)
    assert scores.difference == pytest.approx(0.2)
    assert (scores.only_first, scores.only_second) == (1, 3)
    assert scores.mcnemar_p == pytest.approx(0.625)  # 2 * (1 + 4) / 16
    low, high = scores.difference_interval
    assert low < 0.2 < high


@pytest.mark.parametrize(("one", "other"), [(0, 0), (0, 1), (3, 3), (2, 9), (40, 12), (0, 30)])
def test_the_exact_test_is_that_of_scipy(one, other):
    expected = binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
    assert mcnemar_probability(one, other) == pytest.approx(expected, rel=1e-9)


def test_groups_widen_the_interval():
    rng = np.random.default_rng(0)
    better = np.repeat(rng.random(40) < 0.6, 10)  # whole groups of ten change together
    first, second = ~better, better
    alone = paired_scores(first, second, settings=ScoreSettings(num_resamples=500))
    grouped = paired_scores(first, second, groups=np.repeat(np.arange(40), 10))
    assert grouped.num_groups == 40
    assert alone.difference == grouped.difference
    width = [scores.difference_interval[1] - scores.difference_interval[0] for scores in (alone, grouped)]
    assert width[1] / width[0] == pytest.approx(10**0.5, rel=0.15)


def test_the_same_classifier_differs_by_nothing():
    correct = np.array([True, False, True])
    scores = paired_scores(correct, correct)
    assert scores.difference_interval == [0.0, 0.0]
    assert scores.mcnemar_p == 1.0


@pytest.mark.parametrize(("first", "second"), [([], []), ([True], [True, False]), ([[True]], [[True]])])
def test_what_does_not_pair_is_refused(first, second):
    with pytest.raises(ValueError, match="same images"):
        paired_scores(np.array(first, dtype=bool), np.array(second, dtype=bool))
