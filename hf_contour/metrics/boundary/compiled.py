"""Loops that are compiled to machine code where Numba is installed, and say how to install it where not."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

numba: Any
try:
    import numba
except ImportError:
    numba = None

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function on its first call, and keep the result on the disk for the next process.

    The compiled function releases the global interpreter lock. Without Numba a call raises `ImportError`; importing
    the module that uses this does not.
    """
    if numba is None:
        return _refusing(function)
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder that it can write its results to
        return numba.njit(nogil=True)(function)


def require_numba() -> None:
    """Raise `ImportError` where Numba is missing: for what would otherwise notice it only after long work."""
    if numba is None:
        raise ImportError('The boundary benchmark needs Numba: pip install "hf_contour[boundary]".')


def _refusing(function: Function) -> Any:
    @wraps(function)
    def refuse(*arguments: Any) -> None:
        require_numba()

    return refuse
