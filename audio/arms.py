"""What a schedule may choose from: named presets, or factors with strengths, of the augmentation.

An arm is nothing but values of `AugmentationSettings`, so an operation that is added there is added
here by a line in `presets` or `factors`, and in `OPERATIONS` for the rule `uniform`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from audio.settings import AugmentationSettings, SettingsError, SettingsGroup, setting

Values = Mapping[str, float]
Choice = tuple[int, ...]
"""What was picked: the number of an arm in each factor."""

#: What `--schedule` takes besides a file.
AGENTS = ("exp3s", "epsilon-greedy", "ucb-window", "q-learning")
RULES = ("none", "uniform", *AGENTS)


@dataclass(frozen=True)
class ScheduleSettings(SettingsGroup):
    """Who picks the augmentation while the network trains."""

    schedule: str = "none"
    """none: the augmentation as it is set. exp3s, epsilon-greedy, ucb-window, q-learning: an agent
    picks it anew for every segment. uniform: TrivialAugment's rule. Or the schedule.json of an
    earlier run, to be replayed."""
    arms: str = "operations"
    """What the agent picks from: operations (one of uniform's for half of the clips, uniform's rule
    for the rest); presets; factored (strengths of masking, mixing, noise with filter, and speed);
    or a JSON file {factor: {arm: {setting: value}}}."""
    segment_epochs: float = setting(1.0, low=0.1, high=100.0)
    """How long an arm is held, in epochs."""
    probe_percent: float = setting(8.0, low=1.0, high=50.0)
    """Share of the training clips that are kept out of the training, clean, for the agent's reward
    to be measured on. uniform and a replay keep none."""
    learn_percent: float = setting(60.0, low=10.0, high=100.0)
    """Share of the training after which the agent has learnt enough: from then on it picks by what
    it believes, explores no more, and the probe's clips are trained on like any other."""
    keep_probe_out: bool = False
    """With a schedule.json: keep its run's probe out again, which repeats that run to the last
    digit."""

    def check_rules(self) -> None:
        if self.schedule not in RULES and not self.is_file:
            known = ", ".join(RULES)
            raise SettingsError(
                f"schedule={self.schedule!r} is not one of: {known}; nor a .json file."
            )
        if self.keep_probe_out and not self.is_file:
            raise SettingsError(
                f"keep_probe_out belongs to a replayed schedule.json, not to schedule="
                f"{self.schedule}; leave it out."
            )

    @property
    def is_file(self) -> bool:
        """Whether a schedule is to be replayed."""
        return self.schedule.endswith(".json")


