"""How familiar an image is: near to what the model remembers, or not; saved with it and heeded by the pipeline."""

import math

import numpy as np
import pytest
import torch
from tiny_models import tiny_classifier
from torch import nn
from transformers import pipeline

from hf_contour import ContourGenderForImageClassification, ContourImageProcessor
from hf_contour.familiarity_contour import choose_prototypes, mean_distance


def test_the_distance_is_the_mean_over_the_five_nearest():
    """By hand: unit vectors at angles of 0 to 90 degrees; the chord of an angle a is 2 sin(a / 2)."""
    angles = [0, 10, 20, 30, 40, 90]
    prototypes = torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in angles])
    expected = sum(2 * math.sin(math.radians(angle) / 2) for angle in angles[:5]) / 5
    features = torch.tensor([[7.0, 0.0]])  # of any length
    assert mean_distance(features, prototypes).item() == pytest.approx(expected, abs=1e-5)


def test_prototypes_are_spread_over_the_kinds_of_images():
    """Of three kinds, one of them rare, every one is remembered."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.eye(3).repeat_interleave(torch.tensor([100, 100, 3]), dim=0)
    features = kinds + 0.01 * torch.randn(203, 3, generator=generator)
    prototypes = choose_prototypes(features, 6)
    assert prototypes.shape == (6, 3)
    assert set(prototypes.argmax(dim=1).tolist()) == {0, 1, 2}
    assert torch.allclose(prototypes.norm(dim=1), torch.ones(6))
    assert torch.equal(prototypes, choose_prototypes(features, 6))
    assert len(choose_prototypes(features[:4], 6)) == 4
    assert len(choose_prototypes(torch.ones(5, 3), 4)) == 4


@pytest.mark.parametrize("features", [torch.zeros(0, 3), torch.full((2, 3), torch.nan), torch.zeros(3)])
def test_features_that_say_nothing_are_refused(features):
    with pytest.raises(ValueError, match="expected"):
        choose_prototypes(features)


def images(seed: int, number: int) -> torch.Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    model = tiny_classifier(fusion="late", id2label={0: "a", 1: "b"})
    with torch.no_grad():
        model.fit_familiarity(
            model.familiarity_features(images(0, 40)), model.familiarity_features(images(1, 20)), num_prototypes=16
        )
    return model


def test_known_images_are_familiar_and_others_are_not(model):
    strange = torch.zeros(3, 3, 32, 32)
    strange[..., ::2, :] = 9
    with torch.no_grad():
        known = model(images(1, 20), output_familiarity=True).familiarity
        other = model(strange, output_familiarity=True).familiarity
    assert known.median().item() == pytest.approx(0.5, abs=0.05)
    assert other.max() < known.min()
    assert ((known > 0) & (known <= 1)).all()


def test_what_is_remembered_is_saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = ContourGenderForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.num_prototypes == 16
    with torch.no_grad():
        expected = model(images(2, 5), output_familiarity=True).familiarity
        assert torch.allclose(loaded(images(2, 5), output_familiarity=True).familiarity, expected, atol=1e-6)
        half = loaded.half()(images(2, 5), output_familiarity=True).familiarity
    assert torch.allclose(half.float(), expected, atol=0.02)


def test_the_pipeline_tells_familiarity_and_leaves_strange_images_undecided(model):
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    classify = pipeline("image-classification", model=model, image_processor=ContourImageProcessor(size=32))
    told = [classify(image, return_familiarity=True) for image in noise]
    assert all(answer.keys() == {"label", "score", "familiarity"} for answers in told for answer in answers)
    assert all("familiarity" not in answer for answers in map(classify, noise) for answer in answers)
    familiarity = sorted(answers[0]["familiarity"] for answers in told)
    model.config.familiarity_threshold = (familiarity[1] + familiarity[2]) / 2
    try:
        decided = classify([*noise, b"<html></html>"], abstain=True, return_familiarity=True, batch_size=2)
        labels = [answers[0]["label"] for answers in decided]
        expected = [answers[0]["familiarity"] >= model.config.familiarity_threshold for answers in told]
        assert [label is not None for label in labels] == [*expected, False]
        assert "error" in decided[-1][0]
    finally:
        model.config.familiarity_threshold = 0.0
