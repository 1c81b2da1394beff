"""Write a copy of a model folder with its weights in half precision, for sharing: half the size.

    python scripts/experiments/halve_weights.py --model runs/NAME/gender/model --output model_cards/NAME

Seconds. Loading brings the weights back to float32, in which the model computes as before.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from hf_contour.hub.half_precision import write_half_precision


@dataclass
class HalvingArguments:
    """Which model, and where to."""

    model: str = field(metadata={"help": "folder of a model"})
    output: str = field(metadata={"help": "folder to make; must not exist"})


def main() -> None:
    """Write the copy and say what it cost."""
    (arguments,) = HfArgumentParser(HalvingArguments).parse_args_into_dataclasses()
    try:
        worst = write_half_precision(Path(arguments.model), Path(arguments.output))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    size = (Path(arguments.output) / "model.safetensors").stat().st_size
    print(f"written: {arguments.output}, {size / 1e6:.1f} MB of weights; rounded by {worst:.1e} of a tensor's largest")


if __name__ == "__main__":
    main()
