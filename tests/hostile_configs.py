"""Configs that a stranger may have written, by the hundred, and a watch over what loading them touches."""

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REFUSED, HARMLESS = "refused", "harmless"

STRINGS: dict[str, Any] = {
    "path upwards": "../../../etc/passwd",
    "absolute path": "/etc/passwd",
    "URL": "https://example.org/weights",
    "file URL": "file:///etc/passwd",
    "hub prefix": "hf-hub:someone/something",
    "hub prefix with underscore": "hf_hub:someone/something",
    "hub kernel": "someone/kernel@main:function",
    "local prefix": "local-dir:/etc",
    "pretrained tag": "resnet18.a1_in1k",
    "NUL": "resnet18\0",
    "newline": "resnet18\n",
    "a megabyte": "x" * 1_000_000,
    "Cyrillic letter": "r\u0435snet18",
    "full width": "\uff52\uff45\uff53\uff4e\uff45\uff54",
    "right to left": "\u202eresnet18",
    "lone surrogate": "resnet18\ud800",
    "code": "__import__('os').system('touch executed')",
    "empty": "",
    "number": 7,
    "mapping": {"resnet18": 1},
}
NUMBERS: dict[str, Any] = {
    "negative": -1,
    "zero": 0,
    "billion": 10**9,
    "beyond 64 bits": 10**30,
    "beyond floats": 10**400,
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "text": "3",
    "true": True,
    "null": None,
    "list": [3],
    "mapping": {"value": 3},
}
NESTED: list[Any] = [2]
for _ in range(200):
    NESTED = [NESTED]
LISTS: dict[str, Any] = {
    "empty": [],
    "hundred thousand": [2] * 100_000,
    "list of lists": [[2], [2]],
    "deep": NESTED,
    "texts": ["2", "2"],
    "booleans": [True, True],
    "nulls": [None, None],
    "negative": [-2, -2],
    "billions": [10**9, 10**9],
    "NaN": [math.nan, math.nan],
    "infinity": [math.inf, math.inf],
    "mapping": {"0": 2},
    "text": "22",
    "number": 2,
}
EXTRACTOR: dict[str, Any] = {
    "model_type": "contour_extractor",
    "architectures": ["ContourExtractorForPreTraining"],
    "hidden_sizes": [4, 6],
    "depths": [1, 1],
    "strides": [2, 2],
    "level_channels": 4,
    "fusion_channels": 6,
}
CLASSIFIER: dict[str, Any] = {
    "model_type": "contour_gender",
    "architectures": ["ContourGenderForImageClassification"],
    "backbone": "test_resnet",
    "contour_channels": 8,
    "fusion_channels": 8,
    "id2label": {"0": "men", "1": "women"},
    "extractor_config": EXTRACTOR,
}
PROCESSOR: dict[str, Any] = {"image_processor_type": "ContourImageProcessor", "size": {"height": 24, "width": 16}}
CONFIGS = {"extractor": EXTRACTOR, "classifier": CLASSIFIER, "processor": PROCESSOR}

# What some fields may well be; everything else in the tables above is refused for every field.
VALID = {
    ("side_loss_weight", "zero"),
    ("head_dropout", "zero"),
    ("abstain_threshold", "zero"),
    ("familiarity_threshold", "zero"),
    ("contour_weight", "zero"),
    ("branch_loss_weight", "zero"),
    ("branch_dropout", "zero"),
    ("num_prototypes", "zero"),
    ("backbone", "null"),
    ("contour_levels", "null"),
    ("dtype", "null"),
    ("attn_implementation", "null"),
    ("extractor_config", "mapping"),  # a field that nobody knows; the extractor is then that of the defaults
    ("label2id", "list"),  # made anew of id2label, whatever came
    ("label2id", "text"),
    ("label2id", "lists for numbers"),
}
EXTRACTOR_STRINGS = ("residual_type", "backbone", "unify", "fusion", "loss", "dtype", "attn_implementation")
EXTRACTOR_NUMBERS = (
    "num_channels",
    "dense_growth_rate",
    "squeeze_ratio",
    "level_channels",
    "output_stride",
    "fusion_channels",
    "consensus_threshold",
    "background_scale",
    "side_loss_weight",
    "num_labels",
)
EXTRACTOR_LISTS = ("hidden_sizes", "depths", "strides", "image_mean", "image_std")
CLASSIFIER_STRINGS = (
    "backbone",
    "contour_features",
    "contour_levels",
    "contour_downsampling",
    "fusion",
    "head",
    "problem_type",
    "dtype",
    "attn_implementation",
    "extractor_config",
)
CLASSIFIER_NUMBERS = (
    "fusion_layers",
    "fusion_kernel_size",
    "fusion_channels",
    "head_channels",
    "contour_channels",
    "head_dropout",
    "temperature",
    "abstain_threshold",
    "backbone_scale",
    "contour_stride",
    "contour_weight",
    "branch_loss_weight",
    "branch_dropout",
    "num_prototypes",
    "familiarity_scale",
    "familiarity_threshold",
)


