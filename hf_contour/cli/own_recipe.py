"""The recipe of `hf-contour train PATH`: chosen by the size of the data and the device, its trained parts found."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hf_contour.cli.own_data import OwnData
from hf_contour.hub.starting_parts import find_backbone_weights, find_extractor
from hf_contour.io import write_text
from hf_contour.training.arguments import STAGES, as_mapping
from hf_contour.training.choosing import choose_recipe, fitting_image_size
from hf_contour.training.command_line import merge_settings, read_recipe, recipe_path

_HEADER = "# Written by hf-contour train; a copy of it, changed, is a recipe of your own (--recipe FILE).\n"


def write_recipe(
    data: OwnData, given: Mapping[str, Any], run_folder: Path, *, device: str, say: Callable[..., None]
) -> Path:
    """Writes `recipe.yaml` into the folder of the run: that of `--recipe`, else one that suits, for this data.

    Args:
        data: to train on.
        given: flags, which are not written but decide what is to be found.
        run_folder: of the run.
        device: that is trained on.
        say: prints a line.

    Raises:
        FileNotFoundError: If a trained part is nowhere to be found; says what to pass.
    """
    if given.get("recipe"):
        recipe = _own_stage(read_recipe(recipe_path(given["recipe"])))
        say(f"recipe: {given['recipe']}, as asked for")
    else:
        choice = choose_recipe(data.num_train, device=device)
        recipe = read_recipe(recipe_path(choice.recipe))
        recipe["image_size"] = fitting_image_size(recipe["image_size"], aspect=data.aspect)
        if not recipe.get("augmentation") and not any(given.get(name) for name in ("augmentation", "colour")):
            recipe["feature_cache"] = str(run_folder / "features")
        if data.has_several_labels:
            recipe["balance"] = "none"  # which is over one class an image
        say(f"recipe: {choice.recipe}, since there are {choice.reason}; --recipe names another")
    recipe |= {**data.settings, "run_name": run_folder.name, "output_dir": str(run_folder.parent)}
    recipe |= _parts(recipe, given, say=say)
    path = run_folder / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _HEADER + yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    say(f"written: {path}, which has every setting")
    return path


def _own_stage(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe of both stages or of one as a recipe of the classifier alone."""
    own = recipe.get("gender") or {}
    return {key: value for key, value in recipe.items() if key not in STAGES} | own | {"stage": "gender"}


def _parts(recipe: Mapping[str, Any], given: Mapping[str, Any], *, say: Callable[..., None]) -> dict[str, Any]:
    """The extractor and the weights of the backbone, where neither a flag nor the recipe has them."""
    found: dict[str, Any] = {}
    if not given.get("extractor") and not Path(recipe.get("extractor") or "/nowhere").exists():
        found["extractor"], where = find_extractor()
        say(f"contours: {found['extractor']} ({where})")
    if given.get("backbone_weights"):
        return found
    asked = {key: value for key, value in given.items() if key != "recipe"}
    merged = merge_settings({**recipe, "backbone_weights": None}, asked)
    names = _backbones(merged)
    own = recipe.get("backbone_weights") or []
    if names == _backbones(recipe) and len(own) == len(names) and all(Path(file).is_file() for file in own):
        return found
    weights = [find_backbone_weights(name) for name in names]
    for name, (file, where) in zip(names, weights, strict=True):
        say(f"ImageNet weights of {name}: {file} ({where})")
    # The backbone stands beside its weights, so that a flag that names the same one changes nothing.
    return {**found, "backbone": names or None, "backbone_weights": [str(file) for file, _ in weights] or None}


def _backbones(settings: Mapping[str, Any]) -> list[str]:
    model = as_mapping("model", settings.get("model")) or {}
    named = settings.get("backbone") or model.get("backbone")
    return [named] if isinstance(named, str) else list(named or ())
