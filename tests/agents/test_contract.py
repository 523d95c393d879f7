"""What every registered policy promises, in every geometry."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from activemri.agents.order import fit_order
from activemri.agents.policy import Policy
from activemri.agents.registry import POLICIES, make_policy, needs_fit, traits_of
from activemri.agents.rollout import Episodes, rollout
from activemri.data.slices import Slice
from activemri.envs.scan import Scan
from activemri.envs.scanner import IDEAL, Scanner, Spiking
from activemri.evaluator import Evaluator
from activemri.mri.geometry import GEOMETRIES, Geometry

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Scan]

# Examples change with the fixtures only, which hold functions.
QUICK = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def ready(name: str, acquisition: Scan, scans: list[Slice]) -> Policy:
    """The policy; a learned one is fitted to the scans."""
    n_lines = max(3, acquisition.geometry.readouts_per_action)  # one action at least
    order = fit_order(name, acquisition, scans, n_lines=n_lines) if needs_fit(name) else None
    return make_policy(
        name,
        order=order,
        evaluator=some_evaluator(),
        reconstructor=acquisition.reconstructor,
    )


def asks_networks(name: str) -> bool:
    """More than a zero-filled image is looked at."""
    return bool(traits_of(name).needs)


def is_refused(name: str, geometry: Geometry) -> bool:
    """The policy needs lines, or a grid, and there are none."""
    needs, on_grid = traits_of(name).needs, geometry.transform.is_cartesian
    return ("lines" in needs and not geometry.has_lines) or ("grid" in needs and not on_grid)


#: Policies of ideal scans; the others are tested where scanners object (test_repeats.py).
OF_IDEAL_SCANS = [name for name in POLICIES if "outlier-scores" not in traits_of(name).needs]


@cache
def some_evaluator() -> Evaluator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Evaluator(16, channels=2, layers=1, line_channels=3)


def assert_equal(a: Episodes, b: Episodes) -> None:
    assert torch.equal(a.actions, b.actions)
    assert torch.equal(a.n_acquired, b.n_acquired)
    assert torch.equal(a.start_mask, b.start_mask)
    for name in a.scores:
        torch.testing.assert_close(a.scores[name], b.scores[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", OF_IDEAL_SCANS)
@given(
    geometry=st.sampled_from(sorted(GEOMETRIES)),
    frame=st.tuples(st.integers(7, 10), st.integers(7, 12)),
    smaller=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    lines_per_action=st.integers(1, 3),
    budget=st.integers(1, 5),
    start=st.integers(0, 2**32 - 1),
)
@QUICK
def test_episodes_are_legal_in_all_geometries_and_from_all_start_masks(
    make_scan: MakeScan,
    make_protocol: MakeProtocol,
    name: str,
    geometry: str,
    frame: tuple[int, int],
    smaller: tuple[int, int],
    lines_per_action: int,
    budget: int,
    start: int,
) -> None:
    """Acquiring raises on anything illegal; what is left to check is the end."""
    protocol = make_protocol(
        geometry,
        frame,
        lines_per_action=lines_per_action,
        budget=budget,
        n_center_lines=0,
        unsure=asks_networks(name),
    )
    size = (max(7, frame[0] - smaller[0]), max(7, frame[1] - smaller[1]))
    scans = [make_scan(seed, size) for seed in (1, 2)]
    transform = protocol.geometry.transform.fitted(size)
    exists = transform.measurable(torch.stack([scan.measured for scan in scans]))
    drawn = np.random.default_rng(start).random(exists.shape) < 0.4
    masks = torch.from_numpy(drawn) & exists
    masks[:, masks.shape[1] // 2 - 1] = False  # something is left to acquire
    if geometry in ("points", "tiles"):  # most are acquired, so that oracles have less to try
        masks |= exists & (transform.coordinates.norm(dim=1) > 0.7)
        masks[:, masks.shape[1] // 2 - 1] = False
    if is_refused(name, protocol.geometry):
        with pytest.raises(ValueError, match=f"geometry '{geometry}' has none"):
            rollout(protocol, ready(name, protocol, scans), scans, start_masks=masks)
        return
    policy = ready(name, replace(protocol, n_center_lines=2), scans)
    left = (exists & ~masks).sum(dim=1).clamp(max=budget)
    assume(bool(protocol.geometry.legal(masks, exists, left).any(dim=1).all()))
    episodes = rollout(protocol, policy, scans, start_masks=masks)
    spent = episodes.n_acquired[:, -1] - episodes.n_acquired[:, 0]
    assert bool(((spent > 0) & (spent <= left)).all())
    if lines_per_action == 1 and geometry != "conjugate-columns":  # one readout an action
        assert torch.equal(spent, left)


@pytest.mark.parametrize("name", OF_IDEAL_SCANS)
def test_a_batch_equals_its_scans_one_by_one(
    make_scan: MakeScan, make_protocol: MakeProtocol, name: str
) -> None:
    protocol = make_protocol(n_random_lines=2, unsure=asks_networks(name))
    scans = [make_scan(seed) for seed in range(3)]
    policy = ready(name, protocol, scans)
    together = rollout(protocol, policy, scans, seed=4)
    for row, scan in enumerate(scans):
        alone = rollout(protocol, policy, [scan], seed=4)
        assert torch.equal(alone.actions[0], together.actions[row])
        torch.testing.assert_close(alone.scores["ssim"][0], together.scores["ssim"][row])


@pytest.mark.parametrize("name", OF_IDEAL_SCANS)
def test_nothing_is_carried_over_from_one_episode_to_the_next(
    make_scan: MakeScan, make_protocol: MakeProtocol, name: str
) -> None:
    protocol = make_protocol(unsure=asks_networks(name))
    scans = [make_scan(seed) for seed in range(2)]
    policy = ready(name, protocol, scans)
    first = rollout(protocol, policy, scans, seed=1)
    rollout(
        make_protocol(n_center_lines=4, budget=2, unsure=asks_networks(name)),
        policy,
        [make_scan(7)],
        seed=2,
    )
    assert_equal(rollout(protocol, policy, scans, seed=1), first)
    assert_equal(rollout(protocol, ready(name, protocol, scans), scans, seed=1), first)


@pytest.mark.parametrize("name", OF_IDEAL_SCANS)
def test_only_random_policies_depend_on_the_seed(
    make_scan: MakeScan, make_protocol: MakeProtocol, name: str
) -> None:
    protocol, scans = make_protocol(unsure=asks_networks(name)), [make_scan(0), make_scan(1)]
    policy = ready(name, protocol, scans)
    actions = [rollout(protocol, policy, scans, seed=seed).actions for seed in range(4)]
    assert policy.traits.is_random == any(not torch.equal(actions[0], other) for other in actions)


@pytest.mark.parametrize("name", [name for name in OF_IDEAL_SCANS if not asks_networks(name)])
def test_without_networks_only_oracles_look_at_the_scan(
    make_scan: MakeScan, make_protocol: MakeProtocol, name: str
) -> None:
    protocol, scans = make_protocol(), [make_scan(0), make_scan(1)]
    policy = ready(name, protocol, scans)
    assert policy.name == name

    def actions(policy: Policy, hidden: int) -> list[list[int]]:
        """With the content of another scan under the name of this one."""
        under_names = [
            replace(scan, kspace=make_scan(hidden + i).kspace, target=make_scan(hidden + i).target)
            for i, scan in enumerate(scans)
        ]
        return rollout(protocol, policy, under_names).actions.tolist()

    differs = any(actions(policy, 0) != actions(policy, hidden) for hidden in (10, 20, 30))
    assert differs == policy.traits.is_oracle


@pytest.mark.parametrize("name", [name for name in OF_IDEAL_SCANS if not asks_networks(name)])
@pytest.mark.parametrize("scanner", [IDEAL, Spiking(0.3, 2)])
def test_an_order_and_nothing_else_is_the_same_for_all_scans(
    make_scan: MakeScan, make_protocol: MakeProtocol, name: str, scanner: Scanner
) -> None:
    protocol = replace(make_protocol(budget=7), scanner=scanner)
    scans = [make_scan(seed) for seed in range(3)]
    policy = ready(name, protocol, scans)
    if not needs_fit(name):  # what an order repeats is known once it is learned
        assert policy.traits == traits_of(name)
    actions = rollout(protocol, policy, scans).actions
    same = bool((actions == actions[0]).all())
    assert same == policy.traits.is_order


@pytest.mark.parametrize("name", OF_IDEAL_SCANS)
def test_zero_padding_is_never_acquired(
    make_scan: MakeScan, make_protocol: MakeProtocol, name: str
) -> None:
    protocol = make_protocol(budget=None, unsure=asks_networks(name))
    kspace = make_scan(0).kspace.clone()
    kspace[..., :2] = kspace[..., -3:] = 0
    scan = replace(make_scan(0), kspace=kspace, measured=None)  # type: ignore[arg-type]
    episodes = rollout(protocol, ready(name, protocol, [scan]), [scan])
    # All lines that exist were acquired, and nothing else was taken.
    started = episodes.start_mask[0].nonzero().flatten().tolist()
    assert sorted(started + episodes.actions[0].tolist()) == list(range(2, 10))


@pytest.mark.parametrize("name", OF_IDEAL_SCANS)
def test_scans_with_several_coils_can_be_acquired(
    make_scan: MakeScan, make_protocol: MakeProtocol, name: str
) -> None:
    scans = [make_scan(seed, n_coils=3) for seed in range(2)]
    protocol = make_protocol(unsure=asks_networks(name))
    episodes = rollout(protocol, ready(name, protocol, scans), scans)
    assert episodes.n_steps.tolist() == [5, 5]
