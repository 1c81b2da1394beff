"""The parts of the classifier beside the extractor: image backbones, what joins the branches, and heads.

Shapes: B images, C channels, H x W pixels; S is the stride at which features join, K the number of labels.
"""

import functools
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from .configuration_contour_gender import SHUFFLENETS, ContourGenderConfig
from .layers_contour import ConvNormAct, TimmPart
from .modeling_contour_cascade import ResNetModule
from .weight_checks_contour import LimitedPlanning
from .weight_loading_contour import load_backbone_weights


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

    def __init__(self, config: ContourGenderConfig, in_channels: int, grid: Sequence[int] | None = None):
        super().__init__()
        self.conv = ResNetModule(config.extractor_config, in_channels) if config.head == "cnn" else nn.Identity()
        self.hidden = nn.Identity()
        grid = config.head_grid if grid is None else grid
        self.grid = (grid[0], grid[1])
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


class LateClassifier(nn.Module):
    """A head for each branch: the one for images averages over all places, the one for contours knows them.

    Args:
        config: of the model.
        image_channels: of the image branch's map; 0 where there is none.
        contour_channels: of the contour branch's map; 0 where there is none.
    """

    def __init__(self, config: ContourGenderConfig, image_channels: int, contour_channels: int):
        super().__init__()
        self.image = ContourClassifier(config, image_channels, (1, 1)) if image_channels else None
        self.contour = ContourClassifier(config, contour_channels) if contour_channels else None

    def forward(self, image_map: Tensor | None, contour_map: Tensor | None) -> tuple[Tensor, ...]:
        """Maps `(B, C_i, h_i, w_i)` to logits `(B, K)` of the branches that are there: image, contour."""
        branches = ((self.image, image_map), (self.contour, contour_map))
        return tuple(head(feature_map) for head, feature_map in branches if head is not None)


@dataclass
class BranchMaps:
    """What the branches see of a batch.

    Args:
        contour: `(B, C, h, w)`, brought down to the grid on which it joins; `None` without contours.
        images: of each backbone, on the grid on which they join.
        levels: of the extractor, on request.
    """

    contour: Tensor | None
    images: list[Tensor]
    levels: tuple[Tensor, ...] | None

    @property
    def all(self) -> list[Tensor]:
        """The maps that are there, contours first."""
        return [*([] if self.contour is None else [self.contour]), *self.images]

    @property
    def semantic(self) -> Tensor:
        """What says most about the kind of image: the image branch's map, or the contours' where they are alone."""
        return torch.cat(self.images, dim=1) if self.images else self.all[0]


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


def reduce_to_scale(pixel_values: Tensor, scale: float, multiple: int) -> Tensor:
    """Reduces images `(B, C, H, W)` to a share of their sides, rounded up to a multiple; as they are at 1."""
    if scale == 1:
        return pixel_values
    size = [math.ceil(side * scale / multiple) * multiple for side in pixel_values.shape[-2:]]
    reduced = nn.functional.interpolate(pixel_values.float(), size, mode="bilinear", antialias=True)
    return reduced.to(pixel_values.dtype)  # in float32, as half precision has no antialiasing everywhere


def pool_to_stride(feature_map: Tensor, stride: int, wanted: int) -> Tensor:
    """Averages a map `(B, C, H/stride, W/stride)` over the cells of a coarser grid `(B, C, H/wanted, W/wanted)`."""
    return feature_map if stride == wanted else nn.functional.avg_pool2d(feature_map, wanted // stride)


def pool_to_grid(feature_map: Tensor, grid: tuple[int, int]) -> Tensor:
    """Averages a map `(B, C, h, w)` over the cells of a grid `(B, C, rows, columns)`, whatever its size."""
    if grid == (1, 1):
        return feature_map.mean(dim=(2, 3), keepdim=True)
    return nn.functional.adaptive_avg_pool2d(feature_map, grid)
