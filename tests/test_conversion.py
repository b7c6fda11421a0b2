"""Clips to levels by many threads: as one by one, cut as asked, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audio.clips import Clip, Manifest
from audio.conversion import (
    as_windows,
    convert_clips,
    cut_from_stream,
    on_device,
    read_durations,
)
from audio.images import read_picture
from audio.settings import CutSettings, SettingsError, SpectrogramSettings
from audio.spectrogram import LogMel
from audio.waveform import (
    Resampler,
    fit_length,
    read_clip,
    resample,
    stream_windows,
    trim_silence,
)
from scripts import cli

ROOT = Path(__file__).parents[1]
RATE = 16000
SETTINGS = SpectrogramSettings(n_mels=24, clip_s=0.4)


class Kept:
    """A sink that keeps what it is given."""

    may_be_copied = False

    def __init__(self):
        self.levels, self.n_valid, self.skipped = {}, {}, []

    def write(self, rows, levels, n_valid):
        for row, level, n in zip(rows, levels, n_valid, strict=True):
            self.levels[row], self.n_valid[row] = level.copy(), n

    def skip(self, row, reason):
        self.skipped.append(row)


def noise(n, seed=0):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(n) * np.linspace(0.1, 1, n)).astype(np.float32)


@pytest.fixture
def clips(tmp_path) -> list[Clip]:
    """Seventy clips: three lengths, three rates, three formats; the fifth is no sound."""
    made = []
    for i in range(70):
        rate, ending = (8000, 16000, 44100)[i % 3], (".wav", ".flac", ".ogg")[i % 5 % 3]
        path = tmp_path / "clips" / ("a", "b")[i % 2] / f"{i}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(round((0.2, 0.4, 0.7)[i % 7 % 3] * rate), i), rate)
        made.append(Clip(path, "ab"[i % 2], split="train"))
    made[5].path.write_text("no sound")
    return made


def test_what_is_sent_is_the_models_levels_of_the_clips_middle(clips):
    sink = Kept()
    outcome = convert_clips(clips, range(70), SETTINGS, sink, workers=2)
    assert (sorted(outcome.failed), sink.skipped) == ([5], [5])
    assert outcome.n_new == len(sink.levels) == 69
    log_mel, n = LogMel(SETTINGS), SETTINGS.n_samples
    longer = 0
    for row, level in sink.levels.items():
        wave = read_clip(clips[row], RATE)
        longer += len(wave) > n
        assert sink.n_valid[row] == min(n, len(wave))
        valid = torch.tensor([sink.n_valid[row]])
        expected = log_mel(torch.from_numpy(fit_length(wave, n))[None], valid)[0]
        assert np.abs(level - expected.numpy()).max() < 2e-3
    assert outcome.n_cut == longer > 0


@pytest.mark.parametrize("rows", [range(70), range(69, -1, -1), [3, 41, 4], [7]])
@pytest.mark.parametrize("workers", [1, 3])
def test_neither_threads_nor_order_nor_company_change_a_bit_of_a_clip(clips, rows, workers):
    first, again = Kept(), Kept()
    convert_clips(clips, range(70), SETTINGS, first, workers=2)
    convert_clips(clips, list(rows), SETTINGS, again, workers=workers)
    assert set(again.levels) == set(rows) - {5}
    for row, level in again.levels.items():
        assert np.array_equal(level, first.levels[row])


def test_repeated_clips_fill_the_window(clips):
    settings = replace(SETTINGS, padding="repeat")
    sink = Kept()
    convert_clips(clips, [0], settings, sink, workers=1)
    wave = fit_length(read_clip(clips[0], RATE), settings.n_samples, padding="repeat")
    expected = LogMel(settings)(torch.from_numpy(wave)[None])[0].numpy()
    assert sink.n_valid[0] == settings.n_samples
    assert np.abs(sink.levels[0] - expected).max() < 2e-3


def test_the_device_path_gives_the_same_levels(clips):
    ours, theirs = Kept(), Kept()
    convert_clips(clips, range(20), SETTINGS, ours, workers=1)
    convert_clips(clips, range(20), SETTINGS, theirs, workers=2, log_mel=on_device(SETTINGS, "cpu"))
    assert set(ours.levels) == set(theirs.levels)
    for row, level in ours.levels.items():
        assert np.abs(level - theirs.levels[row]).max() < 2e-3


# Resampling


@given(
    n=st.integers(1, 9000), rates=st.sampled_from([(8000, 16000), (44100, 16000), (48000, 8000)])
)
@hypothesis_settings(max_examples=40)
def test_a_kept_filter_gives_the_samples_of_a_new_one(n, rates):
    resampler = Resampler(rates[1])
    for seed in (0, 1):  # the second clip must not hear the first
        wave = noise(n, seed)
        assert np.array_equal(resampler(wave, rates[0]), resample(wave, *rates))


def test_a_chirp_keeps_its_level_below_and_vanishes_above_the_new_nyquist():
    """The default resampler's quality: passband to 0.1 dB up to 91 % of the Nyquist frequency,
    aliases 100 dB down from 109 % on. torchaudio's default leaves 8.5 kHz at -11 dB."""
    seconds, top = 8.0, 22000.0
    t = np.arange(round(seconds * 44100)) / 44100
    chirp = (0.5 * np.sin(np.pi * top / seconds * t * t)).astype(np.float32)
    out = resample(chirp, 44100, RATE)
    level = 20 * np.log10(
        np.sqrt(2 * np.square(out.astype(np.float64)).reshape(-1, 800).mean(1)) / 0.5 + 1e-9
    )
    hz = (np.arange(len(level)) + 0.5) * 0.05 * top / seconds
    assert np.abs(level[(hz > 200) & (hz < 0.91 * 8000)]).max() < 0.1
    assert level[hz > 1.09 * 8000].max() < -100


