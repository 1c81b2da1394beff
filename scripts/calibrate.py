r"""Fit a classifier's temperature and threshold on a validation split, and write them into its config.json.

    accelerate launch scripts/calibrate.py --model model_cards/NAME --data ../shared/data/myntra_gender \
        --data_config small --split validation --output model_cards/results/NAME-calibration.json

One pass over the split. Prints the expected calibration error and the Brier score before and after, and the lowest
confidence from which on predictions reach a wanted accuracy. The model divides its logits by the temperature from
then on, so that `pipeline` scores are calibrated too; the threshold of the first --wanted_accuracy (0.995) is what
`classify(image, abstain=True)` abstains below. Measure what both are worth on other images (the test split) with
scripts/evaluate.py. --output keeps the figures, with the curve of accuracy over coverage.
"""

import shlex
import sys

from accelerate import PartialState
from transformers import HfArgumentParser

from hf_contour.evaluation.calibration import Calibration, CalibrationArguments, calibrate
from hf_contour.evaluation.run import portable_path
from hf_contour.io import OutputError


def main() -> None:
    """Read the flags, calibrate, print the figures."""
    (arguments,) = HfArgumentParser(CalibrationArguments).parse_args_into_dataclasses()
    command = shlex.join(["accelerate", "launch", "scripts/calibrate.py", *map(portable_path, sys.argv[1:])])
    try:
        calibration = calibrate(arguments, command=command)
    except (ValueError, FileNotFoundError, OutputError) as error:
        sys.exit(f"error: {error}")
    if PartialState().is_main_process:
        print(described(calibration))
        print("config.json was left as it is" if arguments.dry_run else f"written: {arguments.model}/config.json")


def described(calibration: Calibration) -> str:
    """The figures in a few lines."""
    lines = [f"{calibration.num_samples} images"]
    for temperature, figures in (
        (calibration.temperature_before, calibration.before),
        (calibration.temperature, calibration.after),
    ):
        lines.append(
            f"temperature {temperature:.4f}: expected calibration error "
            f"{figures['expected_calibration_error']:.4f}, Brier score {figures['brier_score']:.4f}"
        )
    for point in calibration.abstaining:
        wanted = f"accuracy {point['wanted_accuracy']:g}"
        if point["threshold"] is None:
            lines.append(f"{wanted}: no threshold reaches it")
            continue
        lines.append(
            f"{wanted}: from confidence {point['threshold']:.6g} on, {point['coverage']:.1%} of the images, "
            f"{point['accuracy']:.4f} right"
        )
    lines.append(threshold_words(calibration))
    return "\n".join(lines)


def threshold_words(calibration: Calibration) -> str:
    """The threshold for config.json, or why there is no new one."""
    before = calibration.abstain_threshold_before
    if calibration.abstain_threshold is not None:
        return f"abstain_threshold {calibration.abstain_threshold:.6g}, before {before:.6g}"
    stays = f"abstain_threshold stays {before:.6g}" + (", which was chosen at the old temperature" if before else "")
    if not calibration.abstaining:
        return f"{stays}: images have several labels, and no single confidence"
    wanted = calibration.abstaining[0]["wanted_accuracy"]
    return f"{stays}: no confidence reaches accuracy {wanted:g}; ask for less, or calibrate on another split"


if __name__ == "__main__":
    main()
