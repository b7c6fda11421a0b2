"""`finetune --schedule`: where an agent of `rl` and a training of `audio` meet, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audio.arms import ScheduleSettings, arms_of
from audio.settings import Settings
from scripts.command import read_json, say

if TYPE_CHECKING:
    from audio.schedule import Schedule
    from scripts.clips_in import ClipsIn

FILE = "schedule.json"


def schedule_identity(settings: ScheduleSettings) -> dict[str, Any] | None:
    """Return what makes a run's schedule another one, for the record; None for a fixed one.

    Raises:
        UserError: arms or a file that cannot be used.
    """
    if settings.schedule == "none":
        return None
    if settings.is_file:
        from audio.schedule import replay

        made = read_json(Path(settings.schedule))
        schedule = replay(made, where=settings.schedule, keep_probe_out=settings.keep_probe_out)
        identity = schedule.identity()
        assert identity is not None
        return identity
    if settings.schedule == "uniform":
        return {"schedule": "uniform"}
    arms = arms_of(settings.arms)
    return settings.to_json() | {"arms": arms.to_json(), "emphasis": arms.emphasis}


def make_schedule(
    chosen: ScheduleSettings, settings: Settings, clips: ClipsIn, *, levels: bool = False
) -> Schedule | None:
    """Return the schedule that the command asks for, for one training; None for a fixed one.

    clips: its training side is what the probe is drawn from. levels: they are pictures or shards,
    so that what acts on sound does nothing.

    Raises:
        UserError: arms, a file, or clips that cannot be used.
    """
    if chosen.schedule == "none":
        return None
    from audio.probe import MOST_CLIPS, draw_probe
    from audio.schedule import AgentSchedule, UniformSchedule, replay
    from rl.schedule import make_picker

    if levels:
        say("note: levels, no sound: of what a schedule picks, only masks, warp and mixing act.")
    if chosen.is_file:
        made = read_json(Path(chosen.schedule))
        return replay(made, where=chosen.schedule, keep_probe_out=chosen.keep_probe_out)
    if chosen.schedule == "uniform":
        return UniformSchedule()
    arms = arms_of(chosen.arms)
    targets, groups = clips.examples["train"].targets, clips.groups("train")
    seed = settings.training.seed
    # what is scored in a segment of half an epoch costs twice as much of it
    affordable = round(len(targets) * chosen.probe_percent / 100 * min(1.0, chosen.segment_epochs))
    probe = draw_probe(
        targets, groups, percent=chosen.probe_percent, most=min(MOST_CLIPS, max(1, affordable)),
        seed=seed,
    )  # fmt: skip
    whole = "whole groups" if probe.by == "group" else "clip by clip"
    say(
        f"probe: {len(probe.out)} of {len(targets)} training clips are kept out for the schedule, "
        f"{whole}; {len(probe.scored)} of them are scored."
    )
    picker = make_picker(chosen.schedule, arms.sizes, seed=seed)
    return AgentSchedule(
        chosen.schedule,
        picker,
        arms,
        probe,
        segment_epochs=chosen.segment_epochs,
        learn_percent=chosen.learn_percent,
    )


def schedule_text(record: Mapping[str, Any], *, width: int = 60) -> str:
    """Return what was picked when, and what is believed at the end, as lines of text.

    >>> record = {"schedule": "exp3s", "n_steps": 4, "segment_steps": 2, "steps_per_epoch": 2,
    ...           "factors": [{"name": "preset", "arms": ["none", "masks"]}],
    ...           "segments": [{"first_step": 0, "arm": [1], "chance": [[0.5, 0.5]],
    ...                         "worth": [[0.0, 0.0]], "reward": 0.5},
    ...                        {"first_step": 2, "arm": [1], "chance": [[0.4, 0.6]],
    ...                         "worth": [[0.0, 0.5]]}]}
    >>> print(schedule_text(record))
    schedule exp3s: 2 segments of 2 steps (1 epochs)
    preset       picked   worth  when (beginning to end)
      none           0%   +0.00  ..
      masks        100%   +0.50  ##
    """
    if record["schedule"] == "uniform":
        names = ", ".join(record["operations"])
        return f"schedule uniform: each clip one of {names}, or none"
    segments = record["segments"]
    epochs = record["segment_steps"] / record["steps_per_epoch"]
    again = "replayed from a run by " if record.get("replayed") else ""
    lines = [
        f"schedule {again}{record['schedule']}: {len(segments)} segments of "
        f"{record['segment_steps']} steps ({epochs:.3g} epochs)"
    ]
    columns = min(width, len(segments))
    for number, factor in enumerate(record["factors"]):
        names = factor["arms"]
        room = max(10, *(len(name) for name in names))
        lines.append(f"{factor['name']:<{room + 2}} picked   worth  when (beginning to end)")
        for arm, name in enumerate(names):
            held = [segment["arm"][number] == arm for segment in segments]
            when = ""
            for column in range(columns):
                part = held[column * len(held) // columns : (column + 1) * len(held) // columns]
                when += "#" if sum(part) * 2 >= len(part) else "+" if any(part) else "."
            worth = segments[-1]["worth"][number][arm]
            share = sum(held) / len(held)
            lines.append(f"  {name:<{room}} {share:>6.0%}  {worth:>+6.2f}  {when}")
    return "\n".join(lines)
