"""The image processor: the one door for images, and the way back from edge maps to images.

Shapes: B images, C channels, H x W pixels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import group_images_by_shape, reorder_images
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs

from .edge_thinning_contour import suppress_non_maxima
from .image_arrays_contour import DEFAULT_MAX_PIXELS, WHITE, read_array
from .image_opening_contour import ImageReadError, ImageSource, check_background_color, open_image
from .placement_contour import Placement, place_image

MAX_SIDE = 16384
RESAMPLE_CHOICES = (PILImageResampling.NEAREST, PILImageResampling.BILINEAR, PILImageResampling.BICUBIC)


class ContourImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]  # seen as Any
    """What `ContourImageProcessor` takes besides the usual fields.

    Args:
        background_color: three values in 0..255; shown through transparent pixels and in the padding.
        max_pixels: largest height times width of an image; larger ones are refused before decoding.
        reduced_decoding: whether JPEG files are decoded at a half, a quarter or an eighth of their size where that
            divides both sides, is still no smaller than `size`, and `do_resize` is set: faster, and nearly the same
            tensor.
    """

    background_color: list[int] | tuple[int, ...] | None
    max_pixels: int | None
    reduced_decoding: bool | None


class ContourImageProcessor(TorchvisionBackend):
    """Turns images of any kind into `pixel_values`, and edge logits back into maps of the images.

    Every image goes through `open_image` (its docstring has the rule for each mode): paths, bytes, Pillow
    images, arrays, tensors, and lists of these; 4-dimensional arrays and tensors are batches. The same
    image gives the same tensor, alone or in a batch, to the bit.

    Then, each if its flag is set: `do_resize` and `do_pad` bring it to `size` (see `place_image`), with
    antialiasing, and with `background_color` in the padding; `do_rescale` multiplies by `rescale_factor`;
    `do_normalize` subtracts `image_mean` and divides by `image_std`. With `do_resize` alone the image is
    stretched to `size`; with `do_pad` alone larger images are refused; with neither, the images of a batch
    must be of one size. A call with `do_resize=False` to a processor that resizes does not pad either, unless it
    says `do_pad=True`. With `do_rescale=False` arrays and tensors of floats in 0..1 keep their values, as they are
    rescaled already; the values of every other input are then 0..255.

    `do_convert_rgb=False` leaves arrays, tensors and Pillow images in their own channels and type, as other
    processors do; the padding is then 0 unless they are 8-bit with three channels.

    A field that it cannot honour (`do_center_crop`, `crop_size`, `pad_size`, a `size` without height and width) is
    refused with a `ValueError`, as are impossible values.
    """

    valid_kwargs = ContourImageProcessorKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012 - the type that the base class declares
    resample = PILImageResampling.BICUBIC
    size = {"height": 224, "width": 224}  # noqa: RUF012
    default_to_square = True
    do_convert_rgb = True
    do_resize = True
    do_pad = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = [0.5, 0.5, 0.5]  # noqa: RUF012
    image_std = [0.5, 0.5, 0.5]  # noqa: RUF012
    background_color = list(WHITE)  # noqa: RUF012
    max_pixels = DEFAULT_MAX_PIXELS
    reduced_decoding = False

    @property
    def opening(self) -> dict[str, Any]:
        """The arguments with which `open_image` opens an image as this processor does, wherever it is opened."""
        names = ("background_color", "max_pixels", "reduced_decoding", "do_resize", "size")
        return opening_arguments({name: getattr(self, name) for name in names})

    @property
    def opening_whole(self) -> dict[str, Any]:
        """As `opening`, for images that keep their size."""
        return {name: value for name, value in self.opening.items() if name != "least_size"}

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        """Checks what came, from a config or a call, then lets the base class bring it to its own types."""
        _check_fields(kwargs)
        if kwargs.get("background_color") is not None:
            kwargs["background_color"] = [int(value) for value in kwargs["background_color"]]
        return super()._standardize_kwargs(**kwargs)

    # The base class binds this older name to its own version.
    _further_process_kwargs = _standardize_kwargs

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """Processes images; padding belongs to resizing, and goes with it unless it is asked for."""
        if self.do_resize and kwargs.get("do_resize") is False:
            kwargs.setdefault("do_pad", False)
        return super().preprocess(images, *args, **kwargs)

    def with_settings(self, **kwargs: Any) -> Callable[[ImageSource], Tensor]:
        """A function of one image to its `(C, H, W)`, to the bit what a call with these arguments gives.

        Settings are checked once, which takes longer than preparing a small image does.
        """
        names = self._valid_kwargs_names
        settings = self._standardize_kwargs(**{**{name: getattr(self, name, None) for name in names}, **kwargs})
        self._validate_preprocess_kwargs(**settings)

        def prepare(image: ImageSource) -> Tensor:
            return self._preprocess([self.process_image(image, **settings)], **settings)["pixel_values"][0]

        return prepare

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """Flattens lists and 4-dimensional arrays into a list of single images, not opened yet."""
        if isinstance(images, list | tuple):
            return [prepared for entry in images for prepared in self._prepare_images_structure(entry)]
        if isinstance(images, np.ndarray | Tensor) and images.ndim == expected_ndims + 1:
            return list(images)
        return [images]

    def process_image(
        self,
        image: ImageSource,
        do_convert_rgb: bool | None = None,
        input_data_format: str | None = None,
        device: torch.device | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Opens one image.

        Returns:
            `(3, H, W)`, `uint8`, or float32 where floats in 0..1 are kept; with `do_convert_rgb=False` an array's own
            channels and type.
        """
        doors = opening_arguments(kwargs)
        least_size = doors.pop("least_size", None)
        is_array = isinstance(image, np.ndarray | Tensor)
        if not do_convert_rgb:
            image = (
                image
                if is_array or isinstance(image, Image.Image)
                else open_image(image, least_size=least_size, **doors)
            )
            return super().process_image(
                image, do_convert_rgb=False, input_data_format=input_data_format, device=device, **kwargs
            )
        if is_array:
            keep_unit = kwargs.get("do_rescale") is False
            pixels = read_array(image, input_data_format=input_data_format, keep_unit=keep_unit, **doors)
        else:
            pixels = np.asarray(open_image(image, least_size=least_size, **doors))
        if not pixels.flags.writeable or min(pixels.strides) < 0:  # neither can back a tensor
            pixels = pixels.copy()
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)  # not contiguous: resizing is faster so, and equal
        return tensor if device is None else tensor.to(device)

    def _place(
        self, height: int, width: int, size: SizeDict, do_resize: bool | None, do_pad: bool | None
    ) -> Placement:
        canvas = (size.height, size.width)
        return place_image(height, width, canvas, do_resize=bool(do_resize), do_pad=bool(do_pad))

    def _preprocess(
        self,
        images: list[Tensor],
        *,
        do_resize: bool | None,
        size: SizeDict,
        resample: Any,
        do_pad: bool | None,
        background_color: Sequence[int],
        do_rescale: bool | None,
        rescale_factor: float,
        do_normalize: bool | None,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        do_convert_rgb: bool | None = None,
        disable_grouping: bool | None = None,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """`(C, H, W)` each to `pixel_values` of `(B, C, size)`; equal sizes are treated together on a GPU."""
        groups, positions = group_images_by_shape(images, disable_grouping=disable_grouping)
        for key, stacked in groups.items():
            placement = self._place(stacked.shape[-2], stacked.shape[-1], size, do_resize, do_pad)
            if stacked.shape[-2:] != (placement.height, placement.width):
                target = SizeDict(height=placement.height, width=placement.width)
                stacked = self._resize(stacked, target, resample)
            in_unit = bool(do_convert_rgb) and stacked.is_floating_point()  # kept by `read_array`
            stacked = _lay_on_canvas(stacked, placement, background_color, background_in_unit=in_unit)
            groups[key] = self.rescale_and_normalize(
                stacked.contiguous(), do_rescale, rescale_factor, do_normalize, image_mean, image_std
            )
        pixel_values = reorder_images(groups, positions)
        if return_tensors is not None:
            _check_one_shape(pixel_values)
        return BatchFeature(data={"pixel_values": pixel_values}, tensor_type=return_tensors)

    def _resize(self, stacked: Tensor, size: SizeDict, resample: Any) -> Tensor:
        """`resize`, also where a side is 1: PyTorch takes such maps for ones of another memory layout."""
        stacked = stacked.repeat_interleave(2, dim=-2) if stacked.shape[-2] == 1 else stacked
        stacked = stacked.repeat_interleave(2, dim=-1) if stacked.shape[-1] == 1 else stacked
        if size.width > 1:
            return self.resize(stacked, size, resample=resample)
        if size.height == 1:
            return self.resize(stacked.contiguous(memory_format=torch.channels_last), size, resample=resample)
        return self.resize(stacked.mT, SizeDict(height=1, width=size.height), resample=resample).mT

    def post_process_contours(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | Tensor | None = None,
        threshold: float | None = None,
        *,
        thin: bool = False,
    ) -> list[Tensor]:
        """Turns edge logits into maps of the original images.

        The padding and the resizing that this processor's own settings made of an image of the target size are
        undone (bilinear, with antialiasing); images processed with other settings in the call are not known here.

        Args:
            outputs: a model's output with `logits`, or the logits: `(B, 1, H, W)`, of the size of `pixel_values`.
            target_sizes: B pairs (height, width) of the original, upright images; without them the maps stay
                as they are, padding included.
            threshold: in 0..1; pixels of at least this probability are edges.
            thin: leave only the crests of edges, by `suppress_non_maxima`.

        Returns:
            B maps of `(height, width)`: `edge_probs`, float32 in 0..1, or with a threshold `edge_map`, boolean.

        Raises:
            ValueError: If shapes do not fit one another or the threshold is out of range.
        """
        logits = outputs if isinstance(outputs, Tensor) else outputs.logits
        if logits.ndim != 4 or logits.shape[1] != 1:
            raise ValueError(f"logits are {tuple(logits.shape)}; expected (batch, 1, height, width).")
        if target_sizes is not None and len(target_sizes) != len(logits):
            raise ValueError(
                f"target_sizes has {len(target_sizes)} entries for {len(logits)} maps; expected one each."
            )
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; expected a probability in 0..1.")
        edge_probs = logits.detach().float().sigmoid()
        maps = list(edge_probs[:, 0])
        if target_sizes is not None:
            sizes = _check_target_sizes(target_sizes, len(maps))
            maps = [self._restore(probs, height, width) for probs, (height, width) in zip(maps, sizes, strict=True)]
        if thin:
            maps = [suppress_non_maxima(probs) for probs in maps]
        return maps if threshold is None else [probs >= threshold for probs in maps]

    def _restore(self, edge_probs: Tensor, height: int, width: int) -> Tensor:
        """`(H, W)` on the canvas to `(height, width)` of the original image."""
        placement = self._place(height, width, self.size, self.do_resize, self.do_pad)
        canvas = (placement.canvas_height, placement.canvas_width)
        if tuple(edge_probs.shape) != canvas:
            raise ValueError(
                f"logits are {tuple(edge_probs.shape)} for an image of {height}x{width}, which this processor brings "
                f"to {canvas}. Give the logits of its own pixel_values, or make the processor with their size."
            )
        cropped = placement.crop(edge_probs)[None]
        return tvf.resize(cropped, [height, width], antialias=True)[0].clamp(0, 1)


def opening_arguments(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `open_image` from a processor's fields; those that are not set are left to its defaults."""
    arguments = {
        name: tuple(fields[name]) if name == "background_color" else fields[name]
        for name in ("background_color", "max_pixels")
        if fields.get(name) is not None
    }
    if fields.get("reduced_decoding") and fields.get("do_resize"):
        arguments["least_size"] = (fields["size"]["height"], fields["size"]["width"])
    return arguments


def _check_fields(fields: dict[str, Any]) -> None:
    """Refuses impossible values of a processor's fields; None is not set."""
    for name in ("do_center_crop", "crop_size", "pad_size"):
        if fields.get(name):
            raise ValueError(f"{name} is {fields[name]!r}, which is not done here; use size, do_resize and do_pad.")
    if fields.get("size") is not None:
        _check_size(fields["size"])
    if fields.get("reduced_decoding") not in (None, False, True):
        raise ValueError(f"reduced_decoding is {fields['reduced_decoding']!r}; expected true or false.")
    if fields.get("background_color") is not None:
        check_background_color(fields["background_color"])
    max_pixels = fields.get("max_pixels")
    if max_pixels is not None and not (_is_whole(max_pixels) and max_pixels >= 1):
        raise ValueError(f"max_pixels is {max_pixels!r}; expected a whole number of at least 1.")
    if fields.get("resample") not in (None, *RESAMPLE_CHOICES):
        raise ValueError(f"resample is {fields['resample']!r}; expected 0 (nearest), 2 (bilinear) or 3 (bicubic).")
    for name in ("rescale_factor", "image_std", "image_mean"):
        value = fields.get(name)
        numbers = value if isinstance(value, list | tuple) else () if value is None else (value,)
        if not all(_is_number(number) and (name == "image_mean" or number > 0) for number in numbers):
            raise ValueError(
                f"{name} is {value!r}; expected finite numbers{'' if name == 'image_mean' else ' above 0'}."
            )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_size(size: Any) -> None:
    expected = f"expected height and width, whole numbers in 1..{MAX_SIDE}"
    if _is_whole(size):
        sides: Sequence[Any] = (size, size)
    elif isinstance(size, dict | SizeDict):
        fields = dict(size)
        if set(fields) != {"height", "width"}:
            raise ValueError(f"size is {fields}; {expected}. Other ways of sizing are not done here.")
        sides = (fields["height"], fields["width"])
    else:
        sides = size if isinstance(size, list | tuple) else ()
    if len(sides) != 2 or not all(_is_whole(side) and 1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"size is {size!r}; {expected}.")


def _check_target_sizes(target_sizes: Sequence[tuple[int, int]] | Tensor, count: int) -> list[tuple[int, int]]:
    sizes = [(int(height), int(width)) for height, width in target_sizes]
    if len(sizes) != count:
        raise ValueError(f"target_sizes has {len(sizes)} entries for {count} maps; expected one each.")
    for height, width in sizes:
        if height < 1 or width < 1:
            raise ValueError(f"target_sizes has {height}x{width}; expected the height and width of an image.")
    return sizes


def _lay_on_canvas(
    stacked: Tensor, placement: Placement, background_color: Sequence[int], *, background_in_unit: bool
) -> Tensor:
    """`(B, C, height, width)` to `(B, C, canvas_height, canvas_width)`; the background of floats in 0..1 as such."""
    batch_size, channels, height, width = stacked.shape
    if (height, width) == (placement.canvas_height, placement.canvas_width):
        return stacked
    canvas = stacked.new_zeros((batch_size, channels, placement.canvas_height, placement.canvas_width))
    if channels == 3 and stacked.dtype == torch.uint8:
        canvas += torch.tensor(background_color, dtype=torch.uint8, device=stacked.device)[:, None, None]
    elif channels == 3 and background_in_unit:
        canvas += stacked.new_tensor(background_color)[:, None, None] / 255
    placement.crop(canvas).copy_(stacked)
    return canvas


def _check_one_shape(pixel_values: Sequence[Tensor]) -> None:
    shapes = sorted({tuple(image.shape) for image in pixel_values})
    if len(shapes) > 1:
        raise ValueError(
            f"images of {len(shapes)} shapes, such as {shapes[0]} and {shapes[1]}, cannot form one batch. Set "
            "do_resize=True (and do_pad=True to keep their proportions), or process them one by one."
        )


ContourImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["ContourImageProcessor", "ImageReadError", "open_image", "place_image"]
