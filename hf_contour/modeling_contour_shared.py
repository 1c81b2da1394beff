"""What the classifier and its bare model share: the frozen extractor, the backbones and their fusion.

Shapes: B images, C channels, H x W pixels; S is the stride at which features join.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_contour_gender import ContourGenderConfig
from .familiarity_contour import Familiarity, choose_prototypes, mean_distance
from .modeling_contour_branches import (
    BranchMaps,
    ContourDownsampling,
    ContourFusion,
    ImageBackbone,
    plan_backbone,
    pool_to_grid,
    pool_to_stride,
    reduce_to_scale,
    renormalise,
)
from .modeling_contour_cascade import pad_to_multiple
from .modeling_contour_extractor import ContourExtractorModel, check_pixel_values
from .weight_loading_contour import ContourPreTrainedModel


class ContourGenderPreTrainedModel(ContourPreTrainedModel):
    """The frozen extractor, the backbones and their fusion: what the classifier and the bare model share.

    The extractor is never trained: its parameters take no gradient and it stays in evaluation mode under
    `model.train()`, so that its weights and statistics do not change by a bit.
    """

    config: ContourGenderConfig
    config_class = ContourGenderConfig
    base_model_prefix = "contour_gender"
    _no_split_modules: ClassVar[list[str]] = [
        "ContourExtractorModel",
        "ContourDownsampling",
        "ImageBackbone",
        "ContourFusion",
        "ContourClassifier",
    ]

    def __init__(self, config: ContourGenderConfig):
        super().__init__(config)
        plans = [plan_backbone(name) for name in config.backbones]
        config.check_size([plan.num_features for plan in plans], sum(plan.num_parameters for plan in plans))
        self.image_backbones = nn.ModuleList([ImageBackbone(name) for name in config.backbones])
        self.image_channels = [backbone.num_features for backbone in self.image_backbones]
        self.image_stride = self.stride = math.lcm(*(backbone.stride for backbone in self.image_backbones))
        self.contour_channels = 0
        self.extractor: ContourExtractorModel | None = None
        self.contour_pooling: nn.Module = nn.Identity()  # nothing in it learns
        self.contour_downsampling: nn.Module = nn.Identity()
        self.join_stride = self.image_stride
        if config.contour_features != "none":
            self._build_contour_branch(config)
        in_channels = [self.contour_channels] * (self.extractor is not None) + self.image_channels
        self.contour_fusion = None if config.fusion == "late" else ContourFusion(config, in_channels)
        self.familiarity: Familiarity | None = None
        if config.num_prototypes:
            self.familiarity = Familiarity(config.num_prototypes, self.num_familiarity_features)

    def _build_contour_branch(self, config: ContourGenderConfig) -> None:
        self.extractor = extractor = ContourExtractorModel(config.extractor_config)
        self.level_indices = config.contour_level_indices
        stride = extractor.config.output_stride
        grid_stride = config.contour_stride if config.has_contour_grid else math.lcm(stride, self.image_stride)
        channels = extractor.num_features
        if config.contour_features == "levels":
            channels = len(self.level_indices) * extractor.config.level_channels
        self.contour_channels = channels
        if config.contour_downsampling == "conv":
            self.contour_downsampling = ContourDownsampling(
                channels, config.contour_channels, stride=stride, wanted=grid_stride
            )
            self.contour_channels = self.contour_downsampling.num_features
        else:
            self.contour_pooling = nn.AvgPool2d(grid_stride // stride)
        if config.fusion != "late":
            self.join_stride = grid_stride
        self.stride = math.lcm(extractor.stride, grid_stride, self.image_stride)

    @property
    def num_familiarity_features(self) -> int:
        """How many features say whether an image is familiar."""
        return sum(self.image_channels) or self.contour_channels

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Familiarity):
            init.zeros_(module.prototypes)

    def after_loading(self) -> None:
        """Freezes the extractor again: loading sets `requires_grad` anew on every parameter."""
        if self.extractor is not None and self.config.freeze_extractor:
            self.extractor.requires_grad_(False)
            self.extractor.eval()

    def train(self, mode: bool = True) -> "ContourGenderPreTrainedModel":
        """Sets training mode on everything but the extractor."""
        super().train(mode)
        if self.extractor is not None and self.config.freeze_extractor:
            self.extractor.eval()
        return self

    def contour_features(self, pixel_values: Tensor, extractor: nn.Module | None = None) -> Tensor:
        """What the frozen branch gives, before anything that learns: to be computed once and given to `forward`.

        Args:
            pixel_values: `(B, 3, H, W)`, normalised with the config's mean and deviation.
            extractor: a folded copy of the model's own (`fold_batch_norms`), which is faster; `None` is its own.

        Returns:
            `(B, C, H'/s, W'/s)`: the fused map or the chosen levels, of the image padded to a multiple of the
            model's stride; s is the extractor's output stride, or that of the grid where they are averaged.

        Raises:
            ValueError: If the model has no extractor.
        """
        extractor = self.extractor if extractor is None else extractor
        return self._contour_branch(pad_to_multiple(pixel_values, self.stride), extractor)[0]

    def image_features(self, pixel_values: Tensor, backbones: nn.ModuleList | None = None) -> list[Tensor]:
        """What each backbone gives, before it is joined: to be computed once where the backbones are frozen too.

        Args:
            pixel_values: `(B, 3, H, W)`, normalised with the config's mean and deviation.
            backbones: a folded copy of the model's own (`fold_batch_norms`), which is faster; `None` is its own.

        Returns:
            Maps `(B, C, H'/stride, W'/stride)` of the image padded to a multiple of the model's stride and brought to
            `backbone_scale`.
        """
        pixel_values = pad_to_multiple(pixel_values, self.stride)
        pixel_values = reduce_to_scale(pixel_values, self.config.backbone_scale, self.image_stride)
        return [backbone(pixel_values) for backbone in backbones or self.image_backbones]

    def familiarity_features(self, pixel_values: Tensor) -> Tensor:
        """What familiarity is judged by: the pooled features of the image branch, or of contours that are alone.

        Args:
            pixel_values: `(B, 3, H, W)`, normalised with the config's mean and deviation.

        Returns:
            `(B, D)`.
        """
        return pool_to_grid(self._branch_maps(pixel_values).semantic, (1, 1)).flatten(1)

    def fit_familiarity(
        self, features: Tensor, known_features: Tensor, *, num_prototypes: int = 256, seed: int = 0
    ) -> None:
        """Makes the model remember training images, and what distance to them is usual.

        Args:
            features: `(M, D)`, `familiarity_features` of the training images.
            known_features: `(L, D)`, those of validation images of the same sources: the familiarity of the median one
                becomes .5.
            num_prototypes: how many images are remembered.
            seed: of their choice.
        """
        prototypes = choose_prototypes(features, num_prototypes, seed=seed)
        self.familiarity = Familiarity(*prototypes.shape).to(self.device, self.dtype)
        self.familiarity.prototypes.copy_(prototypes)
        self.config.num_prototypes = len(prototypes)
        usual = mean_distance(known_features.to(prototypes.device), prototypes).median().item()
        self.config.familiarity_scale = max(usual, 1e-6)

    def _familiarity(self, maps: BranchMaps) -> Tensor:
        if self.familiarity is None:
            raise ValueError("output_familiarity came to a model whose config has no num_prototypes: fit them first.")
        distance = self.familiarity(pool_to_grid(maps.semantic, (1, 1)).flatten(1))
        return 1 / (1 + distance / self.config.familiarity_scale)

    def _contour_branch(
        self, pixel_values: Tensor, extractor: nn.Module | None, *, with_levels: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Contour features, and on request all levels; only what is needed of the extractor is run."""
        if self.extractor is None or extractor is None:
            raise ValueError("contour_features is 'none': this classifier has no extractor.")
        uses_levels = self.config.contour_features == "levels"
        pixel_values = renormalise(pixel_values, self.config, self.extractor.config)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_extractor):
            if uses_levels and not with_levels:
                chosen = extractor(pixel_values, levels=self.level_indices, return_dict=True).level_features
                return self.contour_pooling(torch.cat(chosen, dim=1)), None
            features = extractor(pixel_values, return_dict=True)
            contours = features.last_hidden_state
            if uses_levels:
                contours = torch.cat([features.level_features[index] for index in self.level_indices], dim=1)
            return self.contour_pooling(contours), features.level_features

    def _branch_maps(
        self,
        pixel_values: Tensor | None,
        contour_features: Tensor | None = None,
        image_features: Sequence[Tensor] | None = None,
        *,
        with_levels: bool = False,
    ) -> BranchMaps:
        """What each branch sees, on the grids on which it joins; features that are given are not computed."""
        contour_missing = self.extractor is not None and contour_features is None
        images_missing = len(self.image_backbones) > 0 and image_features is None
        if contour_missing or images_missing:
            pixel_values = pad_to_multiple(check_pixel_values(pixel_values, 3).to(self.dtype), self.stride)
        levels = None
        if contour_missing:
            contour_features, levels = self._contour_branch(pixel_values, self.extractor, with_levels=with_levels)
        contour = None if self.extractor is None else self.contour_downsampling(contour_features)
        if images_missing:
            image_features = self.image_features(pixel_values)
        return BranchMaps(contour, self._join_images(image_features or [], contour), levels if with_levels else None)

    def _join_images(self, image_features: Sequence[Tensor], contour: Tensor | None) -> list[Tensor]:
        """The backbones' maps on one grid: their own, or that of the contours where those are fused with them."""
        is_fused = contour is not None and self.config.fusion != "late"
        wanted = self.join_stride if self.config.backbone_scale == 1 or not is_fused else self.image_stride
        maps = [
            pool_to_stride(feature_map, backbone.stride, wanted)
            for backbone, feature_map in zip(self.image_backbones, image_features, strict=True)
        ]
        if contour is None or not is_fused or self.config.backbone_scale == 1:
            return maps
        size = contour.shape[-2:]
        return [nn.functional.interpolate(one, size, mode="bilinear", align_corners=False) for one in maps]

    def _drop_branches(self, batch_size: int) -> tuple[Tensor, Tensor] | None:
        """Which images keep their contours, and which what the backbones see: `(B,)` each, 0 or 1; `None`: all do."""
        if not self.training or not self.config.branch_dropout:
            return None
        draw = torch.rand(batch_size, device=self.device) * 2
        without_contour, without_image = draw < self.config.branch_dropout, draw >= 2 - self.config.branch_dropout
        return (~without_contour).to(self.dtype), (~without_image).to(self.dtype)

    def _fused(self, maps: BranchMaps, kept: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The maps joined to one, `(B, C, H/S, W/S)`; branches that an image does not keep are zero."""
        joined = maps.all
        if kept is not None:
            joined = [part * kept[part is not maps.contour][:, None, None, None] for part in joined]
        assert self.contour_fusion is not None
        return self.contour_fusion(joined)
