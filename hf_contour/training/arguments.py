"""Every setting of a training as one dataclass, read from a recipe file and from flags."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from hf_contour.training.flags import FlagParser, named_file, nearest

StageName = Literal["contour", "gender"]
STAGES: tuple[StageName, ...] = get_args(StageName)
EMBEDDED = "embedded"

# The dictionary fields: a mapping in a recipe, JSON on the command line.
_MAPPINGS = ("augmentation", "colour", "model")

# Settings of older recipes, and their names now.
_RENAMED = {"start_from": "init_from", "on_bad_picture": "on_bad_image", "num_pictures": "num_images"}

# Lowest and highest value of the numbers; both included.
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),  # NumPy takes 32 bits, and each process adds its number
    "crop_jitter": (0, 1024),
    "batch_size": (1, 2**20),
    "eval_batch_size": (1, 2**20),
    "gradient_accumulation_steps": (1, 2**20),
    "epochs": (1, 2**31),
    "max_steps": (0, 2**31),
    "learning_rate": (0, 1e3),
    "weight_decay": (0, 1e3),
    "momentum": (0, 1),
    "backbone_lr_scale": (0, 1e3),
    "layer_decay": (1e-3, 1),
    "max_grad_norm": (0, math.inf),
    "warmup_steps": (0, 2**31),
    "min_lr_scale": (0, 1),
    "distillation_weight": (0, 1e3),
    "plateau_factor": (1e-6, 1),
    "plateau_patience": (0, 2**31),
    "ema_decay": (0, 1),
    "label_smoothing": (0, 1),
    "convergence_window": (1, 2**31),
    "convergence_tolerance": (0, 1),
    "convergence_patience": (1, 2**31),
    "num_workers": (0, 1024),
    "torch_threads": (0, 1024),
    "evaluate_every": (0, 2**31),
    "save_every": (0, 2**31),
    "keep_checkpoints": (1, 2**31),
    "log_every": (1, 2**31),
    "num_images": (0, 64),
    "max_train_samples": (0, 2**40),
    "max_eval_samples": (0, 2**40),
    "embedded_train_samples": (1, 2**31),
    "embedded_eval_samples": (1, 2**31),
    "shuffle_buffer": (1, 2**31),
}


def _help(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ContourTrainingArguments:
    """Settings of one stage of training.

    Attributes are described by their `help`, which `hf-contour train --help` prints. Numbers of samples and steps
    of 0 mean "no limit".

    Raises:
        ValueError: For a value of the wrong type or out of its range, naming the setting.
    """

    # Runs
    stage: Literal["contour", "gender", "both"] = _help("both", "what to train")
    run_name: str = _help("garments", "name of the run's folder in output_dir")
    output_dir: str = _help("runs", "folder of all runs")
    resume: bool = _help(True, "go on from the newest good checkpoint of the same settings")
    overwrite: bool = _help(False, "throw away what an earlier run left in the stage's folder")
    seed: int = _help(0, "seed of weights, order of samples, augmentation and dropout")

    # Data
    data: str = _help(EMBEDDED, "'embedded' (drawn garments), a folder, a file or a Hub id")
    data_config: str | None = _help(None, "configuration of the data set, where it has several")
    train_split: str = _help("train", "split to train on; 'train+validation' joins two")
    validation_split: str | None = _help("validation", "split to evaluate on while training; none: only at the end")
    test_split: str | None = _help(None, "split to evaluate on once, at the end")
    image_column: str = _help("image", "column of the images")
    contours_column: str = _help("contours", "column of the contour maps")
    label_column: str = _help("label", "column of the labels")
    label_names: list[str] | None = field(
        default=None, metadata={"help": "names of the labels in order, where the data set has none"}
    )
    multi_label: bool = _help(False, "a csv cell holds several labels")
    cache: bool = _help(False, "read the training set once and keep it decoded in memory")
    feature_cache: str | None = _help(
        None,
        "gender: folder for what the frozen parts give, computed once before the first step and shared among runs; "
        "for training sets that are augmented offline or not at all",
    )
    streaming: bool = _help(False, "read the training set as a stream; needs max_steps")
    shuffle_buffer: int = _help(1000, "rows held for shuffling a stream")
    max_train_samples: int = _help(0, "use only the first training samples")
    max_eval_samples: int = _help(0, "use only the first samples of the other splits")
    embedded_train_samples: int = _help(1000, "drawn garments to train on")
    embedded_eval_samples: int = _help(200, "drawn garments to evaluate on")
    embedded_size: list[int] = field(
        default_factory=lambda: [96, 96], metadata={"help": "height and width of the drawn garments"}
    )
    augmentation: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "augmentation recipe: a mapping, or JSON"}
    )
    colour: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "capped colour transform: a mapping, or JSON"}
    )
    image_size: list[int] | None = field(
        default=None, metadata={"help": "height and width that images are brought to; none: as they are"}
    )

    # Model
    model: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "fields of the stage's config class: a mapping, or JSON"}
    )
    init_from: str | None = _help(
        None, "contour: folder of a trained extractor to go on from; `model` then changes fields of its config"
    )
    teacher: str | None = _help(None, "contour: folder of a trained extractor whose maps are learnt from as well")
    distillation_weight: float = _help(1.0, "contour: weight of the teacher's maps relative to the drawn contours")
    extractor: str | None = _help(None, "gender: folder of the contour extractor; default: this run's contour stage")
    backbone: list[str] | None = field(default=None, metadata={"help": "gender: name or names of the image backbone"})
    backbone_weights: list[str] | None = field(
        default=None, metadata={"help": ".safetensors or .pth file for each backbone, or for the timm cascade"}
    )
    extractor_weights: str = _help(
        "trained",
        "gender: 'trained'; for controls 'random', or the file of ImageNet weights for the extractor's timm cascade, "
        "the rest of it being random",
    )
    train_parts: Literal["backbone", "head", "both"] = _help("both", "gender: what back propagation updates")
    class_balance: bool = _help(False, "gender: weigh classes by how rare they are in the training split")
    label_smoothing: float = _help(0.0, "gender: share of a label spread over all classes")
    select_best: bool = _help(False, "gender: keep the weights of the best validation accuracy")

    # Optimisation
    crop_jitter: int = _help(
        0, "contour: cut off up to so many rows and columns of a batch, so that the padding of all sizes is learnt"
    )
    batch_size: int = _help(16, "samples of a process in a micro-batch")
    eval_batch_size: int = _help(64, "gender: samples of a process in an evaluation batch")
    gradient_accumulation_steps: int = _help(1, "micro-batches in a step")
    epochs: int = _help(1, "passes over the training split")
    max_steps: int = _help(0, "stop after this many steps instead of after the epochs")
    optimizer: str = _help("adamw", "name that timm.optim knows: adamw, sgd, lamb, ...")
    learning_rate: float = _help(1e-3, "highest learning rate")
    weight_decay: float = _help(0.01, "weight decay of matrices and kernels; biases and norms have none")
    momentum: float = _help(0.9, "momentum of SGD-like optimisers")
    backbone_lr_scale: float = _help(1.0, "learning rate of timm networks relative to the rest")
    layer_decay: float = _help(
        1.0, "gender: factor of the learning rate from each backbone layer group to the one before"
    )
    max_grad_norm: float = _help(1.0, "clip the gradient to this norm; 0: no clipping")
    schedule: Literal["cosine", "plateau", "constant"] = _help("cosine", "learning rate after the warm-up")
    warmup_steps: int = _help(0, "steps of linear warm-up")
    min_lr_scale: float = _help(0.0, "lowest learning rate relative to the highest")
    plateau_factor: float = _help(0.3, "plateau: factor when the evaluation loss stands still")
    plateau_patience: int = _help(2, "plateau: evaluations without improvement before that")
    ema_decay: float = _help(0.0, "moving average of the weights, evaluated and saved as the model; 0: none")

    # Convergence
    convergence_window: int = _help(50, "steps that the training loss is averaged over")
    convergence_tolerance: float = _help(0.01, "relative improvement of a window that still counts")
    convergence_patience: int = _help(3, "windows in a row below it that mean converged")
    stop_on_convergence: bool = _help(False, "stop when the rule fires instead of only noting the step")

    # Execution
    cpu: bool = _help(False, "train on the CPU even where there is an accelerator")
    mixed_precision: Literal["no", "bf16"] = _help("no", "bf16: autocast of the forward pass")
    channels_last: bool = _help(False, "lay images and kernels out channels last")
    compile: bool = _help(False, "torch.compile the model")
    num_workers: int = _help(1, "processes that load training samples; the result does not depend on it")
    torch_threads: int = _help(0, "threads of torch on the CPU; 0: all cores, shared among the local processes")
    log_every: int = _help(10, "steps between log lines")
    evaluate_every: int = _help(0, "steps between evaluations; 0: after each epoch")
    save_every: int = _help(0, "steps between checkpoints; 0: after each epoch")
    keep_checkpoints: int = _help(2, "good checkpoints to keep")
    on_bad_image: Literal["stop", "skip"] = _help(
        "stop",
        "a training image that cannot be read: stop, or let the next good one take its place and name it in "
        "results.json; other splits always stop",
    )
    on_non_finite: Literal["stop", "skip"] = _help(
        "stop", "a step with NaN or infinity: stop, or skip it, at most 10 in a row, and count it in results.json"
    )
    tracker: Literal["none", "tensorboard"] = _help("none", "where curves go beside log.jsonl")
    progress: bool = _help(True, "show a progress bar")
    num_images: int = _help(8, "contour: images drawn beside their contours at the end")

    def __post_init__(self) -> None:
        for name in _MAPPINGS:
            setattr(self, name, _as_mapping(name, getattr(self, name)))
        for name, hint in get_type_hints(type(self)).items():
            setattr(self, name, _checked(name, getattr(self, name), hint))
        for name in ("image_size", "embedded_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise ValueError(f"{name} is {size}; expected a height and a width, at least 1 each.")
        if self.streaming and not self.max_steps:
            raise ValueError("A stream has no known end: give max_steps with streaming.")
        if self.feature_cache and (self.augmentation or self.colour or self.streaming):
            raise ValueError(
                "feature_cache keeps one set of features of an image; leave out augmentation, colour and streaming "
                "(hf-contour augment writes an augmented training set)."
            )
        if self.schedule == "plateau" and self.validation_split is None:
            raise ValueError("The plateau schedule needs evaluations: give a validation_split.")

    def mapping(self, name: str) -> dict[str, Any]:
        """A nested setting such as `model`, empty where it was not given."""
        return dict(getattr(self, name) or {})

    @property
    def folder(self) -> Path:
        """Where this stage of the run writes."""
        return Path(self.output_dir) / self.run_name / self.stage


def _as_mapping(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        mapping = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is {value!r}; expected JSON such as '{{\"key\": 1}}' ({error}).") from error
    if mapping is not None and not isinstance(mapping, dict):
        raise ValueError(f"{name} is {value!r}; expected a JSON object.")
    return mapping


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value in its field's type: YAML writes 1 for 1.0, a word for a list of one, and flags `none` for nothing."""
    if value == "none" and type(None) in get_args(hint):
        return None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if isinstance(value, str) and name not in _MAPPINGS and list[str] in (hint, *get_args(hint)):
        value = [value]
    from huggingface_hub.dataclasses import type_validator  # here and below: what `--help` has no use for

    try:
        type_validator(name, value, hint)
    except TypeError as error:
        expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise ValueError(f"{name} is {value!r}; expected {expected}.") from error
    if name in _RANGES:
        low, high = _RANGES[name]
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; expected a number from {low:g} to {high:g}.")
    return value


