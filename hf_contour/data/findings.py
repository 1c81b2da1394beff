"""What the check before training has found, and the report of it."""

import collections
import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_contour.data.problems import ERROR, KINDS, SEVERITIES, listed

_NAMED_FILES = 3
_NAMED_CLASSES = 20


@dataclass(frozen=True)
class Finding:
    """One thing found, of a kind of `KINDS`, at a row (counted from 0) or, with `row` `None`, at a split or file."""

    split: str
    row: int | None
    file: str
    kind: str
    severity: str = field(init=False)
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "severity", SEVERITIES[self.kind])

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