@dataclass(frozen=True)
class HostileCase:
    """One file with one thing wrong.

    Attributes:
        kind: `extractor`, `classifier` or `processor`.
        field: what is wrong; a refusal must name it.
        label: how it is wrong.
        content: what the file holds.
        verdict: `refused` or `harmless`.
    """

    kind: str
    field: str
    label: str
    content: dict[str, Any]
    verdict: str = REFUSED

    def __str__(self) -> str:
        return f"{self.kind} {self.field}: {self.label}"


def change(kind: str, field_name: str, label: str, value: Any, **more: Any) -> HostileCase:
    """A case of a sound config with another value in one field; `more` are further fields."""
    verdict = more.pop("verdict", HARMLESS if (field_name, label) in VALID else REFUSED)
    content = deepcopy(CONFIGS[kind])
    place = content
    *path, name = field_name.split(".")
    for part in path:
        place = place[part]
    place.update({name: value, **more})
    return HostileCase(kind, name, f"{label} in {'.'.join(path)}" if path else label, content, verdict)


def field_cases() -> Iterator[HostileCase]:
    """Every field with every value of the tables that fits its kind."""
    for kind, strings, numbers, lists in (
        ("extractor", EXTRACTOR_STRINGS, EXTRACTOR_NUMBERS, EXTRACTOR_LISTS),
        ("classifier", CLASSIFIER_STRINGS, CLASSIFIER_NUMBERS, ("head_grid", "image_mean", "image_std")),
    ):
        for names, values in ((strings, STRINGS), (numbers, NUMBERS), (lists, LISTS)):
            for name in names:
                for label, value in values.items():
                    yield change(kind, name, label, value)
    for name in ("hidden_sizes", "residual_type", "backbone", "num_channels", "loss", "num_labels", "dtype"):
        values = {"hidden_sizes": LISTS, "num_channels": NUMBERS, "num_labels": NUMBERS}.get(name, STRINGS)
        for label, value in values.items():
            yield change("classifier", f"extractor_config.{name}", label, value)
    for label, value in LISTS.items():
        if label != "number":
            yield change("extractor", "backbone_levels", label, value, backbone="test_resnet")
    for label, value in STRINGS.items():
        yield change("extractor", "unify", f"list of {label}", ["bilinear", value])
        yield change("classifier", "backbone", f"list of {label}", ["test_resnet", value])


def label_cases() -> Iterator[HostileCase]:
    """Label maps that are not one name for each number from 0."""
    maps: dict[str, Any] = {
        "gap": {"0": "men", "2": "women"},
        "from one": {"1": "men", "2": "women"},
        "negative": {"-1": "men", "0": "women"},
        "twice": {"0": "men", "1": "men"},
        "numbers for names": {"0": 5, "1": 6},
        "lists for names": {"0": ["men"], "1": ["women"]},
        "null for a name": {"0": None, "1": "women"},
        "words for numbers": {"men": "0", "women": "1"},
        "fractions for numbers": {"0.5": "men", "1.5": "women"},
        "path for a number": {"../0": "men", "1": "women"},
        "endless number": {"9" * 5000: "men", "1": "women"},
        "empty": {},
        "list": ["men", "women"],
        "text": "men",
        "number": 2,
        "number with a sign and spaces": {" +0 ": "men", "0": "women"},
        "hundred thousand and one": {str(index): f"label {index}" for index in range(100_001)},
    }
    for label, value in maps.items():
        yield change("classifier", "id2label", label, value)
    for label, value in {"billion": 10**9, "negative": -3, "NaN": math.nan, "text": "2", "true": True}.items():
        case = change("classifier", "num_labels", label, value)
        del case.content["id2label"]
        yield case
    for label, value in {"list": ["men"], "text": "men", "lists for numbers": {"men": [0]}}.items():
        yield change("classifier", "label2id", label, value)


