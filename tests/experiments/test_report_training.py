"""The report of a training: everything in one file, and a curve that can be looked at."""

import json

import pytest
from PIL import Image
from report_training import report_training


def test_results_and_log_come_together(tmp_path):
    folder = tmp_path / "run" / "contour"
    folder.mkdir(parents=True)
    arguments = {"run_name": "tiny", "data": "/mine/bsds500", "seed": 0}
    results = {"arguments": arguments, "training": {"converged_step": 20}}
    lines = [{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in (10, 20, 30)]
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"evaluation": {}}]))
    report_training(folder, results_path=tmp_path / "tiny.json", image_path=tmp_path / "tiny.png")
    written = json.loads((tmp_path / "tiny.json").read_text())
    results["arguments"]["data"] = "bsds500"
    assert written == {**results, "curve": [*lines, {"evaluation": {}}]}
    with Image.open(tmp_path / "tiny.png") as image:
        assert image.size == (770, 385)
        assert len(image.convert("RGB").getcolors(100_000)) > 10


def test_a_training_that_is_not_finished_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"results\.json is missing; give the folder of a finished stage"):
        report_training(tmp_path, results_path=tmp_path / "a.json", image_path=tmp_path / "a.png")
