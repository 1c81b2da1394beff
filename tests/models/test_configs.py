"""Configs say what a model is, survive saving, and refuse what cannot be."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError

from hf_contour import ContourExtractorConfig, ContourGenderConfig


def test_extractor_config_survives_saving(tmp_path):
    config = ContourExtractorConfig(
        hidden_sizes=(4, 8), depths=(1, 2), strides=(1, 4), residual_type=("senet", "densenet"), unify="nearest"
    )
    config.save_pretrained(tmp_path)
    again = ContourExtractorConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.residual_types == ["senet", "densenet"]
    assert again.unifiers == ["nearest", "nearest"]
    assert again.num_levels == 2


def test_gender_config_survives_saving_with_its_extractor(tmp_path):
    config = ContourGenderConfig(
        extractor_config=ContourExtractorConfig(level_channels=5),
        backbone=["resnet10t", "shufflenet_v2_x0_5"],
        id2label={0: "cotton", 1: "denim", 2: "silk"},
        temperature=1.7,
    )
    config.save_pretrained(tmp_path)
    again = ContourGenderConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.extractor_config.level_channels == 5
    assert again.num_labels == 3
    assert again.label2id == {"cotton": 0, "denim": 1, "silk": 2}
    assert json.loads((tmp_path / "config.json").read_text())["extractor_config"]["model_type"] == "contour_extractor"


@pytest.mark.parametrize(
    ("kinds", "num_levels", "expected"),
    [
        (["texture"], 4, [0, 1]),
        (["edges"], 4, [2]),
        (["outline"], 4, [3]),
        (["texture", "outline"], 3, [0, 2]),
        (["outline"], 6, [4, 5]),
        ([1, 3], 4, [1, 3]),
        (None, 5, [0, 1]),
        (None, 1, [0]),
    ],
)
def test_contour_levels_can_be_named_by_what_they_carry(kinds, num_levels, expected):
    extractor = ContourExtractorConfig(
        hidden_sizes=[4] * num_levels, depths=[0] * num_levels, strides=[2] * num_levels
    )
    config = ContourGenderConfig(extractor_config=extractor, contour_features="levels", contour_levels=kinds)
    assert config.contour_level_indices == expected


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_channels": 0}, "num_channels"),
        ({"num_channels": "3"}, "num_channels"),
        ({"hidden_sizes": []}, "hidden_sizes"),
        ({"hidden_sizes": [8, 8]}, "depths"),
        ({"hidden_sizes": [8, 8, 8, 10**9]}, "hidden_sizes"),
        ({"hidden_sizes": [4096] * 4, "depths": [32] * 4}, "weights"),
        ({"depths": [1, 1, -1, 1]}, "depths"),
        ({"strides": [2, 1, 2, 2]}, "strides"),
        ({"strides": [3, 2, 2, 2]}, "strides"),
        ({"residual_type": "vgg"}, "residual_type"),
        ({"residual_type": ["resnet"]}, "residual_type"),
        ({"unify": "bicubic"}, "unify"),
        ({"unify": ["bilinear"] * 3}, "unify"),
        ({"unify": "deconv", "output_stride": 4}, "unify"),
        ({"output_stride": 3}, "output_stride"),
        ({"output_stride": 128}, "output_stride"),
        ({"level_channels": 0}, "level_channels"),
        ({"fusion": "max"}, "fusion"),
        ({"fusion_channels": 10**6}, "fusion_channels"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0.0]}, "image_std"),
        ({"image_std": [0.5, 0.5, float("nan")]}, "image_std"),
        ({"loss": "dice"}, "loss"),
        ({"consensus_threshold": 0}, "consensus_threshold"),
        ({"side_loss_weight": -1}, "side_loss_weight"),
        ({"backbone": "hf-hub:some/model"}, "backbone"),
        ({"backbone": "local-dir:/etc"}, "backbone"),
        ({"backbone": "../resnet18"}, "backbone"),
        ({"backbone": "http://example.org/x"}, "backbone"),
        ({"backbone": "resnet18.a1_in1k"}, "backbone"),
        ({"backbone": "resnet19"}, "resnet18"),
        ({"backbone": "resnet18", "backbone_levels": [2, 1]}, "backbone_levels"),
    ],
)
def test_impossible_extractor_configs_are_refused_by_name(fields, named):
    with pytest.raises(StrictDataclassError, match=named):
        ContourExtractorConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"backbone": "hf_hub:some/model"}, "backbone"),
        ({"backbone": []}, "backbone"),
        ({"backbone": ["resnet18"] * 5}, "backbone"),
        ({"contour_features": "both"}, "contour_features"),
        ({"contour_features": "fused", "contour_levels": [0]}, "contour_levels"),
        ({"contour_features": "levels", "contour_levels": [4]}, "contour_levels"),
        ({"contour_features": "levels", "contour_levels": ["silhouette"]}, "contour_levels"),
        ({"contour_features": "levels", "contour_levels": []}, "contour_levels"),
        ({"fusion": "sum"}, "fusion"),
        ({"fusion_layers": 0}, "fusion_layers"),
        ({"fusion_kernel_size": 4}, "fusion_kernel_size"),
        ({"head": "attention"}, "head"),
        ({"head_dropout": 1.0}, "head_dropout"),
        ({"contour_downsampling": "max"}, "contour_downsampling"),
        ({"contour_channels": 0}, "contour_channels"),
        ({"head_grid": [4]}, "head_grid"),
        ({"head_grid": [4, 0]}, "head_grid"),
        ({"head_grid": [65, 1]}, "head_grid"),
        ({"abstain_threshold": 1.5}, "abstain_threshold"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"id2label": {0: "a", 2: "b"}}, "id2label"),
        ({"id2label": {0: "a", 1: "a"}}, "id2label"),
        ({"problem_type": "regression"}, "problem_type"),
        ({"extractor_config": {"num_channels": 1, "image_mean": [0.5], "image_std": [0.5]}}, "num_channels"),
        ({"extractor_config": "somewhere"}, "extractor_config"),
    ],
)
def test_impossible_gender_configs_are_refused_by_name(fields, named):
    with pytest.raises((StrictDataclassError, ValueError), match=named):
        ContourGenderConfig(**fields)
