"""The notes are true: their snippets run, their commands exist, their tables point to something."""

from __future__ import annotations

import ast
import contextlib
import csv
import doctest
import io
import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from scripts import cli

ROOT = Path(__file__).parents[1]
NOTES = ROOT / "docs" / "notes"
DOCUMENTS = sorted(NOTES.glob("*.md"))

PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)


def snippets(text: str) -> str:
    """Return the python blocks of a document, every one on its own lines and the rest blank."""
    kept, inside = [], False
    for line in text.splitlines():
        fence = line.startswith("```")
        inside = line == "```python" if fence and not inside else inside and not fence
        kept.append(line if inside and not fence else "")
    return "\n".join(kept) + "\n"


def shell_blocks(text: str) -> list[str]:
    """Return the `sh` blocks of a document, continued lines joined."""
    return [block.replace("\\\n", " ") for block in re.findall(r"```sh\n(.*?)```", text, re.S)]


def rows_of_table(text: str) -> list[list[str]]:
    """Return the cells of the table that says where each idea lives."""
    (table,) = re.findall(r"^\| idea \|.*\n\|[-| ]*\n((?:\|.*\n)+)", text, re.M)
    return [[cell.strip() for cell in row.strip("|\n ").split("|")] for row in table.splitlines()]


@cache
def held(path: Path) -> frozenset[str]:
    """Return what a module holds: functions, classes, their members, constants, what it imports."""
    names: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{node.name}.")
            elif isinstance(node, ast.ImportFrom):  # whoever reads the module is led on from there
                names.update(alias.asname or alias.name for alias in node.names)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(prefix + node.target.id)
            elif isinstance(node, ast.Assign):
                names.update(prefix + t.id for t in node.targets if isinstance(t, ast.Name))

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return frozenset(names)


def test_there_are_two_sets_of_notes():
    assert [path.stem for path in DOCUMENTS] == ["audio", "reinforcement-learning"]


@each_document
def test_every_snippet_gives_what_the_notes_say(path):
    text = path.read_text(encoding="utf-8")
    shown = doctest.DocTestParser().get_doctest(snippets(text), {}, path.name, str(path), 0)
    assert len(shown.examples) > 40
    assert text.count(">>> ") == snippets(text).count(">>> "), "a prompt outside a python block"
    told = io.StringIO()
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(shown, out=told.write)
    assert result.failed == 0, told.getvalue()


@each_document
def test_every_idea_leads_to_code_and_to_a_test_that_exist(path):
    rows = rows_of_table(path.read_text(encoding="utf-8"))
    assert len(rows) >= 15
    for idea, code, tests in rows:
        for cell, pattern in ((code, r"`([\w/]+\.py)(?:: ([\w.]+))?`"),
                              (tests, r"`([\w/]+\.py)::(\w+)`")):  # fmt: skip
            found = re.findall(pattern, cell)
            assert found, f"{idea}: nothing in {cell!r}"
            assert cell.count("`") == 2 * len(found), f"{idea}: {cell!r} is written otherwise"
            for file, name in found:
                assert (ROOT / file).is_file(), f"{idea}: there is no {file}"
                assert not name or name in held(ROOT / file), f"{idea}: {file} has no {name}"


@each_document
def test_every_picture_is_there_small_and_drawn_by_the_script(path):
    text = path.read_text(encoding="utf-8")
    pictures = PICTURE.findall(text)
    assert pictures
    for words, file in pictures:
        assert len(words) > 20, f"{file} needs words for those who cannot see it"
        assert (NOTES / file).stat().st_size < 60_000, file
        with Image.open(NOTES / file) as image:
            assert image.width <= 1400
    for target in re.findall(r"(?<!!)\[[^\]]*\]\((?!http)([^)#]+)", text):
        assert (NOTES / target).exists(), target


def test_no_picture_is_left_over():
    shown = {file for path in DOCUMENTS
             for _, file in PICTURE.findall(path.read_text(encoding="utf-8"))}  # fmt: skip
    assert shown == {path.name for path in NOTES.glob("*.png")}


@each_document
def test_links_within_a_document_lead_to_its_headings(path):
    text = path.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for target in re.findall(r"\]\(#([^)]*)\)", text):
        assert target in headings


