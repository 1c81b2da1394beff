"""Which split a name means: `val-00000-of-00001.parquet` and `Validation` are both validation."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hf_contour.data.file_names import printable
from hf_contour.data.problems import SourceError

SPLITS = ("train", "validation", "test")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
# `train`, `train1`, `train_part1`, `train-00000-of-00002`
_WHOLE_OR_PART = re.compile(r"([a-z]+)(?:[-_. ]?(?:part|shard|chunk|fold)?[-_. ]?\d+(?:[-_. ]?of[-_. ]?\d+)?)?")


def canonical(name: str) -> str:
    """`train`, `validation` or `test` for any of their names in any case; another name as it is."""
    return SPLIT_WORDS.get(name.strip().lower(), name.strip())


def split_of_prefix(name: str) -> str | None:
    """Split that a file or folder name begins with."""
    return SPLIT_WORDS.get(re.split(r"[^a-z]", name.lower(), maxsplit=1)[0])


def split_of_whole(stem: str) -> str | None:
    """Split that a name without suffix means as a whole or as a numbered part: not `train_scores`."""
    match = _WHOLE_OR_PART.fullmatch(stem.lower())
    return SPLIT_WORDS.get(match[1]) if match else None


def matching_split(split: str, splits: Sequence[str], source: str | Path) -> str:
    """Find a split by its name, or by another name for the same thing.

    Raises:
        ValueError: If there is none.
    """
    if split in splits:
        return split
    same = [name for name in splits if canonical(name) == canonical(split)]
    if not same:
        raise ValueError(f"{printable(source)} has no split {split!r}; its splits are {list(splits)}.")
    return same[0]


def by_split(names: Mapping[Path, str | None]) -> dict[str, list[Path]]:
    """Files or folders by their split, in the order of the splits; those without one are left out."""
    return {
        split: found
        for split in SPLITS
        if (found := [path for path, its_split in names.items() if its_split == split])
    }


def refuse_twins(words: Iterable[str], split: str, source: str | Path) -> None:
    """Refuse a split that is there under two names, such as `val` and `validation`.

    Raises:
        SourceError: Naming both.
    """
    distinct = sorted(set(words))
    if len(distinct) > 1:
        raise SourceError(
            "split_named_twice",
            f"{printable(source)} has {' and '.join(distinct)}, which both mean the split {split}. Keep one of them, "
            "or join them under one name.",
            distinct,
        )
