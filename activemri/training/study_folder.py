"""The folder of a study: several trainings, begun and continued as one.

``study.json`` says what the study was started with, so that it is continued with the same. Every
training has a folder of its own below, and ``result.json`` in it when it is finished.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from activemri.files import write_together
from activemri.settings import TrainReconstructorSettings, TuneSettings
from activemri.training.reconstructor import TrainingResult
from activemri.training.world import World, rank

STUDY = "study.json"
RESULT = "result.json"

S = TypeVar("S", bound=TrainReconstructorSettings)

#: May differ between a study and its continuation: they do not say what is computed.
FREE = ("out", "resume", "trials", "threads", "device", "images", "tensorboard")


def described(settings: TrainReconstructorSettings | TuneSettings) -> dict[str, object]:
    """What must be the same when a study is continued."""
    values = asdict(settings)
    return {name: value for name, value in values.items() if name not in FREE}


def claim(
    folder: Path, kind: str, *, described: Mapping[str, object], resume: bool, join: bool = False
) -> None:
    """Begin a study in a folder, or make sure that the one in it is the same.

    Args:
        folder: made if missing.
        kind: what the study is called, e.g. "cross-validation".
        described: all that must be the same when it is continued.
        resume: continue a study; there must be one.
        join: work on a study that is there even if `resume` is off.

    Raises:
        ValueError: there is a study and neither `resume` nor `join`, or none and `resume`, or it
            was started with something else.
        OSError: the folder cannot be written.
    """
    if rank() > 0:  # the first process of a torchrun does it for all
        return
    make_folder(folder)
    now = json.loads(json.dumps({"kind": kind, **described}, default=str))
    with locked(folder):
        then = read_json(folder / STUDY)
        if then is None:
            if resume:
                raise ValueError(f"--resume: there is no {kind} in {folder}; leave --resume out")
            write_json(folder / STUDY, now)
        elif not (resume or join):
            raise ValueError(
                f"{folder} holds a study already ({then.get('kind')}); add --resume to continue "
                "it, or choose another --out"
            )
        else:
            _require_same(folder, then, now)


def train_once(settings: S, train: Callable[[S], TrainingResult]) -> TrainingResult:
    """Train into `settings.out`; continue what was interrupted, keep what is finished.

    Args:
        settings: of one training of a study; `resume` is set as needed.
        train: called unless the training is finished.
    """
    world = World(settings.device)
    done = result_in(settings.out)
    begun = (settings.out / "settings.json").exists()
    world.wait()  # until all processes have looked; then the first one writes
    if done is not None:
        return done
    result = train(replace(settings, resume=begun))
    if world.is_first:
        numbers = {
            "best_step": result.best_step,
            "best_ssim": result.best_ssim,
            "zero_filled_ssim": result.zero_filled_ssim,
        }
        write_json(settings.out / RESULT, numbers)
    world.wait()
    return result


def result_in(folder: Path) -> TrainingResult | None:
    """The result of a finished training, or None."""
    numbers = read_json(folder / RESULT)
    if numbers is None:
        return None
    return TrainingResult(
        folder / "best",
        int(numbers["best_step"]),
        float(numbers["best_ssim"]),
        float(numbers["zero_filled_ssim"]),
    )


def make_folder(folder: Path) -> None:
    """Make a folder, with the reason in one line where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"the output folder {folder} cannot be made: {error.strerror}") from error


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Replace a file, all or nothing."""
    write_together({path: (json.dumps(content, indent=2) + "\n").encode()})


def read_json(path: Path) -> dict[str, str | int | float] | None:
    """What :func:`write_json` has written; None if there is no file.

    Raises:
        ValueError: it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}; choose another --out") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} cannot be read: expected a JSON object; choose another --out")
    return content


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time do what is in the block; the others wait."""
    with (folder / "lock").open("ab") as file:
        _lock(file.fileno(), wait=True)
        yield


class Claim:
    """A lock file held while its process lives: who is killed lets go of it.

    Args:
        path: of the lock file.

    Attributes:
        held: False where another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self.held = _lock(self._file.fileno(), wait=False)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int, *, wait: bool) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(handle: int, *, wait: bool) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True


def _require_same(folder: Path, then: Mapping[str, object], now: Mapping[str, object]) -> None:
    changed = [
        f"{name}: {then.get(name)!r} then, {now.get(name)!r} now"
        for name in {**now, **then}
        if then.get(name) != now.get(name)
    ]
    if changed:
        raise ValueError(
            f"the study in {folder} was started with something else ({'; '.join(changed)}); use "
            "the same, or choose another --out"
        )
