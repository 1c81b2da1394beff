"""Prediction of any number of images: part by part, each written once and whole, by any number of processes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from hf_contour.inference.arguments import PredictionArguments
from hf_contour.inference.classification import Classification
from hf_contour.inference.contours import ContourDrawing, map_stem
from hf_contour.inference.listing import write_listing
from hf_contour.inference.manifest import model_checksum, settings_of
from hf_contour.inference.output import (
    PredictionOutput,
    alone,
    begin,
    check_manifest,
    check_ours,
    clear,
    read_manifest,
)
from hf_contour.inference.parts import Columns, read_part
from hf_contour.inference.processes import Place, device_of, wait_for_all
from hf_contour.inference.tables import table_bytes
from hf_contour.io import OutputError, write_whole

T = TypeVar("T")
R = TypeVar("R")
MAX_EXAMPLES = 5
AHEAD = 2  # batches that are read for each thread before they are wanted


@dataclass
class PredictionReport:
    """What a process did.

    Attributes:
        num_rows: rows that it wrote.
        num_errors: of these, images that could not be read.
        examples: the first of these errors.
        num_parts: parts of the whole output.
        num_finished: of these, those that are written by now, by whomever.
    """

    num_rows: int = 0
    num_errors: int = 0
    examples: list[str] = field(default_factory=list)
    num_parts: int = 0
    num_finished: int = 0

    def add(self, num_rows: int, errors: Sequence[str]) -> None:
        """Counts a part that was written."""
        self.num_rows += num_rows
        self.num_errors += len(errors)
        self.examples += errors[: MAX_EXAMPLES - len(self.examples)]

    @property
    def exit_code(self) -> int:
        """0: all done; 3: some images could not be read; 1: none of them."""
        if not self.num_errors:
            return 0
        return 3 if self.num_rows > self.num_errors else 1


def predict(arguments: PredictionArguments) -> PredictionReport:
    """Classify images or draw their contours, going on with what an earlier run of the same command left.

    Raises:
        FileNotFoundError: If an input is not there.
        ValueError: If the model cannot do what is asked, or the output was begun with another model or setting.
        OutputError: If the output cannot be written.
    """
    place = Place.here()
    output = open_output(arguments, place)
    report = PredictionReport(num_parts=len(output.parts))
    missing = len(output.parts) - len(output.finished())
    if missing and arguments.engine == "ray":
        from hf_contour.inference.ray_engine import write_with_ray

        write_with_ray(arguments, output, report)
    elif missing:
        _write_parts(PartWriter(arguments, output, place), place, report)
    report.num_finished = len(output.finished())
    return report


def open_output(arguments: PredictionArguments, place: Place) -> PredictionOutput:
    """The output folder of a command, begun if it was not, refused if it belongs to another."""
    folder = Path(arguments.output)
    _check_place(arguments, folder)
    if arguments.overwrite:
        if place.rank == 0:
            clear(folder)
        wait_for_all(place)
    if read_manifest(folder) is None:
        check_ours(folder)
    columns = columns_of(arguments)
    wanted = {
        "version": 1,
        "model": model_checksum(Path(arguments.model)),
        "inputs": [arguments.data] if arguments.data else arguments.inputs,
        "settings": settings_of(arguments, device_of(arguments, place).type),
    }
    with alone(folder):
        found = read_manifest(folder)
        if found is not None:
            check_manifest(folder, found, wanted)
        else:
            lists = partial(
                write_listing,
                inputs=arguments.inputs,
                data=arguments.data,
                rows_per_part=arguments.rows_per_part,
                columns=columns,
                outside=folder,
            )
            begin(folder, wanted, write_listing=lists)
    return PredictionOutput(folder, f".{arguments.format}")


def columns_of(arguments: PredictionArguments) -> Columns:
    """How tables and data sets are read."""
    return Columns(arguments.image_column, arguments.id_column, arguments.split, arguments.data_config)


def _check_place(arguments: PredictionArguments, folder: Path) -> None:
    for name in arguments.inputs:
        if "://" not in name and Path(name).is_dir() and folder.exists() and folder.samefile(name):
            raise ValueError(f"--output is the input folder {name}; name a folder of its own.")


class PartWriter:
    """Answers the rows of a part with several threads, and writes its table in one piece.

    Args:
        arguments: of the prediction.
        output: the folder, begun by this command.
        place: of this process among the others.
    """

    def __init__(self, arguments: PredictionArguments, output: PredictionOutput, place: Place):
        self.arguments, self.output = arguments, output
        device = device_of(arguments, place)
        self.answer: Classification | ContourDrawing
        if arguments.contours:
            self.answer = ContourDrawing(arguments, output.folder, device)
        else:
            self.answer = Classification(
                arguments.model, device, probabilities=arguments.probabilities, embeddings=arguments.embeddings
            )
        self.num_threads = arguments.num_workers or place.num_processors
        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(self.num_threads, initializer=torch.set_num_threads, initargs=(1,))

    def write(self, index: int, *, on_rows: Callable[[int], Any] | None = None) -> tuple[int, list[str]]:
        """Writes a part.

        Returns:
            How many rows it has, and the errors among them.
        """
        items: Iterator[Any] = read_part(self.output.parts[index], self.output.listing, columns_of(self.arguments))
        if self.arguments.contours:
            items = ((map_stem(index, row, item.id), item) for row, item in enumerate(items))
        rows: list[dict[str, Any]] = []
        batches = _batches(items, self.arguments.batch_size)
        for answered in in_threads(self.answer, batches, self.pool, self.num_threads):
            rows += answered
            if on_rows is not None:
                on_rows(len(answered))
        content = table_bytes(rows, self.answer.columns, self.output.suffix)
        write_whole(self.output.path(index), content)
        return len(rows), [row["error"] for row in rows if row["error"] is not None]


def in_threads(
    function: Callable[[T], R], values: Iterable[T], pool: ThreadPoolExecutor, num_threads: int
) -> Iterator[R]:
    """Results in the order of the values, of which only a few are read before they are wanted."""
    waiting: deque[Future[R]] = deque()
    try:
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) >= AHEAD * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _batches(items: Iterable[T], batch_size: int) -> Iterator[list[T]]:
    rest = iter(items)
    return iter(lambda: list(islice(rest, batch_size)), [])


def _write_parts(writer: PartWriter, place: Place, report: PredictionReport) -> None:
    """Writes this process's parts, then what is left of the others': parts of a process that died are nobody's."""
    output = writer.output
    known = [part.num_rows for part in output.parts]
    total = None if None in known else sum(filter(None, known))
    done = sum(known[index] or 0 for index in output.finished())
    with tqdm(total=total, initial=done, desc="images", unit="", disable=place.rank > 0) as bar:
        for index in place.order(len(output.parts)):
            with output.claim(index) as is_ours:
                if is_ours:
                    report.add(*writer.write(index, on_rows=bar.update))


__all__ = ["OutputError", "PartWriter", "PredictionReport", "open_output", "predict"]
