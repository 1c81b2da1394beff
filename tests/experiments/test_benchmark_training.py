"""Classifiers are timed in turns, in training and in use, and what is trained is what training trains."""

import json

import pytest
import torch
from benchmark_training import DEFAULT_SIZE, TrainingBenchmark, benchmark_classifiers
from tiny_models import tiny_classifier

from hf_contour.evaluation.cost import multiply_adds
from hf_contour.image_processing_contour import ContourImageProcessor


def test_classifiers_are_timed_beside_the_backbone_alone(tmp_path):
    models = {"alone": tiny_classifier(contour_features="none"), "method": tiny_classifier()}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        ContourImageProcessor(do_resize=True, size={"height": 40, "width": 32}).save_pretrained(tmp_path / name)
    folders = [str(tmp_path / name) for name in models]
    results = benchmark_classifiers(TrainingBenchmark(models=folders, batch_size=3, num_rounds=2))
    assert json.loads(json.dumps(results)) == results
    alone, method = results["rows"]
    assert (alone["training_ratio"], alone["batch_1_ratio"], alone["batch_ratio"]) == (1, 1, 1)
    assert (method["height"], method["width"]) == (40, 32)
    assert alone["num_trained_parameters"] == alone["num_parameters"]
    frozen = sum(parameter.numel() for parameter in models["method"].extractor.parameters())
    assert method["num_parameters"] - method["num_trained_parameters"] == frozen > 0
    assert method["multiply_adds"] == multiply_adds(models["method"], torch.zeros(1, 3, 40, 32))
    assert all(row[f"{kind}_ms"] > 0 for row in results["rows"] for kind in ("training", "batch_1", "batch"))


def test_models_of_runs_bear_the_names_of_run_and_stage(tmp_path):
    folders = [str(tmp_path / run / "gender" / "model") for run in ("alone", "method")]
    tiny_classifier(contour_features="none").save_pretrained(folders[0])
    tiny_classifier().save_pretrained(folders[1])
    few = {"batch_size": 2, "num_rounds": 1, "channels_last": False, "image_size": [24, 16]}
    results = benchmark_classifiers(TrainingBenchmark(models=folders, **few))
    assert results["protocol"]["layout"] == "channels first"
    assert [(row["name"], row["height"], row["width"]) for row in results["rows"]] == [
        ("alone-gender", 24, 16),
        ("method-gender", 24, 16),
    ]
    (row,) = benchmark_classifiers(TrainingBenchmark(models=folders[:1], batch_size=1, num_rounds=1))["rows"]
    assert (row["height"], row["width"]) == DEFAULT_SIZE  # no processor in the folder
    with pytest.raises(ValueError, match="different names"):
        benchmark_classifiers(TrainingBenchmark(models=[folders[0], folders[0]], **few))


@pytest.mark.parametrize(
    ("field", "value"), [("device", "tpu"), ("num_rounds", 0), ("image_size", (24,)), ("image_size", (0, 16))]
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        TrainingBenchmark(models=["m"], **{field: value})
