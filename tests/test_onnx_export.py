"""The exported graph: onnxruntime agrees with torch, and the file says what it needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from audio.backbones import preset_for
from audio.classifier import SpectrogramClassifier
from audio.settings import (
    AST_PRESET,
    WHISPER_PRESET,
    Settings,
    SpectrogramSettings,
    TrainingSettings,
)
from audio.spectrogram import LogMel
from scripts import cli
from tests.conftest import randomise

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from audio.onnx_export import (  # noqa: E402
    ExportError,
    LogMelByConvolution,
    OnnxClassifier,
    export_onnx,
    quantise_int8,
)

LABELS = ("low", "mid", "hígh")


def sounds(n: int, k: int = 12) -> np.ndarray:
    """Return noise and tones of many loudnesses, float32 (k, n); the first is silent."""
    rng = np.random.default_rng(7)
    out = np.zeros((k, n), np.float32)
    for i in range(1, k):
        tone = np.sin(np.arange(n) * rng.uniform(0.05, 3))
        mixed = rng.uniform(0, 1) * tone + 10 ** rng.uniform(-5, -1) * rng.standard_normal(n)
        out[i] = np.clip(10 ** rng.uniform(-3, -0.1) * mixed, -1, 1)
    return out


def model_of(backbone: str, spectrogram: SpectrogramSettings) -> SpectrogramClassifier:
    """Return a model whose probabilities differ from clip to clip."""
    settings = Settings(spectrogram, training=TrainingSettings(backbone=backbone))
    model = SpectrogramClassifier.from_settings(settings, LABELS)
    randomise(model.network)
    return model.eval()


NETWORKS = {
    "whisper-scratch": ("whisper-scratch", SpectrogramSettings(clip_s=0.4)),
    "ast-scratch, ast preset": ("ast-scratch", replace(AST_PRESET, clip_s=0.4)),
    "vit-scratch, pcen": ("vit-scratch", SpectrogramSettings(8000, clip_s=0.4, compression="pcen")),
    "whisper-scratch, cube root, long DFT": (
        "whisper-scratch",
        SpectrogramSettings(
            clip_s=0.8, n_fft=4096, win_length=4096, power=1.0, compression="cube-root"
        ),
    ),
    "whisper checkpoint": ("whisper-classifier", None),
    "ast checkpoint": ("ast", None),
    "vit checkpoint": ("vit", None),
}
SLOW = (
    "ast checkpoint",
    "vit checkpoint",
    "vit-scratch, pcen",
    "whisper-scratch, cube root, long DFT",
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in NETWORKS]
)
def test_onnxruntime_agrees_with_torch(name, checkpoints, tmp_path):
    backbone, spectrogram = NETWORKS[name]
    backbone = checkpoints.get(backbone, backbone)
    spectrogram = spectrogram or replace(preset_for(backbone), clip_s=0.4)
    model = model_of(backbone, spectrogram)
    path = tmp_path / "model.onnx"
    export_onnx(model, path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wave = sounds(spectrogram.n_samples)
    n_valid = np.full(len(wave), wave.shape[1], np.int64)
    for i, share in ((3, 0.5), (4, 0.9), (5, 0.11)):
        n_valid[i] = int(share * wave.shape[1])
        wave[i, n_valid[i] :] = 0
    with torch.inference_mode():
        logits = model(torch.from_numpy(wave), n_valid=torch.from_numpy(n_valid)).logits
    expected = torch.softmax(logits, -1).numpy()
    assert np.ptp(expected, axis=0).max() > 0.05  # else any graph would agree
    for rows in (slice(0, 12), slice(3, 4), slice(2, 9)):  # a batch of any size
        given = {"waveform": wave[rows], "n_valid": n_valid[rows]}
        (found,) = session.run(["probabilities"], given)
        assert np.abs(found - expected[rows]).max() < 1e-4


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[SpectrogramClassifier, Path]:
    model = model_of("vit-scratch", SpectrogramSettings(8000, clip_s=0.4, padding="repeat"))
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, path)
    return model, path


def test_the_file_says_what_whoever_runs_it_must_know(exported):
    model, path = exported
    proto = onnx.load(str(path))
    onnx.checker.check_model(proto, full_check=True)
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(about["labels"]) == list(LABELS)
    assert about["sample_rate_hz"] == "8000"
    assert about["window_samples"] == "3200"
    assert about["padding"] == "repeat"
    assert Settings.from_json(json.loads(about["settings"])) == model.settings
    inputs = {x.name: x.type.tensor_type for x in proto.graph.input}
    assert set(inputs) == {"waveform", "n_valid"}
    assert inputs["waveform"].elem_type == onnx.TensorProto.FLOAT
    assert inputs["waveform"].shape.dim[0].dim_param  # a name: any batch
    assert inputs["waveform"].shape.dim[1].dim_value == 3200
    assert [x.name for x in proto.graph.output] == ["probabilities"]


def test_clips_of_any_length_get_what_predict_gives_them(exported):
    model, path = exported
    clips = [sounds(n)[5] for n in (3200, 900, 10_000, 3201)]
    found = OnnxClassifier(path).predict(clips, batch_size=3)
    assert np.abs(found - model.predict(clips)).max() < 1e-4
    assert OnnxClassifier(path).predict([]).shape == (0, 3)


def test_int8_shrinks_the_weights_and_leaves_the_mel_transform_alone(exported, tmp_path):
    model, path = exported
    small = tmp_path / "small.onnx"
    n = quantise_int8(path, small)
    graph = onnx.load(str(small)).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulInteger") == n
    assert n >= 4 * 6  # q, k, v, out and two of the MLP in four layers
    bank = model.log_mel.bank.numpy()
    floats = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == 1]
    assert any(a.shape == bank.shape and np.array_equal(a, bank) for a in floats)
    assert small.stat().st_size < 0.5 * path.stat().st_size
    clips = list(sounds(3200))
    whole, eight = OnnxClassifier(path), OnnxClassifier(small)
    assert eight.labels == LABELS
    apart = np.abs(whole.predict(clips) - eight.predict(clips)).max()
    assert 0 < apart < 0.1


# The transform as a convolution


def double_level(settings: SpectrogramSettings, wave: np.ndarray) -> torch.Tensor:
    """Return LogMel's levels computed in float64, frame by frame's own transform."""
    log_mel = LogMel(settings).double()
    original = torch.Tensor.float
    torch.Tensor.float = lambda self: self  # type: ignore[method-assign, assignment]
    try:
        return log_mel(torch.from_numpy(wave).double())
    finally:
        torch.Tensor.float = original  # type: ignore[method-assign]


PRESETS = {
    "melbandit": SpectrogramSettings(clip_s=0.5),
    "ast": replace(AST_PRESET, clip_s=0.5),
    "whisper": replace(WHISPER_PRESET, clip_s=0.5),
    "cube root": SpectrogramSettings(clip_s=0.5, compression="cube-root"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_convolution_is_as_exact_as_the_fourier_transform(name):
    settings = PRESETS[name]
    wave = sounds(settings.n_samples)
    exact = double_level(settings, wave)
    error = {
        kind: (kind(settings)(torch.from_numpy(wave)) - exact).abs().max()
        for kind in (LogMel, LogMelByConvolution)
    }
    scale = 1.0 if settings.compression == "db" else 0.01
    assert error[LogMelByConvolution] < max(2 * error[LogMel], 0.01 * scale)


@given(
    edges=st.sampled_from(["zeros", "reflect", "inside"]),
    remove_dc=st.booleans(),
    preemphasis=st.sampled_from([0.0, 0.97]),
    drop_last_frame=st.booleans(),
    power=st.sampled_from([1.0, 2.0]),
    n_fft=st.sampled_from([256, 400, 513]),
    hop_length=st.sampled_from([80, 111]),
    window=st.sampled_from(["hann", "hamming", "blackman"]),
)
@hypothesis_settings(max_examples=40)
def test_the_convolution_gives_the_levels_under_any_settings(**values):
    settings = SpectrogramSettings(clip_s=0.2, n_mels=24, win_length=240, **values)
    wave = torch.from_numpy(sounds(settings.n_samples))
    n_valid = torch.full((len(wave),), settings.n_samples)
    n_valid[2:4] = 1000
    found = LogMelByConvolution(settings)(wave, n_valid)
    assert (found - LogMel(settings)(wave, n_valid)).abs().max() < 0.05  # dB, 80 below the peak


# The command


@pytest.fixture
def saved(exported, tmp_path) -> Path:
    folder = tmp_path / "saved"
    exported[0].save_pretrained(folder)
    return folder


@pytest.fixture
def clips(tmp_path) -> Path:
    for label in LABELS[:2]:
        (tmp_path / "clips" / label).mkdir(parents=True)
    for i, wave in enumerate(sounds(8000)[1:]):
        soundfile.write(
            tmp_path / "clips" / LABELS[i % 2] / f"{i}.wav", wave[: 3000 + 500 * i], 8000
        )
    return tmp_path / "clips"


def test_export_writes_both_files_and_prints_what_8_bits_cost(saved, clips, tmp_path, capsys):
    out = tmp_path / "out.onnx"
    command = ["export", str(saved), "--onnx", str(out), "--threads", "1"]
    (clips / "low" / "broken.wav").write_bytes(b"RIFF")
    assert cli.main([*command, "--int8", "--clips", str(clips)]) == 3
    captured = capsys.readouterr()
    told = json.loads(captured.out.splitlines()[-1])
    assert "broken.wav" in captured.err
    assert told["clips"] == 11
    assert told["largest_difference"] < 1e-4
    # by hand, from the files
    model, rate = SpectrogramClassifier.load(saved), 8000
    paths = sorted(clips.glob("*/[0-9]*.wav"))
    waves = [soundfile.read(p, dtype="float32")[0] for p in paths]
    truth = [LABELS.index(p.parent.name) for p in paths]
    assert rate == model.settings.spectrogram.sample_rate_hz
    for name, path in (("onnx", out), ("int8", tmp_path / "out.int8.onnx")):
        p, q = OnnxClassifier(path).predict(waves), model.predict(waves)
        measured = told[f"{name}_measured"]
        assert measured["accuracy"] == pytest.approx(np.mean(p.argmax(1) == truth))
        assert measured["lost"] == pytest.approx(
            np.mean(q.argmax(1) == truth) - np.mean(p.argmax(1) == truth)
        )
        assert measured["largest_difference"] == pytest.approx(np.abs(p - q).max(), abs=1e-4)
    assert "int8" in captured.out
    assert cli.main(command) == 1
    assert "is there already; give --overwrite" in capsys.readouterr().err


def test_of_several_labels_each_is_a_question_of_its_own(clips, tmp_path, capsys):
    settings = Settings(
        SpectrogramSettings(8000, clip_s=0.4),
        training=TrainingSettings(backbone="vit-scratch", size="nano"),
    )
    model = SpectrogramClassifier.from_settings(settings, LABELS, multi_label=True).eval()
    randomise(model.network)
    paths = sorted(clips.glob("*/[0-9]*.wav"))
    waves = [soundfile.read(p, dtype="float32")[0] for p in paths]
    model.config.thresholds = np.median(model.predict(waves), 0).tolist()
    model.save_pretrained(tmp_path / "several")
    truth = np.random.default_rng(0).random((len(paths), len(LABELS))) < 0.5
    names = [";".join(x for x, has in zip(LABELS, row, strict=True) if has) for row in truth]
    rows = [f"{p.parent.name}/{p.name},{name}" for p, name in zip(paths, names, strict=True)]
    listed = clips / "several.csv"
    listed.write_text("path,labels\n" + "\n".join(rows) + "\n")
    out = tmp_path / "several.onnx"
    command = ["export", str(tmp_path / "several"), "--onnx", str(out), "--threads", "1"]
    assert cli.main([*command, "--int8", "--clips", str(listed)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    p = OnnxClassifier(out).predict(waves)
    assert np.abs(p.sum(1) - 1).max() > 0.05  # no shares of one
    heard = p >= np.array(model.thresholds)
    assert told["onnx_measured"]["accuracy"] == pytest.approx((heard == truth).all(1).mean())
    macro = f1_score(truth, heard, average="macro")
    assert told["onnx_measured"]["macro_f1"] == pytest.approx(macro)
    assert "int8_measured" in told
    about = onnx.load(out).metadata_props
    kept = next(json.loads(prop.value) for prop in about if prop.key == "thresholds")
    assert kept == pytest.approx(model.thresholds)


def test_clips_of_several_labels_are_no_measure_of_a_model_of_one(saved, clips, tmp_path, capsys):
    path = next(clips.glob("*/[0-9]*.wav"))
    listed = clips / "two.csv"
    listed.write_text(f"path,labels\n{path.parent.name}/{path.name},{LABELS[0]};{LABELS[1]}\n")
    out = tmp_path / "x.onnx"
    assert cli.main(["export", str(saved), "--onnx", str(out), "--clips", str(listed)]) == 1
    assert "give clips of one label each" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--clips", "{clips}", "--split", "test"], "no clip of it is in the test split"),
        (["--clips", "{strange}"], "classes that the model does not know: cat"),
        (["--batch-size", "0"], "batch_size=0 must be at least 1"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    arguments, words, saved, clips, tmp_path, capsys
):
    (tmp_path / "strange" / "cat").mkdir(parents=True)
    soundfile.write(tmp_path / "strange" / "cat" / "1.wav", sounds(4000)[3], 8000)
    filled = [a.format(clips=clips, strange=tmp_path / "strange") for a in arguments]
    out = tmp_path / "x.onnx"
    assert cli.main(["export", str(saved), "--onnx", str(out), *filled]) == 1
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match="not an ONNX file that can be run"):
        OnnxClassifier(tmp_path / "x.onnx")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "y.onnx"
    )
    with pytest.raises(ExportError, match="not written by `melbandit export`"):
        OnnxClassifier(tmp_path / "y.onnx")
