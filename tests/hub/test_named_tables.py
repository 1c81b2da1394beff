"""Tables of comparisons, speed and faults say what the files say."""

import json
from pathlib import Path

import pytest
from markdown_tables import read_table, read_tables

from hf_contour.hub.named_tables import (
    SHOWN,
    borders_table,
    comparison_table,
    cost_checks_table,
    faults_table,
    fill_named_tables,
    kills_table,
    rows_table,
)


def row(variant, ods, seed=0, weights=1000):
    scores = {"ods": ods, "ois": ods + 0.01, "ap": ods - 0.1, "r50": 0.5, "loss": 1.0}
    return {
        "variant": variant,
        "seed": seed,
        "num_parameters": weights,
        "multiply_adds": 123_456_789,
        "scores": scores,
    }


COMPARISON = {"rows": [row("reference", 0.70), row("reference", 0.72, seed=1), row("sum", 0.69, weights=900)]}
SPEED = {
    "rows": [
        {"name": "resnet18", "height": 224, "width": 224, "num_parameters": 11_000_000, "multiply_adds": 18e8,
         "median_ms": 30.04, "ratio": 1.0},
        {"name": "tiny", "height": 320, "width": 480, "num_parameters": 99_000, "multiply_adds": 5e8,
         "median_ms": 12.0, "ratio": 0.4},
    ]
}  # fmt: skip


def test_a_comparison_has_means_spreads_and_differences():
    reference, other = read_table(comparison_table(COMPARISON))
    assert (reference["parameters"], other["parameters"]) == ("1,000", "900")
    assert reference["ODS"] == "0.710 (0.700 to 0.720, 2 seeds)"
    assert (reference["OIS"], reference["AP"], reference["difference"]) == ("0.720", "0.610", "")
    assert (other["ODS"], other["difference"], other["million multiply-adds"]) == ("0.690", "-0.020", "123")


def class_row(variant, seed, accuracy, converged):
    return {
        "variant": variant,
        "seed": seed,
        "weights": 5000,
        "multiply_adds": 98_600_000,
        "converged_step": converged,
        "while_training": {"validation": {"accuracy": accuracy - 0.01}},
        "scores": {"accuracy": accuracy},
        "slices": {"skin_fraction <= 0.02": accuracy - 0.1},
        "disturbed": {"channels_permuted": accuracy - 0.2},
    }


def test_a_comparison_of_classifiers_shows_paired_differences():
    rows = [class_row("alone", 0, 0.95, 40), class_row("alone", 1, 0.97, 60), class_row("method", 0, 0.98, None)]
    paired = {"difference": 0.02, "difference_interval": [0.01, 0.03]}
    part = {"name": "skin_fraction <= 0.02", "difference": -0.005, "difference_interval": [-0.02, 0.01]}
    results = {"rows": rows, "paired": {"method": {"with": "alone", "all": paired, "slices": [part]}}}
    alone, method = read_table(comparison_table(results))
    assert (alone["validation"], alone["accuracy"], alone["compared with"]) == ("0.9500", "0.9600", "")
    assert (alone["garments only"], alone["colours permuted"], alone["steps to converge"]) == ("0.860", "0.760", "50")
    assert (method["compared with"], method["steps to converge"]) == ("alone", "not reached")
    assert method["difference (95 % interval)"] == "+0.0200 (+0.0100 to +0.0300)"
    assert method["difference (95 % interval) 2"] == "-0.0050 (-0.0200 to +0.0100)"


def test_a_comparison_shows_columns_that_were_measured_alone():
    row = {**class_row("alone", 0, 0.9, None), "while_training": {}, "slices": {}, "disturbed": {}}
    row["scores"] = {"accuracy": 0.9, "balanced_accuracy": 0.8}
    (alone,) = read_table(comparison_table({"rows": [row], "paired": {}}))
    assert alone["balanced accuracy"] == "0.8000"
    assert not {"validation", "garments only", "colours permuted", "steps to converge"} & alone.keys()


