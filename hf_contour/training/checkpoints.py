"""Checkpoints that are complete or absent.

A checkpoint is a folder `step-00000120`. It is written under another name beside its place, every file is flushed to
the disk, a manifest with the size and SHA-256 of each file goes last, and one rename puts it in place. Readers trust
nothing but the manifest: the newest folder whose files all agree with it is taken, others are named and passed over.
"""

import hashlib
import io
import json
import logging
import pickle
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as tensors_as_bytes
from torch import Tensor

from hf_contour.io import (
    DISCARDED,
    UNFINISHED,
    OutputError,
    describe_room,
    discard,
    file_sha256,
    remove,
    sync,
    write_bytes,
)

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_STATE = "state.json"
_FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
# What reading a damaged file can raise.
_UNREADABLE: tuple[type[Exception], ...] = (OSError, ValueError, LookupError, TypeError, AttributeError)
_UNREADABLE += (RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError)

# Checkpoints that this process wrote or found good, with the sizes and times of their files then.
_known_good: dict[Path, list[tuple[str, int, int]]] = {}


class CheckpointError(OutputError):
    """A checkpoint could not be written, or none of those present can be read."""


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on.

    Attributes:
        step: how many optimiser steps have been made.
        state: plain JSON values: arguments, place in the data, figures.
        weights: state dicts by name, saved as safetensors.
        tensors: objects by name that `torch.load(weights_only=True)` reads back: optimiser, schedule, random
            number generators.
    """

    step: int
    state: dict[str, Any]
    weights: Mapping[str, Mapping[str, Tensor]]
    tensors: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Writes a checkpoint and then removes the oldest good ones beyond `keep`.

    Args:
        folder: where the checkpoints of one training lie; made if absent, its parent is not.
        checkpoint: what to write; a good one of the same step is left as it is.
        keep: good checkpoints to leave, at least 1.

    Returns:
        The folder of the new checkpoint.

    Raises:
        CheckpointError: If it cannot be written (disk full, no permission, folder gone); what was there before is
            untouched.
    """
    path = folder / f"step-{checkpoint.step:08d}"
    unfinished = folder / f"{UNFINISHED}{path.name}"
    parts = _parts(checkpoint)
    try:
        if not path.exists() or not _is_good(path):
            _write(folder, unfinished, parts, step=checkpoint.step)
            if path.exists():  # a damaged one of this very step, passed over on resuming
                discard(path)
            unfinished.rename(path)
            sync(folder)
            _known_good[path] = _signature(path)
    except BaseException as error:
        with suppress(OSError):
            remove(unfinished)
        if not isinstance(error, OSError):
            raise
        needed = sum(len(content()) for content in parts.values())
        raise CheckpointError(
            f"The checkpoint {path} could not be written ({error}); it needs {needed} bytes, {describe_room(folder)}. "
            "Earlier checkpoints are untouched; make room or choose another output_dir, and start again to resume."
        ) from error
    _rotate(folder, keep)
    return path


def load_newest(folder: Path) -> Checkpoint | None:
    """Reads the newest good checkpoint; those damaged are named in the log with the reason and passed over.

    Returns:
        The checkpoint, or `None` where there is none at all.

    Raises:
        CheckpointError: If there are checkpoints and every one is damaged.
    """
    reasons = []
    for path in reversed(list_checkpoints(folder)):
        reason = find_fault(path)
        if reason is None:
            try:
                return _read(path)
            except _UNREADABLE as error:  # whole, but not made by this program
                reason = f"it cannot be read ({type(error).__name__}: {error})"
        reasons.append(f"{path}: {reason}")
        logger.warning("Passing over the damaged checkpoint %s: %s.", path, reason)
    if reasons:
        raise CheckpointError("All checkpoints are damaged; start anew with --overwrite. " + "; ".join(reasons) + ".")
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders that carry a checkpoint's name, good or not, from the oldest step to the newest."""
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


