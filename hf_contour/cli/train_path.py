"""`hf-contour train PATH`: from images in class folders, a csv or a Parquet file to a classifier that is measured."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_contour.cli.settings import command_line, hide_loading_bar
from hf_contour.training.arguments import GenderArguments
from hf_contour.training.command_line import given_settings, parse_arguments, read_recipe, recipe_path, shipped_recipes

if TYPE_CHECKING:
    from hf_contour.cli.own_data import OwnData

# What cannot stand beside PATH, and why.
_CONTRADICTIONS = {
    "data": "PATH and --data both name the data; give one of them",
    "data_root": "PATH is one source and --data_root is for several; give --recipe and --data_root without PATH",
    "streaming": "PATH has all images looked at first, which --streaming spares; give --recipe and --data without it",
}


def train_path(path: str, argv: Sequence[str]) -> int:
    """Checks, holds out, chooses, trains, calibrates, measures and draws; says each in a line.

    Returns:
        The exit code: 0, 2 for data or flags that cannot be, or that of the training.

    Raises:
        ValueError: For data or flags that cannot be.
        FileNotFoundError: If the data or a trained part is not there.
    """
    given = given_settings(argv)
    refuse_contradictions(path, given)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see `train`
    from accelerate import PartialState

    import hf_contour.hub.registration  # noqa: F401 - `pipeline` loads what was trained
    from hf_contour.cli.own_data import find_data
    from hf_contour.cli.own_recipe import write_recipe
    from hf_contour.training.run import train

    hide_loading_bar()
    state = PartialState(cpu=bool(given.get("cpu")))
    with state.main_process_first():
        say = print if state.is_main_process else (lambda *words: None)
        run_folder = Path(given.get("output_dir", "runs")) / given.get("run_name", run_name(path))
        data = find_data(path, given, run_folder, say=say)
        if data is None:
            return 2
        recipe = write_recipe(data, given, run_folder, device=state.device.type, say=say)
    (arguments,) = parse_arguments([*argv, "--recipe", str(recipe)])
    assert isinstance(arguments, GenderArguments)  # the recipe is of that stage
    arguments = replace(arguments, **data.settings)
    return train([arguments], finish=partial(_finish, data=data, command=command_line("train", [path, *argv])))


def refuse_contradictions(path: str, given: Mapping[str, Any]) -> None:
    """Refuses what cannot stand beside PATH.

    Raises:
        ValueError: Naming the flag, or a recipe that is not there or none of a classifier.
        FileNotFoundError: If PATH is not there.
    """
    for name, why in _CONTRADICTIONS.items():
        if given.get(name):
            raise ValueError(f"{why}.")
    if given.get("stage", "gender") != "gender":
        raise ValueError(
            f"PATH alone trains a classifier, and --stage is {given['stage']}; for contours give --stage contour "
            "--recipe contour_tiny --data PATH."
        )
    recipe = given.get("recipe")
    if recipe and read_recipe(recipe_path(recipe)).get("stage") == "contour":
        raise ValueError(
            f"the recipe {recipe} trains contours, and PATH alone a classifier; give --recipe {recipe} --data PATH."
        )
    if not Path(path).expanduser().exists() and not any(sign in path for sign in "*?["):
        raise FileNotFoundError(
            f"{path} is not there; expected a folder with a folder of images for each class, a csv or a Parquet file. "
            "A data set of the Hub is named by --data, beside a --recipe: a file, or one of "
            f"{', '.join(shipped_recipes())}."
        )


def run_name(path: str) -> str:
    """What the run of a data set is called, where it is not said: as its file or folder."""
    return Path(path).expanduser().resolve().stem.strip(". *?[]") or "own"


def _finish(arguments: Any, results: Sequence[dict[str, Any]], *, data: "OwnData", command: str) -> None:
    from hf_contour.cli.own_results import finish

    finish(arguments, results[-1], data=data, command=command)
