"""The check before training: every row is read, and what is wrong or odd is counted and listed."""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, List
from huggingface_hub.utils import tqdm

from hf_contour.data.file_names import printable
from hf_contour.data.findings import CheckReport, Finding
from hf_contour.data.image_checks import ImageLimits, check_contours, check_image
from hf_contour.data.label_columns import LABEL_PROBLEM
from hf_contour.data.labels import absent_classes
from hf_contour.data.opening import open_source
from hf_contour.data.problems import Problem, SourceError
from hf_contour.data.sources import ColumnNames, detect_kind, label_names, load_source
from hf_contour.data.split_names import matching_split

_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class _CheckedRow:
    split: str
    row: int
    file: str
    label: Any
    digest: bytes | None
    num_contours: int
    problems: list[tuple[str, str]]

    def finding(self, kind: str, message: str) -> Finding:
        return Finding(self.split, self.row, self.file, kind, message)


def load_and_check(
    source: str | Path,
    *,
    splits: Sequence[str] | None = None,
    columns: ColumnNames | None = None,
    config_name: str | None = None,
    kind: str | None = None,
    label_names: Sequence[str] | None = None,
    limits: ImageLimits | None = None,
    num_workers: int = 4,
    show_progress: bool = True,
    further: Callable[[Mapping[str, Dataset], CheckReport], list[Finding]] | None = None,
    **reading: Any,
) -> CheckReport:
    """Check a source as `load_source` would read it, listing all that it would refuse.

    Args:
        source: anything that `load_source` takes.
        splits: the splits to check; `None` takes all.
        columns: names of the columns in the source.
        config_name: configuration of a Hub data set or of a folder with a README.
        kind: kind of the source where the guess would be wrong.
        label_names: class names in their order; `None` takes those of the first split.
        limits: see `ImageLimits`.
        num_workers: threads that read images.
        show_progress: show a progress bar; switch it off beside the main process.
        further: another check of the loaded splits, given the report so far.
        **reading: further arguments of `load_source`, such as `multi_label`.

    Returns:
        The report. A split that cannot be read at all is one of its errors.
    """
    columns = columns or ColumnNames()
    names = None if label_names is None else list(label_names)
    try:
        kind = kind or detect_kind(source)
        opened = open_source(source, kind=kind, columns=columns, config_name=config_name)
    except (SourceError, UnicodeError) as error:
        return CheckReport(rows=_refusal("", source, error))
    found = [finding for problem in opened.problems for finding in _problem_findings("", problem)]
    loaded = {}
    chosen = [matching_split(split, opened.splits, source) for split in splits or opened.splits]
    for split in chosen:
        try:
            found += [finding for one in opened.split_problems(split) for finding in _problem_findings(split, one)]
            loaded[split] = load_source(
                source,
                split=split,
                columns=columns,
                config_name=config_name,
                kind=kind,
                label_names=names,
                strict=False,
                **reading,
            )
        except (ValueError, OSError, LookupError) as error:
            found += _refusal(split, source, error)
        else:
            names = names or _class_names(loaded[split])
    report = check_source(loaded, limits=limits, num_workers=num_workers, show_progress=show_progress)
    report.rows[:0] = found
    if further is not None:
        report.rows += further(loaded, report)
    return report


def _refusal(split: str, source: str | Path, error: Exception) -> list[Finding]:
    """Findings of a source or split that cannot be read at all."""
    kind, files = getattr(error, "kind", "split_unreadable"), getattr(error, "files", ())
    return [Finding(split, None, file, kind, str(error)) for file in files or (printable(str(source)),)]


def _problem_findings(split: str, problem: Problem) -> list[Finding]:
    return [Finding(split, None, file, problem.kind, problem.message) for file in problem.files or ("",)]


def check_source(
    splits: Mapping[str, Dataset],
    *,
    limits: ImageLimits | None = None,
    num_workers: int = 4,
    show_progress: bool = True,
) -> CheckReport:
    """Read every row of the given splits and list what is wrong or odd.

    Each image is opened as training opens it. Two images are duplicates when their decoded pixels are equal.

    Args:
        splits: data sets with the columns of `load_source`, by split.
        limits: see `ImageLimits`.
        num_workers: threads that read images.
        show_progress: show a progress bar; switch it off beside the main process.
    """
    limits = limits or ImageLimits()
    report = CheckReport(settings=asdict(limits))
    checked: list[_CheckedRow] = []
    for split, dataset in splits.items():
        rows = list(_checked_rows(dataset, split, limits, num_workers=num_workers, show_progress=show_progress))
        report.splits[split] = {
            "rows": len(rows),
            "classes": _class_counts(rows, _class_names(dataset)),
            "contour_maps": sum(row.num_contours for row in rows),
        }
        checked += rows
    report.rows += _split_findings(splits, report)
    report.rows += [row.finding(kind, message) for row in checked for kind, message in row.problems]
    report.rows += _duplicates(checked)
    return report


