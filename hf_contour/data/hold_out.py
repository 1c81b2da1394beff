"""A validation split for a data set that has none: a part of each class, no near duplicate of which stays in training.

The rows are dealt once and written down as Parquet files (`train.parquet`, `validation.parquet`), which name image
files where the source has such, and hold the images where it holds them. Every command reads them like any other data
set; the column `near_dup_cluster` has the groups of near duplicates.

Shapes: N rows.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray

from hf_contour.data.fingerprints import listing_sha256
from hf_contour.data.labels import label_names
from hf_contour.data.near_duplicates import near_duplicate_groups
from hf_contour.io import write_json, writing

GROUP_COLUMN = "near_dup_cluster"
_DEAL_STREAM = 0xDEA1  # keeps these random numbers apart from those of the order and of augmentation
_RECORD = "hold_out.json"
_MOST_OVER = 1.25  # times the share that is wanted, by which large groups may pass it


@dataclass(frozen=True)
class HoldOut:
    """A data set with a validation split.

    Attributes:
        folder: of the Parquet files.
        num_train: rows to train on.
        num_validation: rows held out.
        num_near_duplicates: rows that have a near duplicate.
        grouped_by: how near duplicates were found, in words.
    """

    folder: Path
    num_train: int
    num_validation: int
    num_near_duplicates: int
    grouped_by: str

    def __str__(self) -> str:
        return (
            f"{self.num_validation} of {self.num_train + self.num_validation} images are held out as the validation "
            f"split, drawn from each class; {self.num_near_duplicates} have near duplicates ({self.grouped_by}), all "
            f"of which stay on one side: {self.folder}"
        )


def hold_out(
    rows: Dataset, folder: Path, *, share: float, seed: int, others: dict[str, Dataset] | None = None
) -> HoldOut:
    """Deals rows into `train` and `validation`, or finds what was dealt before from the same rows.

    Args:
        rows: the training split, as `load_source` gives it; with a column `near_dup_cluster`, its groups count.
        folder: for the files.
        share: of each class that is held out, in 0..1.
        seed: of the draw.
        others: further splits by their names, which are written beside as they are.

    Raises:
        ValueError: If a class has not two images that are no near duplicates of each other; names it.
        OutputError: If the folder cannot be written.
    """
    key = {"rows": listing_sha256(rows), "share": share, "seed": seed}
    if (record := _read_record(folder)).get("key") == key:
        return HoldOut(folder=folder, **record["dealt"])
    has_groups = GROUP_COLUMN in rows.column_names
    groups = _numbered(rows[GROUP_COLUMN]) if has_groups else near_duplicate_groups(rows)
    held = held_out_rows(rows, groups, share=share, seed=seed)
    if not has_groups:
        rows = rows.add_column(GROUP_COLUMN, groups.tolist())
    splits = {"train": rows.select(np.flatnonzero(~held)), "validation": rows.select(np.flatnonzero(held))}
    dealt: dict[str, Any] = {
        "num_train": int((~held).sum()),
        "num_validation": int(held.sum()),
        "num_near_duplicates": int((np.bincount(groups)[groups] > 1).sum()),
        "grouped_by": f"column {GROUP_COLUMN}" if has_groups else "thumbnails compared",
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, part in {**splits, **(others or {})}.items():
            part.to_parquet(folder / f"{name}.parquet")
    write_json(folder / _RECORD, {"key": key, "dealt": dealt})
    return HoldOut(folder=folder, **dealt)


def held_out_rows(rows: Dataset, groups: NDArray[np.int64], *, share: float, seed: int) -> NDArray[np.bool_]:
    """`(N,)`: which rows are held out, whole groups of them, about the share of each class and of no class all.

    A group with several classes counts for its rarest; so does a row with several labels.

    Args:
        rows: with the column `label`.
        groups: `(N,)`, equal for near duplicates.
        share: that is wanted, in 0..1.
        seed: of the draw.

    Raises:
        ValueError: If a class has no image, or not two groups; names it.
    """
    names, classes = label_names(rows), _rarest_classes(rows)
    for number, name in enumerate(names):
        _refuse_scarce(name, int((classes == number).sum()), len(np.unique(groups[classes == number])))
    counts = np.bincount(classes, minlength=len(names))
    rarest_first = np.argsort(counts[classes], kind="stable")
    of_group = dict(zip(groups[rarest_first[::-1]].tolist(), classes[rarest_first[::-1]].tolist(), strict=True))
    sizes = np.bincount(groups)
    shuffled = np.random.default_rng([_DEAL_STREAM, seed]).permutation(len(sizes)).tolist()
    held: set[int] = set()
    for number in range(len(names)):
        own = [group for group in shuffled if of_group.get(group) == number]
        held |= _drawn_groups(own, sizes, wanted=max(1, round(share * counts[number])))
    return np.isin(groups, sorted(held))


def _drawn_groups(groups: list[int], sizes: NDArray[np.int64], *, wanted: int) -> set[int]:
    """The first groups that together have about so many rows, but never all; the smallest where each has more."""
    drawn: set[int] = set()
    num_rows = 0
    for group in groups:
        if num_rows < wanted and num_rows + sizes[group] <= _MOST_OVER * wanted and len(drawn) + 1 < len(groups):
            drawn.add(group)
            num_rows += sizes[group]
    return drawn or set(sorted(groups, key=lambda group: sizes[group])[:1] if len(groups) > 1 else [])


def _rarest_classes(rows: Dataset) -> NDArray[np.int64]:
    """`(N,)`: the class of each row; of several the rarest, -1 of none."""
    labels = rows["label"][:]
    if isinstance(rows.features["label"], ClassLabel):
        return np.asarray(labels, dtype=np.int64)
    counts = np.bincount([one for row in labels for one in row], minlength=len(label_names(rows)))
    return np.array([min(row, key=lambda one: counts[one]) if row else -1 for row in labels], dtype=np.int64)


def _refuse_scarce(name: str, num_images: int, num_groups: int) -> None:
    if num_groups < 2:
        near = "" if num_images < 2 else ", all of them near duplicates of each other"
        raise ValueError(
            f"the class {name!r} has {num_images} image{'s' * (num_images != 1)}{near}; to train and to measure it "
            "takes two that differ, and some dozens to do it well. Add images, or leave the class out."
        )


def _numbered(values: Sequence[Any]) -> NDArray[np.int64]:
    """`(N,)`: numbers from 0 on for the groups of a column; a row without a value is a group of its own."""
    own = [f"row {index}" if value is None else repr(value) for index, value in enumerate(values)]
    return np.unique(own, return_inverse=True)[1].astype(np.int64)


def _read_record(folder: Path) -> dict[str, Any]:
    """What an earlier deal wrote down last; empty where there was none."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
