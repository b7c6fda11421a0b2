"""One contract for every network, from scratch and from a checkpoint, and each type's own rules."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as t

from audio.backbones import (
    build_network,
    head_parameters,
    load_checkpoint,
    network_logits,
    preset_for,
)
from audio.classifier import SpectrogramClassifier
from audio.scratch import BackboneError, ConvPatches, scratch_network
from audio.settings import (
    SCRATCH,
    Settings,
    SettingsError,
    SpectrogramSettings,
    TrainingSettings,
    is_scratch,
)

KINDS = (*SCRATCH, "ast", "vit", "whisper-asr", "whisper-classifier", "whisper-layers")
LABELS = tuple("abcde")


@pytest.fixture
def backbone(request, checkpoints) -> str:
    return checkpoints.get(request.param, request.param)


every_kind = pytest.mark.parametrize("backbone", KINDS, indirect=True)
every_checkpoint = pytest.mark.parametrize("backbone", KINDS[3:], indirect=True)


def made(backbone, labels=LABELS, seed=0, **spectrogram):
    """Return a model at a small geometry of the backbone's own preset."""
    values = {"clip_s": 0.5} | spectrogram
    return SpectrogramClassifier.from_settings(
        Settings(
            replace(preset_for(backbone), **values),
            training=TrainingSettings(backbone=backbone, seed=seed),
        ),
        labels,
    ).eval()


def noise(n, batch=2, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.1, (batch, n))).float()


# The contract


@every_kind
def test_logits_are_finite_one_row_a_clip_one_column_a_label(backbone):
    model = made(backbone)
    out = model(noise(8000, batch=3), labels=torch.tensor([0, 4, 1]))
    assert out.logits.shape == (3, 5)
    assert out.logits.dtype == torch.float32
    assert torch.isfinite(out.logits).all()
    expected = torch.nn.functional.cross_entropy(out.logits, torch.tensor([0, 4, 1]))
    assert out.loss.item() == pytest.approx(expected.item())


@every_kind
@pytest.mark.parametrize("clip_s", [0.1, 0.33, 1.27])
def test_other_geometries_work(backbone, clip_s):
    model = made(backbone, clip_s=clip_s)
    n = model.settings.spectrogram.n_samples
    with torch.no_grad():
        logits = model(noise(n)).logits
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])


@every_kind
def test_what_else_is_in_the_batch_does_not_change_a_clips_logits(backbone):
    model = made(backbone)
    batch = noise(8000, batch=4)
    n_valid = torch.tensor([8000, 3000, 5000, 600])
    for i, n in enumerate(n_valid):
        batch[i, n:] = 0
    with torch.no_grad():
        together = model(batch, n_valid=n_valid).logits
        for i in range(4):
            alone = model(batch[i : i + 1], n_valid=n_valid[i : i + 1]).logits
            assert (alone - together[i]).abs().max() < 1e-4


@every_kind
def test_weights_follow_from_the_seed_and_torchs_generator_is_left_alone(backbone):
    torch.manual_seed(77)
    state = torch.get_rng_state()
    first = made(backbone, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(78)
    again, other = made(backbone, seed=3).state_dict(), made(backbone, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    if is_scratch(backbone):
        assert any(not torch.equal(first[name], other[name]) for name in first)


@every_checkpoint
def test_a_new_head_follows_from_the_seed_and_the_rest_from_the_checkpoint(backbone):
    first, other = (made(backbone, labels="xyz", seed=s).network for s in (3, 4))
    heads = {id(p) for network in (first, other) for p in head_parameters(network)}
    for (name, a), b in zip(first.named_parameters(), other.parameters(), strict=True):
        if id(a) not in heads:
            assert torch.equal(a, b), name
    new = [n for n, p in first.named_parameters() if id(p) in heads and p.ndim > 1]
    assert any(not torch.equal(first.get_parameter(n), other.get_parameter(n)) for n in new), (
        "the head is the same for every seed"
    )


@every_kind
def test_every_trainable_weight_gets_a_gradient(backbone):
    model = made(backbone).train()
    model(noise(8000), labels=torch.tensor([0, 1])).loss.backward()
    without = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not torch.isfinite(p.grad).all())
    ]
    # token types nothing reads: ViT and AST have none; Whisper's encoder neither
    assert without == []


