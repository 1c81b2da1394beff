"""Classes derived from ours, which build once, count once and save themselves."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_models import tiny_classifier
from torch import nn
from torch.nn.modules import module as torch_module
from transformers import AutoConfig

from hf_contour import (
    ContourExtractorModel,
    ContourGenderConfig,
    ContourGenderForImageClassification,
    ContourGenderModel,
)

CODE = """
from hf_contour import ContourGenderForImageClassification


class GarmentClassifier(ContourGenderForImageClassification):
    built = 0

    def __init__(self, config, note="none"):
        super().__init__(config)
        self.note = note
        type(self).built += 1
"""


@pytest.fixture
def garments(tmp_path, monkeypatch) -> ModuleType:
    """A module of a user's own."""
    (tmp_path / "modeling_garments.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("modeling_garments")
    yield module
    sys.modules.pop("modeling_garments")


def test_a_subclass_may_take_more_and_is_built_once(garments):
    model = garments.GarmentClassifier(tiny_classifier().config, note="of mine")
    assert model.note == "of mine"
    assert garments.GarmentClassifier.built == 1


def test_a_subclass_saves_its_own_class(garments, tmp_path):
    model = garments.GarmentClassifier(tiny_classifier().config)
    model.save_pretrained(tmp_path / "model")
    auto_map = AutoConfig.from_pretrained(tmp_path / "model").auto_map
    assert auto_map["AutoModelForImageClassification"] == "modeling_garments.GarmentClassifier"
    assert (tmp_path / "model" / "modeling_garments.py").is_file()
    assert garments.GarmentClassifier.from_pretrained(tmp_path / "model").note == "none"


def test_a_folder_names_the_class_of_each_auto_class(tmp_path):
    tiny_classifier().save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).auto_map == {
        "AutoConfig": "configuration_contour_gender.ContourGenderConfig",
        "AutoModel": "modeling_contour_gender.ContourGenderModel",
        "AutoModelForImageClassification": "modeling_contour_gender.ContourGenderForImageClassification",
    }
    assert {path.name for path in tmp_path.glob("*.py")} >= {"pipeline_contour.py", "image_opening_contour.py"}


def test_a_repository_that_code_came_from_is_not_saved():
    """The code is saved beside the config, so that a fine-tuned copy does not point at its origin."""
    config = ContourGenderConfig(auto_map={"AutoModel": "someone/model--modeling_contour_gender.ContourGenderModel"})
    assert config.auto_map["AutoModel"].startswith("someone/model--")
    assert config.to_dict()["auto_map"]["AutoModel"] == "modeling_contour_gender.ContourGenderModel"


def test_no_hook_watches_the_modules_of_other_libraries():
    tiny_classifier()
    assert not torch_module._global_parameter_registration_hooks


def test_the_bare_model_of_a_classifier_folder_has_its_features(tmp_path):
    model = tiny_classifier()
    model.save_pretrained(tmp_path)
    bare = ContourGenderModel.from_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fused = model(pixels, output_hidden_states=True).hidden_states[-1]
        outputs = bare(pixels, output_hidden_states=True, output_level_features=True)
    assert torch.allclose(outputs.last_hidden_state, fused, atol=1e-6)
    assert torch.allclose(outputs.pooler_output, fused.mean(dim=(2, 3)), atol=1e-6)
    assert len(outputs.hidden_states) == 3
    assert len(outputs.level_features) == model.config.extractor_config.num_levels
    assert not any(parameter.requires_grad for parameter in bare.extractor.parameters())
    assert isinstance(bare.extractor, ContourExtractorModel)
    assert not hasattr(bare, "classifier")
    assert isinstance(bare.contour_fusion, nn.Module)
    assert Path(tmp_path, "config.json").is_file()
    assert issubclass(ContourGenderForImageClassification, type(bare).__bases__[0])
