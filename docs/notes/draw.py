"""Draw every picture of the notes again: `python docs/notes/draw.py [FOLDER [NAME ...]]`.

Deterministic: no picture depends on anything but the project's code. With FOLDER they are written
there and not over the ones beside the notes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

HERE = Path(__file__).parent

# Okabe and Ito's colours, which stay apart for colour-blind readers
BLUE, ORANGE, GREEN, PINK, SKY, GREY = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#7f7f7f",
)  # fmt: skip

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.dpi": 150,
}

Drawing = Callable[[], Figure]


def panels(rows: int, columns: int, *, width: float = 9.0, height: float = 3.0, **more: object):
    """Return a figure of this size in inches, and its axes in one flat list."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **more)
    return figure, list(axes.flat)


def bare(axes: Axes) -> None:
    """Take ticks and frame away: for pictures and schemes."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def save(figure: Figure, path: Path, *, colours: int = 96) -> None:
    """Write a figure as a PNG with a palette, which is a third of the size."""
    out = io.BytesIO()
    figure.savefig(out, format="png", facecolor="white")
    picture = Image.open(out).convert("RGB")
    picture = picture.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    picture.save(path, "PNG", optimize=True)


def main(folder: Path, only: tuple[str, ...] = ()) -> None:
    """Draw all of them into `folder`, or those named `only`."""
    import draw_audio
    import draw_rl

    drawings: dict[str, Drawing] = {}
    drawings |= draw_audio.DRAWINGS | draw_rl.DRAWINGS
    with matplotlib.rc_context(STYLE):
        for name, drawing in drawings.items():
            if only and name not in only:
                continue
            path = folder / f"{name}.png"
            save(drawing(), path)
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE, tuple(sys.argv[2:]))
