"""Pickles, damaged and foreign weights, and foreign code: refused with a reason, and nothing of it is run."""

import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_configs import Watch
from safetensors.torch import load_file, save_file
from tiny_models import equal_states, tiny_classifier, tiny_extractor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    pipeline,
)

from hf_contour import (
    ContourExtractorForPreTraining,
    ContourExtractorModel,
    ContourGenderForImageClassification,
    ContourImageProcessor,
)

KERNEL = "contour_extractor.cascade.stages.0.downsample.0.weight"  # (4, 3, 3, 3)
TWINS = ("cascade.stages.0.modules_in_cascade.0.residual.0.0.weight", "residual.1.0.weight")  # of one shape
SECONDS = 5.0  # of processor time, as for configs


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """The folder of an extractor with its processor."""
    folder = tmp_path_factory.mktemp("sound") / "extractor"
    tiny_extractor().save_pretrained(folder)
    ContourImageProcessor(size={"height": 24, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Changes the weights of a folder."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")


# Pickles


class Touch:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def write_pickle(path: Path, content: Any, *, form: str) -> None:
    """Writes a checkpoint as PyTorch does now (`zip`), as it did before 1.6 (`legacy`), or as a bare pickle."""
    if form == "bare":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("harm", [True, False], ids=["harmful", "harmless"])
def test_a_pickle_is_refused_and_not_run(folder, tmp_path, form, name, harm):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    executed = tmp_path / "executed"
    write_pickle(folder / name, {**weights, **({"x": Touch(executed)} if harm else {})}, form=form)
    for load in (ContourExtractorForPreTraining, AutoModelForPreTraining, ContourExtractorModel, AutoModel):
        with pytest.raises((ValueError, OSError), match="safetensors"):
            load.from_pretrained(folder)
    assert not executed.exists()


def test_a_harmless_pickle_is_read_by_whoever_asks_for_it(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    model = ContourExtractorForPreTraining.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    assert equal_states(ContourExtractorForPreTraining.from_pretrained(folder, use_safetensors=False), model)


def test_a_harmful_pickle_beside_good_weights_is_left_alone(folder, tmp_path):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin"):
        write_pickle(folder / name, Touch(tmp_path / "executed"), form="bare")
    ContourExtractorForPreTraining.from_pretrained(folder)
    assert not (tmp_path / "executed").exists()


def test_a_harmful_pickle_is_refused_even_when_asked_for(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    write_pickle(folder / "pytorch_model.bin", {"x": Touch(tmp_path / "executed")}, form="zip")
    with pytest.raises((ValueError, RuntimeError, pickle.UnpicklingError)):
        ContourExtractorForPreTraining.from_pretrained(folder, use_safetensors=False)
    assert not (tmp_path / "executed").exists()


# Weights that do not fit


def set_to(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    """A change of one tensor."""
    return lambda weights: weights.update({name: value(weights[name])})


def fill(number: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """A tensor whose first element is `number`."""

    def filled(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[0] = number
        return tensor

    return filled


MISFITS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], None], str]] = {
    "one missing": (lambda weights: weights.pop(KERNEL), "missing.*downsample"),
    "all missing": (lambda weights: (weights.clear(), weights.update({"x": torch.zeros(1)})), "missing"),
    "one left over": (lambda weights: weights.update({"cascade.more.weight": torch.zeros(2)}), "unexpected.*more"),
    "misshaped": (set_to(KERNEL, lambda tensor: tensor[:2]), "mismatch"),
    "flattened": (set_to(KERNEL, torch.flatten), "mismatch"),
    "of no dimension": (set_to(KERNEL, lambda tensor: tensor.sum()), "mismatch"),
    "empty": (set_to(KERNEL, lambda tensor: tensor[:0]), "mismatch"),
    "NaN": (set_to(KERNEL, fill(float("nan"))), "NaN.*downsample"),
    "infinity": (set_to(KERNEL, fill(float("-inf"))), "infinity"),
    "statistics that are NaN": (set_to(KERNEL.replace("0.weight", "1.running_mean"), fill(float("nan"))), "NaN"),
    "beyond float32": (set_to(KERNEL, lambda tensor: fill(1e300)(tensor.double())), "infinity"),
    "whole numbers": (set_to(KERNEL, lambda tensor: tensor.to(torch.int8)), "no floating-point.*I8"),
    "booleans": (set_to(KERNEL, lambda tensor: tensor > 0), "no floating-point.*BOOL"),
    "complex numbers": (set_to(KERNEL, lambda tensor: tensor.to(torch.complex64)), "no floating-point.*C64"),
    "8-bit floats": (set_to(KERNEL, lambda tensor: tensor.to(torch.float8_e4m3fn)), "no floating-point.*F8"),
}


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("name", MISFITS)
def test_weights_that_do_not_fit_are_an_error(folder, name):
    change, reason = MISFITS[name]
    rewrite(folder, change)
    for load in (ContourExtractorForPreTraining, AutoModelForPreTraining):
        with pytest.raises((ValueError, RuntimeError), match=reason):
            load.from_pretrained(folder)


def test_other_floating_types_are_converted(folder):
    expected = load_file(folder / "model.safetensors")[KERNEL]
    for kind in (torch.float64, torch.bfloat16, torch.float16):
        rewrite(folder, set_to(KERNEL, lambda tensor, kind=kind: expected.to(kind)))
        loaded = ContourExtractorForPreTraining.from_pretrained(folder).state_dict()[KERNEL]
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, expected.to(kind).float())


INDEXES: dict[str, Any] = {
    "upwards": "../outside.safetensors",
    "absolute": "/outside.safetensors",
    "in a folder": "sub/outside.safetensors",
    "a URL": "https://example.org/model.safetensors",
    "another kind": "pytorch_model.bin",
    "hidden upwards": "..",
    "a list": ["outside.safetensors"],
    "null": None,
}


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_cannot_lead_out_of_its_folder(folder, tmp_path, name):
    shutil.move(folder / "model.safetensors", tmp_path / "outside.safetensors")
    weight_map = dict.fromkeys(load_file(tmp_path / "outside.safetensors"), INDEXES[name])
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    with Watch.over(folder, Path("/proc")) as touched, pytest.raises(ValueError, match="index"):
        ContourExtractorForPreTraining.from_pretrained(folder)
    assert (touched.opened, touched.sockets) == ([], [])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3, "metadata": {}}', "[" * 10**5]
)
def test_a_damaged_index_is_an_error(folder, text):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="index"):
        ContourExtractorForPreTraining.from_pretrained(folder)


