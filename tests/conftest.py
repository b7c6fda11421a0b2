"""What every test shares: one thread, no network, the shared data and small checkpoints."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before torch is imported: two threads on a busy machine fall to a tenth.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "melbandit",
    deadline=None,  # a busy machine is no failure
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("melbandit")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Hold torch to one thread, where a collected test has imported it."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of shared corpora; the test is skipped where there is none."""
    folder = Path(os.environ.get("MELBANDIT_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set MELBANDIT_SHARED to the folder of corpora")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


def randomise(network, seed: int = 1) -> None:
    """Give every trainable weight a random part, so that none is at a telling zero."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "embed_positions" not in name:  # Whisper's are sinusoids
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    """Return folders of small checkpoints at their types' own geometry, by kind.

    ast: 128 x 1024, patches of 16, stride 10. whisper-asr, whisper-classifier, whisper-layers: 80
    bands x 3000 frames, saved for transcription, for classification, and for classification by all
    layers' weighted sum. vit: 224 x 224 RGB, patches of 16.
    """
    import torch
    import transformers as t

    root = tmp_path_factory.mktemp("checkpoints")
    wide = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    wide |= {"intermediate_size": 48, "num_labels": 5}
    whisper = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2}
    whisper |= {"encoder_ffn_dim": 48, "decoder_layers": 1, "decoder_attention_heads": 2}
    whisper |= {"decoder_ffn_dim": 48, "vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1}
    whisper |= {"eos_token_id": 2, "decoder_start_token_id": 1, "classifier_proj_size": 24}
    whisper |= {"num_labels": 5}
    with torch.random.fork_rng(devices=[]):  # the same weights whichever test is first to ask
        torch.manual_seed(0)
        networks = {
            "ast": t.ASTForAudioClassification(t.ASTConfig(**wide)),
            "vit": t.ViTForImageClassification(t.ViTConfig(**wide)),
            "whisper-asr": t.WhisperForConditionalGeneration(t.WhisperConfig(**whisper)),
            "whisper-classifier": t.WhisperForAudioClassification(t.WhisperConfig(**whisper)),
            "whisper-layers": t.WhisperForAudioClassification(
                t.WhisperConfig(**whisper, use_weighted_layer_sum=True)
            ),
        }
    for kind, network in networks.items():
        randomise(network)
        network.save_pretrained(root / kind)
    return {kind: str(root / kind) for kind in networks}
