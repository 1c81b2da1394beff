"""Counts of the boundary benchmark worked out by hand, on the degenerate too, and on several processes."""

import runpy
import sys

import numpy as np
import pytest

from hf_contour.metrics.boundary import compiled
from hf_contour.metrics.boundary.processes import count_images
from hf_contour.metrics.boundary.scores import MAX_DIST, THRESHOLDS, count_matches, protocol
from hf_contour.metrics.boundary.thinning import thin

PLAIN = {"nms": False, "thresholds": (0.25, 0.5, 0.75)}


def line(row: int, *, value: float = 1.0, columns: slice = slice(2, 18)) -> np.ndarray:
    edge_map = np.zeros((12, 20), np.float32)
    edge_map[row, columns] = value
    return edge_map


def test_a_line_within_reach_is_found_and_one_beyond_is_not() -> None:
    drawn = line(4)[None]
    reach = 2.1 / np.hypot(12, 20)
    near, far = (count_matches(line(row), drawn, max_dist=reach, **PLAIN) for row in (6, 7))
    assert near.matched_drawn.tolist() == near.matched_predicted.tolist() == [16, 16, 16]
    assert far.matched_drawn.tolist() == far.matched_predicted.tolist() == [0, 0, 0]
    assert far.drawn.tolist() == far.predicted.tolist() == [16, 16, 16]


def test_pixels_leave_as_the_threshold_rises() -> None:
    edge_probs = np.maximum(line(4, value=0.5), line(8, value=0.6))
    counts = count_matches(edge_probs, line(4)[None], max_dist=0, **PLAIN)
    assert counts.thresholds.tolist() == [0.25, 0.5, 0.75]
    assert counts.predicted.tolist() == [32, 32, 0]  # from the threshold on
    assert counts.matched_predicted.tolist() == counts.matched_drawn.tolist() == [16, 16, 0]


def test_annotators_add_up_for_recall_and_share_for_precision() -> None:
    left, right = line(4, columns=slice(2, 10)), line(4, columns=slice(6, 18))
    counts = count_matches(line(4), np.stack([left, right, np.zeros_like(left)]), max_dist=0, **PLAIN)
    assert counts.drawn.tolist() == [20, 20, 20]
    assert counts.matched_drawn.tolist() == [20, 20, 20]
    assert counts.matched_predicted.tolist() == [16, 16, 16]  # each once, though four were matched twice
    assert counts.predicted.tolist() == [16, 16, 16]


def test_predictions_are_thinned_and_drawings_are_not() -> None:
    thick = np.maximum.reduce([line(row) for row in (4, 5, 6)])
    counts = count_matches(thick, thick[None], max_dist=0, **PLAIN)
    thinned = thin(thick > 0).sum()
    assert 0 < thinned < 20
    assert counts.predicted[0] == counts.matched_predicted[0] == counts.matched_drawn[0] == thinned
    assert counts.drawn[0] == 48
    assert count_matches(thick, thick[None], max_dist=0, thinning=False, **PLAIN).predicted[0] == 48


def test_maps_and_drawings_without_pixels_count_nothing() -> None:
    empty, some = np.zeros((12, 20), np.float32), line(4)
    for edge_probs, drawn in ((empty, some), (some, empty), (empty, empty)):
        for nms in (True, False):
            counts = count_matches(edge_probs, drawn[None], nms=nms)
            assert not counts.matched_drawn.any()
            assert not counts.matched_predicted.any()
            assert counts.drawn.tolist() == [int(drawn.sum())] * 99
            assert counts.predicted.any() == edge_probs.any()


def test_a_full_map_is_thinned_to_what_little_bwmorph_leaves() -> None:
    full = np.ones((12, 20), np.float32)
    counts = count_matches(full, full[None], nms=False)
    left = thin(np.ones((12, 20), bool)).sum()
    assert counts.predicted.tolist() == counts.matched_predicted.tolist() == [left] * 99
    assert counts.drawn[0] == 240


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (3, 1)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    counts = count_matches(np.ones(shape), np.ones((2, *shape)), nms=False, thinning=False)
    assert counts.matched_drawn[0] == counts.drawn[0] == 2 * np.prod(shape)
    assert count_matches(np.ones(shape), np.ones((2, *shape))).drawn[0] == 2 * np.prod(shape)


def test_eight_bits_and_booleans_are_taken() -> None:
    grey = np.round(255 * line(4, value=0.6)).astype(np.uint8)
    counts = count_matches(grey, line(4)[None].astype(bool), max_dist=0, **PLAIN)
    assert counts.predicted.tolist() == [16, 16, 0]
    assert count_matches(line(4) > 0, line(4)[None], max_dist=0, **PLAIN).predicted.tolist() == [16] * 3


