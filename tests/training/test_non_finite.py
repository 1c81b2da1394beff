"""NaN and infinity in images, loss, gradient or weights stop a training or are skipped, and never reach a disk."""

import json
import math

import pytest
import torch
from tiny_training import settings, write_source

from hf_contour.cli.main import main
from hf_contour.training import contour_stage, stage_data
from hf_contour.training.arguments import ContourArguments
from hf_contour.training.checkpoints import load_newest
from hf_contour.training.finite import NonFiniteLossError, are_finite, optimizer_is_finite
from hf_contour.training.loop import TrainingLoop
from hf_contour.training.run import run_stage

NUM_STEPS = 6


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("tiny") / "source", validation=2)


@pytest.fixture
def arguments(tmp_path, source):
    options = {"data": str(source), "max_steps": NUM_STEPS, "save_every": 1, "keep_checkpoints": 9, "num_images": 0}
    return lambda **changes: settings(tmp_path, "contour", **{**options, **changes})


class Poison:
    """Puts a number into a place of one step, or of all from one step on."""

    def __init__(self, monkeypatch, place, step, number=math.nan, *, on=False):
        self.step, self.number, self.on = step, number, on
        self.made, self.samples = 0, []
        self.collate, self.train_loss = stage_data.collate, contour_stage.ContourTask.train_loss
        if place == "image":
            monkeypatch.setattr(stage_data, "collate", self.poisoned_batch)
        else:
            monkeypatch.setattr(contour_stage.ContourTask, "train_loss", getattr(self, f"poisoned_{place}")())

    @property
    def is_due(self):
        return self.made == self.step or (self.on and self.made > self.step)

    def poisoned_batch(self, samples):
        batch = self.collate(samples)
        self.made += len(samples) > 1  # evaluations take one at a time
        if self.is_due and len(samples) > 1:
            batch["pixel_values"][2, 0, 5, 7] = self.number
            self.samples = [int(batch["index"][2])]
        return batch

    def counted(self, change):
        def train_loss(task, model, batch):
            if not model.training:
                return self.train_loss(task, model, batch)
            self.made += 1
            self.samples = batch["index"].tolist() if self.is_due else self.samples
            return change(task, model, batch) if self.is_due else self.train_loss(task, model, batch)

        return train_loss

    def poisoned_loss(self):
        return self.counted(lambda task, model, batch: self.train_loss(task, model, batch) * self.number)

    def poisoned_gradient(self):
        def change(task, model, batch):
            loss = self.train_loss(task, model, batch)
            for weight in model.parameters():
                weight.register_hook(lambda gradient: gradient * self.number)
            return loss

        return self.counted(change)

    def poisoned_weights(self):
        def change(task, model, batch):
            next(model.parameters()).data.view(-1)[3] = self.number
            return self.train_loss(task, model, batch)

        return self.counted(change)

    def poisoned_update(self):
        """Weights that were sound in the forward pass and are not after the step."""

        def change(task, model, batch):
            loss = self.train_loss(task, model, batch)
            next(model.parameters()).data.view(-1)[3] = self.number
            return loss

        return self.counted(change)


def assert_nothing_bad_was_saved(folder, steps):
    """There are checkpoints of these many steps, the newest of them sound, and nothing else."""
    assert len(list((folder / "checkpoints").glob("*"))) == steps
    assert not (folder / "model").exists()
    newest = load_newest(folder / "checkpoints")
    assert (newest.step if newest else 0) == steps
    for state_dict in newest.weights.values() if newest else ():
        assert are_finite(state_dict.values())


