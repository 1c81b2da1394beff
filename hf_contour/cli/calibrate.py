"""Fit a classifier's temperature and abstain threshold on held-out images, and write them into its config.json.

    hf-contour calibrate --model MODEL --data FOLDER --split validation
    hf-contour calibrate --model MODEL --data NEW_SHOP --refit_head        # 50 to 200 labelled images of a new shop
    hf-contour calibrate --model MODEL --data shop_a shop_b,config=x --familiarity shop_a shop_b,config=x
    hf-contour calibrate --model MODEL --data NEW_SHOP --split train --learning_curve 0 50 200 1000
        --test_split test --output curve.json                              # (one line) what labels are worth

One pass over the split. Prints the expected calibration error and the Brier score before and after, and the lowest
confidence from which on predictions reach a wanted accuracy. The model divides its logits by the temperature from
then on, so that `pipeline` scores are calibrated too; the threshold of the first --wanted_accuracy is what
`classify(image, abstain=True)` abstains below. `hf-contour evaluate` measures
what both are worth on other images. --refit_head moves the last layer too, no farther than images that a fit has not
seen bear out, and every other weight stays: copy the folder first to keep the old head. --familiarity lets the model
remember what it was trained on, so that it can tell unfamiliar images. Exit codes: 0 done, 2 refused.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_contour.cli.settings import command_line, hide_loading_bar, read_settings
from hf_contour.evaluation.arguments import CalibrationArguments

if TYPE_CHECKING:
    from hf_contour.evaluation.calibration import Calibration


def main(argv: Sequence[str]) -> int:
    """Calibrates, and prints the figures."""
    arguments = read_settings(CalibrationArguments, argv, command="calibrate", description=__doc__)
    from accelerate import PartialState

    from hf_contour.evaluation.adaptation import calibrate

    hide_loading_bar()
    command = command_line("calibrate", argv)
    if arguments.learning_curve:
        return draw_curve(arguments, command)
    adapted = calibrate(arguments, command=command)
    if PartialState().is_main_process:
        print(described(adapted.calibration))
        if arguments.refit_head:
            print(head_words(adapted.strength))
        if adapted.fields:
            print(familiarity_words(adapted.fields))
        print("config.json was left as it is" if arguments.dry_run else f"written: {arguments.model}/config.json")
    return 0


def draw_curve(arguments: CalibrationArguments, command: str) -> int:
    """What numbers of labelled images are worth, as a table and a results file."""
    from hf_contour.evaluation.adaptation import learning_curve
    from hf_contour.evaluation.summary import learning_curve_table

    content = learning_curve(arguments, command=command)
    print(learning_curve_table(content))
    print(f"written: {arguments.output}")
    return 0


def head_words(strength: float | None) -> str:
    """What became of the head."""
    if strength is None:
        return "the head stays: none that was fitted to these images did better on those it had not seen"
    return f"the head was fitted anew, with a penalty of {strength:g} on how far it moved"


def familiarity_words(fields: Mapping[str, Any]) -> str:
    """What is remembered."""
    number, threshold = fields["num_prototypes"], fields["familiarity_threshold"]
    return f"{number} images are remembered; familiarity_threshold {threshold:.4f}"


def described(calibration: "Calibration") -> str:
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


def threshold_words(calibration: "Calibration") -> str:
    """The threshold for config.json, or why there is no new one."""
    before = calibration.abstain_threshold_before
    if calibration.abstain_threshold is not None:
        return f"abstain_threshold {calibration.abstain_threshold:.6g}, before {before:.6g}"
    stays = f"abstain_threshold stays {before:.6g}" + (", which was chosen at the old temperature" if before else "")
    if not calibration.abstaining:
        return f"{stays}: images have several labels, and no single confidence"
    wanted = calibration.abstaining[0]["wanted_accuracy"]
    return f"{stays}: no confidence reaches accuracy {wanted:g}; ask for less, or calibrate on another split"