def find_fault(path: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or `None` if every file agrees with the manifest."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
        if manifest["format"] != _FORMAT:
            return f"{MANIFEST} is of format {manifest['format']!r}, expected {_FORMAT}"
        files = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        if text != _manifest_text(manifest["files"], manifest["step"]):
            return f"{MANIFEST} does not agree with its own digest"
        if path.name != f"step-{manifest['step']:08d}":
            return f"{MANIFEST} is that of step {manifest['step']}"
    except _UNREADABLE as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"
    present = {file.name for file in path.iterdir()}
    if surplus := present - files.keys() - {MANIFEST}:
        return f"{sorted(surplus)[0]} does not belong to it"
    for name, (size, sha256) in files.items():
        if name not in present:
            return f"{name} is missing"
        try:
            if (found := (path / name).stat().st_size) != size:
                return f"{name} has {found} bytes, expected {size}"
            if file_sha256(path / name) != sha256:
                return f"{name} does not have the SHA-256 of the manifest"
        except OSError as error:
            return f"{name} cannot be read ({error})"
    return None


def _is_good(path: Path) -> bool:
    """Whether a checkpoint is whole; files that have not been touched since they were found good are not read."""
    if _known_good.get(path) != _signature(path):
        if find_fault(path) is not None:
            return False
        _known_good[path] = _signature(path)
    return True


def _signature(path: Path) -> list[tuple[str, int, int]]:
    stats = {file.name: file.stat() for file in path.glob("*")}
    return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())


def _parts(checkpoint: Checkpoint) -> dict[str, Callable[[], bytes | memoryview]]:
    """What each file holds, made when it is asked for: never are two of them in memory."""
    parts: dict[str, Callable[[], bytes | memoryview]] = {
        _STATE: lambda: json.dumps(checkpoint.state, indent=1, sort_keys=True).encode("utf-8")
    }
    for name, state_dict in checkpoint.weights.items():
        parts[f"{name}.safetensors"] = partial(_as_safetensors, state_dict)
    for name, content in checkpoint.tensors.items():
        parts[f"{name}.pt"] = partial(_as_torch_file, content)
    return parts


def _as_safetensors(state_dict: Mapping[str, Tensor]) -> bytes:
    return tensors_as_bytes({key: value.contiguous() for key, value in state_dict.items()})


def _as_torch_file(content: Any) -> memoryview:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def _write(
    folder: Path, unfinished: Path, parts: Mapping[str, Callable[[], bytes | memoryview]], *, step: int
) -> None:
    """Writes the files and, when they are on the disk, the manifest of what they were meant to hold."""
    if not folder.exists():
        folder.mkdir()
        sync(folder.parent)
    remove(unfinished)
    unfinished.mkdir()
    files = {}
    for name, make_content in sorted(parts.items()):
        content = make_content()
        write_bytes(unfinished / name, content)
        files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_bytes(unfinished / MANIFEST, _manifest_text(files, step).encode("utf-8"))
    sync(unfinished)


def _manifest_text(files: Mapping[str, Any], step: int) -> str:
    digest = hashlib.sha256(json.dumps([step, files], sort_keys=True).encode()).hexdigest()
    return json.dumps({"format": _FORMAT, "step": step, "files": files, "digest": digest}, indent=1)


def _read(path: Path) -> Checkpoint:
    step = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["step"]
    return Checkpoint(
        step=step,
        state=json.loads((path / _STATE).read_text(encoding="utf-8")),
        weights={file.stem: load_file(file) for file in path.glob("*.safetensors")},
        tensors={file.stem: torch.load(file, map_location="cpu", weights_only=True) for file in path.glob("*.pt")},
    )


def _rotate(folder: Path, keep: int) -> None:
    """Removes the oldest checkpoints beyond `keep`; damaged ones older than all that are kept go with them.

    What cannot be removed is only told: the new checkpoint is written.
    """
    try:
        for leftover in folder.glob(f"{DISCARDED}*"):
            remove(leftover)
        good = [path for path in list_checkpoints(folder) if _is_good(path)]
        if len(good) <= keep:
            return
        oldest_kept = good[-keep]
        for path in list_checkpoints(folder):
            if path == oldest_kept:
                return
            _known_good.pop(path, None)
            discard(path)
    except OSError as error:
        logger.warning("Old checkpoints in %s could not be removed (%s); %s.", folder, error, describe_room(folder))
