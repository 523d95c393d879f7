"""Nothing that is seen depends on what was not acquired.

Two scans agree where they were acquired and differ everywhere else: in the other samples, in the
target, in the range of the volume. Whatever an agent, a reconstructor or a policy is shown must
then be the same, bitwise. Leaks on purpose show that the comparison catches them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.networks import FactorNetwork, StartNetwork, energies, start_features
from activemri.agents.order import Order
from activemri.agents.policy import Policy
from activemri.agents.registry import POLICIES, make_policy, needs_fit
from activemri.data.slices import Slice, SliceList
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.observation import OBSERVATIONS, Frame
from activemri.envs.protocol import EnvOptions
from activemri.envs.scan import Scan, State, Truth
from activemri.envs.scanner import (
    IDEAL,
    Conditions,
    Moving,
    Noisy,
    Requests,
    Scanner,
    Spiking,
    Start,
)
from activemri.evaluator import Evaluator
from activemri.mri.geometry import GEOMETRIES
from activemri.mri.sensitivity import ESTIMATORS, CoilMaps
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS
from tests.envs.scans import (
    Unsure,
    grouped,
    is_served,
    random_weights,
    scan,
    tensors_of,
    with_other_unacquired,
)

FRAME = (12, 14)
STEPS = 3
BUDGET = 6
REPEATS = 3
SCALES = (1e3, 0.0)  # of what takes the place of unacquired samples
COILS = {"one coil": (1, False), "given maps": (3, True), "estimated maps": (3, False)}
# Every transform with every reconstructor that can serve it; the rest group the same readouts.
TRANSFORMS = ("columns", "rows", "points", "radial")
SEEN = [
    *((r, g, c) for r in RECONSTRUCTORS for g in TRANSFORMS for c in COILS if is_served(r, g)),
    *(("with uncertainty", g, "estimated maps") for g in GEOMETRIES),
]

Watch = Callable[[State], Mapping[str, Any]]


class Leak(AssertionError):
    """Something that is seen depends on what was not acquired."""


def original(coils: str = "one coil") -> Slice:
    n_coils, maps = COILS[coils]
    # Smaller than the frame and zero-padded: neither may be told from unacquired samples.
    return scan(3, shape=(11, 13), target_shape=(9, 10), n_coils=n_coils, maps=maps, padding=1)


def made(geometry: str, reconstructor: Reconstructor | str, **options: Any) -> Scan:
    method = random_weights(reconstructor) if isinstance(reconstructor, str) else reconstructor
    n = 2 if geometry == "tiles" else 1
    budget = STEPS * n**2 if n > 1 else BUDGET
    return Scan(grouped(geometry, FRAME, n), method, budget=budget, n_center_lines=4, **options)


def begin(acquisition: Scan, one: Slice) -> State:
    return acquisition.start([one], seeds=torch.tensor([7]))


def legal_plan(acquisition: Scan, one: Slice) -> list[int]:
    legal = begin(acquisition, one).view.legal[0].nonzero().flatten().tolist()
    chosen = np.random.default_rng(0).permutation(legal)[:STEPS]
    n_again = 1 if acquisition.horizon else 0
    return [int(action) for action in (*chosen, *chosen[:n_again])]


def with_other_readouts(acquisition: Scan, one: Slice, mask: Tensor, *, scale: float) -> Slice:
    """A scan that agrees in the acquired readouts, bool (1, n_readouts), and in nothing else."""
    transform = acquisition.geometry.transform.fitted(one.shape)
    if transform.is_cartesian:
        acquired = begin(acquisition, one).view.transform
        return with_other_unacquired(one, acquired.grid_mask(mask)[0], scale=scale)  # type: ignore[attr-defined]
    return with_other_unacquired(one, torch.zeros(1, 1, dtype=torch.bool), scale=scale)


@dataclass(frozen=True)
class Forging:
    """A scanner that keeps the samples of one scan where readouts were acquired of another.

    Spokes share the grid's samples, so that no other scan agrees with one in whole spokes: what
    was acquired is put in place instead.
    """

    inner: Scanner
    true: Tensor  # complex (readout, coil, sample)
    mask: Tensor  # bool (n_readouts,)

    @property
    def repeats(self) -> int:
        return self.inner.repeats

    @property
    def averages(self) -> bool:
        return self.inner.averages

    @property
    def is_random(self) -> bool:
        return self.inner.is_random

    def begin(self, start: Start) -> Conditions:
        kept = torch.where(self.mask[:, None, None], self.true, start.samples)
        return self.inner.begin(replace(start, samples=kept))

    def measure(self, conditions: Conditions, requests: Requests) -> Tensor:
        return self.inner.measure(conditions, requests)

    def process(
        self, conditions: Conditions, requests: Requests, samples: Tensor
    ) -> tuple[Tensor, Tensor]:
        process = getattr(self.inner, "process", None)
        all_count = torch.ones_like(requests.row, dtype=torch.bool)
        return process(conditions, requests, samples) if process else (samples, all_count)

    def outlier_score(self, conditions: Conditions, requests: Requests, samples: Tensor) -> Tensor:
        return self.inner.outlier_score(conditions, requests, samples)


def states(acquisition: Scan, one: Slice, plan: list[int]) -> Iterator[State]:
    state = begin(acquisition, one)
    yield state
    for action in plan:
        state = acquisition.acquire(state, torch.tensor([action]))
        yield state


def everything_seen(observations: Mapping[str, Any] = OBSERVATIONS) -> Watch:
    """All tensors of a view, what follows from them, and every observation."""

    def watch(state: State) -> dict[str, Tensor]:
        view = state.view
        geometry, transform = view.geometry, view.transform
        frame = Frame(
            shape=FRAME,
            target_shape=(9, 10),
            n_coils=view.log.samples.shape[2],
            n_lines=geometry.n_readouts,
            repeats=REPEATS,
            has_lines=geometry.has_lines,
            n_samples=0 if transform.is_cartesian else transform.n_samples,
        )
        seen = tensors_of(view) | {
            "due": view.due,
            "acceleration": view.acceleration,
            "measurement": view.measurement.samples,
            "n_acquired": view.n_acquired,
        }
        for kind, observation in observations.items():
            parts = observation(view, frame)
            parts = parts if isinstance(parts, dict) else {"": parts}
            seen |= {f"observation {kind} {key}": value for key, value in parts.items()}
        return seen

    return watch


def check_no_leak(
    acquisition: Scan,
    one: Slice,
    *,
    watch: Watch | None = None,
    other_acquisition: Scan | None = None,
) -> None:
    """Compare a scan, action by action, with others that share what is acquired in the end.

    Raises:
        Leak: with the name of what differs.
    """
    plan, watch = legal_plan(acquisition, one), watch or everything_seen()
    mine, state = [], None
    for state in states(acquisition, one, plan):  # buffers pass on from state to state
        mine.append({name: value.clone() for name, value in watch(state).items()})
    assert state is not None
    mask, transform = state.view.mask, state.view.transform
    for scale in SCALES:
        other = with_other_readouts(acquisition, one, mask, scale=scale)
        assert not torch.equal(other.kspace, one.kspace)
        assert not torch.equal(other.target, one.target)
        theirs = other_acquisition or acquisition
        if not transform.is_cartesian:
            true = transform.of_grid(one.kspace[None])[0]
            theirs = replace(theirs, scanner=Forging(theirs.scanner, true, mask[0]))
        for seen, state in zip(mine, states(theirs, other, plan), strict=True):
            found = watch(state)
            for name, value in seen.items():
                if not torch.equal(value, found[name]):
                    raise Leak(name)


@pytest.mark.parametrize(("reconstructor", "geometry", "coils"), SEEN)
def test_nothing_seen_depends_on_what_was_not_acquired(
    reconstructor: str, geometry: str, coils: str
) -> None:
    method = Unsure() if reconstructor == "with uncertainty" else reconstructor
    check_no_leak(made(geometry, method), original(coils))


@pytest.mark.parametrize("geometry", ["columns", "tiles", "radial"])
@pytest.mark.parametrize("scanner", [IDEAL, Noisy(0.2, REPEATS)])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_maps_that_are_updated_show_nothing_of_what_was_not_acquired(
    estimator: str, scanner: Scanner, geometry: str
) -> None:
    maps = CoilMaps(ESTIMATORS[estimator], updated=True)
    acquisition = made(geometry, Unsure(), coil_maps=maps, scanner=scanner)
    check_no_leak(acquisition, original("estimated maps"))


@dataclass(frozen=True)
class Watched:
    """A scanner that notes which readout was measured of the object in which pose."""

    inner: Moving
    measured: set[tuple[int, int]] = field(default_factory=set)
    forged: Conditions | None = None
    repeats: int = REPEATS
    averages: bool = False
    is_random: bool = True

    def begin(self, start: Start) -> Conditions:
        return self.forged or self.inner.begin(start)

    def measure(self, conditions: Conditions, requests: Requests) -> Tensor:
        poses = self.inner._pose(conditions, requests).tolist()
        self.measured.update(zip(poses, requests.readout.tolist(), strict=True))
        # The navigator goes along with every measurement.
        self.measured.update((pose, conditions.navigator) for pose in poses)
        return self.inner.measure(conditions, requests)

    def process(
        self, conditions: Conditions, requests: Requests, samples: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self.inner.process(conditions, requests, samples)

    def outlier_score(self, conditions: Conditions, requests: Requests, samples: Tensor) -> Tensor:
        return self.inner.outlier_score(conditions, requests, samples)


def forged(conditions: Conditions, measured: set[tuple[int, int]]) -> Conditions:
    """The same where it was measured; anything for other readouts and poses."""
    generator = torch.Generator().manual_seed(5)
    true = conditions.samples
    samples = 10 * torch.randn(true.shape, dtype=true.dtype, generator=generator)
    for pose, readout in measured:
        samples[:, pose, readout] = true[:, pose, readout]
    return replace(conditions, samples=samples)


@pytest.mark.parametrize("coils", COILS)
@pytest.mark.parametrize(
    ("geometry", "reconstructor"),
    [
        ("columns", "zero-filled"),
        ("columns", "with uncertainty"),
        ("columns", "cresnet"),
        ("points", "zero-filled"),
        ("tiles", "with uncertainty"),
        ("radial", "with uncertainty"),
        ("radial", "unet"),
    ],
)
@pytest.mark.parametrize(
    "scanner", [Noisy(0.2, REPEATS), Spiking(0.5, REPEATS), *Moving.PROCESSING]
)
def test_scans_with_artefacts_show_nothing_of_what_was_not_measured(
    scanner: Scanner | str, geometry: str, reconstructor: str, coils: str
) -> None:
    method = Unsure() if reconstructor == "with uncertainty" else reconstructor
    ideal, one = made(geometry, method), original(coils)
    if not isinstance(scanner, str):
        check_no_leak(replace(ideal, scanner=scanner), one)
        return
    if scanner == "correct" and geometry != "columns":
        pytest.skip("shifts are corrected along parallel readouts")
    watched = Watched(Moving(0.1, REPEATS, n_moves=2, duration=2, processing=scanner))
    acquisition = replace(ideal, scanner=watched)
    for _ in states(acquisition, one, legal_plan(acquisition, one)):
        pass  # the scanner takes notes
    conditions = begin(acquisition, one).secret.conditions
    assert {pose for pose, _ in watched.measured} > {0}  # it moved
    other = replace(watched, forged=forged(conditions, watched.measured))
    check_no_leak(acquisition, one, other_acquisition=replace(ideal, scanner=other))


def test_noise_in_proportion_to_the_whole_scan_is_caught() -> None:
    @dataclass(frozen=True)
    class Loud(Noisy):
        """Leaks: as loud as the largest sample of the scan, acquired or not."""

        def begin(self, start: Start) -> Conditions:
            loudest = start.kspace.abs().double().amax(dim=(1, 2, 3))
            return replace(super().begin(start), level=loudest)

    for geometry in ("columns", "radial"):
        with pytest.raises(Leak):
            check_no_leak(made(geometry, "zero-filled", scanner=Loud(0.2, REPEATS)), original())


def test_a_reconstructor_that_peeks_is_caught() -> None:
    class Peeking(Reconstructor):
        """Leaks: looks at the scan's largest sample, acquired or not."""

        def __init__(self) -> None:
            super().__init__()
            self.settings = {}
            self.largest = torch.ones(())

        def forward(self, measurement: Measurement) -> Reconstruction:
            return Reconstruction(measurement.zero_filled / self.largest)

    class Telling(Scan):
        def start(self, slices: Any, **options: Any) -> State:
            self.reconstructor.largest = slices[0].kspace.abs().amax()
            return super().start(slices, **options)

    plain = made("columns", "zero-filled")
    leaky = Telling(plain.geometry, Peeking(), budget=BUDGET, n_center_lines=4)
    with pytest.raises(Leak, match="reconstruction"):
        check_no_leak(leaky, original())


