"""Clips to mel-spectrogram PNGs, beside everything that one could use instead.

`python -m benchmarks.conversion [fsdd wav ogg] [--rounds 3]`. Every contender reads files,
resamples to 16 kHz, makes log-mels and writes PNGs into a folder, and they take turns. Below them
stands what parts of melbandit's work take alone: the distance to the limit. Peak memory is of a
process of the contender's own; last, `melbandit convert` from command to prompt. Everything is
written under TMPDIR.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from audio.settings import SpectrogramSettings
from benchmarks.timing import high_water_mib, shared_data

Work = Callable[[], None]


@dataclass(frozen=True)
class Task:
    """Files to convert, how, and where to."""

    paths: tuple[Path, ...]
    settings: SpectrogramSettings
    out: Path

    def first(self, n: int) -> Task:
        """Return the task of the first `n` files."""
        return replace(self, paths=self.paths[:n])


# Contenders


def melbandit(task: Task, *, workers: int = 1) -> Work:
    """Return what `melbandit convert` does, less its start-up, in this process."""
    from audio.clips import Clip
    from audio.conversion import PictureFolder, convert_clips
    from audio.memory import keep_freed_memory

    keep_freed_memory()  # as the command does; the contenders have it too then
    clips = [Clip(path, "x") for path in task.paths]
    names = [Path(f"{i}.png") for i in range(len(clips))]
    sink = PictureFolder(task.out, names, task.settings)

    def work() -> None:
        outcome = convert_clips(clips, range(len(clips)), task.settings, sink, workers=workers)
        assert outcome.n_new == len(clips)

    return work


def melbandit_crew(task: Task) -> Work:
    """Return the same by two workers, in a process without torch, which it forks."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(task, theirs))
    server.start()
    theirs.close()
    assert ours.recv() == "ready"
    # it ends when this is closed or collected; the pool it forks is made anew for each round

    def work() -> None:
        ours.send("go")
        assert ours.recv() == "done"

    return work


def _serve(task: Task, pipe: Any) -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    work = melbandit(task, workers=2)
    pipe.send("ready")
    try:
        while pipe.recv() == "go":
            work()
            pipe.send("done")
    except EOFError:
        pass


def _save(level: Any, path: Path) -> None:
    """Write a level as a grey PNG by Pillow."""
    from PIL import Image

    scaled = (level - level.min()) * (255 / max(float(np.ptp(level)), 1e-3))
    Image.fromarray(np.asarray(scaled)[::-1].astype(np.uint8)).save(path)


def _librosa_level(path: Path, s: SpectrogramSettings) -> Any:
    import librosa

    y, rate = librosa.load(path, sr=s.sample_rate_hz)
    mel = librosa.feature.melspectrogram(
        y=librosa.util.fix_length(y, size=s.n_samples),
        sr=rate,
        n_fft=s.n_fft,
        win_length=s.win_length,
        hop_length=s.hop_length,
        n_mels=s.n_mels,
    )
    return librosa.power_to_db(mel, top_db=80)


def _librosa_pillow_one(path: Path, s: SpectrogramSettings, out: Path) -> None:
    _save(_librosa_level(path, s), out / f"{path.stem}.png")


def librosa_pillow(task: Task) -> Work:
    """Return librosa.load, melspectrogram, power_to_db, and Pillow's PNG."""

    def work() -> None:
        for path in task.paths:
            _librosa_pillow_one(path, task.settings, task.out)

    return work


def librosa_joblib(task: Task) -> Work:
    """Return the same by joblib's two processes."""
    import joblib

    pool = joblib.Parallel(n_jobs=2)
    one = joblib.delayed(_librosa_pillow_one)

    def work() -> None:
        pool(one(path, task.settings, task.out) for path in task.paths)

    return work


def librosa_matplotlib(task: Task) -> Work:
    """Return what tutorials do: librosa, specshow, savefig."""
    import librosa
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    def work() -> None:
        for path in task.paths:
            figure, axes = plt.subplots()
            librosa.display.specshow(_librosa_level(path, task.settings), ax=axes)
            axes.set_axis_off()
            figure.savefig(task.out / f"{path.stem}.png", bbox_inches="tight", pad_inches=0)
            plt.close(figure)

    return work


