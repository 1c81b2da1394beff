"""Confidence on a source that was never seen, calibrated on other sources that were not seen either.

A temperature and a threshold from images like those that were trained on let nearly everything through elsewhere. Here
both come from the predictions on the other sources that were left out, each source weighing alike, and are judged on
the one that they do not come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hf_contour.evaluation.predictions import ClassPredictions
from hf_contour.metrics.calibration import coverage_curve, fit_temperature, threshold_for_accuracy
from hf_contour.metrics.classification import FloatArray, expected_calibration_error


@dataclass(frozen=True)
class Confidence:
    """What was fitted on sources.

    Attributes:
        temperature: divides the logits, besides what divided them before.
        threshold: lowest confidence that is acted on; above 1 where the wanted accuracy is not reached.
    """

    temperature: float
    threshold: float


def fit_confidence(sources: Sequence[ClassPredictions], *, wanted_accuracy: float) -> Confidence:
    """Temperature and threshold of several sources, of which each counts as much as the largest.

    Args:
        sources: predictions on each.
        wanted_accuracy: of what is decided.
    """
    most = max(len(one.labels) for one in sources)
    logits = np.concatenate([np.resize(one.logits, (most, one.logits.shape[1])) for one in sources])
    labels = np.concatenate([np.resize(one.labels, most) for one in sources])
    temperature = fit_temperature(torch.from_numpy(logits), torch.from_numpy(labels))
    divided = [_divided(one, temperature) for one in sources]
    confidence = np.concatenate([np.resize(one.probabilities.max(axis=1), most) for one in divided])
    correct = np.concatenate([np.resize(one.correct, most) for one in divided])
    threshold = threshold_for_accuracy(confidence, correct, wanted_accuracy)
    return Confidence(temperature, 2.0 if threshold is None else threshold)


def confidence_elsewhere(
    sources: Mapping[str, Sequence[ClassPredictions]], *, wanted_accuracy: float
) -> dict[str, dict[str, Any]]:
    """What confidence is worth on each source, where it is fitted on all the others.

    Args:
        sources: of at least two, predictions of each seed; none was trained on when they were made.
        wanted_accuracy: of what is decided.

    Returns:
        Source -> means over the seeds of `temperature`, `threshold`, `expected_calibration_error`, `coverage` and
        `accuracy_decided` (`None` where nothing is decided).
    """
    num_seeds = min(map(len, sources.values()))
    found = {}
    for name in sources:
        of_seeds = []
        for seed in range(num_seeds):
            others = [predictions[seed] for other, predictions in sources.items() if other != name]
            fitted = fit_confidence(others, wanted_accuracy=wanted_accuracy)
            of_seeds.append(_judged(sources[name][seed], fitted))
        found[name] = {key: _mean([one[key] for one in of_seeds]) for key in of_seeds[0]}
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _judged(predictions: ClassPredictions, fitted: Confidence) -> dict[str, float | None]:
    divided = _divided(predictions, fitted.temperature)
    confidence: FloatArray = divided.probabilities.max(axis=1)
    (point,) = coverage_curve(confidence, divided.correct, [fitted.threshold])
    return {
        "temperature": fitted.temperature,
        "threshold": fitted.threshold,
        "expected_calibration_error": expected_calibration_error(confidence, divided.correct),
        "coverage": point.coverage,
        "accuracy_decided": point.accuracy,
    }


def _divided(predictions: ClassPredictions, temperature: float) -> ClassPredictions:
    return replace(predictions, logits=predictions.logits / np.float32(temperature))
