"""The pictures of audio.md."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from draw import BLUE, GREEN, GREY, ORANGE, PINK, SKY, bare, panels
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from audio.augment import apply_spectrogram, apply_waveform, draw_spectrogram, draw_waveform
from audio.mel import hz_to_mel, mel_centres_hz, mel_filter_bank
from audio.settings import AugmentationSettings, SpectrogramSettings
from audio.spectrogram import LogMel
from data.synthetic import SyntheticSettings, render_clip

RATE = 16000
CORPUS = SyntheticSettings(clips_per_class=24, sessions=8)


@cache
def clip(label: str, take: int = 0) -> np.ndarray:
    """Return the embedded corpus' clip number `take` of a class, float32 (n_samples,)."""
    for index in range(CORPUS.n_clips):
        waveform, found, _ = render_clip(index, CORPUS)
        if found == label:
            if take == 0:
                return waveform
            take -= 1
    raise ValueError(f"the corpus has no more clips of {label}.")


def log_mel(waveform: np.ndarray, **settings: object) -> np.ndarray:
    """Return the log-mel levels, float32 (n_mels, n_frames), in dB."""
    transform = LogMel(SpectrogramSettings(**settings))
    return transform(torch.from_numpy(waveform)[None])[0].numpy()


def show(axes: Axes, level: np.ndarray, *, seconds: float | None = None, **more: object) -> None:
    """Show levels with low frequencies at the bottom."""
    width = level.shape[1] if seconds is None else seconds
    axes.imshow(level, origin="lower", aspect="auto", cmap="magma", interpolation="nearest",
                extent=(0, width, 0, level.shape[0]), **more)  # fmt: skip


def sampling() -> Figure:
    figure, (left, right) = panels(1, 2, height=2.7, width_ratios=(3, 2))
    t = np.linspace(0, 1.5, 1200)
    n = np.arange(0, 13)
    left.plot(t, np.cos(2 * np.pi * 5 * t), color=SKY, label="5 kHz")
    left.plot(t, np.cos(2 * np.pi * 3 * t), color=ORANGE, label="3 kHz")
    left.plot(n / 8, np.cos(2 * np.pi * 5 * n / 8), "o", color="black", ms=5,
              label="samples, 8 kHz")  # fmt: skip
    left.set(xlabel="time, ms", ylim=(-1.2, 1.75), yticks=(-1, 0, 1),
             title="Two tones, the same samples")  # fmt: skip
    left.legend(ncols=3, loc="upper right")
    f = np.array([0, 4, 8, 12, 16])
    right.plot(f, [0, 4, 0, 4, 0], color=BLUE)
    right.plot([3, 5], [3, 3], "o", color="black", ms=5)
    right.axvline(4, color=GREY, lw=0.8, ls=":")
    right.annotate("Nyquist\nfrequency", (4, 4), (5.2, 3.75), va="center", fontsize=8)
    right.set(xlabel="tone, kHz", ylabel="what is heard, kHz", xticks=f, yticks=(0, 1, 2, 3, 4),
              title="Folding at 8 kHz")  # fmt: skip
    return figure


def frame() -> Figure:
    figure, (top, left, right) = panels(1, 3, height=2.7, width_ratios=(2, 1.3, 2))
    waveform = clip("bell")
    t = np.arange(len(waveform)) / RATE
    n, n_fft, start = 400, 4096, int(np.abs(waveform).argmax()) + 800
    top.plot(t[::4], waveform[::4], color=BLUE, lw=0.5)
    top.axvspan(t[start], t[start + n], color=ORANGE, alpha=0.6, lw=0)
    top.set(xlabel="time, s", title="A bell, 32,000 samples", yticks=())
    piece = waveform[start : start + n]
    window = torch.hann_window(n).numpy()
    ms = np.arange(n) / RATE * 1000
    left.plot(ms, piece, color=SKY, lw=1)
    left.plot(ms, piece * window, color=ORANGE, lw=1.2)
    left.plot(ms, window * np.abs(piece).max(), color=GREY, lw=0.8, ls="--")
    left.set(xlabel="time, ms", title="One frame, 400 samples", yticks=())
    f = np.fft.rfftfreq(n_fft, 1 / RATE) / 1000
    for shape, colour, name in ((np.ones(n), SKY, "cut out"), (window, ORANGE, "under a window")):
        level = 20 * np.log10(np.abs(np.fft.rfft(piece * shape, n_fft)) + 1e-9)
        right.plot(f, level - level.max(), color=colour, lw=1, label=name)
    right.set(xlabel="frequency, kHz", ylabel="dB", ylim=(-90, 5), xlim=(0, 8),
              title="Its spectrum")  # fmt: skip
    right.legend(loc="upper right")
    return figure


