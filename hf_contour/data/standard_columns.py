"""Bring the images and contours of any source to the columns `image` and `contours`, without decoding an image."""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Image, IterableDataset, List, Value, concatenate_datasets
from datasets.features import LargeList

from hf_contour.data.file_names import printable

# JPEG, PNG, GIF, WebP or another RIFF, BMP, TIFF (both byte orders), as base64 writes their first bytes.
_BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk", "SUkqA", "TU0AK")
_SHORTEST_BASE64 = 64  # no image is smaller, and few paths are longer and begin so

AnyDataset: TypeAlias = Dataset | IterableDataset


@dataclass(frozen=True)
class ColumnNames:
    """Names of the columns in a source; they are renamed to `image`, `contours` and `label`.

    A name other than the default must be there. `None` leaves that column alone.
    `contour`, the column that `imagefolder` makes of `contour_file_name`, is taken where `contours` is absent.
    """

    image: str = "image"
    contours: str | None = "contours"
    label: str | None = "label"


@dataclass(frozen=True)
class SourceTraits:
    """What the reading of cells depends on.

    Attributes:
        name: the source as the user gave it, for messages.
        split: the split, for messages.
        folder: relative image paths start here; `None` where images come in bytes.
        is_text: cells come from csv, so that numbers and lists are text.
        separator: separates several paths in a text cell.
        label_separator: separates several labels in a text cell.
        multi_label: text cells hold several labels, and lists of 0 and 1 may hold several 1.
        strict: a missing file or a bad label raises; if not, it is left for the check before training to list.
        files: names of the image files of the rows, for messages; empty where they are not known.
    """

    name: str
    split: str
    folder: Path | None = None
    is_text: bool = False
    separator: str = ";"
    label_separator: str = ";"
    multi_label: bool = False
    strict: bool = True
    files: tuple[str, ...] = field(default=(), repr=False)

    def row(self, index: int) -> str:
        """Words that name a row in a message."""
        file = f", {self.files[index]}" if index < len(self.files) else ""
        return f"{self.name}, split {self.split}, row {index} (counted from 0{file})"


def rename_columns(dataset: AnyDataset, columns: ColumnNames, traits: SourceTraits) -> AnyDataset:
    """Give the chosen columns their standard names; a column in the way becomes `original_<name>`.

    Raises:
        ValueError: If a named column is not there; the message lists those that are.
    """
    present = list(dataset.column_names or [])
    chosen = {"image": _found("image", columns.image, present, traits)}
    if columns.contours is not None:
        aliases = ("contour",) if columns.contours == "contours" else ()
        chosen["contours"] = _found("contours", columns.contours, present, traits, aliases=aliases)
    if columns.label is not None:
        chosen["label"] = _found("label", columns.label, present, traits)
    moves = {found: standard for standard, found in chosen.items() if found and found != standard}
    in_the_way = {name for name in moves.values() if name in present and name not in moves}
    if in_the_way:
        dataset = dataset.rename_columns({name: f"original_{name}" for name in in_the_way})
    return dataset.rename_columns(moves) if moves else dataset


def _found(
    standard: str, name: str, present: list[str], traits: SourceTraits, *, aliases: Iterable[str] = ()
) -> str | None:
    for candidate in (name, *aliases):
        if candidate in present:
            return candidate
    if standard == name and standard != "image":
        return None
    raise ValueError(
        f"{traits.name} has no column {name!r} for {standard}; its columns are {present}. {_how_to_name(standard)}."
    )


def _how_to_name(standard: str) -> str:
    return f"Name the right one with --{standard}_column (in Python with ColumnNames({standard}=...))"


def without_decoding(dataset: AnyDataset) -> AnyDataset:
    """Switch every image column, and list of images, to bytes and path."""
    if isinstance(dataset, IterableDataset):
        if dataset.features is None:  # a streamed text file: types are known after its first rows
            dataset = dataset.cast(Dataset.from_list(list(dataset.take(1000))).features)
        return dataset.decode(False)
    info = dataset.info.copy()
    info.features = Features({name: _undecoded(feature) for name, feature in dataset.features.items()})
    # cast() would write the whole data set again; only the declared types change here.
    return Dataset(dataset.data, info=info, split=dataset.split)


def _undecoded(feature: Any) -> Any:
    if isinstance(feature, Image):
        return Image(mode=feature.mode, decode=False)
    if isinstance(feature, List):
        return List(_undecoded(feature.feature), length=feature.length)
    return feature


def with_standard_images(dataset: AnyDataset, traits: SourceTraits) -> AnyDataset:
    """Make `image` an `Image(decode=False)` and `contours`, where present, a list of them.

    Paths become absolute and are checked; remote paths of a stream are read into bytes.
    """
    image_feature = Image(decode=False)
    dataset = _standard_column(dataset, "image", partial(_image_cell, traits=traits), image_feature, traits)
    if "contours" in dataset.features:
        dataset = _standard_column(
            dataset, "contours", partial(_contour_cells, traits=traits), List(image_feature), traits
        )
    return dataset


def _image_cell(value: Any, index: int, *, traits: SourceTraits) -> dict[str, Any] | None:
    if isinstance(value, list):
        if len(value) > 1:
            raise ValueError(
                f"{traits.row(index)}: the column image holds a list of {len(value)} images; expected one. "
                "Give each image a row of its own."
            )
        value = value[0] if value else None
    cell = image_cell(value, traits, f"{traits.row(index)}, column image")
    if cell is None and traits.strict:
        raise ValueError(f"{traits.row(index)}: there is no image. Remove the row or name its file.")
    return cell


