"""What a training asks of a schedule: the protocol, the probe, the reward, resume, replay."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from audio.arms import (
    OPERATIONS,
    Arms,
    ScheduleSettings,
    all_off,
    arms_of,
    factors,
    presets,
)
from audio.augment import draw_spectrogram, draw_waveform
from audio.classifier import SpectrogramClassifier
from audio.probe import Probe, ProbeScorer, draw_probe
from audio.progress_reward import MEMORY, WINDOW, ProgressReward
from audio.schedule import AgentSchedule, FrozenSchedule, UniformSchedule, replay
from audio.settings import AugmentationSettings, SettingsError
from audio.train import fine_tune
from audio.variation import Variation, draw_emphasised, draw_one_each, one_each
from rl.schedule import make_picker
from tests.test_train import LABELS, LIVELY, settings, told, tones, weights

AGENTS = ("exp3s", "epsilon-greedy", "ucb-window", "q-learning")
ARMS = Arms(
    {
        "masking": {"off": {"time_mask_percent": 0}, "on": {"time_mask_percent": 60}},
        "noise": {"off": {"noise_percent": 0}, "on": {"noise_percent": 90}},
    }
)


class Told:
    """A picker that plays a list of picks and keeps what it was told."""

    def __init__(self, picks):
        self.picks, self.heard, self.asked = list(picks), [], []

    def pick(self, state, *, settled=False):
        self.asked.append((state, settled))
        return self.picks[(len(self.asked) - 1) % len(self.picks)]

    def observe(self, reward, state):
        self.heard.append((reward, state))

    def belief(self, state, *, settled=False):
        return {"chance": [[0.5, 0.5]] * 2, "worth": [[0.0, 0.0]] * 2}

    def to_json(self):
        return {"asked": self.asked, "heard": self.heard}

    def restore(self, made):
        self.asked = list(made["asked"])
        self.heard = list(made["heard"])


def probe_of(n=24):
    return Probe(np.arange(n - 6, n), np.arange(n - 6, n))


def by_agent(name="epsilon-greedy", *, arms=ARMS, segment_epochs=1.0, learn=60.0, seed=0, n=24):
    picker = make_picker(name, arms.sizes, seed=seed)
    return AgentSchedule(
        name, picker, arms, probe_of(n), segment_epochs=segment_epochs, learn_percent=learn
    )


# Arms


def test_there_are_eight_presets_and_every_one_says_every_operation():
    every = presets()["preset"]
    assert len(every) == 8
    named = {spec.name for spec in fields(AugmentationSettings)}
    assert all(set(values) <= named for values in every.values())
    assert all(set(values) == set(all_off()) for values in every.values())
    made = {json.dumps(values, sort_keys=True) for values in every.values()}
    assert len(made) == 8  # no two alike


def test_a_preset_does_not_depend_on_the_runs_own_augmentation():
    arms = arms_of("presets")
    lively = AugmentationSettings(mixup_percent=80, speed_percent=30)
    for arm in range(8):
        assert arms.augmentation((arm,), lively) == arms.augmentation(
            (arm,), AugmentationSettings()
        )


def test_with_all_off_nothing_is_drawn():
    off = AugmentationSettings(**all_off())
    rng = np.random.default_rng(0)
    wave, picture = draw_waveform(rng, off, 5), draw_spectrogram(rng, off, 5)
    for operation in OPERATIONS.values():
        draw = wave if hasattr(wave, operation.drawn) else picture
        np.testing.assert_array_equal(getattr(draw, operation.drawn), operation.still)
    assert picture.keep == 1


def test_factors_leave_alone_what_they_do_not_name():
    arms = arms_of("factored")
    base = AugmentationSettings(gain_db=3, shift_percent=7)
    strongest = arms.augmentation(tuple(size - 1 for size in arms.sizes), base)
    assert (strongest.gain_db, strongest.shift_percent) == (3, 7)
    assert strongest.speed_percent > 0
    assert strongest.mixup_percent > 0
    assert arms.augmentation((0,) * len(arms.sizes), base) == replace(
        base,
        frequency_mask_percent=0,
        time_mask_percent=0,
        speed_percent=0,
        mixup_percent=0,
        filter_db=0,
        noise_snr_db=5,
    )


def test_a_pick_is_told_in_words():
    assert arms_of("presets").name((0,)) == "none"
    assert ARMS.name((1, 0)) == "masking=on, noise=off"


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({}, "there is no factor"),
        ([1], "there is no factor"),
        ({"a": {"one": {"gain_db": 1}}}, "a has fewer than 2 arms"),
        ({"a": {"one": {"gain": 1}, "two": {}}}, "a, one: no setting .* called gain"),
        ({"a": {"one": 5, "two": {}}}, "a, one: give"),
        ({"a": {"one": {"gain_db": 99}, "two": {}}}, "gain_db=99 is above"),
        (
            {"a": {"x": {"gain_db": 1}, "y": {}}, "b": {"x": {"gain_db": 2}, "y": {}}},
            "gain_db is set by a and by b",
        ),
    ],
)
def test_arms_that_cannot_be_are_refused_in_words(made, words, tmp_path):
    with pytest.raises(SettingsError, match=words):
        Arms(made)
    path = tmp_path / "arms.json"
    path.write_text(json.dumps(made))
    with pytest.raises(SettingsError, match=rf"arms\.json: .*{words}"):
        arms_of(str(path))


def test_arms_of_ones_own_are_read_from_a_file(tmp_path):
    path = tmp_path / "arms.json"
    path.write_text(json.dumps(ARMS.to_json()))
    assert arms_of(str(path)).to_json() == ARMS.to_json()
    with pytest.raises(SettingsError, match=r"none\.json: No such file"):
        arms_of(str(tmp_path / "none.json"))
    path.write_text("{")
    with pytest.raises(SettingsError, match=r"arms\.json: no JSON"):
        arms_of(str(path))
    with pytest.raises(SettingsError, match="arms='mine' is not one of"):
        arms_of("mine")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"schedule": "greedy"}, "schedule='greedy' is not one of: none, uniform, exp3s"),
        ({"schedule": "exp3s", "keep_probe_out": True}, "keep_probe_out belongs to a replayed"),
        ({"schedule": "exp3s", "probe_percent": 90}, "probe_percent=90 is above"),
        ({"schedule": "exp3s", "segment_epochs": 0}, "segment_epochs=0 is below"),
    ],
)
def test_settings_of_a_schedule_that_cannot_be_are_refused(values, words):
    with pytest.raises(SettingsError, match=words):
        ScheduleSettings(**values)


# One operation a clip


def test_each_clip_gets_one_operation_or_none_and_all_are_as_likely():
    rng = np.random.default_rng(0)
    varied = one_each(AugmentationSettings())
    seen = np.zeros(len(OPERATIONS) + 1)
    for _ in range(60):
        variation = draw_one_each(rng, varied, 40)
        wave = variation.of(draw_waveform(rng, varied, 40))
        picture = variation.of(draw_spectrogram(rng, varied, 40))
        for clip in range(40):
            on = []
            for number, operation in enumerate(OPERATIONS.values()):
                draw = wave if hasattr(wave, operation.drawn) else picture
                value = np.atleast_1d(getattr(draw, operation.drawn)[clip])
                still = np.full_like(value, operation.still)
                if not np.array_equal(value, still, equal_nan=True):
                    on.append(number)
            assert len(on) <= 1
            assert on == [variation.chosen[clip]] or variation.chosen[clip] == len(OPERATIONS)
            seen[variation.chosen[clip]] += 1
        assert picture.keep == 1  # no clip is mixed with another
    expected = seen.sum() / len(seen)
    assert ((seen - expected) ** 2 / expected).sum() < 24.3  # chi-squared, 7 degrees, 0.1 %


def test_strengths_are_drawn_evenly_up_to_the_greatest():
    rng = np.random.default_rng(1)
    varied = one_each(AugmentationSettings(), ["gain", "frequency-mask"])
    gains = [
        draw.gain_db[variation.chosen == 0]
        for variation in (draw_one_each(rng, varied, 50, ["gain", "frequency-mask"]),) * 40
        for draw in (variation.of(draw_waveform(rng, varied, 50)),)
    ]
    drawn = np.abs(np.concatenate(gains))
    assert drawn.max() <= 12
    assert np.quantile(drawn, [0.25, 0.5, 0.75]) == pytest.approx([3, 6, 9], abs=0.8)


def test_an_operation_picked_is_given_to_half_the_clips_and_the_rest_are_drawn_evenly():
    rng = np.random.default_rng(0)
    arms = arms_of("operations")
    assert arms.names[0] == (*OPERATIONS, "none")
    varied = one_each(AugmentationSettings())
    for arm in (0, len(OPERATIONS)):
        chosen = draw_emphasised(rng, varied, 4000, arm=arm, emphasis=arms.emphasis).chosen
        share = np.bincount(chosen, minlength=len(OPERATIONS) + 1) / 4000
        rest = 0.5 / len(share)
        expected = np.full(len(share), rest)
        expected[arm] += 0.5
        assert share == pytest.approx(expected, abs=0.03)
    with pytest.raises(SettingsError, match=r"emphasis=0\.5 belongs to the arms called operations"):
        Arms(ARMS.to_json(), 0.5)


def test_a_schedule_of_operations_resumes_and_replays_exactly(tmp_path):
    def scheduled():
        return by_agent("ucb-window", arms=arms_of("operations"), segment_epochs=0.5)

    schedule, path, wanted = scheduled(), tmp_path / "c.safetensors", settings(epochs=4)
    whole = fine_tune(tones(), tones(9), wanted, LABELS, schedule=schedule)
    asked = iter(range(100))
    fine_tune(
        tones(), tones(9), wanted, LABELS, checkpoint=path, schedule=scheduled(),
        stop=lambda: next(asked) >= 7,
    )  # fmt: skip
    again = scheduled()
    fit = fine_tune(tones(), tones(9), wanted, LABELS, checkpoint=path, schedule=again)
    assert told(fit) == told(whole)
    assert again.segments == schedule.segments
    frozen = replay(schedule.record(), where="s.json", keep_probe_out=True)
    assert told(fine_tune(tones(), tones(9), wanted, LABELS, schedule=frozen)) == told(whole)


def test_a_variation_of_all_leaves_a_draw_as_it_is():
    draw = draw_waveform(np.random.default_rng(0), AugmentationSettings(), 4)
    assert Variation(AugmentationSettings()).of(draw) is draw


# The probe


def test_a_probe_is_of_whole_groups_with_every_class_left_to_train_on():
    targets = np.arange(400) % 5
    groups = [f"s{i // 10}" for i in range(400)]
    probe = draw_probe(targets, groups, percent=10)
    assert probe.by == "group"
    assert 0.05 <= len(probe.out) / 400 <= 0.15
    out = {groups[row] for row in probe.out}
    assert not out & {groups[row] for row in probe.kept(400)}
    assert set(targets[probe.kept(400)]) == set(range(5))
    assert set(probe.scored) <= set(probe.out)
    assert np.array_equal(np.sort(np.concatenate([probe.out, probe.kept(400)])), np.arange(400))


def test_a_probe_of_few_large_groups_is_drawn_clip_by_clip():
    """Three speakers: a whole one would be a third of what there is to learn from."""
    targets = np.arange(300) % 10
    probe = draw_probe(targets, [f"speaker {i % 3}" for i in range(300)], percent=8)
    assert probe.by == "clip"
    assert len(probe.out) == 24
    assert set(np.bincount(targets[probe.out])) == {2, 3}


def test_the_scored_part_of_a_probe_has_the_classes_in_proportion():
    targets = np.repeat(np.arange(4), 100)
    probe = draw_probe(targets, [None] * 400, percent=25, most=40)
    assert len(probe.scored) == 40
    assert np.bincount(targets[probe.scored]).tolist() == [10] * 4


def test_a_probe_of_few_clips_a_class_is_no_larger_than_asked_for():
    probe = draw_probe(np.arange(20) % 10, [None] * 20, percent=10)
    assert len(probe.out) == 2


def test_another_seed_draws_another_probe_and_the_same_the_same():
    targets = np.arange(200) % 4
    one, again, other = (draw_probe(targets, [None] * 200, percent=10, seed=s) for s in (1, 1, 2))
    assert np.array_equal(one.scored, again.scored)
    assert not np.array_equal(one.out, other.out)


def test_too_few_clips_for_a_probe_are_told():
    with pytest.raises(SettingsError, match="probe_percent=8 of 3 training clips leaves no probe"):
        draw_probe(np.arange(3), [None] * 3, percent=8)


@pytest.mark.parametrize("n_parts", [1, 3])
def test_the_probes_loss_is_the_cross_entropy_of_the_clips_as_they_are(n_parts):
    examples, wanted = tones(24), settings(dropout=0.5)
    model = SpectrogramClassifier.from_settings(wanted, LABELS).train()
    scorer = ProbeScorer(examples, probe_of(), n_parts=n_parts)
    modes = [module.training for module in model.modules()]
    found = np.sum([scorer.losses(model, part) for part in range(n_parts)], axis=0)
    assert [module.training for module in model.modules()] == modes
    p = model.eval().predict([examples.waveforms[row] for row in range(18, 24)])
    expected = -np.log(p[np.arange(6), examples.targets[18:24]])
    assert found[0] == pytest.approx(expected.sum(), rel=1e-4)
    smooth = 0.9 * expected - 0.1 * np.log(p).mean(1)
    assert found[1] == pytest.approx(smooth.sum(), rel=1e-4)
    assert found[2] == 6


def several_of(n):
    """Return memberships of three labels: one, another, a rare third now and then, or none."""
    made = np.zeros((n, 3), np.float32)
    made[::2, 0] = made[::3, 1] = made[::10, 2] = 1
    return made


def test_of_several_labels_each_is_left_to_train_on_and_the_rare_one_is_in_the_probe_too():
    targets = several_of(120)
    probe = draw_probe(targets, [None] * 120, percent=20)
    assert len(probe.out) == 24
    kept = targets[probe.kept(120)]
    assert (kept.sum(0) > 0).all()
    assert targets[probe.out, 2].sum() in (2, 3)  # a fifth of its twelve
    with pytest.raises(SettingsError, match="leaves no probe and a clip of every class"):
        draw_probe(np.eye(4, dtype=np.float32), [None] * 4, percent=50)


def test_clips_of_several_labels_are_scheduled_and_scored_label_by_label():
    examples = replace(tones(24), targets=several_of(24))
    model = SpectrogramClassifier.from_settings(settings(), LABELS, multi_label=True)
    found = ProbeScorer(examples, probe_of(), n_parts=1).losses(model, 0)
    p = model.eval().predict([examples.waveforms[row] for row in range(18, 24)])
    y = examples.targets[18:24]
    for value, share in zip(found, (0.0, 0.1), strict=False):
        wanted = y * (1 - share) + share / 2
        expected = -(wanted * np.log(p) + (1 - wanted) * np.log(1 - p)).mean(1).sum()
        assert value == pytest.approx(expected, rel=1e-4)
    schedule = by_agent(learn=100)
    validation = replace(tones(9), targets=several_of(9))
    fine_tune(examples, validation, settings(epochs=3), LABELS, schedule=schedule)
    assert ["reward" in segment for segment in schedule.segments] == [True] * 3


# The reward


def test_the_reward_is_the_drop_beyond_what_loss_and_learning_rate_led_to_expect():
    reward = ProgressReward(smoothing=1.0)
    reward.start(2.0)
    assert reward.after(1.8, 0.5) == 0  # sets the speed: .2 / (2 * .5) = .2
    # expected at half the rate: .2 * 1.8 * .25 = .09; half as much as that is worse than expected
    assert reward.after(1.755, 0.25) == 0  # the only one so far: the middle of one
    assert reward.advantages == pytest.approx([0.045 / 0.45 - 0.2])
    speed = (MEMORY * 0.2 + 0.045) / (MEMORY * 1.0 + 0.45)
    assert reward.after(1.655, 0.25) == 0.5
    assert reward.advantages[1] == pytest.approx(0.1 / (1.755 * 0.25) - speed)


def test_a_chance_low_of_one_segment_is_not_held_against_the_next():
    """A constant loss with noise: what is beyond expectation should not swing back."""

    def neighbours(smoothing):
        reward, rng = ProgressReward(smoothing=smoothing), np.random.default_rng(0)
        reward.start(1.0)
        got = [reward.after(1.0 + 0.05 * rng.standard_normal(), 0.1) for _ in range(400)][1:]
        return np.corrcoef(got[:-1], got[1:])[0, 1]

    assert neighbours(1.0) < -0.35  # -.5 for differences of noise
    assert neighbours(0.6) > neighbours(1.0) + 0.1


def test_the_smoothed_loss_moves_part_of_the_way_from_the_expected_one():
    reward = ProgressReward(smoothing=0.5)
    reward.start(2.0)
    reward.after(1.8, 0.5)
    reward.after(1.6, 0.5)  # expected 1.8 - .2 * .9 = 1.62
    assert reward.advantages == pytest.approx([0.02 / 0.9])
    assert reward.loss == pytest.approx(1.61)


def test_a_training_that_slows_down_as_expected_gives_no_arm_a_worse_reward():
    """The loss falls by a tenth of itself for each unit of learning rate, which falls to zero."""
    reward, loss = ProgressReward(), 3.0
    reward.start(loss)
    got = []
    for step in range(40):
        rate = 0.5 * (1 + math.cos(math.pi * step / 40))
        loss *= 1 - 0.1 * rate
        got.append(reward.after(loss, rate))
    assert np.abs(reward.advantages).max() < 1e-9
    assert all(-1 <= value <= 1 for value in got)


def test_rewards_stay_in_their_range_and_only_the_latest_are_ranked_among():
    reward, rng = ProgressReward(), np.random.default_rng(0)
    reward.start(1.0)
    got = [reward.after(float(rng.exponential()), 0.1) for _ in range(100)]
    assert len(reward.advantages) == WINDOW
    assert -1 <= min(got) < -0.7
    assert 0.7 < max(got) <= 1


# The protocol, in a training


def test_arms_are_held_for_segments_and_rewarded_when_these_end():
    picker = Told([(0, 0), (1, 1)])
    schedule = AgentSchedule("told", picker, ARMS, probe_of(), segment_epochs=2, learn_percent=100)
    fine_tune(tones(24), tones(9), settings(epochs=5), LABELS, schedule=schedule)
    assert [s["first_step"] for s in schedule.segments] == [0, 6, 12]
    assert [s["arm"] for s in schedule.segments] == [[0, 0], [1, 1], [0, 0]]
    assert len(picker.heard) == 2  # the last segment was cut short by the end
    assert "reward" not in schedule.segments[2]
    assert [state[0] for state, _ in picker.asked] == [0, 1, 2]  # thirds of the training
    assert not any(settled for _, settled in picker.asked)


def test_what_is_picked_is_what_varies_the_clips():
    """Held throughout, an arm is the same training as with those settings, number for number."""
    plain = settings(epochs=2, time_mask_percent=60, noise_percent=90)
    probe = Probe(np.empty(0, np.int64), np.arange(3))  # scored, and trained on all the same
    schedule = AgentSchedule("told", Told([(1, 1)]), ARMS, probe)
    scheduled = fine_tune(tones(), tones(9), settings(epochs=2), LABELS, schedule=schedule)
    assert told(scheduled) == told(fine_tune(tones(), tones(9), plain, LABELS))


class Watched:
    """Examples that note which rows are asked for, and whether varied."""

    def __init__(self, examples):
        self.examples, self.targets, self.varied, self.clean = examples, examples.targets, [], []

    def levels(self, rows, model, rng, variation=None):
        (self.clean if rng is None else self.varied).append(rows)
        return self.examples.levels(rows, model, rng, variation)

    def probabilities(self, model):
        return self.examples.probabilities(model)


def test_the_gradient_never_sees_a_clip_that_is_still_to_be_scored():
    watched = Watched(tones(24))
    schedule = by_agent(learn=60)
    wanted = settings(epochs=5, clip_s=0.2)
    fine_tune(watched, tones(9), wanted, LABELS, schedule=schedule)
    assert schedule.release_step == 9
    assert len(watched.varied) == 15  # as many steps as without a probe
    before = np.concatenate(watched.varied[:9])
    assert not set(before) & set(schedule.probe.out)
    assert np.bincount(before, minlength=24)[:18].min() >= 3  # every other clip in every epoch
    after = np.concatenate(watched.varied[9:])
    assert np.bincount(after, minlength=24).tolist() == [2] * 24  # released, all alike
    assert set(np.concatenate(watched.clean)) == set(schedule.probe.scored)
    rewarded = ["reward" in segment for segment in schedule.segments]
    assert rewarded == [True, True, True, False, False]


def test_a_settled_agent_is_asked_to_explore_no_more():
    picker = Told([(0, 0)])
    schedule = AgentSchedule("told", picker, ARMS, probe_of(), learn_percent=50)
    fine_tune(tones(24), tones(9), settings(epochs=4), LABELS, schedule=schedule)
    assert [settled for _, settled in picker.asked] == [False, False, True, True]
    assert len(picker.heard) == 2


def test_the_state_tells_the_gap_between_the_probe_and_the_training():
    """Labels drawn at random can be learnt by heart, but not foretold."""
    rng = np.random.default_rng(0)
    examples = replace(tones(24), targets=rng.integers(3, size=24))
    picker = Told([(0, 0)])
    schedule = AgentSchedule("told", picker, ARMS, probe_of(), learn_percent=100)
    wanted = settings(epochs=30, label_smoothing=0.0, dropout=0.0, **all_off())
    fine_tune(examples, tones(9), wanted, LABELS, schedule=schedule)
    assert schedule.segments[-1]["gap"] > 0.25
    assert picker.heard[-1][1][1] == 2


@pytest.mark.parametrize("name", AGENTS)
def test_an_arm_that_truly_helps_is_found(name):
    """A training in which one arm of four makes the loss fall faster and the others slow it."""
    arms = Arms({"arm": {str(k): {"gain_db": float(k)} for k in range(4)}})
    found = 0
    for seed in range(5):
        schedule = AgentSchedule(
            name, make_picker(name, arms.sizes, seed=seed), arms, probe_of(), learn_percent=75
        )
        picks = _faked(schedule, [0.02, 0.12, 0.03, 0.0], seed=seed)
        found += np.mean([pick == 1 for pick in picks[30:]]) > 0.7
    assert found >= 4


def _faked(schedule, speeds, *, seed, epochs=40):
    """Run a schedule through a training that has a loss and no network; return its picks.

    An arm makes the probe's loss fall by a share of itself, its speed times the learning rate.
    """
    from audio.schedule import Course

    rng = np.random.default_rng(seed)
    loss = 2.3

    class Scorer:
        parts = ([0],)

        def losses(self, model, part):
            return loss * 6, loss * 6, 6

    examples = tones(24)
    schedule.begin(Course(examples, settings(epochs=epochs), 3 * epochs, 3))
    schedule._scorer, schedule._moments = Scorer(), [2]
    for step in range(3 * epochs):
        rate = 0.5 * (1 + math.cos(math.pi * step / (3 * epochs)))
        gain = schedule.variation(step, 8, rng, None).settings.gain_db
        loss *= 1 - speeds[int(gain)] * rate * float(rng.uniform(0.5, 1.5))
        schedule.after(step, None, torch.tensor(loss), rate)
    return [segment["arm"][0] for segment in schedule.segments]


def test_a_schedule_is_the_same_for_the_same_seed_and_another_for_another():
    runs = {}
    for seed in (0, 0, 1):
        schedule = by_agent(seed=seed)
        fine_tune(tones(), tones(9), settings(epochs=4), LABELS, schedule=schedule)
        runs.setdefault(seed, []).append([s["arm"] for s in schedule.segments])
    assert runs[0][0] == runs[0][1]
    assert runs[0][0] != runs[1][0]


# Kill and resume


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("segment_epochs", [0.5, pytest.param(1.0, marks=pytest.mark.slow), 1.5])
@pytest.mark.parametrize(
    "steps",
    [pytest.param(n, marks=() if n in (4, 9) else pytest.mark.slow) for n in (1, 4, 6, 9, 17)],
)
def test_a_scheduled_fit_that_was_killed_goes_on_to_the_same_picks_and_losses(
    tmp_path, name, segment_epochs, steps
):
    """24 clips in batches of 8: three steps an epoch. Segments are 2, 3 and 4 steps, so some kills
    are amid one, some at an epoch's end, some both."""
    wanted = settings(epochs=6, **LIVELY)

    def scheduled():
        return by_agent(name, segment_epochs=segment_epochs, learn=70)

    schedule = scheduled()
    whole = fine_tune(tones(), tones(9), wanted, LABELS, schedule=schedule)
    expected = schedule.segments
    path = tmp_path / "checkpoint.safetensors"
    asked = iter(range(100))
    killed = fine_tune(
        tones(), tones(9), wanted, LABELS, checkpoint=path, schedule=scheduled(),
        stop=lambda: next(asked) >= steps,
    )  # fmt: skip
    assert killed.stopped
    schedule = scheduled()
    again = fine_tune(tones(), tones(9), wanted, LABELS, checkpoint=path, schedule=schedule)
    assert told(again) == told(whole)
    assert schedule.segments == expected
    assert all(torch.equal(w, weights(whole)[n]) for n, w in weights(again).items())


