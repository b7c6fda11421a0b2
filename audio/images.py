"""Log-mel levels as 8-bit pictures, and the folder of pictures that other tools read.

A picture is grey, one row a band with low frequencies at the bottom, one column a frame. Its text
chunks carry the level of black and of white, so reading it back gives the levels to within half a
step of `(high - low) / 255`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from audio.clips import Clip, Manifest, ManifestError, labels_of_cells
from audio.files import numbered, write_atomically
from audio.png import encode_png, filtered_rows
from audio.settings import SpectrogramSettings

if TYPE_CHECKING:
    from PIL import Image

Level = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Orientation = Literal["upright", "flipped", "sideways"]

METADATA_COLUMNS = ("file_name", "label", "group", "fold", "source", "start_s")


def to_pixels(level: Level, low: float, high: float) -> Pixels:
    """Return levels as uint8, `low` black and `high` white; the shape stays."""
    pixels: Pixels = np.rint((level - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    return pixels


def from_pixels(pixels: Pixels, low: float, high: float) -> Level:
    """Return uint8 as levels, float32; the inverse of `to_pixels` to within half a step."""
    return pixels.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)


def level_range(level: Level) -> tuple[float, float]:
    """Return the least and greatest level, at least 1e-3 apart."""
    low, high = float(level.min()), float(level.max())
    return low, max(high, low + 1e-3)


@dataclass(frozen=True)
class Picture:
    """A picture read back.

    pixels: uint8 (n_mels, n_frames), low frequencies first. low, high: the level of black and
    white. n_valid: the clip's samples before the padding. settings_fingerprint: of the settings it
    was made with.
    """

    pixels: Pixels
    low: float
    high: float
    n_valid: int
    settings_fingerprint: str

    @property
    def level(self) -> Level:
        """The levels, float32 (n_mels, n_frames), to within half a step."""
        return from_pixels(self.pixels, self.low, self.high)


def encode_picture(
    level: Level,
    settings: SpectrogramSettings,
    *,
    n_valid: int,
    colormap: str | None = None,
    orientation: Orientation = "upright",
) -> bytes:
    """Return the PNG of a level, (n_mels, n_frames) with low frequencies first.

    colormap: a matplotlib name, for people; such a picture cannot be read back as levels.
    orientation: as `oriented`.
    """
    (png,) = encode_pictures(
        level[None],
        settings,
        n_valid=[n_valid],
        colours=None if colormap is None else (colormap, colour_table(colormap)),
        orientation=orientation,
    )
    return png


def encode_pictures(
    levels: Level,
    settings: SpectrogramSettings,
    *,
    n_valid: Sequence[int],
    colours: tuple[str, Pixels] | None = None,
    orientation: Orientation = "upright",
) -> list[bytes]:
    """Return the PNG of each level, (n, n_mels, n_frames): `encode_picture` for many at once.

    colours: a colour map's name and its `colour_table`.
    """
    low, high = level_ranges(levels)
    pixels = oriented(pixels_each(levels, low, high), orientation)
    width = pixels.shape[2]
    fixed = {"melbandit": settings.fingerprint()}
    more: dict[str, str] = {} if orientation == "upright" else {"orientation": orientation}
    if colours is not None:
        more["colormap"] = colours[0]
        pixels = colours[1][pixels]
    filtered = filtered_rows(np.ascontiguousarray(pixels))
    return [
        encode_png(
            rows,
            width,
            coloured=colours is not None,
            notes=fixed
            | {"low_db": repr(float(low[i])), "high_db": repr(float(high[i]))}
            | {"n_valid": str(n_valid[i])}
            | more,
        )
        for i, rows in enumerate(filtered)
    ]


def level_ranges(levels: Level) -> tuple[Level, Level]:
    """Return `level_range` of each of (n, n_mels, n_frames), float32 (n,) each."""
    low, high = levels.min(axis=(1, 2)), levels.max(axis=(1, 2))
    return low, np.maximum(high, (low.astype(np.float64) + 1e-3).astype(np.float32))


def pixels_each(levels: Level, low: Level, high: Level) -> Pixels:
    """Return `to_pixels` of each of (n, n_mels, n_frames) by its own range."""
    scale = (255 / (high.astype(np.float64) - low)).astype(np.float32)
    scaled = levels - low[:, None, None]
    scaled *= scale[:, None, None]
    np.rint(scaled, out=scaled)
    return scaled.astype(np.uint8)


def oriented(pixels: Pixels, orientation: Orientation) -> Pixels:
    """Return pictures (n, n_mels, n_frames), low frequencies first, as they are to be looked at.

    upright: low frequencies at the bottom, time to the right. flipped: low frequencies at the top.
    sideways: time downwards, low frequencies at the left.
    """
    if orientation == "sideways":
        return pixels.transpose(0, 2, 1)
    return pixels if orientation == "flipped" else pixels[:, ::-1]


def colour(pixels: Pixels, colormap: str) -> Pixels:
    """Return grey (height, width) as (height, width, 3) by a matplotlib colour map."""
    return colour_table(colormap)[pixels]


def colour_table(colormap: str) -> Pixels:
    """Return a matplotlib colour map as uint8 (256, 3)."""
    import matplotlib

    table = matplotlib.colormaps[colormap](np.arange(256))[:, :3]
    return np.asarray(np.rint(table * 255), np.uint8)


def read_picture(path: Path) -> Picture:
    """Return a picture that `encode_picture` made.

    Raises:
        ManifestError: not such a picture, or a coloured one.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            notes = getattr(image, "text", {})
            pixels = np.asarray(image)
    except OSError as error:
        raise ManifestError(f"{path}: not a readable picture ({error}).") from None
    if "melbandit" not in notes:
        raise ManifestError(f"{path}: not made by `melbandit convert`: its dB range is missing.")
    if "colormap" in notes:
        raise ManifestError(
            f"{path}: coloured ({notes['colormap']}); levels can be read from grey pictures only: "
            "convert without --colormap."
        )
    orientation = notes.get("orientation", "upright")
    if orientation == "sideways":
        pixels = pixels.T
    elif orientation == "upright":
        pixels = pixels[::-1]
    return Picture(
        np.ascontiguousarray(pixels),
        float(notes["low_db"]),
        float(notes["high_db"]),
        int(notes["n_valid"]),
        notes["melbandit"],
    )


