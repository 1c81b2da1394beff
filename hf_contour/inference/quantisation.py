"""An ONNX program in 8-bit integers, calibrated on images of the kind that it will see."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_contour.data.file_names import files_below
from hf_contour.image_processing_contour import ContourImageProcessor, ImageReadError
from hf_contour.inference.addresses import listed_suffixes, suffix_of
from hf_contour.inference.parts import Item
from hf_contour.inference.preparing import Preparation

MIN_CALIBRATION = 16  # images, below which ranges are a matter of chance
MIN_AGREEMENT = 0.98  # share of the calibration images that keep their label


def quantise(path: Path, processor: ContourImageProcessor, images: Sequence[str], *, at_most: int) -> int:
    """Replaces a float program by one of 8-bit integers; weights by channel, activations by their range.

    Args:
        path: of the program.
        processor: of the model.
        images: files and folders to calibrate on.
        at_most: so many images, evenly spread over those that are found.

    Returns:
        How many images it was calibrated on.

    Raises:
        ValueError: If fewer than `MIN_CALIBRATION` images can be read, or too many of them get another label.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    batches = list(_batches(processor, images, at_most))
    if len(batches) < MIN_CALIBRATION:
        raise ValueError(f"{len(batches)} images to calibrate on could be read; expected at least {MIN_CALIBRATION}.")

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.rest, None)

    floats = path.with_name("floats.onnx")
    path.rename(floats)
    quantize_static(
        floats,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,  # 7 bits of weights, as ONNX Runtime's guide asks for where there is no VNNI
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": False},
    )
    refuse_other_labels(_answers(floats, batches), _answers(path, batches))
    floats.unlink()
    return len(batches)


def _answers(path: Path, batches: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """What a program gives for each batch of one image: `(num_images, ...)`."""
    from onnxruntime import InferenceSession

    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, batch)[0] for batch in batches])


def refuse_other_labels(floats: np.ndarray, integers: np.ndarray) -> None:
    """Raises `ValueError` where 8-bit integers give another label than floats too often.

    Args:
        floats: `(num_images, num_labels)` logits of the float program; maps, which have no label, are not judged.
        integers: the same of the program in 8-bit integers.
    """
    if floats.ndim != 2:
        return
    same = int((floats.argmax(axis=1) == integers.argmax(axis=1)).sum())
    if same < MIN_AGREEMENT * len(floats):
        raise ValueError(
            f"in 8-bit integers {len(floats) - same} of {len(floats)} calibration images get another label; at most "
            f"{1 - MIN_AGREEMENT:.0%} may. Export without --calibration, which keeps floats."
        )


def _batches(processor: ContourImageProcessor, images: Sequence[str], at_most: int) -> Iterator[dict[str, np.ndarray]]:
    found: list[str] = []
    suffixes = listed_suffixes()
    for place in images:
        files = files_below(place, left_out=Counter()) if Path(place).is_dir() else [place]
        found += [file for file in files if suffix_of(file) in suffixes]
    preparation = Preparation(processor)
    num_chosen = min(at_most, len(found))
    for file in (found[place * len(found) // num_chosen] for place in range(num_chosen)):
        try:
            yield {"pixel_values": preparation.batch([preparation.image(Item(file, file))]).numpy()}
        except ImageReadError:
            continue  # fewer are calibrated on, which the folder says
