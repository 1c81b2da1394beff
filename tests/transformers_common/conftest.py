"""Runs Transformers' own common tests against the models and the image processor of this package.

    python scripts/experiments/fetch_transformers_tests.py && pytest -m transformers_common

They are collected only when the marker asks for them. A skip that `skips.py` does not explain is a failure.
"""

import importlib.metadata
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from skips import explain
from standins import install

FOLDER = Path(__file__).resolve().parents[2] / ".transformers_tests"
PACKAGE = "transformers_common_tests"
SKIPS = pytest.StashKey[Counter]()
MARKERS = (
    "accelerate_tests",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "generate",
    "torch_compile_test",
)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: a marker of Transformers' common tests")


def is_wanted(config: pytest.Config) -> bool:
    """Whether the marker expression asks for these tests."""
    expression = config.option.markexpr
    return not expression or "transformers_common" in expression.replace("not transformers_common", "")


def require_tests() -> None:
    """Makes the fetched tests importable.

    Raises:
        pytest.UsageError: If they are not there or of another version than the installed one.
    """
    installed = importlib.metadata.version("transformers")
    stamp = FOLDER / "VERSION"
    fetched = stamp.read_text().strip() if stamp.is_file() else "nothing"
    if fetched != installed:
        raise pytest.UsageError(
            f"{FOLDER} holds {fetched}; expected the common tests of transformers {installed}. "
            "Run: python scripts/experiments/fetch_transformers_tests.py"
        )
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
        install(PACKAGE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not is_wanted(config):
        return True
    require_tests()
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, Any, Any]:
    """Counts skips by explanation, and turns one without into a failure."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        explanation = explain(reason)
        if explanation is None:
            report.outcome = "failed"
            report.longrepr = f"skipped without an explanation in skips.py: {reason}"
        else:
            item.config.stash.setdefault(SKIPS, Counter())[explanation] += 1
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Lists why tests were skipped."""
    if SKIPS in config.stash:
        terminalreporter.section("skipped common tests, by reason")
        for explanation, count in config.stash[SKIPS].most_common():
            terminalreporter.write_line(f"{count:4d}  {explanation}")