@pytest.mark.parametrize("secret", ["kspace", "target"])
def test_an_observation_scaled_by_what_is_not_known_is_caught(secret: str) -> None:
    """The scale is the largest value of the fully sampled k-space, or of the target."""

    def watch(state: State) -> dict[str, Tensor]:
        one = state.secret.slices[0]
        full = (one.kspace if secret == "kspace" else one.target).abs().amax()
        frame = Frame(FRAME, (9, 10), 1, FRAME[1])
        seen: Any = OBSERVATIONS["complex"](replace(state.view, scale=full[None]), frame)
        return dict(seen)

    with pytest.raises(Leak, match="image"):
        check_no_leak(made("columns", "zero-filled"), original(), watch=watch)


def choices(acquisition: Scan, policy: Policy, one: Slice) -> list[int]:
    state, taken = acquisition.start([one]), []
    generators = [np.random.default_rng(5)]
    for _ in range(STEPS):
        view = state.view
        if policy.traits.is_oracle:
            view = replace(view, truth=Truth(acquisition, state))
        actions = policy.act(view, generators)
        taken.append(int(actions[0]))
        state = acquisition.acquire(state, actions)
    return taken


def some_order(name: str) -> Order:
    actions = np.random.default_rng(1).permutation(FRAME[1]).tolist()
    return Order(name, tuple(actions), 4, "columns", 1, FRAME, "ssim", "unet", "nothing", 1)


