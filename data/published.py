"""The published corpora: where each is, how large, how it is read, how its authors split it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audio.clips import Manifest, ManifestError
from data.digits import (
    holds_audiomnist,
    holds_fsdd,
    read_audiomnist,
    read_fsdd,
    read_fsdd_speakers,
)
from data.download import Archive, Progress, fetch, held, unpack
from data.esc import holds_esc, read_esc10, read_esc50
from data.speech_commands import holds_speech_commands, read_speech_commands
from data.tables import find_folder
from data.urbansound8k import holds_urbansound8k, read_urbansound8k


@dataclass(frozen=True)
class Published:
    """A corpus that others published.

    home, licence: its page and terms. n_clips, n_classes: what its authors count. split: how they
    split it, in words. holds: whether a folder has its layout. read: that folder to a manifest.
    telling: whether the layout alone, without a name, tells that it is this corpus.
    """

    title: str
    home: str
    licence: str
    archive: Archive
    n_clips: int
    n_classes: int
    split: str
    holds: Callable[[Path], bool]
    read: Callable[[Path], Manifest]
    telling: bool = True


# Packed by GitHub on request from a branch: sizes and checksums of what people fetched differ, and
# the authors publish none. What is unpacked is counted instead.
_ESC = Archive("https://github.com/karoldvl/ESC-50/archive/master.zip", "ESC-50-master.zip")
_AUDIOMNIST = Archive(
    "https://github.com/soerenab/AudioMNIST/archive/master.zip", "AudioMNIST-master.zip"
)
# The tag of 3,000 recordings; TensorFlow Datasets publishes a checksum of 1.0.9 alone.
_FSDD = Archive(
    "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.10.tar.gz",
    "free-spoken-digit-dataset-1.0.10.tar.gz",
)
# md5: Zenodo's, also in soundata and PaddleSpeech.
_URBANSOUND8K = Archive(
    "https://zenodo.org/record/1203745/files/UrbanSound8K.tar.gz",
    "UrbanSound8K.tar.gz",
    6_023_741_708,
    "md5:9aa69802bbf37fb986f71ec1483a196e",
)
# sha256: torchaudio.datasets.SPEECHCOMMANDS, also TensorFlow Datasets, which gives the size too.
_SPEECH_COMMANDS = Archive(
    "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    "speech_commands_v0.02.tar.gz",
    2_428_923_189,
    "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
)

PUBLISHED = {
    "esc50": Published(
        "ESC-50",
        "https://github.com/karolpiczak/ESC-50",
        "CC BY-NC 3.0",
        _ESC,
        2000,
        50,
        "5 folds, each the test once",
        holds_esc,
        read_esc50,
    ),
    "esc10": Published(
        "ESC-10",
        "https://github.com/karolpiczak/ESC-50",
        "CC BY 3.0",
        _ESC,
        400,
        10,
        "5 folds, each the test once",
        holds_esc,
        read_esc10,
        telling=False,
    ),
    "urbansound8k": Published(
        "UrbanSound8K",
        "https://urbansounddataset.weebly.com/urbansound8k.html",
        "CC BY-NC 3.0",
        _URBANSOUND8K,
        8732,
        10,
        "10 folds, each the test once",
        holds_urbansound8k,
        read_urbansound8k,
    ),
    "speech-commands": Published(
        "Speech Commands V2",
        "https://arxiv.org/abs/1804.03209",
        "CC BY 4.0",
        _SPEECH_COMMANDS,
        105_829,
        35,
        "validation_list.txt and testing_list.txt, by speaker",
        holds_speech_commands,
        read_speech_commands,
    ),
    "fsdd": Published(
        "Free Spoken Digit Dataset, official takes",
        "https://github.com/Jakobovski/free-spoken-digit-dataset",
        "CC BY-SA 4.0",
        _FSDD,
        3000,
        10,
        "takes 0 to 4 of every speaker are the test",
        holds_fsdd,
        read_fsdd,
        telling=False,
    ),
    "fsdd-speakers": Published(
        "Free Spoken Digit Dataset, by speaker",
        "https://github.com/Jakobovski/free-spoken-digit-dataset",
        "CC BY-SA 4.0",
        _FSDD,
        3000,
        10,
        "6 speakers, each the test once",
        holds_fsdd,
        read_fsdd_speakers,
        telling=False,
    ),
    "audiomnist": Published(
        "AudioMNIST",
        "https://github.com/soerenab/AudioMNIST",
        "MIT",
        _AUDIOMNIST,
        30_000,
        10,
        "5 folds of 12 speakers, each the test once",
        holds_audiomnist,
        read_audiomnist,
    ),
}


def published_name(text: str) -> str | None:
    """Return the name of the published corpus that is meant, or None.

    >>> published_name("ESC-50"), published_name("speech_commands_v2"), published_name("clips")
    ('esc50', 'speech-commands', None)
    """
    plain = text.lower().replace("-", "").replace("_", "").removesuffix("v2")
    return next((name for name in PUBLISHED if name.replace("-", "") == plain), None)


def default_root(name: str) -> Path:
    """Return where a corpus is looked for and fetched to: $MELBANDIT_CORPORA, else the cache."""
    home = os.environ.get("MELBANDIT_CORPORA") or "~/.cache/melbandit/corpora"
    stem = PUBLISHED[name].archive.name
    return Path(home).expanduser() / stem.removesuffix(".zip").removesuffix(".tar.gz")


def open_published(name: str, root: Path | None = None) -> Manifest:
    """Return the clips of a published corpus on disk; `root` may be its folder or one above it.

    Raises:
        ManifestError: it is not there; says how to fetch it.
    """
    corpus = PUBLISHED[name]
    root = default_root(name) if root is None else root
    folder = find_folder(root, corpus.holds)
    if folder is None:
        size = corpus.archive.n_bytes
        how_much = f" ({size / 1e9:.1f} GB)" if size else ""
        raise ManifestError(
            f"{root}: {corpus.title} is not in it. Give its folder by --root, or fetch it: "
            f"melbandit data {name} --root {root} --download{how_much}."
        )
    return corpus.read(folder)


def download(name: str, root: Path | None = None, *, progress: Progress | None = None) -> Path:
    """Fetch and unpack a published corpus into `root` where it is not there yet; return `root`.

    progress: called with bytes done and bytes in all, first of the fetching, then of the unpacking.

    Raises:
        DownloadError: as `fetch` and `unpack`, or another process is at it. ManifestError: what was
            unpacked is not the whole; it is removed.
    """
    corpus = PUBLISHED[name]
    root = default_root(name) if root is None else root
    if find_folder(root, corpus.holds) is not None:
        return root  # which need not be writable
    with held(root):
        if find_folder(root, corpus.holds) is not None:
            return root  # another process was faster
        path = fetch(corpus.archive, root, progress=progress)
        unpack(path, root / "unpacked", progress=progress)
        manifest = open_published(name, root)
        n_clips = sum(clip.path.is_file() for clip in manifest.clips)
        if n_clips != corpus.n_clips or len(manifest.labels) != corpus.n_classes:
            shutil.rmtree(root / "unpacked")
            raise ManifestError(
                f"{root}: unpacked {n_clips:,} clips of {len(manifest.labels)} classes, where "
                f"{corpus.title} has {corpus.n_clips:,} of {corpus.n_classes}; remove {path} and "
                "fetch it again."
            )
    return root
