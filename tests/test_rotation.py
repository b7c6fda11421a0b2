"""Validation that takes turns: the splits, who gets which, and what is taken off the scores."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from audio.clips import Clip, Manifest, ManifestError
from audio.splits import check_splits
from rl.claims import TURNS, final_seeds, trial_seed
from rl.fidelity import Forecast, Halving, block_effects
from scripts.rotation import rotations


def clips(groups: dict[str, str], *, labels: str = "ab", folds: bool = False) -> Manifest:
    """Return a clip of each label for each group; groups: name -> split."""
    made = [
        Clip(Path(f"{group}_{label}.wav"), label, group, fold=group if folds else None, split=split)
        for group, split in groups.items()
        for label in labels
    ]
    return Manifest(tuple(made), Path())


SPEAKERS = {"ann": "train", "bob": "train", "cy": "validation", "dee": "test"}


def test_each_speaker_validates_once_and_the_test_stays() -> None:
    manifest = clips(SPEAKERS)
    turns = rotations(manifest)
    held = [{c.group for c in turn.in_split("validation").clips} for turn in turns]
    assert held == [{"ann"}, {"bob"}, {"cy"}]
    for turn in turns:
        check_splits(turn)
        assert turn.in_split("test") == manifest.in_split("test")
        assert [c.key for c in turn.clips] == [c.key for c in manifest.clips]


def test_folds_that_are_prescribed_take_turns() -> None:
    manifest = clips({str(k): "test" if k == 5 else "train" for k in range(1, 6)}, folds=True)
    turns = rotations(manifest)
    assert len(turns) == 4
    assert [len(t.in_split("validation")) for t in turns] == [2] * 4


def test_many_groups_and_clips_without_any_are_dealt_to_five_parts() -> None:
    many = clips({f"g{k}": "train" for k in range(20)})
    loose = replace(many, clips=tuple(replace(c, group=None) for c in many.clips))
    for manifest in (many, loose):
        turns = rotations(manifest)
        assert len(turns) == 5
        seen = Counter(c.key for turn in turns for c in turn.in_split("validation").clips)
        assert set(seen.values()) == {1}
        assert len(seen) == 40
        for turn in turns:
            check_splits(turn)
            labels = [c.label for c in turn.in_split("validation").clips]
            assert labels.count("a") == labels.count("b") == 4


def test_a_part_without_which_a_class_could_not_be_learnt_never_validates() -> None:
    manifest = clips(SPEAKERS)
    only_ann = Clip(Path("ann_c.wav"), "c", "ann", split="train")
    turns = rotations(replace(manifest, clips=(*manifest.clips, only_ann)))
    assert [{c.group for c in t.in_split("validation").clips} for t in turns] == [{"bob"}, {"cy"}]
    with pytest.raises(ManifestError, match=r"0 parts .* at least 2"):
        rotations(clips({"ann": "train", "dee": "test"}))


def test_seeds_take_turns_and_never_meet() -> None:
    trials = [trial_seed(4, i) for i in range(300)]
    finals = final_seeds(4, 20)
    assert len({*trials, *finals}) == 320
    assert max(*trials, *finals) < 2**31
    for parts in (2, 3, 5, 6, 16):
        assert TURNS % parts == 0
        assert [s // 2 % parts for s in trials] == [i % parts for i in range(300)]
        assert [s // 2 % parts for s in finals] == [i % parts for i in range(20)]


def test_a_hard_part_s_difference_is_found_and_taken_off() -> None:
    rng = np.random.default_rng(1)
    worth = rng.normal(size=120) / 10
    hard = np.array([0.0, 0.3, -0.3])
    trials = [
        optuna.trial.create_trial(value=w + hard[i % 3], user_attrs={"block": i % 3})
        for i, w in enumerate(worth)
    ]
    forecast = Forecast(trials)
    found = np.array([forecast.score(t) for t in trials])
    assert np.abs(found - worth).max() < 0.05
    assert (
        np.corrcoef(found, worth)[0, 1] > 0.98 > np.corrcoef(worth, [t.value for t in trials])[0, 1]
    )
    few = block_effects([(0, 1.0), (1, 0.0)])
    assert few[0] == pytest.approx(0.5 / 3)  # one score alone is mostly its setting's
    assert block_effects([(None, 1.0), (None, 0.0)]) == {None: 0.0}


def test_halving_compares_trials_of_different_parts_by_what_is_left() -> None:
    study = optuna.create_study(direction="maximize", pruner=Halving((1,)))
    for i in range(12):  # part 1 is easier by .4
        trial = study.ask()
        trial.set_user_attr("block", i % 2)
        trial.report(0.3 + 0.4 * (i % 2) + 0.01 * i, 1)
        study.tell(trial, 0.5)
    for block, value, ends in ((0, 0.45, False), (1, 0.70, True), (1, 0.9, False)):
        trial = study.ask()
        trial.set_user_attr("block", block)
        trial.report(value, 1)
        assert trial.should_prune() == ends
        trial.set_user_attr("killed", True)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
