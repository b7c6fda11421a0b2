"""Every setting of the pipeline, declared once: default, unit, range and help.

Three frozen groups and the bundle that holds them. The command line is
generated from these classes, an agent's action replaces fields in them, and an
images folder or a saved model carries them as JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

SCRATCH = ("whisper-scratch", "ast-scratch", "vit-scratch")


def is_scratch(backbone: str) -> bool:
    """Return whether `backbone` names a network to be trained from nothing, not a checkpoint.

    >>> is_scratch("ast-scratch"), is_scratch("runs/birds-scratch")
    (True, False)
    """
    return backbone in SCRATCH


def setting(default: Any, *, low: float | None = None, high: float | None = None) -> Any:
    """Return a dataclass field that `check_ranges` holds to `[low, high]`."""
    return field(default=default, metadata={"low": low, "high": high})


class UserError(ValueError):
    """What a user can mend: the message says what is wrong, where, and what to do."""


class SettingsError(UserError):
    """A setting breaks a rule; the message gives rule, value and remedy."""


def _allowed(annotation: Any) -> tuple[tuple[Any, ...], bool]:
    """Return the literal choices of an annotation (or ()), and whether None is legal."""
    if get_origin(annotation) is Literal:
        return get_args(annotation), False
    return (), type(None) in get_args(annotation)


class SettingsGroup:
    """What the three groups share: range checks, JSON, fingerprint."""

    def __post_init__(self) -> None:
        self.check_ranges()
        self.check_rules()

    def check_ranges(self) -> None:
        """Hold every field to its declared type, choices and range.

        Raises:
            SettingsError: naming the field, its value and what is legal.
        """
        hints = get_type_hints(type(self))
        for spec in fields(self):  # type: ignore[arg-type]
            value = getattr(self, spec.name)
            choices, may_be_none = _allowed(hints[spec.name])
            if choices:
                if value not in choices:
                    legal = ", ".join(map(str, choices))
                    raise SettingsError(f"{spec.name}={value!r} is not one of: {legal}.")
                continue
            if value is None:
                if not may_be_none:
                    raise SettingsError(f"{spec.name} must have a value.")
                continue
            kinds = get_args(hints[spec.name]) or (hints[spec.name],)
            if bool in kinds or str in kinds:
                if not isinstance(value, kinds):
                    raise SettingsError(f"{spec.name}={value!r} must be {kinds[0].__name__}.")
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise SettingsError(f"{spec.name}={value!r} must be a number.")
            if not math.isfinite(value):
                raise SettingsError(f"{spec.name}={value} must be finite.")
            if float not in kinds and value != int(value):
                raise SettingsError(f"{spec.name}={value} must be a whole number.")
            if float not in kinds and isinstance(value, float):
                object.__setattr__(self, spec.name, int(value))
            low, high = spec.metadata.get("low"), spec.metadata.get("high")
            if low is not None and value < low:
                raise SettingsError(
                    f"{spec.name}={value} is below its least value {low}; raise it."
                )
            if high is not None and value > high:
                raise SettingsError(
                    f"{spec.name}={value} is above its greatest value {high}; lower it."
                )

    def check_rules(self) -> None:
        """Hold rules between fields; groups override it."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dict."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the group that `to_json` wrote; fields it lacks keep their defaults.

        Raises:
            SettingsError: a field this version does not know, or an illegal value.
        """
        known = {spec.name for spec in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise SettingsError(
                f"{cls.__name__} has no field {', '.join(unknown)}; the file may come from a "
                "newer melbandit: upgrade, or remove the field."
            )
        return cls(**values)

    def fingerprint(self) -> str:
        """Return 12 hex digits that change whenever any field changes."""
        return fingerprint(self.to_json())


def fingerprint(value: Any) -> str:
    """Return 12 hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class SpectrogramSettings(SettingsGroup):
    """How a clip becomes a mel-spectrogram."""

    sample_rate_hz: int = setting(16000, low=1000, high=384000)
    """Rate that every clip is resampled to, in Hz."""
    clip_s: float | None = setting(None, low=0.01, high=3600)
    """Length of the window the model sees, in seconds; None takes the training clips' 95th
    percentile, at most 10 s. Longer clips are cut, shorter ones padded."""
    padding: Literal["zeros", "repeat"] = "zeros"
    """What follows a clip shorter than clip_s: silence, or the clip again."""
    n_fft: int = setting(512, low=16, high=65536)
    """Length of the Fourier transform, in samples."""
    win_length: int = setting(400, low=8, high=65536)
    """Length of the analysis window, in samples; at most n_fft."""
    hop_length: int = setting(160, low=1, high=65536)
    """Step from one frame to the next, in samples."""
    window: Literal["hann", "hamming", "blackman"] = "hann"
    """Shape of the analysis window."""
    symmetric_window: bool = False
    """Symmetric window (Kaldi, AST) in place of the periodic one (librosa, Whisper)."""
    edges: Literal["zeros", "reflect", "inside"] = "zeros"
    """What a frame sees past the clip's ends: zeros (librosa), the sound mirrored (Whisper), or
    no frame reaches past them (Kaldi, AST)."""
    drop_last_frame: bool = False
    """Leave out the last frame, as Whisper does."""
    remove_dc: bool = False
    """Subtract each frame's mean first, as Kaldi does."""
    preemphasis: float = setting(0.0, low=0.0, high=1.0)
    """First-difference coefficient within each frame; 0 is none, Kaldi and AST use 0.97."""
    power: float = setting(2.0, low=0.5, high=2.0)
    """Exponent of the magnitude before the mel bands: 2 is power, 1 is amplitude."""
    n_mels: int = setting(64, low=4, high=512)
    """Number of mel bands: the height of the picture."""
    f_min_hz: float = setting(0.0, low=0.0, high=192000)
    """Lower edge of the lowest band, in Hz."""
    f_max_hz: float | None = setting(None, low=1.0, high=192000)
    """Upper edge of the highest band, in Hz; None is the Nyquist frequency."""
    mel_scale: Literal["slaney", "htk", "kaldi"] = "slaney"
    """Mel scale; kaldi is htk with triangles drawn in mel instead of Hz."""
    mel_norm: Literal["slaney", "none"] = "slaney"
    """Whether every band has unit area in Hz (slaney) or unit peak (none)."""
    compression: Literal["db", "cube-root", "pcen"] = "db"
    """Decibels, the cube root of the band's power, or per-channel energy normalisation (PCEN, Wang
    et al. 2017, as librosa's)."""
    pcen_gain: float = setting(0.98, low=0.0, high=1.0)
    """How far PCEN divides each band by its own smoothed level: 0 not at all, 1 wholly."""
    pcen_bias: float = setting(2.0, low=0.0, high=1000.0)
    """What PCEN adds before its root."""
    pcen_power: float = setting(0.5, low=0.01, high=1.0)
    """Exponent of PCEN's root."""
    pcen_time_constant_s: float = setting(0.4, low=0.001, high=60.0)
    """Over how long PCEN smooths each band, in seconds."""
    floor_db: float = setting(-100.0, low=-200.0, high=0.0)
    """Levels below this are raised to it, in dB re full scale."""
    top_db: float | None = setting(80.0, low=1.0, high=300.0)
    """Levels further than this below the clip's peak are raised to it, in dB; None keeps all."""
    past_end_db: float | None = setting(None, low=-200.0, high=100.0)
    """Level of frames past a short clip's end, in dB; None is what silence gives. AST uses 0."""
    normalisation: Literal["active", "clip", "band", "dataset", "none"] = "active"
    """Zero mean and unit deviation over the clip's active frames (those within about 40 dB of its
    loudest, so that silence about a sound changes nothing), over the whole clip, over each band of
    the clip, over the training split, or not at all."""
    mean_db: float | None = setting(None, low=-1000.0, high=1000.0)
    """Mean that dataset normalisation subtracts; None measures it on the training split."""
    std_db: float | None = setting(None, low=1e-6, high=1000.0)
    """Deviation that dataset normalisation divides by; None measures it on the training split."""

    def check_rules(self) -> None:
        if self.win_length > self.n_fft:
            raise SettingsError(
                f"win_length={self.win_length} exceeds n_fft={self.n_fft}; lower it or raise n_fft."
            )
        if self.nyquist_hz < self.f_max:
            raise SettingsError(
                f"f_max_hz={self.f_max_hz} exceeds the Nyquist frequency {self.nyquist_hz:g} Hz; "
                "lower it or raise sample_rate_hz."
            )
        if self.f_min_hz >= self.f_max:
            raise SettingsError(
                f"f_min_hz={self.f_min_hz} is not below f_max_hz={self.f_max:g}; lower it."
            )
        if self.clip_s is not None and self.edges != "zeros" and self.n_samples < self.n_fft:
            raise SettingsError(
                f"clip_s={self.clip_s} is {self.n_samples} samples, less than n_fft={self.n_fft}, "
                f"and edges={self.edges} needs a whole window; raise clip_s or lower n_fft."
            )
        if self.clip_s is not None and self.n_frames < 1:
            raise SettingsError(
                f"clip_s={self.clip_s} gives one frame at hop_length={self.hop_length}, which "
                "drop_last_frame leaves out; raise clip_s or lower hop_length."
            )
        if self.compression != "pcen":
            for spec in fields(self):
                if spec.name.startswith("pcen_") and getattr(self, spec.name) != spec.default:
                    raise SettingsError(
                        f"{spec.name}={getattr(self, spec.name)} belongs to compression=pcen, not "
                        f"{self.compression}; leave it out, or set compression=pcen."
                    )
        if self.normalisation != "dataset" and (self.mean_db, self.std_db) != (None, None):
            raise SettingsError(
                f"mean_db and std_db belong to normalisation=dataset, not {self.normalisation}; "
                "leave them out."
            )

    @property
    def nyquist_hz(self) -> float:
        """Half the sample rate, in Hz."""
        return self.sample_rate_hz / 2

    @property
    def f_max(self) -> float:
        """`f_max_hz`, or the Nyquist frequency where it is None, in Hz."""
        return self.nyquist_hz if self.f_max_hz is None else self.f_max_hz

    @property
    def n_samples(self) -> int:
        """Samples in one window of `clip_s` seconds.

        Raises:
            SettingsError: `clip_s` is still None.
        """
        if self.clip_s is None:
            raise SettingsError("clip_s is not known yet; give it, or fit on clips first.")
        return max(1, round(self.clip_s * self.sample_rate_hz))

    def frame_count(self, n_samples: int) -> int:
        """Return how many frames `n_samples` samples give."""
        if self.edges == "inside":
            n = (
                0
                if n_samples < self.frame_length
                else 1 + (n_samples - self.frame_length) // self.hop_length
            )
        else:
            n = 1 + (n_samples - self.n_fft % 2) // self.hop_length
        return max(0, n - int(self.drop_last_frame))

    @property
    def frame_length(self) -> int:
        """Samples that one frame is cut with: `win_length` when frames stay inside (Kaldi), else
        `n_fft` with the window centred in it (librosa, Whisper)."""
        return self.win_length if self.edges == "inside" else self.n_fft

    @property
    def n_frames(self) -> int:
        """Frames in one window of `clip_s` seconds: the width of the picture."""
        return self.frame_count(self.n_samples)


