"""Draw what extractors see of garments that the package draws, level by level: model_cards/strip.png.

    python scripts/experiments/draw_strip.py --models model_cards/contour-extractor-tiny model_cards/contour-extractor-base

Seconds. Columns: image, contours drawn with it, each extractor, and the levels of the last one.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from hf_contour.strip import draw_strip


@dataclass
class StripArguments:
    """What to draw."""

    models: list[str] = field(metadata={"help": "folders of extractors; the levels of the last one are drawn"})
    garments: list[int] = field(default_factory=lambda: [3, 8], metadata={"help": "which garments, a row for each"})
    side: int = field(default=192, metadata={"help": "height and width of an image"})
    seed: int = field(default=0, metadata={"help": "seed of the garments"})
    output: str = field(default="model_cards/strip.png", metadata={"help": "file to write"})


def main() -> None:
    """Draw and say what stands where."""
    (arguments,) = HfArgumentParser(StripArguments).parse_args_into_dataclasses()
    for model in arguments.models:
        if not (Path(model) / "config.json").is_file():  # or it would be looked for on the Hub
            sys.exit(f"error: {model} has no config.json; expected the folder of an extractor.")
    folders = [Path(model) for model in arguments.models]
    titles = draw_strip(
        folders, Path(arguments.output), garments=arguments.garments, side=arguments.side, seed=arguments.seed
    )
    print(f"{arguments.output}: {', '.join(titles)}")


if __name__ == "__main__":
    main()
