"""Random variation of training clips: drawn with an `rng` first, then applied to a batch.

`draw_*` needs no sound and `apply_*` no randomness but the noise's own seed, so what was done to a
batch can be stored, repeated and tested. What is off is None and draws nothing, so that turning on
one operation leaves what the earlier ones draw as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio.augment_picture import rectangles, stripes, warp_time
from audio.augment_sound import (
    add_at_ratio,
    add_noise,
    add_room,
    bend,
    cut_off,
    room_response,
    shift_pitch,
)
from audio.backgrounds import Backgrounds
from audio.playback import turn_and_speed
from audio.settings import AugmentationSettings

Array = NDArray[np.float64]

_FILTER_KNOTS = 8
_NOISE_SNR_SPAN_DB = 30.0
_MIXUP_ALPHA = 0.4  # Zhang et al. (2018) use .2 to .4 for large label sets
_STRIPES = 2  # SpecAugment (Park et al., 2019) draws two of each
_CUT_SPAN_OCTAVES = 3.0
_REFLECTIONS = 6
_LEAST_DIRECT_DB, _MOST_DIRECT_DB = 0.0, 12.0  # a listener far off and near
_LEAST_ASPECT = 0.3  # of an erased rectangle (Zhong et al., 2020)


@dataclass(frozen=True)
class WaveformDraw:
    """What is done to each clip's waveform; every array is (batch,) but `filter_db`.

    gain_db: added level. turn: share of its own length that a clip is rotated by. speed: 1.1 plays
    in 1 / 1.1 of the time. noise_snr_db: NaN adds none. noise_slope: spectrum falls as
    `f ** -slope`, 0 white to 1 brown in amplitude. filter_db: (batch, knots), gain at frequencies
    evenly spaced in octaves from 62.5 Hz. noise_seed: of the noise's samples, which differ between
    a CPU and a GPU. What follows is None where it is off, and NaN for a clip that it leaves alone.
    pitch_semitones: what the pitch moves by. sign: -1 turns a clip upside down. low_pass_hz,
    high_pass_hz: cut-offs. rt60_s, early (batch, reflections), direct_db, room_seed: a room's, see
    `room_response`. other, other_snr_db: which clip of the batch is in the background, at which
    ratio. background_place, background_snr_db: the same of the recordings.
    """

    gain_db: Array
    turn: Array
    speed: Array
    noise_snr_db: Array
    noise_slope: Array
    filter_db: Array
    noise_seed: int
    pitch_semitones: Array | None = None
    sign: Array | None = None
    low_pass_hz: Array | None = None
    high_pass_hz: Array | None = None
    rt60_s: Array | None = None
    early: Array | None = None
    direct_db: Array | None = None
    room_seed: int = 0
    other: NDArray[np.int64] | None = None
    other_snr_db: Array | None = None
    background_place: Array | None = None
    background_snr_db: Array | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing is done but to turn, speed, filter and scale each clip."""
        more = (self.pitch_semitones, self.sign, self.low_pass_hz, self.high_pass_hz, self.rt60_s,
                self.other, self.background_place)  # fmt: skip
        return bool(np.isnan(self.noise_snr_db).all()) and all(values is None for values in more)


def draw_waveform(
    rng: np.random.Generator, settings: AugmentationSettings, batch: int
) -> WaveformDraw:
    """Return what to do to `batch` waveforms."""
    s = settings
    noisy = rng.random(batch) < s.noise_percent / 100
    snr_db = s.noise_snr_db + _NOISE_SNR_SPAN_DB * rng.random(batch)
    draw = WaveformDraw(
        gain_db=rng.uniform(-s.gain_db, s.gain_db, batch),
        turn=rng.uniform(-s.shift_percent / 100, s.shift_percent / 100, batch),
        speed=np.exp(rng.uniform(-1, 1, batch) * np.log1p(s.speed_percent / 100)),
        noise_snr_db=np.where(noisy, snr_db, np.nan),
        noise_slope=rng.random(batch),
        filter_db=rng.uniform(-s.filter_db, s.filter_db, (batch, _FILTER_KNOTS)),
        noise_seed=int(rng.integers(2**31)),
    )
    return replace(draw, **_draw_more(rng, s, batch))


