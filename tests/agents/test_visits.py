"""Masks for training are those that episodes visit."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch

from activemri.agents.greedy import Greedy, oracle
from activemri.agents.heuristic import low_frequency_first
from activemri.agents.policy import Policy
from activemri.agents.registry import POLICIES, Ingredients
from activemri.agents.rollout import rollout
from activemri.agents.visits import VisitedMasks, visit_masks
from activemri.data.phantoms import PhantomDataset
from activemri.data.slices import Slice, SliceInfo, SliceList
from activemri.envs.acquisition import Acquisition
from activemri.training.masks import MASK_POLICIES, MaskSource

MakeScan = Callable[..., Slice]
MakeProtocol = Callable[..., Acquisition]

SHAPES = [(9, 13), (8, 10), (9, 13), (9, 13)]


@pytest.fixture(scope="module")
def dataset(make_scan: MakeScan) -> SliceList:
    return SliceList([make_scan(seed, shape) for seed, shape in enumerate(SHAPES)])


@pytest.fixture(scope="module")
def masks(dataset: SliceList) -> VisitedMasks:
    return visit_masks(dataset, n_center_lines=2, budget=5, policies=MASK_POLICIES)


def test_it_can_be_given_to_the_trainer(masks: VisitedMasks) -> None:
    source: MaskSource = masks
    assert (source.n_center_lines, source.budget) == (2, 5)


def digest(dataset: SliceList, masks: VisitedMasks) -> str:
    """Digest of many masks."""
    drawn = [
        masks(dataset.describe(seed % len(dataset)), np.random.default_rng(seed)).numpy()
        for seed in range(200)
    ]
    return hashlib.sha256(np.packbits(np.concatenate(drawn)).tobytes()).hexdigest()[:16]


def test_masks_for_training_are_those_of_version_0() -> None:
    phantoms = PhantomDataset(split="train", matrix_size=(32, 32), n_subjects=2)
    dataset = SliceList([phantoms[i] for i in range(4)])
    masks = visit_masks(dataset, n_center_lines=4, budget=6, policies=MASK_POLICIES)
    assert digest(dataset, masks) == "5a5d5c81995aadfd"


def test_registering_policies_changes_no_mask(
    dataset: SliceList, masks: VisitedMasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an order nor one that adapts joins those that reconstructors are trained on."""

    def adaptive(given: Ingredients) -> Policy:
        return Greedy("adaptive", lambda view: view.zero_filled.abs().sum(dim=1))

    monkeypatch.setitem(POLICIES, "order", lambda given: low_frequency_first())
    monkeypatch.setitem(POLICIES, "adaptive", adaptive)
    again = visit_masks(dataset, n_center_lines=2, budget=5, policies=MASK_POLICIES)
    assert again.policies == masks.policies == MASK_POLICIES
    assert digest(dataset, again) == digest(dataset, masks)


@pytest.mark.parametrize("position", [0, 1])
def test_a_mask_has_the_start_lines_and_as_many_more_as_steps(
    masks: VisitedMasks, dataset: SliceList, position: int
) -> None:
    info = dataset.describe(position)
    centre = info.shape[1] // 2
    for seed in range(30):
        for step in (0, 3, 5):
            mask = masks(info, np.random.default_rng(seed), step=step)
            assert mask.dtype == torch.bool and mask.shape == (info.shape[1],)
            assert bool(mask[centre - 1 : centre + 1].all())
            assert int(mask.sum()) == 2 + step


def test_moments_are_uniform_over_the_episode(masks: VisitedMasks, dataset: SliceList) -> None:
    generator = np.random.default_rng(0)
    sizes = [int(masks(dataset.describe(0), generator).sum()) - 2 for _ in range(600)]
    counts = np.bincount(sizes, minlength=6)
    assert len(counts) == 6 and counts.min() > 60 and counts.max() < 140


def test_the_same_generator_gives_the_same_mask(masks: VisitedMasks, dataset: SliceList) -> None:
    info = dataset.describe(0)
    draws = [masks(info, np.random.default_rng(seed)).tolist() for seed in (1, 1, 2, 3, 4)]
    assert draws[0] == draws[1] and draws[0] not in draws[2:]


def test_a_recorded_scan_gets_its_own_masks(
    dataset: SliceList, make_protocol: MakeProtocol
) -> None:
    masks = visit_masks(dataset, n_center_lines=2, budget=5, policies=("oracle",))
    assert masks.policies == ("random", "variable-density", "oracle")
    protocol = make_protocol()
    for position in (0, 1, 2):
        scan, info = dataset[position], dataset.describe(position)
        episodes = rollout(protocol, oracle(), [scan])
        visited = episodes.start_mask.clone()
        visited[0, episodes.actions[0, :3]] = True
        expected = protocol.geometry.kspace_mask(visited, scan.shape).flatten().tolist()
        drawn = [masks(info, np.random.default_rng(s), step=3).tolist() for s in range(20)]
        # A third of the draws is the oracle's, and the chance of a random one to be so is small.
        assert 2 <= drawn.count(expected) <= 14


def test_a_scan_that_was_not_recorded_gets_those_of_its_size(
    dataset: SliceList, masks: VisitedMasks
) -> None:
    stranger = SliceInfo(**{**vars(dataset.describe(1)), "volume": "stranger", "index": 9})
    for seed in range(20):
        assert int(masks(stranger, np.random.default_rng(seed), step=4).sum()) == 6


@pytest.mark.parametrize("width", [6, 11, 20])
def test_other_sizes_are_aligned_at_the_centre(masks: VisitedMasks, width: int) -> None:
    info = SliceInfo("other", 0, "other", "T1", (9, width), (9, width), 1)
    for seed in range(20):
        mask = masks(info, np.random.default_rng(seed), step=2)
        assert mask.shape == (width,)
        assert bool(mask[width // 2 - 1 : width // 2 + 1].all())


def test_a_sample_of_scans_is_recorded_by_the_seed(dataset: SliceList) -> None:
    def recorded(seed: int) -> list[str]:
        masks = visit_masks(
            dataset, n_center_lines=2, budget=2, policies=("equispaced",), n_scans=2, seed=seed
        )
        return sorted(visit.scan.volume for visit in masks._visits["equispaced"])

    assert all(len(recorded(seed)) == 2 for seed in range(3))
    assert len({tuple(recorded(seed)) for seed in range(6)}) > 1
