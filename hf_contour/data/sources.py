"""Read images, contours and labels from wherever they are into the same columns.

`load_source` gives `image` (`Image(decode=False)`), `contours` (a list of it, one per annotator) and `label`
(`ClassLabel`, or a list of it) where the source has them; other columns are kept. No image is decoded.
"""

import csv
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    IterableDataset,
    concatenate_datasets,
    get_dataset_split_names,
    load_dataset,
)
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from hf_contour.data.bsds import BSDS_FEATURES, find_bsds_root, read_bsds_rows
from hf_contour.data.hub import hub_or_cache, telling_nobody
from hf_contour.data.labels import label_names
from hf_contour.data.standard_columns import (
    AnyDataset,
    ColumnNames,
    SourceTraits,
    rename_columns,
    with_standard_images,
    with_standard_labels,
    without_decoding,
)

__all__ = ["SOURCE_KINDS", "ColumnNames", "detect_kind", "label_names", "load_source", "source_splits"]

logger = logging.getLogger(__name__)

SOURCE_KINDS = ("hub", "csv", "parquet", "bsds", "configured_folder", "imagefolder")
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def load_source(
    source: str | Path,
    *,
    split: str = "train",
    columns: ColumnNames | None = None,
    streaming: bool = False,
    label_names: Sequence[str] | None = None,
    config_name: str | None = None,
    kind: str | None = None,
    multi_label: bool = False,
    separator: str = ";",
    cache_dir: str | Path | None = None,
    strict: bool = True,
) -> AnyDataset:
    """Load one split with the columns `image`, `contours` and `label`.

    Args:
        source: a Hub id; a Parquet file, glob pattern or folder; a csv file, or folder of them; a BSDS folder; a
            folder whose README lists `configs:`; or a folder of images (class sub-folders or `metadata.csv`). See
            `detect_kind`.
        split: `train`, `validation` (also `val`) or `test`, as the source has them; `train+validation` joins two.
        columns: names of the columns in the source.
        streaming: give an `IterableDataset`, which is read while it is used and not copied to the cache.
        label_names: class names that fix the numbers. Give those of the training split for every other split.
        config_name: configuration of a Hub data set or of a folder with a README; `None` takes its default.
        kind: one of `SOURCE_KINDS` where the guess of `detect_kind` would be wrong.
        multi_label: cells of a csv hold several labels (columns that are lists need no word).
        separator: between several contour paths, or labels, in a cell of a csv.
        cache_dir: folder of the cache of `datasets`; `None` takes its default.
        strict: `False` keeps rows whose image is not there, and gives rows with a bad label the label `None` and
            what is wrong in the column `label_problem`: for the check before training. Not for streams.

    Returns:
        A `Dataset`, or an `IterableDataset` when streaming. Labels were all checked, in a stream when they are read.

    Raises:
        ValueError: If a column or a split is not there, or a label is missing, a float, negative, out of range or
            unknown; the message names the row.
        FileNotFoundError: If the source, or an image that it names, is not there, or the Hub cannot be reached.
    """
    if streaming and not strict:
        raise ValueError("strict=False lists all problems of a split, which a stream cannot; leave streaming out.")
    kind = kind or detect_kind(source)
    columns = columns or ColumnNames()
    splits = source_splits(source, kind=kind, config_name=config_name)
    chosen = [_matching_split(part.strip(), splits, source) for part in split.split("+")]
    traits = SourceTraits(
        str(source), split, _image_folder(source, kind), kind == "csv", separator, multi_label, strict
    )
    read = partial(_read, source, kind, columns=columns, config_name=config_name, cache_dir=cache_dir)
    table = _csv_table(Path(source).expanduser(), kind)
    with _reaching(source, kind):
        parts = [_rows_of_split(without_decoding(read(split=one, streaming=streaming)), table, one) for one in chosen]
    dataset = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    dataset = with_standard_images(rename_columns(dataset, columns, traits), traits)
    if columns.label is None or "label" not in dataset.features:
        return dataset
    names = list(label_names) if label_names is not None else None
    values = None
    if streaming and names is None and not _has_class_names(dataset):
        if kind == "hub":
            raise ValueError(f"{source} is streamed and its labels have no names; give label_names.")
        # One pass over the stream as stored: a word must have its number before the first row is used.
        values = _stream_values(parts, columns.label)
    return with_standard_labels(dataset, traits, names=names, values=values)