def mel() -> Figure:
    figure, (left, right) = panels(1, 2, height=2.8, width_ratios=(2, 3))
    f = np.linspace(0, 8000, 400)
    left.plot(f / 1000, hz_to_mel(f, "slaney") / hz_to_mel([8000], "slaney"), color=BLUE,
              label="Slaney")  # fmt: skip
    left.plot(f / 1000, hz_to_mel(f, "htk") / hz_to_mel([8000], "htk"), color=ORANGE, label="HTK")
    left.plot((0, 8), (0, 1), color=GREY, lw=0.8, ls=":", label="in Hz")
    left.set(xlabel="frequency, kHz", ylabel="share of the picture's height",
             title="Where a frequency lands")  # fmt: skip
    left.legend(loc="lower right")
    settings = SpectrogramSettings(n_mels=16, n_fft=2048, win_length=2048, mel_norm="none")
    bank = mel_filter_bank(settings)
    bins = np.fft.rfftfreq(settings.n_fft, 1 / RATE) / 1000
    for band in range(settings.n_mels):
        right.plot(bins, bank[:, band], color=(BLUE, ORANGE)[band % 2], lw=1.1)
    right.plot(mel_centres_hz(settings) / 1000, np.ones(16), ".", color="black", ms=4)
    right.set(xlabel="frequency, kHz", ylabel="weight", title="16 mel bands (Slaney)",
              yticks=(0, 1))  # fmt: skip
    return figure


def picture() -> Figure:
    figure, axes = panels(1, 3, height=2.9)
    waveform = clip("bird", 1)
    seconds = len(waveform) / RATE
    hop = 320
    frames = torch.from_numpy(waveform).unfold(0, 400, hop) * torch.hann_window(400)
    power = torch.fft.rfft(frames, 512).abs().square().T.numpy()
    level = 10 * np.log10(power.clip(1e-10))
    show(axes[0], power, seconds=seconds, vmax=power.max() / 4)
    show(axes[1], level.clip(level.max() - 80), seconds=seconds)
    show(axes[2], log_mel(waveform, hop_length=hop), seconds=seconds)
    names = ("power, 257 bins", "the same in dB", "64 mel bands in dB")
    for one, title in zip(axes, names, strict=True):
        one.set(xlabel="time, s", title=title)
    for one in axes[:2]:
        one.set_yticks(np.arange(0, 9, 2) * 1000 / 31.25 + 0.5, list("02468"))
    axes[0].set_ylabel("frequency, kHz")
    centres = mel_centres_hz(SpectrogramSettings())
    kilohertz = np.array([0.5, 1, 2, 4, 7])
    axes[2].set_yticks(np.interp(kilohertz * 1000, centres, np.arange(64)) + 0.5,
                       ["0.5", "1", "2", "4", "7"])  # fmt: skip
    return figure


def sounds() -> Figure:
    figure, axes = panels(2, 5, height=3.1)
    for label, one in zip(sorted({render_clip(i, CORPUS)[1] for i in range(60)}), axes,
                          strict=True):  # fmt: skip
        show(one, log_mel(clip(label, 2), n_mels=40, hop_length=320, n_fft=1024, win_length=800))
        one.set_title(label)
        bare(one)
    return figure


def patches() -> Figure:
    figure, axes = panels(1, 2, height=2.9)
    level = log_mel(clip("siren"), n_mels=128, n_fft=1024, win_length=1024)[:, :192]
    for one in axes:
        one.imshow(level, origin="lower", cmap="magma", interpolation="nearest",
                   extent=(0, 192, 0, 128))  # fmt: skip
        bare(one)
    vit, ast = axes
    for x in range(0, 193, 16):
        vit.plot((x, x), (0, 128), color="white", lw=0.6)
    for y in range(0, 129, 16):
        vit.plot((0, 192), (y, y), color="white", lw=0.6)
    vit.set_title("ViT: 16 x 16, stride 16: 8 rows, 12 columns")
    ast.set_title("AST: 16 x 16, stride 10: 12 rows, 18 columns")
    for column in range(18):  # the lowest row whole, the next two begun
        for row in range(1 if column > 1 else 3):
            ast.add_patch(Rectangle((10 * column, 10 * row), 16, 16, fill=False, lw=1,
                                    ec=("white", SKY)[(row + column) % 2]))  # fmt: skip
    return figure


def attention() -> Figure:
    figure, (left, right) = panels(1, 2, height=3.3, width_ratios=(3, 2))
    waveform = clip("clock", 1)
    settings = {"n_mels": 40, "hop_length": 400, "n_fft": 1024, "win_length": 800}
    level = log_mel(waveform, **settings)
    x = (level - level.mean()) / level.std()  # (40 bands, n_frames): a token a frame
    scores = x.T @ x / np.sqrt(len(x))
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    tick = int(level.sum(0).argmax())
    hop_s = 400 / RATE
    left.imshow(level, origin="lower", aspect="auto", cmap="magma", interpolation="nearest",
                extent=(-hop_s / 2, 2 + hop_s / 2, 0, 40))  # fmt: skip
    left.set(xlabel="time, s", ylabel="mel band", title="A clock", xlim=(0, 2))
    left.plot(tick * hop_s, 41, "v", color=BLUE, ms=6, clip_on=False)
    right.bar(np.arange(x.shape[1]) * hop_s, 100 * weights[tick], hop_s, color=BLUE)
    right.set(xlabel="time, s", ylabel="weight, %", xlim=(0, 2),
              title="What the marked frame attends to")  # fmt: skip
    return figure


