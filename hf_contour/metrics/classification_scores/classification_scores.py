"""`hf_contour.metrics.classification` for the evaluate library, which loads the folder of this file."""

from collections.abc import Sequence
from typing import Any

import datasets  # evaluate reads these lines as text: one module in each
import evaluate

from hf_contour.metrics.classification import ScoreSettings, classification_scores, multilabel_scores

DESCRIPTION = (
    "Accuracy with a bootstrap interval (over groups of near duplicates where given), balanced accuracy, "
    "precision, recall and F1 per class, confusion matrix, area under the ROC curve, Brier score and expected "
    "calibration error."
)
INPUTS = """
Args:
    predictions: probabilities, one list of K numbers per image.
    references: the class index of each image; with the configuration "multilabel", K ones and zeros.
    class_names: K names in the order of the probabilities.
    groups: one key per image; images of one group are resampled together.
    num_bins, num_resamples, interval_confidence, seed, threshold: see ScoreSettings.

Returns:
    A dictionary of plain JSON values; null where a figure does not exist.
"""


class ClassificationScoresMetric(evaluate.Metric):
    """Probabilities and labels in, one dictionary of scores out."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ("default", "multilabel"):
            raise ValueError(
                f"configuration is {self.config_name!r}; expected none for one label per image, or 'multilabel'."
            )
        one_label = datasets.Value("int64")
        several = self.config_name == "multilabel"
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(one_label) if several else one_label,
                }
            ),
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Any],
        *,
        class_names: Sequence[str],
        groups: Sequence[Any] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        score = multilabel_scores if self.config_name == "multilabel" else classification_scores
        return score(
            predictions, references, class_names=class_names, groups=groups, settings=ScoreSettings(**settings)
        ).to_dict()
