"""Explanations: heat maps that add up, branches that add up, and a check that tells a good map from a bad one."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_classifier

from hf_contour.data.garments.drawing import draw_garment
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.inference.explain import Classifier, Contribution, abstaining, explain
from hf_contour.inference.explanation_drawing import draw_explanation
from hf_contour.inference.faithfulness import faithfulness
from hf_contour.inference.heat_maps import evidence, heat_maps
from hf_contour.inference.left_out import without_colour, without_skin, without_top


def classifier(**fields) -> Classifier:
    return Classifier(tiny_classifier(**fields), ContourImageProcessor(size={"height": 64, "width": 64}))


def linear_layers(model) -> list[torch.nn.Linear]:
    """The last layers of the heads: of the image branch, then of the contours."""
    heads = {name: module for name, module in model.named_modules() if name.endswith("output")}
    return [heads[name] for name in sorted(heads, key=lambda name: "contour" in name)]


def test_heat_maps_add_up_to_the_evidence_where_all_layers_are_linear():
    model = tiny_classifier(fusion="concat", contour_downsampling="average", head="linear", head_grid=[1, 1])
    pixel_values = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = heat_maps(model, pixel_values, 1)
    with torch.no_grad():
        logits = model(pixel_values).logits
    bias = model.classifier.output.bias
    other = max((0, 2), key=lambda index: logits[0, index].item())
    expected = (logits[0, 1] - bias[1]) - (logits[0, other] - bias[other])
    assert found.both.sum().item() == pytest.approx(expected.item(), rel=1e-3)
    assert found.image.sum().item() != pytest.approx(expected.item(), rel=1e-2)  # the contours have their share


def test_heat_maps_of_branches_that_decide_apart_add_up_too():
    model = tiny_classifier(fusion="late", contour_downsampling="average", head_grid=[1, 1], contour_weight=0.5)
    pixel_values = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = heat_maps(model, pixel_values, 1)
    with torch.no_grad():
        logits, ground = model(pixel_values).logits, model(pixel_values, output_branch_logits=True).branch_logits
    torch.testing.assert_close(ground[0] + 0.5 * ground[1], logits)
    other = max((0, 2), key=lambda index: logits[0, index].item())
    biases = [head.bias[1] - head.bias[other] for head in linear_layers(model)]
    expected = [part[0, 1] - part[0, other] - bias for part, bias in zip(ground, biases, strict=True)]
    assert found.image.sum().item() == pytest.approx(expected[0].item(), rel=1e-3)
    assert found.contour.sum().item() == pytest.approx(0.5 * expected[1].item(), rel=1e-3)


def test_contours_alone_can_be_explained():
    explanation = explain(classifier(backbone=None), draw_garment(3, size=(90, 60)).image)
    assert explanation.contribution is None
    assert not explanation.heat_maps["image"].any()
    assert explanation.heat_maps["contour"].any()


def test_heat_maps_of_a_backbone_alone_have_no_contours():
    found = heat_maps(tiny_classifier(contour_features="none"), torch.randn(1, 3, 50, 40), 0)
    assert found.contour is None
    assert found.both.shape == (50, 40)


def test_evidence_is_the_lead_over_the_next_class():
    logits = torch.tensor([[3.0, 1.0, 2.5]])
    assert evidence(logits, 0).item() == 0.5
    assert evidence(logits, 1).item() == -2
    assert evidence(logits, 1, several=True).item() == 1


def test_only_a_heat_map_that_points_to_the_evidence_is_meaningful():
    """The score is the brightness of the upper left quarter, so that is where a heat map has to be hot."""

    def score(pixels):
        return pixels[:, 0, :24, :24].mean(dim=(1, 2))

    image, ground = torch.ones(1, 3, 48, 48), torch.zeros(1, 3, 48, 48)
    heat = torch.zeros(48, 48)
    heat[:24, :24] = 1
    good, bad = faithfulness(score, image, ground, heat), faithfulness(score, image, ground, -heat)
    assert good.is_meaningful
    assert "beats each of 5" in good.sentence
    # Gone in the first two of eight steps: 1, 0.5, 0, 0 ...; the area is (0.75 + 0.25) / 8.
    assert good.deletion == pytest.approx([1, 0.5, *[0] * 7])
    assert good.deletion_area == pytest.approx(1 / 8)
    assert good.insertion_area == pytest.approx(7 / 8)
    assert bad.num_worse == 0
    assert bad.sentence.startswith("Do not trust")


def test_shares_of_the_branches_add_up():
    found = Contribution(both=5.0, image_alone=3.0, contour_alone=1.0, neither=-1.0)
    assert (found.image, found.contour) == (4.0, 2.0)
    assert found.image + found.contour == found.both - found.neither


def test_a_branch_that_sees_the_ground_anyway_contributes_nothing():
    """A white image is its own ground: whatever is left out, nothing changes."""
    explanation = explain(classifier(), Image.new("RGB", (64, 64), "white"))
    assert explanation.contribution.image == pytest.approx(0, abs=1e-5)
    assert explanation.contribution.contour == pytest.approx(0, abs=1e-5)
    assert [change.changed for change in explanation.changes] == [0, 0, 0]
    assert all(change.score == pytest.approx(explanation.scores[change.label]) for change in explanation.changes)


def test_top_skin_and_colour_are_taken_out():
    pixels = np.full((8, 8, 3), 250, dtype=np.uint8)
    pixels[:2, 2:6] = (20, 40, 160)  # blue, in the top quarter
    pixels[4, 2:6] = [(224, 172, 140), (141, 85, 60), (90, 56, 40), (255, 219, 172)]  # skins
    pixels[6, 2:6] = (30, 120, 60)  # green
    top, skin, grey = without_top(pixels), without_skin(pixels), without_colour(pixels)
    assert (top[:2] == 250).all()
    assert (top[2:] == pixels[2:]).all()
    assert (skin[4] == 250).all()
    assert (skin[[0, 1, 2, 3, 5, 6, 7]] == pixels[[0, 1, 2, 3, 5, 6, 7]]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    assert abs(int(grey[6, 2, 0]) - (0.299 * 30 + 0.587 * 120 + 0.114 * 60)) <= 1


def test_an_explanation_holds_maps_of_the_images_size_and_plain_figures():
    image = draw_garment(3, size=(90, 60)).image
    explanation = explain(classifier(), image, label="LABEL_2")
    assert explanation.label == "LABEL_2"
    assert {values.shape for values in explanation.heat_maps.values()} == {(90, 60)}
    assert list(explanation.contours) == ["contours", "level 0", "level 1"]
    assert {values.shape for values in explanation.contours.values()} == {(90, 60)}
    assert sum(explanation.scores.values()) == pytest.approx(1)
    assert explanation.to_dict()["faithfulness"]["num_random"] == 5
    assert "without colour" in explanation.text
    drawn = draw_explanation(explanation)
    assert drawn.mode == "RGB"
    assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 100


def test_large_images_are_classified_as_they_came_and_shown_smaller():
    image, one = draw_garment(3, size=(1536, 1024)).image, classifier()
    explanation = explain(one, image)
    expected = one.probabilities(one.logits(one.pixel_values(image)))[0]
    assert list(explanation.scores.values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert explanation.image.size == (683, 1024)
    assert explanation.heat_maps["both"].shape == (1024, 683)


def test_padding_of_the_input_is_cut_off():
    """An image twice as wide as high: the input's upper and lower quarters are padding."""
    wide = explain(classifier(), draw_garment(3, size=(40, 80)).image)
    assert wide.heat_maps["both"].shape == (40, 80)


def test_abstaining_is_said_with_both_figures():
    unsure = classifier(abstain_threshold=0.7)
    assert abstaining(unsure, 0.7) is None
    assert abstaining(unsure, 0.8, 0.1) is None  # nothing is fitted
    assert abstaining(unsure, 0.6) == "undecided: the highest score 0.600 lies below the abstain threshold 0.700"


def test_an_unknown_class_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'dress'; this classifier knows LABEL_0, LABEL_1, LABEL_2"):
        explain(classifier(), draw_garment(0).image, label="dress")
