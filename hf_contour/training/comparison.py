"""Trainings that differ in one thing each, side by side: the same budget, data and evaluation for all.

A plan is a YAML file:

    name: ablation_contour           # of the results file
    data: {split: validation}        # fields of EvaluationArguments that say what to evaluate on
    recipe: {...}                    # settings of a stage of training that all variants share
    seeds: [0]
    variants:
      reference: {}
      nearest: {model: {unify: nearest}}       # what differs; mappings are merged field by field
      another seed: {seeds: [1, 2], evaluation: {split: test}}   # seeds and fields of data of its own

Classifiers are also compared image by image with those of the first variant, or of the one that a variant names as
`paired_with`, that have the same seeds.

With `leave_out: source` the data are a list of sources, and each variant is trained once for each of them: on all the
others. Temperature and abstain threshold are fitted on the validation split of the others, and the split of `data` of
the source that was left out is scored; see `across_sources`.

Runs that are finished are not made again, and a run that another process is making is left to it, so the same command
goes on after a stop, and several processes can share a plan.
"""

import copy
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForPreTraining

from hf_contour.data import EMBEDDED
from hf_contour.data.source_settings import Source, located
from hf_contour.evaluation.arguments import EvaluationArguments
from hf_contour.evaluation.cost import multiply_adds
from hf_contour.evaluation.predictions import ClassPredictions, join_predictions, pair_predictions, read_predictions
from hf_contour.evaluation.run import evaluate
from hf_contour.flags import named_file
from hf_contour.io import origin
from hf_contour.training.across_sources import LeftOut, evaluate_left_out, scores_across_sources
from hf_contour.training.arguments import ARGUMENTS, ContourArguments, GenderArguments
from hf_contour.training.folder_lock import FolderInUseError
from hf_contour.training.run import run_stage

EVALUATION_FILE = "evaluation.json"
PREDICTIONS_FILE = "predictions.npz"


@dataclass(frozen=True)
class Plan:
    """What to compare; see the head of this file.

    Raises:
        ValueError: If a part is missing or not of the form that the head of this file shows.
    """

    name: str
    recipe: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    data: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    leave_out: str | None = None

    def __post_init__(self) -> None:
        if self.leave_out not in (None, "source"):
            raise ValueError(f"the plan's leave_out is {self.leave_out!r}; expected 'source', or no such key.")
        for part in ("recipe", "variants", "data"):
            if not isinstance(getattr(self, part), dict):
                raise ValueError(f"the plan's {part} is {getattr(self, part)!r}; expected a mapping.")
        if not self.variants:
            raise ValueError("the plan has no variants; name at least one.")


@dataclass(frozen=True)
class PlannedRun:
    """One training of a plan."""

    variant: str
    changes: dict[str, Any]
    arguments: ContourArguments | GenderArguments
    evaluation: dict[str, Any] = field(default_factory=dict)
    paired_with: str | None = None
    left_out: Source | None = None


def plan_path(name: str) -> Path:
    """The file of a plan: of that path, or the one of that name that comes with the package.

    Raises:
        ValueError: If there is neither; names the plans of the package.
    """
    return named_file(name, Path(__file__).parent / "plans", kind="plan")


