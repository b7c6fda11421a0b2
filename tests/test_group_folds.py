"""Drawn parts against scikit-learn's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from audio.group_folds import stratified_group_folds


def scikit_learns(labels, groups, n_folds, seed):
    parts = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [fold.tolist() for _, fold in parts.split(labels, labels, groups)]


@given(
    n=st.integers(6, 120),
    n_labels=st.integers(2, 7),
    n_groups=st.integers(2, 150),
    n_folds=st.integers(2, 9),
    seed=st.integers(0, 2**31 - 1),
)
@hypothesis_settings(max_examples=150)
def test_the_parts_are_scikit_learns(n, n_labels, n_groups, n_folds, seed):
    rng = np.random.default_rng(seed)
    labels = [f"label {i}" for i in (rng.random(n) ** 2 * n_labels).astype(int)]
    groups = [f"group {i}" for i in rng.integers(0, n_groups, n)]
    most = max(labels.count(label) for label in set(labels))
    if n_folds > min(len(set(groups)), most):
        with pytest.raises(ValueError, match=f"{n_folds} parts are more than"):
            stratified_group_folds(labels, groups, n_folds, seed=seed)
        return
    ours = stratified_group_folds(labels, groups, n_folds, seed=seed)
    assert ours == scikit_learns(labels, groups, n_folds, seed)


def test_the_parts_of_a_thousand_clips_that_are_groups_of_their_own_are_scikit_learns():
    rng = np.random.default_rng(3)
    labels = [str(i) for i in rng.integers(0, 10, 1000)]
    groups = [str(i) for i in range(1000)]
    assert stratified_group_folds(labels, groups, 5, seed=0) == scikit_learns(labels, groups, 5, 0)
