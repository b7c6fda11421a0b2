"""The scripts end to end, each as main([...]) on a few dozen clips."""

from __future__ import annotations

import base64
import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.backbones import preset_for
from audio.images import read_picture
from data.synthetic import SyntheticSettings, write_corpus
from scripts import cli
from scripts.pages import accuracy_words

FAST = ["--n-mels", "24", "--hop-length", "320", "--epochs", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "ten sounds"
    write_corpus(root, SyntheticSettings(clips_per_class=8, sessions=4, clip_s=0.5))
    return root


@pytest.fixture(scope="module")
def model(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "model"
    assert cli.main(["finetune", str(corpus), "--out", str(out), *FAST]) == 0
    return out


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


# --- the way in ---------------------------------------------------------------------------------


def test_help_names_every_command_and_needs_no_heavy_import() -> None:
    code = (
        "import sys\n"
        "from scripts import cli\n"
        "cli.main(['--help'])\n"
        "try: cli.main(['search', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'librosa', 'optuna', 'matplotlib', 'soundfile'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    for name in cli.COMMANDS:
        assert name in done.stdout
    assert "--minutes" in done.stdout


def test_an_unknown_command_and_an_unknown_option_exit_with_2(corpus: Path, tmp_path: Path) -> None:
    assert cli.main(["frobnicate"]) == 2
    with pytest.raises(SystemExit) as end:
        cli.main(["convert", str(corpus), "--out", str(tmp_path / "x"), "--n-melts", "3"])
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--n-mels", "2"], "n_mels=2 is below its least value 4"),
        (["--f-max-hz", "9000"], "exceeds the Nyquist frequency 8000 Hz"),
    ],
)
def test_an_illegal_setting_is_told_with_its_rule_and_exits_with_2(
    arguments: list[str],
    words: str,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["finetune", str(corpus), "--out", str(tmp_path / "m"), *arguments])
    assert end.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())  # the message is set in a box


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--test-groups", "nobody"], "no clip is in group nobody"),
        (["--backbone", "resnet"], "backbone='resnet' is not one of"),
    ],
)
def test_a_mistake_is_one_line_and_code_1(
    arguments: list[str],
    words: str,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["finetune", str(corpus), "--out", str(tmp_path / "m"), *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", ["finetune", "convert", "data", "compare"])
def test_fewer_than_no_workers_are_refused_before_anything_is_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"compare": [], "data": ["clips"]}.get(command, ["clips", "--out", str(tmp_path / "o")])
    assert cli.main([command, *given, "--workers", "-3"]) == 1
    assert "--workers -3 is below its least value 0" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_that_no_split_can_have_is_refused_with_its_range(
    seed: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["finetune", str(corpus), "--out", str(tmp_path / "m"), "--split-seed", seed])
    assert end.value.code == 2
    assert f"split_seed={seed} must be 0 to 4294967295" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("command", ["finetune", "search", "landscape"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "no settings in it; give the settings.json of a run, or a search's recommended"),
        ("[1]", "no settings in it"),
        ('{"settings": [1]}', "no settings in it"),
        ('{"settings": {"spectrogram": null}}', "no settings in it"),
        ('{"settings": {"spectrogram": {"n_mels": "64"}}}', "n_mels='64' must be a number"),
        ('{"settings": {"training": {"hue": 1}}}', "has no field hue"),
    ],
)
def test_a_settings_file_without_settings_is_told_by_name(
    command: str, text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    given = [command, "clips", "--out", str(tmp_path / "m"), "--settings", str(path)]
    assert cli.main(given) == 1
    assert re.search(rf"{re.escape(str(path))}: .*{re.escape(words)}", capsys.readouterr().err)


# --- convert ------------------------------------------------------------------------------------


def test_convert_writes_the_imagefolder_layout_and_goes_on_where_it_stopped(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "images"
    command = ["convert", str(corpus), "--out", str(out), "--n-mels", "24"]
    assert cli.main(command) == 0
    assert last_line(capsys)["pictures"] == 80
    pictures = sorted(out.glob("*/*/*.png"))
    assert len(pictures) == 80
    assert {p.parts[-3] for p in pictures} == {"train", "validation", "test"}
    for split in ("train", "validation", "test"):
        with (out / split / "metadata.csv").open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert {row["file_name"] for row in rows} == {
            p.relative_to(out / split).as_posix() for p in pictures if p.parts[-3] == split
        }
        assert all(row["file_name"].startswith(row["label"] + "/") for row in rows)
    assert (out / "contact_sheet.png").exists()
    assert (
        json.loads((out / "settings.json").read_text())["settings"]["spectrogram"]["clip_s"] == 0.5
    )
    # as if killed: some pictures and the end are missing, a torn one lies about
    kept = pictures[10].stat().st_mtime_ns
    for gone in (*pictures[:3], out / "results.json"):
        gone.unlink()
    (pictures[0].parent / "torn.png.part").write_bytes(b"half")
    assert cli.main(command) == 0
    assert last_line(capsys)["new"] == 3
    assert sorted(out.glob("*/*/*.png")) == pictures
    assert pictures[10].stat().st_mtime_ns == kept


def test_convert_refuses_other_settings_in_the_same_folder(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "images")
    assert cli.main(["convert", str(corpus), "--out", out, "--n-mels", "24"]) == 0
    assert cli.main(["convert", str(corpus), "--out", out, "--n-mels", "32"]) == 1
    assert "n_mels (24 there, 32 here)" in capsys.readouterr().err
    assert cli.main(["convert", str(corpus), "--out", out, "--n-mels", "32", "--overwrite"]) == 0
    picture = next(Path(out).glob("train/*/*.png"))
    assert read_picture(picture).pixels.shape[0] == 32


def test_a_folder_that_holds_no_run_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    command = ["convert", str(corpus), "--out", str(tmp_path), "--overwrite"]
    assert cli.main(command) == 1
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.fixture
def bad_folder(tmp_path: Path) -> Path:
    """Sixteen good clips, and one of each kind that users have lying about."""
    root = tmp_path / "clips with ünïcode"
    rng = np.random.default_rng(0)
    for label, hz in (("low", 300), ("high ♯", 2000)):
        (root / label).mkdir(parents=True)
        for i in range(8):
            t = np.arange(8000) / 16000
            tone = 0.3 * np.sin(2 * np.pi * hz * (1 + 0.05 * rng.standard_normal()) * t)
            soundfile.write(root / label / f"clip {i}.wav", tone, 16000)
    low = root / "low"
    good = (low / "clip 0.wav").read_bytes()
    (low / "corrupt.wav").write_bytes(good[:20] + b"\0" * 40)
    (low / "empty.wav").write_bytes(b"")
    (low / "text.wav").write_text("this is no sound\n" * 50)
    soundfile.write(low / "50ms.wav", rng.standard_normal(800) * 0.1, 16000)
    soundfile.write(low / "stereo.wav", rng.standard_normal((24000, 2)) * 0.1, 48000)
    soundfile.write(low / "silent.wav", np.zeros(8000), 16000)
    nan = np.full(8000, np.nan, np.float32)
    soundfile.write(low / "nan.wav", nan, 16000, subtype="FLOAT")
    return root


def test_bad_clips_are_named_one_a_line_and_the_rest_goes_through(
    bad_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("convert", "finetune"):
        out = tmp_path / command
        extra = FAST if command == "finetune" else []
        code = cli.main([command, str(bad_folder), "--out", str(out), *extra])
        captured = capsys.readouterr()
        assert code == 3
        told = [line for line in captured.err.splitlines() if "cannot use" in line]
        assert len(told) == 4
        for name, reason in {
            "corrupt.wav": "no",
            "empty.wav": "the file is empty",
            "text.wav": "not a sound file that can be read",
            "nan.wav": "8000 of its 8000 samples are NaN",
        }.items():
            assert sum(name in line and reason in line for line in told) == 1, name
        with (out / "failures.csv").open(newline="") as lines:
            assert len(list(csv.DictReader(lines))) == 4
        if command == "convert":
            made = {p.stem for p in out.glob("*/*/*.png")}
            assert {"50ms", "stereo", "silent", "clip 0"} <= made
            assert len(list(out.glob("*/*/*.png"))) == 19


def test_a_folder_without_a_usable_clip_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in "ab":
        (tmp_path / "in" / label).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "in" / label / f"{i}.wav").write_bytes(b"")
    assert cli.main(["convert", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    assert "no training clip" in capsys.readouterr().err


# --- finetune, predict, report ------------------------------------------------------------------


@pytest.mark.parametrize("command", ["finetune", "search", "folds"])
def test_a_run_is_held_to_the_recordings_behind_its_clips(
    command: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    street = tmp_path / "street"
    shutil.copytree(corpus / "wind", street)
    fit = ["finetune", str(corpus), "--out", str(tmp_path / "m"), *FAST, "--size", "nano"]
    if command == "search":
        fit = ["search", *fit[1:], "--space", "quick", "--trials", "1", "--workers", "1"]
        fit += ["--finalists", "1", "--replicates", "1", "--epochs", "1"]
    if command == "folds":
        fit += ["--draw-folds", "2", "--epochs", "1"]
    fit += ["--background-percent", "50", "--background-folder", str(street)]
    assert cli.main(fit) == 0
    for path in street.iterdir():  # a copy of equal names and sizes is the same
        path.touch()
    assert cli.main(fit) == 0
    assert "already done" in capsys.readouterr().err
    shutil.copy(corpus / "rain" / sorted(p.name for p in (corpus / "rain").iterdir())[0], street)
    assert cli.main(fit) == 1
    assert "holds a run that differs in backgrounds" in capsys.readouterr().err


def test_finetune_leaves_a_model_its_scores_and_a_page(model: Path, corpus: Path) -> None:
    results = json.loads((model / "results.json").read_text())
    assert [row["epoch"] for row in results["history"]] == [1, 2]
    for split in ("validation", "test"):
        scores = results[split]
        assert (
            scores["accuracy"]["low"] <= scores["accuracy"]["value"] <= scores["accuracy"]["high"]
        )
        assert np.sum(scores["confusion"]["counts"]) == scores["n"]
        assert set(scores["per_class"]) == set(results["labels"])
    with (model / "predictions.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    right = [row["label"] == row["predicted"] for row in rows if row["split"] == "test"]
    assert np.mean(right) == pytest.approx(results["test"]["accuracy"]["value"])
    with (model / "manifest.csv").open(newline="") as lines:
        split_of = {}
        for row in csv.DictReader(lines):
            assert split_of.setdefault(row["group"], row["split"]) == row["split"]
    assert not (model / "work").exists()
    page = (model / "report.html").read_text()
    assert "<svg" in page
    assert "data:image/png" in page


def test_the_temperature_is_in_the_model_and_on_the_page(model: Path) -> None:
    results = json.loads((model / "results.json").read_text())
    told = results["calibration"]
    config = json.loads((model / "config.json").read_text())
    assert config["calibration_temperature"] == told["temperature"] != 1
    page = (model / "report.html").read_text()
    assert "probabilities can be trusted" in page
    for scores in (told["test"], results["test"]):
        assert f"{scores['calibration_error']['value']:.3f}" in page
    assert results["validation"]["log_loss"] < told["validation"]["log_loss"]


def test_the_page_shows_what_predictions_of_test_clips_rest_on(model: Path) -> None:
    results = json.loads((model / "results.json").read_text())
    shown = results["explained"]
    assert shown
    with (model / "predictions.csv").open(newline="") as lines:
        scored = {row["path"]: row for row in csv.DictReader(lines) if row["split"] == "test"}
    page = (model / "report.html").read_text()
    assert "What predictions rest on" in page
    for row in shown:
        same = scored[row["caption"]]
        assert (row["label"], row["explained"]) == (same["label"], same["predicted"])
        assert row["probability"] == pytest.approx(float(same["probability"]), abs=2e-4)
        for name in row["files"].values():
            data = base64.b64encode((model / name).read_bytes()).decode()
            assert data in page


def test_the_model_card_is_what_the_hub_reads(model: Path) -> None:
    import yaml
    from huggingface_hub import ModelCard

    text = (model / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["library_name"] == "transformers"
    assert told["pipeline_tag"] == "audio-classification"
    assert "license" not in told  # the user's to name, in a line that is there
    assert "# license:" in front
    card = ModelCard.load(model / "README.md")
    results = json.loads((model / "results.json").read_text())
    scores = {score.metric_type: score.metric_value for score in card.data.eval_results}
    for name, kind in (("accuracy", "accuracy"), ("macro_f1", "f1")):
        assert scores[kind] == pytest.approx(results["test"][name]["value"], abs=1e-5)
    assert {score.dataset_name for score in card.data.eval_results} == {"ten sounds"}
    for label in results["labels"]:
        clips = {r["split"]: r["clips"] for r in results["corpus"] if r["label"] == label}
        row = [str(clips.get(split, 0)) for split in ("train", "validation", "test")]
        assert f"| {label} | {' | '.join(row)} |" in body
    assert "trust_remote_code=True" in body
    assert "`n_mels=24`" in body
    assert str(model.parent) not in text  # no path of this machine


def test_the_same_finetune_again_only_says_what_it_found(
    model: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert cli.main(["finetune", str(corpus), "--out", str(model), *FAST]) == 0
    captured = capsys.readouterr()
    assert "already done" in captured.err
    scores = json.loads((model / "results.json").read_text())["test"]
    low, high = scores["macro_f1"]["low"], scores["macro_f1"]["high"]
    assert f"{scores['macro_f1']['value']:.3f}  ({low:.3f} to {high:.3f})" in captured.out
    for label, row in scores["per_class"].items():
        (line,) = re.findall(rf"^  {label} +[\d.]+ +[\d.]+ +([\d.]+) +\d+$", captured.out, re.M)[
            -1:
        ]
        assert float(line) == pytest.approx(row["f1"], abs=5e-4)
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def test_predict_gives_what_finetune_scored(
    model: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (model / "predictions.csv").open(newline="") as lines:
        scored = {row["path"]: row for row in csv.DictReader(lines) if row["split"] == "test"}
    files = [str(corpus / path) for path in scored]
    capsys.readouterr()
    assert cli.main(["predict", str(model), *files, "--format", "csv", "--threads", "1"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == len(files)
    for row in rows:
        want = scored[Path(row["path"]).relative_to(corpus).as_posix()]
        assert row["label"] == want["predicted"]
        assert float(row["probability"]) == pytest.approx(float(want["probability"]), abs=2e-4)


def test_predict_reads_folders_long_files_and_names_what_it_cannot_use(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = np.random.default_rng(0).standard_normal(16000 * 7 + 123) * 0.1
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "long one.flac", sound, 16000)
    (tmp_path / "in" / "empty.wav").write_bytes(b"")
    command = ["predict", str(model), str(tmp_path / "in"), "--threads", "1", "--format", "jsonl"]
    assert cli.main([*command, "--windows"]) == 3
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert "empty.wav: the file is empty" in captured.err
    assert [row["start_s"] for row in rows[:3]] == [0.0, 0.5, 1.0]
    assert rows[-1]["end_s"] == pytest.approx(len(sound) / 16000)
    assert len(rows) == 15
    assert cli.main(command) == 3
    (whole,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    means = np.mean([list(row["probabilities"].values()) for row in rows], axis=0)
    np.testing.assert_allclose(list(whole["probabilities"].values()), means, atol=1e-6)
    assert cli.main(["predict", str(model), str(tmp_path / "nothing.wav")]) == 1


def test_the_readme_s_python_runs(model: Path, corpus: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    clip = next(corpus.glob("*/*.wav"))
    names: dict[str, object] = {}
    for block in blocks:
        exec(block.replace("runs/model", str(model)).replace("clip.wav", str(clip)), names)
    assert np.shape(names["probabilities"]) == (1, 10)
    assert np.sum(names["probabilities"]) == pytest.approx(1, abs=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["ast", "vit", "whisper-classifier"])
@pytest.mark.parametrize("preset", ["melbandit", "ast", "whisper"])
def test_a_checkpoint_is_fitted_to_pictures(
    kind: str,
    preset: str,
    corpus: Path,
    checkpoints: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images, out = tmp_path / "images", tmp_path / "m"
    assert cli.main(["convert", str(corpus), "--out", str(images), "--preset", preset]) == 0
    fit = ["finetune", str(images), "--out", str(out), "--backbone", checkpoints[kind]]
    fit += ["--epochs", "1", "--threads", "1"]
    code = cli.main(fit)
    said = capsys.readouterr().err
    if kind == "whisper-classifier" and preset != "whisper":  # its bands are fixed
        assert code == 1
        assert "set n_mels=80" in said
        return
    assert code == 0, said
    own = {"ast": "ast", "whisper-classifier": "whisper"}.get(kind) == preset
    assert ("not of the kind" in said) == (not own)
    made = json.loads((images / "settings.json").read_text())["settings"]
    made = made.get("spectrogram", made)
    fitted = json.loads((out / "config.json").read_text())["settings"]["spectrogram"]
    later = {"normalisation", "mean_db", "std_db"}  # the checkpoint's own
    assert {k: v for k, v in fitted.items() if k not in later} == {
        k: v for k, v in made.items() if k not in later
    }
    assert fitted["normalisation"] == preset_for(checkpoints[kind]).normalisation
    assert cli.main([*fit[:-4], "--overwrite", "--n-mels", "33"]) == 1
    assert "leave out n_mels" in capsys.readouterr().err


def test_predict_wants_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(tmp_path), str(tmp_path / "x.wav")]) == 1
    assert "no config.json" in capsys.readouterr().err


def test_report_writes_the_page_again(model: Path) -> None:
    page = (model / "report.html").read_text()
    (model / "report.html").unlink()
    assert cli.main(["report", str(model)]) == 0
    assert (model / "report.html").read_text() == page


def test_finetune_on_pictures_agrees_with_finetune_on_clips(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight bits apart: without augmentation both paths fit nearly the same network."""
    still = "gain-db shift-percent frequency-mask-percent time-mask-percent".split()
    off = [word for name in still for word in (f"--{name}", "0")]
    images = tmp_path / "images"
    convert = ["convert", str(corpus), "--out", str(images), "--n-mels", "24"]
    assert cli.main([*convert, "--hop-length", "320"]) == 0
    fit = [*off, "--epochs", "2", "--threads", "1"]
    assert cli.main(["finetune", str(images), "--out", str(tmp_path / "a"), *fit]) == 0
    assert cli.main(["finetune", str(corpus), "--out", str(tmp_path / "b"), *off, *FAST]) == 0
    one, other = (
        json.loads((tmp_path / name / "results.json").read_text())["history"] for name in "ab"
    )
    for mine, theirs in zip(one, other, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=2e-2)
    clip = str(next(corpus.glob("*/*.wav")))
    assert cli.main(["predict", str(tmp_path / "a"), clip, "--threads", "1"]) == 0
    assert cli.main(["finetune", str(images), "--out", str(tmp_path / "c"), "--n-mels", "32"]) == 1
    assert "pictures keep the settings" in capsys.readouterr().err


# --- search -------------------------------------------------------------------------------------


def test_show_space_prints_the_knobs_and_the_size(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search", str(corpus), "--out", str(tmp_path / "s"), "--space", "quick"]
    assert cli.main([*command, "--show-space"]) == 0
    printed = capsys.readouterr().out
    assert "normalisation" in printed
    assert not (tmp_path / "s").exists()


def test_a_length_of_clip_is_searched_from_one_that_is_given(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tmp_path / "space.toml"
    space.write_text('[[knob]]\nname = "clip_s"\nvalues = [0.2, 0.4]\n')
    command = ["search", str(corpus), "--out", str(tmp_path / "s"), "--space", str(space)]
    assert cli.main([*command, "--show-space"]) == 1
    assert "give --clip-s (0.2, 0.4)" in capsys.readouterr().err
    assert cli.main([*command, "--show-space", "--clip-s", "0.4"]) == 0


def test_a_search_s_page_says_which_clips_its_figure_is_of(corpus: Path, tmp_path: Path) -> None:
    command = ["search", str(corpus), "--out", str(tmp_path / "s"), "--space", "quick"]
    command += ["--trials", "1", "--workers", "1", "--finalists", "1", "--replicates", "1"]
    command += ["--hop-length", "320", "--epochs", "1", "--size", "nano", "--test-percent", "0"]
    assert cli.main(command) == 0
    page = (tmp_path / "s" / "report.html").read_text()
    results = json.loads((tmp_path / "s" / "results.json").read_text())["model"]
    assert f"of {results['validation']['n']} validation clips right" in page
    assert "By these clips the setting was chosen" in page
    assert "Scored once" not in page


def test_what_makes_a_figure_too_good_or_another_is_said_beside_it() -> None:
    scores = {
        "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6},
        "n": 20,
        "interval_over": "clips",
    }
    told = [words.replace("\xa0", " ") for words in accuracy_words({"test": scores})]
    assert told == [
        "50.0 % of 20 test clips right",
        "95 % interval 40.0 % to 60.0 % over clips",
        "",
    ]
    title, _, caveat = accuracy_words(
        {"validation": scores | {"micro_f1": {}}, "leakage": {"n": 1}}
    )
    assert title.endswith("of 20 validation clips right, with all their labels")
    assert "Leakage was allowed" in caveat


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:pa/sesame@127.0.0.1:1/db",
        "postgresql://127.0.0.1:1/db?user=me&password=sesame",
        "postgresql://me:sesame@127.0.0.1:1/db?sslmode=disable",
    ],
)
def test_no_record_holds_a_password(
    address: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in (["--storage", address], [f"--storage={address}"]):
        out = tmp_path / str(len(given))
        command = ["search", str(corpus), "--out", str(out), "--study", "x", *given]
        assert cli.main(command) == 1
        record = (out / "settings.json").read_text()
        assert "127.0.0.1:1/db" in record
        assert "sesame" not in record + capsys.readouterr().err


@pytest.mark.parametrize(
    "agent", ["epsilon-greedy", pytest.param("q-learning", marks=pytest.mark.slow)]
)
def test_search_finds_fits_and_reports(
    agent: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"
    command = ["search", str(corpus), "--out", str(out), "--space", "quick", "--agent", agent]
    command += ["--trials", "4", "--workers", "1", "--finalists", "1", "--replicates", "2"]
    command += ["--hop-length", "320", "--epochs", "1"]
    n_parts = 0
    if agent == "q-learning":
        command += ["--rotate-validation", "--pruner", "halving"]
    assert cli.main(command) == 0
    said = capsys.readouterr()
    if agent == "q-learning":
        n_parts = int(said.err.split("validation rotates over ")[1].split()[0])
    summary = json.loads(said.out.splitlines()[-1])
    results = json.loads((out / "results.json").read_text())
    assert [trial["number"] for trial in results["trials"]] == [0, 1, 2, 3]
    assert results["trials"][0]["default"]
    chosen = [json.dumps(trial["values"], sort_keys=True) for trial in results["trials"]]
    assert len(set(chosen)) == 4
    assert any(f["is_default"] for f in results["finalists"])
    means = [f["mean"] for f in results["finalists"]]
    if agent == "epsilon-greedy":
        assert results["best"]["believed"] == max(f["believed"] for f in results["finalists"])
    else:
        assert all(0 <= mean <= 1 for mean in means)
        assert [t["block"] for t in results["trials"]] == [k % n_parts for k in range(4)]
    assert summary["best"]["values"] == results["best"]["values"]
    assert "test" in results["model"]
    page = (out / "report.html").read_text()
    for knob in results["best"]["values"]:
        assert knob in page
    assert cli.main(command) == 0
    assert "already done" in capsys.readouterr().err
    larger = [word.replace("4", "5") if word == "4" else word for word in command]
    assert cli.main(larger) == 0
    longer = json.loads((out / "results.json").read_text())
    assert [trial["values"] for trial in longer["trials"][:4]] == [
        trial["values"] for trial in results["trials"]
    ]
    assert len(longer["trials"]) == 5
    results = longer
    page = (out / "report.html").read_text()
    for title in ("What matters", "What each setting is believed to do", "What it cost"):
        assert title in page
    assert ("The evidence" in page) == (not results["best"]["is_default"])
    assert "How the trials learnt" not in page  # a single epoch is no curve
    own = f"What {agent} itself keeps of each setting"
    assert own in page  # these agents keep a table of their own
    capsys.readouterr()
    assert cli.main(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == page
    assert last_line(capsys)["best"] == results["best"]["values"]
    (out / "results.json").rename(out / "kept.json")  # as if the search were not done yet
    assert cli.main(["report", str(out / "study.db")]) == 0
    printed = capsys.readouterr()
    assert "5 trials (5 complete)" in printed.out
    unfinished = (out / "report.html").read_text()
    assert "A search so far" in unfinished
    assert "The final round so far" in unfinished
    assert own in unfinished
    (out / "kept.json").rename(out / "results.json")
    recommended = json.loads((out / "recommended.json").read_text())["settings"]
    fitted = json.loads((out / "model" / "config.json").read_text())["settings"]
    for knob, value in results["best"]["values"].items():
        group = next(g for g in recommended if knob in recommended[g])
        assert recommended[group][knob] == value == fitted[group][knob]
    told = shlex.split(results["recommendation"]["command"])
    assert told[0] == "melbandit"
    assert cli.main([*told[1:-1], str(tmp_path / "m"), "--threads", "1"]) == 0
    assert (
        json.loads((out / "recommended.json").read_text())["settings"]["training"]["threads"] == 0
    )
    flags = ["--threads", "1", "--overwrite", "--freeze-backbone"]  # also over settings of a file
    assert cli.main([*told[1:-1], str(tmp_path / "frozen"), *flags]) == 0
    frozen = json.loads((tmp_path / "frozen" / "settings.json").read_text())["settings"]
    assert frozen["training"]["freeze_backbone"] is True
    tuned = json.loads((tmp_path / "m" / "results.json").read_text())
    assert tuned["test"]["confusion"] == results["model"]["test"]["confusion"]
    fitted = json.loads((tmp_path / "m" / "config.json").read_text())["settings"]
    for knob, value in results["best"]["values"].items():
        group = next(g for g in fitted if knob in fitted[g])
        assert fitted[group][knob] == value
