"""The rows of a split as a stage trains on them or evaluates them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from accelerate import Accelerator
from datasets import Dataset, IterableDataset

from hf_contour.data import EMBEDDED
from hf_contour.data.garments.drawing import embedded_dataset
from hf_contour.data.labels import label_names as class_names
from hf_contour.data.mixture import load_sources, parse_sources
from hf_contour.data.sources import ColumnNames, label_reading, load_source
from hf_contour.data.subsets import at_most
from hf_contour.training.arguments import ContourArguments, GenderArguments

Rows: TypeAlias = Dataset | IterableDataset


@dataclass(frozen=True)
class TrainRows:
    """The training split: one data set with a length, or the streams of one source or several.

    Attributes:
        parts: the data set alone, or the streams.
        weights: how often each stream is drawn from relative to the others.
    """

    parts: tuple[Rows, ...]
    weights: tuple[float, ...] = (1.0,)

    @property
    def first(self) -> Rows:
        """What says how the rows look: all parts have the columns that a stage needs."""
        return self.parts[0]

    @property
    def is_stream(self) -> bool:
        """Whether the number of rows is not known."""
        return isinstance(self.first, IterableDataset)


def load_rows(
    arguments: ContourArguments | GenderArguments,
    split: str,
    *,
    label_names: Sequence[str] | None = None,
    streaming: bool = False,
) -> Rows:
    """Rows of a split with the standard columns, no more of them than the arguments allow.

    Raises:
        ValueError: If the source cannot be read, or has no row of a class that is to be drawn evenly.
        FileNotFoundError: If it is not there.
    """
    rows = _all_rows(arguments, split, label_names=label_names, streaming=streaming)
    unused = "label" if isinstance(arguments, ContourArguments) else "contours"
    if unused in rows.column_names:  # else contours would be decoded for a stage that does not look at them
        rows = rows.remove_columns(unused)
    limit = arguments.max_train_samples if split == arguments.train_split else arguments.max_eval_samples
    if isinstance(rows, Dataset):
        return at_most(rows, limit, seed=arguments.seed)
    if limit:
        raise ValueError(
            f"max_train_samples is {limit} and streaming is on, but the first rows of a stream may be of one class. "
            "Leave one of the two out."
        )
    return rows


def _all_rows(
    arguments: ContourArguments | GenderArguments, split: str, *, label_names: Sequence[str] | None, streaming: bool
) -> Rows:
    is_train, is_contour = split == arguments.train_split, isinstance(arguments, ContourArguments)
    drawn = arguments.embedded_train_samples if is_train else arguments.embedded_eval_samples
    size = (arguments.embedded_size[0], arguments.embedded_size[1])
    if arguments.data == EMBEDDED:
        return embedded_dataset(split, num_samples=drawn, seed=arguments.seed, size=size)
    reading: dict[str, Any] = {"split": split, "streaming": streaming, "label_names": label_names}
    if isinstance(arguments, GenderArguments):
        reading |= {"label_names": label_names or arguments.label_names, **label_reading(arguments)}
    if not isinstance(arguments.data, str):
        return load_sources(
            arguments.data or (),
            with_labels=not is_contour,
            with_contours=is_contour,
            embedded_samples=drawn,
            embedded_size=size,
            seed=arguments.seed,
            **reading,
        )
    columns = ColumnNames(
        arguments.image_column,
        arguments.contours_column if isinstance(arguments, ContourArguments) else None,
        arguments.label_column if isinstance(arguments, GenderArguments) else None,
    )
    return load_source(arguments.data, columns=columns, config_name=arguments.data_config, **reading)


def load_train_rows(arguments: ContourArguments | GenderArguments, accelerator: Accelerator) -> TrainRows:
    """The training split, read by one process of a machine first, so that the others find its cache."""
    with accelerator.local_main_process_first():
        if arguments.streaming and not isinstance(arguments.data, str):
            return _load_streams(arguments)
        return TrainRows((load_rows(arguments, arguments.train_split, streaming=arguments.streaming),))


def _load_streams(arguments: ContourArguments | GenderArguments) -> TrainRows:
    """Each of several sources as a stream of its own; the first names the classes."""
    streams: list[Rows] = []
    sources = [one for one in parse_sources(arguments.data or ()) if one.split_name(arguments.train_split)]
    names: list[str] | None = None
    for source in sources:
        alone = dataclasses.replace(arguments, data=[dataclasses.asdict(source)])
        streams.append(load_rows(alone, arguments.train_split, label_names=names, streaming=True))
        if names is None and isinstance(arguments, GenderArguments):
            names = class_names(streams[0])
    return TrainRows(tuple(streams), tuple(source.weight for source in sources))
