"""The card of any trained model, from what its run wrote down; what no file says is left for its user to fill in."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hf_contour.data import EMBEDDED
from hf_contour.evaluation.results import Results, read_results_folder
from hf_contour.evaluation.summary import markdown_table, rounded
from hf_contour.hub.card import CardFacts, read_model_folder, render_card
from hf_contour.hub.card_text import UNKNOWN, DataSource

# The id in the examples of a card.
_LOADED = re.compile(r'((?:from_pretrained\(|pipeline\("[\w-]+", ))"[^"\n]*"(, trust_remote_code=True)')
# Figures of a split that a training notes, as far as they are there.
_FIGURES = ("loss", "accuracy", "balanced_accuracy", "macro_f1", "pixel_f1")


def card_of_run(
    folder: Path, *, repo_id: str | None = None, data_name: str | None = None, license_name: str = "other"
) -> ModelCard:
    """The card of a trained model.

    Args:
        folder: of the model; `results.json` of its training and `evaluations/` are looked for beside it.
        repo_id: Hub id that the card shows; the model's name where it is `None`.
        data_name: what to call the training data; the name of its folder or Hub id where it is `None`.
        license_name: of the weights, as the Hub writes it, such as `apache-2.0`.

    Raises:
        ValueError: If the folder holds no model of this package.
    """
    training = _read_training(folder.resolve().parent / "results.json")
    facts = CardFacts(own_data=[_data(training, data_name)], repo_id=repo_id, license=license_name)
    return render_card(folder, facts, evaluations(folder), more_results=_training_figures(training))


def evaluations(folder: Path) -> list[Results]:
    """The evaluations beside a model's folder that are of this very model."""
    model, beside = read_model_folder(folder), folder.resolve().parent / "evaluations"
    return read_results_folder(beside, model=model.name) if beside.is_dir() else []


def with_repo_id(text: str, repo_id: str) -> str:
    """A card whose examples load the model from another Hub id, or from the Hub instead of a folder."""
    return _LOADED.sub(lambda match: f'{match[1]}"{repo_id}"{match[2]}', text)


def _read_training(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and "training" in content else {}


def _data(training: Mapping[str, Any], data_name: str | None) -> DataSource:
    source = str(training.get("arguments", {}).get("data") or UNKNOWN)
    embedded = source == EMBEDDED
    count = training.get("data", {}).get("num_train_samples")
    return DataSource(
        title=data_name or ("Garments drawn by `hf_contour`" if embedded else source.rstrip("/").rsplit("/", 1)[-1]),
        teaches={"contour": "contours", "gender": "classes"}.get(training.get("stage", ""), "contours and classes"),
        statement=(f"{count:,} training images. " if count else "") + f"Where they come from: {UNKNOWN}",
        license="Apache-2.0, like the code." if embedded else UNKNOWN,
        research_only=False,
        limits=(UNKNOWN,),
    )


def _training_figures(training: Mapping[str, Any]) -> str:
    """What the run noted of itself: figures of its splits, and how it was trained."""
    splits = training.get("evaluation") or {}
    if not splits:
        return ""
    names = [name for name in _FIGURES if any(figures.get(name) is not None for figures in splits.values())]
    rows = [
        [split, str(figures.get("num_samples", "")), *(rounded(figures.get(name)) for name in names)]
        for split, figures in splits.items()
    ]
    noted = training["training"]
    how = f"{noted.get('steps')} steps, {noted.get('num_samples_seen')} images seen, seed {training.get('seed')}."
    header = ["split", "images", *(name.replace("_", " ") for name in names)]
    return f"At the end of the training ({how[:-1]}):\n\n{markdown_table(header, rows)}"
