"""Put a finished training's results and curve where readers find them.

    python scripts/experiments/report_training.py --folder runs/NAME/contour --name train_contour_base

writes model_cards/results/NAME.json and model_cards/NAME.png; takes a second. Needs the extra `plots`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import run_tool

from hf_contour.evaluation.arguments import portable_values
from hf_contour.flags import needed, setting
from hf_contour.io import write_json


@dataclass
class ReportArguments:
    """Which training, and where to."""

    folder: str = needed("folder of a finished stage")
    name: str = needed("name of the files written")
    output_dir: str = setting("model_cards", "folder to write to")


def main(arguments: ReportArguments) -> None:
    """Write the report."""
    output = Path(arguments.output_dir)
    report_training(
        Path(arguments.folder),
        results_path=output / "results" / f"{arguments.name}.json",
        image_path=output / f"{arguments.name}.png",
    )


def report_training(folder: Path, *, results_path: Path, image_path: Path) -> dict[str, Any]:
    """Gathers a stage's results and log into one file, and draws the curve of its loss.

    Args:
        folder: of a finished stage, with `results.json` and `log.jsonl`.
        results_path: JSON to write: `results.json` with the log's lines under `curve`, and of absolute paths among
            its arguments only the names.
        image_path: PNG to write.

    Returns:
        What was written to `results_path`.

    Raises:
        ValueError: If the folder holds no finished stage, or Matplotlib is not installed.
    """
    results, log = folder / "results.json", folder / "log.jsonl"
    for path in (results, log):
        if not path.exists():
            raise ValueError(f"{path} is missing; give the folder of a finished stage, such as runs/NAME/contour.")
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    report = {**json.loads(results.read_text(encoding="utf-8")), "curve": lines}
    report = portable_values(report)
    draw_curve(report, image_path)
    write_json(results_path, report)
    return report


def draw_curve(report: dict[str, Any], path: Path) -> None:
    """Draws loss and learning rate over the steps, and where the training had converged by its rule.

    Raises:
        ValueError: If Matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError('Curves need Matplotlib: pip install "hf_contour[plots]".') from error
    steps = [line for line in report["curve"] if "loss" in line and "learning_rate" in line]
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["step"] for line in steps], [line["loss"] for line in steps], color="tab:blue", linewidth=1)
    axes.set(xlabel="step", ylabel="training loss", title=report["arguments"]["run_name"])
    rate = axes.twinx()
    rate.plot(
        [line["step"] for line in steps], [line["learning_rate"] for line in steps], color="tab:gray", linewidth=0.7
    )
    rate.set_ylabel("learning rate (grey)")
    converged = report["training"]["converged_step"]
    if converged is not None:
        axes.axvline(converged, color="tab:red", linestyle="--", linewidth=1)
        axes.annotate(f"converged at {converged}", (converged, axes.get_ylim()[1]), rotation=90, va="top", ha="right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    run_tool(ReportArguments, main, description=__doc__)
