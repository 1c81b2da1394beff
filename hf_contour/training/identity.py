"""What tells one training from another, and the results of one that was finished before."""

import dataclasses
import json
import sys
from typing import Any

from accelerate import Accelerator

from hf_contour.data.fingerprints import listing_sha256, rows_sha256
from hf_contour.data.mixture import parse_sources
from hf_contour.io import state_dict_sha256
from hf_contour.training.arguments import TrainingArguments
from hf_contour.training.checkpoints import list_checkpoints
from hf_contour.training.resuming import ResumeError, checkpoint_folder, refuse_other_identity
from hf_contour.training.task import Task


def build_identity(
    arguments: TrainingArguments, accelerator: Accelerator, task: Task, *, extractor_sha256: str | None
) -> dict[str, Any]:
    """All that decides what comes out of a training; a checkpoint is only gone on from if it agrees."""
    neutral = {item.name for item in dataclasses.fields(arguments) if item.metadata.get("neutral")}
    settings = {key: value for key, value in dataclasses.asdict(arguments).items() if key not in neutral}
    teacher = getattr(task, "teacher", None)
    sources = [] if isinstance(arguments.data, str) else parse_sources(arguments.data or ())
    return {
        **settings,
        **{f"{kind}_rows_sha256": sha256 for kind, sha256 in listings(arguments, task).items()},
        **({"sources": [[source.name, source.weight] for source in sources]} if sources else {}),
        "data_sha256": rows_sha256(task.data.rows),
        "num_train_samples": None if arguments.streaming else len(task.data.rows),
        "extractor_sha256": extractor_sha256,
        "start_sha256": getattr(task, "start_sha256", None),
        "teacher_sha256": None if teacher is None else state_dict_sha256(teacher.state_dict()),
        "num_processes": accelerator.num_processes,
        "device": accelerator.device.type,
    }


def listings(arguments: TrainingArguments, task: Task) -> dict[str, str]:
    """Checksums of the rows of each kind of split: which weights are the best depends on the validation split too."""
    others = {"validation": arguments.validation_split, "test": arguments.test_split}
    rows = {kind: task.data.evaluated(split).source for kind, split in others.items() if split}
    return {kind: listing_sha256(one) for kind, one in {"train": task.data.rows, **rows}.items()}


def read_finished(arguments: TrainingArguments, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The results of this very training, if it was finished before, on whatever kind of device.

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
    made_here = {**results["identity"], "device": identity["device"]}
    refuse_other_identity(made_here, identity, folder=arguments.folder)
    print(f"{arguments.stage}: finished before; --overwrite trains it anew", file=sys.stderr)
    return results
