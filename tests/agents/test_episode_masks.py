"""Moments for training are those of episodes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from activemri.agents.episode_masks import EpisodeMasks, record_episodes
from activemri.agents.oracles import oracle
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice, SliceInfo, SliceList
from activemri.envs.protocol import ScanProtocol
from activemri.reconstruction.unet import UNet
from activemri.training.reconstructor import MASK_POLICIES

MakeScan = Callable[..., Slice]

SHAPES = [(9, 13), (8, 10), (9, 13), (9, 13)]


@pytest.fixture(scope="module")
def dataset(make_scan: MakeScan) -> SliceList:
    return SliceList([make_scan(seed, shape) for seed, shape in enumerate(SHAPES)])


def recorded(
    dataset: SliceList, policies: tuple[str, ...] = MASK_POLICIES, **options: Any
) -> EpisodeMasks:
    protocol = ScanProtocol(**{"n_center_lines": 2, "budget": 5, "metrics": (), **options})
    return record_episodes(dataset, protocol.scan(dataset), policies=policies)


@pytest.fixture(scope="module")
def masks(dataset: SliceList) -> EpisodeMasks:
    return recorded(dataset)


@pytest.mark.parametrize("position", [0, 1])
def test_a_mask_has_the_start_and_as_many_more_readouts_as_steps(
    masks: EpisodeMasks, dataset: SliceList, position: int
) -> None:
    info = dataset.describe(position)
    for seed in range(30):
        for step in (0, 3, 5):
            moment = masks(info, np.random.default_rng(seed), step=step)
            assert moment.mask.dtype == torch.bool and moment.mask.shape == (13,)
            assert bool(moment.start[5:7].all())
            assert int(moment.start.sum()) == 2
            assert int(moment.mask.sum()) == 2 + step == 2 + len(moment.log)


def test_moments_are_uniform_over_the_episode(masks: EpisodeMasks, dataset: SliceList) -> None:
    generator = np.random.default_rng(0)
    sizes = [len(masks(dataset.describe(0), generator).log) for _ in range(600)]
    counts = np.bincount(sizes, minlength=6)
    assert len(counts) == 6 and counts.min() > 60 and counts.max() < 140


def test_the_same_generator_gives_the_same_moment(masks: EpisodeMasks, dataset: SliceList) -> None:
    info = dataset.describe(0)
    draws = [masks(info, np.random.default_rng(seed)).log.tolist() for seed in (1, 1, 2, 3, 4)]
    assert draws[0] == draws[1] and draws[0] not in draws[2:]


def test_a_recorded_scan_gets_its_own_episode(dataset: SliceList) -> None:
    masks = recorded(dataset, ("oracle",))
    assert masks.policies == ("random", "variable-density", "oracle")
    scan = ScanProtocol(n_center_lines=2, budget=5).scan(dataset)
    for position in (0, 1, 2):
        episodes = rollout(scan, oracle(), [dataset[position]])
        expected = episodes.actions[0, :3].tolist()
        info = dataset.describe(position)
        drawn = [masks(info, np.random.default_rng(s), step=3).log.tolist() for s in range(20)]
        # A third of the draws is the oracle's, and the chance of a random one to be so is small.
        assert 2 <= drawn.count(expected) <= 14


def test_a_scan_that_was_not_recorded_gets_episodes_of_its_size(
    dataset: SliceList, masks: EpisodeMasks
) -> None:
    stranger = SliceInfo(**{**vars(dataset.describe(1)), "volume": "stranger", "index": 9})
    for seed in range(20):
        mask = masks(stranger, np.random.default_rng(seed), step=4).mask
        assert int(mask.sum()) == 6
        assert not bool(mask[:1].any()) and not bool(mask[11:].any())  # outside of 10 columns


@pytest.mark.parametrize(
    ("options", "per_action"),
    [
        ({"geometry": "points"}, 1),
        ({"geometry": "conjugate-columns"}, 2),
        ({"geometry": "radial"}, 1),
        ({"lines_per_action": 3, "budget": 6}, 3),
    ],
)
def test_episodes_of_every_geometry_acquire_whole_actions(
    dataset: SliceList, options: dict[str, Any], per_action: int
) -> None:
    masks = recorded(dataset, **options)
    geometry = masks.scan.geometry
    for seed in range(30):
        moment = masks(dataset.describe(0), np.random.default_rng(seed))
        assert moment.mask.shape == (geometry.n_readouts,)
        assert len(moment.log) <= masks.budget
        groups, _ = geometry.readouts(torch.arange(geometry.n_actions))
        complete = moment.mask[groups].all(dim=1)
        assert bool(torch.isin(moment.log, groups[complete]).all())


def test_policies_that_score_every_action_are_left_out_of_many(
    make_scan: MakeScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("activemri.agents.episode_masks.MOST_SCORED", 12)
    masks = recorded(SliceList([make_scan(0)]))
    assert "low-frequency-first" in masks.policies
    assert not {"oracle", "exchange-oracle", "lbcs", "average-oracle"} & set(masks.policies)


def test_logs_of_scanners_that_measure_again_hold_every_measurement(dataset: SliceList) -> None:
    masks = recorded(dataset, ("repeat-centre",), scanner="noisy", repeats=3, budget=8)
    logs = [
        masks(dataset.describe(0), np.random.default_rng(seed), step=8).log for seed in range(20)
    ]
    assert all(len(log) == 8 for log in logs)
    assert any(len(log.unique()) < 8 for log in logs)


def test_a_sample_of_scans_is_recorded_by_the_seed(dataset: SliceList) -> None:
    scan = ScanProtocol(n_center_lines=2, budget=2).scan(dataset)

    def volumes(seed: int) -> list[str]:
        masks = record_episodes(dataset, scan, policies=("equispaced",), n_scans=2, seed=seed)
        return sorted(info.volume for info, _ in masks.episodes["equispaced"])

    assert all(len(volumes(seed)) == 2 for seed in range(3))
    assert len({tuple(volumes(seed)) for seed in range(6)}) > 1


def test_no_network_is_asked_however_the_scan_reconstructs(dataset: SliceList) -> None:
    network = UNet(channels=2, pools=1)

    def refuse(*_: object) -> None:
        raise AssertionError("a network was asked")

    network.register_forward_pre_hook(refuse)
    scan = replace(ScanProtocol(n_center_lines=2, budget=2).scan(dataset), reconstructor=network)
    with pytest.raises(AssertionError, match="asked"):
        rollout(scan, oracle(), dataset)
    policies = ("lbcs", "oracle", "exchange-oracle")
    assert set(record_episodes(dataset, scan, policies=policies).episodes) == set(policies)
