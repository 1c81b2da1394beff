"""Folders of images without a table, opened as sources."""

from functools import cache, partial
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image

from hf_contour.data.class_folders import FolderSplit, read_split, split_folder_problems, split_folders
from hf_contour.data.file_names import is_utf8, printable
from hf_contour.data.open_source import OpenSource, as_asked
from hf_contour.data.problems import Problem, SourceError
from hf_contour.data.standard_columns import AnyDataset, ColumnNames


def open_folder(path: Path, columns: ColumnNames) -> OpenSource:
    """Open a folder of images, with classes where its folders tell them and labels are asked for."""
    folder = path.absolute()
    folders = split_folders(folder)
    read_as = partial(read_split, with_labels=columns.label is not None)
    listed_splits = cache(lambda split: read_as(folders[split]))

    def problems_of(split: str) -> list[Problem]:
        has_classes = any(listed_splits(other).classes for other in folders)
        return listed_splits(split).problems + _unlabelled_problems(listed_splits(split), has_classes)

    def read(split: str, streaming: bool) -> AnyDataset:
        return as_asked(_dataset(listed_splits(split)), streaming)

    return OpenSource(
        list(folders),
        read,
        folder,
        problems=split_folder_problems(folder),
        split_problems=problems_of,
        row_files=lambda split: tuple(printable(image) for image in listed_splits(split).images),
    )


def _dataset(split: FolderSplit) -> Dataset:
    if not split.images:
        reasons = " ".join(problem.message for problem in split.problems)
        raise NoImagesError(
            "split_empty", f"{printable(split.folder)} has no image in it or its sub-folders. {reasons}".strip()
        )
    columns: dict[str, list[Any]] = {"image": [_cell(image) for image in split.images]}
    features: dict[str, Any] = {"image": Image(decode=False)}
    if split.classes:
        features["label"] = ClassLabel(names=split.classes)
        numbers = {name: number for number, name in enumerate(split.classes)}
        columns["label"] = [numbers[name] for name in split.labels]
    return Dataset.from_dict(columns, features=Features(features))


class NoImagesError(SourceError, FileNotFoundError):
    """A folder in which there is nothing to read."""


def _cell(image: Path) -> dict[str, Any]:
    if is_utf8(image):
        return {"bytes": None, "path": str(image)}
    return {"bytes": image.read_bytes(), "path": printable(image)}  # its path could not be stored


def _unlabelled_problems(split: FolderSplit, has_classes: bool) -> list[Problem]:
    if not has_classes or split.classes or not split.images:
        return []
    message = (
        f"{printable(split.folder)} has {len(split.images):,} images and no class folders: the split can be "
        "predicted, not trained on or scored."
    )
    return [Problem("split_unlabelled", message)]