def test_speed_is_relative_to_the_first_row():
    tiny = read_table(rows_table("speed", SPEED))[-1]
    assert (tiny["image"], tiny["parameters"], tiny["median ms"]) == ("320x480", "99,000", "12.0")
    assert tiny["time relative to resnet18, folded"] == "0.40"


def test_training_is_compared_by_images_a_second_and_use_by_time():
    row = {
        "name": "fast", "height": 96, "width": 64, "num_parameters": 5_000_000, "num_trained_parameters": 4_900_000,
        "multiply_adds": 70e6, "training_ms": 20.04, "training_ratio": 0.9, "batch_1_ms": 12.0, "batch_1_ratio": 0.8,
        "batch_ms": 5.0, "batch_ratio": 0.5,
    }  # fmt: skip
    (fast,) = read_table(rows_table("training_speed", {"rows": [row]}))
    assert (fast["parameters"], fast["trained parameters"]) == ("5,000,000", "4,900,000")
    assert fast["images a second relative to the first row"] == "0.90"
    times = [fast[f"time relative to the first row{number}"] for number in ("", " 2")]
    assert times == ["1.25", "2.00"]


def test_routes_of_training_are_compared_by_score_and_cost():
    row = {
        "name": "`Trainer`", "num_trained_parameters": 3_400_000, "learning_rate": 3e-4, "num_samples": 83,
        "accuracy": 0.9036, "accuracy_interval": [0.8313, 0.9639], "balanced_accuracy": 0.9011, "cpu_seconds": 61.6,
    }  # fmt: skip
    (plain,) = read_table(rows_table("routes", {"rows": [row]}))
    scores = {"accuracy (95 % interval)": "0.904 (0.831 to 0.964)", "balanced accuracy": "0.901", "CPU seconds": "62"}
    trained = {"trained by": "`Trainer`", "trained parameters": "3,400,000", "learning rate": "0.0003"}
    assert plain == trained | scores


def test_decoding_has_a_row_for_each_size():
    row = {"height": 800, "width": 600, "mean_bytes": 9, "full_ms": 5.04, "reduced_ms": 2.0, "times_as_fast": 2.52,
           "mean_difference": 0.756}  # fmt: skip
    assert list(read_table(rows_table("decoding_speed", {"rows": [row]}))[0].values()) == [
        "800x600",
        "5.0",
        "2.0",
        "2.5",
        "0.76",
    ]


def test_prediction_has_a_row_for_each_way():
    rows = [
        {"size": "96x64", "way": "timm loop", "images_per_cpu_second": 73.6, "ratio": 1.0, "same_labels": 0.26},
        {"size": "96x64", "way": "ours, onnx", "images_per_cpu_second": 144.1, "ratio": 1.869, "same_labels": 1.0},
    ]
    table = read_table(rows_table("prediction_speed", {"rows": rows}))
    assert list(table[0].values()) == ["96x64", "timm loop", "74", "1.00", ""]
    assert list(table[1].values()) == ["96x64", "ours, onnx", "144", "1.87", "100%"]


def test_what_predictions_cost_is_shown_by_part_and_beside_whole_runs():
    parts = {"decode": 1.224, "batch": 0.02, "forward": 1.5, "rows": 0.01}
    row = {"name": "tiny", "image_size": [80, 60], "milliseconds": parts, "total": 2.754}
    row |= {"core_hours": 76.5, "node_hours": 1.195}
    check = {"num_files": 10000, "expected": 27.5, "measured": 26.1, "ratio": 0.949}
    (shown,) = read_table(rows_table("prediction_cost", {"rows": [row]}))
    assert list(shown.values()) == ["tiny", "80x60", "1.22", "0.02", "1.50", "0.01", "2.75", "76", "1.2", "1.3"]
    (shown,) = read_table(cost_checks_table({"checks": [check]}))
    assert list(shown.values()) == ["10,000", "28", "26", "0.95"]


