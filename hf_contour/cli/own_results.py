"""What `hf-contour train PATH` leaves behind: a calibrated model with its figures, a card and its worst mistakes."""

from pathlib import Path
from typing import Any

from accelerate import PartialState

from hf_contour.cli.own_data import OwnData
from hf_contour.evaluation.adaptation import calibrate
from hf_contour.evaluation.arguments import CalibrationArguments, EvaluationArguments
from hf_contour.evaluation.calibration import NothingToCalibrateError
from hf_contour.evaluation.run import evaluate
from hf_contour.evaluation.summary import class_summary
from hf_contour.hub.run_card import card_of_run
from hf_contour.io import write_text, writing
from hf_contour.training.arguments import GenderArguments
from hf_contour.training.run import classify_one

WANTED_ACCURACY = 0.95  # of those answers that the model gives when it may abstain


def finish(arguments: GenderArguments, results: dict[str, Any], *, data: OwnData, command: str) -> None:
    """Calibrates, measures, draws and describes a model that was trained; prints what came out.

    Args:
        arguments: of the training.
        results: of the training.
        data: that it was trained on.
        command: what to note as the command that gives the figures.
    """
    model, say = arguments.folder / "model", print if PartialState().is_main_process else (lambda *words: None)
    say(f"trained in {results['training']['seconds']:.0f} s, {results['training']['steps']} steps")
    if arguments.validation_split:
        say(_calibrated(model, arguments, data))
    if data.scored_split:
        say(_measured(model, arguments, data, command))
    if PartialState().is_main_process:
        with writing(model):
            write_text(model / "README.md", str(card_of_run(model, data_name=Path(data.path).name)))
        print(f"card: {model / 'README.md'}; what is to be filled in stands there")
        print(classify_one(arguments, results["data"]["label_names"]))
        print(f"classify an image: hf-contour explain IMAGE --model {model}")


def _reading(arguments: GenderArguments) -> dict[str, Any]:
    names = ("data_config", "image_column", "label_column", "multi_label", "label_separator", "unlabelled", "cpu")
    read = {name: getattr(arguments, name) for name in names}
    return {"data": str(arguments.data), "batch_size": arguments.eval_batch_size, **read}


def _calibrated(model: Path, arguments: GenderArguments, data: OwnData) -> str:
    settings = CalibrationArguments(
        model=str(model),
        split=str(arguments.validation_split),
        wanted_accuracy=[WANTED_ACCURACY],
        seed=arguments.seed,
        **_reading(arguments),
    )
    try:
        found = calibrate(settings, command="").calibration
    except NothingToCalibrateError as error:
        return f"calibration: left as it is, since {error}"
    point = found.abstaining[0] if found.abstaining else {"threshold": None}
    sure = f"no confidence makes {WANTED_ACCURACY:.0%} of the answers right"
    if point["threshold"] is not None:
        sure = f"from confidence {point['threshold']:.2f} on ({point['coverage']:.0%} of the images) "
        sure += f"{point['accuracy']:.1%} are right"
    before, after = (part["expected_calibration_error"] for part in (found.before, found.after))
    return (
        f"calibration: temperature {found.temperature:.2f}, error {before:.3f} before and {after:.3f} after, on the "
        f"{found.num_samples} images that it was fitted to; {sure}"
    )


def _measured(model: Path, arguments: GenderArguments, data: OwnData, command: str) -> str:
    mistakes = arguments.folder / "mistakes.png"
    settings = EvaluationArguments(
        model=str(model),
        split=str(data.scored_split),
        name=f"{Path(data.path).stem}-{data.scored_split}",
        group_column=data.group_column,
        mistakes=str(mistakes),
        seed=arguments.seed,
        **_reading(arguments),
    )
    results, path = evaluate(settings, command=command)
    lines = [f"figures of the split {data.scored_split}, {results.data['num_samples']} images:"]
    lines += [class_summary(results.scores), f"report: {path.with_suffix('.html')}"]
    if mistakes.is_file():
        lines.append(f"worst mistakes: {mistakes}")
    return "\n".join(lines)
