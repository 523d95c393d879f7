"""Train a reconstructor on the masks that episodes visit.

On a CPU with glibc, networks on images of 256 x 256 and more are up to three times faster if the
process is started with ``MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184
MALLOC_TOP_PAD_=268435456``: memory is then not given back after every layer. One thread
(``--threads 1``) is the safe choice on a machine that does other work as well.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from activemri import checkpoints
from activemri.data.slices import SliceDataset
from activemri.devices import usable
from activemri.losses import make_loss
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS
from activemri.settings import TrainReconstructorSettings
from activemri.training.batches import InMemory, TrainingBatches, to_device
from activemri.training.masks import MaskSource
from activemri.training.run_folder import RunFolder, command
from activemri.training.validation import Validation, ValidationScore

WARM_UP = 0.1  # share of the steps in which the learning rate rises
LARGEST_GRADIENT = 1.0  # norm to which larger gradients are shortened


class TrainingDivergedError(ValueError):
    """The loss or its gradient is no longer a finite number."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training has made.

    Attributes:
        checkpoint: path of the best weights, without suffix.
        best_step: after which they were taken; 0 if training never improved on the start.
        best_ssim: their validation SSIM, averaged over the moments of an episode.
        zero_filled_ssim: the same for the zero-filled reconstruction.
    """

    checkpoint: Path
    best_step: int
    best_ssim: float
    zero_filled_ssim: float


def check_settings(settings: TrainReconstructorSettings) -> None:
    """Refuse now what :func:`train_reconstructor` would refuse, before hours go into masks.

    Raises:
        ValueError: an unknown loss, a device that is not there, a folder that is taken, or one
            that was started with other settings.
        OSError: `settings.out` cannot be written.
    """
    make_loss(settings.loss)
    usable(settings.device)
    RunFolder(settings.out).check(settings)


def train_reconstructor(
    settings: TrainReconstructorSettings,
    *,
    masks: MaskSource,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
) -> TrainingResult:
    """Train, validate at fixed intervals, keep the best weights; continue after a kill.

    AdamW, with a learning rate that rises linearly for a tenth of the steps and then falls to zero
    along a cosine. Each step is a function of seed and step number, so a training that was killed
    and resumed ends with the same weights, to the last bit, as one that was not (same machine and
    number of threads). The folder `settings.out` gets ``best.safetensors`` and ``best.json``,
    ``last.pt`` (state to resume from), ``settings.json``, and ``log.jsonl`` with one line for each
    validation.

    Args:
        settings: see there.
        masks: what has been acquired when an image is asked for, e.g. what
            :func:`activemri.agents.visits.visit_masks` records.
        train: scans to learn from; None opens the train split of `settings.data`.
        validation: scans that choose the best weights; None opens the val split.

    Raises:
        ValueError: unusable settings or data; a folder that is taken; subjects in both splits.
        OSError: `settings.out` cannot be written.
        TrainingDivergedError: a loss that is not finite; the best weights so far are kept.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    check_settings(settings)  # before data are read
    folder = RunFolder(settings.out)
    train_scans = InMemory(train if train is not None else _open(settings, "train"))
    validation_scans = InMemory(validation if validation is not None else _open(settings, "val"))
    _check_splits(train_scans, validation_scans)
    state = folder.open(
        settings,
        given={
            "masks": type(masks).__name__,
            "n_train_scans": len(train_scans),
            "n_validation_scans": len(validation_scans),
        },
    )
    checks = Validation(validation_scans, masks, seed=settings.seed, device=settings.device)
    batches = TrainingBatches(
        train_scans, masks, batch_size=settings.batch_size, seed=settings.seed
    )
    training = _Training(
        settings,
        folder=folder,
        batches=batches,
        checks=checks,
        zero_filled=checks.zero_filled(),
    )
    return training.run(state)


