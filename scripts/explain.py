"""`melbandit explain`: what a model's answer for a clip rests on."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from audio.settings import UserError
from scripts.command import DONE, parse, print_result, run, say

if TYPE_CHECKING:
    from audio.classifier import SpectrogramClassifier
    from audio.windows import Waveform

_FILES = ("explain.html", "spectrogram.png", "attention.png", "evidence.png", "maps.npz")


@dataclass(frozen=True)
class Explain:
    """Show where in a clip a model looked, and what speaks for and against its answer.

    Writes maps over the spectrogram as PNGs, as numbers (maps.npz) and on one self-contained page.
    Of a clip longer than the model's window, the window is shown in which the class is likeliest.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Folder of the model."""
    clip: Annotated[Path, tyro.conf.Positional]
    """Sound file."""
    out: Path
    """Folder for the page and the pictures."""
    label: str | None = None
    """Class to explain; by default the likeliest."""
    start_s: float | None = None
    """Where the window starts, in seconds, in place of where the class is likeliest."""
    steps: int = 512
    """Most points at which gradients are taken; as many are as are needed to add up to 1 %."""
    overwrite: bool = False
    """Replace files that are there."""
    threads: int = 0
    """CPU threads; 0 uses every core."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parse(Explain, "explain", argv)
    return run(lambda: explain_clip(command), stopped="stopped.")


def explain_clip(command: Explain) -> int:
    """Write the maps and the page; returns an exit code."""
    if not 1 <= command.steps <= 4096:
        raise UserError(f"steps={command.steps} must be from 1 to 4096.")
    there = [name for name in _FILES if (command.out / name).exists()]
    if command.out.exists() and not command.out.is_dir():
        raise UserError(f"{command.out}: is a file; give a folder.")
    if there and not command.overwrite:
        raise UserError(f"{command.out / there[0]}: is there already; give --overwrite.")
    import numpy as np
    import torch

    from audio.classifier import SpectrogramClassifier
    from audio.clips import Clip
    from audio.devices import choose_device, use_threads
    from audio.explain import explain
    from audio.explain_report import explained_section, pictures_of, where
    from audio.files import write_atomically
    from audio.markup import percent
    from audio.mel import mel_centres_hz
    from audio.page import write_report
    from audio.report import headline
    from audio.waveform import read_clip

    use_threads(command.threads)
    model = SpectrogramClassifier.load(command.model).to(choose_device(command.device))
    label = _label(command, model)
    spectrogram = model.settings.spectrogram
    rate = spectrogram.sample_rate_hz
    waveform = read_clip(Clip(command.clip, label=""), rate)
    start = _start(command, model, waveform, label)
    ((piece, n_own), *_) = model.windows(waveform[start : start + spectrogram.n_samples])
    n_valid = torch.tensor([n_own], device=model.device)
    with torch.no_grad():
        level = model.log_mel(torch.from_numpy(piece)[None].to(model.device), n_valid)
    found = explain(model, level, n_valid, label=label, steps=command.steps)
    name, chance = model.labels[found.label], float(found.probabilities[found.label])
    centres, hop_s = mel_centres_hz(spectrogram), spectrogram.hop_length / rate
    start_s = start / rate
    # a frame's middle; where frames reach past the ends the first one's is the start
    first_s = start_s + (
        spectrogram.frame_length / 2 / rate if spectrogram.edges == "inside" else 0
    )
    command.out.mkdir(parents=True, exist_ok=True)
    pictures = pictures_of(found)
    for kind, png in pictures.items():
        write_atomically(command.out / f"{kind}.png", png)
    numbers = io.BytesIO()
    np.savez_compressed(
        numbers,
        level=found.level,
        attention=found.attention,
        evidence=found.evidence,
        time_s=first_s + hop_s * np.arange(found.level.shape[1]),
        frequency_hz=centres,
    )
    write_atomically(command.out / "maps.npz", numbers.getvalue())
    middle = where(found, hop_s=hop_s, centres_hz=centres)
    middle_s = first_s + middle["time_s"]
    end_s = (start + len(waveform[start : start + spectrogram.n_samples])) / rate
    row = {"caption": command.clip.name, "label": None, "explained": name}
    sections = [
        headline(
            f"{percent(chance)} {name}",
            f"{command.clip.name} from {start_s:.2f} to {end_s:.2f} s. What speaks for it has its "
            f"middle at {middle_s:.2f} s and {middle['frequency_hz']:.0f} Hz. The "
            f"evidence adds up to {found.log_odds - found.baseline_log_odds:.3f} in log odds above "
            f"silence, to {abs(found.gap):.2g}.",
        ),
        explained_section(
            [row | {"probability": chance, "pictures": pictures}],
            duration_s=spectrogram.clip_s,
            f_max_hz=spectrogram.f_max,
        ),
    ]
    write_report(
        command.out / "explain.html", title="What a prediction rests on", sections=sections
    )
    say(f"page: {command.out / 'explain.html'}")
    print(f"{command.clip}: {name} {chance:.3f} from {start_s:.2f} to {end_s:.2f} s")
    order = np.argsort(-found.probabilities)[:5]
    print_result(
        {
            "label": name,
            "probability": chance,
            "likeliest": {model.labels[i]: float(found.probabilities[i]) for i in order},
            "start_s": start_s,
            "end_s": end_s,
            "evidence_time_s": middle_s,
            "evidence_frequency_hz": middle["frequency_hz"],
            "log_odds": found.log_odds,
            "silence_log_odds": found.baseline_log_odds,
            "gap": found.gap,
        }
    )
    return DONE


def _label(command: Explain, model: SpectrogramClassifier) -> int | None:
    if command.label is None:
        return None
    if command.label not in model.labels:
        raise UserError(
            f"label={command.label!r} is no class of the model; there are: "
            f"{', '.join(model.labels[:20])}."
        )
    return model.labels.index(command.label)


def _start(
    command: Explain, model: SpectrogramClassifier, waveform: Waveform, label: int | None
) -> int:
    """Return the sample at which the window to show starts."""
    from audio.windows import window_starts

    spectrogram = model.settings.spectrogram
    n, rate = spectrogram.n_samples, spectrogram.sample_rate_hz
    last = max(0, len(waveform) - n)
    if command.start_s is not None:
        start = round(command.start_s * rate)
        if not 0 <= start < len(waveform):
            raise UserError(
                f"start_s={command.start_s:g} must be from 0 to below {len(waveform) / rate:.3f}, "
                f"the end of {command.clip}."
            )
        return min(start, last)
    starts = window_starts(len(waveform), n)
    if len(starts) == 1:
        return 0
    chances = model.predict([waveform[s : s + n] for s in starts])
    wanted = int(chances.mean(0).argmax()) if label is None else label
    return starts[int(chances[:, wanted].argmax())]


if __name__ == "__main__":
    sys.exit(main())
