"""The folder of one training: settings, log, best weights, and the state to resume from."""

import dataclasses
import io
import json
import pickle
import shlex
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from activemri.files import write_together
from activemri.settings import (
    StudySettings,
    TrainJointSettings,
    TrainReconstructorSettings,
)

#: May differ between a training and its continuation: they do not say what is computed.
_FREE = ("out", "resume", "threads", "device", "images", "tensorboard")


class RunSettings(Protocol):
    """What the settings of every training say; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def out(self) -> Path: ...
    @property
    def resume(self) -> bool: ...


@dataclass(frozen=True)
class RunFolder:
    """Paths of one training.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def best(self) -> Path:
        """Checkpoint with the best weights, without suffix."""
        return self.path / "best"

    @property
    def evaluator(self) -> Path:
        """Checkpoint of the evaluator beside it, without suffix."""
        return self.path / "evaluator"

    @property
    def _state(self) -> Path:
        return self.path / "last.pt"

    @property
    def _settings(self) -> Path:
        return self.path / "settings.json"

    @property
    def _log(self) -> Path:
        return self.path / "log.jsonl"

    def check(self, settings: RunSettings) -> None:
        """Tell what :meth:`open` would refuse, as far as settings alone show it; claims nothing.

        Raises:
            ValueError: as :meth:`open`.
            OSError: the folder cannot be written.
        """
        self._require_writable()
        if not self._settings.exists():
            self._require_free(settings)
            return
        if not settings.resume:
            raise ValueError(
                f"{self.path} holds a training already; add --resume to continue it, or choose "
                "another --out"
            )
        self._require_same(_described(settings))
        if self._state.exists():
            self._load()

    def open(self, settings: RunSettings, *, given: Mapping[str, object]) -> dict[str, Any] | None:
        """Claim the folder for a new training, or find where an old one stopped.

        Args:
            settings: of the training.
            given: what else must be the same when it is resumed, e.g. the number of scans.

        Returns:
            The state to continue from; None to begin.

        Raises:
            ValueError: a training is there and `resume` is off, or the other way round, or its
                settings were others.
            OSError: the folder cannot be written.
        """
        self.check(settings)
        described = {**_described(settings), **given}
        if not self._settings.exists():
            self._write(self._settings, (json.dumps(described, indent=2) + "\n").encode())
            return None
        self._require_same(described)
        return self.state()

    def state(self) -> dict[str, Any] | None:
        """The state to continue from; None before the first validation."""
        return self._load() if self._state.exists() else None

    def save_picture(self, name: str, pixels: NDArray[np.uint8]) -> None:
        """Write (height, width, 3) as a PNG file into ``images``."""
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        path = self.path / "images" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        self._write(path, buffer.getvalue())

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state to resume from (tensors and plain Python only)."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self._write(self._state, buffer.getvalue())

    def log(self, entry: Mapping[str, object]) -> None:
        """Append one line of JSON; lines of the same training's same and later steps go before."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        kept = [line for line in lines if _is_before(json.loads(line), entry)]
        self._write(self._log, "".join(f"{x}\n" for x in [*kept, json.dumps(entry)]).encode())

    def _write(self, path: Path, content: bytes) -> None:
        write_together({path: content})

    def _load(self) -> dict[str, Any]:
        try:
            # Anything but an archive is taken for an old format, whose reader trips over garbage
            # in many ways.
            if not zipfile.is_zipfile(self._state):
                raise EOFError("no archive of torch.save")
            return dict(torch.load(self._state, map_location="cpu", weights_only=True))
        except (RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{self._state} cannot be read: damaged, or not written by a training; choose "
                "another --out to start anew"
            ) from error

    def _require_writable(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OSError(
                f"the output folder {self.path} cannot be written: {error.strerror}"
            ) from error

    def _require_free(self, settings: RunSettings) -> None:
        if settings.resume:
            raise ValueError(f"--resume: there is no training in {self.path}; leave --resume out")
        if any(path.with_suffix(".safetensors").exists() for path in (self.best, self.evaluator)):
            raise ValueError(
                f"{self.path} holds a checkpoint of something else already; choose another --out"
            )

    def _started_with(self) -> dict[str, object]:
        try:
            return dict(json.loads(self._settings.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self._settings} cannot be read: expected the settings of a training as JSON; "
                "choose another --out to start anew"
            ) from error

    def _require_same(self, described: Mapping[str, object]) -> None:
        then = self._started_with()
        changed = [
            f"{name}: {then.get(name)!r} then, {value!r} now"
            for name, value in described.items()
            if then.get(name) != value
        ]
        if changed:
            raise ValueError(
                f"the training in {self.path} was started with something else ("
                + "; ".join(changed)
                + "); use the same, or choose another --out. The learning rate follows "
                "max_steps, so a longer training is another training"
            )


def command(settings: RunSettings) -> str:
    """The command line that makes the same training."""
    return " ".join([f"activemri train {_COMMANDS[type(settings)]}", *_options(settings)])


_COMMANDS: dict[type, str] = {
    TrainReconstructorSettings: "reconstructor",
    TrainJointSettings: "joint",
}


def _options(settings: RunSettings | StudySettings) -> Iterator[str]:
    """What is not the default, as options."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value == field.default or field.name in _FREE:
            continue
        if isinstance(value, StudySettings):
            yield from _options(value)
        else:
            yield _option(field.name.replace("_", "-"), value)


def _option(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    values = value if isinstance(value, tuple) else (value,)
    return f"--{name} {' '.join(shlex.quote(str(v)) for v in values)}"


def _is_before(line: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    return bool(line.get("training") != entry["training"] or line["step"] < entry["step"])


def _described(settings: RunSettings) -> dict[str, object]:
    """The settings that must stay the same, as JSON gives them back."""
    values = {k: v for k, v in dataclasses.asdict(settings).items() if k not in _FREE}
    return dict(json.loads(json.dumps(values, default=str)))
