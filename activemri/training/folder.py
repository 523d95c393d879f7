"""The resumable folder of everything that trains.

==================== =============================================================
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
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from activemri import files

#: An image: uint8 (height, width, 3).
Picture = NDArray[np.uint8]


class RunFolder:
    """A folder that a run claims, writes to, and continues from.

    Args:
        path: of the folder.
        tensorboard: show what is logged in TensorBoard as well.

    Raises:
        ModuleNotFoundError: TensorBoard is wanted, and not installed.
    """

    def __init__(self, path: Path, *, tensorboard: bool = False) -> None:
        self.path = path
        self._writer = _summary_writer() if tensorboard else None
        self._boards: dict[str, Any] = {}

    @property
    def best(self) -> Path:
        """Checkpoint of the best weights, without suffix."""
        return self.path / "best"

    def check(self, settings: Mapping[str, object], *, resume: bool) -> None:
        """Refuse what :meth:`open` would refuse, as far as these settings show it; makes nothing.

        Args:
            settings: that must be the same in a continuation, see
                :func:`activemri.options.described`.
            resume: continue what is in the folder.

        Raises:
            ValueError: a run is there and `resume` is off, or the other way round, or its settings
                were others.
            OSError: the folder cannot be written.
        """
        files.require_writable(self.path)
        if not self._settings.exists():
            if resume:
                raise ValueError(f"--resume: there is no run in {self.path}; leave --resume out")
            if any(self.path.glob("*.safetensors")):
                raise ValueError(
                    f"{self.path} holds a checkpoint of something else; choose another --out"
                )
            return
        if not resume:
            raise ValueError(
                f"{self.path} holds a run already; add --resume to continue it, or choose another "
                "--out"
            )
        self._require_same(settings)

    def open(self, settings: Mapping[str, object], *, resume: bool) -> dict[str, Any] | None:
        """Claim the folder for a new run, or find where an old one stopped.

        Args:
            settings: all that a continuation must share, facts about the data included.
            resume: continue what is in the folder.

        Returns:
            The state to continue from; None to begin.

        Raises:
            ValueError: as :meth:`check`, and for a state that cannot be read.
            OSError: the folder cannot be written.
        """
        self.check(settings, resume=resume)
        if not self._settings.exists():
            files.make_writable(self.path)
            files.write_json(self._settings, settings)
        return self.state()

    def state(self) -> dict[str, Any] | None:
        """The state to continue from; None before the first validation.

        Raises:
            ValueError: the file is damaged, or something else.
        """
        path = self.path / "last.pt"
        if not path.exists():
            return None
        try:
            # Anything but an archive is taken for an old format, whose reader trips over garbage
            # in many ways.
            if not zipfile.is_zipfile(path):
                raise EOFError("no archive of torch.save")
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{path} cannot be read: damaged, or not written by a training; choose another "
                "--out to start anew"
            ) from error

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state to continue from (tensors and plain Python only)."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        files.write(self.path / "last.pt", buffer.getvalue())

    def log(self, entry: Mapping[str, Any], *, picture: Picture | None = None) -> None:
        """Append one line of JSON, and show numbers and picture in TensorBoard.

        Args:
            entry: with "training" (name of what is trained) and "step"; lines of the same
                training's same and later steps go before.
            picture: also written to ``images/``.
        """
        path = self.path / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _is_before(json.loads(line), entry)]
        files.write(path, "".join(f"{x}\n" for x in [*kept, json.dumps(entry)]))
        name, step = entry["training"], entry["step"]
        if picture is not None:
            self._save_picture(f"{name}-{step:06}", picture)
        if self._writer is not None:
            self._show(entry, picture)

    def close(self) -> None:
        """Close TensorBoard's files."""
        for board in self._boards.values():
            board.close()
        self._boards.clear()

    @property
    def _settings(self) -> Path:
        return self.path / "settings.json"

    def _require_same(self, settings: Mapping[str, object]) -> None:
        then = files.read_json(self._settings)
        now = json.loads(json.dumps(settings, default=str))
        changed = [
            f"{name}: {then.get(name)!r} then, {value!r} now"
            for name, value in now.items()
            if then.get(name) != value
        ]
        if changed:
            raise ValueError(
                f"the run in {self.path} was started with something else ({'; '.join(changed)}); "
                "use the same, or choose another --out. Schedules follow max_steps, so a longer "
                "training is another training"
            )

    def _save_picture(self, name: str, pixels: Picture) -> None:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        path = self.path / "images" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        files.write(path, buffer.getvalue())

    def _show(self, entry: Mapping[str, Any], picture: Picture | None) -> None:
        name, step = entry["training"], entry["step"]
        if name not in self._boards:
            # What an interrupted run has shown of this step and later ones is dropped.
            path = self.path / "tensorboard" / name
            self._boards[name] = self._writer(str(path), purge_step=step)  # type: ignore[misc]
        board = self._boards[name]
        for key, value in entry.items():
            if isinstance(value, float):
                board.add_scalar(f"{name}/{key}", value, step)
        if picture is not None:
            board.add_image(f"{name}/validation", picture, step, dataformats="HWC")
        board.flush()


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            '--tensorboard: TensorBoard is not installed: pip install "activemri[log]"',
            name=error.name,
        ) from error
    return SummaryWriter


def _is_before(line: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    return bool(line.get("training") != entry["training"] or line["step"] < entry["step"])