@cache
def flags(command: str) -> frozenset[str]:
    """Return every option of a melbandit command, as its help prints them."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return frozenset(re.findall(r"--[\w-]+", told.getvalue()))


@each_document
def test_every_command_and_flag_in_the_notes_exists(path):
    commands = [
        shlex.split(line, comments=True)
        for block in shell_blocks(path.read_text(encoding="utf-8"))
        for line in block.splitlines()
        if line.strip().startswith("melbandit")
    ]
    assert commands
    for _, command, *rest in commands:
        assert command in cli.COMMANDS, command
        for word in rest:
            if word.startswith("--"):
                assert word in flags(command), f"melbandit {command} has no {word}"


# --- the two worked examples, on archives of the same layout ------------------------------------


def write_tone(path: Path, hz: float, seconds: float, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(16000 * seconds)) / 16000
    wave = 0.3 * np.sin(2 * np.pi * hz * t) + 0.01 * rng.standard_normal(len(t))
    soundfile.write(path, wave.astype(np.float32), 16000, subtype="PCM_16")


def example(command: str, heading: str, replaced: dict[str, str]) -> list[str]:
    """Return the first such command below a heading, some of its words replaced."""
    text = (NOTES / "audio.md").read_text(encoding="utf-8")
    below = text[text.index(f"\n## {heading}") :]
    for block in shell_blocks(below):
        for line in block.splitlines():
            if line.strip().startswith(f"melbandit {command} "):
                for old, new in replaced.items():
                    assert old in line, f"{old} is not in {line}"
                    line = line.replace(old, new)
                return shlex.split(line)[1:]
    raise AssertionError(f"no melbandit {command} below {heading}")


def test_the_urbansound8k_example_runs_on_its_layout(tmp_path, rng, checkpoints):
    root = tmp_path / "UrbanSound8K" / "audio"
    for fold in range(1, 4):  # as published, but three folds of ten
        for label in range(2):
            for recording in range(3):
                name = 1000 * fold + 10 * label + recording
                write_tone(root / f"fold{fold}" / f"{name}-{label}-0-{recording}.wav",
                           400 + 2000 * label, 0.5, rng)  # fmt: skip
    (root / "fold1" / ".DS_Store").write_bytes(b"as in the published archive")
    out = tmp_path / "out"
    words = example("finetune", "Worked example: UrbanSound8K", {
        "UrbanSound8K/audio": str(root),
        "runs/us8k": str(out),
        "MIT/ast-finetuned-audioset-10-10-0.4593": checkpoints["ast"],
    })  # fmt: skip
    assert cli.main([*words, "--epochs", "1", "--threads", "1"]) == 0
    with (out / "out_of_fold.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 18
    for row in rows:  # the file names tell fold, recording and class
        assert row["fold"] == row["group"][0]
        assert row["label"] == row["group"][2]
    config = json.loads((out / "fold-1" / "config.json").read_text(encoding="utf-8"))
    assert config["settings"]["spectrogram"]["n_mels"] == 128  # AST's own


def test_the_keyword_example_runs_on_its_layout(tmp_path, rng, checkpoints):
    text = (NOTES / "audio.md").read_text(encoding="utf-8")
    (head,) = re.findall(r"```csv\n(.*?)```", text, re.S)
    columns = head.splitlines()[0]
    rows = [columns]
    for speaker in ("ama", "esi", "kofi", "yaw", "abena"):
        for i, word in enumerate(("aane", "daabi")):
            for take in range(2):
                file = f"clips/{speaker}/{word}-{take}.wav"
                write_tone(tmp_path / file, 400 + 2000 * i, 0.6, rng)
                rows.append(f"{file},{word},{speaker}")
    table = tmp_path / "keywords.csv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    out, surveyed = tmp_path / "out", tmp_path / "surveyed.csv"
    words = example("data", "Worked example: keywords", {
        " keywords.csv": f" {table}",
        "runs/keywords.csv": str(surveyed),
    })  # fmt: skip
    assert cli.main(words) == 0
    words = example("finetune", "Worked example: keywords", {
        "runs/keywords.csv": str(surveyed),
        "runs/keywords": str(out),
        "openai/whisper-tiny": checkpoints["whisper-asr"],
    })  # fmt: skip
    assert cli.main([*words, "--epochs", "1", "--threads", "1"]) == 0
    words = example("predict", "Worked example: keywords", {
        "runs/keywords": str(out),
        "recording.wav": str(tmp_path / "clips" / "ama" / "aane-0.wav"),
    })  # fmt: skip
    assert cli.main(words) == 0


@pytest.mark.slow
def test_the_script_draws_the_pictures_that_are_committed(tmp_path):
    subprocess.run([sys.executable, str(NOTES / "draw.py"), str(tmp_path)], check=True, cwd=ROOT)
    drawn, kept = ({p.name: p for p in folder.glob("*.png")} for folder in (tmp_path, NOTES))
    assert set(drawn) == set(kept)
    for name, path in drawn.items():
        with Image.open(path) as new, Image.open(kept[name]) as old:
            assert new.size == old.size, name
            # palettes may differ by a shade where a library's rounding does
            change = np.abs(np.asarray(new.convert("L"), int) - np.asarray(old.convert("L"), int))
            assert (change > 40).mean() < 0.01, name
