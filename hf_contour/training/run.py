"""A run: the stages one after the other, what they leave behind, and how they end."""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object, set_seed
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import pipeline
from transformers.utils import logging as transformers_logging

from hf_contour.io import (
    UNFINISHED,
    OutputError,
    discard,
    put_in_place,
    remove,
    state_dict_sha256,
    write_json,
    writing,
)
from hf_contour.training.arguments import ContourArguments, GenderArguments, TrainingArguments
from hf_contour.training.finite import NonFiniteLossError
from hf_contour.training.folder_lock import LOCK_FILE, FolderInUseError, locked_folder
from hf_contour.training.identity import build_identity, read_finished
from hf_contour.training.interrupts import StopRequest, TrainingInterrupted, exit_code, stop_requests
from hf_contour.training.launch import build_accelerator
from hf_contour.training.loop import TrainingLoop
from hf_contour.training.records import build_results, refuse_changed_extractor, results_table
from hf_contour.training.rows import load_rows
from hf_contour.training.task import Task, build_task

Finish: TypeAlias = Callable[[ContourArguments | GenderArguments, Sequence[dict[str, Any]]], None]

# The first that fits; any other error is one of the program, and is shown with all that led to it.
_EXIT_CODES: dict[type[BaseException], int] = {
    NonFiniteLossError: 3,
    OutputError: 4,
    FolderInUseError: 5,
    ValueError: 2,  # a setting, a row or a name that cannot be
    OSError: 2,
    StrictDataclassError: 2,  # a field of a config
}
_LONGEST_SENTENCE = 600  # characters


def train(stages: Sequence[ContourArguments | GenderArguments], *, finish: Finish | None = None) -> int:
    """Trains one stage after the other and prints a table of results.

    Args:
        stages: their settings, in order.
        finish: called with the settings of the last stage and the results of all in the place of that table, on every
            process.

    Returns:
        0; 128 + the signal after a signal (130 for Ctrl-C, 143 for SIGTERM); 2 for settings or data that are
        impossible or differ from those of the run to be resumed, 3 for a loss that is not finite, 4 for what cannot be
        written (a full disk, no permission) and for checkpoints that cannot be read, 5 for a folder that is in use.
        Launchers turn all but 0 into 1, so `status.json` in the stage's folder says it too.
    """
    try:
        results = [run_stage(arguments) for arguments in stages]
        if finish is not None:
            finish(stages[-1], results)
        elif PartialState().is_main_process:
            print_results(stages[-1], results)
    except TrainingInterrupted as interruption:
        same = "the same command without --overwrite" if stages[0].overwrite else "the same command"
        print(f"{interruption}; {same} goes on from there.", file=sys.stderr)
        return exit_code(interruption.signal_number)
    except tuple(_EXIT_CODES) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return _exit_code_of(error)
    return 0


def print_results(last: ContourArguments | GenderArguments, results: Sequence[dict[str, Any]]) -> None:
    """Prints a table, where the models are, and what the pipeline makes of an image."""
    print(results_table(list(results)))
    for result in results:
        print(f"{result['stage']}: {result['training']['seconds']:.0f} s, {result['model']['folder']}")
    if isinstance(last, GenderArguments):
        print(classify_one(last, results[-1]["data"]["label_names"]))


def run_stage(arguments: ContourArguments | GenderArguments) -> dict[str, Any]:
    """Trains one stage, or goes on with it, and writes its folder.

    The folder `output_dir/run_name/stage` holds `model/` (for `from_pretrained` and `pipeline`), `results.json`,
    `log.jsonl`, `status.json`, `checkpoints/` and, for the contour stage, `images/`.

    Returns:
        What `results.json` holds; read from there if the stage was finished before with the same settings.

    Raises:
        TrainingInterrupted: After a signal, once a checkpoint is written.
        ResumeError: If the folder holds a training with other settings.
        FolderInUseError: If another process writes to the folder.
        NonFiniteLossError: For NaN or infinity in images, loss, gradient or weights.
        OutputError: If something cannot be written; the status then stays what it was, where it cannot be either.
    """
    accelerator = build_accelerator(arguments)
    if not (arguments.progress and accelerator.is_main_process):
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()
    folder = arguments.folder
    with locked_folder(folder) if accelerator.is_main_process else nullcontext(), stop_requests() as request:
        if arguments.overwrite and accelerator.is_main_process:
            with writing(folder):
                clear_folder(folder)
        accelerator.wait_for_everyone()
        status = {"stage": arguments.stage, "process": os.getpid()}
        try:
            _write_status(accelerator, folder, {**status, "status": "running"})
            results = _train(arguments, accelerator, request)
        except BaseException as error:
            with suppress(OutputError):  # a full disk must not hide what went wrong
                _write_status(accelerator, folder, {**status, **_describe_end(error)})
            raise
        _write_status(accelerator, folder, {**status, "status": "finished", "exit_code": 0})
    accelerator.end_training()
    return results


