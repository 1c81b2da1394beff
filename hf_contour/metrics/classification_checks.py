"""What scores of classes are computed from: names, probabilities and labels, checked; messages name the row.

Shapes: N images, K classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

# A softmax in half precision sums to 1 within about 1e-3.
SUM_TOLERANCE = 2e-3


def check_class_names(class_names: Sequence[str], *, at_least: int = 2) -> list[str]:
    """The names as a list; refuses a bare string, repeated names and fewer than `at_least`."""
    names = [str(name) for name in class_names]
    if isinstance(class_names, str) or len(names) < at_least or len(set(names)) != len(names):
        raise ValueError(f"class_names are {class_names!r}; expected at least {at_least} different names in a list.")
    return names


def check_probabilities(probabilities: ArrayLike, names: Sequence[str], *, sum_to_one: bool) -> NDArray[np.float64]:
    """`(N, K)` float64 probabilities, N > 0, finite, in [0, 1]; rows sum to 1 where `sum_to_one`."""
    probs = np.asarray(probabilities, dtype=np.float64)
    if probs.ndim != 2 or probs.shape[1] != len(names) or len(probs) == 0:
        raise ValueError(
            f"probabilities have shape {probs.shape}; expected (images, {len(names)}) with at least one "
            f"image, one column for each of {list(names)}."
        )
    bad_rows = np.flatnonzero(~(np.isfinite(probs) & (probs >= 0) & (probs <= 1 + SUM_TOLERANCE)).all(axis=1))
    if len(bad_rows):
        raise ValueError(
            f"probabilities[{bad_rows[0]}] is {probs[bad_rows[0]].tolist()} ({len(bad_rows)} such rows); "
            "expected finite numbers in [0, 1]. Put logits through a softmax or a sigmoid first."
        )
    off_rows = np.flatnonzero(np.abs(probs.sum(axis=1) - 1) > SUM_TOLERANCE)
    if sum_to_one and len(off_rows):
        raise ValueError(
            f"probabilities[{off_rows[0]}] sums to {probs[off_rows[0]].sum():.6g} ({len(off_rows)} such "
            "rows); expected 1. Use multilabel_scores where an image may have several labels."
        )
    return probs


def check_labels(labels: ArrayLike, *, num_samples: int, num_classes: int) -> NDArray[np.int64]:
    """`(N,)` int64 labels in [0, K); refuses other shapes, floats and values outside."""
    targets = np.asarray(labels)
    if targets.shape != (num_samples,) or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            f"labels have shape {targets.shape} and type {targets.dtype}; expected ({num_samples},) "
            "integers, one class index per image."
        )
    bad_rows = np.flatnonzero((targets < 0) | (targets >= num_classes))
    if len(bad_rows):
        raise ValueError(
            f"labels[{bad_rows[0]}] is {targets[bad_rows[0]]} ({len(bad_rows)} such rows); "
            f"expected 0 to {num_classes - 1}. Leave unlabelled images out."
        )
    return targets.astype(np.int64)


def check_multilabel_targets(labels: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """`(N, K)` booleans; refuses other shapes and values other than 0 and 1."""
    targets = np.asarray(labels)
    if targets.shape != shape:
        raise ValueError(f"labels have shape {targets.shape}; expected {shape}, 1 where an image has the label.")
    bad_rows = np.flatnonzero(~((targets == 0) | (targets == 1)).all(axis=1))
    if len(bad_rows):
        raise ValueError(f"labels[{bad_rows[0]}] is {targets[bad_rows[0]].tolist()}; expected only 0 and 1.")
    return targets.astype(bool)