def _torch_batchless(task: Task, mel: Callable[[Any], Any]) -> Work:
    """Return soundfile, torchaudio's resampling, a torch mel transform in dB, and Pillow."""
    import soundfile
    import torch
    import torchaudio

    s = task.settings
    to_db = torchaudio.transforms.AmplitudeToDB(top_db=80)
    resamplers: dict[int, Any] = {}

    def work() -> None:
        with torch.inference_mode():
            for path in task.paths:
                samples, rate = soundfile.read(path, dtype="float32")
                if rate not in resamplers:
                    resamplers[rate] = torchaudio.transforms.Resample(rate, s.sample_rate_hz)
                wave = resamplers[rate](torch.from_numpy(samples)[None])
                more = s.n_samples - wave.shape[1]
                wave = torch.nn.functional.pad(wave, (0, more))  # cuts, where more is negative
                _save(to_db(mel(wave))[0].numpy(), task.out / f"{path.stem}.png")

    return work


def torchaudio_pillow(task: Task) -> Work:
    """Return torchaudio's MelSpectrogram, and Pillow."""
    import torchaudio

    s = task.settings
    mel = torchaudio.transforms.MelSpectrogram(
        s.sample_rate_hz, n_fft=s.n_fft, win_length=s.win_length, hop_length=s.hop_length,
        n_mels=s.n_mels, norm="slaney", mel_scale="slaney",
    )  # fmt: skip
    return _torch_batchless(task, mel)


def nnaudio_pillow(task: Task) -> Work:
    """Return nnAudio's MelSpectrogram, and Pillow."""
    from nnAudio.features import MelSpectrogram

    s = task.settings
    mel = MelSpectrogram(
        sr=s.sample_rate_hz, n_fft=s.n_fft, win_length=s.win_length, hop_length=s.hop_length,
        n_mels=s.n_mels, verbose=False,
    )  # fmt: skip
    return _torch_batchless(task, mel)


def _extractor(task: Task, make: Callable[[Any], Any]) -> Work:
    import librosa

    s = task.settings

    def work() -> None:
        for path in task.paths:
            y, _ = librosa.load(path, sr=s.sample_rate_hz)
            features = make(librosa.util.fix_length(y, size=s.n_samples))
            _save(features, task.out / f"{path.stem}.png")

    return work


def ast_pillow(task: Task) -> Work:
    """Return transformers' ASTFeatureExtractor, and Pillow."""
    from transformers import ASTFeatureExtractor

    extractor = ASTFeatureExtractor(
        num_mel_bins=task.settings.n_mels, max_length=task.settings.n_frames
    )
    return _extractor(
        task,
        lambda y: extractor(y, sampling_rate=16000, return_tensors="np").input_values[0].T,
    )


def whisper_pillow(task: Task) -> Work:
    """Return transformers' WhisperFeatureExtractor, told the clips' length, and Pillow."""
    from transformers import WhisperFeatureExtractor

    s = task.settings
    extractor = WhisperFeatureExtractor(
        feature_size=s.n_mels, chunk_length=max(1, round(s.n_samples / s.sample_rate_hz))
    )
    return _extractor(
        task,
        lambda y: extractor(y, sampling_rate=16000, return_tensors="np").input_features[0],
    )


_CREW, _ALONE = "melbandit, two workers", "melbandit, one worker"

#: Each contender with the share of the clips that it is given, so that a turn takes about a second.
CONTENDERS: dict[str, tuple[Callable[[Task], Work], float]] = {
    _CREW: (melbandit_crew, 1.0),
    _ALONE: (melbandit, 1.0),
    "librosa + Pillow": (librosa_pillow, 0.2),
    "librosa + Pillow, joblib, two processes": (librosa_joblib, 0.4),
    "librosa + matplotlib": (librosa_matplotlib, 0.02),
    "torchaudio + Pillow": (torchaudio_pillow, 0.2),
    "transformers' AST extractor + Pillow": (ast_pillow, 0.15),
    "transformers' Whisper extractor + Pillow": (whisper_pillow, 0.15),
    "nnAudio + Pillow": (nnaudio_pillow, 0.15),
}


# The limit: parts of the work alone, on one thread