def test_a_sound_index_is_read(folder):
    model = ContourExtractorForPreTraining.from_pretrained(folder)
    shutil.rmtree(folder)
    model.save_pretrained(folder, max_shard_size="2KB")
    assert not (folder / "model.safetensors").exists()
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert equal_states(ContourExtractorForPreTraining.from_pretrained(folder), model)


def test_swapped_tensors_of_one_shape_are_not_seen_on_loading(folder):
    """Nothing but a checksum can tell; `python -m hf_contour verify` does where there is a manifest."""

    def swap(weights: dict[str, torch.Tensor]) -> None:
        first = next(name for name in weights if name.endswith(TWINS[0]))
        second = first.replace("residual.0.0.weight", TWINS[1])
        weights[first], weights[second] = weights[second], weights[first]

    rewrite(folder, swap)
    ContourExtractorForPreTraining.from_pretrained(folder)


# Damaged headers


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, data: bytes, *, length: int | None = None) -> bytes:
    """A file of them; `length` is what it says of its header's length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def lengths(content: bytes) -> Iterator[bytes]:
    """Wrong lengths of the header, and files cut off."""
    header, data = parts(content)
    true = len(json.dumps(header))
    for length in (0, 1, 7, true - 1, true + 1, true + len(data), 10**8, 10**8 + 1, 2**31, 2**62, 2**63, 2**64 - 1):
        yield joined(header, data, length=length)
    for cut in (0, 1, 7, 8, 9, 100, 8 + true - 1, 8 + true, 8 + true + 1, len(content) - 1):
        yield content[:cut]
    yield content + b"\0"
    yield content[8:]


def texts(content: bytes) -> Iterator[bytes]:
    """Headers that are no object of tensors."""
    _, data = parts(content)
    for text in (b"", b"{", b"}", b"[]", b"null", b"3", b'"x"', b"{}x", b"\xff\xfe{}", b"\0" * 64, b"{" * 5000):
        yield joined(text, data)
    yield joined(b'{"a":' * 3000 + b"1" + b"}" * 3000, data)
    yield joined(b'{"a":1e999}', data)


def entries(content: bytes) -> Iterator[bytes]:
    """One tensor's entry with another type, shape or place."""
    header, data = parts(content)
    begin, end = header[KERNEL]["data_offsets"]
    changes: list[dict[str, Any]] = [{"dtype": kind} for kind in ("F31", "", "f32", "I64", "F64", 3, None, ["F32"])]
    for shape in (
        [],
        [0],
        [4, 3, 3],
        [4, 3, 3, 4],
        [2**63],
        [-4, 3, 3, 3],
        [1.5],
        "4",
        None,
        [2**32, 2**32],
        [4] * 999,
    ):
        changes.append({"shape": shape})
    for offsets in (
        [end, begin], [begin, begin], [begin + 1, end], [begin, end + 4], [0, len(data)], [-4, end], [2**62, 2**63],
        [2**64, 2**65], [len(data), len(data) + 432], [begin], [begin, end, end], "0", None, [0.5, 1.5],
    ):  # fmt: skip
        changes.append({"data_offsets": offsets})
    changes += [{"more": 1}, {"dtype": "F16", "shape": [4, 3, 3, 6]}, {"dtype": "U8", "shape": [432]}]
    for change in changes:
        yield joined({**header, KERNEL: {**header[KERNEL], **change}}, data)
    for field in ("dtype", "shape", "data_offsets"):
        yield joined({**header, KERNEL: {key: header[KERNEL][key] for key in header[KERNEL] if key != field}}, data)