def acquired_by(acquisition: Scan, one: Slice, actions: list[int]) -> Tensor:
    mask = acquisition.start([one]).view.mask
    for action in actions:
        mask = acquisition.geometry.acquire(mask, torch.tensor([action]))
    return mask


@pytest.mark.parametrize("coils", ["one coil", "estimated maps"])
@pytest.mark.parametrize("name", POLICIES)
def test_policies_choose_alike_whatever_was_not_acquired_unless_they_are_oracles(
    name: str, coils: str
) -> None:
    acquisition, one = made("columns", "cresnet"), original(coils)
    policy = make_policy(
        name,
        order=some_order(name) if needs_fit(name) else None,
        evaluator=Evaluator(FRAME[1], channels=2, layers=1),
        reconstructor=acquisition.reconstructor,
    )
    taken = choices(acquisition, policy, one)
    mask = acquired_by(acquisition, one, taken)
    others = [with_other_readouts(acquisition, one, mask, scale=scale) for scale in SCALES]
    same = [choices(acquisition, policy, other) == taken for other in others]
    # Oracles know the target; that they differ shows that the scans do.
    assert not all(same) if policy.traits.is_oracle else all(same)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_factor_model_sees_the_energies_of_acquired_readouts(geometry: str) -> None:
    acquisition = made(geometry, "zero-filled")
    network = FactorNetwork.of(acquisition.geometry, 2)
    torch.nn.init.normal_(network.loadings, generator=torch.Generator().manual_seed(0))

    def watch(state: State) -> dict[str, Tensor]:
        seen = energies(state.view)
        mean, deviation = network.posterior(seen)
        return {**seen, "mean": mean, "deviation": deviation, "scores": network(seen)}

    check_no_leak(acquisition, original("estimated maps"), watch=watch)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_orders_are_chosen_by_the_start_alone(geometry: str) -> None:
    acquisition = made(geometry, "zero-filled")
    network = StartNetwork.of(acquisition.geometry)

    def watch(state: State) -> dict[str, Tensor]:
        seen = start_features(state.view)
        return {"start": seen, "scores": network({"start": seen})}

    check_no_leak(acquisition, original("estimated maps"), watch=watch)


