"""Tables of comparisons and of speed in Markdown, rendered from their results files.

In a text, a table stands between `<!-- comparison: NAME -->` or `<!-- speed: NAME -->` and `<!-- end NAME -->`, where
`model_cards/results/NAME.json` holds the figures.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from hf_contour.card_tables import markdown_table

MARKER = re.compile(
    r"(<!-- (?P<kind>comparison|speed): (?P<name>[\w-]+) -->\n)(?:.*?)(<!-- end (?P=name) -->)", re.DOTALL
)
# The score that a comparison is ranked by, and those shown beside it.
COMPARED_SCORES = (("ods", ("ois", "ap", "r50")), ("accuracy", ("balanced_accuracy", "expected_calibration_error")))


def comparison_table(results: Mapping[str, Any]) -> str:
    """A row for each variant: its cost, its scores as means over seeds, and the difference to the first variant.

    Args:
        results: as `comparison.comparison_results` gives them.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in results["rows"]:
        groups.setdefault(row["variant"], []).append(row)
    reference = next(iter(groups.values()))
    main, others = next(names for names in COMPARED_SCORES if names[0] in reference[0]["scores"])
    base = _mean_score(reference, main)
    header = ["variant", "weights", "million multiply-adds", main.upper() if len(main) < 5 else main]
    header += ["difference", *(name.upper() if len(name) < 5 else name.replace("_", " ") for name in others)]
    lines = []
    for variant, rows in groups.items():
        scores = [row["scores"][main] for row in rows]
        spread = f" ({min(scores):.3f} to {max(scores):.3f}, {len(scores)} seeds)" if len(scores) > 1 else ""
        lines.append(
            [
                variant,
                f"{rows[0]['weights']:,}",
                f"{rows[0]['multiply_adds'] / 1e6:,.0f}",
                f"{mean(scores):.3f}{spread}",
                "" if rows is reference else f"{mean(scores) - base:+.3f}",
                *(f"{_mean_score(rows, name):.3f}" for name in others),
            ]
        )
    return markdown_table(header, lines)


def speed_table(results: Mapping[str, Any]) -> str:
    """A row for each model that was timed.

    Args:
        results: as `benchmark.benchmark_extractors` gives them.
    """
    header = ["model", "picture", "weights", "million multiply-adds", "median ms", "time relative to the first row"]
    rows = [
        [
            row["name"],
            f"{row['height']}x{row['width']}",
            f"{row['num_parameters']:,}",
            f"{row['multiply_adds'] / 1e6:,.0f}",
            f"{row['median_ms']:.1f}",
            f"{row['ratio']:.2f}",
        ]
        for row in results["rows"]
    ]
    return markdown_table(header, rows)


def fill_named_tables(text: str, folder: Path) -> str:
    """Put the tables of the results files of a folder between the markers of a text.

    Raises:
        ValueError: If a marker has no end, or its file is missing.
    """
    tables = {"comparison": comparison_table, "speed": speed_table}

    def fill(match: re.Match[str]) -> str:
        path = folder / f"{match['name']}.json"
        if not path.is_file():
            raise ValueError(f"a marker asks for {path}, which is not there.")
        results = json.loads(path.read_text(encoding="utf-8"))
        return f"{match[1]}{tables[match['kind']](results)}\n{match[4]}"

    filled, count = MARKER.subn(fill, text)
    if len(re.findall(r"<!-- (?:comparison|speed): ", text)) != count:
        raise ValueError(
            "a table marker has no counterpart; expected <!-- comparison: NAME --> ... <!-- end NAME -->."
        )
    return filled


def _mean_score(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return mean(row["scores"][name] for row in rows)
