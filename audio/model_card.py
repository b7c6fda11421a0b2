"""A saved model's README.md: what it is, of which clips, how well it does, how to load it.

Its front matter is what the Hugging Face hub reads (YAML); the licence is the user's to name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audio.files import write_atomically
from audio.settings import Settings

_LICENSE = "# license: name the licence of these weights here, by the hub's list of licences"
_SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "mean_average_precision": "mean average precision (macro)",
    "roc_auc": "ROC AUC (one against the rest, macro)",
    "calibration_error": "expected calibration error (15 bins)",
}
_CLASSES_SHOWN = 50


def write_model_card(
    folder: Path, results: Mapping[str, Any], record: Mapping[str, Any], *, corpus: str
) -> None:
    """Write README.md into a model's folder. corpus: what the clips are called."""
    text = model_card(results, record, corpus=corpus)
    write_atomically(folder / "README.md", text.encode("utf-8"))


def model_card(results: Mapping[str, Any], record: Mapping[str, Any], *, corpus: str) -> str:
    """Return the card, Markdown with YAML front matter.

    results: of `melbandit finetune`. record: the run's settings.json. corpus: the clips' name.
    """
    settings = Settings.from_json(results["settings"])
    parts = [
        front_matter(results, settings, corpus=corpus),
        "# Audio classifier",
        f"Tells {len(results['labels'])} classes of sound apart: a `{_named(settings)}` network of "
        f"{results['parameters']:,} parameters on mel-spectrograms, fitted with "
        "melbandit. The mel transform is part of the model: it takes waveforms.",
        _loading(settings),
        _data(results, corpus),
        *(_metrics(split, results[split]) for split in ("test", "validation") if split in results),
        _preprocessing(settings, results),
        _where_from(record),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(results: Mapping[str, Any], settings: Settings, *, corpus: str) -> str:
    """Return the YAML between dashes, with the scores as the hub's model-index."""
    from huggingface_hub import EvalResult, ModelCardData

    backbone = settings.training.backbone
    split = "test" if "test" in results else "validation"
    scores = [
        EvalResult(
            task_type="audio-classification",
            task_name="Audio Classification",
            dataset_type=_slug(corpus),
            dataset_name=corpus,
            dataset_split=split,
            metric_type="f1" if name == "macro_f1" else name,
            metric_name=words,
            metric_value=round(float(_value(results[split][name])), 5),
        )
        for name, words in _SCORES.items()
        if results[split].get(name) is not None
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="audio-classification",
        tags=["audio", "audio-classification", "mel-spectrogram", "melbandit"],
        base_model=backbone if "/" in backbone and not Path(backbone).exists() else None,
        model_name="melbandit audio classifier",
        eval_results=scores,
    )
    return f"---\n{_LICENSE}\n{data.to_yaml().strip()}\n---"


def _named(settings: Settings) -> str:
    return Path(settings.training.backbone).name


def _slug(name: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name.lower())
    return kept.strip("-.") or "clips"


def _loading(settings: Settings) -> str:
    rate = settings.spectrogram.sample_rate_hz
    return f"""## How to load it

With transformers alone (the folder carries the code that it needs; read it, then trust it):

```python
from transformers import pipeline

classify = pipeline("audio-classification", model="THIS_FOLDER_OR_HUB_ID", trust_remote_code=True)
classify(waveform)  # float32 (n_samples,) in [-1, 1], mono, at {rate} Hz
```

With melbandit, for files of any format, long recordings, and events:

```
melbandit predict THIS_FOLDER recording.flac
```

After `import audio` (melbandit's package) `trust_remote_code` is not needed."""


def _data(results: Mapping[str, Any], corpus: str) -> str:
    splits = [s for s in ("train", "validation", "test") if any(
        row["split"] == s for row in results["corpus"])]  # fmt: skip
    counts = {(row["label"], row["split"]): row["clips"] for row in results["corpus"]}
    told = "Groups (speakers, recordings) were kept on one side of the split."
    if results.get("leakage"):
        told = (
            "**Leakage was allowed**: groups or sounds are on two sides of the split, or the model "
            "that this one starts from was trained on clips of the test; the scores below are too "
            "good."
        )
    lines = ["## Data", "", f"Clips of `{_cell(corpus)}`. {told}"]
    lines += ["", "| class | " + " | ".join(splits) + " |", "|---" * (1 + len(splits)) + "|"]
    shown = list(results["labels"])[:_CLASSES_SHOWN]
    for label in shown:
        cells = [str(counts.get((label, split), 0)) for split in splits]
        lines.append(f"| {_cell(label)} | " + " | ".join(cells) + " |")
    if len(results["labels"]) > len(shown):
        lines.append(f"\n{len(results['labels']) - len(shown)} more classes are in config.json.")
    totals = [sum(row["clips"] for row in results["corpus"] if row["split"] == s) for s in splits]
    told = ", ".join(f"{n:,} {split}" for n, split in zip(totals, splits, strict=True))
    return "\n".join([*lines, "", f"In all {told} clips."])


def _metrics(split: str, scores: Mapping[str, Any]) -> str:
    lines = [f"## Scores on the {split} split", "", f"{scores['n']:,} clips; 95 % intervals by "
             f"bootstrap over {scores['interval_over']}.", "", "| score | value | interval |",
             "|---|---|---|"]  # fmt: skip
    for name, words in _SCORES.items():
        score = scores.get(name)
        if score is None:
            continue
        interval = ""
        if isinstance(score, Mapping) and score.get("low") is not None:
            interval = f"{score['low']:.3f} to {score['high']:.3f}"
        lines.append(f"| {words} | {_value(score):.3f} | {interval} |")
    lines += ["", "| class | precision | recall | F1 | clips |", "|---|---|---|---|---|"]
    for label, row in list(scores["per_class"].items())[:_CLASSES_SHOWN]:
        figures = " | ".join(f"{row[name]:.3f}" for name in ("precision", "recall", "f1"))
        lines.append(f"| {_cell(label)} | {figures} | {row['support']} |")
    return "\n".join(lines)


def _value(score: Any) -> float:
    return float(score["value"] if isinstance(score, Mapping) else score)


def _preprocessing(settings: Settings, results: Mapping[str, Any]) -> str:
    s = settings.spectrogram
    default = Settings().to_json()
    changed = [
        f"`{name}={_named(settings) if name == 'backbone' else value}`"
        for group, values in settings.to_json().items()
        for name, value in values.items()
        if value != default[group].get(name)
    ]
    return (
        "## Settings\n\n"
        f"{s.sample_rate_hz} Hz mono, windows of {s.clip_s:g} s, {s.n_mels} mel bands from "
        f"{s.f_min_hz:g} to {s.f_max:g} Hz, hop {s.hop_length} samples. "
        f"{len(results['history'])} epochs. Different from melbandit's defaults: "
        f"{', '.join(changed) or 'nothing'}. All settings are in `config.json` and `settings.json`."
    )


def _where_from(record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in record.get("versions", {}).items())
    return f"## Where it comes from\n\nFitted {record.get('started', '')} with {versions}."


def _cell(text: str) -> str:
    """Return text that cannot end its cell of a table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("`", "'").replace("\n", " ")
