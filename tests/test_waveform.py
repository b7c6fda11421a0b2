"""From files to samples: every format, every bad file, resampling, windows, and the store."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from audio.clips import Clip, Manifest
from audio.waveform import (
    ClipError,
    choose_clip_s,
    decode,
    fit_length,
    open_store,
    read_clip,
    read_duration_s,
    resample,
    stream_windows,
    window_starts,
)
from tests import layouts

RATE = 16000


def tone(hz=440.0, seconds=0.5, rate=RATE, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def level_db(wave):
    return 20 * np.log10(np.sqrt(np.mean(np.square(wave, dtype=np.float64))) + 1e-12)


# Decoding


@pytest.mark.parametrize(
    ("ending", "subtype", "error"),
    [
        (".wav", "PCM_16", 2**-15),
        (".wav", "PCM_24", 2**-23),
        (".wav", "PCM_32", 1e-7),
        (".wav", "FLOAT", 0),
        (".wav", "DOUBLE", 0),
        (".wav", "PCM_U8", 2**-7),
        (".wav", "ULAW", 0.02),
        (".flac", "PCM_16", 2**-15),
        (".aiff", "PCM_16", 2**-15),
    ],
)
def test_a_file_gives_the_samples_that_were_written(tmp_path, ending, subtype, error):
    wave = tone()
    path = tmp_path / f"a{ending}"
    soundfile.write(path, wave, RATE, subtype=subtype)
    samples, rate = decode(path)
    assert rate == RATE
    assert samples.dtype == np.float32
    assert samples.shape == wave.shape
    assert np.abs(samples - wave).max() <= error


@pytest.mark.parametrize("ending", [".ogg", ".mp3"])
def test_a_lossy_file_gives_the_sound_that_was_written(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    soundfile.write(path, tone(seconds=1.0), RATE)
    samples, rate = decode(path)
    assert rate == RATE
    middle = samples[4000:12000]
    assert np.abs(np.fft.rfft(middle)).argmax() == 220  # 440 Hz in bins of 2 Hz
    assert level_db(middle) == pytest.approx(level_db(tone()), abs=0.5)


@pytest.mark.parametrize(("ending", "codec"), [(".m4a", "aac"), (".3gp", "aac"), (".mka", "flac")])
def test_what_libsndfile_cannot_read_is_read_by_pyav(tmp_path, ending, codec):
    path = tmp_path / f"a{ending}"
    wave = np.round(tone(seconds=1.0) * 32767).astype(np.int16)
    layouts.write_by_ffmpeg(path, wave[:, None], RATE, codec)
    with pytest.raises(soundfile.LibsndfileError):
        soundfile.info(path)
    samples, rate = decode(path)
    assert rate == RATE
    assert len(samples) == pytest.approx(RATE, abs=2100)  # aac adds up to two blocks of 1024
    middle = samples[4000:12000]
    assert np.abs(np.fft.rfft(middle)).argmax() == 220
    assert level_db(middle) == pytest.approx(level_db(tone()), abs=0.5)
    piece, _ = decode(path, start_s=0.25, duration_s=0.5)
    assert np.array_equal(piece, samples[4000:12000])
    assert read_duration_s(path) == pytest.approx(len(samples) / RATE)
    with pytest.raises(ClipError, match=r"start_s=5 is past its end"):
        decode(path, start_s=5)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_stereo_is_mixed_to_the_mean_of_its_channels(tmp_path, subtype):
    left, right = tone(300), tone(700, level=0.25)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE, subtype=subtype)
    samples, _ = decode(tmp_path / "a.wav")
    assert np.abs(samples - (left + right) / 2).max() <= 2**-15


def test_start_and_duration_cut_the_piece_out(tmp_path):
    wave = np.random.default_rng(0).uniform(-1, 1, RATE).astype(np.float32)
    path = tmp_path / "a.wav"
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    samples, _ = decode(path, start_s=0.25, duration_s=0.5)
    assert np.array_equal(samples, wave[4000:12000])
    assert np.array_equal(decode(path, start_s=0.75)[0], wave[12000:])
    assert np.array_equal(decode(path, start_s=0.75, duration_s=9)[0], wave[12000:])
    with pytest.raises(ClipError, match=r"start_s=1 is past its end at 1\.000 s"):
        decode(path, start_s=1.0)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Write one file of each kind that cannot be used; return it and what must be said."""
    good = folder / "good.wav"
    soundfile.write(good, tone(), RATE)
    head = folder / "head.wav"
    head.write_bytes(good.read_bytes()[:20])
    empty = folder / "empty.wav"
    empty.write_bytes(b"")
    text = folder / "text.wav"
    text.write_text("this is no sound\n" * 50)
    silent = folder / "no-samples.wav"
    soundfile.write(silent, np.zeros(0, np.float32), RATE)
    broken = folder / "nan.wav"
    wave = tone()
    wave[[3, 5]] = np.nan, np.inf
    soundfile.write(broken, wave, RATE, subtype="FLOAT")
    (folder / "folder.wav").mkdir()
    return {
        "missing": (folder / "gone.wav", "no such file"),
        "empty": (empty, "empty"),
        "text": (text, "not a sound file"),
        "truncated header": (head, "not a sound file"),
        "zero samples": (silent, "no samples"),
        "NaN": (broken, "2 of its 8000 samples are NaN or infinite"),
        "folder": (folder / "folder.wav", "is a folder"),
    }


