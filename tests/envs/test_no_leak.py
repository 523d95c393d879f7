"""Nothing that is seen depends on what was not acquired.

Two scans agree where they were acquired and differ everywhere else: in the other samples, in the
target, in the range of the volume. Whatever an agent, a reconstructor or a policy is shown must
then be the same to the bit. Leaks on purpose show that the comparison catches them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.order import Order
from activemri.agents.policy import Policy
from activemri.agents.registry import POLICIES, make_policy, needs_fit
from activemri.data.slices import Slice, SliceList
from activemri.envs.observation import OBSERVATIONS, Frame, Image
from activemri.envs.protocol import EnvOptions
from activemri.envs.scan import Scan, State, View
from activemri.envs.scanner import (
    Conditions,
    Moving,
    Noisy,
    Requests,
    Scanner,
    Spiking,
    Start,
)
from activemri.evaluator import Evaluator
from activemri.mri.geometry import GEOMETRIES, make_geometry
from activemri.mri.sensitivity import ESTIMATORS, CoilMaps
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS
from tests.envs.scans import Unsure, random_weights, scan, with_other_unacquired

FRAME = (12, 14)
STEPS = 3
BUDGET = 6
REPEATS = 3
SCALES = (1.0, 1e3, 0.0)  # of what takes the place of unacquired samples
COILS = {"one coil": (1, False), "given maps": (3, True), "estimated maps": (3, False)}


class Leak(AssertionError):
    """Something that is seen depends on what was not acquired."""


def original(coils: str) -> Slice:
    n_coils, maps = COILS[coils]
    # Smaller than the frame and zero-padded: neither may be told from unacquired samples.
    return scan(3, shape=(11, 13), target_shape=(9, 10), n_coils=n_coils, maps=maps, padding=1)


def made(geometry: str, reconstructor: Reconstructor) -> Scan:
    return Scan(make_geometry(geometry, FRAME), reconstructor, budget=BUDGET, n_center_lines=4)


def begin(acquisition: Scan, one: Slice) -> State:
    return acquisition.start([one], seeds=torch.tensor([7]))


def legal_plan(acquisition: Scan, one: Slice) -> list[int]:
    legal = begin(acquisition, one).legal[0].nonzero().flatten().tolist()
    chosen = np.random.default_rng(0).permutation(legal)[:STEPS]
    n_again = 0 if acquisition.scanner is None else 1
    return [int(action) for action in (*chosen, *chosen[:n_again])]


def views(acquisition: Scan, one: Slice, plan: list[int]) -> Iterator[View]:
    state = begin(acquisition, one)
    yield state.view
    for action in plan:
        state = acquisition.acquire(state, torch.tensor([action]))
        yield state.view


def shown(view: View, *, kinds: dict[str, Any]) -> dict[str, Tensor]:
    """All that anybody gets to see of a view."""
    repeats = 1 if view.record is None else REPEATS
    frame = Frame(
        FRAME, (9, 10), view.measurement.kspace.shape[1], view.geometry.n_readouts, repeats
    )
    maps, uncertainty = view.operator.sensitivity, view.reconstruction.uncertainty
    parts = {
        "reconstruction": view.reconstruction.image,
        "zero_filled": view.zero_filled,
        "kspace": view.measurement.kspace,
        "scale": view.scale,
        "legal": view.legal,
        "mask": view.mask,
        "measurable": view.measurable,
        "budget": view.budget,
        "acceleration": view.acceleration,
        "maps": torch.zeros(1) if maps is None else maps,
        "uncertainty": torch.zeros(1) if uncertainty is None else uncertainty,
        "measured": view.log.n_measured,
        "due": view.due,
    }
    if view.record is not None:
        parts |= {"when": view.log.last_measured, "suspicion": view.log.outlier_score}
    for kind, observation in kinds.items():
        seen = observation(view, frame)
        seen = seen if isinstance(seen, dict) else {"": seen}
        parts |= {f"observation {kind} {key}": value for key, value in seen.items()}
    return parts


def check_no_leak(
    acquisition: Scan,
    one: Slice,
    *,
    kinds: dict[str, Any] | None = None,
    other_acquisition: Scan | None = None,
) -> None:
    """Compare a scan, action by action, with others that share what is acquired in the end.

    Raises:
        Leak: with the name of what differs.
    """
    plan = legal_plan(acquisition, one)
    mask = begin(acquisition, one).mask.clone()
    for action in plan:
        mask = acquisition.geometry.acquire(mask, torch.tensor([action]))
    acquired = acquisition.geometry.kspace_mask(mask, one.shape)[0]
    kinds = dict(OBSERVATIONS) if kinds is None else kinds
    for scale in SCALES:
        other = with_other_unacquired(one, acquired, scale=scale)
        assert not torch.equal(other.kspace, one.kspace)
        theirs = views(other_acquisition or acquisition, other, plan)
        pairs = zip(views(acquisition, one, plan), theirs, strict=True)
        for mine, their in pairs:
            a, b = shown(mine, kinds=kinds), shown(their, kinds=kinds)
            for name in a:
                if not torch.equal(a[name], b[name]):
                    raise Leak(name)


@pytest.mark.parametrize("coils", COILS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("reconstructor", [*RECONSTRUCTORS, "with uncertainty"])
def test_nothing_seen_depends_on_what_was_not_acquired(
    reconstructor: str, geometry: str, coils: str
) -> None:
    method = Unsure() if reconstructor == "with uncertainty" else random_weights(reconstructor)
    kinds = dict(OBSERVATIONS)
    if geometry == "points":
        del kinds["lines"]  # refuses points
    check_no_leak(made(geometry, method), original(coils), kinds=kinds)


@pytest.mark.parametrize("scanner", [None, Noisy(0.2, REPEATS)])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_maps_that_are_updated_show_nothing_of_what_was_not_acquired(
    estimator: str, scanner: Scanner | None
) -> None:
    maps = CoilMaps(ESTIMATORS[estimator], updated=True)
    acquisition = replace(made("columns", Unsure()), coil_maps=maps, scanner=scanner)
    check_no_leak(acquisition, original("estimated maps"))


@dataclass(frozen=True)
class Watched:
    """An scanner that notes which line was measured of the object in which pose."""

    inner: Moving
    asked: set[tuple[int, int]]
    forged: Conditions | None = None
    repeats: int = REPEATS
    averages: bool = False

    def conditions(self, start: Start) -> Conditions:
        return self.forged or self.inner.conditions(start)

    def measure(self, conditions: Conditions, asked: Requests) -> Tensor:
        poses = self.inner._pose(conditions, asked).tolist()
        # The navigator measures the central line along with every other.
        center = conditions.samples.shape[2] // 2
        self.asked.update(zip(poses, asked.line.tolist(), strict=True))
        self.asked.update((pose, center) for pose in poses)
        return self.inner.measure(conditions, asked)

    def suspicion(self, conditions: Conditions, asked: Requests, samples: Tensor) -> Tensor:
        return self.inner.suspicion(conditions, asked, samples)


def forged(conditions: Conditions, asked: set[tuple[int, int]]) -> Conditions:
    """The same where it was measured; anything for other lines and poses."""
    generator = torch.Generator().manual_seed(5)
    shape = conditions.samples.shape
    lines = 10 * torch.randn(shape, dtype=conditions.samples.dtype, generator=generator)
    for pose, line in asked:
        lines[:, pose, line] = conditions.samples[:, pose, line]
    return replace(conditions, lines=lines)


@pytest.mark.parametrize("coils", COILS)
@pytest.mark.parametrize("reconstructor", ["zero-filled", "with uncertainty", "cresnet"])
@pytest.mark.parametrize("scanner", [Noisy(0.2, REPEATS), Spiking(0.5, REPEATS), "motion"])
def test_imperfect_scans_show_nothing_of_what_was_not_measured(
    scanner: Scanner | str, reconstructor: str, coils: str
) -> None:
    method = Unsure() if reconstructor == "with uncertainty" else random_weights(reconstructor)
    ideal, one = made("columns", method), original(coils)
    if not isinstance(scanner, str):
        check_no_leak(replace(ideal, scanner=scanner), one)
        return
    watched = Watched(Moving(0.1, REPEATS, n_moves=2, duration=2), set())
    acquisition = replace(ideal, scanner=watched)
    *_, last = views(acquisition, one, legal_plan(acquisition, one))
    course = begin(acquisition, one).course
    assert last.record is not None and course is not None
    assert {pose for pose, _ in watched.asked} > {0}  # it moved
    other = replace(watched, forged=forged(secret.conditions, watched.asked))
    check_no_leak(acquisition, one, other_acquisition=replace(ideal, scanner=other))


def test_noise_in_proportion_to_the_whole_scan_is_caught() -> None:
    @dataclass(frozen=True)
    class Loud(Noisy):
        """Leaks: as loud as the largest sample of the scan, acquired or not."""

        def conditions(self, start: Start) -> Conditions:
            loudest = start.kspace.abs().double().amax(dim=(1, 2, 3))
            return replace(super().conditions(start), level=loudest)

    loud = replace(made("columns", random_weights("zero-filled")), scanner=Loud(0.2, REPEATS))
    with pytest.raises(Leak):
        check_no_leak(loud, original("one coil"))


class Peeking(Reconstructor):
    """Leaks: looks at the measurement's largest sample, acquired or not."""

    def __init__(self, secret: Slice) -> None:
        super().__init__()
        self.secret = secret
        self.settings = {}

    def forward(self, measurement: Measurement) -> Reconstruction:
        gain = self.secret.kspace.abs().amax()
        return Reconstruction(measurement.zero_filled / gain)


