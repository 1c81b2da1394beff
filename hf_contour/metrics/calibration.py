"""Confidence one can act on: a temperature fitted on held-out images, and what abstaining buys.

Shapes: N images, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hf_contour.metrics.classification import FloatArray, confidence_bins

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-2, 1e2


@dataclass(frozen=True)
class CoveragePoint:
    """What happens when only predictions of at least `threshold` confidence are given.

    Attributes:
        threshold: lowest confidence that is acted on.
        coverage: share of the images that are.
        accuracy: share of those that are right; `None` where none is acted on.
    """

    threshold: float
    coverage: float
    accuracy: float | None


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that makes the negative log likelihood of held-out images smallest.

    Args:
        logits: `(N, K)`, not divided by any temperature.
        labels: `(N,)` class numbers, or `(N, K)` zeros and ones for several labels.

    Returns:
        A number from 0.01 to 100; logits are to be divided by it. At the ends where the images are all right or
        all wrong, since the likelihood then has no inner optimum.

    Raises:
        ValueError: If there are no images, or logits are not finite.

    Source: Guo et al., On Calibration of Modern Neural Networks (2017), sec. 4.2.
    """
    if logits.ndim != 2 or not len(logits) or not torch.isfinite(logits).all():
        raise ValueError(f"logits have shape {tuple(logits.shape)} or are not finite; expected (images, classes).")
    logits = logits.detach().double()
    targets = labels.double() if labels.ndim == 2 else labels.long()
    loss = nn.functional.binary_cross_entropy_with_logits if labels.ndim == 2 else nn.functional.cross_entropy
    # The logarithm keeps it positive, and the likelihood is smooth in it.
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(logits / log_temperature.exp(), targets)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return float(log_temperature.detach().exp().clamp(MIN_TEMPERATURE, MAX_TEMPERATURE))


def coverage_curve(
    confidence: FloatArray, correct: NDArray[np.bool_], thresholds: Sequence[float]
) -> list[CoveragePoint]:
    """Coverage and accuracy at each threshold of confidence.

    Args:
        confidence: `(N,)` probability of the prediction.
        correct: `(N,)` booleans.
        thresholds: in [0, 1].
    """
    points = []
    for threshold in thresholds:
        acted_on = confidence >= threshold
        accuracy = float(correct[acted_on].mean()) if acted_on.any() else None
        points.append(CoveragePoint(float(threshold), float(acted_on.mean()), accuracy))
    return points


def threshold_for_accuracy(confidence: FloatArray, correct: NDArray[np.bool_], accuracy: float) -> float | None:
    """The lowest confidence from which on predictions reach an accuracy, or `None` if none does.

    Args:
        confidence: `(N,)` probability of the prediction, on held-out images.
        correct: `(N,)` booleans.
        accuracy: that is wanted of the predictions that are acted on, in [0, 1].
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    reached = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    # Ties are acted on together: a threshold stands behind the last image of its confidence.
    is_last = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)
    good = np.flatnonzero(is_last & (reached >= accuracy))
    return float(sorted_confidence[good[-1]]) if good.size else None


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose confidence lies in `(low, high]`, of which the first bin has 0 too.

    Attributes:
        low: end of the bin.
        high: other end.
        num_samples: images in it.
        confidence: their mean confidence; `None` where there are none.
        accuracy: share of them that is right; `None` where there are none.
    """

    low: float
    high: float
    num_samples: int
    confidence: float | None
    accuracy: float | None


def reliability_bins(
    confidence: FloatArray, correct: NDArray[np.bool_], *, num_bins: int = 15
) -> list[ReliabilityBin]:
    """Confidence beside accuracy in bins of equal width, those of `expected_calibration_error`.

    Args:
        confidence: `(N,)` probability of the prediction, in [0, 1].
        correct: `(N,)` booleans.
        num_bins: at least 1.
    """
    edges = np.linspace(0, 1, num_bins + 1)
    bins = confidence_bins(confidence, num_bins=num_bins)
    found = []
    for number in range(num_bins):
        inside = bins == number
        count = int(inside.sum())
        means = (float(confidence[inside].mean()), float(correct[inside].mean())) if count else (None, None)
        found.append(ReliabilityBin(float(edges[number]), float(edges[number + 1]), count, *means))
    return found


def thresholds_for_coverages(confidence: FloatArray, coverages: Sequence[float]) -> list[float]:
    """For each coverage the highest threshold that still acts on so many images.

    Args:
        confidence: `(N,)` probability of the prediction.
        coverages: shares of the images, in (0, 1].
    """
    descending = -np.sort(-confidence)
    # The small number keeps 0.07 * 100, which is 7.000000000000001, from asking for an eighth image.
    counts = [max(1, int(np.ceil(coverage * len(descending) - 1e-9))) for coverage in coverages]
    return [float(descending[count - 1]) for count in counts]
