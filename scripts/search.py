"""`melbandit search`: a reinforcement-learning agent chooses the settings, trial by trial."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from audio.clips import SPLITS
from audio.own_model import check_dropout
from audio.settings import (
    AugmentationSettings,
    Settings,
    SettingsError,
    SpectrogramSettings,
    TrainingSettings,
    fingerprint,
)
from audio.splits import SplitSettings, assign_splits
from data.corpus import CorpusSettings
from rl.budget import SearchSettings
from scripts.command import DONE, PARTLY, parse, print_result, progress, read_json, run, say
from scripts.corpus_in import backgrounds_of, read_corpus
from scripts.finetune import with_base
from scripts.origin import with_origin
from scripts.rotation import rotations
from scripts.run_folder import RunFolder, open_run
from scripts.scored_fit import save_scored, settle_and_hear, summary
from scripts.spaces import space_for
from scripts.tables import finals_text, scores_text

if TYPE_CHECKING:
    from audio.clips import Manifest
    from rl.cluster import Nodes
    from rl.search import SearchResult
    from rl.space import SearchSpace
    from rl.studies import Place
    from scripts.clips_in import ClipsIn


@dataclass(frozen=True)
class Search:
    """Let a reinforcement-learning agent choose preprocessing and augmentation for your clips.

    Each trial trains with one setting and is rewarded by its score on the validation clips; the
    first is the default setting. The best few are then trained again on fresh seeds, the winner of
    that is fitted, saved in OUT/model and scored once on the test clips. Killed at any moment, the
    same command goes on.
    """

    clips: Annotated[Path, tyro.conf.Positional]
    """Folder with a subfolder of clips for each class, a CSV manifest, or the name of a published
    corpus (esc50, urbansound8k, ...), which lies in --root."""
    out: Path
    """Folder for the study, the winner and the report."""
    space: str = "default"
    """quick (about a thousand settings), default (millions), full (every setting that can be
    chosen), a TOML file of [[knob]] tables, or a Python file that defines SPACE."""
    show_space: bool = False
    """Print the knobs and how many settings there are, and do nothing else."""
    reward: Literal["macro-f1", "accuracy"] = "macro-f1"
    """Validation score that rewards a trial."""
    rotate_validation: bool = False
    """Hold out other groups (speakers, sessions, folds) for validation in turn, one part a
    training, in place of the same ones always: settings are then not chosen to suit these few. How
    much harder some parts are is measured and taken off."""
    settings: Path | None = None
    """Settings to start from: a settings.json of an earlier run, or a search's recommended.json."""
    preset: Literal["auto", "melbandit", "ast", "whisper"] = "auto"
    """Whose spectrogram settings to start from; auto takes what the backbone was trained on."""
    like: tuple[str, ...] = ()
    """Start from what earlier searches found: their folders, study.db files, or STORAGE#NAME."""
    storage: str | None = None
    """Keep the study in a storage that several machines share (postgresql://user@host/db or
    grpc://host:port) and run the same command on each; by default it is OUT/study.db."""
    study: str | None = None
    """Name of the study in a shared storage; by default that of the folder OUT."""
    watch: bool = False
    """Draw the search in the terminal while it runs: the best, the trials, what is believed."""
    ray: str | None = None
    """Train on a Ray cluster at this address, as ray.init takes it (host:port, ray://host:port,
    auto, local); --workers is then their number, 0 as many as it has processors for. Needs
    --storage."""
    ray_cpus: float = 1
    """Processors of the cluster that each worker takes."""
    ray_gpus: float = 0
    """GPUs of the cluster that each worker takes; 0.25 lets four share one."""
    overwrite: bool = False
    """Start over in a folder that holds another run."""
    search: SearchSettings = SearchSettings()
    corpus: CorpusSettings = CorpusSettings()
    split: SplitSettings = SplitSettings()
    spectrogram: SpectrogramSettings = SpectrogramSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    training: TrainingSettings = TrainingSettings()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: search(parse(Search, "search", arguments, base=with_base), arguments))


