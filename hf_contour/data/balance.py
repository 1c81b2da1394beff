"""How often each row is drawn, so that sources and classes weigh what they should."""

from collections.abc import Iterable

import numpy as np
from datasets import ClassLabel, Dataset

from hf_contour.data.source_settings import Source

BALANCES = ("none", "class", "source", "source_class", "source_class_worn")
# A cell of two rows among hundreds would else be half of what is seen: no row counts more than this many average ones.
MAX_REPEATS = 10.0


def sampling_weights(dataset: Dataset, balance: str, *, sources: Iterable[Source] = ()) -> np.ndarray:
    """Probability of each row when one is drawn.

    - `none`: every row alike, times the weight of its source.
    - `class`: every class alike; within it as for `none`.
    - `source`: every source by its weight; within it every row alike.
    - `source_class`: every source by its weight; within it every class that it has alike.
    - `source_class_worn`: likewise, and within a class of a source what is worn and what is not alike. Rows whose
      `worn` is null count as the average row of their class.

    Where classes, or worn and not worn, are made alike, no row comes to count more than `MAX_REPEATS` times the
    average row of what they are parts of; what it loses goes to the others there.

    Args:
        dataset: with the columns that the balance names.
        balance: one of `BALANCES`.
        sources: for their weights; sources that are not among them weigh 1.

    Returns:
        `(num_rows,)` float64, the sum 1.

    Raises:
        ValueError: If the balance is unknown, or a column that it needs is not there or holds several labels a row.
    """
    if balance not in BALANCES:
        raise ValueError(f"balance is {balance!r}; expected one of {', '.join(BALANCES)}.")
    if not len(dataset):
        raise ValueError("the data set has no rows to draw from.")
    source = _source_numbers(dataset)
    names = dataset.features["source"].names if "source" in dataset.features else [""]
    by_name = {one.name: one.weight for one in sources}
    row_weights = np.array([by_name.get(name, 1.0) for name in names])[source]
    label = _labels(dataset, balance) if "class" in balance else np.zeros(len(dataset), dtype=np.int64)
    if balance == "none":
        weights = row_weights
    elif balance == "class":
        everything = np.zeros(len(dataset), dtype=np.int64)
        weights = _capped(_shared(row_weights, label, np.ones(len(dataset))), everything)
    else:
        within = np.ones(len(dataset))
        if balance == "source_class_worn":
            cells = source * (label.max() + 1) + label
            within = _worn_weights(dataset, cells)
        within = _shared_within(within, source, label)
        weights = _shared(within, source, row_weights)
    return weights / weights.sum()


def _source_numbers(dataset: Dataset) -> np.ndarray:
    if "source" not in dataset.column_names:
        return np.zeros(len(dataset), dtype=np.int64)
    return np.asarray(dataset["source"], dtype=np.int64)


def _labels(dataset: Dataset, balance: str) -> np.ndarray:
    feature = dataset.features.get("label")
    if not isinstance(feature, ClassLabel):
        raise ValueError(
            f"balance is {balance!r}, but the column label is {feature}; it takes one class for each row."
        )
    return np.asarray(dataset["label"], dtype=np.int64)


def _shared(weights: np.ndarray, groups: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Weights scaled so that each group's sum is the share that its rows name."""
    sums = np.bincount(groups, weights)
    return shares * weights / sums[groups]


def _shared_within(weights: np.ndarray, outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Each inner group alike within its outer group, no row above `MAX_REPEATS` average rows of the outer one."""
    scaled = _shared(weights, outer * (inner.max() + 1) + inner, np.ones(len(weights)))
    return _capped(scaled, outer)


def _worn_weights(dataset: Dataset, cells: np.ndarray) -> np.ndarray:
    """Weights that make worn and not worn alike within each cell."""
    if "worn" not in dataset.column_names:
        raise ValueError("balance is 'source_class_worn', but there is no column worn; take 'source_class'.")
    worn = np.array([-1 if value is None else int(bool(value)) for value in dataset["worn"]])
    weights = np.ones(len(worn))
    known = worn >= 0
    if known.any():
        weights[known] = _shared(weights[known], cells[known] * 2 + worn[known], np.ones(known.sum()))
        # Known rows of a cell weigh 1 on average, as those do of which nothing is known.
        weights[known] *= (np.bincount(cells[known]) / np.maximum(np.bincount(cells[known], weights[known]), 1e-12))[
            cells[known]
        ]
    return _capped(weights, cells)


def _capped(weights: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """No weight above `MAX_REPEATS` times the mean of its group; the rest of the group takes up the difference."""
    weights = weights.copy()
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        most = MAX_REPEATS * weights[rows].mean()
        over = rows[weights[rows] > most]
        under = np.setdiff1d(rows, over)
        if len(over) and len(under):
            excess = (weights[over] - most).sum()
            weights[over] = most
            weights[under] *= 1 + excess / weights[under].sum()
    return weights
