"""Formats, headers that lie, files cut off, and recordings that are streamed."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st

from audio.decoding import decode, read_duration_s, read_sound, sound_blocks
from audio.riff import parse_plain_wav, read_plain_wav
from audio.sound import ClipError
from tests import layouts

RATE = 8000


def tone(seconds=1.0, rate=RATE, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


def write_av(path: Path, codec: str, *, rate=RATE, seconds=1.0, layout="mono", container=None):
    """Write a tone by FFmpeg."""
    wave = np.round(tone(seconds, rate) * 32767).astype(np.int16)
    wave = np.repeat(wave[:, None], {"mono": 1, "stereo": 2}[layout], axis=1)
    layouts.write_by_ffmpeg(path, wave, rate, codec, container)


def is_the_tone(samples, rate, *, hz=440.0):
    """Return whether the middle half is a tone of this pitch and half of full scale."""
    middle = samples[len(samples) // 4 : len(samples) * 3 // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    peak = spectrum.argmax() * rate / len(middle)
    loud = np.sqrt(2 * np.mean(np.square(middle, dtype=np.float64)))
    return abs(peak - hz) < 4 and 0.42 < loud < 0.58


LIBSNDFILE = [
    ("a.wav", "ALAW"),
    ("a.wav", "ULAW"),
    ("a.wav", "IMA_ADPCM"),
    ("a.wav", "PCM_24"),
    ("a.caf", "PCM_16"),
    ("a.caf", "PCM_24"),
    ("a.caf", "FLOAT"),
    ("a.caf", "ALAW"),
    ("a.aiff", "PCM_24"),
    ("a.flac", "PCM_24"),
    ("a.ogg", "VORBIS"),
    ("a.opus", "OPUS"),
    ("a.mp3", "MPEG_LAYER_III"),
    ("a.w64", "PCM_16"),
    ("a.au", "ULAW"),
]


@pytest.mark.parametrize(("name", "subtype"), LIBSNDFILE)
@pytest.mark.parametrize("channels", [1, 2])
def test_libsndfiles_formats_are_read_whole_and_in_pieces(tmp_path, name, subtype, channels):
    path = tmp_path / name
    form = {".opus": "OGG", ".mp3": "MP3"}.get(path.suffix)
    wave = np.repeat(tone(2.0)[:, None], channels, axis=1)
    soundfile.write(path, wave, RATE, subtype=subtype, format=form)
    samples, rate = decode(path)
    assert rate == RATE
    assert len(samples) == pytest.approx(2 * RATE, abs=1200)
    assert is_the_tone(samples, rate)
    piece, _ = decode(path, start_s=0.5, duration_s=1.0)
    assert len(piece) == RATE
    assert np.abs(piece - samples[RATE // 2 : RATE * 3 // 2]).max() < 0.02
    assert read_duration_s(path) == pytest.approx(len(samples) / rate)


FFMPEG = [
    ("a.m4a", "aac", 8000),
    ("a.3gp", "aac", 8000),
    ("b.3gp", "libopencore_amrnb", 8000),
    ("a.amr", "libopencore_amrnb", 8000),
    ("a.caf", "adpcm_ima_qt", 8000),
    ("b.caf", "alac", 8000),
    ("a.webm", "libopus", 48000),
    ("a.mkv", "ac3", 48000),
    ("a.mov", "pcm_s16be", 44100),
    ("a.mp4", "aac", 44100),
    ("a.wma", "wmav2", 44100),
    ("a.g722", "g722", 16000),
    ("a.wv", "wavpack", 44100),
]


@pytest.mark.parametrize(("name", "codec", "rate"), FFMPEG)
def test_ffmpegs_formats_are_read_whole_in_pieces_and_in_blocks(tmp_path, name, codec, rate):
    path = tmp_path / name
    write_av(path, codec, rate=rate, seconds=2.0)
    samples, found = decode(path)
    assert found == rate
    assert len(samples) == pytest.approx(2 * rate, rel=0.1)
    assert is_the_tone(samples, rate)
    piece, _ = decode(path, start_s=0.5, duration_s=1.0)
    assert np.array_equal(piece, samples[rate // 2 : rate * 3 // 2])
    assert read_duration_s(path) == pytest.approx(len(samples) / rate)
    rate_too, blocks = sound_blocks(path)
    assert rate_too == rate
    assert np.array_equal(np.concatenate(list(blocks)), samples)


def test_the_sound_of_a_video_is_read(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    wave = np.round(tone(1.0, 16000) * 32767).astype(np.int16)
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", rate=5)
        picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        sound = out.add_stream("aac", rate=16000, layout="mono")
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            out.mux(picture.encode(frame))
        out.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.rate, frame.pts = 16000, 0
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    samples, rate = decode(path)
    assert is_the_tone(samples, rate)


def test_without_pyav_the_error_names_it(tmp_path, monkeypatch):
    path = tmp_path / "a.m4a"
    write_av(path, "aac")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    for read in (decode, lambda path: list(sound_blocks(path)[1])):
        with pytest.raises(ClipError, match=r"a\.m4a: libsndfile cannot read it .*pip install av"):
            read(path)


def test_a_flac_whose_writer_did_not_know_its_length_is_read(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(25.0), RATE)
    whole, _ = decode(path)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # 36 bits of STREAMINFO are the number of samples; 0 is unknown
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert soundfile.info(path).frames > 2**62
    assert np.array_equal(decode(path)[0], whole)
    assert np.array_equal(np.concatenate(list(sound_blocks(path)[1])), whole)
    assert np.array_equal(decode(path, start_s=12.5, duration_s=0.25)[0], whole[100000:102000])
    assert np.array_equal(decode(path, start_s=24.0, duration_s=9.0)[0], whole[192000:])
    assert read_duration_s(path) == 25.0
    with pytest.raises(ClipError, match=r"start_s=26 is past its end at 25\.000 s"):
        decode(path, start_s=26.0)


@pytest.mark.parametrize("read", [decode, sound_blocks])
def test_names_that_cannot_be_opened_are_told_in_a_line(tmp_path, read):
    (tmp_path / "a.raw").write_bytes(b"12345678")
    with pytest.raises(ClipError, match=r"a\.raw: samples without a header"):
        read(tmp_path / "a.raw")
    with pytest.raises(ClipError, match=r"cannot be opened .File name too long"):
        read(tmp_path / ("x" * 300 + ".ogg"))


def test_a_name_need_not_be_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.ogg")
    soundfile.write(os.fsencode(path), tone(), RATE, format="OGG")
    assert is_the_tone(*decode(path))
    assert read_duration_s(path) == 1.0


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_an_mp3_comes_out_of_blocks_and_pieces_as_it_does_whole(tmp_path, rate):
    """libsndfile's seeking in mp3 is neither exact nor harmless."""
    path = tmp_path / "a.mp3"
    wave = tone(25.0, rate) + np.random.default_rng(0).normal(0, 0.05, 25 * rate)
    soundfile.write(path, wave, rate)
    whole, _ = decode(path)
    _, blocks = sound_blocks(path)
    assert np.abs(np.concatenate(list(blocks)) - whole).max() < 1e-5
    piece, _ = decode(path, start_s=7.3, duration_s=2.0)
    start = round(7.3 * rate)
    assert np.abs(piece - whole[start : start + 2 * rate]).max() < 1e-5