def names(content: bytes) -> Iterator[bytes]:
    """Names that are odd, doubled or gone, and metadata of wrong types."""
    header, data = parts(content)
    for name in ("", "../" + KERNEL, KERNEL + "\0", "\u202e" + KERNEL, "x" * 10**6, "__class__", "contour_extractor"):
        yield joined({name if key == KERNEL else key: value for key, value in header.items()}, data)
    text = json.dumps(header)
    yield joined((text[:-1] + f', "{KERNEL}": {json.dumps(header[KERNEL])}}}').encode(), data)
    for metadata in (3, [], "x", {"format": 3}, {"format": None}, {"format": "tf"}, {"format": "../pt"}, {}, None):
        yield joined({**header, "__metadata__": metadata}, data)
    yield joined({"__metadata__": header.get("__metadata__", {})}, data)
    yield joined({**header, **{f"more.{index}": header[KERNEL] for index in range(1000)}}, data)


def random_changes(content: bytes, count: int) -> Iterator[bytes]:
    """Headers with one to four bytes changed, at random but the same every time."""
    chance = random.Random(0)
    (length,) = struct.unpack("<Q", content[:8])
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(8 + length)] ^= 1 << chance.randrange(8)
        yield bytes(changed)


def try_header(folder: Path, content: bytes, sound: dict[str, torch.Tensor]) -> str | None:
    """What is wrong with how a file with this content ends, or `None`: refused with a reason, or read as it was."""
    (folder / "model.safetensors").write_bytes(content)
    start = time.thread_time()
    try:
        loaded = ContourExtractorForPreTraining.from_pretrained(folder).state_dict()
    except (ValueError, RuntimeError, OSError) as error:
        found = None if str(error).strip() else f"no reason: {error!r}"
    except BaseException as error:  # a panic of the compiled library is no Exception
        found = f"crashed with {error!r:.200}"
    else:
        same = all(torch.equal(tensor, sound[name]) for name, tensor in loaded.items())
        found = None if same else "loaded other weights"
    seconds = time.thread_time() - start
    return f"took {seconds:.2f} s" if found is None and seconds > SECONDS else found