KINDS = ["missing", "empty", "text", "truncated header", "zero samples", "NaN", "folder"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["decode", "stream"])
def test_a_bad_file_gives_one_line_with_path_and_reason(tmp_path, kind, way):
    path, reason = bad_files(tmp_path)[kind]
    read = {
        "decode": lambda: decode(path),
        "stream": lambda: list(stream_windows(path, sample_rate_hz=8000, window=100, hop=100)),
    }[way]
    with pytest.raises(ClipError) as error:
        read()
    assert str(error.value).startswith(f"{path}: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert (error.value.path, str(error.value)) == (path, f"{path}: {error.value.reason}")


def test_an_error_crosses_processes_whole():
    error = pickle.loads(pickle.dumps(ClipError(Path("a.wav"), "why.")))
    assert (error.path, error.reason, str(error)) == (Path("a.wav"), "why.", "a.wav: why.")


def test_the_length_is_read_from_the_header(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(seconds=0.5), RATE)
    assert read_duration_s(tmp_path / "a.wav") == 0.5
    assert read_duration_s(tmp_path / "gone.wav") is None


# Resampling


def test_resampling_rejects_what_lies_above_the_new_nyquist():
    wave = tone(9000, seconds=1.0, rate=44100)
    quiet = resample(wave, 44100, 16000)[1600:-1600]
    assert level_db(quiet) < level_db(wave) - 60


@pytest.mark.parametrize("hz", [50, 440, 1000, 3000, 5000, 7000])
def test_resampling_leaves_the_passband_as_it_is(hz):
    out = resample(tone(hz, seconds=1.0, rate=44100), 44100, 16000)
    assert len(out) == 16000
    assert np.abs(out - tone(hz, seconds=1.0))[1600:-1600].max() < 1e-3


def test_resampling_to_the_same_rate_changes_nothing():
    wave = tone()
    assert resample(wave, RATE, RATE) is wave


def test_a_clip_of_one_sample_survives_resampling():
    assert len(resample(np.ones(1, np.float32), 44100, 1000)) == 1


def test_a_clip_is_read_at_the_rate_asked_for(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(440, seconds=1.0, rate=44100), 44100)
    clip = Clip(tmp_path / "a.wav", "x", start_s=0.5, duration_s=0.25)
    assert len(read_clip(clip, 16000)) == 4000


# Length


def test_a_longer_clip_gives_its_middle():
    assert fit_length(np.arange(10, dtype=np.float32), 4).tolist() == [3, 4, 5, 6]


def test_a_shorter_clip_is_padded_or_repeated():
    wave = np.array([1, 2, 3], np.float32)
    assert fit_length(wave, 5).tolist() == [1, 2, 3, 0, 0]
    assert fit_length(wave, 7, padding="repeat").tolist() == [1, 2, 3, 1, 2, 3, 1]


@given(st.lists(st.floats(0.01, 60), min_size=1, max_size=60))
def test_the_chosen_window_holds_95_percent_of_the_clips_or_is_10_s(durations):
    window = choose_clip_s(durations)
    whole = sum(d <= window + 1e-9 for d in durations)
    assert window == 10 or whole >= 0.95 * len(durations)
    assert 0.1 <= window <= 10


def test_a_window_needs_a_clip():
    with pytest.raises(ValueError, match="no usable clip"):
        choose_clip_s([])


# Windows


@given(st.integers(1, 400), st.integers(1, 60))
def test_windows_cover_every_sample_and_none_is_needless(n, window):
    starts = window_starts(n, window)
    covered = np.zeros(max(n, window), int)
    for start in starts:
        covered[start : start + window] += 1
    assert covered[:n].min() >= 1
    assert len(starts) == -(-n // window)
    assert starts[-1] == max(n - window, 0)


@given(
    seconds=st.floats(0.05, 12.0),
    window_s=st.floats(0.05, 6.0),
    rate=st.sampled_from([800, 1000, 1600]),
)
@hypothesis_settings(max_examples=60)
def test_streamed_windows_are_those_of_the_whole_file(tmp_path, seconds, window_s, rate):
    """Blocks of 10 s are read: files of more than one block are the case that matters."""
    path = tmp_path / "a.wav"
    n, window = max(1, round(2 * seconds * rate)), max(1, round(window_s * rate))
    wave = np.random.default_rng(n).uniform(-1, 1, n).astype(np.float32)
    soundfile.write(path, wave, rate, subtype="FLOAT")
    found = list(stream_windows(path, sample_rate_hz=rate, window=window, hop=window))
    assert [start for start, _ in found] == window_starts(n, window)
    for start, piece in found:
        assert np.array_equal(piece, wave[start : start + window])


@given(seconds=st.floats(0.05, 25.0), overlap=st.floats(0, 0.9))
@hypothesis_settings(max_examples=40)
def test_overlapping_windows_cover_every_sample_once_a_hop(tmp_path, seconds, overlap):
    path = tmp_path / "a.wav"
    rate, window = 1000, 700
    hop = max(1, round(window * (1 - overlap)))
    n = max(1, round(seconds * rate))
    soundfile.write(path, np.arange(n, dtype=np.float32) / 2**15, rate, subtype="FLOAT")
    found = list(stream_windows(path, sample_rate_hz=rate, window=window, hop=hop))
    starts = [start for start, _ in found]
    # by hand: every hop while a whole window fits, and one flush with the end
    expected = list(range(0, n - window + 1, hop)) or [0]
    if expected[-1] + window < n:
        expected.append(n - window)
    assert starts == expected
    assert all(round(piece[0] * 2**15) == start for start, piece in found)


def test_streaming_resamples_as_the_whole_file_would(tmp_path):
    path = tmp_path / "a.wav"
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (22050 * 23, 2)).astype(np.float32)
    soundfile.write(path, wave, 22050, subtype="FLOAT")
    whole = read_clip(Clip(path, "x"), 16000)
    found = list(stream_windows(path, sample_rate_hz=16000, window=16000, hop=16000))
    assert [start for start, _ in found] == window_starts(len(whole), 16000)
    for start, piece in found:
        assert np.abs(piece - whole[start : start + 16000]).max() < 1e-4


def test_a_file_that_only_pyav_reads_streams_too(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "a.mka"
    wave = np.round(tone(seconds=1.0) * 32767).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.rate, frame.pts = RATE, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    found = list(stream_windows(path, sample_rate_hz=RATE, window=6000, hop=6000))
    assert [start for start, _ in found] == [0, 6000, 10000]


# The store


@pytest.fixture
def corpus(tmp_path) -> Manifest:
    """Eight clips at two rates, the fourth of them text."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(8):
        rate = (8000, 16000)[i % 2]
        soundfile.write(folder / f"{i}.wav", tone(200 + 100 * i, 0.1 + 0.01 * i, rate), rate)
    (folder / "3.wav").write_text("no sound")
    return Manifest(tuple(Clip(folder / f"{i}.wav", "x") for i in range(8)), folder)


def opened(manifest, folder, **more):
    return open_store(manifest, sample_rate_hz=16000, folder=folder, **more)


def test_the_store_holds_what_read_clip_gives(corpus, tmp_path):
    told = []
    store = opened(corpus, tmp_path / "s", progress=lambda done, of: told.append((done, of)))
    good = [clip for i, clip in enumerate(corpus.clips) if i != 3]
    assert store.keys == tuple(clip.key for clip in good)
    for i, clip in enumerate(good):
        assert np.array_equal(store[i], read_clip(clip, 16000))
    assert told == [(i, 8) for i in range(1, 9)]


def test_the_store_names_the_clips_that_cannot_be_used(corpus, tmp_path):
    for _ in range(2):  # decoded now, and read back
        ((path, reason),) = opened(corpus, tmp_path / "s").failures
        assert path == str(corpus.clips[3].path)
        assert "not a sound file" in reason


def test_a_store_of_failures_alone_is_empty_and_says_so(corpus, tmp_path):
    store = opened(replace(corpus, clips=corpus.clips[3:4]), tmp_path / "s")
    assert (len(store), len(store.failures)) == (0, 1)


def files(folder):
    return (folder / "samples.f32").read_bytes(), (folder / "index.jsonl").read_bytes()


@pytest.mark.parametrize("rows", [0, 1, 3, 5, 7])
@pytest.mark.parametrize("torn", [b"", b'{"key": "torn', b"\0\0"])
@pytest.mark.parametrize("surplus", [b"", b"12345", b"\0" * 4000])
def test_a_killed_decode_goes_on_to_the_same_bytes(corpus, tmp_path, rows, torn, surplus):
    opened(corpus, tmp_path / "whole")
    expected = files(tmp_path / "whole")
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", killed)
    lines = expected[1].splitlines(keepends=True)[: 1 + rows]
    held = sum(json.loads(line)["length"] for line in lines[1:])
    (killed / "index.jsonl").write_bytes(b"".join(lines) + torn)
    (killed / "samples.f32").write_bytes(expected[0][: 4 * held] + surplus)
    opened(corpus, killed)
    assert files(killed) == expected


@pytest.mark.parametrize("harm", ["short samples", "no samples", "torn header", "no journal"])
def test_a_store_that_was_harmed_is_decoded_anew(corpus, tmp_path, harm):
    folder = tmp_path / "s"
    opened(corpus, folder)
    expected = files(folder)
    if harm == "short samples":
        (folder / "samples.f32").write_bytes(expected[0][:100])
    elif harm == "no samples":  # killed between the two files' making
        (folder / "samples.f32").unlink()
    elif harm == "torn header":
        (folder / "index.jsonl").write_bytes(expected[1][:10])
    else:
        (folder / "index.jsonl").unlink()
    opened(corpus, folder)
    assert files(folder) == expected


def test_a_finished_store_is_not_decoded_again(corpus, tmp_path):
    first = opened(corpus, tmp_path / "s")
    told = []
    again = opened(corpus, tmp_path / "s", progress=lambda *row: told.append(row))
    assert told == []
    assert again.keys == first.keys
    assert np.array_equal(again.samples, first.samples)


def test_a_changed_file_is_decoded_anew(corpus, tmp_path):
    before = opened(corpus, tmp_path / "s")[0].copy()
    path = corpus.clips[0].path
    soundfile.write(path, tone(1234, 0.2), RATE)
    os.utime(path, ns=(1, 1))
    after = opened(corpus, tmp_path / "s")[0]
    assert len(after) != len(before)
    assert np.array_equal(after, read_clip(corpus.clips[0], 16000))


def test_what_failed_for_want_of_pyav_is_read_when_it_is_there(corpus, tmp_path, monkeypatch):
    path = corpus.clips[5].path
    wave = np.round(32767 * tone(300, 0.2)).astype(np.int16)
    layouts.write_by_ffmpeg(path, wave[:, None], RATE, "flac", "matroska")
    monkeypatch.setitem(sys.modules, "av", None)
    before = opened(corpus, tmp_path / "store")
    assert [Path(name).name for name, _ in before.failures] == ["3.wav", "5.wav"]
    assert opened(corpus, tmp_path / "store").failures == before.failures
    monkeypatch.undo()
    after = opened(corpus, tmp_path / "store")
    assert [Path(name).name for name, _ in after.failures] == ["3.wav"]
    assert np.array_equal(after[4], read_clip(corpus.clips[5], 16000))


def test_another_rate_is_decoded_anew(corpus, tmp_path):
    opened(corpus, tmp_path / "s")
    store = open_store(corpus, sample_rate_hz=4000, folder=tmp_path / "s")
    assert np.array_equal(store[0], read_clip(corpus.clips[0], 4000))


def test_the_number_of_workers_changes_no_byte(corpus, tmp_path):
    opened(corpus, tmp_path / "one", workers=1)
    opened(corpus, tmp_path / "four", workers=4)
    assert files(tmp_path / "one") == files(tmp_path / "four")