# Headers that lie, files cut off


def wav_bytes(n=8000, **changed):
    """Return a 16-bit wav; rate, size: what its header tells instead."""
    head = struct.pack("<4sI4s4sIHHII", b"RIFF", 36 + 2 * n, b"WAVE", b"fmt ", 16, 1, 1,
                       changed.get("rate", RATE), 2 * RATE)  # fmt: skip
    head += struct.pack("<HH4sI", 2, 16, b"data", changed.get("size", 2 * n))
    return head + np.round(tone(n / RATE) * 32767).astype("<i2").tobytes()


@pytest.mark.parametrize("way", ["whole", "blocks"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (wav_bytes(size=20000), "cut off: its header tells of 1.250 s, 1.000 s are there"),
        (wav_bytes()[:9044], "cut off: its header tells of 1.000 s, 0.562 s are there"),
        (wav_bytes(rate=0), "its header tells of a sample rate of 0 Hz; it is damaged"),
        (wav_bytes(rate=4_000_000_000), "sample rate of 4000000000 Hz; it is damaged"),
    ],
)
def test_a_header_that_lies_is_told(tmp_path, data, words, way):
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(ClipError) as error:
        decode(path) if way == "whole" else list(sound_blocks(path)[1])
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)


def test_a_size_that_no_file_has_is_a_pipes_and_no_lie(tmp_path):
    """FFmpeg and sox write it to a pipe, where they cannot go back to the header."""
    for i, size in enumerate((0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000)):
        (tmp_path / f"{i}.wav").write_bytes(wav_bytes(size=size))
        assert len(decode(tmp_path / f"{i}.wav")[0]) == 8000


def test_the_piece_that_is_there_of_a_file_cut_off_can_be_used(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes()[:9044])
    assert len(decode(path, start_s=0.1, duration_s=0.4)[0]) == 3200
    with pytest.raises(ClipError, match="cut off"):
        decode(path, start_s=0.1, duration_s=0.9)


