"""The data of `hf-contour train PATH`: checked, and with a validation split."""

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from hf_contour.data.annotations import encoded
from hf_contour.data.checks import load_and_check
from hf_contour.data.findings import CheckReport
from hf_contour.data.hold_out import GROUP_COLUMN, hold_out
from hf_contour.data.labels import label_names
from hf_contour.data.sources import ColumnNames, load_source
from hf_contour.data.split_names import canonical
from hf_contour.image_processing_contour import open_image
from hf_contour.training.arguments import GenderArguments

HELD_OUT_SHARE = 0.2
# How a source is read: what a flag says, else the default of the training.
SOURCE_SETTINGS = (
    *("data_config", "image_column", "label_column", "label_names", "multi_label", "label_separator", "unlabelled"),
)
_LOOKED_AT = 50  # images whose shape is asked for


@dataclass(frozen=True)
class OwnData:
    """A data set that a training can use.

    Attributes:
        path: as it was given.
        settings: `data` and the settings with which it is read, and `validation_split`.
        num_train: images to train on.
        has_several_labels: whether an image may have more than one.
        aspect: height over width of the middle one of some images.
        scored_split: what figures are of; `None`: nothing is left to measure on.
        group_column: of near duplicates, where the rows have one.
    """

    path: str
    settings: dict[str, Any]
    num_train: int
    has_several_labels: bool
    aspect: float
    scored_split: str | None
    group_column: str | None


def find_data(path: str, given: Mapping[str, Any], run_folder: Path, *, say: Callable[..., None]) -> OwnData | None:
    """Checks the data, and holds out a part of it where it has no validation split.

    Returns:
        The data; `None` if the check found errors, which have been said.

    Raises:
        ValueError: If there is nothing that a classifier could learn.
    """
    reading = _reading(given)
    report = load_and_check(path, num_workers=os.cpu_count() or 1, **reading)
    say(report.table())
    if report.num_errors:
        say("error: nothing is trained on data with errors; correct them as the lines `do` say.")
        return None
    splits = _labelled_splits(report, given, path)
    rows = load_source(path, split=splits["train"], **reading)
    _refuse_one_class(rows, path)
    if splits["validation"] == "":
        return _held_out(path, rows, given, run_folder, test_split=splits["test"], reading=reading, say=say)
    say(f"validation: split {splits['validation']}" if splits["validation"] else "validation: none, as asked for")
    return OwnData(
        path=path,
        settings={
            "data": path,
            **{name: given.get(name, _default(name)) for name in SOURCE_SETTINGS},
            "validation_split": splits["validation"],
            "test_split": None,
        },
        num_train=len(rows),
        **_traits(rows),
        scored_split=splits["test"] or splits["validation"],
        group_column=GROUP_COLUMN if GROUP_COLUMN in rows.column_names else None,
    )


def _labelled_splits(report: CheckReport, given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """What is called train, validation (`""` where there is none) and test (`None`), by flags or by its name."""
    labelled = [split for split, facts in report.splits.items() if sum(facts["classes"].values())]
    known = {canonical(split): split for split in labelled}
    train = given.get("train_split", "train")
    if not {canonical(part) for part in train.split("+")} <= set(known):
        raise ValueError(
            f"{path} has no labelled split {train!r} to train on, only {', '.join(report.splits) or 'nothing'}; put "
            "the images of each class into a folder of its own, or fill the column label."
        )
    return {
        "train": train,
        "validation": given.get("validation_split", known.get("validation", "")),
        "test": given.get("test_split") or known.get("test"),
    }


def _held_out(
    path: str,
    rows: Dataset,
    given: Mapping[str, Any],
    run_folder: Path,
    *,
    test_split: str | None,
    reading: Mapping[str, Any],
    say: Callable[..., None],
) -> OwnData:
    names = label_names(rows)
    others = {"test": load_source(path, split=test_split, **{**reading, "label_names": names})} if test_split else {}
    dealt = hold_out(rows, run_folder / "data", share=HELD_OUT_SHARE, seed=given.get("seed", 0), others=others)
    say(f"validation: {dealt}")
    return OwnData(
        path=path,
        settings={
            "data": str(dealt.folder),
            **{name: _default(name) for name in SOURCE_SETTINGS},
            "train_split": "train",
            "validation_split": "validation",
            "test_split": None,
        },
        num_train=dealt.num_train,
        **_traits(rows),
        scored_split="test" if test_split else "validation",
        group_column=GROUP_COLUMN,
    )


def _reading(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `load_source` and `load_and_check`."""
    values = {name: given.get(name, _default(name)) for name in SOURCE_SETTINGS}
    columns = ColumnNames(values.pop("image_column"), None, values.pop("label_column"))
    return {"columns": columns, "config_name": values.pop("data_config"), **values}


def _default(name: str) -> Any:
    (item,) = (item for item in fields(GenderArguments) if item.name == name)
    return None if item.default is MISSING else item.default


def _refuse_one_class(rows: Dataset, path: str) -> None:
    names = label_names(rows)
    if len(names) < 2:
        raise ValueError(
            f"{path} has one class, {names[0]!r}; a classifier tells two or more apart. Put the images of each class "
            "into a folder of its own."
        )


def _traits(rows: Dataset) -> dict[str, Any]:
    """What the recipe depends on: kind of labels, and height over width of the middle one of some images."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, _LOOKED_AT).astype(int))
    images = [open_image(encoded(cell), least_size=(64, 64)) for cell in rows.select(chosen)["image"]]
    aspect = float(np.median([image.height / image.width for image in images]))
    return {"has_several_labels": not isinstance(rows.features["label"], ClassLabel), "aspect": aspect}
