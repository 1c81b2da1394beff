"""Class labels that never shift: mapped once, the same numbers in every split."""

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datasets import ClassLabel, Dataset, IterableDataset, List

from hf_contour.data.problems import SourceError, listed

logger = logging.getLogger(__name__)

MAX_CLASSES = 10_000  # numbers above it are ids that were taken for labels
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)")  # "01" is a word: as a number it would be the class "1"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|inf", re.IGNORECASE)


def normalised(name: str) -> str:
    """A class name in composed form (NFC), in which names that look alike are equal."""
    return unicodedata.normalize("NFC", name)


def label_names(dataset: Dataset | IterableDataset) -> list[str]:
    """Class names of a loaded data set, in the order of their numbers.

    Raises:
        ValueError: If the column `label` is not there or holds no `ClassLabel`.
    """
    feature = (dataset.features or {}).get("label")
    inner = feature.feature if isinstance(feature, List) else feature
    if feature is None:
        raise ValueError(
            "the data has no labels (no column 'label'). Put the images of each class into a folder of its own, "
            "or name the column (label_column)."
        )
    if not isinstance(inner, ClassLabel):
        raise ValueError(
            f"column 'label' is {feature}; expected a ClassLabel or a list of it. Load the data with load_source."
        )
    return list(inner.names)


@dataclass(frozen=True)
class LabelMapping:
    """Maps the labels of a source, numbers or words, to class numbers.

    Attributes:
        names: class names in the order of their numbers.
        source_names: class names of the stored numbers where the source knows them (a `ClassLabel` column).
        text_numbers: numbers come as text (csv), so that "1" means class 1 where no class is called "1".

    A number without such a column is the place of its class in `names`, except where the names are whole numbers
    themselves, other than 0, 1, 2 and so on: then it is the class of that name.
    """

    names: tuple[str, ...]
    source_names: tuple[str, ...] | None = None
    text_numbers: bool = False

    def __post_init__(self) -> None:
        plain = {normalised(name) for name in self.names}
        if not self.names or len(plain) != len(self.names) or not all(self.names):
            raise ValueError(f"label_names are {list(self.names)}; expected distinct names that are not empty.")

    def __call__(self, value: Any, where: str) -> int:
        """Class number of one label; `where` names its row in errors."""
        if isinstance(value, bool):
            value = str(value)
        places = self._places
        if isinstance(value, str):
            value = normalised(value)
        if self.text_numbers and isinstance(value, str) and value not in places and _INTEGER.fullmatch(value):
            value = int(value)
        if value is None or value == "":
            raise ValueError(f"{where}: the label is missing. {self._expected()}")
        if isinstance(value, float):
            raise ValueError(f"{where}: the label is the float {value!r}. {self._expected()}")
        if isinstance(value, int):
            return self._from_number(value, where)
        if not isinstance(value, str):
            raise ValueError(f"{where}: the label {value!r} is of type {type(value).__name__}. {self._expected()}")
        if value not in places:
            raise ValueError(f"{where}: the label {value!r} is unknown. {self._expected()}")
        return places[value]

    @cached_property
    def _places(self) -> dict[str, int]:
        """Number of each class by its name in composed form."""
        return {normalised(name): place for place, name in enumerate(self.names)}

    def _from_number(self, value: int, where: str) -> int:
        known = self.source_names or self.names
        if self.source_names is None and self._names_are_other_numbers:
            # "10" can be the name of class 1: the number 10 then means that name, and never its place.
            if str(value) not in self._places:
                raise ValueError(f"{where}: the label {value} is unknown. {self._expected()}")
            return self._places[str(value)]
        if not 0 <= value < len(known):
            raise ValueError(
                f"{where}: the label {value} is not a number from 0 to {len(known) - 1}. {self._expected()}"
            )
        if normalised(known[value]) not in self._places:
            raise ValueError(f"{where}: the label {known[value]!r} is unknown. {self._expected()}")
        return self._places[normalised(known[value])]

    @cached_property
    def _names_are_other_numbers(self) -> bool:
        """Whether the classes are called by whole numbers that are not their places, as 1 and 2 for 0 and 1."""
        numbers = all(_INTEGER.fullmatch(name) for name in self.names)
        return numbers and any(name != str(place) for place, name in enumerate(self.names))

    def _expected(self) -> str:
        names = f"[{listed([repr(name) for name in self.names], most=20)}]"
        if self.source_names is None and self._names_are_other_numbers:
            return f"Expected one of {names}, which name the classes; correct or remove the row."
        return f"Expected one of {names}, by name or by number from 0; correct or remove the row."


