"""The scan as a batched state machine: start, acquire, preview.

Written once and used by every environment, policy and benchmark. It is pure: what comes out
depends on what goes in and on nothing else. One exception of ownership, for speed: `acquire`
takes over the buffers of the state that it is given; keep a `clone()` to go back.

No leak: a :class:`View` is all that policies, observations and reconstructors get to see: acquired
samples, and what a scanner knows before the scan. Only oracles are handed :class:`Truth`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from activemri import kernels
from activemri.batched import Batched
from activemri.data.slices import Slice, SliceDataset
from activemri.envs.protocol import STANDARD_METRICS, ScanProtocol
from activemri.envs.reward import TaskLoss, make_reward
from activemri.envs.scanner import (
    IDEAL,
    Conditions,
    MeasurementLog,
    Readings,
    Scanner,
    Start,
    make_scanner,
)
from activemri.metrics import REGION_METRICS, find_metric
from activemri.metrics.reference import (
    Reference,
    TaskFunction,
    add_increment,
    center_crop,
    largest_magnitude,
)
from activemri.mri import fourier
from activemri.mri.geometry import Geometry, Increment, Transform
from activemri.mri.operators import Operator
from activemri.mri.sensitivity import FROM_START, CoilMaps, make_coil_maps
from activemri.reconstruction.reconstructor import (
    Measurement,
    Reconstruction,
    Reconstructor,
    require_served,
)
from activemri.reconstruction.registry import make_reconstructor

#: Actions below zero acquire nothing.
STOP = kernels.STOP  # ends the episode
IDLE = kernels.IDLE  # changes nothing
WASTE = kernels.WASTE  # costs one readout of the budget

#: White of an 8-bit image, in units of the scale: lines acquired later sharpen the image, and its
#: largest values grow beyond those of the blurred first one.
WHITE = 2.0

_NEVER = torch.iinfo(torch.int64).max  # rank of what does not exist

# Images of single readouts of scans that were asked about, by the samples of the object, which
# copies of a state share; and the memory that those of a batch may take.
_PROJECTED = WeakTensorKeyDictionary()
_MOST_PROJECTED = 2**30

# Trials that are reconstructed at once: more only costs memory.
_TRIALS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class View(Batched):
    """Knowledge during a scan, for a batch of scans of one size.

    ::

        legal, image = view.legal, view.reconstruction.image
        energy = view.log.samples.abs().square().sum(dim=(2, 3))  # of every readout

    Attributes:
        geometry: what one action acquires.
        transform: from images of this size to the geometry's readouts.
        measurable: readouts that the scan has at all, bool (batch, n_readouts).
        n_measurable: how many these are, int64 (batch,).
        start_mask: readouts that the scan began with, bool (batch, n_readouts).
        start_budget: the budget at the start, int64 (batch,).
        scale: largest magnitude of the zero-filled image at the start, float32 (batch,).
        gain: 8-bit value of a magnitude of 1, float32 (batch,).
        sensitivity: coil maps, complex (batch, coil, height, width), or None for a unit map.
        target_shape: height and width of the central part that is scored.
        region: regions of interest, bool (batch, *target_shape), or None; known before the scan.
        log: what was measured, how often and when, and what the scanner noticed.
        budget: readouts still to acquire, int64 (batch,).
        legal: actions that may be taken, bool (batch, n_actions).
        zero_filled: the image that the samples show by themselves, complex (batch, height, width).
        reconstruction: current image and uncertainty.
        pixels: its magnitude in the target's area, uint8 (batch, *target_shape), white at
            :data:`WHITE` times the scale.
        truth: for oracles, else None.
    """

    geometry: Geometry
    transform: Transform
    measurable: Tensor = field(metadata={"fixed": True})
    n_measurable: Tensor = field(metadata={"fixed": True})
    start_mask: Tensor = field(metadata={"fixed": True})
    start_budget: Tensor = field(metadata={"fixed": True})
    scale: Tensor = field(metadata={"fixed": True})
    gain: Tensor = field(metadata={"fixed": True})
    sensitivity: Tensor | None
    target_shape: tuple[int, int]
    region: Tensor | None = field(metadata={"fixed": True})
    log: MeasurementLog
    budget: Tensor
    legal: Tensor
    zero_filled: Tensor
    reconstruction: Reconstruction
    pixels: Tensor
    truth: "Truth | None" = None

    def __len__(self) -> int:
        return len(self.budget)

    @cached_property
    def mask(self) -> Tensor:
        """Readouts of which a measurement counts, bool (batch, n_readouts)."""
        return self.log.n_measured > self.log.n_rejected

    @cached_property
    def n_acquired(self) -> Tensor:
        """Readouts measured so far, each as often as it was, int64 (batch,)."""
        return self.log.n_measured.sum(dim=1)

    @cached_property
    def operator(self) -> Operator:
        """Operator from an image to the acquired samples."""
        return Operator(self.transform, self.mask, self.sensitivity)

    @property
    def measurement(self) -> Measurement:
        """The state of measured scans that reconstructors get."""
        return Measurement(self.log.samples, self.operator, self.zero_filled)

    @cached_property
    def rounds(self) -> Tensor:
        """Measurements of every action, of all its readouts: int64 (batch, n_actions).

        The start counts. It is 0 where the scan has none of them.
        """
        n_measured = self.log.n_measured.masked_fill(~self.measurable, _NEVER)
        fewest = self.geometry.by_action(n_measured, "amin")
        return fewest.masked_fill(fewest == _NEVER, 0)

    @cached_property
    def due(self) -> Tensor:
        """Legal actions whose readouts were measured least: bool (batch, n_actions).

        Policies that know no reason to measure a readout again choose among these: they go through
        all actions before they begin anew. In ideal scans they are the legal ones.
        """
        fewest = self.rounds.masked_fill(~self.legal, _NEVER).amin(dim=1, keepdim=True)
        return self.legal & (self.rounds == fewest)

    @property
    def acceleration(self) -> Tensor:
        """Readouts that the scan has over those acquired, float64 (batch,)."""
        return self.n_measurable.double() / self.n_acquired.clamp(min=1)


@dataclass(frozen=True, eq=False)
class Secret(Batched):
    """Facts that nobody but the simulation and oracles may know.

    Attributes:
        slices: who is scanned.
        reference: targets.
        conditions: what the scanner meets; holds the fully sampled scan.
        prepared: what increments of its readouts need (:meth:`Transform.prepared`), complex
            (batch, readout, coil, sample); without readouts where there are no such increments.
    """

    slices: list[Slice]
    reference: Reference = field(metadata={"fixed": True})
    conditions: Conditions = field(metadata={"fixed": True})
    prepared: Tensor = field(metadata={"fixed": True})

    @cached_property
    def arrays(self) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
        """The object's samples and what is prepared of them, as compiled steps read them."""
        return self.conditions.samples.numpy(), self.prepared.numpy()


