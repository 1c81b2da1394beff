"""Backbones of every layout end in one kind of map: channels first, tokens laid out, class tokens left behind."""

import pytest
import torch
from tiny_models import equal_states, tiny_classifier

from hf_contour import ContourGenderForImageClassification
from hf_contour.modeling_contour_branches import ImageBackbone

LAYOUTS = {  # name of a timm architecture: channels, stride
    "convnext_atto": (320, 32),
    "mambaout_femto": (1152, 32),
    "swin_tiny_patch4_window7_224": (768, 32),
    "vit_tiny_patch16_224": (192, 16),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_maps_are_channels_first_at_any_size(name, size):
    channels, stride = LAYOUTS[name]
    torch.manual_seed(0)
    backbone = ImageBackbone(name).eval()
    with torch.no_grad():
        feature_map = backbone(torch.zeros(2, 3, *size))
    assert feature_map.shape == (2, channels, size[0] // stride, size[1] // stride)
    assert backbone.num_features == channels


def test_a_token_lies_where_its_patch_was():
    """Without attention and blocks, a vision transformer's token knows its own patch alone."""
    backbone = ImageBackbone("vit_tiny_patch16_224").eval()
    backbone.network.blocks = torch.nn.Identity()
    pixels = torch.zeros(1, 3, 64, 96)
    spotted = pixels.clone()
    spotted[..., 16:32, 48:64] = 1  # the patch of row 1 and column 3
    with torch.no_grad():
        changed = (backbone(spotted) - backbone(pixels)).abs().sum(dim=1)[0]
    assert changed.nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "mambaout_femto"])
def test_a_classifier_with_such_a_backbone_learns_and_loads_equal(name, tmp_path):
    model = tiny_classifier(backbone=name)
    pixels = torch.randn(2, 3, 60, 50, generator=torch.Generator().manual_seed(0))
    model.train()(pixels, labels=torch.tensor([0, 2])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.contour_fusion.parameters())
    model.eval().save_pretrained(tmp_path)
    loaded = ContourGenderForImageClassification.from_pretrained(tmp_path)
    assert equal_states(loaded, model)
    with torch.no_grad():
        assert torch.allclose(loaded(pixels).logits, model(pixels).logits, atol=1e-6)