def assert_stops(poison, made, capsys):
    """The step is not made, its samples are named, and the exit code is its own."""
    with pytest.raises(NonFiniteLossError) as refused:
        run_stage(made)
    message = str(refused.value)
    assert f"At step {poison.step} the loss was " in message
    assert all(f"{index} (row {index})" in message for index in poison.samples)
    assert message.count("(row ") == len(poison.samples)
    assert_nothing_bad_was_saved(made.folder, poison.step - 1)
    status = json.loads((made.folder / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("failed", 3)
    return message


@pytest.mark.faults
@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("place", ["image", "loss", "gradient", "weights", "update"])
@pytest.mark.parametrize("step", [1, NUM_STEPS // 2, NUM_STEPS])
def test_it_stops_within_the_step_and_names_the_samples(
    arguments, monkeypatch, capsys, record_property, place, step, number
):
    record_property("injected", 1)
    record_property("lost", 1)
    assert_stops(Poison(monkeypatch, place, step, number), arguments(), capsys)
    record_property("lost", 0)


def test_a_image_that_is_not_finite_is_named_alone(arguments, monkeypatch, capsys):
    poison = Poison(monkeypatch, "image", 3)
    message = assert_stops(poison, arguments(), capsys)
    assert len(poison.samples) == 1
    assert "whose image or labels are not finite" in message


def test_weights_that_are_not_finite_after_the_last_step_are_named(arguments, monkeypatch, capsys):
    message = assert_stops(Poison(monkeypatch, "update", NUM_STEPS, math.inf), arguments(), capsys)
    assert "not finite are the weights contour_extractor." in message


def test_by_option_steps_are_skipped_and_counted(arguments, monkeypatch, caplog):
    poison = Poison(monkeypatch, "image", 3)
    made = arguments(on_non_finite="skip")
    results = run_stage(made)
    assert results["training"]["skipped_steps"] == 1
    assert results["training"]["steps"] == NUM_STEPS
    lines = [json.loads(line) for line in (made.folder / "log.jsonl").read_text().splitlines()]
    (index,) = poison.samples
    assert [line for line in lines if "skipped" in line] == [{"step": 3, "skipped": [f"{index} (row {index})"]}]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 4, 5, 6]
    assert "Step 3 is skipped: the loss is nan" in caplog.text
    before, after = (load_of(made, step) for step in (2, 3))
    for part in ("model", "ema"):  # running statistics too are as they were
        assert all(value.equal(after.weights[part][key]) for key, value in before.weights[part].items())
    assert not all(
        value.equal(after.weights["model"][key]) for key, value in load_of(made, 4).weights["model"].items()
    )


def load_of(made, step):
    folder = made.folder / "checkpoints" / f"step-{step:08d}"
    alone = made.folder / f"only{step}"
    alone.mkdir()
    folder.rename(alone / folder.name)
    found = load_newest(alone)
    (alone / folder.name).rename(folder)
    return found


@pytest.mark.faults
def test_skipping_ends_when_all_steps_are_bad(arguments, monkeypatch, record_property):
    Poison(monkeypatch, "image", 3, math.inf, on=True)
    made = arguments(on_non_finite="skip", max_steps=20, keep_checkpoints=20)
    with pytest.raises(NonFiniteLossError, match="At step 13 the loss was"):
        run_stage(made)
    record_property("injected", 11)
    assert_nothing_bad_was_saved(made.folder, 12)


def test_weights_that_cannot_be_skipped_stop_it_all_the_same(arguments, monkeypatch):
    Poison(monkeypatch, "weights", 2)
    made = arguments(on_non_finite="skip")
    with pytest.raises(NonFiniteLossError, match=r"At step 2 .*not finite are the weights"):
        run_stage(made)
    assert_nothing_bad_was_saved(made.folder, 1)


@pytest.mark.faults
def test_a_model_that_is_not_finite_from_the_start_is_refused(arguments, monkeypatch):
    build = contour_stage.build_extractor

    def broken(made):
        model = build(made)
        next(model.parameters()).data.view(-1)[0] = math.nan
        return model

    monkeypatch.setattr(contour_stage, "build_extractor", broken)
    with pytest.raises(NonFiniteLossError, match=r"weights contour_extractor\..* of the model are not finite before"):
        run_stage(arguments())


@pytest.mark.faults
def test_an_evaluation_that_is_not_finite_is_not_saved(arguments, monkeypatch):
    evaluate = contour_stage.ContourTask.evaluate

    def poisoned(self, model, accelerator, *, split, heed):
        return {**evaluate(self, model, accelerator, split=split, heed=heed), "loss": math.nan}

    monkeypatch.setattr(contour_stage.ContourTask, "evaluate", poisoned)
    made = arguments()
    with pytest.raises(NonFiniteLossError, match="loss on the split validation after step 6 is nan"):
        run_stage(made)
    assert_nothing_bad_was_saved(made.folder, 5)


def test_an_optimiser_that_is_not_finite_is_not_saved(arguments, monkeypatch):
    step = TrainingLoop._train_step

    def poisoned(self, batches):
        made = step(self, batches)
        if self.progress.step == 4:
            next(iter(self.state.optimizer.state.values()))["exp_avg"].view(-1)[0] = math.inf
        return made

    monkeypatch.setattr(TrainingLoop, "_train_step", poisoned)
    made = arguments()
    with pytest.raises(NonFiniteLossError, match="state of the optimiser is not finite after step 4"):
        run_stage(made)
    assert_nothing_bad_was_saved(made.folder, 3)


def test_the_exit_code_and_the_way_on(arguments, source, tmp_path, monkeypatch, capsys):
    """The message names the option, and with it the same command goes on from the checkpoint before."""
    made = arguments()
    recipe = tmp_path / "recipe.yaml"
    default = ContourArguments()
    changed = {key: value for key, value in vars(made).items() if value != getattr(default, key)}
    recipe.write_text(json.dumps({"stage": "contour", **changed}))
    with monkeypatch.context() as patch:
        Poison(patch, "loss", 4)
        assert main(["train", "--recipe", str(recipe)]) == 3
    assert "--on_non_finite skip" in capsys.readouterr().err
    Poison(monkeypatch, "loss", 1)
    assert main(["train", "--recipe", str(recipe), "--on_non_finite", "skip"]) == 0
    results = json.loads((made.folder / "results.json").read_text())
    assert (results["training"]["steps"], results["training"]["skipped_steps"]) == (NUM_STEPS, 1)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ([], True),
        ([torch.tensor([1, 2])], True),
        ([torch.empty(0), torch.tensor(3.0)], True),
        ([torch.tensor([1e38, -1e38])], True),
        ([torch.ones(3), torch.tensor([1.0, math.nan])], False),
        ([torch.ones(3), torch.tensor([-math.inf])], False),
        ([torch.tensor([math.nan], dtype=torch.bfloat16)], False),
        ([torch.tensor(1e300, dtype=torch.float64)], True),
    ],
)
def test_finite_is_what_holds_no_nan_and_no_infinity(tensors, expected):
    assert bool(are_finite(tensors)) is expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_an_optimiser_whose_steps_are_counted_on_the_cpu():
    weight = torch.nn.Parameter(torch.ones(3, device="cuda"))
    optimizer = torch.optim.AdamW([weight])
    weight.square().sum().backward()
    optimizer.step()
    state = optimizer.state[weight]
    assert state["step"].device.type == "cpu"
    assert optimizer_is_finite(optimizer)
    state["exp_avg"][1] = math.nan
    assert not optimizer_is_finite(optimizer)