def search(command: Search, argv: Sequence[str]) -> int:
    """Search, fit the winner, report; returns an exit code."""
    if command.overwrite and command.storage is not None:
        raise SettingsError(
            "--overwrite does not reach a shared storage; give another --study to start over."
        )
    _check_nodes(command)
    check_dropout(command.training)
    argv = [_without_password(part) for part in argv]
    settings = Settings(command.spectrogram, command.augmentation, command.training)
    space, dropped = space_for(command.space, settings)
    for line in dropped:
        say(f"note: {line}")
    if command.show_space:
        print(space.describe())
        return DONE
    _check(command, space)
    from audio.images import is_images_folder
    from audio.shards import is_shards_folder

    if is_images_folder(command.clips) or is_shards_folder(command.clips):
        raise SettingsError(
            f"{command.clips}: pictures, whose preprocessing is settled; search needs the clips."
        )
    manifest = assign_splits(read_corpus(command.clips, command.corpus), command.split)
    with open_run(command.out, overwrite=command.overwrite) as folder:
        identity = {
            "settings": settings.to_json(),
            "corpus": manifest.fingerprint(),
            **backgrounds_of(settings),
            "space": space.to_json(),
            "reward": command.reward,
            "rotate_validation": command.rotate_validation,
            "agent": command.search.agent,
            **({"storage": str(place_of(command))} if command.storage else {}),
        }
        folder.begin("search", identity, argv)
        if folder.is_done and folder.results()["settings"] == asdict(command.search):
            say(f"{command.out}: already done; a larger budget goes on, --overwrite starts over.")
            _print(folder.results())
            return DONE
        results, n_failed = _search(command, folder, settings, space, manifest)
        _print(results)
    return PARTLY if n_failed else DONE


def _without_password(argument: str) -> str:
    """Return an argument as the record may hold it: of an address, not who comes to it."""
    from rl.storage import without_password

    match = re.fullmatch(r"((?:--[\w-]+=)?)(\w[\w+.-]*://.*)", argument)
    return argument if match is None else match[1] + without_password(match[2])


def _check(command: Search, space: SearchSpace) -> None:
    """Refuse what cannot go together, before any clip is decoded."""
    budget = command.search
    if budget.trial_epochs is not None and "epochs" in space:
        raise SettingsError("trial_epochs cannot be given where epochs is searched; drop one.")
    if command.rotate_validation and budget.pruner in ("median", "hyperband"):
        raise SettingsError(
            f"pruner={budget.pruner} compares scores as they are, which differ from part to part "
            "of a rotating validation; take halving or none."
        )


def _search(
    command: Search, folder: RunFolder, settings: Settings, space: SearchSpace, manifest: Any
) -> tuple[dict[str, Any], int]:
    """Return the results, and how many clips could not be used."""
    from audio.examples import resolve
    from audio.stack_training import alike
    from rl.records import read_earlier
    from rl.search import run_search
    from scripts.clips_in import decode_sounds
    from scripts.objective import TrainingObjective, settings_of
    from scripts.study_page import write_search_page

    budget = command.search
    store = folder.work / "waveforms"
    clips = decode_sounds(
        manifest,
        sample_rate_hz=settings.spectrogram.sample_rate_hz,
        folder=store,
        workers=2,
        allow_leakage=command.split.allow_leakage,
    )
    clips = with_origin(
        settings.training.backbone,
        clips,
        allow_leakage=command.split.allow_leakage,
        # under --rotate-validation the training clips validate too, each in its turn
        sides=SPLITS if command.rotate_validation else ("validation", "test"),
    )
    if command.split.allow_leakage:
        folder.amend({"allow_leakage": True, "leakage": clips.leakage})
    folder.write_failures(clips.failures)
    say(clips.manifest.describe())
    say(f"{len(space.knobs)} knobs, {space.size():,} settings; agent {budget.agent}")
    # the window is the corpus's, the same for every trial; means are each trial's own
    window = resolve(settings_of(settings, {"normalisation": "none"}), clips.examples["train"])
    spectrogram = replace(settings.spectrogram, clip_s=window.spectrogram.clip_s)
    settings = replace(settings, spectrogram=spectrogram)
    if budget.stack > 1:
        if clips.examples["train"].targets.ndim == 2:
            raise SettingsError("clips with several labels do not go with --stack; leave it out.")
        alike(settings)  # refuses what a stack cannot do
    # one thread a trial where several run at once; not part of what is recommended
    workers = budget.workers_here if command.ray is None else budget.workers
    threads = settings.training.threads or (0 if workers == 1 else 1)
    trained = settings.with_values({"threads": threads})
    rotation = rotations(clips.manifest) if command.rotate_validation else ()
    if rotation:
        say(f"validation rotates over {len(rotation)} parts of the training and validation clips")
    objective = TrainingObjective(
        clips.manifest, clips.labels, store.resolve(), trained, command.reward, rotation
    )
    default = space.complete({knob.name: settings.value_of(knob.name) for knob in space.knobs})
    fewer = budget.trial_epochs is not None and budget.trial_epochs < settings.training.epochs
    with _told(command) as on_trial:
        found = run_search(
            space,
            objective,
            budget if fewer else replace(budget, trial_epochs=None),
            place_of(command),
            seed=settings.training.seed,
            default=default,
            earlier=[read_earlier(where) for where in command.like],
            trial_values={"epochs": budget.trial_epochs} if fewer else {},
            grounds=_grounds(command, settings, clips.manifest),
            nodes=nodes_of(command),
            on_trial=on_trial,
        )
    best = settings_of(settings, found.best.values)
    results = found.to_json() | {"reward": command.reward, "failures": len(clips.failures)}
    folder.write_json(
        "recommended.json", {"settings": best.to_json(), "choices": found.best.values}
    )
    results["model"] = _fit_winner(command, folder, clips, best)
    results["recommendation"] = _recommendation(command, found, default)

    write_search_page(folder.path, results, read_json(folder.path / "settings.json"))
    folder.finish(results)
    return results, len(clips.failures)


