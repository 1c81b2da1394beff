"""Every input has a row; tables are whole or absent; runs go on, share the work, and never mix two models."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from prediction_images import image_bytes

from hf_contour import ContourGenderForImageClassification
from hf_contour.image_processing_contour import ContourImageProcessor
from hf_contour.inference.arguments import PredictionArguments
from hf_contour.inference.output import PredictionOutput
from hf_contour.inference.parts import Item
from hf_contour.inference.predict import PartWriter, open_output, predict
from hf_contour.inference.preparing import Preparation
from hf_contour.inference.processes import Place


def settings(model: Path, output: Path, images: Path, **changes: Any) -> PredictionArguments:
    given = {"rows_per_part": 5, "batch_size": 2, "num_workers": 2, "cpu": True, "inputs": [str(images)], **changes}
    return PredictionArguments(model=str(model), output=str(output), **given)


def tables(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("part-*"))}


def test_every_input_has_a_row_with_the_scores_of_a_direct_call(
    model_folder: Path, images: Path, tmp_path: Path
) -> None:
    report = predict(settings(model_folder, tmp_path / "out", images, probabilities=True, embeddings=True))
    assert (report.num_rows, report.num_errors, report.num_parts, report.exit_code) == (23, 1, 5, 3)
    rows = [row for path in sorted((tmp_path / "out").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["id"] for row in rows] == sorted(str(path) for path in images.rglob("*.*"))
    model = ContourGenderForImageClassification.from_pretrained(model_folder).eval()
    processor = ContourImageProcessor.from_pretrained(model_folder)
    names = ["men", "women", "children"]
    for row in rows:
        if row["id"].endswith("damaged.jpg"):
            assert "an HTML page" in row["error"]
            assert all(row[name] is None for name in ("label", "score", "abstained", "embedding", "probability_men"))
            continue
        with torch.no_grad():
            outputs = model(**processor(row["id"], return_tensors="pt"), output_hidden_states=True)
        expected = outputs.logits.softmax(dim=1)[0]
        assert row["label"] == names[int(expected.argmax())]
        assert row["score"] == pytest.approx(expected.max().item(), abs=1e-4)
        assert [row[f"probability_{name}"] for name in names] == pytest.approx(expected.tolist(), abs=1e-4)
        assert row["abstained"] == (row["score"] < 0.9)
        assert row["error"] is None
        assert row["embedding"] == pytest.approx(outputs.hidden_states[-1].mean(dim=(2, 3))[0].tolist(), abs=1e-3)
    assert {row["abstained"] for row in rows} == {True, False, None}


def test_images_are_prepared_as_the_processor_does_to_the_bit(model_folder: Path, images: Path) -> None:
    processor = ContourImageProcessor.from_pretrained(model_folder)
    preparation = Preparation(processor)
    paths = sorted(str(path) for path in images.glob("*.png"))
    batch = preparation.batch([preparation.image(Item(path, path)) for path in paths])
    assert torch.equal(batch, processor(paths, return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_other_formats_hold_the_same(model_folder: Path, images: Path, tmp_path: Path, form: str) -> None:
    predict(settings(model_folder, tmp_path / "out", images, format=form, rows_per_part=100))
    lines = (tmp_path / "out" / f"part-000000.{form}").read_text(encoding="utf-8").splitlines()
    first = str(images / "00.png")
    if form == "csv":
        assert lines[0] == "id,label,score,abstained,error"
        assert lines[1].startswith(f"{first},")
        assert len(lines) == 24
    else:
        assert list(json.loads(lines[0])) == ["id", "label", "score", "abstained", "error"]
        assert json.loads(lines[0])["id"] == first
        assert len(lines) == 23


def test_threads_and_order_of_parts_change_no_bit(model_folder: Path, images: Path, tmp_path: Path) -> None:
    predict(settings(model_folder, tmp_path / "one", images, num_workers=1))
    arguments = settings(model_folder, tmp_path / "three", images, num_workers=3)
    output = open_output(arguments, Place())
    writer = PartWriter(arguments, output, Place())
    for index in reversed(range(len(output.parts))):
        writer.write(index)
    assert tables(tmp_path / "one") == tables(tmp_path / "three")
    assert len(tables(tmp_path / "one")) == 5


def test_a_run_goes_on_with_the_parts_that_are_missing(model_folder: Path, images: Path, tmp_path: Path) -> None:
    arguments = settings(model_folder, tmp_path / "out", images)
    predict(arguments)
    before = tables(tmp_path / "out")
    kept = (tmp_path / "out" / "part-000000.parquet").stat().st_mtime_ns
    (tmp_path / "out" / "part-000003.parquet").unlink()
    (tmp_path / "out" / ".unfinished-part-000003.parquet").write_bytes(b"half")
    report = predict(arguments)
    assert (report.num_rows, report.num_finished) == (5, 5)
    assert tables(tmp_path / "out") == before
    assert (tmp_path / "out" / "part-000000.parquet").stat().st_mtime_ns == kept
    assert predict(arguments).num_rows == 0  # finished: nothing is written again


def test_another_model_setting_or_input_is_refused_and_overwrite_starts_anew(
    model_folder: Path, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    predict(settings(model_folder, output, images))
    with pytest.raises(ValueError, match=r"was begun with another batch_size: 2, not 3.*--overwrite"):
        predict(settings(model_folder, output, images, batch_size=3))
    with pytest.raises(ValueError, match=r"was begun with another inputs"):
        predict(settings(model_folder, output, images / "b"))
    other = tmp_path / "other"
    other.mkdir()
    for file in model_folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "temperature": 2.0}))
    with pytest.raises(ValueError, match=r"was begun with another model"):
        predict(settings(other, output, images))
    assert predict(settings(other, output, images, overwrite=True)).num_rows == 23


def test_places_that_are_no_output_are_refused(model_folder: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--output is the input folder"):
        predict(settings(model_folder, images, images))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"mine holds 'thesis\.txt', which no prediction wrote"):
            predict(settings(model_folder, tmp_path / "mine", images, overwrite=overwrite))
    assert (tmp_path / "mine" / "thesis.txt").exists()
    with pytest.raises(ValueError, match=r"is a file; expected a folder"):
        predict(settings(model_folder, tmp_path / "mine" / "thesis.txt", images))


def test_an_output_within_the_inputs_is_not_predicted(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image_bytes(0))
    (tmp_path / "out" / "_locks").mkdir(parents=True)
    (tmp_path / "out" / "maps").mkdir()
    (tmp_path / "out" / "maps" / "old.png").write_bytes(image_bytes(1))
    assert predict(settings(model_folder, tmp_path / "out", tmp_path)).num_rows == 1


def test_processes_share_the_parts_and_take_over_from_the_dead(
    model_folder: Path, images: Path, tmp_path: Path
) -> None:
    arguments = settings(model_folder, tmp_path / "out", images)
    output = open_output(arguments, Place())
    with output.claim(0) as first, PredictionOutput(tmp_path / "out", ".parquet").claim(0) as second:
        assert (first, second) == (True, False)
    orders = [list(Place(rank, 3).order(5)) for rank in range(3)]
    assert orders == [[0, 3, 1, 4, 2], [1, 4, 2, 0, 3], [2, 0, 3, 1, 4]]


def test_several_labels_and_images_of_several_sizes(tmp_path: Path, images: Path) -> None:
    from tiny_models import tiny_classifier

    model = tiny_classifier(problem_type="multi_label_classification", id2label={0: "a", 1: "b", 2: "c"})
    with torch.no_grad():
        model.classifier.output.bias.copy_(torch.tensor([9.0, 9.0, -9.0]))
    model.save_pretrained(tmp_path / "model")
    ContourImageProcessor(do_resize=False, do_pad=False).save_pretrained(tmp_path / "model")
    predict(settings(tmp_path / "model", tmp_path / "out", images, rows_per_part=100, batch_size=8))
    table = pq.read_table(tmp_path / "out" / "part-000000.parquet").to_pydict()
    labels = np.array(table["label"], dtype=object)
    assert set(labels[:22]) == {"a|b"}
    assert {bool(value) for value in table["abstained"][:22]} == {False}


def run_command(arguments: list[str], **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hf_contour", "predict", *arguments]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_killed_processes_lose_and_double_nothing(model_folder: Path, images: Path, tmp_path: Path) -> None:
    """Two processes, one of them killed; the same command then does what it left, and all bits are those of one."""
    predict(settings(model_folder, tmp_path / "one", images, rows_per_part=1))
    flags = ["--model", model_folder, "--inputs", images, "--output", tmp_path / "out", "--rows_per_part", 1]
    flags += ["--batch_size", 2, "--num_workers", 1, "--cpu"]
    words = [str(flag) for flag in flags]
    first = run_command(words, RANK="0", WORLD_SIZE="2")
    while not list((tmp_path / "out").glob("part-*")):
        time.sleep(0.05)
        assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = run_command(words, RANK="1", WORLD_SIZE="2")
    second.communicate()
    assert second.returncode == 0
    assert tables(tmp_path / "out") == tables(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_of_a_launcher_write_the_bits_of_one(
    model_folder: Path, images: Path, tmp_path: Path, num_processes: int
) -> None:
    """Though one of them has the damaged image: its exit code must not make the launcher stop the others."""
    predict(settings(model_folder, tmp_path / "one", images, rows_per_part=2))
    flags = ["--model", model_folder, "--inputs", images, "--output", tmp_path / "out", "--rows_per_part", 2]
    flags += ["--batch_size", 2, "--num_workers", 1, "--cpu"]
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    command = [sys.executable, "-m", *launcher, "-m", "hf_contour", "predict", *map(str, flags)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert len(tables(tmp_path / "out")) == 12
    assert tables(tmp_path / "out") == tables(tmp_path / "one")