class _Training:
    """Network, optimizer, and what has been reached."""

    def __init__(
        self,
        settings: TrainReconstructorSettings,
        *,
        folder: RunFolder,
        batches: TrainingBatches,
        checks: Validation,
        zero_filled: ValidationScore,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.batches = batches
        self.checks = checks
        self.loss = make_loss(settings.loss)
        self.network = _new_network(settings).train()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=0.0)
        self.step = 0
        self.best_step, self.best_ssim = 0, -math.inf
        self.zero_filled = zero_filled

    def run(self, state: dict[str, Any] | None) -> TrainingResult:
        if state is None:
            self._validate(loss=None, started=time.monotonic())
        else:
            self._restore(state)
        with tqdm(
            total=self.settings.max_steps, initial=self.step, desc="train", unit="step"
        ) as bar:
            while self.step < self.settings.max_steps:
                self._train_until_validation(bar)
        return TrainingResult(
            self.folder.best, self.best_step, self.best_ssim, self.zero_filled.ssim
        )

    def _train_until_validation(self, bar: "tqdm[Any]") -> None:
        started = time.monotonic()
        interval = self.settings.validate_every
        stop = min((self.step // interval + 1) * interval, self.settings.max_steps)
        total, n_steps = 0.0, stop - self.step
        while self.step < stop:
            loss = self._train_step()
            total += loss
            bar.update()
            bar.set_postfix(loss=f"{loss:.4f}", ssim=f"{self.best_ssim:.4f}", refresh=False)
        self._validate(loss=total / n_steps, started=started)

    def _train_step(self) -> float:
        settings = self.settings
        batch = to_device(self.batches[self.step], settings.device)
        rate = learning_rate(self.step, n_steps=settings.max_steps, largest=settings.lr)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        image = batch.magnitude(self.network)
        loss = self.loss(image, batch.target, data_range=batch.data_range).mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self._require_finite(loss, norm, batch.names)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def _require_finite(self, loss: Tensor, norm: Tensor, names: tuple[str, ...]) -> None:
        if torch.isfinite(loss) and torch.isfinite(norm):
            return
        raise TrainingDivergedError(
            f"training stopped at step {self.step}: loss {loss.item()}, gradient norm "
            f"{norm.item()}, scans {', '.join(names)}. The best weights, from step "
            f"{self.best_step}, are in {self.folder.best}; try a smaller --lr, or look at these "
            "scans"
        )

    def _validate(self, *, loss: float | None, started: float) -> None:
        trained_s = time.monotonic() - started
        score = self.checks.score(self.network)
        if score.ssim > self.best_ssim:
            self.best_step, self.best_ssim = self.step, score.ssim
            self._save_best(score)
        self.folder.log(
            {
                "step": self.step,
                "loss": loss,
                "validation_ssim": score.ssim,
                "validation_ssim_at": score.ssim_at,
                "zero_filled_ssim_at": self.zero_filled.ssim_at,
                "best_step": self.best_step,
                "seconds": round(trained_s, 3),
            }
        )
        self.folder.save(self._state())

    def _save_best(self, score: ValidationScore) -> None:
        settings = self.settings
        checkpoints.save(
            self.folder.best,
            kind=settings.name,
            settings=self.network.settings,
            state_dict=self.network.state_dict(),
            info={
                "data": settings.data,
                "matrix": settings.matrix,
                "n_train_slices": len(self.batches.scans),
                "n_center_lines": self.batches.masks.n_center_lines,
                "budget": self.batches.masks.budget,
                "masks": type(self.batches.masks).__name__,
                "step": self.step,
                "metrics": {
                    "ssim": score.ssim,
                    "ssim_at": score.ssim_at,
                    "zero_filled_ssim": self.zero_filled.ssim,
                    "zero_filled_ssim_at": self.zero_filled.ssim_at,
                },
                "torch_version": str(torch.__version__),
                "threads": torch.get_num_threads(),
                "command": command(settings),
            },
        )

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best_step": self.best_step,
            "best_ssim": self.best_ssim,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.best_step, self.best_ssim = state["best_step"], state["best_ssim"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def learning_rate(step: int, *, n_steps: int, largest: float) -> float:
    """Linear rise over the first tenth of the steps, then half a cosine down to zero."""
    rise = max(1, round(WARM_UP * n_steps))
    if step < rise:
        return largest * (step + 1) / rise
    return largest * (1 + math.cos(math.pi * (step - rise) / max(1, n_steps - rise))) / 2


def _new_network(settings: TrainReconstructorSettings) -> Reconstructor:
    kind: Any = RECONSTRUCTORS[settings.name]
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global state
        torch.manual_seed(settings.seed)
        network = kind(settings.channels, pools=settings.pools)
    assert isinstance(network, Reconstructor)
    return network.to(settings.device)


def _open(settings: TrainReconstructorSettings, split: str) -> SliceDataset:
    from activemri.data.sources import open_dataset

    return open_dataset(settings.data, split=split, matrix_size=settings.matrix)


def _check_splits(train: InMemory, validation: InMemory) -> None:
    for name, scans in (("train", train), ("validation", validation)):
        if len(scans) == 0:
            raise ValueError(f"there are no {name} scans; give every split at least one subject")
    shared = {i.subject for i in train.infos} & {i.subject for i in validation.infos}
    if shared:
        raise ValueError(
            "train and validation scans must come from different subjects; found in both: "
            + ", ".join(sorted(shared)[:5])
        )
