"""The check before training: every row is read, and what is wrong or odd is counted and listed."""

import collections
import csv
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, List
from huggingface_hub.utils import tqdm

from hf_contour.data.image_checks import ImageLimits, check_contours, check_image
from hf_contour.data.sources import ColumnNames, label_names, load_source, source_splits
from hf_contour.data.standard_columns import LABEL_PROBLEM

ERROR, WARNING = "error", "warning"
SEVERITIES = {
    # nothing can be trained on the row or the split, or scores would be wrong
    "split_unreadable": ERROR,
    "split_empty": ERROR,
    "image_unreadable": ERROR,
    "image_bomb": ERROR,
    "label_wrong": ERROR,
    "class_names_differ": ERROR,
    "duplicate_across_splits": ERROR,
    "duplicate_other_label": ERROR,
    "contours_missing": ERROR,
    "contour_unreadable": ERROR,
    "contour_other_size": ERROR,
    "contour_inverted": ERROR,
    # it can be trained on, by a stated rule
    "contour_blank": WARNING,
    "class_absent": WARNING,
    "duplicate_in_split": WARNING,
    "mode_high_bit_depth": WARNING,
    "mode_float": WARNING,
    "mode_cmyk": WARNING,
    "mode_alpha": WARNING,
    "mode_palette": WARNING,
    "mode_grey": WARNING,
    "mode_other": WARNING,
    "several_frames": WARNING,
    "exif_rotated": WARNING,
    "size_tiny": WARNING,
    "size_extreme_aspect": WARNING,
}
_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True)
class Finding:
    """One thing found, at a row (counted from 0) or, with `row` `None`, at a whole split."""

    split: str
    row: int | None
    file: str
    kind: str
    severity: str
    message: str


@dataclass
class CheckReport:
    """What the check found.

    Attributes:
        splits: per split its `rows`, rows per class (`classes`) and `contour_maps`.
        rows: every finding, in the order of splits and rows.
        settings: the limits that the check applied.
    """

    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[Finding] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Findings per kind, for the kinds that were found."""
        found = collections.Counter(finding.kind for finding in self.rows)
        return {kind: found[kind] for kind in SEVERITIES if found[kind]}

    @property
    def num_errors(self) -> int:
        """Findings that are errors; the others are warnings."""
        return sum(finding.severity == ERROR for finding in self.rows)

    @property
    def exit_code(self) -> int:
        """0 when there is no error (warnings may be), else 1."""
        return int(self.num_errors > 0)

    def write(self, folder: str | Path) -> None:
        """Write `checks.json` (counts) and `checks.csv` (a line for each finding) into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        summary = {
            "num_errors": self.num_errors,
            "num_warnings": len(self.rows) - self.num_errors,
            "counts": {kind: {"severity": SEVERITIES[kind], "count": count} for kind, count in self.counts.items()},
            "splits": self.splits,
            "settings": self.settings,
        }
        (folder / "checks.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        with (folder / "checks.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(Finding.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(asdict(finding) for finding in self.rows)

    def table(self) -> str:
        """The counts as text: rows and classes of each split, then a line for each kind with its first finding."""
        lines = []
        for split, facts in self.splits.items():
            classes = ", ".join(f"{name} {count:,}" for name, count in facts["classes"].items()) or "no labels"
            lines.append(f"{split}: {facts['rows']:,} rows ({classes}), {facts['contour_maps']:,} contour maps")
        first = {finding.kind: finding for finding in reversed(self.rows)}
        for kind, count in self.counts.items():
            example = first[kind]
            place = example.split if example.row is None else f"{example.split} row {example.row}"
            lines.append(f"{SEVERITIES[kind]:7}  {kind:23}  {count:7,}  e.g. {place}: {example.message}")
        lines.append(f"{self.num_errors:,} errors, {len(self.rows) - self.num_errors:,} warnings")
        return "\n".join(lines)


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
        return Finding(self.split, self.row, self.file, kind, SEVERITIES[kind], message)


def load_and_check(
    source: str | Path,
    *,
    splits: Sequence[str] | None = None,
    columns: ColumnNames | None = None,
    config_name: str | None = None,
    kind: str | None = None,
    multi_label: bool = False,
    separator: str = ";",
    label_names: Sequence[str] | None = None,
    limits: ImageLimits | None = None,
    num_workers: int = 4,
    show_progress: bool = True,
) -> CheckReport:
    """Check a source as `load_source` would read it, listing all rows that it would refuse.

    Args:
        source: anything that `load_source` takes, which explains the other arguments too.
        splits: the splits to check; `None` takes all.
        columns: names of the columns in the source.
        config_name: configuration of a Hub data set or of a folder with a README.
        kind: kind of the source where the guess would be wrong.
        multi_label: cells of a csv hold several labels.
        separator: between several entries in a cell of a csv.
        label_names: class names in their order; `None` takes those of the first split.
        limits: see `ImageLimits`.
        num_workers: threads that read images.
        show_progress: show a progress bar; switch it off beside the main process.

    Returns:
        The report. A split that cannot be read at all is one of its errors.
    """
    names = None if label_names is None else list(label_names)
    options: dict[str, Any] = {"config_name": config_name, "kind": kind}
    loaded, unreadable = {}, []
    for split in splits or source_splits(source, **options):
        try:
            loaded[split] = load_source(
                source,
                split=split,
                columns=columns,
                multi_label=multi_label,
                separator=separator,
                label_names=names,
                strict=False,
                **options,
            )
        except (ValueError, OSError) as error:
            unreadable.append(
                Finding(split, None, str(source), "split_unreadable", SEVERITIES["split_unreadable"], str(error))
            )
        else:
            names = names or _class_names(loaded[split])
    report = check_source(loaded, limits=limits, num_workers=num_workers, show_progress=show_progress)
    report.rows[:0] = unreadable
    return report


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
        problems += check_contours(contours, image.size, name=file, limits=limits)
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
        at_split = partial(_split_finding, split)
        if not len(dataset):
            yield at_split("split_empty", "the split has no rows.")
            continue
        absent = [name for name, count in report.splits[split]["classes"].items() if not count]
        if absent:
            yield at_split("class_absent", f"no row is of class {absent}.")
        if first_split is None:
            first_split, first_names = split, names
        elif names != first_names:
            yield at_split("class_names_differ", f"the classes are {names}, but {first_names} in split {first_split}.")


def _split_finding(split: str, kind: str, message: str) -> Finding:
    return Finding(split, None, "", kind, SEVERITIES[kind], message)


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
        if original.label != row.label:
            message = f"has the pixels of {_place(original)} but the label {row.label}, not {original.label}."
            yield row.finding("duplicate_other_label", message)


def _place(row: _CheckedRow) -> str:
    return f"{row.split} row {row.row} ({row.file})"
