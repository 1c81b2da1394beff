"""Settings of a prediction and of an export, apart from the code that needs torch, so that `--help` is quick."""

from dataclasses import dataclass

from hf_contour.flags import check_least, needed, setting

FORMATS = ("parquet", "csv", "jsonl")
ENGINES = ("local", "ray")
EXPORT_FORMATS = ("onnx", "openvino", "torchscript")


@dataclass
class PredictionArguments:
    """What to predict, of what, and where to; `help` describes each."""

    model: str = needed("folder of a classifier (or its export), or of an extractor with --contours")
    output: str = needed("folder for the tables; the same command goes on with one begun")
    inputs: list[str] = setting([], "images, folders, csv and Parquet tables, WebDataset tars, or addresses of these")
    data: str | None = setting(None, "data set in the place of --inputs: a Hub id, or what training reads")
    data_config: str | None = setting(None, "its configuration, where it has several")
    split: str = setting("test", "split of the data set")
    image_column: str = setting("image", "column of the images in tables and data sets")
    id_column: str | None = setting(None, "column that names their rows; default: the path, or table and number")
    format: str = setting("parquet", "of the tables: parquet, csv or jsonl")
    probabilities: bool = setting(False, "also write the probability of every label")
    embeddings: bool = setting(False, "also write the pooled features")
    contours: bool = setting(False, "draw contours instead of classifying")
    threshold: float = setting(0.5, "with --contours: of the thin map")
    levels: bool = setting(False, "with --contours: also draw what each level sees")
    with_image: bool = setting(False, "with --contours: also the image beside its maps")
    max_side: int = setting(1024, "with --contours: read longer images this small; 0: never")
    batch_size: int = setting(32, "images classified at a time")
    rows_per_part: int = setting(4096, "rows of a table; a killed process loses at most one unfinished table")
    num_workers: int = setting(0, "threads, each of which opens and classifies; 0: the processors of this process")
    engine: str = setting("local", "local, or ray (Ray Data, on the cluster that RAY_ADDRESS names)")
    overwrite: bool = setting(False, "delete an earlier output first")
    cpu: bool = setting(False, "run on the CPU even where there is an accelerator")

    def __post_init__(self) -> None:
        if bool(self.inputs) == bool(self.data):
            raise ValueError("give images with --inputs, or a data set with --data, and not both.")
        if not self.contours and (self.levels or self.with_image):
            raise ValueError("--levels and --with_image draw beside contours; add --contours.")
        if self.contours and (self.probabilities or self.embeddings):
            raise ValueError("--probabilities and --embeddings are of classes; leave them out with --contours.")
        _check_choice("format", self.format, FORMATS)
        _check_choice("engine", self.engine, ENGINES)
        check_least(self, {"batch_size": 1, "rows_per_part": 1, "num_workers": 0, "max_side": 0})
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; expected a number between 0 and 1.")


@dataclass
class ExportArguments:
    """What to export and how; `help` describes each."""

    model: str = needed("folder of a classifier or of an extractor with its single-channel layer")
    output: str = needed("folder to write; it must not be there")
    format: str = setting("onnx", "onnx, openvino or torchscript")
    size: list[int] = setting([], "height and width of the input; default: those that the processor gives")
    calibration: list[str] = setting([], "with onnx: images and folders; 8-bit integers, calibrated on them")
    num_calibration: int = setting(256, "images that calibrate, at most")

    def __post_init__(self) -> None:
        _check_choice("format", self.format, EXPORT_FORMATS)
        check_least(self, {"num_calibration": 1})
        if self.size and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size is {self.size}; expected a height and a width.")
        if self.calibration and self.format != "onnx":
            raise ValueError(f"--calibration makes 8-bit integers of onnx alone; format is {self.format}.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}.")
