"""Files below a folder: which are images, which are litter of systems and tools; links followed, loops not."""

import importlib.util
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SORTED_NAMES = 1_000_000  # of a folder with more, that many at a time are sorted
HEIF_SUFFIXES = frozenset({".heic", ".heif"})
_READ_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jfif", ".jpe", ".mpo", ".png", ".webp", ".avif", ".bmp", ".dib", ".gif", ".tif",
    ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"
))  # fmt: skip
# Images to their owner, which Pillow does not read, or only with a program of its own.
_OTHER_IMAGE_SUFFIXES = HEIF_SUFFIXES | frozenset((
    ".jxl", ".psd", ".svg", ".eps", ".ai", ".ico", ".tga", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw",
    ".orf", ".rw2", ".raf", ".exr", ".hdr"
))  # fmt: skip
_LITTER_FOLDERS = frozenset({"@eadir", "__macosx", "__pycache__", "lost+found", "$recycle.bin", "#recycle"})
_LITTER_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})
_HIDDEN_LITTER = (
    ".ipynb_checkpoints", ".git", ".cache", ".thumbnails", ".apdisk", ".appledouble", ".spotlight-v100",
    ".fseventsd", ".temporaryitems", ".trash"
)  # fmt: skip


def image_suffixes() -> frozenset[str]:
    """Suffixes of files that are read as images; with `pillow-heif` those of HEIC too."""
    has_heif = importlib.util.find_spec("pillow_heif") is not None
    return _READ_SUFFIXES | HEIF_SUFFIXES if has_heif else _READ_SUFFIXES


def is_litter(name: str) -> bool:
    """Whether a file or folder was left by a system or tool and belongs to no data set."""
    plain = name.lower()
    if plain in _LITTER_FOLDERS or plain in _LITTER_FILES or name.startswith("._"):
        return True
    return any(plain == word or plain.startswith((f"{word}-", f"{word}_")) for word in _HIDDEN_LITTER)


def printable(name: str | Path) -> str:
    r"""A name that can be shown and stored: bytes that are not UTF-8 stand as `\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_utf8(name: str | Path) -> bool:
    """Whether the bytes of a name are UTF-8, which data sets need to hold it."""
    return printable(name) == str(name)


@dataclass
class FolderContent:
    """The files below a folder, sorted by their path.

    Attributes:
        images: what is read as an image.
        unread: images of kinds that are not read, such as HEIC without its library.
        others: the rest, such as tables and notes, without litter.
        hidden_folders: folders whose names begin with a point and that hold images.
    """

    images: list[Path] = field(default_factory=list)
    unread: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    hidden_folders: list[Path] = field(default_factory=list)


def folder_content(folder: Path) -> FolderContent:
    """List what lies below a folder; linked folders are followed, but not into themselves.

    Hidden files and litter are left out. Hidden folders with images are named, not read.
    """
    content, suffixes = FolderContent(), image_suffixes()
    for file in _data_files(folder):
        parts, suffix = file.relative_to(folder).parts, file.suffix.lower()
        hidden = next((place for place, part in enumerate(parts[:-1], start=1) if part.startswith(".")), 0)
        if hidden:
            parent = folder.joinpath(*parts[:hidden])
            if suffix in suffixes and parent not in content.hidden_folders:
                content.hidden_folders.append(parent)
        elif suffix in suffixes:
            content.images.append(file)
        elif suffix in _OTHER_IMAGE_SUFFIXES:
            content.unread.append(file)
        else:
            content.others.append(file)
    return content


def sub_folders(folder: Path) -> list[Path]:
    """Folders directly in a folder, also links to folders, without litter and hidden ones; sorted."""
    return sorted(
        (entry for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name)), key=os.fsencode
    )


def holds_image(folder: Path) -> bool:
    """Whether an image lies anywhere below a folder."""
    suffixes = image_suffixes()
    return any(path.suffix.lower() in suffixes for path in _data_files(folder))


def _data_files(folder: Path) -> list[Path]:
    """Files that can belong to a data set, sorted; those in hidden folders are among them, to be named."""
    found = map(Path, files_below(str(folder), left_out=Counter(), enters_hidden=True))
    return sorted((path for path in found if path.is_file()), key=os.fsencode)


def images_in(folder: Path) -> list[Path]:
    """Images that lie directly in a folder, without hidden ones and litter; sorted."""
    suffixes = image_suffixes()
    found = (path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file())
    return sorted((path for path in found if not is_hidden(path.name)), key=os.fsencode)


def files_below(
    folder: str, *, left_out: Counter[str], outside: Path | None = None, enters_hidden: bool = False
) -> Iterator[str]:
    """All files of a folder and the folders below it, by their names, as paths that begin with `folder`.

    Links are followed; one that leads back to a folder around it is left out. Memory does not grow with the number
    of files beyond the names of one folder.

    Args:
        folder: where to begin.
        left_out: counts hidden files and folders, and links in a circle.
        outside: a folder that is left out, such as the output of an earlier run.
        enters_hidden: whether hidden folders are entered that no system or tool has left.
    """
    unwanted = None if outside is None else _identity(outside)
    return _files_below(folder, unwanted, (_identity(folder),), left_out, enters_hidden)


def is_hidden(name: str) -> bool:
    """Whether a file or folder begins with a point, or was left by a system or tool."""
    return name.startswith(".") or is_litter(name)


def _identity(folder: str | Path) -> tuple[int, int]:
    try:
        state = Path(folder).stat()
    except FileNotFoundError:
        return (-1, -1)
    return state.st_dev, state.st_ino


def _files_below(
    folder: str,
    outside: tuple[int, int] | None,
    around: tuple[tuple[int, int], ...],
    left_out: Counter[str],
    enters_hidden: bool,
) -> Iterator[str]:
    with os.scandir(folder) as entries:
        while names := sorted((entry.name, entry.is_dir()) for entry in itertools.islice(entries, SORTED_NAMES)):
            for name, is_folder in names:
                path = f"{folder.rstrip('/')}/{name}"
                if is_hidden(name) and not (enters_hidden and is_folder and not is_litter(name)):
                    left_out["hidden"] += 1
                elif not is_folder:
                    yield path
                elif (identity := _identity(path)) in around:
                    left_out["links in a circle"] += 1
                elif identity != outside:
                    yield from _files_below(path, outside, (*around, identity), left_out, enters_hidden)
