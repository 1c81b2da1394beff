"""One evaluation, from its settings to a results file."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from transformers import PreTrainedConfig

from hf_contour.data.garments.drawing import embedded_dataset
from hf_contour.data.samples import ContourSamples
from hf_contour.data.sources import ColumnNames, load_source
from hf_contour.evaluation.classes import ClassEvaluationSettings, class_scores
from hf_contour.evaluation.contours import contour_scores
from hf_contour.evaluation.perturbations import COLOUR_PERTURBATIONS, CONTOUR_PERTURBATIONS
from hf_contour.evaluation.predictions import ClassPredictions, write_predictions
from hf_contour.evaluation.results import CLASSIFICATION, CONTOURS, Results, write_results
from hf_contour.evaluation.summary import class_summary
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.io import library_versions, source_commit, state_dict_sha256
from hf_contour.metrics.boundary.scores import MAX_DIST, protocol
from hf_contour.metrics.classification import ScoreSettings
from hf_contour.metrics.slices import MIN_SLICE
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification

EMBEDDED = "embedded"
PERTURBATIONS = (*COLOUR_PERTURBATIONS, *CONTOUR_PERTURBATIONS)
EMBEDDED_SAMPLES = 200  # as many as a training evaluates on


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class EvaluationArguments:
    """Settings of an evaluation; `help` describes each."""

    model: str = field(metadata={"help": "folder of a classifier or of an extractor with its single-channel layer"})
    data: str = _setting(EMBEDDED, "'embedded' (drawn garments), a folder, a file or a Hub id")
    data_config: str | None = _setting(None, "configuration of the data set, where it has several")
    split: str = _setting("test", "split to evaluate on")
    output: str | None = _setting(None, "results file; default: model_cards/results/NAME.json")
    name: str | None = _setting(None, "name of the results; default: MODEL-DATA-SPLIT")
    group_column: str | None = _setting(None, "column of groups of near duplicates, for the interval of accuracy")
    image_column: str = _setting("image", "column of the images")
    contours_column: str = _setting("contours", "column of the contour maps")
    label_column: str = _setting("label", "column of the labels")
    batch_size: int = _setting(32, "images of a process in a batch; contours go one by one")
    max_samples: int = _setting(0, "only the first images; 0: all")
    embedded_size: list[int] = field(
        default_factory=lambda: [96, 96], metadata={"help": "height and width of the drawn garments"}
    )
    num_workers: int = _setting(0, "processes that read images")
    seed: int = _setting(0, "seed of the bootstrap, and of the drawn garments")
    num_resamples: int = _setting(2000, "resamples of the bootstrap")
    num_bins: int = _setting(15, "bins of the expected calibration error")
    slices: list[str] = field(
        default_factory=list,
        metadata={
            "help": "score parts of the split too: 'column' (each value, or thirds of numbers) or 'column<=0.5'; "
            "brightness and aspect_ratio are measured where the data does not have them"
        },
    )
    min_slice: int = _setting(MIN_SLICE, "values of a column with fewer images are scored together")
    perturbations: list[str] = field(
        default_factory=list,
        metadata={
            "help": "measure what colours and contours contribute, a pass for each: 'all', or some of "
            + ", ".join(PERTURBATIONS)
        },
    )
    predictions: str | None = _setting(None, "file (.npz) for what was predicted, which compare_models.py reads")
    id_column: str | None = _setting(None, "column that names the rows in that file; default: their positions")
    boundary_benchmark: bool = _setting(True, "score contours by the boundary benchmark too (ODS, OIS, AP, R50)")
    benchmark_processes: int = _setting(1, "processes of the benchmark beside each process that runs the model")
    max_dist: float = _setting(MAX_DIST, "largest distance of a match in the benchmark, as a share of the diagonal")
    cpu: bool = _setting(False, "run on the CPU even where there is an accelerator")

    def __post_init__(self) -> None:
        lowest = dict.fromkeys(("batch_size", "benchmark_processes", "min_slice"), 1)
        lowest |= dict.fromkeys(("max_samples", "num_workers", "seed"), 0)
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {low}.")
        if self.perturbations == ["all"]:
            self.perturbations = list(PERTURBATIONS)
        for name in self.perturbations:
            if name not in PERTURBATIONS:
                raise ValueError(f"perturbations has {name!r}; expected all, or some of {', '.join(PERTURBATIONS)}.")
        if len(self.embedded_size) != 2 or min(self.embedded_size) < 1:
            raise ValueError(f"embedded_size is {self.embedded_size}; expected a height and a width.")
        if not 0 <= self.max_dist <= 1:
            raise ValueError(f"max_dist is {self.max_dist}; expected a share of the diagonal, such as {MAX_DIST}.")
        if self.predictions and Path(self.predictions).suffix != ".npz":
            raise ValueError(f"predictions is {self.predictions!r}; expected a file whose name ends in .npz.")

    @property
    def results_name(self) -> str:
        """`name`, or one made of model, data, configuration and split."""
        parts = [Path(self.model).resolve().name, Path(self.data).name, self.data_config, self.split]
        return self.name or "-".join(part for part in parts if part)

    @property
    def results_path(self) -> Path:
        """`output`, or the place of results files in the repository."""
        return Path(self.output or f"model_cards/results/{self.results_name}.json")


def evaluate(arguments: EvaluationArguments, *, command: str) -> Results:
    """Evaluate a model on a split and write the results file.

    Args:
        arguments: the settings.
        command: what to note as the command that gives these results.

    Returns:
        The results, on every process; the main one has written them.

    Raises:
        ValueError: If model and data do not fit, or an image cannot be read; names the row.
    """
    set_seed(arguments.seed)
    accelerator = Accelerator(cpu=arguments.cpu)
    model = load_model(arguments.model)
    is_classifier = isinstance(model, ContourGenderForImageClassification)
    processor = ContourImageProcessor.from_pretrained(arguments.model)
    source = load_split(arguments, label_names=list(model.config.id2label.values()) if is_classifier else None)
    samples = ContourSamples(source, processor, stage="gender" if is_classifier else "contour")
    weights_sha256 = state_dict_sha256(model.state_dict())
    model = model.float().to(accelerator.device).eval()
    predictions = None
    if is_classifier:
        scores, predictions = _class_scores(model, samples, accelerator, arguments)
    else:
        scores = _contour_scores(model, samples, accelerator, arguments)
    results = Results(
        name=arguments.results_name,
        task=CLASSIFICATION if is_classifier else CONTOURS,
        model={
            "name": Path(arguments.model).resolve().name,
            "model_type": model.config.model_type,
            "num_parameters": model.num_parameters(),
            "sha256": weights_sha256,
        },
        data={
            "source": portable_path(arguments.data),
            "config": arguments.data_config,
            "split": arguments.split,
            "num_samples": len(samples),
        },
        protocol=_protocol(arguments, processor, accelerator, is_classifier=is_classifier),
        scores=scores,
        command=command,
        arguments=portable_arguments(arguments),
        seed=arguments.seed,
        versions=library_versions(),
        commit=source_commit(),
    )
    if accelerator.is_main_process:
        write_results(results, arguments.results_path)
        if arguments.predictions and predictions is not None:
            described = replace(predictions, model=results.model, data=results.data)
            write_predictions(described, Path(arguments.predictions))
    accelerator.wait_for_everyone()
    return results


def load_model(folder: str) -> nn.Module:
    """The classifier, or the extractor with its single-channel layer, from a folder.

    Raises:
        ValueError: If the folder holds neither.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; expected a folder that save_pretrained wrote.")
    model_type = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
    if model_type == "contour_gender":
        return ContourGenderForImageClassification.from_pretrained(folder)
    if model_type == "contour_extractor":
        return ContourExtractorForPreTraining.from_pretrained(folder)
    raise ValueError(f"{folder} holds a model of type {model_type!r}; expected contour_gender or contour_extractor.")


