"""Settings of prediction alone: what an event is, what raw samples are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from audio.settings import SettingsError, SettingsGroup, setting

_DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class EventSettings(SettingsGroup):
    """When a label counts as heard, and what is merged into one event."""

    threshold: float | None = setting(None, low=0.0, high=1.0)
    """Least probability of a label to be told; None tells all, and 0.5 for events."""
    release_threshold: float | None = setting(None, low=0.0, high=1.0)
    """An event goes on (and begins) in windows of at least this probability, as long as one of them
    reaches the threshold; None is the threshold itself."""
    max_gap_s: float = setting(0.0, low=0.0, high=3600.0)
    """Windows of one label this far apart are still one event, in seconds."""
    min_event_s: float = setting(0.0, low=0.0, high=3600.0)
    """Events shorter than this are left out, in seconds."""

    def check_rules(self) -> None:
        if self.release > self.onset:
            raise SettingsError(
                f"release_threshold={self.release:g} is above threshold={self.onset:g}; lower it."
            )

    @property
    def onset(self) -> float:
        """The probability that an event must reach somewhere."""
        return _DEFAULT_THRESHOLD if self.threshold is None else self.threshold

    @property
    def release(self) -> float:
        """The probability that every window of an event must have."""
        return self.onset if self.release_threshold is None else self.release_threshold


@dataclass(frozen=True)
class RawSettings(SettingsGroup):
    """What samples without a header are, by ffmpeg's names (`ffmpeg -i FILE -f s16le -`)."""

    raw_rate_hz: int | None = setting(None, low=1, high=768000)
    """Sample rate of the raw samples on standard input (given as -), in Hz."""
    raw_format: Literal["s16le", "s16be", "s24le", "s32le", "u8", "f32le", "f64le"] = "s16le"
    """How a sample is stored: s signed, u unsigned, f float; bits; le and be for the byte order."""
    raw_channels: int = setting(1, low=1, high=1024)
    """Channels, one sample of each in turn; their mean is used."""

    @property
    def rate_hz(self) -> int:
        """The rate, in Hz.

        Raises:
            SettingsError: it was not given.
        """
        if self.raw_rate_hz is None:
            raise SettingsError(
                "-: raw samples do not tell their rate; give --raw-rate-hz 16000 or what it is. "
                "Of a file: ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | melbandit predict MODEL - "
                "--raw-rate-hz 16000."
            )
        return self.raw_rate_hz

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        bits = int("".join(filter(str.isdecimal, self.raw_format)))
        return bits // 8 * self.raw_channels
