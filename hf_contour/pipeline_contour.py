"""`pipeline("image-classification")` that opens pictures as training did."""

import base64
import binascii
from typing import Any

from huggingface_hub.utils import get_session
from transformers import ImageClassificationPipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .image_opening_contour import ImageReadError, ImageSource

TASK = "image-classification"


class ContourImageClassificationPipeline(ImageClassificationPipeline):
    """Image classification whose pictures go through the processor's own `open_image`.

    The standard pipeline opens pictures itself: 16-bit ones come out white, floating ones black, transparent
    pixels show whatever lies under them. With a processor that opens pictures (one that has `process_image`
    taking paths, known by its class's name, as a copy of it can come from a saved folder) the source is handed
    on as it is: a path, bytes, an http(s) address, a `data:` address, a Pillow picture, an array or a tensor.
    With any other processor it behaves as its parent.
    """

    def check_model_type(self, supported_models: list[str] | dict[str, Any]) -> None:
        """Passes models of this package, which the parent's fixed list of names cannot hold."""
        if self.model.config.model_type != "contour_gender":
            super().check_model_type(supported_models)

    def preprocess(self, image: ImageSource, timeout: float | None = None) -> Any:
        """Opens one picture.

        Returns:
            `pixel_values` of `(1, 3, H, W)`, in the model's type.

        Raises:
            ImageReadError: If it cannot be read; the message names it.
        """
        if type(self.image_processor).__name__ != "ContourImageProcessor":
            return super().preprocess(image, timeout=timeout)
        if isinstance(image, str) and image.startswith(("http://", "https://")):
            image = _download(image, timeout)
        elif isinstance(image, str) and image.startswith("data:"):
            image = _decode_data_address(image)
        return self.image_processor(images=image, return_tensors="pt").to(self.dtype)


def register_pipeline() -> None:
    """Puts the class behind `pipeline("image-classification")`; calling it again changes nothing.

    Only the class of the task is exchanged: the default model and the model classes stay. The registry's own
    `register_pipeline` would drop them, warn, and make every saved pipeline carry this file.
    """
    PIPELINE_REGISTRY.supported_tasks[TASK]["impl"] = ContourImageClassificationPipeline


def _download(address: str, timeout: float | None) -> bytes:
    """Fetches the bytes of a picture; `timeout` in seconds, None waits as long as it takes."""
    try:
        response = get_session().get(address, timeout=timeout, follow_redirects=True)
        response.raise_for_status()
    except Exception as error:  # the session's library is a choice of huggingface_hub, and so are its errors
        raise ImageReadError(f"{address}: cannot be downloaded ({error}); expected a picture.") from error
    return response.content


def _decode_data_address(address: str) -> bytes:
    head, _, content = address.partition(",")
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise ImageReadError(f"{head[:100]}: its content is no base64 ({error}); expected a picture.") from error


__all__ = ["ContourImageClassificationPipeline", "register_pipeline"]
