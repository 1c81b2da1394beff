"""A plan that leaves each source out in turn: what is trained on, calibrated on and tested on, and the figures."""

import json

import numpy as np
import pytest
import yaml
from markdown_tables import read_table
from tiny_models import tiny_extractor

from hf_contour.cli.main import main
from hf_contour.data.garments.drawing import embedded_dataset
from hf_contour.evaluation.predictions import ClassPredictions, read_predictions
from hf_contour.hub.across_tables import across_table, coverage_table, elsewhere_table
from hf_contour.metrics.classification import balanced_accuracy_draws
from hf_contour.metrics.slices import Slice
from hf_contour.training.across_sources import LeftOut, scores_across_sources
from hf_contour.training.comparison import Plan, planned_runs
from hf_contour.training.confidence_elsewhere import confidence_elsewhere, fit_confidence

SHOPS = ("north", "south", "west")
MODEL = {"backbone": "test_resnet", "contour_channels": 4, "fusion_channels": 4, "fusion_layers": 1}
RECIPE = {"stage": "gender", "image_size": [32, 32], "model": MODEL, "batch_size": 8, "max_steps": 3,
          "num_workers": 0, "torch_threads": 1, "cpu": True, "progress": False, "train_parts": "head",
          "validation_split": None}  # fmt: skip