def test_suppression_brings_a_soft_line_back_to_one() -> None:
    rows, columns = np.indices((60, 60))
    soft = (0.9 * np.exp(-((rows - columns) ** 2) / 18)).astype(np.float32)
    drawn = (rows == columns)[None]
    counts = count_matches(soft, drawn)
    assert counts.matched_predicted[9] / counts.predicted[9] > 0.9  # at 0.1, where the bare map is 9 pixels wide
    assert counts.matched_drawn[9] / counts.drawn[9] > 0.9


@pytest.mark.parametrize(
    ("edge_probs", "annotations", "settings", "message"),
    [
        (np.zeros((2, 3, 4)), np.zeros((1, 3, 4)), {}, r"edge_probs has shape \(2, 3, 4\)"),
        (np.zeros((3, 4)), np.zeros((3, 4)), {}, r"annotations have shape \(3, 4\) and the map \(3, 4\)"),
        (np.zeros((3, 4)), np.zeros((0, 3, 4)), {}, "at least one annotator"),
        (np.zeros((3, 4)), np.zeros((1, 4, 3)), {}, "of the map's own size"),
        (np.full((3, 4), 1.5), np.zeros((1, 3, 4)), {}, "from 1.5 to 1.5.* need a sigmoid"),
        (np.full((3, 4), np.nan), np.zeros((1, 3, 4)), {}, "from nan to nan"),
        (np.zeros((3, 4), int), np.zeros((1, 3, 4)), {}, "edge_probs are int64"),
        (np.zeros((3, 4)), np.zeros((1, 3, 4)), {"max_dist": -1}, "max_dist is -1"),
        (np.zeros((3, 4)), np.zeros((1, 3, 4)), {"max_dist": float("nan")}, "max_dist is nan"),
        (np.zeros((3, 4)), np.zeros((1, 3, 4)), {"thresholds": (0.5, 0.5)}, "expected ascending"),
        (np.zeros((3, 4)), np.zeros((1, 3, 4)), {"thresholds": (0.0, 0.5)}, "above 0"),
        (np.zeros((3, 4)), np.zeros((1, 3, 4)), {"thresholds": ()}, "thresholds are"),
    ],
)
def test_what_does_not_fit_is_refused(
    edge_probs: np.ndarray, annotations: np.ndarray, settings: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        count_matches(edge_probs, annotations, **settings)


def some_images(number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(9)
    sizes = [(20 + 3 * index, 40 - 2 * index) for index in range(number)]
    return [(rng.random(size), rng.random((1 + index % 3, *size)) < 0.1) for index, size in enumerate(sizes)]


def test_many_images_are_counted_in_their_order() -> None:
    images = some_images(4)
    counts = count_images(iter(images), total=4, progress=False, nms=False)
    for found, (edge_probs, annotations) in zip(counts, images, strict=True):
        expected = count_matches(edge_probs, annotations, nms=False)
        np.testing.assert_array_equal(found.to_array(), expected.to_array())
    with pytest.raises(ValueError, match="image 1: annotations have shape"):
        count_images([images[0], (images[1][0], images[0][1])], progress=False)
    with pytest.raises(ValueError, match="num_processes is 0"):
        count_images(images, num_processes=0)


@pytest.mark.slow
def test_several_processes_give_the_counts_of_one() -> None:
    images = some_images(9)
    one, two = (count_images(images, num_processes=number, progress=False) for number in (1, 2))
    assert len(one) == 9
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first.to_array(), second.to_array())
    with pytest.raises(ValueError, match="image 0: edge_probs has shape"):
        count_images([(np.zeros(3), np.zeros((1, 3)))], num_processes=2, progress=False)


def test_without_numba_a_call_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "numba", None)
    with pytest.raises(ImportError, match=r'pip install "hf_contour\[boundary\]"'):
        count_matches(line(4), line(4)[None])
    monkeypatch.setitem(sys.modules, "numba", None)  # as if it were not installed
    fresh = runpy.run_path(compiled.__file__)
    with pytest.raises(ImportError, match=r'pip install "hf_contour\[boundary\]"'):
        fresh["compiled"](abs)(3)


def test_the_protocol_names_what_the_scores_depend_on() -> None:
    assert protocol()["max_dist"] == MAX_DIST == 0.0075
    assert protocol()["thresholds"] == "99 from 0.01 to 0.99"
    assert len(THRESHOLDS) == 99
    assert protocol(nms=False, thinning=False)["nms"] is protocol(thinning=False)["thinning"] is None
