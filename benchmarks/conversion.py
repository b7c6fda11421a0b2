"""Clips to mel-spectrogram PNGs, against what tutorials do. `python -m benchmarks.conversion`."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from audio.settings import SpectrogramSettings
from benchmarks.timing import print_race, race, shared_data
from data.synthetic import SyntheticSettings, write_corpus

_CLIPS = 300


def ours(paths: list[Path], settings: SpectrogramSettings) -> Callable[[], None]:
    """Return the work of `melbandit convert`, less its start-up and its files' writing."""
    import torch

    from audio.images import encode_picture
    from audio.spectrogram import LogMel
    from audio.waveform import decode, fit_length, resample

    log_mel = LogMel(settings)

    def work() -> None:
        for first in range(0, len(paths), 64):
            waveforms = []
            for path in paths[first : first + 64]:
                samples, rate = decode(path)
                samples = resample(samples, rate, settings.sample_rate_hz)
                waveforms.append(fit_length(samples, settings.n_samples))
            with torch.inference_mode():
                levels = log_mel(torch.from_numpy(np.stack(waveforms))).numpy()
            for level in levels:
                encode_picture(level, settings, n_valid=settings.n_samples)

    return work


def librosa_pillow(paths: list[Path], settings: SpectrogramSettings) -> Callable[[], None]:
    """Return librosa.load, melspectrogram, power_to_db, and Pillow's PNG."""
    import librosa
    from PIL import Image

    def work() -> None:
        for path in paths:
            y, rate = librosa.load(path, sr=settings.sample_rate_hz)
            mel = librosa.feature.melspectrogram(
                y=librosa.util.fix_length(y, size=settings.n_samples),
                sr=rate,
                n_fft=settings.n_fft,
                win_length=settings.win_length,
                hop_length=settings.hop_length,
                n_mels=settings.n_mels,
            )
            level = librosa.power_to_db(mel, top_db=80)
            scaled = (level - level.min()) * (255 / max(np.ptp(level), 1e-3))
            Image.fromarray(scaled[::-1].astype(np.uint8)).save(io.BytesIO(), "PNG")

    return work


def main() -> None:
    """Print the table."""
    import torch

    torch.set_num_threads(1)  # one core each: the ratio is of work, not of threads
    corpora: dict[str, tuple[list[Path], SpectrogramSettings]] = {}
    fsdd = shared_data("fsdd")
    base = SpectrogramSettings()
    if fsdd is None:
        print("FSDD is not there (../shared/data/fsdd): left out.")
    else:
        paths = sorted(fsdd.glob("recordings/*.wav"))[:_CLIPS]
        corpora["FSDD, 8 kHz wav to 16 kHz, 0.67 s"] = (paths, replace(base, clip_s=0.67))
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_corpus(Path(folder) / "clips", SyntheticSettings(clips_per_class=20))
        paths = [clip.path for clip in manifest.clips]
        corpora["embedded corpus, 16 kHz wav, 2 s"] = (paths, replace(base, clip_s=2.0))
        for title, (paths, settings) in corpora.items():
            contenders = {
                "melbandit": ours(paths, settings),
                "librosa + Pillow": librosa_pillow(paths, settings),
            }
            print_race(f"{title}, one core", race(contenders, rounds=3), len(paths), "clips")


if __name__ == "__main__":
    main()
