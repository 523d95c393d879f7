"""Scores of a reconstructor on fixed scans at fixed moments of an episode."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from activemri import metrics
from activemri.agents.episode_masks import EpisodeMasks
from activemri.data.slices import SliceDataset
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.training.batches import Batch, infos_of, make_batch

N_SCANS = 32  # spread evenly over the validation split
N_MOMENTS = 4  # of an episode, from its first to its last


@dataclass(frozen=True)
class ValidationScore:
    """SSIM with the data range of the slice, averaged over scans.

    Attributes:
        ssim: mean over all moments; decides which weights are best.
        ssim_at: by readouts since the start of the episode.
    """

    ssim: float
    ssim_at: dict[int, float]


class Validation:
    """The same scans and moments every time, drawn once from the seed.

    Args:
        scans: of the validation split.
        moments: source of the moments of episodes.
        seed: of the draws.
    """

    def __init__(self, scans: SliceDataset, moments: EpisodeMasks, *, seed: int) -> None:
        self.scans = scans
        self.infos = infos_of(scans)
        self.moments = moments
        self.seed = seed
        places = np.linspace(0, len(scans) - 1, min(N_SCANS, len(scans)))
        self.indices = [int(i) for i in np.unique(places.round())]
        self.steps = [int(s) for s in np.unique(np.linspace(0, moments.budget, N_MOMENTS).round())]

    @torch.no_grad()
    def score(self, reconstructor: Reconstructor) -> ValidationScore:
        """Score a reconstructor, in evaluation mode; its mode is restored."""
        was_training = reconstructor.training
        reconstructor.eval()
        total = torch.zeros(len(self.steps), dtype=torch.float64)
        for batch in self.batches():
            total += self._ssim(batch, reconstructor)
        reconstructor.train(was_training)
        by_step = (total / len(self.indices)).tolist()
        return ValidationScore(
            ssim=float(np.mean(by_step)), ssim_at=dict(zip(self.steps, by_step, strict=True))
        )

    @torch.no_grad()
    def mean(self, reconstructor: Reconstructor, value: Callable[[Batch], Tensor]) -> float:
        """Mean over scans of a value, (batch,), at the last moment, in evaluation mode."""
        was_training = reconstructor.training
        reconstructor.eval()
        values = [value(self.batch(index, steps=self.steps[-1:])) for index in self.indices]
        reconstructor.train(was_training)
        return float(torch.cat(values).double().mean())

    def zero_filled(self) -> ValidationScore:
        """The score to beat."""
        return self.score(ZeroFilled())

    def batches(self) -> Iterator[Batch]:
        """Each scan at all moments, one after the other."""
        return (self.batch(index) for index in self.indices)

    def batch(self, index: int, *, steps: Sequence[int] | None = None) -> Batch:
        """One scan at all moments, or some; every scan has its own draw of masks."""
        steps = self.steps if steps is None else steps
        drawn = [np.random.default_rng([self.seed, index, step]) for step in steps]
        moments = [
            self.moments(self.infos[index], generator, step=step)
            for generator, step in zip(drawn, steps, strict=True)
        ]
        seeds = torch.tensor([int(generator.integers(2**62)) for generator in drawn])
        return make_batch(
            self.moments.scan, [self.scans[index]] * len(moments), moments, seeds=seeds
        )

    def _ssim(self, batch: Batch, reconstructor: Reconstructor) -> Tensor:
        image = batch.magnitude(reconstructor)
        return metrics.ssim(image, batch.target, data_range=batch.data_range).cpu()
