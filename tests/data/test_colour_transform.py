"""The colour transform keeps both of its caps over the whole set, and its audit counts what it did."""

from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from hf_contour.data.augmentation.colour import ColourAudit, ColourChange, ColourTransform

EXCHANGE = ColourTransform(exchange_channels=True, max_changed=1.0, max_difference=255)
SHIFT = ColourTransform(shift_channel=True, max_shifted=1.0, max_difference=30)


def random_image(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8))


def plain_image(*colour):
    return Image.new("RGB", (4, 3), colour)


def run(transform, images, *, seed=0, epoch=0):
    plan = transform.plan(len(images), seed=seed, epoch=epoch)
    return [transform(image, index, plan=plan) for index, image in enumerate(images)]


def audit_of(results):
    return ColourAudit.from_codes(change.to_codes() for _, change in results)


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.1, 20), (0.0, 0), (1.0, 200), (0.999, 199), (7, 7), (0, 0), (500, 200)]
)
def test_as_many_images_as_the_number_threshold_are_exchanged(threshold, expected):
    images = [random_image(index) for index in range(200)]
    transform = ColourTransform(exchange_channels=True, max_changed=threshold, max_difference=255)
    for epoch in range(3):
        results = run(transform, images, epoch=epoch)
        changed = [not np.array_equal(after, before) for (after, _), before in zip(results, images, strict=True)]
        assert sum(changed) == expected
        assert changed == [change.exchanged for _, change in results]


