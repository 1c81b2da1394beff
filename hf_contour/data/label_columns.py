"""Bring the labels of any source to the column `label`: class numbers, or lists of them."""

import collections
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value
from datasets.features import LargeList

from hf_contour.data.labels import LabelMapping, collect_label_names, log_class_counts
from hf_contour.data.problems import SourceError
from hf_contour.data.standard_columns import AnyDataset, SourceTraits, replace_column, with_column

logger = logging.getLogger(__name__)

LABEL_PROBLEM = "label_problem"  # column with what is wrong with a label, where a source is read to be checked
_OTHER_SEPARATORS = "|;,/"


def without_unlabelled(dataset: AnyDataset, traits: SourceTraits) -> AnyDataset:
    """Leave out rows without a label (null, blank or -1); how many stands in the log.

    Raises:
        SourceError: If no row has one.
    """
    if isinstance(dataset, IterableDataset):
        return dataset.filter(_is_labelled)
    kept = [row for row, value in enumerate(dataset["label"]) if not is_missing(value)]
    logger.warning(
        "%s, split %s: %d of %d rows have no label and are left out",
        traits.name,
        traits.split,
        len(dataset) - len(kept),
        len(dataset),
    )
    if not kept:
        raise SourceError("split_empty", f"{traits.name}, split {traits.split}: no row has a label.")
    return dataset.select(kept)


def _is_labelled(row: dict[str, Any]) -> bool:
    return not is_missing(row["label"])


def is_missing(value: Any) -> bool:
    """Whether a stored label says that there is none."""
    return value is None or (isinstance(value, str) and not value.strip()) or (type(value) is int and value == -1)


def with_standard_labels(
    dataset: AnyDataset, traits: SourceTraits, *, names: list[str] | None, values: Callable[[], Iterator[Any]]
) -> AnyDataset:
    """Make `label` a `ClassLabel`, or a list of it for several labels a row.

    Lists of one length that hold 0 and 1 alone are one-hot: the place of the 1 is the class. Rows with several 1, or
    none, are taken where `traits.multi_label` says so.

    Args:
        dataset: with a column `label` of numbers, words, `ClassLabel` or lists of these.
        traits: of the source.
        names: class names that fix the numbers; `None` takes those of the source, or of its values.
        values: gives an extra pass over the labels as stored.

    Raises:
        ValueError: At a label that is missing, a float, negative, out of range, unknown or there twice in a row;
            names the row.
    """
    stored = dataset.features["label"]
    is_list = isinstance(stored, List | LargeList)
    inner = stored.feature if is_list else stored
    source_names = tuple(inner.names) if isinstance(inner, ClassLabel) else None
    multi_label = is_list or traits.multi_label
    read = partial(_labels_of, traits=traits)
    if is_list and source_names is None and _is_numeric(inner):
        length = _one_hot_length(values())
        if length:
            multi_label = traits.multi_label
            read = partial(_hot_places, length=length, multi_label=multi_label)
            names = names or [str(number) for number in range(length)]
    if names is None and source_names is not None:
        names = list(source_names)
    if traits.is_text and traits.multi_label:
        _check_separator(values(), traits)
    if names is None:
        pairs = _single_labels(values(), traits, multi_label=multi_label)
        names = collect_label_names(pairs, text_numbers=traits.is_text, skip_bad=not traits.strict)
    mapping = LabelMapping(tuple(names), source_names, text_numbers=traits.is_text)
    encode = partial(_encoded_label, mapping=mapping, traits=traits, multi_label=multi_label, read=read)
    feature = ClassLabel(names=names)
    if isinstance(dataset, IterableDataset):
        return replace_column(dataset, "label", encode, List(feature) if multi_label else feature)
    numbers, problems = _encode_all(dataset["label"], encode, strict=traits.strict)
    counts = collections.Counter(number for row in numbers for number in (row if isinstance(row, list) else [row]))
    log_class_counts([counts[number] for number in range(len(names))], names, split=traits.split)
    features = Features({"label": List(feature) if multi_label else feature})
    dataset = with_column(dataset, Dataset.from_dict({"label": numbers}, features=features))
    return dataset if traits.strict else dataset.add_column(LABEL_PROBLEM, problems, feature=Value("string"))


