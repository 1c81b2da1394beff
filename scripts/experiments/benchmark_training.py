r"""Time classifiers in training and in use, side by side, and write model_cards/results/speed_training.json.

    python scripts/experiments/benchmark_training.py --models runs/backbone_alone/gender/model model_cards/contour-gender-fast

About a minute on one CPU core. The first model is the baseline, best the backbone alone (`contour_features: none`);
the goal is 0.8 of its speed in training. With a GPU: --device cuda, in bf16, and --compile true.
"""

import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from hf_contour.evaluation.run import portable_arguments, portable_path
from hf_contour.io import write_json
from hf_contour.training_benchmark import TrainingBenchmark, benchmark_classifiers


@dataclass
class TrainingBenchmarkArguments:
    """What to time."""

    models: list[str] = field(metadata={"help": "folders of classifiers; the first is the baseline"})
    batch_size: int = field(default=32, metadata={"help": "images in a training step"})
    threads: int = field(default=1, metadata={"help": "threads of torch on the CPU"})
    num_rounds: int = field(default=12, metadata={"help": "rounds, each of which times every model once"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    compile: bool = field(default=False, metadata={"help": "torch.compile the models"})
    channels_last: bool = field(default=True, metadata={"help": "lay images and kernels out channels last"})
    image_size: list[int] | None = field(
        default=None, metadata={"help": "height and width of the images; default: of each model's processor"}
    )
    output: str = field(default="model_cards/results/speed_training.json", metadata={"help": "results file"})


def main() -> None:
    """Time, print and write."""
    (arguments,) = HfArgumentParser(TrainingBenchmarkArguments).parse_args_into_dataclasses()
    given = asdict(arguments)
    options = {name: given[name] for name in TrainingBenchmark.__dataclass_fields__}
    options["image_size"] = tuple(arguments.image_size) if arguments.image_size else None
    try:
        settings = TrainingBenchmark(**options)
        results = benchmark_classifiers([Path(model) for model in arguments.models], settings)
    except ValueError as error:
        sys.exit(f"error: {error}")
    command = shlex.join(["python", "scripts/experiments/benchmark_training.py", *map(portable_path, sys.argv[1:])])
    recorded = {**portable_arguments(arguments), "models": [portable_path(model) for model in arguments.models]}
    write_json(Path(arguments.output), {"command": command, "arguments": recorded, **results})
    for row in results["rows"]:
        print(
            f"{row['name']}: training {row['training_ms']:.1f} ms an image, {row['training_ratio']:.2f} of the "
            f"baseline's speed; in use {row['batch_1_ms']:.1f} ms alone ({row['batch_1_ratio']:.2f}), "
            f"{row['batch_ms']:.1f} ms in a batch ({row['batch_ratio']:.2f})"
        )


if __name__ == "__main__":
    main()
