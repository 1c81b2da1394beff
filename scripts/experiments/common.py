"""What our own tools share: their flags, refusals in a sentence, and the head of a results file."""

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_contour.evaluation.arguments import portable_arguments, portable_path
from hf_contour.flags import FlagParser
from hf_contour.io import OutputError, origin, write_json


def run_tool(settings: type[Any], work: Callable[[Any], None], *, description: str | None) -> None:
    """Reads the flags into the dataclass and does the work; a mistake ends in one sentence and exit code 1."""
    try:
        work(FlagParser(settings, description=description or "").parse_settings(sys.argv[1:]))
    except (ValueError, OSError, ImportError, OutputError) as error:
        sys.exit(f"error: {error}")


def write_results(path: str, arguments: Any, content: Mapping[str, Any]) -> None:
    """Writes what was measured, with the command that did, its settings, the versions and the commit."""
    script = Path(sys.argv[0]).name
    command = shlex.join(["python", f"scripts/experiments/{script}", *map(portable_path, sys.argv[1:])])
    head = {"command": command, "arguments": portable_arguments(arguments)}
    write_json(Path(path), head | dict(content) | origin())


def refuse_hub_ids(folders: list[str]) -> list[Path]:
    """The folders as paths.

    Raises:
        ValueError: If one is no folder here; it would be looked for on the Hub.
    """
    for folder in folders:
        if not (Path(folder) / "config.json").is_file():
            raise ValueError(f"{folder} has no config.json; expected the folder of a model.")
    return [Path(folder) for folder in folders]