def place_of(command: Search) -> Place:
    """Return where the study is kept."""
    from rl.studies import Place

    if command.storage is None:
        return Place(str((command.out / "study.db").resolve()))
    if "://" not in command.storage:
        raise SettingsError(
            f"storage={command.storage!r} is no address; give one such as postgresql://host/name, "
            "or leave it out for a file in OUT."
        )
    return Place(command.storage, command.study or command.out.resolve().name)


@contextmanager
def _told(command: Search) -> Iterator[Any]:
    """Give the callback for each finished training: it draws the search, or writes a line."""
    if command.watch and sys.stderr.isatty():
        from scripts.watch import watching

        with watching(place_of(command), command.search) as on_trial:
            yield on_trial
        return
    with progress("search", "trials") as draw:
        yield _shown(command.search, draw)


def nodes_of(command: Search) -> Nodes | None:
    """Return where on a Ray cluster the workers run; None without one."""
    if command.ray is None:
        return None
    from rl.cluster import Nodes

    return Nodes(command.ray, command.ray_cpus, command.ray_gpus)


def _check_nodes(command: Search) -> None:
    """Refuse a cluster's options that cannot be, before any clip is decoded."""
    if not command.ray_cpus > 0:
        raise SettingsError(f"ray_cpus={command.ray_cpus} must be above 0; raise it.")
    if not command.ray_gpus >= 0:
        raise SettingsError(f"ray_gpus={command.ray_gpus} must not be below 0; raise it.")
    if (nodes := nodes_of(command)) is not None:
        nodes.check(str(place_of(command)))


def _grounds(command: Search, settings: Settings, manifest: Manifest) -> dict[str, Any]:
    """Return what all machines on one study must agree in: the clips, by their place below the
    corpus's folder, the settings that no agent chooses, and the reward."""
    clips = [
        [str(manifest.relative(c.path)), c.start_s, c.duration_s, c.label, c.group, c.split]
        for c in manifest.clips
    ]
    kept = settings.with_values({"device": "auto", "threads": 0}).to_json()  # each machine's own
    made = {"corpus": fingerprint(clips), "settings": fingerprint(kept), "reward": command.reward}
    return made | backgrounds_of(settings) if command.storage else {}


