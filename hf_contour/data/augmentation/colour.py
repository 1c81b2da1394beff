"""The colour information transform: a few images of a set get other colours, so that a model does not lean on them.

Two ways, alone or together: exchanging the colour channels, and changing the values of one channel. Both are bounded
over the whole set, not by a probability per image: `ColourTransform.plan` draws from (seed, epoch) exactly which
images of an epoch are changed, so that every worker and process knows the same plan without speaking to the others.

Source: CN113298092B, the optional part of step S2 and module M307 (method rows 37 to 40).
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import permutations
from typing import Any

import numpy as np
from PIL import Image

from hf_contour.data.augmentation.recipe import sample_rng

STREAM_WINDOW = 10  # in a stream, N images are chosen among its first 10 * N
_EXCHANGES = tuple(permutations(range(3)))[1:]  # all orders of the channels but the first, red, green, blue
_PER_MILLE = 1000


@dataclass(frozen=True)
class ColourChange:
    """What was done to one image.

    Attributes:
        exchanged: its channels were exchanged.
        shifted: one channel's values were changed.
        refused: it was chosen for an exchange, which would have gone over `max_difference`.
        difference: mean absolute change over all values, in thousandths of a grey level; an integer, so that sums do
            not depend on their order.
        order: channels after the exchange, or None.
        channel: channel that was shifted, or None.
        shift: grey levels added to it.
    """

    exchanged: bool = False
    shifted: bool = False
    refused: bool = False
    difference: int = 0
    order: tuple[int, ...] | None = None
    channel: int | None = None
    shift: int = 0

    def to_codes(self) -> tuple[int, int, int, int]:
        """`(exchanged, shifted, refused, difference)`: what `ColourAudit.from_codes` counts."""
        return int(self.exchanged), int(self.shifted), int(self.refused), self.difference


@dataclass(frozen=True)
class ColourAudit:
    """Counts over images; audits of parts of a set add up (`+`) to that of the set, in any order.

    Attributes:
        images: images seen.
        exchanged: images with exchanged channels.
        shifted: images with a changed channel.
        refused: images left unexchanged because the difference would have been too large.
        unchanged: images to which nothing was done.
        total_difference: sum of the images' mean absolute changes, in thousandths of a grey level.
    """

    images: int = 0
    exchanged: int = 0
    shifted: int = 0
    refused: int = 0
    unchanged: int = 0
    total_difference: int = 0

    @classmethod
    def from_codes(cls, codes: Iterable[Iterable[int]]) -> "ColourAudit":
        """Count the rows of the `(N, 4)` codes that samples carry under "colour"."""
        rows = [[int(value) for value in row] for row in codes]
        return cls(
            images=len(rows),
            exchanged=sum(row[0] for row in rows),
            shifted=sum(row[1] for row in rows),
            refused=sum(row[2] for row in rows),
            unchanged=sum(not (row[0] or row[1]) for row in rows),
            total_difference=sum(row[3] for row in rows),
        )

    def __add__(self, other: "ColourAudit") -> "ColourAudit":
        return ColourAudit(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def mean_difference(self) -> float:
        """Mean absolute change of the changed images, in grey levels of 0..255; 0 if none was changed."""
        changed = self.images - self.unchanged
        return self.total_difference / _PER_MILLE / changed if changed else 0.0

    def to_dict(self) -> dict[str, int | float]:
        """Plain values for a results file."""
        counts = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "total_difference"}
        return {**counts, "mean_difference": self.mean_difference}


@dataclass(frozen=True)
class ColourPlan:
    """The images of one epoch that are chosen, by their index.

    Attributes:
        exchanged: indices chosen for an exchange of channels, ascending.
        shifted: indices chosen for a change of one channel, ascending.
        seed: of the run.
        epoch: number of the pass over the data.
    """

    exchanged: np.ndarray
    shifted: np.ndarray
    seed: int
    epoch: int

    @cached_property
    def exchanged_set(self) -> frozenset[int]:
        """The indices of `exchanged`, for looking up."""
        return frozenset(self.exchanged.tolist())

    @cached_property
    def shifted_set(self) -> frozenset[int]:
        """The indices of `shifted`, for looking up."""
        return frozenset(self.shifted.tolist())


@dataclass(frozen=True)
class ColourTransform:
    """Changes the colours of a bounded number of images by a bounded amount; plain YAML values.

    The rules (method row 39):

    - Number: in an epoch, `max_changed` images are chosen for an exchange of channels; no more can be exchanged.
      `max_shifted` bounds the images with a changed channel in the same way. Both choices are drawn independently.
    - Difference, exchange: the new order is drawn from the five that differ from red, green, blue. If the mean
      absolute difference between old and new values, over the image and its three channels, is above
      `max_difference`, the image is left as it is and counted as refused.
    - Difference, shift: a whole number in `-max_difference..max_difference`, not 0, is added to one channel drawn at
      random, the result kept in 0..255: no value changes by more than `max_difference` (after an exchange, from its
      exchanged value).
    - In a stream of unknown length, a fraction has no meaning and is refused; a count N is drawn from the stream's
      first 10 * N images, none after them is changed, and a shorter stream has fewer changed.

    Attributes:
        exchange_channels: exchange the colour channels of the chosen images.
        shift_channel: change the values of one channel of the chosen images.
        max_changed: number threshold of the exchange: a count (int), or a fraction of the set (float, 0 to 1),
            rounded down.
        max_shifted: the same for the shift.
        max_difference: difference threshold, in grey levels, 0 to 255.
    """

    exchange_channels: bool = False
    shift_channel: bool = False
    max_changed: int | float = 0.1
    max_shifted: int | float = 0.1
    max_difference: float = 64.0

    def __post_init__(self) -> None:
        for name in ("exchange_channels", "shift_channel"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be true or false.")
        for name in ("max_changed", "max_shifted"):
            value = getattr(self, name)
            fraction = isinstance(value, float) and 0 <= value <= 1
            if not fraction and not (type(value) is int and value >= 0):
                raise ValueError(
                    f"{name} is {value!r}; it must be a count (a whole number from 0) or a fraction of the set "
                    "(a number with a decimal point, 0.0 to 1.0)."
                )
        difference = self.max_difference
        if isinstance(difference, bool) or not isinstance(difference, (int, float)) or not 0 <= difference <= 255:
            raise ValueError(f"max_difference is {difference!r}; it must be a number of grey levels from 0 to 255.")
        if self.shift_channel and difference < 1:
            raise ValueError(f"max_difference is {difference!r}; to shift a channel it must be at least 1.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ColourTransform":
        """A transform from YAML or JSON values.

        Raises:
            ValueError: If a field is unknown or its value impossible; the message names the field.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ValueError(f"The colour transform has the unknown field {unknown[0]!r}. Known: {', '.join(known)}.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict`, YAML and JSON take."""
        return asdict(self)

    def plan(self, num_samples: int | None, *, seed: int, epoch: int) -> ColourPlan:
        """Draw which images of an epoch are changed.

        Args:
            num_samples: size of the whole set, over all processes; None for a stream of unknown length.
            seed: of the run.
            epoch: number of the pass over the data.

        Raises:
            ValueError: If a fraction of a stream of unknown length is asked for.
        """
        chosen = {}
        for name, on in (("max_changed", self.exchange_channels), ("max_shifted", self.shift_channel)):
            limit, population = self._limit(name, num_samples) if on else (0, 0)
            rng = sample_rng(seed, epoch, 0, f"colour plan {name}")
            chosen[name] = np.sort(rng.choice(population, size=limit, replace=False)) if limit else np.array([], int)
        return ColourPlan(chosen["max_changed"], chosen["max_shifted"], seed, epoch)

    def _limit(self, name: str, num_samples: int | None) -> tuple[int, int]:
        """How many images are chosen, and among how many of the first ones."""
        threshold = getattr(self, name)
        if num_samples is None:
            if isinstance(threshold, float):
                raise ValueError(
                    f"{name} is {threshold!r}, a fraction of the set, but the length of this stream is not known. "
                    f"Give a count (a whole number), or load the set without streaming."
                )
            return threshold, STREAM_WINDOW * threshold
        # 1e-9: a tenth of 30 is 3, whatever the rounding of 0.1 * 30.
        limit = int(threshold * num_samples + 1e-9) if isinstance(threshold, float) else threshold
        return min(limit, num_samples), num_samples

    def __call__(self, image: Image.Image, index: int, *, plan: ColourPlan) -> tuple[Image.Image, ColourChange]:
        """Change one image as planned.

        Args:
            image: RGB.
            index: of the image in its set (its position in a stream).
            plan: of the epoch.

        Returns:
            The image (the same object if it is not changed) and what was done to it.
        """
        exchange, shift = index in plan.exchanged_set, index in plan.shifted_set
        if not exchange and not shift:
            return image, ColourChange()
        rng = sample_rng(plan.seed, plan.epoch, index, "colour")
        before = np.asarray(image)
        order, channel, amount = None, None, 0
        pixels = before
        if exchange:
            drawn = _EXCHANGES[rng.integers(len(_EXCHANGES))]
            exchanged = before[..., list(drawn)]
            if _mean_difference(before, exchanged) <= self.max_difference:
                order, pixels = drawn, exchanged
        if shift:
            largest = int(self.max_difference)
            channel = int(rng.integers(3))
            amount = int(rng.integers(1, largest + 1)) * (1 if rng.random() < 0.5 else -1)
            pixels = pixels.copy()
            pixels[..., channel] = (pixels[..., channel].astype(np.int16) + amount).clip(0, 255)
        change = ColourChange(
            exchanged=order is not None,
            shifted=shift,
            refused=exchange and order is None,
            difference=round(_mean_difference(before, pixels) * _PER_MILLE),
            order=order,
            channel=channel,
            shift=amount,
        )
        return (image if pixels is before else Image.fromarray(np.ascontiguousarray(pixels))), change


def _mean_difference(before: np.ndarray, after: np.ndarray) -> float:
    """Mean absolute difference of two uint8 arrays, exact up to the last division."""
    return float(np.abs(before.astype(np.int16) - after).sum(dtype=np.int64) / before.size)
