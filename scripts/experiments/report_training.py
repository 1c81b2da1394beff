r"""Put a finished training's results and curve where readers find them.

    python scripts/experiments/report_training.py --folder runs/contour-extractor-base/contour --name train_contour_base

writes model_cards/results/NAME.json and model_cards/NAME.png; takes a second. Needs the extra `plots`.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from hf_contour.training.curves import report_training


@dataclass
class ReportArguments:
    """Which training, and where to."""

    folder: str = field(metadata={"help": "folder of a finished stage"})
    name: str = field(metadata={"help": "name of the files written"})
    output_dir: str = field(default="model_cards", metadata={"help": "folder to write to"})


def main() -> int:
    """Write the report."""
    (arguments,) = HfArgumentParser(ReportArguments).parse_args_into_dataclasses()
    output = Path(arguments.output_dir)
    try:
        report_training(
            Path(arguments.folder),
            results_path=output / "results" / f"{arguments.name}.json",
            image_path=output / f"{arguments.name}.png",
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