@pytest.mark.parametrize("geometry", ["columns", "tiles", "radial"])
@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_environments_show_the_same_in_reset_step_and_action_mask(kind: str, geometry: str) -> None:
    one = original("estimated maps")
    options: dict[str, Any] = {"geometry": geometry, "n_center_lines": 4, "observation": kind}
    options |= {"budget": 12, "tile": 2} if geometry == "tiles" else {"budget": BUDGET}

    def made_env(data: Slice, **changes: Any) -> ActiveMRIEnv:
        return ActiveMRIEnv(data=SliceList([data]), **(options | changes))

    acquisition = made_env(one).episodes.scan
    plan = legal_plan(acquisition, one)
    mask = acquired_by(acquisition, one, plan)
    other = with_other_readouts(acquisition, one, mask, scale=10.0)
    transform = acquisition.geometry.transform
    forging = Forging(IDEAL, transform.of_grid(one.kspace[None])[0], mask[0])
    target_free = ("action_mask", "n_acquired", "acceleration", "remaining", "scale")

    def tell(env: ActiveMRIEnv) -> Iterator[Any]:
        observation, info = env.reset(seed=0)
        yield observation, [info[key] for key in target_free]
        for action in plan:
            observation, _, _, _, info = env.step(action)
            yield observation, [info[key] for key in target_free]

    theirs = made_env(other, scanner=IDEAL if transform.is_cartesian else forging)
    for (a, info_a), (b, info_b) in zip(tell(made_env(one)), tell(theirs), strict=True):
        pairs = zip(_leaves(a), _leaves(b), strict=True)
        assert all(np.array_equal(x, y) for x, y in pairs)
        assert all(np.array_equal(x, y) for x, y in zip(info_a, info_b, strict=True))


def _leaves(observation: Any) -> list[Any]:
    return list(observation.values()) if isinstance(observation, dict) else [observation]


def test_the_sizes_of_an_observation_come_from_headers_and_not_from_samples() -> None:
    data = SliceList([original()])
    assert Frame.of(data, EnvOptions(data=data).scan(data)) == Frame((11, 13), (9, 10), 1, 13)
