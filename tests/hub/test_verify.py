"""`python -m hf_contour verify` tells whole, damaged and harmful folders apart, and executes nothing of them."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_configs import REFUSED, Watch, all_cases
from safetensors.torch import load_file, save_file
from tiny_models import CASCADE, tiny_classifier, tiny_extractor
from transformers import Trainer, TrainingArguments

from hf_contour import ContourExtractorModel, ContourImageProcessor
from hf_contour.cli.main import main
from hf_contour.hub.verify import exit_code, verify_folder
from hf_contour.io import state_dict_sha256

ROOT = Path(__file__).resolve().parents[2]
CARD = "---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: image-classification\n---\n# Model\n"
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """The folder of a classifier with processor, card and manifest."""
    folder = tmp_path_factory.mktemp("sound") / "model"
    tiny_classifier(backbone="test_resnet", id2label={0: "men", 1: "women"}).save_pretrained(folder)
    ContourImageProcessor(size={"height": 24, "width": 16}).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def edit_json(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a JSON file of a folder."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def config(**fields: Any) -> Damage:
    """Other fields in the config."""
    return lambda folder: edit_json(folder, "config.json", lambda content: content.update(fields))


def processor(**fields: Any) -> Damage:
    """Other fields in the processor's settings."""
    return lambda folder: edit_json(folder, "preprocessor_config.json", lambda content: content.update(fields))


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """Other weights."""

    def damage(folder: Path) -> None:
        content = load_file(folder / "model.safetensors")
        change(content)
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, folder / "model.safetensors")

    return damage


