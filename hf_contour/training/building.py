"""What both stages need to build a model from settings: fields that exist, files that are there, a processor."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

from hf_contour.image_processing_contour import ContourImageProcessor


def refuse_unknown_fields(fields: dict[str, Any], config_class: Any) -> None:
    """Raises `ValueError` for a field that the config does not have, and would take without a word."""
    known = {field.name for field in dataclasses.fields(config_class)}
    for name in fields:
        if name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), n=3)
            raise ValueError(
                f"model has the field {name!r}, which {config_class.__name__} does not know; "
                f"nearest: {', '.join(nearest) or 'none'}."
            )


def refuse_absent(*paths: str | None) -> None:
    """Refuses trained parts that are not there, before any data is read; a Hub id is no path.

    Raises:
        FileNotFoundError: Naming the path.
    """
    for path in paths:
        if path is not None and not Path(path).exists():
            raise FileNotFoundError(f"{path} is not there; expected a folder or file of trained weights.")


def build_processor(image_size: list[int] | None, config: Any) -> ContourImageProcessor:
    """The image processor that the model is saved with: its normalisation, and `(height, width)` where given."""
    normalisation = {"image_mean": config.image_mean, "image_std": config.image_std}
    if image_size is None:
        return ContourImageProcessor(do_resize=False, do_pad=False, **normalisation)
    height, width = image_size
    return ContourImageProcessor(do_resize=True, do_pad=True, size={"height": height, "width": width}, **normalisation)
