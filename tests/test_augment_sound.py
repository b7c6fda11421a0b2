"""Pitch, cut-offs, rooms and backgrounds: each against a calculation of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from audio.augment import apply_waveform, draw_waveform
from audio.augment_sound import add_room, room_response
from audio.backgrounds import read_backgrounds
from audio.settings import AugmentationSettings, SettingsError
from tests.test_augment import OFF, db, nothing, sounds

RATE = 16000


def varied(waveform, n_valid, draw, **more):
    return apply_waveform(waveform, n_valid, draw, sample_rate_hz=RATE, **more)


def sine(hz, n=16000, rate=RATE):
    return np.sin(2 * np.pi * hz * np.arange(n) / rate).astype(np.float32)


def loudest_hz(wave, rate=RATE):
    """Return the frequency of the spectrum's peak, to an eighth of a bin."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 8 * len(wave)))
    return spectrum.argmax() * rate / (8 * len(wave))


# Pitch


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("semitones", [-12.0, -3.0, 0.5, 4.0, 7.0])
def test_pitch_moves_a_sine_by_the_drawn_semitones_and_keeps_its_length_and_power(rate, semitones):
    waveform = torch.from_numpy(sine(500, rate, rate))[None]
    draw = nothing(1, pitch_semitones=[semitones])
    out, n_valid = apply_waveform(waveform, torch.tensor([rate]), draw, sample_rate_hz=rate)
    assert n_valid.item() == rate
    assert loudest_hz(out[0].numpy(), rate) == pytest.approx(500 * 2 ** (semitones / 12), abs=0.6)
    assert db(out[0]) == pytest.approx(db(waveform[0]), abs=0.1)


def test_pitch_moves_every_partial_and_not_the_rhythm():
    """Two chords, one after the other: each partial moves by the ratio, the change stays put."""
    first, second = sine(300) + sine(700), sine(400) + sine(1100)
    wave = np.concatenate([first[:8000], 0.2 * second[:8000]]).astype(np.float32)
    out, _ = varied(torch.from_numpy(wave)[None], torch.tensor([16000]),
                    nothing(1, pitch_semitones=[4.0]))  # fmt: skip
    ratio = 2 ** (4 / 12)
    for half, partials in ((out[0, :7000], (300, 700)), (out[0, 9000:], (400, 1100))):
        piece = half.numpy() * np.hanning(7000)
        spectrum = np.abs(np.fft.rfft(piece))
        found = scipy.signal.find_peaks(spectrum, height=spectrum.max() / 3, distance=50)[0]
        assert found * RATE / 7000 == pytest.approx([p * ratio for p in partials], abs=3)
    assert db(out[0, :7000]) - db(out[0, 9000:]) == pytest.approx(20 * np.log10(5), abs=0.3)


def test_pitch_at_zero_gives_the_clip_back():
    waveform, n_valid = sounds([8000, 3000])
    out, _ = varied(waveform, n_valid, nothing(2, pitch_semitones=[0.0, 0.0]))
    torch.testing.assert_close(out, waveform, atol=5e-4, rtol=0)


# Polarity, cut-offs


def test_polarity_negates_the_clips_that_were_drawn():
    waveform, n_valid = sounds([8000, 3000])
    out, _ = varied(waveform, n_valid, nothing(2, sign=[-1.0, 1.0]))
    assert torch.equal(out, waveform * torch.tensor([[-1.0], [1.0]]))


