"""Thinning of edge maps to lines one pixel wide, as `bwmorph(edge_map, 'thin', inf)` of the boundary benchmark.

Two passes take turns. Each looks at every pixel's eight neighbours and deletes, all at once, the pixels that a table
names; the tables differ in the sides that they peel. It ends when neither pass finds a pixel. After the first two
passes only neighbours of deleted pixels are looked at again, which gives the same lines.

Source: Lam, Lee and Suen, Thinning methodologies (1992), p. 879, by way of the documentation of `bwmorph`. The same
tables stand in `skimage.morphology.thin`, which the tests compare with.

Maps are stored flat with a frame of one empty pixel: P = (H + 2)(W + 2) places.
"""

import numpy as np
from numpy.typing import NDArray

from hf_contour.metrics.boundary.compiled import compiled

BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]
IntArray = NDArray[np.int64]


def thin(edge_map: BoolArray) -> BoolArray:
    """The lines that remain of a map: connected as before, one pixel wide.

    Args:
        edge_map: `(H, W)`, boolean.

    Returns:
        `(H, W)`, boolean; a subset of `edge_map`.

    Raises:
        ValueError: If the map is not boolean or has not two dimensions.
        ImportError: If Numba is not installed.
    """
    if edge_map.ndim != 2 or edge_map.dtype != bool:
        raise ValueError(f"edge_map is {edge_map.dtype} of shape {edge_map.shape}; expected boolean (height, width).")
    framed = np.pad(edge_map, 1).astype(np.uint8)
    pixels = np.flatnonzero(framed)
    flat = framed.reshape(-1)
    lists, marks = np.empty((2, len(pixels)), np.int64), np.zeros((2, flat.size), np.uint8)
    _thin_in_place(flat, framed.shape[1], pixels, lists, marks, _DELETED)
    return framed[1:-1, 1:-1].astype(bool)


