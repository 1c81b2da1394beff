"""A run: the stages one after the other, what they leave behind, and how they end."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object, set_seed
from safetensors import SafetensorError
from transformers import pipeline
from transformers.utils import logging as transformers_logging

from hf_contour.data.augmentation.colour import ColourAudit
from hf_contour.data.fingerprints import listing_sha256, rows_sha256
from hf_contour.io import (
    UNFINISHED,
    OutputError,
    discard,
    library_versions,
    put_in_place,
    remove,
    source_commit,
    state_dict_sha256,
    write_json,
    writing,
)
from hf_contour.training.arguments import ContourTrainingArguments, parse_arguments
from hf_contour.training.checkpoints import (
    LOCK_FILE,
    FolderInUseError,
    list_checkpoints,
    locked_folder,
)
from hf_contour.training.finite import NonFiniteLossError
from hf_contour.training.interrupts import StopRequest, TrainingInterrupted, exit_code, stop_requests
from hf_contour.training.loop import TrainingLoop
from hf_contour.training.records import count_weights, device_name, refuse_changed_extractor, results_table
from hf_contour.training.resuming import ResumeError, checkpoint_folder, refuse_other_identity
from hf_contour.training.stages import TASKS, ContourTask, GenderTask, load_rows

# Settings that change where and how fast a training runs, not what comes out; a resumed run may change them.
_NEUTRAL = frozenset(
    {
        "run_name",
        "output_dir",
        "resume",
        "overwrite",
        "data",
        "extractor",
        "init_from",
        "teacher",
        "cache",
        "feature_cache",
        "num_workers",
        "torch_threads",
        "log_every",
        "save_every",
        "keep_checkpoints",
        "tracker",
        "progress",
        "num_images",
        "on_bad_image",
        "on_non_finite",
    }
)
_EXIT_CODES: dict[type[BaseException], int] = {
    ResumeError: 2,
    NonFiniteLossError: 3,
    OutputError: 4,
    FolderInUseError: 5,
}


def main(argv: Sequence[str], *, default_recipe: Path | None = None, description: str = "") -> int:
    """Reads the command line, and trains what it asks for; see `train`."""
    try:
        stages = parse_arguments(argv, default_recipe=default_recipe, description=description)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return train(stages)


def train(stages: Sequence[ContourTrainingArguments]) -> int:
    """Trains one stage after the other and prints a table of results.

    Returns:
        0; 128 + the signal after a signal (130 for Ctrl-C, 143 for SIGTERM); 2 for settings that are impossible or
        differ from those of the run to be resumed, 3 for a loss that is not finite, 4 for what cannot be written (a
        full disk, no permission) and for checkpoints that cannot be read, 5 for a folder that is in use. Launchers
        turn all but 0 into 1, so `status.json` in the stage's folder says it too.
    """
    try:
        results = [run_stage(arguments) for arguments in stages]
    except TrainingInterrupted as interruption:
        same = "the same command without --overwrite" if stages[0].overwrite else "the same command"
        print(f"{interruption}; {same} goes on from there.", file=sys.stderr)
        return exit_code(interruption.signal_number)
    except tuple(_EXIT_CODES) as error:
        print(f"error: {error}", file=sys.stderr)
        return _exit_code_of(error)
    if PartialState().is_main_process:
        print(results_table(results))
        for result in results:
            print(f"{result['stage']}: {result['training']['seconds']:.0f} s, {result['model']['folder']}")
        if results[-1]["stage"] == "gender":
            print(classify_one(stages[-1], results[-1]["data"]["label_names"]))
    return 0


def run_stage(arguments: ContourTrainingArguments) -> dict[str, Any]:
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


def classify_one(arguments: ContourTrainingArguments, names: list[str]) -> str:
    """What the pipeline makes of the first image that was not trained on, as a line of text."""
    split = arguments.validation_split or arguments.test_split or arguments.train_split
    image = load_rows(arguments, split, label_names=names)[0]["image"]
    answer = pipeline("image-classification", str(arguments.folder / "model"))(image["bytes"] or image["path"])
    return f"first image of {split}: " + ", ".join(f"{one['label']} {one['score']:.3f}" for one in answer)


def build_accelerator(arguments: ContourTrainingArguments) -> Accelerator:
    """The accelerator of one stage: devices, precision, accumulation, trackers, threads and seeds.

    Raises:
        ValueError: If the tracker is not installed.
    """
    if arguments.tracker == "tensorboard" and find_spec("tensorboard") is None:
        raise ValueError('--tracker tensorboard needs TensorBoard: pip install "hf_contour[tracking]".')
    AcceleratorState._reset_state()  # the stages of a run may differ in precision
    # Of an extractor that learns too, levels that the classifier does not use get no gradient.
    learns_all = arguments.mapping("model").get("freeze_extractor", True) is False
    accelerator = Accelerator(
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=learns_all)],
        cpu=arguments.cpu,
        mixed_precision=arguments.mixed_precision,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        log_with=None if arguments.tracker == "none" else arguments.tracker,
        project_dir=arguments.folder,
    )
    if accelerator.device.type == "cpu":
        # `accelerate launch` sets OMP_NUM_THREADS to 1, so torch does not find the cores by itself.
        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(arguments.torch_threads or max(1, cores))
    set_seed(arguments.seed)
    return accelerator


def clear_folder(folder: Path) -> None:
    """Takes away all that an earlier run left, but for the lock that is being held; first what says it is finished."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name != "results.json"):
        if entry.is_dir():
            discard(entry)
        elif entry.name != LOCK_FILE:
            entry.unlink()


