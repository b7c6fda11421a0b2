"""The networks: AST, ViT and Whisper encoder, from scratch or from a checkpoint, at any geometry.

All are transformers' own classes. A network is described by a JSON dict (its transformers config
and what we changed), from which `build_network` makes it again without the checkpoint.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from audio.encoder import is_plain, pooled_tokens
from audio.own_model import own_settings
from audio.pooling import MEAN, MEAN_MAX, own_tokens, pool
from audio.scratch import (
    AST,
    PATCH,
    VIT,
    WHISPER,
    BackboneError,
    ConvPatches,
    ConvStem,
    scratch_network,
    whole_patches,
)
from audio.settings import (
    AST_PRESET,
    LN_TO_DB,
    SCRATCH,
    WHISPER_PRESET,
    SettingsError,
    SpectrogramSettings,
    is_scratch,
)


def _classes(model_type: str) -> tuple[Any, Any]:
    """Return transformers' config and model class of a supported type."""
    import transformers as t

    table = {
        AST: (t.ASTConfig, t.ASTForAudioClassification),
        VIT: (t.ViTConfig, t.ViTForImageClassification),
        WHISPER: (t.WhisperConfig, t.WhisperForAudioClassification),
    }
    if model_type not in table:
        raise BackboneError(
            f"a backbone of type {model_type!r} is not supported; use an AST, ViT or Whisper "
            f"checkpoint, or one of {', '.join(SCRATCH)}."
        )
    return table[model_type]


def build_network(description: dict[str, Any]) -> nn.Module:
    """Return the network of a description, with fresh weights from torch's generator."""
    make_config, make_model = _classes(description["type"])
    network: Any = make_model(make_config(**description["config"]))
    if "stem" in description and description["type"] == VIT:
        patches = network.vit.embeddings.patch_embeddings
        patches.projection = ConvPatches(description["stem"], network.config.hidden_size)
    elif "stem" in description:
        network.stem = ConvStem(description["stem"])
        encoder = network.encoder
        encoder.conv1.stride = (description["strides"][0],)
        encoder.conv2.stride = (description["strides"][1],)
    if description["type"] == AST:  # transformers leaves these at zero; the original does not
        embeddings = network.audio_spectrogram_transformer.embeddings
        for table in (
            embeddings.position_embeddings,
            embeddings.cls_token,
            embeddings.distillation_token,
        ):
            nn.init.trunc_normal_(table.data, std=0.02)
    network.pooling = description.get("pooling", MEAN)
    if network.pooling == MEAN_MAX:
        into = network.projector.out_features
        network.projector = nn.Linear(2 * network.projector.in_features, into)
    made: nn.Module = network
    return made


def frames_a_token(network: Any) -> int:
    """Return how many frames one token of a Whisper encoder covers, its stem's strides included."""
    stride: int = network.encoder.conv1.stride[0] * network.encoder.conv2.stride[0]
    return stride * network.stem.time_stride if hasattr(network, "stem") else stride


