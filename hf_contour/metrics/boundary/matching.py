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

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hf_contour.metrics.boundary.compiled import compiled
from hf_contour.metrics.boundary.pairs import IntArray, LongArray, Rows

BoolArray = NDArray[np.bool_]


class Side(NamedTuple):
    """The n predicted, or the n drawn pixels; the other side is far.

    The far pixels near enough to pixel `i` are `columns[starts[i]:starts[i + 1]]`.
    """

    starts: LongArray  # (n + 1,)
    columns: IntArray  # (E,)
    gains: IntArray  # (E,)
    prices: LongArray  # (n,)
    partners: IntArray  # (n,), far pixels or -1
    is_there: BoolArray  # (n,)


class Space(NamedTuple):
    """What a search writes to; made once. Costs and vias hold for far pixels whose visit is the search's number."""

    costs: LongArray  # of the cheapest path to a far pixel
    vias: IntArray  # the own pixel before it
    visits: LongArray
    number: LongArray  # (1,), of the last search
    reached: LongArray  # (2, ...), own pixels in the order in which they were reached, and their costs
    heap: LongArray  # cost and number of far pixels that are yet to be gone through


class Record(NamedTuple):
    """What is known of the matching over the thresholds."""

    since: LongArray  # (N,), the threshold at which a pixel that is matched came to be so
    was_matched: BoolArray  # (N, T), filled when a pixel is no longer matched, or at the end
    totals: LongArray  # (2,), matches and the sum of all prices, which is the sum of the matches' gains


def follow_changes(
    changes: LongArray, steps: LongArray, predicted_rows: Rows, drawn_rows: Rows
) -> tuple[LongArray, LongArray, BoolArray, IntArray]:
    """Keep the matching optimal from the highest threshold to the lowest.

    Args:
        changes: `(C,)`: number of a predicted pixel + 1 where it comes, minus that where it goes.
        steps: `(T + 1,)`: the changes at threshold `k` are `changes[steps[T - 1 - k]:steps[T - k]]`.
        predicted_rows: pairs of all predicted pixels that ever come.
        drawn_rows: the same from the other side.

    Returns:
        `(T,)` number of matches; `(T,)` sum of their gains; `(N, T)` whether a predicted pixel is matched;
        `(N,)` its partner's number at the lowest threshold, or -1.
    """
    predicted, drawn = _new_side(predicted_rows, is_there=False), _new_side(drawn_rows, is_there=True)
    num_predicted, length = len(predicted.prices), max(len(predicted.prices), len(drawn.prices))
    space = Space(
        costs=np.empty(length, np.int64),
        vias=np.empty(length, np.int32),
        visits=np.zeros(length, np.int64),
        number=np.zeros(1, np.int64),
        reached=np.empty((2, length), np.int64),
        heap=np.empty(len(predicted.columns), np.int64),
    )
    record = Record(
        since=np.full(num_predicted, -1, np.int64),
        was_matched=np.zeros((num_predicted, len(steps) - 1), bool),
        totals=np.zeros(2, np.int64),
    )
    num_matches, gains = _follow_changes(changes, steps, predicted, drawn, space, record)
    return num_matches, gains, record.was_matched, predicted.partners


def _new_side(rows: Rows, *, is_there: bool) -> Side:
    size = len(rows.starts) - 1
    return Side(*rows, np.zeros(size, np.int64), np.full(size, -1, np.int32), np.full(size, is_there))


@compiled
def _follow_changes(
    changes: LongArray, steps: LongArray, predicted: Side, drawn: Side, space: Space, record: Record
) -> tuple[LongArray, LongArray]:
    num_thresholds = len(steps) - 1
    num_matches, gains = np.zeros(num_thresholds, np.int64), np.zeros(num_thresholds, np.int64)
    exposed = np.empty(len(drawn.prices), np.int64)
    for threshold in range(num_thresholds - 1, -1, -1):
        current = changes[steps[num_thresholds - 1 - threshold] : steps[num_thresholds - threshold]]
        num_exposed = _remove(current, predicted, drawn, exposed, threshold, record)
        _add(current, predicted, drawn, record)
        _settle_added(current, predicted, drawn, space, threshold, record)
        _settle_exposed(exposed[:num_exposed], predicted, drawn, space, threshold, record)
        num_matches[threshold], gains[threshold] = record.totals
    for pixel in range(len(predicted.prices)):
        if predicted.partners[pixel] >= 0:
            _note_matched(pixel, 0, record)
    return num_matches, gains


@compiled
def _note_matched(pixel: int, lowest: int, record: Record) -> None:
    """Write down that a predicted pixel was matched, down to the threshold `lowest`."""
    record.was_matched[pixel, lowest : record.since[pixel] + 1] = True


@compiled
def _remove(
    changes: LongArray, predicted: Side, drawn: Side, exposed: LongArray, threshold: int, record: Record
) -> int:
    """Take away the predicted pixels that go; returns how many partners they leave, listed in `exposed`."""
    num_exposed = 0
    for change in changes:
        if change < 0:
            pixel = -change - 1
            predicted.is_there[pixel] = False
            record.totals[1] -= predicted.prices[pixel]
            partner = predicted.partners[pixel]
            if partner >= 0:
                predicted.partners[pixel] = drawn.partners[partner] = -1
                exposed[num_exposed] = partner
                num_exposed += 1
                record.totals[0] -= 1
                _note_matched(pixel, threshold + 1, record)
    return num_exposed