@dataclass(eq=False)
class State(Batched):
    """A batch of scans under way. Rows are independent of each other.

    Attributes:
        view: what is known.
        secret: the rest.
        scores: float64 (batch,) by metric, and "uncertainty" if the reconstructor gives one: its
            mean over the pixels in units of the scale.
        stopped: bool (batch,): ended by choice.
    """

    view: View
    secret: Secret
    scores: dict[str, Tensor]
    stopped: Tensor

    def __len__(self) -> int:
        return len(self.stopped)

    @property
    def rows(self) -> Tensor:
        """Numbers of the scans, int64 (batch,)."""
        return _numbers(len(self.stopped), self.stopped.device)

    @property
    def finished(self) -> Tensor:
        """Stopped, or nothing left that may be acquired: bool (batch,)."""
        return self.stopped | ~self.view.legal.any(dim=1)


@dataclass(frozen=True, eq=False)
class Scan:
    """The rules of a scan: what may be acquired, how it is reconstructed and scored.

    ::

        scan = protocol.scan(scans)
        state = scan.start([scans[0]])
        state = scan.acquire(state, torch.tensor([60]))
        print(state.scores["ssim"])

    Attributes:
        geometry: what one action acquires, for frames that hold every scan.
        reconstructor: measurement -> image.
        budget: readouts to acquire after the start, or None for all that there are.
        n_center_lines: readouts around the centre that every scan starts with.
        n_random_lines: further readouts to start with, drawn at random for each scan.
        metrics: names of the scores kept at every step.
        device: where scans are simulated.
        task: a downstream network's loss, for the score "task_loss".
        scanner: what comes out when a readout is measured.
        coil_maps: where maps of several coils come from.

    Raises:
        ValueError: for parts that do not fit together.
    """

    geometry: Geometry
    reconstructor: Reconstructor
    budget: int | None = None
    n_center_lines: int = 8
    n_random_lines: int = 0
    metrics: tuple[str, ...] = STANDARD_METRICS
    device: torch.device | str = "cpu"
    task: TaskFunction | None = None
    scanner: Scanner = IDEAL
    coil_maps: CoilMaps = FROM_START

    def __post_init__(self) -> None:
        least = {"n_center_lines": 0, "n_random_lines": 0, "budget": 1}
        for name, fewest in least.items():
            count = getattr(self, name)
            is_whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
            if (count is not None or name != "budget") and not (is_whole and count >= fewest):
                raise ValueError(
                    f"{name} must be a whole number of at least {fewest}; got {count!r}"
                )
        for name in self.metrics:
            find_metric(name)
        self.geometry.center_lines(self.n_center_lines)
        require_served(self.reconstructor, self.geometry)
        object.__setattr__(self, "geometry", self.geometry.to(self.device))

    @classmethod
    def of(
        cls, protocol: ScanProtocol, dataset: SliceDataset, *, device: torch.device | str = "cpu"
    ) -> "Scan":
        """The scans of a data set under a protocol."""
        reward = make_reward(protocol.reward)
        wanted = [n for n in (*protocol.metrics, *reward.scores) if n != "uncertainty"]
        if any(find_metric(name).needs == "region" for name in wanted):
            wanted += REGION_METRICS  # one pass gives all of them
        geometry = protocol.geometry_of(dataset.shape)
        return cls(
            geometry=geometry,
            reconstructor=make_reconstructor(protocol.reconstructor, device=device),
            budget=lines_of_budget(protocol.budget, geometry.n_readouts),
            n_center_lines=protocol.n_center_lines,
            n_random_lines=protocol.n_random_lines,
            metrics=tuple(dict.fromkeys(wanted)),
            device=device,
            task=reward.function.loss if isinstance(reward.function, TaskLoss) else None,
            scanner=make_scanner(
                protocol.scanner,
                severity=protocol.severity,
                repeats=protocol.repeats,
                processing=protocol.processing,
                navigator_noise=protocol.navigator_noise,
            ),
            coil_maps=make_coil_maps(protocol.sensitivity),
        )

    @property
    def starts_by_chance(self) -> bool:
        """A start draws from its generator: readouts, or what the scanner meets."""
        return self.n_random_lines > 0 or self.scanner.is_random

    @property
    def horizon(self) -> int:
        """Length of the order that is kept of measurements after the start; 0 if masks tell all."""
        repeats = self.scanner.repeats
        if repeats == 1 and not self.scanner.is_random:
            return 0
        return self.budget or repeats * self.geometry.n_readouts

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
            start_masks: readouts to begin with, bool (batch, n_readouts), instead of the
                protocol's.
            generators: one for each scan; needed only for random readouts and random scanners.
            seeds: what scanners draw from instead, one for each scan, int64 (batch,).

        Raises:
            ValueError: for slices of different kinds, or masks that leave nothing to acquire.
        """
        state = self._begin(slices, start_masks, generators=generators, seeds=seeds)
        self._update(state)
        return state

    def resume(
        self,
        slices: Sequence[Slice],
        *,
        start_masks: Tensor,
        masks: Tensor,
        budgets: Tensor,
        seeds: Tensor | None = None,
        order: Tensor | None = None,
    ) -> State:
        """Scans brought to given masks in one go, as if acquired action by action.

        Args:
            slices: of one kind.
            start_masks: readouts that the scans began with, bool (batch, n_readouts).
            masks: those and all readouts acquired since, bool (batch, n_readouts).
            budgets: readouts still to acquire, int64 (batch,).
            seeds, order: where there is a :attr:`horizon`: `secret.conditions.seed` and
                `view.log.order` of the state. Without an order, readouts are measured once, from
                the centre outwards.

        Raises:
            ValueError: as for :meth:`start`, and for masks without the readouts of the start.
        """
        state = self._begin(slices, start_masks, generators=None, seeds=seeds)
        view, log = state.view, state.view.log
        masks = _checked_masks(view.measurable, masks, holding=view.start_mask)
        if order is None or not self.horizon:
            state = self.with_masks(state, masks)
        elif order.shape != log.order.shape:
            raise ValueError(
                f"expected an order of shape {tuple(log.order.shape)}; got {tuple(order.shape)}"
            )
        else:
            for readout in order.to(masks.device).T[:, :, None]:
                if not bool((readout >= 0).any()):
                    break
                readings = Readings(state.rows, readout.clamp(min=0), readout >= 0)
                log.measure(self.scanner, state.secret.conditions, readings)
        state.view = self._after(state, view.start_mask, budgets.to(masks.device), anew=True)
        self._update(state)
        return state

    def with_masks(self, state: State, masks: Tensor) -> State:
        """Copies of scans with further readouts measured, as far as trials need them.

        They are measured once, from the centre outwards. Reconstruction and scores stay as they
        were.

        Args:
            state: scans under way; left as it is.
            masks: bool (batch, n_readouts).
        """
        state, before = state.clone(), state.view.mask
        readings = Readings.outwards(self.geometry, state.rows, masks & ~before)
        state.view.log.measure(self.scanner, state.secret.conditions, readings)
        budget = state.view.budget - readings.new.sum(dim=1)
        state.view = self._after(state, before, budget, anew=True)
        return state

    def acquire(self, state: State, actions: Tensor) -> State:
        """Take one action in every scan. The given state's buffers pass to the result.

        Args:
            state: scans under way.
            actions: int64 (batch,); STOP, IDLE and WASTE acquire nothing.

        Raises:
            ValueError: for an illegal action; the state is then unchanged. On other devices than
                the CPU, which steps of ideal scanners never wait for, it acquires nothing instead:
                ask :meth:`check_actions` before.
        """
        if actions.shape != state.stopped.shape:
            raise ValueError(f"expected {len(state)} actions; got shape {tuple(actions.shape)}")
        if (
            self._is_ideal
            and self._is_incremental(state)
            and state.secret.reference.is_compiled(state.view.zero_filled)
        ):
            return self._step(state, actions)
        if not self._waits:
            actions = torch.where(self._refused(state, actions), IDLE, actions)
        else:
            self.check_actions(state, actions)
        view, before, acting = state.view, state.view.mask, actions >= 0
        readings = self._readings(state, state.rows, actions.clamp(min=0))
        readings = replace(readings, new=readings.new & acting[:, None])
        budget = view.budget - readings.new.sum(dim=1) - (actions == WASTE).long()
        state = state.changed(stopped=state.stopped | (actions == STOP))
        if self._is_ideal:
            view.log.take(state.secret.conditions, readings)
        else:
            change = view.log.measure(self.scanner, state.secret.conditions, readings)
        if self._waits and not bool(acting.any()):  # observations share the pixels
            state.view = self._after(state, before, budget)
            state.view = state.view.changed(pixels=view.pixels.clone())
            return state
        increment = None
        if self.is_additive and self._is_ideal:
            new = torch.where(readings.new, readings.readouts, -1)
            increment = view.transform.increment_of(state.secret.prepared, state.rows, new)
        elif self.is_additive:
            increment = view.transform.increment(change, readings.readouts)
        if increment is not None and not self._is_incremental(state):
            add_increment(view.zero_filled, increment, view.sensitivity)
            increment = None
        state.view = self._after(state, before, budget)
        self._update(state, increment)
        return state

    def recorded(self, state: State) -> Callable[[Tensor], State]:
        """Steps of one batch of an ideal scanner: on a CUDA device, replays of a recorded graph.

        ::

            step = scan.recorded(scan.start(slices))
            state = step(actions)

        The host then launches one graph a step. What a step gives is overwritten by the next one,
        and the state is taken over. On other devices it is :meth:`acquire`, step by step.

        Raises:
            ValueError: for steps that look at values of tensors, which no graph can.
        """
        if self._waits and state.stopped.device.type == "cuda":
            raise ValueError("a graph holds steps of ideal scanners; got " + repr(self.scanner))
        if state.stopped.device.type != "cuda":
            kept = state

            def follow(actions: Tensor) -> State:
                nonlocal kept
                kept = self.acquire(kept, actions)
                return kept

            return follow
        given = torch.full_like(state.view.budget, IDLE)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # idling changes nothing, and makes what is made once
                self.acquire(state, given)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            after = self.acquire(state, given)
            for old, new in (
                (state.view.legal, after.view.legal),
                (state.view.budget, after.view.budget),
                (state.stopped, after.stopped),
            ):
                old.copy_(new)

        def replay(actions: Tensor) -> State:
            given.copy_(actions)
            graph.replay()
            return after.changed(view=after.view.changed())  # without what its properties cached

        return replay

    def _step(self, state: State, actions: Tensor) -> State:
        """The same in one compiled pass, of zero-filled images and an ideal scanner."""
        view, secret, n = state.view, state.secret, len(actions)
        legal, budget = np.empty(view.legal.shape, np.bool_), np.empty(n, np.int64)
        stopped, pixels = np.empty(n, np.bool_), np.empty(view.pixels.shape, np.uint8)
        result = np.empty((len(kernels.PLAIN), n))
        maps = view.sensitivity
        if maps is None:
            maps = view.zero_filled.new_empty((n, 0, *view.transform.shape))
        kernel: Any = kernels.step
        refused = kernel(
            actions.numpy(),
            view.legal.numpy(),
            state.stopped.numpy(),
            view.measurable.numpy(),
            view.budget.numpy(),
            *self.geometry.tables,
            *secret.arrays,
            *view.log.arrays,
            *view.transform.tables,
            view.zero_filled.numpy(),
            maps.numpy(),
            *secret.reference.arrays,
            view.gain.numpy(),
            legal,
            budget,
            stopped,
            pixels,
            result,
        )
        if refused >= 0:
            raise ValueError(self._refusal(state, refused, int(actions[refused])))
        scores = secret.reference.named(result, self.metrics, view.zero_filled, task=self.task)
        shown = torch.from_numpy(pixels)
        if refused == kernels.SOME_IDLE:  # what has not changed stays the same to the last bit
            idle = actions < 0
            scores = {k: torch.where(idle, state.scores[k], v) for k, v in scores.items()}
            shown = torch.where(idle[:, None, None], view.pixels, shown)
        return state.changed(
            view=view.changed(
                legal=torch.from_numpy(legal), budget=torch.from_numpy(budget), pixels=shown
            ),
            scores=scores,
            stopped=torch.from_numpy(stopped),
        )

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
        if not bool(((actions >= 0) & (actions < self.geometry.n_actions)).all()):
            raise ValueError(
                f"actions must be in 0 to {self.geometry.n_actions - 1}; got "
                f"{actions.min().item()} to {actions.max().item()}"
            )
        owner, view = state.rows.repeat_interleave(actions.shape[1]), state.view
        readings = self._readings(state, owner, actions.flatten())
        if self._is_incremental(state):
            if self._is_ideal:
                new = torch.where(readings.new, readings.readouts, -1)
                increment = view.transform.increment_of(state.secret.prepared, owner, new)
            else:
                change = view.log.change(self.scanner, state.secret.conditions, readings)
                increment = view.transform.increment(change, readings.readouts)
            scores = state.secret.reference.scores(
                view.zero_filled,
                names,
                task=self.task,
                owner=owner,
                increment=increment,
                sensitivity=view.sensitivity,
            )
        else:
            masks = self.geometry.acquire(view.mask[owner], actions.flatten())
            scores = self._trial_scores(state, readings, masks & view.measurable[owner], names)
        return {name: value.view(actions.shape) for name, value in scores.items()}

    def preview_masks(
        self, state: State, masks: Tensor, metrics: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Scores of whole masks, for oracles that plan.

        Further readouts are measured once, now, from the centre outwards.

        Args:
            state: scans under way; left as it is.
            masks: bool (batch, trial, n_readouts).
            metrics: names of the scores wanted (default: all of the protocol).

        Returns:
            float64 (batch, trial) by metric.
        """
        names = tuple(metrics or self.metrics)
        owner = state.rows.repeat_interleave(masks.shape[1])
        flat = masks.flatten(0, 1) & state.view.measurable[owner]
        readings = Readings.outwards(self.geometry, owner, flat & ~state.view.mask[owner])
        scores = self._trial_scores(state, readings, flat, names)
        return {name: value.view(masks.shape[:2]) for name, value in scores.items()}

    def check_actions(self, state: State, actions: Tensor) -> None:
        """Refuse illegal actions.

        Raises:
            ValueError: with the first scan whose action is illegal, and why it is.
        """
        refused = self._refused(state, actions)
        if bool(refused.any()):
            row = int(refused.nonzero()[0])
            raise ValueError(self._refusal(state, row, int(actions[row])))

    def _refused(self, state: State, actions: Tensor) -> Tensor:
        """Illegal actions, bool (batch,)."""
        possible = actions.clamp(0, self.geometry.n_actions - 1)
        legal = state.view.legal.gather(1, possible[:, None]).squeeze(1) & (possible == actions)
        return (actions >= 0) & (~legal | state.stopped)

    @cached_property
    def _is_ideal(self) -> bool:
        """Readouts are the object's samples, so that what increments need is made at the start."""
        return getattr(self.scanner, "is_ideal", False)

    @cached_property
    def _waits(self) -> bool:
        """Steps look at values of tensors, which makes other devices than the CPU finish first."""
        return not self._is_ideal or torch.device(self.device).type == "cpu"

    @cached_property
    def is_additive(self) -> bool:
        """The zero-filled image of readouts is the sum of theirs."""
        return self.geometry.transform.is_cartesian

    def _is_incremental(self, state: State) -> bool:
        """Reconstructions change by the increments of readouts alone."""
        return (
            self.reconstructor.is_zero_filled and self.is_additive and not self._updates_maps(state)
        )

    def _readings(self, state: State, owner: Tensor, actions: Tensor) -> Readings:
        """Readouts that actions would measure in the scans of their owners."""
        view = state.view
        readouts, mentioned = self.geometry.readouts(actions)
        at = (owner[:, None], readouts)
        new = view.measurable[at] & (view.log.n_measured[at] < self.scanner.repeats) & mentioned
        return Readings(owner, readouts, new)

    def _after(self, state: State, before: Tensor, budget: Tensor, *, anew: bool = False) -> View:
        """The view after measurements, but for the reconstruction.

        `before` are the masks until then. `anew` makes zero-filled images of all samples, where
        increments would do as well.
        """
        spent = state.view.log.n_measured >= self.scanner.repeats
        legal = self.geometry.legal(spent, state.view.measurable, budget)
        view, samples = state.view.changed(budget=budget, legal=legal), state.view.log.samples
        if self._updates_maps(state):
            operator = self._with_maps(view.operator, samples, before)
            if operator is not view.operator:
                view, anew = view.changed(sensitivity=operator.sensitivity), True
        if anew or not self.is_additive:
            zero_filled = view.operator.zero_filled(samples).contiguous()
            view = view.changed(zero_filled=zero_filled)
        return view

    def _begin(
        self,
        slices: Sequence[Slice],
        start_masks: Tensor | None,
        *,
        generators: Sequence[np.random.Generator] | None,
        seeds: Tensor | None,
    ) -> State:
        """Scans at their start, not yet reconstructed."""
        kspace, measured = _loaded(slices, self.device)
        transform = self.geometry.transform.fitted((kspace.shape[-2], kspace.shape[-1]))
        measurable = transform.measurable(measured)
        if start_masks is None:
            start_masks = self.geometry.start_masks(
                measurable, self.n_center_lines, n_random=self.n_random_lines, generators=generators
            )
        mask = _checked_masks(measurable, start_masks)
        if seeds is None:
            drawn = [0] * len(mask)
            if self.scanner.is_random:
                if generators is None:
                    raise ValueError(
                        "a random scanner needs one generator, or one seed, for each scan"
                    )
                drawn = [int(generator.integers(2**62)) for generator in generators]
            seeds = torch.tensor(drawn)
        samples, rows = transform.of_grid(kspace), torch.arange(len(mask), device=mask.device)
        beginning = Start(kspace, samples, mask, seeds.to(mask.device), self.horizon, transform)
        conditions = self.scanner.begin(beginning)
        log = MeasurementLog.empty(samples)
        log.measure(self.scanner, conditions, Readings.outwards(self.geometry, rows, mask))
        log = replace(log, order=torch.full((len(mask), self.horizon), -1, device=mask.device))
        reference = _references(slices, kspace, transform)
        sensitivity = None  # a unit map
        if self._brings_maps(slices):
            given = torch.stack([s.sensitivity for s in slices if s.sensitivity is not None])
            sensitivity = given.to(mask.device, torch.complex64)
        elif samples.shape[2] > 1:
            calibration = transform.calibration(log.samples, mask)
            sensitivity = self.coil_maps.estimate(*calibration).contiguous()
        zero_filled = Operator(transform, mask, sensitivity).zero_filled(log.samples).contiguous()
        left = ((self.scanner.repeats - log.n_measured) * measurable).sum(dim=1)
        budget = left.clamp(max=self.budget or int(left.max()))
        scale = largest_magnitude(zero_filled)
        view = View(
            geometry=self.geometry,
            transform=transform,
            measurable=measurable,
            n_measurable=measurable.sum(dim=1),
            start_mask=mask,
            start_budget=budget,
            scale=scale,
            gain=torch.where(scale > 0, 255 / (WHITE * scale), 0.0),  # of no scale, black
            sensitivity=sensitivity,
            target_shape=(reference.target.shape[-2], reference.target.shape[-1]),
            region=reference.region,
            log=log,
            budget=budget.clone(),
            legal=self.geometry.legal(log.n_measured >= self.scanner.repeats, measurable, budget),
            zero_filled=zero_filled,
            reconstruction=Reconstruction(zero_filled),
            pixels=zero_filled.new_empty(0, dtype=torch.uint8),  # follow with the scores
        )
        prepared = conditions.samples[:, 0]
        if self._is_ideal and self.is_additive:
            # Each alone, so that a scan does not depend on its batch.
            prepared = torch.cat([transform.prepared(one) for one in prepared.split(1)])
        else:
            prepared = prepared[:, :0]
        secret = Secret(list(slices), reference, conditions, prepared)
        state = State(view, secret, {}, torch.zeros_like(budget, dtype=torch.bool))
        if bool(state.finished.any()):
            raise ValueError(
                "nothing is left to acquire after the start: expected a start mask that leaves at "
                f"least one measurable line; got {view.n_acquired.tolist()} of "
                f"{view.n_measurable.tolist()} lines acquired"
            )
        return state

    def _update(self, state: State, increment: Increment | None = None) -> None:
        """Bring reconstruction, pixels and scores up to date; `increment` is still to be added."""
        view = state.view
        if not self.reconstructor.is_zero_filled:
            result = self._reconstruct(view.measurement)
        elif view.reconstruction.image is view.zero_filled:  # brought up to date in place
            result = view.reconstruction
        else:
            result = Reconstruction(view.zero_filled)
        state.scores, pixels = state.secret.reference.advance(
            result.image,
            self.metrics,
            gain=view.gain,
            task=self.task,
            increment=increment,
            sensitivity=view.sensitivity,
        )
        state.view = view.changed(reconstruction=result, pixels=pixels)
        if result.uncertainty is not None:  # its mean, in units of the scale
            unit = view.scale.double().clamp(min=torch.finfo(torch.float32).tiny)
            state.scores["uncertainty"] = result.uncertainty.double().mean(dim=(-2, -1)) / unit

    @torch.no_grad()
    def _reconstruct(self, measurement: Measurement, *, on_trial: bool = False) -> Reconstruction:
        make = self.reconstructor.try_out if on_trial else self.reconstructor
        return make(measurement)

    def _trial_scores(
        self, state: State, readings: Readings, masks: Tensor, names: tuple[str, ...]
    ) -> dict[str, Tensor]:
        """Scores of masks (trial, n_readouts) that are not acquired, float64 (trial,) by metric.

        `readings` are at least those of the masks' readouts that are not acquired.
        """
        view, chunks = state.view, []
        for trials in torch.arange(len(masks), device=masks.device).split(_TRIALS_AT_ONCE):
            row = readings.row[trials]
            reference = state.secret.reference.select(row)
            image = self._weighed(state, row, masks[trials], n_in_all=len(masks))
            if image is not None:
                chunks.append(reference.scores(image, names, task=self.task))
                continue
            samples, missing = view.log.on_trial(
                self.scanner, state.secret.conditions, readings.select(trials)
            )
            maps = None if view.sensitivity is None else view.sensitivity[row]
            operator = Operator(view.transform, masks[trials] & ~missing, maps)
            if self._updates_maps(state):
                operator = self._with_maps(operator, samples, view.mask[row])
            result = self._reconstruct(Measurement.of(samples, operator), on_trial=True)
            chunks.append(reference.scores(result.image, names, task=self.task))
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in names}

    def _weighed(self, state: State, row: Tensor, masks: Tensor, *, n_in_all: int) -> Tensor | None:
        """Zero-filled images of masks (trial, n_readouts) in scans `row` by back-projections.

        They are made at the first call for a batch that tries many masks. None where there are
        none, or too large ones.
        """
        view, samples = state.view, state.secret.conditions.samples
        n_bytes = 8 * view.measurable.numel() * math.prod(view.transform.shape)
        able = self.reconstructor.is_zero_filled and self._is_ideal and n_bytes <= _MOST_PROJECTED
        if not able or self._updates_maps(state):
            return None
        if samples not in _PROJECTED and 4 * n_in_all >= view.measurable.numel():
            made = view.transform.back_projections(samples[:, 0], view.sensitivity)
            _PROJECTED[samples] = made
        projections: Tensor | None = _PROJECTED.get(samples)
        if projections is None:
            return None
        images = projections.new_empty((len(masks), *view.transform.shape))
        shares = view.transform.shares(masks)
        for scan, images_of in enumerate(torch.view_as_real(projections).flatten(2)):
            own = row == scan
            sums = (shares[own] @ images_of).reshape(-1, *view.transform.shape, 2)
            images[own] = torch.view_as_complex(sums)
        return images

    def _updates_maps(self, state: State) -> bool:
        """Coil maps are estimated, and again with what is acquired."""
        return (
            self.coil_maps.updated
            and state.view.sensitivity is not None
            and not self._brings_maps(state.secret.slices)
        )

    def _brings_maps(self, slices: Sequence[Slice]) -> bool:
        """Scans of one kind bring the maps that are used; they must where no others are wanted."""
        one = slices[0]
        if self.coil_maps.brought == "only" and one.sensitivity is None and one.n_coils > 1:
            raise ValueError(
                f'sensitivity="known" needs scans with coil maps; {one.volume} brings none: choose '
                "low-resolution, walsh or espirit, or store 'sensitivity' in the file"
            )
        return one.sensitivity is not None and self.coil_maps.brought != "never"

    def _with_maps(self, operator: Operator, samples: Tensor, before: Tensor) -> Operator:
        """The operator with maps of its mask, where these may differ from those before."""
        transform, mask = operator.transform, operator.mask
        if self.horizon:  # the centre may have been measured again
            changed = torch.arange(len(mask), device=mask.device)
        else:
            old, new = transform.calibration_mask(before), transform.calibration_mask(mask)
            changed = self.coil_maps.may_change(old, new).nonzero()[:, 0]
        if len(changed) == 0:
            return operator
        assert operator.sensitivity is not None
        acquired = samples[changed] * mask[changed][:, :, None, None]
        maps = self.coil_maps.estimate(*transform.calibration(acquired, mask[changed]))
        return replace(operator, sensitivity=operator.sensitivity.index_copy(0, changed, maps))

    def _refusal(self, state: State, row: int, action: int) -> str:
        view, n_actions = state.view.select([row]), self.geometry.n_actions
        if action >= n_actions:
            why = f"is out of range; there are {n_actions} actions"
        elif bool(state.finished[row]):
            why = "comes after the end of the scan; reset first"
        elif bool(
            self.geometry.by_action(view.log.n_measured >= self.scanner.repeats, "any")[0, action]
        ):
            once = self.scanner.repeats == 1
            why = "was acquired " + ("already" if once else "as often as a line may be measured")
        elif not bool(self.geometry.by_action(view.measurable, "any")[0, action]):
            why = "was never measured (zero padding)"
        else:
            why = f"needs more lines than the budget has left ({int(view.budget)})"
        legal = view.legal[0].nonzero().flatten().tolist()
        return f"action {action} of scan {row} {why}; legal actions: {_shorten(legal)}"


