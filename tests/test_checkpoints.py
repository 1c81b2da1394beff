"""Checkpoints are complete or absent; damaged ones are named and passed over; one training holds a folder."""

import errno
import json
import logging
import subprocess
import sys

import pytest
import torch

from hf_contour.training import checkpoints
from hf_contour.training.checkpoints import (
    MANIFEST,
    Checkpoint,
    CheckpointError,
    FolderInUseError,
    find_fault,
    list_checkpoints,
    load_newest,
    locked_folder,
    save_checkpoint,
)


def make_checkpoint(step):
    weight = torch.arange(6.0).reshape(2, 3) + step
    return Checkpoint(
        step=step,
        state={"progress": {"step": step}, "words": ["ä", None, 0.1]},
        weights={"model": {"weight": weight, "count": torch.tensor(step)}, "ema": {"weight": weight.t() / 3}},
        tensors={"optimizer": {"state": {0: {"exp_avg": weight * 2}}, "param_groups": [{"lr": 0.1, "params": [0]}]}},
    )


def names(folder):
    return [path.name for path in list_checkpoints(folder)]


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    saved = make_checkpoint(7)
    path = save_checkpoint(tmp_path, saved, keep=1)
    assert path.name == "step-00000007"
    assert sorted(file.name for file in path.iterdir()) == [
        "ema.safetensors",
        "manifest.json",
        "model.safetensors",
        "optimizer.pt",
        "state.json",
    ]
    loaded = load_newest(tmp_path)
    assert loaded.step == 7
    assert loaded.state == saved.state
    for part, state_dict in saved.weights.items():
        assert loaded.weights[part].keys() == state_dict.keys()
        for key, value in state_dict.items():
            assert torch.equal(loaded.weights[part][key], value)
    restored = loaded.tensors["optimizer"]
    assert restored["param_groups"] == [{"lr": 0.1, "params": [0]}]
    assert torch.equal(restored["state"][0]["exp_avg"], saved.tensors["optimizer"]["state"][0]["exp_avg"])


def test_no_checkpoint_is_none(tmp_path):
    assert load_newest(tmp_path / "absent") is None
    assert load_newest(tmp_path) is None


def test_rotation_keeps_the_newest_and_orders_by_step(tmp_path):
    for step in (2, 10, 100, 9):
        save_checkpoint(tmp_path, make_checkpoint(step), keep=3)
    assert names(tmp_path) == ["step-00000009", "step-00000010", "step-00000100"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names(tmp_path)


def test_rotation_does_not_count_damaged_checkpoints(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, make_checkpoint(step), keep=3)
    (tmp_path / "step-00000003" / "state.json").write_text("{}")
    save_checkpoint(tmp_path, make_checkpoint(4), keep=2)
    assert names(tmp_path) == ["step-00000002", "step-00000003", "step-00000004"]
    assert load_newest(tmp_path).step == 4


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json", MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_newest_is_named_and_passed_over(tmp_path, caplog, name, damage):
    save_checkpoint(tmp_path, make_checkpoint(1), keep=2)
    path = save_checkpoint(tmp_path, make_checkpoint(2), keep=2)
    file = path / name
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    with caplog.at_level(logging.WARNING):
        assert load_newest(tmp_path).step == 1
    assert str(path) in caplog.text
    assert name in caplog.text


def test_every_flipped_bit_of_a_small_checkpoint_is_detected(tmp_path):
    path = save_checkpoint(tmp_path, make_checkpoint(2), keep=1)
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        for place in range(0, len(content), 37):
            broken = bytearray(content)
            broken[place] ^= 1 << place % 8
            file.write_bytes(broken)
            if file.name == MANIFEST and same_json(content, broken):
                continue  # a changed space between values changes nothing
            assert find_fault(path) is not None, (file.name, place)
        file.write_bytes(content)
    assert find_fault(path) is None


def same_json(first, second):
    try:
        return json.loads(first) == json.loads(second)
    except ValueError:
        return False


def test_a_foreign_file_and_an_empty_folder_are_faults(tmp_path):
    path = save_checkpoint(tmp_path, make_checkpoint(1), keep=1)
    (path / "model.safetensors.tmp").write_text("x")
    assert find_fault(path) == "model.safetensors.tmp does not belong to it"
    (tmp_path / "step-00000005").mkdir()
    assert MANIFEST in find_fault(tmp_path / "step-00000005")


def test_all_damaged_is_an_error_that_names_them(tmp_path):
    path = save_checkpoint(tmp_path, make_checkpoint(1), keep=1)
    (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000001: state\.json is missing"):
        load_newest(tmp_path)


def test_a_write_that_fails_leaves_the_earlier_one_and_nothing_else(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, make_checkpoint(1), keep=1)

    def full_disk(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoints, "_sync", full_disk)
    with pytest.raises(CheckpointError, match=r"step-00000002 could not be written .*No space left"):
        save_checkpoint(tmp_path, make_checkpoint(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_newest(tmp_path).step == 1


def test_the_old_one_goes_only_when_the_new_one_is_in_place(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, make_checkpoint(1), keep=1)
    good_at_removal = []
    remove = checkpoints._discard

    def watched(path):
        good_at_removal.append([name for name in names(tmp_path) if find_fault(tmp_path / name) is None])
        remove(path)

    monkeypatch.setattr(checkpoints, "_discard", watched)
    save_checkpoint(tmp_path, make_checkpoint(2), keep=1)
    assert good_at_removal == [["step-00000001", "step-00000002"]]
    assert names(tmp_path) == ["step-00000002"]


def test_a_damaged_one_of_the_same_step_is_replaced_and_a_good_one_left(tmp_path):
    path = save_checkpoint(tmp_path, make_checkpoint(3), keep=1)
    (path / "state.json").write_text("{}")
    save_checkpoint(tmp_path, make_checkpoint(3), keep=1)
    assert find_fault(path) is None
    written = (path / MANIFEST).stat().st_mtime_ns
    save_checkpoint(tmp_path, make_checkpoint(3), keep=1)
    assert (path / MANIFEST).stat().st_mtime_ns == written


def test_code_in_a_pickle_is_not_run(tmp_path):
    path = save_checkpoint(tmp_path, make_checkpoint(1), keep=1)
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (type(marker).touch, (marker,))

    torch.save({"payload": Payload()}, path / "optimizer.pt")
    (path / MANIFEST).unlink()
    checkpoints._write_manifest(path, 1)
    with pytest.raises(Exception, match="weights_only"):
        load_newest(tmp_path)
    assert not marker.exists()


def test_a_second_training_is_refused_and_leftovers_are_cleared(tmp_path):
    (tmp_path / "checkpoints" / ".unfinished-step-00000009").mkdir(parents=True)
    program = (
        "import sys; from pathlib import Path\n"
        "from hf_contour.training.checkpoints import FolderInUseError, locked_folder\n"
        "try:\n"
        "    with locked_folder(Path(sys.argv[1])): print('held')\n"
        "except FolderInUseError as error: print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with locked_folder(tmp_path):
        assert not (tmp_path / "checkpoints" / ".unfinished-step-00000009").exists()
        refused = subprocess.run(command, capture_output=True, text=True, check=True)
        with pytest.raises(FolderInUseError), locked_folder(tmp_path):
            pass
    assert "Another training (process " in refused.stdout
    held = subprocess.run(command, capture_output=True, text=True, check=True)
    assert held.stdout == "held\n"
