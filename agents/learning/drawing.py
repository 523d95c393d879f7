"""Which scans a training sees next."""

import numpy as np
import torch

from activemri.agents.rollout import rows_of_a_kind
from activemri.data.slices import Slice, SliceDataset


class ScanDraw:
    """Draws positions of scans: half of the time a subject first, else a volume first.

    So half of the scans are drawn evenly over subjects, half over volumes: large volumes do not
    drown small ones.
    """

    def __init__(self, scans: SliceDataset) -> None:
        volumes: dict[tuple[str, str], list[int]] = {}
        for position in range(len(scans)):
            info = scans.describe(position)
            volumes.setdefault((info.subject, info.volume), []).append(position)
        subjects: dict[str, list[list[int]]] = {}
        for (subject, _), positions in volumes.items():
            subjects.setdefault(subject, []).append(positions)
        self.volumes = list(volumes.values())
        self.subjects = list(subjects.values())

    def __call__(self, n: int, generator: np.random.Generator) -> list[int]:
        return [self._one(generator) for _ in range(n)]

    def _one(self, generator: np.random.Generator) -> int:
        volumes = self.volumes
        if generator.random() < 0.5:
            volumes = self.subjects[generator.integers(len(self.subjects))]
        volume = volumes[generator.integers(len(volumes))]
        return volume[generator.integers(len(volume))]


class Batches:
    """The scans of every step of a training, a function of seed and step alone.

    So a resumed training sees what an uninterrupted one would have seen, and generators need no
    place in the state to resume from.

    Args:
        scans: to learn from.
        size: scans a step.
        seed: of all that is drawn.
    """

    def __init__(self, scans: SliceDataset, size: int, *, seed: int) -> None:
        self.scans, self.size, self.seed = scans, size, seed
        self.draw = ScanDraw(scans)

    def at(self, step: int) -> tuple[list[list[Slice]], np.random.Generator, torch.Generator]:
        """Scans of a step, those of one kind together, and generators for all else in it."""
        generator = np.random.default_rng([self.seed, step])
        drawn = [self.scans[position] for position in self.draw(self.size, generator)]
        parts = [[drawn[row] for row in rows] for rows in rows_of_a_kind(drawn)]
        draws = torch.Generator().manual_seed(int(generator.integers(1 << 62)))
        return parts, generator, draws


def falling(lr: float, step: int, max_steps: int) -> float:
    """Learning rate that falls along a line to a twentieth at the end of the training."""
    return lr * (1 - 0.95 * min(1.0, step / max(1, max_steps)))
