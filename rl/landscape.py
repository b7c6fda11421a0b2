"""A table of measured trainings as an objective: every setting of a space, several seeds each.

Tuners are compared on it at no cost: a trial is a look into the table. It holds numbers only:
how many validation and test clips each network had right after each epoch.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from rl.policies import Floats
from rl.space import Codes, SearchSpace, Value

FORMAT = 1


class LandscapeError(ValueError):
    """A landscape file cannot be read or does not hold what was asked for."""


@dataclass(frozen=True)
class Landscape:
    """What every setting of a space scored.

    space: the knobs; settings are numbered in the order of `space.settings()`. validation, test:
    share of clips right, float32 (n_settings, n_seeds, n_epochs). seconds: of each training,
    float32 (n_settings, n_seeds). about: how it was measured, JSON-ready.
    """

    name: str
    space: SearchSpace
    validation: NDArray[np.float32]
    test: NDArray[np.float32]
    seconds: NDArray[np.float32]
    about: Mapping[str, Any]

    def __post_init__(self) -> None:
        n = self.space.size()
        if self.validation.shape[0] != n or self.test.shape != self.validation.shape:
            raise LandscapeError(
                f"{self.name}: scores of shape {self.validation.shape} and {self.test.shape} for "
                f"{n} settings; measure it anew."
            )
        codes = np.array([self.space.encode(s) for s in self.space.settings()])
        object.__setattr__(self, "codes", codes)
        rows = {tuple(row): i for i, row in enumerate(codes.tolist())}
        object.__setattr__(self, "_rows", rows)

    codes: Codes = None  # type: ignore[assignment]
    """Of every setting, int (n_settings, n_knobs)."""

    def __len__(self) -> int:
        return len(self.validation)

    @property
    def n_seeds(self) -> int:
        """Trainings of each setting."""
        return int(self.validation.shape[1])

    @property
    def n_epochs(self) -> int:
        """Epochs of each training."""
        return int(self.validation.shape[2])

    def row(self, setting: Mapping[str, Value]) -> int:
        """Return the number of a setting.

        Raises:
            LandscapeError: it is not in the table.
        """
        key = tuple(self.space.encode(setting).tolist())
        rows: dict[tuple[int, ...], int] = self._rows  # type: ignore[attr-defined]
        if key not in rows:
            raise LandscapeError(f"{self.name} holds no setting {dict(setting)}.")
        return rows[key]

    def mean(self, split: str = "validation") -> Floats:
        """Return each setting's score after the last epoch, mean over seeds, (n_settings,)."""
        return np.asarray(getattr(self, split)[:, :, -1].mean(1), float)

    def save(self, path: Path) -> None:
        """Write the table, compressed; scores as counts of clips where `about` gives their number
        (`n_validation`, `n_test`).

        The file holds no pickled object.
        """
        text = json.dumps(
            {
                "format": FORMAT,
                "name": self.name,
                "space": self.space.to_json(),
                "about": dict(self.about),
            }
        )
        scores = {split: getattr(self, split) for split in ("validation", "test")}
        for split in scores:
            if n := self.about.get(f"n_{split}"):
                scores[split] = np.rint(scores[split] * n).astype(np.uint16)
        # epoch first: neighbours in the file are alike, and compress better
        with path.open("wb") as file:
            np.savez_compressed(
                file,
                header=np.frombuffer(text.encode(), np.uint8),
                seconds=self.seconds.astype(np.float16),
                **{split: np.moveaxis(score, -1, 0) for split, score in scores.items()},
            )

    @classmethod
    def load(cls, path: Path) -> Landscape:
        """Return the table that `save` wrote.

        Raises:
            LandscapeError: the file is no landscape, or of a newer version.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                parts = {name: file[name] for name in file.files}
            header = json.loads(parts["header"].tobytes().decode())
            if header["format"] > FORMAT:
                raise LandscapeError(f"{path}: written by a newer melbandit; upgrade to read it.")
            about = header["about"]
            scores = {}
            for split in ("validation", "test"):
                n = about[f"n_{split}"] if parts[split].dtype.kind == "u" else 1  # counts
                scores[split] = np.moveaxis(parts[split], 0, -1) / n
            return cls(
                name=header["name"],
                space=SearchSpace.from_json(header["space"]),
                seconds=parts["seconds"].astype(np.float32),
                about=about,
                **{split: score.astype(np.float32) for split, score in scores.items()},
            )
        except LandscapeError:
            raise
        # what numpy, zip, JSON and a look into them raise where a file is empty, cut off or another
        except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError,
                BadZipFile, zlib.error) as error:  # fmt: skip
            raise LandscapeError(
                f"{path}: no landscape ({type(error).__name__}: {error})."
            ) from None


_SHIPPED = Path(__file__).parent / "landscapes"


def shipped_names() -> list[str]:
    """Return the names of the landscapes that come with melbandit."""
    return sorted(path.stem for path in _SHIPPED.glob("*.npz"))


def shipped(name: str) -> Landscape:
    """Return a landscape that comes with melbandit.

    Raises:
        LandscapeError: there is none of this name.
    """
    if name not in shipped_names():
        raise LandscapeError(
            f"no landscape {name!r} comes with melbandit; there are: {', '.join(shipped_names())}; "
            "a file needs its ending .npz."
        )
    return Landscape.load(_SHIPPED / f"{name}.npz")


def additivity(
    landscape: Landscape, *, split: str = "validation", n_folds: int = 10, seed: int = 0
) -> dict[str, float]:
    """Return how much of the settings' mean scores main effects and pairs of knobs explain.

    `R^2` of ridge regressions on one-hot values, and on these with all pairs, cross-validated over
    settings; beside them the share of the variance that is not the noise of the mean over seeds,
    which no model can pass: `1 - var(seeds) / n_seeds / var(means)`, NaN of a single seed.
    """
    scores = getattr(landscape, split)[:, :, -1].astype(float)
    y = scores.mean(1)
    if y.std() < 1e-9:  # all alike: there is nothing to explain
        return {"main": 0.0, "main and pairs": 0.0, "ceiling": 0.0}
    n_seeds = landscape.n_seeds
    noise = float(scores.var(1, ddof=1).mean()) / n_seeds if n_seeds > 1 else math.nan
    fold = np.random.default_rng(seed).permutation(len(y)) % n_folds
    n_values = [len(knob.values) for knob in landscape.space.knobs]
    made = {"main": _one_hot(landscape.codes, n_values)}
    singles = made["main"]
    pairs = [singles[:, i, None] * singles[:, None, j] for i, j in _slices(n_values)]
    made["main and pairs"] = np.hstack([singles, *[p.reshape(len(y), -1) for p in pairs]])
    result = {name: _ridge_r2(x, y, fold) for name, x in made.items()}
    return result | {"ceiling": 1 - noise / float(y.var())}


def _slices(n_values: Sequence[int]) -> list[tuple[slice, slice]]:
    ends = np.cumsum([0, *n_values])
    parts = [slice(int(a), int(b)) for a, b in pairwise(ends)]
    return [(a, b) for i, a in enumerate(parts) for b in parts[i + 1 :]]


def _one_hot(codes: Codes, n_values: Sequence[int]) -> Floats:
    # an absent knob (a condition fails) has the code n_values, and no column
    columns = [codes[:, i, None] == np.arange(n) for i, n in enumerate(n_values)]
    return np.hstack(columns).astype(float)


def _ridge_r2(x: Floats, y: Floats, fold: NDArray[Any], *, strength: float = 1.0) -> float:
    missed = 0.0
    for k in range(int(fold.max()) + 1):
        seen, held = fold != k, fold == k
        centre, mean = x[seen].mean(0), y[seen].mean()
        z = x[seen] - centre
        weights = np.linalg.solve(z.T @ z + strength * np.eye(z.shape[1]), z.T @ (y[seen] - mean))
        missed += float(((y[held] - mean - (x[held] - centre) @ weights) ** 2).sum())
    return 1 - missed / float(((y - y.mean()) ** 2).sum())
