"""The contour extractor: a cascade of stages whose features are unified in size and fused.

Shapes: B images, C channels, H x W pixels; s is `output_stride`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .batch_norm_folding_contour import fold_batch_norms
from .configuration_contour_extractor import (
    ContourExtractorConfig,
    check_num_weights,
    check_unifier_strides,
    cumulative_strides,
)
from .layers_contour import ConvNormAct, TimmPart, cut_behind_last_level, num_timm_parameters, repeat_borders
from .loss_contour import edge_loss
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


class ResNetModule(nn.Module):
    """Two 3x3 convolutions beside the identity. Source: He et al. (2015), fig. 2."""

    def __init__(self, config: ContourExtractorConfig, channels: int):
        super().__init__()
        mode = config.padding_mode
        self.residual = nn.Sequential(
            ConvNormAct(channels, channels, padding_mode=mode),
            ConvNormAct(channels, channels, act=False, padding_mode=mode),
        )

    def forward(self, hidden_state: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        return torch.relu(hidden_state + self.residual(hidden_state))


class DenseNetModule(nn.Module):
    """Two 3x3 convolutions that each see all features before them, then a 1x1 transition to the width.

    Source: Huang et al. (2016), sec. 3. The transition does not pool, since each stage strides by itself.
    """

    def __init__(self, config: ContourExtractorConfig, channels: int):
        super().__init__()
        growth = config.dense_growth_rate
        self.layers = nn.ModuleList(
            [ConvNormAct(channels + index * growth, growth, padding_mode=config.padding_mode) for index in range(2)]
        )
        self.transition = ConvNormAct(channels + 2 * growth, channels, 1)

    def forward(self, hidden_state: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        for layer in self.layers:
            hidden_state = torch.cat([hidden_state, layer(hidden_state)], dim=1)
        return self.transition(hidden_state)


class SENetModule(nn.Module):
    """A residual module whose channels are weighed by a squeeze of the whole map.

    Source: Hu et al. (2017), fig. 3.
    """

    def __init__(self, config: ContourExtractorConfig, channels: int):
        super().__init__()
        squeezed = max(channels // config.squeeze_ratio, 1)
        mode = config.padding_mode
        self.residual = nn.Sequential(
            ConvNormAct(channels, channels, padding_mode=mode),
            ConvNormAct(channels, channels, act=False, padding_mode=mode),
        )
        self.excitation = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1), nn.Sigmoid()
        )

    def forward(self, hidden_state: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same shape."""
        residual = self.residual(hidden_state)
        weights = self.excitation(residual.mean(dim=(2, 3), keepdim=True))  # (B, C, 1, 1)
        return torch.relu(hidden_state + residual * weights)


RESIDUAL_MODULES = {"resnet": ResNetModule, "densenet": DenseNetModule, "senet": SENetModule}


class ContourStage(GradientCheckpointingLayer):
    """A 3x3 convolution and residual modules in cascade: one resolution of the extractor."""

    def __init__(self, config: ContourExtractorConfig, in_channels: int, index: int):
        super().__init__()
        channels = config.hidden_sizes[index]
        module = RESIDUAL_MODULES[config.residual_types[index]]
        self.downsample = ConvNormAct(
            in_channels, channels, stride=config.strides[index], padding_mode=config.padding_mode
        )
        self.modules_in_cascade = nn.Sequential(*(module(config, channels) for _ in range(config.depths[index])))

    def forward(self, hidden_state: Tensor) -> Tensor:
        """`(B, C_in, H, W)` to `(B, C, H/stride, W/stride)`."""
        return self.modules_in_cascade(self.downsample(hidden_state))


class ContourCascade(nn.Module):
    """Our own cascade of stages."""

    def __init__(self, config: ContourExtractorConfig):
        super().__init__()
        in_channels = [config.num_channels, *config.hidden_sizes]
        self.stages = nn.ModuleList(
            [ContourStage(config, in_channels[index], index) for index in range(len(config.hidden_sizes))]
        )
        self.channels = list(config.hidden_sizes)
        self.strides = cumulative_strides(config.strides)

    def forward(self, hidden_state: Tensor, num_levels: int | None = None) -> list[Tensor]:
        """`(B, C, H, W)` to one map per stage, of the first `num_levels` stages."""
        if self.training and self.stages[0].gradient_checkpointing and not hidden_state.requires_grad:
            # Reentrant checkpointing gives a stage no gradients unless its input takes one.
            hidden_state = hidden_state.detach().requires_grad_()
        hidden_states = []
        for stage in self.stages[:num_levels]:
            hidden_state = stage(hidden_state)
            hidden_states.append(hidden_state)
        return hidden_states


