"""Non-maximum suppression of soft edge maps, as Dollar's structured edge toolbox does it before the benchmark.

`suppress_non_maxima` of the image processor is the same idea for users, without smoothing of the map and without
fading at the frame; scores are comparable with published ones only after the toolbox's own steps, which are here.
"""

import numpy as np
from numpy.typing import NDArray

from hf_contour.metrics.boundary.compiled import compiled

FloatArray = NDArray[np.float32]

SMOOTHING_RADIUS = 1  # of the map itself
ORIENTATION_RADIUS = 4  # of the map that directions are taken from
MULTIPLIER = 1.01  # a pixel survives neighbours that are stronger by up to this
FRAME = 5  # pixels along the frame that are faded


def boundary_nms(edge_probs: FloatArray) -> FloatArray:
    """Smooth a soft map and leave only the crests of its edges.

    The steps of `edgesDetect.m` and `edgesNmsMex.cpp` in single precision: `convTri(E, 1)`; directions from the
    second derivatives of `convTri(E, 4)`; a pixel is 0 where the map one pixel across the edge, to either side, is
    more than 1.01 times as strong; the 5 pixels along the frame are weakened in proportion to their distance from it,
    the outermost to 0.

    Args:
        edge_probs: `(H, W)`, float, in 0..1.

    Returns:
        `(H, W)`, float32 in 0..1.

    Raises:
        ImportError: If Numba is not installed.

    Source: Dollar and Zitnick, Fast edge detection using structured forests (2015), with their toolbox (version 3.01).
    HED, RCF and PiDiNet are scored with the same settings. The toolbox's users save the result with 8 bits before
    they score it; here the values stay as they are.
    """
    probs = triangle_smoothed(edge_probs.astype(np.float32), SMOOTHING_RADIUS)
    angle = _edge_normal(triangle_smoothed(probs, ORIENTATION_RADIUS))
    return _suppress(probs, np.cos(angle), np.sin(angle), np.float32(MULTIPLIER), FRAME)


def triangle_smoothed(values: FloatArray, radius: int) -> FloatArray:
    """Convolve rows and columns with a triangle, the map mirrored at its sides (`convTri`); `(H, W)`."""
    weights = (radius + 1 - np.abs(np.arange(-radius, radius + 1))) / (radius + 1) ** 2
    for axis in range(2):
        length = values.shape[axis]
        padded = np.pad(values, [(radius, radius) if side == axis else (0, 0) for side in range(2)], mode="symmetric")
        shifted = [padded[start : start + length] if axis == 0 else padded[:, start : start + length]
                   for start in range(2 * radius + 1)]  # fmt: skip
        values = np.zeros_like(values)
        for weight, part in zip(weights.astype(np.float32), shifted, strict=True):
            values += weight * part
    return values


def _edge_normal(smooth: FloatArray) -> FloatArray:
    """The direction across the edge at each pixel, in 0..pi from the columns' axis; `(H, W)`."""
    along_rows, along_columns = _difference(smooth, axis=0), _difference(smooth, axis=1)
    second_rows = _difference(along_rows, axis=0)
    mixed = _difference(along_columns, axis=0)
    second_columns = _difference(along_columns, axis=1)
    slope = second_rows * np.sign(-mixed) / (second_columns + np.float32(1e-5))
    return np.mod(np.arctan(slope), np.float32(np.pi))


def _difference(values: FloatArray, axis: int) -> FloatArray:
    """Central differences, one-sided at the ends (`gradient2`); 0 along a side of one pixel."""
    return np.gradient(values, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values)


@compiled
def _suppress(
    probs: FloatArray, cosines: FloatArray, sines: FloatArray, multiplier: np.float32, frame: int
) -> FloatArray:
    """`edgesNmsMex` with radius 1."""
    height, width = probs.shape
    crests = np.zeros_like(probs)
    for row in range(height):
        for column in range(width):
            if probs[row, column] == 0:
                continue
            strength, keep = probs[row, column] * multiplier, True
            for step in (-1, 1):
                across = np.float32(column + step * cosines[row, column])
                down = np.float32(row + step * sines[row, column])
                keep = keep and strength >= _interpolated(probs, down, across)
            if keep:
                crests[row, column] = probs[row, column]
    depth = min(frame, width // 2, height // 2)
    for distance in range(depth):
        factor = np.float32(distance) / np.float32(depth)
        crests[:, distance] *= factor
        crests[:, width - 1 - distance] *= factor
    for distance in range(depth):
        factor = np.float32(distance) / np.float32(depth)
        crests[distance] *= factor
        crests[height - 1 - distance] *= factor
    return crests


@compiled
def _interpolated(values: FloatArray, down: np.float32, across: np.float32) -> np.float32:
    """Bilinear value at a place, which is first brought 1.001 pixels inside the far sides, as in the original."""
    height, width = values.shape
    down = np.float32(max(min(down, height - 1.001), 0.0))
    across = np.float32(max(min(across, width - 1.001), 0.0))
    top, left = int(down), int(across)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    low, east = down - np.float32(top), across - np.float32(left)
    high, west = np.float32(1) - low, np.float32(1) - east
    return (
        values[top, left] * west * high
        + values[top, right] * east * high
        + values[bottom, left] * west * low
        + values[bottom, right] * east * low
    )