# Which part of a clip


@given(
    before=st.integers(0, 20000),
    middle=st.integers(100, 20000),
    after=st.integers(0, 20000),
    top_db=st.sampled_from([10.0, 30.0, 60.0]),
)
@example(before=1020, middle=100, after=0, top_db=60.0)  # below librosa's floor
@hypothesis_settings(max_examples=60)
def test_silence_is_trimmed_as_librosa_trims_it(before, middle, after, top_db):
    wave = np.concatenate(
        [1e-4 * noise(before, 1), np.hanning(middle) * noise(middle, 2), 1e-3 * noise(after, 3)]
    ).astype(np.float32)
    expected, _ = librosa.effects.trim(wave, top_db=top_db)
    assert np.array_equal(trim_silence(wave, top_db), expected)


def test_a_silent_clip_is_not_trimmed_away():
    assert len(trim_silence(np.zeros(5000, np.float32), 60.0)) == 5000


@pytest.fixture
def ramp(tmp_path) -> Clip:
    """A clip of two seconds, whose first sample of a part says where the part is from."""
    path = tmp_path / "ramp.wav"
    soundfile.write(path, np.arange(2 * RATE, dtype=np.float32) / 2**15, RATE, subtype="FLOAT")
    return Clip(path, "x", split="train")


def part(clip, cut, settings=SETTINGS):
    """Return where the part of a clip starts that is shown."""
    seen = []

    def spy(batch, n_valid):
        seen.append(round(float(batch[0, 0]) * 2**15))
        return np.zeros((len(batch), settings.n_mels, settings.n_frames), np.float32)

    convert_clips([clip], [0], settings, Kept(), cut=cut, workers=1, log_mel=spy)
    return seen[0]


def test_the_part_of_a_longer_clip_is_the_one_asked_for(ramp, monkeypatch):
    more = 2 * RATE - SETTINGS.n_samples
    assert part(ramp, CutSettings()) == more // 2
    assert part(ramp, CutSettings(longer="start")) == 0
    drawn = {part(ramp, CutSettings(longer="random", crop_seed=seed)) for seed in range(12)}
    assert len(drawn) > 8
    assert min(drawn) >= 0
    assert max(drawn) <= more
    assert max(drawn) - min(drawn) > more / 3
    again = part(ramp, CutSettings(longer="random", crop_seed=3))
    assert again == part(ramp, CutSettings(longer="random", crop_seed=3))
    monkeypatch.chdir(ramp.path.parent.parent)
    here = replace(ramp, path=ramp.path.relative_to(Path.cwd()))  # the same corpus, given shorter
    assert again == part(here, CutSettings(longer="random", crop_seed=3))


