"""Train one classifier by three routes, `hf-contour train`, plain Trainer and Trainer with LoRA, and score each.

    python scripts/experiments/trainer_routes.py --data ../shared/data/shops --data_config johnhenry

Writes model_cards/results/trainer_routes.json; needs peft. About six minutes on one core. Every route begins with the
same weights and sees the same images equally often, at a learning rate that was not tuned.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import datasets
import torch
from common import run_tool, write_results
from transformers import Trainer, TrainingArguments, set_seed

from hf_contour.data.sources import load_source
from hf_contour.evaluation.arguments import EvaluationArguments
from hf_contour.evaluation.cost import count_parameters
from hf_contour.evaluation.run import evaluate
from hf_contour.flags import needed, setting
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification
from hf_contour.training.arguments import GenderArguments
from hf_contour.training.building import build_processor
from hf_contour.training.command_line import parse_arguments
from hf_contour.training.gender_stage import build_classifier
from hf_contour.training.run import run_stage

SCORES = ("num_samples", "accuracy", "accuracy_interval", "balanced_accuracy")


@dataclass
class RoutesArguments:
    """What is trained, and for how long."""

    data: str = needed("folder of labelled images")
    data_config: str | None = setting(None, "configuration of the data")
    split: str = setting("validation", "split to score on")
    extractor: str = setting("model_cards/contour-extractor-tiny", "folder of the extractor")
    backbone: str = setting("tf_efficientnet_lite0", "image backbone")
    backbone_weights: str | None = setting(
        "runs/weights/tf_efficientnet_lite0.safetensors", "its ImageNet weights, from `hf-contour convert-weights`"
    )
    image_size: list[int] = setting([160, 120], "height and width, as of contour-gender-fast")
    epochs: int = setting(3, "passes over the training split")
    batch_size: int = setting(16, "images in a step")
    trainer_learning_rate: float = setting(3e-4, "of plain Trainer, which trains the backbone as the rest")
    lora_learning_rate: float = setting(1e-3, "of Trainer with LoRA")
    rank: int = setting(8, "rank of LoRA's updates")
    seed: int = setting(0, "of the first weights and the order of the images")
    output: str = setting("model_cards/results/trainer_routes.json", "results file")


def main(arguments: RoutesArguments) -> None:
    """Train by each route, score, print and write."""
    torch.set_num_threads(1)
    routes: dict[str, Callable[[RoutesArguments, Path], dict[str, Any]]] = {
        "`hf-contour train`, heads alone": lambda given, folder: train_ours(given, folder, "head"),
        "`hf-contour train`, backbone too": lambda given, folder: train_ours(given, folder, "both"),
        "`Trainer`": train_plain,
        "`Trainer` with LoRA": train_lora,
    }
    rows = []
    for name, route in routes.items():
        with TemporaryDirectory() as folder:
            start = process_time()
            trained = route(arguments, Path(folder))
            seconds = process_time() - start  # one thread: as long as an idle core takes
            row = {"name": name, **trained, "cpu_seconds": seconds, **score(arguments, Path(folder))}
        print({key: value for key, value in row.items() if key != "accuracy_interval"}, file=sys.stderr)
        rows.append(row)
    write_results(arguments.output, arguments, {"rows": rows})


def recipe(arguments: RoutesArguments, folder: Path, train_parts: str) -> GenderArguments:
    """The recipe that `hf-contour train PATH` takes for little data; a backbone learns at Trainer's rate."""
    flags = {
        "data": arguments.data,
        "data_config": arguments.data_config or "none",
        "extractor": arguments.extractor,
        "backbone": arguments.backbone,
        "backbone_weights": arguments.backbone_weights or "none",
        "epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "seed": arguments.seed,
        "train_parts": train_parts,
        "validation_split": "none",
        "output_dir": folder,
        "torch_threads": 1,
    }
    if train_parts == "both":
        flags |= {"learning_rate": arguments.trainer_learning_rate}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    size = map(str, arguments.image_size)
    (parsed,) = parse_arguments(["--recipe", "own_frozen", *words, "--image_size", *size, "--cpu", "--no_progress"])
    assert isinstance(parsed, GenderArguments)  # the recipe is of that stage
    return parsed


def train_ours(arguments: RoutesArguments, folder: Path, train_parts: str) -> dict[str, Any]:
    """Trains as `hf-contour train` does; what is trained."""
    settings = recipe(arguments, folder, train_parts)
    results = run_stage(settings)
    (settings.folder / "model").rename(folder / "model")
    return {
        "learning_rate": settings.learning_rate,
        "num_trained_parameters": results["model"]["num_trained_parameters"],
    }


def train_plain(arguments: RoutesArguments, folder: Path) -> dict[str, Any]:
    """Trains as docs/trainer.md shows."""
    model, processor, rows = beginning(arguments, folder)
    figures = train(arguments, model, processor, rows, learning_rate=arguments.trainer_learning_rate)
    model.save_pretrained(folder / "model")
    return figures


def train_lora(arguments: RoutesArguments, folder: Path) -> dict[str, Any]:
    """Trains low-rank updates of the backbone's pointwise convolutions, and fusion and head as a whole."""
    from peft import LoraConfig, get_peft_model

    model, processor, rows = beginning(arguments, folder)
    targets = r"image_backbones\..*\.(conv_pw|conv_pwl)"
    adapted = get_peft_model(
        model, LoraConfig(r=arguments.rank, target_modules=targets, modules_to_save=["classifier"])
    )
    figures = train(arguments, adapted, processor, rows, learning_rate=arguments.lora_learning_rate)
    adapted.merge_and_unload().save_pretrained(folder / "model")
    return figures


def beginning(
    arguments: RoutesArguments, folder: Path
) -> tuple[ContourGenderForImageClassification, ContourImageProcessor, datasets.Dataset]:
    """The model that every route begins with, its processor, which is saved, and the rows to train on."""
    settings = recipe(arguments, folder, "both")
    rows = load_source(arguments.data, split="train", config_name=arguments.data_config)
    set_seed(arguments.seed)
    model = build_classifier(settings, rows.features["label"].names, is_multi_label=False)
    processor = build_processor(settings.image_size, model.config)
    processor.save_pretrained(folder / "model")
    return model, processor, rows.cast_column("image", datasets.Image())


def train(
    arguments: RoutesArguments, model: Any, processor: Any, rows: datasets.Dataset, *, learning_rate: float
) -> dict[str, Any]:
    """Plain Trainer with its own defaults."""

    def prepare(batch: dict[str, Any]) -> dict[str, Any]:
        return {**processor(batch["image"], return_tensors="pt"), "labels": batch["label"]}

    with TemporaryDirectory() as output:
        settings = TrainingArguments(
            output,
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=arguments.batch_size,
            learning_rate=learning_rate,
            seed=arguments.seed,
            use_cpu=True,
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(model, settings, train_dataset=rows.with_transform(prepare))
        trainer.label_names = ["labels"]
        trainer.train()
    return {"learning_rate": learning_rate, "num_trained_parameters": count_parameters(model, only_trained=True)}


def score(arguments: RoutesArguments, folder: Path) -> dict[str, Any]:
    """Figures of a trained model, by the same evaluation for every route."""
    settings = EvaluationArguments(
        model=str(folder / "model"),
        data=arguments.data,
        data_config=arguments.data_config,
        split=arguments.split,
        output=str(folder / "scores.json"),
        cpu=True,
    )
    results, _ = evaluate(settings, command="")
    return {name: results.scores[name] for name in SCORES}


if __name__ == "__main__":
    run_tool(RoutesArguments, main, description=__doc__)
