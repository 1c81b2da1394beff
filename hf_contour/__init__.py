"""Image classification helped by contours."""

from hf_contour.version import __version__

__all__ = ["__version__"]
