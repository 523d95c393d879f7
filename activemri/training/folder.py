"""The resumable folder of everything that trains.

==================== =============================================================
``activemri.json``   the command that the folder belongs to
``settings.json``    settings that a continuation must share
``last.pt``          state to continue from (tensors and plain Python)
``log.jsonl``        one line for each validation
``best.*``           checkpoint of the best weights, if the training writes one
``images/``          pictures of validations
``tensorboard/``     the same for TensorBoard, on request
==================== =============================================================
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from activemri import files
from activemri.options import RunOptions

#: An image: uint8 (height, width, 3).
Picture = NDArray[np.uint8]


#: Names of all that trainings and sweeps write into their folders.
WRITTEN = (
    "settings.json*", "last.pt*", "log.jsonl*", "best.*", "evaluator.*", "images", "tensorboard",
    "result.json", "policy.*", "reconstructor.*", "start", "round-*", "summary.json", "sweep.json",
    "study.log*",
)  # fmt: skip


def read_log(path: Path) -> list[dict[str, Any]]:
    """Entries of a ``log.jsonl``, with the "training" and the "step" of each.

    Raises:
        ValueError: names the line that holds something else.
        OSError: the file cannot be read.
    """
    entries = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            entries.append(files.parse_json(line, f"{path}, line {number}"))
            known = entries[-1] if isinstance(entries[-1], dict) else {}
            named, step = isinstance(known.get("training"), str), known.get("step")
            if not named or isinstance(step, bool) or not isinstance(step, int | float):
                raise ValueError(
                    f"{path}, line {number}: expected an entry with the training's name and a "
                    f"step; got {line[:60]!r}"
                )
    return entries


class RunFolder:
    """A folder that a run owns, writes to, and continues from.

    `kind` is the name of the command. What is logged is shown in TensorBoard as well, or a
    ModuleNotFoundError; `best` is the checkpoint of the best weights, without suffix.
    """

    def __init__(self, run: RunOptions, kind: str, *, tensorboard: bool = False) -> None:
        self.run, self.kind = run, kind
        self.path, self.best = run.out, run.out / "best"
        self._settings = self.path / "settings.json"
        self._make_board: Any = None
        self._boards: dict[str, Any] = {}
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    '--tensorboard: TensorBoard is not installed: pip install "activemri[log]"',
                    name=error.name,
                ) from error
            self._make_board = SummaryWriter

    def check(self, settings: Mapping[str, object]) -> None:
        """Refuse what :meth:`open` would refuse, as far as these settings show it; makes nothing.

        Settings of :func:`activemri.options.described` must be the same in a continuation.

        Raises:
            ValueError: the folder belongs to something else; a run is there, and is neither to be
                continued nor overwritten; there is none to be continued, or its settings were
                others.
            OSError: the folder cannot be written.
        """
        files.require_claimable(self.path, self.kind)
        if self.run.overwrite:
            return
        if not self._settings.exists():
            if self.run.resume:
                raise ValueError(f"--resume: there is no run in {self.path}; leave --resume out")
            return
        if not self.run.resume:
            raise ValueError(
                f"{self.path} holds a run already; add --resume to continue it, --overwrite to "
                "start anew, or choose another --out"
            )
        then = files.read_json(self._settings)
        changed = [
            f"{name}: {then.get(name)!r:.100} then, {value!r:.100} now"
            for name, value in json.loads(files.json_text(settings)).items()
            if then.get(name) != value
        ]
        if changed:
            raise ValueError(
                f"the run in {self.path} was started with something else ({'; '.join(changed)}); "
                "use the same, or choose another --out. Schedules follow max_steps, so a longer "
                "training is another training"
            )

    @contextmanager
    def open(
        self,
        settings: Mapping[str, object],
        *,
        shared: bool = False,
        overwrite: Sequence[str] = WRITTEN,
    ) -> Iterator[dict[str, Any] | None]:
        """Own the folder during the block, for a new run or where an old one stopped.

        Gives :meth:`state`. Settings and errors are those of :meth:`check`; facts about the data
        join the settings. What is `shared` and what is to `overwrite`, see
        :func:`activemri.files.claimed`.
        """
        self.check(settings)
        gone = overwrite if self.run.overwrite else ()
        with files.claimed(self.path, self.kind, overwrite=gone, shared=shared):
            if not self._settings.exists():
                files.write_json(self._settings, settings)
            try:
                yield self.state()
            finally:
                for board in self._boards.values():
                    board.close()
                self._boards.clear()

    def state(self) -> dict[str, Any] | None:
        """The state to continue from; None before the first validation, damaged a ValueError."""
        path = self.path / "last.pt"
        if not path.exists():
            return None
        try:
            with zipfile.ZipFile(path) as archive:  # torch looks at no sums
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} is damaged")
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # archives that torch has not written fail in many ways
            raise ValueError(
                f"{path} cannot be read: damaged, or not written by a training; choose another "
                "--out to start anew"
            ) from error

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state to continue from (tensors and plain Python only)."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        files.write(self.path / "last.pt", buffer.getvalue())

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append one line of JSON, and show its numbers in TensorBoard.

        The entry has "training" (name of what is trained) and "step"; lines of the same training's
        same and later steps go before. A "picture" goes to ``images/``.
        """
        name, step, picture = entry["training"], entry["step"], entry.get("picture")
        path = self.path / "log.jsonl"
        earlier = read_log(path) if path.exists() else []
        kept = [one for one in earlier if one["training"] != name or one["step"] < step]
        kept.append({key: x for key, x in entry.items() if key != "picture"})
        files.write(path, "".join(f"{files.json_text(one)}\n" for one in kept))
        if picture is not None:
            from PIL import Image

            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, format="PNG")
            path = self.path / "images" / f"{name}-{step:06}.png"
            files.write(path, buffer.getvalue())
        if self._make_board is None:
            return
        if name not in self._boards:
            # What an interrupted run has shown of this step and later ones is dropped.
            path = self.path / "tensorboard" / name
            self._boards[name] = self._make_board(str(path), purge_step=step)
        board = self._boards[name]
        for key, value in entry.items():
            if isinstance(value, float):
                board.add_scalar(f"{name}/{key}", value, step)
        if picture is not None:
            board.add_image(f"{name}/validation", picture, step, dataformats="HWC")
        board.flush()