def collect_label_names(
    values: Iterable[tuple[Any, str]], *, text_numbers: bool = False, skip_bad: bool = False
) -> list[str]:
    """Class names for labels that come without: words sorted, whole numbers from 0 to the largest.

    Args:
        values: pairs of a label and the words that name its row.
        text_numbers: numbers come as text (csv).
        skip_bad: leave out what is missing, a float or negative in place of raising.

    Raises:
        ValueError: At a label that is missing, a float or negative, where words and numbers are mixed, and where words
            differ in nothing but case and blanks, as "Men" and "men ", which would be two classes.
    """
    first_row: dict[Any, str] = {}
    for value, where in values:
        if skip_bad and _is_bad(value, text_numbers=text_numbers):
            continue
        if value is None or value == "" or isinstance(value, float):
            raise ValueError(f"{where}: the label is {value!r}; expected a class name or a number from 0.")
        if isinstance(value, bool | str):
            value = normalised(str(value))
        first_row.setdefault(value, where)
    if not first_row:
        raise ValueError("there are no labels to take class names from; give label_names.")
    if text_numbers:
        first_row = _numbers_from_text(first_row)
    numbers = {value: where for value, where in first_row.items() if isinstance(value, int)}
    if not numbers:
        _refuse_near_twins(first_row)
        return sorted(first_row)
    words = {value: where for value, where in first_row.items() if not isinstance(value, int)}
    if words:
        word, where = next(iter(words.items()))
        raise ValueError(f"{where}: the label {word!r} is a word among numbers; use one kind of label.")
    return _names_of_numbers(numbers)


def near_twins(names: Iterable[str]) -> list[str]:
    """Names that differ from another in case, blanks or width alone: all that the first such pair has; else none."""
    seen: dict[str, str] = {}
    for name in names:
        plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        if plain in seen:
            return [seen[plain], name]
        seen[plain] = name
    return []


def _refuse_near_twins(first_row: dict[str, str]) -> None:
    twins = near_twins(first_row)
    if twins:
        other, word = twins
        message = (
            f"{first_row[word]}: the label {word!r} differs from {other!r} ({first_row[other]}) in case or blanks "
            "alone. Write them alike, or give label_names if they are two classes."
        )
        raise SourceError("class_twins", message)


def _is_bad(value: Any, *, text_numbers: bool) -> bool:
    if isinstance(value, str):
        is_number = text_numbers and _NUMBER.fullmatch(value.lstrip("+-"))
        return value == "" or bool(is_number and not value.isdigit())
    return value is None or isinstance(value, float) or (isinstance(value, int) and value < 0)


def _numbers_from_text(first_row: dict[Any, str]) -> dict[Any, str]:
    if all(_INTEGER.fullmatch(text) for text in first_row):
        return {int(text): where for text, where in first_row.items()}
    if all(_NUMBER.fullmatch(text) for text in first_row):
        text, where = next(pair for pair in first_row.items() if not _INTEGER.fullmatch(pair[0]))
        raise ValueError(f"{where}: the label is the float {text}; expected a class name or a number from 0.")
    return first_row


def _names_of_numbers(first_row: dict[int, str]) -> list[str]:
    low, high = min(first_row), max(first_row)
    if low < 0:
        raise ValueError(f"{first_row[low]}: the label {low} is negative; expected class numbers from 0.")
    if high >= MAX_CLASSES:
        raise ValueError(
            f"{first_row[high]}: the label {high} is above {MAX_CLASSES - 1}; this looks like an id. "
            "Choose another label column, or store the labels as words."
        )
    return [str(number) for number in range(high + 1)]


def log_class_counts(counts: Sequence[int], names: Sequence[str], *, split: str) -> None:
    """Write the rows per class to the log; a class without rows is a warning, not an error."""
    logger.info("split %s: rows per class %s", split, dict(zip(names, counts, strict=True)))
    absent = absent_classes(counts, names)
    if absent:
        logger.warning("split %s has no row of %s; the numbers of the other classes stay as they are", split, absent)


def absent_classes(counts: Sequence[int], names: Sequence[str]) -> str:
    """Words for the classes without rows, at most three of them named; empty if every class has rows."""
    absent = [repr(name) for name, count in zip(names, counts, strict=True) if not count]
    if not absent:
        return ""
    share = f" ({len(absent):,} of {len(names):,} classes)" if len(absent) > 3 else ""
    return f"class [{listed(absent)}]{share}"