@dataclass(frozen=True)
class CutSettings(SettingsGroup):
    """Which part of a clip becomes a picture, where that is not all of it."""

    longer: Literal["centre", "start", "random", "windows"] = "centre"
    """What is taken of a clip longer than clip_s: its middle, its start, a part at random (the same
    at every run), or all of it in windows, a picture each."""
    overlap_percent: float = setting(0.0, low=0.0, high=95.0)
    """How much of a window the next one shows again, with longer=windows."""
    trim_db: float | None = setting(None, low=1.0, high=120.0)
    """Cut off what lies this far below the clip's loudest frame at its start and end, in dB, as
    librosa.effects.trim does (its default is 60); None keeps all."""
    crop_seed: int = setting(0, low=0, high=2**31 - 1)
    """Seed of longer=random."""

    def check_rules(self) -> None:
        if self.overlap_percent and self.longer != "windows":
            raise SettingsError(
                f"overlap_percent={self.overlap_percent:g} belongs to longer=windows, not "
                f"{self.longer}; leave it out, or set longer=windows."
            )
        if self.crop_seed and self.longer != "random":
            raise SettingsError(
                f"crop_seed={self.crop_seed} belongs to longer=random, not {self.longer}; leave it "
                "out, or set longer=random."
            )
        if self.trim_db is not None and self.longer == "windows":
            raise SettingsError(
                f"trim_db={self.trim_db:g} needs a clip whole, and longer=windows streams it; "
                "leave out one of them."
            )


