"""What the inputs of a prediction are, dealt into parts by number of rows.

The listing is written to disk while it is made: memory does not grow with the number of inputs, and every process and
every later run of the same command sees the same parts.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import fsspec
import pyarrow.parquet as pq

from hf_contour.data.file_names import is_hidden, printable
from hf_contour.data.text_tables import TEXT_SUFFIXES
from hf_contour.inference.addresses import (
    TAR_SUFFIXES,
    is_address,
    listed_files,
    listed_suffixes,
    open_stream,
    suffix_of,
)
from hf_contour.inference.parts import Columns, Part, column_place, csv_rows, streamed, write_file_list

logger = logging.getLogger(__name__)

PARTS_FILE = "parts.jsonl"


class ListingWriter:
    """Collects rows and parts, and writes full lists of files as soon as they are full.

    Args:
        folder: an empty folder for the lists.
        rows_per_part: rows of a part; row groups, tars and shards are not cut and may hold more.
        columns: of tables and data sets.
    """

    def __init__(self, folder: Path, *, rows_per_part: int, columns: Columns):
        self.folder, self.rows_per_part, self.columns = folder, rows_per_part, columns
        self.num_parts = 0
        self._files: list[tuple[str, str]] = []
        self._parts = (folder / PARTS_FILE).open("w", encoding="ascii")

    def __enter__(self) -> "ListingWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._parts.close()

    def add_file(self, name: str, place: str) -> None:
        """Adds a single image: the id of its row, and where it is."""
        self._files.append((name, place))
        if len(self._files) == self.rows_per_part:
            self._end_list()

    def add_table(self, place: str) -> None:
        """Adds a csv or Parquet table, or a tar."""
        if suffix_of(place) in TEXT_SUFFIXES:
            for name, content in csv_rows(place, self.columns):
                self.add_file(name, content)
            return
        if suffix_of(place) in TAR_SUFFIXES:
            self._add(Part("tar", place))
            return
        for part in self._row_groups(place):
            self._add(part)

    def add_data(self, data: str) -> None:
        """Adds a data set, shard by shard."""
        dataset = streamed(data, self.columns)
        for shard in range(dataset.num_shards):
            self._add(Part("data", data, shard, dataset.num_shards))

    def finish(self) -> int:
        """Writes what is left; gives the number of parts."""
        self._end_list()
        return self.num_parts

    def _end_list(self) -> None:
        if self._files:
            files, self._files = self._files, []
            name = f"files-{self.num_parts:06d}.gz"
            write_file_list(self.folder / name, files)
            self._add(Part("files", name, num_rows=len(files)))

    def _add(self, part: Part) -> None:
        if part.kind != "files":
            self._end_list()
        self._parts.write(json.dumps(asdict(part)) + "\n")
        self.num_parts += 1

    def _row_groups(self, place: str) -> Iterator[Part]:
        with open_stream(place) as stream:
            file = pq.ParquetFile(stream)
            names = file.schema_arrow.names
            for column in (self.columns.image, self.columns.id):
                if column is not None:
                    column_place(names, place, column)
            sizes = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
        start = num_rows = 0
        for stop, size in enumerate(sizes, 1):
            num_rows += size
            if num_rows >= self.rows_per_part or stop == len(sizes):
                yield Part("rows", place, start, stop, num_rows)
                start, num_rows = stop, 0


def write_listing(
    folder: Path,
    inputs: Sequence[str],
    *,
    data: str | None = None,
    rows_per_part: int,
    columns: Columns,
    outside: Path | None = None,
) -> int:
    """Lists the inputs in their order, folders by the names in them.

    Args:
        folder: an empty folder for the listing.
        inputs: files, folders, tables, tars, and addresses of these.
        data: a data set in their place.
        rows_per_part: rows of a part.
        columns: of tables and data sets.
        outside: a folder whose files are left out.

    Returns:
        The number of parts.

    Raises:
        FileNotFoundError: If an input is not there.
        ValueError: If a folder has no image, a table no such column, or there is nothing at all.
    """
    left_out: Counter[str] = Counter()
    with ListingWriter(folder, rows_per_part=rows_per_part, columns=columns) as listing:
        if data is not None:
            listing.add_data(data)
        for name in inputs:
            for place in _matches(name):
                _add_input(listing, place, outside=outside, left_out=left_out)
        num_parts = listing.finish()
    if not num_parts:
        raise ValueError(f"{', '.join(map(printable, inputs)) or data} holds no row; there is nothing to predict.")
    for reason, count in left_out.items():
        if count:
            logger.warning("left out of the inputs: %d %s", count, reason)
    return num_parts


def read_parts(folder: Path) -> list[Part]:
    """The parts of a listing, in their order."""
    with (folder / PARTS_FILE).open(encoding="ascii") as lines:
        return [Part(**json.loads(line)) for line in lines]


def _matches(name: str) -> list[str]:
    """The input itself, or what an address with a pattern stands for."""
    if not is_address(name) or not any(letter in name for letter in "*?["):
        return [name]
    system, pattern = fsspec.core.url_to_fs(name)
    if system.exists(pattern):
        return [name]
    places = [place for place in sorted(system.glob(pattern)) if not is_hidden(place.rpartition("/")[2])]
    found = [system.unstrip_protocol(place) for place in places]
    if not found:
        raise FileNotFoundError(f"{name} matches nothing.")
    return found


def _add_input(listing: ListingWriter, place: str, *, outside: Path | None, left_out: Counter[str]) -> None:
    kind = _kind_of(place)
    if kind == "folder":
        _add_folder(listing, place, outside=outside, left_out=left_out)
    elif kind == "missing":
        raise FileNotFoundError(
            f"{printable(place)} is not there; expected an image, a folder, a table or a tar. Data sets of the Hub "
            "are named with --data."
        )
    elif _is_table(place):
        listing.add_table(place)
    else:
        listing.add_file(printable(place), place)


def _kind_of(place: str) -> str:
    if place.startswith(("http://", "https://")):
        return "file"  # asking would fetch it
    if is_address(place):
        system, path = fsspec.core.url_to_fs(place)
        return "folder" if system.isdir(path) else "file" if system.exists(path) else "missing"
    path = Path(place)
    return "folder" if path.is_dir() else "file" if path.exists() else "missing"


def _is_table(place: str) -> bool:
    return suffix_of(place) in {*TEXT_SUFFIXES, *TAR_SUFFIXES, ".parquet"}


def _add_folder(listing: ListingWriter, folder: str, *, outside: Path | None, left_out: Counter[str]) -> None:
    """The images of a folder; where it has none, its Parquet files and tars."""
    shards: list[str] = []
    has_images, images = False, listed_suffixes()
    others: Counter[str] = Counter()
    for file in listed_files(folder, outside=outside, left_out=left_out):
        suffix = suffix_of(file)
        if suffix in images:
            has_images = True
            listing.add_file(printable(file), file)
        elif _is_table(file) and suffix not in TEXT_SUFFIXES:
            shards.append(file)
        else:
            others[suffix or "no suffix"] += 1
    if has_images:
        left_out[f"Parquet files and tars beside the images of {printable(folder)}"] += len(shards)
    elif not shards:
        seen = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3)) or "nothing"
        raise ValueError(
            f"{printable(folder)} holds no image ({', '.join(sorted(images))}), Parquet file or tar; it holds {seen}."
        )
    for shard in [] if has_images else shards:
        listing.add_table(shard)
    if others:
        described = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        left_out[f"other files in {printable(folder)} ({described})"] += sum(others.values())
