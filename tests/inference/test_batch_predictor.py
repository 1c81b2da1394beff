"""The predictor of other engines: Ray Data, `datasets.map` and Spark give the answers of `hf-contour predict`."""

import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from prediction_images import image_bytes

from hf_contour.inference.batch_predictor import BatchPredictor
from hf_contour.inference.classification import Classification
from hf_contour.inference.parts import Item

ANSWERS = ["label", "score", "abstained", "error"]


@pytest.fixture(scope="module")
def rows(model_folder: Path) -> list[dict[str, Any]]:
    """Seven images, the fourth damaged, with what prediction says of them."""
    contents = [image_bytes(seed) if seed != 3 else b"<html></html>" for seed in range(7)]
    answers = Classification(model_folder)([Item(str(seed), content) for seed, content in enumerate(contents)])
    return [
        {"sku": f"s{seed}", "image": contents[seed], **{name: answers[seed][name] for name in ANSWERS}}
        for seed in range(7)
    ]


def check(found: dict[str, list[Any]], rows: list[dict[str, Any]]) -> None:
    assert list(found["sku"]) == [row["sku"] for row in rows]
    assert "image" not in found
    for place, row in enumerate(rows):
        if row["label"] is None:
            assert "an HTML page" in found["error"][place]
            assert pd.isna(found["label"][place])
        else:
            assert found["label"][place] == row["label"]
            assert pd.isna(found["error"][place])
            assert found["score"][place] == pytest.approx(row["score"], abs=1e-5)
            assert found["abstained"][place] == row["abstained"]


def test_it_travels_without_its_model(model_folder: Path, rows: list[dict[str, Any]]) -> None:
    predictor = BatchPredictor(model_folder)
    columns = {name: [row[name] for row in rows] for name in ("sku", "image")}
    check(predictor(columns), rows)
    content = pickle.dumps(predictor)
    assert len(content) < 2000
    check(pickle.loads(content)(columns), rows)
    assert predictor.schema() == "`label` string, `score` float, `abstained` boolean, `error` string"
    with pytest.raises(ValueError, match=r"no column 'image'; its columns are \['photo'\]"):
        predictor({"photo": []})


def test_map_of_datasets(model_folder: Path, rows: list[dict[str, Any]]) -> None:
    images = [{"bytes": row["image"], "path": None} for row in rows]
    features = datasets.Features({"sku": datasets.Value("string"), "image": datasets.Image(decode=False)})
    data = datasets.Dataset.from_dict({"sku": [row["sku"] for row in rows], "image": images}, features=features)
    predictor = BatchPredictor(model_folder)
    answered = data.map(
        predictor, batched=True, batch_size=3, remove_columns=["image"], features=predictor.features(data.features)
    )
    check(answered[:], rows)


def test_frames_of_pandas_one_by_one(model_folder: Path, rows: list[dict[str, Any]]) -> None:
    """As Spark's `mapInPandas` gives them: an iterator of frames in, an iterator of frames out."""
    frame = pd.DataFrame({"sku": [row["sku"] for row in rows], "image": [bytearray(row["image"]) for row in rows]})
    frames = list(BatchPredictor(model_folder, keep=["sku"])(iter([frame[:4], frame[4:]])))
    assert [len(one) for one in frames] == [4, 3]
    check(pd.concat(frames).to_dict("list"), rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of Spark, which does not know the newest pandas yet
def test_map_in_pandas_of_spark(
    model_folder: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = pytest.importorskip("pyspark.sql")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    if not (shutil.which("java") or os.environ.get("JAVA_HOME")):
        pytest.skip("Spark needs Java, which is not here")
    spark = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        frame = spark.createDataFrame([(row["sku"], row["image"]) for row in rows], "sku string, image binary")
        predictor = BatchPredictor(model_folder, keep=["sku"])
        answered = frame.coalesce(1).mapInPandas(predictor, schema=f"sku string, {predictor.schema()}").collect()
    finally:
        spark.stop()
    found = [row.asDict() for row in answered]
    check({name: [row[name] for row in found] for name in ("sku", *ANSWERS)}, rows)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_map_batches_of_ray(model_folder: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # on a busy machine
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    try:
        data = ray.data.from_items([{name: row[name] for name in ("sku", "image")} for row in rows])
        answered = data.map_batches(
            BatchPredictor, fn_constructor_args=(str(model_folder),), batch_size=4, concurrency=1
        ).take_all()
    finally:
        ray.shutdown()
    answered.sort(key=lambda row: row["sku"])
    check({name: [row[name] for row in answered] for name in ("sku", *ANSWERS)}, rows)
