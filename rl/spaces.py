"""The named search spaces: which settings are worth an agent's time.

Defaults and knobs are fitted to what a search starts from by `scripts.spaces`.
"""

from __future__ import annotations

from rl.space import Knob, SearchSpace

NORMALISATION = Knob("normalisation", ("active", "clip", "band", "dataset", "none"))
# at most audio.settings' default n_fft, 512, so every setting is legal
WIN_LENGTH = Knob("win_length", (256, 400, 512), default=400, ordered=True)
FREQUENCY_MASK = Knob("frequency_mask_percent", (0.0, 15.0, 30.0), default=15.0, ordered=True)
TIME_MASK = Knob("time_mask_percent", (0.0, 15.0, 30.0), ordered=True)
SPEED = Knob("speed_percent", (0.0, 8.0, 16.0), default=8.0, ordered=True)

#: The settings that mattered most in a first look at 332 real trainings (docs/benchmarks.md).
QUICK = SearchSpace(
    [
        NORMALISATION,
        WIN_LENGTH,
        Knob("n_mels", (40, 64, 128), default=64, ordered=True),
        FREQUENCY_MASK,
        TIME_MASK,
        SPEED,
    ]
)

#: Preprocessing, augmentation and the optimiser, for searches of 100 trials and more.
DEFAULT = SearchSpace(
    [
        NORMALISATION,
        WIN_LENGTH,
        Knob("n_mels", (40, 64, 96, 128), default=64, ordered=True),
        Knob("hop_length", (80, 120, 160, 240), default=160, ordered=True),
        Knob("compression", ("db", "cube-root")),
        Knob("f_min_hz", (0.0, 60.0), ordered=True),
        Knob(
            "top_db",
            (40.0, 60.0, 80.0, None),
            default=80.0,
            ordered=True,
            when={"compression": ("db",)},
        ),
        Knob("learning_rate", (3e-4, 1e-3, 3e-3), default=1e-3, ordered=True),
        Knob("label_smoothing", (0.0, 0.1), default=0.1, ordered=True),
        Knob("gain_db", (0.0, 6.0, 12.0), default=6.0, ordered=True),
        Knob("shift_percent", (0.0, 10.0, 25.0), ordered=True),
        SPEED,
        Knob("noise_percent", (0.0, 50.0), ordered=True),
        Knob(
            "noise_snr_db",
            (0.0, 10.0, 20.0),
            default=10.0,
            ordered=True,
            when={"noise_percent": (50.0,)},
        ),
        Knob("filter_db", (0.0, 6.0, 12.0), default=6.0, ordered=True),
        FREQUENCY_MASK,
        TIME_MASK,
        Knob("mixup_percent", (0.0, 50.0), default=50.0, ordered=True),
    ]
)

#: All that can be chosen and pays for a search: `DEFAULT` and what is left, in more values.
FULL = SearchSpace(
    [
        NORMALISATION,
        Knob("n_fft", (512, 1024), ordered=True),
        Knob("win_length", (256, 320, 400, 512), default=400, ordered=True),
        Knob("window", ("hann", "hamming", "blackman")),
        Knob("n_mels", (40, 64, 96, 128), default=64, ordered=True),
        Knob("hop_length", (80, 120, 160, 240, 320), default=160, ordered=True),
        Knob("mel_scale", ("slaney", "htk")),
        Knob("f_min_hz", (0.0, 60.0, 120.0), ordered=True),
        Knob("preemphasis", (0.0, 0.97), ordered=True),
        Knob("power", (2.0, 1.0)),
        *(knob for knob in DEFAULT.knobs if knob.name in ("compression", "top_db")),
        Knob("padding", ("zeros", "repeat")),
        Knob("learning_rate", (3e-4, 6e-4, 1e-3, 2e-3, 4e-3), default=1e-3, ordered=True),
        Knob("weight_decay", (0.01, 0.05, 0.2), default=0.05, ordered=True),
        Knob("label_smoothing", (0.0, 0.1, 0.2), default=0.1, ordered=True),
        Knob("dropout", (0.0, 0.1, 0.3), default=0.1, ordered=True),
        Knob("batch_size", (16, 32), ordered=True),
        Knob("gain_db", (0.0, 6.0, 12.0), default=6.0, ordered=True),
        Knob("shift_percent", (0.0, 10.0, 25.0, 50.0), ordered=True),
        Knob("speed_percent", (0.0, 8.0, 16.0, 25.0), default=8.0, ordered=True),
        Knob("noise_percent", (0.0, 25.0, 50.0), ordered=True),
        Knob(
            "noise_snr_db",
            (0.0, 10.0, 20.0),
            default=10.0,
            ordered=True,
            when={"noise_percent": (25.0, 50.0)},
        ),
        Knob("filter_db", (0.0, 6.0, 12.0), default=6.0, ordered=True),
        Knob("frequency_mask_percent", (0.0, 15.0, 30.0, 45.0), default=15.0, ordered=True),
        Knob("time_mask_percent", (0.0, 15.0, 30.0, 45.0), ordered=True),
        Knob("mixup_percent", (0.0, 25.0, 50.0), default=50.0, ordered=True),
        Knob("pitch_semitones", (0.0, 1.0, 2.0, 4.0), ordered=True),
        Knob("low_pass_percent", (0.0, 25.0, 50.0), ordered=True),
        Knob("high_pass_percent", (0.0, 25.0, 50.0), ordered=True),
        Knob("reverb_percent", (0.0, 25.0, 50.0), ordered=True),
        Knob("other_clip_percent", (0.0, 25.0, 50.0), ordered=True),
        Knob("time_warp_percent", (0.0, 10.0, 20.0), ordered=True),
        Knob("erase_percent", (0.0, 15.0, 30.0), ordered=True),
        Knob("cutmix_percent", (0.0, 25.0, 50.0), ordered=True),
    ]
)
