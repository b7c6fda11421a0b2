"""`melbandit synthesise`: write the embedded corpus of synthetic sounds."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data.synthetic import SyntheticSettings, write_corpus
from scripts.command import DONE, parse, print_result, progress, run


@dataclass(frozen=True)
class Synthesise:
    """Write the embedded corpus: ten classes of synthetic sounds, recorded in sessions.

    Each session has its own room, microphone and background; split by sessions (the group column
    of manifest.csv). The same seed gives the same files; the same command again fills gaps.
    """

    out: Annotated[Path, tyro.conf.Positional]
    """Folder for the clips."""
    corpus: SyntheticSettings = SyntheticSettings()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parse(Synthesise, "synthesise", argv)
    return run(lambda: synthesise(command))


def synthesise(command: Synthesise) -> int:
    """Write the corpus; returns an exit code."""
    with progress("synthesise") as draw:
        manifest = write_corpus(command.out, command.corpus, progress=draw)
    classes = Counter(clip.label for clip in manifest.clips)
    sessions = {clip.group for clip in manifest.clips}
    print_result(
        {
            "clips": len(manifest),
            "classes": len(classes),
            "sessions": len(sessions),
            "out": str(command.out),
        }
    )
    return DONE


if __name__ == "__main__":
    sys.exit(main())
