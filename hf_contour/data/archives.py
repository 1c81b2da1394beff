"""Zip files of class folders, unpacked once into the cache."""

import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path

import datasets.config

from hf_contour.data.file_names import is_litter, printable
from hf_contour.data.problems import SourceError


def unpacked(archive: Path, cache_dir: str | Path | None = None) -> Path:
    """The folder with the content of a zip file; a folder in it that is called like the archive is that folder.

    Raises:
        SourceError: If it is no zip file, is locked, or does not fit on the disk.
    """
    archive = archive.absolute()
    stored = archive.stat()
    key = hashlib.sha256(f"{archive} {stored.st_size} {stored.st_mtime_ns}".encode(errors="surrogateescape"))
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "hf_contour_archives"
    folder = cache / key.hexdigest()[:32]
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            unfinished = Path(aside) / "content"
            _unpack(archive, unfinished)
            if not folder.is_dir():  # another process may have been faster
                unfinished.rename(folder)
    inside = folder / archive.stem
    return inside if inside.is_dir() and len(list(folder.iterdir())) == 1 else folder


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as content:
            members = [one for one in content.infolist() if not any(map(is_litter, Path(one.filename).parts))]
            size = sum(one.file_size for one in members)
            free = shutil.disk_usage(folder.parent).free
            if size > free:
                raise SourceError(
                    "archive",
                    f"{printable(archive)} holds {size:,} bytes; {free:,} are free in {folder.parent.parent}.",
                )
            content.extractall(folder, members)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise SourceError(
            "archive", f"{printable(archive)} cannot be unpacked ({error}); expected a zip file without a password."
        ) from error
