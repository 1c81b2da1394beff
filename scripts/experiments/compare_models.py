"""Compare two classifiers on the same images, on all and on each slice, and write one JSON file.

    accelerate launch scripts/evaluate.py --model FIRST --data DATA --group_column near_dup_cluster \
        --slices sub_category 'skin_fraction<=0.02' --predictions first.npz      # and the same with SECOND
    python scripts/experiments/compare_models.py --first first.npz --second second.npz

Seconds. Prints by how much the second is better, with an interval over groups of near duplicates and the exact test
of McNemar, and writes model_cards/results/SECOND-against-FIRST.json, from the names of the two files,
unless --output says otherwise.
"""

import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from hf_contour.evaluation.predictions import pair_predictions, read_predictions
from hf_contour.evaluation.run import portable_path
from hf_contour.hub.card_tables import markdown_table
from hf_contour.io import library_versions, source_commit
from hf_contour.metrics.classification import ScoreSettings

HEADER = ["images", "number", "groups", "first", "second", "difference (95 % interval)", "McNemar p"]


@dataclass
class PairArguments:
    """What to compare."""

    first: str = field(metadata={"help": "predictions (.npz) of one classifier"})
    second: str = field(metadata={"help": "predictions (.npz) of the other; better than the first is positive"})
    output: str | None = field(default=None, metadata={"help": "JSON file to write"})
    num_resamples: int = field(default=2000, metadata={"help": "resamples of the bootstrap"})
    seed: int = field(default=0, metadata={"help": "of the bootstrap"})


def main() -> None:
    """Read both files, compare, write and print."""
    (arguments,) = HfArgumentParser(PairArguments).parse_args_into_dataclasses()
    try:
        first, second = read_predictions(Path(arguments.first)), read_predictions(Path(arguments.second))
        settings = ScoreSettings(num_resamples=arguments.num_resamples, seed=arguments.seed)
        paired = pair_predictions(first, second, settings=settings)
    except ValueError as error:
        sys.exit(f"error: {error}")
    names = [Path(path).stem for path in (arguments.first, arguments.second)]
    path = Path(arguments.output or f"model_cards/results/{names[1]}-against-{names[0]}.json")
    content = {
        "first": {"file": names[0], "model": first.model, "data": first.data},
        "second": {"file": names[1], "model": second.model, "data": second.data},
        "paired": paired,
        "command": shlex.join(["python", "scripts/experiments/compare_models.py", *map(portable_path, sys.argv[1:])]),
        "versions": library_versions(),
        "commit": source_commit(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(markdown_table(HEADER, [_row(figures) for figures in (paired["all"], *paired["slices"])]))
    print(f"written: {path}")


def _row(figures: dict[str, Any]) -> list[str]:
    low, high = figures["difference_interval"]
    return [
        figures["name"],
        str(figures["num_samples"]),
        str(figures["num_groups"]),
        f"{figures['first_accuracy']:.4f}",
        f"{figures['second_accuracy']:.4f}",
        f"{figures['difference']:+.4f} ({low:+.4f} to {high:+.4f})",
        f"{figures['mcnemar_p']:.3g}",
    ]


if __name__ == "__main__":
    main()
