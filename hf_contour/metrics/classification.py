"""Scores of a classifier as plain functions: check, count, compute.

Shapes: N images, K classes. `classification_scores` is for one label per image, `multilabel_scores` for
any number of labels; the steps they are made of are public, so that a slice or a paired test can reuse them.
A figure that does not exist (the recall of a class without images) is `None`, never 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sklearn.metrics
from numpy.typing import ArrayLike, NDArray

from hf_contour.metrics.classification_checks import (
    check_class_names,
    check_labels,
    check_multilabel_targets,
    check_probabilities,
)

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]  # class and group numbers, counts


@dataclass(frozen=True)
class ScoreSettings:
    """What the figures depend on besides the predictions; travels with them.

    Attributes:
        num_bins: bins of confidence of the expected calibration error, at least 1.
        num_resamples: bootstrap resamples, at least 1; 2000 puts the ends of a 95 % interval within a few
            percent of its width.
        interval_confidence: in (0, 1).
        seed: of the bootstrap.
        threshold: probability in (0, 1) from which a label counts as predicted; multi-label only.
    """

    num_bins: int = 15
    num_resamples: int = 2000
    interval_confidence: float = 0.95
    seed: int = 0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.num_bins < 1 or self.num_resamples < 1:
            raise ValueError(
                f"num_bins is {self.num_bins} and num_resamples {self.num_resamples}; expected at least 1 of each."
            )
        for name, value in (("interval_confidence", self.interval_confidence), ("threshold", self.threshold)):
            if not 0 < value < 1:
                raise ValueError(f"{name} is {value}; expected a number between 0 and 1.")


DEFAULT_SETTINGS = ScoreSettings()


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; `None` where the ratio is 0 / 0."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of single-label classification.

    `confusion_matrix[i][j]` counts images of class `class_names[i]` that were taken for `class_names[j]`.
    """

    num_samples: int
    num_groups: int
    class_names: list[str]
    accuracy: float
    accuracy_interval: list[float]
    balanced_accuracy: float
    per_class: dict[str, ClassScores]
    confusion_matrix: list[list[int]]
    roc_auc: float | None
    brier_score: float
    expected_calibration_error: float
    settings: ScoreSettings

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class MultilabelScores:
    """Scores of multi-label classification.

    `accuracy` counts an image as right when every label is right; `label_accuracy` is the share of right
    decisions. `confusion_matrices[name]` is `[[true negatives, false positives], [false negatives, true
    positives]]`. `macro_f1` is the mean over the classes that have an F1.
    """

    num_samples: int
    num_groups: int
    class_names: list[str]
    accuracy: float
    accuracy_interval: list[float]
    label_accuracy: float
    macro_f1: float | None
    per_class: dict[str, ClassScores]
    per_class_roc_auc: dict[str, float | None]
    confusion_matrices: dict[str, list[list[int]]]
    brier_score: float
    expected_calibration_error: float
    settings: ScoreSettings

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def classification_scores(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    class_names: Sequence[str],
    groups: Sequence[Any] | NDArray[Any] | None = None,
    settings: ScoreSettings = DEFAULT_SETTINGS,
) -> ClassificationScores:
    """Scores of single-label classification.

    Args:
        probabilities: `(N, K)` in [0, 1], each row summing to 1. The first of equal maxima is the prediction.
        labels: `(N,)` integers in [0, K).
        class_names: K different names, in the order of the columns.
        groups: `(N,)` keys; images of one group (near duplicates) are resampled together for the interval.
        settings: bins and bootstrap.

    Returns:
        The scores; `roc_auc` only for two classes that both occur.

    Raises:
        ValueError: If shapes, ranges, names or groups do not fit; the message names the row.
    """
    names = check_class_names(class_names)
    probs = check_probabilities(probabilities, names, sum_to_one=True)
    targets = check_labels(labels, num_samples=len(probs), num_classes=len(names))
    group_ids = group_indices(groups, num_samples=len(probs))
    predictions = probs.argmax(axis=1)
    correct = predictions == targets
    confusion = confusion_matrix(targets, predictions, num_classes=len(names))
    return ClassificationScores(
        num_samples=len(probs),
        num_groups=int(group_ids.max()) + 1,
        class_names=names,
        accuracy=float(correct.mean()),
        accuracy_interval=bootstrap_interval(correct, group_ids, settings=settings),
        balanced_accuracy=balanced_accuracy(confusion),
        per_class=dict(zip(names, per_class_scores(confusion), strict=True)),
        confusion_matrix=confusion.tolist(),
        roc_auc=binary_roc_auc(probs[:, 1], targets == 1) if len(names) == 2 else None,
        brier_score=brier_score(probs, np.eye(len(names))[targets]),
        expected_calibration_error=expected_calibration_error(probs.max(axis=1), correct, num_bins=settings.num_bins),
        settings=settings,
    )


