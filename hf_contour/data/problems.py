"""What is wrong with a source as a whole: said at once when it is loaded, collected when it is checked."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)


class SourceError(ValueError):
    """A source that cannot be understood for certain.

    Args:
        kind: a word for the kind of problem, as the check before training lists it.
        message: what came, what was expected and what to do.
        files: the files or folders that it is about.
    """

    def __init__(self, kind: str, message: str, files: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.kind, self.files = kind, tuple(files)


@dataclass(frozen=True)
class Problem:
    """Something wrong or odd with a source.

    Attributes:
        kind: a word for it; see `checks.SEVERITIES`.
        message: what came, what was expected and what to do.
        files: the files or folders that it is about.
        is_error: whether the source is refused.
    """

    kind: str
    message: str
    files: tuple[str, ...] = ()
    is_error: bool = True


def report_problems(problems: Sequence[Problem]) -> None:
    """Write warnings to the log.

    Raises:
        SourceError: At the first problem that is an error.
    """
    for problem in problems:
        if problem.is_error:
            raise SourceError(problem.kind, problem.message, problem.files)
        logger.warning("%s", problem.message)


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names and how many there are more: `a, b, c and 4 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"
