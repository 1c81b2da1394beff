"""The settings of the stages to train, from a recipe file, what the launcher says, and flags."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_contour.data import EMBEDDED
from hf_contour.flags import FlagParser, named_file, nearest
from hf_contour.training.arguments import (
    ARGUMENTS,
    MAPPINGS,
    STAGES,
    ContourArguments,
    GenderArguments,
    as_mapping,
    launched,
)

logger = logging.getLogger(__name__)

# Settings of older recipes, and their names now.
_RENAMED = {"start_from": "init_from", "on_bad_picture": "on_bad_image", "num_pictures": "num_images"}


@dataclass
class _AllArguments(ContourArguments, GenderArguments):
    """The settings of both stages, for flags and `--help` alone."""


RECIPES = Path(__file__).parent / "recipes"
SETTINGS = {item.name for item in dataclasses.fields(_AllArguments) if item.init}


def parse_arguments(
    argv: Sequence[str], *, default_recipe: Path | None = None, description: str = ""
) -> list[ContourArguments | GenderArguments]:
    """Reads a recipe and flags into the settings of each stage to train.

    A recipe is a YAML mapping of settings; under `contour:` and `gender:` stand those of one stage. Every setting
    is a flag (`--learning_rate 0.001`), which overrides the recipe; with the name of a stage before it
    (`--gender_learning_rate 0.001`) it counts for that stage only. A flag changes what it names and nothing else:
    `--model '{"head": "mlp"}'` leaves the other fields of the recipe's model as they are.

    Args:
        argv: the command line without the name of the program.
        default_recipe: read where `argv` names no `--recipe` and no data of its own.
        description: for `--help`.

    Returns:
        The settings of the stages in the order of training.

    Raises:
        ValueError: For an unknown setting (the nearest names are given), an impossible value, or flags that
            contradict each other.
    """
    parser = _flag_parser(description)
    chosen = parser.parse_given(_flags_of_stage("", argv))
    path = default_recipe if chosen.get("data", EMBEDDED) == EMBEDDED else None
    recipe_file = recipe_path(chosen["recipe"]) if chosen.get("recipe") else path
    recipe = read_recipe(recipe_file) if recipe_file else {}
    stage = chosen.get("stage", recipe.get("stage", "both"))
    if stage not in (*STAGES, "both"):
        raise ValueError(f"stage is {stage!r}; expected contour, gender or both.")
    names = STAGES if stage == "both" else (stage,)
    return [_settings_of(name, argv, recipe, parser, is_alone=stage != "both") for name in names]


def given_settings(argv: Sequence[str], stage: str = "gender") -> dict[str, Any]:
    """What a command line itself says of a stage: settings by their names, and `recipe`.

    Raises:
        ValueError: For a flag that is no setting, or a value of another type.
    """
    return _flag_parser("").parse_given(_flags_of_stage(stage, argv))


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a recipe: of that path, or the one of that name that comes with the package.

    Raises:
        ValueError: If there is neither; names the recipes of the package.
    """
    return named_file(name, RECIPES, kind="recipe")


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a recipe file and refuses what is no setting.

    Raises:
        ValueError: If the file cannot be read or a key is unknown; names the file, the key and the nearest names.
    """
    import yaml  # what `--help` has no use for

    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"The recipe {path} cannot be read: {error}.") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path} holds {type(recipe).__name__}; expected a mapping of settings.")
    for section in (recipe, *(recipe.get(name) for name in STAGES)):
        for old, new in _RENAMED.items():
            if isinstance(section, dict) and old in section:
                section[new] = section.pop(old)
    sections: list[tuple[str, Any]] = [("", recipe), *((name, recipe.get(name) or {}) for name in STAGES)]
    for section, values in sections:
        if not isinstance(values, dict):
            raise ValueError(f"The recipe {path} holds {values!r} under {section!r}; expected a mapping of settings.")
        for key in values:
            if key not in SETTINGS and not (section == "" and key in (*STAGES, "stage")):
                where = f"{section}: {key}" if section else key
                raise ValueError(
                    f"The recipe {path} has {where!r}, which is no setting; {nearest(str(key), SETTINGS)}"
                )
    return recipe


def _flag_parser(description: str) -> FlagParser:
    parser = FlagParser(_AllArguments, prog="hf-contour train", description=description)
    parser.usage = "%(prog)s [PATH] [SETTINGS]"
    parser.add_argument(
        "--recipe", help="YAML file of settings, which flags override, or the name of one of the package"
    )
    return parser


def _settings_of(
    stage: str, argv: Sequence[str], recipe: Mapping[str, Any], parser: FlagParser, *, is_alone: bool
) -> ContourArguments | GenderArguments:
    known = {item.name for item in dataclasses.fields(ARGUMENTS[stage]) if item.init}
    written = {key: value for key, value in recipe.items() if key in SETTINGS} | (recipe.get(stage) or {})
    if foreign := sorted(set(recipe.get(stage) or {}) - known):
        raise ValueError(f"The recipe has {foreign[0]!r} under {stage!r}, which has no such setting.")
    asked = _flags(stage, argv, parser)
    if is_alone and (foreign := sorted(set(asked) - known)):
        raise ValueError(f"--{foreign[0]} is no setting of the stage {stage}, which alone is trained.")
    said = {name: value for name, value in launched().items() if value not in ("no", 1)}
    values = merge_settings({**written, **said}, asked)
    return ARGUMENTS[stage](**{key: value for key, value in values.items() if key in known})


def merge_settings(written: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe as flags change them: what a flag names, and what cannot stay because of it.

    Raises:
        ValueError: If two flags contradict each other.
    """
    values = {**written, **asked}
    for name in MAPPINGS:
        before, after = (as_mapping(name, part.get(name)) for part in (written, asked))
        if isinstance(before, dict) and isinstance(after, dict):
            values[name] = before | after
    if asked.get("epochs") and asked.get("max_steps"):
        raise ValueError("--epochs and --max_steps both say how long to train; give one of them.")
    if asked.get("epochs") and written.get("max_steps"):
        values.pop("max_steps")
    if "backbone_weights" not in asked and written.get("backbone_weights"):
        before, after = _backbone_of(written), _backbone_of(values)
        if before != after:
            values.pop("backbone_weights")
            logger.warning(
                "The recipe's backbone_weights %s are those of %s and are left out, since the backbone is %s now; "
                "--backbone_weights names others.",
                written["backbone_weights"], before, after,
            )  # fmt: skip
    return values


