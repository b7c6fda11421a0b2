"""What varies the clips while one training runs: fixed, by a rule, by an agent, or as another run.

`fine_tune` asks a `Schedule` before every step and tells it what came of the step. `AgentSchedule`
holds an arm for a segment and asks a `Picker` for the next; that is all that it knows of an agent,
so nothing here knows `rl`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from audio.arms import OPERATIONS, Arms, Choice
from audio.probe import Probe, ProbeScorer
from audio.progress_reward import SMOOTHING, ProgressReward
from audio.settings import AugmentationSettings, Settings, SettingsError, fingerprint
from audio.variation import Variation, draw_emphasised, draw_one_each, one_each

if TYPE_CHECKING:
    from torch import Tensor

    from audio.classifier import SpectrogramClassifier
    from audio.team import Team

State = tuple[int, int]
"""Third of the training, 0 to 2; how far the probe's loss is above the training's, 0 to 2."""

_PARTS = 4
"""Moments of a segment's second half at which a part of the probe is scored each: what one step
does to the loss averages out, and a part is compared with itself a segment earlier."""
_PART_CLIPS = 16  # fewer are hardly cheaper to score
_GAPS = (0.0, 0.25)  # edges of the gap's bins, in nats


class Picker(Protocol):
    """An agent, as a training sees it."""

    def pick(self, state: State, *, settled: bool = False) -> Choice:
        """Return an arm of every factor; settled: by what is believed, without exploring, and no
        reward will follow."""

    def observe(self, reward: float, state: State) -> None:
        """Learn from the reward, in [-1, 1], of what was picked last; `state` is the one after."""

    def belief(self, state: State, *, settled: bool = False) -> dict[str, list[list[float]]]:
        """Return by factor and arm the `chance` of its being picked, and what it is held `worth`
        in rewards."""

    def to_json(self) -> dict[str, Any]:
        """Return the agent's whole state JSON-ready, its generator's included."""

    def restore(self, made: dict[str, Any]) -> None:
        """Take the state that `to_json` wrote."""


@dataclass(frozen=True)
class Course:
    """The training that a schedule is for."""

    examples: Any
    """The training side: `audio.train.Examples`."""
    settings: Settings
    n_steps: int
    steps_per_epoch: int
    team: Team | None = None
    """The processes that fit together: the first one scores the probe and tells the others."""


class Schedule:
    """The augmentation as it is set, throughout; what others do otherwise they override."""

    course: Course
    out: NDArray[np.int64] = np.empty(0, np.int64)
    """Rows of the training side that are not trained on before `release_step`."""
    release_step: int = 0
    """First step, of an epoch, from which on nothing is kept out."""

    def begin(self, course: Course) -> None:
        """Get ready for a training, from its first step on."""
        self.course = course
        self._fixed = Variation(course.settings.augmentation)
        n = len(course.examples.targets)
        if len(self.out) and not 0 <= self.out.min() <= self.out.max() < n:
            raise SettingsError(f"the probe has clip {self.out.max()}, but {n} clips train.")

    def order(self, order: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Return an epoch's order without the rows kept out, and with as many of its first ones
        again, so that an epoch has as many steps as without a probe."""
        if not len(self.out) or epoch * self.course.steps_per_epoch >= self.release_step:
            return order
        kept = order[~np.isin(order, self.out)]
        return np.resize(kept, len(order))

    def variation(
        self, step: int, batch: int, rng: np.random.Generator, model: SpectrogramClassifier
    ) -> Variation:
        """Return what varies the batch of a step; steps are asked for in order."""
        return self._fixed

    def after(self, step: int, model: SpectrogramClassifier, loss: Tensor, rate: float) -> None:
        """Take note of a step's learning rate and of this process's part of the batch's mean loss;
        `model` is the one after it."""

    def identity(self) -> dict[str, Any] | None:
        """Return what another schedule would differ in, JSON-ready."""
        return None

    def fingerprint(self) -> str:
        """Return 12 hex digits of the identity."""
        return fingerprint(self.identity())

    def state(self) -> dict[str, Any]:
        """Return where it stands after a step, JSON-ready."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` wrote; `begin` was called."""

    def record(self) -> dict[str, Any]:
        """Return what it did, JSON-ready: schedule.json, which `replay` takes."""
        return {}


