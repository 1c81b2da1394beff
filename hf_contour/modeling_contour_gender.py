"""The classifier: a frozen contour extractor beside image backbones, a fusion and a head.

Shapes: B images, C channels, H x W pixels; S is the stride at which features join, K the number of labels.
"""

import functools
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
import torchvision
from torch import Tensor, nn
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_contour_gender import SHUFFLENETS, ContourGenderConfig
from .loss_contour import classification_loss
from .modeling_contour_extractor import (
    ContourExtractorModel,
    ContourPreTrainedModel,
    ConvNormAct,
    ResNetModule,
    TimmPart,
    check_pixel_values,
    load_backbone_weights,
    pad_to_multiple,
)
from .pipeline_contour import ContourImageClassificationPipeline  # noqa: F401 - saving a model copies what it imports
from .weight_checks_contour import LimitedPlanning


@dataclass
class ContourGenderModelOutput(ModelOutput):
    """Contour and image features, fused.

    Args:
        last_hidden_state: `(B, C, H/S, W/S)`, the fused map.
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
        hidden_states: with `output_hidden_states`: the contour features on the common grid (if any), each backbone's
            map, and the fused map, all `(B, C, H/S, W/S)`.
        attentions: always `None`; there is no attention.
        level_features: with `output_level_features`: the extractor's unified levels.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    level_features: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class BackbonePlan:
    """What is known of a backbone before any of it is allocated.

    Args:
        options: with which timm makes it end in a map and, as far as it can, take images of any size.
        num_features: channels of the map.
        num_parameters: of the network, without its classifier.
    """

    options: dict[str, Any]
    num_features: int
    num_parameters: int


@functools.cache
def plan_backbone(name: str) -> BackbonePlan:
    """Builds the network on the meta device, once in a process, and looks at it."""
    options: dict[str, Any] = {}
    with LimitedPlanning("backbone"):
        if name in SHUFFLENETS:
            network = torchvision.models.get_model(name, weights=None)
            num_features = network.fc.in_features
        else:
            options = {"num_classes": 0, "global_pool": ""}
            network = timm.create_model(name, pretrained=False, **options)
            # Where the head has a convolution of its own, as in MobileNetV3, the map is as wide as that.
            num_features = getattr(network, "head_hidden_size", None) or network.num_features
            takes = inspect.signature(type(network).__init__).parameters
            choices = {"strict_img_size": False, "dynamic_img_size": True}
            options |= dict([choice for choice in choices.items() if choice[0] in takes][:1])
    return BackbonePlan(options, num_features, sum(parameter.numel() for parameter in network.parameters()))


class ImageBackbone(TimmPart):
    """One image network without its classifier, ending in a feature map."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        plan = plan_backbone(name)
        self.num_features = plan.num_features
        if name in SHUFFLENETS:
            network = torchvision.models.get_model(name, weights=None)
            self.stride = 32
            self.network = nn.Sequential()
            for child in ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"):
                self.network.add_module(child, getattr(network, child))
            self.surplus: tuple[str, ...] = ("fc.",)
        else:
            self.network = timm.create_model(name, pretrained=False, **plan.options)
            self.stride = self.network.feature_info[-1]["reduction"]
            classifier = self.network.pretrained_cfg["classifier"]
            names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
            self.surplus = tuple(f"{part}." for part in names)
        self.keep_initial_weights()

    def load_weights(self, weights: str | Path) -> None:
        """Fills the network from a file with the names of timm or torchvision; a classifier is left out.

        Raises:
            ValueError: Naming the file and what does not fit.
        """
        load_backbone_weights(self.network, weights, surplus=self.surplus)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`(B, 3, H, W)` to `(B, num_features, H/stride, W/stride)`."""
        feature_map = self.network(pixel_values)
        if getattr(self.network, "output_fmt", None) == "NHWC":
            feature_map = feature_map.permute(0, 3, 1, 2)
        elif feature_map.ndim == 3:  # tokens, those of the class first
            rows, columns = (side // self.stride for side in pixel_values.shape[-2:])
            tokens = feature_map[:, feature_map.shape[1] - rows * columns :]
            feature_map = tokens.transpose(1, 2).unflatten(2, (rows, columns))
        if feature_map.ndim != 4 or feature_map.shape[1] != self.num_features:
            raise ValueError(
                f"backbone {self.name} gives features of shape {tuple(feature_map.shape)}; expected maps of (batch, "
                f"{self.num_features}, height, width), or the same as tokens or with the channels last."
            )
        return feature_map


class ContourDownsampling(nn.Module):
    """Brings contour features down to the grid on which they join the image's, by learned convolutions.

    An average over a cell of 32x32 pixels says how much contour there is; the convolutions also say of what form.

    Args:
        in_channels: C of the contour features.
        out_channels: of the result; the layers' channels grow evenly up to it.
        stride: of the contour features.
        wanted: stride of the grid, a multiple of it; factors other than 2 are averaged over.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, wanted: int):
        super().__init__()
        ratio = wanted // stride
        num_layers = (ratio & -ratio).bit_length() - 1  # how often 2 divides it
        widths = [in_channels, *(math.ceil(out_channels * (index + 1) / num_layers) for index in range(num_layers))]
        self.layers = nn.Sequential(
            *(ConvNormAct(widths[index], widths[index + 1], 3, stride=2) for index in range(num_layers))
        )
        self.num_features, self.stride, self.wanted = widths[-1], stride * 2**num_layers, wanted

    def forward(self, contours: Tensor) -> Tensor:
        """`(B, C, H/stride, W/stride)` to `(B, num_features, H/wanted, W/wanted)`."""
        return pool_to_stride(self.layers(contours), self.stride, self.wanted)


