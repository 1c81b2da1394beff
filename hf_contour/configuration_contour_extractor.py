"""Configuration of the contour extractor."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .config_checks_contour import (
    MAX_CHANNELS,
    MAX_STRIDE,
    check_backbone_name,
    check_choice,
    check_common_fields,
    check_lengths,
    check_normalisation,
    check_num_weights,
    check_range,
    complete_auto_map,
    local_auto_map,
)

RESIDUAL_TYPES = ("resnet", "densenet", "senet")
UNIFIERS = ("bilinear", "nearest", "deconv")
FUSIONS = ("concat", "sum", "conv")
PADDING_MODES = ("replicate", "zeros")
LOSSES = ("plain", "balanced")

MAX_LEVELS = 8
MAX_DEPTH = 32
MAX_TOTAL_STRIDE = 256  # every image is padded to a multiple of it

# What a saved folder names for each Auto class; Transformers itself writes only the class that was saved.
AUTO_MAP = {
    "AutoConfig": "configuration_contour_extractor.ContourExtractorConfig",
    "AutoModel": "modeling_contour_extractor.ContourExtractorModel",
    "AutoModelForPreTraining": "modeling_contour_extractor.ContourExtractorForPreTraining",
}


@strict
class ContourExtractorConfig(PreTrainedConfig):
    """Settings of `ContourExtractorModel` and `ContourExtractorForPreTraining`.

    The cascade is either built here (`hidden_sizes`, `depths`, `strides`, `residual_type`) or a timm feature
    network (`backbone`, `backbone_levels`), which can start from ImageNet weights.

    Args:
        num_channels: channels of the images, 1 to 64.
        hidden_sizes: channels of each stage.
        depths: residual modules in each stage, after its 3x3 convolution.
        strides: 1, 2 or 4 for each stage; from the second on at least 2, so that every stage has another size.
        residual_type: `resnet`, `densenet` or `senet`, one for all stages or one per stage.
        dense_growth_rate: channels that each of the two dense layers adds (`densenet` only).
        squeeze_ratio: reduction of the squeeze-and-excitation bottleneck (`senet` only).
        backbone: bare name of a timm architecture that serves as the cascade; `None` builds our own.
        backbone_levels: which of its feature maps become levels, from fine to coarse.
        unify: `bilinear`, `nearest` or `deconv`, one for all levels or one per level.
        level_channels: channels of each level after unification.
        output_stride: pixels of the image to a pixel of the unified maps; a power of two.
        fusion: how the unified maps become `last_hidden_state`: `concat` (all channels), `sum`, or `conv`
            (concatenation and a 3x3 convolution).
        fusion_channels: channels after `conv` fusion.
        padding_mode: what the convolutions see beyond the border: `replicate` repeats it, so that the end of an
            image is no contour; `zeros` is what older folders were trained with, and what a saved config without
            this field means.
        image_mean: mean of each channel that the images are normalised with, for pixels in [0, 1].
        image_std: standard deviation of each channel that they are normalised with.
        loss: `plain` or `balanced` cross entropy.
        consensus_threshold: share of annotators from which a pixel counts as a contour, in (0, 1]; pixels that
            fewer have drawn are not counted.
        background_scale: extra weight of the background in the balanced loss.
        side_loss_weight: weight of the loss of each level's own single-channel map; 0 builds no such maps.

    Raises:
        ValueError: For impossible values, naming the field.

    Source: CN113298092B, claims 1 and 7, steps S101 and S102.
    """

    model_type: ClassVar[str] = "contour_extractor"
    # Only logits are gathered by an evaluating Trainer; the maps would fill the memory.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "side_logits",
        "last_hidden_state",
        "level_features",
        "hidden_states",
    ]

    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (16, 32, 48, 64)
    depths: list[int] | tuple[int, ...] = (1, 1, 1, 1)
    strides: list[int] | tuple[int, ...] = (2, 2, 2, 2)
    residual_type: str | list[str] | tuple[str, ...] = "resnet"
    dense_growth_rate: int = 8
    squeeze_ratio: int = 4
    backbone: str | None = None
    backbone_levels: list[int] | tuple[int, ...] = (0, 1, 2, 3, 4)
    unify: str | list[str] | tuple[str, ...] = "bilinear"
    level_channels: int = 16
    output_stride: int = 2
    fusion: str = "conv"
    fusion_channels: int = 32
    padding_mode: str | None = None
    image_mean: list[float | int] | tuple[float | int, ...] = (0.5, 0.5, 0.5)
    image_std: list[float | int] | tuple[float | int, ...] = (0.5, 0.5, 0.5)
    loss: str = "plain"
    consensus_threshold: float | int = 0.3
    background_scale: float | int = 1.1
    side_loss_weight: float | int = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        for field in ("hidden_sizes", "depths", "strides", "backbone_levels", "image_mean", "image_std"):
            setattr(self, field, list(getattr(self, field)))
        for field in ("residual_type", "unify"):
            if not isinstance(getattr(self, field), str):
                setattr(self, field, list(getattr(self, field)))
        if self.padding_mode is None:
            # Folders saved before the field was there were trained with zeros; only saved ones name a version.
            self.padding_mode = "zeros" if self.transformers_version else "replicate"
        check_common_fields(vars(self), kwargs, class_names=dir(type(self)))
        kwargs["auto_map"] = complete_auto_map(kwargs.get("auto_map"), AUTO_MAP)
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """What is saved; see `PreTrainedConfig.to_dict`."""
        content = super().to_dict()
        return {**content, "auto_map": local_auto_map(content["auto_map"])}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Makes a config of what a file holds; see `PreTrainedConfig.from_dict`."""
        check_lengths(list(cls.__dataclass_fields__), config_dict)
        return super().from_dict(config_dict, **kwargs)

    @property
    def num_levels(self) -> int:
        """How many stages, and so levels, the cascade has."""
        return len(self.hidden_sizes) if self.backbone is None else len(self.backbone_levels)

    @property
    def residual_types(self) -> list[str]:
        """The residual module of each stage."""
        if isinstance(self.residual_type, str):
            return [self.residual_type] * len(self.hidden_sizes)
        return list(self.residual_type)

    @property
    def unifiers(self) -> list[str]:
        """The unifier of each level."""
        return [self.unify] * self.num_levels if isinstance(self.unify, str) else list(self.unify)

    def validate_cascade(self) -> None:
        """Part of the validation by `@strict`: the stages, or the timm network in their place."""
        check_range("num_channels", self.num_channels, 1, 64)
        if self.backbone is not None:
            check_backbone_name("backbone", self.backbone)
            levels = self.backbone_levels
            if not levels or list(levels) != sorted(set(levels)) or levels[0] < 0 or levels[-1] >= MAX_LEVELS:
                raise ValueError(
                    f"backbone_levels is {levels}; expected rising level numbers from 0 to {MAX_LEVELS - 1}."
                )
            return
        self._validate_stages()

    def _validate_stages(self) -> None:
        num_stages = len(self.hidden_sizes)
        check_range("len(hidden_sizes)", num_stages, 1, MAX_LEVELS)
        for field in ("depths", "strides", "residual_types"):
            if len(getattr(self, field)) != num_stages:
                raise ValueError(
                    f"{field.removesuffix('s') if field == 'residual_types' else field} has "
                    f"{len(getattr(self, field))} values; expected one for each of the {num_stages} hidden_sizes."
                )
        for index in range(num_stages):
            check_range(f"hidden_sizes[{index}]", self.hidden_sizes[index], 1, MAX_CHANNELS)
            check_range(f"depths[{index}]", self.depths[index], 0, MAX_DEPTH)
            check_choice("residual_type", self.residual_types[index], RESIDUAL_TYPES)
            allowed = (1, 2, 4) if index == 0 else (2, 4)
            if self.strides[index] not in allowed:
                raise ValueError(
                    f"strides[{index}] is {self.strides[index]}; expected one of {allowed}, "
                    "since every stage must give features of another size."
                )
        check_range("dense_growth_rate", self.dense_growth_rate, 1, MAX_CHANNELS)
        check_range("squeeze_ratio", self.squeeze_ratio, 1, MAX_CHANNELS)
        if math.prod(self.strides) > MAX_TOTAL_STRIDE:
            raise ValueError(
                f"strides is {list(self.strides)}, {math.prod(self.strides)} in all; at most {MAX_TOTAL_STRIDE} are "
                "allowed, since every image is padded to a multiple of it."
            )

    def validate_fusion(self) -> None:
        """Part of the validation by `@strict`: unification, fusion and normalisation."""
        if len(self.unifiers) != self.num_levels:
            raise ValueError(
                f"unify has {len(self.unifiers)} values; expected one for each of {self.num_levels} levels."
            )
        for unifier in self.unifiers:
            check_choice("unify", unifier, UNIFIERS)
        check_range("output_stride", self.output_stride, 1, MAX_STRIDE)
        if self.output_stride & (self.output_stride - 1):
            raise ValueError(f"output_stride is {self.output_stride}; expected a power of two.")
        if self.backbone is None:
            check_unifier_strides(self.unifiers, cumulative_strides(self.strides), self.output_stride)
        check_choice("fusion", self.fusion, FUSIONS)
        check_choice("padding_mode", self.padding_mode, PADDING_MODES)
        check_range("level_channels", self.level_channels, 1, MAX_CHANNELS)
        check_range("fusion_channels", self.fusion_channels, 1, MAX_CHANNELS)
        check_normalisation(self.image_mean, self.image_std, self.num_channels)

    def validate_size(self) -> None:
        """Part of the validation by `@strict`, after the single fields: how much they ask for together.

        What a timm network adds is counted by the model, before anything is allocated.
        """
        weights = 9 * self.level_channels * self.num_levels * self.fusion_channels if self.fusion == "conv" else 0
        if self.backbone is None:
            for previous, width, depth in zip(
                [self.num_channels, *self.hidden_sizes], self.hidden_sizes, self.depths, strict=False
            ):
                weights += 9 * width * (previous + (2 * width + 3 * self.dense_growth_rate) * depth)
                weights += width * self.level_channels
            for stride, unifier in zip(cumulative_strides(self.strides), self.unifiers, strict=True):
                if unifier == "deconv":
                    weights += self.level_channels * (2 * stride // self.output_stride) ** 2
        check_num_weights(
            weights, "hidden_sizes, depths, dense_growth_rate, strides, level_channels and fusion_channels"
        )

    def validate_loss(self) -> None:
        """Part of the validation by `@strict`: the loss."""
        check_choice("loss", self.loss, LOSSES)
        check_range("consensus_threshold", self.consensus_threshold, 1e-6, 1)
        check_range("background_scale", self.background_scale, 1e-6, 1000)
        check_range("side_loss_weight", self.side_loss_weight, 0, 1000)


def cumulative_strides(strides: Sequence[int]) -> list[int]:
    """The stride of each stage's output relative to the image."""
    return [math.prod(strides[: index + 1]) for index in range(len(strides))]


def check_unifier_strides(unifiers: list[str], level_strides: list[int], output_stride: int) -> None:
    """Refuses a deconvolution where the level is finer than the common size: it can only enlarge.

    Raises:
        ValueError: Naming the level.
    """
    for level, (unifier, stride) in enumerate(zip(unifiers, level_strides, strict=True)):
        if unifier == "deconv" and stride < output_stride:
            raise ValueError(
                f"unify[{level}] is 'deconv' for a level of stride {stride}, finer than output_stride "
                f"{output_stride}; use 'bilinear' or 'nearest' there, or a lower output_stride."
            )


ContourExtractorConfig.register_for_auto_class()

__all__ = ["ContourExtractorConfig"]