def test_killed_predictions_have_a_row_for_each_way():
    row = {"processes": "two", "rows": 5000, "kills": 20, "lost": 0, "doubled": 1, "tables_equal": True}
    alone = {"seconds": 12.3, "cpu_seconds": 21.7, "peak_megabytes": 512.4}
    four = {"four": {"seconds": 8.4, "times_one": 1.9, "tables_equal": False}}
    table = read_table(kills_table({"num_files": 5000, "undisturbed": alone, "left_alone": four, "rows": [row]}))
    expected = ["one, all cores, left alone", "5,000", "0", "", "", "", "12", "4.34", "", "512"]
    assert list(table[0].values()) == expected
    expected = ["four, of one thread, left alone", "5,000", "0", "", "", "no", "8", "", "1.90", ""]
    assert list(table[1].values()) == expected
    assert list(table[2].values()) == ["two", "5,000", "20", "0", "1", "to the bit", "", "", "", ""]


def test_border_lines_have_a_row_for_each_extractor():
    figures = {"border_mean": 0.1584, "inside_mean": 0.0999, "plain_highest": 0.3233, "plain_colour": [0, 255, 0]}
    (shown,) = read_table(borders_table({"models": {"tiny": figures}}))
    assert list(shown.values()) == ["tiny", "0.158", "0.100", "0.323"]


def test_tables_are_put_between_their_markers(tmp_path):
    (tmp_path / "abl.json").write_text(json.dumps(COMPARISON))
    (tmp_path / "fast.json").write_text(json.dumps(SPEED))
    text = "a\n<!-- comparison: abl -->\nold\n<!-- end abl -->\nb\n<!-- speed: fast -->\n<!-- end fast -->\n"
    filled = fill_named_tables(text, tmp_path)
    assert "\nold\n" not in filled
    assert read_tables(filled) == [read_table(comparison_table(COMPARISON)), read_table(rows_table("speed", SPEED))]
    assert filled.startswith("a\n<!-- comparison: abl -->\n")
    assert "<!-- end abl -->\nb\n" in filled
    assert fill_named_tables(filled, tmp_path) == filled


def test_a_page_says_of_which_commit_a_table_is(tmp_path):
    for commit, words in (("0123456789abcdef", "commit `0123456`"), (None, "outside of a repository")):
        (tmp_path / "fast.json").write_text(json.dumps({**SPEED, "commit": commit}))
        assert words in fill_named_tables("<!-- speed: fast -->\n<!-- end fast -->\n", tmp_path)


@pytest.mark.parametrize("text", ["<!-- speed: fast -->\nno end", "<!-- comparison: none -->\n<!-- end none -->"])
def test_markers_without_end_or_file_are_refused(tmp_path, text):
    with pytest.raises(ValueError, match="marker"):
        fill_named_tables(text, tmp_path)


def test_faults_are_counted_by_module():
    rows = {
        "tests/test_soak.py::test_a": {"outcome": "passed", "counts": {"tried": 1200, "injected": 3, "lost": 0}},
        "tests/test_soak.py::test_b[x]": {"outcome": "failed", "counts": {"injected": 4, "lost": 2, "extra": 9}},
        "tests/test_other.py::test_c": {"outcome": "passed", "counts": {}},
    }
    soak, other, total = read_table(faults_table({"rows": rows}))
    assert soak["what was tried"].startswith("10,000 calls")
    counts = [[int(row[name].replace(",", "")) for name in list(row)[1:]] for row in (soak, other, total)]
    assert counts == [[2, 1, 7, 1200, 2], [1, 0, 0, 0, 0], [3, 1, 7, 1200, 2]]


def test_every_module_of_fault_tests_has_a_row():
    paths = Path(__file__).parents[1].rglob("test_*.py")
    modules = {path.stem for path in paths if "\n@pytest.mark.faults" in path.read_text()}
    assert modules == set(SHOWN)
