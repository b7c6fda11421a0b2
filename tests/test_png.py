"""Our PNGs against Pillow, which reads them and writes its own."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from audio.images import encode_pictures, oriented, read_picture
from audio.mel_numpy import NumpyLogMel
from audio.png import encode_png, filtered_rows
from audio.settings import SpectrogramSettings

SETTINGS = SpectrogramSettings(n_mels=32, clip_s=0.5)


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20), st.booleans()).flatmap(
        lambda s: hnp.arrays(np.uint8, (*s[:3], 3) if s[3] else s[:3])
    )
)
@hypothesis_settings(max_examples=60)
def test_pillow_reads_the_pixels_and_the_notes_that_were_written(pixels):
    notes = {"name": "välue", "other": "-1.5"}
    for one, rows in zip(pixels, filtered_rows(pixels), strict=True):
        png = encode_png(rows, one.shape[1], coloured=one.ndim == 3, notes=notes)
        image = Image.open(io.BytesIO(png))
        image.verify()  # the chunks' checksums
        image = Image.open(io.BytesIO(png))
        assert np.array_equal(np.asarray(image), one)
        assert image.text == notes


def test_a_spectrograms_file_is_hardly_larger_than_pillows():
    rng = np.random.default_rng(0)
    t = np.arange(5 * 16000) / 16000
    wave = np.cumsum(rng.standard_normal(len(t))) * 1e-3 + 0.3 * np.sin(
        2 * np.pi * (300 + 200 * np.sin(2 * np.pi * t)) * t
    )
    level = NumpyLogMel(SpectrogramSettings(n_mels=128, n_fft=1024))(wave[None].astype(np.float32))
    (ours,) = encode_pictures(level, SETTINGS, n_valid=[1])
    notes = {"melbandit": SETTINGS.fingerprint(), "low_db": "-80.0", "high_db": "20.0"}
    theirs = io.BytesIO()
    info = PngInfo()
    for name, text in notes.items():
        info.add_text(name, text)
    Image.open(io.BytesIO(ours)).save(theirs, "PNG", pnginfo=info)
    assert len(ours) < 1.1 * len(theirs.getvalue())


@pytest.mark.parametrize("orientation", ["upright", "flipped", "sideways"])
def test_an_orientation_turns_the_picture_and_reading_turns_it_back(tmp_path, orientation):
    level = np.arange(12, dtype=np.float32).reshape(3, 4) ** 2  # (bands, frames)
    (png,) = encode_pictures(level[None], SETTINGS, n_valid=[5], orientation=orientation)
    seen = np.asarray(Image.open(io.BytesIO(png))).astype(int)
    # by hand: where the greatest level, of the highest band and the last frame, is seen
    corner = {"upright": (0, 3), "flipped": (2, 3), "sideways": (3, 2)}[orientation]
    assert seen.shape == ((4, 3) if orientation == "sideways" else (3, 4))
    assert seen[corner] == 255
    (tmp_path / "a.png").write_bytes(png)
    assert np.abs(read_picture(tmp_path / "a.png").level - level).max() <= 121 / 255 / 2 + 1e-4


def test_orientations_of_many_are_each_ones_own():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 4, 5), np.uint8)
    for orientation, turn in {
        "upright": np.flipud,
        "flipped": np.asarray,
        "sideways": np.transpose,
    }.items():
        for one, turned in zip(pixels, oriented(pixels, orientation), strict=True):
            assert np.array_equal(turned, turn(one))
