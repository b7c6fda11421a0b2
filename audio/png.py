"""8-bit PNGs, fast: the up filter in numpy for many pictures at once, then ISA-L's deflate.

Pillow takes 1.7 to 2.2 ms for 128 x 500 pixels, this 0.2 to 0.4, with files up to a tenth larger.
Any reader opens them: the format is that of the PNG specification (W3C, third edition).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2  # filter type: each byte less the one above it
_END = b"\0\0\0\0IEND\xaeB`\x82"
# ISA-L's levels 1, 2 and 3 differ by 0.2 % in size; 1 is the fastest that compresses
_LEVEL = 1


def filtered_rows(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pictures as the bytes that PNG compresses, by the up filter.

    pixels: uint8 (n, height, width), or (n, height, width, 3) in colour. Returns uint8 (n, height,
    1 + bytes of a row).
    """
    n, height = pixels.shape[:2]
    rows = pixels.reshape(n, height, -1)
    out = np.empty((n, height, 1 + rows.shape[2]), np.uint8)
    out[:, :, 0] = _UP
    out[:, 0, 1:] = rows[:, 0]  # above the first row are zeros
    np.subtract(rows[:, 1:], rows[:, :-1], out=out[:, 1:, 1:])
    return out


def encode_png(
    filtered: NDArray[np.uint8], width: int, *, coloured: bool = False, notes: Mapping[str, str]
) -> bytes:
    """Return one picture's PNG.

    filtered: uint8 (height, 1 + bytes of a row), of `filtered_rows`. notes: text chunks, Latin-1.
    """
    height = len(filtered)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if coloured else 0, 0, 0, 0)
    texts = b"".join(
        _chunk(b"tEXt", name.encode("latin-1") + b"\0" + text.encode("latin-1"))
        for name, text in notes.items()
    )
    packed = isal_zlib.compress(np.ascontiguousarray(filtered).data, _LEVEL)
    return b"".join((_SIGNATURE, _chunk(b"IHDR", header), texts, _chunk(b"IDAT", packed), _END))


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(data, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(data)), kind, data, struct.pack(">I", check)))
