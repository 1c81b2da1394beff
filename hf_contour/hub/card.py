"""Model cards and result tables, rendered from results files; no figure is typed by hand.

    python -m hf_contour.hub.card            # write cards and code of model_cards/, and the tables of README.md
    python -m hf_contour.hub.card --check    # only say which disagree with the results

`model_cards/cards.yaml` names, for each model folder, what it was trained on; figures come from
`model_cards/results/*.json`. In README.md a table stands between `<!-- results: TASK -->` and `<!-- end results -->`,
or between the markers that `named_tables` describes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open
from transformers.dynamic_module_utils import get_relative_import_files

from hf_contour.configuration_contour_gender import DEFAULT_LEVELS
from hf_contour.evaluation.results import CLASSIFICATION, CONTOURS, Results, read_results_folder
from hf_contour.hub import card_text
from hf_contour.hub.backbone_weights import PACKAGED_WEIGHTS
from hf_contour.hub.card_tables import data_words, fill_tables, garments_only, results_section
from hf_contour.hub.card_text import DATA_SOURCES
from hf_contour.hub.named_tables import fill_named_tables

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
        starting_weights: keys of `PACKAGED_WEIGHTS`.
        commands: the commands that trained the model.
        base_model: Hub id that the weights were tuned from, where there is one.

    Raises:
        ValueError: For unknown keys.
    """

    trained_on: list[str]
    starting_weights: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    base_model: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("trained_on", DATA_SOURCES), ("starting_weights", PACKAGED_WEIGHTS)):
            unknown = sorted(set(getattr(self, name)) - set(known))
            if unknown:
                raise ValueError(f"{name} names {unknown}; known are {sorted(known)}.")
        if not self.trained_on:
            raise ValueError(f"trained_on is empty; name at least one of {sorted(DATA_SOURCES)}.")


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
        name=folder.resolve().name,
        task=MODEL_TYPE_TASKS[config["model_type"]],
        config=config,
        num_parameters=count_parameters(weights),
        megabytes=weights.stat().st_size / 1e6,
    )


