"""Coil maps during a scan: from its start, or again whenever lines arrive around the centre."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.data.slices import Slice, SliceList
from activemri.envs.env import ActiveMRIEnv
from activemri.envs.protocol import ScanProtocol
from activemri.envs.scan import Scan, State
from activemri.envs.scanner import IDEAL, Noisy, Scanner
from activemri.mri.geometry import GEOMETRIES
from activemri.mri.sensitivity import ESTIMATORS, CoilMaps, make_coil_maps
from activemri.reconstruction.cg_sense import CGSense
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scans import full_kspace, full_samples, grouped, scan

UPDATED = [f"{name}-updated" for name in ESTIMATORS]
NEAR = (6, 12)  # lines around the centre of 18 that no start has


def protocol(
    maps: str | CoilMaps | None,
    reconstructor: Reconstructor | None = None,
    *,
    geometry: str = "columns",
) -> Scan:
    return Scan(
        grouped(geometry, (16, 18)),
        reconstructor or ZeroFilled(),
        budget=9,
        n_center_lines=4,
        coil_maps=make_coil_maps(maps),
    )


def batch(n: int = 2) -> list[Slice]:
    return [scan(i, n_coils=3) for i in range(n)]


def maps_of(state: State) -> Tensor:
    assert state.view.sensitivity is not None
    return state.view.sensitivity


def acquire(acquisition: Scan, state: State, *actions: int) -> State:
    for action in actions:
        state = acquisition.acquire(state, torch.full((len(state),), action))
    return state


@pytest.mark.parametrize("maps", ESTIMATORS)
def test_maps_of_the_start_stay(maps: str) -> None:
    acquisition = protocol(maps)
    state = acquisition.start(batch())
    first = maps_of(state).clone()
    acquired = full_kspace(state) * state.view.operator.grid_mask.unsqueeze(1)
    expected = ESTIMATORS[maps](acquired, state.view.operator.grid_mask)
    torch.testing.assert_close(first, expected)
    assert torch.equal(maps_of(acquire(acquisition, state, *NEAR)), first)


@pytest.mark.parametrize("maps", UPDATED)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_updated_maps_are_those_of_all_that_was_acquired(maps: str, geometry: str) -> None:
    acquisition = protocol(maps, geometry=geometry)
    state = acquisition.start(batch())
    generator = np.random.default_rng(0)
    for _ in range(4):
        actions = [int(generator.choice(np.flatnonzero(row))) for row in state.view.legal.numpy()]
        state = acquisition.acquire(state, torch.tensor(actions))
        view = state.view
        calibration = view.transform.calibration(view.log.samples, view.mask)
        expected = acquisition.coil_maps.estimate(*calibration)
        torch.testing.assert_close(maps_of(state), expected, atol=1e-4, rtol=1e-4)
        image = view.operator.zero_filled(full_samples(state))
        torch.testing.assert_close(state.view.zero_filled, image, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reconstructor", [ZeroFilled(), CGSense()])
@pytest.mark.parametrize("scanner", [IDEAL, Noisy(0.1, repeats=2)])
def test_a_preview_knows_the_maps_that_would_be(
    reconstructor: Reconstructor, scanner: Scanner
) -> None:
    acquisition = replace(protocol("walsh-updated", reconstructor), scanner=scanner)
    state = acquisition.start(batch(), seeds=torch.tensor([1, 2]))
    actions = torch.tensor([[6, 1, 12], [12, 2, 0]])
    preview = acquisition.preview(state, actions)
    for trial in range(3):
        taken = acquisition.acquire(state.clone(), actions[:, trial])
        torch.testing.assert_close(
            preview["ssim"][:, trial], taken.scores["ssim"], rtol=1e-4, atol=1e-6
        )


def test_maps_that_scans_bring_along_stay() -> None:
    one = scan(0, n_coils=3, maps=True)
    for maps in (None, "known", CoilMaps(updated=True)):
        acquisition = protocol(maps)
        state = acquire(acquisition, acquisition.start([one]), *NEAR)
        assert one.sensitivity is not None
        assert torch.equal(maps_of(state)[0], one.sensitivity)


def test_maps_of_an_estimator_s_name_are_estimated_whatever_scans_bring() -> None:
    one, acquisition = scan(0, n_coils=3, maps=True), protocol("walsh-updated")
    state, other = (
        acquire(acquisition, acquisition.start([given]), *NEAR)
        for given in (one, replace(one, sensitivity=None))
    )
    assert torch.equal(maps_of(state), maps_of(other))


def test_known_maps_are_refused_where_scans_bring_none() -> None:
    with pytest.raises(ValueError, match='"known" needs scans with coil maps'):
        protocol("known").start([scan(0, n_coils=3)])
    assert protocol("known").start([scan(0)]).view.sensitivity is None  # one coil needs none


def test_phantoms_bring_their_maps_as_a_named_ablation_only() -> None:
    protocol = ScanProtocol(data="phantom-multicoil", matrix_size=32, split="val")
    usual, known = (
        replace(protocol, sensitivity=maps).dataset()[0] for maps in ("espirit", "known")
    )
    assert usual.sensitivity is None and known.sensitivity is not None
    assert torch.equal(usual.target, known.target)


@pytest.mark.parametrize("scanner", [IDEAL, Noisy(0.1, repeats=2)])
def test_a_scan_brought_to_a_mask_has_the_maps_of_one_that_came_there(
    scanner: Scanner,
) -> None:
    acquisition = replace(protocol("low-resolution-updated"), scanner=scanner)
    seeds = torch.tensor([3, 4])
    start = acquisition.start(batch(), seeds=seeds)
    first = start.view.mask.clone()
    state = acquire(acquisition, start, *NEAR, 0)
    there = acquisition.resume(
        batch(),
        start_masks=first,
        masks=state.view.mask,
        budgets=state.view.budget,
        seeds=seeds,
        order=state.view.log.order,
    )
    torch.testing.assert_close(maps_of(there), maps_of(state))
    torch.testing.assert_close(there.view.zero_filled, state.view.zero_filled, atol=1e-4, rtol=1e-4)


def test_more_of_the_centre_makes_better_maps() -> None:
    """With maps of all lines a reconstruction of all lines is the target; those of 4 lines miss."""
    env = ActiveMRIEnv(data="phantom-multicoil", split="val", n_center_lines=4, budget=20)
    one = replace(env.episodes.dataset[3], sensitivity=None)
    ends = {}
    for maps in ("low-resolution", "low-resolution-updated"):
        protocol = replace(env.episodes.scan, coil_maps=make_coil_maps(maps))
        state = protocol.start([one])
        width = one.shape[1]
        for step in range(20):
            line = width // 2 + 2 + step // 2 if step % 2 else width // 2 - 3 - step // 2
            state = protocol.acquire(state, torch.tensor([line]))
        ends[maps] = float(state.scores["nmse"][0])
    assert ends["low-resolution-updated"] < ends["low-resolution"]


def test_an_environment_takes_the_maps_by_name_and_saves_them() -> None:
    scans = SliceList(batch())
    env = ActiveMRIEnv(data=scans, n_center_lines=4, budget=6, sensitivity="walsh-updated")
    env.reset(seed=0, options={"index": 0})
    env.step(NEAR[0])
    saved = env.state_dict()
    after = env.step(NEAR[1])[4]["ssim"]
    other = ActiveMRIEnv(data=scans, n_center_lines=4, budget=6, sensitivity="walsh-updated")
    other.reset(seed=5, options={"index": 1})
    other.load_state_dict(saved)
    assert other.step(NEAR[1])[4]["ssim"] == after
    usual = ActiveMRIEnv(data=scans, n_center_lines=4, budget=6)
    usual.reset(seed=0, options={"index": 0})
    usual.step(NEAR[0])
    assert usual.step(NEAR[1])[4]["ssim"] != after


def test_unknown_maps_are_refused_with_all_that_there_are() -> None:
    with pytest.raises(ValueError, match="'sense'; expected known, one of low-resolution, walsh,"):
        ActiveMRIEnv(data=SliceList(batch()), sensitivity="sense")
    maps = CoilMaps()
    assert make_coil_maps(maps) is maps
