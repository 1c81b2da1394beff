"""Batches of images to rows of labels and scores."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from hf_contour.image_processing_contour import ContourImageProcessor, ImageReadError
from hf_contour.inference.parts import Item
from hf_contour.inference.preparing import Preparation, by_shape
from hf_contour.inference.runtimes import Answers, load_runtime, read_export

LABEL_SEPARATOR = "|"  # between the labels of an image that has several
MULTI_LABEL_THRESHOLD = 0.5


class Classification:
    """Opens, prepares and classifies the images of a batch.

    A row has `id`, `label` (the best; of several-label models those of at least one half, `|` between them), `score`
    (the highest probability), `abstained` (score or familiarity lies below the config's threshold; the label stays)
    and `error`; of a model that remembers images `familiarity`; on request the probability of each label and the
    embedding.

    Args:
        folder: of a classifier, or of its export.
        device: where PyTorch runs.
        probabilities: whether to give them all.
        embeddings: whether to give the pooled features.

    Raises:
        ValueError: If the folder holds no classifier.
    """

    def __init__(
        self,
        folder: str | Path,
        device: torch.device | None = None,
        *,
        probabilities: bool = False,
        embeddings: bool = False,
    ):
        folder = Path(folder)
        self.config = model_config(folder, "contour_gender")
        self.names = [self.config["id2label"][key] for key in sorted(self.config["id2label"], key=int)]
        self.several = self.config.get("problem_type") == "multi_label_classification"
        self.threshold = 0.0 if self.several else float(self.config.get("abstain_threshold") or 0)
        self.least_familiarity = float(self.config.get("familiarity_threshold") or 0)
        described = read_export(folder)
        # An export that was made before exports told it has no such output.
        tells = bool(self.config.get("num_prototypes")) if described is None else "familiarity" in described["outputs"]
        self.with_familiarity = tells
        self.with_probabilities, self.with_embeddings = probabilities, embeddings
        self.preparation = Preparation(ContourImageProcessor.from_pretrained(folder))
        self.runtime: Callable[[Tensor], Answers] = load_runtime(folder, device or torch.device("cpu"))

    @property
    def columns(self) -> dict[str, type]:
        """Name and type of each column."""
        columns: dict[str, type] = {"id": str, "label": str, "score": float}
        if self.with_probabilities:
            columns |= {f"probability_{name}": float for name in self.names}
        if self.with_embeddings:
            columns["embedding"] = list
        if self.with_familiarity:
            columns["familiarity"] = float
        return {**columns, "abstained": bool, "error": str}

    def __call__(self, items: Sequence[Item]) -> list[dict[str, Any]]:
        """A row for each image, in their order; those of one batch do not depend on other batches."""
        rows = [dict.fromkeys(self.columns) | {"id": item.id} for item in items]
        images: list[Tensor] = []
        good: list[int] = []
        for place, item in enumerate(items):
            try:
                images.append(self.preparation.image(item))
                good.append(place)
            except ImageReadError as error:
                rows[place]["error"] = printable_error(error, item)
        for group in by_shape(images):
            answers = self.runtime(self.preparation.batch([images[index] for index in group]))
            for position, answer in enumerate(self._answers(answers)):
                rows[good[group[position]]].update(answer)
        return rows

    def _answers(self, answers: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        logits = torch.from_numpy(answers["logits"])
        probabilities = (logits.sigmoid() if self.several else logits.softmax(dim=1)).tolist()
        found = [self._decision(row) for row in probabilities]
        for index, (answer, row) in enumerate(zip(found, probabilities, strict=True)):
            if self.with_probabilities:
                answer |= {f"probability_{name}": value for name, value in zip(self.names, row, strict=True)}
            if self.with_embeddings:
                answer["embedding"] = answers["embeddings"][index].tolist()
            if self.with_familiarity:
                answer["familiarity"] = float(answers["familiarity"][index])
                answer["abstained"] |= answer["familiarity"] < self.least_familiarity
        return found

    def _decision(self, probabilities: list[float]) -> dict[str, Any]:
        score = max(probabilities)
        label = self.names[probabilities.index(score)]
        if self.several:
            named = zip(self.names, probabilities, strict=True)
            label = LABEL_SEPARATOR.join(name for name, value in named if value >= MULTI_LABEL_THRESHOLD)
        return {"label": label, "score": score, "abstained": score < self.threshold}


def model_config(folder: Path, wanted: str) -> dict[str, Any]:
    """The config of a model of the wanted type.

    Raises:
        ValueError: If the folder holds another, or none.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; expected a folder of save_pretrained or of hf-contour export.")
    config = PreTrainedConfig.get_config_dict(folder)[0]
    if config.get("model_type") != wanted:
        raise ValueError(
            f"{folder} holds a {config.get('model_type')} model; expected {wanted}. Contours are drawn by an "
            "extractor's folder (--contours), classes come from a classifier's."
        )
    return dict(config)


def printable_error(error: Exception, item: Item) -> str:
    """The reason in text that can be written anywhere; of an image without a name of its own the id goes first."""
    text = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
    return text if isinstance(item.content, str) else f"{item.id}: {text}"
