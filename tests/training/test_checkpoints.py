"""Checkpoints are complete or absent; damaged ones are named and passed over; one training holds a folder."""

import errno
import json
import logging
import os

import pytest
import torch
from fault_injection import fails, in_child, make_checkpoint, watched

from hf_contour.training import checkpoints
from hf_contour.training.checkpoints import CheckpointError, find_fault, list_checkpoints, load_newest, save_checkpoint
from hf_contour.training.folder_lock import FolderInUseError, locked_folder


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


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json", checkpoints.MANIFEST])
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


def test_every_byte_of_a_small_checkpoint_counts(tmp_path):
    path = save_checkpoint(tmp_path, make_checkpoint(2), keep=1)
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        for place in range(0, len(content), 37):
            broken = bytearray(content)
            broken[place] ^= 1 << place % 8
            file.write_bytes(broken)
            assert find_fault(path) is not None, (file.name, place)
        file.write_bytes(content)
    assert find_fault(path) is None


def test_a_checkpoint_under_the_name_of_another_step_is_a_fault(tmp_path):
    save_checkpoint(tmp_path, make_checkpoint(2), keep=1).rename(tmp_path / "step-00000009")
    assert find_fault(tmp_path / "step-00000009") == "manifest.json is that of step 2"


def test_a_foreign_file_and_an_empty_folder_are_faults(tmp_path):
    path = save_checkpoint(tmp_path, make_checkpoint(1), keep=1)
    (path / "model.safetensors.tmp").write_text("x")
    assert find_fault(path) == "model.safetensors.tmp does not belong to it"
    (tmp_path / "step-00000005").mkdir()
    assert checkpoints.MANIFEST in find_fault(tmp_path / "step-00000005")


def test_all_damaged_is_an_error_that_names_them(tmp_path):
    path = save_checkpoint(tmp_path, make_checkpoint(1), keep=1)
    (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000001: state\.json is missing"):
        load_newest(tmp_path)


def test_a_write_that_fails_leaves_the_earlier_one_and_nothing_else(tmp_path):
    save_checkpoint(tmp_path, make_checkpoint(1), keep=1)
    message = (
        r"step-00000002 could not be written .*No space left.*needs \d{4} bytes, \d+ bytes and \d+ files are free"
    )
    with watched(tmp_path, fails(8, errno.ENOSPC, once=True)), pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path, make_checkpoint(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_newest(tmp_path).step == 1


def test_what_cannot_be_removed_is_told_and_removed_later(tmp_path, caplog):
    save_checkpoint(tmp_path, make_checkpoint(1), keep=1)
    with watched(tmp_path) as watch:
        save_checkpoint(tmp_path, make_checkpoint(2), keep=2)
    with watched(tmp_path, fails(len(watch.calls), errno.EIO)):  # the removal of the first is what comes next
        save_checkpoint(tmp_path, make_checkpoint(3), keep=1)
    assert "could not be removed ([Errno 5]" in caplog.text
    assert names(tmp_path)[-1] == "step-00000003"
    save_checkpoint(tmp_path, make_checkpoint(4), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_a_damaged_one_of_the_same_step_is_replaced_and_a_good_one_left(tmp_path):
    path = save_checkpoint(tmp_path, make_checkpoint(3), keep=1)
    (path / "state.json").write_text("{}")
    save_checkpoint(tmp_path, make_checkpoint(3), keep=1)
    assert find_fault(path) is None
    written = (path / checkpoints.MANIFEST).stat().st_mtime_ns
    save_checkpoint(tmp_path, make_checkpoint(3), keep=1)
    assert (path / checkpoints.MANIFEST).stat().st_mtime_ns == written


def test_code_in_a_pickle_is_not_run(tmp_path):
    path = save_checkpoint(tmp_path, make_checkpoint(1), keep=1)
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (type(marker).touch, (marker,))

    part = path / "optimizer.pt"
    torch.save({"payload": Payload()}, part)
    files = json.loads((path / checkpoints.MANIFEST).read_text())["files"]
    files[part.name] = {"size": part.stat().st_size, "sha256": checkpoints.file_sha256(part)}
    (path / checkpoints.MANIFEST).write_text(checkpoints._manifest_text(files, 1))
    with pytest.raises(CheckpointError, match=r"cannot be read \(UnpicklingError: Weights only load failed"):
        load_newest(tmp_path)
    assert not marker.exists()


def test_a_second_process_is_refused_and_leftovers_are_cleared(tmp_path):
    for name in (".unfinished-step-00000009", ".discarded-step-00000001", ".unfinished-a/.unfinished-b"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)

    def try_to_hold():
        try:
            with locked_folder(tmp_path):
                os._exit(10)
        except FolderInUseError as error:
            os._exit(20 if f"(process {os.getppid()}) writes to {tmp_path}" in str(error) else 30)

    with locked_folder(tmp_path):
        assert list((tmp_path / "checkpoints").iterdir()) == []
        assert in_child(try_to_hold) == 20
        with pytest.raises(FolderInUseError), locked_folder(tmp_path):
            pass
        assert in_child(try_to_hold) == 20  # being refused has not freed it
    assert in_child(try_to_hold) == 10


def test_a_killed_process_leaves_no_lock_even_if_its_children_live_on(tmp_path):
    read, write = os.pipe()

    def hold_and_be_killed():
        with locked_folder(tmp_path):
            if os.fork() == 0:
                os.read(read, 1)  # until the test is done with it
                os._exit(0)
            os.kill(os.getpid(), 9)

    assert in_child(hold_and_be_killed) == -9
    with locked_folder(tmp_path):
        pass
    os.write(write, b"x")
    os.close(read)
    os.close(write)
