"""What a prediction rests on: maps over the spectrogram, of attention and of gradients.

Attention rollout (Abnar & Zuidema, 2020) says where the network looked, whatever it saw there;
integrated gradients (Sundararajan et al., 2017) say what speaks for and against one class.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio.backbones import grow
from audio.classifier import SpectrogramClassifier
from audio.scratch import AST, WHISPER

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)
_FIRST_PIECES = 8
_OFF_BY = 0.01  # of the evidence's sum

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """What one window's prediction rests on.

    level: what the model hears, float32 (n_mels, n_frames), low bands first. n_frames: the clip's
    own frames; past them the maps are 0. label: the index of the class explained.
    probabilities: (n_labels,). attention: (n_mels, n_frames), at least 0, its sum 1.
    evidence: (n_mels, n_frames), for (above 0) and against; its sum is `log_odds` less
    `baseline_log_odds`, those of the class here and of a clip that is silent, to `gap`.
    """

    level: Map
    n_frames: int
    label: int
    probabilities: Map
    attention: Map
    evidence: Map
    log_odds: float
    baseline_log_odds: float

    @property
    def gap(self) -> float:
        """By how much the evidence fails to add up, in log odds."""
        return float(self.evidence.sum(dtype=np.float64) - self.log_odds + self.baseline_log_odds)


def explain(
    model: SpectrogramClassifier,
    level: Tensor,
    n_valid: Tensor,
    *,
    label: int | None = None,
    steps: int = 512,
) -> Explanation:
    """Return what the prediction of one window rests on.

    level: float32 (1, n_mels, n_frames), as `model.log_mel` gives it. n_valid: int (1,), samples.
    label: the class to explain; None takes the likeliest. steps: most points of the integral.

    Raises:
        ValueError: fewer than one step, or no such label.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1.")
    if label is not None and not 0 <= label < len(model.labels):
        raise ValueError(f"label={label} must be from 0 to {len(model.labels) - 1}.")
    model.eval()
    with torch.no_grad():
        features = model.log_mel.normalise(level, n_valid)
        chances = model.probabilities(model.classify(features, n_valid))[0]
        frames = int(model.log_mel.valid_frames(n_valid).clamp_max(level.shape[-1])[0])
    chosen = int(chances.argmax()) if label is None else label
    evidence, ends = integrated_gradients(
        model, features, n_valid, label=chosen, frames=frames, steps=steps
    )
    return Explanation(
        level[0].cpu().numpy(),
        frames,
        chosen,
        chances.cpu().numpy(),
        attention_map(model, features, frames),
        evidence,
        *ends,
    )