def mutated(content: bytes) -> list[bytes]:
    """At least 200 files with a damaged header."""
    groups = (lengths, texts, entries, names)
    return [*(file for group in groups for file in group(content)), *random_changes(content, 140)]


def test_mutated_headers_are_refused_with_a_reason(sound, folder):
    content = (sound / "model.safetensors").read_bytes()
    expected = load_file(sound / "model.safetensors")
    found = [try_header(folder, file, expected) for file in mutated(content)[::10]]
    assert [reason for reason in found if reason] == []


@pytest.mark.faults
def test_every_mutated_header_is_refused_with_a_reason(sound, folder, record_property):
    content = (sound / "model.safetensors").read_bytes()
    expected = load_file(sound / "model.safetensors")
    files = mutated(content)
    found = {index: try_header(folder, file, expected) for index, file in enumerate(files)}
    failed = {index: reason for index, reason in found.items() if reason}
    record_property("tried", len(files))
    record_property("lost", len(failed))
    assert len(files) >= 200
    assert failed == {}


# Foreign code

EVIL = """
from pathlib import Path
Path({executed!r}).touch()
from transformers import AutoConfig, PreTrainedConfig
class Config(PreTrainedConfig):
    model_type = "contour_gender"
class Model: pass
class Processor: pass
"""
REFERENCES = {
    "beside": "evil.{name}",
    "another repository": "someone/evil--evil.{name}",
    "upwards": "../evil.{name}",
    "absolute": "{root}/evil.{name}",
    "a folder as a repository": "{root}--evil.{name}",
    "a URL": "https://example.org/evil.{name}",
    "deeper": "sub.evil.{name}",
    "of the system": "os.system",
    "a list": ["evil.{name}", "evil.{name}"],
}
PLACES = {
    "config.json": {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForImageClassification": "Model"},
    "preprocessor_config.json": {"AutoImageProcessor": "Processor", "AutoFeatureExtractor": "Processor"},
    "processor_config.json": {"AutoProcessor": "Processor"},
    "extractor_config": {"AutoConfig": "Config", "AutoModel": "Model"},
}


def plant(root: Path, place: str, reference: Any) -> Path:
    """A classifier's folder whose `auto_map` at one place leads to code that leaves a file behind."""
    folder = root / "model"
    (folder / "sub").mkdir(exist_ok=True)
    for path in (folder / "evil.py", folder / "sub" / "evil.py", root / "evil.py"):
        path.write_text(EVIL.format(executed=str(root / "executed")))

    def filled(word: Any, name: str) -> Any:
        return [filled(one, name) for one in word] if isinstance(word, list) else word.format(name=name, root=root)

    auto_map = {auto: filled(reference, name) for auto, name in PLACES[place].items()}
    file = folder / ("config.json" if place == "extractor_config" else place)
    content = json.loads(file.read_text()) if file.exists() else {}
    target = content["extractor_config"] if place == "extractor_config" else content
    target |= {"auto_map": auto_map, "trust_remote_code": True}
    content |= {"custom_pipelines": {"image-classification": {"impl": "evil.Processor", "pt": ["AutoModel"]}}}
    file.write_text(json.dumps(content))
    return folder


def load_in_every_way(folder: Path) -> int:
    """Loads a folder without trusting it, through every door; how many doors opened."""
    doors: list[Callable[[], Any]] = [
        lambda: AutoConfig.from_pretrained(folder),
        lambda: AutoModel.from_pretrained(folder),
        lambda: AutoModelForImageClassification.from_pretrained(folder),
        lambda: AutoImageProcessor.from_pretrained(folder),
        lambda: ContourGenderForImageClassification.from_pretrained(folder),
        lambda: ContourImageProcessor.from_pretrained(folder),
        lambda: pipeline("image-classification", str(folder)),
        lambda: ContourGenderForImageClassification.from_pretrained(folder, trust_remote_code=False),
    ]
    opened = 0
    for door in doors:
        try:
            door()
            opened += 1
        except (ValueError, OSError, KeyError, TypeError, AttributeError, ImportError):
            continue
    return opened


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory) -> Path:
    """The folder of a classifier with its processor."""
    folder = tmp_path_factory.mktemp("classifier") / "model"
    tiny_classifier(backbone="test_resnet").save_pretrained(folder)
    ContourImageProcessor(size={"height": 24, "width": 16}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("place", ["config.json", "preprocessor_config.json"])
def test_code_named_by_a_config_is_not_run(classifier_folder, tmp_path, place):
    shutil.copytree(classifier_folder, tmp_path / "model")
    folder = plant(tmp_path, place, REFERENCES["beside"])
    with Watch.over(tmp_path, Path("/proc")) as touched:
        assert load_in_every_way(folder) >= 3
    assert not (tmp_path / "executed").exists()
    assert touched.sockets == []


def test_nobody_is_asked_to_trust_a_folder(classifier_folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question: pytest.fail(question))
    assert pipeline("image-classification", str(classifier_folder)).model.config.num_labels == 3


@pytest.mark.faults
def test_no_way_of_naming_code_runs_it(classifier_folder, tmp_path, record_property):
    tried = executed = 0
    for place in PLACES:
        for label, reference in REFERENCES.items():
            root = tmp_path / f"{place} {label}".replace(" ", "_")
            shutil.copytree(classifier_folder, root / "model")
            folder = plant(root, place, reference)
            with Watch.over(root, Path("/proc")) as touched:
                load_in_every_way(folder)
            assert touched.sockets == [], (place, label)
            tried += 1
            executed += (root / "executed").exists()
    record_property("tried", tried)
    record_property("lost", executed)
    assert tried >= 10
    assert executed == 0


def test_an_extractor_to_be_joined_is_loaded_without_trust(folder, tmp_path):
    (folder / "evil.py").write_text(EVIL.format(executed=str(tmp_path / "executed")))
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}, "trust_remote_code": True}
    (folder / "config.json").write_text(json.dumps(config))
    model = ContourGenderForImageClassification.from_extractor_and_backbone(folder, "test_resnet")
    assert model.extractor.num_features == 6
    assert not (tmp_path / "executed").exists()


TRUSTING = """
import sys
from importlib.abc import MetaPathFinder
class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_contour":
            raise ImportError("hf_contour is not installed in this test")
sys.meta_path.insert(0, Blocker())
from transformers import AutoImageProcessor, AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained(sys.argv[1], trust_remote_code=True)
AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print(type(model.extractor).__name__)
"""


@pytest.mark.faults
def test_trust_in_a_folder_is_no_trust_in_what_its_extractor_names(classifier_folder, tmp_path):
    """The caller trusts the code beside the config; the nested config's own reference is still not followed."""
    shutil.copytree(classifier_folder, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    folder = plant(tmp_path, "extractor_config", REFERENCES["beside"])
    planted = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**planted, "auto_map": config["auto_map"]}))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", TRUSTING, str(folder)]
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert finished.stdout.strip() == "ContourExtractorModel", finished.stderr
    assert not (tmp_path / "executed").exists()
