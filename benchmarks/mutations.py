"""Does a wrong formula fail a test? Breaks `rl` in one place at a time and runs the tests.

`python -m benchmarks.mutations` copies the package and its tests to a temporary folder,
applies each mutation there by itself, and prints which test caught it. It ends with
exit code 1 if one was caught by none. `python -m benchmarks.mutations discount` runs
those whose name holds the word, of several those that hold any.
"""
# ruff: noqa: E501 - texts of the code that is changed

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST_S = 120
"""As it stands, each file's tests take a few seconds; a broken agent may never find its goal."""


@dataclass(frozen=True)
class Mutation:
    """One thing done wrong."""

    name: str
    module: str
    """Of rl."""
    right: str
    """The text as it is; it must occur exactly once."""
    wrong: str
    tests: str = "choices"
    """Which of tests/test_rl_*.py are run, by their names, in this order."""


MUTATIONS = [
    # signs
    Mutation("sign: target", "targets", "after = rewards[t] + discount * (",
             "after = rewards[t] - discount * ("),
    Mutation("sign: one-step target", "agents", "step.reward + self.discount * after, t)",
             "step.reward - self.discount * after, t)"),
    Mutation("sign: table's error", "values", "q[action] += step_size * (target - q[action])",
             "q[action] -= step_size * (target - q[action])"),
    Mutation("sign: linear error", "values", "row += self.step_size * (target - float(row @ x)) * x",
             "row += self.step_size * (target + float(row @ x)) * x"),
    Mutation("sign: policy gradient", "policy_gradient", "((a == step.action) - share)",
             "(share - (a == step.action))"),
    Mutation("sign: baseline", "policy_gradient", "advantage -= self.v.read",
             "advantage += self.v.read", "choices convergence"),
    Mutation("sign: gradient bandit", "bandits", "self.preferences -= step[:, None] * shares",
             "self.preferences += step[:, None] * shares", "bandits"),
    Mutation("sign: doubt", "bandits", "self.q + self.c * doubt", "self.q - self.c * doubt",
             "bandits"),
    Mutation("sign: perfect play", "tictactoe", "else -0.9 * worth(other)",
             "else 0.9 * worth(other)", "environments"),
    Mutation("sign: the other's reward", "tictactoe", "reward = -theirs",
             "reward = theirs", "environments"),
    Mutation("sign: dutch correction", "agents", "[-step_size * (now - before) * m",
             "[step_size * (now - before) * m"),
    # the discount
    Mutation("discount: planning", "mdp", "self.expected_rewards + self.discount * (self.trans",
             "self.expected_rewards + (self.trans", "planning"),
    Mutation("discount: exact solve", "planning", "np.eye(int(live.sum())) - mdp.discount * p",
             "np.eye(int(live.sum())) - p", "planning"),
    Mutation("discount: target", "targets", "after = rewards[t] + discount * (",
             "after = rewards[t] + ("),
    Mutation("discount: one-step target", "agents", "step.reward + self.discount * after, t)",
             "step.reward + after, t)"),
    Mutation("discount: trace's error", "agents", "step.reward + agent.discount * after - now",
             "step.reward + after - now"),
    Mutation("discount: trace's decay", "agents", "trace.decay(self.discount * depth.value)",
             "trace.decay(depth.value)"),
    Mutation("discount: policy gradient's", "policy_gradient",
             "self.step_size * self.discount**t * advantage", "self.step_size * advantage",
             "policies"),
    Mutation("discount: imagined step", "dyna", "else self.discount * self.following(step)",
             "else self.following(step)", "dyna convergence"),
    Mutation("discount: many runs", "many", "reward + gamma * np.where(ended, 0.0, value)",
             "reward + np.where(ended, 0.0, value)", "many"),
    # the maximum for the mean, and the like
    Mutation("max: mean for it in value iteration", "mdp",
             "return np.asarray(self.action_values(v).max(1))",
             "return np.asarray(self.action_values(v).mean(1))", "planning"),
    Mutation("max: mean for it in Q-learning", "control",
             'return max(q) if update == "q-learning"',
             'return sum(q) / len(q) if update == "q-learning"'),
    Mutation("max: for the mean in Expected SARSA", "control",
             "epsilon * sum(may) / len(may) + (1 - epsilon) * max(may)", "max(may)"),
    Mutation("max: Double Q-learning judges itself", "control",
             "self._judge.read(state)[q.index(max(q))]", "max(q)"),
    Mutation("max: Double Q-learning moves one table only", "control",
             "self.functions if first else self.functions[::-1]", "self.functions"),
    Mutation("max: many runs, mean for it", "many", "value = following.max(0)",
             "value = following.mean(0)", "many"),
    Mutation("max: many runs, Double Q-learning judges itself", "many",
             "value = other[mine[:, to].argmax(0), to]", "value = mine[:, to].max(0)", "many"),
    Mutation("max: exploring does not cut Q-learning's target", "control",
             "return q[after.action] == max(q)", "return True"),
    Mutation("max: exploring does not cut Q(lambda)'s trace", "control",
             "            if q[step.action] < max(q):", "            if False:"),
    Mutation("average: step size 1 / (N + 1)", "values", "step_size = 1 / n[action]",
             "step_size = 1 / (n[action] + 1)"),
    Mutation("average: bandit's sum", "bandits", "error / self.n[at] if step_size is None",
             "error if step_size is None", "bandits"),
    Mutation("average: first visits count every one", "agents",
             'if self.choices.visits == "first":', "if False:"),
    # the read and the write
    Mutation("order: SARSA's action chosen anew after learning", "agents",
             "        if next_action is None:\n            next_action", "        if True:\n            next_action"),
    Mutation("order: Q-learning's action chosen before learning", "agents",
             'if self._on_policy and not terminal:', "if not terminal:",
             "choices many"),
    Mutation("order: written before read, one step", "agents",
             "            after = 0.0 if step.terminal else self.following(step)\n"
             "            self.move(",
             "            self.move(step, step.reward, t)\n"
             "            after = 0.0 if step.terminal else self.following(step)\n"
             "            self.move("),
    Mutation("order: written before read, at the episode's end", "agents",
             "                self.move(learnt, target, first + k)",
             "                self._pending = steps[k:]\n"
             "                self.move(learnt, self._targets(1)[0], first + k)\n"
             "            del self._pending[:]", "choices convergence"),
    Mutation("order: V moved before the advantage is read", "policy_gradient",
             "            advantage -= self.v.read(step.state)[0]\n"
             "            self.v.update(step.state, 0, target)",
             "            self.v.update(step.state, 0, target)\n"
             "            advantage -= self.v.read(step.state)[0]", "policies"),
    Mutation("order: critic's trace applied before the actor reads", "policy_gradient",
             '        gradient = self._gradient(step, self.discount ** (self._t - 1))',
             '        self._critic_trace.apply(self.v.step_size * error)\n'
             '        gradient = self._gradient(step, self.discount ** (self._t - 1))', "policies"),
    Mutation("order: many runs, SARSA's action after learning", "many",
             "value = following[next_action, np.arange(len(run))]",
             "value = following[world.choose(following, after, 1.0), np.arange(len(run))]", "many"),
    # traces, ends, models
    Mutation("trace: not emptied at the first step", "agents",
             "        if self._t == 1:\n            trace.clear()", "        if False:\n            pass"),
    Mutation("trace: replacing adds", "traces", "self._z[state, action] = 1.0",
             "self._z[state, action] = self._z.get((state, action), 0.0) + 1.0", "policies"),
    Mutation("trace: dutch is accumulating", "agents", "m * (1 - step_size * trace.along", "m * (1 - 0 * trace.along"),
    Mutation("end: the terminal state is worth something", "mdp",
             "after = np.where(self.terminal, 0.0, v)", "after = v", "planning"),
    Mutation("end: bootstraps from the terminal state", "agents",
             "following = [0.0 if step.terminal else self.following(step) for step in steps]",
             "following = [self.following(step) for step in steps]"),
    Mutation("end: broken off counts as ended", "agents",
             "        step = Step(self._state, self._action, float(reward), next_state, next_action, terminal,",
             "        step = Step(self._state, self._action, float(reward), next_state, next_action, terminal or truncated,"),
    Mutation("depth: one step too many", "agents", "len(self._pending) - depth + 1", "len(self._pending) - depth"),
    Mutation("model: probabilities of its outcomes", "dyna", "(count / total, Step(", "(1.0, Step(", "dyna convergence"),
    Mutation("model: predecessors are forgotten", "dyna",
             "            for before in self.model.before(state):\n                self._enter(before)",
             "            pass", "dyna"),
    Mutation("model: the smallest error first", "dyna", "heapq.heappush(self._queue, (-error,",
             "heapq.heappush(self._queue, (error,", "dyna"),
    # policies and bandits
    Mutation("policy: exploits with probability epsilon", "policies",
             "if rng.random() < epsilon:", "if rng.random() >= epsilon:"),
    Mutation("policy: first of ties", "policies",
             "among = _where(q, lambda v: v == best)", "return q.index(best)", "policies"),
    Mutation("bandit: credit not over its probability", "bandits",
             "np.exp(self.gamma * scaled / (chance * self.k))", "np.exp(self.gamma * scaled / self.k)",
             "bandits"),
    Mutation("bandit: baseline without this reward", "bandits",
             "        self.mean += (reward - self.mean) / self.t\n"
             "        step = self.step_size * (reward - self.mean * self.baseline)",
             "        step = self.step_size * (reward - self.mean * self.baseline)\n"
             "        self.mean += (reward - self.mean) / self.t", "bandits"),
    Mutation("planning: the worst action", "planning", "best = q.argmax(1)", "best = q.argmin(1)",
             "planning"),
]  # fmt: skip