@every_kind
def test_the_head_is_named(backbone):
    network = made(backbone).network
    names = {id(p): name for name, p in network.named_parameters()}
    found = {names[id(p)].split(".")[0] for p in head_parameters(network)}
    heads = {"classifier", "projector", "layer_weights"}
    assert found == {name for name in heads if hasattr(network, name)}


@every_kind
def test_a_saved_model_is_bit_equal(backbone, tmp_path):
    model = made(backbone)
    model.save_pretrained(tmp_path)
    again = SpectrogramClassifier.load(tmp_path)
    assert again.settings == model.settings
    assert again.labels == model.labels
    one, other = model.state_dict(), again.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with torch.no_grad():
        assert torch.equal(model(noise(8000)).logits, again(noise(8000)).logits)


@every_checkpoint
def test_the_saved_model_no_longer_needs_the_checkpoint(backbone, tmp_path):
    model = made(backbone)
    model.save_pretrained(tmp_path)
    texts = [p.read_text() for p in tmp_path.glob("*.json")]
    described = SpectrogramClassifier.load(tmp_path).config.network
    assert described["config"]["num_labels"] == 5
    assert texts
    build_network(described)  # from the description alone


# The same logits as transformers' own class and extractor, at the checkpoint's own geometry


def same_head(ours, theirs):
    """Give transformers' network our head."""
    for name in ("classifier", "projector"):
        if hasattr(theirs, name):
            getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())
    return theirs.eval()


@pytest.mark.parametrize("seconds", [10.255, 2.0])
def test_an_ast_checkpoint_gives_transformers_logits(checkpoints, seconds):
    model = made(checkpoints["ast"], clip_s=10.255)
    theirs = t.ASTForAudioClassification.from_pretrained(checkpoints["ast"]).eval()
    n = round(seconds * 16000)
    wave = noise(n, batch=1)
    features = t.ASTFeatureExtractor()(
        wave[0].numpy(), sampling_rate=16000, return_tensors="pt"
    ).input_values
    padded = torch.zeros(1, model.settings.spectrogram.n_samples)
    padded[:, :n] = wave
    with torch.no_grad():
        expected = theirs(features).logits
        found = model(padded, n_valid=torch.tensor([n])).logits
    assert (found - expected).abs().max() < 1e-4


def features_of(folder, extractor):
    """Return what a checkpoint's model makes of a second of noise, (n_mels, n_frames), once its
    `extractor` was saved beside it, and what that makes of it."""
    extractor.save_pretrained(folder)
    model = made(str(folder), clip_s=1.0)
    rate = model.settings.spectrogram.sample_rate_hz
    assert rate == extractor.sampling_rate
    wave = noise(rate, batch=1)
    given = extractor(wave[0].numpy(), sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        found = model.log_mel.normalise(model.log_mel(wave))[0]
    return found, given[extractor.model_input_names[0]][0]


@pytest.mark.parametrize(
    "own",
    [
        {"mean": -6.845978, "std": 5.5654526, "max_length": 128},  # AST on Speech Commands
        {"do_normalize": False},
        {"mean": -5.0, "std": 4.0, "sampling_rate": 8000},
    ],
    ids=["speech commands", "no normalisation", "8 kHz"],
)
def test_an_ast_checkpoints_own_extractor_is_followed(checkpoints, own, tmp_path):
    folder = shutil.copytree(checkpoints["ast"], tmp_path / "ast")
    extractor = t.ASTFeatureExtractor(**{"max_length": 100} | own)
    found, expected = features_of(folder, extractor)
    found = found.T
    assert (found - expected[: len(found)]).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "own",
    [
        {"hop_length": 80},
        {"n_fft": 512, "hop_length": 200},
        {"sampling_rate": 32000, "hop_length": 320, "n_fft": 800},
    ],
    ids=str,
)
def test_a_whisper_checkpoints_own_extractor_is_followed(checkpoints, own, tmp_path):
    folder = shutil.copytree(checkpoints["whisper-asr"], tmp_path / "whisper")
    found, expected = features_of(folder, t.WhisperFeatureExtractor(chunk_length=1, **own))
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_processor_that_holds_the_extractor_is_followed(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["whisper-asr"], tmp_path / "whisper")
    (folder / "processor_config.json").write_text('{"feature_extractor": {"hop_length": 80}}')
    assert preset_for(str(folder)).hop_length == 80


