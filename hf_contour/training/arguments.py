"""Every setting of a training: a dataclass for each of the two stages on a common base.

The base is put together from parts; code that needs only a part says so in its signature.
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_type_hints

from hf_contour.data import EMBEDDED
from hf_contour.flags import setting

StageName = Literal["contour", "gender"]
STAGES: tuple[StageName, ...] = get_args(StageName)
MAPPINGS = ("augmentation", "colour", "model")  # a mapping in a recipe, JSON on the command line

_MOST = 2**31


@dataclass
class RunArguments:
    """Where a stage of a run writes, and from which seed everything is drawn."""

    run_name: str = setting("garments", "name of the run's folder in output_dir", neutral=True)
    output_dir: str = setting("runs", "folder of all runs", neutral=True)
    resume: bool = setting(True, "go on from the newest good checkpoint of the same settings", neutral=True)
    overwrite: bool = setting(False, "throw away what an earlier run left in the stage's folder", neutral=True)
    # NumPy takes 32 bits, and each process adds its number
    seed: int = setting(0, "seed of weights, order of samples, augmentation and dropout", least=0, most=2**31 - 1)
    stage: str = field(default="", init=False, metadata={"help": "what to train: contour, gender or both"})

    @property
    def folder(self) -> Path:
        """Where this stage of the run writes."""
        return Path(self.output_dir) / self.run_name / self.stage


@dataclass
class DataArguments:
    """Which rows are trained on and evaluated, and how images are changed."""

    data: list[dict[str, Any]] | str | None = setting(
        EMBEDDED,
        "'embedded' (drawn garments), a folder, a file or a Hub id; several as a list of mappings",
        neutral=True,
    )
    data_root: str | None = setting(None, "folder in which the sources of a list are", neutral=True)
    data_config: str | None = setting(None, "configuration of the data set, where it has several")
    train_split: str = setting("train", "split to train on; 'train+validation' joins two")
    validation_split: str | None = setting("validation", "split to evaluate on while training; none: only at the end")
    test_split: str | None = setting(None, "split to evaluate on once, at the end")
    image_column: str = setting("image", "column of the images")
    cache: bool = setting(False, "read the training set once and keep it decoded in memory", neutral=True)
    streaming: bool = setting(False, "read the training set as a stream; needs max_steps")
    balance: Literal["none", "class", "source", "source_class", "source_class_worn"] | None = setting(
        None,
        "what is drawn alike often in training, whatever its number of rows; default: source_class (without labels, "
        "and of streams, source) for several sources, else none",
    )
    shuffle_buffer: int = setting(1000, "rows of a stream that are shuffled at a time", least=1, most=_MOST)
    max_train_samples: int = setting(
        0, "train on only so many samples, drawn evenly over the classes; 0: all", least=0, most=2**40
    )
    max_eval_samples: int = setting(
        0, "evaluate on only so many samples of a split, drawn evenly over the classes; 0: all", least=0, most=2**40
    )
    embedded_train_samples: int = setting(1000, "drawn garments to train on", least=1, most=_MOST)
    embedded_eval_samples: int = setting(200, "drawn garments to evaluate on", least=1, most=_MOST)
    embedded_size: list[int] = setting([96, 96], "height and width of the drawn garments")
    augmentation: dict[str, Any] | str | None = setting(None, "augmentation recipe: a mapping, or JSON")
    colour: dict[str, Any] | str | None = setting(None, "capped colour transform: a mapping, or JSON")
    image_size: list[int] | None = setting(None, "height and width that images are brought to; none: as they are")


@dataclass
class ModelArguments:
    """What the model is made of and starts from."""

    model: dict[str, Any] | str | None = setting(
        None, "fields of the stage's config class: a mapping, or JSON; a flag changes only the fields that it names"
    )
    backbone_weights: list[str] | None = setting(
        None, ".safetensors or .pth file for each backbone, or for the timm cascade"
    )


@dataclass
class OptimizationArguments:
    """Steps, optimiser, learning rates and averages."""

    batch_size: int = setting(
        16, "samples of a process in a micro-batch; fewer where the data set is smaller", least=1, most=2**20
    )
    gradient_accumulation_steps: int | None = setting(
        None, "micro-batches in a step; default: as the launcher says, else 1", least=1, most=2**20
    )
    epochs: int = setting(1, "passes over the training split", least=1, most=_MOST)
    max_steps: int = setting(
        0, "stop after this many steps instead of after the epochs; 0: no limit", least=0, most=_MOST
    )
    optimizer: str = setting("adamw", "name that timm.optim knows: adamw, sgd, lamb, ...")
    learning_rate: float = setting(1e-3, "highest learning rate", least=0, most=1e3)
    weight_decay: float = setting(
        0.01, "weight decay of matrices and kernels; biases and norms have none", least=0, most=1e3
    )
    momentum: float = setting(0.9, "momentum of SGD-like optimisers", least=0, most=1)
    backbone_lr_scale: float = setting(1.0, "learning rate of timm networks relative to the rest", least=0, most=1e3)
    layer_decay: float = setting(
        1.0,
        "factor of the learning rate from each layer group of an image backbone to the one before",
        least=1e-3,
        most=1,
    )
    max_grad_norm: float = setting(1.0, "clip the gradient to this norm; 0: no clipping", least=0)
    schedule: Literal["cosine", "plateau", "constant"] = setting("cosine", "learning rate after the warm-up")
    warmup_steps: int = setting(0, "steps of linear warm-up", least=0, most=_MOST)
    min_lr_scale: float = setting(0.0, "lowest learning rate relative to the highest", least=0, most=1)
    plateau_factor: float = setting(0.3, "plateau: factor when the evaluation loss stands still", least=1e-6, most=1)
    plateau_patience: int = setting(2, "plateau: evaluations without improvement before that", least=0, most=_MOST)
    ema_decay: float = setting(
        0.0, "moving average of the weights, evaluated and saved as the model; 0: none", least=0, most=1
    )
    select_best: bool = setting(False, "keep the weights of the best evaluation")


@dataclass
class ConvergenceArguments:
    """The rule by which a training loss has converged."""

    convergence_window: int = setting(50, "steps that the training loss is averaged over", least=1, most=_MOST)
    convergence_tolerance: float = setting(0.01, "relative improvement of a window that still counts", least=0, most=1)
    convergence_patience: int = setting(3, "windows in a row below it that mean converged", least=1, most=_MOST)
    stop_on_convergence: bool = setting(False, "stop when the rule fires instead of only noting the step")


@dataclass
class ExecutionArguments:
    """How a training runs: devices, processes, logs and what to do about faults."""

    cpu: bool = setting(False, "train on the CPU even where there is an accelerator")
    mixed_precision: Literal["no", "bf16", "fp16"] | None = setting(
        None, "autocast of the forward pass; default: as the launcher says"
    )
    channels_last: bool = setting(False, "lay images and kernels out channels last")
    compile: bool = setting(False, "torch.compile the model")
    num_workers: int = setting(
        1, "processes that load samples; the result does not depend on it", least=0, most=1024, neutral=True
    )
    torch_threads: int = setting(
        0,
        "threads of torch on the CPU; 0: all cores, shared among the local processes",
        least=0,
        most=1024,
        neutral=True,
    )
    eval_batch_size: int = setting(64, "gender: samples of a process in an evaluation batch", least=1, most=2**20)
    log_every: int = setting(10, "steps between log lines", least=1, most=_MOST, neutral=True)
    evaluate_every: int = setting(0, "steps between evaluations; 0: after each epoch", least=0, most=_MOST)
    save_every: int = setting(0, "steps between checkpoints; 0: after each epoch", least=0, most=_MOST, neutral=True)
    keep_checkpoints: int = setting(2, "good checkpoints to keep", least=1, most=_MOST, neutral=True)
    on_bad_image: Literal["stop", "skip"] = setting(
        "stop",
        "a training image that cannot be read: stop, or let the next good one take its place and name it in "
        "results.json; other splits always stop",
        neutral=True,
    )
    on_non_finite: Literal["stop", "skip"] = setting(
        "stop",
        "a step with NaN or infinity: stop, or skip it, at most 10 in a row, and count it in results.json",
        neutral=True,
    )
    tracker: str = setting(
        "none",
        "where curves go beside log.jsonl: tensorboard, wandb, trackio, mlflow, or another that Accelerate knows",
        neutral=True,
    )
    progress: bool = setting(True, "show a progress bar", neutral=True)


@dataclass
class TrainingArguments(
    ExecutionArguments, ConvergenceArguments, OptimizationArguments, ModelArguments, DataArguments, RunArguments
):
    """Settings that both stages have; each stage has a class of its own.

    Attributes are described by their `help`, which `hf-contour train --help` prints.

    Raises:
        ValueError: For a value of the wrong type or out of its range, naming the setting.
    """

    def __post_init__(self) -> None:
        for name, value in launched().items():
            if getattr(self, name) in (None, "none"):
                setattr(self, name, value)
        hints = get_type_hints(type(self))
        for item in dataclasses.fields(self):
            if item.init:
                value = getattr(self, item.name)
                value = as_mapping(item.name, value) if item.name in MAPPINGS else value
                setattr(self, item.name, _checked(item, value, hints[item.name]))
        if self.data_root is not None and not isinstance(self.data, str):
            from hf_contour.data.source_settings import located  # reads tables, which `--help` has no use for

            self.data = [dataclasses.asdict(source) for source in located(self.data or (), self.data_root)]
            self.data_root = None  # the paths hold it now
        if self.balance is None:
            self.balance = "none" if isinstance(self.data, str) else self._balance_of_sources()
        self._refuse_impossible()

    def _balance_of_sources(self) -> Literal["source", "source_class"]:
        return "source"

    def _refuse_impossible(self) -> None:
        path = Path(self.run_name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"run_name is {self.run_name!r}; expected the name of a folder within output_dir.")
        for name in ("image_size", "embedded_size"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise ValueError(f"{name} is {size}; expected a height and a width, at least 1 each.")
        if not self.data:
            raise ValueError(f"data is {self.data!r}; expected a folder, a file, a Hub id, or a list of sources.")
        if self.streaming and not self.max_steps:
            raise ValueError("A stream has no known end: give max_steps with streaming.")
        if self.streaming and self.balance not in ("none", "source"):
            raise ValueError(
                f"balance {self.balance!r} counts rows, and those of a stream are not known; give source."
            )
        if self.schedule == "plateau" and self.validation_split is None:
            raise ValueError("The plateau schedule needs evaluations: give a validation_split.")

    def mapping(self, name: str) -> dict[str, Any]:
        """A nested setting such as `model`, empty where it was not given."""
        return dict(getattr(self, name) or {})


@dataclass
class ContourArguments(TrainingArguments):
    """Settings of the stage in which the extractor learns to draw contours."""

    contours_column: str = setting("contours", "column of the contour maps")
    init_from: str | None = setting(
        None, "folder of a trained extractor to go on from; `model` then changes fields of its config", neutral=True
    )
    teacher: str | None = setting(
        None, "folder of a trained extractor whose maps are learnt from as well", neutral=True
    )
    distillation_weight: float = setting(
        1.0, "weight of the teacher's maps relative to the drawn contours", least=0, most=1e3
    )
    crop_jitter: int = setting(
        0,
        "cut off up to so many rows and columns of a batch, so that the padding of all sizes is learnt",
        least=0,
        most=1024,
    )
    num_images: int = setting(8, "images drawn beside their contours at the end", least=0, most=64, neutral=True)

    def __post_init__(self) -> None:
        self.stage = "contour"
        super().__post_init__()


@dataclass
class GenderArguments(TrainingArguments):
    """Settings of the stage in which backbones, fusion and head learn labels beside the frozen extractor."""

    label_column: str = setting("label", "column of the labels")
    label_names: list[str] | None = setting(None, "names of the labels in order, where the data set has none")
    multi_label: bool = setting(False, "a csv cell holds several labels")
    label_separator: str | None = setting(None, "between several labels in a csv cell; default: ';'")
    unlabelled: Literal["error", "skip"] = setting("error", "skip leaves rows without a label out and counts them")
    feature_cache: str | None = setting(
        None,
        "folder for what the frozen parts give, computed once before the first step and shared among runs; for "
        "training sets that are augmented offline or not at all",
        neutral=True,
    )
    extractor: str | None = setting(
        None, "folder of the contour extractor; default: this run's contour stage", neutral=True
    )
    backbone: list[str] | None = setting(None, "name or names of the image backbone")
    extractor_weights: str = setting(
        "trained",
        "'trained'; for controls 'random', or the file of ImageNet weights for the extractor's timm cascade, the rest "
        "of it being random",
    )
    train_parts: Literal["backbone", "head", "both"] = setting("both", "what back propagation updates")
    head_epochs: int = setting(
        0, "passes in which the backbone stands still and the rest learns, before the epochs", least=0, most=_MOST
    )
    head_learning_rate: float | None = setting(
        None, "learning rate of these passes; default: learning_rate", least=0, most=1e3
    )
    freeze_norm: bool = setting(False, "keep the normalisation statistics of the image backbone as they were")
    initial_weights_share: float = setting(
        0.0,
        "share of the weights that it began with in the published image backbone; above 0, the figures of shares 0, "
        "0.25, 0.5 and 0.75 on the validation split stand in results.json",
        least=0,
        most=1,
    )
    class_balance: bool = setting(False, "weigh classes by how rare they are in the training split")
    label_smoothing: float = setting(0.0, "share of a label spread over all classes", least=0, most=1)

    def __post_init__(self) -> None:
        self.stage = "gender"
        super().__post_init__()

    def _balance_of_sources(self) -> Literal["source", "source_class"]:
        return "source" if self.streaming or self.multi_label else "source_class"

    def _refuse_impossible(self) -> None:
        super()._refuse_impossible()
        if self.head_epochs and (self.train_parts == "head" or self.schedule == "plateau"):
            what = "train_parts head" if self.train_parts == "head" else "the plateau schedule"
            raise ValueError(f"head_epochs, passes before the backbone learns too, cannot be had with {what}.")
        if self.head_learning_rate is not None and not self.head_epochs:
            raise ValueError("head_learning_rate is that of head_epochs; give head_epochs too.")
        if self.feature_cache and (self.augmentation or self.colour or self.streaming):
            raise ValueError(
                "feature_cache keeps one set of features of an image; leave out augmentation, colour and streaming "
                "(hf-contour augment writes an augmented training set)."
            )


ARGUMENTS: dict[str, type[ContourArguments] | type[GenderArguments]] = {
    "contour": ContourArguments,
    "gender": GenderArguments,
}


def launched() -> dict[str, Any]:
    """What `accelerate launch`, its config file or its environment variables have settled.

    Raises:
        ValueError: For a precision that training does not know, such as fp8.
    """
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"The launcher asks for mixed_precision {precision!r}; expected no, bf16 or fp16.")
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    return {"mixed_precision": precision, "gradient_accumulation_steps": int(steps) if steps.isdigit() else 1}


def as_mapping(name: str, value: Any) -> Any:
    """A nested setting that may have come as JSON.

    Raises:
        ValueError: If it is text that is no JSON object.
    """
    if not isinstance(value, str) or value == "none":
        return value
    try:
        mapping = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is {value!r}; expected JSON such as '{{\"key\": 1}}' ({error}).") from error
    if mapping is not None and not isinstance(mapping, dict):
        raise ValueError(f"{name} is {value!r}; expected a JSON object.")
    return mapping


def _checked(item: dataclasses.Field[Any], value: Any, hint: Any) -> Any:
    """The value in its field's type: YAML reads 1e-3 as a word, writes 1 for 1.0 and a word for a list of one."""
    name = item.name
    choices = [choice for part in get_args(hint) for choice in get_args(part)]
    if value == "none" and type(None) in get_args(hint) and "none" not in choices:
        return None
    value = _as_number(value, hint)
    if isinstance(value, str) and name not in (*MAPPINGS, "data") and list[str] in (hint, *get_args(hint)):
        value = [value]
    from huggingface_hub.dataclasses import type_validator  # what `--help` has no use for

    try:
        type_validator(name, value, hint)
    except TypeError as error:
        expected = hint.__name__ if isinstance(hint, type) and not isinstance(hint, UnionType) else str(hint)
        raise ValueError(f"{name} is {value!r}; expected {expected.replace('typing.', '')}.") from error
    if item.metadata["range"] is not None and value is not None:
        low, high = item.metadata["range"]
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; expected a number from {low:g} to {high:g}.")
    return value


def _as_number(value: Any, hint: Any) -> Any:
    kinds = {hint, *get_args(hint)} & {int, float}
    if not kinds or isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    kind = kinds.pop()
    try:
        return kind(value) if isinstance(value, str) or kind is float else value
    except ValueError:
        return value
