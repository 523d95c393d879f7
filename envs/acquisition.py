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

from activemri.data.slices import Slice, SliceDataset
from activemri.envs import legality, starting
from activemri.envs.course import Measuring, Record, Wanted
from activemri.envs.imaging import Imaging
from activemri.envs.imperfections import Imperfection, make_imperfection
from activemri.envs.protocol import STANDARD_METRICS, ScanProtocol
from activemri.envs.reward import TaskLoss, make_reward
from activemri.envs.state import SHARED, STOP, WASTE, State, references, select_rows
from activemri.metrics import REGION_METRICS, find_metric
from activemri.mri import lines
from activemri.mri.geometry import CartesianGeometry, make_geometry
from activemri.mri.operators import CartesianOperator
from activemri.mri.sensitivity import FROM_START, CoilMaps, make_coil_maps
from activemri.reconstruction.reconstructor import Reconstruction, Reconstructor
from activemri.reconstruction.registry import make_reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.scoring import TaskFunction, add_lines, largest_magnitude


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
        n_acquired: lines acquired so far, each as often as it was measured, int64 (batch,).
        scale: largest magnitude of the zero-filled image at the start, float32 (batch,).
        zero_filled: adjoint reconstruction, complex (batch, height, width).
        reconstruction: current image and uncertainty.
        operator: how an image leads to the acquired k-space.
        target_shape: height and width of the central part that is scored.
        truth: for oracles, else None.
        region: regions of interest, bool (batch, *target_shape), or None; known before the scan.
        record: of imperfect scans: how often and when lines were measured; else None.
    """

    geometry: CartesianGeometry = field(metadata=SHARED)
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
    target_shape: tuple[int, int] = field(metadata=SHARED)
    _scan: Tensor = field(repr=False)
    truth: "Truth | None" = None
    region: Tensor | None = None
    record: Record | None = None

    @cached_property
    def kspace(self) -> Tensor:
        """Acquired k-space, zero elsewhere: complex (batch, coil, height, width)."""
        return self._scan * self.operator.mask.unsqueeze(1)

    @property
    def n_measured(self) -> Tensor:
        """How often each line was measured, int64 (batch, n_lines)."""
        return self.mask.long() if self.record is None else self.record.n_measured

    @cached_property
    def due(self) -> Tensor:
        """Legal actions whose lines were measured least: bool (batch, n_actions).

        Policies that know no reason to measure a line again choose among these: they go through
        all actions before they begin anew. In ideal scans they are the legal ones.
        """
        if self.record is None:
            return self.legal
        return self.record.least_measured(self.legal, self.measurable, self.geometry.groups)

    @property
    def acceleration(self) -> Tensor:
        """Lines that the scan has over those acquired, float64 (batch,)."""
        return self.measurable.sum(dim=1).double() / self.n_acquired.clamp(min=1)

    def select(self, rows: Sequence[int] | Tensor) -> "View":
        """The view of some of the scans, in that order."""
        return select_rows(self, torch.as_tensor(rows, device=self.mask.device))


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
        imperfection: what keeps measurements from being those of the target, and lets lines be
            measured again; None for an ideal scanner.
        coil_maps: how maps of several coils are estimated where scans bring none along.
    """

    geometry: CartesianGeometry
    reconstructor: Reconstructor
    budget: int | None = None
    n_center_lines: int = 8
    n_random_lines: int = 0
    metrics: tuple[str, ...] = STANDARD_METRICS
    device: torch.device | str = "cpu"
    task: TaskFunction | None = None
    imperfection: Imperfection | None = None
    coil_maps: CoilMaps = FROM_START

    def __post_init__(self) -> None:
        legality.check_counts(self.budget, center=self.n_center_lines, random=self.n_random_lines)
        for name in self.metrics:
            find_metric(name)
        self.geometry.center_lines(self.n_center_lines)
        object.__setattr__(self, "geometry", self.geometry.to(self.device))

    @classmethod
    def of(
        cls,
        protocol: ScanProtocol,
        dataset: SliceDataset,
        *,
        device: torch.device | str = "cpu",
    ) -> "Acquisition":
        """The scans of a data set under a protocol."""
        reward = make_reward(protocol.reward)
        wanted = [n for n in (*protocol.metrics, *reward.scores) if n != "uncertainty"]
        if any(find_metric(name).needs == "region" for name in wanted):
            wanted += REGION_METRICS  # one pass gives all of them
        return cls(
            geometry=make_geometry(
                protocol.geometry, dataset.shape, lines_per_action=protocol.lines_per_action
            ),
            reconstructor=make_reconstructor(protocol.reconstructor, device=device),
            budget=protocol.budget,
            n_center_lines=protocol.n_center_lines,
            n_random_lines=protocol.n_random_lines,
            metrics=tuple(dict.fromkeys(wanted)),
            device=device,
            task=reward.loss if isinstance(reward, TaskLoss) else None,
            imperfection=make_imperfection(
                protocol.scanner, severity=protocol.severity, repeats=protocol.repeats
            ),
            coil_maps=make_coil_maps(protocol.sensitivity),
        )

    @property
    def horizon(self) -> int:
        """Most measurements after the start of imperfect scans, length of their logs; else 0."""
        repeats = 0 if self.imperfection is None else self.imperfection.repeats
        return repeats and (self.budget or repeats * self.geometry.n_lines)

    def start(
        self,
        slices: Sequence[Slice],
        *,
        start_masks: Tensor | None = None,
        generators: Sequence[np.random.Generator] | None = None,
        seeds: Tensor | None = None,
    ) -> State:
        """Begin scans of one kind.

        Args:
            slices: who is scanned.
            start_masks: lines to begin with, bool (batch, n_lines), instead of the protocol's.
            generators: one for each scan; needed only for random lines and imperfections.
            seeds: what imperfections are drawn from instead, one for each scan, int64 (batch,).

        Raises:
            ValueError: for slices of different kinds, or masks that leave nothing to acquire.
        """
        state = self._prepare(slices, start_masks, generators=generators, seeds=seeds)
        self._imaging.update(state, self.metrics)
        return state

    def resume(
        self,
        slices: Sequence[Slice],
        *,
        start_masks: Tensor,
        masks: Tensor,
        budgets: Tensor,
        seeds: Tensor | None = None,
        log: Tensor | None = None,
    ) -> State:
        """Scans brought to given masks in one go, as if acquired action by action.

        Args:
            slices: who is scanned; of one kind.
            start_masks: lines that the scans began with, bool (batch, n_lines).
            masks: those and all lines acquired since, bool (batch, n_lines).
            budgets: lines still to acquire, int64 (batch,).
            seeds, log: of imperfect scans: the state's `course.conditions.seed` and `course.log`.

        Raises:
            ValueError: as for :meth:`start`, and for masks without the lines of the start.
        """
        state = self._prepare(slices, start_masks, generators=None, seeds=seeds)
        masks = legality.checked_masks(state.measurable, masks, holding=state.start_mask)
        budgets, n_acquired = budgets.to(masks.device), masks.sum(dim=1)
        if state.course is not None and log is not None:
            measuring = self._imaging.measuring(state)
            measuring.replay(state.course, log.to(masks.device), state.n_acquired)
            n_acquired = state.course.record.n_measured.sum(dim=1)
        state = replace(state, mask=masks, budget=budgets, n_acquired=n_acquired)
        state = self._imaging.update_maps(state, state.start_mask)
        operator = self._imaging.operator(masks, state)
        state.legal = self.geometry.legal(state.spent, state.measurable, budgets)
        state.zero_filled = operator.adjoint(self._imaging.kspace(state)).contiguous()
        self._imaging.update(state, self.metrics)
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
        before = state.mask
        mask, budget, n_acquired = state.mask, state.budget, state.n_acquired
        if bool(acting.any()):
            taken = actions.clamp(min=0)
            wanted = self._imaging.wanted(state, state.rows, taken, acting)
            n_new = wanted.new.sum(dim=1)
            add_lines(
                state.zero_filled, self._imaging.share(state, wanted, keep=True), state.sensitivity
            )
            acquired = self.geometry.acquire(mask, taken) & state.measurable
            mask = torch.where(acting[:, None], acquired, mask)
            budget, n_acquired = budget - n_new, n_acquired + n_new
        budget = budget - (actions == WASTE).long()
        state = replace(
            state,
            mask=mask,
            budget=budget,
            n_acquired=n_acquired,
            stopped=state.stopped | (actions == STOP),
        )
        state.legal = self.geometry.legal(state.spent, state.measurable, budget)
        if bool(acting.any()):
            state = self._imaging.update_maps(state, before)
            self._imaging.update(state, self.metrics)
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
        wanted = self._imaging.wanted(state, owner, actions.flatten())
        if isinstance(self.reconstructor, ZeroFilled) and not self._imaging.updates_maps(state):
            new, maps = self._imaging.share(state, wanted), state.sensitivity
            scores = state.reference.trial_scores(
                state.zero_filled, owner, new, sensitivity=maps, names=names, task=self.task
            )
        else:
            masks = self.geometry.acquire(state.mask[owner], actions.flatten())
            masks &= state.measurable[owner]
            scores = self._imaging.scores(state, wanted, masks, names)
        return {name: value.view(actions.shape) for name, value in scores.items()}

    def preview_masks(
        self, state: State, masks: Tensor, metrics: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Scores of whole masks, for oracles that plan.

        In imperfect scans, further lines are measured once, now, from the centre outwards.

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
        order = self.geometry.outwards.expand(len(flat), -1)
        new = (flat & ~state.mask[owner]).gather(1, order)
        wanted = Wanted(owner, order, new, state.n_acquired[owner])
        scores = self._imaging.scores(state, wanted, flat, names)
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
            operator=self._imaging.operator(state.mask, state),
            target_shape=state.target_shape,
            _scan=self._imaging.kspace(state),
            truth=Truth(self, state) if for_oracle else None,
            region=state.reference.region,
            record=None if state.course is None else state.course.record,
        )

    @cached_property
    def _imaging(self) -> Imaging:
        return Imaging(
            self.geometry, self.reconstructor, self.imperfection, self.task, self.coil_maps
        )

    def _prepare(
        self,
        slices: Sequence[Slice],
        start_masks: Tensor | None,
        *,
        generators: Sequence[np.random.Generator] | None,
        seeds: Tensor | None,
    ) -> State:
        """Scans at their start, not yet reconstructed."""
        scan, measured = starting.load(slices, self.device)
        measurable = self.geometry.lines_of(measured)
        if start_masks is None:
            start_masks = self.geometry.start_masks(
                measurable, self.n_center_lines, n_random=self.n_random_lines, generators=generators
            )
        mask = legality.checked_masks(measurable, start_masks)
        shape = (scan.shape[-2], scan.shape[-1])
        kspace_mask = self.geometry.kspace_mask(mask, shape)
        seen, course, left = scan, None, measurable & ~mask
        if self.imperfection is not None:
            measuring = Measuring(self.imperfection, self.geometry, shape)
            seeds = starting.draw_seeds(generators) if seeds is None else seeds
            course = measuring.begin(scan, mask, seeds=seeds.to(mask.device), horizon=self.horizon)
            seen, left = measuring.kspace(course), measuring.left(course, measurable)
        sensitivity = starting.sensitivity(
            slices,
            seen * kspace_mask.unsqueeze(1),
            kspace_mask,
            estimate=self.coil_maps.estimate,
        )
        zero_filled = CartesianOperator(kspace_mask, sensitivity).adjoint(seen).contiguous()
        budget = left.sum(dim=1).clamp(max=self.budget or int(left.sum()))
        state = State(
            slices=list(slices),
            scan=scan,
            readout=lines.readouts(scan, self.geometry),
            reference=references(slices, self.device),
            sensitivity=sensitivity,
            mask=mask,
            start_mask=mask.clone(),
            measurable=measurable,
            legal=self.geometry.legal(mask if course is None else course.spent, measurable, budget),
            budget=budget,
            start_budget=budget.clone(),
            n_acquired=mask.sum(dim=1),
            scale=largest_magnitude(zero_filled),
            zero_filled=zero_filled,
            reconstruction=Reconstruction(zero_filled),
            scores={},
            stopped=torch.zeros_like(budget, dtype=torch.bool),
            course=course,
        )
        legality.check_begun(state)
        return state


@dataclass(frozen=True, eq=False)
class Truth:
    """What only an oracle may ask: scores of actions and masks that were not acquired."""

    acquisition: Acquisition = field(metadata=SHARED)
    state: State

    def scores_of_actions(self, actions: Tensor, metric: str) -> Tensor:
        """Score after each action: int64 (batch, trial) -> float64 (batch, trial)."""
        return self.acquisition.preview(self.state, actions, (metric,))[metric]

    def scores_of_masks(self, masks: Tensor, metric: str) -> Tensor:
        """Score of each mask: bool (batch, trial, n_lines) -> float64 (batch, trial)."""
        return self.acquisition.preview_masks(self.state, masks, (metric,))[metric]