def test_a_reconstructor_that_peeks_is_caught() -> None:
    one = original("one coil")

    class Protocol(Scan):
        def start(self, slices: Any, **options: Any) -> Any:
            return replace(self, reconstructor=Peeking(slices[0]))._honest(slices, **options)

        def _honest(self, slices: Any, **options: Any) -> Any:
            return Scan.start(self, slices, **options)

    plain = made("columns", Peeking(one))
    leaky = Protocol(plain.geometry, Peeking(one), budget=BUDGET, n_center_lines=4)
    with pytest.raises(Leak, match="reconstruction"):
        check_no_leak(leaky, one)


def test_an_observation_scaled_by_the_full_scan_is_caught() -> None:
    class Normalised(Image):
        """Leaks: white is the largest value of the fully sampled k-space."""

        def __call__(self, view: View, frame: Frame) -> dict[str, Tensor]:
            full = view._scan.abs().amax(dim=(1, 2, 3))
            return super().__call__(replace(view, scale=full), frame)

    with pytest.raises(Leak, match="observation leaky image"):
        check_no_leak(
            made("columns", random_weights("zero-filled")),
            original("one coil"),
            kinds={"leaky": Normalised()},
        )


def choices(acquisition: Scan, policy: Policy, one: Slice) -> list[int]:
    state, taken = acquisition.start([one]), []
    generators = [np.random.default_rng(5)]
    for _ in range(STEPS):
        actions = policy.act(
            acquisition.view(state, for_oracle=policy.traits.is_oracle), generators
        )
        taken.append(int(actions[0]))
        state = acquisition.acquire(state, actions)
    return taken