def test_a_uniform_fit_that_was_killed_goes_on_to_the_same_losses(tmp_path):
    wanted = settings(epochs=4)
    whole = fine_tune(tones(), tones(9), wanted, LABELS, schedule=UniformSchedule())
    path, asked = tmp_path / "c.safetensors", iter(range(100))
    fine_tune(
        tones(), tones(9), wanted, LABELS, checkpoint=path, schedule=UniformSchedule(),
        stop=lambda: next(asked) >= 7,
    )  # fmt: skip
    again = fine_tune(
        tones(), tones(9), wanted, LABELS, checkpoint=path, schedule=UniformSchedule()
    )
    assert told(again) == told(whole)


def test_a_checkpoint_of_another_schedule_is_refused_by_its_path(tmp_path):
    path = tmp_path / "c.safetensors"
    wanted = settings(epochs=1)
    fine_tune(tones(), tones(9), wanted, LABELS, checkpoint=path, schedule=by_agent("exp3s"))
    for other in (None, by_agent("ucb-window"), UniformSchedule(), by_agent("exp3s", learn=80)):
        with pytest.raises(SettingsError, match=r"c\.safetensors: a checkpoint of another sched"):
            fine_tune(tones(), tones(9), wanted, LABELS, checkpoint=path, schedule=other)


