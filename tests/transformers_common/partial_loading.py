"""Lets common tests load checkpoints that are incomplete on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from hf_contour.weight_loading_contour import ContourPreTrainedModel


@contextmanager
def partial_loading() -> Iterator[None]:
    """Asks for the loading report in every `from_pretrained`, as who wants a partly random model must."""
    strict = ContourPreTrainedModel.__dict__["from_pretrained"].__func__

    def ask_for_report(cls: type, *args: Any, **kwargs: Any) -> Any:
        wants_report = kwargs.pop("output_loading_info", False)
        model, report = strict(cls, *args, output_loading_info=True, **kwargs)
        return (model, report) if wants_report else model

    with patch.object(ContourPreTrainedModel, "from_pretrained", classmethod(ask_for_report)):
        yield
