"""The classifier: a frozen contour extractor beside image backbones, a fusion and a head.

Shapes: B images, C channels, H x W pixels; S is the stride at which features join, K the number of labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_contour_gender import ContourGenderConfig
from .familiarity_contour import Familiarity, choose_prototypes, mean_distance
from .loss_contour import branched_loss
from .modeling_contour_branches import (
    BranchMaps,
    ContourClassifier,
    ContourDownsampling,
    ContourFusion,
    ImageBackbone,
    LateClassifier,
    expected_normalisation,
    plan_backbone,
    pool_to_grid,
    pool_to_stride,
    reduce_to_scale,
    renormalise,
)
from .modeling_contour_extractor import (
    ContourExtractorModel,
    check_pixel_values,
    pad_to_multiple,
)
from .pipeline_contour import ContourImageClassificationPipeline  # noqa: F401 - saving a model copies what it imports
from .weight_loading_contour import ContourPreTrainedModel


@dataclass
class ContourGenderModelOutput(ModelOutput):
    """Contour and image features, fused.

    Args:
        last_hidden_state: `(B, C, H/S, W/S)`: the fused map; with `late` fusion, where there is none, that of the
            image branch, or of the contours where they are alone.
        pooler_output: `(B, C)`, its mean: an embedding of the image.
        hidden_states: as in `ContourImageClassifierOutput`.
        level_features: as in `ContourImageClassifierOutput`.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    level_features: tuple[Tensor, ...] | None = None


@dataclass
class ContourImageClassifierOutput(ModelOutput):
    """Class scores, and on request what they were made from.

    Args:
        loss: scalar, when labels were given.
        logits: `(B, K)`, before the softmax (one label) or the sigmoid (several).
        hidden_states: with `output_hidden_states`: the contour features on their grid (if any), each backbone's map,
            and, but with `late` fusion, the fused map, `(B, C, H/S, W/S)`.
        attentions: always `None`; there is no attention.
        level_features: with `output_level_features`: the extractor's unified levels.
        branch_logits: with `output_branch_logits`: `(B, K)` of each branch alone, image and contour.
        familiarity: with `output_familiarity`: `(B,)` in 0..1; .5 is typical of known images, near 0 is unlike them.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    level_features: tuple[Tensor, ...] | None = None
    branch_logits: tuple[Tensor, ...] | None = None
    familiarity: Tensor | None = None


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


class ContourGenderModel(ContourGenderPreTrainedModel):
    """Fused contour and image features without the head: embeddings of images.

    What `AutoModel` makes of a classifier's folder.
    """

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^classifier\."]

    def __init__(self, config: ContourGenderConfig):
        super().__init__(config)
        self.post_init()
        self.after_loading()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_level_features: bool = False,
        **kwargs: Any,
    ) -> ContourGenderModelOutput:
        """Embeds images.

        Args:
            pixel_values: `(B, 3, H, W)` from 1 pixel up, normalised with the config's mean and deviation.
            output_hidden_states: also return the feature maps that were joined.
            output_level_features: also return the extractor's levels.
            **kwargs: only what Transformers passes to every model.

        Returns:
            The fused map and, as `pooler_output`, its mean `(B, C)`.

        Example:
            >>> import torch
            >>> from hf_contour import ContourGenderConfig, ContourGenderModel
            >>> model = ContourGenderModel(ContourGenderConfig(backbone="test_resnet")).eval()
            >>> model(torch.zeros(2, 3, 96, 64)).pooler_output.shape
            torch.Size([2, 128])
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        maps = self._branch_maps(pixel_values, with_levels=output_level_features)
        fused = maps.semantic if self.contour_fusion is None else self._fused(maps)
        return ContourGenderModelOutput(
            last_hidden_state=fused,
            pooler_output=pool_to_grid(fused, (1, 1)).flatten(1),
            hidden_states=(*maps.all, fused) if output_hidden_states else None,
            level_features=maps.levels,
        )


