"""`melbandit report` on studies: running ones, stopped ones, and anybody's."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import optuna
import pytest

from rl.insight import Insight
from rl.plain_words import best_words, knob_words, summary, trouble_words
from rl.records import Record, StudyRecord
from rl.search import SearchSettings, TrialResult, run_search
from rl.space import Knob, SearchSpace
from scripts import cli
from scripts.study_rows import cost_rows, curve_rows, pair_rows, trial_rows
from scripts.study_text import study_text

SPACE = SearchSpace([Knob("a", ("x", "y", "z")), Knob("b", (1, 2)), Knob("c", (True, False))])


def study(scores, n: int = 24, *, maximise: bool = True, **more) -> StudyRecord:
    """Return a study of all settings in a fixed order, scored by a function of their values."""
    codes = SPACE.every(100)
    codes = codes[np.random.default_rng(0).integers(0, len(codes), n)]
    records = []
    for i, row in enumerate(codes):
        values = SPACE.default() if i == 0 else SPACE.decode(row)
        row = SPACE.encode(values)
        score = scores(values)
        seconds = 5.0 * (3 if values["b"] == 2 else 1)
        records.append(Record(i, "complete", values, tuple(row.tolist()), score, score, seconds,
                              ((1.0, score - 0.1), (2.0, score)), i == 0, ""))  # fmt: skip
    given = {"default": SPACE.default(), "agent": "dyna-q-ucb", "trials": tuple(records)} | more
    return StudyRecord(name="s", space=SPACE, maximise=maximise, finals=(), seed=0, **given)


def additive(values) -> float:
    return 0.5 + 0.2 * (values["a"] == "y") + 0.05 * (values["b"] == 2)


# --- words --------------------------------------------------------------------------------------


def test_the_words_name_the_best_how_sure_it_is_and_what_matters() -> None:
    insight = Insight(study(additive))
    words = best_words(insight)
    best = insight.path[-1]
    assert f"that of trial {best.number}, expected to score {best.score.mean:.3f}" in words
    assert "better, as far as the model can tell" in words
    first, second, third = knob_words(insight)
    assert f"foretells {100 * insight.foretells:.0f} %" in first
    assert second.startswith("Of the differences that it sees between settings, a (")
    assert "all combinations together make" in third
    assert trouble_words(insight) == []


def test_what_matters_on_its_own_is_named_by_its_own_share() -> None:
    """Where two others matter more by their combinations, they still come after it."""

    def both(values) -> float:
        return (
            0.9 * (values["a"] == "y")
            + 0.1 * values["b"]
            + float((values["b"] == 1) == values["c"])
        )

    insight = Insight(study(both, 60))
    assert SPACE.knobs[insight.knobs[0].position].name != "a"
    words = knob_words(insight)[1]
    assert re.match(r"Of the differences .*, a \(\d+ %\) makes most on its own, then ", words)
    shares = [int(share) for share in re.findall(r"\((\d+) %\)", words)]
    assert shares == sorted(shares, reverse=True)


def test_chance_is_called_chance() -> None:
    rng = np.random.default_rng(5)
    insight = Insight(study(lambda _: float(rng.normal())))
    assert "little more than a guess" in " ".join(knob_words(insight))


def test_a_pair_that_matters_is_named() -> None:
    def exclusive(values) -> float:
        return float((values["b"] == 1) == values["c"])

    (strongest, *_) = [w for w in knob_words(Insight(study(exclusive, 60))) if "depend" in w]
    assert strongest.startswith("b and c depend on each other")


def test_where_low_is_good_better_means_lower() -> None:
    insight = Insight(study(lambda v: -additive(v), maximise=False))
    assert "better, as far as the model can tell" in best_words(insight)
    assert "+" not in best_words(insight).split("Against")[1].split("(")[0]


def test_the_default_as_the_best_and_nothing_at_all_are_told() -> None:
    worst = Insight(study(lambda v: 0.9 if v == SPACE.default() else 0.1))
    assert "none is expected to beat the default setting" in best_words(worst)
    assert summary(Insight(study(additive, 0))) == ["No trial has a score yet."]
    failed = Record(0, "failed", {}, None, None, None, 1.0, (), True, "Traceback\nKeyError: 'x'")
    assert trouble_words(Insight(study(additive, trials=(failed,)))) == [
        "1 trial failed; the last with: KeyError: 'x'"
    ]


# --- rows and text ------------------------------------------------------------------------------


def test_trials_are_marked_as_what_they_are() -> None:
    given = study(additive).trials
    again = Record(**{**vars(given[0]), "number": 24, "is_default": False})
    pruned = Record(**{**vars(given[1]), "number": 25, "state": "pruned"})
    running = Record(**{**vars(given[1]), "number": 26, "state": "running", "score": None})
    insight = Insight(study(additive, trials=(*given, again, pruned, running)))
    rows = trial_rows(insight)
    assert [row["number"] for row in rows] == list(range(26))  # a running one has no mark yet
    assert rows[0]["phase"] == "default"
    assert rows[24]["phase"] == "replicate"
    assert rows[25]["state"] == "pruned"
    seen = set()
    for row, record in zip(rows, insight.study.trials, strict=False):
        assert (row["phase"] == "replicate") == (record.codes in seen)
        seen.add(record.codes)
    kinds = {row["number"]: row["kind"] for row in curve_rows(insight)}
    assert kinds[0] == kinds[24] == "default"
    assert kinds[insight.best.number] == "best"
    assert kinds[25] in ("pruned", "best")


def test_what_is_slow_is_shown_and_what_is_not_is_not() -> None:
    tiles, knobs, words = cost_rows(Insight(study(additive)))
    assert [knob["name"] for knob in knobs] == ["b"]
    one, two = knobs[0]["values"]
    assert two["mean"] / one["mean"] == pytest.approx(3, rel=0.1)
    assert (one["seconds"], two["seconds"]) == (5.0, 15.0)
    assert words == ""
    total = sum(t.seconds for t in study(additive).trials)
    assert dict(tiles)["all trials"] == f"{total / 60:.0f} min"
    assert dict(tiles)["slowest"] == "15 s"
    even = [Record(**{**vars(t), "seconds": 5.0}) for t in study(additive).trials]
    _, knobs, words = cost_rows(Insight(study(additive, trials=tuple(even))))
    assert knobs == []
    assert "No setting is seen to change the time" in words
    assert cost_rows(Insight(study(additive, 0))) == ([], [], "")


def test_a_pair_stands_the_long_way_down() -> None:
    for row in pair_rows(Insight(study(lambda v: additive(v) * (1 + v["c"]))), 3):
        assert len(row["a_values"]) >= len(row["b_values"])
        for name in ("mean", "sd", "interaction", "interaction_sd"):
            assert np.shape(row[name]) == (len(row["a_values"]), len(row["b_values"]))


def test_the_table_has_a_row_for_each_knob_with_its_best_value() -> None:
    insight = Insight(study(additive))
    lines = study_text(insight, None).splitlines()
    assert lines[0].split()[:2] == ["setting", "matters"]
    row = lines[1].split()
    effect = insight.knobs[0].effects[1]
    assert row[0] == "a"
    assert "y" in row
    assert f"{effect.mean:.3f} ± {effect.sd:.3f}" in lines[1]
    assert lines[1].split()[-1] == "x"  # the default's value
    assert max(map(len, lines)) <= 100
    assert study_text(Insight(study(additive, 0)), None) == "No trial has a score yet.\n"


# --- the command --------------------------------------------------------------------------------


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict]:
    out = capsys.readouterr().out
    return out, json.loads(out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that melbandit has no part in: minimised, with conditions, pruned and failed ones."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = tmp_path_factory.mktemp("theirs") / "theirs.db"
    made = optuna.create_study(
        storage=f"sqlite:///{path}", study_name="theirs", direction="minimize",
        sampler=optuna.samplers.RandomSampler(seed=0),
    )  # fmt: skip

    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind <b>", ["sgd", "adam"])
        rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
        momentum = trial.suggest_float("momentum", 0, 0.9, step=0.3) if kind == "sgd" else 0.0
        for epoch in (1, 2, 3):
            trial.report(1.0 / epoch + rate, epoch)
            if trial.number % 7 == 3 and epoch == 2:
                raise optuna.TrialPruned
        if trial.number == 5:
            raise ValueError("loss is nan")
        return 0.3 * abs(np.log10(rate) + 2) - 0.1 * momentum

    made.optimize(objective, n_trials=24, catch=(ValueError,))
    return path


def test_anybody_s_study_gets_a_page_and_a_table(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = foreign.read_bytes()
    page = tmp_path / "page.html"
    assert cli.main(["report", str(foreign), "--out", str(page)]) == 0
    out, last = printed(capsys)
    assert "study theirs: 24 trials" in out
    assert "rate" in out
    assert last["best"]["rate"] == "0.00631 to 0.0251"
    html = page.read_text()
    assert "An Optuna study" in html
    assert "(low is good)" in html
    assert "kind &lt;b&gt;" in html
    assert "<b>" not in html.split("</style>")[1].split("kind &lt;")[0][-20:]
    for title in ("Best so far", "The search", "What matters", "How the trials learnt"):
        assert f"<h2>{title}</h2>" in html
    assert "final round" not in html.lower()
    assert foreign.read_bytes() == before


def test_a_storage_url_with_a_study_s_name(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", f"sqlite:///{foreign}", "--study", "theirs"]) == 0
    assert printed(capsys)[1]["report"] == "report.html"
    assert (tmp_path / "report.html").exists()
    assert cli.main(["report", f"sqlite:///{foreign}", "--study", "other"]) == 1
    assert "holds no study 'other'; there are: theirs" in capsys.readouterr().err


class Waiting:
    """Trains until told to go on, from the fourth trial on."""

    epochs = 2

    def __init__(self) -> None:
        self.n = 0
        self.go = threading.Event()

    def __call__(self, values, seed, stop, report):
        self.n += 1
        if self.n == 4:
            assert self.go.wait(60)
        report(0.1)
        report(additive(values))
        return TrialResult(additive(values), 1.0, [0.1, additive(values)])


def test_a_running_search_is_reported_on_and_not_disturbed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"command": "search"}))
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "no trial yet" in capsys.readouterr().err
    settings = SearchSettings(trials=6, workers=1, finalists=1, replicates=2, agent="dyna-q")
    objective, results = Waiting(), []
    search = threading.Thread(
        target=lambda: results.append(run_search(SPACE, objective, settings, tmp_path / "study.db"))
    )
    search.start()
    end = time.monotonic() + 60
    while objective.n < 4:
        assert time.monotonic() < end
        time.sleep(0.02)
    for given in (tmp_path, tmp_path / "study.db"):
        assert cli.main(["report", str(given)]) == 0
        out, last = printed(capsys)
        assert "4 trials (3 complete, 1 running)" in out
        assert last["finished"] is False
        assert last["report"] == str(tmp_path / "report.html")
    objective.go.set()
    search.join(60)
    (result,) = results
    assert len(result.trials) == 6
    assert all(trial["state"] == "complete" for trial in result.trials)


def test_another_study_in_a_search_s_file_is_reported_on_as_the_advice_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.json").write_text(json.dumps({"command": "search"}))
    settings = SearchSettings(trials=3, workers=1, finalists=1, replicates=2, agent="random")
    objective = Waiting()
    objective.go.set()
    run_search(SPACE, objective, settings, tmp_path / "study.db")
    assert cli.main(["report", str(tmp_path), "--study", "finals"]) == 1
    advice = f"give {tmp_path / 'study.db'} to look at another"
    assert advice in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "study.db"), "--study", "finals"]) == 0
    assert "study finals:" in printed(capsys)[0]
    assert (tmp_path / "finals.html").exists()  # and the search's own page is as it was


def test_scores_too_large_to_square_are_refused_by_their_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "large.db"
    made = optuna.create_study(study_name="large", storage=f"sqlite:///{path}")
    scores = iter((1.0, 2.0, -3.0, -1e300, 5.0))
    made.optimize(lambda trial: next(scores) + trial.suggest_int("a", 0, 3), n_trials=5)
    assert cli.main(["report", str(path)]) == 1
    told = capsys.readouterr()
    assert "study large: trial 3 scored -1e+300, and a report works with" in told.err
    assert not told.out


def test_bad_uses_are_refused_with_the_reason(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert cli.main(["report", *arguments]) == 1
        return capsys.readouterr().err

    assert "no such file" in refused(str(tmp_path / "nothing"))
    assert "settings.json: No such file" in refused(str(tmp_path))
    mine = tmp_path / "thesis.html"
    mine.write_text("years of work")
    assert "was not written by melbandit" in refused(str(foreign), "--out", str(mine))
    assert mine.read_text() == "years of work"
    assert cli.main(["report", str(foreign), "--out", str(mine), "--overwrite"]) == 0
    assert "Written by melbandit" in mine.read_text()
    assert cli.main(["report", str(foreign), "--out", str(mine)]) == 0  # our own page
    capsys.readouterr()
    assert "is a folder" in refused(str(foreign), "--out", str(tmp_path))
    (tmp_path / "settings.json").write_text(json.dumps({"command": "convert"}))
    assert "a run of convert has no page" in refused(str(tmp_path))
    (tmp_path / "settings.json").write_text(json.dumps({"settings": {}}))  # of a made corpus
    assert "holds no run; give the folder that finetune" in refused(str(tmp_path))
    (tmp_path / "settings.json").write_text(json.dumps({"command": "search"}))
    assert "the study of a search is called trials" in refused(str(tmp_path), "--study", "x")
