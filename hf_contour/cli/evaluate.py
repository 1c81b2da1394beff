"""Score a model folder on a split, and write one results file (JSON) and beside it one report (HTML).

    hf-contour evaluate --model runs/garments/gender/model
    hf-contour evaluate --model MODEL --data FOLDER --split test --group_column cluster
    accelerate launch -m hf_contour evaluate --model MODEL --data FOLDER      # on several processes

A classifier gets accuracy with a 95 % interval, scores per class, confusion matrix, AUC, calibration, and what
abstaining buys; on request the same for parts of the split (--slices sub_category 'skin_fraction<=0.02' brightness),
what is lost without its colours and contours (--perturbations all, nine times as long), and a file of what was
predicted (--predictions NAME.npz), which `hf-contour compare` pairs. An extractor gets its loss, pixel scores, and
the boundary benchmark (ODS, OIS, AP, R50). Seconds for the drawn garments, minutes for thousands of photographs.
Exit codes: 0 done, 2 refused.
"""

from collections.abc import Sequence

from hf_contour.cli.settings import command_line, hide_loading_bar, read_settings
from hf_contour.evaluation.arguments import EvaluationArguments


def main(argv: Sequence[str]) -> int:
    """Evaluates, and prints the figures."""
    arguments = read_settings(EvaluationArguments, argv, command="evaluate", description=__doc__)
    from accelerate import PartialState

    from hf_contour.evaluation.run import evaluate, summary

    hide_loading_bar()
    results, path = evaluate(arguments, command=command_line("evaluate", argv))
    if PartialState().is_main_process:
        print(summary(results))
        print(f"written: {path} and {path.with_suffix('.html').name}")
    return 0