def test_trimming_comes_before_cutting(tmp_path):
    path = tmp_path / "a.wav"
    wave = np.concatenate([np.zeros(3 * RATE), 0.3 * np.ones(RATE // 4), np.zeros(RATE)])
    soundfile.write(path, wave, RATE)
    kept, sink = Kept(), Kept()
    clip = Clip(path, "x", split="train")
    convert_clips([clip], [0], SETTINGS, kept, workers=1)
    convert_clips([clip], [0], SETTINGS, sink, cut=CutSettings(trim_db=40.0), workers=1)
    trimmed, _ = librosa.effects.trim(soundfile.read(path, dtype="float32")[0], top_db=40.0)
    assert kept.n_valid[0] == SETTINGS.n_samples
    assert sink.n_valid[0] == min(len(trimmed), SETTINGS.n_samples)
    expected = LogMel(SETTINGS)(torch.from_numpy(fit_length(trimmed, SETTINGS.n_samples))[None])
    assert np.abs(sink.levels[0] - expected[0].numpy()).max() < 2e-3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"overlap_percent": 50.0}, ("overlap_percent=50", "longer=windows", "leave it out")),
        ({"crop_seed": 3}, ("crop_seed=3", "longer=random")),
        ({"trim_db": 60.0, "longer": "windows"}, ("trim_db=60", "longer=windows")),
        ({"overlap_percent": 99.0, "longer": "windows"}, ("overlap_percent=99", "lower it")),
        ({"longer": "middle"}, ("longer='middle'", "centre, start, random, windows")),
    ],
)
def test_cuts_that_cannot_go_together_are_refused(values, words):
    with pytest.raises(SettingsError) as error:
        CutSettings(**values)
    for word in words:
        assert word in str(error.value)


# Windows of long recordings


@pytest.mark.parametrize("rate", [16000, 22050])
@pytest.mark.parametrize("overlap", [0.0, 50.0, 70.0])
def test_windows_are_those_of_the_stream(tmp_path, rate, overlap):
    path = tmp_path / "long.wav"
    soundfile.write(path, noise(round(23.45 * rate)), rate, subtype="FLOAT")
    settings = SpectrogramSettings(n_mels=24, clip_s=2.0)
    manifest = Manifest((Clip(path, "x", split="train"),), tmp_path)
    durations = read_durations(manifest.clips, workers=2)
    windows = as_windows(manifest, durations, settings, overlap)
    n, hop = settings.n_samples, round(settings.n_samples * (1 - overlap / 100))
    expected = list(stream_windows(path, sample_rate_hz=RATE, window=n, hop=hop))
    assert [round(clip.start_s * RATE) for clip in windows.clips] == [s for s, _ in expected]
    assert {clip.group for clip in windows.clips} == {"long.wav"}
    sink = Kept()
    cut = CutSettings(longer="windows", overlap_percent=overlap)
    outcome = convert_clips(windows.clips, range(len(windows)), settings, sink, cut=cut, workers=2)
    assert not outcome.failed
    assert outcome.n_cut == 0
    log_mel = LogMel(settings)
    for row, (_, wave) in enumerate(expected):
        level = log_mel(torch.from_numpy(wave)[None])[0].numpy()
        assert np.abs(sink.levels[row] - level).max() < 5e-3


def test_a_recording_of_an_hour_is_converted_in_the_memory_of_a_clip(tmp_path):
    """An hour of float32 at 8 kHz is 115 MB; its middle is one window, its windows are 360."""
    path = tmp_path / "hour.wav"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for minute in range(60):
            file.write(noise(60 * 8000, minute))
    settings = SpectrogramSettings(sample_rate_hz=8000, clip_s=10.0, n_mels=24, n_fft=256,
                                   win_length=256)  # fmt: skip
    clip = Clip(path, "x", split="train")
    windows = as_windows(Manifest((clip,), tmp_path), [3600.0], settings, 0.0)
    assert len(windows) == 360

    class Counted:
        n = 0

        def write(self, rows, levels, n_valid):
            self.n += len(rows)

        def skip(self, row, reason):
            raise AssertionError(row)

    for clips, cut, n in (
        ([clip], CutSettings(), 1),
        ([replace(clip, duration_s=3600.0)], CutSettings(), 1),
        (windows.clips, CutSettings(longer="windows"), 360),
    ):
        sink = Counted()
        tracemalloc.start()
        convert_clips(clips, range(len(clips)), settings, sink, cut=cut, workers=1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert sink.n == n
        assert peak < 40e6


def test_the_middle_of_a_long_recording_is_that_of_the_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(40 * 22050), 22050)
    whole, streamed = Kept(), Kept()
    clip = Clip(path, "x", split="train")
    convert_clips([clip], [0], SETTINGS, whole, workers=1)
    monkeypatch.setattr("audio.conversion._LONG_BYTES", 1000)
    convert_clips([clip], [0], SETTINGS, streamed, workers=1)
    assert np.abs(whole.levels[0] - streamed.levels[0]).max() < 5e-3
    piece = replace(clip, start_s=5.0, duration_s=30.0)
    monkeypatch.setattr("audio.conversion._LONG_S", 20.0)
    convert_clips([piece], [0], SETTINGS, streamed, workers=1)
    monkeypatch.undo()
    convert_clips([piece], [0], SETTINGS, whole, workers=1)
    assert np.abs(whole.levels[0] - streamed.levels[0]).max() < 5e-3


