"""Tables of Markdown, and that of a classifier's evaluation: all images, each slice, each perturbation."""

from collections.abc import Mapping, Sequence
from typing import Any

HEADER = ["images", "number", "groups", "accuracy (95 % interval)", "balanced accuracy", "lost (95 % interval)"]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells below a header."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def class_summary(scores: Mapping[str, Any]) -> str:
    """A Markdown table of the scores of a results file; those of older files have only the row of all images."""
    rows = [_row("all", scores), *(_row(part["name"], part) for part in scores.get("slices", []))]
    for kind in ("colour_reliance", "contour_contribution"):
        rows += [_disturbed_row(name, figures) for name, figures in scores.get(kind, {}).items()]
    return markdown_table(HEADER, rows)


def _row(name: str, figures: Mapping[str, Any]) -> list[str]:
    balanced = figures.get("balanced_accuracy")
    return [
        name,
        str(figures["num_samples"]),
        str(figures["num_groups"]),
        _with_interval(figures["accuracy"], figures["accuracy_interval"]),
        "-" if balanced is None else f"{balanced:.4f}",
        "",
    ]


def _disturbed_row(name: str, figures: Mapping[str, Any]) -> list[str]:
    lost = _with_interval(figures["accuracy_lost"], figures["accuracy_lost_interval"])
    return [name.replace("_", " "), "", "", f"{figures['accuracy']:.4f}", "", lost]


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})"
