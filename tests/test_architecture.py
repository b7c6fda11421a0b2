"""Imports point one way, and --help is not kept waiting by heavy packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("audio", "rl", "data", "scripts")
MODULES = sorted(path for package in OURS for path in (ROOT / package).glob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the full names of all modules that a file imports, at its top or in functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module in OURS:  # `from audio import report` imports audio.report
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def in_packages(*packages: str):
    return [pytest.param(p, id=named(p)) for p in MODULES if p.parent.name in packages]


def test_there_are_modules_to_check():
    assert {path.parent.name for path in MODULES} == set(OURS)
    assert imports(ROOT / "audio" / "train.py") >= {"audio.settings", "torch", "numpy"}


@pytest.mark.parametrize("path", in_packages("audio"))
def test_audio_imports_no_other_package_of_ours(path):
    assert not roots(imports(path)) & {"rl", "data", "scripts"}


@pytest.mark.parametrize("path", in_packages("rl"))
def test_rl_imports_no_other_package_of_ours(path):
    assert not roots(imports(path)) & {"audio", "data", "scripts"}


@pytest.mark.parametrize("path", in_packages("data"))
def test_data_imports_clips_and_settings_alone(path):
    names = {name for name in imports(path) if name.split(".")[0] in OURS}
    other = {name for name in names if not name.startswith("data.")}
    assert other <= {"audio.clips", "audio.tables", "audio.sound_files", "audio.settings"}


CORE = ("mdp", "planning", "policies", "values", "targets", "tuners", "space")
CORE += ("choices", "traces", "agents", "prediction", "control", "policy_gradient", "dyna")
CORE += ("bandits", "many")


@pytest.mark.parametrize("name", CORE)
def test_the_core_of_rl_needs_numpy_alone(name):
    names = roots(imports(ROOT / "rl" / f"{name}.py"))
    assert names <= {"numpy", "rl"} | set(sys.stdlib_module_names)


def test_what_the_core_of_rl_imports_needs_numpy_alone_too():
    """Else the core would need more through a detour."""
    todo = [f"rl.{name}" for name in CORE]
    seen = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        found = imports(ROOT / f"{name.replace('.', '/')}.py")
        assert roots(found) <= {"numpy", "rl"} | set(sys.stdlib_module_names), name
        todo += [inner for inner in found if inner.startswith("rl.")]


@pytest.mark.parametrize("name", ["settings", "prediction_settings"])
def test_the_settings_need_the_standard_library_alone(name):
    ours = {"audio.settings"}
    assert roots(imports(ROOT / "audio" / f"{name}.py") - ours) <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", in_packages(*OURS))
def test_no_test_is_imported_and_nothing_is_unpickled(path):
    assert not roots(imports(path)) & {"tests", "pickle", "pytest", "hypothesis"}


HEAVY = ("torch", "torchaudio", "transformers", "librosa", "optuna", "matplotlib", "numpy", "scipy")
HEAVY += ("sklearn", "pandas", "soundfile", "PIL")


@pytest.mark.parametrize(
    "name",
    ["cli", "convert", "finetune", "search", "predict", "play", "gridworld", "survey", "export"],
)
def test_a_script_is_imported_without_heavy_packages(name):
    code = f"import sys, scripts.{name}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_help_names_every_command_without_heavy_packages():
    code = (
        "import sys; from scripts.cli import main; main(['--help']);"
        f"print('HEAVY', *sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY"
    for command in ("convert", "finetune", "search", "predict"):
        assert command in done.stdout
