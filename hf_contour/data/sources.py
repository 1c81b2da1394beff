"""Read images, contours and labels from wherever they are into the same columns.

`load_source` gives `image` (`Image(decode=False)`), `contours` (a list of it, one per annotator) and `label`
(`ClassLabel`, or a list of it) where the source has them; other columns are kept. No image is decoded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, concatenate_datasets

from hf_contour.data.file_names import printable
from hf_contour.data.label_columns import with_standard_labels, without_unlabelled
from hf_contour.data.labels import label_names
from hf_contour.data.open_source import OpenSource
from hf_contour.data.opening import open_source
from hf_contour.data.problems import SourceError, report_problems
from hf_contour.data.source_kinds import SOURCE_KINDS, detect_kind
from hf_contour.data.split_names import matching_split
from hf_contour.data.standard_columns import (
    AnyDataset,
    ColumnNames,
    SourceTraits,
    rename_columns,
    with_standard_images,
    without_decoding,
)

__all__ = ["SOURCE_KINDS", "ColumnNames", "detect_kind", "label_names", "load_source", "source_splits"]

UNLABELLED = ("error", "skip")


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
    label_separator: str | None = None,
    unlabelled: str = "error",
    cache_dir: str | Path | None = None,
    strict: bool = True,
) -> AnyDataset:
    """Load one split with the columns `image`, `contours` and `label`.

    What cannot be understood for certain is refused; what is odd stands in the log.

    Args:
        source: a Hub id; a Parquet file, glob pattern or folder; a csv file, or folder of them; a BSDS folder; a
            folder whose README lists `configs:`, or that `save_to_disk` wrote; a folder of images (class folders or
            `metadata.csv`), or a zip file of one. See `detect_kind`.
        split: `train`, `validation` (also `val`) or `test`, as the source has them; `train+validation` joins two.
        columns: names of the columns in the source. With `label=None` no label is looked at, as prediction needs it.
        streaming: give an `IterableDataset`, which is read while it is used and not copied to the cache.
        label_names: class names that fix the numbers. Give those of the training split for every other split.
        config_name: configuration of a Hub data set or of a folder with a README; `None` takes its default.
        kind: one of `SOURCE_KINDS` where the guess of `detect_kind` would be wrong.
        multi_label: cells of a csv hold several labels (columns that are lists need no word, except one-hot lists).
        separator: between several contour paths in a cell of a csv.
        label_separator: between several labels in such a cell; `None` takes `separator`.
        unlabelled: `skip` leaves rows without a label (null, blank, -1) out and counts them; `error` refuses them.
        cache_dir: folder of the cache of `datasets`; `None` takes its default.
        strict: `False` keeps rows whose image is not there, and gives rows with a bad label the label `None` and
            what is wrong in the column `label_problem`: for the check before training. Not for streams.

    Returns:
        A `Dataset`, or an `IterableDataset` when streaming. Labels were all checked, in a stream when they are read.

    Raises:
        ValueError: If splits, classes or a table leave a doubt (`SourceError`), a column or a split is not there, or a
            label is missing, a float, negative, out of range or unknown; the message names the file or the row.
        FileNotFoundError: If the source, or an image that it names, is not there, or the Hub cannot be reached.
    """
    if streaming and not strict:
        raise ValueError("strict=False lists all problems of a split, which a stream cannot; leave streaming out.")
    if unlabelled not in UNLABELLED:
        raise ValueError(f"unlabelled is {unlabelled!r}; expected one of {', '.join(UNLABELLED)}.")
    columns = columns or ColumnNames()
    kind = kind or detect_kind(source)
    opened = open_source(source, kind=kind, columns=columns, config_name=config_name, cache_dir=cache_dir)
    chosen = [matching_split(part.strip(), opened.splits, source) for part in split.split("+")]
    if strict:
        report_problems([*opened.problems, *(one for name in chosen for one in opened.split_problems(name))])
    traits = SourceTraits(
        printable(source),
        split,
        opened.folder,
        opened.is_text,
        separator,
        label_separator or separator,
        multi_label,
        strict,
        files=() if streaming else tuple(file for name in chosen for file in opened.row_files(name)),
    )
    dataset = _stored_rows(opened, chosen, columns, traits, streaming=streaming)
    if columns.label is not None and "label" in dataset.features and unlabelled == "skip":
        dataset = without_unlabelled(dataset, traits)
        traits = replace(traits, files=())  # rows have other numbers now
    stored = dataset
    dataset = with_standard_images(dataset, traits)
    if columns.label is None or "label" not in dataset.features:
        return dataset
    if streaming and label_names is None and kind == "hub" and not _has_class_names(dataset):
        raise ValueError(f"{source} is streamed and its labels have no names; give label_names.")
    # Of a stream this is a pass over it as stored: a word must have its number before the first row is used.
    return with_standard_labels(
        dataset,
        traits,
        names=list(label_names) if label_names is not None else None,
        values=lambda: _label_values(stored),
    )


def label_reading(arguments: Any) -> dict[str, Any]:
    """Those settings of a command that say how `load_source` reads labels."""
    return {name: getattr(arguments, name) for name in ("multi_label", "label_separator", "unlabelled")}


def _stored_rows(
    opened: OpenSource, splits: Sequence[str], columns: ColumnNames, traits: SourceTraits, *, streaming: bool
) -> AnyDataset:
    """The rows of some splits as they are stored, their columns called by the standard names."""
    parts = [without_decoding(opened.read(name, streaming)) for name in splits]
    dataset = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    if isinstance(dataset, Dataset) and not len(dataset):
        raise SourceError("split_empty", f"{traits.name}, split {traits.split}: there are no rows.")
    return rename_columns(dataset, columns, traits)


def source_splits(source: str | Path, *, kind: str | None = None, config_name: str | None = None) -> list[str]:
    """List the splits of a source.

    Files and folders named for a split are that split (`val` and `validation` are one); what bears no such name is
    `train`.
    """
    kind = kind or detect_kind(source)
    return open_source(source, kind=kind, columns=ColumnNames(), config_name=config_name).splits


def _has_class_names(dataset: AnyDataset) -> bool:
    stored = dataset.features["label"]
    return isinstance(getattr(stored, "feature", stored), ClassLabel)


def _label_values(dataset: AnyDataset) -> Iterator[Any]:
    if isinstance(dataset, Dataset):
        yield from dataset["label"]
        return
    for row in dataset.select_columns(["label"]):
        yield row["label"]
