"""Draw precision over recall of extractors, with lines of equal F and the human point.

    python scripts/experiments/draw_boundary_curves.py --results model_cards/results/contour-extractor-*.json

A second; writes model_cards/boundary_curves.png. The results files are those of hf-contour evaluate, all of one data
set and one protocol.
"""

from dataclasses import dataclass, field
from pathlib import Path

from common import run_tool

from hf_contour.evaluation.results import read_results
from hf_contour.hub.card_tables import data_words
from hf_contour.metrics.boundary.plot import benchmark_curve, draw_boundary_curves


@dataclass
class CurveArguments:
    """What to draw."""

    results: list[str] = field(metadata={"help": "results files of extractors"})
    output: str = field(default="model_cards/boundary_curves.png", metadata={"help": "image to write"})
    human: bool = field(default=True, metadata={"help": "draw the human point, which belongs to BSDS500"})


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
