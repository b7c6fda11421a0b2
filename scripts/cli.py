"""The `melbandit` command: picks the script. Nothing heavy is imported before that."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "data": "tell what is in a corpus, write its manifest, fetch published ones",
    "convert": "turn a folder of clips into mel-spectrogram pictures",
    "finetune": "fit a classifier to clips or pictures, and score it",
    "search": "let a reinforcement-learning agent choose the settings",
    "predict": "label files, or a stream, with a fitted model",
    "export": "write a fitted model as one ONNX graph",
    "landscape": "train with every setting of a space, to compare tuners on",
    "compare": "play tuners against one another on measured landscapes",
    "play": "play tic-tac-toe against an agent that taught itself",
    "gridworld": "watch an agent learn its way through a grid",
    "report": "write the report of a run, or of any Optuna study",
    "synthesise": "write the embedded corpus of synthetic sounds",
}

_MODULES = {"data": "survey"}  # where a script is called otherwise than its command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if name == "--version":
        from importlib.metadata import version

        print(f"melbandit {version('melbandit')}")
        return 0
    if name not in COMMANDS:
        print(
            f"melbandit: there is no command {name!r}; there are: {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        return 2
    code: int = import_module(f"scripts.{_MODULES.get(name, name)}").main(arguments[1:])
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: melbandit COMMAND ...",
            "",
            "Clips to mel-spectrogram pictures, a transformer on them, and a reinforcement-",
            "learning agent that chooses the settings.",
            "",
            "commands:",
            *lines,
            "",
            "`melbandit COMMAND --help` lists its options. The usual way through:",
            "  melbandit convert  CLIPS --out runs/images",
            "  melbandit finetune CLIPS --out runs/model",
            "  melbandit search   CLIPS --out runs/study --minutes 15",
            "  melbandit predict  runs/study/model FILES",
            "",
            "exit codes: 0 done; 1 failed; 2 misused; 3 done, but some clips could not be used.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
