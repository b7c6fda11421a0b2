"""`melbandit export`: a fitted model as one ONNX graph."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from audio.settings import UserError
from data.corpus import CorpusSettings
from scripts.command import DONE, PARTLY, parse, print_result, progress, run, say, say_failures
from scripts.corpus_in import read_corpus
from scripts.tables import aligned

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audio.classifier import SpectrogramClassifier
    from audio.clips import Clip

#: What the graph may differ by from torch on this machine; more is told as a failure.
_AGREES_TO = 1e-4


@dataclass(frozen=True)
class Export:
    """Write a model that `melbandit finetune` or `search` saved as one ONNX graph.

    The graph goes from waveform to probabilities, mel transform included, in batches of any size:
    inputs `waveform` (batch, window_samples) and `n_valid` (batch,), the samples that are the
    clip's own. Labels, sample rate and window are in its metadata.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Folder of the model."""
    onnx: Path
    """File to write."""
    int8: bool = False
    """Write a second file, NAME.int8.onnx, with the network's weight matrices in 8 bits."""
    clips: Path | None = None
    """Labelled clips (as finetune takes them) to measure the accuracy of what was written on: the
    test clips of a manifest with splits, else all."""
    split: Literal["auto", "all", "train", "validation", "test"] = "auto"
    """Which clips of --clips; auto is the test split where there is one."""
    overwrite: bool = False
    """Replace files that are there."""
    batch_size: int = 32
    """Windows at a time, for measuring."""
    threads: int = 0
    """CPU threads; 0 uses every core."""
    corpus: CorpusSettings = CorpusSettings()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parse(Export, "export", argv)
    return run(lambda: export(command), stopped="stopped.")


def export(command: Export) -> int:
    """Write the graph, compare it with the model; returns an exit code."""
    quantised = command.onnx.with_name(f"{command.onnx.stem}.int8{command.onnx.suffix}")
    written = [command.onnx, *([quantised] if command.int8 else [])]
    for path in written:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give a file.")
        if path.exists() and not command.overwrite:
            raise UserError(f"{path}: is there already; give --overwrite or another --onnx.")
    if command.batch_size < 1:
        raise UserError(f"batch_size={command.batch_size} must be at least 1.")
    from audio.classifier import SpectrogramClassifier
    from audio.devices import use_threads
    from audio.onnx_export import OnnxClassifier, export_onnx, quantise_int8

    use_threads(command.threads)
    model = SpectrogramClassifier.load(command.model)
    clips = _clips(command, model) if command.clips else ()  # told before the export takes its time
    export_onnx(model, command.onnx)
    say(f"{command.onnx}: {command.onnx.stat().st_size / 1e6:.2f} MB")
    exported = {"onnx": OnnxClassifier(command.onnx, threads=command.threads)}
    result: dict[str, Any] = {"onnx": str(command.onnx), "bytes": command.onnx.stat().st_size}
    apart = _apart(model, exported["onnx"])
    result["largest_difference"] = apart
    print(f"onnxruntime agrees with torch to {apart:.1e} (noise and tones, 16 windows)")
    if apart > _AGREES_TO:
        raise UserError(
            f"{command.onnx}: differs from the model by {apart:.1e}, more than {_AGREES_TO:g}; do "
            "not use it, and report this."
        )
    if command.int8:
        n = quantise_int8(command.onnx, quantised)
        exported["int8"] = OnnxClassifier(quantised, threads=command.threads)
        result |= {"int8": str(quantised), "int8_bytes": quantised.stat().st_size}
        say(f"{quantised}: {quantised.stat().st_size / 1e6:.2f} MB, {n} matrices in 8 bits")
    failures: list[tuple[str, str]] = []
    if clips:
        result |= _measure(command, model, exported, clips, failures)
        say_failures(failures, listed_in="the lines above")
    elif command.int8:
        say("note: what 8 bits cost in accuracy is not measured without --clips.")
    print_result(result)
    return PARTLY if failures else DONE


