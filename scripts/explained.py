"""The clips whose maps a fitted model's report shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audio.classifier import SpectrogramClassifier
    from scripts.clips_in import ClipsIn

_RIGHT, _WRONG = 3, 2  # clips shown
_STEPS = 128
_LARGE = 20_000_000  # weights from which on a clip takes a minute of one core: fewer of both


def explained_clips(
    folder: Path,
    model: SpectrogramClassifier,
    clips: ClipsIn,
    split: str,
    chances: NDArray[np.float32] | None,
) -> list[dict[str, Any]]:
    """Write the maps of a few clips of a split into `examples`: of different classes that were
    recognised for sure, and of the surest mistakes. Returns what the report shows of each.

    chances: the model's probabilities of the split's clips; None where it has none.
    """
    import numpy as np

    from audio.explain import explain
    from audio.explain_report import pictures_of
    from audio.files import write_atomically

    examples, manifest = clips.examples[split], clips.manifest.in_split(split)
    if chances is None:
        return []
    best, sure = chances.argmax(1), chances.max(1)
    several = examples.targets.ndim == 2  # a clip's labels are a row of ones and zeros
    is_right = (
        examples.targets[np.arange(len(best)), best] > 0 if several else best == examples.targets
    )
    order = np.argsort(-sure, kind="stable")
    right: list[int] = []
    wrong: list[int] = []
    for i in map(int, order):
        if not is_right[i]:
            wrong.append(i)
        elif all(best[i] != best[j] for j in right):
            right.append(i)
    large = sum(p.numel() for p in model.parameters()) > _LARGE
    n_right, n_wrong, steps = (1, 1, 16) if large else (_RIGHT, _WRONG, _STEPS)
    shown = []
    for number, i in enumerate(right[:n_right] + wrong[:n_wrong]):
        level, n_valid = examples.levels(np.array([i]), model, None)
        found = explain(model, level, n_valid, label=int(best[i]), steps=steps)
        files = {}
        for kind, png in pictures_of(found).items():
            files[kind] = f"examples/explained_{number}_{kind}.png"
            write_atomically(folder / files[kind], png)
        clip = manifest.clips[i]
        shown.append(
            {
                "caption": manifest.relative(clip.path),
                "label": clip.label,
                "explained": clips.labels[int(best[i])],
                "probability": float(found.probabilities[found.label]),
                "files": files,
            }
        )
    return shown
