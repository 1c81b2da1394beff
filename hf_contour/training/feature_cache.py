"""What the frozen parts give for each training image, computed once and read from files after that.

Shapes: N images, B of them in a batch, C channels of h x w features.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset as Rows
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from hf_contour.data.samples import ContourSamples, collate
from hf_contour.io import UNFINISHED, put_in_place, remove, writing
from hf_contour.training.order import Place


def rows_of_sources(rows: Rows) -> list[Rows]:
    """The rows of each source, in their order; all in one where they are of one, or mixed."""
    if "source" not in rows.column_names:
        return [rows]
    of_rows = np.asarray(rows["source"][:])
    starts = [0, *(np.flatnonzero(np.diff(of_rows)) + 1).tolist(), len(rows)]
    if len(starts) - 1 > len(np.unique(of_rows)):
        return [rows]
    return [rows.select(range(*bounds)) for bounds in pairwise(starts)]


def cached_features(
    folder: Path,
    samples: ContourSamples,
    compute: Callable[[Tensor], Sequence[Tensor]],
    *,
    key: Mapping[str, Any],
    loading: Mapping[str, Any],
    accelerator: Accelerator,
    show_progress: bool = False,
) -> list[NDArray[np.float16]]:
    """The features of all samples: those that the folder holds under this key, else computed and put there.

    Args:
        folder: of the cache, one for all processes; what it holds is whole or absent, whatever ends a process.
        samples: neither augmented nor recoloured; all of one size.
        compute: pixels `(B, 3, H, W)` on the device to maps `(B, C, h, w)`, one for each network.
        key: plain JSON values that tell these features from others.
        loading: `batch_size` and `num_workers` of the one pass over the samples.
        accelerator: its processes share the work.
        show_progress: whether to show a progress bar.

    Returns:
        For each network `(N, C, h, w)`, mapped from a file and not held in memory; float16, which keeps three decimal
        digits.

    Raises:
        OutputError: If the folder cannot be written; names the room there is.
        ValueError: If images differ in size, or one cannot be read.
    """
    place = folder / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{place.name}.lock")  # another run may be computing the same
    with lock if accelerator.is_main_process else nullcontext():
        (is_absent,) = broadcast_object_list([not place.exists()])
        if is_absent:
            with writing(place):
                _compute(place, samples, compute, loading, accelerator, show_progress=show_progress)
    return [np.load(path, mmap_mode="r") for path in sorted(place.glob("*.npy"))]


def _compute(
    place: Path,
    samples: ContourSamples,
    compute: Callable[[Tensor], Sequence[Tensor]],
    loading: Mapping[str, Any],
    accelerator: Accelerator,
    *,
    show_progress: bool,
) -> None:
    """Each process computes a range of the rows and writes it into files that all of them map."""
    unfinished = place.with_name(f"{UNFINISHED}{place.name}")
    if accelerator.is_main_process:
        remove(unfinished)
        unfinished.mkdir()
        for number, one in enumerate(compute(samples[0]["pixel_values"][None].to(accelerator.device))):
            path, shape = unfinished / f"{number}.npy", (len(samples), *one.shape[1:])
            np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape).flush()
    accelerator.wait_for_everyone()
    maps = [np.lib.format.open_memmap(path, mode="r+") for path in sorted(unfinished.glob("*.npy"))]
    bounds = np.linspace(0, len(samples), accelerator.num_processes + 1).astype(int)
    own = Subset(samples, range(*bounds[accelerator.process_index : accelerator.process_index + 2]))
    loader = DataLoader(own, collate_fn=collate, generator=torch.Generator(), **loading)
    hidden = not (show_progress and accelerator.is_local_main_process)
    for batch in tqdm(loader, desc="features", disable=hidden):
        features = [one.half().cpu().numpy() for one in compute(batch["pixel_values"].to(accelerator.device))]
        for mapped, one in zip(maps, features, strict=True):
            mapped[batch["index"].numpy()] = one
    for mapped in maps:
        mapped.flush()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        put_in_place(unfinished, place)
    accelerator.wait_for_everyone()


class CollateWithFeatures:
    """Stacks samples and puts what the frozen parts gave for them beside their pixels.

    Args:
        features: by the name that they get in a batch: arrays of `cached_features`, of one part of the rows after the
            other; the row of a sample is its "index".
    """

    def __init__(self, features: Mapping[str, Sequence[NDArray[np.float16]]]) -> None:
        self.features = features
        parts = next(iter(features.values()))
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch as `collate` makes it, with the features `(B, C, h, w)` float32."""
        batch = collate(samples)
        indices = np.array([sample["index"] for sample in samples])
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        places = list(zip(numbers, indices - self._starts[numbers], strict=True))
        for name, parts in self.features.items():
            batch[name] = torch.from_numpy(np.stack([parts[number][row] for number, row in places])).float()
        return batch


class LabelledPlaces(Dataset[dict[str, Any]]):
    """Samples without pixels, asked for by (epoch, index), for a model all of whose inputs are cached features.

    Args:
        samples: of the stage "gender"; only its labels are read.
    """

    def __init__(self, samples: ContourSamples) -> None:
        self.builder, self.labels = samples.builder, samples.source["label"][:]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: Place) -> dict[str, Any]:
        _, index = place
        return {"labels": self.builder.class_labels(self.labels[index], index), "index": index}
