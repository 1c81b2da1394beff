"""What a source is: told by its path, its suffix, and what lies in the folder."""

import re
from pathlib import Path

from hf_contour.data.bsds import find_bsds_root
from hf_contour.data.class_folders import split_folders
from hf_contour.data.file_names import holds_image, images_in, printable, sub_folders
from hf_contour.data.problems import SourceError, listed
from hf_contour.data.split_names import by_split, refuse_twins, split_of_prefix, split_of_whole
from hf_contour.data.text_tables import TEXT_SUFFIXES, header_of

SOURCE_KINDS = ("hub", "csv", "parquet", "bsds", "configured_folder", "saved", "zip", "metadata", "imagefolder")
METADATA_FILES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
_SUFFIX_KINDS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".zip": "zip"}
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def detect_kind(source: str | Path) -> str:
    """Tell what a source is; the first that fits, in this order.

    1. a path that does not exist: a glob pattern is `parquet`, `name` or `owner/name` given as text is `hub`
    2. a file: `.csv` and `.tsv` are `csv`, `.parquet` is `parquet`, `.zip` is `zip`
    3. a folder with `images` and `groundTruth` (also inside `data` or `BSDS500/data`) is `bsds`
    4. a folder whose README.md has `configs:` is `configured_folder`
    5. a folder that `save_to_disk` wrote is `saved`
    6. a folder with a `metadata.csv`, `.jsonl` or `.parquet`, or folders of splits with one, is `metadata`
    7. a folder with Parquet files of splits (`train*.parquet`, `train/*.parquet`, `data/train*.parquet`) is `parquet`
    8. a folder with csv files of splits (`train.csv`, `train_part1.csv`) is `csv`
    9. a folder with nothing but one zip file is `zip`
    10. a folder with WebDataset shards (`*.tar`) and no image, or with folders of splits of them, is
        `configured_folder` too: `datasets` reads both
    11. any other folder is `imagefolder`

    A table that is called otherwise (`validation_scores.csv`) or has no column `image` does not make a folder with
    sub-folders of images a table. A source that exists here is never looked up on the Hub.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a file has another suffix.
    """
    path = Path(source).expanduser()
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix not in _SUFFIX_KINDS:
            raise ValueError(
                f"{printable(path)} is a {suffix or 'file without suffix'}; expected {', '.join(_SUFFIX_KINDS)} "
                "or a folder."
            )
        return _SUFFIX_KINDS[suffix]
    if path.is_dir():
        return kind_of_folder(path)
    if any(letter in str(source) for letter in "*?["):
        return "parquet"
    looks_like_file = path.suffix.lower() in {*_SUFFIX_KINDS, ".mat"}
    if isinstance(source, Path) or looks_like_file or not _HUB_ID.fullmatch(source):
        raise FileNotFoundError(
            f"{printable(source)} is not there; expected a file, a folder, a glob pattern or a Hub id."
        )
    return "hub"


def kind_of_folder(path: Path) -> str:
    """The kind of a folder; see `detect_kind`."""
    if find_bsds_root(path):
        return "bsds"
    readme = path / "README.md"
    if readme.is_file() and re.match(r"---\n(.*\n)*?configs:", readme.read_text(encoding="utf-8", errors="replace")):
        return "configured_folder"
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return "saved"
    if metadata_file(path) or any(metadata_file(folder) for folder in split_folders(path).values()):
        return "metadata"
    if parquet_files(path):
        return "parquet"
    if csv_files(path):
        return "csv"
    if not sub_folders(path) and len(list(path.glob("*.zip"))) == 1 and not images_in(path):
        return "zip"
    shards = [*path.glob("*.tar"), *path.glob("*/*.tar")]
    return "configured_folder" if shards and not holds_image(path) else "imagefolder"


def metadata_file(folder: Path) -> Path | None:
    """The table of the images of a folder, if it has one.

    Raises:
        SourceError: If it has two.
    """
    found = [name for name in METADATA_FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise SourceError(
            "split_named_twice", f"{printable(folder)} has {' and '.join(found)}. Keep one of them.", found
        )
    return folder / found[0] if found else None


def parquet_files(source: str | Path) -> dict[str, list[Path]]:
    """Parquet files by split. A folder counts only files and sub-folders named for a split."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = [*path.glob("*.parquet"), *path.glob("*/*.parquet"), *path.glob("data/*/*.parquet")]
        names = {file: split_of_prefix(file.name) or split_of_prefix(file.parent.name) for file in sorted(files)}
        found = {file: split for file, split in names.items() if split and file.name not in METADATA_FILES}
        if _has_image_folders(path):
            found = {file: split for file, split in found.items() if _is_named_for_split(file)}
    else:
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        files = [path] if path.is_file() else sorted(anchor.glob(str(path.relative_to(anchor))))
        if not files:
            raise FileNotFoundError(f"{printable(source)} matches no file.")
        return by_split({file: split_of_prefix(file.name) or "train" for file in files})
    splits = by_split(dict(found))
    for split, paths in splits.items():
        words = [_split_word(file) for file in paths]
        refuse_twins([word for word in words if word], split, source)
    return splits


def csv_files(folder: Path) -> dict[str, list[Path]]:
    """Csv files of a folder by split: called as a split or a numbered part of one, else only beginning like one."""
    tables = sorted(file for file in folder.iterdir() if file.suffix.lower() in TEXT_SUFFIXES and file.is_file())
    exact = {file: split_of_whole(file.stem) for file in tables}
    if any(exact.values()):
        if _has_image_folders(folder) and not any("image" in header_of(file) for file in tables if exact[file]):
            return {}
        splits = by_split(exact)
        for split, files in splits.items():
            refuse_twins([re.split(r"[^a-z]", file.stem.lower())[0] for file in files], split, folder)
            if len(files) > 1 and any(file.stem.isalpha() for file in files):
                names = [file.name for file in files]
                message = (
                    f"{printable(folder)} has {listed(names)}: the whole split {split} and parts of it. Keep one."
                )
                raise SourceError("split_named_twice", message, names)
        return splits
    if _has_image_folders(folder):
        return {}
    splits = by_split({file: split_of_prefix(file.name) for file in tables})
    for split, files in splits.items():
        if len(files) > 1:
            names = [file.name for file in files]
            message = f"{printable(folder)} has {listed(names)}, which all seem to be {split}. Name one {split}.csv."
            raise SourceError("split_named_twice", message, names)
    return splits


def _has_image_folders(folder: Path) -> bool:
    """Whether two folders with images lie in it, or in a folder of a split in it."""
    places = [folder] if split_folders(folder) == {"train": folder} else list(split_folders(folder).values())
    return any(sum(map(holds_image, sub_folders(place))) > 1 for place in places)


def _is_named_for_split(file: Path) -> bool:
    return bool(split_of_whole(file.stem) or split_of_whole(file.parent.name))


def _split_word(file: Path) -> str:
    """The word that a file, or else its folder, begins with."""
    name = file.name if split_of_prefix(file.name) else file.parent.name
    return re.split(r"[^a-z]", name.lower(), maxsplit=1)[0] if split_of_prefix(name) else ""
