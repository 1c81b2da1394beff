"""Tables of comparisons, of speed and of faults in Markdown, rendered from their results files.

In a text, a table stands between `<!-- KIND: NAME -->`, the kind one of `TABLES`, and `<!-- end NAME -->`, where
`model_cards/results/NAME.json` holds the figures.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from hf_contour.evaluation.summary import learning_curve_table, markdown_table, with_interval
from hf_contour.hub.across_tables import across_table, coverage_table, elsewhere_table
from hf_contour.hub.card_tables import GARMENTS_ONLY, commit_words

# The score that a comparison of extractors is ranked by, and those shown beside it.
COMPARED_SCORES = ("ods", ("ois", "ap", "r50"))

COUNTS = ("injected", "tried", "lost")
# What each module of fault tests shows.
SHOWN = {
    "test_kill_and_resume": "a training killed at any moment, mostly while it saves, goes on to the same bits",
    "test_checkpoint_faults": "a fault at any call of a save, or damage to the newest checkpoint: one still loads",
    "test_failing_runs": "full, read-only and vanishing folders: path and bytes are named, nothing partial stays",
    "test_signals": "signals under `python`, `accelerate launch` and `torchrun`: saved within a step, no process left",
    "test_non_finite": "NaN and infinity in images, loss, gradient or weights never reach a checkpoint",
    "test_hostile_images": "broken, odd and enormous images are read, converted or refused, none for over 2 s",
    "test_soak": "10,000 calls, 8 threads and 4 processes: the same answers, no growth",
    "test_properties": "sizes, channels and batches of any kind give finite features of the stated shape",
    "test_label_faults": "wrong labels cost accuracy, not the run",
    "test_hostile_configs": "configs with paths, addresses and absurd sizes are refused, and nothing is opened",
    "test_hostile_weights": "damaged weights and foreign code are refused, and no code runs",
    "test_verify": "`hf_contour verify` finds every damage to a model folder",
    "test_offline": "without a network each command works, or ends within 2 s with the name of what is missing",
}


def comparison_table(results: Mapping[str, Any]) -> str:
    """A row for each variant: its cost, its scores as means over seeds, and the difference to another variant.

    Args:
        results: as `comparison.comparison_results` gives them.
    """
    groups = _rows_of_variants(results)
    if "accuracy" in results["rows"][0]["scores"]:
        return _class_comparison_table(results, groups)
    reference = next(iter(groups.values()))
    main, others = COMPARED_SCORES
    base = _mean_score(reference, main)
    header = ["variant", "parameters", "million multiply-adds", main.upper() if len(main) < 5 else main]
    header += ["difference", *(name.upper() if len(name) < 5 else name.replace("_", " ") for name in others)]
    lines = []
    for variant, rows in groups.items():
        scores = [row["scores"][main] for row in rows]
        spread = f" ({min(scores):.3f} to {max(scores):.3f}, {len(scores)} seeds)" if len(scores) > 1 else ""
        lines.append(
            [
                variant,
                f"{_num_parameters(rows[0]):,}",
                f"{rows[0]['multiply_adds'] / 1e6:,.0f}",
                f"{mean(scores):.3f}{spread}",
                "" if rows is reference else f"{mean(scores) - base:+.3f}",
                *(f"{_mean_score(rows, name):.3f}" for name in others),
            ]
        )
    return markdown_table(header, lines)


def _class_comparison_table(results: Mapping[str, Any], groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row for each variant: cost, accuracy on the parts that a garment's shape decides, and paired differences."""
    paired = results.get("paired", {})
    first = results["rows"][0]
    has_validation, has_garments = "validation" in first["while_training"], GARMENTS_ONLY in first["slices"]
    has_permuted = any(row["disturbed"] for row in results["rows"])
    has_converged = any(row["converged_step"] is not None for row in results["rows"])
    header = [
        "variant",
        "parameters",
        "million multiply-adds",
        *(["validation"] if has_validation else []),
        "accuracy",
    ]
    header += ["compared with", "difference (95 % interval)"]
    header += ["garments only", "difference (95 % interval)"] if has_garments else ["balanced accuracy"]
    header += [*(["colours permuted"] if has_permuted else []), *(["steps to converge"] if has_converged else [])]
    lines = []
    for variant, rows in groups.items():
        validation = [mean(row["while_training"]["validation"]["accuracy"] for row in rows)] if has_validation else []
        permuted = [row["disturbed"]["channels_permuted"] for row in rows if row["disturbed"]]
        converged = [row["converged_step"] for row in rows if row["converged_step"] is not None]
        lines.append(
            [
                variant,
                f"{_num_parameters(rows[0]):,}",
                f"{rows[0]['multiply_adds'] / 1e6:,.0f}",
                *(f"{one:.4f}" for one in validation),
                f"{_mean_score(rows, 'accuracy'):.4f}",
                paired.get(variant, {}).get("with", ""),
                _difference(paired.get(variant, {}).get("all")),
                *(_garments_cells(rows, paired.get(variant, {})) if has_garments else [_balanced(rows)]),
                *([f"{mean(permuted):.3f}" if len(permuted) == len(rows) else ""] if has_permuted else []),
                *(
                    [f"{median(converged):.0f}" if len(converged) == len(rows) else "not reached"]
                    if has_converged
                    else []
                ),
            ]
        )
    return markdown_table(header, lines)


