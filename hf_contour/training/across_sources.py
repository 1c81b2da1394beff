"""Classifiers on sources that they have not seen: what a training that left one out says about it.

Shapes: N images, R resamples of the bootstrap.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset
from numpy.typing import NDArray

from hf_contour.data.samples import ContourSamples
from hf_contour.data.source_settings import Source
from hf_contour.evaluation.arguments import EvaluationArguments
from hf_contour.evaluation.calibration import (
    NothingToCalibrateError,
    fit_calibration,
    load_classifier,
    write_calibration,
)
from hf_contour.evaluation.classes import ClassEvaluationSettings
from hf_contour.evaluation.predictions import ClassPredictions
from hf_contour.evaluation.run import evaluate
from hf_contour.evaluation.summary import point_at
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.metrics.calibration import coverage_curve, thresholds_for_coverages
from hf_contour.metrics.classification import (
    DEFAULT_SETTINGS,
    FloatArray,
    IntArray,
    balanced_accuracy,
    balanced_accuracy_draws,
    confusion_matrix,
    group_indices,
    percentile_interval,
)
from hf_contour.metrics.slices import parse_slice
from hf_contour.training.arguments import GenderArguments
from hf_contour.training.confidence_elsewhere import confidence_elsewhere
from hf_contour.training.rows import load_rows

logger = logging.getLogger(__name__)

WANTED_ACCURACY = 0.9  # of what is decided; the threshold is chosen on the other sources
WORN = {"alone": "worn = False", "worn": "worn = True"}
COVERAGES = (0.3, 0.5, 0.7, 0.9, 1.0)  # shares of the images, the surest first
SCORES = ("balanced_accuracy", "expected_calibration_error", "brier_score", "coverage", "accuracy_decided")


@dataclass(frozen=True)
class LeftOut:
    """What one training said about the source that it left out.

    Attributes:
        variant: of the plan.
        source: that was left out.
        paired_with: the variant that it is compared with.
        scores: of its evaluation.
        predictions: on that source.
    """

    variant: str
    source: str
    paired_with: str
    scores: Mapping[str, Any]
    predictions: ClassPredictions


def evaluate_left_out(
    training: GenderArguments, arguments: EvaluationArguments, left_out: Source, *, command: str
) -> None:
    """Calibrates a trained model on the validation split of its own sources, and evaluates it on the one left out.

    Temperature and threshold go into the model's config. Slices, and groups of near duplicates, by columns that the
    source has not are left out.
    """
    model = load_classifier(arguments.model)
    names = list(model.config.id2label.values())
    validation = load_rows(training, training.validation_split or "validation", label_names=names)
    assert isinstance(validation, Dataset)
    try:
        calibration = fit_calibration(
            model,
            ContourSamples(validation, ContourImageProcessor.from_pretrained(arguments.model), stage="gender"),
            Accelerator(cpu=arguments.cpu),
            ClassEvaluationSettings(batch_size=arguments.batch_size, num_workers=arguments.num_workers),
            wanted_accuracy=[WANTED_ACCURACY],
        )
        write_calibration(Path(arguments.model), calibration)
    except NothingToCalibrateError as error:
        logger.warning("%s is evaluated as it is: %s", arguments.model, error)
    rows = load_rows(replace(training, data=[asdict(left_out)]), arguments.split, label_names=names)
    assert isinstance(rows, Dataset)
    evaluate(_without_absent_columns(arguments, rows), command=command, rows=rows)


def _without_absent_columns(arguments: EvaluationArguments, rows: Dataset) -> EvaluationArguments:
    there = set(rows.column_names)
    slices = [text for text in arguments.slices if parse_slice(text).column in there]
    groups = arguments.group_column if arguments.group_column in there else None
    return replace(arguments, slices=slices, group_column=groups)


def scores_across_sources(runs: Sequence[LeftOut]) -> dict[str, Any]:
    """Each variant on each source left out, the mean over the sources, and the worst of them.

    Intervals are bootstraps over groups of near duplicates, drawn within each source, of the mean over the seeds;
    they say nothing about other seeds or other sources.

    Returns:
        Variant -> `sources` (the figures of each; `coverage_curve` pairs a share of the images, the surest first, with
        the accuracy on them), `mean` (over them; `alone` and `worn` of all their images
        together), `worst` (`source` and `balanced_accuracy`), `difference` to the variant that it is paired with
        (`with`, `balanced_accuracy`, `interval`; not for that one itself), `num_seeds`, and from three sources on
        `elsewhere`, as `confidence_elsewhere` gives it.
    """
    variants: dict[str, dict[str, list[LeftOut]]] = {}
    for run in runs:
        variants.setdefault(run.variant, {}).setdefault(run.source, []).append(run)
    draws = {name: _draws_of_mean(sources) for name, sources in variants.items()}
    across: dict[str, Any] = {}
    for name, sources in variants.items():
        figures = {source: _source_figures(of_seeds) for source, of_seeds in sources.items()}
        worst = min(figures, key=lambda source: figures[source]["balanced_accuracy"])
        across[name] = {
            "num_seeds": len(next(iter(sources.values()))),
            "mean": {
                **_means(list(figures.values())),
                "interval": percentile_interval(draws[name]),
                **_worn_figures([run for of_seeds in sources.values() for run in of_seeds]),
            },
            "worst": {"source": worst, "balanced_accuracy": figures[worst]["balanced_accuracy"]},
            "sources": figures,
        }
        if len(sources) > 2:
            predictions = {source: [run.predictions for run in of_seeds] for source, of_seeds in sources.items()}
            across[name]["elsewhere"] = confidence_elsewhere(predictions, wanted_accuracy=WANTED_ACCURACY)
    for name, sources in variants.items():
        other = next(iter(sources.values()))[0].paired_with
        if other != name:
            own, theirs = (across[one]["mean"]["balanced_accuracy"] for one in (name, other))
            interval = percentile_interval(draws[name] - draws[other])
            across[name]["difference"] = {"with": other, "balanced_accuracy": own - theirs, "interval": interval}
    return across


def _draws_of_mean(sources: Mapping[str, Sequence[LeftOut]]) -> FloatArray:
    """`(R,)`: the mean over the sources, in each of which the same groups are drawn for all seeds and variants."""
    draws = []
    for number, of_seeds in enumerate(sources.values()):
        settings = replace(DEFAULT_SETTINGS, seed=number)  # sources are drawn independently of one another
        draws.append(np.mean([_draws(run.predictions, settings=settings) for run in of_seeds], axis=0))
    return np.mean(draws, axis=0)


def _draws(predictions: ClassPredictions, **options: Any) -> FloatArray:
    return balanced_accuracy_draws(predictions.labels, predictions.predicted, predictions.group_ids, **options)


def _source_figures(of_seeds: Sequence[LeftOut]) -> dict[str, Any]:
    """The figures of one source, means over the seeds."""
    figures = _means([_run_figures(run) for run in of_seeds])
    draws = np.mean([_draws(run.predictions) for run in of_seeds], axis=0)
    return {
        "num_samples": len(of_seeds[0].predictions.labels),
        **figures,
        "interval": percentile_interval(draws),
        "coverage_curve": np.mean([_coverage_curve(run.predictions) for run in of_seeds], axis=0).tolist(),
        "temperature": float(np.mean([run.scores["temperature"] for run in of_seeds])),
        **_worn_figures(of_seeds),
    }


def _run_figures(run: LeftOut) -> dict[str, Any]:
    """The scores of one run; without a threshold, everything is decided."""
    everything = {"coverage": 1.0, "accuracy": run.scores["accuracy"]}
    decided = point_at(run.scores, run.scores["abstain_threshold"]) or everything
    named = {name: run.scores[name] for name in SCORES[:3]}
    return {**named, "coverage": decided["coverage"], "accuracy_decided": decided["accuracy"]}


def _coverage_curve(predictions: ClassPredictions) -> list[tuple[float, float]]:
    """Pairs of a coverage and the accuracy on the images that it decides."""
    confidence = predictions.probabilities.max(axis=1)
    points = coverage_curve(confidence, predictions.correct, thresholds_for_coverages(confidence, COVERAGES))
    return [(share, float(point.accuracy or 0)) for share, point in zip(COVERAGES, points, strict=True)]


def _means(figures: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of each score the mean over those that have it."""
    values = {name: [one[name] for one in figures if one[name] is not None] for name in SCORES}
    return {name: float(np.mean(known)) if known else None for name, known in values.items()}


def _worn_figures(runs: Sequence[LeftOut]) -> dict[str, Any]:
    """Balanced accuracy of garments alone and of those that are worn, in all runs together; only what there is."""
    found: dict[str, Any] = {}
    for key, name in WORN.items():
        parts = [_part(run, one.members) for run in runs for one in run.predictions.slices if one.name == name]
        if not parts:
            continue
        labels, predicted = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
        groups = group_indices([group for part in parts for group in part[2]], num_samples=len(labels))
        matrix = confusion_matrix(labels, predicted, num_classes=len(runs[0].predictions.class_names))
        found[key] = {
            "num_judged": len(labels),  # an image once for each seed
            "balanced_accuracy": balanced_accuracy(matrix),
            "interval": percentile_interval(balanced_accuracy_draws(labels, predicted, groups)),
        }
    return found


def _part(run: LeftOut, members: NDArray[np.bool_]) -> tuple[IntArray, IntArray, list[tuple[str, int]]]:
    """Labels, predictions and groups of some images; a group has another name in every source."""
    predictions = run.predictions
    groups = [(run.source, int(group)) for group in predictions.group_ids[members]]
    return predictions.labels[members], predictions.predicted[members], groups
