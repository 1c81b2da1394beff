"""The rows of a part: what each is called, and its image, not opened yet."""

import csv
import gzip
import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hf_contour.data.file_names import is_hidden, printable
from hf_contour.data.text_tables import split_header
from hf_contour.image_processing_contour import ImageReadError
from hf_contour.inference.addresses import is_address, listed_suffixes, open_stream, read_bytes, suffix_of
from hf_contour.pipeline_contour import BASE64, image_source

LONGEST_PATH = 512  # characters; text that is longer and base64 is an image itself
ROWS_AT_A_TIME = 64  # of a Parquet file, held in memory


@dataclass(frozen=True)
class Item:
    """An image that was not opened yet.

    Attributes:
        id: names the row in the output.
        content: path, address, bytes, or what a cell of a table held.
    """

    id: str
    content: Any

    def source(self) -> Any:
        """What `open_image` takes.

        Raises:
            ImageReadError: If there is nothing to open, or it cannot be fetched.
        """
        content = self.content
        if isinstance(content, ImageReadError):
            raise content
        if content is None or content == "":
            raise ImageReadError(f"{self.id}: there is no image; expected a path, an address or bytes.")
        if isinstance(content, str) and is_address(content):
            try:
                return read_bytes(content)
            except Exception as error:  # each file system of fsspec has errors of its own
                raise ImageReadError(f"{self.id}: cannot be fetched ({error}); expected an image.") from error
        return image_source(content)


@dataclass(frozen=True)
class Part:
    """Rows that are read, answered and written together.

    Attributes:
        kind: `files`, a list of the listing; `rows`, row groups of a Parquet file; `tar`; `data`, a shard.
        source: path or address; of `files` the name of the list.
        start: the first row group, or the number of the shard.
        stop: the row group after the last, or the number of shards.
        num_rows: how many; `None` where only reading tells.
    """

    kind: str
    source: str
    start: int = 0
    stop: int = 0
    num_rows: int | None = None


@dataclass(frozen=True)
class Columns:
    """How tables and data sets are read.

    Attributes:
        image: column of the images.
        id: column that names the rows; `None`: the path, or table and number.
        split: of data sets.
        config_name: of data sets.
    """

    image: str = "image"
    id: str | None = None
    split: str = "test"
    config_name: str | None = None


def read_part(part: Part, listing: Path, columns: Columns) -> Iterator[Item]:
    """The rows of a part in their order, one after the other."""
    if part.kind == "files":
        return _listed_files(listing / part.source)
    if part.kind == "rows":
        return _parquet_rows(part, columns)
    if part.kind == "tar":
        return _members(part.source)
    return _shard_rows(part, columns)


def write_file_list(path: Path, files: list[tuple[str, str]]) -> None:
    """Writes pairs of id and place; any name survives, also one that is no UTF-8."""
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as file:
        file.writelines(json.dumps(pair).encode("ascii") + b"\n" for pair in files)


def _listed_files(path: Path) -> Iterator[Item]:
    with gzip.open(path, "rt", encoding="ascii") as lines:
        for line in lines:
            name, place = json.loads(line)
            yield Item(name, place)


def _parquet_rows(part: Part, columns: Columns) -> Iterator[Item]:
    wanted = [columns.image] if columns.id is None else [columns.image, columns.id]
    with open_stream(part.source) as stream:
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=2**20)
        number = sum(file.metadata.row_group(index).num_rows for index in range(part.start))
        batches = file.iter_batches(ROWS_AT_A_TIME, row_groups=range(part.start, part.stop), columns=wanted)
        for row in (row for batch in batches for row in batch.to_pylist()):
            name = f"{printable(part.source)}#{number}" if columns.id is None else str(row[columns.id])
            yield Item(name, cell_content(row[columns.image], part.source))
            number += 1


def cell_content(value: Any, table: str) -> Any:
    """What a cell holds: bytes, or a path, which begins where the table lies; a list of one image is that image."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if not isinstance(value, str) or is_address(value) or value.startswith("data:"):
        return value
    if is_address(table) and not value.startswith("/"):
        return f"{table.rpartition('/')[0]}/{value}"
    if len(value) >= LONGEST_PATH and BASE64.fullmatch(value):
        return value
    return str(Path(table).parent / value)


def _members(tar: str) -> Iterator[Item]:
    """The images of a tar, in its order, without going back in it; a damaged one ends with a row that says so."""
    name, suffixes = printable(tar), listed_suffixes()
    try:
        with open_stream(tar) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                base = member.name.rpartition("/")[2]
                if member.isfile() and suffix_of(base) in suffixes and not is_hidden(base):
                    file = archive.extractfile(member)
                    yield Item(f"{name}::{printable(member.name)}", file.read() if file else b"")
    except (tarfile.TarError, EOFError, OSError) as error:
        yield Item(name, ImageReadError(f"{name}: a damaged tar ({error}); what follows in it could not be read."))


def _shard_rows(part: Part, columns: Columns) -> Iterator[Item]:
    dataset = streamed(part.source, columns).shard(part.stop, part.start)
    for number, row in enumerate(dataset):
        image = row["image"] or {}
        default = f"{part.source}/{columns.split}/{part.start}#{number}"
        name = default if columns.id is None else str(row[columns.id])
        yield Item(name, image.get("bytes") or image.get("path"))


def streamed(data: str, columns: Columns) -> Any:
    """A data set as a stream without its labels, in which an image that is not there is an empty cell."""
    from hf_contour.data.sources import ColumnNames, load_source

    names = ColumnNames(image=columns.image, contours=None, label=None)
    dataset = load_source(data, split=columns.split, columns=names, streaming=True, config_name=columns.config_name)
    kept = ["image"] if columns.id is None else ["image", columns.id]
    missing = [name for name in kept if name not in (dataset.column_names or [])]
    if missing:
        raise ValueError(f"{data} has no column {missing[0]!r}; its columns are {dataset.column_names}.")
    return dataset.select_columns(kept)


def csv_rows(table: str, columns: Columns) -> Iterator[tuple[str, str]]:
    """Id and place of each row of a csv, whose delimiter and encoding are found from its beginning.

    Bytes that are not UTF-8 survive: names of files can have any.

    Raises:
        ValueError: If the table has no such column.
    """
    with open_stream(table) as stream:
        start = bytes(stream.read(65536))
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    header, delimiter = split_header(Path(table), start.decode(encoding, errors="replace"), columns.image)
    image = column_place(header, table, columns.image)
    name = None if columns.id is None else column_place(header, table, columns.id)
    with open_stream(table) as stream:
        text = io.TextIOWrapper(stream, encoding=encoding, newline="", errors="surrogateescape")
        rows = csv.reader(text, delimiter=delimiter)
        for row in itertools.islice((row for row in rows if any(row)), 1, None):
            cell = row[image].strip() if image < len(row) else ""
            content = cell_content(cell, table) if cell else ""
            default = cell or f"{table}#{rows.line_num}"
            yield printable(default if name is None else row[name].strip()), content


def column_place(header: list[str], table: str, column: str) -> int:
    """The place of a column in the header of a table; `ValueError` if it is not there, naming those that are."""
    if column not in header:
        raise ValueError(
            f"{printable(table)} has no column {column!r}; its columns are {header}. Name it with --image_column or "
            "--id_column."
        )
    return header.index(column)
