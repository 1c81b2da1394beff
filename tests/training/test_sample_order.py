"""The order of samples: every process count, every starting step, the same micro-batches."""

import numpy as np
import pytest

from hf_contour.training.order import SampleOrder


def test_an_epoch_is_a_permutation_and_epochs_differ():
    order = SampleOrder(12, 3, 8, seed=1)
    batches = list(order)
    assert len(batches) == len(order) == 8
    for epoch in (0, 1):
        places = [place for batch in batches[4 * epoch : 4 * epoch + 4] for place in batch]
        assert {number for number, _ in places} == {epoch}
        assert sorted(index for _, index in places) == list(range(12))
    assert batches[:4] != [[(0, index) for _, index in batch] for batch in batches[4:]]


def test_what_is_left_over_differs_between_epochs():
    left_out = []
    order = SampleOrder(10, 4, 2 * 50, seed=0)
    batches = list(order)
    for epoch in range(50):
        seen = {index for batch in batches[2 * epoch : 2 * epoch + 2] for _, index in batch}
        left_out += sorted(set(range(10)) - seen)
    assert len(left_out) == 100
    assert np.bincount(left_out, minlength=10).min() > 0


@pytest.mark.parametrize("start", [0, 1, 2, 5, 7])
def test_it_goes_on_from_any_step(start):
    whole = list(SampleOrder(11, 2, 8, seed=4, accumulation_steps=2))
    rest = SampleOrder(11, 2, 8, seed=4, accumulation_steps=2)
    rest.start_step = start
    assert list(rest) == whole[2 * start :]


def test_two_processes_see_the_micro_batches_of_one_with_twice_the_accumulation():
    one = list(SampleOrder(23, 2, 6, seed=2, accumulation_steps=4))
    pair = [
        list(SampleOrder(23, 2, 6, seed=2, accumulation_steps=2, num_processes=2, process_index=index))
        for index in range(2)
    ]
    for step in range(6):
        together = [pair[index][2 * step + micro] for micro in range(2) for index in range(2)]
        assert together == one[4 * step : 4 * step + 4]


def test_seeds_give_different_orders():
    assert list(SampleOrder(30, 30, 1, seed=0)) != list(SampleOrder(30, 30, 1, seed=1))


def test_a_set_smaller_than_a_step_is_refused():
    with pytest.raises(ValueError, match=r"has 7 samples, and one step takes 8 \(batch_size 2 x .* 2 x 2 processes"):
        SampleOrder(7, 2, 1, seed=0, accumulation_steps=2, num_processes=2)
