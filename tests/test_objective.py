"""The training objective on a node of a cluster that does not see the decoded clips."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from audio.clips import ManifestError
from audio.settings import Settings
from audio.splits import SplitSettings, assign_splits
from audio.waveform import open_store
from data.corpus import CorpusSettings, open_corpus
from data.synthetic import SyntheticSettings, write_corpus
from scripts.objective import TrainingObjective


@pytest.fixture
def objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingObjective:
    """Return an objective whose decoded clips are in no folder that this machine sees."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    write_corpus(tmp_path / "clips", SyntheticSettings(clips_per_class=4, sessions=4, clip_s=0.5))
    manifest = assign_splits(open_corpus(tmp_path / "clips", CorpusSettings()), SplitSettings())
    made = TrainingObjective(
        manifest, manifest.labels, tmp_path / "elsewhere", Settings(), "macro-f1"
    )
    return pickle.loads(pickle.dumps(made))


def test_a_node_without_the_decoded_clips_decodes_them_once(
    objective: TrainingObjective, tmp_path: Path
) -> None:
    objective.prepare()
    (samples,) = (tmp_path / "scratch").rglob("samples.f32")
    when = samples.stat().st_mtime_ns
    again = replace(objective, _examples={})
    again.prepare()
    assert samples.stat().st_mtime_ns == when
    assert not (tmp_path / "elsewhere").exists()
    rate = objective.settings.spectrogram.sample_rate_hz
    there = open_store(objective.manifest, sample_rate_hz=rate, folder=tmp_path / "elsewhere")
    again.prepare()  # now it sees them
    assert samples.stat().st_mtime_ns == when
    assert there.samples.tobytes() == samples.read_bytes()


def test_a_clip_that_a_node_lacks_is_named(objective: TrainingObjective) -> None:
    gone = objective.manifest.clips[3].path
    gone.unlink()
    with pytest.raises(ManifestError, match=f"{gone.name}: cannot be read on .* nor 0 others"):
        objective.prepare()
