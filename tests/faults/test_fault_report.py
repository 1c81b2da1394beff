"""The report of the fault tests counts what they recorded."""

import json
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

def test_one(record_property):
    record_property("injected", 3)
    record_property("lost", 0)
    record_property("kills", 2)

@pytest.mark.parametrize("bad", [False, True])
def test_two(record_property, bad):
    record_property("injected", 4)
    record_property("tried", 5)
    record_property("lost", int(bad))
    assert not bad

def test_three():
    pytest.skip("not here")
"""


def test_counts_are_summed_and_failures_are_seen(tmp_path):
    (tmp_path / "conftest.py").write_text(Path(__file__).parents[1].joinpath("conftest.py").read_text())
    (tmp_path / "fault_report.py").write_text(Path(__file__).parents[1].joinpath("fault_report.py").read_text())
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "--fault_report", "out/report.json", "test_some.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["tests"], report["failed"]) == (3, 1)
    assert (report["injected"], report["tried"], report["lost"]) == (11, 10, 1)
    assert report["rows"]["test_some.py::test_one"]["counts"] == {"injected": 3, "lost": 0, "kills": 2}
    assert report["command"] == "pytest -q --fault_report out/report.json test_some.py"
