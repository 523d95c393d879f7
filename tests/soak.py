"""`python -m tests.soak`: a million steps of several environments, and the memory they take.

Actions are drawn at random from the legal ones; episodes end by themselves, or now and then by a
reset. A step is that of one scan: a vector environment of 32 scans takes 32 at once. The
environments take turns; after each round the resident memory is looked at. It is flat where a
straight line through it, the first quarter left out, rises by less than 2 % of it.
"""

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from activemri.data.sources import open_dataset
from activemri.progress import Progress
from activemri.registration import find_protocol
from activemri.tables import Table

MOST_GROWTH = 0.02
_RESETS = 0.01  # chance of a reset at any step
_N_SUBJECTS = 4  # few, as data sets and environments keep scans that they have seen
_SIZE = 32
_PLAIN = {"reconstructor": "zero-filled", "matrix_size": _SIZE, "budget": 12}
#: Id, scans side by side (None: a single environment), and options.
ENVIRONMENTS: tuple[tuple[str, int | None, dict[str, Any]], ...] = (
    ("Phantom", 32, _PLAIN),
    ("Phantom", None, _PLAIN | {"observation": "kspace"}),
    ("PhantomMulticoil", 8, _PLAIN | {"observation": "multicoil"}),
    ("Radial", 8, _PLAIN | {"n_center_lines": 4}),
    ("LowField", 32, _PLAIN),
    ("Motion", 32, _PLAIN),
    ("Mixed", 8, _PLAIN | {"observation": "lines"}),
    ("FreeBudget", 8, _PLAIN),
)


@dataclass(frozen=True, kw_only=True)
class SoakSettings:
    """Step through several environments for long, and see whether their memory grows."""

    steps: int = 1_000_000
    """Steps of all environments together."""
    rounds: int = 40
    """Looks at the memory."""
    seed: int = 0
    """Seed of actions and resets."""


@dataclass(frozen=True)
class Soaked:
    """Memory after each round.

    Attributes:
        steps: taken so far, of all environments.
        mib: resident memory in MiB.
        n_episodes: that have ended.
    """

    steps: Sequence[int]
    mib: Sequence[float]
    n_episodes: int

    @property
    def growth(self) -> float:
        """Rise of the memory from the end of the first quarter on, as a share of its mean."""
        first = len(self.steps) // 4
        steps, mib = np.array(self.steps[first:], dtype=float), np.array(self.mib[first:])
        slope = np.polyfit(steps, mib, 1)[0]
        return float(slope * (steps[-1] - steps[0]) / mib.mean())

    @property
    def is_flat(self) -> bool:
        return self.growth < MOST_GROWTH

    def __str__(self) -> str:
        last = len(self.steps) - 1
        shown = sorted({*range(0, last, max(1, last // 10)), last})
        lines = [(f"{self.steps[i]:,}", f"{self.mib[i]:.1f}") for i in shown]
        verdict = "flat" if self.is_flat else "NOT FLAT"
        return (
            f"{Table(('steps', 'resident MiB'), lines).text()}\n"
            f"{self.n_episodes:,} episodes; {verdict}: {self.growth:+.2%} after the first quarter"
        )


def soak(settings: SoakSettings) -> Soaked:
    """Take the steps."""
    rng = np.random.default_rng(settings.seed)
    environments = [_make(*one) for one in ENVIRONMENTS]
    for environment in environments:
        environment.reset(seed=settings.seed)
    each = settings.steps // (settings.rounds * len(environments))
    n_taken = n_episodes = 0
    steps, mib = list[int](), list[float]()
    with Progress("soak", settings.steps, unit="step") as progress:
        for number in range(settings.rounds):
            place = number % len(environments)  # one is made anew
            environments[place].close()
            environments[place] = _make(*ENVIRONMENTS[place])
            environments[place].reset(seed=settings.seed + number)
            for environment in environments:
                n, ended = _step(environment, each, rng)
                n_taken, n_episodes = n_taken + n, n_episodes + ended
                progress(min(n_taken, settings.steps))
            gc.collect()
            steps.append(n_taken)
            mib.append(resident_mib())
            progress(min(n_taken, settings.steps), resident_mib=mib[-1])
    return Soaked(steps, mib, n_episodes)


def resident_mib() -> float:
    """Memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _make(name: str, num_envs: int | None, options: dict[str, Any]) -> Any:
    id = f"ActiveMRI/{name}-v0"
    kind = find_protocol(id).data
    assert isinstance(kind, str)
    options = {**options, "data": open_dataset(kind, matrix_size=_SIZE, n_subjects=_N_SUBJECTS)}
    if num_envs is None:
        return gym.make(id, **options)
    return gym.make_vec(id, num_envs=num_envs, **options)


def _step(environment: Any, n_steps: int, rng: np.random.Generator) -> tuple[int, int]:
    """Take so many steps, or a few more; gives the numbers of steps and of episodes that ended."""
    n_taken = n_ended = 0
    own = environment.unwrapped
    while n_taken < n_steps:
        masks = np.atleast_2d(own.action_masks())
        # The largest of as many draws is any legal action with the same chance.
        actions = np.where(masks, rng.random(masks.shape), -1.0).argmax(axis=1)
        single = not hasattr(own, "num_envs")
        _, reward, terminated, truncated, _ = environment.step(actions[0] if single else actions)
        if not np.isfinite(reward).all():
            raise ValueError(f"{own.spec.id}: a reward is not finite")
        ended = int(np.sum(np.logical_or(terminated, truncated)))
        if (single and ended) or rng.random() < _RESETS:
            environment.reset()
        n_taken, n_ended = n_taken + len(masks), n_ended + ended
    return n_taken, n_ended


if __name__ == "__main__":
    found = soak(tyro.cli(SoakSettings))
    sys.stdout.write(f"{found}\n")
    sys.exit(not found.is_flat)