def load_split(arguments: EvaluationArguments, *, label_names: list[str] | None) -> datasets.Dataset:
    """The rows to evaluate on, with the standard columns.

    Args:
        arguments: which data.
        label_names: the classes of the model in its order, which fix the numbers of the labels.
    """
    limit = arguments.max_samples
    if arguments.data == EMBEDDED:
        source = embedded_dataset(
            arguments.split,
            num_samples=limit or EMBEDDED_SAMPLES,
            seed=arguments.seed,
            size=(arguments.embedded_size[0], arguments.embedded_size[1]),
        )
        if label_names not in (None, source.features["label"].names):
            raise ValueError(f"the drawn garments have {source.features['label'].names}; the model {label_names}.")
        return source
    columns = ColumnNames(arguments.image_column, arguments.contours_column, arguments.label_column)
    source = load_source(
        arguments.data,
        split=arguments.split,
        columns=columns,
        label_names=label_names,
        config_name=arguments.data_config,
    )
    return source.select(range(min(limit, len(source)))) if limit else source


def _class_scores(
    model: nn.Module,
    samples: ContourSamples,
    accelerator: Accelerator,
    arguments: EvaluationArguments,
) -> tuple[dict[str, Any], ClassPredictions]:
    names = ("batch_size", "num_workers", "group_column", "id_column", "slices", "min_slice", "perturbations", "seed")
    settings = ClassEvaluationSettings(
        **{name: getattr(arguments, name) for name in names},
        scores=ScoreSettings(num_bins=arguments.num_bins, num_resamples=arguments.num_resamples, seed=arguments.seed),
    )
    return class_scores(model, samples, accelerator, settings)


