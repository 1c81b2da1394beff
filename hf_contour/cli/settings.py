"""What the commands share: reading their flags, and naming themselves in results files."""

import shlex
from collections.abc import Sequence
from typing import Any

from hf_contour.evaluation.arguments import portable_path
from hf_contour.flags import FlagParser


def read_settings(settings: type[Any], argv: Sequence[str], *, command: str, description: str | None) -> Any:
    """The settings of a command, from its flags; `--help` prints them with the description and exits.

    Raises:
        ValueError: For flags that are unknown, missing or impossible.
    """
    return FlagParser(settings, prog=f"hf-contour {command}", description=description or "").parse_settings(argv)


def hide_loading_bar() -> None:
    """Keeps Transformers from drawing a bar for each model that it loads, which takes a blink here."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def command_line(command: str, argv: Sequence[str]) -> str:
    """The command for a results file, without absolute paths."""
    return shlex.join(["hf-contour", command, *map(portable_path, argv)])