LN_TO_DB = 10 / math.log(10)

#: What MIT/ast-finetuned-audioset-* were trained on (transformers' ASTFeatureExtractor).
AST_PRESET = SpectrogramSettings(
    clip_s=10.255,  # 1024 frames: 400 + 1023 * 160 samples
    win_length=400,
    symmetric_window=True,
    edges="inside",
    remove_dc=True,
    preemphasis=0.97,
    n_mels=128,
    f_min_hz=20.0,
    mel_scale="kaldi",
    mel_norm="none",
    floor_db=10 * math.log10(1.192092955078125e-07),
    top_db=None,
    past_end_db=0.0,
    normalisation="dataset",
    mean_db=-4.2677393 * LN_TO_DB,
    std_db=2 * 4.5689974 * LN_TO_DB,
)

#: What openai/whisper-* were trained on (transformers' WhisperFeatureExtractor): (log10 + 4) / 4.
WHISPER_PRESET = SpectrogramSettings(
    clip_s=30.0,
    n_fft=400,
    edges="reflect",
    drop_last_frame=True,
    n_mels=80,
    normalisation="dataset",
    mean_db=-40.0,
    std_db=40.0,
)


@dataclass(frozen=True)
class AugmentationSettings(SettingsGroup):
    """What is varied at random in the training clips; 0 turns an operation off."""

    gain_db: float = setting(6.0, low=0.0, high=60.0)
    """Each clip is made louder or softer by up to this, in dB."""
    shift_percent: float = setting(0.0, low=0.0, high=100.0)
    """Each clip is moved in time by up to this share of the window."""
    speed_percent: float = setting(8.0, low=0.0, high=50.0)
    """Each clip is played faster or slower by up to this; pitch moves along."""
    noise_percent: float = setting(0.0, low=0.0, high=100.0)
    """Share of the clips that get noise added, of a random colour from white to brown."""
    noise_snr_db: float = setting(10.0, low=-20.0, high=60.0)
    """Least signal-to-noise ratio of that noise, in dB; drawn from here to 30 dB above."""
    filter_db: float = setting(6.0, low=0.0, high=40.0)
    """Each clip's spectrum is bent by a random smooth curve of up to this, in dB."""
    frequency_mask_percent: float = setting(15.0, low=0.0, high=90.0)
    """Up to this share of the mel bands is blanked, in two stripes."""
    time_mask_percent: float = setting(0.0, low=0.0, high=90.0)
    """Up to this share of the frames is blanked, in two stripes."""
    mixup_percent: float = setting(50.0, low=0.0, high=100.0)
    """Share of the batches whose clips are mixed with one another, labels too (mixup, alpha .4)."""
    pitch_semitones: float = setting(0.0, low=0.0, high=24.0)
    """Each clip's pitch is moved up or down by up to this, in semitones; its length stays."""
    polarity_percent: float = setting(0.0, low=0.0, high=100.0)
    """Share of the clips that are turned upside down; a spectrogram shows it only beside noise or
    another sound."""
    low_pass_percent: float = setting(0.0, low=0.0, high=100.0)
    """Share of the clips that lose what lies above a random cut-off (24 dB an octave)."""
    low_pass_hz: float = setting(1000.0, low=20.0, high=192000.0)
    """Least cut-off of that, in Hz; drawn from here to three octaves above."""
    high_pass_percent: float = setting(0.0, low=0.0, high=100.0)
    """Share of the clips that lose what lies below a random cut-off (24 dB an octave)."""
    high_pass_hz: float = setting(800.0, low=20.0, high=192000.0)
    """Greatest cut-off of that, in Hz; drawn from here to three octaves below."""
    reverb_percent: float = setting(0.0, low=0.0, high=100.0)
    """Share of the clips that sound in a synthetic room: early reflections, then decaying noise."""
    reverb_s: float = setting(0.6, low=0.05, high=10.0)
    """Longest reverberation time (60 dB) of the rooms, in seconds; drawn from a fifth of it on."""
    background_percent: float = setting(0.0, low=0.0, high=100.0)
    """Share of the clips that get a piece of a recording of background_folder added."""
    background_folder: str = ""
    """Folder of recordings (streets, rooms, crowds) that background_percent takes from."""
    other_clip_percent: float = setting(0.0, low=0.0, high=100.0)
    """Share of the clips that get another clip of the batch as background; labels stay."""
    background_snr_db: float = setting(10.0, low=-20.0, high=60.0)
    """Least ratio of a clip to its background of either kind, in dB; drawn from here to 30 dB
    above."""
    time_warp_percent: float = setting(0.0, low=0.0, high=45.0)
    """A point of each clip is moved in time by up to this share of its length, what is before and
    after it stretched and squeezed (SpecAugment's time warp)."""
    erase_percent: float = setting(0.0, low=0.0, high=90.0)
    """Up to this share of each picture is blanked, in one rectangle (random erasing)."""
    cutmix_percent: float = setting(0.0, low=0.0, high=100.0)
    """Share of the batches in which a rectangle of each picture is another clip's, labels mixed by
    area (CutMix)."""

    def check_rules(self) -> None:
        if self.background_percent and not self.background_folder:
            raise SettingsError(
                f"background_percent={self.background_percent:g} needs recordings to take from; "
                "give background_folder."
            )

    @classmethod
    def none(cls) -> AugmentationSettings:
        """Return settings under which nothing is varied.

        >>> AugmentationSettings.none().gain_db
        0.0
        """
        # what is on by default; all other operations are off
        return cls(
            gain_db=0.0,
            speed_percent=0.0,
            filter_db=0.0,
            frequency_mask_percent=0.0,
            mixup_percent=0.0,
        )


