"""One evaluation, from its settings to a results file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from transformers import PreTrainedConfig

from hf_contour.data import EMBEDDED
from hf_contour.data.garments.drawing import embedded_dataset
from hf_contour.data.samples import ContourSamples
from hf_contour.data.sources import ColumnNames, label_reading, load_source
from hf_contour.data.subsets import at_most
from hf_contour.evaluation.arguments import EMBEDDED_SAMPLES, EvaluationArguments, portable_arguments, portable_path
from hf_contour.evaluation.classes import ClassEvaluationSettings, class_scores
from hf_contour.evaluation.contours import contour_scores
from hf_contour.evaluation.mistakes import draw_mistakes, surest_mistakes
from hf_contour.evaluation.predictions import ClassPredictions, write_predictions
from hf_contour.evaluation.report import write_report
from hf_contour.evaluation.results import CLASSIFICATION, CONTOURS, Results, is_of_another_model, write_results
from hf_contour.evaluation.summary import class_summary
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.io import origin, state_dict_sha256
from hf_contour.metrics.boundary.scores import protocol
from hf_contour.metrics.classification import ScoreSettings
from hf_contour.modeling_contour_extractor import ContourExtractorForPreTraining
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification


def evaluate(
    arguments: EvaluationArguments, *, command: str, rows: datasets.Dataset | None = None
) -> tuple[Results, Path]:
    """Evaluate a model on a split; write the results file, and beside it a report in HTML.

    Args:
        arguments: the settings.
        command: what to note as the command that gives these results.
        rows: those of the split, where they have been loaded; else they are loaded as the settings say.

    Returns:
        The results, on every process, and the file that the main one has written them to. Without `output`, the file
        of another model is never replaced: the name then ends in the first digits of the weights' checksum.

    Raises:
        ValueError: If model and data do not fit, or an image cannot be read; names the row.
    """
    set_seed(arguments.seed)
    accelerator = Accelerator(cpu=arguments.cpu)
    model = load_model(arguments.model)
    is_classifier = isinstance(model, ContourGenderForImageClassification)
    processor = ContourImageProcessor.from_pretrained(arguments.model)
    if rows is None:
        rows = load_split(arguments, label_names=list(model.config.id2label.values()) if is_classifier else None)
    samples = ContourSamples(rows, processor, stage="gender" if is_classifier else "contour")
    described = describe(model, arguments.model_name)
    model = model.float().to(accelerator.device).eval()
    scorer = _class_scores if is_classifier else _contour_scores
    scores, predictions = scorer(model, samples, accelerator, arguments)
    results = Results(
        name=arguments.results_name,
        task=CLASSIFICATION if is_classifier else CONTOURS,
        model=described,
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
        **origin(),
    )
    path = arguments.results_path
    if not arguments.output and is_of_another_model(path, described["sha256"]):
        path = path.with_stem(f"{path.stem}-{described['sha256'][:8]}")
    accelerator.wait_for_everyone()  # until all have looked
    if accelerator.is_main_process:
        _write(results, path, predictions, samples, arguments)
    accelerator.wait_for_everyone()
    return results, path


def _write(
    results: Results,
    path: Path,
    predictions: ClassPredictions | None,
    samples: ContourSamples,
    arguments: EvaluationArguments,
) -> None:
    """Writes the results file and a report beside it; predictions and a picture of mistakes where they are wanted."""
    write_results(results, path)
    write_report(results, path.with_suffix(".html"), predictions=predictions, samples=samples)
    if predictions is None:
        return
    if arguments.predictions:
        described = replace(predictions, model=results.model, data=results.data)
        write_predictions(described, Path(arguments.predictions))
    if arguments.mistakes and not predictions.is_multi_label:
        draw_mistakes(surest_mistakes(predictions, samples), Path(arguments.mistakes))


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


def describe(model: nn.Module, name: str) -> dict[str, Any]:
    """What a results file says of a model."""
    return {
        "name": name,
        "model_type": model.config.model_type,
        "num_parameters": model.num_parameters(),
        "sha256": state_dict_sha256(model.state_dict()),
    }


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
        **label_reading(arguments),
    )
    return at_most(source, limit, seed=arguments.seed)


def _class_scores(
    model: nn.Module, samples: ContourSamples, accelerator: Accelerator, arguments: EvaluationArguments
) -> tuple[dict[str, Any], ClassPredictions]:
    names = ("batch_size", "num_workers", "group_column", "id_column", "slices", "min_slice", "perturbations", "seed")
    settings = ClassEvaluationSettings(
        **{name: getattr(arguments, name) for name in names},
        scores=ScoreSettings(num_bins=arguments.num_bins, num_resamples=arguments.num_resamples, seed=arguments.seed),
    )
    return class_scores(model, samples, accelerator, settings)


def _contour_scores(
    model: nn.Module, samples: ContourSamples, accelerator: Accelerator, arguments: EvaluationArguments
) -> tuple[dict[str, Any], None]:
    scores = contour_scores(
        model,
        samples,
        accelerator,
        num_workers=arguments.num_workers,
        boundary_benchmark=arguments.boundary_benchmark,
        max_dist=arguments.max_dist,
        benchmark_processes=arguments.benchmark_processes,
    )
    return scores, None


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


def summary(results: Results) -> str:
    """The figures in a few lines of text, and of a classifier a table of the parts of the split."""
    single = {key: value for key, value in results.scores.items() if isinstance(value, int | float)}
    text = json.dumps({"data": results.data} | single, indent=2)
    return f"{text}\n\n{class_summary(results.scores)}" if results.task == CLASSIFICATION else text
