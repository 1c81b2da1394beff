"""The pipelines `image-classification` and `image-feature-extraction` that open images as training did."""

import base64
import binascii
import importlib
import re
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.utils import get_session
from PIL import Image
from torch.utils.data import Dataset
from transformers import ImageClassificationPipeline, ImageFeatureExtractionPipeline, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .image_opening_contour import ImageReadError, ImageSource

MODEL_TYPE = "contour_gender"
# An image as base64 text, of which shorter ones are taken for paths.
BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
SHORTEST_BASE64 = 64
ON_ERROR = ("raise", "report")
SOURCE_TYPES = (str, Path, bytes, bytearray, memoryview, Image.Image, np.ndarray, torch.Tensor)


class OpensImages(Pipeline):
    """A pipeline whose images go through the processor's own `open_image`.

    The standard pipelines open images themselves: 16-bit ones come out white, floating ones black, transparent
    pixels show whatever lies under them. With a processor that opens images (one that has `process_image`
    taking paths, known by its class's name, as a copy of it can come from a saved folder) the source is handed
    on as it is: a path, bytes, an http(s) or `data:` address, base64 text, an open file, a Pillow image, an array,
    a tensor, the `{"bytes", "path"}` of a data set's undecoded image, or `{"image": ...}` of one of these. With any
    other processor it behaves as its parent.
    """

    # Left at None, Transformers 5.23 looks for one in the folder, and asks the user to run the folder's code for it.
    _load_video_processor = False

    @property
    def _opens_images(self) -> bool:
        return type(self.image_processor).__name__ == "ContourImageProcessor"

    def preprocess(self, image: Any, timeout: float | None = None, **parameters: Any) -> Any:
        """Opens one image.

        Args:
            image: what `image_source` takes.
            timeout: of a download, in seconds; None waits as long as it takes.
            **parameters: of the processor.

        Returns:
            `pixel_values` of `(1, 3, H, W)`, in the model's type.

        Raises:
            ImageReadError: If it cannot be read.
        """
        if not self._opens_images:
            return super().preprocess(image, timeout=timeout, **parameters)
        source = image_source(image, timeout)
        try:
            return self.image_processor(images=source, return_tensors="pt", **parameters).to(self.dtype)
        except ValueError as error:
            name = _name_of(image)
            # By name: the processor, and with it its error, can be the copy of a saved folder.
            if name is None or type(error).__name__ != "ImageReadError":
                raise
            raise ImageReadError(f"{name}: {error}") from error


class ContourImageFeatureExtractionPipeline(OpensImages, ImageFeatureExtractionPipeline):
    """Embeddings of images; `pool=True` gives one vector an image, else the fused map is given."""