@pytest.mark.parametrize(
    "name", ["a.wav", "a.aiff", "a.caf", "a.au", "a.w64", "a.flac", "a.mp3", "b.wav"]
)
def test_a_file_of_libsndfile_that_was_cut_off_is_refused_in_a_line(tmp_path, name):
    path = tmp_path / name
    subtype = {"b.wav": "FLOAT"}.get(name)
    soundfile.write(path, np.tile(tone(), 6), RATE, subtype=subtype)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    for read in (decode, lambda path: list(sound_blocks(path)[1])):
        with pytest.raises(ClipError, match=r"cut off|not a sound file that can") as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [case for case in FFMPEG if case[0] not in ("a.mov", "a.g722")],  # of g722, any part is whole
)
def test_a_file_of_ffmpeg_that_was_cut_off_is_refused_in_a_line(tmp_path, name, codec, rate):
    path = tmp_path / name
    write_av(path, codec, rate=rate, seconds=3.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (decode, lambda path: list(sound_blocks(path)[1])):
        with pytest.raises(ClipError, match=r"cut off|not a sound file that can") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_an_ogg_without_its_end_is_used_and_told(tmp_path):
    path = tmp_path / "a.ogg"
    rng = np.random.default_rng(0)
    soundfile.write(path, rng.uniform(-0.5, 0.5, 20 * 44100), 44100)
    assert read_sound(path).note is None
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    sound = read_sound(path)
    assert "no end mark" in str(sound.note)
    assert 0 < len(sound.samples) < 15 * 44100


@pytest.mark.parametrize("rate", [192000, 384000])
def test_a_high_rate_is_no_obstacle(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(0.5, rate), rate)
    samples, found = decode(tmp_path / "a.wav")
    assert found == rate
    assert is_the_tone(samples, rate)


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_thirty_two_channels_are_mixed_to_their_mean(tmp_path, subtype):
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.9, 0.9, (4000, 32))
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype=subtype)
    samples, _ = decode(tmp_path / "a.wav")
    assert np.abs(samples - wave.mean(1)).max() < 2**-15


# Plain wavs, read by hand


@given(
    n=st.integers(1, 300),
    channels=st.integers(1, 4),
    rate=st.sampled_from([8000, 44100, 192000]),
    note=st.binary(max_size=9),
)
def test_a_plain_wav_is_read_as_libsndfile_reads_it(tmp_path, n, channels, rate, note):
    path = tmp_path / "a.wav"
    wave = np.random.default_rng(n).integers(-32768, 32767, (n, channels), np.int16)
    chunk = b"note" + struct.pack("<I", len(note)) + note + b"\0" * (len(note) % 2)
    sound = wave.astype("<i2").tobytes()
    body = b"WAVEfmt " + struct.pack(
        "<IHHIIHH", 16, 1, channels, rate, rate * 2 * channels, 2 * channels, 16
    )
    body += chunk + b"data" + struct.pack("<I", len(sound)) + sound
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    found = read_plain_wav(path)
    assert found is not None
    expected, expected_rate = soundfile.read(path, dtype="int16", always_2d=True)
    assert found[1] == expected_rate
    assert np.array_equal(found[0], expected)


@given(cut=st.integers(0, 60), at=st.integers(0, 45), value=st.integers(0, 255))
@example(cut=0, at=27, value=128)  # a rate of 2 147 491 648 Hz
def test_a_harmed_wav_is_left_to_libsndfile_or_read_as_it_reads_it(tmp_path, cut, at, value):
    data = bytearray(wav_bytes(n=20))
    data[min(at, len(data) - 1)] = value
    data = data[: len(data) - cut]
    found = parse_plain_wav(bytes(data))
    if found is not None:
        path = tmp_path / "a.wav"
        path.write_bytes(bytes(data))
        expected, rate = soundfile.read(path, dtype="int16", always_2d=True)
        assert np.array_equal(found[0], expected)
        assert found[1] == rate


# Streams


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mka"])
def test_a_long_recording_is_streamed_in_the_memory_of_a_short_one(tmp_path, name):
    """200 s of float32 are 6.4 MB at 8 kHz, a block of 10 s is 0.32 MB."""
    path = tmp_path / name
    if name == "a.mka":
        write_av(path, "flac", seconds=200.0)
        with pytest.raises(soundfile.LibsndfileError):
            soundfile.info(path)
    else:
        soundfile.write(path, tone(200.0), RATE)
    list(sound_blocks(path)[1])  # imports
    tracemalloc.start()
    n = sum(len(block) for block in sound_blocks(path)[1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n == 200 * RATE
    assert peak < 2e6
