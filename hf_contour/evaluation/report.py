"""An evaluation as one HTML file that needs nothing beside it: no network, no other file."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from hf_contour.data.samples import ContourSamples
from hf_contour.evaluation.mistakes import doubtful_labels, surest_mistakes
from hf_contour.evaluation.predictions import ClassPredictions
from hf_contour.evaluation.results import Results

TEMPLATE = Path(__file__).with_name("report.html.jinja")
COVERAGE_THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)
TRAINED_ON = "train"  # the split whose labels a model has learnt, so that its answers say nothing of them
# Figures of classifiers and extractors, with what they mean.
FIGURES = {
    "accuracy": "share of right answers",
    "balanced_accuracy": "mean of the classes' recalls, so that a rare class counts as much as a frequent one",
    "roc_auc": "how well the scores order the two classes; 0.5 is chance, 1 perfect",
    "brier_score": "mean squared error of the probabilities; 0 is perfect",
    "expected_calibration_error": "mean difference between how sure and how right",
    "ods": "F at the best threshold for all images",
    "ois": "F at the best threshold of each image",
    "ap": "area under the precision-recall curve",
    "r50": "recall at a precision of one half",
    "loss": "cross-entropy",
    "pixel_f1": "F without any tolerance of place",
}


def write_report(
    results: Results, path: Path, *, predictions: ClassPredictions | None = None, samples: ContourSamples | None = None
) -> None:
    """Write the report of an evaluation; its folder is made, an older file is replaced.

    Args:
        results: the figures.
        path: the HTML file.
        predictions: of a classifier; with `samples` the surest mistakes are shown.
        samples: that the predictions are of, in their order.
    """
    scores = results.scores
    shows_mistakes = predictions is not None and samples is not None and not predictions.is_multi_label
    shows_doubts = shows_mistakes and results.data["split"] != TRAINED_ON
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        results=results,
        figures=_figures(scores),
        matrix=_matrix(scores) if "confusion_matrix" in scores else None,
        reliability=_reliability(scores.get("reliability", [])),
        coverage=_coverage(scores),
        slices=[
            part | dict(zip(("low", "high"), part["accuracy_interval"], strict=True))
            for part in scores.get("slices", [])
        ],
        perturbations=[
            figures
            for kind in ("colour_reliance", "contour_contribution")
            for figures in scores.get(kind, {}).values()
        ],
        mistakes=surest_mistakes(predictions, samples) if shows_mistakes else None,  # type: ignore[arg-type]
        doubts=doubtful_labels(predictions, samples) if shows_doubts else None,  # type: ignore[arg-type]
        num_mistakes=int((~predictions.correct).sum()) if predictions is not None else 0,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _figures(scores: Mapping[str, Any]) -> list[dict[str, str]]:
    """Name, value with its interval, and meaning of each figure that was measured."""
    rows = []
    for name, note in FIGURES.items():
        value = scores.get(name)
        if value is None:
            continue
        shown = f"{value:.4f}"
        if f"{name}_interval" in scores:
            low, high = scores[f"{name}_interval"]
            shown += f" (95 %: {low:.4f} to {high:.4f})"
        rows.append({"name": name.replace("_", " "), "value": shown, "note": note})
    return rows


def _matrix(scores: Mapping[str, Any]) -> dict[str, Any]:
    names = scores["class_names"]
    rows = [
        {"name": name, "cells": [{"count": count, "share": count / max(sum(counts), 1)} for count in counts]}
        for name, counts in zip(names, scores["confusion_matrix"], strict=True)
    ]
    return {"names": names, "rows": rows}


def _reliability(bins: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bins that hold images; the radius grows with the logarithm of their number."""
    return [dict(one) | {"radius": 2 + 2 * math.log10(one["num_samples"])} for one in bins if one["num_samples"]]


def _coverage(scores: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Round thresholds, and the model's own."""
    wanted = {*COVERAGE_THRESHOLDS, scores.get("abstain_threshold")}
    return [
        point for point in scores.get("coverage", []) if point["threshold"] in wanted and point["accuracy"] is not None
    ]
