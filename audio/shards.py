"""Levels in memory-mapped shards, for training that reads every epoch: no file a clip, no decoding.

A shard is one of NumPy's .npy files, (rows, n_mels, n_frames) of uint8 or float16, low frequencies
first, beside a CSV that says whose rows they are; `index.csv` lists all of them. To load them:

    shards = open_shards(Path("runs/shards"))
    train = shards.in_split("train")
    level, label = train[0], train.labels[0]      # float32 (n_mels, n_frames), in dB
    loader = torch.utils.data.DataLoader(train, batch_size=64)   # it has a length and items

uint8 rows hold a clip's levels from its `low_db` (0) to its `high_db` (255), as the pictures do;
float16 rows hold the levels themselves, to within 0.03 dB (0.06 beyond 128).
"""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from audio.clips import ManifestError
from audio.decoding import is_worth_another_try
from audio.files import write_all, write_atomically
from audio.images import from_pixels, level_ranges, pixels_each
from audio.settings import SpectrogramSettings

Levels = NDArray[np.float32]
Dtype = Literal["uint8", "float16"]

COLUMNS = (
    "shard", "row", "split", "label", "group", "fold", "source", "start_s",
    "low_db", "high_db", "n_valid", "error",
)  # fmt: skip

_SHARD_BYTES = 1 << 27  # 128 MB: large enough to map few files, small enough to resume by
_SHARD_ROWS = 4096


@dataclass
class _Shard:
    """One shard being written. rows: of the manifest, in the shard's order."""

    path: Path
    rows: Sequence[int]
    file: int | None = None
    offset: int = 0
    told: dict[int, dict[str, Any]] = field(default_factory=dict)


