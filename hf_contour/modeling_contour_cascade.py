"""The parts of the contour extractor: residual modules, cascades of stages, unification and fusion of levels.

Shapes: B images, C channels, H x W pixels; s is `output_stride`.
"""

from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .config_checks_contour import check_num_weights
from .configuration_contour_extractor import ContourExtractorConfig, cumulative_strides
from .layers_contour import ConvNormAct, TimmPart, cut_behind_last_level, num_timm_parameters, repeat_borders


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