def multilabel_scores(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    class_names: Sequence[str],
    groups: Sequence[Any] | NDArray[Any] | None = None,
    settings: ScoreSettings = DEFAULT_SETTINGS,
) -> MultilabelScores:
    """Scores of multi-label classification: a label is predicted where its probability reaches the threshold.

    Args:
        probabilities: `(N, K)` in [0, 1], each column a sigmoid of its own.
        labels: `(N, K)`, 1 or 0.
        class_names: K different names, in the order of the columns.
        groups: as in `classification_scores`.
        settings: threshold, bins (all N * K decisions are counted) and bootstrap.

    Raises:
        ValueError: If shapes, ranges, names or groups do not fit; the message names the row.
    """
    names = check_class_names(class_names, at_least=1)
    probs = check_probabilities(probabilities, names, sum_to_one=False)
    targets = check_multilabel_targets(labels, probs.shape)
    group_ids = group_indices(groups, num_samples=len(probs))
    predictions = probs >= settings.threshold
    right = predictions == targets
    columns = range(len(names))
    matrices = [confusion_matrix(targets[:, k], predictions[:, k], num_classes=2) for k in columns]
    per_class = [per_class_scores(matrix)[1] for matrix in matrices]
    known_f1 = [scores.f1 for scores in per_class if scores.f1 is not None]
    confidence = np.where(predictions, probs, 1 - probs)
    return MultilabelScores(
        num_samples=len(probs),
        num_groups=int(group_ids.max()) + 1,
        class_names=names,
        accuracy=float(right.all(axis=1).mean()),
        accuracy_interval=bootstrap_interval(right.all(axis=1), group_ids, settings=settings),
        label_accuracy=float(right.mean()),
        macro_f1=float(np.mean(known_f1)) if known_f1 else None,
        per_class=dict(zip(names, per_class, strict=True)),
        per_class_roc_auc={names[k]: binary_roc_auc(probs[:, k], targets[:, k]) for k in columns},
        confusion_matrices={names[k]: matrices[k].tolist() for k in columns},
        brier_score=float(np.mean((probs - targets) ** 2)),
        expected_calibration_error=expected_calibration_error(
            confidence.ravel(), right.ravel(), num_bins=settings.num_bins
        ),
        settings=settings,
    )


def group_indices(groups: Sequence[Any] | NDArray[Any] | None, *, num_samples: int) -> IntArray:
    """`(N,)` numbers of the groups, from 0; each image its own group where `groups` is `None`."""
    if groups is None:
        return np.arange(num_samples)
    keys = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    if len(keys) != num_samples:
        raise ValueError(f"groups have {len(keys)} entries; expected {num_samples}, one per image.")
    numbers: dict[Any, int] = {}
    for row, key in enumerate(keys):
        if key is None or key != key:  # NaN differs from itself
            raise ValueError(f"groups[{row}] is {key}; expected a key. Give an image without group a key of its own.")
        numbers.setdefault(key, len(numbers))
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def confusion_matrix(labels: NDArray[Any], predictions: NDArray[Any], *, num_classes: int) -> IntArray:
    """`(K, K)` counts, rows the true class, columns the predicted one. Matrices of parts of a set add up."""
    return sklearn.metrics.confusion_matrix(labels.astype(int), predictions.astype(int), labels=range(num_classes))


def per_class_scores(confusion: IntArray) -> list[ClassScores]:
    """Precision, recall and F1 of each class from a `(K, K)` confusion matrix."""
    found = np.diag(confusion)
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    return [
        ClassScores(
            precision=_ratio(found[k], predicted[k]),
            recall=_ratio(found[k], support[k]),
            f1=_ratio(2 * found[k], predicted[k] + support[k]),
            support=int(support[k]),
        )
        for k in range(len(confusion))
    ]


def balanced_accuracy(confusion: IntArray) -> float:
    """Mean recall over the classes that occur in a `(K, K)` confusion matrix."""
    return float(np.mean([scores.recall for scores in per_class_scores(confusion) if scores.recall is not None]))


