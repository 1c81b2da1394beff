"""Colours and contours taken away at test time: pixel by pixel, and against features joined by hand."""

import colorsys

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_models import tiny_classifier
from tiny_training import drawn_row

from hf_contour.data.samples import ContourSamples
from hf_contour.evaluation.perturbations import (
    COLOUR_PERTURBATIONS,
    PERMUTATIONS,
    ColourDisturbedSamples,
    ContoursOfAnother,
    SamplesWithAnother,
    disturb_colours,
    partners,
    zeroed_contours,
)
from hf_contour.image_processing_contour import ContourImageProcessor


@pytest.fixture(scope="module")
def samples():
    rows = [{"image": drawn_row(number)["image"], "label": number % 2} for number in range(5)]
    processor = ContourImageProcessor(size={"height": 32, "width": 32})
    return ContourSamples(Dataset.from_list(rows), processor, stage="gender")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def test_channels_change_places_and_every_order_occurs(pixels):
    orders = set()
    for index in range(60):
        disturbed = disturb_colours(pixels, "channels_permuted", seed=3, index=index)
        fitting = [order for order in PERMUTATIONS if np.array_equal(disturbed, pixels[..., order])]
        assert len(fitting) == 1
        orders.add(tuple(fitting[0]))
        again = disturb_colours(pixels, "channels_permuted", seed=3, index=index)
        assert np.array_equal(disturbed, again)
    assert len(orders) == 5
    assert (0, 1, 2) not in orders


@pytest.mark.parametrize(("name", "turn"), [("hue_90", 0.25), ("hue_180", 0.5), ("hue_270", 0.75)])
def test_hue_turns_as_in_the_standard_library(pixels, name, turn):
    disturbed = disturb_colours(pixels, name, seed=0, index=0)
    for before, after in zip(pixels.reshape(-1, 3), disturbed.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        expected = 255 * np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
        assert np.abs(after - expected).max() <= 1.5


def test_grey_has_three_equal_channels(pixels):
    disturbed = disturb_colours(pixels, "grey", seed=0, index=0)
    assert np.abs(disturbed - pixels @ [[0.299], [0.587], [0.114]]).max() <= 1
    assert disturbed.shape == pixels.shape


def test_an_unknown_perturbation_is_refused(pixels):
    with pytest.raises(ValueError, match=r"'sepia'.*grey"):
        disturb_colours(pixels, "sepia", seed=0, index=0)


def test_samples_keep_label_and_row_and_grey_images_their_pixels(samples):
    for name in COLOUR_PERTURBATIONS:
        disturbed = ColourDisturbedSamples(samples, name)
        assert len(disturbed) == 5
        for index in range(5):
            before, after = samples[index], disturbed[index]
            assert (after["labels"], after["index"]) == (before["labels"], index)
            assert torch.allclose(after["pixel_values"], before["pixel_values"], atol=0.02)  # the images are grey


def test_partners_are_others_and_each_serves_once():
    for count in (2, 3, 10):
        chosen = partners(count, seed=1)
        assert sorted(chosen) == list(range(count))
        assert (chosen != np.arange(count)).all()
    assert not np.array_equal(partners(10, seed=1), partners(10, seed=2))
    with pytest.raises(ValueError, match="at least 2"):
        partners(1, seed=0)


@pytest.mark.parametrize(
    "fields", [{}, {"contour_features": "levels", "contour_levels": [0, 1]}, {"temperature": 2.0}]
)
def test_another_image_lends_its_contours(samples, fields):
    model = tiny_classifier(num_labels=2, **fields)
    paired = SamplesWithAnother(samples, seed=4)
    both = torch.stack([paired[index]["pixel_values"] for index in range(5)])
    own, other = both.unbind(dim=1)
    for index in range(5):
        assert torch.equal(own[index], samples[index]["pixel_values"])
        assert torch.equal(other[index], samples[int(partners(5, seed=4)[index])]["pixel_values"])
    with torch.inference_mode():
        found = ContoursOfAnother(model)(both).logits
        maps_of_own = model(own, output_hidden_states=True).hidden_states
        maps_of_other = model(other, output_hidden_states=True).hidden_states
        by_hand = model.classifier(model.contour_fusion([maps_of_other[0], *maps_of_own[1:-1]]))
        undisturbed = model(own).logits
    assert torch.allclose(found, by_hand / model.config.temperature, atol=1e-5)
    assert not torch.allclose(found, undisturbed, atol=1e-5)


def test_zeroed_contours_are_zero_only_within_the_block(samples):
    model = tiny_classifier(num_labels=2)
    batch = torch.stack([samples[index]["pixel_values"] for index in range(5)])
    with torch.inference_mode():
        maps = model(batch, output_hidden_states=True).hidden_states
        zeros = model.contour_downsampling(torch.zeros_like(model.contour_features(batch)))
        by_hand = model.classifier(model.contour_fusion([zeros, *maps[1:-1]]))
        undisturbed = model(batch).logits
        with zeroed_contours(model) as without:
            found = without(batch).logits
        after = model(batch).logits
    assert torch.allclose(found, by_hand, atol=1e-6)
    assert not torch.allclose(found, undisturbed, atol=1e-5)
    assert torch.equal(after, undisturbed)


def test_hooks_are_removed_after_an_error():
    model = tiny_classifier(num_labels=2)
    with pytest.raises(ValueError, match="pixel_values"), zeroed_contours(model):
        model(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match="pixel_values"):
        ContoursOfAnother(model)(torch.zeros(1, 2, 2, 8, 8))
    assert not model.extractor._forward_hooks
