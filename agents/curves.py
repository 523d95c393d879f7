"""How features and true scores go along whole episodes: one roll-out serves every threshold."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from activemri.agents.policy import Policy
from activemri.agents.quality import Features
from activemri.agents.rollout import Episodes, rollout_dataset
from activemri.data.slices import SliceDataset, SliceInfo
from activemri.envs.scan import Scan, State

Floats = NDArray[np.float64]

UNITS = ("subject", "volume", "slice")


@dataclass(frozen=True, eq=False)
class Curves:
    """Episodes played to the end of the budget, each continued with its last values.

    Attributes:
        scans: who was scanned; several times if several seeds were played.
        n_acquired: lines acquired, int64 (episode, step).
        scores: true scores by metric, float64 (episode, step).
        features: of :class:`activemri.agents.quality.Features`, float64 (episode, step).
    """

    scans: tuple[SliceInfo, ...]
    n_acquired: NDArray[np.int64]
    scores: dict[str, Floats]
    features: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.scans)

    def units(self, unit: str) -> list[tuple[object, ...]]:
        """What each episode belongs to, see :func:`unit_of`."""
        return [unit_of(scan, unit) for scan in self.scans]

    def select(self, rows: Sequence[int] | NDArray[np.intp]) -> "Curves":
        """Some of the episodes."""
        index = np.asarray(rows, dtype=np.intp)
        return Curves(
            tuple(self.scans[row] for row in index),
            self.n_acquired[index],
            {name: values[index] for name, values in self.scores.items()},
            {name: values[index] for name, values in self.features.items()},
        )

    @classmethod
    def join(cls, parts: Sequence["Curves"]) -> "Curves":
        """All episodes of several; features that some lack are left out."""
        n_steps = max(part.n_acquired.shape[1] for part in parts)
        features = [name for name in parts[0].features if all(name in p.features for p in parts)]
        return cls(
            tuple(scan for part in parts for scan in part.scans),
            np.concatenate([_extended(part.n_acquired, n_steps) for part in parts]),
            {
                name: np.concatenate([_extended(part.scores[name], n_steps) for part in parts])
                for name in parts[0].scores
            },
            {
                name: np.concatenate([_extended(part.features[name], n_steps) for part in parts])
                for name in features
            },
        )


@dataclass(eq=False)
class Recorder:
    """Keeps the features of every step of a roll-out: pass :meth:`record` as `on_step`.

    Attributes:
        acquisition: the scan protocol that is played.
        features: what to compute.
    """

    acquisition: Scan
    features: Features
    _steps: list[dict[str, Floats]] = field(default_factory=list)

    def record(self, step: int, state: State) -> None:
        """See :data:`activemri.agents.rollout.OnStep`."""
        found = self.features(state.view)
        self._steps.append({name: value.cpu().numpy() for name, value in found.items()})

    def curves(self, episodes: Episodes) -> Curves:
        """What was recorded since the last call, with the episodes that it belongs to."""
        steps, self._steps = self._steps, []
        return Curves(
            episodes.scans,
            episodes.n_acquired.numpy(),
            {name: value.numpy() for name, value in episodes.scores.items()},
            {name: np.stack([step[name] for step in steps], axis=1) for name in steps[0]},
        )


def quality_curves(
    acquisition: Scan,
    policy: Policy,
    features: Features,
    dataset: SliceDataset,
    *,
    indices: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> Curves:
    """Play a policy on many scans to the end of the budget and record what stopping needs.

    Args:
        acquisition: the scan protocol, with its budget; None acquires everything.
        policy: who decides.
        features: what to compute at every step.
        dataset: who is scanned.
        indices: which slices of it; all by default.
        seed: see :func:`activemri.agents.rollout.rollout`.
        batch_size: scans at a time.
    """
    recorder = Recorder(acquisition, features)
    batches = rollout_dataset(
        acquisition,
        policy,
        dataset,
        indices=indices,
        seed=seed,
        batch_size=batch_size,
        on_step=recorder.record,
    )
    return Curves.join([recorder.curves(episodes) for _, episodes in batches])


def unit_of(scan: SliceInfo, unit: str) -> tuple[object, ...]:
    """What a slice belongs to: its subject, volume or slice.

    Raises:
        ValueError: for another unit.
    """
    if unit not in UNITS:
        raise ValueError(f"unknown unit {unit!r}; expected one of {', '.join(UNITS)}")
    return (scan.subject, scan.volume, scan.index)[: UNITS.index(unit) + 1]


def _extended(values: NDArray[np.generic], n_steps: int) -> NDArray[np.generic]:
    """Continued with the last value up to a number of steps."""
    return np.pad(values, ((0, 0), (0, n_steps - values.shape[1])), mode="edge")
