"""Checks of what a config may hold, and of what a file may hold beside it; the message names the field."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_CHANNELS = 4096
MAX_STRIDE = 64
MAX_LABELS = 100_000
MAX_ENTRIES = 1000  # entries or characters of a field in a file: checking the types of a million takes half a minute
MAX_WEIGHTS = 500_000_000  # about 2 GB in fp32; a hostile config must not ask for more

DTYPES = ("float32", "float16", "bfloat16", "float64")
# There is no attention here. Any other word would make Transformers fetch a kernel of that name and run it.
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")
# What files of models may hold beside their own fields and Transformers' although the classes have such names.
_OTHER_FIELDS = frozenset({"model_type", "num_labels", "torch_dtype", "name_or_path", "output_attentions"})
# What Transformers acts on: other weights, other layers, another way of loading. None of it is done here.
_REFUSED_FIELDS = frozenset(
    {
        "_attn_implementation",
        "_experts_implementation",
        "distributed_config",
        "experts_implementation",
        "fusion_config",
        "per_layer_config",
        "quantization_config",
        "transformers_weights",
    }
)
_BACKBONE_NAME = re.compile(r"[a-z0-9_]{1,100}")
_LABEL_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)


def check_choice(field: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses a value that is not one of `choices`.

    Raises:
        ValueError: Naming the field, the value and the choices.
    """
    if value not in choices:
        raise ValueError(f"{field} is {value!r:.80}; expected one of {', '.join(choices)}.")


def check_range(field: str, value: float, low: float, high: float) -> None:
    """Refuses a number outside of `low` to `high`, both included, and so NaN and infinity.

    Raises:
        ValueError: Naming the field, the value and the range.
    """
    if not low <= value <= high:
        raise ValueError(f"{field} is {value!r:.40}; expected a number from {low} to {high}.")


def check_lengths(fields: Sequence[str], content: Mapping[str, Any]) -> None:
    """Refuses lists and texts of a file that are too long to be looked at one by one.

    Raises:
        ValueError: Naming the field.
    """
    if "self" in content:
        raise ValueError("'self' is no field that a config of this model may set; take it out.")
    for field in fields:
        value = content.get(field)
        if isinstance(value, str | list | tuple) and len(value) > MAX_ENTRIES:
            raise ValueError(f"{field} is {len(value)} entries long; expected at most {MAX_ENTRIES}.")


def check_common_fields(fields: Mapping[str, Any], others: dict[str, Any], *, class_names: Sequence[str]) -> None:
    """Refuses what a file may hold beside the model's own fields, before Transformers acts on it.

    Args:
        fields: `dtype`, `id2label` and the other fields that the class declares, as they came.
        others: everything else that came; a request to trust code is taken out, since only the caller can trust.
        class_names: names of the class's methods and properties, which an unknown field would replace.

    Raises:
        ValueError: Naming the field.
    """
    others.pop("trust_remote_code", None)
    for name in others:
        if name in _REFUSED_FIELDS or (name in class_names and name not in _OTHER_FIELDS):
            raise ValueError(f"{name[:80]!r} is no field that a config of this model may set; take it out.")
    for field, value in (("dtype", fields["dtype"]), ("torch_dtype", others.get("torch_dtype"))):
        if value is not None:
            check_choice(field, value if isinstance(value, str) else str(value).removeprefix("torch."), DTYPES)
    asked = others.get("attn_implementation")
    for value in asked.values() if isinstance(asked, dict) else (asked,):
        if value is not None:
            check_choice("attn_implementation", value, ATTENTIONS)
    if "num_labels" in others:
        num_labels = others["num_labels"]
        if isinstance(num_labels, bool) or not isinstance(num_labels, int):
            raise ValueError(f"num_labels is {num_labels!r:.80}; expected a whole number.")
        check_range("num_labels", num_labels, 1, MAX_LABELS)
    if fields["id2label"] is not None:
        check_labels(fields["id2label"])


def complete_auto_map(auto_map: Any, defaults: Mapping[str, str]) -> dict[str, str]:
    """What a file says of Auto classes, and the defaults for those that it does not name."""
    return {**defaults, **(auto_map if isinstance(auto_map, dict) else {})}


def local_auto_map(auto_map: Mapping[str, Any]) -> dict[str, Any]:
    """The map without the repositories that loading from the Hub adds: the code is saved beside the config."""
    return {auto: name.rpartition("--")[2] if isinstance(name, str) else name for auto, name in auto_map.items()}


def check_labels(id2label: Any) -> None:
    """Refuses label maps that are not a name for each of some numbers.

    Raises:
        ValueError: Naming the entry.
    """
    if not isinstance(id2label, dict):
        raise ValueError(f"id2label is {id2label!r:.80}; expected a mapping from numbers to names.")
    check_range("len(id2label)", len(id2label), 1, MAX_LABELS)
    for number, name in id2label.items():
        if not _LABEL_NUMBER.fullmatch(str(number)):
            raise ValueError(f"id2label has {number!r:.80} for a number; expected 0 to num_labels - 1.")
        if not isinstance(name, str):
            raise ValueError(f"id2label names {number} {name!r:.80}; expected a text.")


def check_num_weights(num_weights: int, asking: str) -> None:
    """Refuses more than `MAX_WEIGHTS`; `asking` names the fields that ask for them."""
    if num_weights > MAX_WEIGHTS:
        raise ValueError(
            f"{asking} ask for at least {num_weights:,} weights; up to {MAX_WEIGHTS:,} are allowed. Use smaller ones."
        )


def check_normalisation(mean: Sequence[float], std: Sequence[float], num_channels: int) -> None:
    """Refuses means and standard deviations that do not fit the channels or cannot be divided by.

    Raises:
        ValueError: Naming the field.
    """
    for field, values, low in (("image_mean", mean, -10.0), ("image_std", std, 1e-3)):
        if len(values) != num_channels:
            raise ValueError(f"{field} has {len(values)} values; expected num_channels = {num_channels}.")
        for value in values:
            check_range(field, value, low, 10.0)


def check_backbone_name(field: str, name: str, *, extra_names: tuple[str, ...] = ()) -> None:
    """Refuses what is not the bare name of an architecture that timm knows.

    Weights always come from the checkpoint, so a name must not be able to reach the network or a folder:
    URLs, paths, `hf-hub:`, `local-dir:` and pretrained tags (`resnet18.a1_in1k`) are all refused.

    Args:
        field: the config's field, for the message.
        name: the name to check.
        extra_names: architectures allowed beside those of timm.

    Raises:
        ValueError: Naming the field and the nearest known names.
    """
    if name in extra_names:
        return
    if not _BACKBONE_NAME.fullmatch(name):
        raise ValueError(
            f"{field} is {name[:80]!r}; expected the bare name of a timm architecture such as 'resnet18' "
            "(no path, URL, hub prefix or pretrained tag)."
        )
    import timm  # here, because a configuration without a timm backbone does not need it

    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, [*timm.list_models(), *extra_names], n=3)
        raise ValueError(
            f"{field} is {name!r}, which timm {timm.__version__} does not know; "
            f"nearest: {', '.join(nearest) or 'none'}."
        )
