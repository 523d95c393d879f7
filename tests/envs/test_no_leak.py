"""Nothing that is seen depends on what was not acquired.

Two scans agree where they were acquired and differ everywhere else: in the other samples, in the
target, in the range of the volume. Whatever an agent, a reconstructor or a policy is shown must
then be the same to the bit. Leaks on purpose show that the comparison catches them.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.agents.order import Order
from activemri.agents.policy import Policy
from activemri.agents.registry import POLICIES, make_policy, needs_fit
from activemri.data.slices import Slice, SliceList
from activemri.envs.acquisition import Acquisition, View
from activemri.envs.observation import OBSERVATIONS, Frame, Image
from activemri.envs.task import Task
from activemri.evaluator import Evaluator
from activemri.mri.geometry import GEOMETRIES, CartesianGeometry, make_geometry
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor
from activemri.reconstruction.registry import RECONSTRUCTORS
from tests.envs.scans import Unsure, random_weights, scan, with_other_unacquired

FRAME = (12, 14)
STEPS = 3
BUDGET = 6
SCALES = (1.0, 1e3, 0.0)  # of what takes the place of unacquired samples
COILS = {"one coil": (1, False), "given maps": (3, True), "estimated maps": (3, False)}


class Leak(AssertionError):
    """Something that is seen depends on what was not acquired."""


def original(coils: str) -> Slice:
    n_coils, maps = COILS[coils]
    # Smaller than the frame and zero-padded: neither may be told from unacquired samples.
    return scan(3, shape=(11, 13), target_shape=(9, 10), n_coils=n_coils, maps=maps, padding=1)


def made(geometry: str, reconstructor: Reconstructor) -> Acquisition:
    return Acquisition(
        make_geometry(geometry, FRAME), reconstructor, budget=BUDGET, n_center_lines=4
    )


def legal_plan(acquisition: Acquisition, one: Slice) -> list[int]:
    legal = acquisition.start([one]).legal[0].nonzero().flatten().tolist()
    chosen = np.random.default_rng(0).permutation(legal)[:STEPS]
    return [int(action) for action in chosen]


def views(acquisition: Acquisition, one: Slice, plan: list[int]) -> Iterator[View]:
    state = acquisition.start([one])
    yield acquisition.view(state)
    for action in plan:
        state = acquisition.acquire(state, torch.tensor([action]))
        yield acquisition.view(state)


def shown(view: View, *, kinds: dict[str, Any]) -> dict[str, Tensor]:
    """All that anybody gets to see of a view."""
    frame = Frame(FRAME, (9, 10), view.kspace.shape[1], view.geometry.n_lines)
    maps, uncertainty = view.operator.sensitivity, view.reconstruction.uncertainty
    parts = {
        "reconstruction": view.reconstruction.image,
        "zero_filled": view.zero_filled,
        "kspace": view.kspace,
        "scale": view.scale,
        "legal": view.legal,
        "mask": view.mask,
        "measurable": view.measurable,
        "budget": view.budget,
        "acceleration": view.acceleration,
        "maps": torch.zeros(1) if maps is None else maps,
        "uncertainty": torch.zeros(1) if uncertainty is None else uncertainty,
    }
    for kind, observation in kinds.items():
        seen = observation(view, frame)
        seen = seen if isinstance(seen, dict) else {"": seen}
        parts |= {f"observation {kind} {key}": value for key, value in seen.items()}
    return parts


def check_no_leak(
    acquisition: Acquisition, one: Slice, *, kinds: dict[str, Any] | None = None
) -> None:
    """Compare a scan, action by action, with others that share what is acquired in the end.

    Raises:
        Leak: with the name of what differs.
    """
    plan = legal_plan(acquisition, one)
    mask = acquisition.start([one]).mask.clone()
    for action in plan:
        mask = acquisition.geometry.acquire(mask, torch.tensor([action]))
    acquired = acquisition.geometry.kspace_mask(mask, one.shape)[0]
    kinds = dict(OBSERVATIONS) if kinds is None else kinds
    for scale in SCALES:
        other = with_other_unacquired(one, acquired, scale=scale)
        assert not torch.equal(other.kspace, one.kspace)
        pairs = zip(views(acquisition, one, plan), views(acquisition, other, plan), strict=True)
        for ours, theirs in pairs:
            a, b = shown(ours, kinds=kinds), shown(theirs, kinds=kinds)
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
    check_no_leak(made(geometry, method), original(coils))


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

    class Protocol(Acquisition):
        def start(self, slices: Any, **options: Any) -> Any:
            return replace(self, reconstructor=Peeking(slices[0]))._honest(slices, **options)

        def _honest(self, slices: Any, **options: Any) -> Any:
            return Acquisition.start(self, slices, **options)

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


def choices(acquisition: Acquisition, policy: Policy, one: Slice) -> list[int]:
    state, taken = acquisition.start([one]), []
    generators = [np.random.default_rng(5)]
    for _ in range(STEPS):
        actions = policy.act(acquisition.view(state, for_oracle=policy.is_oracle), generators)
        taken.append(int(actions[0]))
        state = acquisition.acquire(state, actions)
    return taken


def some_order(name: str) -> Order:
    actions = np.random.default_rng(1).permutation(FRAME[1]).tolist()
    return Order(name, tuple(actions), 4, "columns", 1, FRAME, "ssim", "unet", "nothing", 1)


def acquired_by(acquisition: Acquisition, one: Slice, actions: list[int]) -> Tensor:
    mask = acquisition.start([one]).mask.clone()
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
    assert not all(same) if policy.is_oracle else all(same)


def test_policies_that_are_no_oracles_get_no_truth() -> None:
    acquisition = made("columns", random_weights("zero-filled"))
    state = acquisition.start([original("one coil")])
    assert acquisition.view(state).truth is None
    assert acquisition.view(state, for_oracle=True).truth is not None


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_environments_show_the_same_in_reset_step_and_action_mask(kind: str) -> None:
    from activemri.envs.env import ActiveMRIEnv

    one = original("estimated maps")
    acquisition = made("columns", random_weights("zero-filled"))
    plan = legal_plan(acquisition, one)
    other = with_other_unacquired(one, acquired_by(acquisition, one, plan), scale=10.0)
    target_free = ("action_mask", "n_acquired", "acceleration", "budget", "scale")

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


def _protocol_of(env: Any) -> Acquisition:
    protocol: Acquisition = env.episodes.acquisition
    return protocol


def _leaves(observation: Any) -> list[Any]:
    return list(observation.values()) if isinstance(observation, dict) else [observation]


def test_the_sizes_of_an_observation_come_from_headers_and_not_from_samples() -> None:
    data = SliceList([original("one coil")])
    geometry: CartesianGeometry = make_geometry("columns", data.shape)
    _, frame = Task(data=data).seen_by(data, geometry)
    assert frame == Frame((11, 13), (9, 10), 1, 13)