@pytest.mark.parametrize("kind", ["low", "high"])
@pytest.mark.parametrize("cut_hz", [300.0, 2000.0])
def test_a_cut_off_is_a_fourth_order_butterworth_filters(kind, cut_hz):
    """Against scipy: the spectrum of an impulse in the middle of a window."""
    waveform = torch.zeros(1, RATE)
    waveform[0, RATE // 2] = 1
    draw = nothing(1, **{f"{kind}_pass_hz": [cut_hz]})
    out, _ = varied(waveform, torch.tensor([RATE]), draw)
    sections = scipy.signal.butter(4, cut_hz, kind, analog=True, output="zpk")
    f = np.fft.rfftfreq(RATE, 1 / RATE)
    # an analogue filter, whose cut-off is in the unit that it is asked in
    expected = np.abs(scipy.signal.freqs_zpk(*sections, worN=f)[1])
    found = np.abs(np.fft.rfft(out[0].numpy().astype(np.float64)))
    assert np.abs(found - expected).max() < 2e-3
    assert 20 * np.log10(found[int(cut_hz)]) == pytest.approx(-3.01, abs=0.05)


def test_a_cut_off_leaves_the_other_clips_alone_and_does_not_come_round():
    waveform, n_valid = sounds([8000, 8000])
    draw = nothing(2, low_pass_hz=[np.nan, 300.0])
    out, _ = varied(waveform, n_valid, draw)
    assert torch.equal(out[0], waveform[0])
    late = torch.zeros(1, 8000)
    late[0, -1] = 1.0
    rung, _ = varied(late, torch.tensor([8000]), nothing(1, high_pass_hz=[100.0]))
    assert rung[0, :1000].abs().max() < 1e-5


def test_cut_offs_are_drawn_within_three_octaves_and_as_often_as_asked_for():
    settings = replace(
        OFF, low_pass_percent=30.0, low_pass_hz=500.0, high_pass_percent=60.0, high_pass_hz=800.0
    )
    draw = draw_waveform(np.random.default_rng(0), settings, 4000)
    low, high = draw.low_pass_hz, draw.high_pass_hz
    assert np.mean(~np.isnan(low)) == pytest.approx(0.3, abs=0.03)
    assert np.mean(~np.isnan(high)) == pytest.approx(0.6, abs=0.03)
    assert 500 <= np.nanmin(low) < 510 < 3900 < np.nanmax(low) <= 4000
    assert 100 <= np.nanmin(high) < 102 < 780 < np.nanmax(high) <= 800


# Rooms


def response_of(rt60_s, direct_db, seed=0, early=None):
    early = np.linspace(0.1, 0.9, 6)[None] if early is None else early
    made = room_response(
        np.array([rt60_s]), early, np.array([direct_db]), seed, sample_rate_hz=RATE,
        like=torch.zeros(1),
    )  # fmt: skip
    return made[0].numpy().astype(np.float64)


@pytest.mark.parametrize("rt60_s", [0.2, 0.6, 2.0])
def test_a_rooms_sound_falls_by_60_db_in_its_reverberation_time(rt60_s):
    """T20 by Schroeder's backward integration, as ISO 3382 has it; mean over rooms."""
    found = []
    for seed in range(8):
        tail = response_of(rt60_s, 0.0, seed)[int(rt60_s / 8 * RATE) :]
        left = np.cumsum(tail[::-1] ** 2)[::-1]
        level_db = 10 * np.log10(left / left[0])
        inside = (level_db < -5) & (level_db > -25)
        slope = np.polyfit(np.flatnonzero(inside) / RATE, level_db[inside], 1)[0]
        found.append(-60 / slope)
    assert np.mean(found) == pytest.approx(rt60_s, rel=0.05)


@pytest.mark.parametrize("direct_db", [0.0, 6.0, 12.0])
def test_the_direct_sound_lies_above_the_reverberation_as_drawn(direct_db):
    response = response_of(0.5, direct_db)
    assert response[0] == 1
    assert -10 * np.log10(np.square(response[1:]).sum()) == pytest.approx(direct_db, abs=0.01)


def test_early_reflections_lie_where_they_were_drawn_and_noise_follows_the_last():
    early = np.array([[0.1, 0.3, 0.35, 0.5, 0.7, 0.9]])
    response = response_of(0.4, 3.0, early=early)
    expected = np.round(early[0] * 0.4 / 8 * RATE).astype(int)
    before = np.flatnonzero(response[: expected[-1] + 1])
    assert before.tolist() == [0, *expected.tolist()]
    heights = np.abs(response[expected])
    fall = 10 ** (-3 * early[0] * 0.4 / 8 / 0.4)
    assert heights / heights[0] == pytest.approx(fall / fall[0], rel=1e-3)
    assert np.count_nonzero(response[expected[-1] + 1 : 2000]) > 500
    assert np.square(heights).sum() == pytest.approx(np.square(response[1:]).sum() / 2, rel=0.05)


def test_a_clip_in_a_room_is_its_convolution_at_the_same_power():
    waveform, n_valid = sounds([8000, 3000])
    response = torch.from_numpy(
        np.stack([response_of(0.3, 3.0, seed) for seed in (0, 1)]).astype(np.float32)
    )
    out = add_room(waveform, n_valid, response)
    for wet, dry, h, n in zip(out, waveform, response, (8000, 3000), strict=True):
        folded = scipy.signal.fftconvolve(dry[:n].numpy(), h.numpy())[:n]
        folded *= np.linalg.norm(dry) / np.linalg.norm(folded)
        assert np.abs(wet[:n].numpy() - folded).max() < 1e-4
        assert not wet[n:].any()


def test_only_the_clips_that_were_drawn_are_in_a_room():
    settings = replace(OFF, reverb_percent=50.0, reverb_s=0.4)
    draw = draw_waveform(np.random.default_rng(1), settings, 8)
    assert 0.08 <= np.nanmin(draw.rt60_s) <= np.nanmax(draw.rt60_s) <= 0.4
    dry = np.isnan(draw.rt60_s)
    assert 0 < dry.sum() < 8
    waveform, n_valid = sounds([4000] * 8)
    out, _ = varied(waveform, n_valid, draw)
    same = (out == waveform).all(1).numpy()
    assert np.array_equal(same, dry)


# Backgrounds


@pytest.mark.parametrize("snr_db", [0.0, 15.0])
def test_another_clip_is_behind_at_the_drawn_ratio(snr_db):
    waveform, n_valid = sounds([8000, 3000, 8000])
    draw = nothing(3, other=[1, 2, 0], other_snr_db=[np.nan, snr_db, snr_db])
    out, out_valid = varied(waveform, n_valid, draw)
    assert torch.equal(out_valid, n_valid)
    assert torch.equal(out[0], waveform[0])
    for i, other, n in ((1, 2, 3000), (2, 0, 8000)):
        added = (out - waveform)[i, :n].numpy()
        assert db(waveform[i, :n]) - db(added) == pytest.approx(snr_db, abs=0.01)
        assert np.corrcoef(added, waveform[other, :n])[0, 1] == pytest.approx(1, abs=1e-4)


def test_no_clip_is_its_own_background_and_a_single_one_has_none():
    settings = replace(OFF, other_clip_percent=100.0)
    for batch in (2, 3, 7):
        for seed in range(20):
            draw = draw_waveform(np.random.default_rng(seed), settings, batch)
            assert (draw.other != np.arange(batch)).all()
    assert draw_waveform(np.random.default_rng(0), settings, 1).other is None


def recordings(folder, seconds=(2.0, 0.2)):
    """Write a recording that counts up and one that counts down, of which a sample tells."""
    folder.mkdir(exist_ok=True)
    for name, n, sign in (("a", seconds[0], 1), ("b", seconds[1], -1)):
        n = round(n * RATE)
        wave = sign * (1 + np.arange(n)) / n
        soundfile.write(folder / f"{name}.wav", wave, RATE, subtype="FLOAT")
    return folder


def test_recordings_have_equal_shares_and_short_ones_go_round(tmp_path):
    found = read_backgrounds(recordings(tmp_path / "noise"), sample_rate_hz=RATE)
    assert found.length.tolist() == [32000, 3200]
    place = np.linspace(0, 1, 101)[:-1]
    pieces = found.pieces(place, 8000).numpy()
    assert (pieces[:50] > 0).all()
    assert (pieces[50:] < 0).all()
    whole = (1 + np.arange(32000)) / 32000
    for piece, at in zip(pieces[:50], place[:50], strict=True):
        first = int(at * 2 * (32000 - 8000 + 1))
        assert np.allclose(piece, whole[first : first + 8000], atol=1e-6)
    round_and_round = pieces[50]
    assert np.allclose(round_and_round[3200:6400], round_and_round[:3200])


@pytest.mark.parametrize("length", [8000, 3000])
def test_a_recording_is_behind_at_the_drawn_ratio_over_the_clips_own_length(tmp_path, length):
    found = read_backgrounds(recordings(tmp_path / "noise"), sample_rate_hz=RATE)
    waveform, n_valid = sounds([length, length])
    draw = nothing(2, background_place=[0.2, 0.9], background_snr_db=[5.0, np.nan])
    out, _ = varied(waveform, n_valid, draw, backgrounds=found)
    added = (out - waveform)[0].numpy()
    assert db(waveform[0, :length]) - db(added[:length]) == pytest.approx(5, abs=0.01)
    piece = found.pieces(np.array([0.2]), 8000)[0, :length].numpy()
    assert np.corrcoef(added[:length], piece)[0, 1] == pytest.approx(1, abs=1e-4)
    assert not out[0, length:].any()
    assert torch.equal(out[1], waveform[1])


def test_long_recordings_are_kept_in_part_each_alike_and_at_the_models_rate(tmp_path):
    folder = recordings(tmp_path / "noise", seconds=(3.0, 30.0))
    found = read_backgrounds(folder, sample_rate_hz=RATE // 2, most_bytes=4 * 2 * 10000)
    assert found.length.tolist() == [10000, 10000]
    assert found.samples[5000].item() == pytest.approx(10000 / 48000, abs=1e-3)
    assert read_backgrounds(folder, sample_rate_hz=8000).length.tolist() == [24000, 240000]


def test_recordings_that_cannot_be_used_are_told_with_their_path(tmp_path):
    with pytest.raises(SettingsError, match=r"noise: there is no such folder"):
        read_backgrounds(tmp_path / "noise", sample_rate_hz=RATE)
    (tmp_path / "noise").mkdir()
    with pytest.raises(SettingsError, match=r"noise: no sound files"):
        read_backgrounds(tmp_path / "noise", sample_rate_hz=RATE)
    soundfile.write(tmp_path / "noise" / "hush.wav", np.zeros(100), RATE)
    with pytest.raises(SettingsError, match=r"hush\.wav: is silent throughout"):
        read_backgrounds(tmp_path / "noise", sample_rate_hz=RATE)
    (tmp_path / "noise" / "hush.wav").write_bytes(b"no sound")
    with pytest.raises(SettingsError, match=r"hush\.wav"):
        read_backgrounds(tmp_path / "noise", sample_rate_hz=RATE)
    with pytest.raises(SettingsError, match=r"background_percent=50 .* give background_folder"):
        AugmentationSettings(background_percent=50.0)


# All of them


@pytest.mark.parametrize(
    "name",
    ["pitch_semitones", "polarity_percent", "low_pass_percent", "high_pass_percent",
     "reverb_percent", "noise_percent"],
)  # fmt: skip
def test_what_else_is_in_the_batch_changes_no_clip(name):
    settings = replace(OFF, **{name: 12.0 if name == "pitch_semitones" else 100.0})
    draw = draw_waveform(np.random.default_rng(2), settings, 3)
    (waveform, n_valid), (other, _) = sounds([4000, 8000, 700]), sounds([4000, 8000, 700], seed=9)
    other[1] = waveform[1]
    one, _ = varied(waveform, n_valid, draw)
    two, _ = varied(other, n_valid, draw)
    torch.testing.assert_close(one[1], two[1], atol=1e-6, rtol=1e-5)
    assert not torch.equal(one[1], waveform[1])


@pytest.mark.parametrize("name", ["pitch_semitones", "low_pass_percent", "reverb_percent"])
def test_what_is_in_hertz_or_seconds_asks_for_the_rate(name):
    draw = draw_waveform(np.random.default_rng(2), replace(OFF, **{name: 24.0}), 30)
    with pytest.raises(ValueError, match="need sample_rate_hz"):
        apply_waveform(*sounds([400] * 30), draw)


def test_recordings_that_were_drawn_must_be_given():
    settings = replace(OFF, background_percent=100.0, background_folder="noise")
    draw = draw_waveform(np.random.default_rng(2), settings, 1)
    with pytest.raises(ValueError, match="give backgrounds"):
        varied(*sounds([400]), draw)