def _train(arguments: ContourTrainingArguments, accelerator: Accelerator, request: StopRequest) -> dict[str, Any]:
    task = TASKS[arguments.stage](arguments, accelerator)
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
    accelerator.init_trackers("tensorboard", config=tracked_settings(arguments))
    loop.run(request)
    loop.finish()
    found = gather_object([task.data.train.bad_images()])
    bad_images = {name: reason for own in found for name, reason in own.items()}
    splits = [split for split in (arguments.validation_split, arguments.test_split) if split]
    results = {
        "stage": arguments.stage,
        "identity": identity,
        "arguments": asdict(arguments),
        "evaluation": {split: loop.evaluate(split) for split in splits},
        "training": describe_training(loop, accelerator),
        "model": {"folder": str(arguments.folder / "model"), **count_weights(task.model)},
        "data": {
            "num_train_samples": identity["num_train_samples"],
            "bad_images": bad_images,
            **task.describe(),
        },
        "seed": arguments.seed,
        "versions": library_versions(),
        "commit": source_commit(),
    }
    if extractor is not None and extractor_sha256 is not None:
        after = state_dict_sha256(extractor.state_dict())
        if task.config.freeze_extractor:
            refuse_changed_extractor(extractor_sha256, after)
        results["extractor"] = {"sha256_before": extractor_sha256, "sha256_after": after}
    if accelerator.is_main_process:
        with writing(arguments.folder):
            save_model(task, arguments.folder / "model")
            task.draw(task.model, arguments.folder)
        write_json(arguments.folder / "results.json", results)
    accelerator.wait_for_everyone()
    return results


def build_identity(
    arguments: ContourTrainingArguments,
    accelerator: Accelerator,
    task: ContourTask | GenderTask,
    *,
    extractor_sha256: str | None,
) -> dict[str, Any]:
    """All that decides what comes out of a training; a checkpoint is only gone on from if it agrees."""
    settings = {key: value for key, value in asdict(arguments).items() if key not in _NEUTRAL}
    teacher = getattr(task, "teacher", None)
    return {
        **settings,
        **{f"{kind}_rows_sha256": sha256 for kind, sha256 in listings(arguments, task).items()},
        "data_sha256": rows_sha256(task.data.rows),
        "num_train_samples": None if arguments.streaming else len(task.data.train),
        "extractor_sha256": extractor_sha256,
        "start_sha256": getattr(task, "start_sha256", None),
        "teacher_sha256": None if teacher is None else state_dict_sha256(teacher.state_dict()),
        "num_processes": accelerator.num_processes,
        "device": accelerator.device.type,
    }


