"""Streams: each process reads and decodes its own share, and goes on anywhere as if never interrupted."""

import dataclasses
import io
import json
import shutil
import tarfile

import datasets
import pytest
from tiny_training import drawn_row, settings, write_source
from torch.utils.data import DataLoader

from hf_contour.data.rows import RowDrawer
from hf_contour.data.samples import SampleBuilder, collate
from hf_contour.data.sources import ColumnNames, load_source
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.training.checkpoints import load_newest, save_checkpoint
from hf_contour.training.interrupts import TrainingInterrupted
from hf_contour.training.loop import TrainingLoop
from hf_contour.training.resuming import ResumeError, checkpoint_folder
from hf_contour.training.run import run_stage
from hf_contour.training.streams import Share, StreamedRow, StreamedSamples, StreamOrder, StreamReader

NUM_ROWS = 60


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """Rows 0 to 59 in files of 10, told apart by `number`."""
    folder = tmp_path_factory.mktemp("files")
    for start in range(0, NUM_ROWS, 10):
        rows = [{"number": number, **drawn_row(number)} for number in range(start, start + 10)]
        datasets.Dataset.from_list(rows).to_parquet(folder / f"part-{start:02d}.parquet")
    files = sorted(map(str, folder.glob("*.parquet")))
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)


def reader(stream, rank=0, world=1, *, seed=3, block_size=7):
    return StreamReader(stream, Share(rank, world), seed=seed, block_size=block_size)


def order(stream, rank=0, world=1, *, first=0, batches=30, state=None, ahead=4, block_size=7):
    return StreamOrder(
        [reader(stream, rank, world, block_size=block_size)],
        [1.0],
        batch_size=2,
        first_batch=first,
        num_batches=batches,
        seed=3,
        ahead=ahead,
        state=state,
    )


def numbers(batches):
    return [place.row["number"] for batch in batches for place in batch]


