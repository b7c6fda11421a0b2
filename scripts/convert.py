"""`melbandit convert`: a folder of clips to a folder of mel-spectrogram pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from audio.clips import Manifest, SplitSettings, assign_splits
from audio.settings import AST_PRESET, WHISPER_PRESET, SettingsError, SpectrogramSettings
from data.corpus import CorpusSettings, open_corpus
from scripts.command import DONE, FAILED, PARTLY, parse, print_result, progress, run, say
from scripts.command import say_failures as say_failed_clips
from scripts.run_folder import RunFolder, open_run

_BATCH = 64
_SHEET_PER_CLASS = 3


@dataclass(frozen=True)
class Convert:
    """Turn every clip into a mel-spectrogram picture.

    The pictures are grey PNGs in the imagefolder layout, split/label/clip.png with metadata.csv,
    that Hugging Face datasets, torchvision and timm read. They are what the classifier sees, to
    within 8 bits. The same command again goes on where it was stopped.
    """

    clips: Annotated[Path, tyro.conf.Positional]
    """Folder with a subfolder of clips for each class, or a CSV manifest."""
    out: Path
    """Folder for the pictures."""
    preset: Literal["melbandit", "ast", "whisper"] = "melbandit"
    """Whose spectrogram settings to start from."""
    colormap: str | None = None
    """Colour the pictures by a matplotlib map (magma, viridis), for people; the classifier cannot
    be fitted to coloured ones."""
    unsplit: bool = False
    """Put every clip into train/ instead of splitting."""
    workers: int = 0
    """Threads; 0 is one a core."""
    overwrite: bool = False
    """Start over in a folder that holds another run."""
    corpus: CorpusSettings = CorpusSettings()
    split: SplitSettings = SplitSettings()
    spectrogram: SpectrogramSettings = SpectrogramSettings()


def _with_preset(command: Convert) -> Convert:
    presets = {"ast": AST_PRESET, "whisper": WHISPER_PRESET}
    if command.preset not in presets:
        return command
    return replace(command, spectrogram=replace(presets[command.preset], clip_s=None))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parse(Convert, "convert", argv, base=_with_preset)
    return run(lambda: convert(command, list(sys.argv[1:] if argv is None else argv)))


def convert(command: Convert, argv: Sequence[str]) -> int:
    """Convert the clips; returns an exit code."""
    from audio.devices import use_threads

    manifest = open_corpus(command.clips, command.corpus)
    if command.unsplit:
        clips = tuple(replace(clip, split="train") for clip in manifest.clips)
        manifest = replace(manifest, clips=clips)
    else:
        manifest = assign_splits(manifest, command.split)
    if command.colormap is not None:
        _check_colormap(command.colormap)
    use_threads(command.workers)
    with open_run(command.out, overwrite=command.overwrite) as folder:
        settings = _settled(command.spectrogram, manifest)
        identity = {
            "settings": {"spectrogram": settings.to_json()},
            "corpus": manifest.fingerprint(),
            "colormap": command.colormap,
        }
        folder.begin("convert", identity, argv)
        say(f"{manifest.describe()}; {settings.n_mels} x {settings.n_frames} pictures")
        rows, failures, n_cut, n_new = _write_pictures(folder, manifest, settings, command)
        if not rows:
            say(f"{manifest.root}: no clip in it can be used.")
            folder.write_failures(failures)
            return FAILED
        _write_index(folder, rows, settings, manifest, coloured=command.colormap is not None)
        folder.write_failures(failures)
        if n_cut:
            say(
                f"note: {n_cut} clips are longer than {settings.clip_s:g} s; their middle is shown."
            )
        results = {
            "pictures": len(rows),
            "new": n_new,
            "failed": len(failures),
            "n_mels": settings.n_mels,
            "n_frames": settings.n_frames,
            "clip_s": settings.clip_s,
            "out": str(command.out),
        }
        folder.finish(results)
        print_result(results)
    return PARTLY if failures else DONE


def _check_colormap(name: str) -> None:
    import matplotlib

    if name not in matplotlib.colormaps:
        raise SettingsError(f"colormap={name!r} is none of matplotlib's; try magma or viridis.")


def _settled(settings: SpectrogramSettings, manifest: Manifest) -> SpectrogramSettings:
    """Return the settings with `clip_s` taken from the clips where it is not given."""
    from audio.waveform import choose_clip_s, read_duration_s

    if settings.clip_s is not None:
        return settings
    durations = []
    for clip in manifest.clips:
        seconds = clip.duration_s or read_duration_s(clip.path)
        if seconds is not None and seconds > clip.start_s:
            durations.append(seconds if clip.duration_s else seconds - clip.start_s)
    if not durations:
        raise SettingsError(f"{manifest.root}: no clip's length can be read; give --clip-s.")
    return replace(settings, clip_s=choose_clip_s(durations))


def _write_pictures(
    folder: RunFolder, manifest: Manifest, settings: SpectrogramSettings, command: Convert
) -> tuple[list[dict[str, Any]], list[tuple[str, str]], int, int]:
    """Write the pictures that are not there yet.

    Returns metadata rows of all pictures, (path, reason) of the clips that failed, how many clips
    were cut to the window, and how many pictures are new.
    """
    import os

    import numpy as np
    import torch

    from audio.files import write_atomically
    from audio.images import encode_picture, picture_paths
    from audio.spectrogram import LogMel
    from audio.waveform import ClipError, Waveform, fit_length, read_clip

    paths = picture_paths(manifest)
    for part in {path.parent for path in paths}:
        (folder.path / part).mkdir(parents=True, exist_ok=True)
    todo = [i for i, path in enumerate(paths) if not (folder.path / path).exists()]
    failed: dict[int, str] = {}
    n_done, n_cut = len(paths) - len(todo), 0
    log_mel = LogMel(settings)
    repeat = settings.padding == "repeat"

    def read(i: int) -> Waveform | str:
        try:
            return read_clip(manifest.clips[i], settings.sample_rate_hz)
        except ClipError as error:
            return error.reason

    def write(i: int, level: Any, n_valid: int) -> None:
        data = encode_picture(level, settings, n_valid=n_valid, colormap=command.colormap)
        write_atomically(folder.path / paths[i], data)

    workers = command.workers or os.cpu_count() or 1
    with (
        ThreadPoolExecutor(workers) as readers,
        ThreadPoolExecutor(workers) as writers,
        progress("convert") as draw,
    ):
        draw(n_done, len(paths))
        batches = [todo[k : k + _BATCH] for k in range(0, len(todo), _BATCH)]
        writing: list[Future[None]] = []
        for rows, waveforms in _read_ahead(readers, read, batches):
            used = [(i, w) for i, w in zip(rows, waveforms, strict=True) if not isinstance(w, str)]
            failed |= {i: w for i, w in zip(rows, waveforms, strict=True) if isinstance(w, str)}
            if used:
                n = settings.n_samples
                n_cut += sum(len(w) > n for _, w in used)
                n_valid = [n if repeat else min(n, len(w)) for _, w in used]
                batch = np.stack([fit_length(w, n, padding=settings.padding) for _, w in used])
                with torch.inference_mode():
                    levels = log_mel(torch.from_numpy(batch), torch.tensor(n_valid)).numpy()
                for done in writing:
                    done.result()  # a full disk ends the run here
                writing = [
                    writers.submit(write, i, level, n)
                    for (i, _), level, n in zip(used, levels, n_valid, strict=True)
                ]
            n_done += len(rows)
            draw(n_done, len(paths))
        for done in writing:
            done.result()
    failures = [(str(manifest.clips[i].path), reason) for i, reason in sorted(failed.items())]
    say_failed_clips(failures)
    rows_out = [
        {
            "path": paths[i].as_posix(),
            "label": clip.label,
            "group": clip.group,
            "fold": clip.fold,
            "source": manifest.relative(clip.path),
        }
        for i, clip in enumerate(manifest.clips)
        if i not in failed
    ]
    return rows_out, failures, n_cut, len(todo) - len(failed)


def _read_ahead(
    pool: ThreadPoolExecutor, read: Any, batches: list[list[int]]
) -> Iterator[tuple[list[int], list[Any]]]:
    """Yield each batch with its clips, while the next one is being read."""
    ahead: list[Future[Any]] = []
    for k, rows in enumerate(batches):
        mine = ahead or [pool.submit(read, i) for i in rows]
        after = batches[k + 1] if k + 1 < len(batches) else []
        ahead = [pool.submit(read, i) for i in after]
        yield rows, [future.result() for future in mine]


def _write_index(
    folder: RunFolder,
    rows: list[dict[str, Any]],
    settings: SpectrogramSettings,
    manifest: Manifest,
    *,
    coloured: bool,
) -> None:
    """Write metadata.csv, the contact sheet and the report page."""
    import io

    from audio.files import write_atomically
    from audio.images import contact_sheet, read_picture, write_metadata
    from audio.page import write_report
    from audio.report import corpus_table, headline, settings_table, spectrogram_gallery

    write_metadata(folder.path, rows)
    if coloured:  # levels cannot be read back from these
        return
    shown: list[tuple[str, str, Any]] = []
    count: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: row["label"]):
        if count.setdefault(row["label"], 0) < _SHEET_PER_CLASS:
            count[row["label"]] += 1
            pixels = read_picture(folder.path / row["path"]).pixels
            shown.append((row["label"], row["source"], pixels))
    sheet = io.BytesIO()
    contact_sheet([(label, pixels[::-1]) for label, _, pixels in shown]).save(sheet, "PNG")
    write_atomically(folder.path / "contact_sheet.png", sheet.getvalue())
    made = {row["source"] for row in rows}
    used = [clip for clip in manifest.clips if manifest.relative(clip.path) in made]
    write_report(
        folder.path / "report.html",
        title="Mel-spectrogram pictures",
        sections=[
            headline(
                f"{len(rows)} pictures of {settings.n_mels} bands x {settings.n_frames} frames"
            ),
            spectrogram_gallery(
                shown,
                duration_s=settings.clip_s,
                f_min_hz=settings.f_min_hz,
                f_max_hz=settings.f_max,
            ),
            corpus_table(replace(manifest, clips=tuple(used)).counts()),
            settings_table(
                {"spectrogram": settings.to_json()},
                {"spectrogram": SpectrogramSettings().to_json()},
            ),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
