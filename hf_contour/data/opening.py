"""One way to open each kind of source: its splits, how a split is read, and what is wrong with it as a whole."""

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, IterableDataset, get_dataset_split_names, load_dataset, load_from_disk
from datasets.data_files import DataFilesList

from hf_contour.data.archives import unpacked
from hf_contour.data.bsds import BSDS_FEATURES, find_bsds_root, read_bsds_rows
from hf_contour.data.file_names import printable
from hf_contour.data.hub import hub_or_cache, telling_nobody
from hf_contour.data.open_source import OpenSource, as_asked
from hf_contour.data.opening_folders import open_folder
from hf_contour.data.opening_tables import open_csv, open_metadata
from hf_contour.data.problems import SourceError
from hf_contour.data.source_kinds import SOURCE_KINDS, kind_of_folder, parquet_files
from hf_contour.data.split_names import canonical, refuse_twins
from hf_contour.data.standard_columns import AnyDataset, ColumnNames


def open_source(
    source: str | Path,
    *,
    kind: str,
    columns: ColumnNames,
    config_name: str | None = None,
    cache_dir: str | Path | None = None,
) -> OpenSource:
    """Open a source; its kind is one of `SOURCE_KINDS`.

    Raises:
        ValueError: If the kind is unknown, there is no such configuration, or the splits cannot be told.
        FileNotFoundError: If it is not there.
    """
    if kind not in SOURCE_KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {SOURCE_KINDS}.")
    cache = None if cache_dir is None else str(cache_dir)
    if kind in ("hub", "configured_folder"):
        return _open_by_datasets(source, kind, config_name, cache)
    if config_name is not None:
        raise ValueError(
            f"config_name is {config_name!r}, but {printable(source)} ({kind}) has no configurations; leave it out."
        )
    if kind == "parquet":
        return _open_parquet(source, cache)
    path = Path(source).expanduser()
    if kind == "zip":
        archive = path if path.is_file() else next(path.glob("*.zip"))
        inside = unpacked(archive, cache_dir)
        return open_source(inside, kind=kind_of_folder(inside), columns=columns, cache_dir=cache_dir)
    if kind == "bsds":
        return _open_bsds(path)
    if kind == "saved":
        return _open_saved(path)
    if kind == "csv":
        return open_csv(path, columns)
    return open_metadata(path, columns) if kind == "metadata" else open_folder(path, columns)


def _open_by_datasets(source: str | Path, kind: str, config_name: str | None, cache: str | None) -> OpenSource:
    # An absolute path, which `datasets` cannot take for a Hub id.
    address = str(source) if kind == "hub" else str(Path(source).expanduser().absolute())
    reaching = partial(hub_or_cache, source) if kind == "hub" else telling_nobody
    if kind != "hub" and any(sign in address for sign in ("*", "?", "[", "]", "{", "}", "::")):
        raise SourceError(
            "name_not_taken",
            f"{printable(source)}: the configurations of a folder whose path holds one of * ? [ ] {{ }} :: cannot be "
            "read. Rename the folder, or name the Parquet files themselves.",
        )

    def read(split: str, streaming: bool) -> AnyDataset:
        with reaching():
            return load_dataset(address, config_name, split=split, streaming=streaming, cache_dir=cache)

    with reaching():
        return OpenSource(list(get_dataset_split_names(address, config_name)), read)


def _open_parquet(source: str | Path, cache: str | None) -> OpenSource:
    files = parquet_files(source)
    path = Path(source).expanduser().absolute()

    def read(split: str, streaming: bool) -> AnyDataset:
        # Only the files of this split: with all of them, `datasets` casts every split to the types of the first. A
        # finished list: as text, `datasets` would take names with [ ] or * for patterns.
        paths = [str(file.absolute()) for file in files[split]]
        if any("::" in name for name in paths):
            raise SourceError(
                "name_not_taken",
                f"{printable(source)}: Parquet below a path with '::' cannot be read. Rename the folder.",
            )
        filled = [path for path in paths if pq.ParquetFile(path).metadata.num_rows]
        if not filled:
            raise SourceError("split_empty", f"{printable(source)}, split {split}: there are no rows.", paths)
        states = [Path(path).stat() for path in filled]
        known = DataFilesList(filled, [(str(state.st_size), str(state.st_mtime_ns)) for state in states])
        with telling_nobody():
            options: dict[str, Any] = {"split": split, "streaming": streaming, "cache_dir": cache}
            return load_dataset("parquet", data_files={split: known}, **options)

    return OpenSource(list(files), read, path if path.is_dir() else path.parent)


def _open_bsds(path: Path) -> OpenSource:
    root = find_bsds_root(path)
    if root is None:
        raise FileNotFoundError(
            f"{printable(path)} is no BSDS folder; expected the sub-folders images and groundTruth."
        )
    folders = sorted(folder.name for folder in (root / "images").iterdir() if folder.is_dir())
    by_split: dict[str, list[str]] = {}
    for name in folders:
        by_split.setdefault(canonical(name), []).append(name)
    for split, names in by_split.items():
        refuse_twins(names, split, path)

    def read(split: str, streaming: bool) -> AnyDataset:
        arguments = {"root": str(root), "folder_name": by_split[split][0]}
        if streaming:
            return IterableDataset.from_generator(read_bsds_rows, features=BSDS_FEATURES, gen_kwargs=arguments)
        # In memory (1-bit maps are small): a cache would not notice that a .mat file changed.
        return Dataset.from_list(list(read_bsds_rows(**arguments)), features=BSDS_FEATURES)

    return OpenSource(list(by_split), read)


def _open_saved(path: Path) -> OpenSource:
    stored = load_from_disk(str(path))
    parts = dict(stored) if isinstance(stored, DatasetDict) else {str(stored.split or "train"): stored}
    return OpenSource(list(parts), lambda split, streaming: as_asked(parts[split], streaming), path.absolute())
