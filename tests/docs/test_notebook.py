"""The notebook runs top to bottom, in less than the five minutes that it promises on two idle cores."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "first_model.ipynb"


def cells(kind: str) -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "notebook"}
    for number, cell in enumerate(cells("code")):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    shown = capsys.readouterr().out
    assert shown.count("'score':") == 12  # two labels of six garments
    assert "bytes of report" in shown
    assert "heat map" in shown.splitlines()[-1]


def test_the_notebook_is_kept_without_outputs():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells("code"))
