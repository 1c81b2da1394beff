"""Time classifiers in training and in use, side by side, and write model_cards/results/speed_training.json.

    python scripts/experiments/benchmark_training.py --models runs/alone/gender/model model_cards/contour-gender-fast

About a minute on one CPU core. The first model is the baseline, best the backbone alone (`contour_features: none`);
the goal is 0.8 of its speed in training. With a GPU: --device cuda, in bf16, and --compile.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import refuse_hub_ids, run_tool, write_results
from torch import Tensor, nn

from hf_contour.batch_norm_folding_contour import fold_batch_norms
from hf_contour.evaluation.arguments import model_name
from hf_contour.evaluation.cost import count_parameters, median_ratio, multiply_adds, time_side_by_side
from hf_contour.evaluation.run import load_model
from hf_contour.flags import needed, setting
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.loss_contour import classification_loss
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification
from hf_contour.training.arguments import OptimizationArguments
from hf_contour.training.optim import build_optimizer
from hf_contour.training.records import device_name

DEVICES = ("cpu", "cuda")
DEFAULT_SIZE = (128, 96)  # of images for a model whose folder has no processor
LEARNING_RATE = 1e-6  # so that the weights stay near those of the folder, and times do not drift with them


@dataclass
class TrainingBenchmark:
    """What to time, and how.

    Raises:
        ValueError: If a value is impossible, or the device is not there.
    """

    models: list[str] = needed("folders of classifiers; the first is the baseline")
    batch_size: int = setting(32, "images in a training step, and in a batch in use")
    threads: int = setting(1, "threads of torch on the CPU")
    num_rounds: int = setting(12, "rounds, each of which times every model once")
    device: str = setting("cpu", "cpu or cuda")
    compile: bool = setting(False, "torch.compile the models")
    channels_last: bool = setting(True, "lay images and kernels out channels last")
    image_size: list[int] | None = setting(None, "height and width of the images; default: of each model's processor")
    output: str = setting("model_cards/results/speed_training.json", "results file")

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise ValueError(f"device is {self.device!r}; expected one of {', '.join(DEVICES)}.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', and torch finds no GPU; give --device cpu.")
        for name in ("batch_size", "threads", "num_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise ValueError(f"image_size is {self.image_size}; expected a height and a width, at least 1 each.")


def main(settings: TrainingBenchmark) -> None:
    """Time, print and write."""
    results = benchmark_classifiers(settings)
    write_results(settings.output, settings, results)
    for row in results["rows"]:
        print(
            f"{row['name']}: training {row['training_ms']:.1f} ms an image, {row['training_ratio']:.2f} of the "
            f"baseline's speed; in use {row['batch_1_ms']:.1f} ms alone ({row['batch_1_ratio']:.2f}), "
            f"{row['batch_ms']:.1f} ms in a batch ({row['batch_ratio']:.2f})"
        )


def benchmark_classifiers(settings: TrainingBenchmark) -> dict[str, Any]:
    """Median times of each classifier, one after the other in each round; the first one is the baseline.

    A training step is forward pass, loss, backward pass and optimiser on images that are in memory already, as
    training makes it: the frozen extractor has its normalisation folded and takes no gradient.

    Args:
        settings: which classifiers, and how they are timed; the first is best the backbone alone
            (`contour_features: none`).

    Returns:
        `protocol`, and `rows`: name, size, parameters, trained parameters, multiply-adds, milliseconds an image in
        training and in use at both batch sizes, and for each the median ratio of images a second to the baseline's in
        the same round.

    Raises:
        ValueError: If a folder holds no classifier, or two have one name.
    """
    torch.set_num_threads(settings.threads)
    folders = refuse_hub_ids(settings.models)
    names = [model_name(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError(f"the models are called {', '.join(names)}; expected folders of different names.")
    models = {name: _classifier(folder, settings) for name, folder in zip(names, folders, strict=True)}
    sizes = {name: _image_size(folder, settings) for name, folder in zip(names, folders, strict=True)}
    baseline = names[0]
    batches = {"training": settings.batch_size, "batch_1": 1, "batch": settings.batch_size}
    durations = {}
    for kind, count in batches.items():
        make = _training_call if kind == "training" else _inference_call
        pixels = {name: _pixels(count, size, settings) for name, size in sizes.items()}
        calls = {name: make(model, pixels[name], settings) for name, model in models.items()}
        durations[kind] = time_side_by_side(calls, num_rounds=settings.num_rounds)
    rows = []
    for name, model in models.items():
        height, width = sizes[name]
        row: dict[str, Any] = {
            "name": name,
            "height": height,
            "width": width,
            "num_parameters": count_parameters(model),
            "num_trained_parameters": count_parameters(model, only_trained=True),
            "multiply_adds": multiply_adds(model, _pixels(1, sizes[name], settings)),
        }
        for kind, count in batches.items():
            row[f"{kind}_ms"] = 1000 * median(durations[kind][name]) / count
            row[f"{kind}_ratio"] = 1 / median_ratio(durations[kind], name, baseline)
        rows.append(row)
    return {
        "protocol": {
            "baseline": baseline,
            "batch_size": settings.batch_size,
            "dtype": "bfloat16" if settings.device == "cuda" else "float32",
            "mode": "compiled" if settings.compile else "eager",
            "layout": "channels last" if settings.channels_last else "channels first",
            "in_use": "batch normalisation folded",
            "threads": settings.threads,
            "num_rounds": settings.num_rounds,
            "device": device_name(torch.device(settings.device)),
        },
        "rows": rows,
    }


def _classifier(folder: Path, settings: TrainingBenchmark) -> ContourGenderForImageClassification:
    model = load_model(str(folder))
    if not isinstance(model, ContourGenderForImageClassification):
        raise ValueError(f"{folder} holds a {model.config.model_type} model; expected a contour_gender one.")
    return model.float().to(settings.device, memory_format=_memory_format(settings))


def _memory_format(settings: TrainingBenchmark) -> torch.memory_format:
    return torch.channels_last if settings.channels_last else torch.contiguous_format


def _image_size(folder: Path, settings: TrainingBenchmark) -> tuple[int, int]:
    if settings.image_size is not None:
        return settings.image_size[0], settings.image_size[1]
    if not (folder / "preprocessor_config.json").is_file():
        return DEFAULT_SIZE
    size = ContourImageProcessor.from_pretrained(folder).size
    return size["height"], size["width"]


def _pixels(count: int, size: tuple[int, int], settings: TrainingBenchmark) -> Tensor:
    return torch.rand(count, 3, *size, device=settings.device).to(memory_format=_memory_format(settings))


def _training_call(
    model: ContourGenderForImageClassification, pixels: Tensor, settings: TrainingBenchmark
) -> Callable[[], Any]:
    model.train()
    labels = torch.arange(len(pixels), device=pixels.device) % model.config.num_labels
    optimizer = build_optimizer(model, OptimizationArguments(learning_rate=LEARNING_RATE))
    is_frozen = model.extractor is not None and model.config.freeze_extractor
    folded = fold_batch_norms(model.extractor) if is_frozen else None
    called = torch.compile(model) if settings.compile else model

    def step() -> None:
        with _autocast(settings):
            features = None
            if folded is not None:
                with torch.no_grad():
                    features = model.contour_features(pixels, folded)
            logits = called(pixel_values=pixels, contour_features=features).logits
            loss = classification_loss(logits, labels, problem_type="single_label_classification")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _inference_call(
    model: ContourGenderForImageClassification, pixels: Tensor, settings: TrainingBenchmark
) -> Callable[[], Any]:
    folded = fold_batch_norms(model).to(memory_format=_memory_format(settings))
    called: nn.Module | Any = torch.compile(folded) if settings.compile else folded

    def call() -> None:
        with torch.inference_mode(), _autocast(settings):
            called(pixel_values=pixels)

    return call


def _autocast(settings: TrainingBenchmark) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.bfloat16) if settings.device == "cuda" else nullcontext()


if __name__ == "__main__":
    run_tool(TrainingBenchmark, main, description=__doc__)
