"""The contour extractor: a cascade of stages whose features are unified in size and fused.

Shapes: B images, C channels, H x W pixels; s is `output_stride`.
"""

import copy
import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch
from safetensors.torch import load_file
from timm.layers import BatchNormAct2d, Conv2dSame, get_same_padding
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_contour_extractor import (
    ATTENTIONS,
    ContourExtractorConfig,
    check_num_weights,
    check_unifier_strides,
    cumulative_strides,
)
from .loss_contour import edge_loss
from .weight_checks_contour import (
    LimitedPlanning,
    refuse_incomplete,
    refuse_non_finite,
    refuse_other_types,
    weight_types,
)

MEMORY_ALIGNMENT = 64  # bytes, as PyTorch allocates


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


class ConvNormAct(nn.Sequential):
    """Convolution, batch normalisation and, unless told otherwise, ReLU; keeps or strides the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        act: bool = True,
        padding_mode: str | None = None,
    ):
        padding, mode = kernel_size // 2, padding_mode or "zeros"
        layers = [
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False, padding_mode=mode),
            nn.BatchNorm2d(out_channels),
        ]
        super().__init__(*layers, *([nn.ReLU()] if act else []))


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


class TimmPart(nn.Module):
    """A timm network as a part of a model: checkpointing and initial weights in the way of Transformers."""

    _gradient_checkpointing = False

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether timm recomputes activations in the backward pass; set by Transformers."""
        return self._gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        self._gradient_checkpointing = enable
        if hasattr(self.network, "set_grad_checkpointing"):
            self.network.set_grad_checkpointing(enable)

    def keep_initial_weights(self) -> None:
        """Marks what timm has drawn as initialised, unless the construction only planned it (meta device)."""
        for tensor in [*self.network.parameters(), *self.network.buffers()]:
            if tensor.device.type != "meta":
                tensor._is_hf_initialized = True


@functools.cache
def num_timm_parameters(name: str, **options: Any) -> int:
    """How many parameters a timm network has, by building it on the meta device, once in a process."""
    with LimitedPlanning("backbone"):
        network = timm.create_model(name, pretrained=False, **options)
    return sum(parameter.numel() for parameter in network.parameters())


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


class RepeatingConv2dSame(Conv2dSame):
    """TensorFlow's "same" convolution that repeats the border, where timm's pads with zeros."""

    def forward(self, hidden_state: Tensor) -> Tensor:
        """`(B, C_in, H, W)` to `(B, C_out, ceil(H/stride), ceil(W/stride))`."""
        sizes = zip(hidden_state.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True)
        rows, columns = (get_same_padding(*size) for size in sizes)
        border = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        hidden_state = nn.functional.pad(hidden_state, border, mode="replicate")
        return nn.functional.conv2d(
            hidden_state, self.weight, self.bias, self.stride, (0, 0), self.dilation, self.groups
        )


def repeat_borders(network: nn.Module) -> None:
    """Makes the convolutions of a timm network pad by repeating the border instead of with zeros."""
    for module in network.modules():
        if isinstance(module, Conv2dSame):
            module.__class__ = RepeatingConv2dSame
        elif isinstance(module, nn.Conv2d):
            module.padding_mode = "replicate"


def cut_behind_last_level(network: nn.Module) -> None:
    """Cuts the blocks that no level needs off an EfficientNet or MobileNet; timm cuts other families itself.

    Left in place they would be computed, and would wait for gradients that never come in distributed training.
    """
    kind, _, index = network.feature_info.get_dicts()[-1]["module"].partition(".")
    blocks = getattr(network, "blocks", None)
    if isinstance(blocks, nn.Sequential):
        network.blocks = blocks[: int(index) + 1] if kind == "blocks" else nn.Sequential()


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


def load_backbone_weights(network: nn.Module, weights: str | Path, *, surplus: tuple[str, ...] | None) -> None:
    """Loads the weights of a timm or torchvision network from a file.

    Args:
        network: the network to fill.
        weights: `.safetensors`, or `.pth`, `.pt` or `.bin` with a plain state dict (read without unpickling code).
        surplus: prefixes of keys that the network may leave out, such as those of a classifier that it does
            not have; `None` allows any surplus, for a network cut off behind its last level.

    Raises:
        ValueError: Naming the file and the keys or shapes that do not fit.
    """
    path = Path(weights)
    if path.suffix == ".safetensors":
        state_dict = load_file(path)
    else:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
        state_dict = state_dict.get("state_dict", state_dict)
    expected = network.state_dict()
    missing = [key for key in expected if key not in state_dict and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state_dict if key not in expected]
    if surplus is not None:
        unexpected = [key for key in unexpected if not key.startswith(surplus)]
    shapes = [
        f"{key} {tuple(state_dict[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state_dict and state_dict[key].shape != value.shape
    ]
    if missing or shapes or (unexpected and surplus is not None):
        raise ValueError(
            f"{path} does not fit the backbone: missing {missing[:5]} ({len(missing)} in all), unexpected "
            f"{unexpected[:5]} ({len(unexpected)}), of another shape {shapes[:5]} ({len(shapes)}). "
            "Give the weights of the architecture that the config names."
        )
    network.load_state_dict({key: state_dict.get(key, value) for key, value in expected.items()})