class UniformSchedule(Schedule):
    """TrivialAugment's rule: each clip gets one operation or none, and a strength, by chance."""

    def begin(self, course: Course) -> None:
        super().begin(course)
        self._settings = one_each(course.settings.augmentation)

    def variation(
        self, step: int, batch: int, rng: np.random.Generator, model: SpectrogramClassifier
    ) -> Variation:
        return draw_one_each(rng, self._settings, batch)

    def identity(self) -> dict[str, Any]:
        operations = {name: dict(operation.values) for name, operation in OPERATIONS.items()}
        return {"schedule": "uniform", "operations": operations}

    def record(self) -> dict[str, Any]:
        return self.identity()


class _Held:
    """What a pick does to a batch; settings are checked once a pick, not once a batch."""

    def __init__(self, arms: Arms, base: AugmentationSettings) -> None:
        self.arms, self.base = arms, base
        self._made: dict[Choice, Variation] = {}
        self._one_each = one_each(base) if arms.emphasis else None

    def variation(self, choice: Choice, batch: int, rng: np.random.Generator) -> Variation:
        """Return what varies the batch where `choice` was picked."""
        if self._one_each is not None:
            return draw_emphasised(
                rng, self._one_each, batch, arm=choice[0], emphasis=self.arms.emphasis
            )
        if choice not in self._made:
            self._made[choice] = Variation(self.arms.augmentation(choice, self.base))
        return self._made[choice]


