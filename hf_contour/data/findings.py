"""What the check before training can find, and the report of it."""

import collections
import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_contour.data.problems import listed

ERROR, WARNING = "error", "warning"
_ROW = "correct or remove the rows"
_RENAME = "rename or move the files or folders"

# Severity of each kind, and what to do. An error: nothing can be trained on the row or the split, or scores would be
# wrong. A warning: it can be trained on, by a stated rule.
KINDS = {
    "split_unreadable": (ERROR, "see the message"),
    "cache_not_writable": (ERROR, "name a folder that can be written with the environment variable HF_HOME"),
    "split_empty": (ERROR, "add images, or leave the split out"),
    "split_named_twice": (ERROR, "keep one name of the split"),
    "split_doubtful": (ERROR, _RENAME),
    "split_missing": (ERROR, "fill the column split"),
    "split_unlabelled": (WARNING, "predict with it; to train or score, put its images into class folders"),
    "stray_image": (ERROR, "move the images into class folders, or away"),
    "class_doubtful": (ERROR, "put the images into the class folders directly"),
    "class_twins": (ERROR, "write the class names alike"),
    "hidden_folder": (ERROR, "rename the folders without the point, or move them away"),
    "name_not_utf8": (ERROR, _RENAME),
    "name_not_taken": (ERROR, _RENAME),
    "archive": (ERROR, "pack the images again as a zip file without a password"),
    "table_empty": (ERROR, "add rows, or remove the table"),
    "table_not_utf8": (ERROR, "save the table as UTF-8"),
    "table_header": (ERROR, "correct the header"),
    "table_row": (ERROR, "correct the line"),
    "table_parts_differ": (ERROR, "give the parts the same columns"),
    "label_separator": (ERROR, "name the separator with --label_separator"),
    "stray_table": (WARNING, "move the tables away, or name one to read it"),
    "image_not_in_table": (WARNING, "add rows for the images, or move them away"),
    "image_not_read": (WARNING, "pip install 'hf_contour[heif]' for HEIC; convert others to PNG or JPEG"),
    "image_unreadable": (ERROR, "replace the images or remove their rows"),
    "image_bomb": (ERROR, "make the images smaller"),
    "label_wrong": (ERROR, f"{_ROW}; --unlabelled skip leaves out rows without a label"),
    "class_names_differ": (ERROR, "use the same classes in all splits"),
    "duplicate_across_splits": (ERROR, "keep each image in one split"),
    "duplicate_other_label": (ERROR, "decide for one label"),
    "contours_missing": (ERROR, "draw contours, or remove the rows"),
    "contour_unreadable": (ERROR, "draw the maps white on black"),
    "contour_other_size": (ERROR, "draw the maps at the size of their images"),
    "contour_inverted": (ERROR, "invert the maps"),
    "contour_not_turned": (ERROR, "store the images upright and check that the maps fit"),
    "label_doubtful": (WARNING, "look at these rows: a model contradicts their labels with confidence"),
    "contour_blank": (WARNING, "check that nothing is to be drawn there"),
    "class_absent": (WARNING, "add rows of the class, or leave it out"),
    "duplicate_in_split": (WARNING, "keep one of them"),
    **dict.fromkeys(
        ("mode_high_bit_depth", "mode_float", "mode_cmyk", "mode_palette", "mode_grey", "mode_other"),
        (WARNING, "nothing, if the conversion to 8-bit RGB is right"),
    ),
    "mode_alpha": (WARNING, "nothing, if a white ground is right"),
    "several_frames": (WARNING, "nothing, if the first is meant"),
    "exif_rotated": (WARNING, "nothing, if the images are upright in viewers"),
    "size_tiny": (WARNING, "use larger images"),
    "size_extreme_aspect": (WARNING, "crop the images"),
}
SEVERITIES = {kind: severity for kind, (severity, _) in KINDS.items()}
_NAMED_FILES = 3
_NAMED_CLASSES = 20


@dataclass(frozen=True)
class Finding:
    """One thing found, at a row (counted from 0) or, with `row` `None`, at a whole split or a file of it."""

    split: str
    row: int | None
    file: str
    kind: str
    severity: str
    message: str

    @property
    def place(self) -> str:
        """The row with its file, the file, or the split."""
        if self.row is None:
            return self.file or self.split
        return f"{self.split} row {self.row}" + (f" ({self.file})" if self.file != f"row {self.row}" else "")


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

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON values; for each kind its severity, number, first files and what to do."""
        return {
            "num_errors": self.num_errors,
            "num_warnings": len(self.rows) - self.num_errors,
            "counts": {
                kind: {"severity": SEVERITIES[kind], "count": count, "first": self._first(kind), "do": KINDS[kind][1]}
                for kind, count in self.counts.items()
            },
            "splits": self.splits,
            "settings": self.settings,
        }

    def write(self, folder: str | Path) -> None:
        """Write `checks.json` (counts) and `checks.csv` (a line for each finding) into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checks.json").write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        with (folder / "checks.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(Finding.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(asdict(finding) for finding in self.rows)

    def table(self) -> str:
        """The report as text: rows and classes of each split, then for each kind what, how many, where, what to do."""
        lines = []
        for split, facts in self.splits.items():
            counts = [f"{name} {count:,}" for name, count in facts["classes"].items()]
            classes = listed(counts, most=_NAMED_CLASSES) or "no labels"
            lines.append(f"{split}: {facts['rows']:,} rows ({classes}), {facts['contour_maps']:,} contour maps")
        message = {finding.kind: finding.message for finding in reversed(self.rows)}
        for kind, count in self.counts.items():
            lines.append(f"{SEVERITIES[kind]:7}  {kind:23}  {count:7,}  {message[kind]}")
            lines.append(f"{'':43}first: {'; '.join(self._first(kind))}")
            lines.append(f"{'':43}do: {KINDS[kind][1]}")
        lines.append(f"{self.num_errors:,} errors, {len(self.rows) - self.num_errors:,} warnings")
        return "\n".join(lines)

    def _first(self, kind: str) -> list[str]:
        places = [finding.place for finding in self.rows if finding.kind == kind]
        return places[:_NAMED_FILES]
