"""`hf_contour.metrics.boundary.scores` for the evaluate library, which loads the folder of this file."""

from collections.abc import Sequence
from typing import Any

import datasets  # evaluate reads these lines as text: one module in each
import evaluate
import numpy as np

from hf_contour.metrics.boundary.scores import MAX_DIST, THRESHOLDS, EdgeCounts, count_matches, edge_scores, protocol

DESCRIPTION = (
    "The BSDS boundary benchmark: ODS, OIS, AP and R50 of edge maps, matched one to one with each annotator's "
    "contours within a distance, optimally, at 99 thresholds."
)
INPUTS = """
Args:
    predictions: one map (height, width) per image, probabilities in 0..1; sizes may differ.
    references: one array (annotators, height, width) per image, drawn pixels not 0.

evaluate.load takes, besides the folder, the configuration "thin" for maps that are thin already (no non-maximum
suppression), and max_dist, the largest distance of a match as a fraction of the diagonal.

Returns:
    A dictionary of plain JSON values: ods, ois, ap, r50 (null where it does not exist), the points of ODS and OIS,
    the curve, each image's best F, and the protocol.
"""


class BoundaryScoresMetric(evaluate.Metric):
    """Maps and annotations in, one dictionary of scores out.

    Images are counted when they are added, and only their counts are stored; so memory does not grow with images.
    """

    def __init__(self, *args: Any, max_dist: float = MAX_DIST, **kwargs: Any) -> None:
        self.max_dist = max_dist
        super().__init__(*args, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ("default", "thin"):
            raise ValueError(f"configuration is {self.config_name!r}; expected none for soft maps, or 'thin'.")
        counts = datasets.List(datasets.List(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": counts, "references": datasets.Value("int64")}),
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Count one image."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Count images."""
        if len(predictions) != len(references):
            raise ValueError(f"there are {len(predictions)} predictions and {len(references)} references.")
        settings = {"max_dist": self.max_dist, "nms": self.config_name != "thin"}
        counts = [
            count_matches(edge_probs, annotations, **settings).to_array()
            for edge_probs, annotations in zip(predictions, references, strict=True)
        ]
        annotators = [len(annotations) for annotations in references]
        super().add_batch(predictions=counts, references=annotators, **kwargs)

    def _compute(self, predictions: Sequence[Sequence[Sequence[int]]], references: Sequence[int]) -> dict[str, Any]:
        thresholds = np.array(THRESHOLDS)
        counts = [EdgeCounts.from_array(thresholds, np.asarray(found)) for found in predictions]
        settings = {"max_dist": self.max_dist, "nms": self.config_name != "thin"}
        return edge_scores(counts).to_dict() | {"protocol": protocol(**settings), "num_annotations": sum(references)}
