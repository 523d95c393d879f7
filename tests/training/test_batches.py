from dataclasses import replace

import numpy as np
import pytest
import torch

from activemri.data.slices import Slice, SliceList
from activemri.mri import fourier
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.training.augmentation import make_augmentation, mirrored
from activemri.training.batches import TrainingBatches, in_memory
from tests.training.scans import discs, measured, random_moments

FLIP = make_augmentation(["flip"])


class CountingReads:
    """A data set that counts how often slices are read."""

    def __init__(self, scans: SliceList) -> None:
        self.scans, self.n_reads = scans, 0
        self.name, self.shape, self.n_coils = scans.name, scans.shape, scans.n_coils
        self.describe = scans.describe

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, index: int) -> Slice:
        self.n_reads += 1
        return self.scans[index]


@pytest.mark.parametrize(("limit", "n_reads"), [(10**6, 1), (100, 3)])
def test_slices_are_read_once_if_all_fit_into_memory_else_on_demand(
    limit: int, n_reads: int
) -> None:
    reads = CountingReads(discs(["a", "b"]))
    scans = in_memory(reads, limit=limit)
    assert reads.n_reads == 0
    for _ in range(3):
        assert scans[2].subject == "b"
    assert reads.n_reads == n_reads


@pytest.mark.parametrize("shape", [(12, 18), (11, 17)])
@pytest.mark.parametrize("axis", [-2, -1])
def test_a_mirrored_scan_measures_the_mirrored_object(shape: tuple[int, int], axis: int) -> None:
    scan = discs(["a"], shape=shape, n_coils=3, maps=True)[0]
    turned = mirrored(scan, axis)
    expected = fourier.ifft2(scan.kspace).flip(axis)
    assert torch.allclose(fourier.ifft2(turned.kspace), expected, atol=1e-5)
    assert torch.equal(turned.target, scan.target.flip(axis))
    assert scan.sensitivity is not None and turned.sensitivity is not None
    assert torch.equal(turned.sensitivity, scan.sensitivity.flip(axis))


@pytest.mark.parametrize("n_columns", [17, 18])
def test_empty_lines_stay_exactly_empty_when_mirrored(n_columns: int) -> None:
    scan = discs(["a"], shape=(12, n_columns))[0]
    kspace = scan.kspace.clone()
    kspace[..., :3] = 0
    padded = replace(scan, kspace=kspace, measured=(kspace != 0).any(dim=0))
    turned = mirrored(padded, -1)
    assert torch.equal((turned.kspace != 0).any(dim=0), turned.measured)
    assert turned.measured.any(dim=0).sum() == n_columns - 3


def test_a_target_that_cannot_be_mirrored_leaves_the_scan_as_it_is() -> None:
    scan = discs(["a"], shape=(12, 18), target_shape=(10, 17))[0]
    assert mirrored(scan, -1) is scan
    assert mirrored(scan, -2) is not scan


def test_augmented_scans_still_lead_to_their_targets() -> None:
    generator = np.random.default_rng(0)
    scans = discs(["a", "b"], shape=(12, 18), target_shape=(8, 14), n_coils=2, maps=True)
    seen = set()
    for index in range(4):
        for _ in range(24):
            scan = make_augmentation(["flip"])(generator)(scans[index])
            everything = torch.ones(18, dtype=torch.bool)
            batch = measured([scan], everything)
            image = batch.magnitude(ZeroFilled())
            assert torch.allclose(image, batch.target, atol=1e-5)
            seen.add(tuple(scan.target.flatten()[:3].tolist()))
    assert len(seen) == 16  # four ways to mirror each of four scans


def test_lines_that_were_never_measured_are_in_no_mask() -> None:
    scan = discs(["a"])[0]
    kspace = scan.kspace.clone()
    kspace[..., :3] = 0
    padded = replace(scan, kspace=kspace, measured=(kspace != 0).any(dim=0))
    batch = measured([padded], torch.ones(18, dtype=torch.bool))
    assert batch.acquired[0].tolist() == [False] * 3 + [True] * 15


def test_maps_are_estimated_from_the_first_lines_of_the_episode_alone() -> None:
    scan = discs(["a"], n_coils=3)[0]
    few, many = torch.zeros(18, dtype=torch.bool), torch.ones(18, dtype=torch.bool)
    few[7:11] = True
    one = measured([scan], few).measurement.operator.sensitivity
    other = measured([scan], many).measurement.operator.sensitivity
    assert one is not None and other is not None
    assert torch.equal(one, other)
    assert torch.allclose(torch.linalg.vector_norm(one, dim=1), torch.tensor(1.0), atol=1e-3)


def test_batches_are_a_function_of_seed_and_step() -> None:
    scans = discs(["a", "b", "c"])
    masks = random_moments()
    one, again, other = (
        TrainingBatches(scans, masks, batch_size=4, seed=seed, augment=FLIP) for seed in (0, 0, 1)
    )
    one[0]
    assert torch.equal(one[7].measurement.kspace, again[7].measurement.kspace)
    assert not torch.equal(one[7].measurement.kspace, one[8].measurement.kspace)
    assert not torch.equal(one[7].measurement.kspace, other[7].measurement.kspace)


def test_a_batch_holds_scans_of_one_kind_and_all_kinds_come_up() -> None:
    parts = [
        discs(["a", "b"]),
        discs(["c"], shape=(11, 17)),
        discs(["d"], target_shape=(8, 14)),
        discs(["e"], n_coils=2),
    ]
    scans = SliceList([s for part in parts for s in part.slices])
    batches = TrainingBatches(scans, random_moments(), batch_size=3, seed=0, augment=FLIP)
    names = [batches[step].names for step in range(40)]
    assert {name.split("[")[0][-1] for batch in names for name in batch} == set("abcde")
    assert {len(batch) for batch in names} == {2, 3}
    assert all(len(set(batch)) == len(batch) for batch in names)


def test_without_augmentation_scans_are_as_they_were_and_masks_are_the_same() -> None:
    scans, masks = (discs(["a", "b"])), random_moments()
    plain, mirrored = (
        TrainingBatches(scans, masks, batch_size=4, seed=0, augment=make_augmentation(names))
        for names in (["none"], ["flip"])
    )
    originals = {f"{scan.volume}[{scan.index}]": scan for scan in discs(["a", "b"]).slices}
    changed = 0
    for step in range(5):
        assert plain[step].names == mirrored[step].names
        assert torch.equal(plain[step].acquired, mirrored[step].acquired)
        for name, target in zip(plain[step].names, plain[step].target, strict=True):
            assert torch.equal(target, originals[name].target)
        changed += not torch.equal(plain[step].target, mirrored[step].target)
    assert changed == 5
