"""The surest mistakes of a classifier, as rows with thumbnails and as one picture."""

import base64
import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hf_contour.data.samples import ContourSamples
from hf_contour.evaluation.predictions import ClassPredictions

MAX_MISTAKES = 24
THUMBNAIL = 150  # pixels of the longer side
_COLUMNS, _GAP, _LINE, _FONT = 6, 10, 15, 11  # tiles in a row; pixels
_LONGEST = 28  # characters of a line below a tile


def surest_mistakes(predictions: ClassPredictions, samples: ContourSamples) -> list[dict[str, Any]]:
    """The wrong answers with the highest confidence, at most `MAX_MISTAKES`, each with a thumbnail as JPEG."""
    confidence = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(~predictions.correct)
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][:MAX_MISTAKES]
    return _shown(predictions, samples, chosen)


def doubtful_labels(predictions: ClassPredictions, samples: ContourSamples) -> list[dict[str, Any]] | None:
    """Rows as those of `surest_mistakes`, whose labels the model contradicts with confidence, the surest first.

    That is what `check-data --model` says of a split that the model was not trained on. `None` where cleanlab is not
    installed, or all rows are of one class.
    """
    if len(np.unique(predictions.labels)) < 2 or importlib.util.find_spec("cleanlab") is None:
        return None
    from hf_contour.evaluation.label_doubts import doubtful_rows  # imports what evaluating does not need

    rows = doubtful_rows(predictions.labels, predictions.probabilities)
    return _shown(predictions, samples, rows[:MAX_MISTAKES])


def _shown(predictions: ClassPredictions, samples: ContourSamples, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    names, confidence = predictions.class_names, predictions.probabilities.max(axis=1)
    return [
        {
            "name": str(predictions.row_ids[row]),
            "file": _file_name(samples, int(row)),
            "label": names[predictions.labels[row]],
            "predicted": names[predictions.predicted[row]],
            "confidence": float(confidence[row]),
            "jpeg": thumbnail(samples, int(row)),
        }
        for row in rows
    ]


def thumbnail(samples: ContourSamples, row: int) -> str:
    """The image of a row as a small JPEG in base64."""
    image = Image.fromarray(samples.decoded(row).pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=85)
    return base64.b64encode(content.getvalue()).decode("ascii")


def draw_mistakes(mistakes: list[dict[str, Any]], path: Path) -> None:
    """Write a picture of mistakes as `surest_mistakes` gives them; its folder is made."""
    height = THUMBNAIL + 3 * _LINE + _GAP
    num_rows = max(1, -(-len(mistakes) // _COLUMNS))
    canvas = Image.new("RGB", (_GAP + _COLUMNS * (THUMBNAIL + _GAP), _GAP + num_rows * height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT)
    for number, one in enumerate(mistakes):
        left = _GAP + number % _COLUMNS * (THUMBNAIL + _GAP)
        top = _GAP + number // _COLUMNS * height
        with Image.open(io.BytesIO(base64.b64decode(one["jpeg"]))) as image:
            canvas.paste(image, (left, top))
        lines = (
            f"is {one['label']}",
            f"taken for {one['predicted']} ({one['confidence']:.2f})",
            one["file"] or f"row {one['name']}",
        )
        for line, text in enumerate(lines):
            draw.text((left, top + THUMBNAIL + line * _LINE), text[-_LONGEST:], fill="black", font=font)
    if not mistakes:
        draw.text((_GAP, _GAP), "no mistakes", fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def _file_name(samples: ContourSamples, row: int) -> str:
    """Folder and name of the file of a row, where it is one."""
    path = samples.source[row]["image"].get("path")
    return "/".join(Path(path).parts[-2:]) if path else ""
