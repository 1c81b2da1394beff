"""Batch normalisation folded into the convolutions gives the same maps."""

import pytest
import torch
from tiny_models import random_statistics, tiny_classifier, tiny_extractor
from torch import nn

from hf_contour import fold_batch_norms
from hf_contour.layers_contour import TimmPart


@pytest.mark.parametrize(
    "model",
    [
        *(tiny_extractor(residual_type=kind, unify="deconv") for kind in ("resnet", "densenet", "senet")),
        tiny_extractor(backbone="test_resnet"),
        tiny_extractor(backbone="test_efficientnet", backbone_levels=[0, 1, 2]),
        tiny_classifier(),
        tiny_classifier(backbone="shufflenet_v2_x0_5"),
    ],
    ids=["resnet", "densenet", "senet", "timm resnet", "timm efficientnet", "classifier", "shufflenet"],
)
def test_the_folded_copy_computes_the_same_with_fewer_layers(model):
    pixels = torch.randn(2, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    folded = fold_batch_norms(model)
    with torch.no_grad():
        assert torch.allclose(folded(pixels).logits, model(pixels).logits, atol=1e-4)
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == []
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) > 5  # the model itself stays


@pytest.mark.parametrize(("name", "all_folded"), [("repvit_m0_9", False), ("lambda_resnet26t", True)])
def test_networks_whose_layers_are_not_in_the_order_of_the_data_stay_right(name, all_folded):
    """Of RepViT some normalisations follow a sum of convolutions; Lambda layers normalise parts of what one gives."""
    model = tiny_extractor(backbone=name, backbone_levels=[0, 1])
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    folded = fold_batch_norms(model)
    with torch.no_grad():
        ours, theirs = folded(pixels).hidden_states[-1], model(pixels).hidden_states[-1]
    assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    left = [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert (left == []) == all_folded


def test_image_features_of_folded_backbones_are_the_same():
    model = tiny_classifier()
    pixels = torch.randn(2, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        folded = model.image_features(pixels, fold_batch_norms(model.image_backbones))
        for ours, theirs in zip(folded, model.image_features(pixels), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4)


class Standardised(nn.Conv2d):
    """A convolution that is not only its weights."""

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(hidden_state, self.weight / self.weight.std(), self.bias)


class Untraceable(nn.Sequential):
    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_state if hidden_state.sum() > 0 else -hidden_state)


class ReadTwice(nn.Sequential):
    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        hidden_state = self[0](hidden_state)
        return self[1](hidden_state) + hidden_state


@pytest.mark.parametrize(
    ("kind", "conv", "num_left"),
    [
        (nn.Sequential, nn.Conv2d, 0),
        (nn.Sequential, Standardised, 1),
        (Untraceable, nn.Conv2d, 1),
        (ReadTwice, nn.Conv2d, 1),
    ],
)
def test_only_what_is_proven_equal_is_folded(kind, conv, num_left):
    part = TimmPart()
    part.network = kind(conv(3, 4, 3), nn.BatchNorm2d(4))
    random_statistics(part)
    pixels = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    folded = fold_batch_norms(part.eval())
    assert torch.allclose(folded.network(pixels), part.network(pixels), atol=1e-5)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == num_left