def parts(task: Task) -> dict[str, Work]:
    """Return the parts of melbandit's work, each alone over the same clips."""
    import scipy.fft

    from audio.decoding import read_sound
    from audio.files import write_atomically
    from audio.images import encode_pictures
    from audio.mel_numpy import NumpyLogMel
    from audio.waveform import Resampler

    s = task.settings
    resampler = Resampler(s.sample_rate_hz)
    sounds = [read_sound(path) for path in task.paths]
    rng = np.random.default_rng(0)
    batch = (0.1 * rng.standard_normal((8, s.n_samples))).astype(np.float32)
    log_mel = NumpyLogMel(s)
    levels = np.ascontiguousarray(log_mel(batch).transpose(0, 2, 1)).transpose(0, 2, 1)
    pictures = encode_pictures(levels, s, n_valid=[s.n_samples] * 8)
    frames = rng.standard_normal((s.n_frames, s.n_fft)).astype(np.float32)
    n = len(task.paths)

    def decode() -> None:
        for path in task.paths:
            read_sound(path)

    def resample() -> None:
        for sound in sounds:
            resampler(sound.samples, sound.rate)

    def decode_resample() -> None:
        for path in task.paths:
            sound = read_sound(path)
            resampler(sound.samples, sound.rate)

    def transform() -> None:
        for _ in range(n):
            scipy.fft.rfft(frames)

    def mel() -> None:
        for _ in range(0, n, 8):
            log_mel(batch)

    def png() -> None:
        for _ in range(0, n, 8):
            encode_pictures(levels, s, n_valid=[s.n_samples] * 8)

    def write() -> None:
        for i in range(n):
            write_atomically(task.out / f"{i}.png", pictures[i % 8])

    return {
        "decode alone": decode,
        "resample alone": resample,
        "decode + resample": decode_resample,
        "FFT alone": transform,
        "whole mel transform": mel,
        "PNG alone": png,
        "writing files alone": write,
    }


# Memory and the whole command


def _peak(name: str, task: Task) -> float:
    CONTENDERS[name][0](task)()
    threads = Path("/proc/self/task").glob("*/children")
    children = [pid for thread in threads for pid in thread.read_text().split()]
    peak = sum(high_water_mib(pid) for pid in ("self", *children))
    if "joblib" in sys.modules:  # its processes would wait five minutes for more work
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(kill_workers=True)
    return peak


def peak_memory_mb(name: str, task: Task) -> float:
    """Return the peak of a contender in a fresh process and its children, libraries included, in
    MB."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, name, task).result()


def command_seconds(clips: Path, out: Path, *more: str) -> tuple[float, float]:
    """Return the wall clock of `melbandit convert` from command to prompt, and its CPU time."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "scripts.cli", "convert", str(clips), "--out", str(out), *more],
        check=True,
        capture_output=True,
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# Corpora


def synthesise(folder: Path, ending: str, n: int) -> tuple[Path, ...]:
    """Return `n` files of 5 s at 44.1 kHz: coloured noise, tones and clicks."""
    import soundfile

    rng = np.random.default_rng(0)
    t = np.arange(5 * 44100) / 44100
    paths = []
    for i in range(n):
        noise = rng.standard_normal(len(t))
        noise = np.convolve(noise, np.ones(1 + i % 12) / (1 + i % 12), "same")
        tone = np.sin(2 * np.pi * (200 + 40 * i + 100 * np.sin(2 * np.pi * t)) * t)
        wave = 0.1 * noise * (0.2 + np.abs(np.sin(0.7 * i + t))) + 0.2 * tone * np.exp(-(t % 1) * 3)
        paths.append(folder / ("ab"[i % 2]) / f"{i}{ending}")
        paths[-1].parent.mkdir(exist_ok=True)
        soundfile.write(paths[-1], wave, 44100)
    return tuple(paths)


