"""Prediction inside other engines: `ray.data.map_batches`, `datasets.map`, Spark's `mapInPandas`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from hf_contour.inference.classification import Classification
from hf_contour.inference.parts import Item, cell_content


class BatchPredictor:
    """Classifies the images of a batch and gives its other columns back beside `label`, `score` and the rest.

    The model is loaded by the process that first calls it, so that it travels to workers as a name. Images are what
    `hf-contour predict` takes: bytes, paths, addresses, `{"bytes", "path"}`; one that cannot be read costs its own
    row, which says why in `error`.

        ray.data.read_parquet(address).map_batches(BatchPredictor, fn_constructor_args=(folder,), batch_size=32)
        predictor = BatchPredictor(folder)
        dataset.map(predictor, batched=True, remove_columns=["image"], features=predictor.features(dataset.features))
        predictor = BatchPredictor(folder, keep=["id"])
        frame.mapInPandas(predictor, schema="id string, " + predictor.schema())

    Args:
        folder: of a classifier, or of its export.
        image_column: of the images; it is not given back.
        keep: columns that are given back; `None`: all others.
        probabilities: whether to add the probability of every label.
        embeddings: whether to add the pooled features.
        batch_size: images that the model sees at a time.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        image_column: str = "image",
        keep: list[str] | None = None,
        probabilities: bool = False,
        embeddings: bool = False,
        batch_size: int = 32,
    ):
        self.folder, self.image_column, self.keep = str(folder), image_column, keep
        self.options = {"probabilities": probabilities, "embeddings": embeddings}
        self.batch_size = batch_size
        self._classify: Classification | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_classify": None}

    def __call__(self, batch: Any) -> Any:
        """Answers in the form that came: a mapping of columns, a pandas frame, or an iterator of frames."""
        if isinstance(batch, Mapping):
            return self._answer(batch)
        if isinstance(batch, Iterator):
            return map(self, batch)
        import pandas as pd

        columns = {name: batch[name].tolist() for name in batch.columns}
        return pd.DataFrame(self._answer(columns))

    def features(self, given: datasets.Features) -> datasets.Features:
        """The columns of a data set after `map`: its own without the image, and the answers.

        `datasets` would take their types from the first batch, in which no image may be damaged.
        """
        names = [name for name in given if name != self.image_column] if self.keep is None else self.keep
        types = {str: "string", float: "float32", bool: "bool"}
        return datasets.Features(
            {name: given[name] for name in names}
            | {
                name: datasets.List(datasets.Value("float32")) if kind is list else datasets.Value(types[kind])
                for name, kind in self._answer_columns().items()
            }
        )

    def schema(self) -> str:
        """The columns of the answers in Spark's words; those that are kept go before them."""
        types = {str: "string", float: "float", bool: "boolean", list: "array<float>"}
        return ", ".join(f"`{name}` {types[kind]}" for name, kind in self._answer_columns().items())

    def _answer_columns(self) -> dict[str, type]:
        return {name: kind for name, kind in self._classification().columns.items() if name != "id"}

    def _classification(self) -> Classification:
        if self._classify is None:
            self._classify = Classification(self.folder, **self.options)
        return self._classify

    def _answer(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        if self.image_column not in batch:
            raise ValueError(f"the batch has no column {self.image_column!r}; its columns are {sorted(batch)}.")
        classify = self._classification()
        items = [Item(str(place), _plain(value)) for place, value in enumerate(batch[self.image_column])]
        rows: list[dict[str, Any]] = []
        for start in range(0, len(items), self.batch_size):
            rows += classify(items[start : start + self.batch_size])
        others = [name for name in batch if name != self.image_column] if self.keep is None else self.keep
        kept = {name: list(batch[name]) for name in others}
        return kept | {name: [row[name] for row in rows] for name in self._answer_columns()}


def _plain(value: Any) -> Any:
    """What a cell of a batch holds, without the wrapping of NumPy and Spark."""
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "asDict"):  # a row of Spark
        value = value.asDict()
    return cell_content(value, "./batch") if isinstance(value, dict | list | str) else value
