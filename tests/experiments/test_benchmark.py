"""Each extractor and the baseline are timed in each of the ways in which they can run."""

import json

import pytest
from benchmark import BASELINE, FOLDED, BenchmarkArguments, main
from tiny_models import tiny_extractor


@pytest.mark.slow
def test_every_model_is_timed_in_every_way(tmp_path):
    tiny_extractor().save_pretrained(tmp_path / "extractor")
    output = tmp_path / "speed.json"
    main(
        BenchmarkArguments(
            [str(tmp_path / "extractor")], height=32, width=48, threads=1, num_rounds=1, output=str(output)
        )
    )
    rows = json.loads(output.read_text())["rows"]
    told = [(row["name"], row["way"]) for row in rows]
    assert told == [(name, way) for name in (BASELINE, "extractor") for way in ("eager", FOLDED, "ONNX Runtime")]
    assert [row["ratio"] for row in rows if (row["name"], row["way"]) == (BASELINE, FOLDED)] == [1.0]
    assert all(row["median_ms"] > 0 for row in rows)