def test_tenths_are_not_lost_to_rounding():
    for count in range(10, 400, 10):
        assert len(
            ColourTransform(exchange_channels=True, max_changed=0.1).plan(count, seed=0, epoch=0).exchanged
        ) == (count // 10)


def test_plan_is_a_function_of_seed_and_epoch_and_reaches_every_image():
    transform = ColourTransform(exchange_channels=True, shift_channel=True, max_changed=10, max_shifted=10)
    plans = [transform.plan(40, seed=3, epoch=epoch) for epoch in range(60)]
    again = transform.plan(40, seed=3, epoch=0)
    assert np.array_equal(plans[0].exchanged, again.exchanged)
    assert np.array_equal(plans[0].shifted, again.shifted)
    assert not np.array_equal(plans[0].exchanged, plans[1].exchanged)
    assert not np.array_equal(plans[0].exchanged, plans[0].shifted)
    assert not np.array_equal(plans[0].exchanged, transform.plan(40, seed=4, epoch=0).exchanged)
    times = np.bincount(np.concatenate([plan.exchanged for plan in plans]), minlength=40)
    assert times.min() >= 5  # 15 expected
    assert times.max() <= 27


def test_exchange_is_a_new_order_of_the_channels():
    orders = set()
    for index, (after, change) in enumerate(run(EXCHANGE, [random_image(index) for index in range(100)])):
        before = np.array(random_image(index))
        assert np.array_equal(after, before[..., list(change.order)])
        expected = np.abs(before.astype(float) - np.array(after)).mean()
        assert change.difference == pytest.approx(1000 * expected, abs=0.51)
        orders.add(change.order)
    assert orders == set(permutations(range(3))) - {(0, 1, 2)}


def test_exchange_over_the_difference_threshold_is_refused_and_counted():
    # (0, 30, 90): swapping two channels changes the mean by 20, 40 or 60; turning all three by 60.
    by_order = {(1, 0, 2): 20, (0, 2, 1): 40, (2, 1, 0): 60, (1, 2, 0): 60, (2, 0, 1): 60}
    images = [plain_image(0, 30, 90)] * 60
    orders = [change.order for _, change in run(EXCHANGE, images)]
    for limit in (19.9, 20, 40, 59, 60):
        transform = ColourTransform(exchange_channels=True, max_changed=1.0, max_difference=limit)
        results = run(transform, images)
        for order, (after, change) in zip(orders, results, strict=True):
            allowed = by_order[order] <= limit
            assert (change.exchanged, change.refused) == (allowed, not allowed)
            assert np.array_equal(after, images[0]) == (not allowed)
        audit = audit_of(results)
        assert audit.refused == audit.unchanged == sum(by_order[order] > limit for order in orders)
        assert audit.exchanged == 60 - audit.refused


def test_shift_changes_one_channel_by_no_more_than_the_threshold():
    channels, shifts = set(), []
    for index, (after, change) in enumerate(run(SHIFT, [random_image(index) for index in range(300)])):
        before = np.array(random_image(index)).astype(int)
        moved = np.array(after) - before
        others = [channel for channel in range(3) if channel != change.channel]
        assert not moved[..., others].any()
        assert np.array_equal(moved[..., change.channel] + before[..., change.channel],
                              (before[..., change.channel] + change.shift).clip(0, 255))  # fmt: skip
        assert 1 <= abs(change.shift) <= 30
        channels.add(change.channel)
        shifts.append(change.shift)
    assert channels == {0, 1, 2}
    assert min(shifts) < -25
    assert max(shifts) > 25
    assert 0.4 < np.mean(np.array(shifts) > 0) < 0.6


def test_both_ways_together_are_counted_apart():
    transform = ColourTransform(
        exchange_channels=True, shift_channel=True, max_changed=5, max_shifted=0.5, max_difference=255
    )
    results = run(transform, [random_image(index) for index in range(20)])
    audit = audit_of(results)
    assert (audit.images, audit.exchanged, audit.shifted, audit.refused) == (20, 5, 10, 0)
    both = sum(change.exchanged and change.shifted for _, change in results)
    assert audit.unchanged == 20 - 15 + both
    halves = audit_of(results[13:]) + audit_of(results[:13])
    assert halves == audit
    differences = [
        np.abs(np.array(after).astype(float) - np.array(random_image(index))).mean()
        for index, (after, change) in enumerate(results)
        if change.exchanged or change.shifted
    ]
    assert audit.mean_difference == pytest.approx(np.mean(differences), abs=1e-3)
    assert audit.to_dict()["mean_difference"] == audit.mean_difference


def test_off_by_default_and_images_not_chosen_are_the_same_object():
    image = random_image(0)
    for transform in (ColourTransform(), ColourTransform(exchange_channels=True, max_changed=0)):
        after, change = transform(image, 0, plan=transform.plan(10, seed=0, epoch=0))
        assert after is image
        assert change == ColourChange()
    assert ColourAudit().mean_difference == 0.0


def test_stream_of_unknown_length_takes_a_count_and_refuses_a_fraction():
    with pytest.raises(ValueError, match=r"max_changed is 0\.1, a fraction"):
        ColourTransform(exchange_channels=True).plan(None, seed=0, epoch=0)
    with pytest.raises(ValueError, match=r"max_shifted is 0\.1, a fraction"):
        ColourTransform(shift_channel=True).plan(None, seed=0, epoch=0)
    plan = ColourTransform(exchange_channels=True, max_changed=6).plan(None, seed=0, epoch=0)
    assert len(set(plan.exchanged.tolist())) == 6
    assert plan.exchanged.max() < 60  # the rule: among the first ten times as many
    assert len(plan.shifted) == 0


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"max_changed": 1.5}, "max_changed is 1.5"),
        ({"max_changed": -1}, "max_changed is -1"),
        ({"max_shifted": "all"}, "max_shifted is 'all'"),
        ({"max_changed": True}, "max_changed is True"),
        ({"max_difference": 256}, "max_difference is 256"),
        ({"max_difference": float("nan")}, "max_difference is nan"),
        ({"shift_channel": True, "max_difference": 0.5}, "at least 1"),
        ({"exchange_channels": 1}, "exchange_channels is 1"),
        ({"exchange": True}, "unknown field 'exchange'"),
    ],
)
def test_impossible_values_are_refused_by_name(values, match):
    with pytest.raises(ValueError, match=match.replace(".", r"\.")):
        ColourTransform.from_dict(values)


def test_transform_survives_a_dict():
    transform = ColourTransform(exchange_channels=True, max_changed=12, max_difference=20.5)
    assert ColourTransform.from_dict(transform.to_dict()) == transform