def picture_paths(manifest: Manifest) -> list[Path]:
    """Return each clip's picture, relative to the folder: `split/label/name.png`, and
    `split/name.png` where clips may have several labels.

    A name is the file's own; where two clips of one folder share it, the later ones get a number.
    """

    def name_of(clip: Clip) -> str:
        stem = clip.path.stem
        if clip.start_s or clip.duration_s:
            stem += f"@{clip.start_s:.3f}"
        folder = f"{clip.split}/{_safe(clip.label)}" if clip.labels is None else str(clip.split)
        return f"{folder}/{_safe(stem)}"

    return [Path(f"{name}.png") for name in numbered(map(name_of, manifest.clips))]


def _safe(name: str) -> str:
    """Return a label or stem as a file name: no separators, no leading dot, at most 200 bytes."""
    name = name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
    name = name.replace("/", "_").replace("\\", "_").replace("\0", "_")
    return "_" + name[1:] if name.startswith(".") else name


def write_metadata(root: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `metadata.csv` into each split's folder, as the imagefolder layout has it.

    rows: dicts with `path` (relative to root, split first, with slashes) and
    `METADATA_COLUMNS[1:]`; or with `labels` in place of `label`, joined by semicolons.
    """
    columns = ["labels" if c == "label" and c not in rows[0] else c for c in METADATA_COLUMNS]
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        split, _, name = row["path"].partition("/")
        parts.setdefault(split, []).append({**row, "file_name": name})
    for split, some in sorted(parts.items()):
        out = io.StringIO(newline="")
        table = csv.DictWriter(out, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(some)
        write_atomically(root / split / "metadata.csv", out.getvalue().encode("utf-8"))


def is_images_folder(root: Path) -> bool:
    """Return whether `melbandit convert` made this folder."""
    return root.is_dir() and any(root.glob("*/metadata.csv")) and (root / "settings.json").exists()


def read_images_folder(root: Path) -> tuple[Manifest, SpectrogramSettings]:
    """Return the pictures of a folder that `melbandit convert` made, and their settings.

    Raises:
        ManifestError: the folder is unfinished or not of that kind.
    """
    try:
        record = json.loads((root / "settings.json").read_text(encoding="utf-8"))
        settings = SpectrogramSettings.from_json(record["settings"]["spectrogram"])
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ManifestError(f"{root}: no readable settings.json ({error!r}).") from None
    clips: list[Clip] = []
    for table in sorted(root.glob("*/metadata.csv")):
        with table.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                label, labels = labels_of_cells(row, str(table))
                clips.append(
                    Clip(
                        path=table.parent / row["file_name"],
                        label=label,
                        labels=labels,
                        group=row["group"] or None,
                        fold=row["fold"] or None,
                        split=table.parent.name,
                    )
                )
    if not clips:
        raise ManifestError(f"{root}: lists no pictures; run `melbandit convert` to its end.")
    return Manifest(tuple(clips), root), settings


def contact_sheet(
    pictures: Sequence[tuple[str, Pixels]], *, columns: int = 3, cell: tuple[int, int] = (300, 150)
) -> Image.Image:
    """Return one picture of many: rows of `columns` labelled, coloured spectrograms.

    pictures: (label, uint8 (n_mels, n_frames) with low frequencies at the bottom).
    """
    from PIL import Image, ImageDraw, ImageFont

    from audio.plots import palette

    width, height = cell
    caption, gap = 22, 8
    rows = -(-len(pictures) // columns)
    sheet = Image.new(
        "RGB",
        (columns * (width + gap) + gap, max(1, rows) * (height + caption + gap) + gap),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    magma = palette()
    font = ImageFont.load_default(14)
    for i, (label, pixels) in enumerate(pictures):
        x = gap + (i % columns) * (width + gap)
        y = gap + (i // columns) * (height + caption + gap)
        shown = Image.fromarray(magma[pixels]).resize(cell, Image.Resampling.BILINEAR)
        sheet.paste(shown, (x, y + caption))
        draw.text((x, y + 2), label[:40], fill="black", font=font)
    return sheet
