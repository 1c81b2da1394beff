"""One training to a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hf_contour.io import remove_leftovers, write_all, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"

_held_locks: set[int] = set()


class FolderInUseError(RuntimeError):
    """Another training writes to the same folder."""


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Holds the folder for this process, and clears what a killed one left unfinished.

    The lock is the kernel's (`flock`; on Windows that of `filelock`): it goes with the process that holds it, however
    that one ends.

    Raises:
        FolderInUseError: If another process holds it.
        OutputError: If the folder cannot be made or locked.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _flock(folder) if fcntl is not None else _file_lock(folder):
        with writing(folder):
            remove_leftovers(folder)
        yield


@contextmanager
def _file_lock(folder: Path) -> Iterator[None]:
    with writing(folder):
        try:
            lock = FileLock(folder / LOCK_FILE).acquire(timeout=0)
        except Timeout:  # an `OSError` too
            raise _in_use(folder, "") from None
    with lock:
        yield


@contextmanager
def _flock(folder: Path) -> Iterator[None]:
    with writing(folder):
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with writing(folder):
            _lock(descriptor, folder)
        yield
    finally:
        _held_locks.discard(descriptor)
        os.close(descriptor)


def _in_use(folder: Path, holder: str) -> FolderInUseError:
    return FolderInUseError(
        f"Another training (process {holder or 'unknown'}) writes to {folder}; wait for it or choose another run_name."
    )


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(folder, os.read(descriptor, 32).decode("ascii", "replace").strip()) from None
    _held_locks.add(descriptor)
    os.ftruncate(descriptor, 0)
    write_all(descriptor, f"{os.getpid()}\n".encode())


def _let_go() -> None:
    """Leaves the locks to the parent: processes that load samples may outlive one that is killed."""
    while _held_locks:
        os.close(_held_locks.pop())


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_let_go)
