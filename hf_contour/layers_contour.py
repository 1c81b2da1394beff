"""Layers that extractor and classifier share, and timm networks as parts of a model."""

import functools
from typing import Any

import timm
from timm.layers import Conv2dSame, get_same_padding
from torch import Tensor, nn

from .weight_checks_contour import LimitedPlanning


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