class ContourFusion(nn.Module):
    """Joins contour features and image features of one size.

    Source: CN113298092B, claim 3, step S205.
    """

    def __init__(self, config: ContourGenderConfig, in_channels: Sequence[int]):
        super().__init__()
        self.kind = config.fusion
        width = sum(in_channels)
        if config.fusion == "concat":
            self.channels = width
            return
        self.channels = config.fusion_channels
        if config.fusion == "conv":
            self.projections = nn.ModuleList(
                [ConvNormAct(channels, config.fusion_channels, 1) for channels in in_channels]
            )
            width = config.fusion_channels
        widths = [width] + [config.fusion_channels] * config.fusion_layers
        self.layers = nn.Sequential(
            *(
                ConvNormAct(widths[index], widths[index + 1], config.fusion_kernel_size)
                for index in range(config.fusion_layers)
            )
        )

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Maps `(B, C_i, h, w)` to `(B, channels, h, w)`."""
        if self.kind == "conv":
            projected = [layer(feature_map) for layer, feature_map in zip(self.projections, feature_maps, strict=True)]
            return self.layers(torch.stack(projected).sum(dim=0))
        joined = torch.cat(tuple(feature_maps), dim=1)
        return self.layers(joined) if self.kind == "concat_conv" else joined


class ContourClassifier(nn.Module):
    """The second network: fused features to class scores. Source: CN113298092B, step S206."""

    def __init__(self, config: ContourGenderConfig, in_channels: int):
        super().__init__()
        self.conv = ResNetModule(config.extractor_config, in_channels) if config.head == "cnn" else nn.Identity()
        self.hidden = nn.Identity()
        self.grid = (config.head_grid[0], config.head_grid[1])
        width = in_channels * self.grid[0] * self.grid[1]
        if config.head == "mlp":
            self.hidden = nn.Sequential(nn.Linear(width, config.head_channels), nn.ReLU())
            width = config.head_channels
        self.dropout = nn.Dropout(config.head_dropout)
        self.output = nn.Linear(width, config.num_labels)

    def forward(self, feature_map: Tensor) -> Tensor:
        """`(B, C, h, w)` to `(B, K)`."""
        pooled = pool_to_grid(self.conv(feature_map), self.grid).flatten(1)
        return self.output(self.dropout(self.hidden(pooled)))


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
        in_channels = [backbone.num_features for backbone in self.image_backbones]
        self.join_stride = self.stride = math.lcm(*(backbone.stride for backbone in self.image_backbones))
        self.extractor: ContourExtractorModel | None = None
        self.contour_downsampling: nn.Module = nn.Identity()
        if config.contour_features != "none":
            self.extractor = extractor = ContourExtractorModel(config.extractor_config)
            self.level_indices = config.contour_level_indices
            stride = extractor.config.output_stride
            self.join_stride = math.lcm(stride, self.join_stride)
            self.stride = math.lcm(extractor.stride, self.join_stride)
            channels = extractor.num_features
            if config.contour_features == "levels":
                channels = len(self.level_indices) * extractor.config.level_channels
            if config.contour_downsampling == "conv":
                self.contour_downsampling = ContourDownsampling(
                    channels, config.contour_channels, stride=stride, wanted=self.join_stride
                )
                channels = self.contour_downsampling.num_features
            else:
                self.contour_downsampling = nn.AvgPool2d(self.join_stride // stride)
            in_channels = [channels, *in_channels]
        self.contour_fusion = ContourFusion(config, in_channels)

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
            model's stride, at the extractor's output stride s.

        Raises:
            ValueError: If the model has no extractor.
        """
        extractor = self.extractor if extractor is None else extractor
        return self._contour_branch(pad_to_multiple(pixel_values, self.stride), extractor)[0]

    def image_features(self, pixel_values: Tensor) -> list[Tensor]:
        """What each backbone gives, before it is joined: to be computed once where the backbones are frozen too.

        Args:
            pixel_values: `(B, 3, H, W)`, normalised with the config's mean and deviation.

        Returns:
            Maps `(B, C, H'/stride, W'/stride)` of the image padded to a multiple of the model's stride.
        """
        pixel_values = pad_to_multiple(pixel_values, self.stride)
        return [backbone(pixel_values) for backbone in self.image_backbones]

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
                return torch.cat(chosen, dim=1), None
            features = extractor(pixel_values, return_dict=True)
            if uses_levels:
                chosen = [features.level_features[index] for index in self.level_indices]
                return torch.cat(chosen, dim=1), features.level_features
            return features.last_hidden_state, features.level_features

    def _fuse(
        self,
        pixel_values: Tensor | None,
        contour_features: Tensor | None = None,
        image_features: Sequence[Tensor] | None = None,
        *,
        with_levels: bool = False,
    ) -> tuple[list[Tensor], tuple[Tensor, ...] | None]:
        """The maps that are joined and, last, the fused one `(B, C, H/S, W/S)`; on request the extractor's levels."""
        if image_features is None or (contour_features is None and self.extractor is not None):
            pixel_values = pad_to_multiple(check_pixel_values(pixel_values, 3).to(self.dtype), self.stride)
        maps, level_features = [], None
        if self.extractor is not None:
            if contour_features is None:
                contour_features, level_features = self._contour_branch(
                    pixel_values, self.extractor, with_levels=with_levels
                )
            maps.append(self.contour_downsampling(contour_features))
        if image_features is None:
            image_features = self.image_features(pixel_values)
        for backbone, feature_map in zip(self.image_backbones, image_features, strict=True):
            maps.append(pool_to_stride(feature_map, backbone.stride, self.join_stride))
        return [*maps, self.contour_fusion(maps)], level_features if with_levels else None


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
        maps, level_features = self._fuse(pixel_values, with_levels=output_level_features)
        return ContourGenderModelOutput(
            last_hidden_state=maps[-1],
            pooler_output=pool_to_grid(maps[-1], (1, 1)).flatten(1),
            hidden_states=tuple(maps) if output_hidden_states else None,
            level_features=level_features,
        )


