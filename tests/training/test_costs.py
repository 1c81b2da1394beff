"""What a step, an evaluation and a save leave undone, because it was done before."""

import hashlib

from fault_injection import make_checkpoint
from tiny_training import settings, write_source
from torch.utils._python_dispatch import TorchDispatchMode

from hf_contour.training.checkpoints import list_checkpoints, save_checkpoint
from hf_contour.training.contour_stage import ContourTask
from hf_contour.training.interrupts import StopRequest
from hf_contour.training.launch import build_accelerator
from hf_contour.training.loop import TrainingLoop


class Calls(TorchDispatchMode):
    """Counts the operators that run while it is entered."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def loop_of(tmp_path, **changes):
    write_source(tmp_path / "source", validation=2)
    arguments = settings(tmp_path, "contour", max_steps=4, ema_decay=0.0, optimizer="sgd", **changes)
    accelerator = build_accelerator(arguments)
    arguments.folder.mkdir(parents=True)
    return TrainingLoop(ContourTask(arguments, accelerator), arguments, accelerator, identity={})


def test_an_evaluation_makes_its_loader_once(tmp_path):
    loop = loop_of(tmp_path)
    figures = [loop.evaluate("validation") for _ in range(3)]
    assert figures[0] == figures[1] == figures[2]
    assert len(loop.accelerator._dataloaders) == 1


def test_a_step_copies_no_statistics_that_need_not_be_taken_back(tmp_path, monkeypatch):
    loop = loop_of(tmp_path, validation_split=None, save_every=100)
    num_buffers = len(list(loop.state.model.buffers()))
    assert num_buffers > 5
    step, counted = TrainingLoop._train_step, []

    def watched(self, batches):
        with Calls() as calls:
            made = step(self, batches)
        counted.append(calls.names)
        return made

    monkeypatch.setattr(TrainingLoop, "_train_step", watched)
    loop.run(StopRequest())
    for names in counted[1:]:
        assert names.count("clone") + names.count("copy_") < num_buffers
        assert names.count("_local_scalar_dense") <= 5  # the five numbers of one gathering, already on the CPU


def test_a_save_reads_no_kept_checkpoint_again(tmp_path, monkeypatch):
    digest, read = hashlib.file_digest, []
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind))
    for step in range(1, 6):
        save_checkpoint(tmp_path, make_checkpoint(step), keep=3)
    assert read == []
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000004", "step-00000005"]
    with (tmp_path / "step-00000004" / "model.safetensors").open("ab") as file:
        file.write(b"\0")  # which is seen, and the checkpoint not counted as good
    save_checkpoint(tmp_path, make_checkpoint(6), keep=3)
    assert list_checkpoints(tmp_path)[0].name == "step-00000003"
