"""`melbandit report`: write a run's report page again, from the figures that the run left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from audio.settings import UserError
from scripts.command import DONE, parse, print_result, read_json, run


@dataclass(frozen=True)
class Report:
    """Write the report page of a finished finetune or search again."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder that finetune or search wrote."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parse(Report, "report", argv)
    return run(lambda: report(command))


def report(command: Report) -> int:
    """Write report.html; returns an exit code."""
    record = read_json(command.run / "settings.json")
    if not (command.run / "results.json").exists():
        raise UserError(f"{command.run}: not finished; give its command again first.")
    results = read_json(command.run / "results.json")
    from scripts.pages import write_folds_page, write_model_page, write_search_page

    pages = {"finetune": write_model_page, "search": write_search_page}
    if record.get("command") not in pages:
        raise UserError(f"{command.run}: a run of {record.get('command')} has no page to redo.")
    write = write_folds_page if "folds" in results else pages[record["command"]]
    write(command.run, results, record)
    print_result({"report": str(command.run / "report.html")})
    return DONE


if __name__ == "__main__":
    sys.exit(main())