def put(name: str, content: bytes) -> Damage:
    """A file more, or in the place of another."""

    def damage(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return damage


def remove(name: str) -> Damage:
    """A file less."""
    return lambda folder: (folder / name).unlink()


def link(name: str, target: str) -> Damage:
    """A link in the place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return damage


def pipe(folder: Path) -> None:
    """A pipe, which whoever opens it waits for."""
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def pickle_in_an_archive(folder: Path) -> None:
    """What `torch.save` writes, under a name that says nothing."""
    with zipfile.ZipFile(folder / "notes.txt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))


def trainers_settings(**others: Any) -> Damage:
    """What `transformers.Trainer.save_model` leaves beside the model, and something else in it."""

    def damage(folder: Path) -> None:
        settings = TrainingArguments(str(folder / "run"), use_cpu=True)
        torch.save({"settings": settings, **others} if others else settings, folder / "training_args.bin")

    return damage


def append(name: str, content: bytes) -> Damage:
    """A file with something more at its end."""

    def damage(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write(content)

    return damage


def first(change: Callable[[torch.Tensor], Any], suffix: str = "output.weight") -> Damage:
    """A change of the first element of one tensor."""
    return weights(lambda content: change(next(content[name] for name in content if name.endswith(suffix)).view(-1)))


def cut(folder: Path) -> None:
    """Half of the weights."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


# What is done to the folder, the exit code, and the check that must say so.
DAMAGES: dict[str, tuple[Damage, int, str]] = {
    "no config": (remove("config.json"), 1, "files"),
    "no weights": (remove("model.safetensors"), 1, "files"),
    "no processor": (remove("preprocessor_config.json"), 1, "files"),
    "settings of a Trainer": (trainers_settings(), 0, "pickles"),
    "settings of a Trainer with a function": (trainers_settings(more=os.system), 3, "pickles"),
    "settings of a Trainer that are others": (put("training_args.bin", pickle.dumps({})), 3, "pickles"),
    "config that is no JSON": (put("config.json", b"{"), 1, "config"),
    "config of another encoding": (put("config.json", "{}".encode("utf-16")), 1, "config"),
    "config that is a list": (put("config.json", b"[]"), 1, "config"),
    "config a hundred thousand deep": (put("config.json", b"[" * 10**5), 1, "config"),
    "config that is empty": (put("config.json", b""), 1, "config"),
    "endless config": (put("config.json", b" " * (2**24 + 1)), 1, "config"),
    "config of another model": (config(model_type="bert"), 1, "config"),
    "config of a model that is a list": (config(model_type=["contour_gender"]), 1, "config"),
    "impossible config": (config(head_dropout=2), 1, "config"),
    "absurd config": (config(backbone="vit_giant_patch14_dinov2"), 1, "config"),
    "class of another model": (config(architectures=["ContourExtractorModel"]), 1, "config"),
    "backbone that is an address": (config(backbone="hf-hub:someone/something"), 3, "backbone"),
    "backbone that is a path": (config(backbone=["test_resnet", "../../x"]), 3, "backbone"),
    "backbone of the extractor in a folder": (
        config(extractor_config={**CASCADE, "model_type": "contour_extractor", "backbone": "local-dir:/etc"}),
        3,
        "backbone",
    ),
    "backbone that nobody knows": (config(backbone="resnet19"), 1, "backbone"),
    "processor that is no JSON": (put("preprocessor_config.json", b"{"), 1, "config"),
    "processor of another kind": (processor(image_processor_type="ViTImageProcessor"), 1, "processor"),
    "impossible processor": (processor(image_std=[0, 0, 0]), 1, "processor"),
    "absurd processor": (processor(size={"height": 10**9, "width": 10**9}), 1, "processor"),
    "processor of another mean": (processor(image_mean=[0.4, 0.4, 0.4]), 1, "processor"),
    "labels with a gap": (config(id2label={"0": "men", "2": "women"}), 1, "labels"),
    "labels from one": (config(id2label={"1": "men", "2": "women"}), 1, "labels"),
    "a label twice": (config(id2label={"0": "men", "1": "men"}), 1, "labels"),
    "a label without a name": (config(id2label={"0": "men", "1": " "}), 1, "labels"),
    "a list of labels": (config(id2label=["men", "women"]), 1, "labels"),
    "no labels": (
        lambda folder: edit_json(folder, "config.json", lambda content: content.pop("id2label")),
        1,
        "labels",
    ),
    "labels against their numbers": (config(label2id={"men": 1, "women": 0}), 1, "labels"),
    "labels more than weights": (
        config(id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2}),
        1,
        "architecture",
    ),
    "weights cut off": (cut, 1, "weights"),
    "weights of nothing": (put("model.safetensors", b""), 1, "weights"),
    "weights with more at the end": (append("model.safetensors", b"\0"), 1, "weights"),
    "index that leads out": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "model.safetensors.index.json").write_text(
                json.dumps({"metadata": {}, "weight_map": {"x": "../model.safetensors"}})
            ),
        ),
        1,
        "weights",
    ),
    "a weight less": (weights(lambda content: content.popitem()), 1, "architecture"),
    "a weight more": (weights(lambda content: content.update(x=torch.zeros(1))), 1, "architecture"),
    "a weight of another shape": (
        weights(lambda content: content.update({"classifier.output.weight": torch.zeros(2, 9)})),
        1,
        "architecture",
    ),
    "a weight of whole numbers": (
        weights(lambda content: content.update({"classifier.output.bias": torch.zeros(2, dtype=torch.int32)})),
        1,
        "architecture",
    ),
    "NaN": (first(lambda values: values[:1].fill_(float("nan"))), 1, "values"),
    "infinity in the extractor": (first(lambda values: values[:1].fill_(float("inf")), "running_mean"), 1, "values"),
    "variance below 0": (first(lambda values: values[:1].fill_(-1), "running_var"), 1, "values"),
    "pickle beside the weights": (put("pytorch_model.bin", b"x"), 3, "pickles"),
    "pickle of an optimiser": (put("training/optimizer.PT", b"x"), 3, "pickles"),
    "pickle under another name": (put("notes.txt", pickle.dumps({"a": 1})), 3, "pickles"),
    "pickle as weights": (put("model.safetensors", pickle.dumps({"a": 1})), 3, "pickles"),
    "pickle in an archive": (pickle_in_an_archive, 3, "pickles"),
    "foreign code": (put("evil.py", b"print()"), 3, "code"),
    "foreign code deeper down": (put("a/b/setup.py", b"print()"), 3, "code"),
    "changed code": (append("modeling_contour_gender.py", b"\nprint()\n"), 3, "code"),
    "compiled code": (put("__pycache__/loss_contour.cpython-311.pyc", b"x"), 3, "code"),
    "library": (put("libx.so", b"\x7fELF"), 3, "code"),
    "adapter": (put("adapter_config.json", b'{"base_model_name_or_path": "someone/x"}'), 3, "code"),
    "code of another repository": (config(auto_map={"AutoModel": "someone/x--modeling.Model"}), 3, "references"),
    "code upwards": (config(auto_map={"AutoModel": "../modeling_contour_gender.Model"}), 3, "references"),
    "code by a number": (config(auto_map={"AutoModel": 3}), 3, "references"),
    "code for the processor": (processor(auto_map={"AutoImageProcessor": "evil.Processor"}), 3, "references"),
    "code for a tokenizer": (put("tokenizer_config.json", b'{"auto_map": ["evil.T", null]}'), 3, "references"),
    "code of the extractor": (
        config(extractor_config={"model_type": "contour_extractor", "auto_map": {"AutoConfig": "evil.C"}}),
        3,
        "references",
    ),
    "code that is named and not there": (remove("loss_contour.py"), 0, ""),
    "model code that is not there": (remove("modeling_contour_gender.py"), 1, "references"),
    "pipeline of its own": (config(custom_pipelines={"x": {"impl": "evil.P"}}), 3, "references"),
    "other weights": (config(transformers_weights="other.safetensors"), 3, "references"),
    "link to a file outside": (link("config.json", "/etc/passwd"), 3, "links"),
    "link to a folder outside": (link("images", ".."), 3, "links"),
    "link to nothing": (link("x", "../../nothing"), 3, "links"),
    "endless link": (link("model.safetensors", "/dev/zero"), 3, "links"),
    "pipe": (pipe, 3, "links"),
    "no card": (remove("README.md"), 0, "card"),
    "card without a licence": (put("README.md", b"# Model\n"), 0, "card"),
    "card that is no text": (put("README.md", b"\xff\xfe\x00"), 0, "card"),
    "images made enormous": (processor(size={"height": 16384, "width": 16384}), 0, "processor"),
    "images of any size": (processor(max_pixels=10**12), 0, "processor"),
}


