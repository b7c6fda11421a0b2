"""`melbandit report`: the report page of a run, or of any Optuna study, and its main table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from audio.settings import UserError
from scripts.command import DONE, parse, print_result, read_json, run

if TYPE_CHECKING:
    from optuna.study import Study

    from rl.insight import Insight

MARK = b"Written by melbandit."
MOST_SCORE = 1e150
"""Largest score, either way, whose square summed over trials is still a number."""


@dataclass(frozen=True)
class Report:
    """Write the report page of a finetune or a search, or of any Optuna study.

    A search may be finished, under way or stopped: its study is only read. For a study the main
    table is printed too: what every setting is worth, and how much it matters.
    """

    run: Annotated[str, tyro.conf.Positional]
    """Folder that finetune or search wrote, or an Optuna storage: its file or its URL."""
    study: str | None = None
    """Name of the study, or of the search, where the storage holds several."""
    out: Path | None = None
    """The page to write: report.html in the folder, beside the file, or here for a URL; beside the
    file STUDY.html, where --study names another than a search's trials."""
    overwrite: bool = False
    """Write over a file that melbandit has not written."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    command = parse(Report, "report", argv)
    return run(lambda: report(command), stopped="stopped.")


def report(command: Report) -> int:
    """Write the page; returns an exit code."""
    where = Path(command.run)
    if "://" in command.run:
        return _report_study(command, command.run, Path("report.html"))
    is_search = command.study in (None, "trials")
    if is_search and where.name == "study.db" and (where.parent / "settings.json").exists():
        where = where.parent  # a search's own file: its folder says more
    if not where.is_dir():
        # report.html is the search's own page
        name = "report" if is_search else str(command.study)
        return _report_study(command, command.run, where.with_name(f"{name}.html"))
    if not (where / "settings.json").exists() and (where / "study.db").exists():
        return _report_study(command, str(where / "study.db"), where / "report.html")
    record = read_json(where / "settings.json")
    if "command" not in record:
        raise UserError(f"{where}: holds no run; give the folder that finetune or search wrote.")
    if record["command"] not in ("finetune", "search"):
        raise UserError(f"{where}: a run of {record['command']} has no page to redo.")
    if not is_search:
        raise UserError(f"{where}: the study of a search is called trials, not {command.study}; "
                        f"give {where / 'study.db'} to look at another.")  # fmt: skip
    if record["command"] == "finetune":
        return _report_model(command, where, record)
    return _report_search(command, where, record)


def _report_model(command: Report, folder: Path, record: dict[str, Any]) -> int:
    from scripts.pages import write_folds_page, write_model_page

    if not (folder / "results.json").exists():
        raise UserError(f"{folder}: not finished; give its command again first.")
    path = _free(command, folder / "report.html")
    results = read_json(folder / "results.json")
    write = write_folds_page if "folds" in results else write_model_page
    write(folder, results, record, path=path)
    print_result({"report": str(path)})
    return DONE


def _report_search(command: Report, folder: Path, record: dict[str, Any]) -> int:
    from scripts.study_page import insight_of, write_search_page

    path = _free(command, folder / "report.html")
    if not (folder / "results.json").exists():
        if not (folder / "study.db").exists():
            if "storage" in record:
                raise UserError(f"{folder}: not finished, and its study is in {record['storage']}; "
                                "give that address, and the name as --study.")  # fmt: skip
            raise UserError(f"{folder}: the search has no trial yet; wait, or give its command "
                            "again.")  # fmt: skip
        return _report_study(command, str(folder / "study.db"), folder / "report.html")
    results = read_json(folder / "results.json")
    insight = insight_of(folder, results, record)
    write_search_page(folder, results, record, path=path, insight=insight)
    from scripts.study_text import study_text

    print(study_text(insight, results["best"]["values"]))
    print_result({"report": str(path), "trials": len(results["trials"]), "finished": True,
                  "best": results["best"]["values"], "mean": results["best"]["mean"]})  # fmt: skip
    return DONE


def _report_study(command: Report, where: str, page: Path) -> int:
    """Report on a study without results: one under way, stopped, or somebody else's."""
    from rl.insight import Insight
    from rl.records import open_study, read_study
    from rl.studies import quiet
    from scripts.study_page import write_study_page
    from scripts.study_rows import counts_text
    from scripts.study_text import study_text

    path = _free(command, page)
    with quiet():
        study, finals = open_study(where, command.study)
        insight = Insight(read_study(study, finals))
    _check_scores(insight, study.study_name)
    beliefs = _own_beliefs(study, insight)
    title = "A search so far" if insight.study.agent else "An Optuna study"
    write_study_page(path, insight, title=title, beliefs=beliefs)
    print(f"study {study.study_name}: {counts_text(insight)}")
    print(study_text(insight, None))
    best = insight.best
    score = insight.path[-1].score if best else None
    print_result(
        {
            "report": str(path),
            "trials": len(insight.study.trials),
            "finished": False,
            "best": best.values if best else None,
            "mean": score.mean if score else None,
        }
    )
    return DONE


def _check_scores(insight: Insight, name: str) -> None:
    """Refuse scores whose squares are no numbers: nothing could be said of the study.

    Raises:
        UserError: one is too large; names the trial.
    """
    for trial in insight.scored:
        if abs(trial.foretold or 0.0) > MOST_SCORE:
            raise UserError(
                f"study {name}: trial {trial.number} scored {trial.foretold:g}, and a report works "
                f"with scores up to {MOST_SCORE:g}; scale them, take their logarithm, or let such "
                "trials fail."
            )


def _own_beliefs(study: Study, insight: Insight) -> dict[str, Any] | None:
    """Return what the search's agent thinks, where it keeps a table of its own."""
    from rl.knob_sampler import KnobSampler
    from rl.samplers import make_sampler
    from scripts.study_page import OWN_TABLES

    if insight.study.agent not in OWN_TABLES or not insight.scored:
        return None
    sampler = make_sampler(insight.study.agent, insight.space, insight.study.seed)  # type: ignore[arg-type]
    assert isinstance(sampler, KnobSampler)
    return dict(sampler.fitted(study).beliefs())


def _free(command: Report, usual: Path) -> Path:
    """Return where to write.

    Raises:
        UserError: a file is there that melbandit has not written.
    """
    path = command.out or usual
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of the page, such as "
                        f"{path / 'report.html'}.")  # fmt: skip
    if path.exists() and not command.overwrite and MARK not in path.read_bytes():
        raise UserError(f"{path}: was not written by melbandit; give another --out, or --overwrite "
                        "to replace it.")  # fmt: skip
    return path


if __name__ == "__main__":
    sys.exit(main())
