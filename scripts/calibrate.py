r"""Fit a classifier's temperature on a validation split, and write it into the config.json of its folder.

    accelerate launch scripts/calibrate.py --model runs/garments/gender/model --data ../shared/data/myntra_gender \
        --data_config small --split validation

One pass over the split. Prints the expected calibration error and the Brier score before and after, and the lowest
confidence from which on predictions reach a wanted accuracy. The model divides its logits by the temperature from
then on, so that `pipeline` scores are calibrated too; measure what that is worth on other pictures (the test split)
with scripts/evaluate.py.
"""

import sys

from accelerate import PartialState
from transformers import HfArgumentParser

from hf_contour.calibration import Calibration, CalibrationArguments, calibrate
from hf_contour.training.durable_files import OutputError


def main() -> None:
    """Read the flags, calibrate, print the figures."""
    (arguments,) = HfArgumentParser(CalibrationArguments).parse_args_into_dataclasses()
    try:
        calibration = calibrate(arguments)
    except (ValueError, FileNotFoundError, OutputError) as error:
        sys.exit(f"error: {error}")
    if PartialState().is_main_process:
        print(described(calibration))
        print("config.json was left as it is" if arguments.dry_run else f"written: {arguments.model}/config.json")


def described(calibration: Calibration) -> str:
    """The figures in a few lines."""
    lines = [f"{calibration.num_samples} pictures"]
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
            f"{wanted}: from confidence {point['threshold']:.4f} on, {point['coverage']:.1%} of the pictures, "
            f"{point['accuracy']:.4f} right"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
