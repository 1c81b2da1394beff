"""Checkpoints that are complete or absent.

A checkpoint is a folder `step-00000120`. It is written under another name beside its place, every file is flushed to
the disk, a manifest with the size and SHA-256 of each file goes last, and one rename puts it in place. Readers trust
nothing but the manifest: the newest folder whose files all agree with it is taken, others are named and passed over.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LOCK_FILE = ".lock"
_STATE = "state.json"
_FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
_UNFINISHED = ".unfinished-"
_DISCARDED = ".discarded-"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none of those present can be read."""


class FolderInUseError(RuntimeError):
    """Another training writes to the same folder."""


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
        folder: where the checkpoints of one training lie; made if absent.
        checkpoint: what to write; a good one of the same step is left as it is.
        keep: good checkpoints to leave, at least 1.

    Returns:
        The folder of the new checkpoint.

    Raises:
        CheckpointError: If it cannot be written (disk full, no permission); what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{checkpoint.step:08d}"
    if (folder / name).exists() and find_fault(folder / name) is None:
        return folder / name
    unfinished = folder / f"{_UNFINISHED}{name}"
    try:
        _remove(unfinished)
        unfinished.mkdir()
        _write_files(unfinished, checkpoint)
        _write_manifest(unfinished, checkpoint.step)
        if (folder / name).exists():  # a damaged one of this very step, passed over on resuming
            _discard(folder / name)
        unfinished.rename(folder / name)
        _sync(folder)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        written = sum(file.stat().st_size for file in unfinished.glob("*")) if unfinished.exists() else 0
        shutil.rmtree(unfinished, ignore_errors=True)
        raise CheckpointError(
            f"The checkpoint {folder / name} could not be written ({error}; {written} bytes were, "
            f"{shutil.disk_usage(folder).free} are free). Earlier checkpoints are untouched; make room or choose "
            "another output_dir, and start again to resume."
        ) from error
    _rotate(folder, keep)
    return folder / name


def load_newest(folder: Path) -> Checkpoint | None:
    """Reads the newest good checkpoint; those damaged are named in the log with the reason and passed over.

    Returns:
        The checkpoint, or `None` where there is none at all.

    Raises:
        CheckpointError: If there are checkpoints and every one is damaged.
    """
    candidates = list_checkpoints(folder)
    reasons = []
    for path in reversed(candidates):
        reason = find_fault(path)
        if reason is None:
            return _read(path)
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
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            return f"{MANIFEST} is of format {manifest['format']!r}, expected {_FORMAT}"
        files = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        if manifest["digest"] != _digest_of_files(manifest["files"], manifest["step"]):
            return f"{MANIFEST} does not agree with its own digest"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Holds the folder for this process, and clears what a killed one left unfinished.

    The lock is the kernel's (`flock`): it goes with the process that holds it, however that one ends.

    Raises:
        FolderInUseError: If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise FolderInUseError(
                f"Another training (process {file.read().strip() or 'unknown'}) writes to {folder}; "
                "wait for it or choose another run_name."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        for pattern in (f"{_UNFINISHED}*", f"{_DISCARDED}*"):
            for leftover in folder.rglob(pattern):
                _remove(leftover)
        yield


def write_text(path: Path, text: str) -> None:
    """Writes a small file so that readers see the old text or the new one, never half of it."""
    unfinished = path.with_name(f"{_UNFINISHED}{path.name}")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    _sync(path.parent)


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    state = json.dumps(checkpoint.state, indent=1, sort_keys=True)
    (folder / _STATE).write_text(state, encoding="utf-8")
    for name, state_dict in checkpoint.weights.items():
        save_file({key: value.contiguous() for key, value in state_dict.items()}, folder / f"{name}.safetensors")
    for name, content in checkpoint.tensors.items():
        torch.save(content, folder / f"{name}.pt")
    for file in folder.iterdir():
        _sync(file)


def _write_manifest(folder: Path, step: int) -> None:
    files = {
        file.name: {"size": file.stat().st_size, "sha256": file_sha256(file)} for file in sorted(folder.iterdir())
    }
    manifest = {"format": _FORMAT, "step": step, "files": files, "digest": _digest_of_files(files, step)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(folder / MANIFEST)
    _sync(folder)


def _digest_of_files(files: Any, step: int) -> str:
    return hashlib.sha256(json.dumps([step, files], sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> Checkpoint:
    step = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["step"]
    return Checkpoint(
        step=step,
        state=json.loads((path / _STATE).read_text(encoding="utf-8")),
        weights={file.stem: load_file(file) for file in path.glob("*.safetensors")},
        tensors={file.stem: torch.load(file, map_location="cpu", weights_only=True) for file in path.glob("*.pt")},
    )


def _rotate(folder: Path, keep: int) -> None:
    """Removes the oldest checkpoints beyond `keep`; damaged ones older than all that are kept go with them."""
    good = [path for path in list_checkpoints(folder) if find_fault(path) is None]
    if len(good) <= keep:
        return
    oldest_kept = good[-keep]
    for path in list_checkpoints(folder):
        if path == oldest_kept:
            return
        _discard(path)


def _discard(path: Path) -> None:
    """Takes a folder out of sight in one step before deleting it, so that no half of it is ever a candidate."""
    out_of_sight = path.with_name(f"{_DISCARDED}{path.name}")
    _remove(out_of_sight)
    path.rename(out_of_sight)
    _remove(out_of_sight)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
