"""Result tables in Markdown, rendered from results files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_contour.results import CLASSIFICATION, TASKS, Results

TABLE = re.compile(r"(<!-- results: (?P<task>[\w-]+) -->\n).*?(<!-- end results -->)", re.DOTALL)

# Scores of contours -> their column.
CONTOUR_COLUMNS = {"loss": "loss", "pixel_f1": "pixel F1 (no tolerance)", "pixel_threshold": "at threshold"}
# These come first in a table where an evaluation has them.
BENCHMARK_COLUMNS = {"ods": "ODS", "ois": "OIS", "ap": "AP", "r50": "R50"}


def class_table(results: Results) -> str:
    """A Markdown table of the scores and the confusion matrix of one single-label evaluation."""
    names = results.scores["class_names"]
    header = ["class", "precision", "recall", "F1", "pictures", *(f"taken for {name}" for name in names)]
    rows = []
    for name, counts in zip(names, results.scores["confusion_matrix"], strict=True):
        scores = results.scores["per_class"][name]
        shares = [_share(scores[key]) for key in ("precision", "recall", "f1")]
        rows.append([name, *shares, str(scores["support"]), *(str(count) for count in counts)])
    return f"Classes on {data_words(results.data)}:\n\n{markdown_table(header, rows)}"


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
    else:
        columns = CONTOUR_COLUMNS
        if any("ods" in found.scores for found in results):
            columns = BENCHMARK_COLUMNS | columns
        header = list(columns.values())
        figures = [[_share(found.scores.get(key)) for key in columns] for found in results]
    rows = [
        [
            found.model["name"],
            data_words(found.data),
            str(found.data["num_samples"]),
            _protocol_words(found.protocol),
            *cells,
            f"`{found.command}`",
        ]
        for found, cells in zip(results, figures, strict=True)
    ]
    return markdown_table(["model", "data", "pictures", "protocol", *header, "command"], rows)


def _protocol_words(protocol: dict[str, Any]) -> str:
    """The size that pictures were read at, the distance of the benchmark, and what the interval was drawn over."""
    size = protocol["image_size"]
    words = [f"{size['height']}x{size['width']}" if isinstance(size, dict) else f"size {size}"]
    benchmark = protocol.get("boundary_benchmark")
    if benchmark:
        words.append(f"max_dist {benchmark['max_dist']:g}")
    if "interval_groups" in protocol:
        words.append(f"interval over {protocol['interval_groups']}")
    return ", ".join(words)


def _classification_figures(results: Results) -> list[str]:
    scores = results.scores
    low, high = scores["accuracy_interval"]
    names = ("balanced_accuracy", "roc_auc", "brier_score", "expected_calibration_error")
    return [f"{_share(scores['accuracy'])} ({_share(low)} to {_share(high)})", *(_share(scores.get(n)) for n in names)]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def data_words(data: dict[str, Any]) -> str:
    """The data of a results file in words, such as `myntra_gender small test`."""
    words = [Path(data["source"]).name, data.get("config"), data["split"]]
    return " ".join(word for word in words if word)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells below a header."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def fill_tables(text: str, results: Sequence[Results]) -> str:
    """Put the tables of the results between the markers of a text.

    Raises:
        ValueError: If a marker has no end, or names an unknown task.
    """

    def fill(match: re.Match[str]) -> str:
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
