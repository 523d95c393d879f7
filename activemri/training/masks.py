"""Which lines have been acquired at the moments of an episode that a reconstructor must serve."""

from typing import Protocol

import numpy as np
from torch import Tensor

from activemri.data.slices import SliceInfo
from activemri.mri import geometry

#: Policies whose masks reconstructors are trained on. A choice, part of the training like its loss:
#: it covers random masks, orders from the centre and from the edge, learned ones, and those that
#: suit a scan best. A policy that is registered later does not join by itself.
MASK_POLICIES = (
    "random",
    "variable-density",
    "low-frequency-first",
    "high-frequency-first",
    "equispaced",
    "conjugate-symmetric",
    "lbcs",
    "average-oracle",
    "oracle",
    "exchange-oracle",
)


class MaskSource(Protocol):
    """Draws masks as episodes visit them.

    Attributes:
        n_center_lines: lines in the centre that every episode starts with.
        budget: length of an episode in lines after those.
    """

    @property
    def n_center_lines(self) -> int: ...
    @property
    def budget(self) -> int: ...
    def __call__(
        self, scan: SliceInfo, generator: np.random.Generator, *, step: int | None = None
    ) -> Tensor:
        """One mask for a scan.

        Args:
            scan: what is known of it without reading it.
            generator: source of all randomness.
            step: lines since the start of the episode; None draws it uniformly from 0 to budget.

        Returns:
            bool (width of the scan,), True where acquired. Lines that the scanner never measured
            may be in it; the trainer removes them.
        """
        ...


def center_lines(shape: tuple[int, int], n: int) -> Tensor:
    """The lines that an episode on scans of this size starts with: bool (width,)."""
    return geometry.columns(shape).center_lines(min(n, shape[1]))