def augmentation() -> Figure:
    figure, axes = panels(2, 4, height=3.6)
    mine = torch.from_numpy(clip("bird", 1))[None]
    n_valid = torch.tensor([mine.shape[1]])
    transform = LogMel(SpectrogramSettings(n_mels=40, hop_length=320))
    off = AugmentationSettings.none()

    def heard(seed: int, name: str, **on: float) -> tuple[str, np.ndarray]:
        settings = AugmentationSettings(**{**off.to_json(), **on})
        draw = draw_waveform(np.random.default_rng(seed), settings, 1)
        title = name.format(turn=100 * draw.turn[0], speed=100 * (draw.speed[0] - 1),
                            snr=draw.noise_snr_db[0])  # fmt: skip
        rate = transform.settings.sample_rate_hz
        varied = apply_waveform(mine, n_valid, draw, sample_rate_hz=rate)
        return title, transform(*varied)[0].numpy()

    def seen(seed: int, name: str, waveforms: torch.Tensor,
             **on: float) -> tuple[str, np.ndarray]:  # fmt: skip
        settings = AugmentationSettings(**{**off.to_json(), **on})
        features = transform.normalise(transform(waveforms))
        rng = np.random.default_rng(seed)
        draw = draw_spectrogram(rng, settings, len(waveforms))
        while on.get("mixup_percent") and (draw.keep > 0.7 or draw.mix_with[0] == 0):
            draw = draw_spectrogram(rng, settings, len(waveforms))
        frames = torch.full((len(waveforms),), features.shape[-1])
        title = name.format(keep=100 * draw.keep)
        return title, apply_spectrogram(features, frames, draw)[0].numpy()

    two = torch.cat([mine, torch.from_numpy(clip("siren"))[None]])
    shown = (
        heard(0, "as recorded"),
        heard(3, "shift by {turn:.0f} %", shift_percent=50),
        heard(2, "speed {speed:+.0f} %", speed_percent=40),
        heard(1, "noise, SNR {snr:.0f} dB", noise_percent=100, noise_snr_db=-8),
        heard(5, "filter", filter_db=25),
        seen(1, "frequency masks", mine, frequency_mask_percent=50),
        seen(2, "time masks", mine, time_mask_percent=40),
        seen(0, "mixup, {keep:.0f} % bird", two, mixup_percent=100),
    )
    for (title, level), one in zip(shown, axes, strict=True):
        show(one, level)
        one.set_title(title)
        bare(one)
    return figure


@cache
def neighbour_scores() -> tuple[float, float]:
    """Return the accuracy of the nearest neighbour under a random split and one by sessions."""
    from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    clips = [render_clip(i, CORPUS) for i in range(CORPUS.n_clips)]
    levels = LogMel(SpectrogramSettings())(torch.from_numpy(np.stack([w for w, _, _ in clips])))
    x = torch.cat([levels.mean(2), levels.std(2)], 1).numpy()
    labels, sessions = [label for _, label, _ in clips], [session for _, _, session in clips]
    model = KNeighborsClassifier(1)
    mixed = StratifiedKFold(8, shuffle=True, random_state=0)
    random = cross_val_score(model, x, labels, cv=mixed).mean()
    whole = cross_val_score(model, x, labels, groups=sessions, cv=GroupKFold(8)).mean()
    return float(random), float(whole)


def splits() -> Figure:
    figure, axes = panels(1, 3, height=2.6, width_ratios=(3, 3, 2))
    rng = np.random.default_rng(7)
    random = (rng.permutation(64) < 16).reshape(8, 8)
    groups = np.zeros((8, 8), bool)
    groups[[2, 5]] = True
    for one, side, title in zip(axes, (random, groups), ("by clips", "by sessions"), strict=False):
        for row in range(8):
            for column in range(8):
                one.add_patch(Rectangle((column, 7 - row), 0.86, 0.8, lw=0,
                                        fc=ORANGE if side[row, column] else SKY))  # fmt: skip
        one.set(xlim=(-0.1, 8), ylim=(-0.1, 8), title=f"Split {title}", ylabel="sessions")
        bare(one)
        one.set_xlabel("clips: blue train, orange test", fontsize=8)
    scores = neighbour_scores()
    axes[2].bar(("by clips", "by sessions"), [100 * s for s in scores], color=(PINK, GREEN),
                width=0.6)  # fmt: skip
    for i, score in enumerate(scores):
        axes[2].text(i, 100 * score + 1.5, f"{100 * score:.0f} %", ha="center")
    axes[2].set(ylim=(0, 100), ylabel="accuracy, %", title="Nearest neighbour")
    return figure


DRAWINGS = {
    "sampling": sampling,
    "frame": frame,
    "mel": mel,
    "picture": picture,
    "sounds": sounds,
    "augmentation": augmentation,
    "patches": patches,
    "attention": attention,
    "splits": splits,
}
