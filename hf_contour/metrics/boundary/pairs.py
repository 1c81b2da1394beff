"""The pairs of a predicted and a drawn pixel that are near enough to be matched, as a sparse matrix.

N predicted pixels, M drawn pixels, E pairs. Rows are stored one after another: the columns of row `i` are
`columns[starts[i]:starts[i + 1]]`, ascending.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_contour.metrics.boundary.compiled import compiled

IntArray = NDArray[np.int32]
LongArray = NDArray[np.int64]

# The original scales distances by 100 and rounds them to integers.
UNITS_PER_PIXEL = 100
# Cost of an unmatched pixel, in units of the largest distance (`correspondPixels`).
OUTLIER_COST = 100


class Rows(NamedTuple):
    """Pairs, row after row.

    `gains` is what a match is worth: the cost of an outlier less the distance, in hundredths of a pixel, always > 0.
    """

    starts: LongArray  # (rows + 1,)
    columns: IntArray  # (E,)
    gains: IntArray  # (E,)


def pixel_pairs(predicted: LongArray, annotation: NDArray[np.bool_], reach: float) -> tuple[Rows, Rows]:
    """Find all pairs within a distance.

    Args:
        predicted: `(N,)` places `row * W + column`, ascending, each once.
        annotation: `(H, W)` boolean, the drawn pixels.
        reach: largest distance in pixels, >= 0.

    Returns:
        The pairs, one row per predicted pixel, and the same pairs, one row per drawn pixel.

    Raises:
        ImportError: If Numba is not installed.
    """
    height, width = annotation.shape
    radius = min(math.floor(reach), max(height, width))
    steps = np.arange(radius + 1)
    distances = np.sqrt(steps[:, None] ** 2 + steps[None] ** 2)
    outlier = outlier_cost(reach)
    gains = np.where(distances <= reach, outlier - np.rint(UNITS_PER_PIXEL * distances), 0).astype(np.int32)
    numbers = np.full(annotation.shape, -1, np.int32)
    numbers.reshape(-1)[predicted] = np.arange(len(predicted), dtype=np.int32)
    drawn_rows = Rows(*_near_pixels(np.argwhere(annotation), numbers, gains))
    return Rows(*_transpose(len(predicted), *drawn_rows)), drawn_rows


def outlier_cost(reach: float) -> int:
    """What a match saves besides its distance, in hundredths of a pixel; more than any distance."""
    return max(math.ceil(OUTLIER_COST * reach * UNITS_PER_PIXEL), 1)


@compiled
def _near_pixels(drawn: LongArray, numbers: IntArray, gains: IntArray) -> tuple[LongArray, IntArray, IntArray]:
    """For each drawn pixel `(M, 2)` the numbered pixels of `numbers` `(H, W)` at which `gains` is above 0."""
    height, width = numbers.shape
    radius = len(gains) - 1
    halves = np.zeros(radius + 1, np.int64)
    for step in range(radius + 1):
        while halves[step] < radius and gains[step, halves[step] + 1] > 0:
            halves[step] += 1
    starts = np.zeros(len(drawn) + 1, np.int64)
    columns, found_gains = np.empty(0, np.int32), np.empty(0, np.int32)
    for writing in range(2):
        num_found = 0
        for index in range(len(drawn)):
            row, column = drawn[index]
            for near_row in range(max(row - radius, 0), min(row + radius + 1, height)):
                half = halves[abs(near_row - row)]
                for near_column in range(max(column - half, 0), min(column + half + 1, width)):
                    if numbers[near_row, near_column] >= 0:
                        if writing:
                            columns[num_found] = numbers[near_row, near_column]
                            found_gains[num_found] = gains[abs(near_row - row), abs(near_column - column)]
                        num_found += 1
            starts[index + 1] = num_found
        if not writing:
            columns, found_gains = np.empty(num_found, np.int32), np.empty(num_found, np.int32)
    return starts, columns, found_gains


@compiled
def _transpose(
    num_columns: int, starts: LongArray, columns: IntArray, gains: IntArray
) -> tuple[LongArray, IntArray, IntArray]:
    """The same pairs, from the side of the columns."""
    turned_starts = np.zeros(num_columns + 1, np.int64)
    for entry in range(len(columns)):
        turned_starts[columns[entry] + 1] += 1
    for column in range(num_columns):
        turned_starts[column + 1] += turned_starts[column]
    places = turned_starts[:-1].copy()
    turned_columns, turned_gains = np.empty(len(columns), np.int32), np.empty(len(columns), np.int32)
    for row in range(len(starts) - 1):
        for entry in range(starts[row], starts[row + 1]):
            place = places[columns[entry]]
            places[columns[entry]] += 1
            turned_columns[place], turned_gains[place] = row, gains[entry]
    return turned_starts, turned_columns, turned_gains
