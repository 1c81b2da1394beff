"""Counts of the boundary benchmark turned into ODS, OIS, AP and R50, step by step as `edgesEvalDir.m` does it.

Counts are integers and add up over images; only here is anything divided. T thresholds, I images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

INTERPOLATION_STEPS = 100  # points between two thresholds at which F is tried


@dataclass(frozen=True)
class EdgeCounts:
    """What one image contributes; `counts + counts` adds two up.

    Attributes:
        thresholds: `(T,)`, ascending, in (0, 1).
        matched_drawn: `(T,)` drawn pixels that were matched, summed over the annotators.
        drawn: `(T,)` drawn pixels of all annotators; the same at every threshold.
        matched_predicted: `(T,)` predicted pixels that at least one annotator's pixels were matched with.
        predicted: `(T,)` predicted pixels.
    """

    thresholds: FloatArray
    matched_drawn: IntArray
    drawn: IntArray
    matched_predicted: IntArray
    predicted: IntArray

    def __add__(self, other: "EdgeCounts") -> "EdgeCounts":
        if not np.array_equal(self.thresholds, other.thresholds):
            raise ValueError("counts of different thresholds cannot be added; count all images with the same ones.")
        return EdgeCounts.from_array(self.thresholds, self.to_array() + other.to_array())

    def to_array(self) -> IntArray:
        """`(4, T)`, in the order of the attributes: what processes exchange."""
        return np.stack([self.matched_drawn, self.drawn, self.matched_predicted, self.predicted])

    @classmethod
    def from_array(cls, thresholds: FloatArray, array: NDArray[np.integer]) -> "EdgeCounts":
        """The counts of `to_array`.

        Raises:
            ValueError: If the array is not `(4, T)`.
        """
        if array.shape != (4, len(thresholds)):
            raise ValueError(f"the array is {array.shape}; expected (4, {len(thresholds)}).")
        return cls(thresholds, *array.astype(np.int64))


@dataclass(frozen=True)
class EdgePoint:
    """One point of a curve. `threshold` is None where each image has its own."""

    threshold: float | None
    recall: float
    precision: float
    f1: float


@dataclass(frozen=True)
class EdgeScores:
    """Scores of a data set.

    Attributes:
        ods: best F of one threshold for all images (optimal data set scale).
        ods_point: where it was reached.
        ois: F of the sums over images, each at its own best threshold (optimal image scale).
        ois_point: its recall and precision.
        ap: average precision, the area under the curve over recall.
        r50: recall at half precision; None where the precision never comes up to that.
        thresholds: T numbers.
        recall: of each threshold.
        precision: of each threshold.
        f1: of each threshold.
        image_f1: best F of each image.
        image_thresholds: where it was reached.
    """

    ods: float
    ods_point: EdgePoint
    ois: float
    ois_point: EdgePoint
    ap: float
    r50: float | None
    thresholds: list[float]
    recall: list[float]
    precision: list[float]
    f1: list[float]
    image_f1: list[float]
    image_thresholds: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def edge_scores(counts: Sequence[EdgeCounts]) -> EdgeScores:
    """Scores from the counts of all images.

    Recall and precision are ratios of sums over the images; 0 / 0 counts as 0, as in the original, so that an empty
    map, or images on which nobody drew anything, have F 0.

    - ODS: the best F on straight lines between neighbouring points (recall, precision), 100 places a line.
    - OIS: each image's counts at its best threshold (the lowest of equally good ones), summed.
    - AP: precision over recall, interpolated linearly at 0, .01, ..., 1, where the curve has a value, summed and
      divided by 100; 0 if the curve is a single point. Of thresholds with equal recall the lowest counts.
    - R50: recall over precision, interpolated at one half, or at the lowest precision if that is higher; of
      thresholds with equal precision the one of highest recall counts.

    Args:
        counts: one per image, all of the same thresholds.

    Raises:
        ValueError: If there are no counts, or their thresholds differ.
    """
    if not counts:
        raise ValueError("there are no counts; expected those of at least one image.")
    total = counts[0]
    for further in counts[1:]:
        total = total + further
    thresholds = total.thresholds
    recall, precision, f1 = recall_precision_f1(total.to_array())
    ods_point = best_point(thresholds, recall, precision)
    image_points = [best_point(thresholds, *recall_precision_f1(found.to_array())[:2]) for found in counts]
    ois_recall, ois_precision, ois = (values[0] for values in recall_precision_f1(_best_counts(counts)[:, None]))
    return EdgeScores(
        ods=ods_point.f1,
        ods_point=ods_point,
        ois=float(ois),
        ois_point=EdgePoint(None, float(ois_recall), float(ois_precision), float(ois)),
        ap=average_precision(recall, precision),
        r50=recall_at_half_precision(recall, precision),
        thresholds=thresholds.tolist(),
        recall=recall.tolist(),
        precision=precision.tolist(),
        f1=f1.tolist(),
        image_f1=[point.f1 for point in image_points],
        image_thresholds=[float(point.threshold) for point in image_points if point.threshold is not None],
    )


def recall_precision_f1(counts: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Ratios of counts `(4, T)`, in the order of `EdgeCounts`; 0 / 0 is 0."""
    matched_drawn, drawn, matched_predicted, predicted = counts.astype(np.float64)
    recall, precision = matched_drawn / np.maximum(drawn, 1), matched_predicted / np.maximum(predicted, 1)
    return recall, precision, _f1(recall, precision)


def _f1(recall: FloatArray, precision: FloatArray) -> FloatArray:
    return 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).eps)


def best_point(thresholds: FloatArray, recall: FloatArray, precision: FloatArray) -> EdgePoint:
    """The best F on the lines between neighbouring points of a curve; the first of equally good places."""
    share = np.linspace(0, 1, INTERPOLATION_STEPS) if len(thresholds) > 1 else np.zeros(1)
    lines = []
    for values in (thresholds, recall, precision):
        lower, upper = (values[:-1], values[1:]) if len(values) > 1 else (values, values)
        lines.append((upper[:, None] * share + lower[:, None] * (1 - share)).reshape(-1))
    f1 = _f1(lines[1], lines[2])
    best = int(f1.argmax())
    threshold, best_recall, best_precision = (float(line[best]) for line in lines)
    return EdgePoint(threshold, best_recall, best_precision, float(f1[best]))


def _best_counts(counts: Sequence[EdgeCounts]) -> IntArray:
    """`(4,)`: the counts of each image at its best threshold, summed."""
    arrays = [found.to_array() for found in counts]
    return np.sum([array[:, recall_precision_f1(array)[2].argmax()] for array in arrays], axis=0)


def average_precision(recall: FloatArray, precision: FloatArray) -> float:
    """AP of a curve `(T,)`; see `edge_scores`."""
    unique, first = np.unique(recall, return_index=True)
    if len(unique) < 2:
        return 0.0
    places = np.linspace(0, 1, 101)
    inside = (places >= unique[0]) & (places <= unique[-1])
    return float(np.interp(places[inside], unique, precision[first]).sum() / 100)


def recall_at_half_precision(recall: FloatArray, precision: FloatArray) -> float | None:
    """R50 of a curve `(T,)`; see `edge_scores`."""
    _, first = np.unique(recall, return_index=True)
    descending = first[::-1]
    unique, highest = np.unique(precision[descending], return_index=True)
    wanted = max(unique[0], 0.5)
    return float(np.interp(wanted, unique, recall[descending][highest])) if wanted <= unique[-1] else None
