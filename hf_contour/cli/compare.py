"""Compare two classifiers image by image, or train the variants of a plan under one budget.

    hf-contour compare FIRST.npz SECOND.npz                             # by how much is the second better?
    hf-contour compare --plan ablation_contour --data FOLDER            # train, evaluate and compare all variants
    hf-contour compare --plan ablation_contour --data FOLDER --only reference nearest
    hf-contour compare --plan across_shops --data_root FOLDER           # each shop left out of the training in turn
    hf-contour compare --plan across_shops --data shop_a shop_b shops,config=c,label_column=section

The files are those of `hf-contour evaluate --predictions`, of the same images; the difference comes with an interval
over groups of near duplicates and the exact test of McNemar. A plan is a YAML file or the name of one that comes with
the package; the same command goes on after a stop, and given several times at once, each process takes the runs that
no other is making. A plan with `leave_out: source` trains on all sources but one and tests on that one, for each of
them; they are those of the plan, or of --data. Exit codes: 0 done, 2 refused.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_contour.cli.settings import command_line, hide_loading_bar, read_settings
from hf_contour.evaluation.summary import markdown_table, with_interval
from hf_contour.flags import setting

HEADER = ["images", "number", "groups", "first", "second", "difference (95 % interval)", "McNemar p"]


@dataclass
class CompareArguments:
    """What to compare, and how."""

    files: list[str] = setting([], "two files of predictions (.npz)", positional=True)
    plan: str | None = setting(None, "plan to carry out: a file or a name")
    data: list[str] | None = setting(
        None, "with --plan: folder, file or Hub id of the data set; several, of some plans"
    )
    data_root: str | None = setting(None, "with --plan: folder in which the sources of the plan are")
    only: list[str] | None = setting(
        None, "with --plan: variants to train, and with --output those in the results; default: all"
    )
    output_dir: str = setting("runs", "folder of the runs of a plan")
    output: str | None = setting(None, "results file; default: OUTPUT_DIR/PLAN.json, of two files none")
    torch_threads: int = setting(0, "with --plan: threads of torch; 0: all cores")
    num_resamples: int = setting(2000, "resamples of the bootstrap")
    seed: int = setting(0, "of the bootstrap")

    def __post_init__(self) -> None:
        if self.plan is None and len(self.files) != 2:
            raise ValueError(f"{len(self.files)} files came; expected two files of predictions, or --plan and --data.")
        if self.plan is not None and (self.files or not (self.data or self.data_root)):
            raise ValueError("--plan goes with --data or --data_root, and without files of predictions.")


def main(argv: Sequence[str]) -> int:
    """Compares, prints a table, and writes the results file."""
    arguments = read_settings(CompareArguments, argv, command="compare", description=__doc__)
    command = command_line("compare", argv)
    return carry_out(arguments, command) if arguments.plan else pair(arguments, command)


def pair(arguments: CompareArguments, command: str) -> int:
    """Compares two files of predictions."""
    from hf_contour.evaluation.predictions import pair_predictions, read_predictions
    from hf_contour.io import origin, write_json
    from hf_contour.metrics.classification import ScoreSettings

    first, second = (read_predictions(Path(name)) for name in arguments.files)
    settings = ScoreSettings(num_resamples=arguments.num_resamples, seed=arguments.seed)
    paired = pair_predictions(first, second, settings=settings)
    print(markdown_table(HEADER, [_row(figures) for figures in (paired["all"], *paired["slices"])]))
    if arguments.output:
        sides = zip(("first", "second"), arguments.files, (first, second), strict=True)
        content: dict[str, Any] = {
            side: {"file": Path(file).stem, "model": found.model, "data": found.data} for side, file, found in sides
        }
        content |= {"paired": paired, "command": command, **origin()}
        write_json(Path(arguments.output), json.loads(json.dumps(content, allow_nan=False)))
        print(f"written: {arguments.output}")
    return 0


def carry_out(arguments: CompareArguments, command: str) -> int:
    """Makes the runs of a plan that are not done yet, and writes the results file when all are."""
    import hf_contour.hub.registration  # noqa: F401 - the runs load their models through the Auto classes
    from hf_contour.data.source_settings import parse_sources
    from hf_contour.io import write_json
    from hf_contour.training.comparison import comparison_results, plan_path, planned_runs, read_plan, run_comparison

    hide_loading_bar()
    plan = read_plan(plan_path(str(arguments.plan)))
    settings: dict[str, Any] = {"torch_threads": arguments.torch_threads}
    if arguments.data:
        several = [asdict(source) for source in parse_sources(arguments.data)]
        settings["data"] = arguments.data[0] if len(several) == 1 else several
    if arguments.data_root:
        settings["data_root"] = arguments.data_root
    runs = planned_runs(plan, output_dir=arguments.output_dir, settings=settings)
    chosen = [run for run in runs if arguments.only is None or run.variant in arguments.only]
    unpaired = {run.paired_with for run in chosen if run.paired_with} - {run.variant for run in chosen}
    if arguments.output and unpaired:
        raise ValueError(f"--only leaves out {sorted(unpaired)}, with which variants are compared; name them too.")
    rows = []
    for row in run_comparison(plan, chosen, command=command):
        rows.append(row)
        figures = ", ".join(f"{name} {value:.4f}" for name, value in row["scores"].items())
        left_out = f" without {row['left_out']}" if "left_out" in row else ""
        print(f"{row['variant']}{left_out}, seed {row['seed']}: {figures}", flush=True)
    wanted = chosen if arguments.output else runs  # the usual file is of the whole plan
    if len(rows) < len(wanted):
        print(f"{len(rows)} of {len(wanted)} runs are at hand; the results file is written when all are.")
        return 0
    output = Path(arguments.output or f"{arguments.output_dir}/{plan.name}.json")
    write_json(output, comparison_results(plan, wanted, rows, command=command))
    if plan.leave_out:
        from hf_contour.hub.across_tables import across_table

        print(across_table(json.loads(output.read_text(encoding="utf-8"))))
    print(f"written: {output}")
    return 0


def _row(figures: dict[str, Any]) -> list[str]:
    return [
        figures["name"],
        str(figures["num_samples"]),
        str(figures["num_groups"]),
        f"{figures['first_accuracy']:.4f}",
        f"{figures['second_accuracy']:.4f}",
        with_interval(figures["difference"], figures["difference_interval"], "+.4f"),
        f"{figures['mcnemar_p']:.3g}",
    ]
