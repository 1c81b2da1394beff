"""The contour extractor: a cascade of stages whose features are unified in size and fused.

Shapes: B images, C channels, H x W pixels; s is `output_stride`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .batch_norm_folding_contour import fold_batch_norms
from .configuration_contour_extractor import ContourExtractorConfig, check_unifier_strides
from .loss_contour import edge_loss
from .modeling_contour_cascade import ContourCascade, LevelFusion, SizeUnifier, TimmCascade, pad_to_multiple
from .weight_loading_contour import ContourPreTrainedModel, load_backbone_weights


@dataclass
class ContourExtractorOutput(ModelOutput):
    """What the extractor sees.

    Args:
        last_hidden_state: `(B, C, H/s, W/s)`, the fused contour features; `None` where only levels were asked for.
        level_features: one `(B, level_channels, H/s, W/s)` per level, from fine to coarse: unified, not fused.
        hidden_states: the stages' own outputs, each of another size.
    """

    last_hidden_state: Tensor | None = None
    level_features: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class ContourExtractorForPreTrainingOutput(ModelOutput):
    """Contours, and the features that they were read from.

    Args:
        loss: scalar, when labels were given.
        logits: `(B, 1, H, W)` at the size of the input, before the sigmoid.
        side_logits: the same for each level alone; `None` when the config's `side_loss_weight` is 0.
        last_hidden_state: as in `ContourExtractorOutput`.
        level_features: as in `ContourExtractorOutput`.
        hidden_states: as in `ContourExtractorOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    side_logits: tuple[Tensor, ...] | None = None
    last_hidden_state: Tensor | None = None
    level_features: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class ContourExtractorPreTrainedModel(ContourPreTrainedModel):
    """Base of the extractor with and without its single-channel head."""

    config: ContourExtractorConfig
    config_class = ContourExtractorConfig
    # Not "extractor" or "backbone": names are matched with the prefix on or off, and must not be mistaken.
    base_model_prefix = "contour_extractor"
    _no_split_modules: ClassVar[list[str]] = ["ContourStage", "TimmCascade", "SizeUnifier", "LevelFusion"]


class ContourExtractorModel(ContourExtractorPreTrainedModel):
    """Multi-channel, multi-level contour features of images.

    Any input size from one pixel up: the image is padded inside to a multiple of the coarsest stride by
    repeating its border, and the features are cropped back.

    Source: CN113298092B, claims 1 and 7, steps S101 and S102.
    """

    # The single-channel head is dropped on loading; nothing else may be left over.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^contour_head\.", r"^side_heads\."]

    def __init__(self, config: ContourExtractorConfig):
        super().__init__(config)
        self.cascade = ContourCascade(config) if config.backbone is None else TimmCascade(config)
        strides = self.cascade.strides
        check_unifier_strides(config.unifiers, strides, config.output_stride)
        self.unifiers = nn.ModuleList(
            [
                SizeUnifier(config, channels, kind=kind, stride=stride)
                for channels, kind, stride in zip(self.cascade.channels, config.unifiers, strides, strict=True)
            ]
        )
        self.fusion = LevelFusion(config)
        self.stride = math.lcm(*strides, config.output_stride)
        self.num_features = self.fusion.channels
        self.post_init()

    def load_backbone_weights(self, weights: str | Path) -> None:
        """Starts a timm cascade from the weights of its architecture, those behind the last level left out.

        Args:
            weights: a `.safetensors` or `.pth` file with timm's own names.

        Raises:
            ValueError: If the cascade is our own, or the file does not fit.
        """
        if self.config.backbone is None:
            raise ValueError("This extractor has a cascade of its own; name a timm `backbone` in its config.")
        load_backbone_weights(self.cascade.network, weights, surplus=None)

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, levels: Sequence[int] | None = None, **kwargs: Any
    ) -> ContourExtractorOutput:
        """Extracts contour features.

        Args:
            pixel_values: `(B, num_channels, H, W)`, normalised with the config's mean and standard deviation.
            levels: numbers of the only levels that are wanted, from 0 (finest). The stages behind the last
                of them are then not run and nothing is fused, which is faster.
            **kwargs: only what Transformers passes to every model (`output_hidden_states` and the like).

        Returns:
            Features at `(ceil(H/s), ceil(W/s))`.

        Raises:
            ValueError: If the pixels have another shape, or a level is not there.

        Example:
            >>> import torch
            >>> from hf_contour import ContourExtractorConfig, ContourExtractorModel
            >>> model = ContourExtractorModel(ContourExtractorConfig()).eval()
            >>> features = model(torch.zeros(1, 3, 70, 50))
            >>> features.last_hidden_state.shape, len(features.level_features)
            (torch.Size([1, 32, 35, 25]), 4)
        """
        pixel_values = check_pixel_values(pixel_values, self.config.num_channels).to(self.dtype)
        wanted = list(range(self.config.num_levels) if levels is None else levels)
        if not wanted or not set(wanted) <= set(range(self.config.num_levels)):
            raise ValueError(f"levels are {wanted}; expected numbers from 0 to {self.config.num_levels - 1}.")
        height, width = pixel_values.shape[-2:]
        step = self.config.output_stride
        rows, columns = -(-height // step), -(-width // step)
        padded = pad_to_multiple(pixel_values, self.stride)
        common = (padded.shape[-2] // step, padded.shape[-1] // step)
        hidden_states = self.cascade(padded, max(wanted) + 1)
        level_features = [self.unifiers[index](hidden_states[index], common) for index in wanted]
        fused = self.fusion(level_features)[..., :rows, :columns] if levels is None else None
        return ContourExtractorOutput(
            last_hidden_state=fused,
            level_features=tuple(level[..., :rows, :columns] for level in level_features),
            hidden_states=tuple(hidden_states),
        )


def check_pixel_values(pixel_values: Tensor, num_channels: int) -> Tensor:
    """The tensor; raises `ValueError` unless it is `(B, num_channels, H, W)`."""
    if pixel_values.ndim != 4 or pixel_values.shape[1] != num_channels:
        raise ValueError(
            f"pixel_values are {tuple(pixel_values.shape)}; expected (batch, {num_channels}, height, width). "
            "Let ContourImageProcessor make them from images."
        )
    return pixel_values


class ContourExtractorForPreTraining(ContourExtractorPreTrainedModel):
    """The extractor with the single-channel convolution that it is trained through, and which is then dropped.

    Source: CN113298092B, claims 1 and 2, steps S101 and S102.
    """

    def __init__(self, config: ContourExtractorConfig):
        super().__init__(config)
        self.contour_extractor = ContourExtractorModel(config)
        self.contour_head = nn.Conv2d(self.contour_extractor.num_features, 1, 1)
        num_sides = config.num_levels if config.side_loss_weight else 0
        self.side_heads = nn.ModuleList([nn.Conv2d(config.level_channels, 1, 1) for _ in range(num_sides)])
        self.post_init()

    def _upsample(self, logits: Tensor, height: int, width: int) -> Tensor:
        """`(B, 1, H/s, W/s)` to `(B, 1, H, W)`, each pixel kept in its place."""
        step = self.config.output_stride
        size = (logits.shape[-2] * step, logits.shape[-1] * step)
        if step > 1:
            logits = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any
    ) -> ContourExtractorForPreTrainingOutput:
        """Draws contours.

        Args:
            pixel_values: `(B, num_channels, H, W)`, normalised with the config's mean and standard deviation.
            labels: `(B, H, W)` share of annotators in [0, 1] who drew a contour, or `IGNORE_LABEL`.
            **kwargs: as in `ContourExtractorModel`.

        Returns:
            Logits at the size of the input; the loss, with `labels`, is that of the map plus
            `side_loss_weight` times the mean of the levels'.

        Example:
            >>> import torch
            >>> from hf_contour import ContourExtractorConfig, ContourExtractorForPreTraining
            >>> model = ContourExtractorForPreTraining(ContourExtractorConfig()).eval()
            >>> outputs = model(torch.zeros(1, 3, 70, 50), labels=torch.zeros(1, 70, 50))
            >>> outputs.logits.shape, outputs.loss.shape
            (torch.Size([1, 1, 70, 50]), torch.Size([]))
        """
        features = self.contour_extractor(pixel_values, return_dict=True)
        height, width = pixel_values.shape[-2:]
        logits = self._upsample(self.contour_head(features.last_hidden_state), height, width)
        side_logits = tuple(
            self._upsample(head(level), height, width)
            for head, level in zip(self.side_heads, features.level_features, strict=False)
        )
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels)
            if side_logits:
                side_loss = torch.stack([self._loss(side, labels) for side in side_logits]).mean()
                loss = loss + self.config.side_loss_weight * side_loss
        return ContourExtractorForPreTrainingOutput(
            loss=loss,
            logits=logits,
            side_logits=side_logits or None,
            last_hidden_state=features.last_hidden_state,
            level_features=features.level_features,
            hidden_states=features.hidden_states,
        )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return edge_loss(
            logits.squeeze(1),
            labels,
            kind=self.config.loss,
            consensus_threshold=self.config.consensus_threshold,
            background_scale=self.config.background_scale,
        )


ContourExtractorModel.register_for_auto_class("AutoModel")
ContourExtractorForPreTraining.register_for_auto_class("AutoModelForPreTraining")

__all__ = ["ContourExtractorForPreTraining", "ContourExtractorModel", "fold_batch_norms"]
