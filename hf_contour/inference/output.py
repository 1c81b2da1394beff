"""The folder that a prediction writes: a manifest, a listing, and tables that are whole or absent.

* `_manifest.json`: model, settings and inputs; another command into the same folder is refused.
* `_listing/`: the rows of each part.
* `_locks/`: a part is written by the process that holds its lock, which its end gives back.
* `part-000000.parquet`: the answers to the first part, and so on.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_contour.inference.listing import read_parts
from hf_contour.inference.parts import Part
from hf_contour.io import UNFINISHED, OutputError, discard, put_in_place, remove, remove_leftovers, write_json, writing

MANIFEST = "_manifest.json"
LISTING = "_listing"
LOCKS = "_locks"
MAPS = "maps"
OURS = re.compile(rf"{MANIFEST}|{LISTING}|{LOCKS}|{MAPS}|part-\d+\..*|\.(unfinished|discarded)-.*")


class PredictionOutput:
    """An output folder whose manifest fits the command.

    Args:
        folder: the folder.
        suffix: of the tables, such as `.parquet`.
    """

    def __init__(self, folder: Path, suffix: str):
        self.folder, self.suffix = folder, suffix
        self.listing = folder / LISTING
        self.parts: list[Part] = read_parts(self.listing)

    def path(self, index: int) -> Path:
        """Where the table of a part is, or will be."""
        return self.folder / f"part-{index:06d}{self.suffix}"

    def finished(self) -> set[int]:
        """Numbers of the parts that are written."""
        names = {entry.name for entry in os.scandir(self.folder)}
        return {index for index in range(len(self.parts)) if self.path(index).name in names}

    @contextmanager
    def claim(self, index: int) -> Iterator[bool]:
        """Holds a part for this process: False if it is written, or another process is at it."""
        if self.path(index).exists():
            yield False
            return
        lock = FileLock(self.folder / LOCKS / f"part-{index:06d}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield not self.path(index).exists()
        finally:
            lock.release()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lets one process at a time look at, and make, the manifest of an output folder."""
    with writing(folder):
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCKS / "manifest.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; `None` where there is none.

    Raises:
        ValueError: If it cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete the folder, or give another --output.") from error


def check_manifest(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses to mix the answers of two models, settings or inputs.

    Raises:
        ValueError: Naming the first thing that differs, and both values.
    """
    for name in ("version", "model", "inputs", "settings"):
        ours, theirs = wanted[name], found.get(name)
        if ours == theirs:
            continue
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            name = next(key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key))
            ours, theirs = ours.get(name), theirs.get(name)
        raise ValueError(
            f"{folder} was begun with another {name}: {theirs!r}, not {ours!r}. Give another --output, the same "
            "command to go on, or --overwrite to delete what is there."
        )


def check_ours(folder: Path) -> None:
    """Refuses a folder that holds what no prediction wrote; one that is absent or empty is good.

    Raises:
        ValueError: Naming the folder and an entry.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file; expected a folder, which gets tables in parts (--format csv for csv).")
    others = [entry.name for entry in folder.iterdir() if not OURS.fullmatch(entry.name)] if folder.exists() else []
    if others:
        raise ValueError(f"{folder} holds {sorted(others)[0]!r}, which no prediction wrote; give another --output.")


def clear(folder: Path) -> None:
    """Deletes an earlier output.

    Raises:
        ValueError: If the folder holds something else.
    """
    check_ours(folder)
    if not folder.exists():
        return
    with writing(folder):
        discard(folder)


def begin(folder: Path, manifest: Mapping[str, Any], *, write_listing: Any) -> None:
    """Writes the listing, then the manifest; called by the one process that is `alone`.

    Args:
        folder: the output folder.
        manifest: what to write.
        write_listing: called with an empty folder, fills it with the listing.

    Raises:
        OutputError: If it cannot be written.
    """
    with writing(folder):
        remove_leftovers(folder)
        remove(folder / LISTING)
        unfinished = folder / f"{UNFINISHED}{LISTING}"
        unfinished.mkdir()
    write_listing(unfinished)
    with writing(folder):
        put_in_place(unfinished, folder / LISTING)
    write_json(folder / MANIFEST, manifest)


__all__ = ["OutputError", "PredictionOutput", "alone", "begin", "check_manifest", "clear", "read_manifest"]
