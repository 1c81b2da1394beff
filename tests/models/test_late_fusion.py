"""Branches that decide alone: late fusion, dropped branches, contours without a backbone, another scale."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_models import TIMM_CASCADE, equal_states, tiny_classifier, tiny_extractor
from torch import nn

from hf_contour import ContourGenderConfig, ContourGenderForImageClassification, ContourGenderModel
from hf_contour.loss_contour import classification_loss

PIXELS = torch.randn(4, 3, 70, 50, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 1])


def logits(model: nn.Module, **options: object) -> torch.Tensor:
    with torch.no_grad():
        return model(PIXELS, **options).logits


@pytest.mark.parametrize("contour_weight", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("downsampling", ["conv", "average"])
def test_late_logits_are_the_weighted_sum_of_the_branches(contour_weight, downsampling):
    model = tiny_classifier(fusion="late", contour_weight=contour_weight, contour_downsampling=downsampling)
    with torch.no_grad():
        outputs = model(PIXELS, output_branch_logits=True)
    image, contour = outputs.branch_logits
    assert torch.allclose(outputs.logits, image + contour_weight * contour)
    assert contour.std(dim=0).min() > 0


def test_the_image_branch_does_not_know_the_contours_nor_places():
    """Its head averages over all places: a map that is turned over gives the same."""
    model = tiny_classifier(fusion="late", backbone=["test_efficientnet", "test_resnet"])
    nn.init.zeros_(model.classifier.contour.output.weight)
    nn.init.zeros_(model.classifier.contour.output.bias)
    features = model.image_features(PIXELS)
    turned = [feature_map.flip(-1) for feature_map in features]
    assert torch.allclose(logits(model, image_features=features), logits(model, image_features=turned), atol=1e-6)
    assert torch.allclose(logits(model), logits(model, image_features=features), atol=1e-6)


@pytest.mark.parametrize("stride", [4, 8, 32])
def test_contours_of_late_fusion_have_a_grid_of_their_own(stride):
    model = tiny_classifier(fusion="late", contour_stride=stride)
    with torch.no_grad():
        contour, image = model(PIXELS, output_hidden_states=True).hidden_states
    padded = -(-70 // model.stride) * model.stride
    assert contour.shape[-2] == padded // stride
    assert image.shape[-2] == padded // 32


def test_the_loss_of_the_branches_is_added_by_its_weight():
    model = tiny_classifier(fusion="late", branch_loss_weight=0.5)
    with torch.no_grad():
        outputs = model(PIXELS, labels=LABELS, output_branch_logits=True)
    alone = sum(classification_loss(branch, LABELS) for branch in outputs.branch_logits)
    assert outputs.loss.item() == pytest.approx((classification_loss(outputs.logits, LABELS) + 0.5 * alone).item())


@pytest.mark.parametrize("fusion", ["late", "concat_conv", "conv", "concat"])
def test_each_image_loses_at_most_one_branch_and_as_often_as_asked(fusion):
    model = tiny_classifier(fusion=fusion, branch_dropout=0.5, head_dropout=0.0).train()
    torch.manual_seed(0)
    contour, image = model._drop_branches(4000)
    assert set(torch.stack([contour, image], 1).unique(dim=0).flatten().tolist()) == {0.0, 1.0}
    assert not ((contour == 0) & (image == 0)).any()
    for kept in (contour, image):
        assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert model.eval()._drop_branches(4000) is None
    assert torch.equal(logits(model), logits(model))  # nothing is dropped where nothing is learnt


def test_dropped_branches_decide_nothing_and_learn_nothing():
    """With a dropout of 1 every image has one branch alone."""
    model = tiny_classifier(fusion="late", branch_dropout=1.0).train()
    for module in model.modules():  # statistics of a batch would let images see one another
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    torch.manual_seed(0)
    contour_kept, image_kept = model._drop_branches(4)
    torch.manual_seed(0)
    outputs = model(PIXELS, output_branch_logits=True)
    image, contour = outputs.branch_logits
    expected = image * image_kept[:, None] + model.config.contour_weight * contour * contour_kept[:, None]
    assert torch.allclose(outputs.logits, expected)
    assert 0 < contour_kept.sum() < 4
    assert torch.equal(contour_kept + image_kept, torch.ones(4))


@pytest.mark.parametrize("fusion", ["late", "concat_conv", "concat"])
def test_contours_alone_decide_without_a_backbone(fusion, tmp_path):
    model = tiny_classifier(fusion=fusion, backbone=None, contour_stride=8, extractor=TIMM_CASCADE)
    assert len(model.image_backbones) == 0
    outputs = model.train()(PIXELS, labels=LABELS)
    outputs.loss.backward()
    assert (
        model.classifier.get_parameter("contour.output.weight" if fusion == "late" else "output.weight").grad
        is not None
    )
    model.eval().save_pretrained(tmp_path)
    loaded = ContourGenderForImageClassification.from_pretrained(tmp_path)
    assert equal_states(loaded, model)
    assert torch.equal(logits(loaded), logits(model))
    features = model.contour_features(PIXELS)
    with torch.no_grad():
        assert torch.allclose(model(contour_features=features).logits, logits(model), atol=1e-6)
    bare = ContourGenderModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert bare(PIXELS).pooler_output.shape == (4, 8)


def test_late_fusion_without_contours_is_the_image_branch():
    model = tiny_classifier(fusion="late", contour_features="none")
    with torch.no_grad():
        outputs = model(PIXELS, output_branch_logits=True)
    assert len(outputs.branch_logits) == 1
    assert torch.equal(outputs.logits, outputs.branch_logits[0])


def test_without_a_backbone_images_are_normalised_as_the_extractor_was_trained():
    extractor = tiny_extractor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).contour_extractor
    model = ContourGenderForImageClassification.from_extractor_and_backbone(extractor, None)
    assert model.config.image_mean == [0.1, 0.2, 0.3]
    assert model.config.image_std == [0.4, 0.5, 0.6]


@pytest.mark.parametrize("fusion", ["late", "concat_conv"])
def test_backbones_see_a_smaller_image_than_the_contours(fusion):
    model = tiny_classifier(fusion=fusion, backbone_scale=0.5)
    large = torch.randn(2, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    small = nn.functional.interpolate(large, (64, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        (features,) = model.image_features(large)
        expected = model.image_backbones[0](small)
        assert torch.allclose(features, expected, atol=1e-5)
        contour, *_ = model(large, output_hidden_states=True).hidden_states
    assert contour.shape[-2] == 128 // (32 if fusion == "concat_conv" else 16)


def test_folders_without_the_new_fields_mean_what_they_meant():
    config = ContourGenderConfig()
    assert (config.fusion, config.branch_dropout, config.backbone_scale) == ("concat_conv", 0, 1)
    assert (config.num_prototypes, config.branch_loss_weight) == (0, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": None, "contour_features": "none"}, "nothing would be seen"),
        ({"backbone": [], "contour_features": "fused"}, r"len\(backbone\)"),
        ({"branch_dropout": 0.1, "contour_features": "none"}, "one branch alone"),
        ({"branch_dropout": 0.1, "backbone": None}, "one branch alone"),
        ({"contour_stride": 12}, "power of two"),
        ({"contour_stride": 1, "fusion": "late"}, "output_stride"),
        ({"familiarity_threshold": 0.2}, "nothing is remembered"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        ContourGenderConfig(**fields)


def test_what_a_model_has_not_cannot_be_asked_for():
    with pytest.raises(ValueError, match="not 'late'"):
        tiny_classifier()(PIXELS, output_branch_logits=True)
    with pytest.raises(ValueError, match="no num_prototypes"):
        tiny_classifier()(PIXELS, output_familiarity=True)
