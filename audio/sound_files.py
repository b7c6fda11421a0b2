"""Which files of a folder are taken for sound."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from audio.settings import fingerprint

#: File name endings taken for sound when a folder is listed.
SUFFIXES = frozenset(
    # libsndfile
    ".wav .wave .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 .rf64 .sph .nist "
    ".voc .avr .paf .pvf .sf .ircam .svx .8svx .wve "
    # FFmpeg: telephones and dictation
    ".3gp .3gpp .3g2 .amr .awb .gsm .g722 .sln .qcp .dss .spx "
    # FFmpeg: the rest
    ".m4a .m4b .m4r .aac .mp4 .mp2 .mpga .webm .weba .wma .asf .mka .mkv .mov .avi .mpg .mpeg .ac3 "
    ".eac3 .dts .ape .wv .tta .tak .mpc .ra .rm .dsf".split()
)

# What stands beside sounds and is none: nobody misses it.
_COMPANIONS = frozenset(
    ".txt .md .rst .csv .tsv .json .jsonl .yaml .yml .toml .xml .html .htm .pdf .doc .docx .xls "
    ".xlsx .ods .log .py .ipynb .m .r .sh .mat .npy .npz .h5 .hdf5 .parquet .arrow .pkl .pt "
    ".jpg .jpeg .png .gif .bmp .svg .tif .tiff .webp .textgrid .lab .wrd .phn .eaf .srt .vtt .jams "
    ".svl .zip .gz .tar .tgz .7z .rar .md5 .sha256 .bib .ini .cfg .db .asd .reapeaks .pkf".split()
)


@dataclass(frozen=True)
class FolderFiles:
    """sounds: the files taken for sound, sorted. others: how many files were not, though nothing
    about their ending says that they are something else; by ending, in small letters. closed:
    folders that may not be listed."""

    sounds: tuple[Path, ...]
    others: Counter[str] = field(default_factory=Counter)
    closed: tuple[str, ...] = ()

    def note(self, remedy: str = "list them in a CSV") -> str | None:
        """Return one line about the others and closed folders, or None where there are none.

        >>> FolderFiles((), Counter({".g729": 12, "": 1})).note()
        "13 files are not taken for sound (12 that end in '.g729', 1 without an ending); list them \
in a CSV if they are."
        """
        closed = f"{', '.join(self.closed[:3])} may not be listed" if self.closed else ""
        if not self.others:
            return closed or None
        kinds = ", ".join(
            f"{n} that end in {ending!r}" if ending else f"{n} without an ending"
            for ending, n in self.others.most_common(5)
        )
        more = ", ..." if len(self.others) > 5 else ""
        n = self.others.total()
        told = f"{n} files are not taken for sound ({kinds}{more}); {remedy} if they are."
        return f"{told} {closed}".strip()


def sort_files(folder: Path) -> FolderFiles:
    """Return the files in a folder and below it; none that are hidden, or in a hidden folder.

    Links to folders are followed, but for those that lead to a folder they are in. A link that
    leads nowhere counts as a file: whoever reads it says so.
    """
    sounds: list[Path] = []
    others: Counter[str] = Counter()
    closed: list[str] = []
    inside: dict[str, frozenset[str]] = {}  # of each folder: it and those above it, links resolved
    for where, folders, names in os.walk(
        folder, followlinks=True, onerror=lambda error: closed.append(str(error.filename))
    ):
        above, real = inside.get(os.path.dirname(where), frozenset()), os.path.realpath(where)  # noqa: PTH120
        if real in above:
            folders.clear()
            continue
        inside[where] = above | {real}
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            ending = os.path.splitext(name)[1].lower()  # noqa: PTH122, five times pathlib's speed
            if name.startswith(".") or ending in _COMPANIONS:
                continue
            path = os.path.join(where, name)  # noqa: PTH118
            if not (os.path.isfile(path) or os.path.islink(path)):  # noqa: PTH113, PTH114
                continue
            if ending in SUFFIXES:
                sounds.append(Path(path))
            else:
                others[ending] += 1
    return FolderFiles(tuple(sorted(sounds)), others, tuple(closed))


def list_sounds(folder: Path) -> list[Path]:
    """Return the sound files in a folder and below it by their endings, sorted; none hidden."""
    return list(sort_files(folder).sounds)


def sounds_state(folder: Path) -> str:
    """Return 12 hex digits that change when a folder's sound files, their names or their sizes do.

    A copy of the folder on another machine has the same.
    """
    return fingerprint(
        [[str(p.relative_to(folder)), p.stat().st_size] for p in list_sounds(folder) if p.exists()]
    )
