"""Problems whose best policy is known, and small settings of any learner."""

from dataclasses import fields
from typing import Any

import torch

from activemri.agents.learners import find_learner
from activemri.agents.learners.learner import Learner, Problem
from activemri.agents.policy import Policy
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice, SliceList
from activemri.envs.protocol import EnvOptions
from activemri.mri import fourier

#: Lines of toy scans that hold the energy that the centre does not: neighbours, no mirror images.
STRONG = (4, 5)
CENTER = (7, 8)
#: Lines of scans of two kinds, likewise, by kind.
STRONG_OF_KIND = ((1, 7), (3, 8))

_SMALL = {
    "n_envs": 4,
    "n_steps": 4,
    "batch": 8,
    "n_epochs": 2,
    "burn_in": 8,
    "memory": 64,
    "target_every": 8,
    "n_quantiles": 3,
    "channels": 8,
    "blocks": 1,
    "states": 12,
    "rounds": 1,
    "n_tried": 8,
    "subjects": 2,
    "orders": 3,
}


def problem(
    scans: SliceList | None = None,
    *,
    seed: int = 3,
    warm_start: Policy | None = None,
    **options: Any,
) -> Problem:
    """Scans that start with two centre lines and acquire two more, the fewer errors the better."""
    given: dict[str, Any] = {"n_center_lines": 2, "budget": 2, "reward": "-delta_mse", **options}
    protocol = EnvOptions(data=toy_scans() if scans is None else scans, **given)
    return Problem(protocol, seed=seed, warm_start=warm_start, name="toy")


def small(algo: str, **changes: Any) -> Any:
    """Settings of an algorithm that make it quick; those that it lacks are left out."""
    kind: Any = find_learner(algo)
    known = {field.name for field in fields(kind)}
    given = {name: value for name, value in _SMALL.items() if name in known}
    return kind(**(given | changes))


def begun(algo: str, place: Problem | None = None, **changes: Any) -> Any:
    """A learner with small settings."""
    learner: Learner = small(algo, **changes).start(problem() if place is None else place)
    return learner


def listed(place: Problem) -> list[Slice]:
    """All scans of a problem."""
    return [place.scans[i] for i in range(len(place.scans))]


def strong_share(policy: Policy, place: Problem) -> float:
    """Share of the lines that a policy takes in toy scans that are strong ones."""
    taken = rollout(place.scan, policy, listed(place)).actions.flatten().tolist()
    return sum(action in STRONG for action in taken) / len(taken)


def toy_scans(n: int = 6) -> SliceList:
    """Scans whose energy is in the centre and in :data:`STRONG` lines: 12 x 16."""
    scans = []
    for index in range(n):
        kspace = _noise((12, 16), STRONG, seed=index)
        kspace[6, 8] = 60.0  # a bright image, with the rest as its texture
        scans.append(_slice(kspace, index))
    return SliceList(scans, "toy")


def two_kinds(n: int = 12) -> SliceList:
    """Scans of two kinds in turn, 8 x 10, whose strong lines follow from the centre."""
    scans = []
    for index in range(n):
        half = torch.zeros((8, 10), dtype=torch.complex64)
        half[4 * (index % 2) : 4 * (index % 2) + 4] = 4.0
        kspace = _noise((8, 10), STRONG_OF_KIND[index % 2], seed=index)
        kspace[:, 4:6] = fourier.fft2(half)[:, 4:6]
        scans.append(_slice(kspace, index))
    return SliceList(scans, "two-kinds")


def _noise(shape: tuple[int, int], strong: tuple[int, ...], *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    strength = torch.full((shape[1],), 0.05)
    strength[list(strong)] = 1.0
    return strength * torch.randn(shape, dtype=torch.complex64, generator=generator)


def _slice(kspace: torch.Tensor, index: int) -> Slice:
    target = fourier.ifft2(kspace).abs()
    return Slice(kspace[None], target, f"v{index}", 0, f"s{index}", float(target.max()))
