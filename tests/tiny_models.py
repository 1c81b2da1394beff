"""Models of a few thousand weights for tests of loading, saving and export."""

from typing import Any

import torch
from torch import nn

from hf_contour import (
    ContourExtractorConfig,
    ContourExtractorForPreTraining,
    ContourGenderConfig,
    ContourGenderForImageClassification,
)

CASCADE = {"hidden_sizes": [4, 6], "depths": [1, 1], "strides": [2, 2], "level_channels": 4, "fusion_channels": 6}
TIMM_CASCADE = {"backbone": "test_resnet", "backbone_levels": [0, 1, 2], "level_channels": 4, "fusion_channels": 6}


def random_statistics(model: nn.Module) -> None:
    """Gives every batch normalisation weights and statistics of its own, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)


def tiny_extractor(**fields: Any) -> ContourExtractorForPreTraining:
    """An extractor with its head, of our own cascade unless `backbone` is given, in evaluation mode."""
    torch.manual_seed(0)
    base = TIMM_CASCADE if "backbone" in fields else CASCADE
    model = ContourExtractorForPreTraining(ContourExtractorConfig(**{**base, **fields}))
    random_statistics(model)
    return model.eval()


def tiny_classifier(*, extractor: dict[str, Any] = CASCADE, **fields: Any) -> ContourGenderForImageClassification:
    """A classifier with a small timm backbone and three labels, in evaluation mode."""
    torch.manual_seed(0)
    defaults = {"backbone": "test_efficientnet", "contour_channels": 8, "fusion_channels": 8, "num_labels": 3}
    config = ContourGenderConfig(extractor_config=ContourExtractorConfig(**extractor), **{**defaults, **fields})
    model = ContourGenderForImageClassification(config)
    random_statistics(model)
    return model.eval()


def equal_states(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models hold the same tensors under the same names, non-persistent buffers included."""
    theirs = {**dict(second.named_buffers()), **second.state_dict()}
    ours = {**dict(first.named_buffers()), **first.state_dict()}
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