def read_plan(path: Path) -> Plan:
    """Reads a plan.

    Raises:
        ValueError: If the file does not hold one; names it and what is wrong.
    """
    try:
        return Plan(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is no plan: {error}") from error


def planned_runs(plan: Plan, *, output_dir: str, settings: Mapping[str, Any]) -> list[PlannedRun]:
    """All trainings of a plan, variant by variant.

    Args:
        plan: what to compare.
        output_dir: folder of the runs.
        settings: further settings of all trainings, such as `data` and `torch_threads`; a variant may change them.

    Raises:
        ValueError: For an impossible setting; names the variant.
    """
    runs = []
    for variant, given in plan.variants.items():
        changes = dict(given or {})
        evaluation = {**plan.data, **changes.pop("evaluation", {})}
        paired_with = changes.pop("paired_with", next(iter(plan.variants)))
        if paired_with not in plan.variants:
            raise ValueError(f"variant {variant!r}: paired_with is {paired_with!r}, which is no variant of the plan.")
        seeds = changes.pop("seeds", plan.seeds)
        values = merged(merged(plan.recipe, settings), changes)
        for left_out, seed in itertools.product(_sources_to_leave_out(plan, values), seeds):
            arguments = _stage_arguments(plan, variant, values, left_out, seed=seed, output_dir=output_dir)
            runs.append(PlannedRun(variant, changes, arguments, evaluation, paired_with, left_out))
    return runs


def _sources_to_leave_out(plan: Plan, values: Mapping[str, Any]) -> list[Source] | list[None]:
    if plan.leave_out is None:
        return [None]
    data = values.get("data") or EMBEDDED
    sources = [] if isinstance(data, str) else located(data, values.get("data_root"))
    if len(sources) < 2:
        raise ValueError(f"data is {data!r}; a plan with leave_out needs at least two sources, such as --data A B.")
    return sources


def _stage_arguments(
    plan: Plan, variant: str, values: Mapping[str, Any], left_out: Source | None, *, seed: int, output_dir: str
) -> ContourArguments | GenderArguments:
    """The settings of one training; `ValueError` if one is impossible; names the variant."""
    name = variant.replace(" ", "_")
    changed: dict[str, Any] = {"seed": seed, "output_dir": output_dir}
    if left_out is not None:
        others = [source for source in located(values["data"], values.get("data_root")) if source != left_out]
        changed |= {"data": [asdict(source) for source in others], "data_root": None}
        name = f"{name}-without_{left_out.name}"
    changed["run_name"] = f"{plan.name}/{name}-seed{seed}"
    try:
        stage = ARGUMENTS[values.get("stage", "gender")]
        if left_out is not None and stage is not GenderArguments:
            raise ValueError("leave_out is for classifiers; expected the stage gender.")
        return stage(**{key: value for key, value in {**values, **changed}.items() if key != "stage"})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"variant {variant!r}: {error}") from error


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, mappings merged field by field; neither is changed."""
    result = copy.deepcopy(dict(base))
    for key, value in changes.items():
        both_map = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both_map else copy.deepcopy(value)
    return result


def run_comparison(plan: Plan, runs: Sequence[PlannedRun], *, command: str) -> Iterator[dict[str, Any]]:
    """Makes the runs one after the other.

    Args:
        plan: what is compared.
        runs: those of its runs to make, as `planned_runs` gives them.
        command: noted in the evaluation of each.

    Yields:
        The row of each run; nothing for one that another process is making.
    """
    for run in runs:
        try:
            training = run_stage(run.arguments)
        except FolderInUseError:
            continue
        path = run.arguments.folder / EVALUATION_FILE
        arguments = evaluation_arguments(plan, run, output=path)
        if not all(Path(file).exists() for file in (path, arguments.predictions) if file):
            if run.left_out is None:
                evaluate(arguments, command=command)
            else:
                assert isinstance(run.arguments, GenderArguments)
                evaluate_left_out(run.arguments, arguments, run.left_out, command=command)
        yield comparison_row(run, training, json.loads(path.read_text(encoding="utf-8")))


def left_out_run(run: PlannedRun) -> LeftOut:
    """What a run said about the source that it had not seen."""
    assert run.left_out is not None
    evaluation = json.loads((run.arguments.folder / EVALUATION_FILE).read_text(encoding="utf-8"))
    predictions = read_predictions(run.arguments.folder / PREDICTIONS_FILE)
    return LeftOut(run.variant, run.left_out.name, run.paired_with or run.variant, evaluation["scores"], predictions)


def evaluation_arguments(plan: Plan, run: PlannedRun, *, output: Path) -> EvaluationArguments:
    """How the model of a run is evaluated."""
    arguments = run.arguments
    shared = {
        "model": str(arguments.folder / "model"),
        "data": run.left_out.path if run.left_out else arguments.data,
        "data_config": run.left_out.config if run.left_out else arguments.data_config,
        "output": str(output),
        "name": f"{plan.name}-{arguments.run_name}",
        "cpu": arguments.cpu,
    }
    if arguments.stage == "gender":
        shared["predictions"] = str(arguments.folder / PREDICTIONS_FILE)
    return EvaluationArguments(**{**shared, **run.evaluation})


def comparison_row(run: PlannedRun, training: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What the comparison keeps of a run: what differed, what it cost, its single-number scores and parts of them."""
    scores = {key: value for key, value in evaluation["scores"].items() if isinstance(value, int | float)}
    kinds = (evaluation["scores"].get(kind, {}) for kind in ("colour_reliance", "contour_contribution"))
    noted = ("steps", "num_samples_seen", "seconds", "images_per_second", "last_loss", "converged_step")
    return {
        "variant": run.variant,
        **({"left_out": run.left_out.name} if run.left_out else {}),
        "changes": run.changes,
        "seed": run.arguments.seed,
        "num_parameters": training["model"].get("num_parameters", training["model"].get("weights")),
        "multiply_adds": _multiply_adds(run.arguments),
        **{name: training["training"][name] for name in noted},
        "data_sha256": training["identity"]["data_sha256"],
        "scores": scores,
        "while_training": {
            split: {name: figures[name] for name in ("loss", "accuracy") if name in figures}
            for split, figures in training["evaluation"].items()
        },
        "slices": {part["name"]: part["accuracy"] for part in evaluation["scores"].get("slices", [])},
        "disturbed": {name: figures["accuracy"] for kind in kinds for name, figures in kind.items()},
    }


