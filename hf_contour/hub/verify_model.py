"""Whether the config, weights and processor of a model folder are valid; nothing of the folder is executed."""

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from hf_contour.config_checks_contour import check_backbone_name
from hf_contour.configuration_contour_extractor import ContourExtractorConfig
from hf_contour.configuration_contour_gender import SHUFFLENETS, ContourGenderConfig
from hf_contour.image_opening_contour import DEFAULT_MAX_PIXELS
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.io import state_dict_sha256
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining, ContourExtractorModel
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification
from hf_contour.weight_checks_contour import refuse_other_types, weight_files, weight_types

OK, WARNING, FAILED = "ok", "WARNING", "FAILED"
MAX_JSON_BYTES = 2**24  # a hundred thousand labels take a tenth of it
CONFIGS: dict[str, Any] = {"contour_extractor": ContourExtractorConfig, "contour_gender": ContourGenderConfig}
MODELS: dict[str, Any] = {
    model.__name__: model
    for model in (ContourExtractorForPreTraining, ContourExtractorModel, ContourGenderForImageClassification)
}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: its name.
        status: `ok`, `WARNING` or `FAILED`.
        message: what was found, and what to do about it.
        harmful: whether the folder may do harm, and is not only damaged.
    """

    check: str
    status: str
    message: str
    harmful: bool = False

    def __str__(self) -> str:
        return f"{self.status:<8} {self.check}: {self.message}"


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file that holds a mapping.

    Raises:
        ValueError: If it is large, no JSON or no mapping.
    """
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"it has {size:,} bytes; expected at most {MAX_JSON_BYTES:,}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error!s:.200})") from error
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__}; expected a mapping")
    return content


def check_backbones(content: Mapping[str, Any]) -> list[Finding]:
    """Looks for names of backbones that lead to an address or a folder; harmful to other programs, refused by us."""
    nested = content.get("extractor_config")
    places = {"backbone": content, "extractor_config.backbone": nested if isinstance(nested, dict) else {}}
    findings = []
    for field, place in places.items():
        value = place.get("backbone")
        for name in value if isinstance(value, list) else [value]:
            if isinstance(name, str):
                try:
                    check_backbone_name(field, name, extra_names=SHUFFLENETS)
                except ValueError as error:
                    is_address = any(letter in name for letter in ":/\\\0")
                    findings.append(Finding("backbone", FAILED, str(error), harmful=is_address))
    return findings or [Finding("backbone", OK, "only bare names of architectures")]


def check_labels(content: Mapping[str, Any]) -> Finding:
    """Whether classes are numbered from 0, with a name each, and `label2id` says the same."""
    names = content.get("id2label")
    if names is None and "label2id" not in content:
        return Finding("labels", WARNING, "config.json names no classes; they are called LABEL_0 and LABEL_1.")
    if not isinstance(names, dict) or not names:
        return Finding("labels", FAILED, "config.json has no id2label that maps numbers to names.")
    numbers = {str(index) for index in range(len(names))}
    if set(names) != numbers:
        wrong = sorted(set(names) ^ numbers)[:3]
        return Finding("labels", FAILED, f"id2label is not numbered from 0 to {len(names) - 1}: see {wrong}.")
    words = [name for name in names.values() if isinstance(name, str) and name.strip()]
    if len(set(words)) != len(names):
        return Finding("labels", FAILED, "id2label has a name twice, or none; give every class a name of its own.")
    inverse = {name: int(number) for number, name in names.items()}
    if content.get("label2id", inverse) != inverse:
        return Finding("labels", FAILED, "label2id is not the inverse of id2label; one of them is wrong.")
    return Finding("labels", OK, f"{len(names)} classes: {', '.join(words)}"[:200])


def plan_model(content: Mapping[str, Any]) -> nn.Module:
    """The model that a config asks for, on the meta device: names and shapes without memory.

    Raises:
        ValueError: If the model is none of this package, or the config is impossible.
    """
    model_type = content.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIGS:
        raise ValueError(f"model_type is {model_type!r:.80}; expected one of {', '.join(CONFIGS)}")
    try:
        config = CONFIGS[model_type].from_dict(copy.deepcopy(dict(content)))
        names = [name for name in config.architectures or () if name in MODELS]
        default = "ContourGenderForImageClassification" if model_type == "contour_gender" else None
        chosen = MODELS[names[0] if names else default or "ContourExtractorForPreTraining"]
        if chosen.config_class.model_type != model_type:
            raise ValueError(f"architectures names {chosen.__name__}, which is no model of type {model_type}")
        with torch.device("meta"):
            return chosen(config)
    except Exception as error:  # whatever a config makes a library raise is what was to be found out
        raise ValueError(" ".join(str(error).split())[:500] or type(error).__name__) from error