def write_shop(folder, *, seed, worn):
    """Drawn garments as a folder of each class in each split; or a table with the column `worn`."""
    for split, count in (("train", 12), ("validation", 10), ("test", 8)):
        rows = embedded_dataset("train", num_samples=count, seed=seed + count, size=(32, 32))
        rows = rows.remove_columns([name for name in rows.column_names if name not in ("image", "label")])
        if worn:
            rows = rows.add_column("worn", [number % 4 < 2 for number in range(count)])
            rows = rows.add_column("near_dup_cluster", [number // 2 for number in range(count)])
            folder.mkdir(exist_ok=True)
            rows.to_parquet(folder / f"{split}.parquet")
            continue
        for number, row in enumerate(rows):
            place = folder / split / rows.features["label"].int2str(row["label"])
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.png").write_bytes(row["image"]["bytes"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three shops, an extractor, and a plan, carried out by the command."""
    folder = tmp_path_factory.mktemp("across")
    for number, name in enumerate(SHOPS):
        write_shop(folder / name, seed=100 * number, worn=number < 2)
    tiny_extractor().save_pretrained(folder / "extractor")
    variants = {"alone": {"model": {"contour_features": "none"}}, "method": {}}
    plan = {"name": "trial", "leave_out": "source", "seeds": [0], "variants": variants,
            "data": {"split": "test", "group_column": "near_dup_cluster", "slices": ["worn"], "min_slice": 1},
            "recipe": {**RECIPE, "extractor": str(folder / "extractor"),
                       "data": [{"path": name} for name in SHOPS]}}  # fmt: skip
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return folder


def carried_out(place, *flags):
    command = ["compare", "--plan", place / "plan.yaml", "--data_root", place, "--output_dir", place / "runs"]
    assert main([str(word) for word in (*command, "--torch_threads", 1, *flags)]) == 0
    return json.loads((place / "runs" / "trial.json").read_text())


def test_each_source_is_left_out_once_and_finished_runs_are_not_made_again(place, capsys):
    results = carried_out(place)
    assert "| variant | mean of the sources left out" in capsys.readouterr().out
    told = [(row["variant"], row["left_out"]) for row in results["rows"]]
    assert told == [(variant, shop) for variant in ("alone", "method") for shop in SHOPS]
    folder = place / "runs" / "trial" / "method-without_south-seed0" / "gender"
    trained = json.loads((folder / "results.json").read_text())
    assert trained["identity"]["sources"] == [["north", 1.0], ["west", 1.0]]
    assert trained["identity"]["num_train_samples"] == 24
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert (evaluation["data"]["source"], evaluation["data"]["num_samples"]) == ("south", 8)
    assert evaluation["scores"]["num_groups"] == 4
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["temperature"] == evaluation["scores"]["temperature"]

    written = {path: path.stat().st_mtime_ns for path in place.glob("runs/trial/*/gender/evaluation.json")}
    assert len(written) == 6
    assert carried_out(place)["across"] == results["across"]
    assert {path: path.stat().st_mtime_ns for path in written} == written

    (folder / "predictions.npz").unlink()  # as where an evaluation was killed between its two files
    assert carried_out(place)["across"] == results["across"]

    figures = results["across"]["method"]
    assert list(figures["sources"]) == list(SHOPS)
    south = read_predictions(folder / "predictions.npz")
    recalls = [(south.predicted == south.labels)[south.labels == label].mean() for label in (0, 1)]
    assert figures["sources"]["south"]["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert {"alone", "worn"} <= figures["sources"]["south"].keys()
    assert "worn" not in figures["sources"]["west"]  # which has no such column
    own = [figures["sources"][shop]["balanced_accuracy"] for shop in SHOPS]
    assert figures["mean"]["balanced_accuracy"] == pytest.approx(np.mean(own))
    assert figures["worst"]["balanced_accuracy"] == min(own)
    assert figures["difference"]["with"] == "alone"
    carried_out(place, "--only", "alone", "--output", place / "alone.json")
    chosen = json.loads((place / "alone.json").read_text())
    assert [(row["variant"], row["left_out"]) for row in chosen["rows"]] == told[:3]
    assert chosen["across"] == {"alone": results["across"]["alone"]}
    alone, method = read_table(across_table(results))
    assert method["mean of the sources left out (95 % interval)"].startswith(f"{np.mean(own):.3f} (")
    assert (alone["compared with"], method["compared with"]) == ("", "alone")
    curve = read_table(coverage_table(results))[4]
    assert (curve["variant"], curve["left out"]) == ("method", "south")
    surest = (south.predicted == south.labels)[np.argsort(-south.probabilities.max(axis=1), kind="stable")]
    assert curve["accuracy on the surest 50%"] == f"{surest[:4].mean():.3f}"
    assert curve["accuracy on the surest 100%"] == f"{surest.mean():.3f}"
    row = read_table(elsewhere_table(results))[4]
    assert (row["variant"], row["left out"]) == ("method", "south")
    elsewhere = results["across"]["method"]["elsewhere"]["south"]
    assert row["decided, fitted on the other sources left out"] == f"{elsewhere['coverage']:.1%}"


def predictions(right, groups, worn):
    """Of two classes in turn, with a logit for the right class where it is right."""
    labels = np.arange(len(right)) % 2
    chosen = np.where(right, labels, 1 - labels)
    logits = np.eye(2, dtype=np.float32)[chosen] * 2
    slices = [Slice("worn = True", np.array(worn)), Slice("worn = False", ~np.array(worn))]
    return ClassPredictions(logits, labels, np.arange(len(right)), np.array(groups), ["men", "women"], slices)


def left_out(variant, source, right, threshold=0.6, **changes):
    right = np.array(right, dtype=bool)
    found = predictions(right, [0, 0, 1, 1], [True, True, False, False])
    scores = {"balanced_accuracy": right.mean(), "accuracy": right.mean(), "expected_calibration_error": 0.1,
              "brier_score": 0.2, "temperature": 1.5, "abstain_threshold": threshold,
              "coverage": [{"threshold": 0.6, "coverage": 0.5, "accuracy": 0.75}]}  # fmt: skip
    return LeftOut(variant, source, "base", {**scores, **changes}, found)


def test_the_figures_by_hand():
    runs = [left_out("base", "a", [1, 1, 1, 1]), left_out("base", "b", [1, 1, 0, 0], threshold=0.0),
            left_out("new", "a", [1, 1, 1, 1]), left_out("new", "b", [1, 1, 1, 1])]  # fmt: skip
    base, new = scores_across_sources(runs).values()
    assert base["mean"]["balanced_accuracy"] == 0.75
    assert base["worst"] == {"source": "b", "balanced_accuracy": 0.5}
    assert base["sources"]["b"]["coverage"] == 1  # no threshold: all is decided
    assert base["sources"]["b"]["accuracy_decided"] == 0.5
    assert base["mean"]["coverage"] == 0.75
    assert base["mean"]["alone"]["balanced_accuracy"] == 0.5
    assert base["mean"]["worn"]["balanced_accuracy"] == 1
    assert "difference" not in base
    assert new["difference"]["balanced_accuracy"] == 0.25
    # Of b either group, or both, may be drawn: none, a quarter or half of the mean is gained.
    assert new["difference"]["interval"] == [0, 0.5]
    assert base["sources"]["b"]["interval"] == [0, 1]


def test_confidence_comes_from_the_other_sources_alone():
    """`sure` is right where its logits are high, `north` and `south` are; they say how sure is sure enough."""

    def source(logits, right):
        labels = np.zeros(len(right), dtype=int)
        values = np.array(logits, dtype=np.float32) * np.where(right, 1, -1)
        pairs = np.stack([values, np.zeros_like(values)], axis=1)
        return ClassPredictions(pairs, labels, np.arange(len(right)), np.arange(len(right)), ["men", "women"], [])

    unsure = source([4, 4, 4, 4, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 1, 0])
    judged = source([4, 4, 1, 1], [1, 0, 1, 0])
    found = confidence_elsewhere({"north": [unsure], "south": [unsure], "judged": [judged]}, wanted_accuracy=0.9)
    assert found["judged"]["coverage"] == 0.5  # those of logit 4, of which the others are all right
    assert found["judged"]["accuracy_decided"] == 0.5
    fitted = fit_confidence([unsure, unsure], wanted_accuracy=0.9)
    assert found["judged"]["temperature"] == fitted.temperature
    assert fitted.threshold == pytest.approx(1 / (1 + np.exp(-4 / fitted.temperature)), abs=1e-4)
    # A source of few images weighs as much as one of many: half of all are wrong.
    wrong = source([4] * 2, [0, 0])
    assert fit_confidence([unsure, wrong], wanted_accuracy=0.9).threshold > 1


def test_a_resample_draws_whole_groups():
    labels, predicted, groups = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0]), np.array([0, 0, 1, 1])
    draws = balanced_accuracy_draws(labels, predicted, groups)
    assert set(draws) == {0.0, 0.5, 1.0}  # the second class alone, both, the first alone
    assert draws.mean() == pytest.approx(0.5, abs=0.05)


def test_one_source_cannot_be_left_out(tmp_path):
    plan = Plan("trial", RECIPE, {"a": {}}, leave_out="source")
    for data in ("somewhere", [{"path": "somewhere"}]):
        with pytest.raises(ValueError, match="at least two sources"):
            planned_runs(plan, output_dir="out", settings={"data": data})
    with pytest.raises(ValueError, match="leave_out is 'label'"):
        Plan("trial", RECIPE, {"a": {}}, leave_out="label")
    with pytest.raises(ValueError, match="for classifiers"):
        planned_runs(
            Plan("trial", {"stage": "contour"}, {"a": {}}, leave_out="source"),
            output_dir="out",
            settings={"data": ["a", "b"]},
        )
