import unittest

import pytest
from transformers_common_tests import test_image_processing_common
from transformers_common_tests.test_image_processing_common import ImageProcessingTestMixin

from hf_contour import ContourImageProcessor

pytestmark = pytest.mark.transformers_common


# Not imported by name: pytest would take it for tests to collect.
class ContourImageProcessorTester(test_image_processing_common.ImageProcessingTester):
    """Images of many sizes, brought to one that is not square."""

    def __init__(self, parent: unittest.TestCase):
        super().__init__(
            parent,
            size={"height": 20, "width": 18},
            do_resize=True,
            do_pad=True,
            do_normalize=True,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
            background_color=[255, 255, 255],
        )

    def _get_image_processing_classes(self) -> dict[str, type]:
        return {"torchvision": ContourImageProcessor}  # the library finds its own by the name of the test's folder


class ContourImageProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ContourImageProcessorTester
    test_cast_dtype = True

    def test_override_instance_attributes_does_not_affect_other_instances(self) -> None:
        """As the test that this overrides, which skips what keeps its size in a SizeDict."""
        first, second = ContourImageProcessor(), ContourImageProcessor()
        expected = second.to_dict()
        first.size["height"] = 7
        for name in ("image_mean", "image_std", "background_color"):
            values = getattr(first, name)
            if isinstance(values, list):
                values[0] = 0.25
        assert second.to_dict() == expected
        assert ContourImageProcessor().to_dict() == expected