def test_a_sound_folder_is_whole_and_harmless(sound):
    findings = verify_folder(sound)
    assert [finding for finding in findings if finding.status != "ok"] == []
    assert exit_code(findings) == 0
    checks = ["place", "links", "files", "pickles", "code", "references", "backbone", "config", "labels"]
    assert [finding.check for finding in findings] == [
        *checks, "weights", "architecture", "values", "processor", "checksums", "card",
    ]  # fmt: skip


def test_a_folder_that_a_trainer_saved_is_harmless_and_told_what_lies_in_it(tmp_path, capsys):
    model = tiny_classifier(backbone="test_resnet", id2label={0: "men", 1: "women"})
    Trainer(model, TrainingArguments(str(tmp_path / "run"), use_cpu=True)).save_model(str(tmp_path / "model"))
    ContourImageProcessor(size={"height": 24, "width": 16}).save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "training_args.bin").is_file()
    assert main(["verify", str(tmp_path / "model")]) == 0
    said = capsys.readouterr().out
    assert "WARNING  pickles: training_args.bin holds the settings of a transformers.Trainer" in said


def try_damage(folder: Path, name: str) -> str | None:
    """Spoils a folder: what is wrong with what was found, or `None`."""
    damage, code, check = DAMAGES[name]
    damage(folder)
    with Watch.over(folder, Path("/proc"), folder.parent / "results") as touched:
        findings = verify_folder(folder)
    told = {finding.check for finding in findings if finding.status == ("FAILED" if code else "WARNING")}
    if exit_code(findings) != code or check not in (told or {""}):
        return f"{name}: exit code {exit_code(findings)} for {[str(one) for one in findings if one.status != 'ok']}"
    if touched.opened or touched.sockets or touched.started:
        return f"{name}: {touched}"
    return None if all(len(str(finding)) < 2000 for finding in findings) else f"{name}: too long a message"


@pytest.mark.parametrize("name", list(DAMAGES)[::3])
def test_damage_and_harm_are_found_and_told_apart(folder, name):
    assert try_damage(folder, name) is None


@pytest.mark.faults
def test_all_damage_and_harm_are_found_and_told_apart(sound, tmp_path, record_property):
    folders = [Path(shutil.copytree(sound, tmp_path / str(index) / "model")) for index in range(len(DAMAGES))]
    wrong = [found for folder, name in zip(folders, DAMAGES, strict=True) if (found := try_damage(folder, name))]
    record_property("injected", len(DAMAGES))
    record_property("lost", len(wrong))
    assert wrong == []


@pytest.mark.parametrize("source", ["nothing", "manifest", "results"])
def test_swapped_weights_are_told_by_their_checksum_alone(folder, source):
    names = [f"image_backbones.0.network.layer1.0.bn{index}.weight" for index in (1, 2)]
    tensors = load_file(folder / "model.safetensors")
    assert tensors[names[0]].shape == tensors[names[1]].shape
    assert not torch.equal(tensors[names[0]], tensors[names[1]])
    if source == "manifest":
        assert main(["verify", str(folder), "--write_manifest"]) == 0
    elif source == "results":
        results = folder.parent / "results"
        results.mkdir()
        told = {"model": {"name": "model", "sha256": state_dict_sha256(tensors)}}
        (results / "of_the_model.json").write_text(json.dumps(told))
        (results / "of_another.json").write_text(json.dumps({"model": {"name": "other", "sha256": "0"}}))
    assert exit_code(verify_folder(folder)) == 0
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]
    save_file(tensors, folder / "model.safetensors")
    failed = [finding.check for finding in verify_folder(folder) if finding.status == "FAILED"]
    assert failed == ([] if source == "nothing" else ["checksums"])  # nothing else can tell


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cannot be read"),
        ('{"files": 3}', "cannot be read"),
        ('{"files": {}}', "does not list"),
        ('{"files": {"gone.safetensors": {"size": 1, "sha256": "0"}}}', "not the file"),
        ('{"files": {"../../etc/passwd": {"size": 1, "sha256": "0"}}}', "not the file"),
    ],
)
def test_a_manifest_that_does_not_fit_is_damage(folder, text, reason):
    (folder / "manifest.json").write_text(text)
    findings = [finding for finding in verify_folder(folder) if finding.check == "checksums"]
    assert all(finding.status == "FAILED" for finding in findings)
    assert any(reason in finding.message for finding in findings)


