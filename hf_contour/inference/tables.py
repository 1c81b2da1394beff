"""Tables of answers: Parquet, csv or JSON lines, the same bytes for the same rows."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TYPES = {str: pa.string(), float: pa.float32(), bool: pa.bool_(), list: pa.list_(pa.float32())}


def table_bytes(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, type], suffix: str) -> bytes:
    """A table as the content of a file.

    Args:
        rows: with a value, or `None`, for each column.
        columns: name and type of each: `str`, `float`, `bool`, or `list` of floats.
        suffix: `.parquet`, `.csv` or `.jsonl`.
    """
    if suffix == ".parquet":
        return _parquet_bytes(rows, columns)
    text = io.StringIO(newline="")
    if suffix == ".csv":
        table = csv.writer(text)
        table.writerow(columns)
        table.writerows([_cell(row[name]) for name in columns] for row in rows)
    else:
        for row in rows:
            text.write(json.dumps({name: row[name] for name in columns}, ensure_ascii=False) + "\n")
    return text.getvalue().encode("utf-8")


def _parquet_bytes(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, type]) -> bytes:
    arrays = {name: pa.array([row[name] for row in rows], type=TYPES[kind]) for name, kind in columns.items()}
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays), sink, compression="zstd")
    return sink.getvalue()


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