def foreign_cases() -> Iterator[HostileCase]:
    """Fields that are not ours: those that Transformers would act on, names of methods, and harmless ones."""
    acted_on: dict[str, Any] = {
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "fusion_config": {"patch_embeddings": True},
        "transformers_weights": "../outside.safetensors",
        "experts_implementation": "someone/kernel",
        "_attn_implementation": "someone/kernel",
        "per_layer_config": {"0": {"hidden_sizes": [1]}},
        "distributed_config": {"tp_plan": "auto"},
    }
    shadowing = ("to_dict", "save_pretrained", "validate", "self", "__class__", "__dict__", "sub_configs")
    for kind in ("extractor", "classifier"):
        for name, value in acted_on.items():
            yield change(kind, name, "acted on by Transformers", value)
        for name in (*shadowing, "num_levels" if kind == "extractor" else "backbones"):
            yield change(kind, name, "name of a method or property", "x")
        yield change(kind, "trust_remote_code", "asks for trust", True, verdict=HARMLESS)
        yield change(kind, "note", "unknown", "../../etc/passwd", verdict=HARMLESS)
        yield change(kind, "_name_or_path", "path", "../../../etc/passwd", verdict=HARMLESS)
        yield change(kind, "auto_map", "path", {"AutoConfig": "../evil.Config"}, verdict=HARMLESS)
        yield change(kind, "custom_pipelines", "code", {"x": {"impl": "../evil.Pipeline"}}, verdict=HARMLESS)


def size_cases() -> Iterator[HostileCase]:
    """Configs whose every field is in its range and that together ask for too much."""
    wide, deep = [4096] * 4, {"depths": [32] * 4, "strides": [2] * 4}
    yield change("extractor", "hidden_sizes", "wide and deep", wide, **deep)
    yield change("extractor", "hidden_sizes", "wide", [4096] * 8, depths=[1] * 8, strides=[2] * 8)
    yield change("extractor", "hidden_sizes", "a million levels", [4] * 10**6, depths=[1] * 10**6)
    yield change(
        "extractor", "dense_growth_rate", "wide growth", 4096, residual_type="densenet", hidden_sizes=[4096] * 2
    )
    levels = {"hidden_sizes": [4] * 8, "depths": [0] * 8, "strides": [2] * 8}
    yield change("extractor", "fusion_channels", "wide fusion", 4096, level_channels=4096, **levels)
    strides = {"hidden_sizes": [4] * 8, "depths": [0] * 8}
    yield change("extractor", "strides", "coarse", [4] * 8, **strides)
    yield change(
        "extractor", "strides", "kernels of 128 thousand", [4] * 8, unify="deconv", output_stride=1, **strides
    )
    yield change("classifier", "fusion_channels", "wide kernels", 2048, fusion_kernel_size=31, fusion_layers=16)
    yield change("classifier", "fusion_channels", "wide sum", 2048, fusion_kernel_size=31, fusion="conv")
    yield change("classifier", "backbone", "five", ["test_resnet"] * 5)
    yield change("classifier", "backbone", "hundred thousand", ["test_resnet"] * 100_000)
    wide_levels = {**EXTRACTOR, "level_channels": 4096, "fusion": "concat"}
    for count, head in ((8, "cnn"), (4, "cnn")):
        extractor = {**wide_levels, "hidden_sizes": [4] * count, "depths": [0] * count, "strides": [2] * count}
        yield change(
            "classifier", "weights", f"{count} wide levels to {head}", 1, extractor_config=extractor,
            contour_downsampling="average", fusion="concat", head=head,
        )  # fmt: skip
    for name in GIANTS:
        yield change("classifier", "weights", f"giant {name}", 1, backbone=name)
    for name in ("resnetv2_152x4_bit", "regnety_2560"):
        yield change("extractor", "weights", f"giant {name}", 1, backbone=name, backbone_levels=[0, 4])
    yield change("classifier", "weights", "four large ones", 1, backbone=["convnext_xlarge"] * 4)


