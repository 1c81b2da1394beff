"""What changes between a run and its resumption is without effect, or refused with a sentence: nothing is silent."""

import json
import shutil

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List
from PIL import Image as PILImage
from safetensors.torch import load_file
from tiny_training import EXTRACTOR, LABEL_NAMES, as_png, drawn_row, settings, write_source

from hf_contour.data.fingerprints import listing_sha256, rows_sha256
from hf_contour.training.interrupts import TrainingInterrupted
from hf_contour.training.loop import TrainingLoop
from hf_contour.training.resuming import ResumeError, refuse_other_identity, surroundings, warn_of_other_surroundings
from hf_contour.training.run import run_stage

NUM_ROWS = 40
OPTIONS = {"max_steps": 5, "num_images": 0}


def rows_of(change=lambda number, row: row):
    features = Features(
        {"image": Image(decode=False), "contours": List(Image(decode=False)), "label": ClassLabel(names=LABEL_NAMES)}
    )
    return Dataset.from_list([change(number, drawn_row(number)) for number in range(NUM_ROWS)], features=features)


def in_row(number, **columns):
    return lambda place, row: {**row, **columns} if place == number else row


SMALL = as_png(PILImage.new("L", (3, 3)))


@pytest.mark.parametrize(
    "change",
    [
        in_row(1, label=0),
        in_row(39, label=0),
        in_row(7, image=SMALL),
        in_row(7, contours=[SMALL]),
        in_row(7, contours=[]),
        lambda number, row: drawn_row(8 if number == 7 else 7 if number == 8 else number),
    ],
)
def test_a_change_to_any_row_is_seen(change):
    assert listing_sha256(rows_of(change)) != listing_sha256(rows_of())


def test_the_same_rows_are_the_same_wherever_they_lie(tmp_path):
    def with_files(folder):
        folder.mkdir()
        rows = []
        for number in range(3):
            (folder / f"{number}.png").write_bytes(drawn_row(number)["image"]["bytes"])
            rows.append({"image": {"bytes": None, "path": str(folder / f"{number}.png")}, "label": 0})
        return Dataset.from_list(
            rows, features=Features({"image": Image(decode=False), "label": ClassLabel(names=["a"])})
        )

    first, second = with_files(tmp_path / "first"), with_files(tmp_path / "second")
    assert listing_sha256(first) == listing_sha256(second)
    assert listing_sha256(rows_of().select(range(30))) == listing_sha256(rows_of().select(range(30)))
    assert listing_sha256(rows_of()) != listing_sha256(rows_of().select(range(39)))
    assert rows_sha256(rows_of()) == rows_sha256(rows_of())
    with (tmp_path / "second" / "1.png").open("ab") as file:
        file.write(b"\0")
    assert listing_sha256(first) != listing_sha256(second)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run whose second step was its last so far."""
    folder = tmp_path_factory.mktemp("stopped")
    write_source(folder / "source")
    step = TrainingLoop._train_step

    def stopping(self, batches):
        if self.progress.step == 2:
            raise TrainingInterrupted(15)
        return step(self, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoop, "_train_step", stopping)
        with pytest.raises(TrainingInterrupted):
            run_stage(settings(folder, "contour", **OPTIONS))
    return folder


@pytest.fixture
def interrupted(stopped, tmp_path):
    """Makes settings of that run, which lies in a folder of the test's own."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    return lambda **changes: settings(tmp_path, "contour", **{**OPTIONS, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 2}, "batch_size: 4 there, 2 here"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps: 1 there, 2 here"),
        ({"model": {**EXTRACTOR, "fusion_channels": 6}}, "model: .*'fusion_channels': 4.* there"),
        ({"max_steps": 9}, "max_steps: 5 there, 9 here"),
        ({"ema_decay": 0.0}, "ema_decay: 0.9 there, 0.0 here"),
        ({"augmentation": None}, "augmentation: {.*} there, None here"),
        ({"mixed_precision": "bf16"}, "mixed_precision: 'no' there, 'bf16' here"),
    ],
)
def test_other_settings_are_refused_by_name(interrupted, changes, message):
    with pytest.raises(ResumeError, match=rf"{message}.*--overwrite to throw it away"):
        run_stage(interrupted(**changes))


@pytest.mark.parametrize(
    ("changed", "message"), [({"train": 25}, "train_rows_sha256"), ({"validation": 8}, "validation_rows_sha256")]
)
def test_other_rows_are_refused(interrupted, tmp_path, changed, message):
    write_source(tmp_path / "other", **changed)
    with pytest.raises(ResumeError, match=message):
        run_stage(interrupted(data=str(tmp_path / "other")))


def test_a_row_that_was_relabelled_is_refused(interrupted, tmp_path):
    """Contours of one row in 24, which the 16 rows that are looked at closely may well not be."""
    write_source(tmp_path / "other", change=lambda number, row: {**row, "contours": []} if number == 5 else row)
    with pytest.raises(ResumeError, match=r"\(train_rows_sha256"):
        run_stage(interrupted(data=str(tmp_path / "other")))


def test_another_number_of_processes_is_refused(tmp_path):
    saved = {"num_processes": 1, "device": "cpu", "stage": "contour"}
    with pytest.raises(ResumeError, match="num_processes: 1 there, 2 here"):
        refuse_other_identity(saved, {**saved, "num_processes": 2}, folder=tmp_path)
    refuse_other_identity(saved, {**saved, "train_rows_sha256": "new"}, folder=tmp_path)  # not known then
    with pytest.raises(ResumeError, match="train_rows_sha256: 'old' there, 'new' here"):
        refuse_other_identity(
            {**saved, "train_rows_sha256": "old"}, {**saved, "train_rows_sha256": "new"}, folder=tmp_path
        )


def test_what_does_not_matter_may_change_and_the_end_is_exact(interrupted, tmp_path):
    """Where the data lies, how it is loaded, what is written when: none of it moves a bit."""
    unbroken = run_stage(interrupted(run_name="unbroken"))
    write_source(tmp_path / "moved")
    changes = {"data": str(tmp_path / "moved"), "num_workers": 1, "cache": True, "save_every": 1, "log_every": 2}
    resumed = run_stage(interrupted(**changes))
    models = [load_file(f"{one['model']['folder']}/model.safetensors") for one in (unbroken, resumed)]
    assert all(value.equal(models[1][key]) for key, value in models[0].items())
    assert resumed["evaluation"] == unbroken["evaluation"]


def test_another_torch_or_number_of_threads_is_told(stopped, caplog):
    """Sums over threads may differ in their last bits; a cluster must not be kept from going on for that."""
    (state,) = (stopped / "runs").rglob("step-*/state.json")
    saved = json.loads(state.read_text())["surroundings"]
    assert saved == {"torch": torch.__version__, "threads": 1} == surroundings()
    warn_of_other_surroundings(saved)
    warn_of_other_surroundings({})  # an older checkpoint
    assert caplog.text == ""
    warn_of_other_surroundings({**saved, "threads": 3})
    assert "made under other circumstances (threads: 3 there, 1 here); sums may differ" in caplog.text