@pytest.mark.parametrize("world", [1, 2, 5, 8])
def test_each_pass_gives_every_row_to_one_process_alone(stream, world):
    """Six files go to 1, 2 or 3 processes whole; among 4, 5 or 8 the rows of each are dealt out."""
    rows = []
    for rank in range(world):
        own, read = reader(stream, rank, world), []
        while (place := own.take()).epoch == 0:
            read.append(place)
        assert len(read) in (NUM_ROWS // world, NUM_ROWS // world + 1) or world in (4, 5, 8)
        rows += read
    assert sorted(place.row["number"] for place in rows) == list(range(NUM_ROWS))
    assert len({place.index for place in rows}) == NUM_ROWS  # augmentation is drawn by it


def test_files_and_rows_come_in_another_order_each_pass(stream):
    own = reader(stream)
    passes = [[own.take().row["number"] for _ in range(NUM_ROWS)] for _ in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(NUM_ROWS))
    assert passes[0] != passes[1]
    assert [number // 10 for number in passes[0]] != sorted(number // 10 for number in passes[0])
    assert reader(stream, seed=4).take().row["number"] != passes[0][0]


@pytest.mark.parametrize("world", [1, 4])
@pytest.mark.parametrize("stopped", [1, 7, 30, 31])
def test_it_goes_on_from_any_batch_after_one_block(stream, world, stopped):
    """The state is what a checkpoint keeps: plain JSON."""
    unbroken = numbers(order(stream, world - 1, world, batches=50))
    first = order(stream, world - 1, world, batches=50)
    asked = iter(first)
    for _ in range(min(stopped + 3, 50)):  # workers run ahead of what is trained on
        next(asked)
    state = json.loads(json.dumps(first.state_at(stopped)))
    assert numbers(order(stream, world - 1, world, first=stopped, batches=50, state=state)) == unbroken[2 * stopped :]


def test_streams_are_drawn_from_by_their_weights_and_go_on(stream):
    other = stream.map(lambda row: {**row, "number": row["number"] + 1000})

    def mixed(**changes):
        readers = [reader(stream), reader(other)]
        options = {"batch_size": 4, "first_batch": 0, "num_batches": 200, "seed": 3, "ahead": 0}
        return StreamOrder(readers, [3.0, 1.0], **{**options, **changes})

    unbroken = numbers(mixed())
    share = sum(number < 1000 for number in unbroken) / len(unbroken)
    assert share == pytest.approx(0.75, abs=0.05)
    first = mixed()
    asked = iter(first)
    for _ in range(90):
        next(asked)
    assert numbers(mixed(first_batch=90, state=first.state_at(90))) == unbroken[4 * 90 :]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The rows 0 to 59 in WebDataset shards of 10: `7.png` and its label in `7.cls`."""
    folder = tmp_path_factory.mktemp("shards")
    for start in range(0, NUM_ROWS, 10):
        with tarfile.open(folder / f"train-{start:02d}.tar", "w") as archive:
            for number in range(start, start + 10):
                parts = {"png": drawn_row(number)["image"]["bytes"], "cls": str(number % 2).encode()}
                for suffix, content in parts.items():
                    member = tarfile.TarInfo(f"{number}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return load_source(folder, columns=ColumnNames("png", None, "cls"), label_names=["even", "odd"], streaming=True)


def test_shards_give_every_row_to_one_process_alone(shards):
    read = [order(shards, rank, 2, batches=15) for rank in (0, 1)]
    rows = [place.row for own in read for batch in own for place in batch]
    assert sorted(int(row["__key__"]) for row in rows) == list(range(NUM_ROWS))
    assert all(row["label"] == int(row["__key__"]) % 2 for row in rows)


@pytest.mark.parametrize("kind", ["stream", "shards"])
@pytest.mark.parametrize("world", [1, 2, 8])
@pytest.mark.parametrize("resumed", [False, True])
def test_as_many_images_are_decoded_as_are_trained_on(request, monkeypatch, kind, world, resumed):
    stream = request.getfixturevalue(kind)
    stage = "contour" if kind == "stream" else "gender"
    decode, decoded = RowDrawer.decode, []
    monkeypatch.setattr(RowDrawer, "decode", lambda *args: decoded.append(1) or decode(*args))
    used = 0
    for rank in range(world):
        made = order(stream, rank, world, batches=160 // world)
        first, state = 0, None
        if resumed:
            asked, first = iter(made), 40 // world
            for _ in range(first):
                next(asked)
            state = made.state_at(first)
        made = order(stream, rank, world, first=first, batches=160 // world, state=state)
        builder = SampleBuilder(ContourImageProcessor(size=8), stage, None, num_samples=None)
        for batch in DataLoader(StreamedSamples(builder), batch_sampler=made, collate_fn=collate):
            used += len(batch["index"])
    assert used == (240 if resumed else 320)
    assert len(decoded) <= 1.05 * used


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_change_nothing(stream, num_workers):
    builder = SampleBuilder(ContourImageProcessor(size=8), "contour", None, num_samples=None)
    loader = DataLoader(
        StreamedSamples(builder), batch_sampler=order(stream, batches=12), collate_fn=collate, num_workers=num_workers
    )
    plain = [[place.index for place in batch] for batch in order(stream, batches=12)]
    assert [batch["index"].tolist() for batch in loader] == plain


def test_an_empty_share_is_an_error(stream):
    with pytest.raises(ValueError, match="has no samples, or fewer than there are processes"):
        reader(stream.filter(lambda row: False)).take()
    assert isinstance(reader(stream).take(), StreamedRow)


def test_an_interrupted_training_on_a_stream_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    write_source(tmp_path / "source")
    options = {"streaming": True, "shuffle_buffer": 5, "max_steps": 9, "save_every": 2}
    unbroken = run_stage(settings(tmp_path, "contour", run_name="unbroken", **options))
    step = TrainingLoop._train_step

    def stopping(self, batches):
        if self.progress.step == 7:
            raise TrainingInterrupted(15)
        return step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_train_step", stopping)
        with pytest.raises(TrainingInterrupted):
            run_stage(settings(tmp_path, "contour", num_workers=2, **options))
    resumed = run_stage(settings(tmp_path, "contour", **options))
    assert resumed["evaluation"] == unbroken["evaluation"]
    assert resumed["training"]["last_loss"] == unbroken["training"]["last_loss"]


def test_a_checkpoint_that_kept_its_place_in_a_stream_in_another_way_is_refused(tmp_path):
    """It would begin the stream anew, or end in a traceback."""
    write_source(tmp_path / "source")
    arguments = settings(tmp_path, "contour", streaming=True, shuffle_buffer=5, max_steps=4, save_every=2)
    run_stage(arguments)
    (arguments.folder / "results.json").unlink()
    checkpoint = load_newest(checkpoint_folder(arguments))
    for streams in (None, [None], [{"examples_seen": 8}], [[{"block": {"epoch": 0}, "taken": 1}]]):
        shutil.rmtree(checkpoint_folder(arguments))
        older = dataclasses.replace(checkpoint, state={**checkpoint.state, "streams": streams})
        save_checkpoint(checkpoint_folder(arguments), older, keep=1)
        with pytest.raises(ResumeError, match="another version, which kept its place in a stream in another way"):
            run_stage(arguments)
