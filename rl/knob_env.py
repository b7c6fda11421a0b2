"""Choosing settings knob by knob, as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from rl.space import Codes, SearchSpace, Setting


class KnobEnv(gym.Env):  # type: ignore[misc]
    """An action sets the next knob that exists; when all are set, the reward is their score.

    The observation has an entry for each knob: the code of its value, or one more than there are
    values where the knob does not exist in this setting, or two more where it is still to be
    chosen. `info["knob"]` names the knob that comes next, `info["action_mask"]` says which of the
    actions it has values for; after the last, `info["setting"]` is the setting.

    >>> from rl.space import Knob
    >>> space = SearchSpace([Knob("a", (1, 2)), Knob("b", (3, 4, 5))])
    >>> environment = KnobEnv(space, lambda setting: setting["a"] * setting["b"])
    >>> _ = environment.reset(), environment.step(1)
    >>> environment.step(2)[1]
    10.0

    Args:
        space: the knobs.
        score: what a setting is worth: any function, a training included.
        penalty: the reward for an action that the knob has no value for; it ends the episode.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - Gymnasium's

    def __init__(
        self,
        space: SearchSpace,
        score: Callable[[Setting], float],
        *,
        penalty: float = -1.0,
        render_mode: str | None = None,
    ) -> None:
        self.space = space
        self.score = score
        self.penalty = penalty
        self.render_mode = render_mode
        self.observation_space = gym.spaces.MultiDiscrete(space.n_values + 2)
        self.action_space = gym.spaces.Discrete(int(space.n_values.max()))
        self.chosen: Setting = {}
        self._is_over = False

    def reset(self, *, seed: int | None = None,
              options: dict[str, Any] | None = None) -> tuple[Codes, dict[str, Any]]:  # fmt: skip
        """Return the observation with nothing chosen."""
        super().reset(seed=seed)
        self.chosen, self._is_over = {}, False
        return self._observed(), self._info()

    def step(self, action: int) -> tuple[Codes, float, bool, bool, dict[str, Any]]:
        """Set the next knob to its value number `action`.

        Raises:
            ValueError: the episode has ended.
        """
        knob = self.space.next_knob(self.chosen)
        if knob is None or self._is_over:
            raise ValueError("the episode has ended; reset first.")
        if not 0 <= action < len(knob.values):
            self._is_over = True
            return self._observed(), self.penalty, True, False, self._info() | {"illegal": True}
        self.chosen[knob.name] = knob.values[int(action)]
        if self.space.next_knob(self.chosen) is not None:
            return self._observed(), 0.0, False, False, self._info()
        reward = float(self.score(dict(self.chosen)))
        return self._observed(), reward, True, False, self._info()

    def _observed(self) -> Codes:
        codes = self.space.encode(self.chosen)
        knob = self.space.next_knob(self.chosen)
        if knob is not None:
            at = self.space.position(knob.name)
            codes[at:] = self.space.n_values[at:] + 1
        return codes

    def _info(self) -> dict[str, Any]:
        knob = self.space.next_knob(self.chosen)
        n = len(knob.values) if knob is not None else 0
        info: dict[str, Any] = {"action_mask": (np.arange(self.action_space.n) < n).astype(np.int8)}
        if knob is None:
            return info | {"setting": dict(self.chosen)}
        return info | {"knob": knob.name}

    def render(self) -> str:
        """Return the choices made so far."""
        return ", ".join(f"{name}={value}" for name, value in self.chosen.items())