class ContourGenderForImageClassification(ContourGenderPreTrainedModel):
    """Classifies images of garments by the section they are sold in, or by any other set of labels.

    Source: CN113298092B, claims 3 to 5, steps S201 to S206.
    """

    def __init__(self, config: ContourGenderConfig):
        super().__init__(config)
        self.loss_type = "ForImageClassification"  # Transformers would guess it from the name of a subclass
        self.classifier = ContourClassifier(config, self.contour_fusion.channels)
        self.post_init()
        self.after_loading()

    @classmethod
    def from_extractor_and_backbone(
        cls,
        extractor: Any,
        backbone: str | Sequence[str],
        *,
        backbone_weights: str | Path | Sequence[str | Path] | None = None,
        **config_fields: Any,
    ) -> "ContourGenderForImageClassification":
        """Joins a trained extractor and backbones, which start from given weights or at random.

        Args:
            extractor: a `ContourExtractorModel`, or the folder of one (with or without its single-channel head).
            backbone: bare timm or ShuffleNet name, or several.
            backbone_weights: a `.safetensors` or `.pth` file for each backbone.
            **config_fields: further fields of `ContourGenderConfig`, such as `id2label`. Without `image_mean`
                and `image_std` the normalisation is the one that the backbone was pretrained with.

        Returns:
            The model, its fusion and head with random weights. Images reach the extractor normalised as its
            own config says, whatever the backbone expects.

        Raises:
            ValueError: If weights do not fit, or backbones expect different normalisation and none was given.
        """
        if not isinstance(extractor, nn.Module):
            extractor = ContourExtractorModel.from_pretrained(extractor)
        names = [backbone] if isinstance(backbone, str) else list(backbone)
        if "image_mean" not in config_fields or "image_std" not in config_fields:
            mean, std = expected_normalisation(names)
            config_fields = {"image_mean": mean, "image_std": std, **config_fields}
        config = ContourGenderConfig(extractor_config=extractor.config.to_dict(), backbone=backbone, **config_fields)
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
            **kwargs: only what Transformers passes to every model.

        Returns:
            Logits `(B, K)`, divided by the config's `temperature` in evaluation mode; the loss is of the
            undivided logits.

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
        maps, level_features = self._fuse(
            pixel_values, contour_features, image_features, with_levels=output_level_features
        )
        logits = self.classifier(maps[-1])
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, problem_type=self.config.problem_type)
        if self.config.temperature != 1 and not self.training:
            logits = logits / self.config.temperature
        return ContourImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=tuple(maps) if output_hidden_states else None,
            level_features=level_features,
        )


