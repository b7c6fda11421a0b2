"""Ten everyday sounds from physical models, in numpy alone.

Each model takes two generators: `source` draws the object (which bell), `rng` the performance (when
and how hard it is struck). Ranges are wide on purpose: knocks, steps and ticks are all repeated
impacts; siren, bird, telephone and bell all tonal; rain, wind and engine all noisy. The recipes
follow Farnell, Designing Sound (2010), unless a model names another source.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Wave = NDArray[np.float64]

#: Rows and columns of the telephone keypad, in Hz (ITU-T Q.23).
DTMF_ROWS_HZ, DTMF_COLUMNS_HZ = (697, 770, 852, 941), (1209, 1336, 1477)
DTMF_KEYS = "123456789*0#"

#: Partials over the strike note: a church bell (Rossing & Perrin 1987), a free bar, a bowl (a
#: ring's bending modes, Fletcher & Rossing 1998).
BELL_PARTIALS = (
    (0.5, 1.0, 1.2, 1.5, 2.0, 2.52, 2.66, 3.01, 4.17, 5.43, 6.8),
    (1.0, 2.756, 5.404, 8.933, 13.34),
    (1.0, 2.83, 5.42, 8.77, 12.86),
)


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """Return a draw whose logarithm is uniform: as likely in every octave."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def filtered(wave: Wave, response: Callable[[Wave], Wave], rate: int) -> Wave:
    """Return the wave with its spectrum multiplied by `response(frequency_hz)`."""
    frequency_hz = np.fft.rfftfreq(len(wave), 1 / rate).astype(np.float64)
    spectrum = np.fft.rfft(wave) * response(frequency_hz)
    return np.fft.irfft(spectrum, len(wave))


def peak_response(frequency_hz: Wave, centres_hz: ArrayLike, q: float) -> Wave:
    """Return the summed magnitude of resonances of quality `q`, each 1 at its centre."""
    f, centres_hz = np.maximum(frequency_hz, 1.0)[:, None], np.asarray(centres_hz)
    response = 1 / np.sqrt(1 + (q * (f / centres_hz - centres_hz / f)) ** 2)
    return np.asarray(response.sum(axis=1))


def coloured_noise(rng: Generator, n: int, rate: int, *, db_per_octave: float) -> Wave:
    """Return Gaussian noise of unit RMS whose power falls or rises along the given slope."""

    def slope(f: Wave) -> Wave:
        return np.asarray(np.maximum(f, 30.0) ** (db_per_octave / 6.02) * (f > 15))

    noise = filtered(rng.standard_normal(n), slope, rate)
    return np.asarray(noise / np.sqrt(np.mean(noise**2)))


def drift(rng: Generator, n: int, duration_s: float, *, fastest_hz: float) -> Wave:
    """Return (n,) samples of a slow random curve in [-1, 1]: six cosines up to `fastest_hz`."""
    hz = rng.uniform(0.05, fastest_hz, 6)[:, None]
    phase = rng.uniform(0, 2 * np.pi, 6)[:, None]
    knots = np.linspace(0, duration_s, 2 + int(40 * fastest_hz * duration_s))
    curve: Wave = np.cos(2 * np.pi * hz * knots + phase).sum(axis=0)
    return np.asarray(np.interp(np.linspace(0, duration_s, n), knots, curve / np.abs(curve).max()))