def _apart(model: SpectrogramClassifier, exported: Any) -> float:
    """Return the greatest difference of a probability over noise, tones and silence."""
    import numpy as np

    n, rate = exported.n_samples, exported.sample_rate_hz
    rng = np.random.default_rng(0)
    sounds = [np.zeros(n, np.float32)]
    for i in range(15):
        loud = 10 ** rng.uniform(-4, -0.1)
        sound = rng.normal(0, 0.2, n) if i % 2 else np.sin(
            2 * np.pi * rng.uniform(50, rate / 2) / rate * np.arange(n))  # fmt: skip
        length = n if i % 3 else int(rng.integers(max(1, n // 10), n + 1))
        sounds.append((loud * sound[:length]).clip(-1, 1).astype(np.float32))
    return float(np.abs(model.predict(sounds) - exported.predict(sounds)).max())


def _clips(command: Export, model: SpectrogramClassifier) -> tuple[Clip, ...]:
    """Return the labelled clips to measure on.

    Raises:
        UserError: none, or of classes that the model does not know.
    """
    assert command.clips is not None
    manifest = read_corpus(command.clips, command.corpus)
    if manifest.is_multi_label and not model.is_multi_label:
        raise UserError(
            f"{command.clips}: some of its clips have several labels or none, and the model gives "
            "each clip one; give clips of one label each."
        )
    split = command.split
    if split == "auto":
        split = "test" if any(clip.split == "test" for clip in manifest.clips) else "all"
    chosen = manifest if split == "all" else manifest.in_split(split)
    if not len(chosen):
        raise UserError(f"{command.clips}: no clip of it is in the {split} split.")
    strange = sorted({name for clip in chosen.clips for name in clip.classes} - set(model.labels))
    if strange:
        raise UserError(
            f"{command.clips}: holds classes that the model does not know: "
            f"{', '.join(strange[:5])}; give clips of {', '.join(model.labels[:5])}, ..."
        )
    return replace(chosen).clips


def _measure(
    command: Export,
    model: SpectrogramClassifier,
    exported: dict[str, Any],
    clips: Sequence[Clip],
    failures: list[tuple[str, str]],
) -> dict[str, Any]:
    """Print how each file does on the clips beside torch, and what was lost."""
    import numpy as np

    from audio.waveform import ClipError, read_clip

    targets: list[list[bool]] = []
    rows: dict[str, list[Any]] = {name: [] for name in ("torch", *exported)}
    batch: list[Any] = []

    def score() -> None:
        for name, found in (("torch", model), *exported.items()):
            rows[name].append(found.predict(batch, batch_size=command.batch_size))
        batch.clear()

    with progress("measure") as draw:
        for i, clip in enumerate(clips, start=1):
            try:
                batch.append(read_clip(clip, model.settings.spectrogram.sample_rate_hz))
                targets.append([name in clip.classes for name in model.labels])
            except ClipError as error:
                failures.append((str(clip.path), error.reason))
            if len(batch) == 4 * command.batch_size:
                score()
            draw(i, len(clips))
        if batch:
            score()
    if not targets:
        raise UserError(f"{command.clips}: no clip of it can be used.")
    chances = {name: np.concatenate(parts) for name, parts in rows.items()}
    said = {name: _said(model, p) for name, p in chances.items()}
    truth = np.array(targets, np.float32)
    scores = {name: _scores(model, p, truth) for name, p in chances.items()}
    table = [["", "accuracy", "lost", "macro-F1", "same label", "largest difference"]]
    told: dict[str, Any] = {"clips": len(targets)}
    for name, p in chances.items():
        accuracy, macro_f1 = scores[name]["accuracy"], scores[name]["macro_f1"]
        lost = scores["torch"]["accuracy"] - accuracy
        same = float((said[name] == said["torch"]).all(1).mean())
        apart = float(np.abs(p - chances["torch"]).max())
        told[name + "_measured"] = {
            "accuracy": accuracy, "lost": lost, "macro_f1": macro_f1, "same_label": same,
            "largest_difference": apart,
        }  # fmt: skip
        shown = [f"{accuracy:.4f}", f"{lost:+.4f}", f"{macro_f1:.4f}", f"{same:.4f}"]
        table.append([name, *shown, f"{apart:.1e}"])
    print(f"on {len(targets)} clips:")
    print("\n".join(aligned(table)))
    return told


def _scores(
    model: SpectrogramClassifier, probabilities: NDArray[np.float32], truth: NDArray[np.float32]
) -> dict[str, float]:
    """Return accuracy and macro-F1; truth: 1 for each label of each clip, (n, n_labels)."""
    from audio.metrics import confusion_matrix, scores_of
    from audio.multi_label import quick_scores

    if model.is_multi_label:
        return quick_scores(probabilities, truth, model.thresholds)
    confusion = confusion_matrix(truth.argmax(1), probabilities.argmax(1), len(model.labels))
    return {name: float(value) for name, value in scores_of(confusion).items()}


def _said(model: SpectrogramClassifier, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which labels each clip gets, bool (n, n_labels)."""
    import numpy as np

    if model.is_multi_label:
        return np.asarray(probabilities >= np.array(model.thresholds))
    return np.asarray(np.arange(len(model.labels)) == probabilities.argmax(1)[:, None])


if __name__ == "__main__":
    sys.exit(main())
