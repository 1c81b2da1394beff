"""Say why a classifier says what it says of an image.

    hf-contour explain shirt.jpg --model MODEL --output why.png
    hf-contour explain shirt.jpg --model MODEL --label women --output why.png why.json

Prints the scores, what the backbones and the contours each contribute, what becomes of the score without the top
quarter, skin tones or colour, and whether the heat map means anything (deletion and insertion against random
orders). The PNG shows image, heat maps (red speaks for the class, blue against it), contours and levels; the JSON
has the figures. A few seconds. Exit codes: 0 done, 2 refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_contour.cli.settings import hide_loading_bar, read_settings
from hf_contour.flags import needed, setting

SUFFIXES = (".png", ".json")


@dataclass
class ExplanationArguments:
    """What to explain, and where to."""

    image: str = needed("an image", positional=True)
    model: str = needed("folder of a classifier")
    output: list[str] = setting([], "files to write, .png or .json; default: only print")
    label: str | None = setting(None, "class to explain; default: the one with most score")

    def __post_init__(self) -> None:
        for name in self.output:
            if Path(name).suffix.lower() not in SUFFIXES:
                raise ValueError(f"output is {name!r}; expected names that end in {' or '.join(SUFFIXES)}.")


def main(argv: Sequence[str]) -> int:
    """Explains, prints and writes."""
    arguments = read_settings(ExplanationArguments, argv, command="explain", description=__doc__)
    from hf_contour.inference.explain import explain, load_classifier
    from hf_contour.inference.explanation_drawing import draw_explanation

    hide_loading_bar()
    explanation = explain(load_classifier(arguments.model), arguments.image, label=arguments.label)
    print(explanation.text)
    for path in map(Path, arguments.output):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".png":
            draw_explanation(explanation).save(path)
        else:
            path.write_text(json.dumps(explanation.to_dict(), indent=2) + "\n", encoding="utf-8")
        print(f"written: {path}")
    return 0