@compiled
def _add(changes: LongArray, predicted: Side, drawn: Side, record: Record) -> None:
    """Put in the predicted pixels that come, each at the lowest price that its pairs allow."""
    for change in changes:
        if change > 0:
            pixel, price = change - 1, 0
            for entry in range(predicted.starts[pixel], predicted.starts[pixel + 1]):
                price = max(price, predicted.gains[entry] - drawn.prices[predicted.columns[entry]])
            predicted.prices[pixel], predicted.is_there[pixel] = price, True
            record.totals[1] += price


@compiled
def _settle_added(
    changes: LongArray, predicted: Side, drawn: Side, space: Space, threshold: int, record: Record
) -> None:
    for change in changes:
        pixel = change - 1
        if change > 0 and predicted.prices[pixel] > 0:
            cost, last, new = _settle(pixel, predicted, drawn, space)
            record.totals[1] -= cost
            record.since[pixel] = threshold
            if new >= 0:
                record.totals[0] += 1
            elif last != pixel:
                _note_matched(last, threshold + 1, record)


@compiled
def _settle_exposed(
    exposed: LongArray, predicted: Side, drawn: Side, space: Space, threshold: int, record: Record
) -> None:
    for pixel in exposed:
        if drawn.partners[pixel] < 0 and drawn.prices[pixel] > 0:
            cost, _, new = _settle(pixel, drawn, predicted, space)
            record.totals[1] -= cost
            if new >= 0:
                record.totals[0] += 1
                record.since[new] = threshold


@compiled
def _settle(root: int, own: Side, far: Side, space: Space) -> tuple[int, int, int]:
    """Bring an unmatched pixel with a price into order along the cheapest alternating path.

    The path ends at an unmatched pixel of the far side, which is then matched, or at a pixel of the root's own side,
    which is left unmatched (the root itself, if that is cheapest). A path's cost is the sum of what its pairs' prices
    exceed their gains by, plus the price of an own pixel at its end.

    Args:
        root: number of the pixel.
        own: its side; prices and partners are changed on both.
        far: the other side.
        space: to work in.

    Returns:
        The path's cost; its last pixel on the own side (-1 if it ends on the far side) and on the far side (or -1).
    """
    space.number[0] += 1
    best, last, new = own.prices[root], root, -1
    pixel, cost, num_reached, size = root, 0, 0, 0
    while True:
        space.reached[0, num_reached], space.reached[1, num_reached] = pixel, cost
        num_reached += 1
        if cost + own.prices[pixel] < best:
            best, last, new = cost + own.prices[pixel], pixel, -1
        for entry in range(own.starts[pixel], own.starts[pixel + 1]):
            other = own.columns[entry]
            further = cost + own.prices[pixel] + far.prices[other] - own.gains[entry]
            is_known = space.visits[other] == space.number[0] and space.costs[other] <= further
            if further >= best or is_known or not far.is_there[other]:
                continue
            space.visits[other], space.costs[other], space.vias[other] = space.number[0], further, pixel
            if far.partners[other] < 0:
                best, last, new = further, -1, other
            else:
                size = _push(space.heap, size, further << 32 | other)
        # What was put in again at a lower cost is passed over.
        while size > 0 and space.heap[0] >> 32 != space.costs[space.heap[0] & 0xFFFFFFFF]:
            size = _pop(space.heap, size)
        if size == 0 or space.heap[0] >> 32 >= best:
            break
        other, cost = space.heap[0] & 0xFFFFFFFF, space.heap[0] >> 32
        size = _pop(space.heap, size)
        pixel = far.partners[other]
    for index in range(num_reached):
        pixel, slack = space.reached[0, index], best - space.reached[1, index]
        own.prices[pixel] -= slack
        if pixel != root:
            far.prices[own.partners[pixel]] += slack
    if new >= 0:
        _flip(root, new, own, far, space)
    elif last != root:
        other = own.partners[last]
        own.partners[last] = -1
        _flip(root, other, own, far, space)
    return best, last, new


@compiled
def _flip(root: int, end: int, own: Side, far: Side, space: Space) -> None:
    """Give each own pixel on the path from `root` to the far pixel `end` its next partner."""
    other = end
    while True:
        pixel = space.vias[other]
        following = own.partners[pixel]
        own.partners[pixel], far.partners[other] = other, pixel
        if pixel == root:
            return
        other = following


@compiled
def _push(heap: LongArray, size: int, key: int) -> int:
    """Add a key to the `size` keys of a heap; returns how many there are then."""
    place = size
    while place > 0 and heap[(place - 1) >> 1] > key:
        heap[place] = heap[(place - 1) >> 1]
        place = (place - 1) >> 1
    heap[place] = key
    return size + 1


@compiled
def _pop(heap: LongArray, size: int) -> int:
    """Remove the smallest key, `heap[0]`; returns how many are left."""
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
