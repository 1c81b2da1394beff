"""Check a data set before training: every image, label and contour map of every split is read.

    hf-contour check-data path/to/garments
    hf-contour check-data path/to/data --config_name small --output_dir checks
    hf-contour check-data path/to/garments --model path/to/classifier

Prints a table of what is wrong, how often, in which files first, and what to do; --json prints one JSON object;
--output_dir receives `checks.json` (the same) and `checks.csv` (a line for each finding). On two cores, about 20,000
images of 60x80 take half a minute. With --model, rows are listed whose label the model contradicts with confidence:
those of the split train by its embeddings, out of fold, others by its own answers. Exit codes: 0 no errors, 1 errors
in the data, 2 it cannot be read.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from hf_contour.cli.settings import read_settings
from hf_contour.flags import needed, setting

# Arguments of `load_and_check` that are called as the settings are.
AS_THEY_ARE = ("splits", "config_name", "kind", "separator", "label_names", "num_workers")


@dataclass
class CheckArguments:
    """What to check, and from where on an image is reported."""

    source: str = needed("Hub id, Parquet, csv, BSDS folder or folder of images", positional=True)
    config_name: str | None = setting(None, "configuration of a Hub data set or folder")
    splits: list[str] | None = setting(None, "splits to check; all by default")
    kind: str | None = setting(
        None, "hub, csv, parquet, bsds, saved, zip, metadata or imagefolder, where the guess is wrong"
    )
    image_column: str = setting("image", "column of the images")
    contours_column: str = setting("contours", "column of the contour maps")
    label_column: str = setting("label", "column of the labels")
    label_names: list[str] | None = setting(None, "class names in their order")
    multi_label: bool = setting(False, "cells of a csv hold several labels")
    separator: str = setting(";", "between several contour paths in a cell of a csv")
    label_separator: str | None = setting(None, "between several labels; as separator")
    unlabelled: str = setting("error", "skip leaves rows without a label out", choices=["error", "skip"])
    min_side: int = setting(16, "shorter images are tiny, in pixels")
    max_aspect: float = setting(8.0, "longest side over shortest side; more is extreme")
    max_edge_share: float = setting(0.5, "maps with more are inverted")
    num_workers: int = setting(os.cpu_count() or 1, "threads that read images")
    output_dir: str | None = setting(None, "folder for checks.json and checks.csv")
    model: str | None = setting(None, "folder of a classifier that says whose labels are doubtful (needs cleanlab)")
    json: bool = setting(False, "print one JSON object")


def main(argv: Sequence[str]) -> int:
    """Checks, prints the table and gives the exit code."""
    arguments = read_settings(CheckArguments, argv, command="check-data", description=__doc__)
    from hf_contour.data.checks import load_and_check
    from hf_contour.data.image_checks import ImageLimits
    from hf_contour.data.sources import ColumnNames, label_reading

    further = None
    if arguments.model is not None:
        from hf_contour.evaluation.label_doubts import label_doubts

        further = partial(label_doubts, model_folder=arguments.model)
    report = load_and_check(
        arguments.source,
        columns=ColumnNames(arguments.image_column, arguments.contours_column, arguments.label_column),
        limits=ImageLimits(arguments.min_side, arguments.max_aspect, arguments.max_edge_share),
        further=further,
        **{name: getattr(arguments, name) for name in AS_THEY_ARE},
        **label_reading(arguments),
    )
    print(json.dumps(report.to_dict()) if arguments.json else report.table())
    if arguments.output_dir is not None:
        report.write(arguments.output_dir)
    return report.exit_code
