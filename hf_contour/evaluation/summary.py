"""Tables of Markdown: a classifier's evaluation on all images, slices and perturbations, and what labels bring."""

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = ["images", "number", "groups", "accuracy (95 % interval)", "balanced accuracy", "lost (95 % interval)"]
CURVE_HEADER = ["images", "balanced accuracy (95 % interval)", "calibration error", "decided"]
CURVE_HEADER += ["right of those decided", "penalty"]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells below a header."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def rounded(value: float | None, form: str = ".4f") -> str:
    """A number for a table; a dash where there is none."""
    return "-" if value is None else f"{value:{form}}"


def with_interval(value: float, interval: Sequence[float], form: str = ".4f") -> str:
    """A number and the ends of its interval."""
    low, high = interval
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def point_at(scores: Mapping[str, Any], threshold: float | None) -> Mapping[str, Any] | None:
    """The point of the curve of accuracy over coverage at a threshold; `None` where there is none, or it is 0."""
    points = scores.get("coverage", []) if threshold else []
    return next((point for point in points if point["threshold"] == threshold), None)


def class_summary(scores: Mapping[str, Any]) -> str:
    """A Markdown table of the scores of a results file; those of older files have only the row of all images."""
    rows = [_row("all", scores), *(_row(part["name"], part) for part in scores.get("slices", []))]
    for kind in ("colour_reliance", "contour_contribution"):
        rows += [_disturbed_row(name, figures) for name, figures in scores.get(kind, {}).items()]
    return markdown_table(HEADER, rows)


def learning_curve_table(results: Mapping[str, Any]) -> str:
    """A row for each number of labelled images of a new source.

    Args:
        results: as `hf-contour calibrate --learning_curve` writes them.
    """
    rows = [
        [
            str(point["num_samples"]),
            with_interval(point["balanced_accuracy"], point["balanced_accuracy_interval"], ".3f"),
            f"{point['expected_calibration_error']:.3f}",
            f"{point['coverage']:.1%}",
            rounded(point["accuracy_decided"], ".3f"),
            "as it was" if point["strength"] is None else f"{point['strength']:g}",
        ]
        for point in results["points"]
    ]
    return markdown_table(CURVE_HEADER, rows)


def _row(name: str, figures: Mapping[str, Any]) -> list[str]:
    return [
        name,
        str(figures["num_samples"]),
        str(figures["num_groups"]),
        with_interval(figures["accuracy"], figures["accuracy_interval"]),
        rounded(figures.get("balanced_accuracy")),
        "",
    ]


def _disturbed_row(name: str, figures: Mapping[str, Any]) -> list[str]:
    lost = with_interval(figures["accuracy_lost"], figures["accuracy_lost_interval"])
    return [name.replace("_", " "), "", "", f"{figures['accuracy']:.4f}", "", lost]
