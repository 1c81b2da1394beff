"""Reports: the figures of the results, the right mistakes in the right order, and nothing from a network."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_contour.data.garments.drawing import embedded_dataset
from hf_contour.data.samples import ContourSamples
from hf_contour.evaluation.classes import prediction_scores
from hf_contour.evaluation.mistakes import surest_mistakes
from hf_contour.evaluation.predictions import ClassPredictions
from hf_contour.evaluation.report import write_report
from hf_contour.evaluation.results import Results
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.metrics.slices import Slice

LABELS = np.array([0, 0, 0, 1, 1, 1])
# Rows 1, 4 and 5 are wrong, 5 the surest and 1 the least sure.
LEADS = np.array([3.0, -0.5, 2.0, -4.0, 1.0, 6.0])


def predictions(class_names: list[str]) -> ClassPredictions:
    return ClassPredictions(
        logits=np.stack([LEADS, np.zeros(6)], axis=1).astype(np.float32),
        labels=LABELS,
        row_ids=np.array(["a", "b", "c", "d", "e", "f"]),
        group_ids=np.arange(6),
        class_names=class_names,
        slices=[Slice("shop = one", np.arange(6) < 3)],
    )


def samples() -> ContourSamples:
    source = embedded_dataset("test", num_samples=6, size=(40, 32))
    return ContourSamples(source, ContourImageProcessor(size={"height": 32, "width": 32}), stage="gender")


def report(path: Path, class_names: list[str], *, split: str = "test") -> str:
    found = predictions(class_names)
    results = Results(
        name="tiny",
        task="image-classification",
        model={"name": "tiny", "sha256": "0123456789abcdef"},
        data={"source": "drawn", "config": None, "split": split, "num_samples": 6},
        protocol={},
        scores=prediction_scores(found) | {"abstain_threshold": 0.0},
        command="hf-contour evaluate --model 'a & b'",
        arguments={},
        seed=0,
        versions={"torch": "2"},
        commit=None,
    )
    write_report(results, path, predictions=found, samples=samples())
    return path.read_text(encoding="utf-8")


def test_the_surest_mistakes_come_first_with_their_own_images():
    data = samples()
    found = surest_mistakes(predictions(["men", "women"]), data)
    assert [one["name"] for one in found] == ["f", "e", "b"]
    assert [(one["label"], one["predicted"]) for one in found][::2] == [("women", "men"), ("men", "women")]
    with Image.open(io.BytesIO(base64.b64decode(found[0]["jpeg"]))) as thumbnail:
        shown = np.asarray(thumbnail.convert("RGB"), dtype=np.float32)
    distances = [np.abs(shown - data.decoded(row).pixels).mean() for row in range(6)]
    assert int(np.argmin(distances)) == 5


def test_a_report_has_the_figures_and_fetches_nothing(tmp_path):
    page = report(tmp_path / "deep" / "report.html", ["men", "women"])
    assert "0.5000 (95 %:" in page  # 3 of 6
    assert re.findall(r">(\d)<br>", page) == ["2", "1", "2", "1"]
    assert "shop = one" in page
    assert "0.667 (" in page  # 2 of 3 in that shop
    assert '<circle cx="133.3" cy="8" r="4"' in page  # of a bar of 200
    assert 'width="210" height="16" viewBox="-5 0 210 16"' in page  # a dot at either end of which is whole
    mistakes, _, _ = page.partition("Labels that may be wrong")
    assert mistakes.count("data:image/jpeg;base64,") == 3
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|@import|<script", page)


def test_names_from_the_data_cannot_become_markup(tmp_path):
    page = report(tmp_path / "report.html", ["<b>men</b>", "women"])
    assert "<b>men" not in page
    assert "&lt;b&gt;men" in page
    assert "a &amp; b" in page


def test_doubtful_labels_stand_below_the_mistakes_unless_they_were_learnt(tmp_path):
    pytest.importorskip("cleanlab")
    page = report(tmp_path / "report.html", ["men", "women"])
    assert page.index("The surest mistakes") < page.index("Labels that may be wrong")
    doubts = page.partition("Labels that may be wrong")[2]
    assert re.findall(r"is (\w+), seems to be (\w+) \((0\.\d+)\); row (\w)", doubts)[0] == (
        "women",
        "men",
        "0.998",
        "f",
    )
    assert "Labels that may be wrong" not in report(tmp_path / "train.html", ["men", "women"], split="train")
