"""Streams dealt out to the processes, in an order that can be taken up again anywhere.

Each process reads a share of its own: whole files, where they can be dealt out evenly, else every so-manieth row of
all of them. Files come in an order drawn from (seed, epoch), and rows are shuffled a block at a time. So the samples
of a step depend on the number of processes, but not on workers and interruptions: where a process stands is the place
of a block in the stream and a number of rows in it.

The main process reads rows, images still encoded; workers decode those that are trained on, and no others.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import Dataset, Sampler

from hf_contour.data.rows import row_name
from hf_contour.data.samples import SampleBuilder, logger
from hf_contour.image_processing_contour import ImageReadError

_FILES, _BLOCKS, _PICKS = 0x57A, 0x57B, 0x57C  # keep these random numbers apart from each other
_PICKS_AT_ONCE = 1024


@dataclass(frozen=True)
class StreamedRow:
    """A row before it is decoded: the pass over its stream, a number that no other row has, and its columns."""

    epoch: int
    index: int
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Share:
    """Which part of a stream a process reads.

    Attributes:
        process_index: number of the process.
        num_processes: processes that train together.
    """

    process_index: int
    num_processes: int


class StreamReader:
    """The share of one stream, pass after pass.

    Args:
        stream: rows.
        share: which of them.
        seed: of the order of files and rows.
        block_size: rows that are shuffled at a time.
    """

    def __init__(self, stream: IterableDataset, share: Share, *, seed: int, block_size: int) -> None:
        self.stream, self.share, self.seed, self.block_size = stream, share, seed, block_size
        self._epoch, self._place, self._number = 0, 0, 0  # pass, file in its order, rows of the pass read before
        self._file_state: dict[str, Any] | None = None
        self._start: dict[str, Any] = self._here()
        self._block: list[StreamedRow] = []
        self._taken = 0

    def take(self) -> StreamedRow:
        """The next row.

        Raises:
            ValueError: If the share has no rows at all.
        """
        if self._taken == len(self._block):
            self._start, self._taken = self._here(), 0
            self._block = self._read_block()
        self._taken += 1
        return self._block[self._taken - 1]

    @property
    def state(self) -> dict[str, Any]:
        """Where the reader stands; plain JSON values."""
        return {"block": self._start, "taken": self._taken}

    @staticmethod
    def is_state(state: Any) -> bool:
        """Whether a checkpoint's entry is what `state` gives; older versions kept others."""
        block = state.get("block") if isinstance(state, dict) else None
        return isinstance(block, dict) and block.keys() == {"epoch", "place", "number", "file"} and "taken" in state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state` was taken; at most one block is read again."""
        start = state["block"]
        self._epoch, self._place, self._number = start["epoch"], start["place"], start["number"]
        self._file_state, self._start = start["file"], dict(start)
        if state["taken"]:
            self._block, self._taken = self._read_block(), state["taken"]

    def _here(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "place": self._place, "number": self._number, "file": self._file_state}

    def _read_block(self) -> list[StreamedRow]:
        epoch, first = self._epoch, self._number
        rows = self._read_rows() or self._read_rows()  # a pass may have ended with the block before
        if not rows:
            raise ValueError("The training stream has no samples, or fewer than there are processes.")
        order = np.random.default_rng([_BLOCKS, self.seed, self.share.process_index, epoch, first])
        return [rows[place] for place in order.permutation(len(rows))]

    def _read_rows(self) -> list[StreamedRow]:
        """A block, or what is left of a pass."""
        rows: list[StreamedRow] = []
        files = self._files()
        while self._place < len(files):
            part = self._file(files[self._place])
            if self._file_state is not None:
                part.load_state_dict(self._file_state)
            for row in part:
                index = self._number * self.share.num_processes + self.share.process_index
                rows.append(StreamedRow(self._epoch, index, row))
                self._number += 1
                if len(rows) == self.block_size:
                    self._file_state = part.state_dict()
                    return rows
            self._place, self._file_state = self._place + 1, None
        self._epoch, self._place, self._number = self._epoch + 1, 0, 0
        return rows

    def _files(self) -> list[int]:
        """Numbers of the files to read in this pass, in their order."""
        count = self.stream.num_shards
        order = np.random.default_rng([_FILES, self.seed, self._epoch]).permutation(count).tolist()
        return order[self.share.process_index :: self.share.num_processes] if self._deals_files else order

    @property
    def _deals_files(self) -> bool:
        return self.stream.num_shards % self.share.num_processes == 0

    def _file(self, number: int) -> IterableDataset:
        part = self.stream.shard(num_shards=self.stream.num_shards, index=number)
        if self._deals_files:
            return part
        return split_dataset_by_node(part, rank=self.share.process_index, world_size=self.share.num_processes)


class StreamOrder(Sampler[list[StreamedRow]]):
    """Batches of rows of one process, from one stream or several by their weights.

    Args:
        readers: of the streams.
        weights: how often each is drawn from relative to the others.
        batch_size: rows in a micro-batch.
        first_batch: micro-batches of this process that were trained on before.
        num_batches: micro-batches of this process in the whole training.
        seed: of which stream is drawn from.
        ahead: micro-batches that may be asked for before the one that is trained on.
        state: as `state_at` gave it for `first_batch`; none at the beginning.
    """

    def __init__(
        self,
        readers: Sequence[StreamReader],
        weights: Sequence[float],
        *,
        batch_size: int,
        first_batch: int,
        num_batches: int,
        seed: int,
        ahead: int,
        state: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.readers, self.batch_size, self.seed = readers, batch_size, seed
        self.first_batch, self.num_batches = first_batch, num_batches
        self._shares = np.asarray(weights) / np.sum(weights)
        for reader, one in zip(readers, state or (), strict=bool(state)):
            reader.load_state(one)
        self._states: deque[tuple[int, list[dict[str, Any]]]] = deque(maxlen=ahead + 2)

    def __len__(self) -> int:
        return self.num_batches - self.first_batch

    def __iter__(self) -> Iterator[list[StreamedRow]]:
        for batch in range(self.first_batch, self.num_batches):
            self._states.append((batch, [reader.state for reader in self.readers]))
            first = batch * self.batch_size
            yield [self._take(position) for position in range(first, first + self.batch_size)]
        self._states.append((self.num_batches, [reader.state for reader in self.readers]))

    def state_at(self, batch: int) -> list[dict[str, Any]]:
        """Where the readers stood before a batch that was asked for lately, or stand now; plain JSON values."""
        now = [reader.state for reader in self.readers]
        return next((state for number, state in self._states if number == batch), now)

    def _take(self, position: int) -> StreamedRow:
        if len(self.readers) == 1:
            return self.readers[0].take()
        draws = np.random.default_rng(
            [_PICKS, self.seed, self.readers[0].share.process_index, position // _PICKS_AT_ONCE]
        )
        picks = draws.choice(len(self.readers), size=_PICKS_AT_ONCE, p=self._shares)
        number = int(picks[position % _PICKS_AT_ONCE])
        taken = self.readers[number].take()
        return StreamedRow(taken.epoch, taken.index * len(self.readers) + number, taken.row)


class StreamedSamples(Dataset[dict[str, Any]]):
    """Samples made of rows that a `StreamOrder` hands over.

    Args:
        builder: makes samples of rows.
        skip_bad_images: let the next good row of the batch take the place of one whose image cannot be read.
    """

    def __init__(self, builder: SampleBuilder, *, skip_bad_images: bool = False) -> None:
        self.builder, self.skip_bad_images = builder, skip_bad_images
        self._bad_images: dict[str, str] = {}

    def __getitem__(self, place: StreamedRow) -> dict[str, Any]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[StreamedRow]) -> list[dict[str, Any]]:
        """The samples of a batch.

        Raises:
            ImageReadError: If an image cannot be read and is not to be skipped, or none of the batch can be.
        """
        samples = [self._sample(place) for place in places]
        good = [number for number, sample in enumerate(samples) if sample is not None]
        if not good:
            raise ImageReadError(
                f"none of the {len(places)} rows of a batch has an image that can be read; the first: "
                f"{next(iter(self._bad_images.values()))}"
            )
        filled = []
        for number in range(len(samples)):
            chosen = next((one for one in good if one >= number), good[0])
            filled.append(samples[chosen])
        return [sample for sample in filled if sample is not None]

    def bad_images(self) -> dict[str, str]:
        """Rows that this process left out so far: name and reason; those of a worker stand in its log alone."""
        return dict(self._bad_images)

    def _sample(self, place: StreamedRow) -> dict[str, Any] | None:
        try:
            decoded = self.builder.decode(place.row, place.index)
        except ImageReadError as error:
            if not self.skip_bad_images:
                raise
            name = row_name(place.row, place.index)
            if name not in self._bad_images:
                logger.warning("%s; the row is left out of training.", str(error).rstrip("."))
            self._bad_images[name] = str(error)
            return None
        return self.builder.build(decoded, place.index, epoch=place.epoch)