class AgentSchedule(Schedule):
    """An agent picks an arm for every segment and is rewarded by the probe.

    Args:
        name: the agent's.
        picker: the agent.
        arms: what it picks from.
        probe: clips of the training side that its reward is measured on.
        segment_epochs: how long an arm is held.
        learn_percent: share of the training after which the agent is settled, the probe is scored
            no more, and its clips are trained on.
    """

    def __init__(
        self,
        name: str,
        picker: Picker,
        arms: Arms,
        probe: Probe,
        *,
        segment_epochs: float = 1.0,
        learn_percent: float = 60.0,
    ) -> None:
        self.name, self.picker, self.arms, self.probe = name, picker, arms, probe
        self.segment_epochs, self.learn_percent = segment_epochs, learn_percent
        self.smoothing = SMOOTHING
        """Of the probe's loss; see `ProgressReward`."""
        self.out = probe.out
        self.segments: list[dict[str, Any]] = []
        self.seconds = 0.0
        """What picking and scoring took."""

    def begin(self, course: Course) -> None:
        super().begin(course)
        self.segments, self.seconds = [], 0.0
        self.segment_steps = max(1, round(self.segment_epochs * course.steps_per_epoch))
        learning = self.learn_percent / 100 * course.n_steps
        self.release_step = math.ceil(learning / course.steps_per_epoch) * course.steps_per_epoch
        n_parts = len(self.probe.scored) // _PART_CLIPS
        n_parts = max(1, min(_PARTS, self.segment_steps, n_parts))
        self._scorer = ProbeScorer(course.examples, self.probe, n_parts=n_parts)
        n, half = len(self._scorer.parts), self.segment_steps // 2
        last = self.segment_steps - 1
        self._moments = [last - (n - 1 - part) * half // n for part in range(n)]
        self._reward = ProgressReward(self.smoothing)
        self._state: State = (0, 0)
        self._held = _Held(self.arms, course.settings.augmentation)
        self._clear()

    def _clear(self) -> None:
        self._scored = [0.0, 0.0, 0]  # cross-entropy, the same smoothed, clips
        self._loss: Tensor | float = 0.0
        self._rate = 0.0

    def variation(
        self, step: int, batch: int, rng: np.random.Generator, model: SpectrogramClassifier
    ) -> Variation:
        if step % self.segment_steps == 0:
            started = time.perf_counter()
            if self._reward.loss is None:
                for part in range(len(self._scorer.parts)):
                    self._score(model, part)
                self._reward.start(self._scored[0] / self._scored[2])
                self._clear()
            self._state = (min(2, 3 * step // self.course.n_steps), self._state[1])
            settled = step >= self.release_step
            belief = self.picker.belief(self._state, settled=settled)
            choice = self.picker.pick(self._state, settled=settled)
            self.segments.append(
                {"first_step": step, "arm": list(choice), "state": list(self._state), **belief}
            )
            self.seconds += time.perf_counter() - started
        return self._held.variation(tuple(self.segments[-1]["arm"]), batch, rng)

    def after(self, step: int, model: SpectrogramClassifier, loss: Tensor, rate: float) -> None:
        team = self.course.team
        self._loss = self._loss + (loss if team is None else team.add(loss))  # on its device
        self._rate += rate
        place = step % self.segment_steps
        # a clip that was trained on is never scored again
        if place not in self._moments or step >= self.release_step:
            return
        started = time.perf_counter()
        for part, moment in enumerate(self._moments):
            if moment == place:
                self._score(model, part)
        if place == self.segment_steps - 1:
            self._end(step)
        self.seconds += time.perf_counter() - started

    def _score(self, model: SpectrogramClassifier, part: int) -> None:
        team = self.course.team
        found = (0.0, 0.0, 0)
        if team is None or team.is_first:
            found = self._scorer.losses(model, part)
        if team is not None:  # or the processes might come to different picks
            found = team.tell(found)
        self._scored = [have + new for have, new in zip(self._scored, found, strict=True)]

    def _end(self, step: int) -> None:
        """Reward the segment that ended with this step."""
        plain, smooth = (total / self._scored[2] for total in self._scored[:2])
        gap = smooth - float(self._loss) / self.segment_steps
        reward = self._reward.after(plain, self._rate)
        third = min(2, 3 * (step + 1) // self.course.n_steps)
        self._state = (third, sum(gap > edge for edge in _GAPS))
        self.picker.observe(reward, self._state)
        self.segments[-1] |= {"loss": plain, "gap": gap, "reward": reward}
        self._clear()

    def identity(self) -> dict[str, Any]:
        return {
            "schedule": self.name,
            "arms": self.arms.to_json(),
            "emphasis": self.arms.emphasis,
            "segment_epochs": self.segment_epochs,
            "learn_percent": self.learn_percent,
            "smoothing": self.smoothing,
            "probe": {"out": self.probe.out.tolist(), "scored": self.probe.scored.tolist()},
        }

    def state(self) -> dict[str, Any]:
        return {
            "picker": self.picker.to_json(),
            "reward": self._reward.to_json(),
            "segments": self.segments,
            "state": list(self._state),
            "scored": self._scored,
            "loss": float(self._loss),
            "rate": self._rate,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.picker.restore(state["picker"])
        self._reward = ProgressReward(**state["reward"])
        self.segments = [dict(segment) for segment in state["segments"]]
        self._state = tuple(state["state"])
        self._scored, self._rate = list(state["scored"]), state["rate"]
        self._loss, self.seconds = state["loss"], state["seconds"]

    def record(self) -> dict[str, Any]:
        factors = [{"name": f, "arms": list(arms)} for f, arms in self.arms.factors.items()]
        return self.identity() | {
            "n_steps": self.course.n_steps,
            "steps_per_epoch": self.course.steps_per_epoch,
            "n_clips": len(self.course.examples.targets),
            "segment_steps": self.segment_steps,
            "release_step": self.release_step,
            "factors": factors,
            "probe": self.identity()["probe"] | {"by": self.probe.by},
            "segments": self.segments,
            "schedule_seconds": self.seconds,
        }


class FrozenSchedule(Schedule):
    """The arms that another run held, at the same places of this one.

    In a training of as many steps they are held at the very same steps; a longer or shorter one is
    cut in the same shares.

    Args:
        made: what an `AgentSchedule` recorded.
        keep_probe_out: train without that run's probe as long as it did; else nothing is kept out.
    """

    def __init__(self, made: dict[str, Any], *, keep_probe_out: bool = False) -> None:
        self.made, self.keep_probe_out = made, keep_probe_out
        self.arms = Arms(made["arms"], made["emphasis"])
        if keep_probe_out:
            self.out = np.array(made["probe"]["out"], np.int64)
        self._first = np.array([segment["first_step"] for segment in made["segments"]])

    def begin(self, course: Course) -> None:
        n = len(course.examples.targets)
        if self.keep_probe_out and n != self.made["n_clips"]:
            raise SettingsError(
                f"keep_probe_out: the schedule was made with {self.made['n_clips']} training clips "
                f"and there are {n}; leave it out, or give the same clips and split."
            )
        super().begin(course)
        if self.keep_probe_out:
            self.release_step = self.made["release_step"]
        self._held = _Held(self.arms, course.settings.augmentation)

    def segment_of(self, step: int) -> int:
        """Return the number of the segment that a step is in."""
        there = step * self.made["n_steps"] // self.course.n_steps
        return int(self._first.searchsorted(there, side="right")) - 1

    def variation(
        self, step: int, batch: int, rng: np.random.Generator, model: SpectrogramClassifier
    ) -> Variation:
        segment = self.made["segments"][self.segment_of(step)]
        return self._held.variation(tuple(segment["arm"]), batch, rng)

    def identity(self) -> dict[str, Any]:
        held = {key: self.made[key] for key in ("arms", "emphasis", "n_steps")}
        held["segments"] = [
            {key: segment[key] for key in ("first_step", "arm")}
            for segment in self.made["segments"]
        ]
        return held | {"schedule": "frozen", "out": self.out.tolist()}

    def record(self) -> dict[str, Any]:
        return self.made | {"replayed": True}


def replay(made: dict[str, Any], *, where: str, keep_probe_out: bool = False) -> Schedule:
    """Return the schedule that a run recorded, to be followed again.

    where: the file that it comes from, for messages.

    Raises:
        SettingsError: it is no record of a schedule.
    """
    if isinstance(made, dict) and made.get("schedule") == "uniform":
        if keep_probe_out:
            raise SettingsError(f"{where}: uniform kept no probe; leave keep_probe_out out.")
        if UniformSchedule().identity() != made:
            raise SettingsError(f"{where}: made with other operations than this version has.")
        return UniformSchedule()
    try:
        segments, n_steps = made["segments"], made["n_steps"]
        sizes = Arms(made["arms"], float(made["emphasis"])).sizes
        firsts = [int(segment["first_step"]) for segment in segments]
        legal = all(
            len(segment["arm"]) == len(sizes)
            and all(isinstance(arm, int) and 0 <= arm < size
                    for arm, size in zip(segment["arm"], sizes, strict=True))
            for segment in segments
        )  # fmt: skip
        ordered = firsts[:1] == [0] and firsts == sorted(set(firsts)) and firsts[-1] < n_steps
        if keep_probe_out:
            legal = legal and len(made["probe"]["out"]) < made["n_clips"]
            legal = legal and made["release_step"] >= 0
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise SettingsError(f"{where}: {error}") from None
        raise SettingsError(
            f"{where}: no schedule ({type(error).__name__}: {error}); give the schedule.json of a "
            "run of finetune --schedule."
        ) from None
    if not legal or not ordered:
        raise SettingsError(
            f"{where}: its segments name arms that it has not, or do not follow one another from "
            "step 0; give the file as the run wrote it."
        )
    return FrozenSchedule(made, keep_probe_out=keep_probe_out)
