r"""Evaluate a model folder on a split and write one results file.

    accelerate launch scripts/evaluate.py --model runs/garments/gender/model
    accelerate launch scripts/evaluate.py --model model_cards/NAME --data ../shared/data/myntra_gender \
        --data_config small --split test --group_column near_dup_cluster

The first takes seconds (drawn garments), the second some minutes: an EfficientNet-Lite0 with the default extractor did
5 images of 160x128 a second on one busy core. A classifier gets accuracy with a 95 % interval, scores per class,
confusion matrix, AUC, calibration and what abstaining buys; and on request the same figures on parts of the split
(--slices sub_category 'skin_fraction<=0.02' brightness aspect_ratio), what is lost without its colours and contours
(--perturbations all, nine times as long), and a file that compare_models.py pairs (--predictions NAME.npz). An
extractor gets its loss, pixel scores without tolerance, and the boundary benchmark (ODS, OIS, AP, R50 and the curve;
about 0.15 s an image of BSDS500 on one core, and --benchmark_processes spreads it). The file goes to
model_cards/results/NAME.json unless --output says otherwise.
"""

import shlex
import sys

from accelerate import PartialState
from transformers import HfArgumentParser

from hf_contour.evaluation.run import EvaluationArguments, evaluate, portable_path, summary


def main() -> None:
    """Read the flags, evaluate, print the figures."""
    parser = HfArgumentParser(EvaluationArguments)
    (arguments,) = parser.parse_args_into_dataclasses()
    command = shlex.join(["accelerate", "launch", "scripts/evaluate.py", *map(portable_path, sys.argv[1:])])
    try:
        results = evaluate(arguments, command=command)
    except (ValueError, FileNotFoundError, ImportError) as error:
        sys.exit(f"error: {error}")
    if PartialState().is_main_process:
        print(summary(results))
        print(f"written: {arguments.results_path}")


if __name__ == "__main__":
    main()