def some_order(name: str) -> Order:
    actions = np.random.default_rng(1).permutation(FRAME[1]).tolist()
    return Order(name, tuple(actions), 4, "columns", 1, FRAME, "ssim", "unet", "nothing", 1)


def acquired_by(acquisition: Scan, one: Slice, actions: list[int]) -> Tensor:
    mask = acquisition.start([one]).view.mask.clone()
    for action in actions:
        mask = acquisition.geometry.acquire(mask, torch.tensor([action]))
    return acquisition.geometry.kspace_mask(mask, one.shape)[0]


@pytest.mark.parametrize("coils", COILS)
@pytest.mark.parametrize("name", POLICIES)
def test_policies_choose_alike_whatever_was_not_acquired_unless_they_are_oracles(
    name: str, coils: str
) -> None:
    acquisition, one = made("columns", random_weights("cresnet")), original(coils)
    policy = make_policy(
        name,
        order=some_order(name) if needs_fit(name) else None,
        evaluator=Evaluator(FRAME[1], channels=2, layers=1),
        reconstructor=acquisition.reconstructor,
    )
    taken = choices(acquisition, policy, one)
    acquired = acquired_by(acquisition, one, taken)
    others = [with_other_unacquired(one, acquired, scale=scale) for scale in SCALES]
    same = [choices(acquisition, policy, other) == taken for other in others]
    # Oracles know the target; that they differ shows that the scans do.
    assert not all(same) if policy.traits.is_oracle else all(same)


def test_policies_that_are_no_oracles_get_no_truth() -> None:
    acquisition = made("columns", random_weights("zero-filled"))
    state = acquisition.start([original("one coil")])
    assert state.view.truth is None
    assert acquisition.view(state, for_oracle=True).truth is not None


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_environments_show_the_same_in_reset_step_and_action_mask(kind: str) -> None:
    from activemri.envs.env import ActiveMRIEnv

    one = original("estimated maps")
    acquisition = made("columns", random_weights("zero-filled"))
    plan = legal_plan(acquisition, one)
    other = with_other_unacquired(one, acquired_by(acquisition, one, plan), scale=10.0)
    target_free = ("action_mask", "n_acquired", "acceleration", "remaining", "scale")

    def tell(data: Slice) -> Iterator[Any]:
        env = ActiveMRIEnv(
            data=SliceList([data]), budget=BUDGET, n_center_lines=4, observation=kind
        )
        observation, info = env.reset(seed=0)
        yield observation, [info[key] for key in target_free]
        for action in legal_plan(_protocol_of(env), data):
            observation, _, _, _, info = env.step(action)
            yield observation, [info[key] for key in target_free]

    for (a, info_a), (b, info_b) in zip(tell(one), tell(other), strict=True):
        pairs = zip(_leaves(a), _leaves(b), strict=True)
        assert all(np.array_equal(x, y) for x, y in pairs)
        assert all(np.array_equal(x, y) for x, y in zip(info_a, info_b, strict=True))


def _protocol_of(env: Any) -> Scan:
    protocol: Scan = env.episodes.scan
    return protocol


def _leaves(observation: Any) -> list[Any]:
    return list(observation.values()) if isinstance(observation, dict) else [observation]


def test_the_sizes_of_an_observation_come_from_headers_and_not_from_samples() -> None:
    data = SliceList([original("one coil")])
    assert Frame.of(data, EnvOptions(data=data).scan(data)) == Frame((11, 13), (9, 10), 1, 13)
