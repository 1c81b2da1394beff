"""Matching against SciPy's assignment at every threshold: as many pairs, and as short ones."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from hf_contour.metrics.boundary.matching import follow_changes
from hf_contour.metrics.boundary.pairs import outlier_cost, pixel_pairs
from hf_contour.metrics.boundary.thinning import thinned_changes


def best_matching(predicted: np.ndarray, drawn: np.ndarray, reach: float) -> tuple[int, int]:
    """Number of pairs, and sum of distances in rounded hundredths of a pixel, of the shortest largest matching."""
    distances = np.hypot(*(np.argwhere(predicted)[:, None] - np.argwhere(drawn)[None]).transpose(2, 0, 1))
    too_far = 1e6  # more than all others together
    costs = np.where(distances <= reach, np.rint(100 * distances), too_far)
    chosen = costs[linear_sum_assignment(costs)]
    return int((chosen < too_far).sum()), int(chosen[chosen < too_far].sum())


def match_boundaries(edge_map: np.ndarray, annotation: np.ndarray, *, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Places of the matched pixels of two maps, predicted and drawn, by a single threshold."""
    predicted = np.flatnonzero(edge_map)
    rows = pixel_pairs(predicted, annotation, reach)
    partners = follow_changes(np.arange(1, len(predicted) + 1), np.array([0, len(predicted)]), *rows)[3]
    matched = partners >= 0
    return predicted[matched], np.flatnonzero(annotation)[partners[matched]]


def random_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    height, width = rng.integers(3, 22, 2)
    edge_probs = rng.random((height, width)) * (rng.random((height, width)) < rng.uniform(0.05, 1))
    if rng.random() < 0.3:
        edge_probs = np.round(8 * edge_probs) / 8  # many pixels come at once
    drawn = rng.random((height, width)) < rng.uniform(0.02, 0.6)
    return edge_probs, drawn, float(rng.choice([0, 1, 1.5, 2, 2.9, 4.3]))


@pytest.mark.parametrize("seed", range(40))
def test_the_matching_is_optimal_at_every_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edge_probs, drawn, reach = random_case(rng)
    thresholds = np.linspace(0.05, 0.95, rng.integers(1, 12))
    changes, steps, _ = thinned_changes(edge_probs, thresholds, thinning=bool(seed % 2))
    places, numbers = np.unique(np.abs(changes), return_inverse=True)
    rows = pixel_pairs(places - 1, drawn, reach)
    num_matches, gains, was_matched, _ = follow_changes(np.sign(changes) * (numbers + 1), steps, *rows)
    distances = num_matches * outlier_cost(reach) - gains
    current = np.zeros(edge_probs.size, bool)
    for turn, number in enumerate(range(len(thresholds) - 1, -1, -1)):
        for change in changes[steps[turn] : steps[turn + 1]]:
            current[abs(change) - 1] = change > 0
        expected = best_matching(current.reshape(edge_probs.shape), drawn, reach)
        assert (num_matches[number], distances[number]) == expected
        assert was_matched[:, number].sum() == num_matches[number]
        assert current[places[was_matched[:, number]] - 1].all()


@pytest.mark.parametrize("seed", range(8))
def test_a_single_matching_is_one_to_one_within_reach_and_as_good(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    edge_probs, drawn, reach = random_case(rng)
    predicted = edge_probs > 0.4
    found, partners = match_boundaries(predicted, drawn, reach=reach)
    assert predicted.flat[found].all()
    assert drawn.flat[partners].all()
    assert len(set(found)) == len(set(partners)) == len(found)
    width = drawn.shape[1]
    steps = np.stack(np.divmod(found, width)) - np.stack(np.divmod(partners, width))
    distances = np.hypot(*steps)
    assert (distances <= reach).all()
    assert (len(found), np.rint(100 * distances).sum()) == best_matching(predicted, drawn, reach)


def test_a_chain_moves_along_to_make_room() -> None:
    drawn, predicted = np.zeros((2, 1, 8), bool)
    drawn[0, [1, 3, 5]] = True
    predicted[0, [2, 4, 6]] = True  # each between two drawn ones; the last has only one within reach
    found, partners = match_boundaries(predicted, drawn, reach=1)
    assert found.tolist() == [2, 4, 6]
    assert partners.tolist() == [1, 3, 5]


def test_the_reach_is_included_and_no_more() -> None:
    drawn, predicted = np.zeros((2, 9, 9), bool)
    drawn[4, 4], predicted[7, 8] = True, True  # 5 pixels apart
    assert len(match_boundaries(predicted, drawn, reach=5)[0]) == 1
    assert len(match_boundaries(predicted, drawn, reach=4.999)[0]) == 0


def test_a_large_reach_takes_the_nearest() -> None:
    drawn, predicted = np.zeros((2, 5, 6), bool)
    drawn[2, 2] = True
    predicted[0, 0] = predicted[4, 5] = predicted[2, 3] = True
    found, partners = match_boundaries(predicted, drawn, reach=1000)
    assert (found.tolist(), partners.tolist()) == ([15], [14])


def test_empty_maps_have_no_matches() -> None:
    empty, full = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    for predicted, drawn in ((empty, empty), (empty, full), (full, empty)):
        assert len(match_boundaries(predicted, drawn, reach=2)[0]) == 0
    assert len(match_boundaries(full, full, reach=2)[0]) == 20
