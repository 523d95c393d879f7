"""From what was measured to images and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from activemri.envs.course import Measuring, Wanted
from activemri.envs.imperfections import Imperfection
from activemri.envs.state import State, rowwise
from activemri.mri.geometry import CartesianGeometry
from activemri.mri.operators import CartesianOperator
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.scoring import TaskFunction

# Trials that are reconstructed at once: more only costs memory.
_TRIALS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Imaging:
    """Reconstructs and scores; attributes as of :class:`activemri.envs.acquisition.Acquisition`."""

    geometry: CartesianGeometry
    reconstructor: Reconstructor
    imperfection: Imperfection | None
    task: TaskFunction | None

    def measuring(self, state: State) -> Measuring:
        """What measures lines of imperfect scans."""
        assert self.imperfection is not None
        return Measuring(self.imperfection, self.geometry, state.shape)

    def operator(self, mask: Tensor, state: State, rows: Tensor | None = None) -> CartesianOperator:
        """What leads from images to the lines of masks, those of some rows of the state."""
        maps = state.sensitivity
        if rows is not None and maps is not None:
            maps = maps[rows]
        return CartesianOperator(self.geometry.kspace_mask(mask, state.shape), maps)

    def kspace(self, state: State) -> Tensor:
        """As measured; what is outside of the mask means nothing: (batch, coil, height, width)."""
        if state.course is None:
            return state.scan
        return self.measuring(state).kspace(state.course)

    def update(self, state: State, metrics: Sequence[str]) -> None:
        """Bring reconstruction and scores up to date with the mask."""
        if isinstance(self.reconstructor, ZeroFilled):
            state.reconstruction = Reconstruction(state.zero_filled)
        else:
            operator = self.operator(state.mask, state)
            kspace = self.kspace(state) * operator.mask.unsqueeze(1)
            with torch.no_grad():
                state.reconstruction = self.reconstructor(
                    Measurement(kspace, operator, state.zero_filled)
                )
        image, task = state.reconstruction.image, self.task
        state.scores = state.reference.scores(image, metrics, task=task)
        uncertainty = state.reconstruction.uncertainty
        if uncertainty is not None:  # its mean, in units of the scale
            unit = state.scale.double().clamp(min=torch.finfo(torch.float32).tiny)
            state.scores["uncertainty"] = uncertainty.double().mean(dim=(-2, -1)) / unit

    def scores(
        self, state: State, wanted: Wanted, masks: Tensor, names: Sequence[str]
    ) -> dict[str, Tensor]:
        """Scores of masks that are not acquired, float64 (trial,) by metric.

        Args:
            state: scans under way; left as it is.
            wanted: lines to be measured for it, those of the mask that are not acquired at least.
            masks: bool (trial, n_lines).
            names: of the scores.
        """
        chunks = []
        for trials in torch.arange(len(masks), device=masks.device).split(_TRIALS_AT_ONCE):
            rows = wanted.row[trials]
            operator = self.operator(masks[trials], state, rows)
            kspace = (
                state.scan[rows]
                if state.course is None
                else (self.measuring(state).kspace(state.course, wanted.of(trials)))
            )
            with torch.no_grad():
                result = self.reconstructor(Measurement.of(kspace, operator))
            reference = rowwise(lambda value, rows=rows: value[rows], list, state.reference)
            chunks.append(reference.scores(result.image, names, task=self.task))
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in names}
