"""Two classifiers on the same images: by how much one is better, and how sure that is.

Shapes: N images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from hf_contour.metrics.classification import DEFAULT_SETTINGS, ScoreSettings, bootstrap_interval, group_indices


@dataclass(frozen=True)
class PairedScores:
    """A second classifier against a first one.

    Attributes:
        num_samples: images.
        num_groups: groups of near duplicates that were resampled as wholes.
        first_accuracy: share that the first has right.
        second_accuracy: share that the second has right.
        difference: second minus first.
        difference_interval: bootstrap interval of it over the groups, paired.
        only_first: images that only the first has right.
        only_second: images that only the second has right.
        mcnemar_p: exact two-sided probability of so uneven a split of the last two if both were equally good. It
            takes images for independent; where groups are large, trust the interval.
        settings: of the bootstrap.
    """

    num_samples: int
    num_groups: int
    first_accuracy: float
    second_accuracy: float
    difference: float
    difference_interval: list[float]
    only_first: int
    only_second: int
    mcnemar_p: float
    settings: ScoreSettings

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def paired_scores(
    first_correct: NDArray[np.bool_],
    second_correct: NDArray[np.bool_],
    *,
    groups: Sequence[Any] | NDArray[Any] | None = None,
    settings: ScoreSettings = DEFAULT_SETTINGS,
) -> PairedScores:
    """Compare two classifiers on the same images.

    Args:
        first_correct: `(N,)` booleans, in the order of the images.
        second_correct: `(N,)` booleans, of the same images in the same order.
        groups: `(N,)` keys of near duplicates, which are resampled together.
        settings: of the bootstrap.

    Raises:
        ValueError: If there are no images or the lengths differ.

    Source: McNemar (1947) for the exact test; the bootstrap draws groups, not images.
    """
    first, second = np.asarray(first_correct, dtype=bool), np.asarray(second_correct, dtype=bool)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(
            f"the two have shapes {first.shape} and {second.shape}; expected a boolean for each of the same images."
        )
    group_ids = group_indices(groups, num_samples=len(first))
    change = second.astype(np.float64) - first
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return PairedScores(
        num_samples=len(first),
        num_groups=int(group_ids.max()) + 1,
        first_accuracy=float(first.mean()),
        second_accuracy=float(second.mean()),
        difference=float(change.mean()),
        difference_interval=bootstrap_interval(change, group_ids, settings=settings),
        only_first=only_first,
        only_second=only_second,
        mcnemar_p=mcnemar_probability(only_first, only_second),
        settings=settings,
    )


def mcnemar_probability(only_first: int, only_second: int) -> float:
    """Exact two-sided binomial probability of a split at least as uneven, 1 where nothing differs."""
    total = only_first + only_second
    return float(scipy.stats.binomtest(only_first, total).pvalue) if total else 1.0
