"""The embedded corpus: ten classes of everyday sounds, synthesised, in recording sessions.

A session is one room, one microphone and one background, and often one object per class, as when
a long recording is cut into clips. Whoever lets a session fall on two sides of a split scores the
session, not the sound.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from audio.clips import Clip, Manifest, write_csv
from audio.settings import SettingsError, SettingsGroup, setting
from data.sounds import MODELS, Wave, drift, filtered, log_uniform, peak_response

CLASSES: tuple[str, ...] = tuple(MODELS)

RECIPE = 1  # raise it when a change to the models or the chain changes the clips

# How hard the corpus is. Tuples are (low, high) of a uniform draw.
SNR_DB = (20.0, 35.0)  # a session's loud parts over its background
CLIP_SNR_DB = 4.0  # deviation of a clip's SNR from its session's
SAME_SOURCE = 0.5  # chance that a clip is of its session's own bell, engine, walker, ...
OVERLAP = 0.1  # chance of a faint second event of another class
OVERLAP_DB = (-28.0, -16.0)  # level of that second event relative to the first
RT60_S = (0.1, 0.6)  # reverberation time, log-uniform
REVERB_DB = (-15.0, 0.0)  # reverberant over direct energy
EQ_DB = 3.0  # deviation of the microphone's response, one draw per half octave
LOW_CUT_HZ, HIGH_CUT_HZ = (30.0, 250.0), (3500.0, 8000.0)  # band limits, log-uniform
LEVEL_DB = (-24.0, -3.0)  # a session's peak level re full scale
CLIP_LEVEL_DB = 3.0  # deviation of a clip's level from its session's

_CLIP, _SESSION, _SOURCE = range(3)  # streams of randomness under one seed


@dataclass(frozen=True)
class SyntheticSettings(SettingsGroup):
    """How large the synthesised corpus is, and which one of all possible."""

    clips_per_class: int = setting(80, low=1, high=100000)
    """Clips of each of the ten classes."""
    sessions: int = setting(20, low=1, high=10000)
    """Recording sessions (room, microphone, background) that the clips are spread over."""
    clip_s: float = setting(2.0, low=0.5, high=60.0)
    """Length of a clip, in seconds."""
    sample_rate_hz: int = setting(16000, low=8000, high=48000)
    """Sample rate of the files, in Hz."""
    seed: int = setting(0, low=0, high=2**31 - 1)
    """Seed of everything that is drawn."""

    def check_rules(self) -> None:
        if self.sessions > self.clips_per_class:
            raise SettingsError(
                f"sessions={self.sessions} exceeds clips_per_class={self.clips_per_class}, so some "
                "session would lack a class; lower it or raise clips_per_class."
            )

    @property
    def n_samples(self) -> int:
        """Samples in one clip."""
        return round(self.clip_s * self.sample_rate_hz)

    @property
    def n_clips(self) -> int:
        """Clips in the corpus."""
        return self.clips_per_class * len(CLASSES)


def synthesise(
    label: str,
    rng: Generator,
    *,
    n_samples: int,
    sample_rate_hz: int,
    source: Generator | None = None,
) -> NDArray[np.float32]:
    """Return a dry sound of one class: float32 (n_samples,), peak 1.

    The event lies anywhere in the window and may be cut off by it. `source` draws the object (which
    bell) and `rng` the performance; without `source`, `rng` draws both.

    >>> synthesise("bell", default_rng(1), n_samples=16000, sample_rate_hz=16000).shape
    (16000,)

    Raises:
        SettingsError: an unknown label, less than 0.1 s, or a rate under 8000 Hz.
    """
    if label not in MODELS:
        raise SettingsError(f"label={label!r} is not one of: {', '.join(CLASSES)}.")
    if sample_rate_hz < 8000:
        raise SettingsError(f"sample_rate_hz={sample_rate_hz} is below 8000 Hz; raise it.")
    if n_samples < 0.1 * sample_rate_hz:
        raise SettingsError(f"n_samples={n_samples} is less than 0.1 s; raise it.")
    if source is None:
        source = rng.spawn(1)[0]
    wave = MODELS[label](source, rng, n_samples, sample_rate_hz)
    return np.asarray(wave / np.abs(wave).max(), dtype=np.float32)


@dataclass(frozen=True)
class _Session:
    """What the clips of one session share. room: impulse response (n_samples or fewer,).
    microphone: magnitude (n_samples // 2 + 1,). background: noise's magnitude, likewise."""

    room: Wave
    microphone: Wave
    background: Wave
    flutter_hz: float
    flutter_depth: float
    snr_db: float
    level_db: float
    overdrive: float
    bits: float


def _draw_session(rng: Generator, settings: SyntheticSettings) -> _Session:
    n, rate = settings.n_samples, settings.sample_rate_hz
    f = np.maximum(np.fft.rfftfreq(n, 1 / rate), 1.0)
    return _Session(
        room=_draw_room(rng, n, rate),
        microphone=_draw_microphone(rng, f),
        background=_draw_background(rng, f),
        flutter_hz=log_uniform(rng, 0.5, 6.0),
        flutter_depth=rng.uniform(0, 0.9),
        snr_db=rng.uniform(*SNR_DB),
        level_db=rng.uniform(*LEVEL_DB),
        overdrive=log_uniform(rng, 1.0, 4.0) if rng.uniform() < 0.3 else 0.0,
        bits=rng.uniform(7, 9) if rng.uniform() < 0.3 else 16.0,
    )


def _draw_room(rng: Generator, n: int, rate: int) -> Wave:
    """Return direct sound, a few early reflections, and noise that decays by 60 dB in RT60.

    Moorer (1979). Air and walls take the treble first: the tail darkens as it decays.
    """
    rt60 = log_uniform(rng, *RT60_S)
    ratio = 10 ** (rng.uniform(*REVERB_DB) / 10)
    treble = rng.uniform(0.3, 0.9)
    early_s = rng.uniform(0.002, 0.03 + 0.03 * rt60, 8)
    early = rng.choice([-1.0, 1.0], 8) * np.exp(-6.9 * early_s / rt60) * rng.uniform(0.3, 1, 8)
    length = min(n, round(rt60 * rate))
    t = np.arange(length) / rate
    noise = rng.standard_normal((2, length)) * np.exp(-6.9 * t / rt60 / np.array([[1], [treble]]))
    dull = filtered(noise[0], lambda f: 1 / (1 + (f / 1500) ** 2), rate)
    tail = (dull + 0.5 * noise[1]) * (t > 0.004)
    tail /= np.sqrt(np.sum(tail**2))
    np.add.at(tail, np.minimum((early_s * rate).astype(int), length - 1), 0.3 * early)
    tail *= np.sqrt(ratio / np.sum(tail**2))
    tail[0] += 1.0
    return np.asarray(tail)


def _draw_microphone(rng: Generator, f: Wave) -> Wave:
    """Return a magnitude response: a random smooth curve, band limits, perhaps two resonances."""
    knots_hz = np.geomspace(60, 16000, 17)
    curve_db = np.interp(np.log(f), np.log(knots_hz), EQ_DB * rng.standard_normal(17))
    low, high = log_uniform(rng, *LOW_CUT_HZ), log_uniform(rng, *HIGH_CUT_HZ)
    order_low, order_high = rng.integers(1, 4), rng.integers(2, 7)
    resonances_hz = np.exp(rng.uniform(np.log(200), np.log(5000), 2))
    response = 10 ** (curve_db / 20) * (
        1 + rng.uniform(0, 3) * peak_response(f, resonances_hz, rng.uniform(3, 12))
    )
    cut = (1 + (low / f) ** (2 * order_low)) * (1 + (f / high) ** (2 * order_high))
    return np.asarray(response / np.sqrt(cut))


def _draw_background(rng: Generator, f: Wave) -> Wave:
    """Return the magnitude of hum, traffic, babble or fan over a floor of hiss."""
    kind = rng.integers(4)
    floor = 0.05 * (f / 1000) ** rng.uniform(-0.5, 0.2)
    if kind == 0:  # mains and its harmonics
        mains_hz = rng.choice([50.0, 60.0]) * np.arange(1, 25)
        level = rng.uniform(0, 1, 24) * np.arange(1, 25) ** -rng.uniform(0.2, 1.0)
        return floor + 4 * _lines(f, mains_hz, level, width_hz=1.5)
    if kind == 1:
        return floor + (np.maximum(f, 40) / 200) ** -rng.uniform(0.7, 1.5)
    if kind == 2:  # formants of many voices: the long-term spectrum of speech
        formants_hz = np.array([rng.uniform(250, 700), rng.uniform(900, 2200), 2700.0])
        return floor + peak_response(f, formants_hz, rng.uniform(1, 3)) / (1 + f / 500)
    blades_hz = log_uniform(rng, 60, 400) * np.arange(1.0, 7.0)
    flow = 1 / (1 + (f / log_uniform(rng, 200, 2500)) ** 2)
    return np.asarray(floor + flow + _lines(f, blades_hz, rng.uniform(0, 4, 6), width_hz=4.0))


def _lines(f: Wave, centres_hz: Wave, levels: Wave, *, width_hz: float) -> Wave:
    """Return Gaussian lines of some heights at some frequencies."""
    response = np.zeros(len(f))
    for centre_hz, level in zip(centres_hz, levels, strict=True):
        near = slice(*np.searchsorted(f, [centre_hz - 5 * width_hz, centre_hz + 5 * width_hz]))
        response[near] += level * np.exp(-0.5 * ((f[near] - centre_hz) / width_hz) ** 2)
    return response


def _loud_rms(wave: Wave, rate: int) -> float:
    """Return the RMS of the loudest fifth of the 20 ms frames, so pauses do not count."""
    size = rate // 50
    power = np.sort(np.mean(wave[: len(wave) // size * size].reshape(-1, size) ** 2, axis=1))
    return float(np.sqrt(np.mean(power[-max(1, len(power) // 5) :])))


def render_clip(index: int, settings: SyntheticSettings) -> tuple[NDArray[np.float32], str, str]:
    """Return clip `index` of the corpus: waveform float32 (n_samples,) in [-1, 1], label, session.

    A pure function: the class is `index % 10`, the session `index // 10 % sessions`, and each
    draws from streams of its own under `settings.seed`.

    >>> render_clip(13, SyntheticSettings())[1:]
    ('engine', 'session01')

    Raises:
        SettingsError: an index outside the corpus.
    """
    if not 0 <= index < settings.n_clips:
        raise SettingsError(
            f"index={index} is outside 0..{settings.n_clips - 1}; raise clips_per_class."
        )
    n, rate, seed = settings.n_samples, settings.sample_rate_hz, settings.seed
    class_index, session_index = _place_of(index, settings)
    session = _draw_session(default_rng([seed, _SESSION, session_index]), settings)
    rng = default_rng([seed, _CLIP, index])

    own = rng.uniform() < SAME_SOURCE
    source = default_rng([seed, _SOURCE, session_index, class_index]) if own else None
    event = _event(class_index, rng, settings, session, source)
    if rng.uniform() < OVERLAP:
        other = (class_index + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)
        event += 10 ** (rng.uniform(*OVERLAP_DB) / 20) * _event(other, rng, settings, session, None)

    colour = session.background * session.microphone
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * colour, n)
    noise *= 1 + session.flutter_depth * drift(rng, n, n / rate, fastest_hz=session.flutter_hz)
    snr_db = session.snr_db + CLIP_SNR_DB * rng.standard_normal()
    noise *= 10 ** (-snr_db / 20) / _loud_rms(noise, rate)
    heard = event + noise
    heard /= np.abs(heard).max()

    if session.overdrive:
        heard = np.tanh(session.overdrive * heard) / np.tanh(session.overdrive)
    step = 2.0 ** (1 - session.bits)  # dithered, so the error is noise rather than distortion
    heard = step * np.round(heard / step + rng.uniform(-0.5, 0.5, n))
    level_db = min(session.level_db + CLIP_LEVEL_DB * rng.standard_normal(), -0.1)
    heard *= 10 ** (level_db / 20) / np.abs(heard).max()
    return heard.astype(np.float32), CLASSES[class_index], _session_name(session_index)


def _event(
    class_index: int,
    rng: Generator,
    settings: SyntheticSettings,
    session: _Session,
    source: Generator | None,
) -> Wave:
    """Return an event (n_samples,) as the session's microphone hears it, loud parts of unit RMS.

    Levels are set behind the microphone: what it does not let through neither sounds nor masks.
    """
    n, rate = settings.n_samples, settings.sample_rate_hz
    dry = synthesise(CLASSES[class_index], rng, n_samples=n, sample_rate_hz=rate, source=source)
    padded = 1 << (n + len(session.room) - 2).bit_length()
    in_room = np.fft.rfft(dry.astype(np.float64), padded) * np.fft.rfft(session.room, padded)
    wave = np.fft.irfft(in_room, padded)[:n]
    wave = np.fft.irfft(np.fft.rfft(wave) * session.microphone, n)
    return wave / _loud_rms(wave, rate)


def write_corpus(
    root: Path,
    settings: SyntheticSettings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write the corpus under `root` and return its manifest; `group` is the session.

    `settings.json` comes first, then `<label>/<session>_<index>.wav` (16-bit PCM), then
    `manifest.csv`. Every file appears whole or not at all, and one already there is left as it is,
    so a run that was killed goes on where it stopped. progress: called with clips done and clips in
    all.

    Raises:
        SettingsError: `root` holds a corpus of other settings, or a `settings.json` of something
            else.
    """
    root.mkdir(parents=True, exist_ok=True)
    _claim(root / "settings.json", settings)
    clips: list[Clip] = []
    for index in range(settings.n_clips):
        class_index, session_index = _place_of(index, settings)
        label, group = CLASSES[class_index], _session_name(session_index)
        path = root / label / f"{group}_{index:05d}.wav"
        if not _is_whole(path, settings):
            path.parent.mkdir(exist_ok=True)
            wave, _, _ = render_clip(index, settings)
            part = path.with_name(path.name + ".part")
            pcm = np.round(wave * 32767).astype(np.int16)
            soundfile.write(part, pcm, settings.sample_rate_hz, subtype="PCM_16", format="WAV")
            part.replace(path)
        clips.append(Clip(path, label=label, group=group))
        if progress is not None:
            progress(index + 1, settings.n_clips)
    manifest = Manifest(tuple(clips), root)
    write_csv(manifest, root / "manifest.csv")
    return manifest


def _place_of(index: int, settings: SyntheticSettings) -> tuple[int, int]:
    """Return which class and which session clip `index` belongs to."""
    return index % len(CLASSES), index // len(CLASSES) % settings.sessions


def _session_name(session_index: int) -> str:
    return f"session{session_index:02d}"


def _recipe() -> dict[str, Any]:
    """Return the constants above: files made under others must not be mixed with new ones."""
    names = (
        "RECIPE SNR_DB CLIP_SNR_DB SAME_SOURCE OVERLAP OVERLAP_DB RT60_S REVERB_DB EQ_DB "
        "LOW_CUT_HZ HIGH_CUT_HZ LEVEL_DB CLIP_LEVEL_DB"
    )
    return {name: globals()[name] for name in names.split()}


def _claim(path: Path, settings: SyntheticSettings) -> None:
    """Write `settings.json`, or hold the one that is there to be the same."""
    text = json.dumps({"settings": settings.to_json(), "recipe": _recipe()}, indent=2) + "\n"
    if not path.exists():
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    elif path.read_text(encoding="utf-8", errors="replace") != text:
        raise SettingsError(
            f"{path} was written with other settings or by another version; choose another folder, "
            "or delete this one."
        )


def _is_whole(path: Path, settings: SyntheticSettings) -> bool:
    """Return whether a file is there with every sample of a clip."""
    # 44 bytes of header; the header alone would not tell a file that was cut short
    if not path.is_file() or path.stat().st_size != 44 + 2 * settings.n_samples:
        return False
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:
        return False
    return (info.frames, info.samplerate) == (settings.n_samples, settings.sample_rate_hz)
