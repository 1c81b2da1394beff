"""Whatever call of a save fails or is the last, whatever is damaged: a checkpoint loads, and messages say why."""

import errno
import itertools
import logging
import random
import re
import shutil

import pytest
from fault_injection import (
    Fault,
    fails,
    fills_up,
    fresh_copy,
    in_child,
    is_checkpoint,
    kills,
    make_checkpoint,
    refusal,
    refuses,
    watched,
)

from hf_contour.io import OutputError, append_line, write_text
from hf_contour.training.checkpoints import (
    MANIFEST,
    CheckpointError,
    find_fault,
    list_checkpoints,
    load_newest,
    save_checkpoint,
)
from hf_contour.training.folder_lock import locked_folder

# The steps there are before step 9 is saved, how many are kept, and which must load if the save comes to nothing.
SITUATIONS = {
    "the first": ([], 1, None),
    "one kept": ([1], 1, 1),
    "two kept": ([1, 2], 2, 2),
    "three kept": ([1, 2, 3], 3, 3),
    "fewer kept than before": ([1, 2, 3], 1, 3),
    "in place of a damaged one": ([1, 9], 1, 1),
    "after one that was killed": ([1], 1, 1),
}


def prepare(folder, name):
    """The folder of a training in one of `SITUATIONS`."""
    steps, _, _ = SITUATIONS[name]
    folder.mkdir()
    for step in steps:
        save_checkpoint(folder / "checkpoints", make_checkpoint(step), keep=9)
    if name == "in place of a damaged one":
        (folder / "checkpoints" / "step-00000009" / "state.json").write_text("{}")
    if name == "after one that was killed":
        shutil.copytree(folder / "checkpoints" / "step-00000001", folder / "checkpoints" / ".unfinished-step-00000009")
        shutil.copytree(folder / "checkpoints" / "step-00000001", folder / "checkpoints" / ".discarded-step-00000000")
    return folder


def save(folder, keep):
    save_checkpoint(folder / "checkpoints", make_checkpoint(9), keep=keep)


def is_usable(folder, before):
    """Whether the newest checkpoint is the new one or the one before, and the training can go on and save."""
    found = load_newest(folder / "checkpoints")
    whole = is_checkpoint(found, 9) or (found is None if before is None else is_checkpoint(found, before))
    with locked_folder(folder):
        save(folder, 1)
    left = sorted(path.name for path in folder.rglob("*") if path.is_dir())
    return whole and is_checkpoint(load_newest(folder / "checkpoints"), 9) and left == ["checkpoints", "step-00000009"]


def faults_of(calls):
    """Every way for every call to go wrong: killed or refused there, for good or once, a write before and halfway."""
    for call, half in itertools.product(calls, (False, True)):
        if half and call.name != "write":
            continue
        yield kills(call.number, half=half), True
        code = errno.ENOSPC if call.name in ("open", "write", "mkdir") else errno.EIO
        for once in (False, True):
            yield fails(call.number, code, half=half, once=once), False


def try_fault(folder, keep, meet, is_kill):
    """Saves under a fault."""

    def saves():
        with watched(folder, meet):
            save(folder, keep)

    if is_kill:
        assert in_child(saves) == -9
        return
    message = ""
    try:
        saves()
    except CheckpointError as error:
        message = str(error)
    assert not message or ("step-00000009 could not be written" in message and "files are free at" in message)


@pytest.mark.faults
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_fault_at_any_call_of_a_save_leaves_a_usable_state(tmp_path, situation, record_property, caplog):
    caplog.set_level(logging.ERROR)
    template = prepare(tmp_path / "template", situation)
    _, keep, before = SITUATIONS[situation]
    with watched(fresh_copy(template, tmp_path / "run")) as watch:
        save(tmp_path / "run", keep)
    tried = lost = 0
    for meet, is_kill in faults_of(watch.calls):
        folder = fresh_copy(template, tmp_path / "run")
        try_fault(folder, keep, meet, is_kill)
        tried += 1
        lost += not is_usable(folder, before)
    record_property("points", len(watch.calls))
    record_property("injected", tried)
    record_property("lost", lost)
    assert len(watch.calls) >= 20
    assert lost == 0


def test_faults_at_some_calls_of_a_save_leave_a_usable_state(tmp_path):
    template = prepare(tmp_path / "template", "one kept")
    with watched(fresh_copy(template, tmp_path / "run")) as watch:
        save(tmp_path / "run", 1)
    assert len(watch.calls) >= 30
    assert {call.name for call in watch.calls} == {"open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir"}
    for meet, is_kill in itertools.islice(faults_of(watch.calls), 3, None, 11):
        folder = fresh_copy(template, tmp_path / "run")
        try_fault(folder, 1, meet, is_kill)
        assert is_usable(folder, 1)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_at_every_instant_of_saving_and_rotating_one_loads(tmp_path, keep, record_property):
    """Looked at before each call that takes something away or puts it in place."""
    folder = tmp_path / "checkpoints"
    good = []

    def look(call):
        if call.name in ("rename", "unlink", "rmdir", "mkdir"):
            good.append(sum(find_fault(path) is None for path in list_checkpoints(folder)))

    save_checkpoint(folder, make_checkpoint(1), keep=keep)
    with watched(tmp_path, look):
        for step in range(2, 7):
            save_checkpoint(folder, make_checkpoint(step), keep=keep)
    record_property("tried", len(good))
    record_property("lost", sum(count < 1 for count in good))
    assert len(good) > 5 * 5
    assert min(good) == 1
    assert min(good[-14:]) >= keep
    assert [path.name for path in list_checkpoints(folder)] == [f"step-{step:08d}" for step in range(7 - keep, 7)]


