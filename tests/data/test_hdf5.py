"""The generic HDF5 layout: images, k-space, radial scans."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from activemri.data.formats.hdf5 import HDF5Reader
from activemri.data.formats.registry import all_readers
from activemri.data.images import NOISE, with_synthetic_phase
from activemri.data.index import index_path
from activemri.data.standard import with_target
from activemri.data.volumes import survey
from activemri.mri import fourier
from tests.data.files import (
    edit,
    random_kspace,
    read,
    refused,
    rss,
    to_image,
    write_image,
    write_kspace,
)
from tests.data.radial_scans import GOLDEN, cartesian, spectrum, spokes, write_radial


def asymmetry(kspace: torch.Tensor) -> float:
    """Share of the energy that conjugate symmetry around the centre does not explain.

    0 for a real image, 1/2 for one without any symmetry.
    """
    height, width = kspace.shape[-2:]
    rows = (-torch.arange(height) + 2 * (height // 2)) % height
    columns = (-torch.arange(width) + 2 * (width // 2)) % width
    mirrored = kspace[..., rows, :][..., columns].conj()
    return float((kspace - mirrored).abs().square().sum() / 4 / kspace.abs().square().sum())


def test_labels_come_from_attributes(tmp_path: Path) -> None:
    write_kspace(
        tmp_path / "a.h5",
        subject_id="s1",
        split="ood",
        contrast="T2-weighted (turbo spin echo), axial",
        field_strength="3T (per the papers of the authors)",
        scanner="Siemens Trio",
    )
    volume, _ = read(tmp_path / "a.h5")
    assert (volume.subject, volume.split, volume.contrast) == ("s1", "ood", "T2")
    assert (volume.field_strength, volume.scanner) == (3, "Siemens Trio")


def test_labels_have_defaults(tmp_path: Path) -> None:
    write_kspace(tmp_path / "a.h5")
    volume, _ = read(tmp_path / "a.h5")
    assert (volume.subject, volume.split, volume.contrast) == ("a", None, "unknown")
    assert (volume.field_strength, volume.scanner) == (None, "unknown")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("FLAIR, axial 2D multi-slice", "FLAIR"),
        ("T1-weighted MPRAGE, sagittal, 3T Siemens", "T1"),
        ("T2*-weighted", "T2*"),
        ("proton-density-weighted, axial", "PD"),
        ("single channel, contrast not stated (T1- or PD-weighted look)", "unknown"),
        ("diffusion, b = 1000", "diffusion"),
    ],
)
def test_contrasts_get_short_names(tmp_path: Path, text: str, name: str) -> None:
    write_kspace(tmp_path / "a.h5", contrast=text)
    assert read(tmp_path / "a.h5")[0].contrast == name


def test_field_strengths_may_be_numbers_or_text(tmp_path: Path) -> None:
    for stored, tesla in [(1.5, 1.5), ("1.494 T", 1.494), ("low", None)]:
        write_kspace(tmp_path / "a.h5", field_strength=stored)
        assert read(tmp_path / "a.h5")[0].field_strength == tesla


def test_raw_kspace_is_handed_out_as_it_is(tmp_path: Path) -> None:
    kspace = write_kspace(tmp_path / "a.h5")
    _, scan = read(tmp_path / "a.h5", 1)
    assert np.array_equal(scan.kspace.numpy(), kspace[1])
    np.testing.assert_allclose(with_target(scan, "rss").target, rss(kspace[1]), rtol=1e-5)
    assert scan.processing == () and scan.sensitivity is None


def test_readout_oversampling_crops_the_target_along_the_height(tmp_path: Path) -> None:
    kspace = write_kspace(tmp_path / "a.h5", readout_oversampling=np.float64(2))
    volume, scan = read(tmp_path / "a.h5")
    assert (volume.shape, volume.target_shape) == ((8, 10), (4, 10))
    np.testing.assert_allclose(with_target(scan, "rss").target, rss(kspace[0])[2:6], rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 10), (2, 7, 9)])
def test_complex_images_keep_their_phase(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    image = write_image(tmp_path / "a.h5", shape=shape, magnitude=False)
    volume, scan = read(tmp_path / "a.h5", 1)
    np.testing.assert_allclose(to_image(scan.kspace.numpy())[0], image[1], atol=1e-5)
    np.testing.assert_allclose(scan.target, np.abs(image[1]), rtol=1e-6)
    assert not volume.magnitude_only and scan.processing == ()


def test_columns_that_a_scanner_padded_with_zeros_are_found_in_complex_images(
    tmp_path: Path,
) -> None:
    kspace = random_kspace((2, 8, 10))
    kspace[..., :3] = 0
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = to_image(kspace).astype(np.complex64)
    _, scan = read(tmp_path / "a.h5")
    assert scan.measured.any(dim=0).tolist() == [False] * 3 + [True] * 7


def test_bare_magnitudes_have_symmetric_kspace_and_the_default_has_not(tmp_path: Path) -> None:
    blob = np.exp(-(np.linspace(-2, 2, 32)[:, None] ** 2) - np.linspace(-2, 2, 40) ** 2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = blob[None].astype(np.float32)
    _, bare = read(tmp_path / "a.h5", reader=HDF5Reader(synthetic_phase=False))
    _, default = read(tmp_path / "a.h5")
    assert asymmetry(bare.kspace) < 1e-10
    assert asymmetry(default.kspace) > 0.05
    assert bare.processing == ()
    assert "synthetic smooth phase" in default.processing[0]


def test_synthetic_noise_has_the_stated_size(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        image = np.zeros((2, 64, 80), np.float32)
        image[:, 30:40, 30:40] = (1000, 500)[0]
        file["image"] = image
    _, scan = read(tmp_path / "a.h5")
    background = fourier.ifft2(scan.kspace)[0, :25]
    assert float(background.abs().square().mean().sqrt()) == pytest.approx(1000 * NOISE, rel=0.05)
    assert float(scan.target.max()) == pytest.approx(1000, rel=0.1)


def test_the_target_is_what_a_full_scan_of_the_noisy_object_gives(tmp_path: Path) -> None:
    write_image(tmp_path / "a.h5")
    _, scan = read(tmp_path / "a.h5")
    image = fourier.ifft2(scan.kspace)[0].abs()
    torch.testing.assert_close(scan.target, image, rtol=1e-5, atol=1e-5)


def test_synthetic_phase_differs_between_slices_and_volumes(tmp_path: Path) -> None:
    image = torch.ones(8, 10)
    one = with_synthetic_phase(image, sigma=0.1, name="a", index=0)
    assert torch.equal(one, with_synthetic_phase(image, sigma=0.1, name="a", index=0))
    assert not torch.equal(one, with_synthetic_phase(image, sigma=0.1, name="a", index=1))
    assert not torch.equal(one, with_synthetic_phase(image, sigma=0.1, name="b", index=0))


def test_another_process_reads_the_same_without_torchvision_and_lightning(tmp_path: Path) -> None:
    write_image(tmp_path / "a.h5")
    code = (
        "import sys; from activemri.data.sources import open_dataset; "
        f"scan = open_dataset({str(tmp_path / 'a.h5')!r}, split='all')[1]; "
        "assert not {'torchvision', 'pytorch_lightning'} & set(sys.modules); "
        "print(scan.kspace.numpy().tobytes().hex())"
    )
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    other = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    _, scan = read(tmp_path / "a.h5", 1)
    assert other.stdout.strip() == scan.kspace.numpy().tobytes().hex()


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("kspace", random_kspace((2, 8, 10)), "must have the axes .*got the shape"),
        ("kspace", np.ones((2, 3, 8, 10)), "must be complex"),
        ("kspace", random_kspace((0, 3, 8, 10)), "no slices"),
        ("kspace", random_kspace((2, 0, 8, 10)), "empty axis"),
        ("image", np.ones((8, 10)), "must have the axes"),
        ("image", np.ones((0, 8, 10)), "no slices"),
        ("image", np.array([[[b"text"]]]), "numeric"),
    ],
)
def test_unusable_arrays_are_named(
    tmp_path: Path, key: str, values: np.ndarray, message: str
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[key] = values
    refused(tmp_path / "a.h5", message)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (np.inf, "Inf"), (0, "all zero")])
@pytest.mark.parametrize("write", [write_image, write_kspace])
def test_unusable_slices_are_named(tmp_path: Path, write, value: float, message: str) -> None:  # type: ignore[no-untyped-def]
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["image" if "image" in file else "kspace"][1, ..., :] = value
    index = index_path(tmp_path, all_readers())
    (found,) = survey(index.root, index.entries)
    ((position, reason),) = found.problems
    assert position == 1 and message in reason and found.usable == (0,)


def test_a_senseless_oversampling_is_named(tmp_path: Path) -> None:
    for value in ("two", 0.5, np.nan):
        write_kspace(tmp_path / "a.h5", readout_oversampling=value)
        refused(tmp_path / "a.h5", "readout_oversampling")


def test_stored_references_maps_and_labels_are_read(tmp_path: Path) -> None:
    kspace = write_kspace(tmp_path / "a.h5", processing='["compressed to 3 coils", "cut"]')
    rng = np.random.default_rng(1)
    target = rng.random((2, 6, 10), dtype=np.float32)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["target"], file["sensitivity"] = target, kspace
        file["measured"] = rng.random((2, 8, 10)) > 0.5
        file["label"] = np.array([4, 7])
        measured = file["measured"][1]
    volume, scan = read(tmp_path / "a.h5", 1)
    assert volume.target_shape == (6, 10)
    assert torch.equal(scan.target, torch.from_numpy(target[1]))
    assert scan.sensitivity is not None
    assert torch.equal(scan.sensitivity, torch.from_numpy(kspace[1]))
    assert torch.equal(scan.measured, torch.from_numpy(measured))
    assert scan.label == 7
    assert scan.processing == ("compressed to 3 coils", "cut")


def test_a_reference_is_combined_with_stored_maps(tmp_path: Path) -> None:
    kspace = write_kspace(tmp_path / "a.h5")
    maps = kspace / np.linalg.norm(kspace, axis=1, keepdims=True)
    edit(tmp_path / "a.h5", sensitivity=maps)
    _, scan = read(tmp_path / "a.h5", 1)
    expected = np.abs(np.sum(maps[1].conj() * to_image(kspace[1]), axis=0))
    np.testing.assert_allclose(scan.target, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("target", (3, 8, 10)),
        ("target", (2, 9, 10)),
        ("sensitivity", (2, 4, 8, 10)),
        ("measured", (2, 10)),
        ("label", (3,)),
    ],
)
def test_what_does_not_fit_kspace_is_named(
    tmp_path: Path, key: str, shape: tuple[int, ...]
) -> None:
    write_kspace(tmp_path / "a.h5")
    edit(tmp_path / "a.h5", **{key: np.ones(shape)})
    refused(tmp_path / "a.h5", f"'{key}'.*'kspace'")


def test_frames_are_slices_with_as_many_pixels_as_spokes_have_samples(tmp_path: Path) -> None:
    write_radial(tmp_path / "a.h5", n_frames=3, n_coils=4, subject_id="s1", contrast="T2")
    volume, scan = read(tmp_path / "a.h5", 1)
    assert (volume.shape, volume.target_shape) == ((24, 24), (24, 24))
    assert (volume.n_slices, volume.n_coils) == (3, 4)
    assert (volume.subject, volume.contrast) == ("s1", "T2")
    expected = cartesian(n_coils=4) * scan.measured.numpy() / 2
    assert np.linalg.norm(scan.kspace.numpy() - expected) < 0.015 * np.linalg.norm(expected)


def test_oversampled_readouts_give_no_more_pixels(tmp_path: Path) -> None:
    trajectory = spokes(samples=48, step=GOLDEN)
    write_radial(tmp_path / "a.h5", trajectory=trajectory, readout_oversampling=2)
    volume, scan = read(tmp_path / "a.h5")
    assert volume.shape == volume.target_shape == (24, 24)
    expected = rss(cartesian())
    assert np.linalg.norm(scan.target.numpy() - expected) < 0.015 * np.linalg.norm(expected)


def test_resampling_is_recorded_after_what_the_file_says(tmp_path: Path) -> None:
    write_radial(tmp_path / "a.h5", processing='["compressed to 2 coils"]')
    _, scan = read(tmp_path / "a.h5")
    assert scan.processing == (
        "compressed to 2 coils",
        "resampled from 40 radial spokes onto a grid",
    )
    assert not scan.measured[0, 0] and scan.measured[12, 12]


def test_undersampled_files_are_refused_with_the_numbers(tmp_path: Path) -> None:
    write_radial(tmp_path / "a.h5", trajectory=spokes(30, samples=24))
    refused(tmp_path / "a.h5", r"undersampled: 30 spokes .* of 24 x 24 has at least 37")


def test_only_the_frames_that_are_incomplete_are_left_out(tmp_path: Path) -> None:
    trajectory = write_radial(tmp_path / "a.h5")
    half = trajectory[np.arange(40) // 2 * 2]
    edit(tmp_path / "a.h5", trajectory=np.stack([half, trajectory]))
    index = index_path(tmp_path, all_readers())
    (found,) = survey(index.root, index.entries)
    ((position, reason),) = found.problems
    assert (position, found.usable) == (0, (1,)) and "undersampled: 20 spokes" in reason


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("trajectory", np.zeros((2, 40, 24), np.float32), r"axes \(frame, spoke, sample, 2\)"),
        ("trajectory", np.zeros((2, 40, 23, 2), np.float32), r"\(2, 40, 24, 2\) as 'kspace' has"),
        ("trajectory", np.zeros((1, 40, 24, 2), np.float32), r"\(2, 40, 24, 2\) as 'kspace' has"),
        ("trajectory", np.zeros((2, 40, 24, 3), np.float32), r"\(2, 40, 24, 2\) as 'kspace' has"),
        ("trajectory", np.zeros((2, 40, 24, 2), np.complex64), "must be real .* got complex64"),
        ("trajectory", np.zeros((2, 40, 24, 2), np.float32), "never leaves the centre"),
        ("trajectory", np.full((2, 40, 24, 2), np.nan), "NaN or Inf in the trajectory"),
        ("trajectory", np.array([b"text"]), "'trajectory' must be a numeric array"),
        ("kspace", None, "no data set 'kspace'"),
        ("kspace", np.zeros((2, 2, 40, 24), np.float32), "'kspace' must be complex"),
        ("kspace", np.zeros((2, 40, 24), np.complex64), r"axes \(frame, coil, spoke, sample\)"),
    ],
)
def test_unusable_data_sets_are_named(
    tmp_path: Path, key: str, values: NDArray[np.generic] | None, message: str
) -> None:
    write_radial(tmp_path / "a.h5")
    edit(tmp_path / "a.h5", **{key: values})
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.require_dataset("image", (2, 8, 10), np.float32)
    refused(tmp_path / "a.h5", message)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or Inf"), (0, "all zero")])
def test_unusable_frames_are_named(tmp_path: Path, value: float, message: str) -> None:
    trajectory = write_radial(tmp_path / "a.h5")
    samples = np.stack([spectrum(trajectory)] * 2)
    samples[0] = value
    edit(tmp_path / "a.h5", kspace=samples)
    refused(tmp_path / "a.h5", message)
    assert read(tmp_path / "a.h5", 1)[1].target.any()


def test_the_radial_scan_of_a_beating_heart_is_undersampled(real_data: Path) -> None:
    path = real_data / "unstated" / "utah_cardiac_radial_3ch.h5"
    if not path.is_file():
        pytest.skip(f"no real scan at {path}")
    refused(path, r"undersampled: 30 spokes .* of 288 x 288 has at least 452")