def integrated_gradients(
    model: SpectrogramClassifier,
    features: Tensor,
    n_valid: Tensor,
    *,
    label: int,
    frames: int,
    steps: int = 512,
) -> tuple[Map, tuple[float, float]]:
    """Return the evidence for a class, (n_mels, n_frames), and its log odds here and of silence.

    features: (1, n_mels, n_frames), normalised. steps: at most so many points, rounded up to whole
    pieces. The path runs from a clip that is everywhere as quiet as this one's quietest cell. Log
    odds, `log p / (1 - p)`, since they do not level off where the network is sure.

    Networks change their mind within a short stretch of the path, which evenly placed points miss.
    What a piece of the path must add up to is known from its ends, so the pieces that are furthest
    off are halved until all are within 1 %. Each is Gauss and Legendre's rule of four points.
    """
    quiet = features[..., :frames].amin().expand_as(features).clone()
    quiet[..., frames:] = features[..., frames:]  # padding is no evidence
    way = (features - quiet)[0]

    def odds_of(logits: Tensor) -> Tensor:
        # where there may be several labels, each logit is its own log odds
        return logits[:, label] if model.is_multi_label else log_odds(logits, label)

    def odds_at(places: list[float]) -> list[float]:
        at = torch.tensor(places, device=features.device, dtype=features.dtype)[:, None, None]
        with torch.no_grad():
            logits = model.classify(quiet + at * way, n_valid.expand(len(places)))
        found: list[float] = odds_of(logits.double()).tolist()
        return found

    def measure(ends: list[tuple[float, float]]) -> list[_Piece]:
        told = odds_at([end for pair in ends for end in pair])
        parts = []
        for i, (low, high) in enumerate(ends):
            at = torch.from_numpy(low + (high - low) * (_NODES + 1) / 2).to(features)
            x = (quiet + at[:, None, None] * way).detach().requires_grad_()
            odds = odds_of(model.classify(x, n_valid.expand(len(x))))
            (gradient,) = torch.autograd.grad(odds.sum(), x)
            shares = torch.from_numpy(_WEIGHTS * (high - low) / 2).to(features)
            evidence = (shares[:, None, None] * gradient).sum(0) * way
            error = float(evidence.double().sum()) - (told[2 * i + 1] - told[2 * i])
            parts.append(_Piece(low, high, evidence, abs(error)))
        return parts

    with frozen(model), torch.enable_grad():
        silent, here = odds_at([0.0, 1.0])
        room = max(1, -(-steps // len(_NODES)))  # pieces that may be measured
        n = min(room, _FIRST_PIECES)
        pieces = measure([(i / n, (i + 1) / n) for i in range(n)])
        room -= n
        allowed = _OFF_BY * max(abs(here - silent), 0.1)
        while room >= 2 and sum(piece.error for piece in pieces) > allowed:
            pieces.sort(key=lambda piece: piece.error)
            worst = pieces.pop()
            middle = (worst.low + worst.high) / 2
            pieces += measure([(worst.low, middle), (middle, worst.high)])
            room -= 2
    total = torch.stack([piece.evidence for piece in pieces]).sum(0)
    return total.cpu().numpy(), (here, silent)


@dataclass(frozen=True)
class _Piece:
    """A piece of the path: its ends, what it adds to the evidence, by how much that is off."""

    low: float
    high: float
    evidence: Tensor
    error: float


def log_odds(logits: Tensor, label: int) -> Tensor:
    """Return `log p / (1 - p)` of a class, (batch,)."""
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1)
    if not others.shape[1]:
        return logits[:, label]
    return logits[:, label] - others.logsumexp(1)


def attention_map(model: SpectrogramClassifier, features: Tensor, frames: int) -> Map:
    """Return how much of what the head reads comes from each cell, (n_mels, n_frames), sum 1.

    features: (1, n_mels, n_frames). Tokens of a Whisper encoder are stretches of time: their share
    is the same for every band.
    """
    network: Any = model.network
    n_mels, n_frames = features.shape[1:]
    config = network.config
    with eager_attention(network), torch.no_grad():
        if config.model_type == WHISPER:
            stride = network.encoder.conv1.stride[0] * network.encoder.conv2.stride[0]
            if hasattr(network, "stem"):
                stride *= network.stem.time_stride
                tokens = network.stem(features)
            else:
                tokens = grow(features, config.num_mel_bins, config.max_source_positions * stride)
            layers = network.encoder(tokens, output_attentions=True).attentions
            flow = rollout(layers)
            if hasattr(network, "layer_weights"):  # what the head reads is all layers' weighted sum
                parts = [np.eye(len(flow)), *(rollout(layers[: n + 1]) for n in range(len(layers)))]
                flow = np.average(parts, 0, weights=network.layer_weights.softmax(-1).tolist())
            n_own = min(max(1, -(-frames // stride)), flow.shape[1])
            shares = flow[:n_own].mean(0)  # the head reads the mean over the clip's own tokens
            flat = np.repeat(shares / stride, stride)[:n_frames]
            out = np.zeros((n_mels, n_frames))
            out[:, : len(flat)] = flat / n_mels
        elif config.model_type == AST:
            grown = grow(features, config.num_mel_bins, config.max_length)
            layers = network(grown.transpose(1, 2), output_attentions=True).attentions
            shares = rollout(layers)[:2, 2:].mean(0)  # the class and the distillation token
            embeddings = network.audio_spectrogram_transformer.embeddings
            strides = (config.frequency_stride, config.time_stride)
            grid = shares.reshape(embeddings.get_shape(config))
            out = spread(grid, config.patch_size, strides, (n_mels, n_frames))
        else:
            grown = grow(features, *config.image_size)
            layers = network(grown[:, None], output_attentions=True).attentions
            patch = config.patch_size
            grid = rollout(layers)[0, 1:].reshape([side // patch for side in config.image_size])
            out = spread(grid, patch, (patch, patch), (n_mels, n_frames))
    out[:, frames:] = 0
    found: Map = (out / max(out.sum(), 1e-30)).astype(np.float32)
    return found


def rollout(layers: Any) -> NDArray[np.float64]:
    """Return how much each token at the end holds of each at the start, (tokens, tokens).

    layers: attention of each layer, (1, heads, tokens, tokens). Heads are averaged; what goes past
    the attention counts half: the product of `(A + 1) / 2` (Abnar & Zuidema, 2020).

    >>> two = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    >>> rollout([two, two]).tolist()
    [[0.25, 0.75], [0.0, 1.0]]
    """
    flow: NDArray[np.float64] | None = None
    for layer in layers:
        heads = layer[0].double().mean(0).cpu().numpy()
        step = (heads + np.eye(len(heads))) / 2
        flow = step if flow is None else step @ flow
    assert flow is not None
    return flow


def spread(
    grid: NDArray[np.float64], patch: int, strides: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return patches' shares over the cells that they see, float64 of `size`; overlaps add.

    >>> spread(np.array([[1.0, 3.0]]), 2, (1, 1), (2, 3)).tolist()
    [[0.25, 1.0, 0.75], [0.25, 1.0, 0.75]]
    """
    rows, columns = grid.shape
    whole = np.zeros(((rows - 1) * strides[0] + patch, (columns - 1) * strides[1] + patch))
    for i in range(rows):
        for j in range(columns):
            top, left = i * strides[0], j * strides[1]
            whole[top : top + patch, left : left + patch] += grid[i, j] / patch**2
    out = np.zeros(size)
    part = whole[: size[0], : size[1]]
    out[: part.shape[0], : part.shape[1]] = part
    return out


@contextmanager
def eager_attention(network: Any) -> Iterator[None]:
    """Compute attention step by step for a while: the fused kernels do not give it out."""
    before = network.config._attn_implementation
    network.set_attn_implementation("eager")
    try:
        yield
    finally:
        network.set_attn_implementation(before)


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Let no gradient of the weights be computed for a while."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
