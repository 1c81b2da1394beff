"""The order of samples: every process count, every starting step, the same micro-batches."""

import numpy as np
import pytest

from hf_contour.training.order import SampleOrder, fitting_batch_size


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
    rest = SampleOrder(11, 2, 8, seed=4, accumulation_steps=2, start_step=start)
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


@pytest.mark.parametrize(
    ("wanted", "samples", "micro_batches", "fitting"), [(16, 12, 1, 12), (4, 12, 3, 4), (4, 7, 2, 3)]
)
def test_a_batch_fits_into_the_set(wanted, samples, micro_batches, fitting):
    assert fitting_batch_size(wanted, samples, micro_batches) == fitting


def test_a_set_with_fewer_samples_than_micro_batches_is_refused():
    with pytest.raises(ValueError, match="has 3 samples, and one step takes 4 micro-batches"):
        fitting_batch_size(1, 3, 4)


def drawn(epochs, weights, **changes):
    batches = SampleOrder(len(weights), 4, epochs * len(weights) // 4, seed=5, weights=weights, **changes)
    return np.array([place for batch in batches for place in batch])


def test_weights_say_how_often_a_sample_comes():
    """Eight rare samples weigh as much as 92 common ones, in every epoch."""
    weights = np.repeat([0.5 / 92, 0.5 / 8], [92, 8])
    for epoch, indices in ((epoch, drawn(6, weights)) for epoch in range(6)):
        counts = np.bincount(indices[indices[:, 0] == epoch, 1], minlength=100)
        assert counts.sum() == 100
        assert 48 <= counts[92:].sum() <= 56  # each is rounded by itself
        assert set(counts[:92]) <= {0, 1}
        assert set(counts[92:]) <= {6, 7}
    assert np.bincount(drawn(40, weights)[:, 1], minlength=100).min() > 10  # in time everything comes


def test_weighted_draws_go_on_from_any_step_and_are_dealt_out():
    weights = np.arange(1.0, 25.0)
    whole = list(SampleOrder(24, 2, 12, seed=4, weights=weights))
    assert list(SampleOrder(24, 2, 12, seed=4, weights=weights, start_step=7)) == whole[7:]
    pair = [
        list(SampleOrder(24, 2, 6, seed=4, weights=weights, num_processes=2, process_index=index)) for index in (0, 1)
    ]
    assert [batch for both in zip(*pair, strict=True) for batch in both] == whole


def test_equal_weights_leave_nothing_out():
    assert sorted(drawn(1, np.full(12, 0.3))[:, 1]) == list(range(12))
