"""Gathers what the fault tests tried and lost into one results file; a plugin that tests/conftest.py loads.

pytest -m faults --fault_report=model_cards/results/reliability.json
"""

import json
from pathlib import Path

from hf_contour.io import library_versions, source_commit

TOTALS = ("injected", "tried", "lost")


class FaultReport:
    """Rows of the tests that ran: what each recorded with `record_property`, its outcome and its time."""

    def __init__(self, path: Path, command: str) -> None:
        self.path, self.command = path, command
        self.rows: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report):
        row = self.rows.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0, "counts": {}})
        row["seconds"] = round(row["seconds"] + report.duration, 2)
        if report.outcome != "passed":
            row["outcome"] = report.outcome
        if report.when == "call":
            row["counts"] = dict(report.user_properties)

    def pytest_sessionfinish(self, session):
        ran = {name: row for name, row in self.rows.items() if row["outcome"] != "skipped"}
        counted = [row["counts"] for row in ran.values()]
        content = {
            "command": self.command,
            "tests": len(ran),
            "failed": sum(row["outcome"] == "failed" for row in ran.values()),
            **{name: sum(counts.get(name, 0) for counts in counted) for name in TOTALS},
            "rows": dict(sorted(ran.items())),
            "versions": library_versions(),
            "commit": source_commit(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