GIANTS = (
    "vit_giant_patch14_dinov2",
    "vit_gigantic_patch14_clip_224",
    "vit_7b_patch16_dinov3",
    "eva_giant_patch14_224",
    "swinv2_cr_giant_224",
    "regnety_2560",
    "resnetv2_152x4_bit",
    "convnextv2_huge",
    "eva02_enormous_patch14_clip_224",
)


def processor_cases() -> Iterator[HostileCase]:
    """Processors that ask for absurd sizes, divide by zero or undo the limit on images."""
    sizes: dict[str, Any] = {
        "zero": {"height": 0, "width": 8},
        "negative": {"height": -8, "width": 8},
        "billion": {"height": 10**9, "width": 10**9},
        "beyond the bound": {"height": 16385, "width": 8},
        "fraction": {"height": 8.5, "width": 8},
        "NaN": {"height": math.nan, "width": 8},
        "text": {"height": "8", "width": 8},
        "true": {"height": True, "width": 8},
        "other words": {"shortest_edge": 8},
        "list": [8, 8, 8],
        "word": "large",
        "path": "../../etc/passwd",
    }
    for label, value in sizes.items():
        yield change("processor", "size", label, value)
    for name in ("image_std", "rescale_factor", "image_mean"):
        values = {"NaN": math.nan, "infinity": math.inf, "text": "1", "true": True, "mapping": {"0": 1}}
        if name != "image_mean":
            values |= {"zero": 0, "negative": -1}
        for label, value in values.items():
            yield change("processor", name, label, value if name == "rescale_factor" else [value] * 3)
    for name, values in {
        "max_pixels": {"zero": 0, "negative": -1, "NaN": math.nan, "text": "9", "true": True, "list": [9]},
        "background_color": {"negative": [-1, 0, 0], "too much": [256, 0, 0], "short": [0, 0], "word": "white"},
        "resample": {"unknown": 9, "text": "x", "negative": -1},
        "crop_size": {"billion": {"height": 10**9, "width": 10**9}},
        "pad_size": {"billion": {"height": 10**9, "width": 10**9}},
    }.items():
        for label, value in values.items():
            yield change("processor", name, label, value)
    yield change("processor", "do_center_crop", "not done here", True)
    yield change("processor", "trust_remote_code", "asks for trust", True, verdict=HARMLESS)


def all_cases() -> list[HostileCase]:
    """Every case, each with a name of its own."""
    groups = (field_cases, label_cases, foreign_cases, size_cases, processor_cases)
    return [case for group in groups for case in group()]


@dataclass
class Touched:
    """What happened while a watch was on.

    Attributes:
        opened: files opened or listed outside the folders that are allowed.
        sockets: attempts to open a socket or to look up a host; all are stopped.
        started: processes started.
    """

    opened: list[str] = field(default_factory=list)
    sockets: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)


class Watch:
    """Counts what this process opens, through Python's audit events; one for a process, since none can be taken off.

    Code of Python and of installed packages may be read at any time, and so may this repository's own.
    """

    _current: "tuple[Touched, tuple[str, ...], int] | None" = None
    _installed = False
    _code = (sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[1] / "hf_contour"))

    @classmethod
    @contextmanager
    def over(cls, *allowed: Path) -> Iterator[Touched]:
        """Watches this thread for the block; `allowed` are folders that it may read."""
        if not cls._installed:
            sys.addaudithook(cls._hear)
            cls._installed = True
        touched = Touched()
        folders = tuple(os.path.realpath(path) for path in (*cls._code, *allowed))
        cls._current = (touched, folders, threading.get_ident())
        try:
            yield touched
        finally:
            cls._current = None

    @classmethod
    def _hear(cls, event: str, arguments: tuple[Any, ...]) -> None:
        current = cls._current
        if current is None or current[2] != threading.get_ident():
            return
        touched, folders, _ = current
        if event in ("open", "os.listdir", "os.scandir"):
            name = arguments[0]
            if isinstance(name, str | bytes | os.PathLike):
                path = os.path.realpath(os.fsdecode(name))
                if not any(path == folder or path.startswith(folder + os.sep) for folder in folders):
                    touched.opened.append(path)
        elif event.startswith("socket.") and event != "socket.gethostname":
            touched.sockets.append(f"{event} {arguments[1:]}")
            raise OSError("sockets are blocked in this test")
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"):
            touched.started.append(f"{event} {arguments[:1]}")