def test_the_windows_of_long_clips_are_held_without_the_clips(tmp_path):
    clips = []
    for i in range(40):
        clips.append(Clip(tmp_path / f"{i}.wav", "x", split="train"))
        soundfile.write(clips[-1].path, noise(60 * 8000, i), 8000)
    settings = SpectrogramSettings(sample_rate_hz=8000, clip_s=1.0, n_mels=24, n_fft=256,
                                   win_length=256)  # fmt: skip
    tracemalloc.start()
    convert_clips(clips, range(40), settings, Kept(), workers=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6  # the clips together are 77 MB


@pytest.mark.parametrize("workers", [1, 2])
def test_progress_is_told_within_one_long_recording(tmp_path, workers):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(400 * 8000), 8000)
    manifest = Manifest((Clip(path, "x", split="train"),), tmp_path)
    windows = as_windows(manifest, [400.0], SETTINGS, 0.0)
    told = []
    convert_clips(
        windows.clips,
        range(len(windows)),
        SETTINGS,
        Kept(),
        cut=CutSettings(longer="windows"),
        workers=workers,
        progress=told.append,
    )
    assert told == sorted(told)
    assert len(told) > 5
    assert told[-1] == len(windows) == 1000


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_of_the_sink_ends_the_conversion_and_is_raised(clips, workers):
    class Full(Kept):
        def write(self, rows, levels, n_valid):
            super().write(rows, levels, n_valid)
            raise OSError(errno.ENOSPC, "full")

    sink = Full()
    with pytest.raises(OSError, match="full"):
        convert_clips(clips, range(70), SETTINGS, sink, workers=workers)
    assert len(sink.levels) <= 32 * workers


def test_a_piece_past_the_end_of_a_stream_is_refused(tmp_path):
    from audio.sound import ClipError

    path = tmp_path / "a.wav"
    soundfile.write(path, noise(8000), 8000)
    pieces = cut_from_stream(path, [0, 7000, 9000], 2000, 8000)
    assert [len(next(pieces)), len(next(pieces))] == [2000, 1000]
    with pytest.raises(ClipError, match=r"start_s=1\.125 is past its end at 1\.000 s"):
        next(pieces)


# The command


def run(*arguments) -> int:
    return cli.main(["convert", *map(str, arguments)])


def test_converting_needs_neither_torch_nor_scikit_learn(clips, tmp_path):
    """Importing either takes longer than converting thousands of clips."""
    clips[5].path.unlink()
    code = (
        "import sys; from scripts.cli import main;"
        f"code = main(['convert', {str(tmp_path / 'clips')!r}, '--out', {str(tmp_path / 'o')!r}]);"
        "heavy = {'torch', 'sklearn', 'librosa', 'transformers', 'matplotlib', 'pandas', 'av'};"
        "print('HEAVY', code, *sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY 0"


def test_a_full_disk_ends_in_a_line_with_nothing_half_written_and_the_rest_follows(
    clips, tmp_path, monkeypatch, capsys
):
    out, write, n_bytes = tmp_path / "o", os.write, [0]

    def full(file, data):
        n_bytes[0] += len(data)
        if n_bytes[0] > 40_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    monkeypatch.setattr("audio.files.os.write", full)
    assert run(tmp_path / "clips", "--out", out, "--n-mels", 24) == 1
    monkeypatch.undo()
    told = capsys.readouterr().err
    assert f"{out}: the disk is full" in told
    assert "Traceback" not in told
    there = sorted(out.glob("*/*/*.png"))
    assert 0 < len(there) < 69
    assert not list(out.rglob("*.part"))
    for path in there:
        read_picture(path)
    kept = {path: path.stat().st_mtime_ns for path in there}
    assert run(tmp_path / "clips", "--out", out, "--n-mels", 24) == 3
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["pictures"], result["new"]) == (69, 69 - len(there))
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def test_two_converts_into_one_folder_do_not_meet(clips, tmp_path, capsys):
    from scripts.run_folder import open_run

    with open_run(tmp_path / "o", overwrite=False):
        assert run(tmp_path / "clips", "--out", tmp_path / "o") == 1
    assert "another melbandit is at work in it" in capsys.readouterr().err


