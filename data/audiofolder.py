"""A Hugging Face `audiofolder`: sound files, and metadata.csv or metadata.jsonl that tell of them.

As `datasets` reads it: `file_name` counts from the metadata file's folder; train, validation and
test stand as folders above. The class is in a column, or is the file's own folder.
"""

from __future__ import annotations

from pathlib import Path

from audio.clips import SPLITS, Clip, Manifest, ManifestError
from data.tables import read_table

METADATA = ("metadata.csv", "metadata.jsonl")
SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_NAMES |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")

#: Columns that tell what must not be split, first come first served; client_id is Common Voice's.
_GROUP_COLUMNS = ("group", "speaker_id", "speaker", "client_id")


def holds_audiofolder(folder: Path) -> bool:
    """Return whether metadata stand in a folder, or in a split's folder in it; a metadata.csv
    without a column file_name is of something else."""
    return bool(_metadata(folder))


def _metadata(folder: Path) -> list[Path]:
    below = [f for f in sorted(folder.iterdir()) if f.name.lower() in SPLIT_NAMES and f.is_dir()]
    found = [
        f / name
        for f in (folder, *below)
        for name in METADATA
        if (f / name).is_file() and _tells_of_files(f / name)
    ]
    for one in found:
        other = one.with_name(METADATA[0])
        if one.name == METADATA[1] and other in found:
            raise ManifestError(f"{one.parent}: both {' and '.join(METADATA)}; keep one.")
    return found


def _tells_of_files(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        return "file_name" in next((line for line in lines if line.strip()), "")


def read_audiofolder(folder: Path, *, label_column: str = "label") -> Manifest:
    """Return the clips that the metadata list.

    label_column: holds the class; where no row has it, the class is the name of the file's folder.

    Raises:
        ManifestError: no metadata, a row without file_name, a name that leads out of the folder,
            the same file twice, a class that neither column nor folder tells.
    """
    tables = _metadata(folder)
    if not tables:
        raise ManifestError(
            f"{folder}: no {' or '.join(METADATA)} with a column file_name in it or in a split's "
            "folder."
        )
    clips: list[Clip] = []
    seen: dict[Path, str] = {}
    for table in tables:
        rows = read_table(table, ("file_name",))
        labelled = any(label_column in row for _, row in rows)
        for where, row in rows:
            path = table.parent / row["file_name"]
            if Path(row["file_name"]).is_absolute() or ".." in Path(row["file_name"]).parts:
                raise ManifestError(f"{where}: {row['file_name']} leads out of {table.parent}.")
            if path in seen:
                raise ManifestError(f"{where}: the same file is in {seen[path]}.")
            seen[path] = where
            above = path.relative_to(folder).parts[:-1]
            split = row.get("split") or next(
                (SPLIT_NAMES[name.lower()] for name in above[:1] if name.lower() in SPLIT_NAMES),
                None,
            )
            if split is not None and split not in SPLITS:
                raise ManifestError(f"{where}: split={split!r} is not one of {', '.join(SPLITS)}.")
            own = above[-1:] if above[-1:] and above[-1].lower() not in SPLIT_NAMES else ()
            label = row.get(label_column) if labelled else next(iter(own), None)
            if not label:
                raise ManifestError(
                    f"{where}: no class: neither a column {label_column} nor a folder of its own; "
                    f"name the column (--label-column), there are: {', '.join(row)}."
                )
            group = next((row[name] for name in _GROUP_COLUMNS if row.get(name)), None)
            clips.append(Clip(path, label, group=group, fold=row.get("fold") or None, split=split))
    return Manifest(tuple(clips), folder)