def check_weights(folder: Path, model: nn.Module | None) -> list[Finding]:
    """Whether the weights can be read, are those that the config asks for, and are finite."""
    try:
        files = weight_files(folder)
        types = weight_types(folder)
        if not files:
            raise ValueError("there is no model.safetensors, nor an index of parts")
        shapes = read_shapes(files)
    except (ValueError, OSError) as error:
        return [Finding("weights", FAILED, f"{error}; get the files again.")]
    findings = [Finding("weights", OK, f"{len(shapes)} tensors in {', '.join(path.name for path in files)}")]
    if model is not None:
        findings.append(compare_shapes(shapes, model, types))
    try:
        findings.append(check_values(files))
    except (RuntimeError, ValueError, TypeError, SafetensorError) as error:  # of types that torch does not know
        findings.append(Finding("values", FAILED, f"the weights cannot be read: {error!s:.200}."))
    return findings


def read_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor.

    Raises:
        ValueError: If a name stands in two files.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file cannot be iterated
                if name in shapes:
                    raise ValueError(f"{path} holds {name!r:.80}, which another part holds as well")
                shapes[name] = tuple(file.get_slice(name).get_shape())
    return shapes


def compare_shapes(shapes: Mapping[str, tuple[int, ...]], model: nn.Module, types: dict[str, str]) -> Finding:
    """Names, shapes and types of the weights against those of the planned model."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing, surplus = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    misshaped = [name for name in expected if name in shapes and shapes[name] != expected[name]]
    wrong = {"missing": missing, "left over": surplus, "of another shape": misshaped}
    if any(wrong.values()):
        parts = [f"{len(names)} {kind}, such as {names[0][:80]!r}" for kind, names in wrong.items() if names]
        return Finding("architecture", FAILED, f"the weights do not fit config.json: {'; '.join(parts)}.")
    try:
        refuse_other_types(types, model, "the files")
    except ValueError as error:
        return Finding("architecture", FAILED, str(error))
    return Finding("architecture", OK, f"names, shapes and types are those of {type(model).__name__}")


def check_values(files: Iterable[Path]) -> Finding:
    """Whether all numbers are finite, and all variances at least 0; one tensor is in memory at a time."""
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
                    return Finding(
                        "values", FAILED, f"{path.name}: {name[:80]!r} holds NaN or infinity; do not use it."
                    )
                if name.endswith("running_var") and tensor.numel() and tensor.min() < 0:
                    return Finding("values", FAILED, f"{path.name}: {name[:80]!r} holds a variance below 0.")
    return Finding("values", OK, "all weights are finite")


def check_results(folder: Path) -> Finding | None:
    """Whether the weights are those whose figures stand in `../results`; `None` where there are no such figures."""
    for path in sorted((folder.parent / "results").glob("*.json")):
        try:
            measured = read_json(path)["model"]
            expected = measured["sha256"] if measured["name"] == folder.resolve().name else None
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if expected is not None:
            break
    else:
        return None
    try:
        stored = {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}
    except (OSError, ValueError, SafetensorError):
        return None  # told by check_weights
    # Figures are of weights in float32, to which loading brings those that are stored in half precision.
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    if state_dict_sha256(weights) == expected:
        return Finding("checksums", OK, f"the weights are those that {path.name} tells about")
    return Finding("checksums", FAILED, f"{path.name} tells about other weights; one of them is not what it was.")


def check_processor(settings: Mapping[str, Any], content: Mapping[str, Any] | None) -> list[Finding]:
    """Whether the processor's settings are possible, and normalise images as the model expects.

    Args:
        settings: of `preprocessor_config.json`.
        content: of `config.json`; `None` where that is unreadable.
    """
    try:
        kind = settings.get("image_processor_type")
        if kind != "ContourImageProcessor":
            raise ValueError(f"image_processor_type is {kind!r:.80}; expected ContourImageProcessor")
        processor = ContourImageProcessor.from_dict(copy.deepcopy(dict(settings)))
        probe = torch.zeros(3, 1, 1, dtype=torch.uint8)
        processor(probe, return_tensors="pt", size={"height": 1, "width": 1})
    except Exception as error:  # as in plan_model
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        return [Finding("processor", FAILED, f"preprocessor_config.json: {reason}.")]
    findings = []
    for field in ("image_mean", "image_std") if content is not None else ():
        wanted = (content or {}).get(field, [0.5, 0.5, 0.5])
        if list(getattr(processor, field)) != wanted:
            message = f"{field} is {getattr(processor, field)}, and {wanted!r:.80} in config.json; make them agree."
            findings.append(Finding("processor", FAILED, message))
    for field in ("do_rescale", "do_normalize", "do_convert_rgb"):
        if not getattr(processor, field):
            findings.append(Finding("processor", WARNING, f"{field} is off; the model was trained with it on."))
    if processor.max_pixels > DEFAULT_MAX_PIXELS:
        message = f"images of {processor.max_pixels:,} pixels are decoded; {DEFAULT_MAX_PIXELS:,} are usual."
        findings.append(Finding("processor", WARNING, message))
    size = processor.size
    if size["height"] * size["width"] > DEFAULT_MAX_PIXELS:
        message = f"every image is brought to {size['height']}x{size['width']}, which takes gigabytes."
        findings.append(Finding("processor", WARNING, message))
    return findings or [Finding("processor", OK, f"{size['height']}x{size['width']}, normalised as config.json says")]
