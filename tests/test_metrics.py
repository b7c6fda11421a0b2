"""Scores against scikit-learn's, and intervals that hold what they promise."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from audio.metrics import confusion_matrix, evaluate, per_class, scores_of


@st.composite
def answers(draw):
    """Return targets and predictions of 1 to 40 clips in up to 6 classes, some never seen."""
    n_labels = draw(st.integers(2, 6))
    labels = st.integers(0, n_labels - 1)
    pairs = draw(st.lists(st.tuples(labels, labels), min_size=1, max_size=40))
    targets, predicted = np.array(pairs, np.int64).T
    return targets, predicted, n_labels


@given(answers())
@hypothesis_settings(max_examples=100)
def test_scores_are_scikit_learns(found):
    targets, predicted, n_labels = found
    confusion = confusion_matrix(targets, predicted, n_labels)
    scores = scores_of(confusion)
    assert np.array_equal(
        confusion, sk.confusion_matrix(targets, predicted, labels=range(n_labels))
    )
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(targets, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of classes that are never the true one
        balanced = sk.balanced_accuracy_score(targets, predicted)
    assert scores["balanced_accuracy"] == pytest.approx(balanced)
    assert scores["macro_f1"] == pytest.approx(
        sk.f1_score(targets, predicted, average="macro", zero_division=0)
    )


@given(answers())
@hypothesis_settings(max_examples=60)
def test_per_class_scores_are_scikit_learns(found):
    targets, predicted, n_labels = found
    names = [f"c{i}" for i in range(n_labels)]
    rows = per_class(confusion_matrix(targets, predicted, n_labels), names)
    expected = sk.precision_recall_fscore_support(
        targets, predicted, labels=range(n_labels), zero_division=0
    )
    for i, name in enumerate(names):
        told = [rows[name][key] for key in ("precision", "recall", "f1", "support")]
        assert told == pytest.approx([column[i] for column in expected])


def shaky(n, n_labels=3, accuracy=0.7, seed=0):
    """Return probabilities and targets of a classifier that is right so often."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(n_labels, size=n)
    wrong = (targets + rng.integers(1, n_labels, size=n)) % n_labels
    best = np.where(rng.random(n) < accuracy, targets, wrong)
    probabilities = rng.random((n, n_labels)) + 2 * np.eye(n_labels)[best]
    return (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32), targets


def test_the_whole_evaluation_is_json_and_agrees_with_scikit_learn():
    probabilities, targets = shaky(60)
    told = json.loads(json.dumps(evaluate(probabilities, targets, "abc")))
    predicted = probabilities.argmax(1)
    assert told["n"] == 60
    assert told["accuracy"]["value"] == pytest.approx(sk.accuracy_score(targets, predicted))
    shares = probabilities.astype(np.float64)
    expected = sk.log_loss(targets, shares / shares.sum(1, keepdims=True))
    assert told["log_loss"] == pytest.approx(expected, rel=1e-5)
    assert told["confusion"]["counts"] == sk.confusion_matrix(targets, predicted).tolist()
    assert told["confusion"]["labels"] == ["a", "b", "c"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert told[name]["low"] <= told[name]["value"] <= told[name]["high"]


def test_the_interval_covers_the_true_accuracy_about_95_times_in_100():
    """200 experiments; fewer than 180 (p < .002 for a true 95 %) would say the interval lies."""
    covered = 0
    for seed in range(200):
        accuracy = evaluate(*shaky(80, seed=seed), "abc", seed=seed)["accuracy"]
        covered += accuracy["low"] <= 0.7 <= accuracy["high"]
    assert 180 <= covered <= 199


def test_the_interval_is_about_that_of_the_normal_law():
    probabilities, targets = shaky(400)
    accuracy = evaluate(probabilities, targets, "abc")["accuracy"]
    half = 1.96 * np.sqrt(accuracy["value"] * (1 - accuracy["value"]) / 400)
    assert (accuracy["high"] - accuracy["low"]) / 2 == pytest.approx(half, rel=0.1)


def test_clips_of_one_group_are_resampled_together():
    """Twenty copies of each of ten answers tell no more than ten answers do."""
    probabilities, targets = shaky(10, seed=3)
    many = np.repeat(probabilities, 20, 0), np.repeat(targets, 20)
    names = [f"g{i}" for i in np.repeat(np.arange(10), 20)]
    few = evaluate(probabilities, targets, "abc")
    grouped = evaluate(*many, "abc", groups=names)
    alone = evaluate(*many, "abc")
    assert grouped["interval_over"] == "groups"
    assert alone["interval_over"] == few["interval_over"] == "clips"

    def width(told):
        return told["accuracy"]["high"] - told["accuracy"]["low"]

    assert width(grouped) == pytest.approx(width(few), abs=0.1)
    assert width(alone) < width(grouped) / 2


@pytest.mark.parametrize(
    ("groups", "over"),
    [
        ([f"g{i % 8}" for i in range(40)], "groups"),
        ([f"g{i % 7}" for i in range(40)], "clips"),
        ([None] * 40, "clips"),
        ([f"g{i}" for i in range(40)], "clips"),
        ([f"g{i % 8}" if i < 20 else None for i in range(40)], "groups"),
        ((), "clips"),
    ],
)
def test_groups_count_from_eight_on(groups, over):
    assert evaluate(*shaky(40), "abc", groups=groups)["interval_over"] == over


def test_the_interval_follows_from_its_seed():
    one, again, other = (evaluate(*shaky(30), "abc", seed=s)["macro_f1"] for s in (1, 1, 2))
    assert one == again
    assert one != other


def test_nothing_to_score_and_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="no clips to score"):
        evaluate(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), "ab")
    with pytest.raises(ValueError, match=r"not finite; lower learning_rate"):
        evaluate(np.full((1, 2), np.nan, np.float32), np.zeros(1, np.int64), "ab")