def test_a_damaged_folder_gets_no_manifest(folder, capsys):
    cut(folder)
    assert main(["verify", str(folder), "--write_manifest"]) == 1
    assert not (folder / "manifest.json").exists()
    assert "damaged or not whole" in capsys.readouterr().out


def test_a_snapshot_in_the_cache_of_the_hub_may_link_to_its_blobs(sound, tmp_path):
    snapshot = tmp_path / "models--someone--x" / "snapshots" / "abc"
    blobs = tmp_path / "models--someone--x" / "blobs"
    shutil.copytree(sound, blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    assert exit_code(verify_folder(snapshot)) == 0
    (snapshot / "more.txt").symlink_to("/etc/passwd")
    assert exit_code(verify_folder(snapshot)) == 3


def test_an_extractor_with_or_without_its_head_and_in_parts_is_whole(tmp_path):
    model = tiny_extractor(side_loss_weight=0.5)
    ContourImageProcessor().save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "whole", max_shard_size="2KB")
    ContourImageProcessor().save_pretrained(tmp_path / "bare")
    ContourExtractorModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "bare")
    for name, kind in (("whole", "ContourExtractorForPreTraining"), ("bare", "ContourExtractorModel")):
        findings = verify_folder(tmp_path / name)
        assert [finding for finding in findings if finding.status == "FAILED"] == []
        assert any(kind in finding.message for finding in findings if finding.check == "config")
    next((tmp_path / "whole").glob("*.safetensors")).unlink()
    assert exit_code(verify_folder(tmp_path / "whole")) == 1


def test_names_that_would_move_the_cursor_are_shown_as_text(folder, capsys):
    config(id2label={"0": "\x1b[2Jmen", "1": "\u202ewomen"}, label2id={"\x1b[2Jmen": 0, "\u202ewomen": 1})(folder)
    assert main(["verify", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "\\x1b[2Jmen" in printed
    assert "\x1b" not in printed


def test_the_command_without_a_folder_is_a_wrong_use(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "nowhere"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2
    assert main(["verify"]) == 2


def test_machines_read_what_was_found(folder, capsys):
    put("evil.py", b"print()")(folder)
    assert main(["verify", str(folder), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 3
    harmful = [check for check in told["checks"] if check["harmful"]]
    assert [(check["check"], check["status"]) for check in harmful] == [("code", "FAILED")]
    assert "evil.py" in harmful[0]["message"]


@pytest.mark.parametrize(
    "model", sorted((ROOT / "model_cards").glob("*/config.json")), ids=lambda path: path.parent.name
)
def test_the_models_of_this_repository_are_whole_and_harmless(model):
    findings = verify_folder(model.parent)
    assert exit_code(findings) == 0, [str(finding) for finding in findings if finding.status == "FAILED"]


@pytest.mark.faults
def test_no_hostile_config_passes_or_stops_the_check(sound, tmp_path, record_property):
    """The check ends for every hostile config, and finds none whole that loading refuses."""
    cases = [case for case in all_cases() if case.kind != "extractor"]
    passed = []
    for case in cases:
        folder = Path(shutil.copytree(sound, tmp_path / "model"))
        name = "preprocessor_config.json" if case.kind == "processor" else "config.json"
        (folder / name).write_text(json.dumps(case.content))
        with Watch.over(folder, Path("/proc"), tmp_path / "results") as touched:
            code = exit_code(verify_folder(folder))
        assert (touched.opened, touched.sockets, touched.started) == ([], [], []), str(case)
        if case.verdict == REFUSED and code == 0:
            passed.append(str(case))
        shutil.rmtree(folder)
    record_property("tried", len(cases))
    record_property("lost", len(passed))
    assert passed == []


@pytest.mark.faults
def test_the_command_runs_without_network_and_from_anywhere(folder, tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hf_contour", "verify", str(folder)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("whole and harmless")
    inside = subprocess.run(
        [*command[:-1], "."], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert "WARNING  place" in inside.stdout
