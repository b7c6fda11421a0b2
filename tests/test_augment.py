"""Each variation does what it says, to the clip itself and to nothing past its end."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audio import playback
from audio.augment import (
    SpectrogramDraw,
    WaveformDraw,
    apply_spectrogram,
    apply_waveform,
    draw_spectrogram,
    draw_waveform,
    mix_targets,
)
from audio.settings import AugmentationSettings

RATE = 16000
OFF = AugmentationSettings.none()
FULL = AugmentationSettings(
    gain_db=12.0,
    shift_percent=50.0,
    speed_percent=20.0,
    noise_percent=50.0,
    noise_snr_db=0.0,
    filter_db=12.0,
    frequency_mask_percent=40.0,
    time_mask_percent=40.0,
    mixup_percent=50.0,
)
LATER = {
    "pitch_semitones": 4.0,
    "polarity_percent": 50.0,
    "low_pass_percent": 50.0,
    "high_pass_percent": 50.0,
    "reverb_percent": 50.0,
    "other_clip_percent": 50.0,
    "time_warp_percent": 20.0,
    "erase_percent": 30.0,
    "cutmix_percent": 50.0,
}
EVERYTHING = replace(FULL, **LATER)


def nothing(batch=1, **values):
    """Return a draw that does nothing but what is given."""
    draw = WaveformDraw(
        gain_db=np.zeros(batch),
        turn=np.zeros(batch),
        speed=np.ones(batch),
        noise_snr_db=np.full(batch, np.nan),
        noise_slope=np.zeros(batch),
        filter_db=np.zeros((batch, 8)),
        noise_seed=5,
    )
    return replace(draw, **{name: np.asarray(value) for name, value in values.items()})


def sounds(lengths, n=8000, seed=0):
    """Return white noise of the given lengths, zeros after, and the lengths."""
    rng = np.random.default_rng(seed)
    out = np.zeros((len(lengths), n), np.float32)
    for i, length in enumerate(lengths):
        out[i, :length] = rng.normal(0, 0.1, length)
    return torch.from_numpy(out), torch.tensor(lengths)


def db(wave):
    return 10 * np.log10(np.mean(np.square(np.asarray(wave, np.float64))))


# Draws


@given(seed=st.integers(0, 2**32), batch=st.integers(1, 9))
def test_a_draw_follows_from_its_generator(seed, batch):
    for draw in (draw_waveform, draw_spectrogram):
        one, again = (
            asdict(draw(np.random.default_rng(seed), EVERYTHING, batch)) for _ in range(2)
        )
        for name in one:
            assert (one[name] is None) == (again[name] is None)
            if one[name] is not None:
                assert np.array_equal(one[name], again[name], equal_nan=True)


def test_another_generator_draws_another_variation():
    one, other = (draw_waveform(np.random.default_rng(s), FULL, 4) for s in (0, 1))
    assert not np.array_equal(one.gain_db, other.gain_db)
    assert one.noise_seed != other.noise_seed


@given(seed=st.integers(0, 2**32))
@hypothesis_settings(max_examples=30)
def test_draws_stay_within_what_the_settings_state(seed):
    draw = draw_waveform(np.random.default_rng(seed), FULL, 50)
    assert np.abs(draw.gain_db).max() <= 12
    assert np.abs(draw.turn).max() <= 0.5
    assert draw.speed.min() >= 1 / 1.2 - 1e-12
    assert draw.speed.max() <= 1.2 + 1e-12
    assert np.nanmin(draw.noise_snr_db) >= 0
    assert np.nanmax(draw.noise_snr_db) <= 30
    assert np.abs(draw.filter_db).max() <= 12
    masks = draw_spectrogram(np.random.default_rng(seed), FULL, 50)
    assert masks.mel_size.sum(1).max() <= 0.4
    assert masks.frame_size.sum(1).max() <= 0.4
    assert (masks.mel_from + masks.mel_size).max() <= 1
    assert 0.5 <= masks.keep <= 1


def test_noise_and_mixup_come_as_often_as_asked_for():
    settings = replace(FULL, noise_percent=30.0, mixup_percent=30.0)
    rng = np.random.default_rng(0)
    noisy = ~np.isnan(draw_waveform(rng, settings, 2000).noise_snr_db)
    assert noisy.mean() == pytest.approx(0.3, abs=0.05)
    mixed = [draw_spectrogram(rng, settings, 2).keep < 1 for _ in range(2000)]
    assert np.mean(mixed) == pytest.approx(0.3, abs=0.05)


def test_strength_zero_of_everything_is_identity():
    waveform, n_valid = sounds([8000, 3000])
    rng = np.random.default_rng(0)
    out, out_valid = apply_waveform(waveform, n_valid, draw_waveform(rng, OFF, 2))
    assert torch.equal(out, waveform)
    assert torch.equal(out_valid, n_valid)
    draw = draw_spectrogram(rng, OFF, 2)
    features = torch.randn(2, 20, 30, generator=torch.Generator().manual_seed(0))
    assert torch.equal(apply_spectrogram(features, torch.tensor([30, 10]), draw), features)
    assert torch.equal(mix_targets(torch.eye(2), draw), torch.eye(2))


@given(seed=st.integers(0, 2**32), lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=5))
@hypothesis_settings(max_examples=40)
def test_zeros_past_a_clips_end_stay_zeros(seed, lengths):
    waveform, n_valid = sounds(lengths, n=4000)
    draw = draw_waveform(np.random.default_rng(seed), EVERYTHING, len(lengths))
    out, out_valid = apply_waveform(waveform, n_valid, draw, sample_rate_hz=RATE)
    assert out.shape == waveform.shape
    assert torch.isfinite(out).all()
    assert ((out_valid >= 1) & (out_valid <= 4000)).all()
    for row, n in zip(out, out_valid, strict=True):
        assert not row[n:].any()


def test_what_is_applied_follows_from_the_draw():
    waveform, n_valid = sounds([8000, 3000])
    draw = draw_waveform(np.random.default_rng(1), EVERYTHING, 2)
    kept = waveform.clone()
    one, again = (apply_waveform(waveform, n_valid, draw, sample_rate_hz=RATE)[0] for _ in range(2))
    assert torch.equal(one, again)
    assert torch.equal(waveform, kept)  # the clip itself is left alone


@pytest.mark.parametrize("name", LATER)
def test_turning_on_a_later_operation_leaves_the_earlier_draws_as_they_were(name):
    """What a seed gave before must be what it gives now, beside something new."""
    waves = [
        asdict(draw_waveform(np.random.default_rng(3), settings, 6))
        for settings in (FULL, replace(FULL, **{name: LATER[name]}))
    ]
    masks = [
        asdict(draw_spectrogram(np.random.default_rng(3), settings, 6))
        for settings in (FULL, replace(FULL, **{name: LATER[name]}))
    ]
    n_new = 0
    for before, after in (waves, masks):
        for key, value in before.items():
            if value is None:
                n_new += after[key] is not None
            elif key != "room_seed":
                assert np.array_equal(value, after[key], equal_nan=True)
    assert n_new


def test_what_is_off_draws_nothing():
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    draw_waveform(one, FULL, 4)
    draw_waveform(other, replace(FULL, low_pass_hz=77.0, reverb_s=3.0, background_snr_db=0.0), 4)
    assert one.random() == other.random()


# Waveforms


def test_gain_is_the_stated_number_of_db():
    waveform, n_valid = sounds([8000, 8000])
    out, _ = apply_waveform(waveform, n_valid, nothing(2, gain_db=[6.0, -20.0]))
    assert [db(out[i]) - db(waveform[i]) for i in range(2)] == pytest.approx([6, -20], abs=1e-3)


@pytest.mark.parametrize("turn", [0.1, -0.25, 1.0, -1.0])
def test_a_shift_rotates_each_clip_within_its_own_length(turn):
    waveform, n_valid = sounds([8000, 3000])
    out, out_valid = apply_waveform(waveform, n_valid, nothing(2, turn=[turn, turn]))
    assert torch.equal(out_valid, n_valid)
    for i, n in enumerate(n_valid.tolist()):
        expected = np.roll(waveform[i, :n].numpy(), round(turn * n))
        assert np.array_equal(out[i, :n].numpy(), expected)


@pytest.mark.parametrize("speed", [1.2, 0.8])
def test_speed_moves_the_pitch_and_the_length(speed):
    t = np.arange(16000) / RATE
    waveform = torch.zeros(1, 24000)
    waveform[0, :16000] = torch.from_numpy(np.sin(2 * np.pi * 500 * t).astype(np.float32))
    out, n = apply_waveform(waveform, torch.tensor([16000]), nothing(1, speed=[speed]))
    assert n.item() == pytest.approx(16000 / speed, abs=1)
    piece = out[0, : n.item()].numpy()
    spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece))))
    assert spectrum.argmax() * RATE / len(piece) == pytest.approx(500 * speed, abs=1.5)
    assert db(piece) == pytest.approx(db(np.sin(2 * np.pi * 500 * t)), abs=0.1)


def test_a_slowed_clip_ends_with_the_window():
    waveform, n_valid = sounds([8000])
    _, n = apply_waveform(waveform, n_valid, nothing(1, speed=[0.5]))
    assert n.item() == 8000


@pytest.mark.parametrize("length", [8000, 2000])
@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_is_at_the_drawn_ratio_to_the_clip(length, slope, snr_db):
    """Over the clip's own length: what lies past its end is cut away."""
    waveform, n_valid = sounds([length])
    draw = nothing(1, noise_snr_db=[snr_db], noise_slope=[slope])
    out, _ = apply_waveform(waveform, n_valid, draw)
    noise = (out - waveform)[0, :length]
    assert db(waveform[0, :length]) - db(noise) == pytest.approx(snr_db, abs=0.5)


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_noise_falls_off_by_its_slope(slope):
    waveform, n_valid = sounds([65536], n=65536)
    draw = nothing(1, noise_snr_db=[0.0], noise_slope=[slope])
    noise = (apply_waveform(waveform, n_valid, draw)[0] - waveform)[0].numpy()
    spectrum = np.abs(np.fft.rfft(noise))
    f = np.arange(len(spectrum))
    middle = slice(100, 30000)
    bins = np.array_split(np.arange(len(spectrum))[middle], 100)
    x = np.log([f[b].mean() for b in bins])
    y = np.log([np.sqrt(np.mean(spectrum[b] ** 2)) for b in bins])
    assert np.polyfit(x, y, 1)[0] == pytest.approx(-slope, abs=0.05)


