"""From what was measured to images and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from activemri.envs.course import Measuring, Wanted
from activemri.envs.imperfections import Imperfection
from activemri.envs.state import State, rowwise
from activemri.mri import lines
from activemri.mri.geometry import CartesianGeometry
from activemri.mri.operators import CartesianOperator
from activemri.mri.sensitivity import CoilMaps
from activemri.reconstruction.reconstructor import (
    Measurement,
    Reconstruction,
    Reconstructor,
    checked,
)
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.scoring import Lines, TaskFunction

# Trials that are reconstructed at once: more only costs memory.
_TRIALS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Imaging:
    """Reconstructs and scores; attributes as of :class:`activemri.envs.acquisition.Acquisition`."""

    geometry: CartesianGeometry
    reconstructor: Reconstructor
    imperfection: Imperfection | None
    task: TaskFunction | None
    coil_maps: CoilMaps

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

    def wanted(
        self, state: State, owner: Tensor, actions: Tensor, acting: Tensor | None = None
    ) -> Wanted:
        """Lines that actions would measure in the scans of their owners."""
        group = self.geometry.groups[actions]
        new = state.measurable[owner[:, None], group] & ~state.spent[owner[:, None], group]
        new &= self.geometry.first_mention[actions]
        if acting is not None:
            new &= acting[:, None]
        return Wanted(owner, group, new, state.n_acquired[owner])

    def share(self, state: State, wanted: Wanted, *, keep: bool = False) -> Lines:
        """What measuring lines adds to the zero-filled images; `keep` says that it is done."""
        line = self.geometry.line_of_scan(wanted.group, state.shape)
        if state.course is None:
            readout = state.readout[wanted.row[:, None], line] * wanted.new[:, :, None, None]
        else:
            measuring = self.measuring(state)
            readout = (measuring.measure if keep else measuring.change)(state.course, wanted)
        return Lines(*lines.factors(readout, line, self.geometry, state.shape))

    def updates_maps(self, state: State) -> bool:
        """Whether coil maps are estimated, and again with what is acquired."""
        return (
            self.coil_maps.updated
            and state.sensitivity is not None
            and state.slices[0].sensitivity is None
        )

    def update_maps(self, state: State, before: Tensor) -> State:
        """Estimate maps again of scans that have acquired something around the centre.

        Imperfect scans may have measured there again.

        Args:
            state: scans with their new masks and measurements. Its zero-filled images are changed.
            before: masks until now, bool (batch, n_lines).

        Returns:
            The same with their maps and zero-filled images.
        """
        if not self.updates_maps(state):
            return state
        new = self.geometry.kspace_mask(state.mask, state.shape)
        old = self.geometry.kspace_mask(before, state.shape)
        rows = self._may_change(state, old, new)
        if len(rows) == 0:
            return state
        assert state.sensitivity is not None
        kspace = self.kspace(state)[rows] * new[rows].unsqueeze(1)
        maps = self.coil_maps.estimate(kspace, new[rows])
        image = CartesianOperator(new[rows], maps).adjoint(kspace)
        return replace(
            state,
            sensitivity=state.sensitivity.index_copy(0, rows, maps),
            zero_filled=state.zero_filled.index_copy_(0, rows, image),
        )

    def update(self, state: State, metrics: Sequence[str]) -> None:
        """Bring reconstruction and scores up to date with the mask."""
        if isinstance(self.reconstructor, ZeroFilled):
            state.reconstruction = Reconstruction(state.zero_filled)
        else:
            operator = self.operator(state.mask, state)
            kspace = self.kspace(state) * operator.mask.unsqueeze(1)
            measurement = Measurement(kspace, operator, state.zero_filled)
            state.reconstruction = self._reconstruct(measurement)
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
            if self.updates_maps(state):
                operator = self._with_own_maps(operator, kspace, state, rows)
            result = self._reconstruct(Measurement.of(kspace, operator))
            reference = rowwise(lambda value, rows=rows: value[rows], list, state.reference)
            chunks.append(reference.scores(result.image, names, task=self.task))
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in names}

    def _reconstruct(self, measurement: Measurement) -> Reconstruction:
        with torch.no_grad():
            result = self.reconstructor(measurement)
        return checked(result, measurement.zero_filled, by=self.reconstructor)

    def _with_own_maps(
        self, operator: CartesianOperator, kspace: Tensor, state: State, rows: Tensor
    ) -> CartesianOperator:
        """Trials with the maps that they would have, those of some rows of the state by now."""
        acquired = self.geometry.kspace_mask(state.mask, state.shape)[rows]
        changed = self._may_change(state, acquired, operator.mask)
        if len(changed) == 0:
            return operator
        assert operator.sensitivity is not None
        mask = operator.mask[changed]
        maps = self.coil_maps.estimate(kspace[changed] * mask.unsqueeze(1), mask)
        return replace(operator, sensitivity=operator.sensitivity.index_copy(0, changed, maps))

    def _may_change(self, state: State, before: Tensor, after: Tensor) -> Tensor:
        """Positions of the masks whose coil maps may differ from those before, int64 (n,)."""
        if state.course is not None:
            return torch.arange(len(after), device=after.device)
        return self.coil_maps.may_change(before, after).nonzero()[:, 0]