def take_turns(
    contenders: dict[str, Work], *, rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return each contender's median seconds of wall clock, and of this process's CPU time, over
    the rounds, in turns, after one to warm up.

    On a machine that others use, CPU time says how much work it is.
    """
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for k in range(rounds + 1):
        for name, work in contenders.items():
            started, before = time.perf_counter(), time.process_time()
            work()
            if k:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - before)
    return (
        {name: statistics.median(values) for name, values in wall.items()},
        {name: statistics.median(values) for name, values in cpu.items()},
    )


def show(title: str, task: Task, rounds: int, *, memory: bool) -> None:
    """Print one corpus's table."""
    small = len(task.paths) > 1000  # clips of which melbandit needs more for a turn
    counts = {
        name: max(2, round(share * len(task.paths) / (4 if share < 1 and small else 1)))
        for name, (_, share) in CONTENDERS.items()
    }
    work: dict[str, Work] = {}
    left_out = []
    for name, (make, _) in CONTENDERS.items():
        try:
            work[name] = make(task.first(counts[name]))
        except ImportError as error:
            left_out.append(f"{name} ({error})")
    alone = parts(task)
    seconds, busy = take_turns(work | alone, rounds=rounds)
    ours = seconds[_CREW] / len(task.paths)
    ours_busy = busy[_ALONE] / len(task.paths)
    print(f"\n{title}: {len(task.paths)} files")
    head = f"  {'':<42}{'clips/s':>9}  melbandit's is   CPU ms/clip    of melbandit's"
    print(head + ("     peak MB" if memory else ""))
    for name in work:
        each, cpu = seconds[name] / counts[name], busy[name] / counts[name]
        line = f"  {name:<42}{1 / each:9,.0f}{each / ours:13.1f} x"
        if "processes" in name or name == _CREW:  # their time is not this process's
            line += f"{'-':>14}{'-':>17}"
        else:
            line += f"{1e3 * cpu:14.2f}{cpu / ours_busy:15.1f} x"
        if memory:
            line += f"{peak_memory_mb(name, task.first(counts[name])):14,.0f}"
        print(line, flush=True)
    print("  parts of melbandit's work, each alone")
    one = busy[_ALONE]
    for name in alone:
        rate, cpu = len(task.paths) / seconds[name], busy[name]
        line = f"  {name:<42}{rate:9,.0f}{'':15}{1e3 * cpu / len(task.paths):14.2f}"
        print(f"{line}{cpu / one:12.0%} of the whole")
    for name in left_out:
        print(f"  left out: {name}")


def main(argv: Sequence[str] = ()) -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("corpora", nargs="*", default=["fsdd", "wav", "ogg"])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--clips", type=int, default=120, help="files of 5 s")
    options.add_argument("--no-memory", action="store_true")
    given = options.parse_args(list(argv))
    warnings.filterwarnings("ignore")
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)  # processes and threads are counted, not hidden
    torch.set_num_threads(1)
    base = SpectrogramSettings()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "out").mkdir()
        for name in given.corpora:
            fsdd = shared_data("fsdd")
            if name == "fsdd":
                if fsdd is None:
                    print("FSDD is not there (../shared/data/fsdd): left out.")
                    continue
                paths = tuple(sorted(fsdd.glob("recordings/*.wav")))
                title, settings = "FSDD, 8 kHz wav of 0.44 s", replace(base, clip_s=0.67)
                clips, more = fsdd / "recordings", ["--pattern", "{label}_{group}_{take}"]
            else:
                clips, more = root / name, []
                clips.mkdir()
                paths = synthesise(clips, f".{name}", given.clips)
                title = f"44.1 kHz {name} of 5 s"
                settings = replace(base, clip_s=5.0, n_mels=128, n_fft=1024)
                more = ["--n-mels", "128", "--n-fft", "1024"]
            task = Task(paths, settings, root / "out")
            show(title, task, given.rounds, memory=not given.no_memory)
            n = len(list(clips.rglob("*.*")))
            taken = [command_seconds(clips, root / f"{name}-{k}", *more) for k in range(3)]
            wall, cpu = (statistics.median(values) for values in zip(*taken, strict=True))
            print(
                f"  melbandit convert, {n} files, from command to prompt: {wall:.2f} s wall clock, "
                f"{cpu:.2f} s of CPU time",
                flush=True,
            )


if __name__ == "__main__":
    # by its own name: joblib's processes cannot find what is in __main__
    from benchmarks.conversion import main as main_by_name

    main_by_name(sys.argv[1:])
