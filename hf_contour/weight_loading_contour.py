"""Initial weights, and loading that never gives a partly random model."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .config_checks_contour import ATTENTIONS
from .weight_checks_contour import refuse_incomplete, refuse_non_finite, refuse_other_types, weight_types

MEMORY_ALIGNMENT = 64  # bytes, as PyTorch allocates


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
