"""Checks of weights: what the files of a model may hold, and what was made of them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .config_checks_contour import check_num_weights

WEIGHT_TYPES = frozenset({"F64", "F32", "F16", "BF16"})  # as safetensors calls them


class LimitedPlanning(TorchFunctionMode):
    """Plans a network on the meta device, as a context; stops as soon as it is larger than a config may ask for.

    Raises:
        ValueError: Naming the field and how many parameters it asks for.
    """

    def __init__(self, field: str):
        super().__init__()
        self.field, self.count = field, 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function of torch, and counts what it allocates."""
        with torch.device("meta"):
            returned = function(*args, **(kwargs or {}))
        if function is torch.empty:
            self.count += returned.numel()
            check_num_weights(self.count, self.field)
        return returned


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: `model.safetensors`, or those that its index names.

    Raises:
        ValueError: If the index cannot be read, or names what does not lie beside it.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return [path for path in (folder / "model.safetensors",) if path.is_file()]
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = {str(name) for name in content["weight_map"].values()}
        content["metadata"].keys()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is no index of weights ({type(error).__name__}: {error!s:.80}).") from error
    outside = sorted(name for name in names if name != Path(name).name or not name.endswith(".safetensors"))
    if outside:
        raise ValueError(f"{index} names {outside[0]!r:.80}; expected safetensors files beside it.")
    return [folder / name for name in sorted(names)]


def weight_types(folder: Path) -> dict[str, str]:
    """The type of each weight in a folder's safetensors files, from their headers alone.

    Raises:
        ValueError: If a file is damaged; names it.
        OSError: If it may not be opened.
    """
    types = {}
    for path in weight_files(folder):
        path.open("rb").close()  # safetensors calls a file that may not be read one that is not there
        try:
            with safe_open(path, "pt") as file:
                types.update({name: file.get_slice(name).get_dtype() for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read as safetensors ({error}); get the file again.") from error
    return types


def refuse_other_types(types: dict[str, str], model: nn.Module, source: Any) -> None:
    """Raises `ValueError` if weights are stored as other than floating-point numbers where the model has such."""
    whole = {name.rpartition(".")[2] for name, value in model.state_dict().items() if not value.is_floating_point()}
    wrong = [
        f"{name} ({kind})"
        for name, kind in sorted(types.items())
        if kind not in WEIGHT_TYPES and name.rpartition(".")[2] not in whole
    ]
    if wrong:
        raise ValueError(
            f"The weights in {source} are no floating-point numbers: {wrong[:5]} ({len(wrong)} in all); expected "
            f"{', '.join(sorted(WEIGHT_TYPES))}."
        )


def refuse_incomplete(report: dict[str, Any], source: Any) -> None:
    """Raises `ValueError` if a loading report names missing or surplus weights."""
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or unexpected:
        raise ValueError(
            f"The weights in {source} do not fit the model: missing {missing[:5]} ({len(missing)} in all), "
            f"unexpected {unexpected[:5]} ({len(unexpected)}). Load them with the class that saved them, or pass "
            "output_loading_info=True to get this report and a model whose missing weights are random."
        )


def refuse_non_finite(model: nn.Module, source: Any) -> None:
    """Raises `ValueError` if a floating-point weight or buffer in memory holds NaN or infinity."""
    broken = [
        name
        for name, tensor in model.state_dict().items()
        if type(tensor) is Tensor
        and tensor.is_floating_point()
        and tensor.device.type != "meta"
        and not torch.isfinite(tensor).all()
    ]
    if broken:
        raise ValueError(
            f"The weights in {source} hold NaN or infinity: {broken[:5]} ({len(broken)} tensors in all). "
            "The file is damaged or its training had diverged; use another checkpoint."
        )
