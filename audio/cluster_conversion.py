"""Conversion spread over a Ray cluster: each task converts a share of the clips into one folder.

Clips and folder lie on a file system that every node sees under the same path. A task whose node
dies is run again elsewhere; pictures are written whole or not at all, so nothing is lost by it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from audio.clips import Clip
from audio.conversion import Outcome, PictureFolder, convert_clips
from audio.settings import CutSettings, SpectrogramSettings, UserError

_SHARE_ROWS = 256  # of one task: a second of work, a hundred times what handing it out takes


def convert_on_cluster(
    address: str,
    clips: Sequence[Clip],
    rows: Sequence[int],
    settings: SpectrogramSettings,
    sink: PictureFolder,
    *,
    cut: CutSettings,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Do what `audio.conversion.convert_clips` does on the Ray cluster at `address`.

    address: as `ray.init` takes it; auto, host:port, ray://host:port, or local for a new one here.

    Raises:
        UserError: Ray is not installed, no cluster answers, or its workers cannot do the work.
        OSError: the folder cannot be written.
    """
    ray = _connected(address)
    try:
        shared = ray.put((tuple(clips), settings, sink, cut, str(Path.cwd())))
        task = ray.remote(_convert_share)
        shares = iter(_shares(clips, rows, windows=cut.longer == "windows"))
        room = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = [task.remote(shared, share) for share in islice(shares, room)]
        total = Outcome()
        while waiting:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            total.add(_result(ray, ready))
            waiting += [task.remote(shared, share) for share in islice(shares, 1)]
            if progress:
                progress(total.n_new + len(total.failed))
        return total
    finally:
        ray.shutdown()


def _convert_share(shared: Any, rows: Sequence[int]) -> Outcome:
    """Convert some clips, in a process on one of the nodes."""
    clips, settings, sink, cut, here = shared
    os.chdir(here)  # the clips' paths may be relative, and name what is drawn at random
    return convert_clips(clips, rows, settings, sink, cut=cut, workers=1)


def _shares(clips: Sequence[Clip], rows: Sequence[int], *, windows: bool) -> list[list[int]]:
    """Return rows by task; with `windows`, all those of one recording are in one."""
    shares: list[list[int]] = []
    for row in rows:
        joined = bool(shares) and windows and clips[row].path == clips[shares[-1][-1]].path
        if not shares or (len(shares[-1]) >= _SHARE_ROWS and not joined):
            shares.append([])
        shares[-1].append(row)
    return shares


def _result(ray: Any, ready: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError):
            raise error.cause from None
        raise UserError(f"a worker on the cluster ended with an error:\n{error}") from None
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the cluster lost the work ({reason}); give the same command again to go on."
        ) from None
    return outcome


def _connected(address: str) -> Any:
    """Return the module `ray`, connected to the cluster."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UserError(
            f"ray={address} needs the package ray; install melbandit[cluster]."
        ) from None
    try:
        ray.init(
            address=address, namespace="melbandit", log_to_driver=False,
            logging_level=logging.ERROR, ignore_reinit_error=True,
        )  # fmt: skip
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"ray={address}: no cluster answers ({reason}); start one with `ray start --head`, or "
            "give its address."
        ) from None
    return ray