def damaged_versions(rng, *, truncations, flips):
    """Ways to damage a checkpoint: what the message must name, and a function that does it."""
    names = [*(path for path in ("state.json", "model.safetensors", "ema.safetensors", "optimizer.pt")), MANIFEST]
    for number in range(truncations):
        yield names[number % len(names)], lambda file: file.write_bytes(cut(file.read_bytes(), rng))
    for number in range(flips):
        yield names[number % len(names)], lambda file: file.write_bytes(flip(file.read_bytes(), rng))
    for name in names:
        yield name, lambda file: file.unlink()
    yield MANIFEST, lambda file: [part.unlink() for part in file.parent.iterdir()]


def cut(content, rng):
    return content[: rng.randrange(len(content))]


def flip(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def count_undetected(tmp_path, caplog, **amounts):
    """Damages the newest of two checkpoints in many ways; how many, and how often the older was not gone back to."""
    caplog.set_level(logging.WARNING)
    template = tmp_path / "template"
    for step in (1, 2):
        save_checkpoint(template, make_checkpoint(step), keep=2)
    tried = lost = 0
    for name, damage in damaged_versions(random.Random(0), **amounts):
        folder = fresh_copy(template, tmp_path / "run")
        newest = folder / "step-00000002"
        damage(newest / name)
        caplog.clear()
        found = load_newest(folder)
        told = f"Passing over the damaged checkpoint {newest}: {name} " in caplog.text
        tried += 1
        lost += not (is_checkpoint(found, 1) and told)
    return tried, lost


@pytest.mark.faults
def test_damage_to_the_newest_is_detected_named_and_passed_over(tmp_path, caplog, record_property):
    tried, lost = count_undetected(tmp_path, caplog, truncations=20 * 5, flips=200 * 5)
    record_property("injected", tried)
    record_property("lost", lost)
    assert (tried, lost) == (1106, 0)


def test_some_damage_to_the_newest_is_detected_named_and_passed_over(tmp_path, caplog):
    assert count_undetected(tmp_path, caplog, truncations=20, flips=40) == (66, 0)


def test_what_a_killed_save_leaves_is_not_taken_for_a_checkpoint(tmp_path, caplog):
    save_checkpoint(tmp_path, make_checkpoint(1), keep=2)
    for name in (".unfinished-step-00000002", ".discarded-step-00000003", "step-4", "step-00000005.tmp"):
        shutil.copytree(tmp_path / "step-00000001", tmp_path / name)
    (tmp_path / "step-00000006").write_text("a file")
    assert is_checkpoint(load_newest(tmp_path), 1)
    assert "step-00000006: manifest.json cannot be read (NotADirectoryError" in caplog.text


@pytest.mark.parametrize("level", range(10))
def test_a_full_disk_leaves_the_old_checkpoint_and_nothing_partial(tmp_path, level):
    save_checkpoint(tmp_path, make_checkpoint(1), keep=1)
    with watched(tmp_path) as watch:
        save_checkpoint(tmp_path, make_checkpoint(2), keep=2)
    shutil.rmtree(tmp_path / "step-00000002")
    needed = sum(call.size for call in watch.calls)
    with watched(tmp_path, fills_up(needed * level // 10)), pytest.raises(CheckpointError) as refused:
        save_checkpoint(tmp_path, make_checkpoint(2), keep=1)
    message = str(refused.value)
    assert f"{tmp_path / 'step-00000002'} could not be written ([Errno 28] No space left on device" in message
    assert re.search(rf"it needs \d+ bytes, \d+ bytes and \d+ files are free at {tmp_path}", message)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert is_checkpoint(load_newest(tmp_path), 1)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ({"mkdir"}, errno.EROFS),
        ({"mkdir"}, errno.EACCES),
        ({"mkdir"}, errno.ENOSPC),  # no inode for a folder
        ({"write"}, errno.EDQUOT),
        ({"fsync"}, errno.EIO),
        ({"rename"}, errno.EDQUOT),
    ],
)
def test_a_folder_that_refuses_leaves_the_old_checkpoint_and_nothing_partial(tmp_path, names, code):
    save_checkpoint(tmp_path, make_checkpoint(1), keep=1)
    with watched(tmp_path, refuses(names, code)), pytest.raises(CheckpointError, match=rf"\[Errno {code}\]"):
        save_checkpoint(tmp_path, make_checkpoint(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert is_checkpoint(load_newest(tmp_path), 1)


def test_no_inode_for_a_file(tmp_path):
    save_checkpoint(tmp_path, make_checkpoint(1), keep=1)

    def meet(call):
        is_new_file = call.name == "open" and call.path.endswith(".safetensors")
        return Fault(refusal(errno.ENOSPC, call)) if is_new_file else None

    with watched(tmp_path, meet), pytest.raises(CheckpointError, match=r"No space left.*files are free at"):
        save_checkpoint(tmp_path, make_checkpoint(2), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    with pytest.raises(CheckpointError, match=rf"No such file or directory.*are free at {tmp_path}"):
        save_checkpoint(tmp_path / "gone" / "checkpoints", make_checkpoint(2), keep=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [0, 3, 10])
def test_a_line_or_a_small_file_is_written_whole_or_not_at_all(tmp_path, room):
    append_line(tmp_path / "log.jsonl", "first")
    write_text(tmp_path / "status.json", "old")
    with watched(tmp_path, fills_up(room)), pytest.raises(OutputError, match=r"log\.jsonl could not be written"):
        append_line(tmp_path / "log.jsonl", "the second line")
    with watched(tmp_path, fills_up(room)), pytest.raises(OutputError, match=r"status\.json could not be written"):
        write_text(tmp_path / "status.json", "what is new")
    assert (tmp_path / "log.jsonl").read_text() == "first\n"
    assert (tmp_path / "status.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