def paired_variants(runs: Sequence[PlannedRun]) -> dict[str, dict[str, Any]]:
    """Each variant of classifiers against the one it is paired with, on the same images and with the same seeds.

    The images of all seeds that both have are put together, and near duplicates are resampled as wholes over all of
    them, so that the interval is that of the mean over these seeds; it says nothing about other seeds.

    Returns:
        Variant -> `with`, `seeds`, and `all` and `slices` as `pair_predictions` gives them. Empty for extractors, and
        where sources are left out, which `across_sources` compares.
    """
    if any(run.arguments.stage != "gender" or run.left_out for run in runs):
        return {}
    predictions: dict[str, dict[int, ClassPredictions]] = {}
    for run in runs:
        found = read_predictions(run.arguments.folder / PREDICTIONS_FILE)
        predictions.setdefault(run.variant, {})[run.arguments.seed] = found
    paired = {}
    for name, other in {run.variant: run.paired_with for run in runs}.items():
        seeds = [seed for seed in predictions[name] if seed in predictions.get(other or name, {})]
        if other is None or other == name or not seeds:
            continue
        first, second = (join_predictions([predictions[variant][seed] for seed in seeds]) for variant in (other, name))
        paired[name] = {"with": other, "seeds": seeds, **pair_predictions(first, second)}
        for figures in (paired[name]["all"], *paired[name]["slices"]):
            del figures["mcnemar_p"]  # it would take the seeds for independent images
    return paired


def comparison_results(
    plan: Plan, runs: Sequence[PlannedRun], rows: Sequence[Mapping[str, Any]], *, command: str
) -> dict[str, Any]:
    """The content of the results file."""
    paired = paired_variants(runs)
    across = scores_across_sources([left_out_run(run) for run in runs]) if plan.leave_out else {}
    return {
        "comparison": plan.name,
        "command": command,
        "recipe": plan.recipe,
        "evaluated_on": plan.data,
        "rows": list(rows),
        **({"paired": paired} if paired else {}),
        **({"across": across} if across else {}),
        **origin(),
    }


def _multiply_adds(arguments: ContourArguments | GenderArguments) -> int:
    """Of one image, of the size that the model sees; of 320x480 for one that takes images as they are."""
    auto = AutoModelForImageClassification if arguments.stage == "gender" else AutoModelForPreTraining
    model = auto.from_config(AutoConfig.from_pretrained(arguments.folder / "model"))  # weights cost nothing more
    height, width = arguments.image_size or (320, 480)
    num_channels = getattr(model.config, "num_channels", 3)  # a classifier takes 3
    return multiply_adds(model, torch.zeros(1, num_channels, height, width))
