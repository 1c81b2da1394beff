"""Model cards and result tables, rendered from results files; no figure is typed by hand.

    python -m hf_contour.hub.card            # write the cards of model_cards/, and the tables of README.md and docs/
    python -m hf_contour.hub.card --check    # only say which disagree with the results

`model_cards/cards.yaml` names, for each model folder, what it was trained on; figures come from
`model_cards/results/*.json`. In a page a table stands between `<!-- results: TASK -->` and `<!-- end results -->`, or
between the markers that `named_tables` describes.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from hf_contour.configuration_contour_gender import DEFAULT_LEVELS
from hf_contour.evaluation.arguments import model_name
from hf_contour.evaluation.results import CLASSIFICATION, CONTOURS, Results, read_results_folder
from hf_contour.hub import card_text
from hf_contour.hub.across_tables import across_table
from hf_contour.hub.backbone_weights import PACKAGED_WEIGHTS
from hf_contour.hub.card_tables import data_words, fill_tables, garments_only, results_section
from hf_contour.hub.card_text import DATA_SOURCES, DataSource
from hf_contour.hub.named_tables import fill_named_tables

EXAMPLE_IMAGE = "example.png"  # beside the card, for the widget; see `assemble`
MODEL_TYPE_TASKS = {"contour_gender": CLASSIFICATION, "contour_extractor": CONTOURS}
# Scores that go into the header, by task.
INDEXED_SCORES = {
    CLASSIFICATION: ("accuracy", "balanced_accuracy", "roc_auc", "brier_score", "expected_calibration_error"),
    CONTOURS: ("ods", "ois", "ap", "loss", "pixel_f1"),
}


@dataclass(frozen=True)
class CardFacts:
    """What a card cannot read from the model folder or the results.

    Attributes:
        trained_on: keys of `DATA_SOURCES`.
        own_data: further data, which this package knows nothing of.
        starting_weights: keys of `PACKAGED_WEIGHTS`.
        commands: the commands that trained the model.
        base_model: Hub id that the weights were tuned from, where there is one.
        repo_id: Hub id of the model itself; the name of its folder where it has none.
        license: of the weights, where `trained_on` does not say it.
        left_out: variants of the comparison across shops that tell what such a model knows of a shop left out.

    Raises:
        ValueError: For unknown keys, or without any data.
    """

    trained_on: list[str] = field(default_factory=list)
    own_data: list[DataSource] = field(default_factory=list)
    starting_weights: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    base_model: str | None = None
    repo_id: str | None = None
    license: str = "apache-2.0"
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, known in (("trained_on", DATA_SOURCES), ("starting_weights", PACKAGED_WEIGHTS)):
            unknown = sorted(set(getattr(self, name)) - set(known))
            if unknown:
                raise ValueError(f"{name} names {unknown}; known are {sorted(known)}.")
        if not self.sources:
            raise ValueError(f"trained_on is empty; name at least one of {sorted(DATA_SOURCES)}.")

    @property
    def sources(self) -> list[DataSource]:
        """All data that the model was trained on."""
        return [*(DATA_SOURCES[name] for name in self.trained_on), *self.own_data]

    @property
    def is_research_only(self) -> bool:
        """Whether the data limits the weights to research and education."""
        return any(source.research_only for source in self.sources)


@dataclass(frozen=True)
class ModelFolder:
    """What a card says about the files of a model folder."""

    name: str
    task: str
    config: dict[str, Any]
    num_parameters: int
    megabytes: float


def read_model_folder(folder: Path) -> ModelFolder:
    """Read what a card needs from a folder that `save_pretrained` wrote.

    Raises:
        ValueError: If config or weights are missing, or the model is none of this package.
    """
    weights = folder / "model.safetensors"
    for path in (folder / "config.json", weights):
        if not path.is_file():
            raise ValueError(f"{path} is missing; expected a folder that save_pretrained wrote.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") not in MODEL_TYPE_TASKS:
        raise ValueError(
            f"{folder} holds a model of type {config.get('model_type')!r}; expected one of {sorted(MODEL_TYPE_TASKS)}."
        )
    return ModelFolder(
        name=model_name(folder),
        task=MODEL_TYPE_TASKS[config["model_type"]],
        config=config,
        num_parameters=stored_parameters(weights),
        megabytes=weights.stat().st_size / 1e6,
    )


def stored_parameters(weights: Path) -> int:
    """Parameters in a safetensors file, which has statistics of normalisation layers and remembered images too."""
    statistics = ("running_mean", "running_var", "num_batches_tracked", "prototypes")
    with safe_open(weights, "pt") as file:
        names = [name for name in file.keys() if not name.endswith(statistics)]  # noqa: SIM118 - not iterable
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def render_card(
    folder: Path, facts: CardFacts, results: Sequence[Results], *, first_results: str = "", more_results: str = ""
) -> ModelCard:
    """The card of a model folder.

    Args:
        folder: with `config.json` and `model.safetensors`.
        facts: what was it trained on.
        results: evaluations of this model, of the task of the model.
        first_results: Markdown above the tables of the evaluations.
        more_results: Markdown below them.

    Returns:
        The card; `str(card)` is the text of `README.md`.

    Raises:
        ValueError: If the folder is incomplete, or results belong to another model, task or calibration.
    """
    model = read_model_folder(folder)
    for found in results:
        _check_belongs(found, model)
    return ModelCard.from_template(
        card_metadata(model, facts, results),
        template_path=str(Path(__file__).with_name("card_template.md")),
        title=model.name,
        architecture=_architecture(model),
        usage=_usage(model, facts.repo_id or model.name),
        abstaining=_abstaining(model),
        results="\n\n".join(part for part in (first_results, results_section(results), more_results) if part),
        sources=facts.sources,
        starting_weights=[PACKAGED_WEIGHTS[name] for name in facts.starting_weights],
        says_starting_weights=not facts.own_data,
        commands=facts.commands,
        patent=card_text.PATENT,
        citations=[source.citation for source in facts.sources if source.citation],
        **_words(model, facts, results),
    )


def _words(model: ModelFolder, facts: CardFacts, results: Sequence[Results]) -> dict[str, Any]:
    """What a card says of use, limits and licence; of data that is not ours, its user has to say it."""
    is_classifier = model.task == CLASSIFICATION
    labels = ", ".join(model.config.get("id2label", {}).values())
    measured = [limit for found in results for limit in _measured_limits(found)]
    limits = [card_text.GENERAL_LIMIT, card_text.CLASSIFIER_LIMIT if is_classifier else card_text.EXTRACTOR_LIMIT]
    limits += [*measured, *(limit for source in facts.sources for limit in source.limits)]
    summary = "Finds contours in photographs, and gives features of them."
    if is_classifier:
        summary = (card_text.ANY_SUMMARY if facts.own_data else card_text.SUMMARY).format(labels=labels)
    if facts.own_data:
        uses = {"intended_use": card_text.UNKNOWN, "unintended_use": card_text.UNKNOWN}
        return {**uses, "summary": summary, "limits": limits, "weights_license": card_text.ANY_LICENSE}
    return {
        "summary": summary,
        "limits": limits,
        "intended_use": card_text.CLASSIFIER_USE.format(labels=labels) if is_classifier else card_text.EXTRACTOR_USE,
        "unintended_use": card_text.CLASSIFIER_MISUSE if is_classifier else card_text.EXTRACTOR_MISUSE,
        "weights_license": card_text.RESEARCH_ONLY if facts.is_research_only else card_text.FREE_WEIGHTS,
    }


def _check_belongs(results: Results, model: ModelFolder) -> None:
    if (results.model["name"], results.task) != (model.name, model.task):
        raise ValueError(
            f"{results.name} is about {results.model['name']} ({results.task}); expected {model.name} ({model.task})."
        )
    for name, absent in (("temperature", 1.0), ("abstain_threshold", 0.0)):
        value = model.config.get(name, absent)
        if results.scores.get(name, value) != value:
            raise ValueError(
                f"{results.name} was measured with {name} {results.scores[name]}; config.json of {model.name} has "
                f"{value}. Run its command again."
            )


def card_metadata(model: ModelFolder, facts: CardFacts, results: Sequence[Results]) -> ModelCardData:
    """The header of the card, with the figures as `model-index`."""
    is_classifier = model.task == CLASSIFICATION
    figures = [figure for found in results for figure in _eval_results(found)]
    is_ours = not facts.own_data
    return ModelCardData(
        license="other" if facts.is_research_only else facts.license,
        license_name="research-and-education" if facts.is_research_only else None,
        license_link="README.md" if facts.is_research_only else None,
        library_name="transformers",
        pipeline_tag="image-classification" if is_classifier else "image-feature-extraction",
        tags=["contours", "edge-detection", *(["fashion", "garments"] if is_classifier and is_ours else [])],
        base_model=facts.base_model,
        widget=[{"src": EXAMPLE_IMAGE, "example_title": "A drawn garment"}] if is_ours else None,
        metrics=sorted({figure.metric_type for figure in figures}) or None,
        model_name=model.name,
        eval_results=figures or None,
    )


def _eval_results(results: Results) -> list[EvalResult]:
    data = results.data
    return [
        EvalResult(
            task_type="image-classification" if results.task == CLASSIFICATION else "image-segmentation",
            task_name="Image classification" if results.task == CLASSIFICATION else "Contour detection",
            dataset_type=Path(data["source"]).name,
            dataset_name=data_words(data),
            dataset_config=data.get("config"),
            dataset_split=data["split"],
            metric_type=name,
            metric_name=name.replace("_", " "),
            metric_value=round(results.scores[name], 4),
        )
        for name in INDEXED_SCORES[results.task]
        if results.scores.get(name) is not None
    ]


def _architecture(model: ModelFolder) -> str:
    size = f"{model.num_parameters / 1e6:.2f} million parameters, {model.megabytes:.1f} MB."
    if model.task == CONTOURS:
        cascade = model.config.get("backbone") or f"own cascade, {len(model.config['hidden_sizes'])} stages"
        return f"Cascade: {cascade}. {size}"
    backbone = model.config["backbone"]
    names = backbone if isinstance(backbone, str) else ", ".join(backbone or ["none, contours alone"])
    features = model.config["contour_features"]
    if features == "levels":
        features += f" ({', '.join(map(str, model.config['contour_levels'] or DEFAULT_LEVELS))})"
    return f"Backbone: {names}. Contour features: {features}. {size}"


def _usage(model: ModelFolder, repo_id: str) -> str:
    if model.task == CLASSIFICATION:
        return (
            "from transformers import pipeline\n\n"
            f'classify = pipeline("image-classification", "{repo_id}", trust_remote_code=True)\n'
            'print(classify("garment.jpg"))'
        )
    return (
        "import torch\n"
        "from PIL import Image\n"
        "from transformers import AutoImageProcessor, AutoModelForPreTraining\n\n"
        f'processor = AutoImageProcessor.from_pretrained("{repo_id}", trust_remote_code=True)\n'
        f'model = AutoModelForPreTraining.from_pretrained("{repo_id}", trust_remote_code=True).eval()\n'
        'image = Image.open("image.jpg")\n'
        "with torch.no_grad():\n"
        '    outputs = model(**processor(image, return_tensors="pt"))\n'
        "contours = processor.post_process_contours(outputs, [(image.height, image.width)])[0]"
    )


def _abstaining(model: ModelFolder) -> str:
    threshold = model.config.get("abstain_threshold", 0)
    return card_text.ABSTAINING.format(threshold=threshold) if threshold else ""


def _measured_limits(results: Results) -> list[str]:
    part = garments_only(results.scores)
    if part is None:
        return []
    figures = {"num_samples": part["num_samples"], "data": data_words(results.data), "name": f"`{part['name']}`"}
    shares = {"part": f"{part['accuracy']:.3f}", "whole": f"{results.scores['accuracy']:.3f}"}
    return [card_text.GARMENTS_ONLY_LIMIT.format(**figures, **shares)]


def read_card_facts(path: Path) -> dict[str, CardFacts]:
    """The facts of all cards, by the name of the model folder; empty where there is no such file.

    Raises:
        ValueError: If the file does not fit; names it and the model.
    """
    if not path.exists():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    facts = {}
    for name, fields in content.items():
        try:
            facts[name] = CardFacts(**fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {name}: {error}") from error
    return facts


def rendered_files(root: Path) -> dict[Path, str]:
    """What the pages of a repository and the card of each model folder should hold.

    Args:
        root: the repository, with `model_cards/`, and with `README.md` and `docs/` where it has them.

    Raises:
        ValueError: If a model folder has no facts in `cards.yaml`, or facts have no folder.
    """
    cards = root / "model_cards"
    results = read_results_folder(cards / "results")
    facts = read_card_facts(cards / "cards.yaml")
    folders = {path.parent.name for path in cards.glob("*/config.json")}
    if folders != set(facts):
        raise ValueError(f"{cards} has the models {sorted(folders)}; cards.yaml has facts of {sorted(facts)}.")
    texts = {}
    for name in sorted(folders):
        own = [found for found in results if found.model["name"] == name]
        first = _left_out_results(facts[name], cards / "results")
        texts[cards / name / "README.md"] = str(render_card(cards / name, facts[name], own, first_results=first))
    for page in (*root.glob("README.md"), *sorted(root.glob("docs/*.md"))):
        text = fill_tables(page.read_text(encoding="utf-8"), results)
        texts[page] = fill_named_tables(text, cards / "results")
    return texts


def _left_out_results(facts: CardFacts, results: Path) -> str:
    """What classifiers of this kind know of a shop that was not in the training."""
    if not facts.left_out:
        return ""
    across = json.loads((results / "across_shops.json").read_text(encoding="utf-8"))["across"]
    table = across_table({"across": {name: across[name] for name in facts.left_out}})
    return f"{card_text.LEFT_OUT}\n\n{table}\n\n{card_text.TRAINED_ON}"


def disagreeing_files(root: Path) -> list[Path]:
    """The files of `rendered_files` that do not hold what they should."""
    return [
        path
        for path, text in rendered_files(root).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write the cards and tables, or check them."""
    parser = argparse.ArgumentParser(description="Render model cards and result tables from results files.")
    parser.add_argument("--root", type=Path, default=Path(), help="the repository; default: here")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file disagrees")
    arguments = parser.parse_args()
    stale = disagreeing_files(arguments.root)
    for path in stale:
        if not arguments.check:
            path.write_text(rendered_files(arguments.root)[path], encoding="utf-8")
        print(f"{'disagrees' if arguments.check else 'written'}: {path}")
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
