"""A source whose splits are known: what every kind of source is opened as."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from hf_contour.data.problems import Problem
from hf_contour.data.standard_columns import AnyDataset

_ROWS_PER_SHARD = 1000  # of a stream that is made of a table in memory


@dataclass
class OpenSource:
    """A source whose splits are known.

    Attributes:
        splits: their names.
        read: gives the rows of a split; the second argument asks for a stream.
        folder: where relative paths start; None where there are none.
        is_text: whether cells are text (csv).
        problems: what is wrong with the source as a whole.
        split_problems: gives what is wrong with a split as a whole.
        row_files: gives the names of the images of a split, for messages, where they are known.
    """

    splits: list[str]
    read: Callable[[str, bool], AnyDataset]
    folder: Path | None = None
    is_text: bool = False
    problems: list[Problem] = field(default_factory=list)
    split_problems: Callable[[str], list[Problem]] = lambda split: []
    row_files: Callable[[str], tuple[str, ...]] = lambda split: ()


def as_asked(dataset: Dataset, streaming: bool) -> AnyDataset:
    """A data set, or a stream of it."""
    if not streaming:
        return dataset
    return dataset.to_iterable_dataset(num_shards=max(1, len(dataset) // _ROWS_PER_SHARD))