def _encoded_label(
    value: Any,
    index: int,
    *,
    mapping: LabelMapping,
    traits: SourceTraits,
    multi_label: bool,
    read: Callable[[Any, str], list[Any]],
) -> int | list[int]:
    where = traits.row(index)
    if not multi_label and not isinstance(value, list):
        return mapping(value, where)
    numbers = [mapping(one, where) for one in read(value, where)]
    if not multi_label:
        return numbers[0]
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        raise ValueError(
            f"{where}: the labels {value!r} name the class {mapping.names[twice]!r} twice; expected each once. "
            "One-hot lists hold 0 and 1 alone and are as long as there are classes."
        )
    return numbers


def _encode_all(
    values: Iterable[Any], encode: Callable[[Any, int], Any], *, strict: bool
) -> tuple[list[Any], list[str | None]]:
    """Class numbers of all rows, `None` where there is a problem, and the problems."""
    numbers, problems = [], []
    for index, value in enumerate(values):
        number, problem = None, None
        try:
            number = encode(value, index)
        except ValueError as error:
            if strict:
                raise
            problem = str(error)
        numbers.append(number)
        problems.append(problem)
    return numbers, problems


def _labels_of(value: Any, where: str, *, traits: SourceTraits) -> list[Any]:
    """Labels of a multi-label cell; an empty list is a row to which no class applies."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(traits.label_separator) if part.strip()]
    if not isinstance(value, list):
        raise ValueError(f"{where}: the labels are {value!r}; expected a list (an empty one for no class).")
    return value


def _single_labels(values: Any, traits: SourceTraits, *, multi_label: bool) -> Iterator[tuple[Any, str]]:
    for index, value in enumerate(values):
        where = traits.row(index)
        for one in _labels_of(value, where, traits=traits) if multi_label and value is not None else [value]:
            yield one, where


def _check_separator(values: Iterable[Any], traits: SourceTraits) -> None:
    """Refuse cells of several labels of which none holds the separator, and some another one."""
    others: dict[str, str] = {}
    for value in values:
        if not isinstance(value, str):
            return
        if traits.label_separator in value:
            return
        for other in _OTHER_SEPARATORS:
            if other in value:
                others.setdefault(other, value)
    if others:
        other, example = next(iter(others.items()))
        raise SourceError(
            "label_separator",
            f"{traits.name}, split {traits.split}: no label holds the separator {traits.label_separator!r}, but "
            f"some hold {other!r}, as {example!r}. Give --label_separator.",
        )


def _is_numeric(feature: Any) -> bool:
    return isinstance(feature, Value) and any(word in feature.dtype for word in ("int", "float", "bool"))


def _one_hot_length(values: Iterable[Any]) -> int:
    """Length of the lists if all have one, above 1, and hold 0 and 1 alone, at least one 0 among them; else 0."""
    length, has_zero = 0, False
    for value in values:
        if value is None:
            continue
        length = length or len(value)
        if len(value) != length or length < 2 or any(one not in (0, 1) for one in value):
            return 0
        has_zero = has_zero or 0 in value
    return length if has_zero else 0


def _hot_places(value: Any, where: str, *, length: int, multi_label: bool) -> list[int]:
    """Classes of a list of 0 and 1."""
    if value is None:
        raise ValueError(f"{where}: the label is missing; expected a list of {length} numbers, 0 and 1.")
    places = [place for place, one in enumerate(value) if one]
    if not multi_label and len(places) != 1:
        raise ValueError(
            f"{where}: the label {value} of 0 and 1 has {len(places)} ones; expected one. "
            "With several classes a row, set multi_label."
        )
    return places
