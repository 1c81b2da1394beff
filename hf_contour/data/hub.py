"""The Hub when it cannot be reached: the cache serves, and what is not in it is named at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets.config
from huggingface_hub import constants
from huggingface_hub.utils import get_session

from hf_contour.data.problems import SourceError

PATIENCE = 1.5  # seconds for a connection


def hub_is_reachable() -> bool:
    """Whether the Hub answers one question; retrying, as its client does, takes 23 s to find out that it does not."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:  # the session's library is a choice of huggingface_hub, and so are its errors
        return "ReadTimeout" in type(error).__name__  # it is there, and slow
    return True


@contextmanager
def telling_nobody() -> Iterator[None]:
    """Keeps `datasets` from having a server count that files of this disk are read: 3 s without a network.

    Raises:
        SourceError: If the cache of `datasets` cannot be written; names it and HF_HOME.
    """
    before = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    except OSError as error:
        if not str(error.filename or "").startswith(_cache_roots()):
            raise
        raise SourceError(
            "cache_not_writable",
            f"the cache of data sets cannot be written ({error}). Name a folder that can be with the environment "
            "variable HF_HOME.",
        ) from error
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = before


def _cache_roots() -> tuple[str, ...]:
    return str(datasets.config.HF_DATASETS_CACHE), str(constants.HF_HOME)


@contextmanager
def hub_or_cache(source: str | Path) -> Iterator[None]:
    """Looks for a data set on the Hub, or in the cache alone where the Hub cannot be reached.

    Raises:
        FileNotFoundError: If it cannot be reached, and the cache does not hold the data set; names it.
    """
    reachable = hub_is_reachable()
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not reachable:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    except ConnectionError as error:
        raise FileNotFoundError(
            f"{source} is neither a path here nor in the cache, and the Hub cannot be reached ({error}). Check the "
            "network and HF_HUB_OFFLINE, or give a folder."
        ) from error
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