def test_windows_of_a_recording_are_pictures_of_one_split(tmp_path, capsys):
    for i, label in enumerate("aabbaabb"):
        path = tmp_path / "long" / label / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(round(5.3 * 8000), i), 8000)
    command = [tmp_path / "long", "--out", tmp_path / "o", "--longer", "windows", "--clip-s", 2]
    command += ["--n-mels", 24, "--overlap-percent", 50]
    assert run(*command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pictures"] == 8 * 5
    pictures = list((tmp_path / "o").glob("*/*/*.png"))
    names = {path.name for path in pictures if path.name.startswith("3@")}
    assert names == {f"3@{start:.3f}.png" for start in (0, 1, 2, 3, 3.3)}
    sides = {}
    for path in pictures:
        sides.setdefault(path.name.split("@")[0], set()).add(path.parts[-3])
    assert len(sides) == 8
    assert all(len(side) == 1 for side in sides.values())
    before = {path: path.read_bytes() for path in pictures}
    for gone in (pictures[0], pictures[7], tmp_path / "o" / "results.json"):
        gone.unlink()
    assert run(*command) == 0
    assert {path: path.read_bytes() for path in pictures} == before


@pytest.mark.parametrize("preset", ["ast", "whisper"])
def test_a_presets_picture_is_the_extractors_features(tmp_path, preset):
    import transformers

    for label in "ab":
        for i in range(3):
            path = tmp_path / "in" / label / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, noise(RATE, i + 10 * (label == "b")), RATE)
    assert run(tmp_path / "in", "--out", tmp_path / "o", "--preset", preset, "--unsplit") == 0
    path = tmp_path / "in" / "b" / "2.wav"
    wave = soundfile.read(path, dtype="float32")[0]
    picture = read_picture(tmp_path / "o" / "train" / "b" / "2.png")
    if preset == "ast":
        extractor = transformers.ASTFeatureExtractor(max_length=picture.pixels.shape[1])
        features = extractor(wave, sampling_rate=RATE, return_tensors="np").input_values[0].T
        level = (features * 2 * 4.5689974 - 4.2677393) * 10 / np.log(10)
    else:
        extractor = transformers.WhisperFeatureExtractor(chunk_length=1)
        features = extractor(wave, sampling_rate=RATE, return_tensors="np").input_features[0]
        level = (4 * features - 4) * 10
    half_a_step = (picture.high - picture.low) / 255 / 2
    assert picture.pixels.shape == level.shape
    assert np.abs(picture.level - level).max() < half_a_step + 5e-3


def test_the_real_imagefolder_loader_reads_what_convert_wrote(clips, tmp_path):
    import datasets

    assert run(tmp_path / "clips", "--out", tmp_path / "o", "--n-mels", 24) == 3
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "o"), cache_dir=str(tmp_path / "cache")
    )
    rows = [(split, row) for split, part in found.items() for row in part]
    assert len(rows) == 69
    for split, row in rows:
        stem, label = Path(row["source"]).stem, row["source"].split("/")[0]
        assert row["label"] == label
        picture = read_picture(tmp_path / "o" / split / label / f"{stem}.png")
        assert np.array_equal(np.asarray(row["image"])[::-1], picture.pixels)


def test_odd_containers_of_a_telephone_are_converted(tmp_path, capsys):
    from tests.test_decoding import write_av

    kinds = [("a.3gp", "libopencore_amrnb"), ("b.3gp", "aac"), ("c.caf", "adpcm_ima_qt")]
    kinds += [("d.caf", "alac"), ("e.amr", "libopencore_amrnb"), ("f.caf", "pcm_mulaw")]
    for label in ("one", "two"):
        for name, codec in kinds:
            (tmp_path / "in" / label).mkdir(parents=True, exist_ok=True)
            write_av(tmp_path / "in" / label / name, codec)
    command = [tmp_path / "in", "--out", tmp_path / "o", "--sample-rate-hz", 8000, "--n-fft", 256]
    assert run(*command, "--win-length", 200, "--n-mels", 32) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pictures"] == 12
    loudest = {
        path.stem: read_picture(path).level[:, 10:-10].mean(1).argmax()
        for path in (tmp_path / "o").glob("*/*/*.png")
    }
    assert set(loudest.values()) <= {loudest["f"] - 1, loudest["f"], loudest["f"] + 1}


def test_kept_memory_spares_page_faults():
    """In a process of its own: whoever asked for it keeps it."""
    code = (
        "import resource, sys, numpy as np; from audio.memory import keep_freed_memory;"
        "sys.argv[1] == 'keep' and keep_freed_memory();"
        "work = lambda: [np.ones(1_000_000).sum() for _ in range(20)];"
        "work(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt; work();"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", code, how],
                cwd=ROOT, capture_output=True, text=True, check=True,
            ).stdout
        )
        for how in ("keep", "give")
    }  # fmt: skip
    assert faults["keep"] < 200
    assert faults["give"] >= faults["keep"]