def binary_roc_auc(scores: FloatArray, positives: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve of `(N,)` scores, higher for positives; `None` where one of the classes is absent."""
    if positives.all() or not positives.any():
        return None
    return float(sklearn.metrics.roc_auc_score(positives, scores))


def brier_score(probabilities: FloatArray, targets: FloatArray) -> float:
    """Half the squared distance between probabilities and one-hot targets, both `(N, K)`, in [0, 1].

    The half makes two classes agree with the binary score; Brier (1950) sums without it.
    """
    return float(np.mean(np.sum((probabilities - targets) ** 2, axis=1)) / 2)


def expected_calibration_error(confidence: FloatArray, correct: NDArray[np.bool_], *, num_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over bins of equal width, weighted by the images in each.

    Args:
        confidence: `(N,)` probability of the prediction, in [0, 1].
        correct: `(N,)` booleans.
        num_bins: as in `confidence_bins`.

    Source: Guo et al., On Calibration of Modern Neural Networks (2017), eq. 3.
    """
    gap_sums = np.bincount(
        confidence_bins(confidence, num_bins=num_bins), weights=confidence - correct, minlength=num_bins
    )
    return float(np.abs(gap_sums).sum() / len(confidence))


def confidence_bins(confidence: FloatArray, *, num_bins: int) -> IntArray:
    """`(N,)` numbers of the bins of equal width `(i / num_bins, (i + 1) / num_bins]`; 0 falls into the first."""
    return np.digitize(confidence, np.linspace(0, 1, num_bins + 1)[1:-1], right=True)


def bootstrap_interval(
    correct: NDArray[np.bool_] | FloatArray, group_ids: IntArray, *, settings: ScoreSettings = DEFAULT_SETTINGS
) -> list[float]:
    """Percentile bootstrap interval of the share of right images, whole groups drawn with replacement.

    Args:
        correct: `(N,)` booleans, or numbers whose mean is wanted, such as the difference of two classifiers.
        group_ids: `(N,)` from `group_indices`.
        settings: resamples, confidence and seed.

    Returns:
        Lower and upper end. Both are 1 where every image is right: the bootstrap knows only what it saw.
    """
    sizes, right = np.bincount(group_ids), np.bincount(group_ids, weights=correct)
    shares = _bootstrap(len(sizes), lambda drawn: right[drawn].sum() / sizes[drawn].sum(), settings)
    return percentile_interval(shares, settings=settings)


def _bootstrap(num_groups: int, figure: Callable[[IntArray], float], settings: ScoreSettings) -> FloatArray:
    """`(num_resamples,)`: a figure of the numbers of as many groups as there are, drawn with replacement."""
    rng = np.random.default_rng(settings.seed)
    return np.array([figure(rng.integers(num_groups, size=num_groups)) for _ in range(settings.num_resamples)])


def balanced_accuracy_draws(
    labels: IntArray, predictions: IntArray, group_ids: IntArray, *, settings: ScoreSettings = DEFAULT_SETTINGS
) -> FloatArray:
    """Balanced accuracy of each bootstrap resample, whole groups drawn with replacement.

    The same groups are drawn for the same seed and number of groups, so that draws of two classifiers are paired.

    Args:
        labels: `(N,)` class numbers.
        predictions: `(N,)` class numbers.
        group_ids: `(N,)` from `group_indices`.
        settings: resamples and seed.

    Returns:
        `(num_resamples,)`; a class that a resample lacks does not count in it.
    """
    num_groups, num_classes = int(group_ids.max()) + 1, int(max(labels.max(), predictions.max())) + 1
    support, right = np.zeros((2, num_groups, num_classes))
    np.add.at(support, (group_ids, labels), 1)
    np.add.at(right, (group_ids, labels), labels == predictions)

    def mean_recall(drawn: IntArray) -> float:
        counts = support[drawn].sum(axis=0)
        return (right[drawn].sum(axis=0)[counts > 0] / counts[counts > 0]).mean()

    return _bootstrap(num_groups, mean_recall, settings)


def percentile_interval(draws: FloatArray, *, settings: ScoreSettings = DEFAULT_SETTINGS) -> list[float]:
    """Lower and upper end of the middle share of bootstrap draws."""
    tail = (1 - settings.interval_confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return [float(low), float(high)]


def _ratio(numerator: np.int64, denominator: np.int64) -> float | None:
    return float(numerator / denominator) if denominator else None
