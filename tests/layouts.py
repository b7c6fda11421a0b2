"""Small copies of published corpora: the same files, tables and names, with sounds made here."""

from __future__ import annotations

import csv
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

#: Ten of ESC-50's classes by their target: the ten of ESC-10.
ESC10 = {0: "dog", 1: "rooster", 10: "rain", 11: "sea_waves", 12: "crackling_fire"}
ESC10 |= {20: "crying_baby", 21: "sneezing", 38: "clock_tick", 40: "helicopter", 41: "chainsaw"}
URBAN = "air_conditioner car_horn children_playing dog_bark drilling engine_idling".split()
URBAN += "gun_shot jackhammer siren street_music".split()


def sound(
    path: Path, kind: int, seed: int, *, rate: int = 8000, seconds: float = 0.4, channels: int = 1
) -> None:
    """Write a tone in noise whose pitch tells `kind`; another `seed` is another recording."""
    rng = np.random.default_rng([kind, seed])
    n = round(seconds * rate)
    t = np.arange(n) / rate
    hz = 180 * 1.28**kind * rng.uniform(0.97, 1.03)
    wave = 0.4 * np.sin(2 * np.pi * hz * t) + 0.02 * rng.standard_normal(n)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.tile(wave[:, None], (1, channels)) if channels > 1 else wave, rate)


def write_table(path: Path, header: str, rows: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out)
        table.writerow(header.split(","))
        table.writerows(rows)


def esc50(root: Path, *, takes: int = 2, suffix: str = ".wav", classes: int = 3) -> Path:
    """Write ESC-50-master with `takes` fragments of a recording in each class and fold, and one
    class that is not of ESC-10."""
    top = root / "ESC-50-master"
    rows: list[list[object]] = []
    kinds = dict(list(ESC10.items())[:classes]) | {9: "crow"}
    for kind, (target, category) in enumerate(kinds.items()):
        for fold in range(1, 6):
            for take in "ABCDEFGH"[:takes]:
                source = 100_000 + 100 * fold + target
                name = f"{fold}-{source}-{take}-{target}"
                sound(top / "audio" / (name + suffix), kind, 10 * fold + ord(take))
                row = [name + ".wav", fold, target, category, target != 9, source, take]
                rows.append(row)
    write_table(
        top / "meta" / "esc50.csv", "filename,fold,target,category,esc10,src_file,take", rows
    )
    (top / "README.md").write_text("ESC-50\n")
    return top


def urbansound8k(root: Path, *, slices: int = 2, classes: int = 3) -> Path:
    """Write UrbanSound8K with `slices` of one recording in each class and fold."""
    top = root / "UrbanSound8K"
    rows: list[list[object]] = []
    for kind in range(classes):
        for fold in range(1, 11):
            source = 1000 * fold + kind
            for k in range(slices):
                name = f"{source}-{kind}-0-{k}.wav"
                rate = (8000, 11025, 22050)[kind % 3]  # as uploaded: rates and channels vary
                path = top / "audio" / f"fold{fold}" / name
                sound(path, kind, 100 * fold + k, rate=rate, channels=1 + kind % 2)
                rows.append([name, source, 0.0, 0.4, 1, fold, kind, URBAN[kind]])
    write_table(
        top / "metadata" / "UrbanSound8K.csv",
        "slice_file_name,fsID,start,end,salience,fold,classID,class",
        rows,
    )
    (top / "audio" / ".DS_Store").write_bytes(b"Mac")
    return top


def speech_commands(root: Path, *, words: tuple[str, ...] = ("yes", "no")) -> Path:
    """Write what speech_commands_v0.02.tar.gz holds: no folder above, two lists, noise."""
    lists: dict[str, list[str]] = {"validation_list.txt": [], "testing_list.txt": []}
    speakers = {"0a7c2a8d": None, "1b4c9b89": None, "2da58b32": "validation_list.txt"}
    speakers["c50f55b8"] = "testing_list.txt"
    for kind, word in enumerate(words):
        for number, (speaker, where) in enumerate(speakers.items()):
            for k in range(2):
                name = f"{word}/{speaker}_nohash_{k}.wav"
                sound(root / name, 3 * kind, 10 * number + k, rate=16000)
                if where:
                    lists[where].append(name)
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")
    sound(root / "_background_noise_" / "white_noise.wav", 0, 0, rate=16000, seconds=3)
    (root / "_background_noise_" / "README.md").write_text("noise\n")
    return root


def fsdd(root: Path, *, takes: int = 7, digits: int = 3) -> Path:
    """Write free-spoken-digit-dataset-1.0.10/recordings with the first takes of four speakers."""
    top = root / "free-spoken-digit-dataset-1.0.10"
    for digit in range(digits):
        for number, speaker in enumerate(("george", "jackson", "lucas", "theo")):
            for take in range(takes):
                path = top / "recordings" / f"{digit}_{speaker}_{take}.wav"
                sound(path, 2 * digit, 100 * number + take, seconds=0.3 + 0.02 * take)
    (top / "README.md").write_text("FSDD\n")
    return top


def audiomnist(root: Path, *, speakers: tuple[int, ...] = (1, 2, 3, 4, 5, 26)) -> Path:
    """Write AudioMNIST-master/data with some of the 60 speakers."""
    top = root / "AudioMNIST-master"
    for who in speakers:
        for digit in range(2):
            for take in range(2):
                path = top / "data" / f"{who:02}" / f"{digit}_{who:02}_{take}.wav"
                sound(path, 4 * digit, 10 * who + take)
    (top / "data" / "audioMNIST_meta.txt").write_text("{}")
    return top


def zipped(folder: Path, path: Path, *, above: bool = True) -> Path:
    """Write a zip of a folder, as GitHub does: with its own name above."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder.parent if above else folder).as_posix()
            archive.write(file, name)
    return path


def tarred(folder: Path, path: Path, *, above: bool = True) -> Path:
    """Write a gzipped tar of a folder; without its name above, members start with `./`."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=folder.name if above else ".")
    return path


def write_by_ffmpeg(
    path: Path, wave: np.ndarray, rate: int, codec: str, container: str | None = None
) -> None:
    """Write samples, int16 (n, channels), in a format that libsndfile need not know; skips where
    PyAV is not installed."""
    av = pytest.importorskip("av")
    layout = {1: "mono", 2: "stereo"}[wave.shape[1]]
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        if codec.startswith("wma"):
            stream.bit_rate = 64000  # it has no default
        frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1), format="s16", layout=layout)
        frame.rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