# Replay


@pytest.mark.parametrize("name", AGENTS)
def test_a_recorded_schedule_replays_exactly(name):
    """The same picks at the same steps; with the same probe kept out, the same numbers too."""
    schedule = by_agent(name, segment_epochs=0.5)
    wanted = settings(epochs=5, **LIVELY)
    whole = fine_tune(tones(), tones(9), wanted, LABELS, schedule=schedule)
    made = json.loads(json.dumps(schedule.record()))
    frozen = replay(made, where="schedule.json", keep_probe_out=True)
    again = fine_tune(tones(), tones(9), wanted, LABELS, schedule=frozen)
    assert told(again) == told(whole)
    assert frozen.record()["segments"] == schedule.segments
    free = replay(made, where="schedule.json")
    other = fine_tune(tones(), tones(9), wanted, LABELS, schedule=free)
    assert told(other) != told(whole)  # it trained on the probe too
    for step in range(15):
        picked = tuple(schedule.segments[step // 2]["arm"])
        varied = free.variation(step, 8, np.random.default_rng(0), whole.model)
        assert varied.settings == ARMS.augmentation(picked, wanted.augmentation)


def test_in_a_longer_training_a_schedule_is_held_in_the_same_shares():
    schedule = by_agent()
    fine_tune(tones(), tones(9), settings(epochs=4), LABELS, schedule=schedule)
    frozen = FrozenSchedule(schedule.record())
    fine_tune(tones(), tones(9), settings(epochs=8), LABELS, schedule=frozen)
    assert [frozen.segment_of(step) for step in range(24)] == [k // 6 for k in range(24)]
    fine_tune(tones(), tones(9), settings(epochs=2), LABELS, schedule=frozen)
    assert [frozen.segment_of(step) for step in range(6)] == [0, 0, 1, 2, 2, 3]


def test_uniforms_record_is_followed_too():
    schedule = UniformSchedule()
    whole = fine_tune(tones(), tones(9), settings(), LABELS, schedule=schedule)
    made = json.loads(json.dumps(schedule.record()))
    again = fine_tune(tones(), tones(9), settings(), LABELS, schedule=replay(made, where="s.json"))
    assert told(again) == told(whole)
    assert told(whole) != told(fine_tune(tones(), tones(9), settings(), LABELS))


def recorded():
    schedule = by_agent()
    fine_tune(tones(), tones(9), settings(epochs=2), LABELS, schedule=schedule)
    return schedule.record()


def spoilt(made, path, value):
    *outer, last = path
    at = made
    for key in outer:
        at = at[key]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return made


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["segments"], None, "no schedule .*segments"),
        (["arms"], None, "no schedule .*arms"),
        (["segments"], [], "do not follow one another"),
        (["segments", 0, "arm"], [7, 0], "name arms that it has not"),
        (["segments", 0, "arm"], [0], "name arms that it has not"),
        (["segments", 1, "first_step"], 0, "do not follow one another"),
        (["segments", 0, "first_step"], 1, "do not follow one another"),
        (["arms", "noise", "on"], {"noise": 3}, "no setting of the augmentation is called noise"),
    ],
)
def test_a_file_that_is_no_schedule_is_refused_by_its_path(path, value, words):
    with pytest.raises(SettingsError, match=rf"my\.json: .*{words}"):
        replay(spoilt(recorded(), path, value), where="my.json")


def test_a_probe_of_other_clips_cannot_be_kept_out_again():
    frozen = replay(recorded(), where="my.json", keep_probe_out=True)
    with pytest.raises(SettingsError, match="made with 24 training clips and there are 30"):
        fine_tune(tones(30), tones(9), settings(epochs=2), LABELS, schedule=frozen)
    with pytest.raises(SettingsError, match=r"my\.json: uniform kept no probe"):
        replay(UniformSchedule().record(), where="my.json", keep_probe_out=True)
    with pytest.raises(SettingsError, match=r"my\.json: made with other operations"):
        replay({"schedule": "uniform", "operations": {}}, where="my.json")


def test_the_default_factors_and_presets_can_all_be_picked():
    for name, made in (("presets", presets()), ("factored", factors())):
        arms = arms_of(name)
        assert arms.to_json() == made
        for number, size in enumerate(arms.sizes):
            for arm in range(size):
                pick = [0] * len(arms.sizes)
                pick[number] = arm
                arms.augmentation(tuple(pick), AugmentationSettings())
