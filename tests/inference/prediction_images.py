"""Images for the tests of prediction."""

from odd_images import colours, encode
from PIL import Image


def image_bytes(seed: int, kind: str = "png") -> bytes:
    """A small image in a file of a kind."""
    return encode(Image.fromarray(colours(seed=seed)), kind)
