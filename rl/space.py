"""What an agent may choose: knobs, their values, and which knobs exist when.

A `SearchSpace` is also the model of the Markov decision process that a search is
(Sutton & Barto, chapter 3): the state is the choices made so far, and
`next_knob` is its transition, known and deterministic. Only the reward, the
score at the end, has to be learnt.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np

Value = str | int | float | bool | None
Setting = dict[str, Value]
Codes = np.ndarray[Any, np.dtype[np.int64]]

TOML_NONE = "null"
"""TOML has no null: this string stands for None in a space's file."""


class SpaceError(ValueError):
    """A search space, or a setting of one, breaks a rule; the message says which and why."""


@dataclass(frozen=True)
class Knob:
    """One setting that an agent may choose, and the values it may take.

    >>> Knob("noise_snr_db", (0.0, 10.0), ordered=True, when={"noise_percent": (50.0,)}).default
    0.0
    """

    name: str
    """Name of the setting it turns."""
    values: tuple[Value, ...]
    """The legal values, each a JSON scalar; no two of them equal."""
    default: Value | EllipsisType = ...
    """Value of the default setting; the first one where it is not given."""
    ordered: bool = False
    """The values form a scale, so a report draws them as a line."""
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    """The knob exists only where each of these earlier knobs has one of these values."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise SpaceError(f"a knob needs a name, not {self.name!r}.")
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "when", {k: tuple(v) for k, v in self.when.items()})
        if not self.values:
            raise SpaceError(f"knob {self.name} has no values; give at least one.")
        for i, value in enumerate(self.values):
            if value is not None and not isinstance(value, str | int | float):
                raise SpaceError(
                    f"knob {self.name} has the value {value!r}, which is no JSON scalar; "
                    "use text, numbers, true, false or null."
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise SpaceError(f"knob {self.name} has the value {value}; it must be finite.")
            if value in self.values[:i]:  # 1, 1.0 and True are equal, in Optuna too
                raise SpaceError(f"knob {self.name} has the value {value!r} twice; drop one.")
        if self.default is ...:
            object.__setattr__(self, "default", self.values[0])
        self.code(self.default)

    def code(self, value: Any) -> int:
        """Return the position of `value` among the knob's values: the action that chooses it.

        Raises:
            SpaceError: the knob has no such value.
        """
        try:
            return self.values.index(value)
        except ValueError:
            legal = ", ".join(map(str, self.values))
            raise SpaceError(f"{self.name}={value!r} is not one of: {legal}.") from None


class SearchSpace:
    """Knobs in the order in which they are chosen.

    A setting is a dict from the name of every knob that exists to its value. Its
    codes are an int vector, one entry a knob: the position of the value, or the
    number of values where the knob is absent, so absence is a value of its own.

    >>> space = SearchSpace([
    ...     Knob("noise_percent", (0.0, 50.0)),
    ...     Knob("noise_snr_db", (0.0, 10.0), when={"noise_percent": (50.0,)}),
    ... ])
    >>> space.size()
    3
    >>> space.next_knob({"noise_percent": 0.0}) is None
    True
    """

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self.knobs = tuple(knobs)
        if not self.knobs:
            raise SpaceError("a search space needs at least one knob.")
        earlier: dict[str, Knob] = {}
        for knob in self.knobs:
            if knob.name in earlier:
                raise SpaceError(f"two knobs are called {knob.name}; rename or drop one.")
            for name, values in knob.when.items():
                if name not in earlier:
                    raise SpaceError(
                        f"knob {knob.name} depends on {name}, which does not come before it; "
                        "move it down or drop the condition."
                    )
                for value in values:
                    earlier[name].code(value)
                if not values:
                    raise SpaceError(f"knob {knob.name} asks for no value of {name}; name some.")
            earlier[knob.name] = knob
        self._by_name = earlier
        self._position = {knob.name: i for i, knob in enumerate(self.knobs)}
        #: Values of each knob; also the code of its absence.
        self.n_values = np.array([len(knob.values) for knob in self.knobs])
        #: Where each knob's codes start when they are laid end to end (one-hot).
        self.offsets = np.concatenate([[0], np.cumsum(self.n_values + 1)])
        self._every: Codes | None = None
        self._codes: dict[tuple[tuple[str, Value], ...], Codes] = {}
        # for each conditional knob: (position, [(position of a knob, which of its codes will do)])
        self._conditions = [
            (i, [(p, np.isin(np.arange(self.n_values[p] + 1), codes)) for p, codes in tests])
            for i in range(len(self.knobs))
            if (tests := self.conditions(i))
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and self.knobs == other.knobs

    def __repr__(self) -> str:
        return f"SearchSpace({', '.join(knob.name for knob in self.knobs)})"

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, name: str) -> Knob:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def position(self, name: str) -> int:
        """Return the place of the knob called `name` in the order of choice."""
        return self._position[name]

    def exists(self, knob: Knob, chosen: Mapping[str, Value]) -> bool:
        """Return whether `knob` exists, given the choices made so far."""
        return all(n in chosen and chosen[n] in values for n, values in knob.when.items())

    def next_knob(self, chosen: Mapping[str, Value]) -> Knob | None:
        """Return the knob to choose after `chosen`, or None where the setting is complete."""
        for knob in self.knobs:
            if knob.name not in chosen and self.exists(knob, chosen):
                return knob
        return None

    def check(self, chosen: Mapping[str, Value]) -> None:
        """Hold a setting to the space.

        Raises:
            SpaceError: an unknown knob or value, a knob missing, or one that does not exist here.
        """
        for name, value in chosen.items():
            self._check_name(name)
            self[name].code(value)
        for knob in self.knobs:
            if self.exists(knob, chosen) and knob.name not in chosen:
                raise SpaceError(f"the setting lacks {knob.name}; give it a value.")
            if knob.name in chosen and not self.exists(knob, chosen):
                raise SpaceError(f"{knob.name} does not exist in this setting; leave it out.")

    def holds(self, chosen: Mapping[str, Value]) -> bool:
        """Return whether `chosen` is a setting of this space."""
        try:
            self.check(chosen)
        except SpaceError:
            return False
        return True

    def default(self) -> Setting:
        """Return the setting in which every knob has its default value."""
        return self.complete({})

    def complete(self, given: Mapping[str, Value]) -> Setting:
        """Return the setting with the given values where their knobs exist, defaults elsewhere.

        Raises:
            SpaceError: an unknown knob, or a value that a knob of the setting has not.
        """
        for name in given:
            self._check_name(name)
        chosen: Setting = {}
        while (knob := self.next_knob(chosen)) is not None:
            chosen[knob.name] = given.get(knob.name, knob.default)  # type: ignore[arg-type]
            knob.code(chosen[knob.name])
        return chosen

    def _check_name(self, name: str) -> None:
        if name not in self:
            raise SpaceError(f"the search space has no knob {name}.")

    def describe(self) -> str:
        """Return the knobs with their values, the default in brackets, and how many settings."""
        width = max(len(knob.name) for knob in self.knobs)
        lines = []
        for knob in self.knobs:
            values = "  ".join(f"[{v}]" if v == knob.default else str(v) for v in knob.values)
            only = [f"{name} is {' or '.join(map(str, v))}" for name, v in knob.when.items()]
            condition = f"   (only where {' and '.join(only)})" if only else ""
            lines.append(f"{knob.name:<{width}}  {values}{condition}")
        return "\n".join([*lines, f"{len(self.knobs)} knobs, {self.size():,} settings"])

    def size(self) -> int:
        """Return the number of distinct settings."""
        # Settings are counted by the choices that a later condition looks at.
        counts: dict[tuple[tuple[str, Value], ...], int] = {(): 1}
        for i, knob in enumerate(self.knobs):
            asked = {name for later in self.knobs[i + 1 :] for name in later.when}
            grown: dict[tuple[tuple[str, Value], ...], int] = {}
            for kept, count in counts.items():
                values = knob.values if self.exists(knob, dict(kept)) else (...,)
                for value in values:
                    chosen = kept if value is ... else (*kept, (knob.name, value))
                    key = tuple(pair for pair in chosen if pair[0] in asked)
                    grown[key] = grown.get(key, 0) + count
            counts = grown
        return sum(counts.values())

    def settings(self, fixed: Mapping[str, Value] | None = None) -> Iterator[Setting]:
        """Yield every setting, in order; of the knobs in `fixed`, only with that value."""
        fixed = fixed or {}

        def grow(chosen: Setting) -> Iterator[Setting]:
            knob = self.next_knob(chosen)
            if knob is None:
                yield chosen
                return
            for value in (fixed[knob.name],) if knob.name in fixed else knob.values:
                yield from grow({**chosen, knob.name: value})

        return grow({})

    def every(self, limit: int) -> Codes | None:
        """Return the codes of every setting, (n, n_knobs), or None where the choices, conditions
        aside, are more than `limit`. Not to be written to."""
        if math.prod(self.n_values.tolist()) > limit:
            return None
        if self._every is None:
            grid = np.indices(self.n_values.tolist()).reshape(len(self.knobs), -1).T
            self._every = np.unique(self.settle(grid), axis=0)
        return self._every

    def codes_of(self, pairs: tuple[tuple[str, Value], ...]) -> Codes:
        """Return what `encode` does of (knob, value) pairs, kept for the next time they come. Not
        to be written to."""
        if pairs not in self._codes:
            self._codes[pairs] = self.encode(dict(pairs))
        return self._codes[pairs]

    def encode(self, chosen: Mapping[str, Value]) -> Codes:
        """Return the codes of a setting, int64 (n_knobs,)."""
        return np.array(
            [k.code(chosen[k.name]) if k.name in chosen else len(k.values) for k in self.knobs]
        )

    def decode(self, codes: Codes) -> Setting:
        """Return the setting that `encode` gave these codes."""
        return {
            knob.name: knob.values[code]
            for knob, code in zip(self.knobs, codes, strict=True)
            if code < len(knob.values)
        }

    def conditions(self, position: int) -> list[tuple[int, list[int]]]:
        """Return what the knob at `position` depends on: (position of a knob, its legal codes)."""
        return [
            (self._position[name], [self._by_name[name].code(value) for value in values])
            for name, values in self.knobs[position].when.items()
        ]

    def settle(self, codes: Codes) -> Codes:
        """Return codes (n, n_knobs) made legal: knobs whose condition fails become absent,
        and absent ones whose condition holds take their default."""
        codes = codes.copy()
        for i, tests in self._conditions:
            exists = np.ones(len(codes), dtype=bool)
            for parent, legal in tests:
                exists &= legal[codes[:, parent]]
            absent = self.n_values[i]
            default = self.knobs[i].code(self.knobs[i].default)
            present = np.where(codes[:, i] == absent, default, codes[:, i])
            codes[:, i] = np.where(exists, present, absent)
        return codes

    def draw(self, rng: np.random.Generator, n: int) -> Codes:
        """Return the codes (n, n_knobs) of random settings: every knob uniform."""
        return self.settle(rng.integers(0, self.n_values, size=(n, len(self.knobs))))

    def to_json(self) -> list[dict[str, Any]]:
        """Return the knobs as JSON-ready dicts."""
        return [
            {
                "name": knob.name,
                "values": list(knob.values),
                "default": knob.default,
                "ordered": knob.ordered,
                "when": {name: list(values) for name, values in knob.when.items()},
            }
            for knob in self.knobs
        ]

    @classmethod
    def from_json(cls, knobs: Sequence[Mapping[str, Any]]) -> SearchSpace:
        """Return the space that `to_json` wrote; only `name` and `values` are needed.

        Raises:
            SpaceError: an unknown key, or knobs that break a rule.
        """
        known = {"name", "values", "default", "ordered", "when"}
        made = []
        for knob in knobs:
            name = knob.get("name", "without a name")
            if unknown := sorted(set(knob) - known):
                raise SpaceError(f"knob {name} has no key {unknown[0]}; it may have: "
                                 f"{', '.join(sorted(known))}.")  # fmt: skip
            if missing := sorted({"name", "values"} - set(knob)):
                raise SpaceError(f"knob {name} lacks {missing[0]}.")
            if not isinstance(knob["values"], list | tuple):
                raise SpaceError(f"knob {name}: values={knob['values']!r} must be a list.")
            made.append(Knob(**knob))
        return cls(made)

    @classmethod
    def from_toml(cls, path: Path) -> SearchSpace:
        """Return the space in a TOML file of `[[knob]]` tables; "null" stands for None.

        Raises:
            SpaceError: the file is no TOML, or a knob breaks a rule; the path is in the message.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
            if set(tables) != {"knob"} or not isinstance(tables["knob"], list):
                raise SpaceError("the file must hold [[knob]] tables and nothing else.")
            return cls.from_json(json.loads(json.dumps(tables["knob"]), object_hook=_nulls))
        except (SpaceError, tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
            raise SpaceError(f"{path}: {error}") from error


def _nulls(table: dict[str, Any]) -> dict[str, Any]:
    def null(value: Any) -> Any:
        return None if value == TOML_NONE else value

    return {
        key: [null(v) for v in value] if isinstance(value, list) else null(value)
        for key, value in table.items()
    }
