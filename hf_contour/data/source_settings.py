"""What a recipe says of one source among several: where it is, what its columns are called, how much it weighs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hf_contour.data import EMBEDDED
from hf_contour.data.standard_columns import ColumnNames


@dataclass(frozen=True)
class Source:
    """One of several sets that are used together.

    Attributes:
        path: whatever `load_source` takes, or "embedded" for the drawn garments.
        name: what results call it; by default the configuration, else the end of the path.
        config: configuration of a Hub data set or of a folder with a README.
        split: its name for a split, by ours (`{"train": "part1", "test": "part2"}`); a split that is not among them
            is not taken from this source. One word names the training split, and the source is used for nothing
            else. None: its splits are called as ours.
        image_column: column of the images.
        contours_column: column of the contour maps.
        label_column: column of the labels.
        weight: its share of the samples beside the other sources, above 0; see `sampling_weights`.
        label_map: the common class name for a class name of this source; None leaves the rows of that class out.
        label_tolerance: pixels by which its drawn contours may be off; the loss does not count the pixels that lie
            this near to a contour without being on it.
    """

    path: str
    name: str = ""
    config: str | None = None
    split: str | Mapping[str, str] | None = None
    image_column: str = "image"
    contours_column: str = "contours"
    label_column: str = "label"
    weight: float = 1.0
    label_map: Mapping[str, str | None] | None = None
    label_tolerance: int = 0

    def __post_init__(self) -> None:
        for key in ("path", "name", "image_column", "contours_column", "label_column"):
            self._expect(key, str, "text")
        self._expect("config", str | None, "text")
        if not self.path:
            raise ValueError("the key 'path' is empty; expected a folder, a file, a Hub id or 'embedded'.")
        is_number = isinstance(self.weight, int | float) and not isinstance(self.weight, bool)
        if not is_number or not 0 < self.weight < float("inf"):
            raise ValueError(f"the key 'weight' is {self.weight!r}; expected a number above 0.")
        if type(self.label_tolerance) is not int or not 0 <= self.label_tolerance <= 100:
            raise ValueError(
                f"the key 'label_tolerance' is {self.label_tolerance!r}; expected a whole number of pixels, 0 to 100."
            )
        _check_words("split", self.split if isinstance(self.split, Mapping) else {}, str)
        if not isinstance(self.split, str | Mapping | None):
            raise ValueError(f"the key 'split' is {self.split!r}; expected a name, or names by split.")
        _check_words("label_map", self.label_map or {}, str | None)
        object.__setattr__(self, "name", self.name or self.config or Path(self.path).stem or self.path)

    def _expect(self, key: str, kind: Any, words: str) -> None:
        value = getattr(self, key)
        if not isinstance(value, kind):
            raise ValueError(f"the key {key!r} is {value!r}; expected {words}.")

    @classmethod
    def parse(cls, value: "str | Mapping[str, Any] | Source") -> "Source":
        """A source from a recipe or a flag.

        Args:
            value: a path; a path followed by keys, as `shops,config=hm,weight=2`; or a mapping of the keys.

        Raises:
            ValueError: If a key is unknown or its value impossible; names the key.
        """
        if isinstance(value, Source):
            return value
        if isinstance(value, str):
            return cls(**_keys_of_text(value))
        if not isinstance(value, Mapping):
            raise ValueError(f"{value!r} came for a source; expected a path or a mapping with the key 'path'.")
        known = [field.name for field in fields(cls)]
        for key in value:
            if key not in known:
                close = get_close_matches(str(key), known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}."
                raise ValueError(f"the key {key!r} is unknown; {hint}")
        if "path" not in value:
            raise ValueError("the key 'path' is missing; expected a folder, a file, a Hub id or 'embedded'.")
        return cls(**value)

    def split_name(self, split: str) -> str | None:
        """What this source calls one of our splits; None where it has no part in it."""
        if self.split is None:
            return split
        if isinstance(self.split, str):
            return self.split if split == "train" else None
        return self.split.get(split)

    def columns(self, *, with_labels: bool, with_contours: bool) -> ColumnNames:
        """The columns that are to be brought to their standard names."""
        return ColumnNames(
            self.image_column,
            self.contours_column if with_contours else None,
            self.label_column if with_labels else None,
        )


def parse_sources(values: Iterable[Any] | str | Mapping[str, Any] | Source) -> list[Source]:
    """Sources from one or several values that `Source.parse` takes.

    Raises:
        ValueError: If one is wrong (its number, from 1, and the key are named), or two have one name.
    """
    several = [values] if isinstance(values, str | Mapping | Source) else values
    sources: list[Source] = []
    for number, value in enumerate(several, start=1):
        try:
            sources.append(Source.parse(value))
        except ValueError as error:
            raise ValueError(f"data, source {number}: {error}") from error
    if not sources:
        raise ValueError("data names no source; expected at least one.")
    names = [source.name for source in sources]
    for number, name in enumerate(names, start=1):
        if name in names[: number - 1]:
            raise ValueError(
                f"data, source {number}: the name {name!r} is taken; give it another with the key 'name'."
            )
    return sources


def located(values: Iterable[Any] | str | Mapping[str, Any] | Source, root: str | None) -> list[Source]:
    """Sources as `parse_sources` gives them, paths that are relative starting at a folder; `None` leaves them."""
    sources = parse_sources(values)
    if root is None:
        return sources
    return [
        one if one.path == EMBEDDED else replace(one, path=str(Path(root).expanduser() / one.path)) for one in sources
    ]


def _keys_of_text(text: str) -> dict[str, Any]:
    """`shops,config=hm,weight=2` as keys; a comma that no known key follows belongs to what stands before it."""
    words = {field.name for field in fields(Source)} - {"path", "label_map"}
    path, *pairs = re.split(rf",(?=(?:{'|'.join(sorted(words))})=)", text)
    keys: dict[str, Any] = {"path": path, **dict(pair.split("=", 1) for pair in pairs)}
    for key, kind in (("weight", float), ("label_tolerance", int)):
        if key in keys:
            try:
                keys[key] = kind(keys[key])
            except ValueError:
                raise ValueError(f"the key {key!r} is {keys[key]!r}; expected a number.") from None
    return keys


def _check_words(key: str, words: Any, kind: Any) -> None:
    if not isinstance(words, Mapping) or not all(
        isinstance(name, str) and isinstance(word, kind) for name, word in words.items()
    ):
        raise ValueError(f"the key {key!r} is {words!r}; expected names by name.")
