"""Some rows of a data set in the place of all."""

import numpy as np
from datasets import Dataset

_DRAW_STREAM = 0xD3A  # keeps these random numbers apart from those of the order and of augmentation


def at_most(rows: Dataset, limit: int, *, seed: int) -> Dataset:
    """So many of the rows as `evenly_drawn` takes, or all where there are no more or the limit is 0."""
    return rows.select(evenly_drawn(rows, limit, seed=seed)) if 0 < limit < len(rows) else rows


def evenly_drawn(rows: Dataset, count: int, *, seed: int) -> list[int]:
    """Row numbers, in their order, of so many rows drawn at random, as many of each class as there can be.

    Where the rows have no single label, all of them are drawn from alike.

    Raises:
        ValueError: If a class has no row, or fewer rows are wanted than there are classes.
    """
    shuffled = np.random.default_rng([_DRAW_STREAM, seed]).permutation(len(rows))
    names = getattr(rows.features.get("label"), "names", None)
    if not names:
        return sorted(shuffled[:count].tolist())
    labels = np.asarray(rows["label"])[shuffled]
    if count < len(names):
        raise ValueError(f"{count} samples cannot hold the {len(names)} classes; ask for at least {len(names)}.")
    absent = [name for number, name in enumerate(names) if not (labels == number).any()]
    if absent:
        raise ValueError(f"The class {absent[0]!r} has no row; samples cannot be drawn evenly over the classes.")
    turn = np.empty(len(labels), dtype=np.int64)  # how many of its class come before a row
    for number in range(len(names)):
        places = np.flatnonzero(labels == number)
        turn[places] = np.arange(len(places))
    return sorted(shuffled[np.argsort(turn, kind="stable")[:count]].tolist())