def classify_one(arguments: GenderArguments, names: list[str]) -> str:
    """What the pipeline makes of the first image that was not trained on, as a line of text."""
    split = arguments.validation_split or arguments.test_split or arguments.train_split
    image = load_rows(arguments, split, label_names=names)[0]["image"]
    answer = pipeline("image-classification", str(arguments.folder / "model"))(image["bytes"] or image["path"])
    return f"first image of {split}: " + ", ".join(f"{one['label']} {one['score']:.3f}" for one in answer)


def clear_folder(folder: Path) -> None:
    """Takes away all that an earlier run left, but for the lock that is being held; first what says it is finished."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name != "results.json"):
        if entry.is_dir():
            discard(entry)
        elif entry.name != LOCK_FILE:
            entry.unlink()


def _train(
    arguments: ContourArguments | GenderArguments, accelerator: Accelerator, request: StopRequest
) -> dict[str, Any]:
    task = build_task(arguments, accelerator)
    extractor = getattr(task.model, "extractor", None)
    extractor_sha256 = None if extractor is None else state_dict_sha256(extractor.state_dict())
    identity = build_identity(arguments, accelerator, task, extractor_sha256=extractor_sha256)
    finished = read_finished(arguments, identity)
    if finished is not None:
        return finished
    set_seed(arguments.seed, device_specific=True)  # dropout differs among processes, initial weights do not
    loop = TrainingLoop(task, arguments, accelerator, identity=identity)
    if loop.resume() and accelerator.is_main_process:
        print(f"{arguments.stage}: going on from step {loop.progress.step} of {loop.num_steps}", file=sys.stderr)
    # TensorBoard takes the name for a folder, the others for a project.
    project = "tensorboard" if arguments.tracker == "tensorboard" else "hf_contour"
    accelerator.init_trackers(project, config=tracked_settings(arguments))
    loop.run(request)
    loop.state.finish()
    mixed = task.finish(lambda: loop.evaluate(str(arguments.validation_split)))
    bad_images = {name: why for own in gather_object([task.data.train.bad_images()]) for name, why in own.items()}
    validation = None if mixed else loop.state.published_figures
    records = build_results(arguments, loop, accelerator, bad_images=bad_images, validation=validation)
    results = {**records, **mixed}
    if extractor is not None and extractor_sha256 is not None:
        after = state_dict_sha256(extractor.state_dict())
        if task.model.config.freeze_extractor:
            refuse_changed_extractor(extractor_sha256, after)
        results["extractor"] = {"sha256_before": extractor_sha256, "sha256_after": after}
    if accelerator.is_main_process:
        with writing(arguments.folder):
            save_model(task, arguments.folder / "model")
            task.draw(task.model, arguments.folder)
        write_json(arguments.folder / "results.json", results)
    accelerator.wait_for_everyone()
    return results


def save_model(task: Task, folder: Path) -> None:
    """Writes the folder that `from_pretrained` and `pipeline` load, code included; whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    unfinished = folder.with_name(f"{UNFINISHED}{folder.name}")
    remove(unfinished)
    try:
        task.model.save_pretrained(unfinished)
        task.processor.save_pretrained(unfinished)
        put_in_place(unfinished, folder)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            remove(unfinished)
        raise OSError(f"{folder}: {error}") from error


def tracked_settings(arguments: TrainingArguments) -> dict[str, Any]:
    """The settings as trackers take them: numbers, booleans and words."""
    return {key: value for key, value in asdict(arguments).items() if isinstance(value, int | float | str)}


def _exit_code_of(error: BaseException) -> int:
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1)


def _sentence(error: BaseException) -> str:
    """What a mistake of the user's is told by; whoever wants to see where it arose finds that in `status.json`."""
    told = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
    words = " ".join(str(told).split())
    return words if len(words) <= _LONGEST_SENTENCE else f"{words[:_LONGEST_SENTENCE]} ..."


def _describe_end(error: BaseException) -> dict[str, Any]:
    if isinstance(error, TrainingInterrupted):
        code = exit_code(error.signal_number)
        return {"status": "interrupted", "exit_code": code, "signal": error.signal_number, "reason": str(error)}
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "exit_code": 130, "signal": 2, "reason": "stopped at once by a second Ctrl-C"}
    return {
        "status": "failed",
        "exit_code": _exit_code_of(error),
        "reason": f"{type(error).__name__}: {error}",
        "traceback": traceback.format_exception(error),
    }


def _write_status(accelerator: Accelerator, folder: Path, status: dict[str, Any]) -> None:
    if accelerator.is_main_process and folder.is_dir():  # it may have been deleted
        write_json(folder / "status.json", status)