class ContourGenderForImageClassification(ContourGenderPreTrainedModel):
    """Classifies images of garments by the section they are sold in, or by any other set of labels.

    Source: CN113298092B, claims 3 to 5, steps S201 to S206.
    """

    def __init__(self, config: ContourGenderConfig):
        super().__init__(config)
        self.loss_type = "ForImageClassification"  # Transformers would guess it from the name of a subclass
        if self.contour_fusion is None:
            self.classifier = LateClassifier(config, sum(self.image_channels), self.contour_channels)
        else:
            self.classifier = ContourClassifier(config, self.contour_fusion.channels)
        self.post_init()
        self.after_loading()

    @classmethod
    def from_extractor_and_backbone(
        cls,
        extractor: Any,
        backbone: str | Sequence[str] | None,
        *,
        backbone_weights: str | Path | Sequence[str | Path] | None = None,
        **config_fields: Any,
    ) -> "ContourGenderForImageClassification":
        """Joins a trained extractor and backbones, which start from given weights or at random.

        Args:
            extractor: a `ContourExtractorModel`, or the folder of one (with or without its single-channel head).
            backbone: bare timm or ShuffleNet name, or several; `None` for contours alone.
            backbone_weights: a `.safetensors` or `.pth` file for each backbone.
            **config_fields: further fields of `ContourGenderConfig`, such as `id2label`. Without `image_mean`
                and `image_std` the normalisation is the one that the backbone was pretrained with; without a
                backbone it is the extractor's.

        Returns:
            The model, its fusion and head with random weights. Images reach the extractor normalised as its
            own config says, whatever the backbone expects.

        Raises:
            ValueError: If weights do not fit, or backbones expect different normalisation and none was given.
        """
        if not isinstance(extractor, nn.Module):
            extractor = ContourExtractorModel.from_pretrained(extractor)
        names = [backbone] if isinstance(backbone, str) else list(backbone or ())
        if "image_mean" not in config_fields or "image_std" not in config_fields:
            own = (extractor.config.image_mean, extractor.config.image_std)
            mean, std = expected_normalisation(names) if names else own
            config_fields = {"image_mean": mean, "image_std": std, **config_fields}
        extractor_config = extractor.config.to_dict()
        extractor_config.pop("_name_or_path", None)  # where it lay on the disk of whoever trained is nobody's business
        config = ContourGenderConfig(extractor_config=extractor_config, backbone=backbone, **config_fields)
        model = cls(config)
        if model.extractor is not None:
            model.extractor.load_state_dict(extractor.state_dict())
        if backbone_weights is not None:
            files = [backbone_weights] if isinstance(backbone_weights, str | Path) else list(backbone_weights)
            if len(files) != len(names):
                raise ValueError(f"backbone_weights names {len(files)} files; expected one for each of {names}.")
            for part, file in zip(model.image_backbones, files, strict=True):
                part.load_weights(file)
        return model

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        contour_features: Tensor | None = None,
        image_features: Sequence[Tensor] | None = None,
        output_hidden_states: bool | None = None,
        output_level_features: bool = False,
        output_branch_logits: bool = False,
        output_familiarity: bool = False,
        **kwargs: Any,
    ) -> ContourImageClassifierOutput:
        """Classifies images.

        Args:
            pixel_values: `(B, 3, H, W)` from 1 pixel up, normalised with the config's mean and deviation; needed
                unless all features are given.
            labels: `(B,)` or `(B, 1)` class numbers, -100 for images that do not count; `(B, K)` shares of the
                classes for one soft label an image, or zeros and ones for several labels.
            contour_features: what `contour_features` gave for these images; the extractor is then not run, and
                there are no level features.
            image_features: what `image_features` gave for these images; the backbones are then not run.
            output_hidden_states: also return the feature maps that were joined.
            output_level_features: also return the extractor's levels.
            output_branch_logits: also return what each branch decides alone, with `late` fusion.
            output_familiarity: also return how familiar the images are, of a model that remembers some.
            **kwargs: only what Transformers passes to every model.

        Returns:
            Logits `(B, K)`, divided by the config's `temperature` in evaluation mode; the loss is of the
            undivided logits. Those of the branches are undivided too.

        Raises:
            ValueError: If the model has not what is asked for.

        Example:
            >>> import torch
            >>> from hf_contour import ContourGenderConfig, ContourGenderForImageClassification
            >>> config = ContourGenderConfig(backbone="test_resnet", id2label={0: "men", 1: "women"})
            >>> model = ContourGenderForImageClassification(config).eval()
            >>> outputs = model(torch.zeros(2, 3, 96, 64), labels=torch.tensor([0, 1]))
            >>> outputs.logits.shape, outputs.loss.shape
            (torch.Size([2, 2]), torch.Size([]))
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        maps = self._branch_maps(pixel_values, contour_features, image_features, with_levels=output_level_features)
        kept = self._drop_branches(maps.all[0].shape[0])
        branch_logits, hidden_states = (), maps.all
        if self.contour_fusion is None:
            branch_logits = self.classifier(torch.cat(maps.images, dim=1) if maps.images else None, maps.contour)
            logits = self._decide_together(branch_logits, kept)
        else:
            fused = self._fused(maps, kept)
            hidden_states, logits = [*hidden_states, fused], self.classifier(fused)
        if output_branch_logits and not branch_logits:
            raise ValueError(
                f"output_branch_logits came to a model whose fusion is {self.config.fusion!r}, not 'late'."
            )
        if logits.shape[-1] != self.config.num_labels:
            raise ValueError(
                f"The config names {self.config.num_labels} labels, and the head has {logits.shape[-1]}; load it "
                "with from_pretrained(folder, id2label=..., ignore_mismatched_sizes=True) for a head of another size."
            )
        loss = None
        if labels is not None:
            weight, problem_type = self.config.branch_loss_weight, self.config.problem_type
            loss = branched_loss(logits, branch_logits, labels, branch_loss_weight=weight, problem_type=problem_type)
        if self.config.temperature != 1 and not self.training:
            logits = logits / self.config.temperature
        return ContourImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            level_features=maps.levels,
            branch_logits=branch_logits if output_branch_logits else None,
            familiarity=self._familiarity(maps) if output_familiarity else None,
        )

    def _decide_together(self, branch_logits: Sequence[Tensor], kept: tuple[Tensor, Tensor] | None) -> Tensor:
        """The weighted sum of the branches' logits `(B, K)`; a branch that is alone decides alone."""
        if len(branch_logits) == 1:
            return branch_logits[0]
        image, contour = branch_logits
        if kept is not None:
            image, contour = image * kept[1][:, None], contour * kept[0][:, None]
        return image + self.config.contour_weight * contour


ContourGenderModel.register_for_auto_class("AutoModel")
ContourGenderForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["ContourGenderForImageClassification", "ContourGenderModel"]