@pytest.mark.parametrize("kind", ["ast", "whisper-asr"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", r"cannot be read \("),
        ("[1]", r"cannot be read \("),
        ('{"sampling_rate": null}', "sampling_rate=None must be a number"),
        ('{"sampling_rate": "16000"}', "sampling_rate='16000' must be a number"),
        ('{"sampling_rate": NaN}', "sampling_rate=nan must be a number"),
        ('{"sampling_rate": 500}', "(sample_rate_hz|sampling_rate)=500"),
        ('{"mean": "x", "hop_length": "x"}', "(mean|hop_length)='x' must be a number"),
        ('{"std": 0, "n_fft": 0}', "(std_db|n_fft)=0.* is below its least value"),
        (
            '{"sampling_rate": 8000, "std": null}',
            "std=None|8000, but Whisper's bands reach to 8000",
        ),
    ],
)
def test_an_extractor_that_cannot_be_followed_is_told(checkpoints, tmp_path, kind, text, words):
    folder = shutil.copytree(checkpoints[kind], tmp_path / "own")
    (folder / "preprocessor_config.json").write_text(text)
    with pytest.raises(BackboneError, match=rf"own/preprocessor_config\.json: .*({words})"):
        preset_for(str(folder))


@pytest.mark.parametrize("kind", ["whisper-asr", "whisper-classifier", "whisper-layers"])
def test_a_whisper_checkpoint_gives_transformers_logits(checkpoints, kind):
    model = made(checkpoints[kind], clip_s=30.0)
    source = t.WhisperForConditionalGeneration if kind == "whisper-asr" else None
    classifier = "whisper-classifier" if source else kind
    theirs = t.WhisperForAudioClassification.from_pretrained(checkpoints[classifier])
    if source:
        encoder = source.from_pretrained(checkpoints[kind]).model.encoder
        theirs.encoder.load_state_dict(encoder.state_dict())
    same_head(model.network, theirs)
    wave = noise(480000, batch=1)
    features = t.WhisperFeatureExtractor()(
        wave[0].numpy(), sampling_rate=16000, return_tensors="pt"
    ).input_features
    with torch.no_grad():
        expected = theirs(features).logits
        found = model(wave, n_valid=torch.tensor([480000])).logits
    assert (found - expected).abs().max() < 1e-4


def test_a_whisper_classifiers_own_head_is_kept(checkpoints):
    theirs = t.WhisperForAudioClassification.from_pretrained(checkpoints["whisper-classifier"])
    ours = made(checkpoints["whisper-classifier"]).network
    assert torch.equal(ours.classifier.weight, theirs.classifier.weight)
    assert torch.equal(ours.projector.weight, theirs.projector.weight)


def test_a_vit_checkpoint_on_one_channel_is_the_rgb_network_on_three_equal_ones(checkpoints):
    network, _ = load_checkpoint(checkpoints["vit"], n_mels=224, n_frames=224, n_labels=5)
    theirs = same_head(network, t.ViTForImageClassification.from_pretrained(checkpoints["vit"]))
    features = torch.randn(2, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(features[:, None].expand(-1, 3, -1, -1)).logits
        found = network_logits(network.eval(), features, None)
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["ast", "vit", "whisper-classifier"])
def test_a_checkpoint_saved_without_a_head_gives_its_body(checkpoints, kind, tmp_path):
    """As google/vit-base-patch16-224-in21k is; a body drawn at random would go unseen."""
    whole = {
        "ast": t.ASTForAudioClassification,
        "vit": t.ViTForImageClassification,
        "whisper-classifier": t.WhisperForAudioClassification,
    }[kind].from_pretrained(checkpoints[kind])
    if kind == "whisper-classifier":
        body = t.WhisperModel.from_pretrained(checkpoints["whisper-asr"])
        expected = body.encoder.layers.state_dict()
    else:
        body = whole.base_model
        expected = body.encoder.state_dict() if hasattr(body, "encoder") else body.state_dict()
    body.save_pretrained(tmp_path)
    found = made(str(tmp_path)).network.state_dict()
    for name, weight in expected.items():
        if "embeddings" not in name:  # fitted to the geometry
            matches = [w for n, w in found.items() if n.endswith(name) and w.shape == weight.shape]
            assert any(torch.equal(w, weight) for w in matches), name


# Fitting to another geometry


@pytest.mark.parametrize(("n_mels", "n_frames"), [(128, 304), (64, 1024), (36, 216), (16, 16)])
def test_ast_positions_are_the_middle_of_the_old_grid(checkpoints, n_mels, n_frames):
    before = t.ASTForAudioClassification.from_pretrained(checkpoints["ast"])
    old = before.audio_spectrogram_transformer.embeddings.position_embeddings[0].detach()
    network, _ = load_checkpoint(checkpoints["ast"], n_mels=n_mels, n_frames=n_frames, n_labels=5)
    new = network.audio_spectrogram_transformer.embeddings.position_embeddings[0].detach()
    high, wide = (n_mels - 16) // 10 + 1, (n_frames - 16) // 10 + 1
    top, left = (12 - high) // 2, (101 - wide) // 2
    grid = old[2:].reshape(12, 101, -1)[top : top + high, left : left + wide]
    assert torch.equal(new[:2], old[:2])  # class and distillation tokens
    assert torch.equal(new[2:].reshape(high, wide, -1), grid)


def test_ast_positions_are_stretched_along_the_axis_that_grew(checkpoints):
    """A grid that only varies along one axis must still only vary along it."""
    from audio.backbones import fit_ast

    network = t.ASTForAudioClassification.from_pretrained(checkpoints["ast"])
    embeddings = network.audio_spectrogram_transformer.embeddings
    table = torch.zeros_like(embeddings.position_embeddings)
    table[0, 2:] = torch.arange(12.0).repeat_interleave(101)[:, None]  # rows: frequency
    embeddings.position_embeddings.data = table
    fit_ast(network, 256, 512)
    grid = embeddings.position_embeddings[0, 2:, 0].detach().reshape(25, 50)
    assert torch.allclose(grid, grid[:, :1].expand(-1, 50))
    assert (grid[1:, 0] >= grid[:-1, 0]).all()
    assert grid[-1, 0] == 11


def test_vit_positions_are_stretched_to_height_and_width_not_scrambled(checkpoints):
    from audio.backbones import fit_vit

    network = t.ViTForImageClassification.from_pretrained(checkpoints["vit"])
    embeddings = network.vit.embeddings
    table = torch.zeros_like(embeddings.position_embeddings)
    table[0, 1:] = torch.arange(14.0).repeat_interleave(14)[:, None]  # rows
    embeddings.position_embeddings.data = table
    fit_vit(network, 64, 320)
    grid = embeddings.position_embeddings[0, 1:, 0].detach().reshape(4, 20)
    assert torch.allclose(grid, grid[:, :1].expand(-1, 20), atol=1e-5)
    assert (grid[1:, 0] > grid[:-1, 0]).all()


def test_whisper_positions_are_the_first_of_the_checkpoints(checkpoints):
    theirs = t.WhisperForConditionalGeneration.from_pretrained(checkpoints["whisper-asr"])
    model = made(checkpoints["whisper-asr"], clip_s=1.0)
    kept = model.network.encoder.embed_positions.weight
    assert len(kept) == 50
    assert torch.equal(kept, theirs.model.encoder.embed_positions.weight[:50])


@pytest.mark.parametrize("kind", ["whisper-scratch", "whisper-asr"])
def test_whisper_positions_are_fixed_and_stay_so_after_a_load(checkpoints, kind, tmp_path):
    model = made(checkpoints.get(kind, kind))
    model.save_pretrained(tmp_path)
    for each in (model, SpectrogramClassifier.load(tmp_path)):
        assert not each.network.encoder.embed_positions.weight.requires_grad
        assert each.network.encoder.conv1.weight.requires_grad


def test_whisper_with_other_bands_is_refused_with_the_remedy(checkpoints):
    with pytest.raises(BackboneError, match=r"n_mels=64.*80 bands; set n_mels=80"):
        load_checkpoint(checkpoints["whisper-asr"], n_mels=64, n_frames=50, n_labels=2)


def test_whisper_with_more_frames_than_it_has_is_refused(checkpoints):
    with pytest.raises(BackboneError, match=r"3001 frames .*3000; lower clip_s"):
        load_checkpoint(checkpoints["whisper-asr"], n_mels=80, n_frames=3001, n_labels=2)


@pytest.mark.parametrize("kind", ["whisper-scratch", "whisper-asr"])
def test_more_padding_does_not_change_what_whisper_pools(checkpoints, kind):
    """The encoder attends to all frames; what is pooled are the clip's own tokens alone."""
    model = made(checkpoints.get(kind, kind), clip_s=1.0)
    features = torch.randn(
        1,
        model.settings.spectrogram.n_mels,
        model.settings.spectrogram.n_frames,
        generator=torch.Generator().manual_seed(0),
    )
    network = model.network
    n = torch.tensor([40])
    with torch.no_grad():
        found = network_logits(network, features, n)
        stride = network.encoder.conv1.stride[0] * network.encoder.conv2.stride[0]
        if hasattr(network, "stem"):
            grown = network.stem(features)
            stride *= -(-features.shape[-1] // grown.shape[-1])
        else:
            length = network.config.max_source_positions * stride
            grown = torch.nn.functional.pad(features, (0, length - features.shape[-1]))
        hidden = network.encoder(grown).last_hidden_state
        own = hidden[:, : -(-40 // stride)]  # by hand: tokens that see own frames
        pooled = own.mean(1)
        if kind == "whisper-scratch":
            pooled = torch.cat([pooled, own.max(1).values], 1)
        expected = network.classifier(network.projector(pooled))
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", SCRATCH)
@pytest.mark.parametrize("shape", [(1, 64, 200), (1, 64, 20), (1, 30, 100), (1, 128, 100)])
def test_windows_of_another_size_are_refused_with_their_size(name, shape):
    network = build_network(
        scratch_network(name, n_mels=64, n_frames=100, n_labels=2, dropout=0.0)
    ).eval()
    with pytest.raises(BackboneError, match=rf"{shape[1]} x {shape[2]}"):
        network_logits(network, torch.zeros(shape), None)


def test_a_transposed_spectrogram_is_refused():
    """12 x 101 patches are as many as 101 x 12; AST itself would not see it."""
    network = build_network(
        scratch_network("ast-scratch", n_mels=64, n_frames=144, n_labels=2, dropout=0.0)
    )
    with pytest.raises(BackboneError, match="144 x 64"):
        network_logits(network, torch.zeros(1, 144, 64), None)


def test_ast_from_scratch_starts_with_positions_of_the_authors_spread():
    torch.manual_seed(0)
    network = build_network(
        scratch_network("ast-scratch", n_mels=64, n_frames=100, n_labels=2, dropout=0.0)
    )
    table = network.audio_spectrogram_transformer.embeddings.position_embeddings
    assert table.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("name", SCRATCH)
@pytest.mark.parametrize(
    ("size", "least", "most"),
    [("nano", 0.15e6, 0.4e6), ("tiny", 0.4e6, 2.5e6), ("small", 9e6, 14e6), ("base", 80e6, 95e6)],
)
def test_networks_from_scratch_have_the_size_that_is_told(name, size, least, most):
    with torch.device("meta"):
        network = build_network(
            scratch_network(name, n_mels=64, n_frames=101, n_labels=10, dropout=0.0, size=size)
        )
    assert least < sum(p.numel() for p in network.parameters()) < most


@pytest.mark.parametrize("size", ["nano", "small"])
@pytest.mark.parametrize("name", SCRATCH)
def test_every_size_is_saved_and_loaded_with_the_same_logits(name, size, tmp_path):
    settings = Settings(
        SpectrogramSettings(clip_s=0.3, n_mels=32),
        training=TrainingSettings(backbone=name, size=size),
    )
    model = SpectrogramClassifier.from_settings(settings, ["a", "b", "c"]).eval()
    model.save_pretrained(tmp_path)
    sound = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 4800), np.float32))
    with torch.inference_mode():
        logits = model(sound).logits
        assert torch.equal(SpectrogramClassifier.load(tmp_path)(sound).logits, logits)
    assert logits.std() > 0


def test_convolutions_see_a_vit_s_cells_and_little_around_them():
    """A cell's vector changes with the picture in it, and not with what is far away."""
    patches = ConvPatches((32, 64, 128), 24).eval()
    image = torch.zeros(1, 1, 64, 96)
    with torch.inference_mode():
        before = patches(image)
        assert before.shape == (1, 24, 4, 6)
        image[..., 20:28, 52:60] = (
            3.0  # inside cell (1, 3); a vector sees 15 pixels around its corner
        )
        changed = (patches(image) - before).abs().amax(1)[0] > 0
    assert changed.nonzero().tolist() == [[1, 3], [1, 4], [2, 3], [2, 4]]


def test_a_size_for_a_checkpoint_is_refused():
    with pytest.raises(SettingsError, match=r"size=base .* openai/whisper-tiny"):
        TrainingSettings(backbone="openai/whisper-tiny", size="base")


@every_checkpoint
def test_a_dropout_for_a_checkpoint_is_refused(backbone):
    settings = Settings(
        replace(preset_for(backbone), clip_s=0.5),
        training=TrainingSettings(backbone=backbone, dropout=0.3),
    )
    with pytest.raises(
        SettingsError, match=r"dropout=0\.3 .* not to the checkpoint .*leave it out"
    ):
        SpectrogramClassifier.from_settings(settings, LABELS)


# Presets and refusals


@pytest.mark.parametrize(
    ("kind", "n_mels", "edges"),
    [("ast", 128, "inside"), ("whisper-asr", 80, "reflect"), ("vit", 128, "zeros")],
)
def test_the_preset_is_the_checkpoints(checkpoints, kind, n_mels, edges):
    preset = preset_for(checkpoints[kind])
    assert (preset.n_mels, preset.edges, preset.clip_s) == (n_mels, edges, None)
    assert preset_for("vit-scratch") == SpectrogramSettings()


def config_with(folder: Path, values) -> str:
    """Return a checkpoint's folder whose config.json says something else."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return str(folder)


@pytest.mark.parametrize("kind", ["ast", "vit", "whisper-asr"])
def test_a_checkpoint_whose_config_asks_for_tuples_is_read_all_the_same(
    checkpoints, kind, tmp_path
):
    folder = config_with(shutil.copytree(checkpoints[kind], tmp_path / "a"), {"return_dict": False})
    with torch.no_grad():
        expected, found = (made(path)(noise(8000)).logits for path in (checkpoints[kind], folder))
    assert torch.equal(found, expected)


def harmed(checkpoints, kind, folder: Path) -> str:
    """Return a folder that is no usable checkpoint, of one kind of harm."""
    network = t.ViTForImageClassification.from_pretrained(checkpoints["vit"])
    if kind == "no config":
        (folder / "readme.md").write_text("nothing")
    elif kind == "broken config":
        (folder / "config.json").write_text("{")
    elif kind == "foreign":
        t.BertConfig(hidden_size=8).save_pretrained(folder)
    elif kind == "no weights":
        network.config.save_pretrained(folder)
    elif kind == "pickle alone":
        network.config.save_pretrained(folder)
        torch.save(network.state_dict(), folder / "pytorch_model.bin")
    elif kind in ("other positions", "other width"):
        network.save_pretrained(folder)
        changed = {"image_size": 384} if kind == "other positions" else {"hidden_size": 64}
        config_with(folder, changed)
    elif kind == "cut weights":
        network.save_pretrained(folder)
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
    elif kind == "patch of 32":
        t.ViTForImageClassification(
            t.ViTConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, patch_size=32)
        ).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no config", "no config.json"),
        ("broken config", "cannot be read"),
        ("foreign", "type 'bert' is not supported"),
        ("no weights", "cannot be loaded"),
        ("pickle alone", "pytorch_model.bin is not read: unpickling runs whatever code is in it"),
        ("other positions", "position_embeddings is (1, 197, 32), but its config.json tells of (1"),
        ("other width", "cls_token is (1, 1, 32), but its config.json tells of (1, 1, 64)"),
        ("cut weights", "cannot be loaded"),
        ("patch of 32", "patch size 32"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_refused_in_one_line(checkpoints, tmp_path, kind, words):
    folder = harmed(checkpoints, kind, tmp_path)
    with pytest.raises(BackboneError) as error:
        load_checkpoint(folder, n_mels=64, n_frames=100, n_labels=2)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_pickled_weights_are_converted_as_the_refusal_says(checkpoints, tmp_path):
    folder = harmed(checkpoints, "pickle alone", tmp_path)
    with pytest.raises(BackboneError) as error:
        load_checkpoint(folder, n_mels=64, n_frames=100, n_labels=5)
    remedy = str(error.value).partition("in Python: ")[2].removesuffix(".")
    eval(remedy, {"transformers": t})
    network, _ = load_checkpoint(folder, n_mels=64, n_frames=100, n_labels=5)
    expected, _ = load_checkpoint(checkpoints["vit"], n_mels=64, n_frames=100, n_labels=5)
    assert torch.equal(network.classifier.weight, expected.classifier.weight)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(BackboneError, match=r"'whisper'.*whisper-scratch, ast-scratch, vit-scr"):
        load_checkpoint("whisper", n_mels=64, n_frames=100, n_labels=2)
    with pytest.raises(BackboneError, match="'resnet'"):
        scratch_network("resnet", n_mels=64, n_frames=100, n_labels=2, dropout=0)


def test_a_hub_id_that_cannot_be_had_is_refused_in_one_line():
    with pytest.raises(BackboneError, match=r"backbone='nobody/nothing' cannot be read") as error:
        load_checkpoint("nobody/nothing", n_mels=64, n_frames=100, n_labels=2)
    assert "\n" not in str(error.value)


# At true size


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["AST 86 M", "ViT-B/16", "whisper-tiny"])
def test_checkpoints_of_true_size_are_fitted_and_give_transformers_logits(kind, tmp_path):
    """The published shapes with random weights: the hub is not at hand."""
    torch.manual_seed(0)
    if kind == "AST 86 M":
        theirs = t.ASTForAudioClassification(t.ASTConfig(num_labels=5)).eval()
        extractor, millions = t.ASTFeatureExtractor(), 86
    elif kind == "ViT-B/16":
        theirs = t.ViTForImageClassification(t.ViTConfig(num_labels=5)).eval()
        extractor, millions = None, 86
    else:
        config = t.WhisperConfig(
            d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536
        )
        config.num_labels = 5
        theirs = t.WhisperForAudioClassification(config).eval()
        extractor, millions = t.WhisperFeatureExtractor(), 8
    theirs.save_pretrained(tmp_path)
    size = sum(p.numel() for p in theirs.parameters()) / 1e6
    assert size == pytest.approx(millions, rel=0.05)
    short = made(str(tmp_path), labels="xyz", clip_s=1.0)
    assert torch.isfinite(short(noise(16000)).logits).all()
    with torch.no_grad():
        if extractor is None:
            network, _ = load_checkpoint(str(tmp_path), n_mels=224, n_frames=224, n_labels=5)
            features = torch.randn(1, 224, 224)
            expected = theirs(features[:, None].expand(-1, 3, -1, -1)).logits
            found = network_logits(network.eval(), features, None)
        else:
            clip_s = 10.255 if kind == "AST 86 M" else 30.0
            model = made(str(tmp_path), clip_s=clip_s)
            wave = noise(model.settings.spectrogram.n_samples, batch=1)
            features = extractor(wave[0].numpy(), sampling_rate=16000, return_tensors="pt")
            expected = theirs(next(iter(features.values()))).logits
            found = model(wave).logits
    assert (found - expected).abs().max() < 1e-3