class ContourPreTrainedModel(PreTrainedModel):
    """What the models of this package share: initial weights, and loading that never gives a random model."""

    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    # There is no attention; any implementation may be asked for and changes nothing.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        """There is no attention: what is asked for changes nothing, and no kernel is fetched for it."""
        if attn_implementation not in (None, *ATTENTIONS):
            raise ValueError(
                f'Specified `attn_implementation="{attn_implementation}"` is not supported; expected one of '
                f"{', '.join(ATTENTIONS)}."
            )
        return attn_implementation or "sdpa"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.ConvTranspose2d):
            init.copy_(module.weight, bilinear_kernel(module.weight))
        elif isinstance(module, nn.Conv2d) and module.out_channels == 1:
            init.normal_(module.weight, std=0.01)  # single-channel heads start undecided, with a low loss
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm) and module.weight is not None:
            init.ones_(module.weight)
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        if getattr(module, "bias", None) is not None and isinstance(module.bias, nn.Parameter):
            init.zeros_(module.bias)
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Loads a model; see `PreTrainedModel.from_pretrained`.

        Whoever asks for `output_loading_info=True` gets the report of what did not fit and judges it; everybody
        else gets an error instead of a partly random model. Weights are read from safetensors, unless
        `use_safetensors=False` asks for a pickle.

        Raises:
            ValueError: If weights are missing or left over, are not finite numbers, or are too many.
        """
        wants_report = kwargs.pop("output_loading_info", False)
        if kwargs.get("use_safetensors") is None:
            kwargs["use_safetensors"] = True
        types = {}
        if kwargs["use_safetensors"] and pretrained_model_name_or_path is not None:
            types = weight_types(Path(pretrained_model_name_or_path) / (kwargs.get("subfolder") or ""))
        model, report = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        if not wants_report:
            refuse_incomplete(report, pretrained_model_name_or_path)
            refuse_other_types(types, model, pretrained_model_name_or_path)
        refuse_non_finite(model, pretrained_model_name_or_path)
        align_weights(model)
        model.after_loading()
        return (model, report) if wants_report else model

    def after_loading(self) -> None:
        """What a model restores after loading, which sets `requires_grad` anew on every parameter."""


# Exactly these: a subclass may normalise its weights first, or do more than normalise.
FOLDED_CONVS = (nn.Conv2d, Conv2dSame, RepeatingConv2dSame)
FOLDED_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy for inference whose batch normalisation is multiplied into the convolutions before it.

    The same function but for rounding, and faster. The copy cannot be trained or saved.

    Args:
        model: any. Folded is what is known to be equal: our own blocks, and in timm's and torchvision's networks a
            normalisation that alone follows a convolution in the graph that torch.fx traces; all else stays.
    """
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        if isinstance(module, ConvNormAct):
            _fold_pair(module, "0", "1")
        elif isinstance(module, TimmPart):
            for conv_name, norm_name in _foldable_pairs(module.network):
                _fold_pair(module.network, conv_name, norm_name)
    return folded


def _fold_pair(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    norm = parent.get_submodule(norm_name)
    parent.set_submodule(conv_name, fuse_conv_bn_eval(parent.get_submodule(conv_name), norm))
    parent.set_submodule(norm_name, getattr(norm, "act", None) or nn.Identity())  # timm joins the activation


class _ConvNormTracer(fx.Tracer):
    """Leaves convolutions and normalisations whole, also those that timm has written."""

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        """Whether the module is one step of the graph."""
        return isinstance(module, FOLDED_CONVS + FOLDED_NORMS) or super().is_leaf_module(module, qualified_name)


def _foldable_pairs(network: nn.Module) -> list[tuple[str, str]]:
    """Names of convolutions and of the normalisations that are all that reads them; none where fx cannot follow."""
    try:
        graph = _ConvNormTracer().trace(network)
    except Exception:  # control flow that depends on values: nothing is known then
        return []
    modules = dict(network.named_modules(remove_duplicate=False))
    calls = Counter(modules[node.target] for node in graph.nodes if node.op == "call_module")
    aliases = Counter(modules.values())
    pairs = []
    for node in graph.nodes:
        conv = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(conv, fx.Node) or conv.op != "call_module" or list(conv.users) != [node]:
            continue
        first, norm = modules[conv.target], modules[node.target]
        is_known = type(first) in FOLDED_CONVS and type(norm) in FOLDED_NORMS and norm.running_mean is not None
        if is_known and all(calls[part] == aliases[part] == 1 for part in (first, norm)):
            pairs.append((conv.target, node.target))
    return pairs


def bilinear_kernel(weight: Tensor) -> Tensor:
    """The deconvolution that interpolates bilinearly: `(C, 1, k, k)`, of the shape of `weight`."""
    size = weight.shape[-1]
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 == 1 else factor - 0.5
    line = 1 - (torch.arange(size, dtype=torch.float32) - centre).abs() / factor
    return (line[:, None] * line[None, :]).expand(weight.shape).to(weight)


def align_weights(model: nn.Module) -> None:
    """Copies weights that lie askew in memory to where PyTorch would have put them.

    Weights read from safetensors are views of the file, aligned to 8 bytes, and some convolutions then take
    another path and differ in the last bit from the model that was saved.
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        plain = type(tensor.data) is Tensor and tensor.device.type == "cpu"
        if plain and tensor.data_ptr() % MEMORY_ALIGNMENT:
            tensor.data = tensor.data.clone()


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
