"""Thinning against scikit-image, a second implementation of the same tables, and thinned maps as lists of changes."""

import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology

from hf_contour.metrics.boundary.thinning import thin, thinned_changes


def random_map(rng: np.random.Generator) -> np.ndarray:
    height, width = rng.integers(1, 40, 2)
    edge_map = rng.random((height, width)) < rng.random()
    if rng.random() < 0.5:  # blobs and thick lines
        edge_map = ndimage.binary_dilation(rng.random((height, width)) < 0.1 * rng.random(), np.ones((3, 3)))
    return edge_map


def test_random_maps_are_thinned_as_by_scikit_image() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        edge_map = random_map(rng)
        np.testing.assert_array_equal(thin(edge_map), morphology.thin(edge_map))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (9, 12), (64, 48)])
def test_full_and_empty_maps(shape: tuple[int, int]) -> None:
    np.testing.assert_array_equal(thin(np.ones(shape, bool)), morphology.thin(np.ones(shape, bool)))
    assert not thin(np.zeros(shape, bool)).any()


def test_a_bar_becomes_a_line_and_stays_one() -> None:
    bar = np.zeros((7, 20), bool)
    bar[2:5, 3:17] = True
    line = thin(bar)
    assert line.any(axis=0).sum() == line.sum() >= 10  # one pixel in each column that it crosses
    assert line[3].sum() == line.sum()
    np.testing.assert_array_equal(thin(line), line)


def test_connected_parts_stay_as_many() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        blobs = ndimage.binary_dilation(rng.random((30, 30)) < 0.03, np.ones((3, 3)))
        parts = [ndimage.label(edge_map, np.ones((3, 3)))[1] for edge_map in (blobs, thin(blobs))]
        assert parts[0] == parts[1]


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"edge_map is uint8 of shape \(3, 3\); expected boolean"):
        thin(np.ones((3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        thin(np.ones(3, bool))


@pytest.mark.parametrize("thinning", [True, False])
def test_changes_add_up_to_the_thinned_map_of_each_threshold(thinning: bool) -> None:
    rng = np.random.default_rng(2)
    edge_probs = ndimage.gaussian_filter(rng.random((24, 31)), 1)
    edge_probs = np.round((edge_probs - edge_probs.min()) / np.ptp(edge_probs), 2)  # some values on a threshold
    thresholds = np.arange(1, 20) / 20
    changes, steps, sizes = thinned_changes(edge_probs, thresholds, thinning=thinning)
    current = np.zeros(edge_probs.size, bool)
    for turn, number in enumerate(range(len(thresholds) - 1, -1, -1)):
        for change in changes[steps[turn] : steps[turn + 1]]:
            assert current[abs(change) - 1] == (change < 0)
            current[abs(change) - 1] = change > 0
        expected = edge_probs >= thresholds[number]
        expected = morphology.thin(expected) if thinning else expected
        np.testing.assert_array_equal(current.reshape(edge_probs.shape), expected)
        assert sizes[number] == expected.sum()


def test_a_pixel_of_zero_is_never_an_edge() -> None:
    changes, _, sizes = thinned_changes(np.zeros((3, 3)), np.array([1e-300]), thinning=True)
    assert len(changes) == 0
    assert sizes.tolist() == [0]
