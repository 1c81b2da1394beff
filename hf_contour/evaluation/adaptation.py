"""A classifier for a shop that it does not know: its head fitted anew, what is familiar, and what labels are worth."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader

from hf_contour.data.mixture import load_sources
from hf_contour.data.samples import ContourSamples, collate
from hf_contour.data.sources import label_reading
from hf_contour.data.subsets import at_most, evenly_drawn
from hf_contour.evaluation.arguments import CalibrationArguments, portable_arguments, portable_values
from hf_contour.evaluation.calibration import (
    Calibration,
    NothingToCalibrateError,
    calibrate_predictions,
    data_arguments,
    fit_calibration,
    load_classifier,
    write_calibration,
)
from hf_contour.evaluation.classes import ClassEvaluationSettings, column_values, prediction_scores
from hf_contour.evaluation.heads import (
    Head,
    HeadInputs,
    RefittedHeads,
    head_inputs,
    head_logits,
    present_heads,
    refit_heads,
)
from hf_contour.evaluation.predictions import ClassPredictions
from hf_contour.evaluation.run import describe, load_split
from hf_contour.evaluation.summary import point_at
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.io import origin, replace_tensors, write_json
from hf_contour.metrics.classification import balanced_accuracy_draws, group_indices, percentile_interval
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification

PROTOTYPES = "familiarity.prototypes"
UNFAMILIAR_SHARE = 0.01  # of known images that may be called unfamiliar
MOST_REMEMBERED_FROM = 2048  # images, so that the time does not grow with the training set
SCORES = ("balanced_accuracy", "accuracy", "expected_calibration_error", "brier_score")


@dataclass(frozen=True)
class Adapted:
    """What was found for a model's folder.

    Attributes:
        calibration: temperature and threshold.
        tensors: of the head that was fitted anew and of the images that are remembered, by their names.
        fields: further fields of the config.
        strength: see `RefittedHeads`.
    """

    calibration: Calibration
    tensors: dict[str, Tensor]
    fields: dict[str, Any]
    strength: float | None = None


def calibrate(arguments: CalibrationArguments, *, command: str) -> Adapted:
    """Fit temperature and threshold on a split, and what else is asked for, and write them into the folder.

    Args:
        arguments: the settings; with `dry_run` nothing is written but `output`.
        command: what to note as the command that gives these figures.

    Raises:
        ValueError: If the folder holds no classifier, or the data does not fit it.
        OutputError: If the weights or config.json cannot be written; that file is as before.
    """
    model = load_classifier(arguments.model)
    accelerator = Accelerator(cpu=arguments.cpu)
    described = describe(model, _name(arguments))
    adapted = _adapted(model.float().to(accelerator.device).eval(), arguments, accelerator)
    if accelerator.is_main_process:
        if not arguments.dry_run:
            folder = Path(arguments.model)
            if adapted.tensors:
                replace_tensors(folder / "model.safetensors", adapted.tensors)
            write_calibration(folder, adapted.calibration, further_fields=adapted.fields)
            if adapted.tensors:
                described = describe(load_classifier(arguments.model), _name(arguments))
        if arguments.output:
            _write_figures(arguments, adapted, model=described, command=command)
    accelerator.wait_for_everyone()
    return adapted


def _adapted(
    model: ContourGenderForImageClassification, arguments: CalibrationArguments, accelerator: Accelerator
) -> Adapted:
    tensors: dict[str, Tensor] = {}
    fields: dict[str, Any] = {}
    strength = None
    if arguments.refit_head:
        refitted, calibration = refit_head(model, arguments)
        strength = refitted.strength
        tensors |= head_tensors(refitted.heads) if strength is not None else {}
    else:
        rows = _rows(arguments, arguments.split, model)
        calibration = fit_calibration(
            model,
            _samples(rows, arguments),
            accelerator,
            ClassEvaluationSettings(batch_size=arguments.batch_size, num_workers=arguments.num_workers),
            wanted_accuracy=arguments.wanted_accuracy,
            num_bins=arguments.num_bins,
        )
    if arguments.familiarity:
        prototypes, fields = fit_familiarity(model, arguments)
        tensors[PROTOTYPES] = prototypes
    return Adapted(calibration, tensors, fields, strength)


def refit_head(
    model: ContourGenderForImageClassification, arguments: CalibrationArguments
) -> tuple[RefittedHeads, Calibration]:
    """Fits the head anew, and temperature and threshold to what heads say of images that they were fitted without."""
    rows = _rows(arguments, arguments.split, model)
    inputs = _inputs(model, rows, arguments)
    refitted = refit_heads(present_heads(model), inputs, seed=arguments.seed)
    calibration = calibrate_predictions(
        _predictions(model, refitted.logits, inputs),
        before=float(model.config.temperature),
        abstain_threshold_before=float(model.config.abstain_threshold),
        wanted_accuracy=arguments.wanted_accuracy,
        num_bins=arguments.num_bins,
    )
    return refitted, calibration


def head_tensors(heads: dict[str, Head]) -> dict[str, Tensor]:
    """The tensors of heads by their names in the state dict."""
    return {f"{name}.{part}": getattr(head, part) for name, head in heads.items() for part in ("weight", "bias")}


def fit_familiarity(
    model: ContourGenderForImageClassification, arguments: CalibrationArguments
) -> tuple[Tensor, dict[str, float]]:
    """Makes a model remember images of the sources that it was trained on.

    Its prototypes are of their training split, of which `MOST_REMEMBERED_FROM` images, drawn with the seed, are looked
    at; what distance is usual, and from which one on an image is unfamiliar, is seen on their validation split.

    Returns:
        The prototypes, and the fields of the config that go with them.
    """
    names = list(model.config.id2label.values())
    trained_on, others = (
        load_sources(arguments.familiarity, split=split, label_names=names) for split in ("train", "validation")
    )
    drawn = np.random.default_rng(arguments.seed).permutation(len(trained_on))[:MOST_REMEMBERED_FROM]
    train = _familiarity_features(model, trained_on.select(np.sort(drawn)), arguments)
    known = _familiarity_features(model, others, arguments)
    model.fit_familiarity(train, known, seed=arguments.seed)
    assert model.familiarity is not None
    prototypes = model.familiarity.prototypes.cpu()
    scale = model.config.familiarity_scale
    familiarity = 1 / (1 + model.familiarity(known.to(model.device)).detach().cpu() / scale)
    threshold = float(np.quantile(familiarity.double().numpy(), UNFAMILIAR_SHARE))
    fields = {"familiarity_scale": scale, "familiarity_threshold": threshold, "num_prototypes": len(prototypes)}
    return prototypes, fields


def _familiarity_features(
    model: ContourGenderForImageClassification, rows: Dataset, arguments: CalibrationArguments
) -> Tensor:
    """`(N, D)`, on the CPU."""
    loader = DataLoader(
        _samples(rows, arguments),
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        collate_fn=collate,
    )
    with torch.inference_mode():
        parts = [model.familiarity_features(batch["pixel_values"].to(model.device)).cpu() for batch in loader]
    return torch.cat(parts).clone()


def learning_curve(arguments: CalibrationArguments, *, command: str) -> dict[str, Any]:
    """What so many labelled images of a source are worth: head and temperature fitted to them, scored on its test.

    The images are drawn evenly over the classes, with the seed. The model's folder is left as it is.

    Returns:
        What is written to `output`; `points` has `num_samples`, `strength`, `temperature`, `abstain_threshold` and
        the scores for each number.

    Raises:
        ValueError: If the split has fewer images.
    """
    model = load_classifier(arguments.model).float().to(Accelerator(cpu=arguments.cpu).device).eval()
    splits = [arguments.split, str(arguments.test_split)]
    rows = [_rows(arguments, split, model) for split in splits]
    if max(arguments.learning_curve) > len(rows[0]):
        raise ValueError(
            f"learning_curve is {arguments.learning_curve}, but the split {splits[0]} has {len(rows[0])} images."
        )
    known, test = (_inputs(model, one, arguments) for one in rows)
    points = []
    for number in arguments.learning_curve:
        chosen = known.select(np.array(evenly_drawn(rows[0], number, seed=arguments.seed))) if number else None
        points.append({"num_samples": number, **_point(model, chosen, test, arguments)})
    content = {
        "learning_curve": _name(arguments),
        "points": points,
        **_circumstances(arguments, describe(model, _name(arguments)), num_samples=len(known), command=command),
    }
    content["data"] |= {"test_split": arguments.test_split, "num_test_samples": len(test)}
    _write(Path(str(arguments.output)), content)
    return content


def _write_figures(arguments: CalibrationArguments, adapted: Adapted, *, model: dict[str, Any], command: str) -> None:
    content: dict[str, Any] = {"calibration": adapted.calibration.to_dict()}
    if arguments.refit_head:
        content["head"] = {"strength": adapted.strength}
    if adapted.fields:
        content["familiarity"] = adapted.fields
    number = adapted.calibration.num_samples
    content |= _circumstances(arguments, model, num_samples=number, command=command)
    _write(Path(str(arguments.output)), content)


def _circumstances(
    arguments: CalibrationArguments, model: dict[str, Any], *, num_samples: int, command: str
) -> dict[str, Any]:
    """What figures come from."""
    return {
        "model": model,
        "data": {
            "source": portable_values(arguments.data),
            "config": arguments.data_config,
            "split": arguments.split,
            "num_samples": num_samples,
        },
        "command": command,
        "arguments": portable_arguments(arguments),
        "seed": arguments.seed,
        **origin(),
    }


def _name(arguments: CalibrationArguments) -> str:
    return Path(arguments.model).resolve().name


def _write(path: Path, content: dict[str, Any]) -> None:
    write_json(path, json.loads(json.dumps(content, allow_nan=False)))


def _point(
    model: ContourGenderForImageClassification,
    chosen: HeadInputs | None,
    test: HeadInputs,
    arguments: CalibrationArguments,
) -> dict[str, Any]:
    """The scores on the test split with what was learnt from some images; without any, of the model as it is."""
    heads, strength = present_heads(model), None
    temperature, threshold = float(model.config.temperature), float(model.config.abstain_threshold)
    if chosen is not None:
        refitted = refit_heads(heads, chosen, seed=arguments.seed)
        heads, strength = refitted.heads, refitted.strength
        try:
            seen = _predictions(model, refitted.logits, chosen)
            found = calibrate_predictions(seen, before=temperature, wanted_accuracy=arguments.wanted_accuracy[:1])
            temperature, threshold = found.temperature, found.abstain_threshold or 0.0
        except NothingToCalibrateError:  # all of so few are right: the confidence of before
            pass
    predictions = _predictions(model, head_logits(list(heads.values()), test) / temperature, test)
    scores = prediction_scores(predictions, abstain_threshold=threshold)
    draws = balanced_accuracy_draws(predictions.labels, predictions.predicted, predictions.group_ids)
    decided = point_at(scores, threshold) or {"coverage": 1.0, "accuracy": scores["accuracy"]}
    return {
        "strength": strength,
        "temperature": temperature,
        "abstain_threshold": threshold,
        **{name: scores[name] for name in SCORES},
        "balanced_accuracy_interval": percentile_interval(draws),
        "coverage": decided["coverage"],
        "accuracy_decided": decided["accuracy"],
    }


def _rows(arguments: CalibrationArguments, split: str, model: ContourGenderForImageClassification) -> Dataset:
    names = list(model.config.id2label.values())
    if len(arguments.data) == 1:
        return load_split(replace(data_arguments(arguments), split=split), label_names=names)
    rows = load_sources(arguments.data, split=split, label_names=names, **label_reading(arguments))
    return at_most(rows, arguments.max_samples, seed=arguments.seed)


def _samples(rows: Dataset, arguments: CalibrationArguments) -> ContourSamples:
    return ContourSamples(rows, ContourImageProcessor.from_pretrained(arguments.model), stage="gender")


def _inputs(model: ContourGenderForImageClassification, rows: Dataset, arguments: CalibrationArguments) -> HeadInputs:
    column = arguments.group_column
    groups = column_values(rows, column, "group_column") if column else None
    return head_inputs(
        model,
        _samples(rows, arguments),
        group_ids=group_indices(groups, num_samples=len(rows)),
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
    )


def _predictions(model: ContourGenderForImageClassification, logits: Tensor, inputs: HeadInputs) -> ClassPredictions:
    return ClassPredictions(
        logits=logits.float().numpy(),
        labels=inputs.labels.numpy(),
        row_ids=np.arange(len(inputs)),
        group_ids=inputs.group_ids,
        class_names=list(model.config.id2label.values()),
    )
