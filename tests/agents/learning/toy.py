"""Scans in which it is known which lines matter, and all that a learner works with."""

import torch

from activemri.agents.learning.learner import Workplace
from activemri.agents.policy import Policy
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice, SliceList
from activemri.envs.protocol import EnvOptions
from activemri.mri import fourier
from tests.envs.scans import scan

SHAPE = (12, 16)
#: Lines that hold the energy that the centre does not: neighbours, no mirror images.
STRONG = (4, 5)
CENTER = (7, 8)


def toy_scans(n: int = 6) -> SliceList:
    """Scans whose energy is in the centre and in :data:`STRONG` lines."""
    return SliceList([_scan(index) for index in range(n)], "toy")


def workplace(
    scans: SliceList | None = None,
    *,
    budget: int | None = 2,
    max_steps: int = 100,
    metric: str = "mse",
    reconstructor: str = "zero-filled",
    warm_start: Policy | None = None,
    **options: object,
) -> Workplace:
    """A protocol on those scans that starts with two centre lines."""
    scans = toy_scans() if scans is None else scans
    task = EnvOptions.of(
        {
            "data": scans,
            "reconstructor": reconstructor,
            "n_center_lines": 2,
            "budget": budget,
            "metrics": (metric,),
            "reward": f"-delta_{metric}" if metric == "mse" else f"delta_{metric}",
            **options,
        }
    )
    return Workplace(
        task=task,
        scans=scans,
        acquisition=task.scan(scans),
        metric=metric,
        max_steps=max_steps,
        seed=3,
        warm_start=warm_start,
        name="toy",
    )


def decaying(n: int = 6, **kwargs: object) -> SliceList:
    """Scans of random k-space that decays from the centre."""
    return SliceList([scan(index, **kwargs) for index in range(n)], "decaying")  # type: ignore[arg-type]


def strong_share(policy: Policy, place: Workplace) -> float:
    """Share of the lines that the policy takes that are strong ones."""
    scans = [place.scans[i] for i in range(len(place.scans))]
    taken = rollout(place.acquisition, policy, scans).actions.flatten().tolist()
    return sum(action in STRONG for action in taken) / len(taken)


def _scan(index: int) -> Slice:
    generator = torch.Generator().manual_seed(index)
    height, width = SHAPE
    strength = torch.full((width,), 0.05)
    strength[list(STRONG)] = 1.0
    kspace = strength * torch.randn(height, width, dtype=torch.complex64, generator=generator)
    kspace[height // 2, width // 2] = 60.0  # a bright image, with the rest as its texture
    target = fourier.ifft2(kspace).abs()
    return Slice(kspace[None], target, f"v{index}", 0, f"s{index}", float(target.max()))
