"""Result tables in Markdown, rendered from results files."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hf_contour.evaluation.results import CLASSIFICATION, CONTOURS, TASKS, Results
from hf_contour.evaluation.summary import markdown_table, point_at, rounded, with_interval

TABLE = re.compile(r"(<!-- results: (?P<task>[\w-]+) -->\n).*?(<!-- end results -->)", re.DOTALL)

# The table of `summary_table`, between the same markers as those of a task.
SUMMARY = "summary"
# Of each task the head of its table in the summary, and the scores in a cell.
_SUMMARIES = (
    (CONTOURS, "contours (ODS, AP)", ("ods", "ap")),
    (
        CLASSIFICATION,
        "classes (balanced accuracy, calibration error)",
        ("balanced_accuracy", "expected_calibration_error"),
    ),
)
# Commands as older results files have them, and their names now.
_RENAMED = {
    "accelerate launch scripts/evaluate.py": "hf-contour evaluate",
    "accelerate launch scripts/calibrate.py": "hf-contour calibrate",
}
# Scores of contours -> their column.
CONTOUR_COLUMNS = {"loss": "loss", "pixel_f1": "pixel F1 (no tolerance)", "pixel_threshold": "at threshold"}
# These come first in a table where an evaluation has them.
BENCHMARK_COLUMNS = {"ods": "ODS", "ois": "OIS", "ap": "AP", "r50": "R50"}
# The slice with hardly a skin-toned pixel: garments alone, or on a cropped body.
GARMENTS_ONLY = "skin_fraction <= 0.02"
# Scores of a classifier under perturbation -> what their table is about.
DISTURBED = {"colour_reliance": "Colours changed", "contour_contribution": "Contours taken away"}


def results_section(results: Sequence[Results]) -> str:
    """What the card of a model shows of its evaluations, all of one task."""
    if not results:
        return "No evaluation of this model has been made."
    tables = [table for found in results if found.task == CLASSIFICATION for table in _class_tables(found)]
    return "\n\n".join([results_table(results), *tables])


def _class_tables(results: Results) -> list[str]:
    """The tables of one evaluation of a classifier; older ones, and those of several labels, lack some."""
    scores = results.scores
    tables = [class_table(results)] if "confusion_matrix" in scores else []
    tables += [slices_table(results)] if "slices" in scores else []
    tables += [perturbation_table(results, kind) for kind in DISTURBED if kind in scores]
    return tables + ([calibration_table(results)] if "temperature" in scores else [])


def class_table(results: Results) -> str:
    """A Markdown table of the scores and the confusion matrix of one single-label evaluation."""
    names = results.scores["class_names"]
    header = ["class", "precision", "recall", "F1", "images", *(f"taken for {name}" for name in names)]
    rows = []
    for name, counts in zip(names, results.scores["confusion_matrix"], strict=True):
        scores = results.scores["per_class"][name]
        shares = [_share(scores[key]) for key in ("precision", "recall", "f1")]
        rows.append([name, *shares, str(scores["support"]), *(str(count) for count in counts)])
    return f"Classes on {data_words(results.data)}:\n\n{markdown_table(header, rows)}"


def slices_table(results: Results) -> str:
    """A Markdown table of the parts of the split; an evaluation of a classifier with `slices`."""
    header = ["part", "images", "groups", "accuracy (95 % interval)", "balanced accuracy"]
    rows = [
        [
            f"garments only: {part['name']}" if part["name"] == GARMENTS_ONLY else part["name"],
            str(part["num_samples"]),
            str(part["num_groups"]),
            _accuracy(part),
            _share(part["balanced_accuracy"]),
        ]
        for part in results.scores["slices"]
    ]
    return f"Parts of {data_words(results.data)}:\n\n{markdown_table(header, rows)}"


def perturbation_table(results: Results, kind: str) -> str:
    """A Markdown table of what a classifier loses to perturbations of one kind.

    Args:
        results: an evaluation of a classifier that has them.
        kind: a key of `DISTURBED`.
    """
    header = ["what was done", "accuracy", "accuracy lost (95 % interval)", "answers changed", "McNemar p"]
    rows = [
        [
            figures["description"],
            _share(figures["accuracy"]),
            with_interval(figures["accuracy_lost"], figures["accuracy_lost_interval"], ".3f"),
            f"{figures['predictions_changed']:.1%}",
            f"{figures['mcnemar_p']:.2g}",
        ]
        for figures in results.scores[kind].values()
    ]
    return f"{DISTURBED[kind]} on {data_words(results.data)}:\n\n{markdown_table(header, rows)}"


def calibration_table(results: Results) -> str:
    """A Markdown table of how far confidence can be trusted; an evaluation of a classifier with a `temperature`."""
    scores = results.scores
    header = ["temperature", "calibration error", "Brier"]
    row = [_share(scores["temperature"]), _share(scores["expected_calibration_error"]), _share(scores["brier_score"])]
    point = point_at(scores, scores.get("abstain_threshold"))
    if point is not None:
        header += ["abstain below", "share decided", "accuracy on it"]
        # Thresholds crowd just below 1.
        row += [f"{point['threshold']:.6g}", _share(point["coverage"]), _share(point["accuracy"])]
    return f"Confidence on {data_words(results.data)}:\n\n{markdown_table(header, [row])}"


def garments_only(scores: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The scores of `GARMENTS_ONLY`; `None` where they were not asked for."""
    return next((part for part in scores.get("slices", []) if part["name"] == GARMENTS_ONLY), None)


