"""Where a training stands, and what must agree before it is gone on with."""

import json
import logging
import random
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_contour.io import write_text
from hf_contour.training.arguments import ARGUMENTS, RunArguments

logger = logging.getLogger(__name__)


class ResumeError(ValueError):
    """A folder holds a training that cannot be gone on with."""


@dataclass
class Progress:
    """Where a training stands; plain JSON values.

    Attributes:
        step: optimiser steps made.
        seconds: time spent in steps.
        recent_losses: losses since the last log line.
        last_loss: mean loss of the last log line.
        evaluated_step: step of the last evaluation.
        evaluation: its figures.
        best_step: step of the best evaluation.
        best_score: its score.
        colour_audit: what the colour transform did to the samples so far, as the fields of `ColourAudit`.
        skipped_steps: steps that changed nothing, because a number in them was not finite.
        skipped_in_a_row: how many of them the last steps were.
        overflows_in_a_row: of the last steps, how many changed nothing because half precision could not hold their
            gradient.
    """

    step: int = 0
    seconds: float = 0.0
    recent_losses: list[float] = field(default_factory=list)
    last_loss: float | None = None
    evaluated_step: int = 0
    evaluation: dict[str, Any] = field(default_factory=dict)
    best_step: int | None = None
    best_score: float | None = None
    colour_audit: dict[str, int] = field(default_factory=dict)
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    overflows_in_a_row: int = 0


def log_path(arguments: RunArguments) -> Path:
    """The file of the curves: one JSON object a line."""
    return arguments.folder / "log.jsonl"


def checkpoint_folder(arguments: RunArguments) -> Path:
    """Where the checkpoints of a stage lie."""
    return arguments.folder / "checkpoints"


def drop_log_lines(path: Path, progress: Progress) -> None:
    """Takes out the lines of steps and evaluations that will be made again, and those that are torn."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            made = progress.evaluated_step if "validation_loss" in line else progress.step
            if line["step"] <= made:
                kept.append(text)
    write_text(path, "".join(f"{line}\n" for line in kept))


def refuse_other_identity(saved: dict[str, Any], wanted: dict[str, Any], *, folder: Path) -> None:
    """Raises `ResumeError` naming what differs between a checkpoint and this training.

    A setting that the checkpoint does not know, because it is newer, had its default; checksums of rows that it does
    not know are not compared.
    """
    defaults = ARGUMENTS[wanted["stage"]]() if wanted.get("stage") in ARGUMENTS else None
    saved = {**({} if defaults is None else asdict(defaults)), **saved}
    wanted = json.loads(json.dumps(wanted))
    compared = (key for key in wanted if key in saved or not key.endswith("_rows_sha256"))
    differing = sorted(key for key in compared if saved.get(key) != wanted[key])
    if differing:
        details = "; ".join(f"{key}: {saved.get(key)!r} there, {wanted[key]!r} here" for key in differing)
        raise ResumeError(
            f"{folder} holds a training with other settings ({details}). Give the same settings to go on with it, "
            "--overwrite to throw it away, or another --run_name."
        )


def surroundings() -> dict[str, Any]:
    """What may change the last bits of a result, but must not keep a training from going on elsewhere."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def warn_of_other_surroundings(saved: dict[str, Any]) -> None:
    """Says in the log that a resumed training may differ from an unbroken one in the last bits."""
    found = surroundings()
    differing = [
        f"{key}: {saved[key]} there, {found[key]} here" for key in found if saved.get(key, found[key]) != found[key]
    ]
    if differing:
        logger.warning(
            "The checkpoint was made under other circumstances (%s); sums may differ in their last bits.",
            "; ".join(differing),
        )


def random_state() -> dict[str, Any]:
    """The states of all random number generators of this process, readable with `weights_only=True`."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global generator is what libraries draw from
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Takes back what `random_state` gave."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numpy_keys, *rest = state["numpy"]
    np.random.set_state((kind, numpy_keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002  # as above
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
