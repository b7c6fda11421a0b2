"""Maps of what a prediction rests on, as pictures and as a section of the report."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audio.markup import el, percent, text
from audio.page import Section
from audio.pieces import legend_of
from audio.plots import MAGMA
from audio.png import encode_png, filtered_rows

if TYPE_CHECKING:
    from audio.explain import Explanation

Pixels = NDArray[np.uint8]

_LEAST_SIDE = 256  # pixels; a small picture is enlarged by whole numbers
_ORANGE, _BLUE = np.array([240.0, 120, 20]), np.array([70.0, 140, 240])
_FULL_AT = 99.0  # percentile of the evidence that is drawn in full colour

#: The maps of an explanation, and what they are called.
KINDS = {
    "spectrogram": "what the model hears",
    "attention": "where it looked (attention rollout)",
    "evidence": "what speaks for it (orange) and against it (blue)",
}


def pictures_of(found: Explanation) -> dict[str, bytes]:
    """Return a PNG for each of `KINDS`, low frequencies at the bottom."""
    grey = _scaled(found.level)
    shown = {
        "spectrogram": _magma(grey),
        "attention": _attention(grey, found.attention),
        "evidence": _evidence(grey, found.evidence),
    }
    return {name: _png(pixels) for name, pixels in shown.items()}


def _scaled(level: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = float(level.min()), float(level.max())
    return (level.astype(np.float64) - low) / max(high - low, 1e-9)


def _magma(share: NDArray[np.float64]) -> Pixels:
    table = np.array([[int(MAGMA[6 * i + 2 * c : 6 * i + 2 * c + 2], 16) for c in range(3)]
                      for i in range(len(MAGMA) // 6)], np.float64)  # fmt: skip
    at = share * (len(table) - 1)
    low = np.minimum(at.astype(int), len(table) - 2)
    part = (at - low)[..., None]
    return _bytes(table[low] * (1 - part) + table[low + 1] * part)


def _attention(grey: NDArray[np.float64], attention: NDArray[np.float32]) -> Pixels:
    """Return the sound in grey, dark where the network did not look."""
    share = attention / max(float(attention.max()), 1e-30)
    lit = (0.15 + 0.85 * share[..., None]) * (0.25 + 0.75 * grey[..., None])
    return _bytes(255 * lit * np.array([1.0, 0.9, 0.65]))


def _evidence(grey: NDArray[np.float64], evidence: NDArray[np.float32]) -> Pixels:
    """Return the sound in pale grey under orange (for) and blue (against).

    Gradients through strided convolutions change sign from cell to cell; to be looked at, they are
    smoothed over their neighbours.
    """
    from scipy.ndimage import gaussian_filter

    evidence = gaussian_filter(evidence, 1.0)
    size = np.abs(evidence)
    full = max(float(np.percentile(size, _FULL_AT)), 1e-30)
    share = np.clip(size / full, 0, 1)[..., None]
    ground = np.repeat(255 - 130 * grey[..., None], 3, axis=2)
    colour = np.where(evidence[..., None] > 0, _ORANGE, _BLUE)
    return _bytes(ground * (1 - share) + colour * share)


def _bytes(values: NDArray[np.float64]) -> Pixels:
    pixels: Pixels = np.rint(values).astype(np.uint8)
    return pixels


def _png(pixels: Pixels) -> bytes:
    """Return a colour PNG, row 0 of the pixels at the bottom, enlarged where small."""
    times = max(1, -(-_LEAST_SIDE // pixels.shape[0]))
    large = np.repeat(np.repeat(pixels[::-1], times, axis=0), times, axis=1)
    (filtered,) = filtered_rows(np.ascontiguousarray(large)[None])
    return encode_png(filtered, large.shape[1], coloured=True, notes={})


def where(found: Explanation, *, hop_s: float, centres_hz: NDArray[np.float64]) -> dict[str, float]:
    """Return the middle of what speaks for the class: time in s from the window's start, and
    frequency in Hz; 0 where nothing does."""
    for_it = np.maximum(found.evidence, 0).astype(np.float64)
    total = float(for_it.sum())
    if not total:
        return {"time_s": 0.0, "frequency_hz": 0.0}
    time_s = float((for_it.sum(0) * np.arange(for_it.shape[1])).sum() / total * hop_s)
    band = float((for_it.sum(1) * np.arange(len(centres_hz))).sum() / total)
    frequency = float(np.interp(band, np.arange(len(centres_hz)), centres_hz))
    return {"time_s": time_s, "frequency_hz": frequency}


def explained_section(
    rows: Sequence[Mapping[str, Any]],
    *,
    duration_s: float | None,
    f_max_hz: float | None,
    title: str = "What predictions rest on",
) -> Section:
    """Return the maps of a few clips.

    rows: {"caption", "label" (true, or None), "explained", "probability", "pictures" (PNG bytes by
    `KINDS`)}.
    """
    parts = []
    end = "" if duration_s is None else f"{duration_s:.3g} s"
    high = "" if f_max_hz is None else f"{f_max_hz / 1000:g} kHz"
    for row in rows:
        wrong = row["label"] is not None and row["label"] != row["explained"]
        said = f"{row['explained']} {percent(row['probability'])}"
        if wrong:
            said += f", but it is {row['label']}"
        shots = []
        for kind, words in KINDS.items():
            about = f"{row['caption']}: {words}"
            image = el("img", src=data_uri(row["pictures"][kind]), alt=about)
            marks = el("span", text(high), class_="high") if high else ""
            times = el("span", "0") + el("span", text(end)) if end else ""
            shots.append(
                el("figure", el("div", image, marks, class_="picture"),
                   el("div", times, class_="times"), el("figcaption", text(words)))
            )  # fmt: skip
        name = el("h3", text(said)) + el("p", el("code", text(row["caption"])), class_="soft")
        parts.append(el("div", name, el("div", *shots, class_="shots")))
    body = legend_of(("orange", "speaks for it"), ("blue", "speaks against it"))
    body += el("div", *parts, class_="gallery")
    lead = (
        "Attention rollout: how much of what the head reads comes from where. Integrated "
        "gradients: what raises and lowers the odds of the class, against silence; the parts add "
        "up to the whole, and are drawn smoothed. Neither proves a cause."
    )
    return Section(title, body, lead)


def data_uri(png: bytes) -> str:
    """Return a PNG as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
