"""What a run writes down about itself: checksums, counts, tables."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn

from hf_contour.training.durable_files import write_text


class FrozenExtractorError(RuntimeError):
    """The extractor's weights or statistics changed, although it must stay as it is."""


def state_dict_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of weights and buffers, whatever device they are on."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def rows_sha256(rows: Dataset | IterableDataset, num_probes: int = 16) -> str:
    """SHA-256 over the columns, the number of rows and some of them: tells one data set from another.

    Args:
        rows: a source; of a stream only the columns count.
        num_probes: rows that are looked at, spread evenly.
    """
    digest = hashlib.sha256(repr(rows.features).encode())
    if isinstance(rows, Dataset):
        count = len(rows)
        digest.update(str(count).encode())
        for index in sorted({count * probe // num_probes for probe in range(num_probes)}) if count else ():
            row = rows[index]
            # Where pictures are files, their paths may change and their bytes are not read here.
            image = row.pop("image")
            digest.update(image.get("bytes") or Path(image.get("path") or "").name.encode())
            digest.update(str(row.get("label")).encode())
    return digest.hexdigest()


def listing_sha256(rows: Dataset | IterableDataset) -> str:
    """SHA-256 over the label of every row, and the name and size of every picture and contour map.

    Cheap, since no picture is read. Of a stream only the columns count.
    """
    digest = hashlib.sha256(repr(rows.features).encode())
    if isinstance(rows, Dataset):
        kept = [name for name in ("label", "image", "contours") if name in rows.column_names]
        for table in rows.select_columns(kept).with_format("arrow").iter(1000):
            for name in kept:
                column = table[name].combine_chunks()
                if name == "label":
                    digest.update(repr(column.to_pylist()).encode())
                    continue
                if name == "contours":
                    digest.update(repr(pc.list_value_length(column).to_pylist()).encode())
                    column = column.flatten()
                for size, path in zip(_sizes(column), column.field("path").to_pylist(), strict=True):
                    digest.update(f"{_file_size(path) if size is None else size} {Path(path or '').name}\n".encode())
    return digest.hexdigest()


def _sizes(pictures: pa.StructArray) -> list[int | None]:
    return pc.binary_length(pictures.field("bytes")).to_pylist()


def _file_size(path: str | None) -> int | None:
    try:
        return Path(path or "").stat().st_size
    except OSError:
        return None  # on the Hub, or gone, which whoever reads it will say


def refuse_changed_extractor(before: str, after: str) -> None:
    """Raises `FrozenExtractorError` if two checksums of the frozen extractor differ."""
    if before != after:
        raise FrozenExtractorError(
            f"The frozen extractor changed while training: SHA-256 {before} before, {after} after. "
            "Nothing is published; this is a fault of the program, please report it."
        )


def count_weights(model: nn.Module) -> dict[str, int]:
    """How many weights a model has, and how many of them are trained."""
    return {
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "trained_weights": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }


def device_name(device: torch.device) -> str:
    """What the training ran on, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2) + "\n")


def results_table(results: list[dict[str, Any]]) -> str:
    """The figures of the finished stages as lines of text."""
    rows = [("stage", "split", "samples", "figures")]
    for result in results:
        for split, figures in result["evaluation"].items():
            numbers = [
                f"{key} {value:.4f}"
                for key, value in figures.items()
                if key in ("loss", "pixel_f1", "accuracy", "balanced_accuracy", "macro_f1") and value is not None
            ]
            rows.append((result["stage"], split, str(figures["num_samples"]), ", ".join(numbers)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
