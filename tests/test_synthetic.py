"""The embedded corpus: deterministic, resumable, physical, and hard across sessions."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.random import default_rng
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from audio.clips import read_csv
from audio.settings import SettingsError
from data import synthetic
from data.sounds import (
    BELL_PARTIALS,
    DTMF_COLUMNS_HZ,
    DTMF_KEYS,
    DTMF_ROWS_HZ,
    bell,
    dial_tones,
    engine,
    firing_wave,
    struck,
    telephone,
    tone,
)
from data.synthetic import CLASSES, SyntheticSettings, render_clip, synthesise, write_corpus

RATE = 16000
SMALL = SyntheticSettings(clips_per_class=2, sessions=2, clip_s=0.5)


def spectrum(wave):
    """Return the Hann-windowed power spectrum and its frequencies."""
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    return power, np.fft.rfftfreq(len(wave), 1 / RATE)


def share_near(wave, centres_hz, width_hz=6.0):
    """Return the share of the energy that lies within `width_hz` of some frequencies."""
    power, f = spectrum(wave)
    near = np.abs(f[:, None] - np.asarray(centres_hz)).min(axis=1) <= width_hz
    return power[near].sum() / power.sum()


def log_bands(wave):
    """Return (n_frames, 40) band levels in dB, bands a constant ratio wide."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::256] * np.hanning(512)
    edges = np.unique(np.geomspace(2, 257, 41).astype(int))
    power = np.add.reduceat(np.abs(np.fft.rfft(frames)) ** 2, edges[:-1], axis=1)
    return 10 * np.log10(power / np.diff(edges) + 1e-9)


@pytest.fixture(scope="module")
def corpus():
    settings = SyntheticSettings(clips_per_class=24, sessions=8)
    return [render_clip(i, settings) for i in range(settings.n_clips)]


def test_a_clip_depends_on_settings_and_index_alone():
    first = render_clip(3, SMALL)[0]
    render_clip(5, SMALL)
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(first, render_clip(3, SMALL)[0])
    other = SyntheticSettings(clips_per_class=2, sessions=2, clip_s=0.5, seed=1)
    assert not np.array_equal(first, render_clip(3, other)[0])


def test_every_setting_changes_something():
    def look(**changed):
        settings = SyntheticSettings(**{"clips_per_class": 2, "sessions": 2, **changed})
        wave, label, group = render_clip(settings.n_clips - 1, settings)
        return settings.n_clips, len(wave), label, group, wave[:100].tobytes()

    base = look()
    changes = ({"clips_per_class": 3}, {"sessions": 1}, {"clip_s": 1.0}, {"seed": 5})
    for changed in (*changes, {"sample_rate_hz": 22050}):
        assert look(**changed) != base, changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sessions": 81}, "sessions=81 exceeds clips_per_class=80"),
        ({"clip_s": 0.1}, "clip_s=0.1 is below"),
        ({"sample_rate_hz": 4000}, "sample_rate_hz=4000 is below"),
        ({"clips_per_class": 1.5}, "whole number"),
    ],
)
def test_illegal_settings_are_refused(changed, message):
    with pytest.raises(SettingsError, match=message):
        SyntheticSettings(**changed)


def test_illegal_calls_are_refused():
    with pytest.raises(SettingsError, match=r"label='dog' is not one of: bell"):
        synthesise("dog", default_rng(0), n_samples=RATE, sample_rate_hz=RATE)
    with pytest.raises(SettingsError, match=r"n_samples=10 "):
        synthesise("bell", default_rng(0), n_samples=10, sample_rate_hz=RATE)
    with pytest.raises(SettingsError, match=r"sample_rate_hz=4000"):
        synthesise("bell", default_rng(0), n_samples=RATE, sample_rate_hz=4000)
    with pytest.raises(SettingsError, match=r"index=20 is outside 0\.\.19"):
        render_clip(20, SMALL)


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize(("n_samples", "rate"), [(32000, 16000), (4000, 8000), (22050, 44100)])
def test_a_dry_sound_is_finite_and_never_silent(label, n_samples, rate):
    for seed in range(6):
        wave = synthesise(label, default_rng(seed), n_samples=n_samples, sample_rate_hz=rate)
        assert wave.shape == (n_samples,)
        assert wave.dtype == np.float32
        assert np.abs(wave).max() == pytest.approx(1)


def test_clips_stay_in_range_and_are_never_silent(corpus):
    for wave, _, _ in corpus:
        assert wave.dtype == np.float32
        assert 0.01 < np.abs(wave).max() < 1
        assert np.sqrt(np.mean(wave**2)) > 3e-4


def test_every_session_holds_every_class_about_equally():
    settings = SyntheticSettings(clips_per_class=7, sessions=3, clip_s=0.5)
    count = Counter(render_clip(i, settings)[1:] for i in range(settings.n_clips))
    assert len(count) == 3 * len(CLASSES)
    assert set(count.values()) == {2, 3}