def _checked_rows(
    dataset: Dataset, split: str, limits: ImageLimits, *, num_workers: int, show_progress: bool
) -> Iterator[_CheckedRow]:
    """Check the rows of a split in threads, which Pillow lets run side by side while it decodes."""
    wanted = [name for name in ("image", "contours", "label", LABEL_PROBLEM) if name in dataset.features]
    check = partial(_check_row, dataset.select_columns(wanted), split, _class_names(dataset), limits)
    progress = tqdm(total=len(dataset), desc=f"Checking {split}", unit="row", disable=not show_progress)
    with progress, ThreadPoolExecutor(max_workers=num_workers) as executor:
        for start in range(0, len(dataset), _ROWS_AT_A_TIME):
            for row in executor.map(check, range(start, min(start + _ROWS_AT_A_TIME, len(dataset)))):
                progress.update()
                yield row


def _check_row(dataset: Dataset, split: str, names: list[str] | None, limits: ImageLimits, index: int) -> _CheckedRow:
    row = dataset[index]
    cell = row["image"] or {"bytes": None, "path": None}
    file = cell["path"] or f"row {index}"
    image = check_image(cell, name=file, limits=limits)
    problems = list(image.problems)
    contours = row.get("contours") or []
    if "contours" in row:
        problems += check_contours(contours, image.size, image=cell, name=file, limits=limits)
    label = row.get("label")
    if names is not None:
        problems += _label_problems(label, names, row.get(LABEL_PROBLEM))
    return _CheckedRow(split, index, file, label, image.digest, len(contours), problems)


def _label_problems(label: Any, names: list[str], problem: str | None) -> list[tuple[str, str]]:
    if problem:
        return [("label_wrong", problem)]
    labels = label if isinstance(label, list) else [label]
    bad = [one for one in labels if one is None or not 0 <= one < len(names)]
    return [("label_wrong", f"the label is {one}; expected a number from 0 to {len(names) - 1}.") for one in bad[:1]]


def _class_names(dataset: Dataset) -> list[str] | None:
    feature = dataset.features.get("label")
    inner = feature.feature if isinstance(feature, List) else feature
    return label_names(dataset) if isinstance(inner, ClassLabel) else None


def _class_counts(rows: Sequence[_CheckedRow], names: list[str] | None) -> dict[str, int]:
    """Rows per class, in the order of the class numbers; wrong labels count nowhere."""
    lists = (row.label if isinstance(row.label, list) else [row.label] for row in rows)
    found = collections.Counter(itertools.chain.from_iterable(lists))
    return {name: found[number] for number, name in enumerate(names or [])}


def _split_findings(splits: Mapping[str, Dataset], report: CheckReport) -> Iterator[Finding]:
    first_split, first_names = None, None
    for split, dataset in splits.items():
        names = _class_names(dataset)
        at_split = partial(Finding, split, None, "")
        if not len(dataset):
            yield at_split("split_empty", "the split has no rows.")
            continue
        classes = report.splits[split]["classes"]
        absent = absent_classes(list(classes.values()), list(classes))
        if absent:
            yield at_split("class_absent", f"no row is of {absent}.")
        if names is None:
            continue  # a split without labels can be predicted
        if first_split is None:
            first_split, first_names = split, names
        elif names != first_names:
            yield at_split("class_names_differ", f"the classes are {names}, but {first_names} in split {first_split}.")


def _duplicates(rows: Sequence[_CheckedRow]) -> Iterator[Finding]:
    """Find images with the same pixels; each is reported beside the first of its kind."""
    first: dict[bytes, _CheckedRow] = {}
    in_split: dict[tuple[bytes, str], _CheckedRow] = {}
    for row in rows:
        if row.digest is None:
            continue
        original = first.setdefault(row.digest, row)
        neighbour = in_split.setdefault((row.digest, row.split), row)
        if original is row:
            continue
        if original.split != row.split:
            yield row.finding("duplicate_across_splits", f"has the pixels of {_place(original)}.")
        if neighbour is not row:
            yield row.finding("duplicate_in_split", f"has the pixels of {_place(neighbour)}.")
        if original.label != row.label and None not in (original.label, row.label):
            message = f"has the pixels of {_place(original)} but the label {row.label}, not {original.label}."
            yield row.finding("duplicate_other_label", message)


def _place(row: _CheckedRow) -> str:
    return f"{row.split} row {row.row} ({row.file})"