def _backbone_of(values: Mapping[str, Any]) -> Any:
    model = as_mapping("model", values.get("model"))
    backbone = values.get("backbone") or (model.get("backbone") if isinstance(model, dict) else None)
    return backbone[0] if isinstance(backbone, list) and len(backbone) == 1 else backbone


def _flags(stage: str, argv: Sequence[str], parser: FlagParser) -> dict[str, Any]:
    """What the flags of a stage ask for; `ValueError` for a flag that is no setting, naming the nearest."""
    given = parser.parse_given(_flags_of_stage(stage, argv))
    asked = {name: value for name, value in given.items() if name in SETTINGS}
    if isinstance(asked.get("data"), str) and asked["data"].startswith("["):
        try:
            asked["data"] = json.loads(asked["data"])
        except json.JSONDecodeError:
            logger.debug("%s is no JSON; it is taken for a path.", asked["data"])
    return asked


def _flags_of_stage(stage: str, argv: Sequence[str]) -> list[str]:
    """The command line as one stage sees it: its own prefix taken off, flags of the other stage left out."""
    kept: list[str] = []
    is_foreign = False
    for word in argv:
        if word.startswith("--"):
            prefix = word[2:].replace("-", "_").partition("_")[0]
            is_foreign = prefix in STAGES and prefix != stage
            if prefix == stage:
                word = "--" + word[3 + len(stage) :]
        if not is_foreign:
            kept.append(word)
    return kept