@dataclass(frozen=True)
class TrainingSettings(SettingsGroup):
    """How the network is built and fitted."""

    backbone: str = "whisper-scratch"
    """whisper-scratch, ast-scratch or vit-scratch; the folder or hub id of an AST, ViT or Whisper
    checkpoint; or the folder of a model that melbandit fitted."""
    size: Literal["nano", "tiny", "small", "base"] = "tiny"
    """How large a network from scratch is: about 0.2 million weights, 0.6 to 2, 12 or 90."""
    epochs: int = setting(50, low=1, high=100000)
    """Passes over the training clips."""
    batch_size: int = setting(16, low=1, high=65536)
    """Clips per step of the optimiser."""
    learning_rate: float = setting(1e-3, low=1e-8, high=10.0)
    """Peak step size of AdamW; warms up over 10 % of the steps, then falls along a cosine."""
    weight_decay: float = setting(0.05, low=0.0, high=10.0)
    """AdamW's decay of the weight matrices."""
    label_smoothing: float = setting(0.1, low=0.0, high=0.9)
    """Share of each label spread over all classes."""
    dropout: float = setting(0.1, low=0.0, high=0.9)
    """Dropout in a network from scratch or a model of melbandit's; a checkpoint keeps its own."""
    balance: Literal["none", "weights", "root-weights", "sampling", "root-sampling", "logits"] = (
        "none"
    )
    """What rare classes gain: their clips weigh more in the loss (inversely to their number, or to
    its root), or come more often in each epoch (as often as any, or by the root of their number),
    or the share of each class is taken out of what is learnt (logit adjustment)."""
    freeze_backbone: bool = False
    """Fit the classification head alone."""
    unfreeze_epochs: int = setting(0, low=0, high=100000)
    """Thaw one more layer, from the head down, after every so many epochs; 0 trains all at once."""
    layer_decay: float = setting(1.0, low=0.01, high=1.0)
    """Step size of each layer as a share of that of the layer above it, from the head down."""
    lora_rank: int = setting(0, low=0, high=4096)
    """Fit the head, and beside each frozen map of the layers a LoRA of this rank (needs peft)."""
    lora_alpha: float = setting(16.0, low=0.001, high=100000.0)
    """What a LoRA's change is multiplied by, divided by its rank."""
    ema_decay: float = setting(0.0, low=0.0, high=0.999999)
    """Score and save the running mean of the weights, of which this share is kept at each step
    (EMA; 0.999 for long trainings); 0 takes the weights themselves."""
    patience: int = setting(0, low=0, high=100000)
    """Stop after so many epochs without a better validation score (macro-F1, then loss) and keep
    the best epoch's weights; 0 trains to the end and keeps the last."""
    tune_thresholds: bool = False
    """Where clips have several labels: from which probability on each counts as heard, by the best
    F1 on validation in place of one half."""
    micro_batches: int = setting(1, low=1, high=65536)
    """Parts that each batch is worked through in, one after another, to save memory."""
    seed: int = setting(0, low=0, high=2**31 - 1)
    """Seed of the weights, the order of the clips and the augmentation."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the network; the mel transform and the loss stay in float32."""
    torch_compile: bool = False
    """Compile the network for training (torch.compile): a minute first, faster steps on a GPU."""
    threads: int = setting(0, low=0, high=1024)
    """CPU threads; 0 uses every core."""

    def check_rules(self) -> None:
        if self.size != "tiny" and not is_scratch(self.backbone):
            raise SettingsError(
                f"size={self.size} belongs to a network from scratch, not to the checkpoint "
                f"{self.backbone}; leave it out."
            )
        ways = {
            "freeze_backbone": self.freeze_backbone,
            "lora_rank": bool(self.lora_rank),
            "unfreeze_epochs": bool(self.unfreeze_epochs),
        }
        on = [name for name, is_on in ways.items() if is_on]
        if len(on) > 1:
            raise SettingsError(
                f"{on[0]}={getattr(self, on[0])} and {on[1]}={getattr(self, on[1])} say two "
                "different things of which weights are fitted; leave one of them out."
            )


