"""A folder as the Hub gets it: the model's files, its card, an example image, and the code that loads it."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

from hf_contour.configuration_contour_extractor import ContourExtractorConfig
from hf_contour.configuration_contour_gender import ContourGenderConfig
from hf_contour.data.garments.drawing import draw_garment
from hf_contour.hub.card import EXAMPLE_IMAGE, read_model_folder

PACKAGE = Path(__file__).parents[1]
CONFIGS: tuple[type[PreTrainedConfig], ...] = (ContourExtractorConfig, ContourGenderConfig)
# What makes Transformers take the folder's own classes.
REMOTE_FIELDS = ("auto_map", "custom_pipelines")
CONFIG_FILES = ("config.json", "preprocessor_config.json")


def assemble(folder: Path, output: Path, *, card: str) -> Path:
    """Makes a folder that loads from the Hub without this package.

    Args:
        folder: of a model, as `save_pretrained` writes it.
        output: folder to make; must not exist.
        card: text of its `README.md`.

    Returns:
        `output`.

    Raises:
        ValueError: If the folder holds no model of this package, or `output` exists.
    """
    read_model_folder(folder)
    if output.exists():
        raise ValueError(f"{output} exists already; name a folder that does not, or delete it.")
    output.mkdir(parents=True)
    for pattern in ("*.safetensors", "model.safetensors.index.json", "preprocessor_config.json", "*.png"):
        for path in folder.glob(pattern):
            shutil.copyfile(path, output / path.name)
    content = complete_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    (output / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (output / "README.md").write_text(card, encoding="utf-8")
    draw_garment(0, size=(160, 128)).image.save(output / EXAMPLE_IMAGE)
    for source in code_files(output):
        shutil.copyfile(source, output / source.name)
    return output


def complete_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a model with the fields that name its code and its pipelines, which older folders lack."""
    kind = next(one for one in CONFIGS if one.model_type == content["model_type"])
    full = kind.from_dict(dict(content)).to_dict()
    return {**content, **{name: full[name] for name in REMOTE_FIELDS if full.get(name)}}


def code_files(folder: Path) -> list[Path]:
    """The files of this package that the configs of a folder name, and those that they import, in order."""
    modules = set()
    for name in CONFIG_FILES:
        if (folder / name).is_file():
            modules |= named_modules(json.loads((folder / name).read_text(encoding="utf-8")))
    sources = {PACKAGE / f"{module}.py" for module in modules}
    return sorted(sources | {Path(found) for source in sources for found in get_relative_import_files(source)})


def named_modules(content: Mapping[str, Any]) -> set[str]:
    """The modules of code that a config names for its classes and pipelines."""
    return {reference.partition(".")[0] for _, reference in references(content) if isinstance(reference, str)}


def references(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The classes that a config names, each with the field that does."""
    auto_map, pipelines = content.get("auto_map") or {}, content.get("custom_pipelines") or {}
    for reference in auto_map.values() if isinstance(auto_map, dict) else [auto_map]:
        yield "auto_map", reference
    for entry in pipelines.values() if isinstance(pipelines, dict) else [pipelines]:
        yield "custom_pipelines", entry.get("impl") if isinstance(entry, dict) else entry
