"""The boundary benchmark of many images, on several processes."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from hf_contour.metrics.boundary.compiled import require_numba
from hf_contour.metrics.boundary.scores import EdgeCounts, count_matches

WAITING_PER_PROCESS = 2  # images that are handed over before their turn


def count_images(
    images: Iterable[tuple[ArrayLike, ArrayLike]],
    *,
    num_processes: int = 1,
    total: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> list[EdgeCounts]:
    """Counts of many images, with a progress bar.

    Args:
        images: pairs of `edge_probs` and `annotations`, as `count_matches` takes them; read as they are needed.
        num_processes: 1 counts in this process. More are started by "spawn": a script must then guard its main part
            with `if __name__ == "__main__":`.
        total: number of images for the bar, where `images` has no length.
        progress: whether to show the bar.
        settings: `thresholds`, `max_dist`, `nms`, `thinning` of `count_matches`.

    Returns:
        One per image, in their order, whatever the number of processes.

    Raises:
        ValueError: If an image does not fit; names its number, from 0.
        ImportError: If Numba is not installed.
    """
    length = total if total is not None else len(images) if isinstance(images, Sequence) else None
    bar = tqdm(total=length, desc="boundary benchmark", unit="image", disable=not progress)
    with bar, ImageCounter(num_processes=num_processes, heed=bar.update, **settings) as counter:
        for edge_probs, annotations in images:
            counter.add(edge_probs, annotations)
        return counter.counts()


class ImageCounter:
    """Counts images beside other work, such as a model that makes the maps; a context manager.

    Args:
        num_processes: as in `count_images`.
        heed: called after each image.
        settings: of `count_matches`.

    Raises:
        ValueError: If `num_processes` is below 1.
        ImportError: If Numba is not installed.
    """

    def __init__(self, *, num_processes: int = 1, heed: Callable[[], Any] | None = None, **settings: Any) -> None:
        require_numba()
        if num_processes < 1:
            raise ValueError(f"num_processes is {num_processes}; expected at least 1.")
        self._settings = settings
        self._heed = heed or (lambda: None)
        self._num_added = 0
        self._counts: list[EdgeCounts] = []
        self._waiting: deque[Future[EdgeCounts]] = deque()
        self._num_processes, self._pool = num_processes, None
        if num_processes > 1:
            _compile_once(**settings)
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(num_processes, mp_context=context)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=error is not None)

    def add(self, edge_probs: ArrayLike, annotations: ArrayLike) -> None:
        """Count an image now, or hand it to a process; waits while enough images are on their way."""
        number, self._num_added = self._num_added, self._num_added + 1
        if self._pool is None:
            self._keep(_count_image(number, edge_probs, annotations, self._settings))
            return
        self._waiting.append(self._pool.submit(_count_image, number, edge_probs, annotations, self._settings))
        if len(self._waiting) >= (WAITING_PER_PROCESS + 1) * self._num_processes:
            self._keep(self._waiting.popleft().result())

    def counts(self) -> list[EdgeCounts]:
        """All counts so far, in the order in which the images were added; waits for them."""
        while self._waiting:
            self._keep(self._waiting.popleft().result())
        return list(self._counts)

    def _keep(self, counts: EdgeCounts) -> None:
        self._counts.append(counts)
        self._heed()


def _count_image(number: int, edge_probs: ArrayLike, annotations: ArrayLike, settings: dict[str, Any]) -> EdgeCounts:
    try:
        return count_matches(edge_probs, annotations, **settings)
    except ValueError as error:
        raise ValueError(f"image {number}: {error}") from error


def _compile_once(**settings: Any) -> None:
    """Compile before other processes start, which then find the result on the disk instead of all compiling."""
    spot = np.zeros((9, 9), np.float32)
    spot[4] = 1
    count_matches(spot, spot[None], **settings)
