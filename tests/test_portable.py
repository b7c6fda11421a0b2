"""A saved folder in transformers' own hands: with melbandit, and where melbandit is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from audio.backbones import preset_for
from audio.classifier import SpectrogramClassifier
from audio.feature_extraction import SpectrogramFeatureExtractor
from audio.portable import code_files
from audio.settings import Settings, SpectrogramSettings, TrainingSettings

ROOT = Path(__file__).parents[1]
LABELS = ("low", "mid", "high")
BACKBONES = ("whisper-scratch", "ast-scratch", "vit-scratch", "ast", "vit", "whisper-classifier")


def clips_of(rate: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.normal(0, 0.1, n).astype(np.float32) for n in (rate // 2, rate // 5, rate + 777)]


@pytest.fixture(scope="module")
def folders(checkpoints, tmp_path_factory) -> dict[str, Path]:
    """Return a saved model of each backbone, of windows of half a second."""
    from dataclasses import replace

    root = tmp_path_factory.mktemp("models")
    out = {}
    for name in BACKBONES:
        backbone = checkpoints.get(name, name)
        spectrogram = replace(preset_for(backbone), clip_s=0.5)
        if name == "vit-scratch":
            spectrogram = SpectrogramSettings(8000, clip_s=0.5, padding="repeat", n_mels=32)
        settings = Settings(spectrogram, training=TrainingSettings(backbone=backbone))
        model = SpectrogramClassifier.from_settings(settings, LABELS)
        for weight in model.network.classifier.parameters():
            torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(2))
        model.save_pretrained(root / name)
        out[name] = root / name
    return out


@pytest.fixture(scope="module")
def expected(folders) -> dict[str, np.ndarray]:
    out = {}
    for name, folder in folders.items():
        model = SpectrogramClassifier.load(folder)
        out[name] = model.predict(clips_of(model.settings.spectrogram.sample_rate_hz))
        assert np.ptp(out[name], axis=1).min() > 0.02  # not all alike, or nothing were tested
    return out


_PIPELINE = """
import json, sys
import numpy as np
{first}
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification, pipeline
folders, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
rows = {{}}
for name, folder in folders.items():
    pipe = pipeline("audio-classification", model=folder, **options)
    rate = pipe.feature_extractor.sampling_rate
    rng = np.random.default_rng(5)
    clips = [rng.normal(0, 0.1, n).astype(np.float32) for n in (rate // 2, rate // 5, rate + 777)]
    alone = [pipe(clip, top_k=None) for clip in clips]
    batched = pipe(clips, top_k=None, batch_size=3)
    model = AutoModelForAudioClassification.from_pretrained(folder, **options).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder, **options)
    logits = model(**extractor(clips, sampling_rate=rate, return_tensors="pt")).logits
    rows[name] = {{
        "alone": [{{row["label"]: row["score"] for row in found}} for found in alone],
        "batched": [{{row["label"]: row["score"] for row in found}} for found in batched],
        "auto": logits.softmax(-1).tolist(),
        "module": type(pipe.model).__module__,
    }}
    model.save_pretrained(sys.argv[3] + "/" + name)
print(json.dumps(rows))
"""


def call(python, code, folders, options, again, **environment) -> dict:
    given = {name: str(folder) for name, folder in folders.items()}
    done = subprocess.run(
        [*python, code, json.dumps(given), json.dumps(options), str(again)],
        capture_output=True, text=True, cwd=again, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(rows, expected):
    for name, want in expected.items():
        for way in ("alone", "batched"):
            found = [[row[label] for label in LABELS] for row in rows[name][way]]
            assert np.abs(np.array(found) - want).max() < 1e-5, (name, way)
        assert np.abs(np.array(rows[name]["auto"]) - want).max() < 1e-5, name


@pytest.mark.parametrize(
    "first",
    [
        pytest.param("import audio", id="audio first"),
        pytest.param("import transformers, audio", id="transformers first", marks=pytest.mark.slow),
        pytest.param("import audio.classifier", id="the model first", marks=pytest.mark.slow),
    ],
)
def test_after_import_audio_transformers_loads_a_folder(first, folders, expected, tmp_path):
    some = {"whisper-scratch": folders["whisper-scratch"]}
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{first}"
    rows = call([sys.executable, "-c"], _PIPELINE.format(first=code), some, {}, tmp_path)
    check(rows, {name: expected[name] for name in some})
    assert rows["whisper-scratch"]["module"] == "audio.classifier"


_ALONE = """
sys.path.append({site!r})
try: import audio
except ModuleNotFoundError: pass
else: raise SystemExit("audio can be imported: " + audio.__file__)
"""


def test_without_melbandit_the_folder_brings_its_code(folders, expected, tmp_path):
    """-I and -S: no working folder, no PYTHONPATH, no .pth of an editable install."""
    import transformers

    site = str(Path(transformers.__file__).parents[1])
    python = [sys.executable, "-I", "-S", "-c"]
    code = "import sys\n" + _ALONE.format(site=site) + _PIPELINE.format(first="")
    home = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "home" / "code")}
    again, third = tmp_path / "again", tmp_path / "third"
    again.mkdir()
    third.mkdir()
    options = {"trust_remote_code": True}
    rows = call(python, code, folders, options, again, **home)
    check(rows, expected)
    assert all(row["module"].startswith("transformers_modules.") for row in rows.values())
    # what was saved there is such a folder too, for transformers alone and for melbandit
    one = "whisper-scratch"
    assert (again / one / "config.json").exists()
    saved = json.loads((again / one / "config.json").read_text())
    assert saved["auto_map"] == json.loads((folders[one] / "config.json").read_text())["auto_map"]
    model = SpectrogramClassifier.load(again / one)
    rate = model.settings.spectrogram.sample_rate_hz
    assert np.abs(model.predict(clips_of(rate)) - expected[one]).max() < 1e-6
    check(call(python, code, {one: again / one}, options, third, **home), {one: expected[one]})


def test_import_audio_is_light():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import audio, audio.settings;"
        "print(*sorted(set(sys.modules) & {'torch', 'transformers', 'numpy', 'librosa'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_folder_carries_no_more_code_than_it_needs():
    names = {name.removeprefix("melbandit_") for name in code_files()}
    assert names >= {"classifier.py", "mel.py", "settings.py", "feature_extraction.py"}
    assert not names & {"decoding.py", "waveform.py", "train.py", "clips.py", "report.py"}
    for name, text in code_files().items():
        compile(text, name, "exec")
        assert not re.search(r"^\s*(from|import) audio\b", text, re.M), name


# The extractor


def extractor_of(**more) -> SpectrogramFeatureExtractor:
    return SpectrogramFeatureExtractor(sampling_rate=8000, n_samples=800, **more)


def test_channels_are_mixed_and_other_rates_resampled_as_predict_does(rng):
    import soxr

    stereo = rng.normal(0, 0.1, (4410, 2)).astype(np.float32)
    expected = soxr.resample(stereo.mean(1), 22050, 8000, quality="HQ")
    for given in ([stereo], [stereo.T], stereo.mean(1)):
        found = extractor_of()(given, sampling_rate=22050)
        assert np.abs(found["input_values"][0] - expected).max() < 1e-6
        assert list(found["n_valid"]) == [len(expected)]


def test_short_clips_are_padded_as_the_model_was_trained(rng):
    clip = rng.normal(0, 0.1, 300).astype(np.float32)
    found = extractor_of()(clip)
    assert found["input_values"].shape == (1, 800)
    assert list(found["n_valid"]) == [300]
    assert not found["input_values"][0, 300:].any()
    found = extractor_of(clip_padding="repeat")([clip, np.tile(clip, 4)])
    assert np.array_equal(found["input_values"][0, :800], np.tile(clip, 3)[:800])
    assert found["input_values"].shape == (2, 1200)
    assert list(found["n_valid"]) == [800, 1200]


@pytest.mark.parametrize(
    ("clip", "words"),
    [(np.zeros(0), "no waveform"), ([0.1, np.nan], "NaN"), (np.zeros((1, 2, 2, 3)), "no waveform")],
)
def test_what_is_no_waveform_is_refused(clip, words):
    with pytest.raises(ValueError, match=words):
        extractor_of()(clip)
