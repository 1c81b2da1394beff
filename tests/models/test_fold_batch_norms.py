"""Batch normalisation folded into the convolutions gives the same maps."""

import pytest
import torch
from tiny_models import tiny_classifier, tiny_extractor
from torch import nn

from hf_contour import fold_batch_norms


@pytest.mark.parametrize(
    "model",
    [
        *(tiny_extractor(residual_type=kind, unify="deconv") for kind in ("resnet", "densenet", "senet")),
        tiny_extractor(backbone="test_resnet"),
        tiny_extractor(backbone="test_efficientnet", backbone_levels=[0, 1, 2]),
        tiny_classifier(),
    ],
    ids=["resnet", "densenet", "senet", "timm resnet", "timm efficientnet", "classifier"],
)
def test_the_folded_copy_computes_the_same_with_fewer_layers(model):
    pixels = torch.randn(2, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    folded = fold_batch_norms(model)
    with torch.no_grad():
        assert torch.allclose(folded(pixels).logits, model(pixels).logits, atol=1e-4)
    left = [name for name, module in folded.named_modules() if isinstance(module, nn.BatchNorm2d)]
    # timm's deep stem ends its convolutions in a Sequential and normalises beside it; that one stays.
    assert left in ([], ["contour_extractor.cascade.network.bn1"])
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) > 5  # the model itself stays