@dataclass(frozen=True, eq=False)
class Truth(Batched):
    """Answers for oracles only: scores of actions and masks that were not acquired."""

    scan: Scan
    state: State

    def scores_of_actions(self, actions: Tensor, metric: str) -> Tensor:
        """Score after each action: int64 (batch, trial) -> float64 (batch, trial)."""
        return self.scan.preview(self.state, actions, (metric,))[metric]

    def scores_of_masks(self, masks: Tensor, metric: str) -> Tensor:
        """Score of each mask: bool (batch, trial, n_readouts) -> float64 (batch, trial)."""
        return self.scan.preview_masks(self.state, masks, (metric,))[metric]


@lru_cache(maxsize=64)
def _numbers(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device)


def kind(scan: Slice) -> tuple[object, ...]:
    """Properties that scans of a batch share: sizes, and which of maps, roi and label they have."""
    return (
        tuple(scan.kspace.shape),
        tuple(scan.target.shape),
        scan.sensitivity is not None,
        scan.roi is not None,
        None if scan.label is None else tuple(scan.label.shape),
    )


def _loaded(slices: Sequence[Slice], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """k-space of slices of one kind, complex64 (batch, coil, height, width), and what exists of it.

    That is bool (batch, height, width).
    """
    if len({kind(scan) for scan in slices}) != 1:
        raise ValueError(
            "scans of one batch must agree in size, coils, maps, roi and label; got "
            f"{sorted({str(kind(scan)) for scan in slices})}"
        )
    kspace = torch.stack([s.kspace for s in slices]).to(device).to(torch.complex64)
    # A sum is finite if all samples are, and costs a fraction of looking at each.
    finite = torch.view_as_real(kspace).flatten(1).sum(dim=1).isfinite()
    if not bool(finite.all()):  # 0 * NaN = NaN: they would be seen even where not acquired
        wrong = slices[int((~finite).nonzero()[0])]
        raise ValueError(
            f"k-space must be finite; that of {wrong.volume}, slice {wrong.index} holds NaN or Inf"
        )
    return kspace, torch.stack([s.measured for s in slices]).to(device)


def _references(slices: Sequence[Slice], kspace: Tensor, transform: Transform) -> Reference:
    """Targets of slices of one kind, and all about them that scores need."""
    device = kspace.device

    def stack(tensors: list[Tensor | None]) -> Tensor | None:
        given = [tensor for tensor in tensors if tensor is not None]
        return torch.stack(given).to(device) if given else None

    targets = torch.stack([s.target for s in slices]).to(device)
    if not transform.is_cartesian:
        # Without the detail that no readout reaches, in the phase of the fully sampled image, as
        # far as its coils agree on one.
        coils, shape = fourier.ifft2(kspace), (targets.shape[-2], targets.shape[-1])
        image = (coils * coils[:, :1].conj()).sum(dim=1) if coils.shape[1] > 1 else coils[:, 0]
        magnitude = coils.abs().square().sum(dim=1).sqrt()
        center_crop(magnitude, shape).copy_(targets)
        whole = transform.within_reach(torch.polar(magnitude, image.angle()))
        targets = center_crop(whole, shape).abs()
    return Reference.of(
        targets,
        torch.tensor([s.volume_max for s in slices], device=device),
        region=stack([s.roi for s in slices]),
        label=stack([s.label for s in slices]),
    )


def lines_of_budget(budget: int | float | None, n_readouts: int) -> int | None:
    """Readouts that a budget stands for, a number or a fraction of those of the frame."""
    if not isinstance(budget, float | np.floating):
        return budget
    if not 0 < budget < 1:
        raise ValueError(
            "budget must be a whole number of at least 1, or a fraction between 0 and 1 of the "
            f"frame's lines; got {budget!r}"
        )
    return max(1, round(float(budget) * n_readouts))


def _checked_masks(measurable: Tensor, given: Tensor, *, holding: Tensor | None = None) -> Tensor:
    """Masks from outside, copied: of measurable readouts, and with all of the start, `holding`."""
    if given.dtype != torch.bool or given.shape != measurable.shape:
        raise ValueError(
            f"a mask must be boolean with {measurable.shape[1]} lines for each of "
            f"{len(measurable)} scans; got {given.dtype} {tuple(given.shape)}"
        )
    given = given.to(measurable.device)
    if bool((given & ~measurable).any()):
        missing = (given & ~measurable).any(dim=0).nonzero().flatten().tolist()
        raise ValueError(
            f"the mask holds lines that were never measured: {_shorten(missing)}; leave them out"
        )
    if holding is not None and bool((holding & ~given).any()):
        raise ValueError("expected masks that hold all lines of the start masks; some do not")
    return given.clone()


def _shorten(numbers: Sequence[int], most: int = 12) -> str:
    shown = ", ".join(str(n) for n in numbers[:most])
    return shown + (f", ... ({len(numbers)} in all)" if len(numbers) > most else "") or "none"
