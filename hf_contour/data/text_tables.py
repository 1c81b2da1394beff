"""csv, tsv and jsonl files as columns: encoding and delimiter found out, classes left as text, faults with lines."""

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset

from hf_contour.data.file_names import printable
from hf_contour.data.problems import SourceError

TEXT_SUFFIXES = (".csv", ".tsv")
_DELIMITERS = (",", ";", "\t", "|")
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


@dataclass
class TextTable:
    """The cells of a table.

    Attributes:
        file: where it came from.
        columns: cells by column, in the order of the header.
        is_text: whether every cell came as text (csv), not as JSON values.
    """

    file: Path
    columns: dict[str, list[Any]]
    is_text: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def column_called(self, name: str) -> str | None:
        """The column of a name, whatever its case."""
        return next((column for column in self.columns if column.lower() == name), None)

    def to_dataset(self, ours: Collection[str]) -> Dataset:
        """A data set in memory; `ours` stay as they are, other columns of a csv become numbers where all cells are."""
        columns = self.columns
        if self.is_text:
            columns = {name: cells if name in ours else _typed(cells) for name, cells in columns.items()}
        return Dataset.from_dict(columns)


def read_table(path: Path, *, image_column: str = "image") -> TextTable:
    """Read a csv, tsv or jsonl file, or a Parquet file of metadata.

    Args:
        path: the file.
        image_column: a column that tells the right delimiter where two would do.

    Raises:
        SourceError: If it is empty, not UTF-8 (or UTF-16 with its mark), or a row has more or fewer cells than the
            header; names the line.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return TextTable(path, pq.read_table(path).to_pydict(), is_text=False)
    text = _decoded(path)
    if not text.strip():
        raise SourceError(
            "table_empty",
            f"{printable(path)} is empty; expected a header and a row for each image.",
            [printable(path)],
        )
    return _json_lines(path, text) if suffix == ".jsonl" else _csv(path, text, image_column)


def header_of(path: Path) -> list[str]:
    """Names of the columns of a csv, blanks at their ends removed."""
    return split_header(path, _decoded(path), "image")[0]


def joined_tables(tables: Sequence[TextTable]) -> TextTable:
    """Parts of one table, one after the other.

    Raises:
        SourceError: If their columns differ.
    """
    first = tables[0]
    for table in tables[1:]:
        if set(table.columns) != set(first.columns):
            raise SourceError(
                "table_parts_differ",
                f"{printable(table.file)} has the columns {list(table.columns)}, {first.file.name} has "
                f"{list(first.columns)}; parts of one split must have the same.",
                [printable(table.file)],
            )
    columns = {name: [cell for table in tables for cell in table.columns[name]] for name in first.columns}
    return TextTable(first.file, columns, first.is_text)


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SourceError(
            "table_not_utf8",
            f"{printable(path)}, line {line}: the byte 0x{content[error.start]:02X} is not {encoding.upper()}; the "
            "file seems to have another encoding, such as Latin-1. Save it as UTF-8.",
            [printable(path)],
        ) from error


def split_header(path: Path, text: str, image_column: str) -> tuple[list[str], str]:
    """The header's names, of a table's first lines, and the delimiter.

    That is the delimiter which gives the image column, else the one which gives most names.
    """
    line = next((line for line in text.splitlines() if line.strip()), "")
    headers = {}
    for delimiter in _DELIMITERS:
        headers[delimiter] = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    best = max(_DELIMITERS, key=lambda one: (image_column in headers[one], len(headers[one])))
    if path.suffix.lower() == ".tsv" and len(headers["\t"]) > 1:
        best = "\t"
    names = headers[best]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError("table_header", f"{printable(path)}: the header names {twice[0]!r} twice. Rename one.")
    return names, best


def _csv(path: Path, text: str, image_column: str) -> TextTable:
    names, delimiter = split_header(path, text, image_column)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[list[str]] = []
    is_header = True
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if is_header:
                is_header = False
                continue
            if len(cells) != len(names):
                raise SourceError(
                    "table_row",
                    f"{printable(path)}, line {reader.line_num} (row {len(rows)}, counted from 0): {len(cells)} "
                    f"cells, but the header has {len(names)} columns. Quote cells that hold {delimiter!r}.",
                    [printable(path)],
                )
            rows.append([cell.strip() for cell in cells])
    except csv.Error as error:
        raise SourceError("table_row", f"{printable(path)}, line {reader.line_num}: {error}.") from error
    return TextTable(path, {name: [row[place] for row in rows] for place, name in enumerate(names)})


def _json_lines(path: Path, text: str) -> TextTable:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SourceError("table_row", f"{printable(path)}, line {number}: {error}; expected JSON.") from error
        if not isinstance(row, dict):
            raise SourceError("table_row", f"{printable(path)}, line {number}: {line[:40]}; expected a JSON object.")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return TextTable(path, {name: [row.get(name) for row in rows] for name in names}, is_text=False)


def _typed(cells: list[str]) -> list[Any]:
    """Cells as whole numbers, floats or truth values where all are; blank ones become None."""
    filled = [cell for cell in cells if cell]
    if not filled:
        return [None] * len(cells)
    kinds: tuple[tuple[Callable[[str], Any], Callable[[str], Any]], ...] = (
        (int, _INTEGER.fullmatch),
        (float, _FLOAT.fullmatch),
        (lambda cell: cell.lower() == "true", lambda cell: cell.lower() in ("true", "false")),
    )
    for convert, fits in kinds:
        if all(map(fits, filled)):
            return [convert(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]