def thinned_changes(
    edge_probs: NDArray[np.float64], thresholds: NDArray[np.float64], *, thinning: bool
) -> tuple[IntArray, IntArray, IntArray]:
    """Which pixels come and go in the thinned maps from the highest threshold down to the lowest.

    Args:
        edge_probs: `(H, W)`.
        thresholds: `(T,)`, ascending; a pixel belongs to a map from this value on, and never if it is 0.
        thinning: False takes the maps as they are.

    Returns:
        `changes` `(C,)`: a pixel's place `row * W + column` + 1 where it appears, minus that where it vanishes;
        `steps` `(T + 1,)`: the changes at threshold `k` are `changes[steps[T - 1 - k]:steps[T - k]]`;
        `sizes` `(T,)`: pixels of each thinned map.

    Raises:
        ImportError: If Numba is not installed.
    """
    width = edge_probs.shape[1]
    values = edge_probs.reshape(-1)
    places = np.flatnonzero(values >= max(np.finfo(np.float64).eps, thresholds[0]))
    places = places[np.argsort(-values[places], kind="stable")]
    reaching = np.maximum(thresholds, np.finfo(np.float64).eps)
    numbers = np.searchsorted(-values[places], -reaching, side="right")
    pixels = (places // width + 1) * (width + 2) + places % width + 1
    changes, steps, sizes = _list_changes(
        pixels, numbers, (edge_probs.shape[0] + 2) * (width + 2), width + 2, thinning, _DELETED
    )
    rows, columns = np.divmod(np.abs(changes) - 1, width + 2)
    return np.sign(changes) * ((rows - 1) * width + columns), steps, sizes


def _deletion_tables() -> NDArray[np.bool_]:
    """`(2, 256)`: does each pass delete a pixel whose neighbours are these eight bits?

    Bit 0 is the neighbour to the east, the others follow counter-clockwise.
    """
    codes = np.arange(256)
    x1, x2, x3, x4, x5, x6, x7, x8 = ((codes >> bit & 1).astype(bool) for bit in range(8))
    crossings = sum(
        (~side & (corner | following)).astype(int)
        for side, corner, following in ((x1, x2, x3), (x3, x4, x5), (x5, x6, x7), (x7, x8, x1))
    )
    pairs = sum((side | corner).astype(int) for side, corner in ((x1, x2), (x3, x4), (x5, x6), (x7, x8)))
    shifted = sum((corner | side).astype(int) for corner, side in ((x2, x3), (x4, x5), (x6, x7), (x8, x1)))
    fewest = np.minimum(pairs, shifted)
    deletable = (crossings == 1) & (fewest >= 2) & (fewest <= 3)
    return np.stack([deletable & ~((x2 | x3 | ~x8) & x1), deletable & ~((x6 | x7 | ~x4) & x5)])


_DELETED = _deletion_tables()


@compiled
def _neighbour_bits(filled: ByteArray, width: int, pixel: int) -> int:
    """The eight neighbours, as the tables number them."""
    return (
        filled[pixel + 1]
        | filled[pixel - width + 1] << 1
        | filled[pixel - width] << 2
        | filled[pixel - width - 1] << 3
        | filled[pixel - 1] << 4
        | filled[pixel + width - 1] << 5
        | filled[pixel + width] << 6
        | filled[pixel + width + 1] << 7
    )


@compiled
def _thin_in_place(
    filled: ByteArray, width: int, pixels: IntArray, lists: IntArray, marks: ByteArray, deleted: BoolArray
) -> None:
    """Thin a framed flat map.

    Args:
        filled: `(P,)` 0 or 1; changed.
        width: of the framed map.
        pixels: `(N,)` places that are filled.
        lists: `(2, N)` space for the pixels that each pass has yet to look at.
        marks: `(2, P)` zeros, and zeros again at the end: which pixels are in the lists.
        deleted: `(2, 256)` tables.
    """
    counts = np.array([len(pixels), len(pixels)])
    doomed = np.empty(len(pixels), np.int64)
    for turn in range(2):
        for index in range(len(pixels)):
            lists[turn, index] = pixels[index]
            marks[turn, pixels[index]] = 1
    turn = 0
    while counts[0] + counts[1] > 0:
        num_doomed = 0
        for index in range(counts[turn]):
            pixel = lists[turn, index]
            marks[turn, pixel] = 0
            if filled[pixel] and deleted[turn, _neighbour_bits(filled, width, pixel)]:
                doomed[num_doomed] = pixel
                num_doomed += 1
        counts[turn] = 0
        for index in range(num_doomed):
            filled[doomed[index]] = 0
        for index in range(num_doomed):
            for row in range(-1, 2):
                for column in range(-1, 2):
                    near = doomed[index] + row * width + column
                    if filled[near]:
                        for later in range(2):
                            if not marks[later, near]:
                                marks[later, near] = 1
                                lists[later, counts[later]] = near
                                counts[later] += 1
        turn = 1 - turn


@compiled
def _list_changes(
    pixels: IntArray, numbers: IntArray, num_places: int, width: int, thinning: bool, deleted: BoolArray
) -> tuple[IntArray, IntArray, IntArray]:
    """`thinned_changes` on a framed flat map.

    Args:
        pixels: `(N,)` places in the order in which they reach the thresholds.
        numbers: `(T,)` how many of them reach each threshold.
        num_places: P.
        width: of the framed map.
        thinning: whether to thin.
        deleted: `(2, 256)` tables.
    """
    filled, before = np.zeros(num_places, np.uint8), np.zeros(num_places, np.uint8)
    lists, marks = np.empty((2, len(pixels)), np.int64), np.zeros((2, num_places), np.uint8)
    changes, num_changes = np.empty(2 * len(pixels) + 1, np.int64), 0
    num_thresholds = len(numbers)
    steps, sizes = np.zeros(num_thresholds + 1, np.int64), np.zeros(num_thresholds, np.int64)
    size, number = 0, 0
    for threshold in range(num_thresholds - 1, -1, -1):
        if numbers[threshold] > number:
            number = numbers[threshold]
            for index in range(number):
                filled[pixels[index]] = 1
            if thinning:
                _thin_in_place(filled, width, pixels[:number], lists, marks, deleted)
            if num_changes + number > len(changes):
                longer = np.empty(2 * (num_changes + number), np.int64)
                longer[:num_changes] = changes[:num_changes]
                changes = longer
            for index in range(number):
                pixel = pixels[index]
                if filled[pixel] != before[pixel]:
                    sign = 1 if filled[pixel] else -1
                    changes[num_changes] = sign * (pixel + 1)
                    num_changes += 1
                    size += sign
                    before[pixel] = filled[pixel]
        steps[num_thresholds - threshold], sizes[threshold] = num_changes, size
    return changes[:num_changes].copy(), steps, sizes