@dataclass(frozen=True)
class Settings:
    """The three groups together: what a model is trained with."""

    spectrogram: SpectrogramSettings = SpectrogramSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    training: TrainingSettings = TrainingSettings()

    def with_values(self, values: Mapping[str, Any]) -> Settings:
        """Return a copy with the named fields replaced, in whichever group they are.

        This is how an agent's action acts: `{"n_mels": 128, "gain_db": 0}`.

        >>> Settings().with_values({"n_mels": 40, "epochs": 3}).spectrogram.n_mels
        40

        Raises:
            SettingsError: a name that no group has, or values that break a rule.
        """
        changed: dict[str, Any] = {}
        left = dict(values)
        for group_field in fields(self):
            group = getattr(self, group_field.name)
            mine = {spec.name: left.pop(spec.name) for spec in fields(group) if spec.name in left}
            if mine:
                changed[group_field.name] = replace(group, **mine)
        if left:
            known = ", ".join(
                sorted(s.name for g in fields(self) for s in fields(getattr(self, g.name)))
            )
            raise SettingsError(
                f"no setting is called {', '.join(sorted(left))}; there are: {known}."
            )
        return replace(self, **changed)

    def value_of(self, name: str) -> Any:
        """Return the value of the field called `name`, in whichever group it is.

        Raises:
            SettingsError: no group has such a field.
        """
        for group_field in fields(self):
            group = getattr(self, group_field.name)
            if hasattr(group, name) and name in {spec.name for spec in fields(group)}:
                return getattr(group, name)
        raise SettingsError(f"no setting is called {name}.")

    def to_json(self) -> dict[str, Any]:
        """Return the three groups as a JSON-ready dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Mapping[str, Any]]) -> Settings:
        """Return the settings that `to_json` wrote.

        Raises:
            SettingsError: an unknown field or an illegal value.
        """
        return cls(
            spectrogram=SpectrogramSettings.from_json(values.get("spectrogram", {})),
            augmentation=AugmentationSettings.from_json(values.get("augmentation", {})),
            training=TrainingSettings.from_json(values.get("training", {})),
        )

    def fingerprint(self) -> str:
        """Return 12 hex digits that change whenever any field of any group changes."""
        return fingerprint(self.to_json())
