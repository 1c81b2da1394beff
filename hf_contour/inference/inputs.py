"""Images to predict: found in files, folders and data sets, and opened one by one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from hf_contour.data.sources import load_source
from hf_contour.image_processing_contour import ImageReadError, open_image

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)


@dataclass(frozen=True)
class ImageSource:
    """An image that was not opened yet.

    Attributes:
        name: what reports call it.
        content: path or bytes.
        stem: where its maps go below the output folder, without suffix; unlike that of any other image.
    """

    name: str
    content: str | bytes
    stem: str


@dataclass
class PredictionReport:
    """What became of the images: how many were done, and what was skipped for which reason."""

    num_done: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0: all done; 3: some skipped; 1: none done."""
        if not self.num_done:
            return 1
        return 3 if self.skipped else 0


def find_images(inputs: Sequence[str], *, outside: Path | None = None) -> list[ImageSource]:
    """The images that files and folders name, folders with all below them, in order of their names.

    Args:
        inputs: files, whatever their suffix, and folders, of which files with the suffix of an image count.
        outside: a folder whose files are left out, such as the output of an earlier run.

    Raises:
        FileNotFoundError: If an input is not there.
        ValueError: If a folder holds no image.
    """
    found: list[tuple[Path, Path]] = []  # path, place below the output folder
    for name in inputs:
        path = Path(name)
        if path.is_file():
            found.append((path, Path(path.name)))
            continue
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not there; expected an image or a folder of images.")
        inside = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in IMAGE_SUFFIXES]
        inside = [file for file in inside if outside is None or not file.is_relative_to(outside)]
        if not inside:
            raise ValueError(f"{path} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
        found += [(file, file.relative_to(path)) for file in inside]
    stems = _distinct([str(place.with_suffix("")) for _, place in found])
    return [ImageSource(str(path), str(path), stem) for (path, _), stem in zip(found, stems, strict=True)]


def data_set_images(
    data: str, *, split: str, rows: Sequence[int] | None = None, config_name: str | None = None
) -> list[ImageSource]:
    """The images of a data set, or of some of its rows, counted from 0.

    Raises:
        ValueError: If a row is not there.
    """
    source = load_source(data, split=split, config_name=config_name)
    chosen = range(len(source)) if rows is None else rows
    for row in chosen:
        if not 0 <= row < len(source):
            raise ValueError(f"row {row} is not in {data}, split {split}; its rows are 0 to {len(source) - 1}.")
    images = source.select_columns(["image"])
    return [
        ImageSource(f"{data} {split} row {row}", image["bytes"] or image["path"], f"{split}_{row:05d}")
        for row, image in ((row, images[row]["image"]) for row in chosen)
    ]


def open_images(
    sources: Iterable[ImageSource], report: PredictionReport, *, opening: Mapping[str, Any] | None = None
) -> Iterator[tuple[ImageSource, Image.Image]]:
    """Open one image after the other; what cannot be read is noted in the report and left out.

    Args:
        sources: where they are.
        report: gets what is skipped.
        opening: further arguments of `open_image`, such as those of the processor that the images go to.
    """
    for source in sources:
        try:
            yield source, open_image(source.content, name=source.name, **(opening or {}))
        except ImageReadError as error:
            report.skipped.append((source.name, str(error)))


def _distinct(stems: Sequence[str]) -> list[str]:
    """The stems, numbered from the second on where several are equal."""
    taken: set[str] = set()
    distinct = []
    for stem in stems:
        name, number = stem, 2
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name)
        distinct.append(name)
    return distinct
