"""`import audio` makes melbandit's models known to transformers, without importing it.

transformers' Auto classes live in modules that take seconds to import, which `melbandit --help`
must not. So the import system is asked to tell when one of them has been imported, and only then
are our classes registered there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from audio.model_config import SpectrogramClassifierConfig as Config

    AutoConfig.register(Config.model_type, Config, exist_ok=True)


def _register_extractor() -> None:
    from transformers.models.auto.feature_extraction_auto import AutoFeatureExtractor

    from audio.feature_extraction import SpectrogramFeatureExtractor
    from audio.model_config import SpectrogramClassifierConfig as Config

    AutoFeatureExtractor.register(Config, SpectrogramFeatureExtractor, exist_ok=True)


def _register_model() -> None:
    from transformers.models.auto.modeling_auto import AutoModelForAudioClassification

    from audio.classifier import SpectrogramClassifier
    from audio.model_config import SpectrogramClassifierConfig as Config

    AutoModelForAudioClassification.register(Config, SpectrogramClassifier, exist_ok=True)


_WHEN_IMPORTED: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.feature_extraction_auto": _register_extractor,
    "transformers.models.auto.modeling_auto": _register_model,
}


class _Finder(MetaPathFinder):
    """Finds what Python itself would find, and has our classes registered after its import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        register = _WHEN_IMPORTED.get(fullname)
        if register is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            register()

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def register_when_needed() -> None:
    """Register our classes with transformers' Auto classes: now where those are imported already,
    else when they are."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _Finder())
    for name, register in _WHEN_IMPORTED.items():
        if name in sys.modules:
            register()
