"""What the frozen extractor gives for each training picture, computed once and read from a file after that.

Shapes: N pictures, B of them in a batch, C channels of h x w contour features.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from hf_contour.data.samples import ContourSamples, collate_gender
from hf_contour.training.durable_files import UNFINISHED, put_in_place, remove, writing

FEATURES_FILE, KEY_FILE = "features.npy", "key.json"


def cached_features(
    folder: Path,
    samples: ContourSamples,
    compute: Callable[[Tensor], Tensor],
    *,
    key: Mapping[str, Any],
    loading: Mapping[str, Any],
    device: torch.device,
    show_progress: bool = False,
) -> NDArray[np.float16]:
    """The features of all samples, from the folder if it holds those of this key, else computed and put there.

    Args:
        folder: of this cache alone; whole or absent, whatever ends the process.
        samples: neither augmented nor recoloured; all of one size.
        compute: pixels `(B, 3, H, W)` on the device to features `(B, C, h, w)`.
        key: plain JSON values that tell these features from others.
        loading: `batch_size` and `num_workers` of the one pass over the samples.
        device: that `compute` runs on.
        show_progress: whether to show a progress bar.

    Returns:
        `(N, C, h, w)`, mapped from the file and not held in memory; float16, which keeps three decimal digits.

    Raises:
        OutputError: If the folder cannot be written; names the room there is.
        ValueError: If pictures differ in size, or one cannot be read.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    if _digest_in(folder) != digest:
        unfinished = folder.with_name(f"{UNFINISHED}{folder.name}")
        with writing(folder):
            remove(unfinished)
            unfinished.mkdir(parents=True)
            loader = DataLoader(samples, collate_fn=collate_gender, generator=torch.Generator(), **loading)
            mapped: np.memmap[Any, np.dtype[np.float16]] | None = None
            for batch in tqdm(loader, desc="contour features", disable=not show_progress):
                features = compute(batch["pixel_values"].to(device)).half().cpu().numpy()
                if mapped is None:
                    shape = (len(samples), *features.shape[1:])
                    path = unfinished / FEATURES_FILE
                    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
                mapped[batch["index"].numpy()] = features
            if mapped is not None:
                mapped.flush()
            (unfinished / KEY_FILE).write_text(json.dumps({"sha256": digest}), encoding="utf-8")
            remove(folder)
            put_in_place(unfinished, folder)
    return np.load(folder / FEATURES_FILE, mmap_mode="r")


class CollateWithFeatures:
    """Stacks samples and puts what the extractor gave for them beside their pixels, as "contour_features".

    Args:
        features: as `cached_features` gives them; the row of a sample is its "index".
    """

    def __init__(self, features: NDArray[np.float16]) -> None:
        self.features = features

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch as `collate_gender` makes it, and "contour_features" `(B, C, h, w)` float32."""
        rows = [self.features[sample["index"]] for sample in samples]
        return {**collate_gender(samples), "contour_features": torch.from_numpy(np.stack(rows)).float()}


def _digest_in(folder: Path) -> str | None:
    try:
        return json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