def detect_kind(source: str | Path) -> str:
    """Tell what a source is; the first that fits, in this order.

    1. a path that does not exist: a glob pattern is `parquet`, `name` or `owner/name` given as text is `hub`
    2. a file: `.csv` is `csv`, `.parquet` is `parquet`
    3. a folder with `images` and `groundTruth` (also inside `data` or `BSDS500/data`) is `bsds`
    4. a folder whose README.md has `configs:` is `configured_folder`
    5. a folder with Parquet files of splits (`train*.parquet`, `train/*.parquet`, `data/train*.parquet`) is `parquet`
    6. a folder with csv files of splits (`train*.csv`) is `csv`
    7. any other folder is `imagefolder`

    A source that exists here is never looked up on the Hub.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a file has another suffix.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _kind_of_file(path)
    if path.is_dir():
        return _kind_of_folder(path)
    if any(letter in str(source) for letter in "*?["):
        return "parquet"
    looks_like_file = path.suffix.lower() in {".csv", ".parquet", ".mat", ".zip"}
    if isinstance(source, Path) or looks_like_file or not _HUB_ID.fullmatch(source):
        raise FileNotFoundError(f"{source} is not there; expected a file, a folder, a glob pattern or a Hub id.")
    return "hub"


def _kind_of_file(path: Path) -> str:
    kinds = {".csv": "csv", ".parquet": "parquet"}
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{path} is a {path.suffix or 'file without suffix'}; expected .csv, .parquet or a folder.")
    return kinds[path.suffix.lower()]


def _kind_of_folder(path: Path) -> str:
    if find_bsds_root(path):
        return "bsds"
    readme = path / "README.md"
    if readme.is_file() and re.match(r"---\n(.*\n)*?configs:", readme.read_text(encoding="utf-8")):
        return "configured_folder"
    if _parquet_files(path):
        return "parquet"
    return "csv" if _csv_files(path) else "imagefolder"


def source_splits(source: str | Path, *, kind: str | None = None, config_name: str | None = None) -> list[str]:
    """List the splits of a source.

    Files and folders named for a split are that split (`val` and `validation` are one); what bears no such name is
    `train`.
    """
    kind = kind or detect_kind(source)
    if kind not in SOURCE_KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {SOURCE_KINDS}.")
    if kind in ("hub", "configured_folder"):
        with _reaching(source, kind):
            return list(get_dataset_split_names(_address(source, kind), config_name))
    if config_name is not None:
        raise ValueError(f"config_name is {config_name!r}, but {source} ({kind}) has no configurations; leave it out.")
    if kind == "csv":
        return list(_csv_files(Path(source).expanduser()))
    if kind == "parquet":
        return list(_parquet_files(source))
    if kind == "bsds":
        return list(_bsds_folders(Path(source).expanduser()))
    path = Path(source).expanduser()
    table = _csv_table(path, kind)
    return list(_imagefolder_files(path) if table is None else _csv_files(table))


def _matching_split(split: str, splits: list[str], source: str | Path) -> str:
    """Find a split by its name, or by another name for the same thing."""
    if split in splits:
        return split
    same = [name for name in splits if _SPLIT_WORDS.get(name, name) == _SPLIT_WORDS.get(split, split)]
    if not same:
        raise ValueError(f"{source} has no split {split!r}; its splits are {splits}.")
    return same[0]


def _reaching(source: str | Path, kind: str) -> AbstractContextManager[None]:
    """How `datasets` may use the network for a source."""
    return hub_or_cache(source) if kind == "hub" else telling_nobody()


def _read(
    source: str | Path,
    kind: str,
    *,
    split: str,
    streaming: bool,
    columns: ColumnNames,
    config_name: str | None,
    cache_dir: str | Path | None,
) -> AnyDataset:
    """Hand one split to the loader of `datasets` for this kind."""
    path = Path(source).expanduser()
    load = partial(load_dataset, streaming=streaming, cache_dir=None if cache_dir is None else str(cache_dir))
    if kind in ("hub", "configured_folder"):
        return load(_address(source, kind), config_name, split=split)
    if kind == "parquet":
        # Only the files of this split: with all of them, `datasets` casts every split to the types of the first.
        return load("parquet", data_files={split: _parquet_files(source)[split]}, split=split)
    if kind == "csv":
        return _read_csv(_csv_files(path)[split], columns=columns, load=load)
    if kind == "bsds":
        return _read_bsds(path, split=split, streaming=streaming)
    return _read_imagefolder(path, split=split, load=load)


def _address(source: str | Path, kind: str) -> str:
    """Hub id, or an absolute path, which `datasets` cannot take for a Hub id."""
    return str(source) if kind == "hub" else str(Path(source).expanduser().absolute())


def _split_of_name(name: str) -> str | None:
    """Split that a file or folder name begins with: `val-00000-of-00001.parquet` is `validation`."""
    return _SPLIT_WORDS.get(re.split(r"[^a-z]", name.lower(), maxsplit=1)[0])


def _parquet_files(source: str | Path) -> dict[str, list[str]]:
    """Parquet files by split. A folder counts only files and sub-folders named for a split."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = [*path.glob("*.parquet"), *path.glob("*/*.parquet"), *path.glob("data/*/*.parquet")]
        names = {file: _split_of_name(file.name) or _split_of_name(file.parent.name) for file in files}
        found = {file: name for file, name in names.items() if name and file.name not in _METADATA_FILES}
    else:
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        files = [path] if path.is_file() else list(anchor.glob(str(path.relative_to(anchor))))
        if not files:
            raise FileNotFoundError(f"{source} matches no file.")
        found = {file: _split_of_name(file.name) or "train" for file in files}
    return {
        name: sorted(str(file.absolute()) for file, split in found.items() if split == name)
        for name in ("train", "validation", "test")
        if name in found.values()
    }


