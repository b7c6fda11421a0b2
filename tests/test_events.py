"""Events against a slow search for connected stretches; raw samples against libsndfile."""

from __future__ import annotations

import io
import itertools
import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.events import EventMerger, merge_events
from audio.prediction_settings import EventSettings, RawSettings
from audio.raw_pcm import raw_blocks, samples_of
from audio.settings import SettingsError
from audio.sound import ClipError
from audio.waveform import block_windows


def slow_events(windows, settings):
    """Return (start, end, label, peak, windows) by joining pairs of windows until none join."""
    found = []
    for label in range(len(windows[0][2]) if windows else 0):
        parts = [[w] for w in windows if w[2][label] >= settings.release]
        joined = True
        while joined:
            joined = False
            for a, b in itertools.combinations(parts, 2):
                ends = max(w[1] for w in a), max(w[1] for w in b)
                starts = min(w[0] for w in a), min(w[0] for w in b)
                apart = max(starts[1] - ends[0], starts[0] - ends[1])
                if apart <= settings.max_gap_s + 1e-9:
                    parts.remove(b)
                    a += b
                    joined = True
                    break
        for part in parts:
            start, end = min(w[0] for w in part), max(w[1] for w in part)
            peak = max(float(w[2][label]) for w in part)
            if peak >= settings.onset and end - start >= settings.min_event_s - 1e-9:
                found.append((start, end, label, peak, len(part)))
    return sorted(found)


@given(
    st.lists(st.lists(st.sampled_from([0.1, 0.4, 0.6, 0.9]), min_size=2, max_size=2), max_size=24),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([0.5, 0.6, 0.8]),
    st.sampled_from([None, 0.3]),
    st.sampled_from([0.0, 0.5, 1.25]),
    st.sampled_from([0.0, 1.5]),
)
def test_events_are_the_connected_stretches_that_reach_the_threshold(
    rows, hop, threshold, release, gap, shortest
):
    settings = EventSettings(threshold, release, gap, shortest)
    windows = [(i * hop, i * hop + 1.0, np.float32(row)) for i, row in enumerate(rows)]
    told = [
        (e.start_s, e.end_s, e.label, e.probability, e.windows)
        for e in merge_events(windows, settings)
    ]
    assert sorted(told) == slow_events(windows, settings)


def test_hysteresis_lets_an_event_begin_before_and_end_after_its_peak():
    p = [0.1, 0.4, 0.9, 0.4, 0.1, 0.4, 0.1]
    windows = [(float(i), i + 1.0, np.float32([x])) for i, x in enumerate(p)]
    (event,) = merge_events(windows, EventSettings(0.8, 0.3))
    assert (event.start_s, event.end_s, event.windows) == (1.0, 4.0, 3)
    assert event.mean_probability == pytest.approx((0.4 + 0.9 + 0.4) / 3)
    (event,) = merge_events(windows, EventSettings(0.8))
    assert (event.start_s, event.end_s) == (2.0, 3.0)


def test_an_event_is_told_as_soon_as_it_is_over_and_nothing_else_is_kept():
    merger = EventMerger(EventSettings(0.5))
    assert merger.add(0, 1, np.float32([0.9, 0.1])) == []
    assert merger.add(1, 2, np.float32([0.2, 0.1])) == []  # the next may still touch its end
    (event,) = merger.add(2, 3, np.float32([0.2, 0.1]))
    assert (event.start_s, event.end_s) == (0, 1)
    assert merger._under_way == {}
    assert merger.finish() == []


def test_only_the_likeliest_labels_of_a_window_count():
    windows = [(0.0, 1.0, np.float32([0.7, 0.6, 0.55]))]
    assert [e.label for e in merge_events(windows)] == [0, 1, 2]
    assert [e.label for e in merge_events(windows, top_k=2)] == [0, 1]


def test_a_release_above_the_threshold_is_refused():
    with pytest.raises(SettingsError, match=r"release_threshold=0\.7 is above threshold=0\.5"):
        EventSettings(None, 0.7)


# Raw samples


_SUBTYPES = {"u8": "PCM_U8", "s16le": "PCM_16", "s16be": "PCM_16", "s24le": "PCM_24"}
_SUBTYPES |= {"s32le": "PCM_32", "f32le": "FLOAT", "f64le": "DOUBLE"}


@pytest.mark.parametrize("name", _SUBTYPES)
def test_raw_samples_are_what_libsndfile_reads(name, rng, tmp_path):
    import soundfile

    wave = rng.uniform(-0.99, 0.99, (500, 2))
    endian = "BIG" if name.endswith("be") else "LITTLE"
    how = {"samplerate": 8000, "subtype": _SUBTYPES[name], "endian": endian, "format": "RAW"}
    soundfile.write(tmp_path / "x.raw", wave, **how)
    expected, _ = soundfile.read(tmp_path / "x.raw", channels=2, **how)
    assert np.abs(expected - wave).max() < 0.02
    settings = RawSettings(8000, name, 2)
    data = (tmp_path / "x.raw").read_bytes()
    assert len(data) == 500 * settings.frame_bytes
    assert np.abs(samples_of(data, settings) - expected.mean(1)).max() < 1e-7


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_a_stream_in_any_pieces_gives_the_same_samples(step):
    class Slow(io.RawIOBase):
        def __init__(self, data):
            self.data = data

        def read1(self, n):
            some, self.data = self.data[:step], self.data[step:]
            return some

    data = np.arange(-900, 900, dtype="<i2").tobytes()
    blocks = list(raw_blocks(Slow(data), RawSettings(8000)))
    assert np.array_equal(np.concatenate(blocks) * 2**15, np.arange(-900, 900))


def test_whoever_waits_is_told_before_the_stream_is_read_further():
    """What was heard must not wait for sound that has not been made yet."""
    reading, writing = os.pipe()
    told = threading.Event()
    seen = []
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as speaker:
        speaker.write(bytes(3200))
        settings = RawSettings(8000)
        blocks = raw_blocks(stream, settings, before_waiting=told.set)

        def hear():
            seen.extend(w for w in block_windows(blocks, window=800, hop=800))

        ear = threading.Thread(target=hear)
        ear.start()
        assert told.wait(20)
        assert [start for start, _ in seen] == [0, 800]
        speaker.close()
        ear.join(20)
    assert [start for start, _ in seen] == [0, 800]


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (bytes(7), "s16le", "ends 1 bytes into a frame of 2"),
        (np.float32([0.1, np.nan]).tobytes(), "f32le", "NaN or infinite after 0.000 s"),
    ],
)
def test_a_stream_of_another_format_is_told(data, name, words):
    with pytest.raises(ClipError, match=words):
        list(raw_blocks(io.BytesIO(data), RawSettings(8000, name)))


def test_a_stream_without_a_rate_is_told_what_to_give():
    with pytest.raises(SettingsError, match=r"--raw-rate-hz 16000.*ffmpeg"):
        _ = RawSettings().rate_hz
