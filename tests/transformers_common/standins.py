"""Stands in for what Transformers' common tests import and its source distribution leaves out.

The distribution holds `tests/test_*.py` and no subfolder. Nothing of Transformers is copied here: the mixins are
empty (this repo exports models in `tests/test_export.py`, and they generate no text), and the rest is our own.
"""

import sys
from types import ModuleType
from typing import Any


class ExportTesterMixin:
    """No tests of its own; see `tests/test_export.py`."""


class GenerationTesterMixin:
    """No model here generates text, so no tester inherits from it."""


# Fields of every configuration, each with a value that is not its default.
CONFIG_COMMON_KWARGS: dict[str, Any] = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["SomeModel"],
    "id2label": {0: "label"},
    "label2id": {"label": 0},
    "problem_type": "multi_label_classification",
}


def url_to_local_path(url: str) -> str:
    """Refuses to fetch an image: these tests run without a network."""
    raise AssertionError(f"A common test wants {url}; give it an image made in the test instead.")


def install(package: str) -> None:
    """Puts the stand-ins where the files of the package `package` import them from."""
    contents = {
        f"{package}.exporters": {},
        f"{package}.exporters.test_export": {"ExportTesterMixin": ExportTesterMixin},
        f"{package}.generation": {},
        f"{package}.generation.test_utils": {"GenerationTesterMixin": GenerationTesterMixin},
        f"{package}.utils": {},
        f"{package}.utils.test_configuration_utils": {"config_common_kwargs": CONFIG_COMMON_KWARGS},
        "fetch_hub_objects_for_ci": {"url_to_local_path": url_to_local_path},
    }
    for name, attributes in contents.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        sys.modules.setdefault(name, module)