def network_logits(network: Any, features: Tensor, frames: Tensor | None) -> Tensor:
    """Return the logits, float32 (batch, n_labels).

    features: (batch, n_mels, n_frames), normalised. frames: int (batch,), each clip's own frames,
    or None for all; the Whisper encoder pools over these alone.
    """
    config = network.config
    if config.model_type == WHISPER:
        stride = frames_a_token(network)
        if hasattr(network, "stem"):
            built_for = (config.num_mel_bins // network.stem.channels, config.max_source_positions)
            n_mels, n_frames = features.shape[1:]
            given = (
                -(-n_mels // network.stem.band_stride),
                -(-n_frames // network.stem.time_stride),
            )
            if given != built_for:
                raise BackboneError(
                    f"{n_mels} x {n_frames} bands and frames give {given[0]} x {given[1]} cells; "
                    f"the network was built for {built_for[0]} x {built_for[1]}; give it windows "
                    "of its own clip_s."
                )
            if is_plain(network):
                pooled = pooled_tokens(network, network.stem.maps(features), frames, stride)
                return network.classifier(network.projector(pooled)).float()  # type: ignore[no-any-return]
            features = network.stem(features)
        else:
            features = grow(features, config.num_mel_bins, config.max_source_positions * stride)
        hidden = _hidden(network, features)
        n = None if frames is None else own_tokens(frames, hidden.shape[1], stride)
        # the mean and the projection are both linear: one row a clip instead of all tokens
        pooled = pool(hidden, n, network.pooling)
        return network.classifier(network.projector(pooled)).float()  # type: ignore[no-any-return]
    if config.model_type == AST:
        features = grow(features, config.num_mel_bins, config.max_length)
        # AST takes (batch, n_frames, n_mels); a transposed input of equal size would pass unseen
        return network(features.transpose(1, 2)).logits.float()  # type: ignore[no-any-return]
    features = grow(features, *config.image_size)
    return network(features[:, None]).logits.float()  # type: ignore[no-any-return]


def _hidden(network: Any, features: Tensor) -> Tensor:
    """Return what a Whisper encoder tells its head of each token, (batch, tokens, width): the last
    layer, or of a checkpoint that weighs its layers the weighted sum of all and their input."""
    weighs = network.config.use_weighted_layer_sum
    made = network.encoder(features, output_hidden_states=weighs)
    if not weighs:
        return made.last_hidden_state  # type: ignore[no-any-return]
    shares = network.layer_weights.softmax(-1)
    return sum(x * share for x, share in zip(made.hidden_states, shares, strict=True))  # type: ignore[no-any-return]


def grow(features: Tensor, n_mels: int, n_frames: int) -> Tensor:
    """Return the features with zeros (the mean) up to the size that the network was built for."""
    have = tuple(features.shape[1:])
    if have == (n_mels, n_frames):
        return features
    if (
        have[0] > n_mels
        or have[1] > n_frames
        or n_mels - have[0] >= PATCH
        or n_frames - have[1] >= PATCH
    ):
        raise BackboneError(
            f"the network was built for {n_mels} bands x {n_frames} frames, not {have[0]} x "
            f"{have[1]}; give it windows of its own clip_s."
        )
    return nn.functional.pad(features, (0, n_frames - have[1], 0, n_mels - have[0]))


_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def pickled_alone(folder: Path) -> str | None:
    """Return the name of pickled weights in a folder that has none as safetensors; None where there
    are no such, or others beside them."""
    if any(folder.glob("*.safetensors")):
        return None
    return min((p.name for p in folder.glob("*") if p.suffix in _PICKLED), default=None)


def _read_config(source: str) -> Any:
    """Return the transformers config of a folder or hub id.

    Raises:
        BackboneError: there is none.
    """
    from transformers import AutoConfig

    folder = Path(source)
    if folder.exists() and not (folder / "config.json").exists():
        raise BackboneError(f"{source}: no config.json in it; give the folder of a checkpoint.")
    if not folder.exists() and "/" not in source:
        scratch_network(source, n_mels=16, n_frames=16, n_labels=2, dropout=0)  # says what there is
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        first = str(error).strip().splitlines()[0]
        raise BackboneError(f"backbone={source!r} cannot be read: {first}") from None
    if config.model_type == "melbandit":
        raise BackboneError(
            f"backbone={source!r} is a model of melbandit's on the hub; download it (hf download "
            f"{source} --local-dir FOLDER) and give the folder."
        )
    _classes(config.model_type)
    return config


def preset_for(backbone: str) -> SpectrogramSettings:
    """Return the spectrogram that a backbone was trained on; `clip_s` is left to the corpus.

    Raises:
        BackboneError: the checkpoint cannot be read.
    """
    if is_scratch(backbone):
        return SpectrogramSettings()
    if (own := own_settings(backbone)) is not None:
        return replace(own.spectrogram, clip_s=None)
    config = _read_config(backbone)
    if config.model_type == VIT:
        return SpectrogramSettings(n_mels=128)
    of_type = {AST: _ast_preset, WHISPER: _whisper_preset}[config.model_type]
    try:
        return replace(of_type(backbone), clip_s=None, n_mels=config.num_mel_bins)
    except SettingsError as error:
        raise BackboneError(f"{_extractor_file(backbone)}: {error}") from None


def _ast_preset(backbone: str) -> SpectrogramSettings:
    """Return AST's preset with the rate, mean and deviation that a checkpoint's own extractor has:
    those fitted to other corpora than AudioSet were normalised by other figures."""
    from transformers import ASTFeatureExtractor

    own = _own_extractor(backbone, ASTFeatureExtractor, "sampling_rate", "mean", "std")
    mean, std = (own["mean"], own["std"]) if own.get("do_normalize", True) else (0.0, 0.5)
    rate = own["sampling_rate"]
    win_length = int(rate) * 25 // 1000  # Kaldi's 25 ms and 10 ms
    return replace(
        AST_PRESET,
        sample_rate_hz=rate,
        win_length=win_length,
        hop_length=int(rate) * 10 // 1000,
        n_fft=2 ** math.ceil(math.log2(max(1, win_length))),
        mean_db=mean * LN_TO_DB,
        std_db=2 * std * LN_TO_DB,
    )


_WHISPER_TOP_HZ = 8000.0  # transformers' WhisperFeatureExtractor, at any rate


def _whisper_preset(backbone: str) -> SpectrogramSettings:
    """Return Whisper's preset with the rate, hop and length of the transform that a checkpoint's
    own extractor has."""
    from transformers import WhisperFeatureExtractor

    own = _own_extractor(backbone, WhisperFeatureExtractor, "sampling_rate", "hop_length", "n_fft")
    rate, n_fft = own["sampling_rate"], own["n_fft"]
    if rate < 2 * _WHISPER_TOP_HZ:
        raise BackboneError(
            f"{_extractor_file(backbone)}: sampling_rate={rate}, but Whisper's bands reach to "
            f"{_WHISPER_TOP_HZ:g} Hz; --preset whisper takes clips at 16000 Hz in its place."
        )
    return replace(
        WHISPER_PRESET,
        sample_rate_hz=rate,
        hop_length=own["hop_length"],
        n_fft=n_fft,
        win_length=n_fft,
        f_max_hz=None if rate == 2 * _WHISPER_TOP_HZ else _WHISPER_TOP_HZ,
    )


def _own_extractor(backbone: str, extractor: Any, *numbers: str) -> dict[str, Any]:
    """Return what a checkpoint's own feature extractor says, and what its class has by default of
    the `numbers` that it says nothing of, or where it was saved without one.

    Raises:
        BackboneError: its file cannot be read, or one of the numbers is not one.
    """
    default = extractor()
    values = {name: getattr(default, name) for name in numbers}
    file = _extractor_file(backbone)
    if Path(backbone).is_dir() and not Path(file).exists():
        return values
    try:
        values |= extractor.get_feature_extractor_dict(backbone)[0]
    except (OSError, ValueError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise BackboneError(f"{file}: cannot be read ({first}).") from None
    for name in numbers:
        value = values[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise BackboneError(
                f"{file}: {name}={value!r} must be a number; mend it, or copy the file anew."
            )
    return values


def _extractor_file(backbone: str) -> str:
    """Return the file that tells of a checkpoint's extractor; a processor's may be its only one."""
    own, processor = (
        Path(backbone) / f"{name}_config.json" for name in ("preprocessor", "processor")
    )
    return str(processor if processor.exists() and not own.exists() else own)


def load_checkpoint(
    source: str, *, n_mels: int, n_frames: int, n_labels: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a checkpoint's network fitted to a geometry and a number of labels, and its
    description. Its head is kept where it has as many labels, else drawn from torch's generator.

    source: folder or hub id of an AST, ViT or Whisper checkpoint in safetensors.

    Raises:
        BackboneError: it cannot be read, its weights are not those that its config tells of, or it
            cannot be fitted (Whisper's bands are fixed).
    """
    config = _read_config(source)
    _, make_model = _classes(config.model_type)
    if (pickled := pickled_alone(Path(source))) is not None:
        name = (config.architectures or [make_model.__name__])[0]
        raise BackboneError(
            f"{source}: no model.safetensors in it. {pickled} is not read: unpickling runs "
            "whatever code is in it. If you trust it, convert it in Python: transformers."
            f"{name}.from_pretrained({source!r}).save_pretrained({source!r})."
        )
    try:
        # at the checkpoint's own geometry, so that nothing but the head is made anew
        network, loading = make_model.from_pretrained(
            source,
            num_labels=n_labels,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            dtype=torch.float32,
            return_dict=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise BackboneError(f"backbone={source!r} cannot be loaded: {first}") from None
    head = ("classifier", "projector", "layer_weights")
    for name, stored, told in sorted(loading["mismatched_keys"]):
        if not name.startswith(head):
            raise BackboneError(
                f"backbone={source!r}: its weight {name} is {tuple(stored)}, but its config.json "
                f"tells of {tuple(told)}; copy the whole checkpoint, config.json too."
            )
    drawn = sorted(name for name in loading["missing_keys"] if not name.startswith(head))
    if drawn:
        raise BackboneError(
            f"backbone={source!r} lacks {len(drawn)} of its weights ({drawn[0]}, ...); copy the "
            "whole checkpoint."
        )
    fit = {AST: fit_ast, VIT: fit_vit, WHISPER: _fit_whisper}[config.model_type]
    fit(network, n_mels, n_frames)
    network.pooling = MEAN
    kept = network.config.to_diff_dict() | {"num_labels": n_labels}
    for name in ("id2label", "label2id", "architectures", "dtype", "transformers_version"):
        kept.pop(name, None)
    return network, {"type": config.model_type, "config": kept}


def fit_ast(network: Any, n_mels: int, n_frames: int) -> None:
    """Crop or interpolate AST's positions, frequency first (Gong et al., 2021, ast_models.py)."""
    config = network.config
    embeddings = network.audio_spectrogram_transformer.embeddings
    n_mels, n_frames = max(n_mels, config.patch_size), max(n_frames, config.patch_size)
    old = embeddings.get_shape(config)
    config.num_mel_bins, config.max_length = n_mels, n_frames
    new = embeddings.get_shape(config)
    table = embeddings.position_embeddings.data
    special, grid = table[:, :2], table[:, 2:]
    grid = grid.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, width, frequency, time)
    size = (max(old[0], new[0]), max(old[1], new[1]))
    if size != old:
        grid = nn.functional.interpolate(grid, size, mode="bilinear", align_corners=False)
    top, left = (size[0] - new[0]) // 2, (size[1] - new[1]) // 2  # the middle, as the authors do
    grid = grid[:, :, top : top + new[0], left : left + new[1]]
    grid = grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
    embeddings.position_embeddings = nn.Parameter(torch.cat([special, grid], 1).contiguous())


def _fit_whisper(network: Any, n_mels: int, n_frames: int) -> None:
    """Keep the first of Whisper's positions, so that a short clip need not be padded to 30 s."""
    config = network.config
    if n_mels != config.num_mel_bins:
        raise BackboneError(
            f"n_mels={n_mels}, but this Whisper checkpoint is fixed to "
            f"{config.num_mel_bins} bands; set n_mels={config.num_mel_bins}."
        )
    n_tokens = -(-n_frames // 2)
    if n_tokens > config.max_source_positions:
        raise BackboneError(
            f"{n_frames} frames are more than this Whisper checkpoint's "
            f"{2 * config.max_source_positions}; lower clip_s."
        )
    encoder = network.encoder
    kept = encoder.embed_positions.weight.data[:n_tokens].clone()
    positions = nn.Embedding(kept.shape[0], kept.shape[1], _weight=kept)
    encoder.embed_positions = positions.requires_grad_(False)
    config.max_source_positions = encoder.max_source_positions = n_tokens


def fit_vit(network: Any, n_mels: int, n_frames: int) -> None:
    """Interpolate ViT's square grid of positions to ours, and sum RGB patches to one channel."""
    config = network.config
    embeddings = network.vit.embeddings
    patches = embeddings.patch_embeddings
    patch = config.patch_size
    if patch != PATCH:
        raise BackboneError(f"a ViT of patch size {patch} is not supported; use one of {PATCH}.")
    old = (patches.image_size[0] // patch, patches.image_size[1] // patch)
    image = (whole_patches(n_mels), whole_patches(n_frames))
    new = (image[0] // patch, image[1] // patch)
    table = embeddings.position_embeddings.data
    grid = table[:, 1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    if new != old:
        grid = nn.functional.interpolate(grid, new, mode="bicubic", align_corners=False)
    grid = grid.permute(0, 2, 3, 1).reshape(1, new[0] * new[1], -1)
    embeddings.position_embeddings = nn.Parameter(torch.cat([table[:, :1], grid], 1).contiguous())
    projection = patches.projection
    if config.num_channels != 1:
        summed = projection.weight.data.sum(1, keepdim=True)
        projection.weight = nn.Parameter(summed)
        projection.in_channels = 1
    config.num_channels = patches.num_channels = 1
    config.image_size = list(image)
    embeddings.image_size = patches.image_size = image
    patches.num_patches = new[0] * new[1]


def freeze_fixed(network: Any) -> None:
    """Keep Whisper's sinusoidal positions fixed; loading sets their requires_grad again."""
    if network.config.model_type == WHISPER:
        network.encoder.embed_positions.requires_grad_(False)


def head_parameters(network: Any) -> list[nn.Parameter]:
    """Return the parameters of the classification head, and of what weighs the layers for it."""
    heads = [network.classifier]
    if network.config.model_type == WHISPER:
        heads.append(network.projector)
    weights = [network.layer_weights] if hasattr(network, "layer_weights") else []
    return weights + [parameter for head in heads for parameter in head.parameters()]