class ShardFolder:
    """A sink (`audio.conversion.Sink`) that writes shards. A shard appears when it is whole.

    todo: the manifest's rows that no whole shard holds yet, or one that lacks clips for which there
    was no PyAV and now is. failed_before: why clips of the other shards could not be used.
    """

    may_be_copied = False  # a shard is whole when all its rows have come to one place

    def __init__(
        self,
        root: Path,
        splits: Sequence[str],
        index: Sequence[dict[str, Any]],
        settings: SpectrogramSettings,
        *,
        dtype: Dtype,
    ) -> None:
        """Plan the shards; splits and index: of each of the manifest's clips."""
        self.root, self.index, self.splits = root, index, splits
        self.dtype = np.dtype(dtype)
        self.shape = (settings.n_mels, settings.n_frames)
        self._row_bytes = self.dtype.itemsize * settings.n_mels * settings.n_frames
        self._lock = threading.Lock()
        most = max(1, min(_SHARD_ROWS, _SHARD_BYTES // self._row_bytes))
        self._shards: list[_Shard] = []
        for split in sorted(set(splits)):
            rows = [i for i, name in enumerate(splits) if name == split]
            (root / split).mkdir(parents=True, exist_ok=True)
            self._shards += [
                _Shard(root / split / f"shard-{k:05}.npy", rows[first : first + most])
                for k, first in enumerate(range(0, len(rows), most))
            ]
        self._owner = {
            row: (shard, place) for shard in self._shards for place, row in enumerate(shard.rows)
        }
        self.todo: list[int] = []
        self.failed_before: dict[int, str] = {}
        for shard in self._shards:
            failed = _failed(shard) if shard.path.exists() else None
            if failed is None or any(map(is_worth_another_try, failed.values())):
                self.todo += shard.rows
            else:
                self.failed_before |= failed
        self.todo.sort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for shard in self._shards:
            if shard.file is not None:  # stopped in the middle: the shard is made anew
                os.close(shard.file)
                self._part(shard).unlink(missing_ok=True)

    def write(self, rows: Sequence[int], levels: Levels, n_valid: Sequence[int]) -> None:
        """Write the levels of some clips to their places."""
        low, high = level_ranges(levels)
        made: NDArray[Any] = (
            pixels_each(levels, low, high) if self.dtype == np.uint8 else levels.astype(np.float16)
        )
        for i, row in enumerate(rows):
            shard, place = self._opened(row)
            assert shard.file is not None
            data = memoryview(np.ascontiguousarray(made[i]).tobytes())
            at = shard.offset + place * self._row_bytes
            while data:
                n = os.pwrite(shard.file, data, at)
                data, at = data[n:], at + n
            told = {"low_db": float(low[i]), "high_db": float(high[i]), "n_valid": n_valid[i]}
            self._tell(shard, place, told)

    def skip(self, row: int, reason: str) -> None:
        """Leave a clip's place empty."""
        shard, place = self._opened(row)
        self._tell(shard, place, {"error": reason})

    def write_index(self) -> list[dict[str, Any]]:
        """Write index.csv and return its rows, those of clips that could be used."""
        lines = [
            line
            for shard in self._shards
            for line in _read_table(shard.path.with_suffix(".csv"))
            if not line["error"]
        ]
        _write_table(self.root / "index.csv", lines)
        return lines

    def _part(self, shard: _Shard) -> Path:
        return shard.path.with_name(shard.path.name + ".part")

    def _opened(self, row: int) -> tuple[_Shard, int]:
        """Return a row's shard, made at its full size, and the row's place in it."""
        shard, place = self._owner[row]
        with self._lock:
            if shard.file is None:
                header = io.BytesIO()
                described = {
                    "descr": np.lib.format.dtype_to_descr(self.dtype),
                    "fortran_order": False,
                    "shape": (len(shard.rows), *self.shape),
                }
                np.lib.format.write_array_header_1_0(header, described)
                shard.offset = header.tell()
                part = self._part(shard)
                shard.file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
                try:
                    # a full disk shows here, as an error, and not as a fault in a mapped page
                    size = shard.offset + len(shard.rows) * self._row_bytes
                    os.posix_fallocate(shard.file, 0, size)
                    write_all(shard.file, header.getvalue())
                except OSError as error:
                    error.filename = str(part)
                    raise
        return shard, place

    def _tell(self, shard: _Shard, place: int, told: dict[str, Any]) -> None:
        with self._lock:
            shard.told[place] = told
            whole = len(shard.told) == len(shard.rows)
        if whole:
            self._finish(shard)

    def _finish(self, shard: _Shard) -> None:
        assert shard.file is not None
        name = shard.path.relative_to(self.root).as_posix()
        lines = [
            self.index[row]
            | {"error": "", "shard": name, "row": place, "split": self.splits[row]}
            | shard.told[place]
            for place, row in enumerate(shard.rows)
        ]
        _write_table(shard.path.with_suffix(".csv"), lines)
        os.close(shard.file)
        shard.file = None
        self._part(shard).replace(shard.path)  # last: a shard that is there is whole


def _failed(shard: _Shard) -> dict[int, str]:
    """Return why clips of a whole shard could not be used, by the manifest's row."""
    lines = _read_table(shard.path.with_suffix(".csv"))
    return {shard.rows[int(line["row"])]: line["error"] for line in lines if line["error"]}


def _write_table(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    several = any("labels" in line for line in lines)
    columns = ["labels" if name == "label" and several else name for name in COLUMNS]
    out = io.StringIO(newline="")
    table = csv.DictWriter(out, columns, extrasaction="ignore")
    table.writeheader()
    table.writerows(lines)
    write_atomically(path, out.getvalue().encode("utf-8"))


def _read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@dataclass(frozen=True)
class Shards:
    """The rows of a folder of shards: a sequence of levels that a torch DataLoader takes.

    rows: dicts of index.csv's columns. settings: what the levels were made with.
    """

    root: Path
    rows: tuple[dict[str, str], ...]
    settings: SpectrogramSettings
    _maps: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> list[str]:
        """Each row's label; of several, all of them joined by semicolons."""
        return [row["label"] if "label" in row else row["labels"] for row in self.rows]

    def in_split(self, split: str) -> Shards:
        """Return the rows of train, validation or test."""
        return replace(self, rows=tuple(row for row in self.rows if row["split"] == split))

    def stored(self, i: int) -> NDArray[Any]:
        """Return row `i` as it is stored, a view of the mapped file."""
        name = self.rows[i]["shard"]
        if name not in self._maps:
            self._maps[name] = np.load(self.root / name, mmap_mode="r")
        stored: NDArray[Any] = self._maps[name][int(self.rows[i]["row"])]
        return stored

    def __getitem__(self, i: int) -> Levels:
        """Return the levels of row `i`, float32 (n_mels, n_frames), low frequencies first."""
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        stored = self.stored(i)
        if stored.dtype == np.uint8:
            return from_pixels(
                stored, float(self.rows[i]["low_db"]), float(self.rows[i]["high_db"])
            )
        return stored.astype(np.float32)


def is_shards_folder(root: Path) -> bool:
    """Return whether `melbandit convert` wrote shards here."""
    named = all((root / name).exists() for name in ("index.csv", "settings.json"))
    return root.is_dir() and named and any(root.glob("*/shard-*.npy"))


def open_shards(root: Path) -> Shards:
    """Return the shards that `melbandit convert --format uint8` or `float16` wrote.

    Raises:
        ManifestError: the folder is unfinished or not of that kind.
    """
    try:
        record = json.loads((root / "settings.json").read_text(encoding="utf-8"))
        settings = SpectrogramSettings.from_json(record["settings"]["spectrogram"])
        rows = _read_table(root / "index.csv")
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ManifestError(
            f"{root}: no finished folder of shards ({error!r}); run `melbandit convert --format "
            "uint8` to its end."
        ) from None
    return Shards(root, tuple(rows), settings)