def _csv_files(path: Path) -> dict[str, Path]:
    """File of each split: by the column `split` if there is one, else by the beginning of the file name."""
    if path.is_dir():
        return {split: file for file in sorted(path.glob("*.csv")) if (split := _split_of_name(file.name))}
    if not _has_split_column(path):
        return {_split_of_name(path.name) or "train": path}
    with path.open(newline="", encoding="utf-8-sig") as file:
        return dict.fromkeys((row["split"].strip() for row in csv.DictReader(file) if row["split"]), path)


def _header(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8-sig") as file:
        return next(csv.reader(file), [])


def _has_split_column(path: Path) -> bool:
    return "split" in _header(path)


def _read_csv(path: Path, *, columns: ColumnNames, load: Any) -> AnyDataset:
    header = _header(path)
    ours = [name for name in header if name in {columns.image, columns.contours, columns.label, "contour", "split"}]
    return load(
        "csv",
        data_files={"train": str(path.absolute())},
        split="train",
        encoding="utf-8-sig",
        # Text as it stands: pandas would read a class "NA" as missing, and "01" as 1.
        converters=dict.fromkeys(ours, str.strip),
        keep_default_na=False,
        na_values={name: [""] for name in header if name not in ours},
    )


def _csv_table(path: Path, kind: str) -> Path | None:
    """The table whose column `split` tells the rows of a split, if there is one."""
    table = {"csv": path, "imagefolder": path / "metadata.csv"}.get(kind)
    return table if table is not None and _has_split_column(table) else None


def _rows_of_split(dataset: AnyDataset, table: Path | None, split: str) -> AnyDataset:
    if table is None:
        return dataset
    return dataset.filter(partial(_is_of_split, split=split))


def _is_of_split(row: dict[str, Any], *, split: str) -> bool:
    return str(row["split"]).strip() == split


def _bsds_folders(path: Path) -> dict[str, str]:
    root = find_bsds_root(path)
    if root is None:
        raise FileNotFoundError(f"{path} is no BSDS folder; expected the sub-folders images and groundTruth.")
    folders = sorted(folder.name for folder in (root / "images").iterdir() if folder.is_dir())
    return {_SPLIT_WORDS.get(name, name): name for name in folders}


def _read_bsds(path: Path, *, split: str, streaming: bool) -> AnyDataset:
    arguments = {"root": str(find_bsds_root(path)), "folder_name": _bsds_folders(path)[split]}
    if streaming:
        return IterableDataset.from_generator(read_bsds_rows, features=BSDS_FEATURES, gen_kwargs=arguments)
    # In memory (1-bit maps are small): a cache would not notice that a .mat file changed.
    return Dataset.from_list(list(read_bsds_rows(**arguments)), features=BSDS_FEATURES)


def _imagefolder_files(path: Path) -> dict[str, str]:
    """Glob pattern of each split: sub-folders named for a split, else the whole folder as `train`."""
    folders = {_SPLIT_WORDS.get(folder.name.lower()): folder for folder in sorted(path.iterdir()) if folder.is_dir()}
    named = {name: folder for name, folder in folders.items() if name}
    if not named or any((path / name).is_file() for name in _METADATA_FILES):
        return {"train": str(path.absolute() / "**")}
    return {name: str(named[name].absolute() / "**") for name in ("train", "validation", "test") if name in named}


def _read_imagefolder(path: Path, *, split: str, load: Any) -> AnyDataset:
    patterns = _imagefolder_files(path)
    roots = [Path(pattern).parent for pattern in patterns.values()]
    has_metadata = any(next(root.rglob(name), None) for root in roots for name in _METADATA_FILES)
    # Labels are the sub-folders as soon as there is one; `datasets` alone would drop them below two classes.
    has_classes = any(entry.is_dir() and not entry.name.startswith(".") for root in roots for entry in root.iterdir())
    if not any(file.suffix.lower() in {*ImageFolder.EXTENSIONS, ".zip"} for root in roots for file in root.rglob("*")):
        raise FileNotFoundError(f"{path} has no image in it or its sub-folders.")
    shared_table = _csv_table(path, "imagefolder") is not None
    return load(
        "imagefolder",
        data_files=patterns,
        split="train" if shared_table else split,
        drop_labels=has_metadata or not has_classes,
    )


def _image_folder(source: str | Path, kind: str) -> Path | None:
    """Where relative image paths start: the folder, or that of the table; `None` where there are none."""
    if kind not in ("csv", "parquet", "imagefolder"):
        return None
    path = Path(source).expanduser().absolute()
    return path if path.is_dir() else path.parent


def _has_class_names(dataset: AnyDataset) -> bool:
    stored = dataset.features["label"]
    return isinstance(getattr(stored, "feature", stored), ClassLabel)


def _stream_values(parts: list[IterableDataset], column: str) -> Iterator[Any]:
    for part in parts:
        for row in part.select_columns([column]):
            yield row[column]