def parse_arguments(
    argv: Sequence[str], *, default_recipe: Path | None = None, description: str = ""
) -> list[ContourTrainingArguments]:
    """Reads a recipe and flags into the settings of each stage to train.

    A recipe is a YAML mapping of settings; under `contour:` and `gender:` stand those of one stage. Every setting
    is a flag (`--learning_rate 0.001`), which overrides the recipe; with the name of a stage before it
    (`--gender_learning_rate 0.001`) it counts for that stage only.

    Args:
        argv: the command line without the name of the program.
        default_recipe: read where `argv` names no `--recipe` and no data of its own.
        description: for `--help`.

    Returns:
        The settings of the stages in the order of training, `stage` being `contour` or `gender`.

    Raises:
        ValueError: For an unknown setting (the nearest names are given) or an impossible value.
    """
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--recipe", default=None)
    chooser.add_argument("--data", default=None)
    chosen, _ = chooser.parse_known_args(list(argv))
    path = recipe_path(chosen.recipe) if chosen.recipe else default_recipe if chosen.data in (None, EMBEDDED) else None
    recipe = read_recipe(path) if path else {}
    stage = _parse_stage("contour", argv, recipe, description).stage
    names = STAGES if stage == "both" else (stage,)
    parsed = [_parse_stage(name, argv, recipe, description) for name in names]
    for name, arguments in zip(names, parsed, strict=True):
        arguments.stage = name
    return parsed


