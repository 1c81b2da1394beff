"""Ray Data deals the parts out, to the actors of a cluster; each writes its parts as `predict` does alone.

Answers, tables and the output folder are the same. An actor that is killed is replaced, and its part done again.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_contour.inference.arguments import PredictionArguments
from hf_contour.inference.output import PredictionOutput
from hf_contour.inference.predict import PartWriter, PredictionReport
from hf_contour.inference.processes import Place


def write_with_ray(arguments: PredictionArguments, output: PredictionOutput, report: PredictionReport) -> None:
    """Writes all parts that are missing, on the cluster that RAY_ADDRESS names, or on this machine.

    Args:
        arguments: of the prediction; `num_workers` is of an actor, 0 is one thread.
        output: begun, in a folder that all machines of the cluster see under this path.
        report: gets what was done.

    Raises:
        ValueError: If Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("--engine ray needs Ray: pip install hf_contour[ray].") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    finished = output.finished()
    missing = [index for index in range(len(output.parts)) if index not in finished]
    absolute = replace(
        arguments,
        model=str(Path(arguments.model).absolute()),
        output=str(Path(arguments.output).absolute()),
        num_workers=arguments.num_workers or 1,
    )
    num_actors = min(max(int(ray.cluster_resources().get("CPU", 1)), 1), len(missing))
    parts = ray.data.from_items([{"part": index} for index in missing], override_num_blocks=len(missing))
    actor: Any = PartActor  # Ray's annotations know functions alone; its documentation gives classes too
    written = parts.map(
        actor,
        fn_constructor_args=(absolute, str(Path.cwd())),
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors),
        max_restarts=-1,
        max_task_retries=-1,
    )
    for row in written.iter_rows():
        report.add(int(row["num_rows"]), list(row["errors"]))


class PartActor:
    """Writes parts in a process of the cluster.

    Args:
        arguments: of the prediction.
        folder: in which relative inputs begin.
    """

    def __init__(self, arguments: PredictionArguments, folder: str):
        os.chdir(folder)
        self.output = PredictionOutput(Path(arguments.output), f".{arguments.format}")
        self.writer = PartWriter(arguments, self.output, Place())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Writes a part, unless it is there."""
        num_rows, errors = 0, list[str]()
        with self.output.claim(int(row["part"])) as is_ours:
            if is_ours:
                num_rows, errors = self.writer.write(int(row["part"]))
        return {"num_rows": num_rows, "errors": errors}