def _contour_cells(value: Any, index: int, *, traits: SourceTraits) -> list[dict[str, Any]]:
    if traits.is_text and isinstance(value, str) and not value.startswith("data:"):
        value = [part.strip() for part in value.split(traits.separator)]
    values = value if isinstance(value, list) else [value]
    cells = (image_cell(one, traits, f"{traits.row(index)}, column contours") for one in values)
    return [cell for cell in cells if cell is not None]


def _standard_column(
    dataset: AnyDataset, column: str, function: Callable[[Any, int], Any], feature: Any, traits: SourceTraits
) -> AnyDataset:
    stored = dataset.features[column]
    inner = stored.feature if isinstance(stored, List | LargeList) else stored
    if not isinstance(inner, Image) and not _holds_images(inner):
        raise ValueError(
            f"{traits.name}: column {column!r} is {stored}; expected images (bytes, paths or an Image column). "
            f"Its columns are {list(dataset.features)}. {_how_to_name(column)}."
        )
    from_files = isinstance(inner, Value) and "string" in inner.dtype
    if stored == feature and isinstance(dataset, Dataset):
        if traits.strict:
            for index in _rows_without_bytes(dataset, column):
                function(dataset[index][column], index)
        return dataset
    return replace_column(dataset, column, function, feature, in_memory=from_files)


def _rows_without_bytes(dataset: Dataset, column: str) -> Iterator[int]:
    """Numbers of the rows with an image that is empty or a path, found without reading the others' bytes."""
    start = 0
    for chunk in dataset.select_columns([column]).with_format("arrow")[:].column(column).chunks:
        is_list = pa.types.is_list(chunk.type)
        cells = pc.list_flatten(chunk) if is_list else chunk
        rows = pc.list_parent_indices(chunk).to_numpy() if is_list else np.arange(len(chunk))
        is_empty = pc.is_null(pc.struct_field(cells, "bytes")).to_numpy(zero_copy_only=False)
        yield from (start + np.unique(rows[is_empty])).tolist()
        start += len(chunk)


def _holds_images(feature: Any) -> bool:
    if isinstance(feature, Value):
        return "string" in feature.dtype or "binary" in feature.dtype
    return isinstance(feature, dict) and not {"bytes", "path"}.isdisjoint(feature)


def image_cell(value: Any, traits: SourceTraits, where: str) -> dict[str, Any] | None:
    """One image as `{"bytes", "path"}`; `None` for an empty cell.

    Raises:
        FileNotFoundError: If the cell names a file that is not there.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if isinstance(value, dict) and value.get("bytes") is not None:
        return {"bytes": value["bytes"], "path": value.get("path")}
    path = value.get("path") if isinstance(value, dict) else value
    if path is None:
        return None
    content = _image_of_text(path)
    if content is not None:
        return {"bytes": content, "path": None}
    if "://" in path and traits.strict:
        return _fetched(path, where, allowed=isinstance(value, dict))
    file = Path(path) if traits.folder is None else traits.folder / path
    if traits.strict and not file.is_file():
        raise FileNotFoundError(
            f"{where}: the file {printable(file)} is not there. Correct the row or put the file in place."
        )
    return {"bytes": None, "path": str(file.absolute())}


def _image_of_text(text: str) -> bytes | None:
    """The bytes of an image that was written into the cell itself, as base64 or a `data:` address; else None."""
    if text.startswith("data:image/"):
        _, _, text = text.partition(",")
    elif not text.startswith(_BASE64_STARTS) or len(text) < _SHORTEST_BASE64:
        return None
    try:
        return base64.b64decode(re.sub(r"\s+", "", text), validate=True)
    except binascii.Error:
        return None


def _fetched(path: str, where: str, *, allowed: bool) -> dict[str, Any]:
    """Read a member of an archive or a file of the Hub that a stream names by its address."""
    if not allowed:
        raise ValueError(
            f"{where}: {path!r} is an address; expected a path relative to the table. Fetch the file first."
        )
    with fsspec.open(path, "rb") as file:
        return {"bytes": file.read(), "path": path}


def replace_column(
    dataset: AnyDataset, column: str, function: Callable[[Any, int], Any], feature: Any, *, in_memory: bool = True
) -> AnyDataset:
    """Replace one column by `function(value, row number)`, leaving the others as they lie on disk."""
    apply = partial(_apply, column=column, function=function)  # not a closure: workers receive streams pickled
    if isinstance(dataset, IterableDataset):
        features = Features({**dataset.features, column: feature})
        return dataset.map(apply, with_indices=True, features=features)
    if in_memory:  # small cells; not cached, since files that it checks may vanish
        cells = [function(value, index) for index, value in enumerate(dataset[column])]
        return with_column(dataset, Dataset.from_dict({column: cells}, features=Features({column: feature})))
    changed = dataset.select_columns([column]).map(
        apply, with_indices=True, features=Features({column: feature}), desc=f"Reading {column}"
    )
    return with_column(dataset, changed)


def _apply(row: dict[str, Any], index: int, *, column: str, function: Callable[[Any, int], Any]) -> dict[str, Any]:
    return {column: function(row[column], index)}


def with_column(dataset: Dataset, column: Dataset) -> Dataset:
    """Put a one-column data set in the place of the column of that name."""
    (name,) = column.column_names
    order = dataset.column_names
    if len(order) == 1:
        return column
    joined = concatenate_datasets([dataset.remove_columns(name), column], axis=1, split=dataset.split)
    return joined.select_columns(order)
