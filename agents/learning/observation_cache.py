"""The newest observations of a memory, in bounded space."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor


class ObservationCache:
    """What was seen before the newest steps, in half precision.

    Transitions are numbered as they come, `n_envs` at a time, so that what followed transition i
    is what was seen before transition i + n_envs. Where the episode terminated, what followed is
    of no use; where it was cut off in time, it is not here.

    Args:
        space: of one observation, a flat Dict.
        n_bytes: bound of the memory; for less than two steps nothing is kept.
        n_envs: transitions a step.
        most: observations that are of use.
    """

    def __init__(self, space: spaces.Dict, n_bytes: int, n_envs: int, *, most: int) -> None:
        kinds = {
            key: np.dtype(np.float16 if part.dtype.kind == "f" else part.dtype)  # type: ignore[union-attr]
            for key, part in space.spaces.items()
        }
        sizes = {key: part.shape or () for key, part in space.spaces.items()}
        each = 1 + sum(kinds[key].itemsize * int(np.prod(sizes[key])) for key in kinds)
        n = min(n_bytes // each, most)
        self.n_envs, self.size = n_envs, n if n >= 2 * n_envs else 0
        self.parts = {key: np.zeros((self.size, *sizes[key]), kinds[key]) for key in kinds}
        self.cut_off = np.zeros(self.size, bool)

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return sum(part.nbytes for part in self.parts.values()) + self.cut_off.nbytes

    def put(
        self, first: int, observation: Mapping[str, NDArray[Any]], cut_off: NDArray[np.bool_]
    ) -> None:
        """Keep what was seen before the transitions `first` and following, one of each episode."""
        if not self.size:
            return
        slots = (first + np.arange(self.n_envs)) % self.size
        for key, part in self.parts.items():
            part[slots] = observation[key]
        self.cut_off[slots] = cut_off

    def holds(self, numbers: NDArray[np.int64], n_added: int) -> NDArray[np.bool_]:
        """Whether both what was seen before and what was seen after transitions is here, (n,)."""
        if not self.size:
            return np.zeros(len(numbers), bool)
        known = (numbers >= n_added - self.size) & (numbers + self.n_envs < n_added)
        return known & ~self.cut_off[numbers % self.size]

    def take(self, numbers: NDArray[np.int64]) -> dict[str, Tensor]:
        """What was seen before transitions, (n, ...); anything for those that are not here."""
        slots = numbers % max(self.size, 1)
        return {key: torch.from_numpy(self._rows(part, slots)) for key, part in self.parts.items()}

    def state(self) -> dict[str, Any]:
        """For :meth:`restore`."""
        return {
            "cut_off": torch.from_numpy(self.cut_off.copy()),
            **{key: torch.from_numpy(part.copy()) for key, part in self.parts.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.cut_off[:] = state["cut_off"].numpy()
        for key, part in self.parts.items():
            part[:] = state[key].numpy()

    def _rows(self, part: NDArray[Any], slots: NDArray[np.int64]) -> NDArray[Any]:
        wide = np.float32 if part.dtype == np.float16 else part.dtype
        if not self.size:
            return np.zeros((len(slots), *part.shape[1:]), wide)
        return part[slots].astype(wide)
