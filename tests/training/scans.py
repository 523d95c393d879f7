"""Soft ellipses to train on, moments without rollouts, and settings of a training of a second."""

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activemri.agents.episode_masks import EpisodeMasks, Moment
from activemri.data.slices import Slice, SliceInfo, SliceList
from activemri.envs.protocol import ScanProtocol
from activemri.envs.scan import Scan
from activemri.mri import fourier
from activemri.options import Compute, RunOptions
from activemri.training.batches import Batch, make_batch
from activemri.training.loop import Trained
from activemri.training.reconstructor import TrainReconstructorSettings, train_reconstructor

SHAPE = (12, 18)
UNET = {"channels": 2, "pools": 1}


def discs(
    subjects: Sequence[str],
    *,
    shape: tuple[int, int] = SHAPE,
    target_shape: tuple[int, int] | None = None,
    n_coils: int = 1,
    maps: bool = False,
) -> SliceList:
    """Two slices of a few soft ellipses for each subject."""
    slices = []
    for number, subject in enumerate(subjects):
        generator = torch.Generator().manual_seed(number + 100 * len(subject))
        for index in range(2):
            slices.append(_disc(generator, subject, index, shape, target_shape, n_coils, maps))
    return SliceList(slices, "discs")


def _disc(
    generator: torch.Generator,
    subject: str,
    index: int,
    shape: tuple[int, int],
    target_shape: tuple[int, int] | None,
    n_coils: int,
    maps: bool,
) -> Slice:
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    image = torch.zeros(shape, dtype=torch.complex64)
    for a, b, r, value, angle in torch.rand(4, 5, generator=generator).tolist():
        inside = ((x - a + 0.5) ** 2 + (y - b + 0.5) ** 2 - r) * 20
        phase = torch.exp(1j * (angle + 0.5 * x))
        image += (value + 0.2) * torch.sigmoid(-inside) * phase
    sensitivity = torch.stack([torch.exp(1j * (c + x)) * (1.2 + c - y) for c in range(n_coils)])
    sensitivity = sensitivity / torch.linalg.vector_norm(sensitivity, dim=0)
    if n_coils == 1:
        sensitivity = torch.ones(1, *shape, dtype=torch.complex64)
    height, width = target_shape or shape
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    target = image.abs()[top : top + height, left : left + width].contiguous()
    return Slice(
        kspace=fourier.fft2(sensitivity * image),
        target=target,
        volume=f"volume-{subject}",
        index=index,
        subject=subject,
        volume_max=target.max().item(),
        sensitivity=sensitivity if maps and n_coils > 1 else None,
    )


def bare_scan(shape: tuple[int, int] = SHAPE, **options: Any) -> Scan:
    """A scan protocol without scores, for frames of a shape."""
    protocol = ScanProtocol(**{"n_center_lines": 4, "budget": 6, "metrics": (), **options})
    return protocol.scan(discs(["a"], shape=shape))


def random_moments(shape: tuple[int, int] = SHAPE, **options: Any) -> EpisodeMasks:
    """Moments of random episodes."""
    return EpisodeMasks({}, scan=bare_scan(shape, **options))


class StoppingMoments(EpisodeMasks):
    """Interrupts the training when a moment of that number is drawn."""

    def __init__(self, *, stop_at: int, kill: bool = False) -> None:
        super().__init__({}, scan=bare_scan())
        self.stop_at, self.kill, self.n_drawn = stop_at, kill, 0

    def __call__(
        self, info: SliceInfo, generator: np.random.Generator, *, step: int | None = None
    ) -> Moment:
        self.n_drawn += step is None  # training draws the step, validation names it
        if self.n_drawn == self.stop_at:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        return super().__call__(info, generator, step=step)


StoppingMoments.__name__ = EpisodeMasks.__name__  # a resumed training must have the same masks


def measured(slices: Sequence[Slice], mask: Tensor, **options: Any) -> Batch:
    """Slices of one kind with one mask of columns, bool (width,)."""
    scan = bare_scan(slices[0].shape, **options)
    start = scan.geometry.center_lines(scan.n_center_lines)
    log = (mask & ~start).nonzero().squeeze(1)
    moment = Moment(start, log, torch.arange(1, len(log) + 1))
    return make_batch(scan, slices, [moment] * len(slices))


def tiny(
    out: Path, kind: type[Any] = TrainReconstructorSettings, *, seed: int = 0, **changes: Any
) -> Any:
    """Settings of a training of a second; fields of the protocol may be among the changes."""
    names = {field.name for field in fields(ScanProtocol)}
    protocol = {"reconstructor": "unet", "n_center_lines": 4, "budget": 6}
    protocol |= {name: value for name, value in changes.items() if name in names}
    settings = {
        "network": UNET if protocol["reconstructor"] == "unet" else {},
        "max_steps": 6,
        "validate_every": 2,
        "batch_size": 2,
        "lr": 1e-2,
        "images": 0,
        **{name: value for name, value in changes.items() if name not in names},
    }
    return kind(
        protocol=ScanProtocol(**protocol),  # type: ignore[arg-type]
        run=RunOptions(out=out, seed=seed),
        compute=Compute(threads=1),
        **settings,
    )


def resumed(settings: Any) -> Any:
    """The same settings with --resume."""
    return changed(settings, resume=True)


def changed(settings: Any, **changes: Any) -> Any:
    """Settings with other values, those of protocol, run and compute included."""
    parts = {}
    for name in ("protocol", "run", "compute"):
        part = getattr(settings, name)
        own = {k: changes.pop(k) for k in list(changes) if k in part.__dataclass_fields__}
        parts[name] = type(part)(**{**vars(part), **own})
    return type(settings)(**{**vars(settings), **parts, **changes})


def train(settings: Any, function: Any = train_reconstructor, **changes: Any) -> Trained:
    """Train on a few discs."""
    given = {
        "train": discs(["a", "b", "c"]),
        "validation": discs(["dd"]),
        "moments": random_moments(),
    }
    result: Trained = function(settings, **{**given, **changes})
    return result


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Entries of the log, without times."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]


def assert_same_runs(one: Path, other: Path) -> None:
    """Checkpoints, states and logs are the same, bit for bit."""
    for path in one.glob("*.safetensors"):
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name
    states = [torch.load(f / "last.pt", weights_only=True) for f in (one, other)]
    assert_equal(states[0], states[1])
    assert log_of(one) == log_of(other)


def assert_equal(one: Any, other: Any) -> None:
    """Nested dictionaries and tensors are equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other