def _draw_more(
    rng: np.random.Generator, settings: AugmentationSettings, batch: int
) -> dict[str, Any]:
    """Return what else is drawn for waveforms, as fields of a `WaveformDraw`; only what is on."""
    s = settings
    more: dict[str, Any] = {}

    def some(percent: float, value: Array) -> Array:
        """Return the value of the clips that are drawn, NaN of the others."""
        return np.where(rng.random(batch) < percent / 100, value, np.nan)

    if s.pitch_semitones:
        more["pitch_semitones"] = rng.uniform(-s.pitch_semitones, s.pitch_semitones, batch)
    if s.polarity_percent:
        more["sign"] = np.where(rng.random(batch) < s.polarity_percent / 100, -1.0, 1.0)
    if s.low_pass_percent:
        cut = s.low_pass_hz * 2 ** rng.uniform(0, _CUT_SPAN_OCTAVES, batch)
        more["low_pass_hz"] = some(s.low_pass_percent, cut)
    if s.high_pass_percent:
        cut = s.high_pass_hz / 2 ** rng.uniform(0, _CUT_SPAN_OCTAVES, batch)
        more["high_pass_hz"] = some(s.high_pass_percent, cut)
    if s.reverb_percent:
        more["rt60_s"] = some(s.reverb_percent, rng.uniform(s.reverb_s / 5, s.reverb_s, batch))
        more["early"] = rng.random((batch, _REFLECTIONS))
        more["direct_db"] = rng.uniform(_LEAST_DIRECT_DB, _MOST_DIRECT_DB, batch)
        more["room_seed"] = int(rng.integers(2**31))
    if s.other_clip_percent and batch > 1:
        more["other"] = (np.arange(batch) + rng.integers(1, batch)) % batch  # never itself
        snr_db = s.background_snr_db + _NOISE_SNR_SPAN_DB * rng.random(batch)
        more["other_snr_db"] = some(s.other_clip_percent, snr_db)
    if s.background_percent:
        more["background_place"] = rng.random(batch)
        snr_db = s.background_snr_db + _NOISE_SNR_SPAN_DB * rng.random(batch)
        more["background_snr_db"] = some(s.background_percent, snr_db)
    return more


