"""What a prediction depends on: the model's files and the settings that can change an answer."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_contour.inference.arguments import PredictionArguments
from hf_contour.io import file_sha256

_SUFFIXES = (".json", ".safetensors", ".onnx", ".data", ".xml", ".bin", ".pt")
# These change how fast, or where, and no answer; the model and the inputs stand beside the settings.
_FREE = frozenset({"model", "output", "inputs", "data", "num_workers", "engine", "overwrite", "cpu"})


def model_checksum(folder: Path) -> str:
    """SHA-256 of the files of a model folder that its answers depend on.

    Raises:
        ValueError: If there is no such folder.
        OSError: If a file cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one of save_pretrained or of hf-contour export.")
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.is_file()):
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def settings_of(arguments: PredictionArguments, device_type: str) -> dict[str, Any]:
    """The settings that the output depends on, and on what kind of device it is made."""
    chosen = {name: value for name, value in asdict(arguments).items() if name not in _FREE}
    return {**chosen, "device": device_type}
