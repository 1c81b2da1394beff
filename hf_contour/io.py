"""Files and folders that are whole or absent, whatever ends the process, and errors that say what room there is.

Every change is one call of a function of `os`: open, write, fsync, mkdir, rename, replace, unlink, rmdir. Tests make
each of them fail in turn.
"""

import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hf_contour.version import __version__

# Their versions can change a figure.
_LIBRARIES = ("torch", "torchvision", "transformers", "timm", "datasets", "accelerate", "numpy", "pillow")

# Windows: without the first, line ends would be rewritten; it has no second, and no folder can be opened there.
_O_BINARY: int = getattr(os, "O_BINARY", 0)
_OPENS_FOLDERS = hasattr(os, "O_DIRECTORY")

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)

UNFINISHED = ".unfinished-"
DISCARDED = ".discarded-"


class OutputError(RuntimeError):
    """Something of a run could not be written: a full disk, no permission, a folder that is gone."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an `OSError` of the block into an `OutputError` that names the path and the room there is."""
    try:
        yield
    except OSError as error:
        if error.errno in _FORBIDDEN:
            hint = ". Get the right to write there, or choose another output folder."
        else:
            hint = (
                f"; {describe_room(path)}. Make room or choose another output folder; the same command then goes on."
            )
        raise OutputError(f"{path} could not be written ({error}){hint}") from error


def describe_room(path: Path) -> str:
    """Free bytes and files of the disk that a path lies on, or would lie on."""
    for place in (path, *path.parents):
        try:
            free = shutil.disk_usage(place).free
            files = f" and {os.statvfs(place).f_favail} files" if hasattr(os, "statvfs") else ""  # not on Windows
        except OSError:
            continue
        return f"{free} bytes{files} are free at {place}"
    return "the room that is free is not known"


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Writes a new file, or over an old one, and waits until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _O_BINARY, 0o666)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes | memoryview) -> None:
    """Writes all of it, in as many calls as the system takes."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_text(path: Path, text: str) -> None:
    """Writes a small file of text in one piece; see `write_whole`."""
    write_whole(path, text.encode("utf-8"))


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that readers see the old content or the new one, never half of it.

    Raises:
        OutputError: If it cannot be written; the old content is still there.
    """
    unfinished = path.with_name(f"{UNFINISHED}{path.name}")
    with writing(path):
        try:
            write_bytes(unfinished, content)
            unfinished.replace(path)
        except BaseException:
            with suppress(OSError):
                remove(unfinished)
            raise
        sync(path.parent)


def replace_tensors(path: Path, changed: Mapping[str, Tensor]) -> None:
    """Puts other values into tensors of a safetensors file, or new tensors beside them; the others keep every bit.

    Args:
        path: of the file.
        changed: by name; they take the number type of what the file has there, else that of its first weights.

    Raises:
        ValueError: If it is no such file.
        OutputError: If it cannot be written; the old one is still there.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors: {error}. Weights in several files are not changed."
        ) from error
    usual = next((one.dtype for one in tensors.values() if one.is_floating_point()), torch.float32)
    for name, tensor in changed.items():
        kind = tensors[name].dtype if name in tensors else usual
        tensors[name] = tensor.detach().to(kind).contiguous()
    write_whole(path, save(tensors, metadata))


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file, or nothing of it.

    Raises:
        OutputError: If it cannot be written; the file ends as it did before.
    """
    with writing(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _O_BINARY, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, f"{line}\n".encode())
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)


def put_in_place(unfinished: Path, folder: Path) -> None:
    """Gives a finished folder its name once its files are on the disk; what bore the name before goes after that.

    Files get the permissions of any new file (those of the folder, without execution): some libraries write theirs
    for the owner alone.
    """
    permissions = unfinished.stat().st_mode & 0o666
    for path in (*unfinished.rglob("*"), unfinished):
        if path.is_file() and not path.is_symlink():
            path.chmod(permissions)
        sync(path)
    replaced = folder.with_name(f"{DISCARDED}{folder.name}")
    remove(replaced)
    if folder.exists():
        folder.rename(replaced)
    unfinished.rename(folder)
    sync(folder.parent)
    remove(replaced)


def discard(path: Path) -> None:
    """Takes a folder out of sight in one step before deleting it, so that no half of it is ever seen."""
    out_of_sight = path.with_name(f"{DISCARDED}{path.name}")
    remove(out_of_sight)
    path.rename(out_of_sight)
    remove(out_of_sight)


def remove_leftovers(folder: Path) -> None:
    """Deletes what a killed process left unfinished or half deleted, at any depth."""
    for pattern in (f"{UNFINISHED}*", f"{DISCARDED}*"):
        for leftover in list(folder.rglob(pattern)):
            remove(leftover)


def remove(path: Path) -> None:
    """Deletes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's entries, are on the disk; of folders not on Windows."""
    if not _OPENS_FOLDERS and path.is_dir():
        return
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY if _OPENS_FOLDERS else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems do not know it of folders
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2) + "\n")


def state_dict_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of weights and buffers, whatever device they are on."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def num_usable_cores() -> int:
    """The cores that this machine gives this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def origin() -> dict[str, Any]:
    """What a results file says of the code that made it: `versions` and `commit`."""
    return {"versions": library_versions(), "commit": source_commit()}


def library_versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that a figure can depend on."""
    versions = {"hf_contour": __version__, "python": platform.python_version()}
    return versions | {name: importlib.metadata.version(name) for name in _LIBRARIES}


def source_commit() -> str | None:
    """The commit of this package's source, `-dirty` where a tracked file was changed; `None` where it has none."""
    folder = Path(__file__).parent
    if _git(folder, ["ls-files", "--error-unmatch", Path(__file__).name]) is None:
        return None  # installed elsewhere: a repository around it is not its own
    commit = _git(folder, ["rev-parse", "HEAD"])
    changed = _git(folder, ["status", "--porcelain", "--untracked-files=no", "--", "."])
    return f"{commit}-dirty" if commit and changed else commit


def _git(folder: Path, arguments: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