def _shown(budget: SearchSettings, draw: Any) -> Any:
    """Return the callback that tells each finished training."""
    best = float("-inf")
    n_finals = 0

    def show(row: Mapping[str, Any]) -> None:
        nonlocal best, n_finals
        score = row["score"]
        if row["phase"] == "finals":
            n_finals += 1
            say(f"final {n_finals}: {_score(score)}, seed {row['seed']}")
            return
        mark = ""
        if score is not None and score > best:
            best, mark = score, " (best so far)"
        what = "the default setting" if row.get("default") else json.dumps(row["values"])
        error = f": {row['error']}" if row.get("error") else ""
        came_to = f"{_score(score)}{mark}{error}"
        if row.get("state") == "pruned":
            came_to = f"ended after epoch {row['stopped_after']} at {_score(row['reached'])}"
        say(f"trial {row['number']}: {came_to}, {what}")
        if budget.trials is not None:
            draw(row["number"] + 1, budget.trials)

    return show


def _score(score: float | None) -> str:
    return "failed" if score is None else f"{score:.3f}"


def _fit_winner(
    command: Search, folder: RunFolder, clips: ClipsIn, best: Settings
) -> dict[str, Any]:
    """Fit the recommended setting, save it under model/, score it on the test; return its results.

    Goes on from its checkpoint where an earlier command was stopped here.
    """
    from audio.train import fine_tune

    home = RunFolder(folder.path / "model")
    record = {"settings": best.to_json(), "corpus": clips.manifest.fingerprint()}
    if home.path.exists() and not home.is_of(record):  # a larger budget found another winner
        shutil.rmtree(home.path)
    home.path.mkdir(exist_ok=True)
    if home.is_done:
        return home.results()
    home.begin("finetune", record, [str(command.clips), "--settings", "recommended.json"])
    with progress("fit the winner", "epochs") as draw:
        fit = fine_tune(
            clips.examples["train"],
            clips.examples["validation"],
            best,
            clips.labels,
            checkpoint=home.work / "checkpoint.safetensors",
            on_epoch=lambda row: draw(int(row["epoch"]), best.training.epochs),
        )
    results = save_scored(home, fit, clips, settle_and_hear(fit.model, clips))
    home.finish(results)
    return results


def _recommendation(
    command: Search, found: SearchResult, default: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is recommended and why, in words and as a command."""
    best, base, difference = found.best, found.default, found.difference
    n = len(best.seeds)
    changes = [
        {"setting": name, "recommended": value}
        | ({"default": default[name]} if name in default else {})
        for name, value in best.values.items()
        if value != default.get(name)
    ]
    if best.is_default or difference is None:
        words = (
            f"Keep the default setting: of no finalist more is to be expected after all trainings. "
            f"On {n} fresh seeds its mean validation {command.reward} was {_score(base.mean)}."
        )
    else:
        words = (
            f"Over {difference.n} fresh seeds its validation {command.reward} was "
            f"{_score(best.mean)} on average, the default setting's {_score(base.mean)}: "
            f"{difference.mean:+.3f}"
        )
        if difference.low is not None and difference.high is not None:
            words += f" (95 % interval {difference.low:+.3f} to {difference.high:+.3f})."
            if difference.low <= 0:
                words += " The interval includes zero: more seeds or trials would tell."
        else:
            words += "."
    table = command.out / "model" / "manifest.csv"  # with the splits that the search had
    arguments = [str(table), "--settings", str(command.out / "recommended.json")]
    line = shlex.join(["melbandit", "finetune", *arguments, "--out", "runs/tuned"])
    return {"words": words, "changes": changes, "command": line}


def _print(results: dict[str, Any]) -> None:
    """Write finals, recommendation and the winner's test to stdout, and the summary line."""
    print(finals_text(results), end="\n\n")
    print(results["recommendation"]["words"], end="\n\n")
    model = results["model"]
    split = "test" if "test" in model else "validation"
    print(scores_text(split, model[split]))
    print_result(_summary(results))


def _summary(results: dict[str, Any]) -> dict[str, Any]:
    """Return the few figures that the last line of stdout gives."""
    return {
        "trials": len(results["trials"]),
        "seconds": results["seconds"],
        "reward": results["reward"],
        "best": {k: results["best"][k] for k in ("values", "mean", "standard_error")},
        "default": {k: results["default"][k] for k in ("mean", "standard_error")},
        "difference": results["difference"],
        "model": summary(results["model"]),
    }


if __name__ == "__main__":
    sys.exit(main())
