"""What runs a model: PyTorch for a folder of `save_pretrained`, and for an export the program that it was made for.

A runtime takes `pixel_values` of `(B, 3, H, W)` and gives named arrays: `logits`, `(B, K)` or `(B, 1, H, W)`, and of
a classifier `embeddings`, `(B, C)`, and `familiarity`, `(B,)`, where it remembers images. Threads may call one at the
same time; each call uses a single thread, so that an answer does not depend on how many there are.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock, local
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from hf_contour.batch_norm_folding_contour import fold_batch_norms
from hf_contour.evaluation.run import load_model

EXPORT_FILE = "export.json"
Answers: TypeAlias = dict[str, np.ndarray]


class AnsweringModel(nn.Module):
    """A model reduced to the tensors that are answers, in the order of `names`.

    Args:
        model: a classifier, or an extractor with its single-channel layer.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.is_classifier = model.config.model_type == "contour_gender"
        self.remembers = self.is_classifier and model.familiarity is not None
        names = ("logits", "embeddings") if self.is_classifier else ("logits",)
        self.names = (*names, "familiarity") if self.remembers else names

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """`(B, 3, H, W)` to logits and, of a classifier, the fused map averaged over the image, and familiarity."""
        if not self.is_classifier:
            return (self.model(pixel_values=pixel_values, return_dict=True).logits,)
        asked = {"output_hidden_states": True, "output_familiarity": self.remembers}
        outputs = self.model(pixel_values=pixel_values, return_dict=True, **asked)
        answers = (outputs.logits, outputs.hidden_states[-1].mean(dim=(2, 3)))
        return (*answers, outputs.familiarity) if self.remembers else answers


class TorchRuntime:
    """PyTorch: batch normalisation folded into the convolutions, channels last.

    Args:
        folder: that `save_pretrained` wrote.
        device: where it runs; on an accelerator one thread at a time.
    """

    def __init__(self, folder: Path, device: torch.device):
        self.device = device
        model = AnsweringModel(fold_batch_norms(load_model(str(folder))))
        self.model = model.to(device, memory_format=torch.channels_last).eval()
        self._turn: AbstractContextManager[Any] = nullcontext() if device.type == "cpu" else Lock()

    def __call__(self, pixel_values: Tensor) -> Answers:
        """Runs a batch."""
        with torch.inference_mode(), self._turn:
            inputs = pixel_values.to(self.device, memory_format=torch.channels_last)
            outputs = self.model(inputs)
            return {name: one.float().cpu().numpy() for name, one in zip(self.model.names, outputs, strict=True)}


def load_runtime(folder: Path, device: torch.device) -> Callable[[Tensor], Answers]:
    """The runtime of a folder, which tells by itself what it needs.

    Raises:
        ValueError: If the folder is neither a model's nor an export, or its program is not installed.
    """
    described = read_export(folder)
    if described is None:
        return TorchRuntime(folder, device)
    opener = {"onnx": _onnx, "openvino": _openvino, "torchscript": _torchscript}[described["format"]]
    run = opener(folder / described["file"])
    height, width = described["size"]

    def checked(pixel_values: Tensor) -> Answers:
        if tuple(pixel_values.shape[2:]) != (height, width):
            raise ValueError(
                f"{folder} takes images of {height}x{width}; {'x'.join(map(str, pixel_values.shape[2:]))} came. Use "
                "its own preprocessor_config.json, or export another size."
            )
        return dict(zip(described["outputs"], run(pixel_values), strict=True))

    return checked


def read_export(folder: Path) -> Mapping[str, Any] | None:
    """What an export says of itself; `None` where the folder is none."""
    path = folder / EXPORT_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _onnx(path: Path) -> Callable[[Tensor], list[np.ndarray]]:
    onnxruntime = _program("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixel_values: session.run(None, {"pixel_values": pixel_values.numpy()})


def _openvino(path: Path) -> Callable[[Tensor], list[np.ndarray]]:
    openvino = _program("openvino", "openvino")
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", settings)
    requests = local()  # each serves one thread at a time

    def run(pixel_values: Tensor) -> list[np.ndarray]:
        if not hasattr(requests, "own"):
            requests.own = model.create_infer_request()
        return [np.array(output) for output in requests.own.infer([pixel_values.numpy()]).values()]

    return run


def _torchscript(path: Path) -> Callable[[Tensor], list[np.ndarray]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch would rather have another format
        module = torch.jit.load(path, map_location="cpu")

    def run(pixel_values: Tensor) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in module(pixel_values)]

    return run


def _program(name: str, extra: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise ValueError(f"this export needs {name}: pip install hf_contour[{extra}].") from error