def all_off() -> dict[str, float]:
    """Return the values of `AugmentationSettings` with which nothing is varied.

    >>> all_off()["gain_db"]
    0.0
    """
    none = AugmentationSettings.none()
    made = {}
    for spec in fields(none):
        value = getattr(none, spec.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            made[spec.name] = float(value)
    return made


def presets() -> dict[str, dict[str, Values]]:
    """Return eight whole augmentations; what one does not name is off."""
    short: dict[str, dict[str, float]] = {
        "none": {},
        "mild": {
            "gain_db": 6.0, "shift_percent": 10.0, "frequency_mask_percent": 15.0,
            "time_mask_percent": 15.0,
        },
        "masks": {"frequency_mask_percent": 30.0, "time_mask_percent": 30.0},
        "level-shift": {"gain_db": 12.0, "shift_percent": 25.0},
        "speed": {"speed_percent": 15.0},
        "noise-filter": {"noise_percent": 60.0, "noise_snr_db": 5.0, "filter_db": 10.0},
        "mixup": {"mixup_percent": 60.0},
        "everything": {
            "gain_db": 6.0, "shift_percent": 5.0, "frequency_mask_percent": 20.0,
            "time_mask_percent": 20.0, "speed_percent": 10.0, "noise_percent": 30.0,
            "noise_snr_db": 5.0, "filter_db": 6.0,
        },
    }  # fmt: skip
    return {"preset": {name: {**all_off(), **values} for name, values in short.items()}}


def factors() -> dict[str, dict[str, Values]]:
    """Return four knobs, each with its strengths; the rest stays as the run's settings have it."""
    return {
        "masking": {
            name: {"frequency_mask_percent": percent, "time_mask_percent": percent}
            for name, percent in (("off", 0.0), ("mild", 15.0), ("strong", 40.0))
        },
        "mixing": {
            name: {"mixup_percent": percent} for name, percent in (("off", 0.0), ("on", 50.0))
        },
        "noise-filter": {
            name: {"noise_percent": percent, "noise_snr_db": 5.0, "filter_db": filter_db}
            for name, percent, filter_db in (
                ("off", 0.0, 0.0), ("mild", 30.0, 5.0), ("strong", 70.0, 12.0),
            )
        },
        "speed": {
            name: {"speed_percent": percent}
            for name, percent in (("off", 0.0), ("mild", 8.0), ("strong", 20.0))
        },
    }  # fmt: skip


@dataclass(frozen=True)
class Arms:
    """Factors, each with named arms; a pick is one arm of each.

    >>> arms = Arms({"speed": {"off": {"speed_percent": 0}, "on": {"speed_percent": 20}}})
    >>> arms.augmentation((1,), AugmentationSettings()).speed_percent, arms.name((1,))
    (20, 'on')
    """

    factors: Mapping[str, Mapping[str, Values]]
    emphasis: float = 0.0
    """0: all clips are varied by what was picked. Else the arms are `OPERATIONS` and none, and each
    clip gets the picked one with this chance, else one of all evenly."""

    def __post_init__(self) -> None:
        self._check()
        for number, factor in enumerate(self.factors.values()):
            for arm in range(len(factor)):  # their ranges, before anything is trained
                choice = [0] * len(self.factors)
                choice[number] = arm
                self.augmentation(tuple(choice), AugmentationSettings())

    def _check(self) -> None:
        if self.emphasis and (not 0 < self.emphasis < 1 or self.factors != operations()):
            raise SettingsError(
                f"arms: emphasis={self.emphasis} belongs to the arms called operations, and must "
                "be from 0 to 1; give 0."
            )
        known = {spec.name for spec in fields(AugmentationSettings)}
        taken: dict[str, str] = {}
        if not isinstance(self.factors, Mapping) or not self.factors:
            raise SettingsError("arms: there is no factor; give {factor: {arm: {setting: value}}}.")
        for name, factor in self.factors.items():
            if not isinstance(factor, Mapping) or len(factor) < 2:
                raise SettingsError(f"arms: {name} has fewer than 2 arms to pick from; add one.")
            mine: set[str] = set()
            for arm, values in factor.items():
                if not isinstance(values, Mapping):
                    raise SettingsError(f"arms: {name}, {arm}: give {{setting: value}}.")
                mine |= set(values)
                unknown = sorted(set(values) - known)
                if unknown:
                    raise SettingsError(
                        f"arms: {name}, {arm}: no setting of the augmentation is called "
                        f"{', '.join(unknown)}; there are: {', '.join(sorted(known))}."
                    )
            for each in sorted(mine):
                if each in taken:
                    raise SettingsError(
                        f"arms: {each} is set by {taken[each]} and by {name}; one factor can have "
                        "it."
                    )
                taken[each] = name

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of arms of each factor."""
        return tuple(len(factor) for factor in self.factors.values())

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """Names of the arms of each factor."""
        return tuple(tuple(factor) for factor in self.factors.values())

    def name(self, choice: Choice) -> str:
        """Return a pick in words; of several factors, as `speed=on`."""
        each = [names[arm] for names, arm in zip(self.names, choice, strict=True)]
        if len(each) == 1:
            return each[0]
        return ", ".join(f"{f}={arm}" for f, arm in zip(self.factors, each, strict=True))

    def augmentation(self, choice: Choice, base: AugmentationSettings) -> AugmentationSettings:
        """Return `base` with the values of the arms picked.

        Raises:
            SettingsError: a value is out of its range.
        """
        values: dict[str, Any] = {}
        for factor, arm in zip(self.factors.values(), choice, strict=True):
            values |= list(factor.values())[arm]
        return replace(base, **values)

    def to_json(self) -> dict[str, Any]:
        """Return the factors JSON-ready."""
        return {f: {a: dict(v) for a, v in arms.items()} for f, arms in self.factors.items()}


def arms_of(name: str) -> Arms:
    """Return the arms called `presets`, `factored` or `operations`, or those of a JSON file.

    Raises:
        SettingsError: there is no such file, or it holds no arms.
    """
    if name == "presets":
        return Arms(presets())
    if name == "factored":
        return Arms(factors())
    if name == "operations":
        return Arms(operations(), EMPHASIS)
    if not name.endswith(".json"):
        raise SettingsError(
            f"arms={name!r} is not one of: presets, factored, operations; nor a .json file."
        )
    try:
        made = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{name}: {error.strerror}.") from None
    except ValueError as error:
        raise SettingsError(f"{name}: no JSON ({error}).") from None
    try:
        return Arms(made)
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from None


@dataclass(frozen=True)
class Operation:
    """One operation at its greatest strength, for `uniform`; the strength itself is drawn for each
    clip by `audio.augment`, evenly from nothing to this.

    drawn: the field of a draw that it acts through. still: that field's value without it.
    """

    values: Values
    drawn: str
    still: float


#: Of TrivialAugment's kind: one clip, one label. Mixing clips is none of them, as in the paper.
OPERATIONS: Mapping[str, Operation] = {
    "gain": Operation({"gain_db": 12.0}, "gain_db", 0.0),
    "shift": Operation({"shift_percent": 30.0}, "turn", 0.0),
    "speed": Operation({"speed_percent": 20.0}, "speed", 1.0),
    "noise": Operation({"noise_percent": 100.0, "noise_snr_db": 0.0}, "noise_snr_db", float("nan")),
    "filter": Operation({"filter_db": 12.0}, "filter_db", 0.0),
    "frequency-mask": Operation({"frequency_mask_percent": 50.0}, "mel_size", 0.0),
    "time-mask": Operation({"time_mask_percent": 50.0}, "frame_size", 0.0),
}


#: Half of the clips by what was picked, to tell the arms apart; the other half sees to it that no
#: segment is spent on one operation alone.
EMPHASIS = 0.5


def operations() -> dict[str, dict[str, Values]]:
    """Return the arms of `OPERATIONS`, in their order, and none of them as the last."""
    made: dict[str, Values] = {name: dict(one.values) for name, one in OPERATIONS.items()}
    return {"operation": {**made, "none": {}}}
