"""Calibrate a classifier on held-out images: its temperature, and the confidence below which it should abstain.

Both go into the config of its folder.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hf_contour.data.samples import ContourSamples
from hf_contour.evaluation.arguments import CalibrationArguments, EvaluationArguments
from hf_contour.evaluation.classes import COVERAGES, ClassEvaluationSettings, class_scores, prediction_scores
from hf_contour.evaluation.predictions import ClassPredictions
from hf_contour.evaluation.run import load_model
from hf_contour.io import write_text
from hf_contour.metrics.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    coverage_curve,
    fit_temperature,
    threshold_for_accuracy,
    thresholds_for_coverages,
)
from hf_contour.metrics.classification import ScoreSettings
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification


class NothingToCalibrateError(ValueError):
    """Held-out images say nothing of confidence: all of them are right, or the sure ones are no oftener right."""


@dataclass(frozen=True)
class Calibration:
    """What a temperature does to confidence on the images that it was fitted on.

    Attributes:
        num_samples: images.
        temperature_before: that the folder had.
        temperature: that was fitted.
        abstain_threshold_before: that the folder had.
        abstain_threshold: the first of `abstaining`; `None` where no threshold reaches that accuracy.
        before: `expected_calibration_error` and `brier_score` at the old temperature.
        after: the same at the new one.
        abstaining: for each wanted accuracy the `threshold` of confidence that reaches it, and the `coverage` and
            `accuracy` there; `None` where no threshold does, or where images have several labels.
        coverage: points of the curve of accuracy over coverage; empty where images have several labels.
    """

    num_samples: int
    temperature_before: float
    temperature: float
    abstain_threshold_before: float
    abstain_threshold: float | None
    before: dict[str, float]
    after: dict[str, float]
    abstaining: list[dict[str, float | None]]
    coverage: list[dict[str, float | None]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def load_classifier(folder: str) -> ContourGenderForImageClassification:
    """The classifier of a folder.

    Raises:
        ValueError: If the folder holds none.
    """
    model = load_model(folder)
    if not isinstance(model, ContourGenderForImageClassification):
        raise ValueError(f"{folder} holds a {model.config.model_type} model; expected a contour_gender one.")
    return model


def fit_calibration(
    model: ContourGenderForImageClassification,
    samples: ContourSamples,
    accelerator: Accelerator,
    settings: ClassEvaluationSettings,
    *,
    wanted_accuracy: Sequence[float],
    num_bins: int = 15,
) -> Calibration:
    """Fit temperature and threshold on samples; the model's config is left as it is.

    Args:
        model: that is calibrated; it is put on the accelerator's device, in evaluation mode and single precision.
        samples: neither trained on nor tested on.
        accelerator: shares the images out.
        settings: how they are read.
        wanted_accuracy: as for `calibrate_predictions`.
        num_bins: as for `calibrate_predictions`.

    Raises:
        NothingToCalibrateError: As `calibrate_predictions`.
    """
    before = {name: float(getattr(model.config, name)) for name in ("temperature", "abstain_threshold")}
    model = model.float().to(accelerator.device).eval()
    model.config.temperature = 1.0  # the logits are wanted undivided
    try:
        _, predictions = class_scores(model, samples, accelerator, settings)
    finally:
        model.config.temperature = before["temperature"]
    return calibrate_predictions(
        predictions,
        before=before["temperature"],
        abstain_threshold_before=before["abstain_threshold"],
        wanted_accuracy=wanted_accuracy,
        num_bins=num_bins,
    )


def calibrate_predictions(
    predictions: ClassPredictions,
    *,
    before: float,
    abstain_threshold_before: float = 0.0,
    wanted_accuracy: Sequence[float] = (),
    num_bins: int = 15,
) -> Calibration:
    """Fit a temperature and say what it does.

    Args:
        predictions: with logits that no temperature divides.
        before: the temperature so far.
        abstain_threshold_before: the threshold so far.
        wanted_accuracy: of which thresholds are wanted; the first is for the config.
        num_bins: of the expected calibration error.

    Raises:
        NothingToCalibrateError: If the likelihood has no inner optimum, as where every image is right.
    """
    logits = torch.from_numpy(predictions.logits)
    temperature = fit_temperature(logits, torch.from_numpy(predictions.labels))
    if predictions.correct.all() or not MIN_TEMPERATURE < temperature < MAX_TEMPERATURE:
        num_right = int(predictions.correct.sum())
        raise NothingToCalibrateError(
            f"no temperature is best: {num_right} of {len(logits)} images are right. Confidence is learned from "
            "right and wrong ones, and the sure ones must be right more often; use a larger or another split."
        )
    after = _divided(predictions, temperature)
    abstaining: list[dict[str, float | None]] = []
    coverage: list[dict[str, float | None]] = []
    if not predictions.is_multi_label:
        confidence, correct = after.probabilities.max(axis=1), after.correct
        for wanted in wanted_accuracy:
            threshold = threshold_for_accuracy(confidence, correct, wanted)
            reached = {"threshold": None, "coverage": None, "accuracy": None}
            if threshold is not None:
                reached = asdict(coverage_curve(confidence, correct, [threshold])[0])
            abstaining.append({"wanted_accuracy": wanted, **reached})
        thresholds = sorted(set(thresholds_for_coverages(confidence, COVERAGES)))
        coverage = [asdict(point) for point in coverage_curve(confidence, correct, thresholds)]
    return Calibration(
        num_samples=len(logits),
        temperature_before=before,
        temperature=temperature,
        abstain_threshold_before=abstain_threshold_before,
        abstain_threshold=abstaining[0]["threshold"] if abstaining else None,
        before=_figures(_divided(predictions, before), num_bins=num_bins),
        after=_figures(after, num_bins=num_bins),
        abstaining=abstaining,
        coverage=coverage,
    )


def write_calibration(
    folder: Path, calibration: Calibration, *, further_fields: Mapping[str, Any] | None = None
) -> None:
    """Put temperature and threshold into `config.json`, both at once: readers see the old file or the new one.

    Every other field stays, and so does the threshold where the calibration found none.

    Raises:
        ValueError: If there is no config of a classifier.
        OutputError: If the file cannot be written; the old one is still there.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(config, Mapping) or config.get("model_type") != "contour_gender":
        raise ValueError(f"{path} is no config of a contour_gender model, which alone is calibrated.")
    changed = {**config, **(further_fields or {}), "temperature": calibration.temperature}
    if calibration.abstain_threshold is not None:
        changed["abstain_threshold"] = calibration.abstain_threshold
    # As save_pretrained writes it: sorted, so that a new field stands where it would.
    write_text(path, json.dumps(changed, indent=2, sort_keys=True) + "\n")


def _divided(predictions: ClassPredictions, temperature: float) -> ClassPredictions:
    return replace(predictions, logits=predictions.logits / temperature)


def _figures(predictions: ClassPredictions, *, num_bins: int) -> dict[str, float]:
    """Expected calibration error and Brier score, as in an evaluation."""
    scores = prediction_scores(predictions, settings=ScoreSettings(num_bins=num_bins, num_resamples=1))
    return {name: scores[name] for name in ("expected_calibration_error", "brier_score")}


def data_arguments(arguments: CalibrationArguments) -> EvaluationArguments:
    """Which images a calibration on one source is of."""
    names = (
        *("model", "data_config", "split", "image_column", "label_column", "multi_label", "label_separator"),
        *("unlabelled", "batch_size", "max_samples", "seed"),
    )
    return EvaluationArguments(data=arguments.data[0], **{name: getattr(arguments, name) for name in names})