def results_table(results: Sequence[Results]) -> str:
    """A Markdown table, one row per evaluation; all of one task.

    Raises:
        ValueError: If tasks are mixed.
    """
    tasks = {found.task for found in results}
    if len(tasks) != 1:
        raise ValueError(f"the results are of {sorted(tasks)}; expected one task in a table.")
    if tasks == {CLASSIFICATION}:
        header = ["accuracy (95 % interval)", "balanced accuracy", "AUC", "Brier", "calibration error"]
        figures = [_classification_figures(found) for found in results]
        parts = [garments_only(found.scores) for found in results]
        if any(parts):
            header.insert(1, "on garments only")
            for cells, part in zip(figures, parts, strict=True):
                cells.insert(1, "-" if part is None else _accuracy(part))
    else:
        columns = CONTOUR_COLUMNS
        if any("ods" in found.scores for found in results):
            columns = BENCHMARK_COLUMNS | columns
        header = list(columns.values())
        figures = [[_share(found.scores.get(key)) for key in columns] for found in results]
    rows = [
        [
            found.model["name"],
            measured_on(found),
            str(found.data["num_samples"]),
            _protocol_words(found.protocol),
            *cells,
            f"`{present_command(found.command)}`",
        ]
        for found, cells in zip(results, figures, strict=True)
    ]
    table = markdown_table(["model", "data", "images", "protocol", *header, "command"], rows)
    return f"{table}\n\n{commit_words([found.commit for found in results])}"


def summary_table(results: Sequence[Results]) -> str:
    """Markdown tables for a first look, one for each task: a row for each model, a column for each data set."""
    tables = []
    for task, title, names in _SUMMARIES:
        found = [one for one in results if one.task == task]
        columns = list(dict.fromkeys(measured_on(one) for one in found))
        rows: dict[str, list[str]] = {}
        for one in found:
            cells = rows.setdefault(
                one.model["name"], [f"{one.model['num_parameters'] / 1e6:.1f} M", *["-"] * len(columns)]
            )
            cells[1 + columns.index(measured_on(one))] = ", ".join(_share(one.scores.get(name)) for name in names)
        if found:
            tables.append(markdown_table([title, "parameters", *columns], [[name, *rows[name]] for name in rows]))
    return "\n\n".join(tables)


def present_command(command: str) -> str:
    """A command of a results file, under its present name."""
    for old, new in _RENAMED.items():
        command = command.replace(old, new)
    return command


def commit_words(commits: Sequence[str | None]) -> str:
    """Which code gave the figures of a table, in the order of its rows."""
    known = list(dict.fromkeys(f"`{commit[:7]}`" for commit in commits if commit))
    return f"Measured with the code of commit {', '.join(known)}." if known else "Measured outside of a repository."


def _protocol_words(protocol: dict[str, Any]) -> str:
    """The size that images were read at, the distance of the benchmark, and what the interval was drawn over."""
    size = protocol["image_size"]
    words = [f"{size['height']}x{size['width']}" if isinstance(size, dict) else f"size {size}"]
    benchmark = protocol.get("boundary_benchmark")
    if benchmark:
        words.append(f"max_dist {benchmark['max_dist']:g}")
    if "interval_groups" in protocol:
        words.append(f"interval over {protocol['interval_groups']}")
    return ", ".join(words)


def _classification_figures(results: Results) -> list[str]:
    names = ("balanced_accuracy", "roc_auc", "brier_score", "expected_calibration_error")
    return [_accuracy(results.scores), *(_share(results.scores.get(name)) for name in names)]


def _accuracy(scores: Mapping[str, Any]) -> str:
    return with_interval(scores["accuracy"], scores["accuracy_interval"], ".3f")


_share = partial(rounded, form=".3f")


def measured_on(results: Results) -> str:
    """The data of a results file in words, with the column of contours where it is not the usual one."""
    column = results.arguments.get("contours_column", "contours")
    return data_words(results.data) + ("" if column in ("contours", None) else f" ({column})")


def data_words(data: dict[str, Any]) -> str:
    """The data of a results file in words, such as `myntra_gender small test`."""
    words = [Path(data["source"]).name, data.get("config"), data["split"]]
    return " ".join(word for word in words if word)


def fill_tables(text: str, results: Sequence[Results]) -> str:
    """Put the tables of the results between the markers of a text.

    Raises:
        ValueError: If a marker has no end, or names an unknown task.
    """

    def fill(match: re.Match[str]) -> str:
        if match["task"] == SUMMARY:
            return f"{match[1]}{summary_table(results)}\n{match[3]}"
        if match["task"] not in TASKS:
            raise ValueError(f"a marker asks for results of {match['task']!r}; expected one of {', '.join(TASKS)}.")
        chosen = [found for found in results if found.task == match["task"]]
        return match[1] + (results_table(chosen) + "\n" if chosen else "No results yet.\n") + match[3]

    filled, count = TABLE.subn(fill, text)
    if text.count("<!-- results:") != count or text.count("<!-- end results -->") != count:
        raise ValueError(
            "a table marker has no counterpart; expected <!-- results: TASK --> and <!-- end results -->."
        )
    return filled