def _contour_scores(
    model: nn.Module,
    samples: ContourSamples,
    accelerator: Accelerator,
    arguments: EvaluationArguments,
) -> dict[str, Any]:
    return contour_scores(
        model,
        samples,
        accelerator,
        num_workers=arguments.num_workers,
        boundary_benchmark=arguments.boundary_benchmark,
        max_dist=arguments.max_dist,
        benchmark_processes=arguments.benchmark_processes,
    )


def _protocol(
    arguments: EvaluationArguments, processor: Any, accelerator: Accelerator, *, is_classifier: bool
) -> dict[str, Any]:
    """What the scores depend on besides model and data."""
    shared = {"device": accelerator.device.type, "num_processes": accelerator.num_processes, "dtype": "float32"}
    if not is_classifier:
        benchmark = protocol(max_dist=arguments.max_dist) if arguments.boundary_benchmark else None
        return shared | {
            "image_size": "as they are",
            "scales": 1,
            "pixel_scores": "a pixel is right only in its very place; pixels drawn by few annotators are not counted",
            "boundary_benchmark": benchmark,
        }
    size = dict(processor.size) if processor.do_resize else "as they are"
    return shared | {
        "image_size": size,
        "keeps_aspect_ratio": bool(processor.do_pad),
        "interval": "95 %, percentile bootstrap",
        "interval_groups": arguments.group_column or "images",
    }


def portable_path(path: str) -> str:
    """A path for a results file: as given, or only its name where it is absolute."""
    return Path(path).name if Path(path).is_absolute() else path


def portable_arguments(arguments: Any) -> dict[str, Any]:
    """The settings of a command for a results file, from their dataclass."""
    return {
        name: portable_path(value) if isinstance(value, str) else value for name, value in asdict(arguments).items()
    }


def summary(results: Results) -> str:
    """The figures in a few lines of text, and of a classifier a table of the parts of the split."""
    single = {key: value for key, value in results.scores.items() if isinstance(value, int | float)}
    text = json.dumps({"data": results.data} | single, indent=2)
    return f"{text}\n\n{class_summary(results.scores)}" if results.task == CLASSIFICATION else text
