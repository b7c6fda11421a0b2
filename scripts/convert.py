"""`melbandit convert`: a folder of clips to a folder of mel-spectrogram pictures."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from audio.clips import Manifest, cells_of_labels
from audio.settings import (
    AST_PRESET,
    WHISPER_PRESET,
    CutSettings,
    SettingsError,
    SpectrogramSettings,
    UserError,
)
from audio.splits import SplitSettings, assign_splits
from data.corpus import CorpusSettings
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
from scripts.run_folder import RunFolder, open_run

_SHEET_PER_CLASS = 3
_MOST_NOTES = 20  # shown one by one


@dataclass(frozen=True)
class Convert:
    """Turn every clip into a mel-spectrogram picture.

    The pictures are grey PNGs in the imagefolder layout, split/label/clip.png with metadata.csv,
    that Hugging Face datasets, torchvision and timm read; where clips may have several labels,
    split/clip.png, and metadata.csv has them joined by semicolons. They are what the classifier
    sees, to within 8 bits. The same command again goes on where it was stopped.
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
    orientation: Literal["upright", "flipped", "sideways"] = "upright"
    """Low frequencies at the bottom and time to the right; low frequencies at the top; or time
    downwards and low frequencies at the left."""
    format: Literal["png", "uint8", "float16"] = "png"
    """A PNG a clip, or memory-mapped shards for training (NumPy's .npy files with an index.csv): of
    the same 8 bits, or of levels as float16."""
    unsplit: bool = False
    """Put every clip into train/ instead of splitting."""
    workers: int = 0
    """How many clips are worked on at once; 0 is one a core."""
    device: str = "cpu"
    """What computes the mel transform: cpu, auto, cuda or cuda:N."""
    ray: str | None = None
    """Spread the clips over a Ray cluster: host:port, ray://host:port, auto, or local. Clips and
    --out must lie where every node sees them under the same path."""
    overwrite: bool = False
    """Start over in a folder that holds another run."""
    corpus: CorpusSettings = CorpusSettings()
    split: SplitSettings = SplitSettings()
    cut: CutSettings = CutSettings()
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
    # each of our workers calls BLAS: its own threads would stand in their way
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from audio.conversion import as_windows, read_durations
    from audio.crew import cores
    from audio.mel import mel_filter_bank
    from audio.memory import keep_freed_memory

    keep_freed_memory()
    _check_outputs(command)
    manifest = read_corpus(command.clips, command.corpus)
    if command.unsplit:
        clips = tuple(replace(clip, split="train") for clip in manifest.clips)
        manifest = replace(manifest, clips=clips)
    else:
        manifest = assign_splits(manifest, command.split)
    settings = command.spectrogram
    mel_filter_bank(settings)  # refuses bands without a bin before anything is written
    with open_run(command.out, overwrite=command.overwrite) as folder:
        if settings.clip_s is None or command.cut.longer == "windows":
            durations = read_durations(manifest.clips, workers=command.workers or cores())
            settings = _settled(settings, durations, manifest)
            if command.cut.longer == "windows":
                overlap = command.cut.overlap_percent
                manifest = as_windows(manifest, durations, settings, overlap)
        identity = {
            "settings": {"spectrogram": settings.to_json()},
            "cut": command.cut.to_json(),
            "corpus": manifest.fingerprint(),
            "colormap": command.colormap,
            "orientation": command.orientation,
            "format": command.format,
        }
        folder.begin("convert", identity, argv)
        say(f"{manifest.describe()}; {settings.n_mels} x {settings.n_frames} pictures")
        try:
            return _convert_into(folder, manifest, settings, command)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"{command.out}: the disk is full. What is there is whole; free some space and "
                "give the same command again: it goes on from here."
            ) from None


def _convert_into(
    folder: RunFolder, manifest: Manifest, settings: SpectrogramSettings, command: Convert
) -> int:
    """Write pictures or shards and what lists them; returns an exit code."""
    from audio.conversion import Outcome

    write = _write_pictures if command.format == "png" else _write_shards
    outcome: Outcome
    outcome, rows = write(folder, manifest, settings, command)
    failures = [(str(manifest.clips[i].path), why) for i, why in sorted(outcome.failed.items())]
    say_failed_clips(failures)
    for i, note in sorted(outcome.notes.items())[:_MOST_NOTES]:
        say(f"note: {manifest.clips[i].path}: {note}")
    folder.write_failures(failures)
    if not rows:
        say(f"{manifest.root}: no clip in it can be used.")
        return FAILED
    if outcome.n_cut:
        what = {"centre": "their middle", "start": "their start"}.get(command.cut.longer, "a part")
        say(
            f"note: {outcome.n_cut} clips are longer than {settings.clip_s:g} s; {what} is shown "
            "(--longer windows shows all of them)."
        )
    results = {
        "pictures": len(rows),
        "new": outcome.n_new,
        "failed": len(failures),
        "n_mels": settings.n_mels,
        "n_frames": settings.n_frames,
        "clip_s": settings.clip_s,
        "out": str(command.out),
    }
    folder.finish(results)
    print_result(results)
    return PARTLY if failures else DONE


def _check_outputs(command: Convert) -> None:
    """Refuse options that cannot be, before anything is written.

    Raises:
        UserError: an unknown colour map, shards in colour, or fewer than no threads.
    """
    if command.colormap is not None:
        _check_colormap(command.colormap)
    if command.ray is not None and (command.format != "png" or command.device != "cpu"):
        raise SettingsError(
            f"ray={command.ray} writes pictures by processors; leave out --format and --device, or "
            "--ray."
        )
    check_least("--workers", command.workers, 0)
    if command.format != "png" and (command.colormap or command.orientation != "upright"):
        raise SettingsError(
            f"colormap and orientation are for pictures; format={command.format} holds levels, low "
            "frequencies first. Leave them out, or choose --format png."
        )