def test_a_corpus_is_the_same_byte_for_byte_and_its_manifest_reads_back(tmp_path):
    manifest = write_corpus(tmp_path / "a", SMALL)
    write_corpus(tmp_path / "b", SMALL)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == SMALL.n_clips + 2
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert read_csv(tmp_path / "a" / "manifest.csv") == manifest
    assert manifest.labels == CLASSES
    assert {clip.split for clip in manifest.clips} == {None}
    for index, clip in enumerate(manifest.clips):
        wave, label, group = render_clip(index, SMALL)
        assert (clip.label, clip.group, clip.path.parent.name) == (label, group, label)
        stored, rate = soundfile.read(clip.path)
        assert rate == SMALL.sample_rate_hz
        assert np.abs(stored - wave).max() < 1e-4  # 16 bits


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    class KilledError(Exception):
        pass

    def kill(done, total):
        if done == 7:
            raise KilledError

    with pytest.raises(KilledError):
        write_corpus(tmp_path, SMALL, progress=kill)
    assert not (tmp_path / "manifest.csv").exists()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}
    assert len(kept) == 7
    cut = next(iter(kept))
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-500])
    seen = []
    manifest = write_corpus(
        tmp_path, SMALL, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (20, 20)
    assert len(seen) == 20
    assert all(clip.path.is_file() for clip in manifest.clips)
    assert cut.read_bytes() == whole
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items() if path != cut)
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_of_other_settings_or_another_recipe_is_refused(tmp_path, monkeypatch):
    write_corpus(tmp_path, SMALL)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    other = SyntheticSettings(clips_per_class=2, sessions=2, clip_s=0.5, seed=9)
    with pytest.raises(SettingsError, match=r"settings\.json was written .* another folder"):
        write_corpus(tmp_path, other)
    monkeypatch.setattr(synthetic, "SNR_DB", (0.0, 1.0))
    with pytest.raises(SettingsError, match=str(Path(tmp_path, "settings.json"))):
        write_corpus(tmp_path, SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}


def test_struck_modes_are_decaying_sines():
    t = np.arange(8000) / RATE
    direct = 0.7 * np.sin(2 * np.pi * 440 * t) * np.exp(-t / 0.2)
    direct += 0.3 * np.sin(2 * np.pi * 1234.5 * t) * np.exp(-t / 0.08)
    wave = struck([440, 1234.5, 9000], [0.2, 0.08, 1.0], [0.7, 0.3, 1.0], n=8000, rate=RATE)
    assert np.abs(wave - direct).max() < 2e-3  # each is cut where it is 60 dB down


def test_a_bell_is_inharmonic_and_its_upper_partials_die_first():
    inharmonic, darker = 0, 0
    for seed in range(20):
        wave = bell(default_rng(seed), default_rng(1), 4 * RATE, RATE)
        peak = int(np.argmax(np.abs(wave)))
        power, f = spectrum(wave)
        tall = np.flatnonzero((power[1:-1] > power[:-2]) & (power[1:-1] > power[2:])) + 1
        tall = tall[power[tall] > 1e-3 * power.max()]
        ratio = f[tall] / f[tall[0]]
        inharmonic += bool(np.abs(2 * ratio - np.round(2 * ratio)).max() > 0.15)
        early, late = wave[peak : peak + 3200], wave[-6400:-3200]
        centroid = [np.sum(p * f) / np.sum(p) for p, f in map(spectrum, (early, late + 1e-9))]
        darker += centroid[1] < centroid[0]
    assert inharmonic >= 17
    assert darker >= 17


def test_a_church_bell_has_a_minor_third():
    hum, prime, tierce, quint, nominal = BELL_PARTIALS[0][:5]
    assert tierce / prime == pytest.approx(6 / 5, rel=0.02)
    assert (quint / prime, nominal / prime, hum / prime) == (1.5, 2.0, 0.5)


@pytest.mark.parametrize("key", list(DTMF_KEYS))
def test_a_dialled_key_is_its_row_and_its_column(key):
    keypad = ("123", "456", "789", "*0#")  # ITU-T Q.23, written out again
    row = next(i for i, keys in enumerate(keypad) if key in keys)
    expected = [(697, 770, 852, 941)[row], (1209, 1336, 1477)[keypad[row].index(key)]]
    wave = dial_tones(key, tone_s=0.4, gap_s=0.1, rate=RATE)
    assert len(wave) == 8000
    assert share_near(wave, expected) > 0.99


def test_a_telephone_that_dials_puts_its_energy_at_the_keypads_frequencies():
    dials = [seed for seed in range(40) if default_rng(seed).integers(4) == 0]
    assert len(dials) >= 4
    for seed in dials:
        wave = telephone(default_rng(seed), default_rng(2), 2 * RATE, RATE)
        assert share_near(wave, DTMF_ROWS_HZ + DTMF_COLUMNS_HZ, 25) > 0.8


