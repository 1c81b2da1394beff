"""One-to-one matching of predicted and drawn pixels, optimal at every threshold.

The objective is that of `correspondPixels`: the sum over matched pairs of `outlier cost - distance` is largest, with
distances in hundredths of a pixel, rounded. The outlier cost is a hundred times the largest distance, so as many
pixels as possible are matched, and among these matchings the shortest is taken (more exactly: a further match is
forgone only where it would lengthen the others by a hundred times the largest distance in all). The original draws
some of its outlier connections at random, and is therefore a little off the optimum now and then; this is not.

The matching is kept optimal while pixels come and go (`follow_changes`), by the Hungarian method: each pixel has a
price >= 0, the prices of a pair add up to at least its gain, to exactly its gain where it is matched, and an unmatched
pixel's price is 0. A pixel that comes, or whose partner goes, may break only the last rule; a search for the cheapest
alternating path from it restores that, and looks only as far around as the price requires.

Ties are broken by the order of places, so results do not vary. N predicted pixels, M drawn ones, T thresholds.
"""

import numpy as np
from numpy.typing import NDArray

from hf_contour.metrics.boundary_pairs import Pairs, outlier_cost, pixel_pairs
from hf_contour.metrics.compiled import compiled

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


def match_boundaries(edge_map: BoolArray, annotation: BoolArray, *, reach: float) -> tuple[IntArray, IntArray]:
    """Match the pixels of two maps.

    Args:
        edge_map: `(H, W)`, the predicted pixels, as they are (thin them first).
        annotation: `(H, W)`, the drawn pixels of one annotator.
        reach: largest distance of a match in pixels.

    Returns:
        Two `(matches,)` arrays of places `row * W + column`: predicted pixels, ascending, and their partners.

    Raises:
        ImportError: If Numba is not installed.
    """
    predicted = np.flatnonzero(edge_map)
    pairs = pixel_pairs(predicted, annotation, reach)
    partners = follow_changes(np.arange(1, len(predicted) + 1), np.array([0, len(predicted)]), pairs)[3]
    matched = partners >= 0
    return predicted[matched], np.flatnonzero(annotation)[partners[matched]]


def follow_changes(
    changes: IntArray, starts: IntArray, pairs: Pairs
) -> tuple[IntArray, IntArray, BoolArray, NDArray[np.int32]]:
    """Keep the matching optimal from the highest threshold to the lowest.

    Args:
        changes: `(C,)`: number of a predicted pixel + 1 where it comes, minus that where it goes.
        starts: `(T + 1,)`: the changes at threshold `k` are `changes[starts[T - 1 - k]:starts[T - k]]`.
        pairs: of all predicted pixels that ever come.

    Returns:
        `(T,)` number of matches; `(T,)` sum of their gains; `(N, T)` whether a predicted pixel is matched;
        `(N,)` its partner's number at the lowest threshold, or -1.
    """
    return _follow_changes(changes, starts, *pairs)


def total_distance(num_matches: IntArray, gains: IntArray, reach: float) -> IntArray:
    """Sum of the distances of the matches that `follow_changes` counted, in hundredths of a pixel."""
    return num_matches * outlier_cost(reach) - gains


@compiled
def _follow_changes(changes, steps, starts, columns, gains, drawn_starts, drawn_columns, drawn_gains):  # type: ignore[no-untyped-def]
    num_predicted, num_drawn, num_thresholds = len(starts) - 1, len(drawn_starts) - 1, len(steps) - 1
    prices, drawn_prices = np.zeros(num_predicted, np.int64), np.zeros(num_drawn, np.int64)
    partners, drawn_partners = np.full(num_predicted, -1, np.int32), np.full(num_drawn, -1, np.int32)
    is_there, is_drawn = np.zeros(num_predicted, np.bool_), np.ones(num_drawn, np.bool_)
    space = max(num_predicted, num_drawn)
    costs, vias, visits = np.empty(space, np.int64), np.empty(space, np.int32), np.zeros(space, np.int64)
    reached, heap = np.empty((2, space + 1), np.int64), np.empty(len(columns) + 1, np.int64)
    exposed = np.empty(num_drawn, np.int64)
    was_matched = np.zeros((num_predicted, num_thresholds), np.bool_)
    since = np.full(num_predicted, -1, np.int64)
    num_matches, sums = np.zeros(num_thresholds, np.int64), np.zeros(num_thresholds, np.int64)
    matches, total, visit = 0, 0, 0
    for threshold in range(num_thresholds - 1, -1, -1):
        first, end = steps[num_thresholds - 1 - threshold], steps[num_thresholds - threshold]
        num_exposed = 0
        for change in changes[first:end]:
            if change < 0:
                pixel = -change - 1
                is_there[pixel] = False
                total -= prices[pixel]
                if partners[pixel] >= 0:
                    exposed[num_exposed] = partners[pixel]
                    num_exposed += 1
                    drawn_partners[partners[pixel]] = -1
                    partners[pixel] = -1
                    matches -= 1
                    was_matched[pixel, threshold + 1 : since[pixel] + 1] = True
        for change in changes[first:end]:
            if change > 0:
                pixel, price = change - 1, 0
                for entry in range(starts[pixel], starts[pixel + 1]):
                    price = max(price, gains[entry] - drawn_prices[columns[entry]])
                prices[pixel], is_there[pixel] = price, True
                total += price
        for change in changes[first:end]:
            if change > 0 and prices[change - 1] > 0:
                visit += 1
                saved, last, new = _settle(
                    change - 1, prices, drawn_prices, partners, drawn_partners, starts, columns, gains,
                    is_drawn, costs, vias, visits, visit, reached, heap,
                )  # fmt: skip
                total -= saved
                since[change - 1] = threshold
                if new >= 0:
                    matches += 1
                elif last != change - 1:
                    was_matched[last, threshold + 1 : since[last] + 1] = True
        for index in range(num_exposed):
            root = exposed[index]
            if drawn_partners[root] < 0 and drawn_prices[root] > 0:
                visit += 1
                saved, last, new = _settle(
                    root, drawn_prices, prices, drawn_partners, partners, drawn_starts, drawn_columns, drawn_gains,
                    is_there, costs, vias, visits, visit, reached, heap,
                )  # fmt: skip
                total -= saved
                if new >= 0:
                    matches += 1
                    since[new] = threshold
        num_matches[threshold], sums[threshold] = matches, total
    for pixel in range(num_predicted):
        if partners[pixel] >= 0:
            was_matched[pixel, : since[pixel] + 1] = True
    return num_matches, sums, was_matched, partners


