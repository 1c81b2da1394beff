"""Weights in half precision: half the file, the same answers but for rounding, computed in float32."""

import pytest
import torch
from halve_weights import write_half_precision
from safetensors.torch import load_file
from tiny_models import tiny_classifier, tiny_extractor

from hf_contour import ContourExtractorForPreTraining, ContourGenderForImageClassification
from hf_contour.image_processing_contour import ContourImageProcessor


@pytest.mark.parametrize(
    ("make", "model_class"),
    [(tiny_classifier, ContourGenderForImageClassification), (tiny_extractor, ContourExtractorForPreTraining)],
)
def test_a_halved_folder_loads_in_float32(tmp_path, make, model_class):
    model = make()
    model.save_pretrained(tmp_path / "whole")
    ContourImageProcessor(size={"height": 40, "width": 32}).save_pretrained(tmp_path / "whole")
    worst = write_half_precision(tmp_path / "whole", tmp_path / "half")
    assert 0 < worst <= 2**-11  # half of the spacing of float16 relative to the number
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    loaded = model_class.from_pretrained(tmp_path / "half").eval()
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    pixels = torch.rand(2, 3, 40, 32)
    answers = [one(pixels).logits for one in (model, loaded)]
    torch.testing.assert_close(*answers, rtol=0.02, atol=0.02)
    assert ContourImageProcessor.from_pretrained(tmp_path / "half").size == {"height": 40, "width": 32}


def test_what_does_not_fit_is_refused(tmp_path):
    model = tiny_classifier()
    model.classifier.output.bias.data.fill_(1e6)
    model.save_pretrained(tmp_path / "whole")
    ContourImageProcessor().save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"classifier\.output\.bias reaches 1e\+06"):
        write_half_precision(tmp_path / "whole", tmp_path / "half")
    assert not (tmp_path / "half").exists()
    with pytest.raises(FileExistsError, match="whole"):
        write_half_precision(tmp_path / "whole", tmp_path / "whole")
