"""The table of a comparison across sources: each was left out of the training in turn, and tested on."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_contour.evaluation.summary import markdown_table, with_interval

HEADER = ["variant", "mean of the sources left out (95 % interval)", "compared with", "difference (95 % interval)"]
AFTER = ["worst", "alone", "worn", "calibration error", "Brier score", "decided", "right of those decided"]


def across_table(results: Mapping[str, Any]) -> str:
    """A row for each variant: balanced accuracy over all sources and on each, and what its confidence is worth.

    Args:
        results: as `comparison.comparison_results` gives them for a plan with `leave_out`.
    """
    across = results["across"]
    names = list(next(iter(across.values()))["sources"])
    return markdown_table([*HEADER, *names, *AFTER], [_row(name, figures, names) for name, figures in across.items()])


def coverage_table(results: Mapping[str, Any]) -> str:
    """A row for each variant and source: accuracy on the surest part of the images."""
    rows = []
    for variant, figures in results["across"].items():
        curves = {name: one["coverage_curve"] for name, one in figures["sources"].items()}
        for name, curve in curves.items():
            rows.append([variant, name, *(f"{accuracy:.3f}" for _, accuracy in curve)])
    shares = [f"{share:.0%}" for share, _ in curve]
    return markdown_table(["variant", "left out", *(f"accuracy on the surest {share}" for share in shares)], rows)


def elsewhere_table(results: Mapping[str, Any]) -> str:
    """A row for each variant and source: what confidence is worth there, fitted on what was trained on, and elsewhere.

    Args:
        results: as for `across_table`, with `elsewhere`.
    """
    header = ["variant", "left out"]
    for fitted_on in ("the sources trained on", "the other sources left out"):
        header += [f"{kind}, fitted on {fitted_on}" for kind in ("calibration error", "decided", "right of those")]
    rows = []
    for variant, figures in results["across"].items():
        for name, own in figures["sources"].items():
            elsewhere = figures["elsewhere"][name]
            rows.append([variant, name, *_confidence_cells(own), *_confidence_cells(elsewhere)])
    return markdown_table(header, rows)


def _confidence_cells(figures: Mapping[str, Any]) -> list[str]:
    right = figures["accuracy_decided"]
    return [
        f"{figures['expected_calibration_error']:.3f}",
        f"{figures['coverage']:.1%}",
        "" if right is None else f"{right:.3f}",
    ]


def _row(variant: str, figures: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    mean, difference, worst = figures["mean"], figures.get("difference"), figures["worst"]
    return [
        variant,
        with_interval(mean["balanced_accuracy"], mean["interval"], ".3f"),
        difference["with"] if difference else "",
        with_interval(difference["balanced_accuracy"], difference["interval"], "+.3f") if difference else "",
        *(f"{figures['sources'][name]['balanced_accuracy']:.3f}" for name in names),
        f"{worst['source']} {worst['balanced_accuracy']:.3f}",
        *(f"{mean[part]['balanced_accuracy']:.3f}" if part in mean else "" for part in ("alone", "worn")),
        f"{mean['expected_calibration_error']:.3f}",
        f"{mean['brier_score']:.3f}",
        f"{mean['coverage']:.1%}",
        "" if mean["accuracy_decided"] is None else f"{mean['accuracy_decided']:.3f}",
    ]
