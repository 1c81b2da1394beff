"""Ready-made edge maps, of whatever program, scored by the boundary benchmark: no model is needed.

maps = maps_in_folder("path/to/maps")           # NAME.png or NAME.npy, NAME the image's
maps = maps_in_parquet("gpb_ucm_test.parquet")
scores = edge_scores(count_edge_maps(maps, load_source("../shared/data/bsds500", split="test"), nms=False))
"""

import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
from PIL import Image

from hf_contour.data.annotations import MAX_EDGE_SHARE, read_annotations
from hf_contour.metrics.boundary.processes import count_images
from hf_contour.metrics.boundary.scores import EdgeCounts

logger = logging.getLogger(__name__)

FEW_MAPS = 3  # all of so many first maps must be bright for a hint
MAP_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".npy")
PARQUET_MAP_COLUMN = "boundary_map_npy"
NPY_MAGIC = b"\x93NUMPY"


def count_edge_maps(
    maps: Mapping[str, Path | bytes | np.ndarray],
    source: datasets.Dataset,
    *,
    id_column: str = "image_id",
    num_processes: int = 1,
    progress: bool = True,
    **settings: Any,
) -> list[EdgeCounts]:
    """Count the matches of maps with the contours of a data set.

    Args:
        maps: name of an image -> its map, as `read_edge_map` takes it.
        source: rows with `contours`, as `load_source` gives them.
        id_column: column of the names; where the source has none, the names of the image files without suffix.
        num_processes: as in `count_images`.
        progress: as in `count_images`.
        settings: `thresholds`, `max_dist`, `nms`, `thinning` of `count_matches`.

    Returns:
        One per row, in their order; `edge_scores` makes scores of them.

    Raises:
        ValueError: If a row has no map, no name or no contours, or a map has another size than its contours.
        ImportError: If Numba is not installed.
    """
    names = _row_names(source, id_column)
    missing = [name for name in names if name not in maps]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(names)} images have no map, such as {missing[:3]}; the maps are called "
            f"{sorted(maps)[:3]} and so on."
        )
    pairs = _pairs(names, maps, source)
    return count_images(pairs, num_processes=num_processes, total=len(names), progress=progress, **settings)


def _pairs(
    names: list[str], maps: Mapping[str, Path | bytes | np.ndarray], source: datasets.Dataset
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    bright, few = 0, min(FEW_MAPS, len(names))
    for number, (name, row) in enumerate(zip(names, source, strict=True), start=1):
        edge_map = read_edge_map(maps[name], name=name)
        annotations = read_annotations(row["contours"], name=name)
        if edge_map.shape != annotations.shape[1:]:
            came, expected = ("x".join(map(str, shape)) for shape in (edge_map.shape, annotations.shape[1:]))
            raise ValueError(
                f"the edge map of {name} is {came} (height x width), its contours are {expected}. Make the map at the "
                "size of the image."
            )
        bright += edge_map.mean() > MAX_EDGE_SHARE
        if bright == number == few:
            logger.warning(
                "the first %d edge maps are bright in most places (%s); edges are expected bright on a dark ground. "
                "If ink and ground are exchanged, invert them.",
                number,
                ", ".join(names[:FEW_MAPS]),
            )
        yield edge_map, annotations


def _row_names(source: datasets.Dataset, id_column: str) -> list[str]:
    if id_column in source.column_names:
        return [str(name) for name in source[id_column]]
    paths = [image["path"] for image in source["image"]]
    if None in paths:
        raise ValueError(
            f"the source has the columns {source.column_names}, no {id_column!r}, and images without file names; "
            "give id_column."
        )
    return [Path(path).stem for path in paths]


def maps_in_folder(folder: str | Path) -> dict[str, Path]:
    """The maps of a folder by their file names without suffix.

    Raises:
        ValueError: If there is none, or two have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() in MAP_SUFFIXES:
            if path.stem in found:
                raise ValueError(f"{path} and {found[path.stem].name} are maps of one name; keep one of them.")
            found[path.stem] = path
    if not found:
        raise ValueError(f"{folder} holds no map; expected files that end in {', '.join(MAP_SUFFIXES)}.")
    return found


def maps_in_parquet(path: str | Path, *, id_column: str = "image_id") -> dict[str, bytes]:
    """The maps of a Parquet file, one a row, each an encoded image or `.npy` file as bytes.

    Raises:
        ValueError: If a column is not there, or two rows have one name.
    """
    columns = pyarrow.parquet.read_schema(path).names
    for column in (id_column, PARQUET_MAP_COLUMN):
        if column not in columns:
            raise ValueError(f"{path} has no column {column!r}; its columns are {columns}.")
    table = pyarrow.parquet.read_table(path, columns=[id_column, PARQUET_MAP_COLUMN]).to_pydict()
    maps = {str(name): content for name, content in zip(table[id_column], table[PARQUET_MAP_COLUMN], strict=True)}
    if len(maps) != len(table[id_column]):
        raise ValueError(f"{path} has {len(table[id_column])} rows, but {len(maps)} different names of images.")
    return maps


def read_edge_map(content: Path | bytes | np.ndarray, *, name: str) -> np.ndarray:
    """Read one map; strong edges are bright.

    Args:
        content: path or bytes of a grey image (1, 8 or 16 bits) or of a `.npy` file, or an array.
        name: for messages.

    Returns:
        `(H, W)` float in 0..1; an array, or the content of a `.npy` file, as it is.

    Raises:
        ValueError: If it cannot be read or is not grey.
    """
    if isinstance(content, np.ndarray):
        return content
    encoded = content if isinstance(content, bytes) else content.read_bytes()
    try:
        if encoded.startswith(NPY_MAGIC):
            return np.load(io.BytesIO(encoded), allow_pickle=False)
        with Image.open(io.BytesIO(encoded)) as opened:
            mode, pixels = opened.mode, np.asarray(opened)
    except (OSError, ValueError) as error:
        raise ValueError(f"the map of {name} cannot be read: {error}") from error
    largest = {"1": 1, "L": 255, "I;16": 65535, "I;16B": 65535}.get(mode)
    if largest is None:
        raise ValueError(f"the map of {name} is an image of mode {mode}; expected grey with 1, 8 or 16 bits.")
    return pixels / largest
