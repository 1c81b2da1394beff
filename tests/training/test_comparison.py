"""Variants of a plan: what is shared, what differs, what is kept, and that finished runs are not made again."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny_models import tiny_extractor
from tiny_training import EXTRACTOR, write_source
from torch import nn

from hf_contour import ContourExtractorConfig, ContourGenderConfig
from hf_contour.evaluation.cost import median_ratio, multiply_adds, time_side_by_side
from hf_contour.training.comparison import Plan, comparison_results, merged, planned_runs, read_plan, run_comparison

ROOT = Path(__file__).parents[2]
RECIPE = {
    "stage": "contour",
    "validation_split": None,
    "batch_size": 4,
    "max_steps": 3,
    "num_workers": 0,
    "num_images": 0,
    "torch_threads": 1,
    "cpu": True,
    "progress": False,
    "model": EXTRACTOR,
}
VARIANTS = {"reference": {"seeds": [0, 1]}, "sum": {"model": {"fusion": "sum"}}}


def test_mappings_are_merged_and_nothing_else():
    base = {"model": {"a": 1, "b": [1, 2]}, "steps": 3}
    changed = merged(base, {"model": {"b": [9]}, "steps": {"x": 1}})
    assert changed == {"model": {"a": 1, "b": [9]}, "steps": {"x": 1}}
    assert base == {"model": {"a": 1, "b": [1, 2]}, "steps": 3}


def test_the_runs_of_a_plan():
    runs = planned_runs(Plan("trial", RECIPE, VARIANTS), output_dir="out", settings={"data": "source"})
    assert [(run.variant, run.arguments.seed) for run in runs] == [("reference", 0), ("reference", 1), ("sum", 0)]
    assert [run.changes for run in runs] == [{}, {}, {"model": {"fusion": "sum"}}]
    assert runs[2].arguments.mapping("model") == {**EXTRACTOR, "fusion": "sum"}
    assert len({run.arguments.folder for run in runs}) == 3
    assert {run.arguments.data for run in runs} == {"source"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "no plan"),
        ("name: x\nrecipe: {}\nvariants: {}", "no variants"),
        ("name: x\nrecipe: 3\nvariants: {a: {}}", "recipe is 3"),
        ("name: x\nrecipe: {}\nvariants: {a: {}}\nspeed: 1", "speed"),
    ],
)
def test_a_file_that_is_no_plan_is_named(tmp_path, content, message):
    path = tmp_path / "plan.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "hf_contour" / "training" / "plans").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_plans_that_are_shipped_are_read(path):
    plan = read_plan(path)
    runs = planned_runs(plan, output_dir="runs", settings={} if plan.leave_out else {"data": "source"})
    assert plan.name == path.stem
    assert len({run.arguments.folder for run in runs}) == len(runs) >= len(plan.variants) > 1
    for run in runs:
        config_class = ContourExtractorConfig if run.arguments.stage == "contour" else ContourGenderConfig
        config_class(**run.arguments.mapping("model"))


def test_a_setting_that_is_none_names_its_variant():
    with pytest.raises(ValueError, match=r"variant 'fast'.*speed"):
        planned_runs(Plan("trial", RECIPE, {"fast": {"speed": 1}}), output_dir="out", settings={})


def test_variants_are_trained_evaluated_and_not_made_again(tmp_path):
    path = tmp_path / "plan.yaml"
    plan_content = {"name": "trial", "data": {"split": "validation"}, "recipe": RECIPE, "variants": VARIANTS}
    path.write_text(yaml.safe_dump(plan_content))
    plan = read_plan(path)
    settings = {"data": str(write_source(tmp_path / "source", train=8, validation=3))}
    runs = planned_runs(plan, output_dir=str(tmp_path / "runs"), settings=settings)
    rows = list(run_comparison(plan, runs, command="command"))
    assert [row["variant"] for row in rows] == ["reference", "reference", "sum"]
    assert all(row["steps"] == 3 and row["num_samples_seen"] == 12 for row in rows)
    assert rows[0]["scores"]["loss"] != rows[1]["scores"]["loss"]  # another seed
    assert rows[2]["num_parameters"] < rows[0]["num_parameters"]
    assert rows[2]["multiply_adds"] < rows[0]["multiply_adds"]
    written = {run.arguments.folder / "evaluation.json" for run in runs}
    times = {file: file.stat().st_mtime_ns for file in written}
    assert list(run_comparison(plan, runs, command="command")) == rows
    assert {file: file.stat().st_mtime_ns for file in written} == times
    results = comparison_results(plan, runs, rows, command="command")
    assert json.loads(json.dumps(results))["rows"] == rows
    assert "paired" not in results  # of extractors


def test_a_variant_is_paired_with_the_one_it_names():
    variants = {"a": {}, "b": {}, "c": {"paired_with": "b"}}
    runs = planned_runs(Plan("trial", RECIPE, variants), output_dir="out", settings={})
    assert [run.paired_with for run in runs] == ["a", "a", "b"]
    with pytest.raises(ValueError, match=r"variant 'c'.*'d'"):
        planned_runs(Plan("trial", RECIPE, {**variants, "c": {"paired_with": "d"}}), output_dir="out", settings={})


def test_classifiers_are_paired_with_the_first_variant_over_common_seeds(tmp_path):
    extractor = tiny_extractor()
    extractor.save_pretrained(tmp_path / "extractor")
    model = {"backbone": "test_efficientnet", "contour_channels": 8, "fusion_channels": 8}
    shared = {"stage": "gender", "extractor": str(tmp_path / "extractor"), "image_size": [32, 32], "model": model}
    recipe = {key: value for key, value in RECIPE.items() if key not in ("num_images",)} | shared
    variants = {"alone": {"seeds": [0, 1, 2], "model": {"contour_features": "none"}}, "method": {"seeds": [1, 2]}}
    variants["method"]["evaluation"] = {"perturbations": ["grey"]}
    data = {"split": "validation", "slices": ["brightness"], "min_slice": 1}
    plan = Plan("pairs", recipe, variants, data=data)
    settings = {"data": str(write_source(tmp_path / "source", train=8, validation=7))}
    runs = planned_runs(plan, output_dir=str(tmp_path / "runs"), settings=settings)
    rows = list(run_comparison(plan, runs, command="command"))
    assert [list(row["disturbed"]) for row in rows] == [[], [], [], ["grey"], ["grey"]]
    assert all(row["slices"] and "evaluation" not in row["changes"] for row in rows)
    paired = comparison_results(plan, runs, rows, command="command")["paired"]
    assert list(paired) == ["method"]
    assert (paired["method"]["with"], paired["method"]["seeds"]) == ("alone", [1, 2])
    everything = paired["method"]["all"]
    assert (everything["num_samples"], everything["num_groups"]) == (14, 7)
    accuracy = {(row["variant"], row["seed"]): row["scores"]["accuracy"] for row in rows}
    means = {name: (accuracy[name, 1] + accuracy[name, 2]) / 2 for name in variants}
    assert everything["difference"] == pytest.approx(means["method"] - means["alone"])
    assert everything["first_accuracy"] == pytest.approx(means["alone"])
    assert "mcnemar_p" not in everything


def test_multiply_adds_are_those_of_the_formula():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 20, 5))
    assert multiply_adds(model, torch.zeros(2, 3, 4, 5)) == 2 * (8 * 3 * 9 * 20 + 8 * 20 * 5)
    assert model.training


def test_calls_take_turns_and_ratios_are_taken_within_a_round():
    order = []
    durations = time_side_by_side(
        {name: lambda name=name: order.append(name) for name in "ab"}, num_rounds=2, num_warmup=1
    )
    assert order == list("ababab")
    assert {name: len(times) for name, times in durations.items()} == {"a": 2, "b": 2}
    assert median_ratio({"a": [2.0, 30.0, 8.0], "b": [1.0, 10.0, 2.0]}, "a", "b") == 3.0