def recipe_path(name: str) -> Path:
    """The file of a recipe: of that path, or the one of that name that comes with the package.

    Raises:
        ValueError: If there is neither; names the recipes of the package.
    """
    return named_file(name, Path(__file__).parent / "recipes", kind="recipe")


def read_recipe(path: Path) -> dict[str, Any]:
    """Reads a recipe file and refuses what is no setting.

    Raises:
        ValueError: If the file cannot be read or a key is unknown; names the file, the key and the nearest names.
    """
    import yaml

    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"The recipe {path} cannot be read: {error}.") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path} holds {type(recipe).__name__}; expected a mapping of settings.")
    for section in (recipe, *(recipe.get(name) for name in STAGES)):
        for old, new in _RENAMED.items():
            if isinstance(section, dict) and old in section:
                section[new] = section.pop(old)
    known = {item.name for item in fields(ContourTrainingArguments)}
    sections: list[tuple[str, Any]] = [("", recipe), *((name, recipe.get(name) or {}) for name in STAGES)]
    for section, values in sections:
        if not isinstance(values, dict):
            raise ValueError(f"The recipe {path} holds {values!r} under {section!r}; expected a mapping of settings.")
        for key in values:
            if key not in known and not (section == "" and key in STAGES):
                where = f"{section}: {key}" if section else key
                raise ValueError(f"The recipe {path} has {where!r}, which is no setting; {nearest(str(key), known)}")
    return recipe


def _parse_stage(
    stage: str, argv: Sequence[str], recipe: dict[str, Any], description: str
) -> ContourTrainingArguments:
    parser = FlagParser(ContourTrainingArguments, prog="hf-contour train", description=description)
    parser.add_argument(
        "--recipe", help="YAML file of settings, which flags override, or the name of one of the package"
    )
    values = {key: value for key, value in recipe.items() if key not in STAGES}
    values.update(recipe.get(stage) or {})
    parser.set_defaults(**values)
    arguments: ContourTrainingArguments = parser.parse_settings(_flags_of_stage(stage, argv))
    return arguments


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
