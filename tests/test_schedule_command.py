"""`finetune --schedule` end to end: its record, its page, killed and gone on, replayed, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audio.schedule_report import schedule_section
from data.synthetic import SyntheticSettings, write_corpus
from scripts import cli
from scripts.schedule import schedule_text
from tests.test_kill import kill_when, without_times

FAST = ["--n-mels", "24", "--hop-length", "320", "--threads", "1", "--epochs", "5"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "clips"
    write_corpus(root, SyntheticSettings(clips_per_class=8, sessions=4, clip_s=0.5))
    return root


@pytest.fixture(scope="module")
def done(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "exp3s"
    command = ["finetune", str(corpus), "--out", str(out), *FAST, "--schedule", "exp3s"]
    assert cli.main([*command, "--segment-epochs", "0.5", "--probe-percent", "15"]) == 0
    return out


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def told(out: Path) -> Any:
    """Return a run's results less its clock's."""
    made = without_times(read(out / "results.json"))
    made.get("schedule", {}).pop("schedule_seconds", None)
    return made


def test_a_scheduled_run_leaves_its_schedule_and_shows_it(done: Path, capsys: Any) -> None:
    made = read(done / "schedule.json")
    assert made == read(done / "results.json")["schedule"]
    assert made["schedule"] == "exp3s"
    names = made["factors"][0]["arms"]
    assert len(names) == 8
    n = made["n_steps"]
    assert len(made["segments"]) == -(-n // made["segment_steps"])
    learning = [s for s in made["segments"] if "reward" in s]
    ends = [s["first_step"] + made["segment_steps"] for s in learning]
    assert max(ends) <= made["release_step"] < n
    assert all(sum(s["chance"][0]) == pytest.approx(1) for s in made["segments"])
    page = (done / "report.html").read_text()
    assert "What was picked when" in page
    for name in names:
        assert name in page
    assert f"segment {len(made['segments'])}: " in page
    assert cli.main(["report", str(done), "--out", str(done / "report.html")]) == 0
    assert (done / "report.html").read_text() == page
    capsys.readouterr()
    print(schedule_text(made))
    said = capsys.readouterr().out
    assert f"schedule exp3s: {len(made['segments'])} segments" in said
    for k, name in enumerate(names):
        share = sum(s["arm"] == [k] for s in made["segments"]) / len(made["segments"])
        line = next(line for line in said.splitlines() if line.split()[:1] == [name])
        assert f"{share:.0%}" in line


def test_the_text_marks_the_segments_that_an_arm_was_held_in(done: Path) -> None:
    made = read(done / "schedule.json")
    lines = schedule_text(made, width=1000).splitlines()
    for arm, name in enumerate(made["factors"][0]["arms"]):
        marks = next(line for line in lines if line.split()[:1] == [name]).split()[-1]
        assert marks == "".join("#" if s["arm"] == [arm] else "." for s in made["segments"])


def test_the_same_command_again_only_says_what_it_found(
    done: Path, corpus: Path, capsys: Any
) -> None:
    command = ["finetune", str(corpus), "--out", str(done), *FAST]
    given = ["--schedule", "exp3s", "--segment-epochs", "0.5", "--probe-percent", "15"]
    assert cli.main([*command, *given]) == 0
    captured = capsys.readouterr()
    assert "already done" in captured.err
    assert "schedule exp3s" in captured.out
    assert cli.main(command) == 1
    assert "holds a run that differs in schedule" in capsys.readouterr().err
    assert cli.main([*command, *given, "--arms", "factored"]) == 1
    assert "differs in" in capsys.readouterr().err


@pytest.mark.parametrize("agent", ["q-learning", pytest.param("uniform", marks=pytest.mark.slow)])
def test_finetune_killed_and_resumed_picks_and_fits_the_same(
    agent: str, corpus: Path, tmp_path: Path
) -> None:
    command = ["finetune", str(corpus), *FAST, "--schedule", agent, "--segment-epochs", "1.5"]
    kill_when([*command, "--out", str(tmp_path / "a")], "epoch 2:")
    assert (tmp_path / "a" / "work" / "checkpoint.safetensors").exists()
    for out in ("a", "b"):
        assert cli.main([*command, "--out", str(tmp_path / out)]) == 0
    assert told(tmp_path / "a") == told(tmp_path / "b")
    weights = [(tmp_path / out / "model.safetensors").read_bytes() for out in "ab"]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_folds_have_a_schedule_each_and_go_on_after_a_kill(corpus: Path, tmp_path: Path) -> None:
    command = ["finetune", str(corpus), *FAST, "--draw-folds", "2", "--schedule", "ucb-window"]
    kill_when([*command, "--out", str(tmp_path / "a")], "fold 1: test accuracy")
    kill_when([*command, "--out", str(tmp_path / "a")], "epoch 2:")
    for out in ("a", "b"):
        assert cli.main([*command, "--out", str(tmp_path / out)]) == 0
    for fold in ("fold-1", "fold-2"):
        one, other = (read(tmp_path / out / fold / "schedule.json") for out in "ab")
        assert one["segments"] == other["segments"]
    results = read(tmp_path / "a" / "results.json")
    assert [fold["fold"] for fold in results["schedules"]] == ["1", "2"]
    for fold in results["schedules"]:
        assert fold["schedule"]["n_clips"] == 20  # of its own training side, two of them the probe
        assert len(fold["schedule"]["probe"]["out"]) == 2
    page = (tmp_path / "a" / "report.html").read_text()
    assert "What was picked when: fold 2" in page


def test_a_schedule_is_replayed_from_its_file(
    done: Path, corpus: Path, tmp_path: Path, capsys: Any
) -> None:
    given = ["--schedule", str(done / "schedule.json")]
    command = ["finetune", str(corpus), *FAST, *given]
    assert cli.main([*command, "--out", str(tmp_path / "again"), "--keep-probe-out"]) == 0
    assert "replayed from a run by exp3s" in capsys.readouterr().out
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        done / "model.safetensors"
    ).read_bytes()
    assert cli.main([*command, "--out", str(tmp_path / "free")]) == 0
    capsys.readouterr()
    mine, theirs = (read(path / "schedule.json") for path in (tmp_path / "free", done))
    assert mine["segments"] == theirs["segments"]
    assert (tmp_path / "free" / "model.safetensors").read_bytes() != (
        done / "model.safetensors"
    ).read_bytes()
    other = ["--schedule", str(tmp_path / "free" / "schedule.json")]  # a replay's own record
    command = ["finetune", str(corpus), *FAST, *other, "--out", str(tmp_path / "free")]
    assert cli.main(command) == 0  # the same schedule, so the same run
    assert "already done" in capsys.readouterr().err


def test_pictures_can_be_scheduled_with_a_note(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    images = tmp_path / "images"
    assert cli.main(["convert", str(corpus), "--out", str(images), "--n-mels", "24",
                     "--hop-length", "320"]) == 0  # fmt: skip
    command = ["finetune", str(images), "--out", str(tmp_path / "m"), "--epochs", "3"]
    assert cli.main([*command, "--threads", "1", "--schedule", "epsilon-greedy"]) == 0
    captured = capsys.readouterr()
    assert "only masks, warp and mixing act" in captured.err
    assert "schedule epsilon-greedy" in captured.out


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (["--schedule", "greedy"], 2, "schedule='greedy' is not one of: none, uniform, exp3s"),
        (["--schedule", "no.json"], 1, "no.json: No such file"),
        (["--schedule", "bad.json"], 1, "bad.json: no schedule"),
        (["--schedule", "exp3s", "--arms", "mine"], 1, "arms='mine' is not one of: presets"),
        (["--schedule", "exp3s", "--arms", "bad.json"], 1, "bad.json: arms: "),
        (["--schedule", "exp3s", "--probe-percent", "0.5"], 2, "probe_percent=0.5 is below"),
    ],
)
def test_what_cannot_be_is_told_in_a_line_before_anything_is_written(
    given: list[str], code: int, words: str, corpus: Path, tmp_path: Path, capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text('{"a": 1}')
    command = ["finetune", str(corpus), "--out", str(tmp_path / "m"), *given]
    if code == 2:
        with pytest.raises(SystemExit) as end:
            cli.main(command)
        assert end.value.code == 2
    else:
        assert cli.main(command) == 1
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "m").exists()


def test_a_file_that_is_no_object_is_no_schedule(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "list.json"
    path.write_text("[1]")
    command = ["finetune", str(corpus), "--out", str(tmp_path / "m"), "--schedule", str(path)]
    assert cli.main(command) == 1
    assert "list.json: no schedule" in capsys.readouterr().err


def test_the_section_shows_factors_one_by_one_and_uniform_without_a_belief() -> None:
    made = {
        "schedule": "q-learning", "n_steps": 6, "steps_per_epoch": 3, "segment_steps": 3,
        "release_step": 3, "schedule_seconds": 0.1,
        "probe": {"by": "group", "out": [1, 2], "scored": [1]},
        "factors": [{"name": "speed", "arms": ["off", "on"]},
                    {"name": "<b>", "arms": ["x", "y"]}],
        "segments": [
            {"first_step": 0, "arm": [1, 0], "chance": [[0.25, 0.75], [0.5, 0.5]],
             "worth": [[0.0, 0.0], [0.0, 0.0]], "loss": 1.0, "reward": -0.5},
            {"first_step": 3, "arm": [0, 0], "chance": [[1.0, 0.0], [1.0, 0.0]],
             "worth": [[0.0, -0.5], [-0.5, 0.0]]},
        ],
    }  # fmt: skip
    section = schedule_section(made)
    assert "segment 1: on, chance 75" in section.body
    assert "segment 2: on, worth -0.50" in section.body
    assert "<b>" not in section.body.replace("<b></b>", "")
    assert "whole groups" in section.lead
    uniform = schedule_section({"schedule": "uniform", "operations": {"gain": {}, "speed": {}}})
    assert "gain, speed" in uniform.lead
    assert "No segment" in schedule_section(made | {"segments": []}).body