def struck(
    frequency_hz: ArrayLike, decay_s: ArrayLike, gain: ArrayLike, *, n: int, rate: int
) -> Wave:
    """Return the modes of a struck body: `sum(gain sin(2 pi f t) exp(-t / decay))`.

    Modal synthesis (Cook 1997, van den Doel & Pai 1998). Modes above 0.47 of the rate are left
    out; the wave is `n` samples long, or shorter where all has died away by 60 dB.
    """
    f, decay, gain = np.broadcast_arrays(*map(np.atleast_1d, (frequency_hz, decay_s, gain)))
    keep = f < 0.47 * rate
    n = max(1, min(n, round(6.9 * float(decay.max()) * rate)))
    wave = np.zeros(n)
    for hz, tau, level in zip(f[keep], decay[keep], gain[keep], strict=True):
        m = min(n, round(6.9 * tau * rate))
        # exp(p (256 i + k)) = exp(256 p i) exp(p k): a table of products, far fewer exponentials
        pole = (2j * np.pi * hz - 1 / tau) / rate
        coarse = level * np.exp(256 * pole * np.arange(m // 256 + 1))
        fine = np.exp(pole * np.arange(256))
        table = np.outer(coarse.real, fine.imag) + np.outer(coarse.imag, fine.real)
        wave[:m] += table.ravel()[:m]
    return wave


def tone(frequency_hz: Wave, gains: ArrayLike, *, rate: int) -> Wave:
    """Return harmonics 1, 2, ... of a moving fundamental (n,) in Hz; those too high fade out."""
    first = np.exp(2j * np.pi * np.cumsum(frequency_hz) / rate)
    harmonic, wave = np.ones_like(first), np.zeros(len(first))
    for k, gain in enumerate(np.asarray(gains, dtype=float), start=1):
        if k * frequency_hz.min() > 0.47 * rate:
            break
        harmonic *= first
        audible = np.minimum(np.maximum(8 - 16.5 * k * frequency_hz / rate, 0), 1)
        wave += gain * harmonic.imag * audible
    return wave


def firing_wave(
    cycle_hz: Wave, cylinder_gains: Wave, *, pulse_width: float, phase: float, rate: int
) -> Wave:
    """Return the exhaust pulses of an engine, one per cylinder and working cycle.

    The firing frequency is `len(cylinder_gains) * cycle_hz`; a four-stroke's cycle is two turns of
    the crank, so 4 cylinders at 1500 rpm fire at 50 Hz. pulse_width: of one firing, in cycles.
    """
    size, cylinders = 4096, len(cylinder_gains)
    since = (np.arange(size) / size - np.arange(cylinders)[:, None] / cylinders) % 1 / pulse_width
    cycle = np.einsum("c,cs->s", cylinder_gains, since * np.exp(1 - since))
    cycle -= cycle.mean()
    position = (phase + np.cumsum(cycle_hz) / rate) % 1
    return np.asarray(np.interp(position, np.arange(size + 1) / size, np.append(cycle, cycle[0])))


def dial_tones(keys: str, *, tone_s: float, gap_s: float, rate: int) -> Wave:
    """Return touch-tone dialling: for each key its row's and its column's sine (ITU-T Q.23)."""
    t = np.arange(round(tone_s * rate)) / rate
    gap = np.zeros(round(gap_s * rate))
    parts: list[Wave] = []
    for key in keys:
        row, column = divmod(DTMF_KEYS.index(key), 3)
        pair = np.sin(2 * np.pi * DTMF_ROWS_HZ[row] * t)
        parts += [pair + np.sin(2 * np.pi * DTMF_COLUMNS_HZ[column] * t), gap]
    return np.concatenate(parts)


def _place(onto: Wave, hit: Wave, at_s: float, gain: float, rate: int) -> None:
    start = round(at_s * rate)
    begin, end = max(start, 0), min(start + len(hit), len(onto))
    if begin < end:
        onto[begin:end] += gain * hit[begin - start : end - start]


def _moved(rng: Generator, times_s: ArrayLike, duration_s: float) -> Wave:
    """Return the times moved so that one of them, drawn at random, falls well inside the window."""
    times_s = np.asarray(times_s)
    pivot = rng.integers(len(times_s))
    return np.asarray(times_s - times_s[pivot] + rng.uniform(0.02, 0.7) * duration_s)


def _swell(rng: Generator, n: int, rate: int) -> Wave:
    """Return the (n,) gain of a lasting sound: it comes and goes, or fills the window."""
    begin, length = rng.uniform(-0.6, 0.45) * n, rng.uniform(0.9, 1.7) * n
    fade_in, fade_out = (log_uniform(rng, 0.02, 0.6) * rate for _ in range(2))
    i = np.arange(n)
    rise, fall = (i - begin) / fade_in, (begin + length - i) / fade_out
    return np.asarray(np.sin(np.pi / 2 * np.clip(np.minimum(rise, fall), 0, 1)) ** 2)


def _burst(rng: Generator, seconds: float, low_hz: float, high_hz: float, rate: int) -> Wave:
    """Return a noise burst between two frequencies that rises fast and decays."""
    n = max(16, round(seconds * rate))

    def band(f: Wave) -> Wave:
        cut = (1 + (low_hz / np.maximum(f, 1)) ** 4) * (1 + (f / high_hz) ** 4)
        return np.asarray(1 / np.sqrt(cut))

    u = np.arange(n) / n
    noise = filtered(rng.standard_normal(n), band, rate) * np.minimum(u * 12, 1) * np.exp(-5 * u)
    return np.asarray(noise / np.abs(noise).max())


def siren(source: Generator, rng: Generator, n: int, rate: int) -> Wave:
    """Wail, yelp, two-tone horn or hand-cranked rotor, through a horn's resonance, passing by."""
    kind = source.integers(4)
    low, ratio = log_uniform(source, 280, 1100), source.uniform(1.25, 2.6)
    per_s = log_uniform(source, *((0.15, 0.6), (1.5, 5.0), (0.6, 1.6), (0.1, 0.3))[kind])
    gains = np.arange(1, 15) ** -source.uniform(1.0, 3.0)
    gains[1::2] *= source.uniform(0, 1)  # a square wave's even harmonics are missing
    horn_hz, horn_q = log_uniform(source, 500, 3000), source.uniform(0.4, 2.0)
    swing = (np.arange(n) / rate * per_s + rng.uniform()) % 1
    if kind == 2:
        sweep = np.where(swing < 0.5, 0.0, 1.0)
        ratio = min(ratio, 1.5)
    elif kind == 3:  # a rotor runs up to speed, and down more slowly
        running = 1 - np.exp(-8 * np.minimum(swing, 0.4))
        sweep = running * np.exp(-8 * np.maximum(swing - 0.4, 0))
    else:
        sweep = 0.5 - 0.5 * np.cos(2 * np.pi * swing)
    doppler = 1 + rng.uniform(0, 0.05) * np.tanh(np.linspace(3, -3, n) + rng.uniform(-3, 3))
    wave = tone(low * ratio**sweep * doppler, gains, rate=rate)
    horn = np.array([horn_hz])
    wave = filtered(wave, lambda f: 0.1 + peak_response(f, horn, horn_q), rate)
    return wave * _swell(rng, n, rate)


def engine(source: Generator, rng: Generator, n: int, rate: int) -> Wave:
    """Unequal firings of one to eight cylinders, the pipe's resonances, intake and valve noise."""
    cylinders = int(source.choice([1, 2, 3, 4, 6, 8]))
    idle_rpm = log_uniform(source, 600, 3500) * (1.5 if cylinders < 3 else 1)
    gains = 1 + source.uniform(0.05, 0.6) * source.standard_normal(cylinders)
    width = source.uniform(0.05, 0.3) / cylinders
    pipe_hz = log_uniform(source, 60, 300) * np.arange(1, 14, 2)  # closed at one end
    q, dry = source.uniform(1, 8), source.uniform(0.05, 0.5)
    noise_gain, slope = log_uniform(source, 0.05, 0.9), source.uniform(-7, -1)
    load = drift(rng, n, n / rate, fastest_hz=log_uniform(rng, 0.1, 1.0))
    unsteady = coloured_noise(rng, n, rate, db_per_octave=-9)
    rpm = idle_rpm * (1 + rng.uniform(0.02, 0.35) * load + 0.01 * unsteady)
    pulses = firing_wave(
        np.maximum(rpm, 100) / 120, gains, pulse_width=width, phase=rng.uniform(), rate=rate
    )
    pulses = filtered(pulses, lambda f: dry + peak_response(f, pipe_hz, q), rate)
    pulses /= np.sqrt(np.mean(pulses**2))
    noise = coloured_noise(rng, n, rate, db_per_octave=slope) * (1 + 0.5 * np.tanh(pulses))
    return (pulses + noise_gain * noise) * _swell(rng, n, rate)


def rain(source: Generator, rng: Generator, n: int, rate: int) -> Wave:
    """Poisson drops on puddle, roof or leaves over the hiss of those further away.

    A drop in water rings as a bubble does, at `3.26 / radius` Hz (Minnaert 1933, van den Doel
    2005).
    """
    per_s, loudness = log_uniform(source, 8, 900), source.uniform(1.2, 3.0)
    wet = source.uniform(0, 1)
    radius_m = np.exp(source.uniform(np.log(0.5e-3), np.log(4e-3), 4))
    roof_hz = np.exp(source.uniform(np.log(200), np.log(5000), 4))
    hiss, slope = log_uniform(source, 0.02, 0.8), source.uniform(-5, 3)
    spectrum = np.zeros(n + 1, dtype=complex)  # of twice the window, so the convolution never wraps
    for bubble_hz, body_hz in zip(3.26 / radius_m, roof_hz, strict=True):
        at = rng.integers(0, n, rng.poisson(per_s * n / rate / 4) + 1)
        drops = np.bincount(at, rng.pareto(loudness, len(at)).clip(0, 12) + 0.2, minlength=2 * n)
        drop = wet * struck(bubble_hz, 12 / bubble_hz, 1.0, n=n, rate=rate)
        splash = _burst(source, 0.012, body_hz, 3 * body_hz, rate)
        both = np.zeros(max(len(drop), len(splash)))
        both[: len(drop)] += drop
        both[: len(splash)] += (1.2 - wet) * splash
        spectrum += np.fft.rfft(drops) * np.fft.rfft(both, 2 * n)
    wave = np.fft.irfft(spectrum, 2 * n)[:n]
    wave /= np.sqrt(np.mean(wave**2))
    wave += hiss * coloured_noise(rng, n, rate, db_per_octave=slope)
    return wave * _swell(rng, n, rate)


def bird(source: Generator, rng: Generator, n: int, rate: int) -> Wave:
    """A phrase of one to three kinds of syllable: whistles, arches, trills, hoots.

    A syrinx gives a nearly pure tone whose pitch follows air pressure and muscle tension along
    simple curves (Mindlin & Laje, The Physics of Birdsong, 2005).
    """
    base_hz = log_uniform(source, 450, 6000)
    harmonics = (1.0, source.uniform(0, 0.5), source.uniform(0, 0.2))
    syllables = []
    for _ in range(source.integers(1, 4)):
        u = np.linspace(0, 1, round(log_uniform(source, 0.04, 0.45) * rate))
        octaves, start = source.uniform(-0.8, 0.8), source.uniform(-0.4, 0.4)
        curve = (u, np.sin(np.pi * u), u**3, np.round(u))[source.integers(4)]
        seconds = len(u) / rate
        vibrato = source.uniform(0, 0.15) * np.sin(2 * np.pi * source.uniform(10, 60) * u * seconds)
        envelope = np.sin(np.pi * u) ** source.uniform(0.4, 2)
        hz = base_hz * 2 ** (start + octaves * curve + vibrato * (source.uniform() < 0.5))
        hz *= min(1.0, 0.42 * rate / hz.max())  # a file at 8 kHz holds no wren
        syllables.append(envelope * tone(hz, harmonics, rate=rate))
    gap_s, repeats = log_uniform(source, 0.02, 0.5), int(source.integers(1, 4))
    order = [s for s in range(len(syllables)) for _ in range(repeats)] * int(rng.integers(1, 4))
    gaps = gap_s * rng.uniform(0.8, 1.2, len(order))
    lengths = np.array([len(syllables[s]) / rate for s in order])
    times = _moved(rng, np.cumsum(lengths + gaps) - lengths - gaps, n / rate)
    wave = np.zeros(n)
    for at, which in zip(times, order, strict=True):
        _place(wave, syllables[which], at, rng.uniform(0.5, 1), rate)
    return wave


def telephone(source: Generator, rng: Generator, n: int, rate: int) -> Wave:
    """Keys dialled, two gongs rung by a clapper, an electronic warble, or the line's own tone."""
    kind = source.integers(4)
    if kind == 0:
        tone_s, gap_s = log_uniform(source, 0.06, 0.3), log_uniform(source, 0.03, 0.3)
        keys = "".join(rng.choice(list(DTMF_KEYS), rng.integers(3, 9)))
        ringing = dial_tones(keys, tone_s=tone_s, gap_s=gap_s, rate=rate)
        onsets = np.arange(len(keys)) * (tone_s + gap_s)
    else:
        on_s = log_uniform(source, 0.25, 1.8)
        t = np.arange(round(on_s * rate)) / rate
        if kind == 1:  # 16 2/3 to 25 Hz of ringing current: two strokes per period
            strokes = np.arange(0, on_s, 1 / (2 * source.uniform(14, 25)))
            gongs_hz = log_uniform(source, 700, 2800) * np.array([1.0, source.uniform(1.05, 1.35)])
            partials, decay_s = np.array([1, 2.2, 3.6, 5.1]), log_uniform(source, 0.05, 0.4)
            ringing = np.zeros(len(t))
            gongs = [
                struck(hz * partials, decay_s / partials, 1 / partials, n=len(t), rate=rate)
                for hz in gongs_hz
            ]
            for i, at in enumerate(strokes):
                _place(ringing, gongs[i % 2], at, 1.0, rate)
        elif kind == 2:
            low, ratio = log_uniform(source, 450, 2000), source.uniform(1.1, 1.6)
            gains = np.arange(1, 10) ** -source.uniform(0.8, 2.5)
            warble = np.sin(2 * np.pi * source.uniform(6, 28) * t) > 0
            ringing = tone(np.where(warble, low * ratio, low), gains, rate=rate)
        else:  # ITU-T E.180: 425 Hz in most of the world, 440 + 480 Hz in North America
            pair = ((425, 425), (440, 480), (350, 440), (400, 450))[source.integers(4)]
            ringing = np.sin(2 * np.pi * pair[0] * t) + np.sin(2 * np.pi * pair[1] * t)
        ringing *= np.clip(np.minimum(t, on_s - t) / 0.005, 0, 1)
        period = on_s + log_uniform(source, 0.15, 2.0)
        ringing = np.concatenate([ringing, np.zeros(round(period * rate) - len(t))])
        ringing = np.tile(ringing, 3)
        onsets = np.arange(3) * period + rng.uniform(0, 0.6) * on_s
    wave = np.zeros(n)
    _place(wave, ringing, _moved(rng, onsets, n / rate)[0] - onsets[0], 1.0, rate)
    return wave


def knock(source: Generator, rng: Generator, n: int, rate: int) -> Wave:
    """Knuckles on wood, glass or sheet metal: two to six blows to a few short-lived modes."""
    low, high, decay = ((70, 500, 0.02), (300, 1800, 0.015), (120, 1200, 0.04))[source.integers(3)]
    count = source.integers(4, 9)
    modes_hz = log_uniform(source, low, high) * np.cumprod(source.uniform(1.05, 1.9, count))
    decay_s = decay * log_uniform(source, 0.4, 2.0) * (modes_hz / modes_hz[0]) ** -0.5
    gain = source.uniform(0.2, 1, count)
    contact_s = log_uniform(source, 0.0005, 0.004)
    contact = _burst(source, 6 * contact_s, 80, 0.4 / contact_s, rate) * source.uniform(0.1, 0.8)
    gap_s, pause_s = log_uniform(source, 0.09, 0.42), source.uniform(0.5, 1.2)
    blows = int(rng.integers(2, 7))
    hurry = rng.uniform(0.85, 1.1) ** np.arange(blows)
    gaps = gap_s * hurry * rng.uniform(0.88, 1.12, blows)
    if rng.uniform() < 0.4:
        gaps = np.concatenate([gaps[:-1], [pause_s], gaps])
    wave = np.zeros(n)
    for at in _moved(rng, np.concatenate([[0], np.cumsum(gaps[:-1])]), n / rate):
        blow = struck(modes_hz, decay_s, gain * rng.uniform(0.6, 1.2, count), n=n, rate=rate)
        force = rng.uniform(0.5, 1)
        _place(wave, blow, at, force, rate)
        _place(wave, contact, at, force**2, rate)  # a harder blow is a brighter one
    return wave


def clock(source: Generator, rng: Generator, n: int, rate: int) -> Wave:
    """A strictly periodic tick and tock, each the escapement's two or three clicks in one case."""
    beat_s = 1 / log_uniform(source, 1.0, 6.0)
    lag = source.uniform(-0.06, 0.06) * beat_s  # out of beat: the tock comes late
    count = source.integers(3, 8)
    sounds = []
    body_hz = np.exp(source.uniform(np.log(250), np.log(1500), 2))
    clicks_s = np.cumsum(source.uniform(0.002, 0.012, source.integers(1, 4)))
    body_gain, decay_s = source.uniform(0.05, 0.6), log_uniform(source, 0.0015, 0.012)
    centre_hz = log_uniform(source, 1100, 5500)
    for _ in range(2):
        hz = np.append(centre_hz * source.uniform(0.6, 1.5, count), body_hz)
        decays = np.append(decay_s * source.uniform(0.5, 1.5, count), [0.02, 0.015])
        gains = np.append(source.uniform(0.2, 1, count), [body_gain, body_gain])
        click = struck(hz, decays, gains, n=n, rate=rate)
        tick = np.zeros(len(click) + round(0.05 * rate))
        for at in clicks_s:
            _place(tick, click, at, source.uniform(0.3, 1), rate)
        sounds.append(tick)
    inside_s, parity = rng.uniform(0.02, 0.7) * n / rate, rng.integers(2)
    until_s = n / rate if rng.uniform() < 0.8 else inside_s + rng.uniform(0, 0.5) * n / rate
    wave = np.zeros(n)
    for i in range(-int(inside_s / beat_s) - 1, int((until_s - inside_s) / beat_s) + 1):
        at, gain = inside_s + i * beat_s + lag * (i % 2), 1 + 0.05 * rng.standard_normal()
        _place(wave, sounds[(i + parity) % 2], at, gain, rate)
    return wave


def footsteps(source: Generator, rng: Generator, n: int, rate: int) -> Wave:
    """Heel, then toe, at a walk or a run on stone, boards, gravel or leaves.

    Loose ground is many small grains in a decaying burst (PhISEM, Cook 1997).
    """
    ground = source.integers(4)
    step_s, toe_s = 1 / source.uniform(1.3, 3.0), source.uniform(0.03, 0.14)
    toe_gain, limp = source.uniform(0.15, 0.9), source.uniform(0, 0.08)
    boards_hz = log_uniform(source, 60, 320) * np.cumprod(source.uniform(1.1, 2.2, 5))
    low, high = log_uniform(source, 150, 1500), log_uniform(source, 2000, 7000)
    length_s = log_uniform(source, 0.04, 0.1) if ground < 2 else log_uniform(source, 0.08, 0.3)
    thump, thump_hz = source.uniform(0.1, 1.0), log_uniform(source, 50, 160)
    board_decay = log_uniform(source, 0.01, 0.05) * np.array([1.5, 1, 0.8, 0.6, 0.5])
    count = int(rng.integers(3, 9))
    gaps = step_s * (1 + limp * (-1.0) ** np.arange(count)) * rng.uniform(0.93, 1.07, count)
    wave = np.zeros(n)
    for at in _moved(rng, np.cumsum(gaps), n / rate):
        for delay, gain in ((0.0, 1.0), (toe_s * rng.uniform(0.8, 1.2), toe_gain)):
            gain *= rng.uniform(0.6, 1.1)
            scrape = _burst(rng, length_s * rng.uniform(0.7, 1.3), low, high, rate)
            if ground == 2:  # gravel: keep few samples, so grains stand out
                scrape *= rng.uniform(size=len(scrape)) < 0.04
            _place(wave, scrape, at + delay, gain * (0.3 if ground == 1 else 1), rate)
            if ground < 2:
                _place(wave, struck(thump_hz, 0.025, thump, n=n, rate=rate), at, gain, rate)
            if ground == 1:
                modes = rng.uniform(0.2, 1, 5)
                wood = struck(boards_hz, board_decay, modes, n=n, rate=rate)
                _place(wave, wood, at + delay, gain, rate)
    return wave


def bell(source: Generator, rng: Generator, n: int, rate: int) -> Wave:
    """Church bell, bar or bowl, struck one to four times: inharmonic modes, the high ones short."""
    ratios = np.array(BELL_PARTIALS[source.integers(3)])
    ratios = ratios * (1 + 0.01 * source.standard_normal(len(ratios)))
    strike_hz = log_uniform(source, 180, 2600)
    decay_s = log_uniform(source, 0.2, 4.0) * (ratios / ratios[0]) ** -source.uniform(0.4, 1.1)
    gain = source.uniform(0.3, 1, len(ratios)) * ratios ** -source.uniform(0, 1)
    split = 1 + source.uniform(0.0002, 0.003, len(ratios))  # no casting is round: modes beat
    hz = np.concatenate([strike_hz * ratios, strike_hz * ratios * split])
    ring = struck(hz, np.tile(decay_s, 2), np.append(gain, 0.5 * gain), n=2 * n, rate=rate)
    clapper = _burst(source, 0.01, 500, 6000, rate) * source.uniform(0, 1.5)
    gap_s, count = log_uniform(source, 0.15, 1.5), int(rng.integers(1, 5))
    wave = np.zeros(n)
    for at in _moved(rng, np.cumsum(gap_s * rng.uniform(0.9, 1.1, count)), n / rate):
        force = rng.uniform(0.5, 1)
        _place(wave, ring, at, force, rate)
        _place(wave, clapper, at, force**2, rate)
    return wave


def wind(source: Generator, rng: Generator, n: int, rate: int) -> Wave:
    """Gusts: rumble, a whistle whose pitch follows the speed (Strouhal 1878), and leaves."""
    whistle_hz, sharp = log_uniform(source, 180, 1600), log_uniform(source, 0.08, 0.6)
    whistle, leaves = source.uniform(0.1, 1.5), source.uniform(0, 0.6)
    slope, gusty = source.uniform(-9, -3), source.uniform(0.3, 0.9)
    size, hop = 1024, 512
    count = -(-n // hop) + 1
    speed = 1 + gusty * drift(rng, count, n / rate, fastest_hz=log_uniform(rng, 0.4, 3.0))[:, None]
    f = np.maximum(np.fft.rfftfreq(size, 1 / rate), 30.0)
    from_whistle = np.log2(f / (whistle_hz * speed)) / sharp
    gain = (f / 100) ** (slope / 6.02) * speed**1.5
    gain = gain + 0.25 * whistle * speed**2 * np.exp(-0.5 * from_whistle**2)
    gain += 0.06 * leaves * speed**2.5 * (f / 3000) / (1 + (f / 4000) ** 2)
    noise = rng.standard_normal((count + 1) * hop)
    frames = np.lib.stride_tricks.sliding_window_view(noise, size)[::hop]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)  # half-overlapped, sums to 1
    frames = np.fft.irfft(np.fft.rfft(frames * window) * gain, size)
    wave = np.zeros((count + 2) * hop)
    for first in (0, 1):
        part = frames[first::2].ravel()
        wave[first * hop : first * hop + len(part)] += part
    return wave[hop : hop + n] * _swell(rng, n, rate)


MODELS: dict[str, Callable[[Generator, Generator, int, int], Wave]] = {
    "bell": bell,
    "bird": bird,
    "clock": clock,
    "engine": engine,
    "footsteps": footsteps,
    "knock": knock,
    "rain": rain,
    "siren": siren,
    "telephone": telephone,
    "wind": wind,
}
