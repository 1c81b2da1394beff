"""Several sources as one data set: one label mapping, the columns that any has, and which source a row is of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from datasets import (
    ClassLabel,
    Features,
    Image,
    IterableDataset,
    List,
    Value,
    concatenate_datasets,
    interleave_datasets,
)

from hf_contour.data import EMBEDDED
from hf_contour.data.balance import BALANCES, sampling_weights
from hf_contour.data.garments.drawing import embedded_dataset
from hf_contour.data.labels import label_names as class_names
from hf_contour.data.source_settings import Source, parse_sources
from hf_contour.data.sources import load_source
from hf_contour.data.standard_columns import AnyDataset, replace_column

__all__ = ["BALANCES", "Source", "load_sources", "parse_sources", "sampling_weights"]

SOURCE_COLUMN = "source"
TOLERANCE_COLUMN = "label_tolerance"
_GROUPS_PER_SOURCE = 2**40  # above any number of near-duplicate clusters


@dataclass(frozen=True)
class _Part:
    """One source on its way into the mixture: which one, its number among all, and its rows."""

    source: Source
    number: int
    dataset: AnyDataset


def load_sources(
    sources: Iterable[Any] | str | Mapping[str, Any] | Source,
    *,
    split: str = "train",
    label_names: Sequence[str] | None = None,
    with_labels: bool = True,
    with_contours: bool = False,
    streaming: bool = False,
    group_column: str = "near_dup_cluster",
    embedded_samples: int | None = None,
    embedded_size: tuple[int, int] = (112, 112),
    seed: int = 0,
    **reading: Any,
) -> AnyDataset:
    """Load a split of several sources as one data set.

    Beside `image`, and `label` or `contours` as asked for, it has `source` (a `ClassLabel` of their names, in their
    order) and every other column that any source has, null where another has none; columns of images are left out.
    Where types differ, numbers become wider and everything else text. A column called `source` becomes
    `original_source`. Numbers of near-duplicate clusters are made different in every source.

    Args:
        sources: one or several of what `Source.parse` takes.
        split: `train`, `validation` or `test`; a source that names its splits and not this one is left out.
        label_names: class names that fix the numbers. Give those of the training split for every other split.
        with_labels: whether labels are needed.
        with_contours: whether contour maps are needed.
        streaming: give an `IterableDataset` that draws from the sources by their weights, every row at least once
            a pass; without it, rows stand source by source, for `sampling_weights` to draw from.
        group_column: the column whose numbers are made different in every source.
        embedded_samples: drawn garments, where a source is "embedded"; None takes the split's usual number.
        embedded_size: their height and width.
        seed: of the drawn garments and of the order of a stream.
        **reading: further arguments of `load_source`, such as `multi_label`.

    Returns:
        A `Dataset`, or an `IterableDataset` when streaming.

    Raises:
        ValueError: If the class names of two sources differ, no source has the split, or a source cannot be read
            (see `load_source`); names the source.
        FileNotFoundError: If a source is not there.
    """
    parsed = parse_sources(sources)
    parts = []
    for number, source in enumerate(parsed):
        source_split = source.split_name(split)
        if source_split is None:
            continue
        if source.path == EMBEDDED:
            drawn = embedded_dataset(source_split, num_samples=embedded_samples, size=embedded_size, seed=seed)
            dataset: AnyDataset = drawn.to_iterable_dataset() if streaming else drawn
        else:
            columns = source.columns(with_labels=with_labels, with_contours=with_contours)
            names = None if source.label_map else label_names
            options = {"config_name": source.config, "streaming": streaming, "label_names": names, **reading}
            dataset = load_source(source.path, split=source_split, columns=columns, **options)
        dataset = _with_needed_columns(dataset, source, {"label": with_labels, "contours": with_contours})
        parts.append(_Part(source, number, _with_own_groups(dataset, group_column, number)))
    if not parts:
        raise ValueError(f"none of the sources {[source.name for source in parsed]} takes part in split {split!r}.")
    if with_labels:
        parts = _with_common_labels(parts, label_names)
    features = _common_features(parts, parsed)
    return _joined(parts, [_aligned(part, features) for part in parts], streaming=streaming, seed=seed)


def _joined(parts: Sequence[_Part], aligned: list[AnyDataset], *, streaming: bool, seed: int) -> AnyDataset:
    """The parts' rows one source after the other, or as a stream drawn by their weights."""
    if len(aligned) == 1:
        return aligned[0]
    if not streaming:
        return concatenate_datasets(aligned)
    total = sum(part.source.weight for part in parts)
    shares = [part.source.weight / total for part in parts]
    return interleave_datasets(aligned, probabilities=shares, seed=seed, stopping_strategy="all_exhausted")


