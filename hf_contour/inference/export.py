"""A model as a program for ONNX Runtime, OpenVINO or TorchScript, in a folder that `hf-contour predict` reads."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from hf_contour.batch_norm_folding_contour import fold_batch_norms
from hf_contour.evaluation.run import load_model
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.inference.arguments import ExportArguments
from hf_contour.inference.manifest import model_checksum
from hf_contour.inference.quantisation import quantise
from hf_contour.inference.runtimes import EXPORT_FILE, AnsweringModel, load_runtime, read_export
from hf_contour.io import UNFINISHED, library_versions, put_in_place, remove, write_json, writing

FILES = {"onnx": "model.onnx", "openvino": "model.xml", "torchscript": "model.pt"}
TOLERANCE = 1e-3  # of the logits, relative to the largest or to 1
CHECKED_BATCHES = (1, 3)


def export(arguments: ExportArguments) -> dict[str, Any]:
    """Writes the folder, whole or not at all, and checks its answers against PyTorch's.

    The program takes `pixel_values` `(batch, 3, height, width)`, float32, as the processor gives them, and returns
    `logits`, divided by the config's temperature, and of a classifier `embeddings`, `(batch, C)`.

    Returns:
        The content of `export.json`.

    Raises:
        ValueError: If there is something at the output, the size is not known, or the answers differ.
    """
    folder, source = Path(arguments.output), Path(arguments.model)
    if folder.exists():
        raise ValueError(f"{folder} is there already; give a new folder with --output.")
    if read_export(source) is not None:
        raise ValueError(f"{source} is an export itself; expected a folder of save_pretrained.")
    loaded = load_model(str(source))
    processor = ContourImageProcessor.from_pretrained(source)
    size = _size(arguments.size, processor)
    model = AnsweringModel(fold_batch_norms(loaded)).eval()
    unfinished = folder.with_name(f"{UNFINISHED}{folder.name}")
    with writing(folder):
        remove(unfinished)
        unfinished.mkdir(parents=True)
    try:
        _write_program(model, size, unfinished, arguments.format)
        num_calibrated = 0
        if arguments.calibration:
            num_calibrated = quantise(
                unfinished / FILES["onnx"], processor, arguments.calibration, at_most=arguments.num_calibration
            )
        _write_settings(unfinished / "preprocessor_config.json", processor.to_json_string())
        _write_settings(unfinished / "config.json", loaded.config.to_json_string(use_diff=False))
        described: dict[str, Any] = {
            "format": arguments.format,
            "file": FILES[arguments.format],
            "size": list(size),
            "outputs": list(model.names),
            "dtype": "int8" if num_calibrated else "float32",
            "calibration_images": num_calibrated,
            "model": {"name": source.resolve().name, "sha256": model_checksum(source)},
            "versions": library_versions(),
        }
        write_json(unfinished / EXPORT_FILE, described)
        described["largest_difference"] = _difference(model, unfinished, size)
        if not num_calibrated and described["largest_difference"] > TOLERANCE:
            raise ValueError(
                f"the {arguments.format} program of {source} gives other logits than PyTorch, by up to "
                f"{described['largest_difference']:.2g}; nothing was written."
            )
        write_json(unfinished / EXPORT_FILE, described)
        with writing(folder):
            put_in_place(unfinished, folder)
    finally:
        remove(unfinished)
    return described


def _write_settings(path: Path, text: str) -> None:
    """A config without the names of the code that a model folder has beside it."""
    write_json(path, {name: value for name, value in json.loads(text).items() if name != "auto_map"})


def _size(given: Sequence[int], processor: ContourImageProcessor) -> tuple[int, int]:
    """Height and width of the input: a program keeps one size, since padding and grids depend on it."""
    fixed = (processor.size["height"], processor.size["width"]) if processor.do_resize or processor.do_pad else None
    if not given and fixed is None:
        raise ValueError("the processor keeps every image's size, and a program takes one; name it with --size.")
    size = fixed if not given else (given[0], given[1])
    assert size is not None
    if fixed is not None and size != fixed:
        raise ValueError(f"size is {list(size)}, but the processor brings images to {list(fixed)}; leave --size out.")
    return size


def _pixels(size: tuple[int, int], batch_size: int) -> Tensor:
    return torch.rand(batch_size, 3, *size, generator=torch.Generator().manual_seed(batch_size)) * 2 - 1


def _write_program(model: AnsweringModel, size: tuple[int, int], folder: Path, form: str) -> None:
    writers: dict[str, Callable[[AnsweringModel, Tensor, Path], None]] = {
        "onnx": _write_onnx,
        "openvino": _write_openvino,
        "torchscript": _write_torchscript,
    }
    with torch.no_grad():
        writers[form](model, _pixels(size, 2), folder / FILES[form])


def _write_onnx(model: AnsweringModel, pixels: Tensor, path: Path) -> None:
    try:
        torch.onnx.export(
            model,
            (pixels,),
            path,
            dynamo=True,
            input_names=["pixel_values"],
            output_names=list(model.names),
            dynamic_shapes=({0: Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    except ImportError as error:
        raise ValueError(f"an export to ONNX needs {error.name}: pip install hf_contour[onnx].") from error


def _write_openvino(model: AnsweringModel, pixels: Tensor, path: Path) -> None:
    """By way of ONNX, so that there is one translation of the model to keep right."""
    try:
        import openvino
    except ImportError as error:
        raise ValueError("an export to OpenVINO needs it: pip install hf_contour[openvino].") from error
    between = path.with_suffix(".onnx")
    _write_onnx(model, pixels, between)
    openvino.save_model(openvino.convert_model(between), path, compress_to_fp16=False)
    remove(between)


def _write_torchscript(model: AnsweringModel, pixels: Tensor, path: Path) -> None:
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch would rather have another format, and tracing fixes the size
        torch.jit.freeze(torch.jit.trace(model, (pixels,))).save(path)


def _difference(model: AnsweringModel, folder: Path, size: tuple[int, int]) -> float:
    """The largest difference of logits, relative to the largest of them or to 1, over batches of several sizes."""
    run, worst = load_runtime(folder, torch.device("cpu")), 0.0
    for batch_size in CHECKED_BATCHES:
        pixels = _pixels(size, batch_size)
        with torch.inference_mode():
            expected = model(pixels)[0]
        answer = torch.from_numpy(run(pixels)["logits"])
        worst = max(worst, float((answer - expected).abs().max() / expected.abs().max().clamp_min(1)))
    return worst