def listings(arguments: ContourTrainingArguments, task: ContourTask | GenderTask) -> dict[str, str]:
    """Checksums of the rows of each kind of split: which weights are the best depends on the validation split too."""
    others = {"validation": arguments.validation_split, "test": arguments.test_split}
    rows = {kind: task.data.evaluated(split).source for kind, split in others.items() if split}
    return {kind: listing_sha256(one) for kind, one in {"train": task.data.rows, **rows}.items()}


def read_finished(arguments: ContourTrainingArguments, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The results of this very training, if it was finished before.

    Raises:
        ResumeError: If the folder holds another training, or this one and `resume` is off.
    """
    path = arguments.folder / "results.json"
    if not arguments.resume and (path.exists() or list_checkpoints(checkpoint_folder(arguments))):
        raise ResumeError(
            f"{arguments.folder} holds an earlier training, and resume is off; give --overwrite to throw it away, "
            "or another --run_name."
        )
    if not path.exists() or not (arguments.folder / "model" / "config.json").exists():
        return None  # a model that was deleted is made again from the last checkpoint
    results = json.loads(path.read_text(encoding="utf-8"))
    refuse_other_identity(results["identity"], identity, folder=arguments.folder)
    print(f"{arguments.stage}: finished before; --overwrite trains it anew", file=sys.stderr)
    return results


def save_model(task: ContourTask | GenderTask, folder: Path) -> None:
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


def describe_training(loop: TrainingLoop, accelerator: Accelerator) -> dict[str, Any]:
    """Facts about the training for the results file."""
    progress = loop.progress
    num_samples = progress.step * loop.step_size
    return {
        "steps": progress.step,
        "epochs": round(progress.step / loop.task.steps_per_epoch, 4),
        "num_samples_seen": num_samples,
        "seconds": round(progress.seconds, 2),
        "images_per_second": round(num_samples / progress.seconds, 2),
        "last_loss": progress.last_loss,
        "convergence_rule": loop.convergence.rule,
        "converged_step": loop.convergence.converged_step,
        "published_weights": "best" if loop.best_weights else "moving average" if loop.uses_ema else "last",
        "best_step": progress.best_step,
        "skipped_steps": progress.skipped_steps,
        "colour_audit": ColourAudit(**progress.colour_audit).to_dict() if progress.colour_audit else None,
        "device": device_name(accelerator.device),
        "num_processes": accelerator.num_processes,
    }


def tracked_settings(arguments: ContourTrainingArguments) -> dict[str, Any]:
    """The settings as TensorBoard takes them: numbers, booleans and words."""
    return {key: value for key, value in asdict(arguments).items() if isinstance(value, int | float | str)}


def _exit_code_of(error: BaseException) -> int:
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1)


def _describe_end(error: BaseException) -> dict[str, Any]:
    if isinstance(error, TrainingInterrupted):
        code = exit_code(error.signal_number)
        return {"status": "interrupted", "exit_code": code, "signal": error.signal_number, "reason": str(error)}
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "exit_code": 130, "signal": 2, "reason": "stopped at once by a second Ctrl-C"}
    return {"status": "failed", "exit_code": _exit_code_of(error), "reason": f"{type(error).__name__}: {error}"}


def _write_status(accelerator: Accelerator, folder: Path, status: dict[str, Any]) -> None:
    if accelerator.is_main_process and folder.is_dir():  # it may have been deleted
        write_json(folder / "status.json", status)