def _with_needed_columns(dataset: AnyDataset, source: Source, needed: Mapping[str, bool]) -> AnyDataset:
    """Leaves out labels and contours that nobody asked for, and columns of other images."""
    for column in needed:
        if needed[column] and column not in dataset.features:
            raise ValueError(
                f"source {source.name} has no column {column!r}; its columns are {list(dataset.features)}. "
                f"Name the right one with the key '{column}_column'."
            )
    unwanted = [column for column in needed if not needed[column] and column in dataset.features]
    for name, feature in dataset.features.items():
        if name not in ("image", "valid", *needed) and isinstance(getattr(feature, "feature", feature), Image):
            unwanted.append(name)
    return dataset.remove_columns(unwanted) if unwanted else dataset


def _with_own_groups(dataset: AnyDataset, column: str, number: int) -> AnyDataset:
    """Numbers of near-duplicate clusters as numbers that no other source has."""
    feature = dataset.features.get(column)
    if feature is None:
        return dataset
    is_number = isinstance(feature, Value) and "int" in feature.dtype
    return replace_column(
        dataset, column, partial(_own_group, number=number), Value("int64" if is_number else "string")
    )


def _own_group(group: Any, _: int, *, number: int) -> Any:
    if group is None:
        return None
    return group + number * _GROUPS_PER_SOURCE if isinstance(group, int) else f"{number}/{group}"


def _with_common_labels(parts: Sequence[_Part], names: Sequence[str] | None) -> list[_Part]:
    """Parts whose labels are numbered alike; the first source names the classes unless `names` does."""
    kinds = {type(part.dataset.features["label"]) for part in parts}
    if len(kinds) > 1:
        raise ValueError("some sources have several labels a row and others have one; use one kind.")
    own = [_common_names(part) for part in parts]
    classes = list(names) if names is not None else _distinct(own[0])
    origin = "the training split" if names is not None else f"source {parts[0].source.name}"
    for part, mine in zip(parts, own, strict=True):
        present = _distinct(mine)
        if set(present) != set(classes) and not (names is not None and set(present) < set(classes)):
            raise ValueError(
                f"source {part.source.name} has the classes {present}, {origin} has {classes}; they must be the same. "
                "Say with the key 'label_map' which is which (null leaves the rows of a class out)."
            )
    return [_renumbered(part, mine, classes) for part, mine in zip(parts, own, strict=True)]


def _distinct(names: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))


def _common_names(part: _Part) -> list[str | None]:
    """Common name of each class of a source, in the source's order; None for a class that is left out."""
    stored = class_names(part.dataset)
    mapping = part.source.label_map or {}
    unknown = [name for name in mapping if name not in stored]
    if unknown:
        raise ValueError(
            f"source {part.source.name}: the key 'label_map' names {unknown}, but the classes are {stored}."
        )
    return [mapping.get(name, name) for name in stored]


