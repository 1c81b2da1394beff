"""Offline augmentation: write a larger data set, the images as they are and changed copies of them.

Copy `k` of row `i` is bit for bit the sample that training with the same recipe and seed draws for row `i` in epoch
`k`, before the processor. Rows and their copies are written one after another, so memory does not grow with the set.

Source: CN113298092B, claim 6 and the offline enhancement of step S2 (method rows 33 and 34).
"""

import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import yaml
from datasets.arrow_writer import ParquetWriter
from PIL import Image
from tqdm import tqdm

from hf_contour.data.annotations import encoded, png_cell
from hf_contour.data.augmentation.colour import ColourAudit, ColourTransform
from hf_contour.data.augmentation.recipe import Augmentation
from hf_contour.data.rows import DrawnSample, RowDrawer, row_name
from hf_contour.io import sync
from hf_contour.version import __version__

ORIGINAL_COPY = -1
PROVENANCE_FILE = "provenance.yaml"
ROWS_PER_WRITE = 100  # rows held in memory

PROVENANCE = datasets.Features(
    {
        "source_row": datasets.Value("int64"),  # in the source, from 0
        "source_file": datasets.Value("string"),  # where the source knows it
        "copy": datasets.Value("int32"),  # ORIGINAL_COPY, or the epoch that the copy was drawn for
        "seed": datasets.Value("uint64"),
        "operations": datasets.Value("string"),  # JSON: what the augmentation did, by name
        "colour_change": datasets.Value("string"),  # JSON: what the colour transform did
    }
)


@dataclass
class AugmentedSet:
    """What was written; counted while it is.

    Attributes:
        folder: of the Parquet files; `load_source` reads it.
        num_originals: images written as they were.
        num_copies: changed copies.
        colour_audit: what the colour transform did, over all copies.
    """

    folder: Path
    num_originals: int = 0
    num_copies: int = 0
    colour_audit: ColourAudit = field(default_factory=ColourAudit)


