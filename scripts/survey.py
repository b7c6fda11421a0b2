"""`melbandit data`: what is in a corpus, and its manifest."""

# The file is not called data.py: beside a script that is run by its path it would hide `data`.

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from audio.settings import UserError
from data.corpus import CorpusSettings
from data.published import PUBLISHED, published_name
from scripts.command import (
    DONE,
    FAILED,
    PARTLY,
    check_least,
    parse,
    print_result,
    progress,
    run,
    say,
)
from scripts.command import say_failures as say_failed_clips
from scripts.corpus_in import read_corpus
from scripts.tables import survey_text

if TYPE_CHECKING:
    from audio.clips import Manifest
    from audio.survey import ClipFacts


@dataclass(frozen=True)
class Data:
    """Read a corpus, write its manifest, and print what is in it.

    CLIPS is a folder, a CSV, or a published corpus by its name: esc50, esc10, urbansound8k,
    speech-commands, fsdd (official takes), fsdd-speakers, audiomnist; or folder, csv, audiofolder
    with --root. Every clip is decoded: classes, hours, imbalance, clipping, silence, the same
    sound twice, lengths that stand out. Every other command takes the manifest for CLIPS.
    """

    clips: Annotated[Path, tyro.conf.Positional]
    """Name of a corpus, folder of clips, or CSV."""
    out: Path | None = None
    """CSV to write; by default NAME.csv in the current folder, NAME.manifest.csv where that is what
    is read. NAME.clips.csv beside it has the
    figures of each clip."""
    download: bool = False
    """Fetch a published corpus into --root where it is not there; goes on where it was stopped."""
    group_copies: bool = False
    """Give clips that are the same sound one group in the manifest, so that no split parts them."""
    workers: int = 0
    """Threads that decode; 0 is one a core."""
    overwrite: bool = False
    """Replace files that hold something else."""
    corpus: CorpusSettings = CorpusSettings()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parse(Data, "data", argv)
    return run(lambda: data(command), stopped="stopped.")


def data(command: Data) -> int:
    """Survey the corpus; returns an exit code."""
    check_least("--workers", command.workers, 0)
    name = published_name(str(command.clips))
    if command.download:
        _download(command, name)
    manifest = read_corpus(command.clips, command.corpus)
    out = command.out or Path(f"{_stem(command, name)}.csv")
    if _is_source(out, command):
        if command.out is not None:
            raise UserError(f"--out {out}: is what is read; give another name.")
        out = out.with_name(f"{out.stem}.manifest.csv")
    details = out.with_name(f"{out.stem}.clips.csv")
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out}: a manifest is a CSV; give a name that ends in .csv.")

    from audio.survey import group_copies, summary, survey, with_durations

    with progress("read") as draw:
        workers = command.workers or os.cpu_count() or 1
        facts = survey(manifest, workers=workers, progress=draw)
    failures = [(str(one.clip.path), one.problem) for one in facts if one.problem is not None]
    say_failed_clips(failures, listed_in=str(details))
    found = summary(manifest, facts)
    corpus = PUBLISHED[name] if name is not None and _is_published(command, manifest) else None
    print(survey_text(found, corpus.title if corpus else str(command.clips)))
    if corpus is not None:
        whole = (len(manifest), len(manifest.labels)) == (corpus.n_clips, corpus.n_classes)
        print(
            f"  {'as published' if whole else 'published with'}: {corpus.n_clips:,} clips of "
            f"{corpus.n_classes} classes; split: {corpus.split}\n"
            f"  {corpus.home}, {corpus.licence}\n"
        )
    usable = (group_copies if command.group_copies else with_durations)(manifest, facts)
    _write(out, usable, overwrite=command.overwrite)
    _write_details(details, manifest, facts)
    short = {k: v if not isinstance(v, list) else len(v) for k, v in found.items() if k != "notes"}
    short["classes"] = len(found["classes"])
    print_result(short | {"notes": found["notes"], "manifest": str(out), "details": str(details)})
    if not found["clips"]:
        return FAILED
    return PARTLY if failures else DONE


def _download(command: Data, name: str | None) -> None:
    from data.published import default_root, download

    if name is None:
        raise UserError(
            f"--download: {command.clips} is not published; there are: {', '.join(PUBLISHED)}."
        )
    corpus, root = PUBLISHED[name], command.corpus.root or default_root(name)
    say(f"{corpus.title}, {corpus.licence}: {corpus.archive.url} to {root}")
    with progress("fetch", "bytes") as draw:
        download(name, root, progress=draw)


def _is_published(command: Data, manifest: Manifest) -> bool:
    """Return whether the name, not a folder of that name, was read."""
    return command.corpus.root is not None or manifest.root.resolve() != command.clips.resolve()


def _stem(command: Data, name: str | None) -> str:
    if name is not None:
        return name
    told = command.corpus.root or command.clips
    return told.resolve().stem if told.is_file() else told.resolve().name or "corpus"


def _is_source(out: Path, command: Data) -> bool:
    """Return whether the manifest would replace the table that is read."""
    source = command.corpus.root or command.clips
    tables = (source, source / "manifest.csv", source / "metadata.csv")
    return out.resolve() in [table.resolve() for table in tables]


def _write(out: Path, manifest: Manifest, *, overwrite: bool) -> None:
    """Write the manifest; refuse to replace another file."""
    from audio.clips import write_csv

    if not len(manifest):
        return
    new = out.with_name(out.name + ".new")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(manifest, new)
    if out.exists() and not overwrite and out.read_bytes() != new.read_bytes():
        new.unlink()
        raise UserError(
            f"{out}: is there and says something else; give another --out, or --overwrite."
        )
    new.replace(out)


def _write_details(path: Path, manifest: Manifest, facts: Sequence[ClipFacts]) -> None:
    import csv
    import io

    from audio.files import write_atomically

    def figure(value: float, digits: int) -> str:
        return f"{value:.{digits}f}" if math.isfinite(value) else ("" if value != value else "-inf")

    first: dict[str, str] = {}
    lines = io.StringIO(newline="")
    table = csv.writer(lines)
    names = "path label group fold split start_s duration_s rate_hz channels peak_dbfs rms_dbfs"
    table.writerow([*names.split(), "clipped_percent", "silent_percent", "same_as", "problem"])
    for one in facts:
        clip, shown = one.clip, manifest.relative(one.clip.path)
        same = "" if one.digest is None else first.setdefault(one.digest, clip.key)
        about: list[Any] = [shown, clip.label, clip.group, clip.fold, clip.split, clip.start_s]
        figures = [figure(one.duration_s, 4), one.rate_hz or "", one.channels or ""]
        figures += [figure(one.peak_dbfs, 1), figure(one.rms_dbfs, 1)]
        figures += [figure(100 * one.clipped, 3), figure(100 * one.silent, 1)]
        twin = "" if same == clip.key else manifest.relative(Path(same))
        table.writerow([*about, *figures, twin, one.problem])
    write_atomically(path, lines.getvalue().encode("utf-8"))


if __name__ == "__main__":
    sys.exit(main())
