"""Hostile configs are refused by the field's name, before anything is read, fetched or allocated."""

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_configs import (
    CLASSIFIER,
    EXTRACTOR,
    HARMLESS,
    REFUSED,
    HostileCase,
    Touched,
    Watch,
    all_cases,
    change,
    size_cases,
)
from huggingface_hub.errors import StrictDataclassError
from tiny_models import tiny_classifier, tiny_extractor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, AutoModelForPreTraining

from hf_contour import ContourExtractorConfig, ContourExtractorForPreTraining, ContourGenderConfig
from hf_contour.modeling_contour_branches import plan_backbone
from hf_contour.modeling_contour_gender import ContourGenderForImageClassification

ALL = all_cases()
# Every field and, since the tables of values are not as long as this step, every kind of value.
QUICK = ALL[::14]
SECONDS = 5.0  # of processor time, which other programs lengthen too; what is not refused at once takes minutes
MODELS: dict[str, Any] = {"extractor": AutoModelForPreTraining, "classifier": AutoModelForImageClassification}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A sound folder of each kind, to be spoilt by a config."""
    root = tmp_path_factory.mktemp("folders")
    tiny_extractor(**{name: EXTRACTOR[name] for name in ("level_channels", "fusion_channels")}).save_pretrained(
        root / "extractor"
    )
    tiny_classifier(backbone="test_resnet", num_labels=2).save_pretrained(root / "classifier")
    (root / "processor").mkdir()
    return {kind: root / kind for kind in ("extractor", "classifier", "processor")}


def load(case: HostileCase, folder: Path) -> None:
    """What a user does with a folder; of a model that is to be harmless, only its config is sure to fit."""
    if case.kind == "processor":
        AutoImageProcessor.from_pretrained(folder)(torch.zeros(3, 8, 8, dtype=torch.uint8), return_tensors="pt")
        return
    AutoConfig.from_pretrained(folder)
    if case.verdict == REFUSED:
        MODELS[case.kind].from_pretrained(folder)


def attempt(case: HostileCase, folders: dict[str, Path]) -> tuple[BaseException | None, Touched, float]:
    """Loads a case under the watch: the error, what was touched, and the seconds of this thread."""
    folder = folders[case.kind]
    name = "preprocessor_config.json" if case.kind == "processor" else "config.json"
    (folder / name).write_text(json.dumps(case.content))
    error: BaseException | None = None
    with Watch.over(folder, Path("/proc")) as touched:
        start = time.thread_time()
        try:
            load(case, folder)
        except BaseException as raised:  # also a panic of a compiled library
            error = raised
        seconds = time.thread_time() - start
    return error, touched, seconds


def complaints(case: HostileCase, error: BaseException | None, touched: Touched, seconds: float) -> list[str]:
    """What is wrong with the way that a case ended."""
    found = []
    if case.verdict == HARMLESS and error is not None:
        found.append(f"harmless, and refused: {error!r:.200}")
    if case.verdict == REFUSED:
        if error is None:
            found.append("accepted")
        elif not isinstance(error, ValueError | StrictDataclassError):
            found.append(f"ended with {error!r:.200}")
        elif case.field not in str(error):
            found.append(f"not named: {error!s:.200}")
        elif len(str(error)) > 5000:
            found.append(f"a message of {len(str(error))} characters")
    found += [f"read {path}" for path in touched.opened]
    found += [f"opened {socket}" for socket in touched.sockets]
    found += [f"started {process}" for process in touched.started]
    if seconds > SECONDS:
        found.append(f"took {seconds:.2f} s")
    return found


def try_cases(cases: list[HostileCase], folders: dict[str, Path]) -> dict[str, list[str]]:
    """The complaints about each case that has some."""
    outcomes = {ascii(str(case)): complaints(case, *attempt(case, folders)) for case in cases}
    return {name: found for name, found in outcomes.items() if found}


def test_hostile_configs_are_refused_by_name_and_touch_nothing(folders):
    assert len(QUICK) >= 60
    assert try_cases(QUICK, folders) == {}


@pytest.mark.faults
def test_every_hostile_config_is_refused_by_name_and_touches_nothing(folders, record_property):
    failed = try_cases(ALL, folders)
    record_property("tried", len(ALL))
    record_property("lost", len(failed))
    assert len(ALL) >= 300
    assert len({str(case) for case in ALL}) == len(ALL)
    assert failed == {}


def test_the_watch_sees_what_it_is_there_for(tmp_path):
    import socket
    import subprocess
    import sys

    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_text("s")
    with Watch.over(tmp_path / "inside") as touched:
        (tmp_path / "inside" / "note").write_text("fine")
        (tmp_path / "inside" / ".." / "secret").read_text()
        with pytest.raises(OSError, match="blocked"):
            socket.create_connection(("localhost", 9))
        with pytest.raises(OSError, match="blocked"):
            socket.getaddrinfo("example.org", 443)
        subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    assert touched.opened[0] == str(tmp_path / "secret")
    assert len(touched.sockets) == 2
    assert touched.started


class CountBytes(TorchDispatchMode):
    """Adds up what operators of torch return outside of the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(returned):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                self.count += tensor.numel() * tensor.element_size()
        return returned


