"""The space that a search or a landscape goes through, fitted to what it starts from."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from audio.own_model import own_settings
from audio.settings import Settings, SettingsError, SpectrogramSettings, is_scratch

if TYPE_CHECKING:
    from rl.space import Knob, SearchSpace

_OF_THE_BANK = ("n_fft", "n_mels", "f_min_hz", "f_max_hz", "mel_scale")
"""Settings that decide whether every mel band has a bin of the Fourier transform."""


def space_for(name: str, settings: Settings) -> tuple[SearchSpace, list[str]]:
    """Return the knobs of a named space or file, fitted to what the search starts from.

    A value that the search starts from and a knob lacks is added to it. Knobs that a checkpoint
    fixes are dropped, and so are values that some choice of the other knobs makes illegal; the
    second result says which.

    Raises:
        SettingsError: a knob that is no setting or cannot be tuned, or a value that is illegal.
    """
    from rl.space import SearchSpace
    from scripts.objective import settings_of

    space = _named(name)
    dropped: list[str] = []
    knobs = list(space.knobs)
    if not is_scratch(settings.training.backbone):
        own = own_settings(settings.training.backbone)
        fixed = {spec.name for spec in fields(SpectrogramSettings)} - {"clip_s", "padding"}
        if own is None:
            fixed |= {"dropout"}
        gone = [knob.name for knob in knobs if knob.name in fixed]
        knobs = [knob for knob in knobs if knob.name not in fixed]
        if gone:
            dropped.append(
                f"the checkpoint {settings.training.backbone} keeps what it was trained with; not "
                f"searched: {', '.join(gone)}."
            )
        rates = (1e-5, 3e-5, 1e-4)
        if own is not None:
            mine = settings.training.learning_rate
            rates = (mine / 3, mine, 3 * mine)
        knobs = [
            replace(k, values=rates, default=rates[1]) if k.name == "learning_rate" else k
            for k in knobs
        ]
    fitted = []
    for knob in knobs:
        if knob.name in ("sample_rate_hz", "seed", "device", "threads", "backbone"):
            raise SettingsError(
                f"space {name}: {knob.name} cannot be a knob; set it by its option."
            )
        if knob.name == "clip_s" and settings.spectrogram.clip_s is None:
            raise SettingsError(
                f"space {name}: clip_s as a knob needs a value to start from; give --clip-s "
                f"({', '.join(map(str, knob.values))})."
            )
        mine = settings.value_of(knob.name)
        if mine not in knob.values:
            values = (*knob.values, mine)
            if knob.ordered:
                values = tuple(sorted(values, key=lambda v: float("inf") if v is None else v))
            knob = replace(knob, values=values)
        fitted.append(replace(knob, default=mine))
        for value in knob.values:
            try:
                settings_of(settings, {knob.name: value})
            except SettingsError as error:
                raise SettingsError(f"space {name}: knob {knob.name}: {error}") from None
    fitted, lines = _without_empty_bands(fitted, settings)
    dropped += lines
    if not fitted:
        raise SettingsError(f"space {name}: no knob is left to search.")
    return SearchSpace(fitted), dropped


def _named(name: str) -> SearchSpace:
    from rl.space import SearchSpace
    from rl.spaces import DEFAULT, FULL, QUICK

    named = {"quick": QUICK, "default": DEFAULT, "full": FULL}
    if name in named:
        return named[name]
    path = Path(name)
    if path.suffix == ".toml":
        return SearchSpace.from_toml(path)
    if path.suffix == ".py":
        import runpy

        if not path.exists():
            raise SettingsError(f"{path}: there is no such file.")
        space = runpy.run_path(name).get("SPACE")
        if not isinstance(space, SearchSpace):
            raise SettingsError(f"{path}: defines no SPACE, an rl.space.SearchSpace; add it.")
        return space
    raise SettingsError(
        f"space={name!r} is not one of quick, default, full, or a .toml or .py file."
    )


def _without_empty_bands(knobs: list[Knob], settings: Settings) -> tuple[list[Knob], list[str]]:
    """Return the knobs without values of n_mels whose bands some choice of the others leaves
    empty, and a line that says which."""
    mine = [knob for knob in knobs if knob.name in _OF_THE_BANK]
    mels = next((knob for knob in mine if knob.name == "n_mels"), None)
    if mels is None or (len(mine) == 1 and len(mels.values) == 1):
        return knobs, []
    from audio.spectrogram import mel_filter_bank

    others = [knob for knob in mine if knob is not mels]
    gone: dict[int, str] = {}
    for n_mels in mels.values:
        for values in itertools.product(*(knob.values for knob in others)):
            chosen = dict(zip((knob.name for knob in others), values, strict=True))
            try:
                mel_filter_bank(settings.with_values({**chosen, "n_mels": n_mels}).spectrogram)
            except SettingsError as error:
                gone[n_mels] = str(error)  # type: ignore[index]
                break
    if mels.default in gone:
        raise SettingsError(f"the setting that the search starts from: {gone[mels.default]}")  # type: ignore[index]
    left = tuple(v for v in mels.values if v not in gone)
    lines = [f"not searched: {reason}" for reason in gone.values()]
    return [replace(k, values=left) if k is mels else k for k in knobs], lines