def caught_by(mutation: Mutation, folder: Path) -> str | None:
    """Return the first test that fails with the mutation, or None.

    Raises:
        ValueError: the text to change is not there exactly once.
    """
    path = folder / "rl" / f"{mutation.module}.py"
    right = path.read_text(encoding="utf-8")
    if right.count(mutation.right) != 1:
        raise ValueError(
            f"{mutation.name}: {mutation.right!r} occurs {right.count(mutation.right)} times in "
            f"rl/{mutation.module}.py; bring the mutation up to date."
        )
    path.write_text(right.replace(mutation.right, mutation.wrong), encoding="utf-8")
    try:
        for name in mutation.tests.split():
            try:
                done = subprocess.run(
                    [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider",
                     f"tests/test_rl_{name}.py"],
                    cwd=folder, capture_output=True, text=True, check=False, timeout=LONGEST_S,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return f"tests/test_rl_{name}.py did not end in {LONGEST_S} s"
            if done.returncode not in (0, 1):
                raise ValueError(f"{mutation.name}: pytest could not run: {done.stdout[-2000:]}")
            if done.returncode:
                found = re.search(r"^FAILED \S+::(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
                return found.group(1) if found else f"tests/test_rl_{name}.py"
    finally:
        path.write_text(right, encoding="utf-8")
    return None


def main(*words: str) -> int:
    """Apply the mutations whose name holds one of the words, or all; returns an exit code."""
    survived = 0
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("rl", "audio", "scripts", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, folder / name,
                            ignore=shutil.ignore_patterns("__pycache__", "landscapes"))  # fmt: skip
        shutil.copy(ROOT / "pyproject.toml", folder)
        chosen = [
            mutation
            for mutation in MUTATIONS
            if not words or any(word in mutation.name for word in words)
        ]
        for mutation in chosen:
            test = caught_by(mutation, folder)
            survived += test is None
            print(f"  {mutation.name:<56} {test or 'SURVIVED'}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} mutations were caught")
    return 1 if survived or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
