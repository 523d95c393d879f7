"""The scan as a batched state machine: start, acquire, preview.

Written once and used by every environment, policy and benchmark. It is pure: what comes out
depends on what goes in and on nothing else. One exception of ownership, for speed: `acquire`
takes over the buffers of the state that it is given; keep a `clone()` to go back.

No leak: a :class:`View` is all that policies, observations and reconstructors get to see: acquired
samples, and what a scanner knows before the scan. Only oracles are handed :class:`Truth`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from activemri.data.slices import Slice
from activemri.envs import legality
from activemri.envs.state import STOP, WASTE, State, check_one_kind, references, rowwise
from activemri.metrics import find_metric
from activemri.mri import coils, lines
from activemri.mri.geometry import CartesianGeometry
from activemri.mri.operators import CartesianOperator
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.scoring import Lines, TaskFunction, add_lines, largest_magnitude

STANDARD_METRICS = ("ssim", "psnr", "nmse", "nrmse", "mse")

# Trials that are reconstructed at once: more only costs memory.
_TRIALS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class View:
    """What is known during a scan, for a batch of scans of one size.

    Attributes:
        geometry: what one action acquires.
        mask: lines acquired so far, bool (batch, n_lines).
        start_mask: lines that the scan began with, bool (batch, n_lines).
        measurable: lines that the scan has at all, bool (batch, n_lines).
        legal: actions that may be taken, bool (batch, n_actions).
        budget: lines still to acquire, int64 (batch,).
        start_budget: the budget at the start, int64 (batch,).
        n_acquired: lines acquired so far, int64 (batch,).
        scale: largest magnitude of the zero-filled image at the start, float32 (batch,).
        zero_filled: adjoint reconstruction, complex (batch, height, width).
        reconstruction: current image and uncertainty.
        operator: how an image leads to the acquired k-space.
        target_shape: height and width of the central part that is scored.
        truth: for oracles, else None.
        region: regions of interest, bool (batch, *target_shape), or None; known before the scan.
    """

    geometry: CartesianGeometry
    mask: Tensor
    start_mask: Tensor
    measurable: Tensor
    legal: Tensor
    budget: Tensor
    start_budget: Tensor
    n_acquired: Tensor
    scale: Tensor
    zero_filled: Tensor
    reconstruction: Reconstruction
    operator: CartesianOperator
    target_shape: tuple[int, int]
    _scan: Tensor = field(repr=False)
    truth: "Truth | None" = None
    region: Tensor | None = None

    @cached_property
    def kspace(self) -> Tensor:
        """Acquired k-space, zero elsewhere: complex (batch, coil, height, width)."""
        return self._scan * self.operator.mask.unsqueeze(1)

    @property
    def acceleration(self) -> Tensor:
        """Lines that the scan has over lines acquired, float64 (batch,)."""
        return self.measurable.sum(dim=1).double() / self.n_acquired.clamp(min=1)


@dataclass(frozen=True, eq=False)
class Acquisition:
    """A scan protocol: what may be acquired, how it is reconstructed and scored.

    Attributes:
        geometry: what one action acquires, for frames that hold every scan.
        reconstructor: measurement -> image.
        budget: lines to acquire after the start, or None for all that there are.
        n_center_lines: lines around the centre that every scan starts with.
        n_random_lines: further lines to start with, drawn at random for each scan.
        metrics: names of the scores kept at every step.
        device: where scans are simulated.
        task: a downstream network's loss, for the score "task_loss".
    """

    geometry: CartesianGeometry
    reconstructor: Reconstructor
    budget: int | None = None
    n_center_lines: int = 8
    n_random_lines: int = 0
    metrics: tuple[str, ...] = STANDARD_METRICS
    device: torch.device | str = "cpu"
    task: TaskFunction | None = None

    def __post_init__(self) -> None:
        legality.check_counts(self.budget, center=self.n_center_lines, random=self.n_random_lines)
        for name in self.metrics:
            find_metric(name)
        self.geometry.center_lines(self.n_center_lines)
        object.__setattr__(self, "geometry", self.geometry.to(self.device))

    def start(
        self,
        slices: Sequence[Slice],
        *,
        start_masks: Tensor | None = None,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> State:
        """Begin scans of one kind.

        Args:
            slices: who is scanned.
            start_masks: lines to begin with, bool (batch, n_lines), instead of the protocol's.
            generators: one for each scan; needed only for random lines.

        Raises:
            ValueError: for slices of different kinds, or masks that leave nothing to acquire.
        """
        state = self._prepare(slices, start_masks, generators)
        self._reconstruct(state)
        return state

    def resume(
        self, slices: Sequence[Slice], *, start_masks: Tensor, masks: Tensor, budgets: Tensor
    ) -> State:
        """Scans brought to given masks in one go, as if acquired action by action.

        Args:
            slices: who is scanned; of one kind.
            start_masks: lines that the scans began with, bool (batch, n_lines).
            masks: those and all lines acquired since, bool (batch, n_lines).
            budgets: lines still to acquire, int64 (batch,).

        Raises:
            ValueError: as for :meth:`start`, and for masks without the lines of the start.
        """
        state = self._prepare(slices, start_masks, None)
        masks = legality.checked_masks(state.measurable, masks)
        if bool((state.start_mask & ~masks).any()):
            raise ValueError("expected masks that hold all lines of the start masks; some do not")
        budgets = budgets.to(masks.device)
        operator = self._operator(masks, state.shape, state.sensitivity)
        state = replace(
            state,
            mask=masks,
            budget=budgets,
            n_acquired=masks.sum(dim=1),
            legal=self.geometry.legal(masks, state.measurable, budgets),
            zero_filled=operator.adjoint(state.scan).contiguous(),
        )
        self._reconstruct(state)
        return state

    def acquire(self, state: State, actions: Tensor) -> State:
        """Take one action in every scan. The given state's buffers pass to the result.

        Args:
            state: scans under way.
            actions: int64 (batch,); STOP, IDLE and WASTE acquire nothing.

        Raises:
            ValueError: for an illegal action; the state is then unchanged.
        """
        legality.check_actions(self.geometry, state, actions)
        acting = actions >= 0
        mask, budget, n_acquired = state.mask, state.budget, state.n_acquired
        if bool(acting.any()):
            taken = actions.clamp(min=0)
            share, n_new = self._new_lines(state, state.rows, taken, acting)
            add_lines(state.zero_filled, share, state.sensitivity)
            acquired = self.geometry.acquire(mask, taken) & state.measurable
            mask = torch.where(acting[:, None], acquired, mask)
            budget, n_acquired = budget - n_new, n_acquired + n_new
        budget = budget - (actions == WASTE).long()
        state = replace(
            state,
            mask=mask,
            budget=budget,
            n_acquired=n_acquired,
            legal=self.geometry.legal(mask, state.measurable, budget),
            stopped=state.stopped | (actions == STOP),
        )
        if bool(acting.any()):
            self._reconstruct(state)
        return state

    def preview(
        self, state: State, actions: Tensor, metrics: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Scores after each of several actions, none of which is taken.

        Args:
            state: scans under way; left as it is.
            actions: what to try in each scan, int64 (batch, trial).
            metrics: names of the scores wanted (default: all of the protocol).

        Returns:
            float64 (batch, trial) by metric. Actions that acquire nothing new keep the score.
        """
        names = tuple(metrics or self.metrics)
        legality.check_trials(self.geometry, actions)
        owner = state.rows.repeat_interleave(actions.shape[1])
        if isinstance(self.reconstructor, ZeroFilled):
            new, maps = self._new_lines(state, owner, actions.flatten())[0], state.sensitivity
            scores = state.reference.trial_scores(
                state.zero_filled, owner, new, sensitivity=maps, names=names, task=self.task
            )
        else:
            masks = self.geometry.acquire(state.mask[owner], actions.flatten())
            scores = self._score_masks(state, owner, masks & state.measurable[owner], names)
        return {name: value.view(actions.shape) for name, value in scores.items()}

    def preview_masks(
        self, state: State, masks: Tensor, metrics: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Scores of whole masks, for oracles that plan.

        Args:
            state: scans under way; left as it is.
            masks: bool (batch, trial, n_lines).
            metrics: names of the scores wanted (default: all of the protocol).

        Returns:
            float64 (batch, trial) by metric.
        """
        names = tuple(metrics or self.metrics)
        owner = state.rows.repeat_interleave(masks.shape[1])
        flat = masks.flatten(0, 1) & state.measurable[owner]
        scores = self._score_masks(state, owner, flat, names)
        return {name: value.view(masks.shape[:2]) for name, value in scores.items()}

    def view(self, state: State, *, for_oracle: bool = False) -> View:
        """What may be seen of the scans; oracles may ask for the truth as well."""
        return View(
            geometry=self.geometry,
            mask=state.mask,
            start_mask=state.start_mask,
            measurable=state.measurable,
            legal=state.legal,
            budget=state.budget,
            start_budget=state.start_budget,
            n_acquired=state.n_acquired,
            scale=state.scale,
            zero_filled=state.zero_filled,
            reconstruction=state.reconstruction,
            operator=self._operator(state.mask, state.shape, state.sensitivity),
            target_shape=state.target_shape,
            _scan=state.scan,
            truth=Truth(self, state) if for_oracle else None,
            region=state.reference.region,
        )

    def _prepare(
        self,
        slices: Sequence[Slice],
        start_masks: Tensor | None,
        generators: Sequence[np.random.Generator] | None,
    ) -> State:
        """Scans at their start, not yet reconstructed."""
        check_one_kind(slices)
        scan = self._stack([s.kspace for s in slices]).to(torch.complex64)
        legality.check_samples(slices, scan)
        measurable = self.geometry.lines_of(self._stack([s.measured for s in slices]))
        mask = (
            legality.checked_masks(measurable, start_masks)
            if start_masks is not None
            else self.geometry.start_masks(
                measurable, self.n_center_lines, n_random=self.n_random_lines, generators=generators
            )
        )
        shape = (scan.shape[-2], scan.shape[-1])
        kspace_mask = self.geometry.kspace_mask(mask, shape)
        sensitivity = self._sensitivity(slices, scan * kspace_mask.unsqueeze(1), kspace_mask)
        zero_filled = CartesianOperator(kspace_mask, sensitivity).adjoint(scan).contiguous()
        n_acquired = mask.sum(dim=1)
        budget = (measurable & ~mask).sum(dim=1)
        if self.budget is not None:
            budget = budget.clamp(max=self.budget)
        state = State(
            slices=list(slices),
            scan=scan,
            readout=lines.readouts(scan, self.geometry),
            reference=references(slices, self.device),
            sensitivity=sensitivity,
            mask=mask,
            start_mask=mask.clone(),
            measurable=measurable,
            legal=self.geometry.legal(mask, measurable, budget),
            budget=budget,
            start_budget=budget.clone(),
            n_acquired=n_acquired,
            scale=largest_magnitude(zero_filled),
            zero_filled=zero_filled,
            reconstruction=Reconstruction(zero_filled),
            scores={},
            stopped=torch.zeros_like(budget, dtype=torch.bool),
        )
        if bool(state.finished.any()):
            raise ValueError(
                "nothing is left to acquire after the start: expected a start mask that leaves at "
                f"least one measurable line; got {n_acquired.tolist()} of "
                f"{measurable.sum(dim=1).tolist()} lines acquired"
            )
        return state

    def _sensitivity(
        self, slices: Sequence[Slice], acquired: Tensor, kspace_mask: Tensor
    ) -> Tensor | None:
        """Given maps, or maps estimated from the lines that the scan starts with."""
        maps = [s.sensitivity for s in slices]
        if maps[0] is not None:
            return self._stack([m for m in maps if m is not None]).to(torch.complex64)
        if acquired.shape[1] == 1:
            return None
        return coils.estimate_sensitivity(acquired, kspace_mask).contiguous()

    def _new_lines(
        self, state: State, owner: Tensor, actions: Tensor, acting: Tensor | None = None
    ) -> tuple[Lines, Tensor]:
        """What actions add to the zero-filled images of their owners, and how many lines it is."""
        group = self.geometry.groups[actions]
        new = state.measurable[owner[:, None], group] & ~state.mask[owner[:, None], group]
        new &= self.geometry.first_mention[actions]
        if acting is not None:
            new &= acting[:, None]
        line = self.geometry.line_of_scan(group, state.shape)
        readout = state.readout[owner[:, None], line] * new[:, :, None, None]
        return Lines(*lines.factors(readout, line, self.geometry, state.shape)), new.sum(dim=1)

    def _operator(
        self, mask: Tensor, shape: tuple[int, int], sensitivity: Tensor | None
    ) -> CartesianOperator:
        return CartesianOperator(self.geometry.kspace_mask(mask, shape), sensitivity)

    def _reconstruct(self, state: State) -> None:
        """Bring reconstruction and scores up to date with the mask."""
        if isinstance(self.reconstructor, ZeroFilled):
            state.reconstruction = Reconstruction(state.zero_filled)
        else:
            operator = self._operator(state.mask, state.shape, state.sensitivity)
            kspace = state.scan * operator.mask.unsqueeze(1)
            with torch.no_grad():
                state.reconstruction = self.reconstructor(
                    Measurement(kspace, operator, state.zero_filled)
                )
        image, task = state.reconstruction.image, self.task
        state.scores = state.reference.scores(image, self.metrics, task=task)
        uncertainty = state.reconstruction.uncertainty
        if uncertainty is not None:  # its mean, in units of the scale
            unit = state.scale.double().clamp(min=torch.finfo(torch.float32).tiny)
            state.scores["uncertainty"] = uncertainty.double().mean(dim=(-2, -1)) / unit

    def _score_masks(
        self, state: State, owner: Tensor, masks: Tensor, names: tuple[str, ...]
    ) -> dict[str, Tensor]:
        chunks = []
        parts = zip(owner.split(_TRIALS_AT_ONCE), masks.split(_TRIALS_AT_ONCE), strict=True)
        for rows, mask in parts:
            maps = None if state.sensitivity is None else state.sensitivity[rows]
            operator = self._operator(mask, state.shape, maps)
            with torch.no_grad():
                result = self.reconstructor(Measurement.of(state.scan[rows], operator))
            reference = rowwise(lambda value, rows=rows: value[rows], list, state.reference)
            chunks.append(reference.scores(result.image, names, task=self.task))
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in names}

    def _stack(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).to(self.device)


@dataclass(frozen=True, eq=False)
class Truth:
    """What only an oracle may ask: scores of actions and masks that were not acquired."""

    acquisition: Acquisition
    state: State

    def scores_of_actions(self, actions: Tensor, metric: str) -> Tensor:
        """Score after each action: int64 (batch, trial) -> float64 (batch, trial)."""
        return self.acquisition.preview(self.state, actions, (metric,))[metric]

    def scores_of_masks(self, masks: Tensor, metric: str) -> Tensor:
        """Score of each mask: bool (batch, trial, n_lines) -> float64 (batch, trial)."""
        return self.acquisition.preview_masks(self.state, masks, (metric,))[metric]
