"""Draw precision over recall of extractors, with lines of equal F and the human point.

    python scripts/experiments/draw_boundary_curves.py --results model_cards/results/contour-extractor-*.json

A second; writes model_cards/boundary_curves.png. The results files are those of hf-contour evaluate, all of one data
set and one protocol.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import run_tool

from hf_contour.evaluation.results import read_results
from hf_contour.flags import needed, setting
from hf_contour.hub.card_tables import data_words


class Curve(NamedTuple):
    """One curve of the image; recall and precision of ascending thresholds, and the best point between them."""

    name: str
    recall: Sequence[float]
    precision: Sequence[float]
    ods: float
    ods_recall: float
    ods_precision: float


# How well the annotators of BSDS500 agree, each against the others: F .803. `plot_eval.m` of the benchmark and
# `edgesEvalPlot.m` of Dollar's toolbox draw the point here.
HUMAN_RECALL, HUMAN_PRECISION = 0.7235, 0.9014
# Where next to nothing is found precision is noise; the toolbox leaves these points out of its image too.
MIN_RECALL = 1e-3


def benchmark_curve(name: str, scores: Mapping[str, Any]) -> Curve:
    """The curve of the scores of a results file.

    Raises:
        ValueError: If the scores hold none.
    """
    if "benchmark_curve" not in scores:
        raise ValueError(f"{name} has no curve of the boundary benchmark; evaluate an extractor with it.")
    points = scores["benchmark_curve"]
    return Curve(
        name, points["recall"], points["precision"], scores["ods"], scores["ods_recall"], scores["ods_precision"]
    )


def draw_boundary_curves(curves: Sequence[Curve], path: Path, *, human: bool = True) -> None:
    """Draw curves into one image, the best first in the legend; a dot marks the point of ODS.

    Args:
        curves: what to draw, at least one.
        path: the image to write; its suffix says the kind, such as .png or .svg.
        human: draw the human point. It belongs to BSDS500 and its annotators; leave it out for other data.

    Raises:
        ValueError: If there is no curve.
        ImportError: If Matplotlib is not installed.
    """
    if not curves:
        raise ValueError("there is no curve to draw; give at least one.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Curves need Matplotlib: pip install "hf_contour[plots]".') from error
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xticks(np.linspace(0, 1, 11))
    axes.set_yticks(np.linspace(0, 1, 11))
    _draw_equal_f(axes)
    if human:
        label = f"[F={_f1(HUMAN_RECALL, HUMAN_PRECISION):.3f}] human"
        axes.plot(HUMAN_RECALL, HUMAN_PRECISION, "o", color="tab:green", markersize=8, label=label)
    for number, curve in enumerate(sorted(curves, key=lambda curve: -curve.ods)):
        drawn = np.asarray(curve.recall) >= MIN_RECALL
        label, colour = f"[F={curve.ods:.3f}] {curve.name}", f"C{number}"
        axes.plot(np.asarray(curve.recall)[drawn], np.asarray(curve.precision)[drawn], color=colour, label=label)
        axes.plot(curve.ods_recall, curve.ods_precision, "o", color=colour, markersize=5)
    axes.legend(loc="lower left", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_equal_f(axes: Any) -> None:
    """Thin lines along which F is .1, .2, ..., .9, each with its number."""
    for f1 in np.arange(1, 10) / 10:
        recall = np.linspace(f1 / (2 - f1), 1, 200)  # precision 1 at the first of them
        axes.plot(recall, f1 * recall / (2 * recall - f1), color="0.8", linewidth=0.7, zorder=0)
        axes.annotate(f"{f1:.1f}", (1, f1 / (2 - f1)), fontsize=7, color="0.5", ha="right", va="bottom")


def _f1(recall: float, precision: float) -> float:
    return 2 * recall * precision / (recall + precision)


@dataclass
class CurveArguments:
    """What to draw."""

    results: list[str] = needed("results files of extractors")
    output: str = setting("model_cards/boundary_curves.png", "image to write")
    human: bool = setting(True, "draw the human point, which belongs to BSDS500")


def main(arguments: CurveArguments) -> None:
    """Read the results, draw, and say what was drawn."""
    found = [read_results(Path(name)) for name in arguments.results]
    protocols = {(data_words(one.data), str(one.protocol.get("boundary_benchmark"))) for one in found}
    if len(protocols) > 1:
        raise ValueError(f"the results differ in data or protocol: {sorted(protocols)}; draw them apart.")
    curves = [benchmark_curve(one.model["name"], one.scores) for one in found]
    draw_boundary_curves(curves, Path(arguments.output), human=arguments.human)
    for curve in curves:
        print(f"{curve.name}: ODS {curve.ods:.3f}")
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    run_tool(CurveArguments, main, description=__doc__)