class ContourImageClassificationPipeline(OpensImages, ImageClassificationPipeline):
    """Image classification that opens images as training did.

    An image that cannot be read costs only itself. Of a list, a generator or a data set the others are
    classified, in order and in batches of any size, and in its place stands

        [{"label": None, "score": None, "error": "shirt.jpg: an HTML page; expected an image in one of ..."}]

    so `[result for result in results if "error" not in result[0]]` are the good ones. An image given alone
    raises `ImageReadError`. `on_error="raise"` or `on_error="report"`, given to `pipeline(...)` or to a call,
    chooses one of the two for both cases.

    `abstain=True`, given to `pipeline(...)` or to a call, leaves undecided what the model is not sure of: an image
    whose best score lies below the `abstain_threshold` of the model's config (`hf-contour calibrate` chooses it) gives

        [{"label": None, "score": 0.64}]

    with that best score, so that `result[0]["label"] is None` wherever there is no decision, and no result is empty.
    So does an image less familiar than the config's `familiarity_threshold`, if one is fitted;
    `return_familiarity=True` adds to each answer the `familiarity` of its image, in 0..1.
    """

    def check_model_type(self, supported_models: list[str] | dict[str, Any]) -> None:
        """Passes models of this package, which the parent's fixed list of names cannot hold."""
        if self.model.config.model_type != MODEL_TYPE:
            super().check_model_type(supported_models)

    def _sanitize_parameters(
        self,
        on_error: str | None = None,
        abstain: bool | None = None,
        return_familiarity: bool | None = None,
        **parameters: Any,
    ) -> Any:
        preprocess, forward, postprocess = super()._sanitize_parameters(**parameters)
        thresholds = [getattr(self.model.config, f"{name}_threshold", 0) for name in ("abstain", "familiarity")]
        if abstain and not any(thresholds):
            raise ValueError(
                "abstain came with a model whose config has no abstain_threshold above 0. Let `hf-contour calibrate` "
                "choose one, set model.config.abstain_threshold, or leave it out."
            )
        if abstain is not None:
            postprocess = {**postprocess, "abstain": abstain}
        if return_familiarity is not None:
            postprocess = {**postprocess, "return_familiarity": return_familiarity}
        if return_familiarity or (abstain and thresholds[1]):
            forward = {**forward, "output_familiarity": True}
        if on_error is None:
            return preprocess, forward, postprocess
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error is {on_error!r}; expected one of {', '.join(ON_ERROR)}.")
        if not self._opens_images:
            raise ValueError(
                f"on_error came with a {type(self.image_processor).__name__}; it needs a ContourImageProcessor. "
                "Leave it out, or give the pipeline image_processor=ContourImageProcessor(...)."
            )
        return {**preprocess, "on_error": on_error}, forward, postprocess

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        """Results of several images; bad ones are reported unless `on_error` says otherwise."""
        if self._opens_images:
            preprocess_params = {"on_error": "report", **preprocess_params}
            if isinstance(inputs, Sized) and preprocess_params["on_error"] == "report":
                inputs = _ReadableItems(inputs)
        return super().get_iterator(
            inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params
        )

    def preprocess(self, image: Any, timeout: float | None = None, on_error: str = "raise", **parameters: Any) -> Any:
        """Opens one image.

        Args:
            image: as in `OpensImages`.
            timeout: as in `OpensImages`.
            on_error: "report" hands an unreadable image on as no pixels and the reason.
            **parameters: of the processor.

        Returns:
            `pixel_values` of `(1, 3, H, W)`, in the model's type; with "report" also `error`, None or the reason.

        Raises:
            ImageReadError: With "raise", if it cannot be read.
        """
        try:
            inputs = super().preprocess(image, timeout=timeout, **parameters)
        except ValueError as error:
            if on_error == "raise" or type(error).__name__ != "ImageReadError":
                raise
            # Empty tensors of one dimension are passed over when images are put together (torch.cat).
            return {"pixel_values": torch.empty(0, dtype=self.dtype), "error": str(error)}
        return {"pixel_values": inputs["pixel_values"], "error": None} if on_error == "report" else inputs

    def _forward(self, model_inputs: Mapping[str, Any], output_familiarity: bool = False) -> Any:
        """Runs the images that could be read; rows of the others stay NaN and carry their `error`."""
        asked = {"output_familiarity": True} if output_familiarity else {}
        if "error" not in model_inputs:
            return self.model(**model_inputs, **asked)
        errors = model_inputs["error"]
        errors = errors if isinstance(errors, list) else [errors]  # one image alone is not put in a list
        good = [place for place, error in enumerate(errors) if error is None]
        found = self.model(pixel_values=model_inputs["pixel_values"], **asked) if good else {}
        rows = {"logits": torch.full((len(errors), self.model.config.num_labels), torch.nan)}
        if output_familiarity:
            rows["familiarity"] = torch.full((len(errors),), torch.nan)
        for name, values in rows.items():
            if good:
                values[good] = found[name].to(values)
        return {**rows, "error": errors}

    def postprocess(
        self,
        model_outputs: Mapping[str, Any],
        abstain: bool = False,
        return_familiarity: bool = False,
        **parameters: Any,
    ) -> list[dict[str, Any]]:
        """Labels with scores, best first; one entry without label for an image unread, or abstained from."""
        error = model_outputs.get("error")
        error = error[0] if isinstance(error, list) else error
        if error is not None:
            return [{"label": None, "score": None, "error": error}]
        results = super().postprocess(model_outputs, **parameters)
        familiarity = float(model_outputs["familiarity"][0]) if "familiarity" in model_outputs else None
        if abstain:
            # Whatever function_to_apply asks for, the threshold is one of probabilities.
            best = super().postprocess(model_outputs, top_k=1)[0]["score"]
            config = self.model.config
            is_strange = familiarity is not None and familiarity < config.familiarity_threshold
            if best < config.abstain_threshold or is_strange:
                results = [{"label": None, "score": best}]
        return [{**result, "familiarity": familiarity} for result in results] if return_familiarity else results


