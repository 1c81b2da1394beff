"""Rows whose label a model contradicts with confidence: by confident learning, as cleanlab computes it.

A model is only worth asking about rows that it has not learnt. For the training split its embeddings are therefore
given to a logistic regression that never sees the rows it judges (out of fold); other splits are judged by the model
itself, if it has the same classes.

Source: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70 (2021).
Shapes: N rows, K classes, C channels.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader

from hf_contour.data.findings import CheckReport, Finding
from hf_contour.data.samples import ContourSamples, collate
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification, ContourGenderModel

NUM_FOLDS = 5
_NOT_JUDGED = ("label_wrong", "image_unreadable", "image_bomb")


def label_doubts(
    splits: Mapping[str, Dataset], report: CheckReport, *, model_folder: str, batch_size: int = 32, seed: int = 0
) -> list[Finding]:
    """Findings `label_doubtful`, the most doubtful row of each split first.

    Args:
        splits: data sets that were checked, by split.
        report: of the check; rows without a good label and a good image are not judged.
        model_folder: of a classifier, as `save_pretrained` wrote it.
        batch_size: images at a time.
        seed: of the folds.

    Raises:
        ValueError: If a row has several labels, or the rows are too few for the folds.
        ImportError: If cleanlab is not installed.
    """
    found: list[Finding] = []
    for split, dataset in splits.items():
        feature = dataset.features.get("label")
        if feature is None:
            continue
        if not isinstance(feature, ClassLabel):
            raise ValueError(f"split {split} has several labels a row; doubts are told for one label a row.")
        bad = {finding.row for finding in report.rows if finding.split == split and finding.kind in _NOT_JUDGED}
        rows = [row for row in range(len(dataset)) if row not in bad]
        judged = dataset.select(rows).select_columns(["image", "label"])
        judge = _Judge(model_folder, judged, batch_size)
        probabilities = judge.out_of_fold(seed) if split == "train" else judge.by_model_or_out_of_fold(seed)
        found += [
            _finding(split, rows, judged, probabilities, place) for place in doubtful_rows(judge.labels, probabilities)
        ]
    return found


class _Judge:
    """Gives each row of a split the probabilities of its classes.

    Args:
        model_folder: of the classifier.
        rows: with `image` and `label`, all of them good.
        batch_size: images at a time.
    """

    def __init__(self, model_folder: str, rows: Dataset, batch_size: int) -> None:
        self.model_folder, self.rows = model_folder, rows
        self.names, self.labels = rows.features["label"].names, np.asarray(rows["label"])
        samples = ContourSamples(rows, ContourImageProcessor.from_pretrained(model_folder), stage="gender")
        self.loader = DataLoader(samples, batch_size=batch_size, collate_fn=collate)

    def by_model_or_out_of_fold(self, seed: int) -> NDArray[np.float64]:
        """`(N, K)`: what the model says, if its classes are those of the rows, in any order."""
        model = ContourGenderForImageClassification.from_pretrained(self.model_folder).eval()
        known = [model.config.id2label[number] for number in range(model.config.num_labels)]
        if set(known) != set(self.names):
            return self.out_of_fold(seed)
        logits = torch.cat(list(self._outputs(model, "logits"))) / model.config.temperature
        return logits.double().softmax(dim=1).numpy()[:, [known.index(name) for name in self.names]]

    def out_of_fold(self, seed: int) -> NDArray[np.float64]:
        """`(N, K)`: what a logistic regression on the embeddings of the other rows says."""
        model = ContourGenderModel.from_pretrained(self.model_folder).eval()
        embeddings = torch.cat(list(self._outputs(model, "pooler_output"))).double().numpy()
        counts = np.bincount(self.labels, minlength=len(self.names))
        scarce = [name for name, count in zip(self.names, counts, strict=True) if 0 < count < NUM_FOLDS]
        if scarce or (counts > 0).sum() < 2:
            raise ValueError(
                f"the classes have {dict(zip(self.names, counts.tolist(), strict=True))} rows; expected two classes, "
                f"and at least {NUM_FOLDS} rows of each, to judge rows by the others."
            )
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed)
        found = cross_val_predict(classifier, embeddings, self.labels, cv=folds, method="predict_proba")
        probabilities = np.zeros((len(self.labels), len(self.names)))
        probabilities[:, np.unique(self.labels)] = found
        return probabilities

    @torch.inference_mode()
    def _outputs(self, model: torch.nn.Module, name: str) -> Iterator[torch.Tensor]:
        for batch in self.loader:
            yield getattr(model(batch["pixel_values"]), name)


def doubtful_rows(labels: NDArray[np.int64], probabilities: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Numbers of the rows whose label is contradicted with confidence, the least probable label first.

    Args:
        labels: `(N,)`.
        probabilities: `(N, K)`, of a model that has not learnt these rows.

    Raises:
        ImportError: If cleanlab is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise ImportError(
            "doubtful labels are found by cleanlab. Install it with: pip install 'hf_contour[labels]'"
        ) from error
    present = np.unique(labels)  # cleanlab expects every class to have rows
    shares = probabilities[:, present]
    return find_label_issues(
        np.searchsorted(present, labels),
        shares / shares.sum(axis=1, keepdims=True),
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )


def _finding(split: str, rows: list[int], judged: Dataset, probabilities: NDArray[np.float64], place: int) -> Finding:
    row, names = judged[int(place)], judged.features["label"].names
    best = int(probabilities[place].argmax())
    message = f"is labelled {names[row['label']]}, but seems to be {names[best]} ({probabilities[place, best]:.2f})."
    file = row["image"]["path"] or f"row {rows[place]}"
    return Finding(split, rows[place], file, "label_doubtful", message)