def test_harmonics_lie_at_multiples_and_never_alias():
    steady = np.full(RATE, 1000.0)
    wave = tone(steady, np.ones(20), rate=RATE)
    assert share_near(wave, 1000 * np.arange(1, 8)) > 0.999
    power, f = spectrum(wave)
    assert f[np.argmax(power[:1500])] == pytest.approx(1000, abs=2)


def test_equal_cylinders_fire_at_multiples_of_the_firing_frequency_and_unequal_ones_between():
    cycle_hz = np.full(2 * RATE, 1500 / 120)  # 4 cylinders at 1500 rpm fire at 50 Hz
    even, uneven = (
        firing_wave(cycle_hz, np.array(gains), pulse_width=0.04, phase=0.2, rate=RATE)
        for gains in ([1, 1, 1, 1], [1, 0.5, 1.2, 0.7])
    )
    firing, half_orders = 50 * np.arange(1, 40), 12.5 * np.arange(1, 160)
    assert share_near(even, firing, 3) > 0.999
    assert share_near(uneven, firing, 3) < 0.95
    assert share_near(uneven, half_orders, 3) > 0.999


def envelope_echo(wave):
    """Return the highest autocorrelation of the 10 ms envelope at lags of 0.15 to 1.1 s."""
    level = np.abs(wave)[: len(wave) // 160 * 160].reshape(-1, 160).max(axis=1)
    level = level - level.mean()
    level += 1e-9 * default_rng(0).standard_normal(len(level))  # silence has no correlation
    echo = [
        np.corrcoef(level[:-lag], level[lag:])[0, 1] for lag in range(15, min(110, len(level) - 50))
    ]
    return max(echo)


def test_a_clock_is_more_periodic_than_steps_and_knocks():
    echo = {
        label: np.median(
            [
                envelope_echo(
                    synthesise(label, default_rng(s), n_samples=4 * RATE, sample_rate_hz=RATE)
                )
                for s in range(15)
            ]
        )
        for label in ("clock", "footsteps", "knock")
    }
    assert echo["clock"] > 0.75
    assert echo["clock"] > echo["footsteps"] + 0.1
    assert echo["clock"] > echo["knock"] + 0.1


def test_rain_is_impulsive_and_wind_is_not():
    def crest(label, seed):
        wave = synthesise(label, default_rng(seed), n_samples=2 * RATE, sample_rate_hz=RATE)
        return 1 / np.sqrt(np.mean(wave**2))

    rain, wind = (np.median([crest(kind, s) for s in range(15)]) for kind in ("rain", "wind"))
    assert rain > 1.5 * wind


def test_the_same_engine_sounds_alike_and_another_does_not():
    def colour(source, rng):
        wave = engine(default_rng(source), default_rng(rng), 2 * RATE, RATE)
        return log_bands(wave / np.abs(wave).max()).max(axis=0)

    same = [np.abs(colour(s, 1) - colour(s, 2)).mean() for s in range(8)]
    other = [np.abs(colour(s, 1) - colour(s + 1, 2)).mean() for s in range(8)]
    assert np.median(other) > 1.5 * np.median(same)


def test_a_session_is_heard_in_the_background_of_its_clips(corpus):
    quiet = np.stack([np.percentile(log_bands(wave), 15, axis=0) for wave, _, _ in corpus])
    quiet -= quiet.mean(axis=1, keepdims=True)
    session = [group for _, _, group in corpus]
    found = cross_val_score(KNeighborsClassifier(3), quiet, session, cv=StratifiedKFold(4))
    assert found.mean() > 0.6  # 1 in 8 by chance


def test_level_alone_does_not_tell_the_classes(corpus):
    level = np.array([[np.log(np.abs(w).max()), np.log(np.std(w))] for w, _, _ in corpus])
    labels = [label for _, label, _ in corpus]
    score = cross_val_score(KNeighborsClassifier(9), level, labels, cv=StratifiedKFold(4)).mean()
    assert score < 0.35  # 1 in 10 by chance


def test_a_split_by_sessions_is_harder_than_a_random_one_and_not_trivial(corpus):
    """Spectrum statistics and a nearest neighbour: what leaks through a random split."""
    bands = [log_bands(wave) for wave, _, _ in corpus]
    features = np.stack([np.concatenate([b.mean(axis=0), b.std(axis=0)]) for b in bands])
    labels, sessions = [c[1] for c in corpus], [c[2] for c in corpus]
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shuffled = StratifiedKFold(8, shuffle=True, random_state=0)
        random = cross_val_score(model, features, labels, cv=shuffled).mean()
        held_out = cross_val_score(
            model, features, labels, groups=sessions, cv=GroupKFold(8)
        ).mean()
    assert random > held_out + 0.1
    assert 0.15 < held_out < 0.6
