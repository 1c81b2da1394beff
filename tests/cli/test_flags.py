"""Flags made from a dataclass."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from hf_contour.flags import FlagParser


@dataclass
class Settings:
    path: str = field(metadata={"positional": True})
    batch_size: int = 4
    rate: float | None = 0.5
    names: list[str] | None = None
    model: dict[str, Any] | str | None = None
    kind: Literal["a", "b"] = "a"
    cpu: bool = False
    progress: bool = True


def parse(*words: str) -> Settings:
    return FlagParser(Settings, prog="try").parse_settings(words)


def test_every_type_is_read() -> None:
    words = ["p", "--batch-size", "7", "--rate", "1e-3", "--names", "x", "y", "--kind=b", "--model", '{"a": 1}']
    found = parse(*words, "--cpu", "--no-progress")
    assert found == Settings("p", 7, 1e-3, ["x", "y"], '{"a": 1}', "b", cpu=True, progress=False)


def test_none_and_truths_are_words() -> None:
    found = parse(
        "--cpu", "true", "--progress", "false", "--rate", "none", "--names", "none", "--batch_size", "1", "p"
    )
    assert found == Settings("p", 1, None, None, cpu=True, progress=False)
    assert parse("--cpu", "p").path == "p"
    assert parse("p", "--cpu=no") == Settings("p")


def test_only_what_was_given_can_be_asked_for() -> None:
    parser = FlagParser(Settings, prog="try")
    parser.add_argument("--recipe")
    assert parser.parse_given(["p", "--no_cpu", "--recipe", "r"]) == {"path": "p", "cpu": False, "recipe": "r"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "path"),
        (["p", "q"], "'q' is one word too many"),
        (["p", "--batch", "3"], "'--batch' is no setting; nearest: batch_size"),
        (["p", "--batch_size", "x"], "'x' came; expected a whole number"),
        (["p", "--kind", "c"], "invalid choice: 'c'"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(*words)
