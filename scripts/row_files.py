"""Where prediction's rows go: standard output, a file, or a file for each recording."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from audio.files import numbered
from scripts.prediction_rows import FORMATS, SUFFIXES, About, Format, FormatName, Row


def files_of(paths: Sequence[Path], folder: Path, name: FormatName) -> dict[Path, Path]:
    """Return the file in `folder` for each recording, those of the same stem numbered."""
    once = list(dict.fromkeys(paths))
    stems = numbered("standard input" if str(path) == "-" else path.stem for path in once)
    return {
        path: folder / f"{stem}{SUFFIXES[name]}" for path, stem in zip(once, stems, strict=True)
    }


class RowFiles:
    """Takes rows and writes each at once. A file gets its name when it is whole; until then it is
    called NAME.part.

    files: as `files_of` gives them, None for one file, `out`, or standard output. n: rows written.
    n_files: files finished. keep: whether there is anything worth a file.
    """

    def __init__(
        self,
        name: FormatName,
        about: About,
        *,
        out: Path | None,
        files: Mapping[Path, Path] | None,
    ) -> None:
        self.n = self.n_files = 0
        self.keep = True
        self._name, self._about, self._out, self._files = name, about, out, files
        self._format: Format | None = None
        self._file: IO[str] | None = None
        self._path: Path | None = None

    def __enter__(self) -> RowFiles:
        if self._files is None:
            self._open(self._out)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(whole=kind is None and self.keep)

    def begin(self, path: Path) -> None:
        """Say that the next rows are of another recording."""
        if self._files is None:
            return
        self._close(whole=True)
        file = self._files[path]
        file.parent.mkdir(parents=True, exist_ok=True)
        self._open(file)

    def abandon(self) -> None:
        """Say that the recording could not be read to its end: its own file is removed."""
        if self._files is not None:
            self._close(whole=False)

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows, so that whoever reads has them now."""
        if self._file is None or self._format is None or not rows:
            return
        self._file.write("".join(map(self._format.line, rows)))
        self._file.flush()
        self.n += len(rows)

    def _open(self, path: Path | None) -> None:
        self._path = path
        # names that are no UTF-8 are written as they are on disk
        if path is None:
            self._file = sys.stdout
            reconfigure = getattr(sys.stdout, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="surrogateescape")
        else:
            part = path.with_name(path.name + ".part")
            self._file = part.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._format = FORMATS[self._name](self._about)
        self._file.write(self._format.head())
        self._file.flush()

    def _close(self, *, whole: bool) -> None:
        if self._file is None:
            return
        if self._path is not None:
            self._file.close()
            part = self._path.with_name(self._path.name + ".part")
            if whole:
                part.replace(self._path)
                self.n_files += 1
            else:
                part.unlink(missing_ok=True)
        self._file = None
