"""Labels of a config, and a model that gets others than it was trained with."""

import json

import pytest
import torch
from tiny_models import tiny_classifier
from transformers import AutoConfig, AutoModelForImageClassification

from hf_contour import ContourGenderConfig

CALIBRATED = {"temperature": 0.6, "abstain_threshold": 0.8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels")
    tiny_classifier(id2label={0: "men", 1: "women"}, **CALIBRATED).save_pretrained(path)
    return path


def test_a_fresh_config_names_its_classes():
    assert ContourGenderConfig().id2label == {0: "men", 1: "women"}
    assert ContourGenderConfig(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


def test_a_folder_that_names_no_labels_has_none(tmp_path):
    """As Transformers leaves out its own defaults, older folders with two nameless labels say nothing of them."""
    content = {"model_type": "contour_gender", "transformers_version": "5.18.0", "backbone": "test_resnet"}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert AutoConfig.from_pretrained(tmp_path).id2label == {0: "LABEL_0", 1: "LABEL_1"}


@pytest.mark.parametrize("names", [{0: "men", 1: "women"}, {0: "LABEL_0", 1: "LABEL_1"}])
def test_names_come_back_from_a_folder(tmp_path, names):
    ContourGenderConfig(id2label=names).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).id2label == names


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"id2label": {0: "boys", 1: "girls"}}, ["boys", "girls"]),
        ({"id2label": {0: "a", 1: "b", 2: "c"}}, ["a", "b", "c"]),
        ({"label2id": {"boys": 0, "girls": 1}}, ["boys", "girls"]),
        ({"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0}, "num_labels": 3}, ["a", "b", "c"]),
        ({"num_labels": 4}, ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]),
    ],
)
def test_other_labels_are_another_task(folder, asked, names):
    """The maps agree, and what was calibrated to the old task starts anew."""
    config = AutoConfig.from_pretrained(folder, **asked)
    assert list(config.id2label.values()) == names
    assert config.label2id == {name: index for index, name in enumerate(names)}
    assert config.num_labels == len(names)
    assert (config.temperature, config.abstain_threshold) == (1.0, 0.0)


@pytest.mark.parametrize("asked", [{}, {"id2label": {0: "men", 1: "women"}}, {"num_labels": 2}])
def test_the_same_labels_keep_what_was_calibrated(folder, asked):
    config = AutoConfig.from_pretrained(folder, **asked)
    assert {name: getattr(config, name) for name in CALIBRATED} == CALIBRATED


def test_what_the_caller_calibrates_counts(folder):
    config = AutoConfig.from_pretrained(folder, id2label={0: "boys", 1: "girls"}, temperature=2.0)
    assert (config.temperature, config.abstain_threshold) == (2.0, 0.0)


def test_a_head_of_another_size_is_new_and_the_rest_is_loaded(folder):
    names = {0: "denim", 1: "jersey", 2: "knit"}
    model, report = AutoModelForImageClassification.from_pretrained(
        folder, id2label=names, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert model.config.label2id == {"denim": 0, "jersey": 1, "knit": 2}
    assert model.classifier.output.out_features == 3
    assert {name for name, *_ in report["mismatched_keys"]} == {"classifier.output.weight", "classifier.output.bias"}


def test_labels_that_are_set_later_take_their_numbers_along(folder, tmp_path):
    """As a user does who renames the classes of a model in memory; what is saved says the same."""
    model = AutoModelForImageClassification.from_pretrained(folder)
    model.config.id2label = {0: "boys", 1: "girls"}
    assert model.config.label2id == {"boys": 0, "girls": 1}
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert (content["id2label"], content["label2id"]) == ({"0": "boys", "1": "girls"}, {"boys": 0, "girls": 1})
    model.config.num_labels = 3
    assert model.config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_a_head_of_another_size_than_the_labels_is_refused(folder):
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    model.config.id2label = {0: "denim", 1: "jersey", 2: "knit"}
    with pytest.raises(ValueError, match=r"names 3 labels, and the head has 2; .*ignore_mismatched_sizes=True"):
        model(torch.zeros(1, 3, 32, 32))
