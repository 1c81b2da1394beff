"""Non-maximum suppression against a second, slow implementation, loop by loop as in the toolbox."""

import math

import numpy as np
import pytest
from scipy import ndimage

from hf_contour.edge_thinning_contour import triangle_smoothed
from hf_contour.metrics.boundary.nms import boundary_nms


def slow_nms(edge_probs: np.ndarray) -> np.ndarray:
    probs = slow_triangle(edge_probs.astype(np.float64), 1)
    smooth = slow_triangle(probs, 4)
    along_rows, along_columns = np.gradient(smooth)
    second_rows, mixed, second_columns = (
        np.gradient(along_rows, axis=0),
        np.gradient(along_columns, axis=0),
        np.gradient(along_columns, axis=1),
    )
    height, width = probs.shape
    found = probs.copy()
    for y in range(height):
        for x in range(width):
            sign = float(np.sign(-mixed[y, x]))
            angle = math.atan(second_rows[y, x] * sign / (second_columns[y, x] + 1e-5)) % math.pi
            for step in (-1, 1):
                place = [[y + step * math.sin(angle)], [x + step * math.cos(angle)]]
                place = np.clip(place, 0, [[height - 1.001], [width - 1.001]])
                if probs[y, x] * 1.01 < ndimage.map_coordinates(probs, place, order=1)[0]:
                    found[y, x] = 0
    depth = min(5, height // 2, width // 2)
    for y in range(height):
        for x in range(width):
            for distance in (y, height - 1 - y, x, width - 1 - x):
                found[y, x] *= min(distance / depth, 1)
    return found


def slow_triangle(values: np.ndarray, radius: int) -> np.ndarray:
    weights = np.concatenate([np.arange(1, radius + 1), [radius + 1], np.arange(radius, 0, -1)]) / (radius + 1) ** 2
    for axis in range(2):
        values = ndimage.convolve1d(values, weights, axis=axis, mode="reflect")
    return values


@pytest.mark.parametrize("shape", [(32, 41), (12, 9), (7, 30)])
def test_maps_are_suppressed_as_by_the_toolbox(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    edge_probs = ndimage.gaussian_filter(rng.random(shape), 1.5)
    edge_probs = ((edge_probs - edge_probs.min()) / np.ptp(edge_probs)).astype(np.float32)
    found, expected = boundary_nms(edge_probs), slow_nms(edge_probs)
    agrees = np.isclose(found, expected, atol=1e-5)
    assert agrees.mean() > 0.995  # single precision decides a near tie otherwise now and then
    assert 0.1 < (expected > 0).mean() < 0.7


@pytest.mark.parametrize("radius", [1, 4])
def test_smoothing_is_a_triangle_with_mirrored_sides(radius: int) -> None:
    values = np.random.default_rng(6).random((11, 17)).astype(np.float32)
    np.testing.assert_allclose(triangle_smoothed(values, radius), slow_triangle(values, radius), atol=1e-6)


def test_a_soft_slanted_line_keeps_its_crest_and_fades_at_the_frame() -> None:
    rows, columns = np.indices((40, 40))
    edge_probs = np.exp(-((rows - columns) ** 2) / 18).astype(np.float32)
    crest = boundary_nms(edge_probs)
    inner = crest[6:-6, 6:-6]
    assert (inner.diagonal() > 0.9).all()
    assert (inner > 0).sum() <= 3 * len(inner)
    smooth = triangle_smoothed(edge_probs, 1)
    places = np.arange(6)
    np.testing.assert_allclose(crest.diagonal()[:6], smooth.diagonal()[:6] * np.minimum(places / 5, 1) ** 2, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 12), (12, 1), (2, 3), (6, 6)])
def test_tiny_empty_and_full_maps(shape: tuple[int, int]) -> None:
    assert not boundary_nms(np.zeros(shape, np.float32)).any()
    found = boundary_nms(np.ones(shape, np.float32))
    assert found.shape == shape
    assert found.max() <= 1 + 1e-6
    if min(shape) == 1:  # there is no frame to fade
        np.testing.assert_allclose(found, 1, atol=1e-6)
