"""csv files, and folders of images with a table `metadata`, opened as sources."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from hf_contour.data.class_folders import split_folder_problems, split_folders
from hf_contour.data.file_names import folder_content, printable
from hf_contour.data.open_source import OpenSource, as_asked
from hf_contour.data.problems import Problem, SourceError, listed
from hf_contour.data.source_kinds import csv_files, metadata_file
from hf_contour.data.split_names import SPLIT_WORDS, canonical, refuse_twins, split_of_prefix
from hf_contour.data.standard_columns import AnyDataset, ColumnNames
from hf_contour.data.text_tables import TextTable, joined_tables, read_table


def open_csv(path: Path, columns: ColumnNames) -> OpenSource:
    """Open a csv file, or a folder of csv files named for splits."""
    if path.is_dir():
        files = csv_files(path)
        tables = {
            split: joined_tables([read_table(file, image_column=columns.image) for file in parts])
            for split, parts in files.items()
        }
        return _of_tables(tables, columns, path.absolute())
    table = read_table(path, image_column=columns.image)
    tables = _splits_of_column(table) or {split_of_prefix(path.name) or "train": table}
    return _of_tables(tables, columns, path.parent.absolute())


def open_metadata(path: Path, columns: ColumnNames) -> OpenSource:
    """Open a folder of images with a table `metadata`, in it or in the folder of each split."""
    folder = path.absolute()
    root = metadata_file(folder)
    if root is not None:
        table = _with_image_columns(read_table(root), folder)
        tables = _splits_of_column(table) or _splits_of_folders(table, folder) or {"train": table}
        places = dict.fromkeys(tables, folder)
    else:
        places = {split: place for split, place in split_folders(folder).items() if metadata_file(place)}
        tables = {}
        for split, place in places.items():
            file = metadata_file(place)
            assert file is not None
            tables[split] = _with_image_columns(read_table(file), place)
    opened = _of_tables(tables, columns, folder)
    named = {str(cell) for table in tables.values() for cells in table.columns.values() for cell in _flat(cells)}
    opened.problems = [] if root is not None else split_folder_problems(folder)
    opened.split_problems = lambda split: _unnamed_images(places[split], named)
    return opened


def _of_tables(tables: Mapping[str, TextTable], columns: ColumnNames, folder: Path) -> OpenSource:
    # Text as it stands: as values, a class "NA" would be missing, and "01" would be 1.
    ours = [columns.image, columns.contours, columns.label, "contour"]

    def read(split: str, streaming: bool) -> AnyDataset:
        table = tables[split]
        if not len(table):
            raise SourceError("split_empty", f"{printable(table.file)}, split {split}: there are no rows.")
        return as_asked(table.to_dataset([name for name in ours if name]), streaming)

    def row_files(split: str) -> tuple[str, ...]:
        return tuple(str(cell) for cell in tables[split].columns.get(columns.image, []))

    is_text = all(table.is_text for table in tables.values())
    return OpenSource(list(tables), read, folder, is_text=is_text, row_files=row_files)


def _splits_of_column(table: TextTable) -> dict[str, TextTable]:
    """The rows of each split that a column `split` names, whatever the case; empty without such a column."""
    column = table.column_called("split")
    if column is None:
        return {}
    rows, words = defaultdict(list), defaultdict(set)
    for row, cell in enumerate(table.columns[column]):
        name = str(cell or "").strip()
        if not name:
            raise SourceError(
                "split_missing",
                f"{printable(table.file)}, row {row} (counted from 0): {column} is blank; expected a split.",
                [printable(table.file)],
            )
        words[canonical(name)].add(name.lower())
        rows[name.lower() if name.lower() in SPLIT_WORDS else name].append(row)
    for split, names in words.items():
        refuse_twins(names, split, table.file)
    return {split: _rows(table, numbers) for split, numbers in rows.items()}


def _splits_of_folders(table: TextTable, folder: Path) -> dict[str, TextTable]:
    """The rows of each split where every image lies in the folder of one; empty where none does."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, cell in enumerate(table.columns["image"]):
        parts = Path(str(cell)).relative_to(folder).parts if Path(str(cell)).is_relative_to(folder) else ()
        rows[SPLIT_WORDS.get(parts[0].lower(), "") if len(parts) > 1 else ""].append(row)
    if set(rows) == {""} or not rows:
        return {}
    if "" in rows:
        first = rows[""][0]
        message = (
            f"{printable(table.file)}, row {first} (counted from 0): {table.columns['image'][first]} lies in the "
            "folder of no split, but others do. Add a column split, or move it."
        )
        raise SourceError("split_doubtful", message, [str(table.columns["image"][first])])
    return {split: _rows(table, numbers) for split, numbers in rows.items()}


def _rows(table: TextTable, numbers: list[int]) -> TextTable:
    columns = {name: [cells[number] for number in numbers] for name, cells in table.columns.items()}
    return TextTable(table.file, columns, table.is_text)


def _with_image_columns(table: TextTable, folder: Path) -> TextTable:
    """`file_name` becomes `image`, `x_file_name` and `x_file_names` become `x`; paths become absolute."""
    if "file_name" not in table.columns and "image_file_name" not in table.columns:
        raise SourceError(
            "table_header",
            f"{printable(table.file)} has no column file_name; its columns are {list(table.columns)}.",
            [printable(table.file)],
        )
    columns: dict[str, list[Any]] = {}
    for name, cells in table.columns.items():
        new = "image" if name == "file_name" else name.removesuffix("_file_name").removesuffix("_file_names")
        columns[new] = [_absolute(cell, folder) for cell in cells] if new != name else cells
    return TextTable(table.file, columns, table.is_text)


def _absolute(cell: Any, folder: Path) -> Any:
    if isinstance(cell, list):
        return [_absolute(one, folder) for one in cell]
    return str(folder / PurePosixPath(cell)) if cell else cell


def _flat(cells: list[Any]) -> list[Any]:
    return [one for cell in cells for one in (cell if isinstance(cell, list) else [cell])]


def _unnamed_images(folder: Path, named: set[str]) -> list[Problem]:
    """Images that the table does not name, and that are left out."""
    left_out = [printable(image) for image in folder_content(folder).images if str(image) not in named]
    if not left_out:
        return []
    message = (
        f"{printable(folder)}: {len(left_out):,} images are not in the table and are left out: {listed(left_out)}. "
        "Add rows for them, or move them away."
    )
    return [Problem("image_not_in_table", message, tuple(left_out))]
