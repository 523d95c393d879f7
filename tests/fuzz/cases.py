"""One case: files damaged as a target and a number say, and what became of their use."""

import os
import shutil
import traceback
import warnings
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from zlib import crc32

import numpy as np

from tests.fuzz.mutations import STRUCTURE, damaged, pick
from tests.fuzz.targets import DefectError, Files, Target, targets

ACCEPTED, REFUSED = "accepted", "refused"
MOST_WORDS = 1000  # letters of a message that still is one line

known = cache(targets)

_MOMENTS = count()


@dataclass(frozen=True)
class Outcome:
    """Accepted, refused with a reason, or a kind of defect and where it came from."""

    kind: str
    words: str = ""

    @property
    def is_defect(self) -> bool:
        return self.kind not in (ACCEPTED, REFUSED)


def made(target: Target, seed: int) -> Files:
    """The files of a case, from a target and a number alone."""
    rng = np.random.default_rng([crc32(target.name.encode()), seed])
    content = dict(pick(target.seeds(), rng))
    name = pick(sorted(content), rng)
    try:
        structure = STRUCTURE[Path(name).suffix] if rng.random() < 0.7 else damaged
        content[name] = structure(content[name], rng)
    except Exception:  # what it cannot take apart
        content[name] = damaged(content[name], rng)
    if target.seal is not None and rng.random() < 0.8:
        content = dict(target.seal(content))
    return content


def put(content: Files, folder: Path) -> Path:
    """Write files into a folder that is emptied before; no two cases have files of one time."""
    moment = next(_MOMENTS)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(moment, moment))
    os.utime(folder, ns=(moment, moment))
    return folder


def used(target: Target, folder: Path) -> Outcome:
    """Use the files in a folder once."""
    loaded = False
    try:
        found = target.load(folder)
        loaded = True
        target.use(found)
    except (ValueError, OSError) as error:
        words = " ".join(str(error).split())
        if not words or len(words) > MOST_WORDS:
            return Outcome("a message too long or empty", _place(error))
        if not loaded and folder.name not in words:
            return Outcome("a message that names no file", f"{_place(error)}: {words}")
        return Outcome(REFUSED, words)
    except DefectError as error:
        return Outcome(error.args[0], " ".join(map(str, error.args[1:])))
    except Exception as error:
        return Outcome(type(error).__name__, _place(error))
    return Outcome(ACCEPTED)


def run(target: Target, seed: int, folder: Path) -> Outcome:
    """Make a case in a folder, and use it."""
    put(made(target, seed), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return used(target, folder)


def _place(error: BaseException) -> str:
    """The last line of the package's own that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f for f in frames if any(p in f.filename for p in ("/activemri/", "/agents/", "/envs/"))
    ]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} {last.name}"