def _check_colormap(name: str) -> None:
    import matplotlib

    if name not in matplotlib.colormaps:
        raise SettingsError(f"colormap={name!r} is none of matplotlib's; try magma or viridis.")


def _settled(
    settings: SpectrogramSettings, durations_s: Sequence[float | None], manifest: Manifest
) -> SpectrogramSettings:
    """Return the settings with `clip_s` taken from the training clips where it is not given."""
    from audio.waveform import choose_clip_s

    if settings.clip_s is not None:
        return settings
    known = [
        seconds
        for seconds, clip in zip(durations_s, manifest.clips, strict=True)
        if seconds and clip.split == "train"
    ]
    if not known:
        raise SettingsError(
            f"{manifest.root}: no training clip's length can be read; give --clip-s."
        )
    return replace(settings, clip_s=choose_clip_s(known))


def _row(manifest: Manifest, i: int, path: str) -> dict[str, Any]:
    """Return what the index says of a clip."""
    clip = manifest.clips[i]
    return {
        "path": path,
        **cells_of_labels(clip),
        "group": clip.group,
        "fold": clip.fold,
        "source": manifest.relative(clip.path),
        "start_s": f"{clip.start_s:g}",
    }


def _shown(row: Mapping[str, Any]) -> str:
    """Return a row's label or labels, to be read."""
    label: str = row["label"] if "label" in row else row["labels"].replace(";", ", ")
    return label or "none"


def _converted(
    manifest: Manifest,
    todo: Sequence[int],
    settings: SpectrogramSettings,
    command: Convert,
    sink: Any,
) -> Any:
    """Send the clips of `todo` to a sink, with a bar; returns what became of them."""
    from audio.conversion import convert_clips, on_device

    n, n_before = len(manifest), len(manifest) - len(todo)
    with progress("convert", threaded=False) as draw:  # a process that forks has one thread
        draw(n_before, n)
        if command.ray is not None:
            from audio.cluster_conversion import convert_on_cluster

            return convert_on_cluster(
                command.ray,
                manifest.clips,
                todo,
                settings,
                sink,
                cut=command.cut,
                progress=lambda done: draw(n_before + done, n),
            )
        log_mel = None if command.device == "cpu" else on_device(settings, command.device)
        return convert_clips(
            manifest.clips,
            todo,
            settings,
            sink,
            cut=command.cut,
            workers=command.workers,
            log_mel=log_mel,
            progress=lambda done: draw(n_before + done, n),
        )


def _write_pictures(
    folder: RunFolder, manifest: Manifest, settings: SpectrogramSettings, command: Convert
) -> tuple[Any, list[dict[str, Any]]]:
    """Write the pictures that are not there yet, and the index of all of them.

    Returns what became of the clips, and the index's rows.
    """
    from audio.conversion import PictureFolder
    from audio.images import picture_paths

    paths = picture_paths(manifest)
    there: set[str] = set()
    for part in {path.parent for path in paths}:
        (folder.path / part).mkdir(parents=True, exist_ok=True)
        there |= {f"{part}/{entry.name}" for entry in os.scandir(folder.path / part)}
    names = [str(path) for path in paths]
    todo = [i for i, name in enumerate(names) if name not in there]
    sink = PictureFolder(folder.path, paths, settings, command.colormap, command.orientation)
    outcome = _converted(manifest, todo, settings, command, sink)
    rows = [
        _row(manifest, i, path.as_posix())
        for i, path in enumerate(paths)
        if i not in outcome.failed
    ]
    if rows:
        coloured = command.colormap is not None
        _write_index(folder, rows, settings, manifest, coloured=coloured)
    return outcome, rows


def _write_shards(
    folder: RunFolder, manifest: Manifest, settings: SpectrogramSettings, command: Convert
) -> tuple[Any, list[dict[str, Any]]]:
    """Write the shards that are not there yet, and the index of all of them.

    Returns what became of the clips, and the index's rows.
    """
    from audio.shards import ShardFolder

    assert command.format != "png"

    index = [_row(manifest, i, "") for i in range(len(manifest))]
    splits = [str(clip.split) for clip in manifest.clips]
    with ShardFolder(folder.path, splits, index, settings, dtype=command.format) as sink:
        outcome = _converted(manifest, sink.todo, settings, command, sink)
        outcome.failed = sink.failed_before | outcome.failed
    rows = sink.write_index()
    return outcome, rows


def _write_index(
    folder: RunFolder,
    rows: list[dict[str, Any]],
    settings: SpectrogramSettings,
    manifest: Manifest,
    *,
    coloured: bool,
) -> None:
    """Write metadata.csv, the contact sheet and the report page."""
    import numpy as np

    from audio.files import write_atomically
    from audio.images import contact_sheet, read_picture, write_metadata
    from audio.page import write_report
    from audio.png import encode_png, filtered_rows
    from audio.report import corpus_table, headline, settings_table, spectrogram_gallery

    write_metadata(folder.path, rows)
    if coloured:  # levels cannot be read back from these
        return
    shown: list[tuple[str, str, Any]] = []
    count: dict[str, int] = {}
    for label, row in sorted(((_shown(row), row) for row in rows), key=lambda pair: pair[0]):
        if count.setdefault(label, 0) < _SHEET_PER_CLASS:
            count[label] += 1
            pixels = read_picture(folder.path / row["path"]).pixels
            shown.append((label, row["source"], pixels))
    sheet = np.asarray(contact_sheet([(label, pixels[::-1]) for label, _, pixels in shown]))
    png = encode_png(filtered_rows(sheet[None])[0], sheet.shape[1], coloured=True, notes={})
    write_atomically(folder.path / "contact_sheet.png", png)
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
