"""The Berkeley folder of photographs and `.mat` files, read as rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Features, Image, List, Value
from PIL import Image as PILImage
from scipy.io import loadmat

from hf_contour.data.annotations import png_cell
from hf_contour.data.file_names import images_in

BSDS_FEATURES = Features(
    {"image_id": Value("string"), "image": Image(decode=False), "contours": List(Image(decode=False))}
)


def find_bsds_root(folder: Path) -> Path | None:
    """Folder that holds `images` and `groundTruth`: the given one or where the original archive puts it."""
    for root in (folder, folder / "data", folder / "BSDS500" / "data"):
        if (root / "images").is_dir() and (root / "groundTruth").is_dir():
            return root
    return None


def read_bsds_rows(root: str, folder_name: str) -> Iterator[dict[str, Any]]:
    """Yield one row per photograph of `images/<folder_name>`, sorted by file name.

    Raises:
        FileNotFoundError: If a photograph has no `.mat` file.
        ValueError: If a `.mat` file is not in the form of BSDS500.
    """
    annotations = _folder_called(Path(root) / "groundTruth", folder_name)
    for photograph in images_in(Path(root) / "images" / folder_name):
        annotation_file = annotations / f"{photograph.stem}.mat"
        if not annotation_file.is_file():
            raise FileNotFoundError(f"{photograph} has no drawn contours: {annotation_file} is missing.")
        yield {
            "image_id": photograph.stem,
            "image": {"bytes": None, "path": str(photograph)},
            "contours": [
                png_cell(PILImage.fromarray(boundaries), f"{annotation_file}#{number}")
                for number, boundaries in enumerate(read_boundaries(annotation_file), start=1)
            ],
        }


def _folder_called(parent: Path, name: str) -> Path:
    """The sub-folder of a name, whatever its case."""
    same = [folder for folder in parent.iterdir() if folder.name.lower() == name.lower()]
    return next((folder for folder in same if folder.name == name), same[0] if same else parent / name)


def read_boundaries(annotation_file: Path) -> list[np.ndarray]:
    """Boundary maps of a BSDS500 `.mat` file, one `(height, width)` boolean array per annotator.

    Raises:
        ValueError: If the file cannot be read or holds no `groundTruth` cells with `Boundaries`.
    """
    try:
        cells = loadmat(str(annotation_file))["groundTruth"].ravel()
        maps = [np.asarray(cell["Boundaries"].item()) > 0 for cell in cells]
    except Exception as error:  # scipy raises many kinds on a damaged file
        raise ValueError(
            f"{annotation_file} is not a BSDS500 annotation ({type(error).__name__}: {error}); "
            "expected a cell array `groundTruth` of structs with the field `Boundaries`."
        ) from error
    if not maps or any(one_map.ndim != 2 for one_map in maps):
        raise ValueError(f"{annotation_file} holds no two-dimensional boundary map.")
    return maps