def apply_waveform(
    waveform: Tensor,
    n_valid: Tensor,
    draw: WaveformDraw,
    *,
    sample_rate_hz: float | None = None,
    backgrounds: Backgrounds | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the varied waveforms and their lengths.

    waveform: float32 (batch, n_samples), zeros past n_valid. n_valid: int64 (batch,).
    sample_rate_hz: needed by what is drawn in Hz or seconds. backgrounds: recordings, on the same
    device, needed where some are drawn.

    Raises:
        ValueError: one of these is needed and was not given.
    """
    if draw.turn.any() or (draw.speed != 1).any():
        waveform, n_valid = turn_and_speed(waveform, n_valid, draw.turn, draw.speed)
    waveform = _apply_to_sound(waveform, n_valid, draw, sample_rate_hz)
    if draw.filter_db.any():
        waveform = bend(waveform, draw.filter_db, sample_rate_hz=_needed(sample_rate_hz))
    if draw.gain_db.any():
        gain = torch.from_numpy(10 ** (draw.gain_db / 20)).to(waveform)
        waveform = waveform * gain[:, None]
    waveform = _add_backgrounds(waveform, n_valid, draw, backgrounds)
    if not np.isnan(draw.noise_snr_db).all():
        waveform = add_noise(
            waveform, n_valid, draw.noise_snr_db, draw.noise_slope, draw.noise_seed
        )
    return waveform * _inside(waveform, n_valid), n_valid


def _needed(sample_rate_hz: float | None) -> float:
    if sample_rate_hz is None:
        raise ValueError("pitch, cut-offs, rooms and the filter need sample_rate_hz; give it.")
    return sample_rate_hz


def _apply_to_sound(
    waveform: Tensor, n_valid: Tensor, draw: WaveformDraw, sample_rate_hz: float | None
) -> Tensor:
    """Return the waveforms with pitch, polarity, rooms and cut-offs as drawn."""
    asked = (draw.pitch_semitones, draw.low_pass_hz, draw.high_pass_hz, draw.rt60_s)
    if all(values is None for values in (*asked, draw.sign)):
        return waveform
    if any(values is not None for values in asked):
        sample_rate_hz = _needed(sample_rate_hz)
    sample_rate_hz = sample_rate_hz or 1.0  # a sign has no rate
    if draw.pitch_semitones is not None:
        waveform = shift_pitch(waveform, draw.pitch_semitones, sample_rate_hz=sample_rate_hz)
        waveform = waveform * _inside(waveform, n_valid)  # what smeared past the end is no sound
    if draw.sign is not None:
        waveform = waveform * torch.from_numpy(draw.sign).to(waveform)[:, None]
    if draw.rt60_s is not None:
        assert draw.early is not None
        assert draw.direct_db is not None
        which = np.flatnonzero(~np.isnan(draw.rt60_s))
        if len(which):
            parts = (draw.rt60_s[which], draw.early[which], draw.direct_db[which], draw.room_seed)
            response = room_response(*parts, sample_rate_hz=sample_rate_hz, like=waveform)
            rows = torch.from_numpy(which).to(waveform.device)
            wet = add_room(waveform[rows], n_valid[rows], response)
            waveform = waveform.index_copy(0, rows, wet)
    cuts = [
        np.full(len(waveform), np.nan) if hz is None else hz
        for hz in (draw.low_pass_hz, draw.high_pass_hz)
    ]
    which = np.flatnonzero(~np.isnan(cuts).all(0))
    if len(which):
        rows = torch.from_numpy(which).to(waveform.device)
        cut = cut_off(waveform[rows], cuts[0][which], cuts[1][which], sample_rate_hz=sample_rate_hz)
        waveform = waveform.index_copy(0, rows, cut * _inside(cut, n_valid[rows]))
    return waveform


def _add_backgrounds(
    waveform: Tensor, n_valid: Tensor, draw: WaveformDraw, backgrounds: Backgrounds | None
) -> Tensor:
    """Return the waveforms with other clips and recordings behind them as drawn."""
    if draw.other is not None and draw.other_snr_db is not None:
        which = np.flatnonzero(~np.isnan(draw.other_snr_db))
        rows = torch.from_numpy(which).to(waveform.device)
        others = waveform[torch.from_numpy(draw.other[which]).to(waveform.device)]
        mixed = add_at_ratio(waveform[rows], n_valid[rows], others, draw.other_snr_db[which])
        waveform = waveform.index_copy(0, rows, mixed)
    if draw.background_place is not None and draw.background_snr_db is not None:
        which = np.flatnonzero(~np.isnan(draw.background_snr_db))
        if len(which):
            if backgrounds is None:
                raise ValueError("recordings were drawn and none given; give backgrounds.")
            rows = torch.from_numpy(which).to(waveform.device)
            pieces = backgrounds.pieces(draw.background_place[which], waveform.shape[1])
            ratio_db = draw.background_snr_db[which]
            mixed = add_at_ratio(waveform[rows], n_valid[rows], pieces, ratio_db)
            waveform = waveform.index_copy(0, rows, mixed)
    return waveform


def _inside(waveform: Tensor, n_valid: Tensor) -> Tensor:
    """Return True where a sample is the clip's own, bool (batch, n_samples)."""
    return torch.arange(waveform.shape[1], device=waveform.device) < n_valid[:, None]


@dataclass(frozen=True)
class SpectrogramDraw:
    """What is done to each clip's spectrogram, as shares of its height and width.

    mel_from, mel_size, frame_from, frame_size: (batch, stripes), in [0, 1]. mix_with: (batch,),
    which clip each is mixed with. keep: its own share in that mixture, 1 is no mixture; one for
    the batch, or (batch,). What follows is (batch, 2), where it begins and how large it is, and
    None where it is off. warp: the point of time that moves, and by how much. erase_mel,
    erase_frame: a rectangle that is blanked. cut_mel, cut_frame: one that is the other clip's, of
    the frames that both have.
    """

    mel_from: Array
    mel_size: Array
    frame_from: Array
    frame_size: Array
    mix_with: NDArray[np.int64]
    keep: float | Array
    warp: Array | None = None
    erase_mel: Array | None = None
    erase_frame: Array | None = None
    cut_mel: Array | None = None
    cut_frame: Array | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing is done but to blank stripes and to mix."""
        return all(values is None for values in (self.warp, self.erase_mel, self.cut_mel))

    @property
    def mixes(self) -> bool:
        """Whether any clip is mixed with another."""
        return bool(np.less(self.keep, 1).any())


def draw_spectrogram(
    rng: np.random.Generator, settings: AugmentationSettings, batch: int
) -> SpectrogramDraw:
    """Return what to do to `batch` spectrograms."""
    s = settings
    mel_size = rng.uniform(0, s.frequency_mask_percent / 100 / _STRIPES, (batch, _STRIPES))
    frame_size = rng.uniform(0, s.time_mask_percent / 100 / _STRIPES, (batch, _STRIPES))
    mixed = rng.random() < s.mixup_percent / 100
    keep = float(rng.beta(_MIXUP_ALPHA, _MIXUP_ALPHA)) if mixed else 1.0
    draw = SpectrogramDraw(
        mel_from=rng.random((batch, _STRIPES)) * (1 - mel_size),
        mel_size=mel_size,
        frame_from=rng.random((batch, _STRIPES)) * (1 - frame_size),
        frame_size=frame_size,
        mix_with=rng.permutation(batch),
        keep=max(keep, 1 - keep),
    )
    more: dict[str, Any] = {}
    if s.time_warp_percent:
        most = s.time_warp_percent / 100
        more["warp"] = np.stack(
            [rng.uniform(most, 1 - most, batch), rng.uniform(-most, most, batch)], 1
        )
    if s.erase_percent:
        area = rng.uniform(0, s.erase_percent / 100, batch)
        more["erase_mel"], more["erase_frame"] = _rectangle(rng, area)
    if s.cutmix_percent and rng.random() < s.cutmix_percent / 100:
        # one area for the batch, uniform as Yun et al. (2019) have it
        more["cut_mel"], more["cut_frame"] = _rectangle(rng, np.full(batch, rng.random()))
    return replace(draw, **more)


def _rectangle(rng: np.random.Generator, area: Array) -> tuple[Array, Array]:
    """Return (from, size) in bands and in frames, (batch, 2) each, of rectangles of these areas.

    Their proportions are drawn evenly in logarithms; the whole rectangle lies inside.
    """
    span = np.log(1 / _LEAST_ASPECT)
    aspect = np.exp(rng.uniform(-span, span, len(area)))
    # no side over 1, so that the area stays what was drawn
    high = np.clip(np.sqrt(area * aspect), area, 1)
    wide = np.divide(area, high, out=np.zeros_like(area), where=high > 0)
    from_mel, from_frame = rng.random((2, len(area)))
    return (
        np.stack([from_mel * (1 - high), high], 1),
        np.stack([from_frame * (1 - wide), wide], 1),
    )


def apply_spectrogram(features: Tensor, frames: Tensor, draw: SpectrogramDraw) -> Tensor:
    """Return the features warped, masked and mixed.

    features: float32 (batch, n_mels, n_frames), normalised. frames: int64 (batch,), each clip's
    own frames; stripes and rectangles fall among these. Blanked cells get the clip's mean.
    """
    _, n_mels, n_frames = features.shape
    if draw.warp is not None:
        features = warp_time(features, frames, draw.warp[:, 0], draw.warp[:, 1])
    blank = None
    if draw.mel_size.any() or draw.frame_size.any():
        high = torch.full_like(frames, n_mels)
        blank = (
            stripes(draw.mel_from, draw.mel_size, high, n_mels)[:, :, None]
            | stripes(draw.frame_from, draw.frame_size, frames, n_frames)[:, None, :]
        )
    if draw.erase_mel is not None and draw.erase_frame is not None:
        mel, frame = draw.erase_mel.T, draw.erase_frame.T
        hole = rectangles((mel[0], mel[1]), (frame[0], frame[1]), frames, (n_mels, n_frames))
        blank = hole if blank is None else blank | hole
    if blank is not None:
        own = (torch.arange(n_frames, device=features.device) < frames[:, None])[:, None]
        mean = (features * own).sum((1, 2)) / (own.sum((1, 2)).clamp_min(1) * n_mels)
        features = torch.where(blank, mean[:, None, None], features)
    if draw.mixes:
        features = _mixed(features, draw)
    if draw.cut_mel is not None:
        patch = _patch(draw, frames, (n_mels, n_frames))
        other = features[torch.from_numpy(draw.mix_with).to(features.device)]
        features = torch.where(patch, other, features)
    return features


def _mixed(values: Tensor, draw: SpectrogramDraw) -> Tensor:
    """Return each clip's values, (batch, ...), mixed with another's as drawn."""
    other = values[torch.from_numpy(draw.mix_with).to(values.device)]
    if isinstance(draw.keep, float):
        return draw.keep * values + (1 - draw.keep) * other
    keep = torch.from_numpy(draw.keep).to(values).view(-1, *[1] * (values.ndim - 1))
    return keep * values + (1 - keep) * other


def _patch(draw: SpectrogramDraw, frames: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return True where a clip is replaced by another's, bool (batch, n_mels, n_frames).

    Among the frames that both have: a patch of another clip's padding would be labelled as it.
    """
    assert draw.cut_mel is not None
    assert draw.cut_frame is not None
    both = torch.minimum(frames, frames[torch.from_numpy(draw.mix_with).to(frames.device)])
    mel, frame = draw.cut_mel.T, draw.cut_frame.T
    return rectangles((mel[0], mel[1]), (frame[0], frame[1]), both, shape)


def mix_targets(
    targets: Tensor,
    draw: SpectrogramDraw,
    frames: Tensor | None = None,
    shape: tuple[int, int] | None = None,
) -> Tensor:
    """Return the label shares, float32 (batch, n_classes), mixed as the clips were.

    frames: each clip's own frames, int64 (batch,), and shape: (n_mels, n_frames), by which a patch
    of another clip is weighed: its cells over the clip's own.

    Raises:
        ValueError: there is a patch, and these were not given.
    """
    if draw.mixes:
        targets = _mixed(targets, draw)
    if draw.cut_mel is not None:
        if frames is None or shape is None:
            raise ValueError("a patch of another clip is weighed by its cells; give frames, shape.")
        cells = _patch(draw, frames, shape).sum((1, 2))
        share = (cells / (shape[0] * frames.clamp_min(1))).to(targets)[:, None]
        with_whom = torch.from_numpy(draw.mix_with).to(targets.device)
        targets = (1 - share) * targets + share * targets[with_whom]
    return targets
