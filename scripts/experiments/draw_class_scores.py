"""Draw confusion matrix, reliability diagram and accuracy over coverage of a classifier's results file.

    python scripts/experiments/draw_class_scores.py --results model_cards/results/NAME.json

A second; unless --output says otherwise it writes NAME.png into model_cards/, or into the folder that the model has
there, whose card then shows it (python -m hf_contour.hub.card). The file is one of hf-contour evaluate.
"""

from dataclasses import dataclass, field
from pathlib import Path

from common import run_tool

from hf_contour.evaluation.results import read_results
from hf_contour.hub.card_tables import data_words
from hf_contour.metrics.plots import draw_class_scores


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
