"""A folder of images without a table: splits and classes are told by the names of its folders.

The first level below a split is the class. Whatever leaves a doubt about it is a problem with its files named.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_contour.data.file_names import (
    HEIF_SUFFIXES,
    FolderContent,
    folder_content,
    holds_image,
    images_in,
    is_utf8,
    printable,
    sub_folders,
)
from hf_contour.data.labels import near_twins
from hf_contour.data.problems import Problem, listed
from hf_contour.data.split_names import SPLIT_WORDS, SPLITS, split_of_prefix

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass
class FolderSplit:
    """One split of a folder of images.

    Attributes:
        folder: where it lies.
        images: its images, sorted by path.
        classes: class names, sorted; empty where the images have no class folders.
        labels: class name of each image; empty where there are no classes.
        problems: what is wrong or odd.
    """

    folder: Path
    images: list[Path] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def split_folders(folder: Path) -> dict[str, Path]:
    """The folder of each split; the folder itself is `train` where none is named for a split."""
    named = {path: SPLIT_WORDS.get(path.name.lower()) for path in sub_folders(folder)}
    found = {split: path for split in SPLITS for path, name in named.items() if name == split}
    return found or {"train": folder}


def split_folder_problems(folder: Path) -> list[Problem]:
    """What leaves a doubt about the splits of a folder."""
    folders = sub_folders(folder)
    named = [path for path in folders if path.name.lower() in SPLIT_WORDS]
    problems = []
    for split in SPLITS:
        same = [path.name for path in named if SPLIT_WORDS[path.name.lower()] == split]
        if len(same) > 1:
            message = f"{printable(folder)} has the folders {' and '.join(same)}, which both mean the split {split}"
            problems.append(Problem("split_named_twice", f"{message}. Keep one, or join them.", tuple(same)))
    nearly = [path.name for path in folders if path not in named and split_of_prefix(path.name)]
    if not named and len(nearly) > 1:
        message = (
            f"{printable(folder)} has the folders {listed(nearly)}, which read like splits but are called otherwise. "
            f"Rename them to {', '.join(dict.fromkeys(str(split_of_prefix(name)) for name in nearly))}; if they are "
            "classes, give a csv with a column label."
        )
        problems.append(Problem("split_doubtful", message, tuple(nearly)))
    if named:
        problems += _beside_splits(folder, folders, named)
    return problems


def _beside_splits(folder: Path, folders: Sequence[Path], named: Sequence[Path]) -> list[Problem]:
    """Images and tables that lie beside the folders of splits, and so in no split."""
    problems = []
    with_images = [path.name for path in folders if path not in named and holds_image(path)]
    if with_images:
        names = ", ".join(path.name for path in named)
        message = (
            f"{printable(folder)} has {names} beside {listed(with_images)}: either the first are splits, and the "
            "others belong to none, or all are classes. Move the others, or put all classes into a folder train."
        )
        problems.append(Problem("split_doubtful", message, tuple(with_images)))
    tables = [path for path in folder.iterdir() if path.suffix.lower() in TABLE_SUFFIXES and path.is_file()]
    problems += _table_problems(folder, sorted(tables))
    strays = images_in(folder)
    if strays:
        problems.append(_stray_problem(folder, strays, "the folders of the splits"))
    return problems


def _stray_problem(folder: Path, strays: Sequence[Path], beside: str) -> Problem:
    names = [printable(path.name) for path in strays]
    message = (
        f"{printable(folder)} has {len(names):,} image{'s' * (len(names) > 1)} beside {beside} ({listed(names)}), "
        "which would have no class. Move them into the folder of their class, or away."
    )
    return Problem("stray_image", message, tuple(printable(path) for path in strays))


def read_split(folder: Path, *, with_labels: bool = True) -> FolderSplit:
    """List the images of a split and, where they lie in class folders, their classes.

    Args:
        folder: of the split.
        with_labels: False takes every image below the folder and looks at no class.
    """
    content = folder_content(folder)
    split = FolderSplit(folder, list(content.images))
    split.problems += _unread_problems(folder, content)
    with_images = _first_parts(folder, [*content.images, *content.unread])
    with_others_alone = _first_parts(folder, content.others) - with_images
    # A folder of notes is no class; an empty folder is a class without images, and said to be.
    classes = [path for path in sub_folders(folder) if path.name not in with_others_alone]
    if with_labels and classes:
        _add_classes(split, classes, content)
    return split


def _first_parts(folder: Path, files: Sequence[Path]) -> set[str]:
    return {file.relative_to(folder).parts[0] for file in files}


def _add_classes(split: FolderSplit, classes: Sequence[Path], content: FolderContent) -> None:
    names = {path: _class_name(path, split) for path in classes}
    split.problems += _hidden_problems(split.folder, content)
    strays = [path for path in split.images if path.parent == split.folder]
    if strays:
        split.problems.append(_stray_problem(split.folder, strays, "the class folders"))
        split.images = [path for path in split.images if path.parent != split.folder]
    twins = near_twins(sorted(set(names.values())))
    if twins:
        message = (
            f"{printable(split.folder)} has the class folders {' and '.join(twins)}, which differ in case or blanks "
            "alone. Join them, or give them other names if they are two classes."
        )
        split.problems.append(Problem("class_twins", message, tuple(twins)))
    split.problems += _depth_problems(split, classes)
    split.classes = sorted(set(names.values()))
    split.labels = [names[split.folder / path.relative_to(split.folder).parts[0]] for path in split.images]


def _class_name(path: Path, split: FolderSplit) -> str:
    if not is_utf8(path.name):
        message = f"{printable(path)}: the name of this class folder is not UTF-8. Rename the folder."
        split.problems.append(Problem("name_not_utf8", message, (printable(path),)))
    return unicodedata.normalize("NFC", printable(path.name))


def _depth_problems(split: FolderSplit, classes: Sequence[Path]) -> list[Problem]:
    """The first level is the class where all images lie equally deep below it, and there are two such folders."""
    if not split.images:
        return []
    depths = defaultdict(list)
    for path in split.images:
        depths[len(path.parts)].append(path)
    deepest = depths[max(depths)]
    deeper = sorted({printable(path.parent.name) for path in deepest})
    if len(depths) == 1 and (len(classes) > 1 or len(deeper) == 1):
        return []
    first = sorted(printable(path.name) for path in classes)
    message = (
        f"{printable(split.folder)}: the classes are either {listed(first)} (the first level) or {listed(deeper)} "
        f"(folders of images, as in {printable(deepest[0].relative_to(split.folder))}). Move the images into the "
        "class folders directly, give the folder of the classes, or give a csv with a column label."
    )
    return [Problem("class_doubtful", message, tuple(printable(path) for path in deepest[:3]))]


def _hidden_problems(folder: Path, content: FolderContent) -> list[Problem]:
    hidden = [printable(path.relative_to(folder)) for path in content.hidden_folders]
    if not hidden:
        return []
    message = (
        f"{printable(folder)} has hidden folders with images ({listed(hidden)}), which are no classes. Rename them "
        "without the point if they are, or move them away."
    )
    return [Problem("hidden_folder", message, tuple(hidden))]


def _unread_problems(folder: Path, content: FolderContent) -> list[Problem]:
    """Warnings about images of unread kinds, and tables that nothing asks for."""
    problems = []
    if content.unread:
        names = [printable(path.relative_to(folder)) for path in content.unread]
        is_heif = any(path.suffix.lower() in HEIF_SUFFIXES for path in content.unread)
        hint = "Install pip install 'hf_contour[heif]', or convert them" if is_heif else "Convert them to PNG or JPEG"
        message = f"{printable(folder)}: {len(names):,} images of kinds that are not read: {listed(names)}. {hint}."
        problems.append(Problem("image_not_read", message, tuple(names)))
    problems += _table_problems(folder, [path for path in content.others if path.suffix.lower() in TABLE_SUFFIXES])
    return problems


def _table_problems(folder: Path, tables: Sequence[Path]) -> list[Problem]:
    if not tables:
        return []
    names = [printable(path.relative_to(folder)) for path in tables]
    message = (
        f"{printable(folder)} has tables that are not heeded: {listed(names)}. A table of the images is called "
        "metadata.csv, or train.csv and so on with a column image; name a table itself to read it."
    )
    return [Problem("stray_table", message, tuple(names))]
