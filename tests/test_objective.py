"""The training objective: on a node that does not see the decoded clips, and several at once."""

from __future__ import annotations

import json
import math
import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from audio.clips import ManifestError
from audio.settings import Settings
from audio.splits import SplitSettings, assign_splits
from audio.waveform import open_store
from data.corpus import CorpusSettings, open_corpus
from data.synthetic import SyntheticSettings, write_corpus
from rl.objective import Job, Stopped, TrialResult
from scripts import search
from scripts.objective import TrainingObjective


@pytest.fixture
def objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingObjective:
    """Return an objective whose decoded clips are in no folder that this machine sees."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    write_corpus(tmp_path / "clips", SyntheticSettings(clips_per_class=4, sessions=4, clip_s=0.5))
    manifest = assign_splits(open_corpus(tmp_path / "clips", CorpusSettings()), SplitSettings())
    made = TrainingObjective(
        manifest, manifest.labels, tmp_path / "elsewhere", Settings(), "macro-f1"
    )
    return pickle.loads(pickle.dumps(made))


def test_a_node_without_the_decoded_clips_decodes_them_once(
    objective: TrainingObjective, tmp_path: Path
) -> None:
    objective.prepare()
    (samples,) = (tmp_path / "scratch").rglob("samples.f32")
    when = samples.stat().st_mtime_ns
    again = replace(objective, _examples={})
    again.prepare()
    assert samples.stat().st_mtime_ns == when
    assert not (tmp_path / "elsewhere").exists()
    rate = objective.settings.spectrogram.sample_rate_hz
    there = open_store(objective.manifest, sample_rate_hz=rate, folder=tmp_path / "elsewhere")
    again.prepare()  # now it sees them
    assert samples.stat().st_mtime_ns == when
    assert there.samples.tobytes() == samples.read_bytes()


def test_a_clip_that_a_node_lacks_is_named(objective: TrainingObjective) -> None:
    gone = objective.manifest.clips[3].path
    gone.unlink()
    with pytest.raises(ManifestError, match=f"{gone.name}: cannot be read on .* nor 0 others"):
        objective.prepare()


# Several trainings at once

SMALL = {"hop_length": 320, "n_mels": 24, "epochs": 2, "dropout": 0.0, "threads": 1}
SMALL |= {"device": "cpu", "clip_s": 0.5, "size": "nano"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainingObjective:
    folder = tmp_path_factory.mktemp("stack")
    write_corpus(folder / "clips", SyntheticSettings(clips_per_class=4, sessions=4, clip_s=0.5))
    manifest = assign_splits(open_corpus(folder / "clips", CorpusSettings()), SplitSettings())
    return TrainingObjective(
        manifest, manifest.labels, folder / "store", Settings().with_values(SMALL), "accuracy"
    )


class Heard:
    """Hears scores and ends the training after `last`."""

    def __init__(self, last: int = 99) -> None:
        self.scores: list[float] = []
        self.last = last

    def wants(self) -> bool:
        return True

    def __call__(self, score: float) -> bool:
        self.scores.append(score)
        return len(self.scores) >= self.last


def sizes_of_stacks(monkeypatch: pytest.MonkeyPatch, most: int = 99) -> list[int]:
    """Return a list to which the size of each stack is added; memory is short above `most`."""
    import audio.stack_training as stacks

    real, sizes = stacks.fine_tune_many, []

    def counted(train, scored, settings, *given, **named):
        sizes.append(len(settings))
        if len(settings) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(train, scored, settings, *given, **named)

    monkeypatch.setattr(stacks, "fine_tune_many", counted)
    return sizes


JOBS = [
    {"speed_percent": 0.0},
    {"n_mels": 16},
    {"mixup_percent": 0.0, "filter_db": 12.0},
    {"balance": "weights"},  # what a stack cannot do is trained alone
    {"normalisation": "band", "learning_rate": 3e-3},
]


def test_side_by_side_trainings_score_what_each_scores_alone(whole: TrainingObjective) -> None:
    jobs = [Job(values, 4 * i, Heard()) for i, values in enumerate(JOBS)]
    ended = list(whole.many(jobs, lambda: False))
    assert [sorted(part) for part in ended] == [[0, 2, 4], [1], [3]]
    found = {i: outcome for part in ended for i, outcome in part.items()}
    for i, job in enumerate(jobs):
        alone = whole(job.values, job.seed, lambda: False, Heard())
        result = found[i]
        assert isinstance(result, TrialResult), result
        assert result.extra["validation_loss"] == pytest.approx(
            alone.extra["validation_loss"], rel=0.02
        )
        assert len(result.curve) == 2
        assert result.score == pytest.approx(alone.score, abs=0.11)  # one clip of ten
        assert job.report.scores == [pytest.approx(v, abs=1e-4) for v in result.curve]
        assert result.seconds > 0


def test_one_that_raises_or_is_ended_leaves_the_others_alone(whole: TrainingObjective) -> None:
    class Broken(Heard):
        def __call__(self, score: float) -> bool:
            if len(self.scores) == 2:
                raise RuntimeError("someone else has finished this trial")
            return super().__call__(score)

    values = [{}, {"speed_percent": 0.0}, {"mixup_percent": 0.0}]
    heard = [Heard(), Broken(), Heard(last=1)]
    jobs = [Job(v, 2, h) for v, h in zip(values, heard, strict=True)]
    longer = replace(whole, settings=whole.settings.with_values({"epochs": 6}), _examples=[])
    (found,) = longer.many(jobs, lambda: False)
    assert isinstance(found[0], TrialResult)
    assert len(found[0].curve) == 6
    assert "someone else has finished" in str(found[1])
    assert isinstance(found[2], TrialResult)
    assert len(found[2].curve) == 1
    alone = longer({}, 2, lambda: False, Heard())
    assert found[0].extra["validation_loss"] == pytest.approx(
        alone.extra["validation_loss"], rel=0.05
    )


def test_a_loss_that_is_no_number_is_that_trainings_alone(
    whole: TrainingObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    import audio.stack_training as stacks

    real = stacks.NetworkStack.logits

    def spoilt(self, features, *given, **named):
        made = real(self, features, *given, **named)
        return torch.cat([made[:1] * math.nan, made[1:]])

    monkeypatch.setattr(stacks.NetworkStack, "logits", spoilt)
    heard = [Heard(), Heard()]
    (found,) = whole.many([Job({}, 2, heard[0]), Job({}, 4, heard[1])], lambda: False)
    assert isinstance(found[0], FloatingPointError)
    assert "in epoch 1; lower learning_rate" in str(found[0])
    assert heard[0].scores == []
    assert isinstance(found[1], TrialResult)
    assert len(heard[1].scores) == 2


def test_a_stack_that_no_memory_holds_is_trained_in_halves(
    whole: TrainingObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(self, values: dict, seed: int, stop, report) -> TrialResult:
        raise FloatingPointError("the loss is nan")

    sizes = sizes_of_stacks(monkeypatch, most=2)
    monkeypatch.setattr(TrainingObjective, "__call__", ends)  # whoever is alone at last
    jobs = [Job({}, 2 * i, Heard()) for i in range(5)]
    ended = list(whole.many(jobs, lambda: False))
    assert sizes == [5, 2, 3, 2]
    assert [sorted(part) for part in ended] == [[0, 1], [2], [3, 4]]
    found = {i: outcome for part in ended for i, outcome in part.items()}
    assert [i for i in found if isinstance(found[i], TrialResult)] == [0, 1, 3, 4]
    assert "the loss is nan" in str(found[2])
    assert [len(job.report.scores) for job in jobs] == [2, 2, 0, 2, 2]


def test_memory_that_runs_out_later_fails_the_stack_and_not_the_next(
    whole: TrainingObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    import audio.stack_training as stacks

    real, calls = stacks.NetworkStack.logits, []

    def short(self, *given, **named):
        calls.append(1)
        if len(calls) == 4:  # the second epoch of the first stack
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *given, **named)

    monkeypatch.setattr(stacks.NetworkStack, "logits", short)
    jobs = [Job({"n_mels": 16 + 8 * (i // 2)}, 2 * i, Heard()) for i in range(4)]
    first, second = whole.many(jobs, lambda: False)
    assert all(isinstance(outcome, torch.OutOfMemoryError) for outcome in first.values())
    assert jobs[0].report.scores  # an epoch was told
    assert all(isinstance(outcome, TrialResult) for outcome in second.values())


def test_a_stack_with_dropout_repeats_by_its_seeds(whole: TrainingObjective) -> None:
    wet = replace(whole, settings=whole.settings.with_values({"dropout": 0.4}), _examples=[])
    losses = []
    for state in (1, 2):
        torch.manual_seed(state)
        (found,) = wet.many([Job({}, 2, Heard()), Job({}, 4, Heard())], lambda: False)
        losses.append([outcome.extra["validation_loss"] for outcome in found.values()])
    assert losses[0] == losses[1]


def test_with_several_parts_to_validate_on_each_has_its_stack(whole: TrainingObjective) -> None:
    clips = open_corpus(whole.manifest.root, CorpusSettings())
    parts = tuple(assign_splits(clips, SplitSettings(split_seed=i)) for i in (0, 1))
    turning = replace(whole, rotation=parts, _examples=[])
    jobs = [Job({}, 2 * i, Heard()) for i in range(5)]
    ended = list(turning.many(jobs, lambda: False))
    assert [sorted(part) for part in ended] == [[0, 2, 4], [1, 3]]


def test_asked_to_stop_all_of_a_stack_give_up(whole: TrainingObjective) -> None:
    asked = iter(range(99))
    jobs = [Job({}, 2, Heard()), Job({}, 4, Heard())]
    (found,) = whole.many(jobs, lambda: next(asked) >= 1)
    assert all(isinstance(outcome, Stopped) for outcome in found.values())


def test_the_command_takes_several_trials_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = sizes_of_stacks(monkeypatch)
    write_corpus(tmp_path / "clips", SyntheticSettings(clips_per_class=6, sessions=3, clip_s=0.5))
    (tmp_path / "space.toml").write_text(
        '[[knob]]\nname = "mixup_percent"\nvalues = [0.0, 50.0]\n'
        '[[knob]]\nname = "normalisation"\nvalues = ["active", "clip"]\n'
        '[[knob]]\nname = "n_mels"\nvalues = [24, 64]\n'
    )
    arguments = [str(tmp_path / "clips"), "--out", str(tmp_path / "study"), "--trials", "6"]
    arguments += ["--space", str(tmp_path / "space.toml"), "--epochs", "2", "--hop-length", "320"]
    arguments += ["--finalists", "1", "--replicates", "2", "--size", "nano", "--stack", "6"]
    assert search.main(arguments) == 0
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert [trial["state"] for trial in results["trials"]] == ["complete"] * 6
    assert sum(sizes) > 6  # of the trials, and of the finals


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--backbone", "vit-scratch"], "backbone=vit-scratch does not go with a stack"),
        (["--ema-decay", "0.9"], "ema_decay=0.9 does not go with a stack; leave it at 0.0"),
        (["--precision", "float16"], "precision=float16 does not go with a stack"),
    ],
)
def test_what_a_stack_cannot_do_is_refused(
    more: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "clips", SyntheticSettings(clips_per_class=4, sessions=4, clip_s=0.5))
    arguments = [str(tmp_path / "clips"), "--out", str(tmp_path / "study"), "--stack", "4"]
    assert search.main([*arguments, *more]) != 0
    assert reason in capsys.readouterr().err
