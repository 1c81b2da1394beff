"""Where images lie: paths of this machine and addresses of fsspec, found in a stable order and read.

Names that are no UTF-8 keep their bytes (Python's surrogates).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from hf_contour.data.file_names import HEIF_SUFFIXES, files_below, image_suffixes, is_hidden

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")


def is_address(text: str) -> bool:
    """Whether a text is an address of fsspec, such as `s3://bucket/shirt.jpg`."""
    return "://" in text and not text.startswith("data:")


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


def listed_files(folder: str, *, outside: Path | None, left_out: Counter[str]) -> Iterator[str]:
    """What `files_below` gives of a folder, which may also be an address of fsspec."""
    if is_address(folder):
        return _files_at(folder, left_out)
    return files_below(folder, outside=outside, left_out=left_out)


def _files_at(address: str, left_out: Counter[str]) -> Iterator[str]:
    system, root = fsspec.core.url_to_fs(address)
    for place, folders, files in system.walk(root):
        hidden = [name for name in (*folders, *files) if is_hidden(name)]
        left_out["hidden"] += len(hidden)
        folders[:] = sorted(name for name in folders if name not in hidden)
        for name in sorted(name for name in files if name not in hidden):
            yield system.unstrip_protocol(f"{place}/{name}")
