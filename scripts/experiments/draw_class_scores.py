"""Draw confusion matrix, reliability diagram and accuracy over coverage of a classifier's results file.

    python scripts/experiments/draw_class_scores.py --results model_cards/results/NAME.json

A second; unless --output says otherwise it writes NAME.png into model_cards/, or into the folder that the model has
there, whose card then shows it (python -m hf_contour.hub.card). The file is one of hf-contour evaluate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from common import run_tool

from hf_contour.evaluation.results import read_results
from hf_contour.hub.card_tables import data_words

MAX_PRINTED_CLASSES = 20  # counts in a matrix of more classes could not be read
TABLE_THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)
_BLUE, _GREY = "tab:blue", "0.55"


def draw_class_scores(scores: Mapping[str, Any], path: Path, *, title: str = "") -> None:
    """Draw the three images of one evaluation side by side.

    Args:
        scores: of a results file of a classifier with one label per image.
        path: the image to write; its suffix says the kind, such as .png or .svg.
        title: above them.

    Raises:
        ValueError: If the scores lack what is drawn, as those of older files do.
        ImportError: If Matplotlib is not installed.
    """
    missing = [name for name in ("confusion_matrix", "reliability", "coverage") if name not in scores]
    if missing:
        raise ValueError(f"the scores have no {', '.join(missing)}; evaluate the classifier again.")
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError('Images of scores need Matplotlib: pip install "hf_contour[plots]".') from error
    figure = Figure(figsize=(15, 5.4), layout="constrained")
    places: list[Any] = [["matrix", "reliability", "coverage"], ["matrix", "counts", "table"]]
    axes = figure.subplot_mosaic(places, height_ratios=[3, 1.1])
    _draw_confusion_matrix(axes["matrix"], scores)
    _draw_reliability(axes["reliability"], axes["counts"], scores)
    _draw_coverage(axes["coverage"], axes["table"], scores)
    low, high = axes["coverage"].get_ylim()
    # There is no accuracy above 1, though the line needs room there.
    axes["coverage"].set_yticks([tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= 1])
    if title:
        figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_confusion_matrix(axes: Any, scores: Mapping[str, Any]) -> None:
    """Counts, coloured by the share of their true class."""
    names, counts = scores["class_names"], np.array(scores["confusion_matrix"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")  # the layout then knows its size
    places = range(len(names))
    wrapped = [fill(name, 14) for name in names]
    rotation = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(names) > 3 else {}
    axes.set_xticks(places, wrapped, **rotation)
    axes.set_yticks(places, wrapped)
    axes.set(xlabel="taken for", ylabel="is", title="confusion matrix")
    if len(names) > MAX_PRINTED_CLASSES:
        return
    size = 11 if len(names) <= 6 else 7
    for row in places:
        for column in places:
            share = shares[row, column]
            words = f"{counts[row, column]}\n{share:.1%}" if len(names) <= 6 else str(counts[row, column])
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, words, ha="center", va="center", color=colour, fontsize=size)


def _draw_reliability(axes: Any, below: Any, scores: Mapping[str, Any]) -> None:
    """Accuracy over mean confidence of each bin, and below how many images each has."""
    bins = [one for one in scores["reliability"] if one["num_samples"]]
    confidence, accuracy = ([one[name] for one in bins] for name in ("confidence", "accuracy"))
    lowest = min(one["low"] for one in bins)
    axes.plot([lowest, 1], [lowest, 1], "--", color=_GREY, label="as right as sure")
    axes.plot(confidence, accuracy, "o-", color=_BLUE, linewidth=1, markersize=5, label="measured")
    error = scores["expected_calibration_error"]
    axes.set(ylabel="accuracy", title=f"reliability: calibration error {error:.4f}", ylim=(-0.05, 1.3))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.legend(loc="upper left", fontsize=9, ncols=2)  # in the room above 1
    edges, widths = [one["low"] for one in bins], [one["high"] - one["low"] for one in bins]
    counts = [one["num_samples"] for one in bins]
    below.bar(edges, counts, widths, align="edge", color=_GREY, edgecolor="white")
    # A bar of one image must show, and the bin of the sure ones must not hide all others.
    below.set_yscale("log", nonpositive="clip")
    below.set_ylim(0.5, max(counts) * 2)
    powers = 10 ** np.arange(int(np.log10(max(counts))) + 1)
    below.set_yticks(powers, [str(power) for power in powers])
    below.minorticks_off()
    below.set(xlabel="mean confidence of a bin", ylabel="images")
    for one in (axes, below):
        one.set_xlim(lowest - 0.02, 1.02)


def _draw_coverage(axes: Any, below: Any, scores: Mapping[str, Any]) -> None:
    """Accuracy of the images that are acted on over their share, and below it some thresholds in numbers."""
    points = [point for point in scores["coverage"] if point["accuracy"] is not None]
    coverage, accuracy = ([point[name] for point in points] for name in ("coverage", "accuracy"))
    axes.plot(coverage, accuracy, "o-", color=_BLUE, linewidth=1, markersize=3)
    axes.set(xlabel="share of the images acted on", ylabel="accuracy on them", title="abstaining when unsure")
    room = max(1 - min(accuracy), 0.004)
    axes.set(xlim=(-0.02, 1.02), ylim=(1 - 1.1 * room, 1 + 0.1 * room))
    axes.grid(alpha=0.3)
    below.axis("off")
    rows = [point for point in points if point["threshold"] in TABLE_THRESHOLDS]
    lines = [f"{'from confidence':<16}" + "".join(f"{point['threshold']:>8g}" for point in rows)]
    for name, key in (("acted on", "coverage"), ("right", "accuracy")):
        lines.append(f"{name:<16}" + "".join(f"{point[key]:>8.2%}" for point in rows))
    below.text(0.5, 0.4, "\n".join(lines), family="monospace", fontsize=8, ha="center", va="center")


@dataclass
class DrawingArguments:
    """What to draw."""

    results: str = field(metadata={"help": "results file of a classifier"})
    output: str | None = field(default=None, metadata={"help": "image to write"})


def main(arguments: DrawingArguments) -> None:
    """Read the results and draw."""
    results = read_results(Path(arguments.results))
    folder = Path("model_cards", results.model["name"])
    folder = folder if folder.is_dir() else folder.parent
    path = Path(arguments.output or folder / f"{results.name}.png")
    title = f"{results.model['name']} on {data_words(results.data)}, {results.data['num_samples']} images"
    draw_class_scores(results.scores, path, title=title)
    print(f"written: {path}")


if __name__ == "__main__":
    run_tool(DrawingArguments, main, description=__doc__)