def expected_normalisation(names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation that the backbones were pretrained with.

    Raises:
        ValueError: If they differ among the backbones.
    """
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's, for its ShuffleNets
    expected = {}
    for name in names:
        pretrained = None if name in SHUFFLENETS else timm.get_pretrained_cfg(name)
        expected[name] = (tuple(pretrained.mean), tuple(pretrained.std)) if pretrained else imagenet
    if len(set(expected.values())) > 1:
        raise ValueError(
            f"The backbones were pretrained with different normalisation: {expected}. Give image_mean and image_std."
        )
    mean, std = expected[names[0]]
    return list(mean), list(std)


def renormalise(pixel_values: Tensor, given: Any, wanted: Any) -> Tensor:
    """Turns pixels normalised by one config's mean and deviation into those of another; the same if they agree."""
    if given.image_mean == wanted.image_mean and given.image_std == wanted.image_std:
        return pixel_values
    pairs = list(zip(given.image_mean, given.image_std, wanted.image_mean, wanted.image_std, strict=True))
    scale = pixel_values.new_tensor([std / new_std for _, std, _, new_std in pairs])
    shift = pixel_values.new_tensor([(mean - new_mean) / new_std for mean, _, new_mean, new_std in pairs])
    return pixel_values * scale[:, None, None] + shift[:, None, None]


def pool_to_stride(feature_map: Tensor, stride: int, wanted: int) -> Tensor:
    """Averages a map `(B, C, H/stride, W/stride)` over the cells of a coarser grid `(B, C, H/wanted, W/wanted)`."""
    return feature_map if stride == wanted else nn.functional.avg_pool2d(feature_map, wanted // stride)


def pool_to_grid(feature_map: Tensor, grid: tuple[int, int]) -> Tensor:
    """Averages a map `(B, C, h, w)` over the cells of a grid `(B, C, rows, columns)`, whatever its size."""
    if grid == (1, 1):
        return feature_map.mean(dim=(2, 3), keepdim=True)
    return nn.functional.adaptive_avg_pool2d(feature_map, grid)


ContourGenderModel.register_for_auto_class("AutoModel")
ContourGenderForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["ContourGenderForImageClassification", "ContourGenderModel"]