def count_parameters(weights: Path) -> int:
    """Numbers in a safetensors file, without the statistics of normalisation layers."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    total = 0
    with safe_open(weights, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - the file cannot be iterated
            if not name.endswith(statistics):
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                total += size
    return total


def render_card(folder: Path, facts: CardFacts, results: Sequence[Results]) -> ModelCard:
    """The card of a model folder.

    Args:
        folder: with `config.json` and `model.safetensors`.
        facts: what was it trained on.
        results: evaluations of this model, of the task of the model.

    Returns:
        The card; `str(card)` is the text of `README.md`.

    Raises:
        ValueError: If the folder is incomplete, or results belong to another model, task or calibration.
    """
    model = read_model_folder(folder)
    for found in results:
        _check_belongs(found, model)
    is_classifier = model.task == CLASSIFICATION
    labels = list(model.config.get("id2label", {}).values())
    sources = [DATA_SOURCES[name] for name in facts.trained_on]
    research_only = any(source.research_only for source in sources)
    return ModelCard.from_template(
        card_metadata(model, facts, results),
        template_str=card_text.TEMPLATE,
        title=model.name,
        summary=_summary(labels) if is_classifier else "Finds contours in photographs, and gives features of them.",
        architecture=_architecture(model),
        usage=_usage(model),
        abstaining=_abstaining(model),
        intended_use=(
            card_text.CLASSIFIER_USE.format(labels=", ".join(labels)) if is_classifier else card_text.EXTRACTOR_USE
        ),
        unintended_use=card_text.CLASSIFIER_MISUSE if is_classifier else card_text.EXTRACTOR_MISUSE,
        results=results_section(results, folder),
        sources=sources,
        starting_weights=[PACKAGED_WEIGHTS[name] for name in facts.starting_weights],
        commands=facts.commands,
        limits=[
            card_text.GENERAL_LIMIT,
            card_text.CLASSIFIER_LIMIT if is_classifier else card_text.EXTRACTOR_LIMIT,
            *(limit for found in results for limit in _measured_limits(found)),
            *(limit for source in sources for limit in source.limits),
        ],
        weights_license=card_text.RESEARCH_ONLY if research_only else card_text.FREE_WEIGHTS,
        patent=card_text.PATENT,
        citations=[source.citation for source in sources if source.citation],
    )


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
    research_only = any(DATA_SOURCES[name].research_only for name in facts.trained_on)
    figures = [figure for found in results for figure in _eval_results(found)]
    return ModelCardData(
        license="other" if research_only else "apache-2.0",
        license_name="research-and-education" if research_only else None,
        license_link="README.md" if research_only else None,
        library_name="transformers",
        pipeline_tag="image-classification" if is_classifier else "image-feature-extraction",
        tags=["contours", "edge-detection", *(["fashion", "garments"] if is_classifier else [])],
        base_model=facts.base_model,
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
            metric_value=results.scores[name],
        )
        for name in INDEXED_SCORES[results.task]
        if results.scores.get(name) is not None
    ]


def _summary(labels: Sequence[str]) -> str:
    return (
        f"Sorts images of garments by the section that they are sold in: {', '.join(labels)}. A frozen contour "
        "extractor, trained on drawn contours, stands beside an image backbone."
    )


def _architecture(model: ModelFolder) -> str:
    size = f"{model.num_parameters / 1e6:.2f} million parameters, {model.megabytes:.1f} MB."
    if model.task == CONTOURS:
        cascade = model.config.get("backbone") or f"own cascade, {len(model.config['hidden_sizes'])} stages"
        return f"Cascade: {cascade}. {size}"
    backbone = model.config["backbone"]
    names = backbone if isinstance(backbone, str) else ", ".join(backbone)
    features = model.config["contour_features"]
    if features == "levels":
        features += f" ({', '.join(map(str, model.config['contour_levels'] or DEFAULT_LEVELS))})"
    return f"Backbone: {names}. Contour features: {features}. {size}"


def _usage(model: ModelFolder) -> str:
    if model.task == CLASSIFICATION:
        return (
            "from transformers import pipeline\n\n"
            f'classify = pipeline("image-classification", "{model.name}", trust_remote_code=True)\n'
            'print(classify("garment.jpg"))'
        )
    return (
        "import torch\n"
        "from PIL import Image\n"
        "from transformers import AutoImageProcessor, AutoModelForPreTraining\n\n"
        f'processor = AutoImageProcessor.from_pretrained("{model.name}", trust_remote_code=True)\n'
        f'model = AutoModelForPreTraining.from_pretrained("{model.name}", trust_remote_code=True).eval()\n'
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
    """What `README.md`, and the card and the code of each model folder of a repository, should hold.

    Args:
        root: the repository, with `README.md` and `model_cards/`.

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
        texts[cards / name / "README.md"] = str(render_card(cards / name, facts[name], own))
        texts |= code_copies(cards / name)
    readme = root / "README.md"
    if readme.exists():
        text = fill_tables(readme.read_text(encoding="utf-8"), results)
        texts[readme] = fill_named_tables(text, cards / "results")
    return texts


def code_copies(folder: Path) -> dict[Path, str]:
    """The files of this package that the folder's `auto_map` names, and those that they import."""
    named: set[str] = set()
    for config in ("config.json", "preprocessor_config.json"):
        if (folder / config).exists():
            named.update(json.loads((folder / config).read_text(encoding="utf-8")).get("auto_map", {}).values())
    sources = {Path(__file__).parents[1] / f"{entry.split('.')[0]}.py" for entry in named}
    sources |= {Path(found) for source in sources for found in get_relative_import_files(source)}
    return {folder / source.name: source.read_text(encoding="utf-8") for source in sorted(sources)}


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