def write_augmented(
    source: datasets.Dataset | datasets.IterableDataset,
    folder: str | Path,
    *,
    copies: int,
    augmentation: Augmentation | None = None,
    colour: ColourTransform | None = None,
    seed: int = 0,
    split: str = "train",
    keep_originals: bool = True,
    rows_per_file: int = 5000,
) -> AugmentedSet:
    """Write a data set with changed copies of every image.

    Originals keep their bytes; copies are PNG, their contours 1-bit PNG. Other columns are repeated. Beside the
    columns of the source stand those of `PROVENANCE`, and "valid" (False where a copy shows no image) where there
    are contours. Files are written to a folder aside and renamed when all is done.

    Args:
        source: rows with the standard columns, as `load_source` gives them, also streamed.
        folder: to be made; must not exist.
        copies: changed copies of each image, at least 1.
        augmentation: what happens to them, or None.
        colour: capped over each round of copies as it is over an epoch; None for none.
        seed: of every random choice.
        split: the name in the file names.
        keep_originals: whether the images themselves are written too.
        rows_per_file: largest number of rows of a Parquet file.

    Raises:
        FileExistsError: If the folder exists.
        ValueError: If nothing would be changed, or the source is itself such a set.
        ImageReadError: If an image cannot be read; names row and file.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; nothing is overwritten. Name another folder, or remove it first.")
    if copies < 1 or (augmentation is None and colour is None):
        raise ValueError(f"copies is {copies}, augmentation {augmentation}, colour {colour}: nothing to write.")
    num_samples = len(source) if isinstance(source, datasets.Dataset) else None
    drawer = RowDrawer(num_samples=num_samples, augmentation=augmentation, colour=colour, seed=seed)
    features = _augmented_features(source.features)
    written = AugmentedSet(folder)
    rows = _augmented_rows(source, drawer, copies=copies, keep_originals=keep_originals, written=written)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as aside:
        unfinished = Path(aside) / folder.name
        unfinished.mkdir()
        _write_files(rows, unfinished, features, split=split, rows_per_file=rows_per_file)
        _write_provenance(unfinished, written, drawer, copies=copies)
        for path in (*unfinished.iterdir(), unfinished):
            sync(path)  # so that the renamed folder is never half there
        unfinished.rename(folder)
    return written


def _augmented_features(features: datasets.Features | None) -> datasets.Features:
    """Columns of the source, with images that decode, and those that are added."""
    if features is None:
        raise ValueError("The stream does not know its columns' types; load it with load_source.")
    taken = sorted(set(features) & set(PROVENANCE))
    if taken:
        raise ValueError(
            f"The source has the columns {', '.join(taken)}, as sets written here have. Augment the first source "
            "instead, with more copies."
        )
    columns: dict[str, Any] = {**features, "image": datasets.Image()}
    if "contours" in features:
        columns |= {"contours": datasets.List(datasets.Image()), "valid": datasets.Image()}
    return datasets.Features({**columns, **PROVENANCE})


def _augmented_rows(
    source: datasets.Dataset | datasets.IterableDataset,
    drawer: RowDrawer,
    *,
    copies: int,
    keep_originals: bool,
    written: AugmentedSet,
) -> Iterator[dict[str, Any]]:
    for index, row in enumerate(tqdm(source, desc="enlarging", unit="row", disable=None)):
        decoded = drawer.decode(row, index)  # also when only the original is written: unreadable rows stop here
        common = {"source_row": index, "source_file": _file_of(row), "seed": drawer.seed}
        if keep_originals:
            written.num_originals += 1
            yield {**_original_row(row, index), **common, "copy": ORIGINAL_COPY}
        for copy in range(copies):
            drawn = drawer.draw(decoded, index, epoch=copy)
            written.num_copies += 1
            written.colour_audit += ColourAudit.from_codes([drawn.colour.to_codes()])
            yield {**_copied_row(row, drawn, copy), **common, "copy": copy}


def _original_row(row: Mapping[str, Any], index: int) -> dict[str, Any]:
    original = {**row, "image": _embedded(row["image"], row_name(row, index))}
    if "contours" in row:
        contours = row["contours"] or []
        original["contours"] = [_embedded(contour, row_name(row, index)) for contour in contours]
        original["valid"] = row.get("valid")
    return {**original, "operations": "{}", "colour_change": "{}"}


def _copied_row(row: Mapping[str, Any], drawn: DrawnSample, copy: int) -> dict[str, Any]:
    stem = PurePosixPath(_file_of(row) or "image").stem
    copied = {**row, "image": png_cell(drawn.image, f"{stem}_copy{copy}.png")}
    if "contours" in row:
        copied["contours"] = (
            [] if drawn.annotations is None else [png_cell(Image.fromarray(mask)) for mask in drawn.annotations]
        )
        copied["valid"] = None if drawn.valid is None else png_cell(Image.fromarray(drawn.valid))
    change = asdict(drawn.colour) if drawn.colour.exchanged or drawn.colour.shifted or drawn.colour.refused else {}
    return {**copied, "operations": json.dumps(drawn.operations), "colour_change": json.dumps(change)}


def _file_of(row: Mapping[str, Any]) -> str | None:
    image = row["image"]
    return image.get("path") if isinstance(image, Mapping) else None


def _embedded(cell: Any, name: str) -> dict[str, Any]:
    """An image's own bytes, read from its file where the cell has only a path."""
    if not isinstance(cell, Mapping):
        raise ValueError(f"{name} holds a decoded {type(cell).__name__}; load the source with load_source.")
    content = encoded(cell)
    path = cell.get("path")
    return {
        "bytes": content if isinstance(content, bytes) else Path(content).read_bytes(),
        "path": PurePosixPath(path).name if path else None,
    }


def _write_files(
    rows: Iterator[dict[str, Any]], folder: Path, features: datasets.Features, *, split: str, rows_per_file: int
) -> None:
    """Write `split-00000-of-00002.parquet` and so on."""
    files = []
    for number in itertools.count():
        first = next(rows, None)
        if first is None:
            break
        files.append(folder / f"{split}-{number:05d}.parquet")
        with ParquetWriter(features=features, path=str(files[-1]), writer_batch_size=ROWS_PER_WRITE) as writer:
            for row in itertools.chain([first], itertools.islice(rows, rows_per_file - 1)):
                writer.write(features.encode_example(row))
            writer.finalize()
    if not files:
        raise ValueError("The source has no rows.")
    for file in files:
        file.rename(file.with_name(f"{file.stem}-of-{len(files):05d}.parquet"))


def _write_provenance(folder: Path, written: AugmentedSet, drawer: RowDrawer, *, copies: int) -> None:
    """Write down what made the set, so that it can be made again."""
    description = {
        "version": __version__,
        "seed": drawer.seed,
        "copies": copies,
        "num_originals": written.num_originals,
        "num_copies": written.num_copies,
        "augmentation": drawer.augmentation.recipe.to_dict() if drawer.augmentation else None,
        "colour": drawer.colour.to_dict() if drawer.colour else None,
        "colour_audit": written.colour_audit.to_dict() if drawer.colour else None,
    }
    (folder / PROVENANCE_FILE).write_text(yaml.safe_dump(description, sort_keys=False), encoding="utf-8")
