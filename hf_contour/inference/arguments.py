"""Settings of a prediction and of an export, apart from the code that needs torch, so that `--help` is quick."""

from dataclasses import dataclass, field
from typing import Any

FORMATS = ("parquet", "csv", "jsonl")
ENGINES = ("local", "ray")
EXPORT_FORMATS = ("onnx", "openvino", "torchscript")


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class PredictionArguments:
    """What to predict, of what, and where to; `help` describes each."""

    model: str = field(metadata={"help": "folder of a classifier (or its export), or of an extractor with --contours"})
    output: str = field(metadata={"help": "folder for the tables; the same command goes on with one begun"})
    inputs: list[str] = field(
        default_factory=list,
        metadata={"help": "images, folders, csv and Parquet tables, WebDataset tars, or addresses of these"},
    )
    data: str | None = _setting(None, "data set in the place of --inputs: a Hub id, or what training reads")
    data_config: str | None = _setting(None, "its configuration, where it has several")
    split: str = _setting("test", "split of the data set")
    image_column: str = _setting("image", "column of the images in tables and data sets")
    id_column: str | None = _setting(None, "column that names their rows; default: the path, or table and number")
    format: str = _setting("parquet", "of the tables: parquet, csv or jsonl")
    probabilities: bool = _setting(False, "also write the probability of every label")
    embeddings: bool = _setting(False, "also write the pooled features")
    contours: bool = _setting(False, "draw contours instead of classifying")
    threshold: float = _setting(0.5, "with --contours: of the thin map")
    levels: bool = _setting(False, "with --contours: also draw what each level sees")
    with_image: bool = _setting(False, "with --contours: also the image beside its maps")
    max_side: int = _setting(1024, "with --contours: read longer images this small; 0: never")
    batch_size: int = _setting(32, "images classified at a time")
    rows_per_part: int = _setting(4096, "rows of a table; a killed process loses at most one unfinished table")
    num_workers: int = _setting(0, "threads, each of which opens and classifies; 0: the processors of this process")
    engine: str = _setting("local", "local, or ray (Ray Data, on the cluster that RAY_ADDRESS names)")
    overwrite: bool = _setting(False, "delete an earlier output first")
    cpu: bool = _setting(False, "run on the CPU even where there is an accelerator")

    def __post_init__(self) -> None:
        if bool(self.inputs) == bool(self.data):
            raise ValueError("give images with --inputs, or a data set with --data, and not both.")
        if not self.contours and (self.levels or self.with_image):
            raise ValueError("--levels and --with_image draw beside contours; add --contours.")
        if self.contours and (self.probabilities or self.embeddings):
            raise ValueError("--probabilities and --embeddings are of classes; leave them out with --contours.")
        _check_choice("format", self.format, FORMATS)
        _check_choice("engine", self.engine, ENGINES)
        _check_least(self, {"batch_size": 1, "rows_per_part": 1, "num_workers": 0, "max_side": 0})
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; expected a number between 0 and 1.")


@dataclass
class ExportArguments:
    """What to export and how; `help` describes each."""

    model: str = field(metadata={"help": "folder of a classifier or of an extractor with its single-channel layer"})
    output: str = field(metadata={"help": "folder to write; it must not be there"})
    format: str = _setting("onnx", "onnx, openvino or torchscript")
    size: list[int] = field(
        default_factory=list,
        metadata={"help": "height and width of the input; default: those that the processor gives"},
    )
    calibration: list[str] = field(
        default_factory=list, metadata={"help": "with onnx: images and folders; 8-bit integers, calibrated on them"}
    )
    num_calibration: int = _setting(256, "images that calibrate, at most")

    def __post_init__(self) -> None:
        _check_choice("format", self.format, EXPORT_FORMATS)
        _check_least(self, {"num_calibration": 1})
        if self.size and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size is {self.size}; expected a height and a width.")
        if self.calibration and self.format != "onnx":
            raise ValueError(f"--calibration makes 8-bit integers of onnx alone; format is {self.format}.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}.")


def _check_least(settings: Any, lowest: dict[str, int]) -> None:
    for name, least in lowest.items():
        if getattr(settings, name) < least:
            raise ValueError(f"{name} is {getattr(settings, name)}; expected at least {least}.")