BOMBS = [case for case in size_cases() if "hundred thousand" not in case.label and "million" not in case.label]


def build(case: HostileCase) -> None:
    """Makes the model of a config without a folder, as a training does."""
    if case.kind == "extractor":
        ContourExtractorForPreTraining(ContourExtractorConfig(**case.content))
    else:
        ContourGenderForImageClassification(ContourGenderConfig(**case.content))


@pytest.mark.parametrize("case", BOMBS, ids=str)
def test_absurd_sizes_are_refused_before_allocation(case):
    with CountBytes() as counted, pytest.raises((ValueError, StrictDataclassError), match=case.field):
        build(case)
    assert counted.count < 2**20


@pytest.mark.faults
def test_absurd_sizes_take_no_memory_of_python_either(record_property):
    cases = [*BOMBS, *(case for case in ALL if "labels" in case.field or "id2label" in case.field)]
    peaks = {}
    for case in cases:
        tracemalloc.start()
        with CountBytes() as counted, pytest.raises((ValueError, StrictDataclassError)):
            build(case)
        peaks[str(case)] = tracemalloc.get_traced_memory()[1] + counted.count
        tracemalloc.stop()
    record_property("tried", len(cases))
    record_property("lost", sum(peak > 2**26 for peak in peaks.values()))
    assert max(peaks.values()) <= 2**26, max(peaks, key=peaks.__getitem__)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"contour_features": "fused", "contour_downsampling": "average", "fusion": "conv", "head": "mlp"},
        {"contour_features": "none", "fusion": "concat", "head": "cnn", "head_grid": [1, 1]},
        {"fusion": "late", "head": "mlp", "num_prototypes": 32},
    ],
)
def test_what_is_counted_is_what_a_classifier_has(fields):
    """But for biases, normalisations and the layers between the first and the last of the downsampling."""
    config = ContourGenderConfig(extractor_config=EXTRACTOR, backbone="test_resnet", fusion_channels=24, **fields)
    with torch.device("meta"):
        model = ContourGenderForImageClassification(config)
    extractor = sum(parameter.numel() for parameter in model.extractor.parameters()) if model.extractor else 0
    tensors = [*model.parameters(), *(model.familiarity.buffers() if model.familiarity else ())]
    num_parameters = sum(tensor.numel() for tensor in tensors) - extractor
    backbone = model.image_backbones[0]
    counted = config.count_parameters([backbone.num_features]) + sum(part.numel() for part in backbone.parameters())
    assert 0.9 * num_parameters < counted < 1.5 * num_parameters


def test_planning_a_model_draws_no_random_number():
    config = ContourGenderConfig(extractor_config=EXTRACTOR, backbone="test_resnet", fusion_channels=8)
    plan_backbone.cache_clear()
    models = []
    for _ in ("planned", "known"):
        torch.manual_seed(3)
        models.append(ContourGenderForImageClassification(config).state_dict())
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())


def test_a_request_for_trust_is_not_even_kept(tmp_path):
    case = change("classifier", "trust_remote_code", "asks", True)
    (tmp_path / "config.json").write_text(json.dumps(case.content))
    assert not hasattr(AutoConfig.from_pretrained(tmp_path), "trust_remote_code")


@pytest.mark.parametrize("content", [EXTRACTOR, CLASSIFIER], ids=["extractor", "classifier"])
def test_what_is_not_hostile_is_loaded(tmp_path, content):
    """The sound config that every case spoils; otherwise all of them would be refused for nothing."""
    (tmp_path / "config.json").write_text(json.dumps({**content, "dtype": "bfloat16", "attn_implementation": "eager"}))
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.dtype == torch.bfloat16
    assert config.model_type == content["model_type"]


def test_no_kernel_is_fetched_for_attention_that_is_not_there():
    model = tiny_extractor()
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="not supported"):
        model.set_attn_implementation("someone/kernel")
    with pytest.raises((ValueError, StrictDataclassError), match="attn_implementation"):
        ContourExtractorConfig(attn_implementation="someone/kernel")
