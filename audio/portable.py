"""The code that a saved model carries, so that transformers loads it where melbandit is not.

It is melbandit's own modules, those that the model needs, side by side: `audio/mel.py` is
`melbandit_mel.py` there. Nothing else is changed but the imports.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

_PREFIX = "melbandit_"
_ENTRIES = ("model_config", "classifier", "feature_extraction")
_IMPORT = re.compile(r"^(\s*)from audio\.(\w+) import ", re.M)

#: What transformers is to load for its Auto classes, in config.json and preprocessor_config.json.
MODEL_AUTO_MAP = {
    "AutoConfig": f"{_PREFIX}model_config.SpectrogramClassifierConfig",
    "AutoModelForAudioClassification": f"{_PREFIX}classifier.SpectrogramClassifier",
}
EXTRACTOR_AUTO_MAP = {
    "AutoFeatureExtractor": f"{_PREFIX}feature_extraction.SpectrogramFeatureExtractor"
}


def code_files() -> dict[str, str]:
    """Return the text of each file that a model folder carries, by its name."""
    here = Path(__file__).parent
    if Path(__file__).name.startswith(_PREFIX):  # such a copy itself: passed on as it is
        return {p.name: p.read_text(encoding="utf-8") for p in here.glob(f"{_PREFIX}*.py")}
    head = f"# From melbandit {_version()} (Apache-2.0), audio/{{name}}.py; only imports differ.\n"
    files: dict[str, str] = {}
    todo = list(_ENTRIES)
    while todo:
        name = todo.pop()
        if f"{_PREFIX}{name}.py" in files:
            continue
        source = (here / f"{name}.py").read_text(encoding="utf-8")
        todo += [found[2] for found in _IMPORT.finditer(source)]
        moved = _IMPORT.sub(rf"\1from .{_PREFIX}\2 import ", source)
        files[f"{_PREFIX}{name}.py"] = head.format(name=name) + moved
    return files


def write_code(folder: Path) -> None:
    """Write the code into a model's folder."""
    for name, text in code_files().items():
        part = folder / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)


def _version() -> str:
    try:
        return metadata.version("melbandit")
    except metadata.PackageNotFoundError:
        return "(not installed)"