@compiled
def _settle(  # type: ignore[no-untyped-def]
    root, prices, far_prices, partners, far_partners, starts, columns, gains,
    is_far_there, costs, vias, visits, visit, reached, heap,
):  # fmt: skip
    """Bring an unmatched pixel with a price into order along the cheapest alternating path.

    The path ends at an unmatched pixel of the far side, which is then matched, or at a pixel of the root's own side,
    which is left unmatched (the root itself, if that is cheapest). A path's cost is the sum of what its pairs' prices
    exceed their gains by, plus the price of an own pixel at its end.

    Args:
        root: number of the pixel; its own side is `prices`, `partners` and the rows of the pairs.
        prices: of the own side, and the far side's; changed, as are `partners` and `far_partners`.
        far_prices: see `prices`.
        partners: numbers on the other side, or -1.
        far_partners: see `partners`.
        starts: of the rows of the pairs; with `columns` and `gains`.
        columns: see `starts`.
        gains: see `starts`.
        is_far_there: far pixels that exist now.
        costs: space, cost of the cheapest path to a far pixel; with `vias`, the own pixel before it.
        vias: see `costs`.
        visits: `visit` where `costs` and `vias` are of this search.
        visit: number of this search.
        reached: `(2, ...)` space, own pixels in the order in which they were reached, and their costs.
        heap: space for far pixels that are yet to be gone through.

    Returns:
        The path's cost; its last pixel on the own side (-1 if it ends on the far side) and on the far side (or -1).
    """
    best, last, new = prices[root], root, -1
    own, cost, num_reached, size = root, 0, 0, 0
    while True:
        reached[0, num_reached], reached[1, num_reached] = own, cost
        num_reached += 1
        if cost + prices[own] < best:
            best, last, new = cost + prices[own], own, -1
        for entry in range(starts[own], starts[own + 1]):
            far = columns[entry]
            if not is_far_there[far]:
                continue
            further = cost + prices[own] + far_prices[far] - gains[entry]
            if further >= best or (visits[far] == visit and costs[far] <= further):
                continue
            visits[far], costs[far], vias[far] = visit, further, own
            if far_partners[far] < 0:
                best, last, new = further, -1, far
            else:
                size = _push(heap, size, further << 32 | far)
        far = -1
        while size > 0 and far < 0:
            key = heap[0]
            size = _pop(heap, size)
            if key >> 32 == costs[key & 0xFFFFFFFF]:
                far = key & 0xFFFFFFFF
        if far < 0 or costs[far] >= best:
            break
        own, cost = far_partners[far], costs[far]
    for index in range(num_reached):
        own, slack = reached[0, index], best - reached[1, index]
        prices[own] -= slack
        if own != root:
            far_prices[partners[own]] += slack
    if new >= 0:
        _flip(root, new, partners, far_partners, vias)
    elif last != root:
        far = partners[last]
        partners[last] = -1
        _flip(root, far, partners, far_partners, vias)
    return best, last, new


@compiled
def _flip(root, far, partners, far_partners, vias):  # type: ignore[no-untyped-def]
    """Give each pixel on the path to `far` its next partner."""
    while True:
        own = vias[far]
        following = partners[own]
        partners[own], far_partners[far] = far, own
        if own == root:
            return
        far = following


@compiled
def _push(heap, size, key):  # type: ignore[no-untyped-def]
    place = size
    while place > 0 and heap[(place - 1) >> 1] > key:
        heap[place] = heap[(place - 1) >> 1]
        place = (place - 1) >> 1
    heap[place] = key
    return size + 1


@compiled
def _pop(heap, size):  # type: ignore[no-untyped-def]
    """Remove the smallest key, `heap[0]`."""
    size -= 1
    key, place = heap[size], 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = key
    return size