def _renumbered(part: _Part, own: list[str | None], classes: list[str]) -> _Part:
    """Labels as numbers of the common classes; rows of left-out classes go."""
    dataset, feature = part.dataset, ClassLabel(names=classes)
    is_multi_label = not isinstance(dataset.features["label"], ClassLabel)
    if own == classes == class_names(dataset):
        return part
    numbers = [None if name is None else classes.index(name) for name in own]
    if None in numbers and not is_multi_label:
        dataset = _without_classes(dataset, {place for place, number in enumerate(numbers) if number is None})
    renumber = partial(_renumber, numbers=numbers)
    dataset = replace_column(dataset, "label", renumber, List(feature) if is_multi_label else feature)
    return _Part(part.source, part.number, dataset)


def _renumber(label: Any, _: int, *, numbers: Sequence[int | None]) -> Any:
    if isinstance(label, list):
        return [numbers[one] for one in label if numbers[one] is not None]
    return numbers[label]


def _without_classes(dataset: AnyDataset, classes: set[int]) -> AnyDataset:
    if isinstance(dataset, IterableDataset):
        return dataset.filter(partial(_is_not_of, classes=classes))
    return dataset.select([row for row, label in enumerate(dataset["label"]) if label not in classes])


def _is_not_of(row: Mapping[str, Any], *, classes: set[int]) -> bool:
    return row["label"] not in classes


def _common_features(parts: Sequence[_Part], sources: Sequence[Source]) -> Features:
    """Columns of the mixture, those of the first part first."""
    stored: dict[str, list[Any]] = {}
    for part in parts:
        for name, feature in part.dataset.features.items():
            stored.setdefault(_free_name(name), []).append(feature)
    features = {name: _widest(found) for name, found in stored.items()}
    features[SOURCE_COLUMN] = ClassLabel(names=[source.name for source in sources])
    if any(source.label_tolerance for source in sources):
        features[TOLERANCE_COLUMN] = Value("int32")
    return Features(features)


def _free_name(name: str) -> str:
    return f"original_{name}" if name in (SOURCE_COLUMN, TOLERANCE_COLUMN) else name


def _widest(features: Sequence[Any]) -> Any:
    """A type for what has several types in the sources: wider numbers, else text."""
    if all(feature == features[0] for feature in features):
        return features[0]
    types = [feature.dtype if isinstance(feature, Value) else "" for feature in features]
    if all("int" in one for one in types):
        return Value("int64")
    if all("int" in one or "float" in one for one in types):
        return Value("float64")
    return Value("string")


def _aligned(part: _Part, features: Features) -> AnyDataset:
    """A part with the columns of the mixture, in their order and types."""
    dataset = part.dataset
    moves = {name: _free_name(name) for name in dataset.features if _free_name(name) != name}
    dataset = dataset.rename_columns(moves) if moves else dataset
    constants: dict[str, Any] = dict.fromkeys(name for name in features if name not in dataset.features)
    constants[SOURCE_COLUMN] = part.number
    if TOLERANCE_COLUMN in features:
        constants[TOLERANCE_COLUMN] = part.source.label_tolerance
    changed = {
        name: _as_text if feature == Value("string") else _as_it_is
        for name, feature in features.items()
        if name in dataset.features and dataset.features[name] != feature
    }
    if isinstance(dataset, IterableDataset):
        return dataset.map(partial(_aligned_row, constants=constants, changed=changed), features=features)
    for name, convert in changed.items():
        dataset = replace_column(dataset, name, convert, features[name])
    for name, value in constants.items():
        dataset = dataset.add_column(name, [value] * len(dataset), feature=features[name])
    return dataset.select_columns(list(features))


def _aligned_row(
    row: dict[str, Any], *, constants: Mapping[str, Any], changed: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Any]:
    return {**row, **{name: convert(row[name]) for name, convert in changed.items()}, **constants}


def _as_text(value: Any, _: int = 0) -> str | None:
    return None if value is None else str(value)


def _as_it_is(value: Any, _: int = 0) -> Any:
    return value
