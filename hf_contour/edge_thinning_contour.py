"""Thinning of soft edge maps by non-maximum suppression, as Dollar's structured edge toolbox does it.

Source: Dollar and Zitnick, Fast edge detection using structured forests (2015), `edgesDetect.m`, `edgesNmsMex.cpp` and
`convTri` of their toolbox (version 3.01), with radius 1 and multiplier 1.01.
"""

import numpy as np
import torch
from torch import Tensor

ORIENTATION_RADIUS = 4  # of the smoothed map that directions are taken from
MULTIPLIER = np.float32(1.01)  # a pixel survives neighbours that are stronger by up to this


def suppress_non_maxima(edge_probs: Tensor) -> Tensor:
    """Keeps a pixel only where no neighbour one step along the edge's normal is stronger.

    The toolbox smooths the map first and fades it along the frame; here it stays as it is (`metrics.boundary.nms` does
    both, for scores).

    Args:
        edge_probs: `(H, W)`, in 0..1.

    Returns:
        `(H, W)`, float32 on the same device: the crests with their values, 0 elsewhere.
    """
    crests = edge_crests(edge_probs.detach().float().cpu().numpy())
    return torch.from_numpy(crests).to(edge_probs.device)


def edge_crests(probs: np.ndarray) -> np.ndarray:
    """The crests of a map with their values, 0 elsewhere; `(H, W)` float32 to the same.

    Departure: where the mixed derivative is exactly 0 its sign counts as positive, as the toolbox takes perfectly
    horizontal edges for vertical ones.
    """
    angle = _edge_normal(triangle_smoothed(probs, ORIENTATION_RADIUS))
    rows, columns = np.indices(probs.shape, dtype=np.float32)
    down, across = np.sin(angle), np.cos(angle)
    is_crest = probs > 0
    for step in (-1, 1):
        is_crest &= probs * MULTIPLIER >= _interpolated(probs, rows + step * down, columns + step * across)
    return np.where(is_crest, probs, np.float32(0))


def triangle_smoothed(values: np.ndarray, radius: int) -> np.ndarray:
    """Convolves rows and columns with a triangle, the map mirrored at its sides; `(H, W)` float32 to the same."""
    weights = (radius + 1 - np.abs(np.arange(-radius, radius + 1))) / (radius + 1) ** 2
    for _ in range(2):  # along the rows, then, the map turned, along the columns
        padded = np.pad(values, [(radius, radius), (0, 0)], mode="symmetric")
        parts = (weight * padded[start : start + len(values)] for start, weight in enumerate(weights.astype("f4")))
        values = sum(parts, np.zeros_like(values)).T
    return values


def _edge_normal(smooth: np.ndarray) -> np.ndarray:
    """The direction across the edge at each pixel, in 0..pi from the columns' axis; `(H, W)`."""
    along_rows, along_columns = _difference(smooth, axis=0), _difference(smooth, axis=1)
    second_rows = _difference(along_rows, axis=0)
    mixed = _difference(along_columns, axis=0)
    second_columns = _difference(along_columns, axis=1)
    sign = np.where(mixed > 0, np.float32(-1), np.float32(1))
    slope = second_rows * sign / (second_columns + np.float32(1e-5))
    return np.mod(np.arctan(slope), np.float32(np.pi))


def _difference(values: np.ndarray, axis: int) -> np.ndarray:
    """Central differences, one-sided at the ends; 0 along a side of one pixel."""
    return np.gradient(values, axis=axis) if values.shape[axis] > 1 else np.zeros_like(values)


def _interpolated(values: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Bilinear values at places, which are first brought 1.001 pixels inside the far sides, as in the toolbox."""
    height, width = values.shape
    down = np.maximum(np.minimum(down, np.float32(height - 1.001)), np.float32(0))
    across = np.maximum(np.minimum(across, np.float32(width - 1.001)), np.float32(0))
    top, left = down.astype(np.intp), across.astype(np.intp)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    low, east = down - np.floor(down), across - np.floor(across)
    high, west = 1 - low, 1 - east
    return (
        values[top, left] * west * high
        + values[top, right] * east * high
        + values[bottom, left] * west * low
        + values[bottom, right] * east * low
    )