def test_clips_without_noise_are_left_alone_beside_noisy_ones():
    waveform, n_valid = sounds([8000, 8000])
    out, _ = apply_waveform(waveform, n_valid, nothing(2, noise_snr_db=[np.nan, 0.0]))
    assert torch.equal(out[0], waveform[0])
    assert not torch.equal(out[1], waveform[1])


def test_a_silent_clip_stays_silent_under_noise():
    waveform, n_valid = torch.zeros(1, 4000), torch.tensor([4000])
    out, _ = apply_waveform(waveform, n_valid, nothing(1, noise_snr_db=[0.0]))
    assert not out.any()


@pytest.mark.parametrize(("n", "rate"), [(16384, 16000), (1600, 16000), (5000, 44100), (640, 100)])
def test_the_filter_is_the_drawn_curve_over_octaves(n, rate):
    """An impulse's spectrum is the curve itself, whatever the clip's length."""
    knots = np.array([3.0, -6, 0, 9, -12, 6, -3, 12])
    waveform = torch.zeros(1, n)
    waveform[0, n // 2] = 1
    draw = nothing(1, filter_db=knots[None])
    out, _ = apply_waveform(waveform, torch.tensor([n]), draw, sample_rate_hz=rate)
    found = 20 * np.log10(np.abs(np.fft.rfft(out[0].numpy().astype(np.float64))))
    lowest = 62.5 if rate > 250 else rate / 4
    places = lowest * (rate / 2 / lowest) ** (np.arange(8) / 7)
    f = np.maximum(np.fft.rfftfreq(n, 1 / rate), lowest)
    expected = np.interp(np.log2(f), np.log2(places), knots)
    assert np.abs(found - expected).max() < 0.1


# Spectrograms


def masks(**values):
    draw = SpectrogramDraw(
        mel_from=np.zeros((1, 2)),
        mel_size=np.zeros((1, 2)),
        frame_from=np.zeros((1, 2)),
        frame_size=np.zeros((1, 2)),
        mix_with=np.zeros(1, np.int64),
        keep=1.0,
    )
    return replace(draw, **values)


@given(
    seed=st.integers(0, 2**32),
    percent=st.floats(0, 90),
    n_mels=st.integers(4, 64),
    frames=st.integers(1, 100),
)
@hypothesis_settings(max_examples=60)
def test_masks_cover_at_most_the_stated_share_of_the_clips_own_frames(
    seed, percent, n_mels, frames
):
    """Of whole cells: each of the two stripes may be rounded up to one."""
    settings = replace(OFF, frequency_mask_percent=percent, time_mask_percent=percent)
    draw = draw_spectrogram(np.random.default_rng(seed), settings, 1)
    features = torch.ones(1, n_mels, 100)
    features[0, 0, 0] = 2.0  # so that the mean is none of the values
    own = torch.tensor([frames])
    only_time = apply_spectrogram(features, own, replace(draw, mel_size=0 * draw.mel_size))
    blank = (only_time != features)[0].any(0)
    assert blank.sum() <= 2 * np.ceil(percent / 200 * frames)
    assert not blank[frames:].any()
    only_mels = apply_spectrogram(features, own, replace(draw, frame_size=0 * draw.frame_size))
    blank = (only_mels != features)[0].any(1)
    assert blank.sum() <= 2 * np.ceil(percent / 200 * n_mels)


def test_masks_lie_where_they_were_drawn():
    draw = masks(mel_from=np.array([[0.25, 0.8]]), mel_size=np.array([[0.25, 0.1]]))
    features = torch.arange(200.0).reshape(1, 20, 10)
    out = apply_spectrogram(features, torch.tensor([10]), draw)
    changed = (out != features)[0].any(1).nonzero().ravel().tolist()
    assert changed == [5, 6, 7, 8, 9, 16, 17]


def test_blanked_cells_get_the_mean_of_the_clips_own_frames():
    """Padding is no part of the clip: its length must not change what a mask looks like."""
    features = torch.full((1, 10, 40), -9.0)
    features[0, :, :20] = torch.randn(10, 20, generator=torch.Generator().manual_seed(0))
    draw = masks(frame_from=np.array([[0.5, 0.0]]), frame_size=np.array([[0.25, 0.0]]))
    out = apply_spectrogram(features, torch.tensor([20]), draw)
    assert out[0, :, 10:15].flatten().tolist() == pytest.approx(
        [features[0, :, :20].mean().item()] * 50, abs=1e-5
    )


def test_mixup_mixes_labels_as_it_mixes_clips():
    draw = masks(mix_with=np.array([1, 2, 0]), keep=0.7)
    for name in ("mel_from", "mel_size", "frame_from", "frame_size"):
        draw = replace(draw, **{name: np.zeros((3, 2))})
    features = torch.eye(3)[:, :, None]  # clip i is 1 in band i alone
    mixed = apply_spectrogram(features, torch.tensor([1, 1, 1]), draw)[:, :, 0]
    shares = mix_targets(torch.eye(3), draw)
    assert torch.equal(mixed, shares)
    expected = [[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]]
    assert torch.allclose(shares, torch.tensor(expected))
    assert torch.allclose(shares.sum(1), torch.ones(3))


def test_rotating_clip_by_clip_on_a_cpu_is_the_gather_of_a_gpu():
    waveform, n_valid = sounds([300, 200, 1, 0], n=400)
    for turn in ([0, 0, 0, 0], [7, -200, 1, 0], [-300, 200, -1, 0]):
        by = torch.tensor(turn)
        out = playback.rotate(waveform, n_valid, by)
        assert torch.equal(out, playback.gather_turned(waveform, n_valid, by))
        assert not out[3].any()


WAYS = {"clip by clip": playback.play_at, "together": playback.play_together}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("frequency_hz", [200, 1500, 3000, 5000])
@pytest.mark.parametrize("speed", [0.9, 1.013, 1.2])
def test_speed_leaves_a_tone_a_tone(frequency_hz, speed, way):
    """No images, no loss near the Nyquist frequency: lines between samples gave -24 dB at 3 kHz."""
    rate, n = 16000, 16000
    t = np.arange(n) / rate
    fade = np.sin(np.pi * np.arange(n) / n) ** 2
    clip = torch.from_numpy((np.sin(2 * np.pi * frequency_hz * t) * fade).astype(np.float32))
    played = WAYS[way](clip[None].repeat(2, 1), np.array([speed, 1.0]))
    assert torch.equal(played[1], clip)
    m = min(n, round(n / speed))
    before, after = playback.fast_lengths(n, np.array([speed]))[0]
    now = np.arange(m) * before / after / rate  # of the recording, at each sample played
    expected = np.sin(2 * np.pi * frequency_hz * now) * np.sin(np.pi * now * rate / n) ** 2
    assert np.abs(played[0, :m].numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("way", WAYS)
def test_what_a_faster_clip_cannot_hold_is_left_out(way):
    t = np.arange(16000) / 16000
    fade = np.sin(np.pi * np.arange(16000) / 16000) ** 2
    high = torch.from_numpy((np.sin(2 * np.pi * 7500 * t) * fade).astype(np.float32))
    assert WAYS[way](high[None], np.array([1.2])).abs().max() < 1e-4  # 9 kHz


@given(st.integers(1, 200_000), st.floats(0.5, 2.0))
@hypothesis_settings(max_examples=200, deadline=None)
def test_a_speed_is_met_by_two_fast_lengths(width, speed):
    (before, after), slow = playback.fast_lengths(width, np.array([speed, 0.5])).tolist()
    assert slow == playback.fast_lengths(width, np.array([0.5]))[0].tolist()
    assert before > width
    assert before / after == pytest.approx(speed, rel=5e-3)
    for n in (before, after):
        for prime in (2, 3, 5, 7, 11):
            while n % prime == 0:
                n //= prime
        assert n == 1


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_rows_of_a_speed_together_are_rows_alone(rows, monkeypatch):
    """The way of a GPU against scipy's clip by clip; full of sound up to 2.8 kHz, with ends."""
    waveform, _ = sounds([4000, 5000, 4000, 300, 4999, 4000], n=5000)
    waveform = torch.fft.rfft(waveform)
    waveform[:, round(0.7 * waveform.shape[1]) :] = 0
    waveform = torch.fft.irfft(waveform, 5000) * torch.hann_window(5000)
    speeds = np.array([1.0, 0.9, 1.1, 0.5, 2.0, 1.05])
    monkeypatch.setattr(playback, "_TOGETHER", rows * 8 * 5000)
    together = playback.play_together(waveform, speeds)
    alone = playback.play_at(waveform, speeds)
    for one, other, speed in zip(together, alone, speeds, strict=True):
        # above half of its band a clip at twice the speed is cut off, where the two ways ring
        assert (one - other).abs().max() < (5e-3 if speed == 2 else 1e-4) * alone.abs().max()
    assert torch.equal(together[0], waveform[0])


def test_noise_of_a_shifted_short_clip_is_at_the_ratio_that_was_drawn():
    """The padding holds no copy of the clip, which would count as signal."""
    waveform, n_valid = sounds([100, 1000], n=1000)
    draw = nothing(2, turn=[0.3, 0.3], noise_snr_db=[0.0, 0.0])
    out, _ = apply_waveform(waveform, n_valid, draw)
    shifted, _ = apply_waveform(waveform, n_valid, nothing(2, turn=[0.3, 0.3]))
    noise = (out - shifted)[0, :100]
    ratio_db = 10 * torch.log10(shifted[0].square().sum() / noise.square().sum())
    assert float(ratio_db) == pytest.approx(0, abs=1e-3)
