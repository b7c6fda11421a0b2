"""What rare classes gain: weights, shares of an epoch, and logits, by independent counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audio.balance import epoch_order, make_balance

UNEVEN = np.repeat([0, 1, 2], [12, 3, 5])
#: Three labels of 8 clips: 6, 3 and 1 of them; one clip has none.
SEVERAL = np.array(
    [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 0]],
    np.float32,
)


def test_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    expected = compute_class_weight("balanced", classes=np.arange(3), y=UNEVEN)
    weight = make_balance(UNEVEN, 3, "weights").weight
    assert weight.tolist() == pytest.approx(expected.tolist())
    assert weight.numpy()[UNEVEN].mean() == pytest.approx(1)


def test_root_weights_are_in_proportion_to_the_root_and_one_on_average():
    weight = make_balance(UNEVEN, 3, "root-weights").weight.numpy()
    assert weight / weight[0] == pytest.approx([1, 2, np.sqrt(12 / 5)])
    assert weight[UNEVEN].mean() == pytest.approx(1)


def test_weights_are_finite_for_a_class_without_clips():
    weight = make_balance(np.array([0, 0, 1]), 3, "weights").weight
    assert torch.isfinite(weight).all()
    assert weight[:2].tolist() == pytest.approx([0.75, 1.5])  # by hand: 3 clips / 2 classes / n


@pytest.mark.parametrize("rule", ["none", "sampling", "root-sampling"])
def test_the_loss_is_left_alone_where_the_order_balances_or_nothing_does(rule):
    found = make_balance(UNEVEN, 3, rule)
    assert (found.weight, found.offset) == (None, None)


def test_logits_are_moved_by_the_logarithm_of_each_classs_share():
    found = make_balance(UNEVEN, 3, "logits")
    assert found.weight is None
    assert found.offset.tolist() == pytest.approx(np.log([0.6, 0.15, 0.25]).tolist())


def test_of_several_labels_presence_is_weighed_against_absence():
    found = make_balance(SEVERAL, 3, "weights")
    assert found.weight.tolist() == pytest.approx([2 / 6, 5 / 3, 7 / 1])
    root = make_balance(SEVERAL, 3, "root-weights")
    assert root.weight.tolist() == pytest.approx(np.sqrt([2 / 6, 5 / 3, 7 / 1]).tolist())
    offset = make_balance(SEVERAL, 3, "logits").offset
    assert offset.tolist() == pytest.approx(np.log([6 / 2, 3 / 5, 1 / 7]).tolist())


@given(
    counts=st.lists(st.integers(0, 40), min_size=2, max_size=8).filter(lambda c: sum(c) > 0),
    seed=st.integers(0, 2**32),
)
def test_sampling_gives_each_class_its_share_and_no_clip_twice_before_all_once(counts, seed):
    targets = np.repeat(np.arange(len(counts)), counts)
    for rule, power in (("sampling", 0.0), ("root-sampling", 0.5)):
        order = epoch_order(np.random.default_rng(seed), targets, len(counts), rule)
        assert len(order) == len(targets)
        share = np.where(np.array(counts) > 0, np.power(counts, power), 0.0)
        share *= len(targets) / share.sum()
        found = np.bincount(targets[order], minlength=len(counts))
        assert (np.abs(found - share) < 1 + 1e-9).all()
        times = np.bincount(order, minlength=len(targets))
        for label in range(len(counts)):
            if counts[label]:
                mine = times[targets == label]
                assert mine.max() - mine.min() <= 1


def test_an_epochs_clips_follow_from_its_generator_and_differ_between_epochs():
    orders = [
        epoch_order(np.random.default_rng([7, epoch]), UNEVEN, 3, "sampling") for epoch in (0, 0, 1)
    ]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    seen = np.unique(np.concatenate([
        epoch_order(np.random.default_rng([7, epoch]), UNEVEN, 3, "sampling")
        for epoch in range(20)
    ]))  # fmt: skip
    assert len(seen) == len(UNEVEN)  # none of a frequent class is left out for good


def test_without_sampling_the_order_is_the_permutation_that_it_always_was():
    expected = np.random.default_rng([3, 1]).permutation(20)
    for rule in ("none", "weights", "root-weights", "logits"):
        assert np.array_equal(epoch_order(np.random.default_rng([3, 1]), UNEVEN, 3, rule), expected)


def test_of_several_labels_the_rarest_decides_how_often_a_clip_comes():
    """By hand: rarest labels 0 0 0 1 1 2 1 and none: four kinds, two clips each of eight."""
    kind = np.array([0, 0, 0, 1, 1, 2, 1, 3])
    for seed in range(10):
        order = epoch_order(np.random.default_rng(seed), SEVERAL, 3, "sampling")
        assert np.bincount(kind[order]).tolist() == [2, 2, 2, 2]
