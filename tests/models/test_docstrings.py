"""The examples in docstrings run and print what they say."""

import doctest

import pytest

from hf_contour import modeling_contour_extractor, modeling_contour_gender


@pytest.mark.parametrize("module", [modeling_contour_extractor, modeling_contour_gender])
def test_examples_of_every_forward_of_a_model_run(module):
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [found for found in finder.find(module) if found.examples]
    models = [name for name in module.__all__ if name[0].isupper()]
    assert {found.name.split(".")[-2] for found in examples} == set(models)
    for found in examples:
        runner = doctest.DocTestRunner()
        runner.run(found)
        assert runner.failures == 0, found.name