class TimmCascade(TimmPart):
    """A timm feature network in the place of our own cascade."""

    def __init__(self, config: ContourExtractorConfig):
        super().__init__()
        options = {
            "features_only": True,
            "in_chans": config.num_channels,
            "out_indices": tuple(config.backbone_levels),
        }
        check_num_weights(num_timm_parameters(config.backbone, **options), "backbone and backbone_levels")
        self.network = timm.create_model(config.backbone, pretrained=False, **options)
        cut_behind_last_level(self.network)
        if config.padding_mode == "replicate":
            repeat_borders(self.network)
        self.channels = list(self.network.feature_info.channels())
        self.strides = list(self.network.feature_info.reduction())
        self.keep_initial_weights()

    def forward(self, hidden_state: Tensor, num_levels: int | None = None) -> list[Tensor]:
        """`(B, C, H, W)` to one map per level, of the first `num_levels`; timm computes all of them."""
        return self.network(hidden_state)[:num_levels]


class SizeUnifier(nn.Module):
    """Brings one level to the common width and size: a 1x1 convolution, then interpolation or deconvolution."""

    def __init__(self, config: ContourExtractorConfig, in_channels: int, *, kind: str, stride: int):
        super().__init__()
        self.kind = kind
        self.scale = stride / config.output_stride
        self.repeats_border = config.padding_mode == "replicate"
        self.projection = ConvNormAct(in_channels, config.level_channels, 1)
        if kind == "deconv":
            ratio = stride // config.output_stride
            # With kernel 2r, stride r and padding r/2 the map grows r times exactly; r = 1 keeps it with a 3x3.
            kernel_size, padding = (3, 1) if ratio == 1 else (2 * ratio, ratio // 2)
            self.deconv = nn.ConvTranspose2d(
                config.level_channels,
                config.level_channels,
                kernel_size,
                ratio,
                padding,
                groups=config.level_channels,
                bias=False,
            )

    def forward(self, hidden_state: Tensor, size: tuple[int, int]) -> Tensor:
        """`(B, C_in, h, w)` to `(B, level_channels, *size)`."""
        hidden_state = self.projection(hidden_state)
        if self.kind == "deconv":
            return self._deconvolve(hidden_state, size)
        if self.scale == 1:
            return hidden_state
        if self.kind == "nearest":
            return nn.functional.interpolate(hidden_state, size=size, mode="nearest")
        return nn.functional.interpolate(hidden_state, size=size, mode="bilinear", align_corners=False)

    def _deconvolve(self, hidden_state: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarges by the deconvolution; a repeated border is added before it and cut off again behind it."""
        if not self.repeats_border:
            return self.deconv(hidden_state)
        margin = size[0] // hidden_state.shape[-2]
        hidden_state = nn.functional.pad(hidden_state, (1, 1, 1, 1), mode="replicate")
        return self.deconv(hidden_state)[..., margin:-margin, margin:-margin]


class LevelFusion(nn.Module):
    """Joins the unified maps of all levels."""

    def __init__(self, config: ContourExtractorConfig):
        super().__init__()
        self.kind = config.fusion
        width = config.level_channels * (1 if config.fusion == "sum" else config.num_levels)
        self.channels = config.fusion_channels if config.fusion == "conv" else width
        if config.fusion == "conv":
            self.conv = ConvNormAct(width, config.fusion_channels, padding_mode=config.padding_mode)

    def forward(self, level_features: Sequence[Tensor]) -> Tensor:
        """Maps of one size to `(B, C, H/s, W/s)`."""
        if self.kind == "sum":
            return torch.stack(tuple(level_features)).sum(dim=0)
        joined = torch.cat(tuple(level_features), dim=1)
        return self.conv(joined) if self.kind == "conv" else joined


def pad_to_multiple(pixel_values: Tensor, multiple: int) -> Tensor:
    """Repeats the last row and column until both sides are multiples: `(B, C, H, W)` to `(B, C, H', W')`."""
    height, width = pixel_values.shape[-2:]
    rows, columns = -height % multiple, -width % multiple
    if rows == 0 and columns == 0:
        return pixel_values
    return nn.functional.pad(pixel_values, (0, columns, 0, rows), mode="replicate")


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
