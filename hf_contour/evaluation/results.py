"""Results files: what was measured, on which data, by which protocol, with which versions.

One JSON file per evaluation. `hf-contour evaluate` writes them; model cards and tables are rendered from them.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
CLASSIFICATION = "image-classification"
CONTOURS = "contour-detection"
TASKS = (CLASSIFICATION, CONTOURS)


@dataclass(frozen=True)
class Results:
    """One evaluation of one model on one split.

    Attributes:
        name: of the file, without suffix.
        task: one of `TASKS`.
        model: its `name`, `model_type`, `num_parameters` and the `sha256` of its weights.
        data: the `source` as given, its `config`, `split` and `num_samples`.
        protocol: everything else that the scores depend on, such as `image_size`.
        scores: the figures, by name.
        command: what wrote the file.
        arguments: every setting of that command.
        seed: of whatever was drawn.
        versions: library -> version.
        commit: of this package's source, with `-dirty` where it was changed; `None` outside of a repository.
    """

    name: str
    task: str
    model: dict[str, Any]
    data: dict[str, Any]
    protocol: dict[str, Any]
    scores: dict[str, Any]
    command: str
    arguments: dict[str, Any]
    seed: int
    versions: dict[str, str]
    commit: str | None


def write_results(results: Results, path: Path) -> None:
    """Write a results file; its folder is made, an older file is replaced.

    Raises:
        ValueError: If a figure is NaN or infinite.
    """
    content = {"format_version": FORMAT_VERSION} | asdict(results)
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} was not written: the results hold NaN or infinity. {results.scores}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def read_results(path: Path) -> Results:
    """Read a results file.

    Raises:
        ValueError: If it is no results file of this format; names the file and what is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    expected = {field.name for field in fields(Results)} | {"format_version"}
    found = set(content) if isinstance(content, dict) else set()
    if found != expected or content["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path} is not a results file of format {FORMAT_VERSION}: missing {sorted(expected - found)}, "
            f"unexpected {sorted(found - expected)}. Write it with hf-contour evaluate."
        )
    if content["task"] not in TASKS:
        raise ValueError(f"{path} has task {content['task']!r}; expected one of {', '.join(TASKS)}.")
    del content["format_version"]
    return Results(**content)


def read_results_folder(folder: Path, *, model: str | None = None) -> list[Results]:
    """All results files of a folder, in order of their names; only those of `model` where it is given.

    Files that other commands write there (without `format_version`) are left out.
    """
    found = [read_results(path) for path in sorted(folder.glob("*.json")) if _is_results_file(path)]
    return [results for results in found if model in (None, results.model["name"])]


def is_of_another_model(path: Path, sha256: str) -> bool:
    """Whether a file is there already, and not of the model whose weights have this checksum."""
    return path.is_file() and (not _is_results_file(path) or read_results(path).model.get("sha256") != sha256)


def _is_results_file(path: Path) -> bool:
    content = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(content, dict) and "format_version" in content
