"""Train and evaluate the variants of a plan under one budget, and write model_cards/results/NAME.json.

    python scripts/compare.py --plan hf_contour/evaluation/plans/ablation_contour.yaml --data FOLDER
    python scripts/compare.py --plan hf_contour/evaluation/plans/ablation_contour.yaml --data FOLDER --only reference nearest

The contour ablation takes about an hour on one CPU core. The same command goes on after a stop; it may be
given several times at once, and each process takes the runs that no other is making. The last one writes the results
file, when it finds all runs done.
"""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from hf_contour.evaluation.comparison import comparison_results, planned_runs, read_plan, run_comparison
from hf_contour.evaluation.run import portable_path
from hf_contour.io import OutputError, write_json
from hf_contour.training.resuming import ResumeError


@dataclass
class CompareArguments:
    """What to compare, and how to run it."""

    plan: str = field(metadata={"help": "YAML file of the plan"})
    data: str = field(metadata={"help": "folder, file or Hub id of the data set"})
    only: list[str] | None = field(default=None, metadata={"help": "variants to run; default: all"})
    output_dir: str = field(default="runs", metadata={"help": "folder of the runs"})
    output: str | None = field(default=None, metadata={"help": "default: model_cards/results/NAME.json"})
    torch_threads: int = field(default=0, metadata={"help": "threads of torch; 0: all cores"})


def main() -> None:
    """Run what is not done yet, print a line for each, and write the file when all is done."""
    (arguments,) = HfArgumentParser(CompareArguments).parse_args_into_dataclasses()
    command = shlex.join(["python", "scripts/compare.py", *map(portable_path, sys.argv[1:])])
    try:
        plan = read_plan(Path(arguments.plan))
        settings: dict[str, Any] = {"data": arguments.data, "torch_threads": arguments.torch_threads}
        runs = planned_runs(plan, output_dir=arguments.output_dir, settings=settings)
    except ValueError as error:
        sys.exit(f"error: {error}")
    chosen = [run for run in runs if arguments.only is None or run.variant in arguments.only]
    rows = []
    try:
        for row in run_comparison(plan, chosen, command=command):
            rows.append(row)
            figures = ", ".join(f"{name} {value:.4f}" for name, value in row["scores"].items())
            print(f"{row['variant']}, seed {row['seed']}: {figures}", flush=True)
    except (FileNotFoundError, ResumeError, OutputError, ValueError) as error:
        sys.exit(f"error: {error}")
    if len(rows) < len(runs):
        print(f"{len(rows)} of {len(runs)} runs are at hand; the results file is written when all are.")
        return
    output = Path(arguments.output or f"model_cards/results/{plan.name}.json")
    write_json(output, comparison_results(plan, runs, rows, command=command))
    print(f"written: {output}")


if __name__ == "__main__":
    main()
