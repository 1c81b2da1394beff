"""Rows of a source turned into what a model trains on: read, augmented, recoloured, processed.

`ContourSamples` serves sources with a length; `SampleBuilder` makes a sample of any row, also of a stream. Each is
`{"pixel_values": (3, h, w) float32, "labels": ..., "index": int}`, with `labels`

- for the stage "contour": `(h, w)` float32, the share of the annotators that drew a contour, `IGNORE_LABEL` where the
  pixel lies outside the image, or no contour is drawn there but one lies within the `label_tolerance` of the row;
- for the stage "gender": the class as an integer, or, where a row has several, `(num_labels,)` float32 of 0 and 1;

and, with a colour transform, `"colour"`: four integers that `ColourAudit.from_codes` counts. A sample is a function of
(seed, epoch, row): workers, processes and restarts do not change a bit of it. So it is with `skip_bad_images`: the
next good row, counted on from the last to the first, stands in for one whose image cannot be read, with its draws.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import torch
from torch.nn.functional import max_pool2d
from torch.utils.data import Dataset

from hf_contour.data.annotations import consensus
from hf_contour.data.augmentation.colour import ColourTransform
from hf_contour.data.augmentation.recipe import Augmentation
from hf_contour.data.rows import DecodedRow, DrawnSample, RowDrawer, row_name
from hf_contour.image_processing_contour import ContourImageProcessor, ImageReadError
from hf_contour.loss_contour import IGNORE_LABEL

logger = logging.getLogger(__name__)

STAGES = ("contour", "gender")


class SampleBuilder:
    """Turns one row into one sample; of a source with a length or of a stream.

    Args:
        processor: makes `pixel_values`; for the stage "contour" images keep their size, since labels must fit them.
        stage: "contour" or "gender".
        features: of the source; says whether labels are single or multiple, and how many there are.
        drawing: further arguments of `RowDrawer`.
    """

    def __init__(
        self, processor: ContourImageProcessor, stage: str, features: datasets.Features | None, **drawing: Any
    ) -> None:
        if stage not in STAGES:
            raise ValueError(f"stage is {stage!r}; it must be one of {', '.join(STAGES)}.")
        needed = "contours" if stage == "contour" else "label"
        if features is not None and needed not in features:
            raise ValueError(
                f"The source has the columns {', '.join(features)}; the stage {stage!r} needs {needed!r}. "
                "Name the column that holds it when loading the source."
            )
        self.processor, self.stage = processor, stage
        # Opened as the processor would open them: the same file gives the same tensor in training and in use.
        reading = processor.opening_whole if stage == "contour" else processor.opening
        self.drawer = RowDrawer(read_contours=stage == "contour", reading=reading, **drawing)
        self.num_labels, self.is_multi_label = _count_labels(features) if stage == "gender" else (None, False)

    def decode(self, row: Mapping[str, Any], index: int) -> DecodedRow:
        """Read a row and check that it has what the stage needs.

        Raises:
            ImageReadError: If the image cannot be read; names row and file.
            ValueError: If the row has no contours, or cannot be read otherwise.
        """
        decoded = self.drawer.decode(row, index)
        if self.stage == "contour" and decoded.masks is None:
            name = row_name(row, index)
            raise ValueError(f"{name} has no contours; leave the row out, or draw at least one map (it may be empty).")
        return decoded

    def build(self, decoded: DecodedRow, index: int, *, epoch: int) -> dict[str, Any]:
        """The tensors of a row."""
        drawn = self.drawer.draw(decoded, index, epoch=epoch)
        keep_size = {"do_resize": False, "do_pad": False} if self.stage == "contour" else {}
        pixel_values = self.processor(drawn.image, return_tensors="pt", **keep_size)["pixel_values"][0]
        labels = _contour_labels(drawn) if self.stage == "contour" else self.class_labels(drawn.label, index)
        sample = {"pixel_values": pixel_values, "labels": labels, "index": index}
        if self.drawer.colour is not None:
            sample["colour"] = torch.tensor(drawn.colour.to_codes())
        return sample

    def class_labels(self, label: int | list[int] | None, index: int) -> int | torch.Tensor:
        """What a row's label becomes in a sample of the stage "gender".

        Raises:
            ValueError: If it is missing or not one of the classes; names the row.
        """
        if label is None:
            raise ValueError(f"row {index} has no label; give it one or leave the row out.")
        numbers = label if isinstance(label, list) else [label]
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
            raise ValueError(f"row {index} has the label {label!r}; expected a class number, or a list of them.")
        if not all(0 <= number < (self.num_labels or number + 1) for number in numbers):
            most = "" if self.num_labels is None else f" to {self.num_labels - 1}"
            raise ValueError(f"row {index} has the label {label}; labels must lie in 0{most}.")
        if not self.is_multi_label and len(numbers) != 1:
            raise ValueError(f"row {index} has the labels {label}; the column holds one label a row.")
        if not self.is_multi_label:
            return numbers[0]
        assert self.num_labels is not None  # lists are known to be lists of ClassLabel
        labels = torch.zeros(self.num_labels)
        labels[torch.as_tensor(numbers, dtype=torch.long)] = 1.0
        return labels


class SharedEpoch:
    """The number of an epoch, in memory that worker processes share, so that kept workers see it change."""

    def __init__(self) -> None:
        self._number = torch.zeros((), dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._number.share_memory_()  # a pickled or copied tensor is not shared; nothing happens to one that is

    @property
    def value(self) -> int:
        """The number."""
        return int(self._number)

    @value.setter
    def value(self, epoch: int) -> None:
        self._number.fill_(epoch)


class BadRows:
    """Marks on the rows whose images cannot be read, in memory that worker processes share.

    Args:
        num_rows: of the source.
    """

    def __init__(self, num_rows: int) -> None:
        self._marks = torch.zeros(num_rows, dtype=torch.bool).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._marks.share_memory_()

    def __contains__(self, index: int) -> bool:
        return bool(self._marks[index])

    def __len__(self) -> int:
        return int(self._marks.sum())

    def __iter__(self) -> Iterator[int]:
        return iter(self._marks.nonzero().flatten().tolist())

    def add(self, index: int, reason: object) -> None:
        """Mark a row; said in the log when it is new."""
        if index not in self:
            logger.warning("%s; the row is left out of training.", str(reason).rstrip("."))
        self._marks[index] = True


class ContourSamples(Dataset[dict[str, Any]]):
    """Samples of a source with a length.

    Args:
        source: rows with the standard columns, as `load_source` gives them.
        processor: makes `pixel_values`.
        stage: "contour" or "gender".
        augmentation: applied to image and contours, or None.
        colour: applied to the augmented image, or None.
        seed: of every random choice.
        cache: read the whole source now and keep it decoded in memory (BSDS500: 0.6 MB an image).
        skip_bad_images: let the next good row take the place of one whose image cannot be read.

    Raises:
        ValueError: If the source lacks a column that the stage needs.
        ImageReadError: With a cache, if an image cannot be read and is not to be skipped.
    """

    def __init__(
        self,
        source: datasets.Dataset,
        processor: ContourImageProcessor,
        *,
        stage: str,
        augmentation: Augmentation | None = None,
        colour: ColourTransform | None = None,
        seed: int = 0,
        cache: bool = False,
        skip_bad_images: bool = False,
    ) -> None:
        self.source = source
        drawing = {"num_samples": len(source), "augmentation": augmentation, "colour": colour, "seed": seed}
        self.builder = SampleBuilder(processor, stage, source.features, **drawing)
        self._epoch = SharedEpoch()
        self._bad_rows = BadRows(len(source)) if skip_bad_images else None
        self._cached: list[DecodedRow | None] | None = None
        if cache:
            self._cached = [self._decode(row, index) for index, row in enumerate(source)]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def epoch(self) -> int:
        """Number of the pass over the data, from which augmentation and colours are drawn."""
        return self._epoch.value

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; workers that are kept between epochs see it too."""
        self._epoch.value = epoch

    def decoded(self, index: int) -> DecodedRow:
        """The row as read, from memory if it is kept there, or the one that takes its place.

        Raises:
            ImageReadError: If its image cannot be read and is not to be skipped, or if no row's can.
        """
        for step in range(len(self)):
            place = (index + step) % len(self)
            if self._bad_rows is not None and place in self._bad_rows:
                continue
            cached = self._cached[place] if self._cached is not None else None
            decoded = cached if cached is not None else self._decode(self.source[place], place)
            if decoded is not None:
                return decoded
        first = next(iter(self.bad_images().values()), "the source is empty")
        raise ImageReadError(f"none of the {len(self)} rows has an image that can be read; the first: {first}")

    def bad_images(self) -> dict[str, str]:
        """Rows that were left out so far, by this process and its workers: name and reason, in their order."""
        found = {}
        for index in self._bad_rows or ():
            row = self.source[index]
            try:
                self.builder.decode(row, index)
            except ImageReadError as error:
                found[row_name(row, index)] = str(error)
        return found

    def drawn(self, index: int) -> DrawnSample:
        """The sample before the processor, for looking at and for writing it out."""
        return self.builder.drawer.draw(self.decoded(index), index, epoch=self.epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.builder.build(self.decoded(index), index, epoch=self.epoch)

    def _decode(self, row: Mapping[str, Any], index: int) -> DecodedRow | None:
        """A row as read, None where its image cannot be and is to be skipped."""
        try:
            return self.builder.decode(row, index)
        except ImageReadError as error:
            if self._bad_rows is None:
                raise
            self._bad_rows.add(index, error)
            return None


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack what all samples have.

    Returns:
        "pixel_values" `(B, 3, h, w)`, "index" `(B,)`, "colour" `(B, 4)` if samples have it, and "labels": `(B, h, w)`
        for the stage "contour", for "gender" `(B,)` int64 or `(B, num_labels)` float32.

    Raises:
        ValueError: If the images differ in size.
    """
    sizes = {tuple(sample["pixel_values"].shape[1:]) for sample in samples if "pixel_values" in sample}
    if len(sizes) > 1:
        listed = ", ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise ValueError(
            f"One batch holds images of {listed} (height x width). Set crop_size in the augmentation recipe so that "
            "all have one size, or use batch size 1."
        )
    return {name: torch.stack([torch.as_tensor(sample[name]) for sample in samples]) for name in samples[0]}


def _contour_labels(drawn: DrawnSample) -> torch.Tensor:
    assert drawn.annotations is not None  # decode refuses rows without contours
    labels = torch.from_numpy(consensus(drawn.annotations))
    if drawn.label_tolerance:
        reach = drawn.label_tolerance
        near = max_pool2d(labels[None], 2 * reach + 1, stride=1, padding=reach)[0] > 0
        labels[near & (labels == 0)] = IGNORE_LABEL
    if drawn.valid is not None:
        labels[torch.from_numpy(~drawn.valid)] = IGNORE_LABEL
    return labels


def _count_labels(features: datasets.Features | None) -> tuple[int | None, bool]:
    """Number of classes, None where the source does not say, and whether a row has a list of them."""
    column = features["label"] if features is not None else None
    inner = getattr(column, "feature", None)
    if inner is not None and not isinstance(inner, datasets.ClassLabel):
        raise ValueError(f"The column 'label' holds lists of {inner}; lists of ClassLabel are needed.")
    return getattr(inner or column, "num_classes", None), inner is not None
