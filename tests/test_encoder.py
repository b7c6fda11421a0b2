"""The small encoder's arithmetic in few calls against transformers' own, and dropout's shares."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audio import backbones
from audio.backbones import build_network, network_logits
from audio.encoder import _Dropout, is_plain
from audio.scratch import scratch_network
from tests.conftest import randomise


def network(*, n_mels: int = 20, n_frames: int = 33, dropout: float = 0.0) -> nn.Module:
    made = build_network(
        scratch_network(
            "whisper-scratch", n_mels=n_mels, n_frames=n_frames, n_labels=4, dropout=dropout
        )
    )
    randomise(made, 0)
    return made


def by_transformers(made: nn.Module, features: torch.Tensor, frames: torch.Tensor | None):
    """Return the logits by transformers' own calls: a hook that does nothing asks for them."""
    handle = made.encoder.layers[0].register_forward_hook(lambda *_: None)
    try:
        assert not is_plain(made)
        return network_logits(made, features, frames)
    finally:
        handle.remove()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("n_mels", "n_frames"), [(20, 33), (64, 66), (17, 1), (5, 4)])
def test_logits_and_gradients_are_those_of_transformers(training, n_mels, n_frames):
    made = network(n_mels=n_mels, n_frames=n_frames).train(training)
    features = torch.randn(5, n_mels, n_frames, generator=torch.Generator().manual_seed(0))
    for frames in (None, torch.tensor([n_frames, n_frames, n_frames // 2 + 1, 1, 2])):
        found = []
        for logits_of in (network_logits, by_transformers):
            made.zero_grad()
            logits = logits_of(made, features, frames)
            nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3, 0])).backward()
            gradients = {n: p.grad for n, p in made.named_parameters() if p.grad is not None}
            found.append((logits.detach(), gradients))
        (mine, my_gradients), (theirs, their_gradients) = found
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
        assert my_gradients.keys() == their_gradients.keys()
        largest = max(float(gradient.abs().max()) for gradient in their_gradients.values())
        for name, gradient in their_gradients.items():
            scale = max(float(gradient.abs().max()), 1e-3 * largest)  # some are zero but for noise
            torch.testing.assert_close(
                my_gradients[name] / scale, gradient / scale, atol=1e-3, rtol=1e-3, msg=name
            )


def test_an_exchanged_layer_is_heard():
    """As LoRA does it: a layer of another class in a Linear's place."""

    class Silent(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(super().forward(x))

    made = network().eval()
    features = torch.randn(2, 20, 33, generator=torch.Generator().manual_seed(0))
    before = network_logits(made, features, None)
    assert is_plain(made)
    made.encoder.layers[1].fc2 = Silent(384, 128)
    assert not is_plain(made)
    assert (network_logits(made, features, None) - before).abs().max() > 1e-3


def test_plain_calls_are_what_training_uses(monkeypatch):
    made, asked = network(), []
    monkeypatch.setattr(
        backbones, "pooled_tokens", lambda *_: asked.append(1) or torch.zeros(2, 256)
    )
    network_logits(made, torch.randn(2, 20, 33), None)
    assert asked


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_at_every_place_and_keeps_the_mean(p):
    torch.manual_seed(0)
    ones = torch.ones(50, 40, 20)
    drop = _Dropout(p, ones, 3)
    made = [drop(ones), drop.add(torch.zeros_like(ones), ones), drop(ones)]
    for x in made:
        assert x.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
        kept = (x > 0).float()
        assert kept.mean() == pytest.approx(1 - p, abs=0.01)
        for place in range(4):  # four numbers come from one random word
            assert kept.flatten()[place::4].mean() == pytest.approx(1 - p, abs=0.02)
        assert x.mean() == pytest.approx(1, abs=0.06)
    assert not torch.equal(made[0], made[1])
    pair = torch.stack([(x > 0).float().flatten() for x in made])
    assert torch.corrcoef(pair).fill_diagonal_(0).abs().max() < 0.03


def test_no_dropout_draws_nothing():
    state = torch.get_rng_state()
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    drop = _Dropout(0.0, x, 2)
    assert drop(x) is x
    assert torch.equal(drop.add(x, x), x + x)
    assert torch.equal(torch.get_rng_state(), state)
