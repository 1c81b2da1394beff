"""Classifiers are timed in turns, in training and in use, and what is trained is what training trains."""

import json

import torch
from tiny_models import tiny_classifier

from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.speed import multiply_adds
from hf_contour.training_benchmark import TrainingBenchmark, benchmark_classifiers


def test_classifiers_are_timed_beside_the_backbone_alone(tmp_path):
    models = {"alone": tiny_classifier(contour_features="none"), "method": tiny_classifier()}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        ContourImageProcessor(do_resize=True, size={"height": 40, "width": 32}).save_pretrained(tmp_path / name)
    settings = TrainingBenchmark(batch_size=3, num_rounds=2)
    results = benchmark_classifiers([tmp_path / "alone", tmp_path / "method"], settings)
    assert json.loads(json.dumps(results)) == results
    alone, method = results["rows"]
    assert (alone["training_ratio"], alone["batch_1_ratio"], alone["batch_ratio"]) == (1, 1, 1)
    assert (method["height"], method["width"]) == (40, 32)
    assert alone["num_trained_parameters"] == alone["num_parameters"]
    frozen = sum(parameter.numel() for parameter in models["method"].extractor.parameters())
    assert method["num_parameters"] - method["num_trained_parameters"] == frozen > 0
    assert method["multiply_adds"] == multiply_adds(models["method"], torch.zeros(1, 3, 40, 32))
    assert all(row[f"{kind}_ms"] > 0 for row in results["rows"] for kind in ("training", "batch_1", "batch"))
