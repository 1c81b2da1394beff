"""What a classifier said about each image of a split, kept in a file, so that two classifiers can be paired.

Shapes: N images, K classes, S slices.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_contour.metrics.classification import DEFAULT_SETTINGS, FloatArray, IntArray, ScoreSettings
from hf_contour.metrics.paired import paired_scores
from hf_contour.metrics.slices import Slice

_ARRAYS = ("logits", "labels", "row_ids", "group_ids", "slice_members")


@dataclass(frozen=True)
class ClassPredictions:
    """Predictions of one classifier on one split, in the order of its rows.

    Attributes:
        logits: `(N, K)` float32, divided by the classifier's temperature.
        labels: `(N,)` int64, or `(N, K)` int64 of 0 and 1 where an image has several.
        row_ids: `(N,)` int64 or text; what tells one image from another.
        group_ids: `(N,)` int64, equal for near duplicates.
        class_names: K names.
        slices: parts of the split.
        model: as in `Results`.
        data: as in `Results`.
    """

    logits: NDArray[np.float32]
    labels: IntArray
    row_ids: NDArray[Any]
    group_ids: IntArray
    class_names: list[str]
    slices: list[Slice] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def is_multi_label(self) -> bool:
        """Whether an image has several labels."""
        return self.labels.ndim == 2

    @property
    def probabilities(self) -> FloatArray:
        """`(N, K)` softmax of the logits, or the sigmoid where an image has several labels."""
        logits = torch.from_numpy(self.logits).double()
        return (logits.sigmoid() if self.is_multi_label else logits.softmax(dim=1)).numpy()

    @property
    def predicted(self) -> IntArray:
        """`(N,)` class numbers; `(N, K)` of 0 and 1 where an image has several labels."""
        if self.is_multi_label:
            return (self.probabilities >= DEFAULT_SETTINGS.threshold).astype(np.int64)
        return self.probabilities.argmax(axis=1)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """`(N,)`: whether the label, or all labels, of an image are right."""
        right = self.predicted == self.labels
        return right.all(axis=1) if self.is_multi_label else right


def write_predictions(predictions: ClassPredictions, path: Path) -> None:
    """Write a `.npz` file; its folder is made, an older file is replaced.

    Raises:
        ValueError: If the path has another suffix.
    """
    if path.suffix != ".npz":
        raise ValueError(f"{path} cannot be written; predictions go to a file whose name ends in .npz.")
    words = {
        "class_names": predictions.class_names,
        "slice_names": [part.name for part in predictions.slices],
        "model": predictions.model,
        "data": predictions.data,
    }
    members = [part.members for part in predictions.slices] or np.zeros((0, len(predictions.logits)), dtype=bool)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        logits=predictions.logits,
        labels=predictions.labels,
        row_ids=predictions.row_ids,
        group_ids=predictions.group_ids,
        slice_members=np.stack(list(members)) if len(members) else members,
        words=np.array(json.dumps(words)),
    )


def read_predictions(path: Path) -> ClassPredictions:
    """Read a file of `write_predictions`; nothing in it is run.

    Raises:
        ValueError: If it is no such file; names the file and what is wrong.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in _ARRAYS}
            words = json.loads(str(content["words"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is no file of predictions: {error}. Write it with hf-contour evaluate --predictions."
        ) from error
    members = arrays.pop("slice_members")
    slices = [Slice(name, chosen) for name, chosen in zip(words["slice_names"], members, strict=True)]
    return ClassPredictions(
        **arrays, class_names=words["class_names"], slices=slices, model=words["model"], data=words["data"]
    )


def pair_predictions(
    first: ClassPredictions, second: ClassPredictions, *, settings: ScoreSettings = DEFAULT_SETTINGS
) -> dict[str, Any]:
    """Compare two classifiers on the same images, on all and on each slice that both have.

    Args:
        first: of the one classifier; its groups are resampled.
        second: of the other.
        settings: of the bootstrap.

    Returns:
        `all`, the fields of `PairedScores`, and `slices`, each with its `name` and the same fields.

    Raises:
        ValueError: If images, labels or class names differ; names the first row that does.
    """
    _check_same_images(first, second)
    everything = np.ones(len(first.labels), dtype=bool)
    theirs = {part.name: part.members for part in second.slices}
    shared = [part for part in first.slices if part.name in theirs and np.array_equal(theirs[part.name], part.members)]
    rows = [
        {"name": part.name}
        | paired_scores(
            first.correct[part.members],
            second.correct[part.members],
            groups=first.group_ids[part.members],
            settings=settings,
        ).to_dict()
        for part in [Slice("all", everything), *shared]
    ]
    return {"all": rows[0], "slices": rows[1:]}


def join_predictions(parts: Sequence[ClassPredictions]) -> ClassPredictions:
    """Predictions of several models, such as one for each seed, on the same images, as if they were of one.

    Args:
        parts: at least one; with the same images and slices. Copies of an image stay in its group.
    """
    for part in parts[1:]:
        _check_same_images(parts[0], part)
    first = parts[0]
    return replace(
        first,
        logits=np.concatenate([part.logits for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        row_ids=np.concatenate([part.row_ids for part in parts]),
        group_ids=np.concatenate([part.group_ids for part in parts]),
        slices=[Slice(one.name, np.tile(one.members, len(parts))) for one in first.slices],
    )


def _check_same_images(first: ClassPredictions, second: ClassPredictions) -> None:
    if first.class_names != second.class_names:
        raise ValueError(f"the classes are {first.class_names} and {second.class_names}; expected the same.")
    for name in ("row_ids", "labels", "group_ids"):
        one, other = getattr(first, name), getattr(second, name)
        if one.shape != other.shape:
            raise ValueError(
                f"{name} are of shapes {one.shape} and {other.shape}; evaluate both classifiers on the same images."
            )
        differing = np.flatnonzero((one != other).reshape(len(one), -1).any(axis=1))
        if len(differing):
            row = differing[0]
            raise ValueError(
                f"{name} differ in {len(differing)} rows, first in row {row}: {one[row]} and {other[row]}; "
                "evaluate both classifiers on the same images, with the same --group_column and --id_column."
            )


def row_numbers(values: Sequence[Any] | None, *, count: int) -> NDArray[Any]:
    """`(count,)` int64 or text: the values of a column, or positions where there is none."""
    if values is None:
        return np.arange(count)
    found = np.array(list(values))
    return found if np.issubdtype(found.dtype, np.integer) else found.astype(str)
