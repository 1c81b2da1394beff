"""Checksums that tell one data set from another."""

import hashlib
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

_NUM_PROBES = 16  # rows that are looked at, spread evenly


def rows_sha256(rows: Dataset | IterableDataset) -> str:
    """SHA-256 over the columns, the number of rows and some of them; of a stream only the columns count."""
    digest = hashlib.sha256(repr(rows.features).encode())
    if isinstance(rows, Dataset):
        count = len(rows)
        digest.update(str(count).encode())
        for index in sorted({count * probe // _NUM_PROBES for probe in range(_NUM_PROBES)}) if count else ():
            row = rows[index]
            # Where images are files, their paths may change and their bytes are not read here.
            image = row.pop("image")
            digest.update(image.get("bytes") or Path(image.get("path") or "").name.encode())
            digest.update(str(row.get("label")).encode())
    return digest.hexdigest()


def listing_sha256(rows: Dataset | IterableDataset) -> str:
    """SHA-256 over the label of every row, and the name and size of every image and contour map.

    Cheap, since no image is read. Of a stream only the columns count.
    """
    digest = hashlib.sha256(repr(rows.features).encode())
    if isinstance(rows, Dataset):
        kept = [name for name in ("label", "image", "contours") if name in rows.column_names]
        for table in rows.select_columns(kept).with_format("arrow").iter(1000):
            for name in kept:
                column = table[name].combine_chunks()
                if name == "label":
                    digest.update(repr(column.to_pylist()).encode())
                    continue
                if name == "contours":
                    digest.update(repr(pc.list_value_length(column).to_pylist()).encode())
                    column = column.flatten()
                sizes = pc.binary_length(column.field("bytes")).to_pylist()
                for size, path in zip(sizes, column.field("path").to_pylist(), strict=True):
                    digest.update(f"{_file_size(path) if size is None else size} {Path(path or '').name}\n".encode())
    return digest.hexdigest()


def _file_size(path: str | None) -> int | None:
    try:
        return Path(path or "").stat().st_size
    except OSError:
        return None  # on the Hub, or gone, which whoever reads it will say