def _garments_cells(rows: Sequence[Mapping[str, Any]], paired: Mapping[str, Any]) -> list[str]:
    parts = {part["name"]: part for part in paired.get("slices", [])}
    share = mean(row["slices"][GARMENTS_ONLY] for row in rows)
    return [f"{share:.3f}", _difference(parts.get(GARMENTS_ONLY))]


def _balanced(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"{_mean_score(rows, 'balanced_accuracy'):.4f}"


Column = tuple[str, Callable[[Mapping[str, Any]], str]]
IMAGE: Column = ("image", lambda row: f"{row['height']}x{row['width']}")
PARAMETERS: Column = ("parameters", lambda row: f"{row['num_parameters']:,}")
MULTIPLY_ADDS: Column = ("million multiply-adds", lambda row: f"{row['multiply_adds'] / 1e6:,.0f}")
BASELINE_TIME = "time relative to resnet18, folded"
RELATIVE_TIME = "time relative to the first row"


# Kind of table -> its columns, each with what it shows of a row of a results file.
def _cores_beside_an_accelerator(row: Mapping[str, Any]) -> str:
    return f"{row['total'] - row['milliseconds']['forward']:.1f}"


COLUMNS: dict[str, list[Column]] = {
    "speed": [
        ("model", lambda row: row["name"]),
        ("run as", lambda row: row.get("way", "folded, channels last")),
        IMAGE,
        PARAMETERS,
        MULTIPLY_ADDS,
        ("median ms", lambda row: f"{row['median_ms']:.1f}"),
        (BASELINE_TIME, lambda row: f"{row['ratio']:.2f}"),
    ],
    "training_speed": [
        ("model", lambda row: row["name"]),
        IMAGE,
        PARAMETERS,
        ("trained parameters", lambda row: f"{row['num_trained_parameters']:,}"),
        MULTIPLY_ADDS,
        ("training: ms an image", lambda row: f"{row['training_ms']:.1f}"),
        ("images a second relative to the first row", lambda row: f"{row['training_ratio']:.2f}"),
        ("in use, alone: ms", lambda row: f"{row['batch_1_ms']:.1f}"),
        (RELATIVE_TIME, lambda row: f"{1 / row['batch_1_ratio']:.2f}"),
        ("in use, in batches: ms an image", lambda row: f"{row['batch_ms']:.1f}"),
        (RELATIVE_TIME, lambda row: f"{1 / row['batch_ratio']:.2f}"),
    ],
    "routes": [
        ("trained by", lambda row: row["name"]),
        ("trained parameters", lambda row: f"{row['num_trained_parameters']:,}"),
        ("learning rate", lambda row: f"{row['learning_rate']:g}"),
        ("accuracy (95 % interval)", lambda row: with_interval(row["accuracy"], row["accuracy_interval"], ".3f")),
        ("balanced accuracy", lambda row: f"{row['balanced_accuracy']:.3f}"),
        ("CPU seconds", lambda row: f"{row['cpu_seconds']:.0f}"),
    ],
    "decoding_speed": [
        ("JPEG file", IMAGE[1]),
        ("in full: ms", lambda row: f"{row['full_ms']:.1f}"),
        ("reduced: ms", lambda row: f"{row['reduced_ms']:.1f}"),
        ("times as fast", lambda row: f"{row['times_as_fast']:.1f}"),
        ("mean difference of the pixels (0 to 255)", lambda row: f"{row['mean_difference']:.2f}"),
    ],
    "prediction_speed": [
        ("size", lambda row: row["size"]),
        ("from JPEG files to rows", lambda row: row["way"]),
        ("images per CPU second", lambda row: f"{row['images_per_cpu_second']:.0f}"),
        ("times the timm loop", lambda row: f"{row['ratio']:.2f}"),
        ("labels as PyTorch's", lambda row: "" if row["way"] == "timm loop" else f"{row['same_labels']:.0%}"),
    ],
    "prediction_cost": [
        ("model", lambda row: row["name"]),
        ("JPEG file", lambda row: "x".join(map(str, row["image_size"]))),
        ("read, decode, resize: CPU ms", lambda row: f"{row['milliseconds']['decode']:.2f}"),
        ("batch", lambda row: f"{row['milliseconds']['batch']:.2f}"),
        ("forward", lambda row: f"{row['milliseconds']['forward']:.2f}"),
        ("rows and tables", lambda row: f"{row['milliseconds']['rows']:.2f}"),
        ("in all", lambda row: f"{row['total']:.2f}"),
        ("core hours for 10^8", lambda row: f"{row['core_hours']:.0f}"),
        ("hours of 64 cores", lambda row: f"{row['node_hours']:.1f}"),
        ("cores for 1,000 a second without the forward pass", _cores_beside_an_accelerator),
    ],
}


def cost_checks_table(results: Mapping[str, Any]) -> str:
    """A row for each whole run beside what the model of cost says of it.

    Args:
        results: as `scripts/experiments/prediction_cost.py` writes them.
    """
    header = ["files", "CPU seconds by the model", "measured", "measured / model"]
    lines = [
        [f"{row['num_files']:,}", f"{row['expected']:.0f}", f"{row['measured']:.0f}", f"{row['ratio']:.2f}"]
        for row in results["checks"]
    ]
    return markdown_table(header, lines)


def rows_table(kind: str, results: Mapping[str, Any]) -> str:
    """A row for each thing that one of `scripts/experiments/` has timed or trained; `kind` is one of `COLUMNS`."""
    columns = COLUMNS[kind]
    return markdown_table(
        [header for header, _ in columns], [[show(row) for _, show in columns] for row in results["rows"]]
    )


def faults_table(results: Mapping[str, Any]) -> str:
    """A row for each module of fault tests, and one for all.

    Args:
        results: as `pytest -m faults --fault_report=FILE` writes them.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for name, row in results["rows"].items():
        groups.setdefault(Path(name.partition("::")[0]).stem, []).append(row)
    lines = []
    for module, rows in groups.items():
        ran = [row for row in rows if row["outcome"] != "skipped"]
        failed = sum(row["outcome"] == "failed" for row in ran)
        lines.append([SHOWN.get(module, module), len(ran), failed, *(_count(ran, name) for name in COUNTS)])
    lines.append(["in all", *(sum(line[column] for line in lines) for column in range(1, 6))])
    header = ["what was tried", "tests", "failed", "faults injected", "inputs tried", "lost"]
    return markdown_table(header, [[line[0], *(f"{count:,}" for count in line[1:])] for line in lines])


def kills_table(results: Mapping[str, Any]) -> str:
    """A row for each run that nothing disturbed, and one for each way in which predictions were killed.

    Args:
        results: as `scripts/experiments/kill_predictions.py` writes them.
    """
    alone, num_files = results["undisturbed"], results["num_files"]
    counts = ["kills", "rows lost", "rows doubled"]
    costs = ["seconds", "CPU ms an image", "times one's speed", "peak MB"]
    header = ["processes", "files", *counts, "tables equal", *costs]
    files, cost = f"{num_files:,}", f"{1000 * alone['cpu_seconds'] / num_files:.2f}"
    figures = [f"{alone['seconds']:.0f}", cost, "", f"{alone['peak_megabytes']:.0f}"]
    lines = [["one, all cores, left alone", files, "0", "", "", "", *figures]]
    for name, row in results.get("left_alone", {}).items():
        times = [f"{row['seconds']:.0f}", "", f"{row['times_one']:.2f}", ""]
        lines.append([f"{name}, of one thread, left alone", files, "0", "", "", _equality(row), *times])
    for row in results["rows"]:
        counts = [str(row[name]) for name in ("kills", "lost", "doubled")]
        lines.append([row["processes"], f"{row['rows']:,}", *counts, _equality(row), "", "", "", ""])
    return markdown_table(header, lines)


def _equality(row: Mapping[str, Any]) -> str:
    return "to the bit" if row["tables_equal"] else "no"


def borders_table(results: Mapping[str, Any]) -> str:
    """A row for each extractor: what it draws where an image ends, and on images without any contour.

    Args:
        results: as `scripts/experiments/border_lines.py` writes them.
    """
    header = ["model", "mean at the border", "mean inside", "highest on plain images"]
    names = ("border_mean", "inside_mean", "plain_highest")
    rows = results["models"].items()
    return markdown_table(header, [[model, *(f"{row[name]:.3f}" for name in names)] for model, row in rows])


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "comparison": comparison_table,
    "across": across_table,
    "coverage": coverage_table,
    "elsewhere": elsewhere_table,
    "learning_curve": learning_curve_table,
    **{kind: partial(rows_table, kind) for kind in COLUMNS},
    "faults": faults_table,
    "kills": kills_table,
    "cost_checks": cost_checks_table,
    "borders": borders_table,
}
KINDS = "|".join(TABLES)
MARKER = re.compile(rf"(<!-- (?P<kind>{KINDS}): (?P<name>[\w-]+) -->\n)(?:.*?)(<!-- end (?P=name) -->)", re.DOTALL)


def fill_named_tables(text: str, folder: Path) -> str:
    """Put the tables of the results files of a folder between the markers of a text.

    Raises:
        ValueError: If a marker has no end, or its file is missing.
    """

    def fill(match: re.Match[str]) -> str:
        path = folder / f"{match['name']}.json"
        if not path.is_file():
            raise ValueError(f"a marker asks for {path}, which is not there.")
        results = json.loads(path.read_text(encoding="utf-8"))
        return f"{match[1]}{TABLES[match['kind']](results)}\n\n{commit_words([results.get('commit')])}\n{match[4]}"

    filled, count = MARKER.subn(fill, text)
    if len(re.findall(rf"<!-- (?:{KINDS}): ", text)) != count:
        raise ValueError(
            "a table marker has no counterpart; expected <!-- comparison: NAME --> ... <!-- end NAME -->."
        )
    return filled


def _rows_of_variants(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in results["rows"]:
        groups.setdefault(row["variant"], []).append(row)
    return groups


def _num_parameters(row: Mapping[str, Any]) -> int:
    return int(row["num_parameters"] if "num_parameters" in row else row["weights"])  # as older files have it


def _difference(figures: Mapping[str, Any] | None) -> str:
    return "" if figures is None else with_interval(figures["difference"], figures["difference_interval"], "+.4f")


def _mean_score(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return mean(row["scores"][name] for row in rows)


def _count(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(int(row["counts"].get(name, 0)) for row in rows)