class _ReadableItems(Dataset[Any]):
    """A list or data set; an item that it cannot give (it decodes images itself) comes as an `ImageReadError`."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.items[index]
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return ImageReadError(f"item {index}: cannot be read ({error}); expected an image.")


def register_pipelines() -> None:
    """Puts the classes behind their tasks for models of this package; calling it again changes nothing.

    Other models keep exactly the class that the task had before. The registry's own `register_pipeline` would take
    it from them, drop the task's default model, warn, and make every saved pipeline carry this file.
    """
    for task, ours in (
        ("image-classification", ContourImageClassificationPipeline),
        ("image-feature-extraction", ContourImageFeatureExtractionPipeline),
    ):
        entry = PIPELINE_REGISTRY.supported_tasks[task]
        if not hasattr(entry["impl"], "chosen_by_model"):
            entry["impl"] = _by_model(entry["impl"], ours)


def _by_model(stock: Any, ours: type[Pipeline]) -> type[Pipeline]:
    """A class whose call makes one of `ours` for a model of this package, and of `stock` for any other."""
    if isinstance(stock, str):  # "module.Class", not imported yet
        module, _, name = stock.rpartition(".")
        stock = getattr(importlib.import_module(module), name)

    class ByModel(stock):
        chosen_by_model = True
        _load_video_processor = False  # as in `OpensImages`; a class of images has no use for one

        def __new__(cls, *inputs: Any, model: Any, **parameters: Any) -> Pipeline:
            is_ours = getattr(model.config, "model_type", None) == MODEL_TYPE
            return (ours if is_ours else stock)(*inputs, model=model, **parameters)

    return ByModel


def image_source(image: Any, timeout: float | None = None) -> ImageSource:
    """What the processor can open, of whatever came.

    Args:
        image: an `ImageSource`; an http(s) or `data:` address; an image as base64 text; an open file or `BytesIO`,
            read from where it stands; a mapping with `bytes` and `path`, or with `image`, which is any of these.
        timeout: of a download, in seconds; None waits as long as it takes.

    Raises:
        ImageReadError: If it is nothing of the kind, cannot be fetched, or is an error itself.
    """
    if isinstance(image, ImageReadError):
        raise image
    if isinstance(image, Mapping):
        return image_source(_of_mapping(image), timeout)
    if isinstance(image, str):
        return _of_text(image, timeout)
    if callable(getattr(image, "read", None)) and not isinstance(image, Image.Image):
        content = image.read()
        image = content if isinstance(content, bytes) else image  # refused below: a file opened for text
    if not isinstance(image, SOURCE_TYPES):
        raise ImageReadError(
            f"an image came as {type(image).__name__}; "
            "expected a path, an address, bytes, an open file, a Pillow image, an array or a tensor."
        )
    return image


def _of_mapping(image: Mapping[str, Any]) -> Any:
    if image.get("bytes") is not None:
        return image["bytes"]
    found = image.get("path") if image.get("path") is not None else image.get("image")
    if isinstance(found, Mapping) and "image" in found:  # no deeper, or one could go on for ever
        raise ImageReadError("an image came as a mapping within a mapping; expected bytes, path or image in it.")
    return found


def _of_text(text: str, timeout: float | None) -> str | bytes:
    if text.startswith(("http://", "https://")):
        return _download(text, timeout)
    if text.startswith("data:"):
        return _decode_base64(text.partition(",")[2], text[:100].partition(",")[0])
    if len(text) >= SHORTEST_BASE64 and BASE64.fullmatch(text) and not _is_path(text):
        return _decode_base64(text, f"{text[:40]}... ({len(text)} characters)")
    return text


def _is_path(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a name
        return False


def _name_of(image: Any) -> str | None:
    """What an error calls an image that is fetched or decoded before it is opened."""
    if isinstance(image, Mapping):
        image = _of_mapping(image)
    is_address = isinstance(image, str) and image.startswith(("http://", "https://", "data:"))
    return image[:100].partition(",")[0] if is_address else None


def _download(address: str, timeout: float | None) -> bytes:
    """Fetches the bytes of an image; `timeout` in seconds, None waits as long as it takes."""
    try:
        response = get_session().get(address, timeout=timeout, follow_redirects=True)
        response.raise_for_status()
    except Exception as error:  # the session's library is a choice of huggingface_hub, and so are its errors
        raise ImageReadError(f"{address}: cannot be downloaded ({error}); expected an image.") from error
    return response.content


def _decode_base64(text: str, name: str) -> bytes:
    """Bytes of base64 text, in which white space means nothing."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageReadError(f"{name}: its content is no base64 ({error}); expected an image.") from error


__all__ = [
    "ContourImageClassificationPipeline",
    "ContourImageFeatureExtractionPipeline",
    "image_source",
    "register_pipelines",
]
