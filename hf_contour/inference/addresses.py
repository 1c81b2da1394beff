"""Where images lie: paths of this machine and addresses of fsspec, found in a stable order and read.

Names that are no UTF-8 keep their bytes (Python's surrogates).
"""

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from hf_contour.data.file_names import HEIF_SUFFIXES, image_suffixes, is_litter

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
SORTED_NAMES = 1_000_000  # of a folder with more, that many at a time are sorted


def is_address(text: str) -> bool:
    """Whether a text is an address of fsspec, such as `s3://bucket/shirt.jpg`."""
    return "://" in text and not text.startswith("data:")


def is_hidden(name: str) -> bool:
    """Whether a file or folder begins with a point, or was left by a system or tool."""
    return name.startswith(".") or is_litter(name)


def listed_suffixes() -> frozenset[str]:
    """Suffixes of images; of HEIC also where nothing reads it, so that a row says so."""
    return image_suffixes() | HEIF_SUFFIXES


def suffix_of(name: str) -> str:
    """The suffix in small letters; `.tar.gz` counts as one."""
    lowered = name.lower()
    return next((suffix for suffix in TAR_SUFFIXES if lowered.endswith(suffix)), Path(lowered).suffix)


def read_bytes(address: str) -> bytes:
    """What lies at an address of fsspec."""
    with fsspec.open(address, "rb") as file:
        return bytes(file.read())


def open_stream(place: str) -> Any:
    """A path or an address, open for reading bytes; close it."""
    return fsspec.open(place, "rb").open() if is_address(place) else Path(place).open("rb")


def files_below(folder: str, *, outside: Path | None, left_out: Counter[str]) -> Iterator[str]:
    """All files of a folder and the folders below it, by their names, as paths that begin with `folder`.

    Links are followed; one that leads back to a folder around it is left out. Memory does not grow with the number
    of files beyond the names of one folder.

    Args:
        folder: a path or an address of fsspec.
        outside: a folder that is left out, such as the output of an earlier run.
        left_out: counts hidden files and folders, and links in a circle.
    """
    if is_address(folder):
        return _files_at(folder, left_out)
    return _files_in(folder, None if outside is None else _identity(outside), (_identity(folder),), left_out)


def _identity(folder: str | Path) -> tuple[int, int]:
    try:
        state = Path(folder).stat()
    except FileNotFoundError:
        return (-1, -1)
    return state.st_dev, state.st_ino


def _files_in(
    folder: str, outside: tuple[int, int] | None, around: tuple[tuple[int, int], ...], left_out: Counter[str]
) -> Iterator[str]:
    with os.scandir(folder) as entries:
        while names := sorted((entry.name, entry.is_dir()) for entry in itertools.islice(entries, SORTED_NAMES)):
            for name, is_folder in names:
                path = f"{folder.rstrip('/')}/{name}"
                if is_hidden(name):
                    left_out["hidden"] += 1
                elif not is_folder:
                    yield path
                elif (identity := _identity(path)) in around:
                    left_out["links in a circle"] += 1
                elif identity != outside:
                    yield from _files_in(path, outside, (*around, identity), left_out)


def _files_at(address: str, left_out: Counter[str]) -> Iterator[str]:
    system, root = fsspec.core.url_to_fs(address)
    for place, folders, files in system.walk(root):
        hidden = [name for name in (*folders, *files) if is_hidden(name)]
        left_out["hidden"] += len(hidden)
        folders[:] = sorted(name for name in folders if name not in hidden)
        for name in sorted(name for name in files if name not in hidden):
            yield system.unstrip_protocol(f"{place}/{name}")
