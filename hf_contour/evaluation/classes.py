"""Scores of a classifier on a split: of all images, of slices, under perturbation, and of its confidence.

Shapes: N images, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from hf_contour.batch_norm_folding_contour import fold_batch_norms
from hf_contour.data.samples import ContourSamples, collate
from hf_contour.evaluation.arguments import COLOUR_PERTURBATIONS, CONTOUR_PERTURBATIONS
from hf_contour.evaluation.loops import class_logits
from hf_contour.evaluation.perturbations import (
    ColourDisturbedSamples,
    ContoursOfAnother,
    SamplesWithAnother,
    zeroed_contours,
)
from hf_contour.evaluation.predictions import ClassPredictions, row_numbers
from hf_contour.metrics.calibration import coverage_curve, reliability_bins, thresholds_for_coverages
from hf_contour.metrics.classification import (
    DEFAULT_SETTINGS,
    ScoreSettings,
    classification_scores,
    group_indices,
    multilabel_scores,
)
from hf_contour.metrics.paired import paired_scores
from hf_contour.metrics.slices import MIN_SLICE, Slice, make_slices, parse_slice, slice_scores

# Computed from an image where the data has no such column.
IMAGE_COLUMNS: dict[str, Callable[[np.ndarray], float]] = {
    # ITU-R BT.601, as Pillow turns colour to grey; 0 is black, 1 white.
    "brightness": lambda pixels: float(pixels.mean(axis=(0, 1)) @ (0.299, 0.587, 0.114) / 255),
    "aspect_ratio": lambda pixels: pixels.shape[1] / pixels.shape[0],  # width / height
}
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
COVERAGES = (1, 0.99, 0.98, 0.97, 0.96, 0.95, 0.925, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


@dataclass(frozen=True)
class ClassEvaluationSettings:
    """How a classifier is evaluated.

    Attributes:
        batch_size: images of a process in a batch.
        num_workers: processes that read images.
        group_column: of groups of near duplicates, or `None`.
        id_column: whose values name the rows in a file of predictions, or `None`: positions.
        slices: texts that `parse_slice` reads.
        min_slice: values of fewer images are pooled.
        perturbations: names of those to measure, each in a pass of its own: of `COLOUR_PERTURBATIONS`, and of
            `CONTOUR_PERTURBATIONS`, which a model without an extractor leaves out.
        seed: of what is drawn for the perturbations.
        scores: bins and bootstrap.
    """

    batch_size: int = 32
    num_workers: int = 0
    group_column: str | None = None
    id_column: str | None = None
    slices: Sequence[str] = field(default_factory=tuple)
    min_slice: int = MIN_SLICE
    perturbations: Sequence[str] = field(default_factory=tuple)
    seed: int = 0
    scores: ScoreSettings = DEFAULT_SETTINGS


def class_scores(
    model: nn.Module, samples: ContourSamples, accelerator: Accelerator, settings: ClassEvaluationSettings
) -> tuple[dict[str, Any], ClassPredictions]:
    """Evaluate a classifier.

    Args:
        model: in evaluation mode, on the accelerator's device.
        samples: of the stage "gender", neither augmented nor recoloured.
        accelerator: shares the images out, and gathers.
        settings: what to measure.

    Returns:
        The scores of `classification_scores` or `multilabel_scores`, and besides them, where asked for, `slices`,
        `colour_reliance` and `contour_contribution`; the config's `temperature`, which divided the logits, and its
        `abstain_threshold`; with one label also `reliability` and `coverage`, which has a point at that threshold.
        And the predictions that they were made from. Both on every process.

    Raises:
        ValueError: If a column is not there or cannot be sliced by, or an image cannot be read.
    """
    source = samples.source
    groups = column_values(source, settings.group_column, "group_column") if settings.group_column else None
    ids = column_values(source, settings.id_column, "id_column") if settings.id_column else None
    slices = split_slices(samples, settings.slices, min_size=settings.min_slice)
    model = fold_batch_norms(model).to(memory_format=torch.channels_last)  # half the time on a CPU
    logits, labels = _predict(model, samples, accelerator, settings, words="batches")
    predictions = ClassPredictions(
        logits=logits.numpy(),
        labels=labels.long().numpy(),
        row_ids=row_numbers(ids, count=len(samples)),
        group_ids=group_indices(groups, num_samples=len(samples)),
        class_names=list(model.config.id2label.values()),
        slices=slices,
    )
    threshold = float(model.config.abstain_threshold)
    scores = prediction_scores(predictions, settings=settings.scores, abstain_threshold=threshold)
    scores |= {"temperature": float(model.config.temperature), "abstain_threshold": threshold}
    if settings.perturbations:
        scores |= perturbation_scores(model, samples, accelerator, settings, predictions=predictions)
    return scores, predictions


def prediction_scores(
    predictions: ClassPredictions, *, settings: ScoreSettings = DEFAULT_SETTINGS, abstain_threshold: float = 0.0
) -> dict[str, Any]:
    """All scores that follow from the predictions alone, as plain JSON values.

    Args:
        predictions: of a split.
        settings: bins and bootstrap.
        abstain_threshold: confidence at which the curve of coverage has a point too; 0 adds none.
    """
    probabilities, correct = predictions.probabilities, predictions.correct
    judge = multilabel_scores if predictions.is_multi_label else classification_scores
    scores = judge(
        probabilities,
        predictions.labels,
        class_names=predictions.class_names,
        groups=predictions.group_ids,
        settings=settings,
    ).to_dict()
    single: dict[str, Any] = {}
    if not predictions.is_multi_label:
        single = {"labels": predictions.labels, "predictions": predictions.predicted}
        confidence = probabilities.max(axis=1)
        own = [abstain_threshold] if abstain_threshold else []
        thresholds = sorted({*CONFIDENCES, *own, *thresholds_for_coverages(confidence, COVERAGES)})
        scores["coverage"] = [asdict(point) for point in coverage_curve(confidence, correct, thresholds)]
        bins = reliability_bins(confidence, correct, num_bins=settings.num_bins)
        scores["reliability"] = [asdict(one) for one in bins]
    if predictions.slices:
        scores["slices"] = [
            slice_scores(part, correct, predictions.group_ids, settings=settings, **single)
            for part in predictions.slices
        ]
    return scores


def perturbation_scores(
    model: nn.Module,
    samples: ContourSamples,
    accelerator: Accelerator,
    settings: ClassEvaluationSettings,
    *,
    predictions: ClassPredictions,
) -> dict[str, Any]:
    """Accuracy lost to each perturbation, with paired intervals; a pass over the split for each.

    Returns:
        `colour_reliance` and `contour_contribution`, each name of a perturbation -> its figures; only what was asked
        for.
    """

    def lost(name: str, described: str, changed: nn.Module, data: Dataset[dict[str, Any]]) -> dict[str, Any]:
        logits, _ = _predict(changed, data, accelerator, settings, words=name)
        disturbed = ClassPredictions(
            logits.numpy(), predictions.labels, predictions.row_ids, predictions.group_ids, predictions.class_names
        )
        return _accuracy_lost(described, predictions, disturbed, settings=settings.scores)

    asked = settings.perturbations
    colours = {
        name: lost(name, described, model, ColourDisturbedSamples(samples, name, seed=settings.seed))
        for name, described in COLOUR_PERTURBATIONS.items()
        if name in asked
    }
    contours = {}
    if "contours_zeroed" in asked and model.extractor is not None:
        with zeroed_contours(model) as without:
            name = "contours_zeroed"
            contours[name] = lost(name, CONTOUR_PERTURBATIONS[name], without, samples)
    if "contours_of_another" in asked and model.extractor is not None and len(samples) > 1:
        name = "contours_of_another"
        paired = SamplesWithAnother(samples, seed=settings.seed)
        contours[name] = lost(name, CONTOUR_PERTURBATIONS[name], ContoursOfAnother(model), paired)
    found = {"colour_reliance": colours, "contour_contribution": contours}
    return {name: figures for name, figures in found.items() if figures}


def _accuracy_lost(
    described: str, before: ClassPredictions, after: ClassPredictions, *, settings: ScoreSettings
) -> dict[str, Any]:
    paired = paired_scores(before.correct, after.correct, groups=before.group_ids, settings=settings)
    low, high = paired.difference_interval
    return {
        "description": described,
        "accuracy": paired.second_accuracy,
        "accuracy_lost": 0.0 - paired.difference,
        "accuracy_lost_interval": [0.0 - high, 0.0 - low],
        "predictions_changed": float(
            (before.predicted != after.predicted).reshape(len(before.labels), -1).any(1).mean()
        ),
        "mcnemar_p": paired.mcnemar_p,
    }


def split_slices(samples: ContourSamples, texts: Sequence[str], *, min_size: int = MIN_SLICE) -> list[Slice]:
    """The slices of a split that the texts ask for, in their order.

    Args:
        samples: whose source has the columns; those of `IMAGE_COLUMNS` are computed where it does not.
        texts: each as `parse_slice` reads it.
        min_size: values of fewer images are pooled.

    Raises:
        ValueError: If a text cannot be read, a column is not there, or its values cannot be sliced by.
    """
    slices = []
    for request in [parse_slice(text) for text in texts]:
        if request.column in IMAGE_COLUMNS and request.column not in samples.source.column_names:
            measure = IMAGE_COLUMNS[request.column]
            values: Sequence[Any] = [measure(samples.decoded(row).pixels) for row in range(len(samples))]
        else:
            values = column_values(samples.source, request.column, "slices")
        slices += make_slices(request, values, min_size=min_size)
    return slices


def column_values(source: datasets.Dataset, column: str, option: str) -> list[Any]:
    """The values of a column: classes by their names, 32-bit numbers as they are written, 0.3 and not 0.30000001.

    Raises:
        ValueError: If there is no such column; names the option that asked for it.
    """
    if column not in source.column_names:
        raise ValueError(f"{option} is {column!r}; the data has the columns {', '.join(source.column_names)}.")
    values = list(source[column][:])
    feature = source.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return [None if value is None else feature.int2str(value) for value in values]
    if getattr(feature, "dtype", None) == "float32":
        return [None if value is None else float(str(np.float32(value))) for value in values]
    return values


def _predict(
    model: nn.Module,
    samples: Dataset[dict[str, Any]],
    accelerator: Accelerator,
    settings: ClassEvaluationSettings,
    *,
    words: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    loader = accelerator.prepare(
        DataLoader(samples, batch_size=settings.batch_size, num_workers=settings.num_workers, collate_fn=collate)
    )
    bar = tqdm(total=len(loader), desc=words, disable=not accelerator.is_local_main_process)
    with bar, torch.inference_mode():
        _, logits, labels = class_logits(model, loader, accelerator, heed=bar.update)
    return logits, labels
