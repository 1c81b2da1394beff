"""Parts of a split: which images share a value, lie on a side of a number, or in a third, and how they score.

Shapes: N images.
"""

import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_contour.metrics import MIN_SLICE
from hf_contour.metrics.classification import (
    DEFAULT_SETTINGS,
    FloatArray,
    IntArray,
    ScoreSettings,
    balanced_accuracy,
    bootstrap_interval,
    confusion_matrix,
)

Compare = Callable[[Any, Any], Any]
# Each comparison, and the one that holds for all other numbers. The longer signs come first, for the pattern below.
OPPOSITES = {"<=": ">", ">=": "<", "==": "!=", "!=": "==", "<": ">=", ">": "<="}
COMPARISONS: dict[str, Compare] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_COMPARISON = re.compile(rf"\s*(.+?)\s*({'|'.join(OPPOSITES)})\s*(\S+)\s*")
_MAX_NAMED = 6  # values that the name of a pooled slice lists


@dataclass(frozen=True)
class SliceRequest:
    """What to slice by.

    Attributes:
        column: of the data.
        comparison: a key of `COMPARISONS`, or `None`: a slice for each value, or thirds of numbers.
        number: what the column is compared with.
    """

    column: str
    comparison: str | None = None
    number: float | None = None


@dataclass(frozen=True)
class Slice:
    """Some images of a split.

    Attributes:
        name: such as `sub_category = Topwear` or `skin_fraction <= 0.02`.
        members: `(N,)` booleans, at least one of them true.
    """

    name: str
    members: NDArray[np.bool_]


def parse_slice(text: str) -> SliceRequest:
    """Read `column`, or `column<=number` with any of `<= >= == != < >`; blanks around the sign are free.

    Raises:
        ValueError: If the text is empty, or what follows the sign is no finite number.
    """
    match = _COMPARISON.fullmatch(text)
    if match is None:
        if not text.strip() or re.search("[<>]|[=!]=", text):
            raise ValueError(f"the slice {text!r} is not complete; expected 'column' or, say, 'column<=0.5'.")
        return SliceRequest(text.strip())
    column, comparison, digits = match.groups()
    try:
        number = float(digits)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise ValueError(f"the slice {text!r} compares with {digits!r}; expected a number, as in 'column<=0.5'.")
    return SliceRequest(column, comparison, number)


def make_slices(request: SliceRequest, values: Sequence[Any], *, min_size: int = MIN_SLICE) -> list[Slice]:
    """The images of each slice; together all images, each once, and no slice is empty.

    Args:
        request: what to slice by.
        values: `(N,)` of the column. Words and truth values give a slice for each value, in order of size, those of
            fewer than `min_size` images together in one that is named for them; numbers give the two sides of the
            comparison, or thirds. `None` and NaN have a slice of their own.
        min_size: see `values`.

    Raises:
        ValueError: If words are compared with a number, or a value is neither; names the column and the row.
    """
    missing = np.array([value is None or value != value for value in values], dtype=bool)  # NaN differs from itself
    known = [value for value in values if value is not None and value == value]
    if any(isinstance(value, bool | str) for value in known):
        if request.comparison is not None:
            raise ValueError(f"{request.column} holds words, not numbers; slice by 'column' alone, without a sign.")
        found = _slices_of_values(request.column, [str(value) for value in values], missing, min_size=min_size)
    else:
        numbers = _numbers(request.column, values, missing)
        found = _sides(request, numbers) if request.comparison else _thirds(request.column, numbers)
    found.append(Slice(f"{request.column} unknown", missing))
    return [part for part in found if part.members.any()]


def _numbers(column: str, values: Sequence[Any], missing: NDArray[np.bool_]) -> FloatArray:
    """`(N,)` float64, NaN where missing."""
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if missing[row]:
            continue
        if not isinstance(value, int | float | np.integer | np.floating):
            raise ValueError(
                f"row {row} has {value!r} in the column {column}; slices are made of words, truth values and numbers."
            )
        numbers[row] = value
    return numbers


def _sides(request: SliceRequest, numbers: FloatArray) -> list[Slice]:
    assert request.comparison is not None
    known = ~np.isnan(numbers)
    return [
        Slice(f"{request.column} {sign} {request.number:g}", known & COMPARISONS[sign](numbers, request.number))
        for sign in (request.comparison, OPPOSITES[request.comparison])
    ]


def _thirds(column: str, numbers: FloatArray) -> list[Slice]:
    """Three parts of about equal size; fewer where many images share a number, which are never torn apart."""
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        return []
    # Bounds are numbers that occur: each third ends with the image that fills it.
    low, high = np.quantile(known, [1 / 3, 2 / 3], method="inverted_cdf")
    return [
        Slice(f"{column} <= {low:.4g}", numbers <= low),
        Slice(f"{low:.4g} < {column} <= {high:.4g}", (numbers > low) & (numbers <= high)),
        Slice(f"{column} > {high:.4g}", numbers > high),
    ]


def _slices_of_values(column: str, words: Sequence[str], missing: NDArray[np.bool_], *, min_size: int) -> list[Slice]:
    array = np.array(words, dtype=object)
    counts = Counter(word for word, absent in zip(words, missing, strict=True) if not absent)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    large = [word for word in ordered if counts[word] >= min_size]
    small = ordered[len(large) :]
    slices = [Slice(f"{column} = {word}", ~missing & (array == word)) for word in large]
    if small:
        named = ", ".join(small[:_MAX_NAMED])
        rest = f" and {len(small) - _MAX_NAMED} more" if len(small) > _MAX_NAMED else ""
        slices.append(Slice(f"{column} = {named}{rest}", ~missing & np.isin(array, small)))
    return slices


def slice_scores(
    part: Slice,
    correct: NDArray[np.bool_],
    group_ids: IntArray,
    *,
    labels: IntArray | None = None,
    predictions: IntArray | None = None,
    settings: ScoreSettings = DEFAULT_SETTINGS,
) -> dict[str, Any]:
    """Size, accuracy with its interval and balanced accuracy of one slice, as plain JSON values.

    Args:
        part: which images.
        correct: `(N,)` booleans.
        group_ids: `(N,)` numbers of the groups of near duplicates, which are resampled together.
        labels: `(N,)` class numbers, or `None` where an image has several; balanced accuracy is `None` then.
        predictions: `(N,)` class numbers, given with `labels`.
        settings: of the bootstrap.
    """
    chosen = part.members
    _, own_groups = np.unique(group_ids[chosen], return_inverse=True)
    balanced = None
    if labels is not None and predictions is not None:
        num_classes = int(max(labels.max(), predictions.max())) + 1
        balanced = balanced_accuracy(confusion_matrix(labels[chosen], predictions[chosen], num_classes=num_classes))
    return {
        "name": part.name,
        "num_samples": int(chosen.sum()),
        "num_groups": int(own_groups.max()) + 1,
        "accuracy": float(correct[chosen].mean()),
        "accuracy_interval": bootstrap_interval(correct[chosen], own_groups, settings=settings),
        "balanced_accuracy": balanced,
    }
