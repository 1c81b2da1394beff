"""Settings of an evaluation and of a calibration, apart from the code that needs torch, so that `--help` is quick."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hf_contour.data import EMBEDDED
from hf_contour.flags import check_least, needed, setting
from hf_contour.metrics import MIN_SLICE
from hf_contour.metrics.boundary import MAX_DIST

# Each with what it does; the words go into results files.
COLOUR_PERTURBATIONS = {
    "channels_permuted": "red, green and blue in another order, one of five drawn for each image",
    "hue_90": "hue turned by 90 degrees",
    "hue_180": "hue turned by 180 degrees",
    "hue_270": "hue turned by 270 degrees",
    "grey": "colour removed",
}
CONTOUR_PERTURBATIONS = {
    "contours_zeroed": "everything that the extractor gives is zero",
    "contours_of_another": "the extractor sees another image of the split, drawn for each",
}
PERTURBATIONS = (*COLOUR_PERTURBATIONS, *CONTOUR_PERTURBATIONS)
EMBEDDED_SAMPLES = 200  # as many as a training evaluates on


@dataclass
class EvaluationArguments:
    """Settings of an evaluation; `help` describes each."""

    model: str = needed("folder of a classifier or of an extractor with its single-channel layer")
    data: str = setting(EMBEDDED, "'embedded' (drawn garments), a folder, a file or a Hub id")
    data_config: str | None = setting(None, "configuration of the data set, where it has several")
    split: str = setting("test", "split to evaluate on")
    output: str | None = setting(None, "results file; default: beside the model's run, else runs/evaluations")
    name: str | None = setting(None, "name of the results; default: MODEL-DATA-SPLIT")
    group_column: str | None = setting(None, "column of groups of near duplicates, for the interval of accuracy")
    image_column: str = setting("image", "column of the images")
    contours_column: str = setting("contours", "column of the contour maps")
    label_column: str = setting("label", "column of the labels")
    multi_label: bool = setting(False, "a csv cell holds several labels")
    label_separator: str | None = setting(None, "between several labels in a csv cell; default: ';'")
    unlabelled: Literal["error", "skip"] = setting("error", "skip leaves rows without a label out and counts them")
    batch_size: int = setting(32, "images of a process in a batch; contours go one by one")
    max_samples: int = setting(0, "only so many images, drawn evenly over the classes; 0: all")
    embedded_size: list[int] = setting([96, 96], "height and width of the drawn garments")
    num_workers: int = setting(0, "processes that read images")
    seed: int = setting(0, "seed of the bootstrap, and of the drawn garments")
    num_resamples: int = setting(2000, "resamples of the bootstrap")
    num_bins: int = setting(15, "bins of the expected calibration error")
    slices: list[str] = setting(
        [],
        "score parts of the split too: 'column' (each value, or thirds of numbers) or 'column<=0.5'; "
        "brightness and aspect_ratio are measured where the data does not have them",
    )
    min_slice: int = setting(MIN_SLICE, "values of a column with fewer images are scored together")
    perturbations: list[str] = setting(
        [],
        "measure what colours and contours contribute, a pass for each: 'all', or some of " + ", ".join(PERTURBATIONS),
    )
    predictions: str | None = setting(None, "file (.npz) for what was predicted on each image")
    id_column: str | None = setting(None, "column that names the rows in that file; default: their positions")
    mistakes: str | None = setting(None, "file (.png) for a picture of the surest mistakes")
    boundary_benchmark: bool = setting(True, "score contours by the boundary benchmark too (ODS, OIS, AP, R50)")
    benchmark_processes: int = setting(1, "processes of the benchmark beside each process that runs the model")
    max_dist: float = setting(MAX_DIST, "largest distance of a match in the benchmark, as a share of the diagonal")
    cpu: bool = setting(False, "run on the CPU even where there is an accelerator")

    def __post_init__(self) -> None:
        lowest = dict.fromkeys(("batch_size", "benchmark_processes", "min_slice"), 1)
        lowest |= dict.fromkeys(("max_samples", "num_workers", "seed"), 0)
        check_least(self, lowest)
        if self.perturbations == ["all"]:
            self.perturbations = list(PERTURBATIONS)
        for name in self.perturbations:
            if name not in PERTURBATIONS:
                raise ValueError(f"perturbations has {name!r}; expected all, or some of {', '.join(PERTURBATIONS)}.")
        if len(self.embedded_size) != 2 or min(self.embedded_size) < 1:
            raise ValueError(f"embedded_size is {self.embedded_size}; expected a height and a width.")
        if not 0 <= self.max_dist <= 1:
            raise ValueError(f"max_dist is {self.max_dist}; expected a share of the diagonal, such as {MAX_DIST}.")
        if self.mistakes and Path(self.mistakes).suffix.lower() != ".png":
            raise ValueError(f"mistakes is {self.mistakes!r}; expected a file whose name ends in .png.")
        if self.predictions and Path(self.predictions).suffix != ".npz":
            raise ValueError(f"predictions is {self.predictions!r}; expected a file whose name ends in .npz.")

    @property
    def model_name(self) -> str:
        """See the function `model_name`."""
        return model_name(Path(self.model))

    @property
    def results_name(self) -> str:
        """`name`, or one made of model, data, configuration and split."""
        parts = [self.model_name, Path(self.data).name, self.data_config, self.split]
        return self.name or "-".join(part for part in parts if part)

    @property
    def results_path(self) -> Path:
        """`output`, or a file beside the model of a run; of other models, in `runs/evaluations`."""
        if self.output:
            return Path(self.output)
        folder = Path(self.model)
        beside = folder.parent if folder.resolve().name == "model" else Path("runs")
        return beside / "evaluations" / f"{self.results_name}.json"


@dataclass
class CalibrationArguments:
    """Settings of a calibration; `help` describes each."""

    model: str = needed("folder of a classifier, which gets temperature and threshold")
    data: list[str] = needed("a folder, a file or a Hub id; or the several sources of a model (path,config=NAME)")
    data_config: str | None = setting(None, "configuration of the data set, where it has several")
    split: str = setting("validation", "split to fit on: neither trained on nor tested on")
    image_column: str = setting("image", "column of the images")
    label_column: str = setting("label", "column of the labels")
    multi_label: bool = setting(False, "a csv cell holds several labels")
    label_separator: str | None = setting(None, "between several labels in a csv cell; default: ';'")
    unlabelled: Literal["error", "skip"] = setting("error", "skip leaves rows without a label out and counts them")
    batch_size: int = setting(32, "images in a batch")
    max_samples: int = setting(0, "only so many images, drawn evenly over the classes; 0: all")
    num_workers: int = setting(0, "processes that read images")
    num_bins: int = setting(15, "bins of the expected calibration error")
    wanted_accuracy: list[float] = setting(
        [0.995, 0.99, 0.999],
        "find the lowest confidence from which on predictions are right so often; that of the first "
        "becomes the abstain_threshold of config.json, the others are printed",
    )
    refit_head: bool = setting(
        False, "fit the head anew to these images, no farther from what it was than images not fitted to bear out"
    )
    familiarity: list[str] = setting(
        [], "remember images of the train splits of these sources (path,config=NAME), to tell unfamiliar ones"
    )
    learning_curve: list[int] = setting(
        [], "what so many labelled images are worth, such as 0 50 200 1000; changes no model"
    )
    test_split: str | None = setting(None, "split that the learning curve is scored on")
    group_column: str | None = setting(None, "column of groups of near duplicates, which are not torn apart")
    seed: int = setting(0, "seed of the drawn garments, of folds and of the images of a learning curve")
    dry_run: bool = setting(False, "leave config.json as it is")
    output: str | None = setting(None, "JSON file for the figures; default: none is written")
    cpu: bool = setting(False, "run on the CPU even where there is an accelerator")

    def __post_init__(self) -> None:
        if not self.wanted_accuracy or not all(0 < accuracy <= 1 for accuracy in self.wanted_accuracy):
            raise ValueError(f"wanted_accuracy is {self.wanted_accuracy}; expected numbers from 0 to 1, such as 0.99.")
        if self.learning_curve and not (self.test_split and self.output):
            raise ValueError(
                "learning_curve is scored on a split and written to a file: give --test_split and --output."
            )
        if self.learning_curve and min(self.learning_curve) < 0:
            raise ValueError(f"learning_curve is {self.learning_curve}; expected numbers of images, such as 0 50 200.")
        of_one = (self.data_config, self.image_column, self.label_column)
        if len(self.data) > 1 and of_one != (None, "image", "label"):
            raise ValueError(
                "data_config, image_column and label_column go with one source; of several, say it for each: "
                "path,config=NAME,label_column=NAME."
            )


def model_name(folder: Path) -> str:
    """The name of a model's folder; of one called `model`, as trainings write it, the run and the stage."""
    parts = folder.resolve().parts
    return "-".join(parts[-3:-1]) if parts[-1] == "model" else parts[-1]


def portable_path(path: str) -> str:
    """A path for a results file: as given, or only its name where it is absolute."""
    return Path(path).name if Path(path).is_absolute() else path


def portable_arguments(arguments: Any) -> dict[str, Any]:
    """The settings of a command for a results file, from their dataclass, without absolute paths."""
    return portable_values(asdict(arguments))


def portable_values(value: Any) -> Any:
    """Plain JSON values with only the names of absolute paths, at any depth."""
    if isinstance(value, dict):
        return {name: portable_values(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [portable_values(one) for one in value]
    return portable_path(value) if isinstance(value, str) else value
