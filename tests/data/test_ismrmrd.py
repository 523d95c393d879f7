"""Raw data in the ISMRMRD format, Cartesian and radial."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from activemri.data.formats.ismrmrd import ISMRMRDReader
from activemri.data.formats.registry import all_readers
from activemri.data.index import index_path
from activemri.data.phantoms.dataset import PhantomDataset
from activemri.data.readers import UnreadableError
from activemri.data.slices import Slice
from activemri.data.standard import with_target
from activemri.data.volumes import survey
from tests.data.files import LIMITS, Array, ismrmrd_header, random_kspace, read, refused, rss
from tests.data.published_files import Line, lines_of, write_acquisitions, write_ismrmrd
from tests.data.radial_scans import (
    GOLDEN,
    cartesian,
    spokes,
    spokes_of,
    write_ismrmrd_radial,
    write_spokes,
)

READER = ISMRMRDReader()
SHAPE = (20, 14)


def image(seed: int = 0, n_coils: int = 2) -> Array:
    """k-space (coil, height, width) of one image."""
    return random_kspace((n_coils, *SHAPE), seed)


def read_lines(path: Path, lines: list[Line], index: int = 0, **header: Any) -> Slice:
    write_acquisitions(path, ismrmrd_header(SHAPE, **{"vendor": "GE", **header}), lines)
    return read(path, index)[1]


def test_labels_come_from_the_header(tmp_path: Path) -> None:
    write_ismrmrd(tmp_path / "a.h5", recon=(10, 12))
    volume, _ = read(tmp_path / "a.h5")
    assert (volume.name, volume.subject, volume.contrast) == ("a", "patient-1", "t1_fl2d")
    assert (volume.shape, volume.target_shape) == ((20, 14), (10, 12))
    assert (volume.n_slices, volume.n_coils) == (3, 2)
    assert volume.field_strength == pytest.approx(2.8936, abs=1e-4)
    assert volume.scanner == "SIEMENS Skyra"
    assert volume.encoded_columns == (0, 14)


@pytest.mark.parametrize("patient", ["", "Anonymous", "ANON1234", "xxxxxxxx", "0000", "unknown"])
def test_files_without_a_patient_are_their_own_subject(tmp_path: Path, patient: str) -> None:
    write_ismrmrd(tmp_path / "a.h5", patient=patient)
    assert read(tmp_path / "a.h5")[0].subject == "a"


def test_interleaved_slices_are_sorted_and_nothing_but_the_scale_changes(tmp_path: Path) -> None:
    kspace = write_ismrmrd(tmp_path / "a.h5", recon=(10, 14))
    for index in range(3):
        _, scan = read(tmp_path / "a.h5", index)
        assert np.array_equal(scan.kspace.numpy() / np.float32(4096), kspace[index])
        assert scan.processing == ("multiplied by 4096",)
        assert scan.measured.all()
        whole = 4096 * rss(kspace[index])
        np.testing.assert_allclose(with_target(scan, "rss").target, whole[5:15], rtol=1e-5)


def test_each_combination_of_counters_is_a_slice(tmp_path: Path) -> None:
    keys: list[dict[str, Any]] = [
        {"slice": s, "contrast": c, "phase": p, "repetition": r, "set": v}
        for s in range(2)
        for c, p, r, v in ((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0))
    ]
    images = [image(seed) for seed in range(len(keys))]
    pairs = list(zip(images, keys, strict=True))
    lines = [line for kspace, key in reversed(pairs) for line in lines_of(kspace, **key)]
    for index, kspace in enumerate(images):
        assert np.array_equal(read_lines(tmp_path / "a.h5", lines, index).kspace, kspace)


ASIDE = Line(np.full((2, 9), 7, np.complex64))


def with_heads(lines: list[Line], **head: int) -> list[Line]:
    return [replace(line, head=line.head | head) for line in lines]


def with_flags(lines: list[Line], *flags: int) -> list[Line]:
    return [replace(line, flags=flags) for line in lines]


NO_IMAGES = [with_flags([ASIDE], flag)[0] for flag in (20, 23, 24, 26, 27, 28, 29, 30, 31)]


@pytest.mark.parametrize(
    "lines",
    [
        [lines_of(image())[i] for i in np.random.default_rng(0).permutation(14)],
        lines_of(image())[:5] + with_flags(lines_of(image())[5:9], 20, 21) + lines_of(image())[9:],
        lines_of(image()) + with_heads(lines_of(image(1)), encoding_space_ref=1),
        with_heads(lines_of(image()), center_sample=0),
        [*NO_IMAGES, *lines_of(image()), *NO_IMAGES],
    ],
    ids=["shuffled", "calibration and imaging", "second encoding", "centre not set", "aside"],
)
def test_order_calibration_and_lines_that_are_no_image_do_not_matter(
    tmp_path: Path, lines: list[Line]
) -> None:
    assert np.array_equal(read_lines(tmp_path / "a.h5", lines).kspace, image())


def test_repeated_lines_are_averaged(tmp_path: Path) -> None:
    lines = lines_of(image(0)) + lines_of(image(1), columns=range(4, 9), average=1)
    scan = read_lines(tmp_path / "a.h5", lines)
    expected = image(0)
    expected[:, :, 4:9] = (image(0)[:, :, 4:9] + image(1)[:, :, 4:9]) / 2
    np.testing.assert_allclose(scan.kspace, expected, rtol=1e-6)
    assert scan.processing == ("mean of up to 2 repeated lines",)


@pytest.mark.parametrize("value", [0, 1])
def test_lines_whose_signs_alternate_are_corrected(tmp_path: Path, value: int) -> None:
    parameters = (
        "<userParameters><userParameterLong><name>ChopZ</name><value>0</value></userParameterLong>"
        f"<userParameterLong><name>ChopY</name><value>{value}</value></userParameterLong>"
        "</userParameters>"
    )
    scan = read_lines(tmp_path / "a.h5", lines_of(image()), parameters=parameters)
    expected = image()
    if value == 0:
        expected[:, :, 1::2] *= -1
        assert scan.processing == ("sign of every other line changed",)
    assert np.array_equal(scan.kspace, expected)


@pytest.mark.parametrize("center_sample", [9, 0])
def test_reversed_lines_are_mirrored(tmp_path: Path, center_sample: int) -> None:
    lines = lines_of(image())
    for line in lines[1::2]:
        line.samples = line.samples[:, ::-1]
        line.flags = [22]
        line.head["center_sample"] = center_sample
    scan = read_lines(tmp_path / "a.h5", lines)
    if center_sample == 9:  # 20 samples, the tenth of them at the centre, mirrored the eleventh
        assert np.array_equal(scan.kspace, image())
    else:  # not set: the middle of both; one sample then lies beyond the grid
        assert np.array_equal(scan.kspace[:, 1:, 1::2], image()[:, :-1, 1::2])
        assert not scan.measured[0, 1::2].any() and scan.measured[1:].all()


def test_a_partial_echo_lies_where_its_centre_says(tmp_path: Path) -> None:
    lines = lines_of(image())
    for line in lines:
        line.samples, line.head["center_sample"] = line.samples[:, 6:], 4
    scan = read_lines(tmp_path / "a.h5", lines)
    assert np.array_equal(scan.kspace[:, 6:], image()[:, 6:])
    assert not scan.kspace[:, :6].any()
    assert scan.measured.any(dim=1).tolist() == [False] * 6 + [True] * 14


def test_discarded_samples_were_not_measured(tmp_path: Path) -> None:
    lines = lines_of(image())
    for line in lines:
        line.head |= {"discard_pre": 2, "discard_post": 3}
    scan = read_lines(tmp_path / "a.h5", lines)
    assert scan.measured.any(dim=1).tolist() == [False] * 2 + [True] * 15 + [False] * 3
    assert np.array_equal(scan.kspace[:, 2:17], image()[:, 2:17])


def test_partial_fourier_lies_where_the_limits_say(tmp_path: Path) -> None:
    lines = lines_of(image(), center=3, columns=range(4, 14))  # 4 columns never came
    scan = read_lines(tmp_path / "a.h5", lines, center=3, last=9)
    assert np.array_equal(scan.kspace[:, :, 4:], image()[:, :, 4:])
    assert scan.measured.any(dim=0).tolist() == [False] * 4 + [True] * 10
    assert read(tmp_path / "a.h5")[0].encoded_columns == (4, 14)


def test_complete_scans_need_no_limits(tmp_path: Path) -> None:
    scan = read_lines(tmp_path / "a.h5", lines_of(image()), limits="")
    assert np.array_equal(scan.kspace, image())
    scan = read_lines(
        tmp_path / "a.h5", lines_of(image()), limits=LIMITS.replace("{center}", "none"), last=0
    )
    assert np.array_equal(scan.kspace, image())


def test_noise_scans_make_the_noise_of_the_coils_independent(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mixing = np.array([[2, 0, 0], [1 + 1j, 0.5, 0], [0.3j, 0.2, 7]])

    def noise(*shape: int) -> Array:
        white = (rng.normal(size=(3, *shape)) + 1j * rng.normal(size=(3, *shape))) / np.sqrt(2)
        return np.tensordot(mixing, white, 1).astype(np.complex64)

    images = [noise(*SHAPE) for _ in range(20)]
    lines = [Line(noise(4096), flags=[19])]
    lines += [line for r, kspace in enumerate(images) for line in lines_of(kspace, repetition=r)]
    write_acquisitions(tmp_path / "a.h5", ismrmrd_header(SHAPE), lines)
    with h5py.File(tmp_path / "a.h5") as file:
        volume = READER.describe(file)
        scans = [READER.read(file, volume, index) for index in range(20)]
    kspace = torch.stack([scan.kspace for scan in scans], dim=1).flatten(1)
    covariance = kspace @ kspace.conj().T / kspace.shape[1]
    torch.testing.assert_close(covariance, torch.eye(3) + 0j, atol=0.05, rtol=0)
    assert scans[0].processing == ("prewhitened with the scan's own noise measurement",)


def test_an_interrupted_scan_loses_only_its_last_image(tmp_path: Path) -> None:
    lines = lines_of(image()) + lines_of(image(1), columns=range(12), repetition=1)
    assert np.array_equal(read_lines(tmp_path / "a.h5", lines).kspace, image())
    with pytest.raises(UnreadableError, match="incomplete: 12 of 14 lines came"):
        read_lines(tmp_path / "a.h5", lines, 1)


def with_noise(noise: NDArray[np.floating]) -> list[Line]:
    return [Line(noise.astype(np.complex64), flags=[19]), *lines_of(image())]


ACCELERATED = (
    "<parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
    "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor></parallelImaging>"
)
OTHER_CHANNELS = [*lines_of(image())[1:], Line(image()[:1, :, 0])]
PARTITIONS = [line for z in range(3) for line in lines_of(image(z), kspace_encode_step_2=z)]


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (with_noise(np.zeros((2, 64))), {}, "noise scans cannot be used"),
        (with_noise(np.ones((2, 64))), {}, "noise scans cannot be used.*not positive definite"),
        (with_noise(np.ones((3, 64))), {}, "noise scans have 3 channels, imaging lines 2"),
        (lines_of(image(), columns=range(0, 14, 2)), {}, r"undersampled \(6 of 13 lines"),
        (lines_of(image(), columns=range(7)), {}, "the centre of k-space never came"),
        (PARTITIONS, {}, "3-D: 3 values"),
        (OTHER_CHANNELS, {}, "differ in their channels"),
        (lines_of(random_kspace((2, 24, 14))), {}, "do not fit into a readout of 20"),
        ([Line(image()[:, 0], flags=[19])], {}, "no imaging lines among 1 acq"),
        (lines_of(0 * image()), {}, "all zero"),
        (lines_of(image() * np.complex64(np.nan)), {}, "NaN or Inf"),
        (lines_of(image(), columns=range(10)), {"limits": ""}, "no encodingLimits"),
        (None, {"more": ACCELERATED}, r"undersampled \(acceleration factor 2"),
        (None, {"trajectory": "epi"}, "not Cartesian: the header's trajectory is 'epi'"),
        (None, {"trajectory": "Spiral"}, "not Cartesian.*'spiral'"),
        (None, {"trajectory": ""}, "not Cartesian.*'not stated'"),
        (None, {"more": "<multiband/>"}, "multiband"),
        (None, {"center": 2}, "do not fit into 14 phase encodes"),
        (None, {"last": 11}, "lines up to number 13, but the header's last is 11"),
    ],
)
def test_scans_without_a_fully_sampled_truth_are_refused(
    tmp_path: Path, lines: list[Line] | None, header: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnreadableError, match=message):
        read_lines(tmp_path / "a.h5", lines or lines_of(image()), **header)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<ismrmrdHeader", "not XML"),
        ("", "not XML"),
        ("<a>\udcff</a>", "not XML"),
        ("<ismrmrdHeader/>", "no 'encoding'"),
        ("<ismrmrdHeader><encoding/></ismrmrdHeader>", "no encodedSpace matrixSize x"),
    ],
)
def test_broken_headers_are_named(tmp_path: Path, xml: str, message: str) -> None:
    write_acquisitions(tmp_path / "a.h5", xml, lines_of(image()))
    refused(tmp_path / "a.h5", message)


@pytest.mark.parametrize(("before", "after"), [("\n ", "\n"), ("", "\0\0")])
def test_blanks_around_the_header_do_not_matter(tmp_path: Path, before: str, after: str) -> None:
    header = before + ismrmrd_header(SHAPE) + after
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_acquisitions(tmp_path / "b.h5", "", lines_of(image()))
        with h5py.File(tmp_path / "b.h5") as other:
            other.copy("dataset", file)
        del file["dataset/xml"]
        file["dataset/xml"] = np.array([header.encode()], dtype=f"S{len(header) + 4}")
    assert read(tmp_path / "a.h5")[0].subject == "patient-1"


def test_the_recon_matrix_serves_where_there_is_no_field_of_view(tmp_path: Path) -> None:
    header = ismrmrd_header(SHAPE, recon=(10, 12)).replace("fieldOfView_mm", "nothing")
    write_acquisitions(tmp_path / "a.h5", header, lines_of(image()))
    assert read(tmp_path / "a.h5")[0].target_shape == (10, 12)


def test_acquisitions_of_the_wrong_length_are_named(tmp_path: Path) -> None:
    write_ismrmrd(tmp_path / "a.h5", n_slices=1)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        record = file["dataset/data"][5]
        record["data"] = record["data"][:7]
        file["dataset/data"][5] = record
    refused(tmp_path / "a.h5", "acquisition 5 holds 7 numbers")


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "no acquisitions 'data'"), (np.ones((3, 4)), "must be a list of acquisitions")],
)
def test_files_of_another_layout_are_named(tmp_path: Path, data: Array, message: str) -> None:
    write_ismrmrd(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["dataset/data"]
        if data is not None:
            file["dataset/data"] = data
    refused(tmp_path / "a.h5", message)


def test_several_measurements_in_a_file_are_refused(tmp_path: Path) -> None:
    write_ismrmrd(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.copy("dataset", "dataset_2")
    refused(tmp_path / "a.h5", r"several measurements.*dataset, dataset_2")


@pytest.mark.parametrize(("n_coils", "roll"), [(1, 0), (4, 1)])
def test_reversed_lines_without_the_flag_are_refused(
    tmp_path: Path, n_coils: int, roll: int
) -> None:
    kspace = PhantomDataset(n_coils=n_coils, matrix_size=(48, 40))[0].kspace.numpy()
    header = ismrmrd_header((48, 40), vendor="GE")
    write_acquisitions(tmp_path / "sound.h5", header, lines_of(kspace))
    assert np.array_equal(read(tmp_path / "sound.h5")[1].kspace, kspace)
    kspace[:, :, 1::2] = np.roll(kspace[:, ::-1, 1::2], roll, axis=1)
    write_acquisitions(tmp_path / "reversed.h5", header, lines_of(kspace))
    refused(tmp_path / "reversed.h5", "without the flag ACQ_IS_REVERSE")
    lines = lines_of(kspace)
    for line in lines[1::2]:
        line.flags = [22]
    write_acquisitions(tmp_path / "flagged.h5", header, lines)
    assert read(tmp_path / "flagged.h5")[1].target.any()


def test_lines_that_are_reversed_already_despite_the_flag_are_refused(tmp_path: Path) -> None:
    kspace = PhantomDataset(n_coils=4, matrix_size=(48, 40))[0].kspace.numpy()
    lines = lines_of(kspace)
    for line in lines[1::2]:
        line.flags = [22]
    write_acquisitions(tmp_path / "a.h5", ismrmrd_header((48, 40), vendor="GE"), lines)
    refused(tmp_path / "a.h5", "reversed already despite it")


def test_headers_of_lines_are_read_once_for_all_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ismrmrd(tmp_path / "a.h5")
    opened = []
    original = h5py.File

    def counted(path: Path, mode: str) -> h5py.File:
        opened.append(path)
        return original(path, mode)

    monkeypatch.setattr(h5py, "File", counted)
    for index in range(3):
        read(tmp_path / "a.h5", index)
    assert len(opened) == 3 + 1  # once more for the headers
    monkeypatch.undo()
    write_ismrmrd(tmp_path / "a.h5", n_slices=2)
    assert read(tmp_path / "a.h5")[0].n_slices == 2


def test_a_truncated_file_is_not_opened(tmp_path: Path) -> None:
    write_ismrmrd(tmp_path / "a.h5")
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableError, match="truncated"):
        READER.container.open(tmp_path / "a.h5")


def test_the_ismrmrd_package_reads_the_same(tmp_path: Path) -> None:
    ismrmrd = pytest.importorskip("ismrmrd", reason="the package is not installed")
    kspace = write_ismrmrd(tmp_path / "a.h5")
    with ismrmrd.Dataset(str(tmp_path / "a.h5"), mode="r") as theirs:
        header = ismrmrd.xsd.CreateFromDocument(theirs.read_xml_header())
        assert header.encoding[0].encodedSpace.matrixSize.x == SHAPE[0]
        for number in range(theirs.number_of_acquisitions()):
            line = theirs.read_acquisition(number)
            column = line.idx.kspace_encode_step_1
            np.testing.assert_array_equal(line.data, kspace[line.idx.slice][:, :, column])


SPOKES = spokes(step=GOLDEN)


def read_spokes(path: Path, lines: list[Line], index: int = 0, **header: Any) -> Slice:
    write_spokes(path, lines, **{"vendor": "GE", **header})
    return read(path, index)[1]


def assert_resampled(scan: Slice, *, scale: float = 1) -> None:
    expected = scale * cartesian() * scan.measured.numpy()
    assert np.linalg.norm(scan.kspace.numpy() - expected) < 0.015 * np.linalg.norm(expected)


def test_slices_are_resampled_and_labelled(tmp_path: Path) -> None:
    write_ismrmrd_radial(tmp_path / "a.h5", n_slices=3)
    for index in range(3):
        volume, scan = read(tmp_path / "a.h5", index)
        assert_resampled(scan, scale=0.4096 / 2**index)
        assert scan.processing == (
            "resampled from 40 radial spokes onto a grid",
            "multiplied by 4096",
        )
        assert scan.measured.any(dim=0).all() and not scan.measured[0, 0]
    assert (volume.n_slices, volume.n_coils) == (3, 2)
    assert (volume.shape, volume.target_shape) == ((24, 24), (24, 24))
    assert (volume.subject, volume.contrast) == ("patient-1", "t1_fl2d")
    assert volume.encoded_columns is None


def test_the_grid_covers_the_reconstructed_field_of_view_with_the_pixels_of_the_readout(
    tmp_path: Path,
) -> None:
    lines = spokes_of(spokes(100, samples=64))
    write_spokes(tmp_path / "a.h5", lines, recon=(20, 32))
    assert read(tmp_path / "a.h5")[0].shape == (20, 32)


def test_the_recon_matrix_serves_radial_scans_too(tmp_path: Path) -> None:
    write_ismrmrd_radial(tmp_path / "a.h5", recon=(22, 24))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        header = file["dataset/xml"][0].replace(b"fieldOfView_mm", b"nothing")
        file["dataset/xml"][0] = header
    assert read(tmp_path / "a.h5")[0].shape == (22, 24)


@pytest.mark.parametrize("name", ["radial", "goldenangle", "Radial"])
def test_golden_angles_are_radial_too(tmp_path: Path, name: str) -> None:
    assert_resampled(read_spokes(tmp_path / "a.h5", spokes_of(SPOKES), trajectory=name))


@pytest.mark.parametrize(
    "stored",
    [
        SPOKES,
        24 * SPOKES,
        np.concatenate([SPOKES, np.linalg.norm(SPOKES, axis=-1, keepdims=True)], axis=-1),
    ],
    ids=["cycles per pixel", "cycles per field of view", "with a density"],
)
def test_trajectories_come_in_several_units(tmp_path: Path, stored: NDArray[np.floating]) -> None:
    assert_resampled(read_spokes(tmp_path / "a.h5", spokes_of(SPOKES, stored=stored)))


@pytest.mark.parametrize("unit", [1, 24, 48])
def test_trajectories_may_be_in_units_of_the_encoded_or_the_final_field_of_view(
    tmp_path: Path, unit: int
) -> None:
    lines = spokes_of(SPOKES, stored=unit * SPOKES)
    assert_resampled(read_spokes(tmp_path / "a.h5", lines, encoded=48))


def test_units_between_which_there_is_no_telling_are_refused(tmp_path: Path) -> None:
    lines = spokes_of(SPOKES, stored=24 * SPOKES)
    with pytest.raises(UnreadableError, match=r"reaches 12; expected .* or about 12 or 13"):
        read_spokes(tmp_path / "a.h5", lines, encoded=26)


def test_the_order_of_spokes_does_not_matter(tmp_path: Path) -> None:
    lines = spokes_of(SPOKES)
    shuffled = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]
    assert_resampled(read_spokes(tmp_path / "a.h5", shuffled))


def test_lines_that_are_no_image_need_no_trajectory(tmp_path: Path) -> None:
    aside = Line(np.full((2, 9), 7, np.complex64), flags=[24])
    assert_resampled(read_spokes(tmp_path / "a.h5", [aside, *spokes_of(SPOKES), aside]))


def test_discarded_samples_do_not_count(tmp_path: Path) -> None:
    trajectory = spokes(samples=54, reach=0.5 * 54 / 48)  # of which 3 at either end do not count
    lines = spokes_of(trajectory)
    for line in lines:
        line.head |= {"discard_pre": 3, "discard_post": 3}
        line.samples[:, :3] = line.samples[:, -3:] = 1e3
    assert_resampled(read_spokes(tmp_path / "a.h5", lines))
    lines[4].head["discard_pre"] = 2
    with pytest.raises(UnreadableError, match="differ in the samples that are to be discarded"):
        read_spokes(tmp_path / "a.h5", lines)


def test_noise_scans_make_the_noise_of_resampled_coils_independent(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mixing = np.array([[2, 0], [1 + 1j, 0.5]])

    def noise(*shape: int) -> Array:
        white = (rng.normal(size=(2, *shape)) + 1j * rng.normal(size=(2, *shape))) / np.sqrt(2)
        return np.tensordot(mixing, white, 1).astype(np.complex64)

    lines = [Line(noise(4096), flags=[19])]
    for repetition in range(8):
        each = spokes_of(SPOKES, repetition=repetition)
        for line in each:
            line.samples = noise(48)
        lines += each
    write_spokes(tmp_path / "a.h5", lines)
    scans = [read(tmp_path / "a.h5", index)[1] for index in range(8)]
    kspace = torch.cat([scan.kspace[:, scan.measured] for scan in scans], dim=1)
    covariance = kspace @ kspace.conj().T / kspace.shape[1]
    assert abs(covariance[0, 1]) < 0.1 * abs(covariance[0, 0])
    assert float(covariance[1, 1].real) == pytest.approx(float(covariance[0, 0].real), rel=0.15)
    assert scans[0].processing == (
        "resampled from 40 radial spokes onto a grid",
        "prewhitened with the scan's own noise measurement",
    )


def test_only_the_images_that_are_incomplete_are_left_out(tmp_path: Path) -> None:
    lines = spokes_of(SPOKES)[:30] + spokes_of(SPOKES, repetition=1)
    write_spokes(tmp_path / "a.h5", lines, vendor="GE")
    assert_resampled(read(tmp_path / "a.h5", 1)[1])
    index = index_path(tmp_path, all_readers())
    (found,) = survey(index.root, index.entries)
    ((position, reason),) = found.problems
    assert (position, found.usable) == (0, (1,))
    assert "undersampled: 30 spokes of different angles" in reason


def without_trajectory(lines: list[Line]) -> None:
    for line in lines:
        line.trajectory = None


def one_without_trajectory(lines: list[Line]) -> None:
    lines[3].trajectory = None


def too_short(lines: list[Line]) -> None:
    lines[3].trajectory = lines[3].trajectory[:20]  # type: ignore[index]


def stored_as(change: Callable[[NDArray[np.floating]], NDArray[np.floating]]) -> Any:
    def apply(lines: list[Line]) -> None:
        for line in lines:
            line.trajectory = change(line.trajectory)  # type: ignore[arg-type]

    return apply


def other_samples(lines: list[Line]) -> None:
    lines[3].samples, lines[3].trajectory = lines[3].samples[:, :20], SPOKES[3, :20]


def partitions(lines: list[Line]) -> None:
    lines[3].counters["kspace_encode_step_2"] = 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_trajectory, "missing trajectory: trajectory_dimensions is 0.*store it in 'traj'"),
        (one_without_trajectory, "missing trajectory: trajectory_dimensions is 0"),
        (too_short, "missing trajectory: acquisition 3 holds 40 numbers.* 48 samples x 2"),
        (stored_as(lambda t: 0 * t), "missing trajectory: all of its values are zero"),
        (stored_as(lambda t: t * np.nan), "NaN or Inf in the trajectory"),
        (stored_as(lambda t: t[:, :1]), r"trajectory_dimensions must be 2, or 3 .*got \[1\]"),
        (stored_as(lambda t: t[:, [0, 1, 1, 1]]), r"trajectory_dimensions must be.*got \[4\]"),
        (stored_as(lambda t: t[:, [0, 1, 1]]), "3-D: the trajectory's third component"),
        (stored_as(lambda t: 2 * np.pi * t), "unit of the trajectory.*reaches 3.14"),
        (stored_as(lambda t: t / 2), "unit .*reaches 0.25; expected about 0.5 .*or about 12"),
        (stored_as(lambda t: SPOKES[7]), "all spokes have the same angle"),
        (stored_as(lambda t: 0.85 * t + np.array([0.06, 0.0])), "not radial: samples lie"),
        (other_samples, "lines differ in their samples"),
        (partitions, "3-D: 2 values of kspace_encode_step_2"),
    ],
)
def test_trajectories_that_cannot_be_used_are_named(
    tmp_path: Path, damage: Callable[[list[Line]], None], message: str
) -> None:
    lines = spokes_of(SPOKES)
    damage(lines)
    with pytest.raises(UnreadableError, match=message):
        read_spokes(tmp_path / "a.h5", lines)


def test_files_without_the_field_of_trajectories_are_named(tmp_path: Path) -> None:
    write_ismrmrd_radial(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        records = file["dataset/data"][:]
        del file["dataset/data"]
        kept = [(name, records.dtype[name]) for name in ("head", "data")]
        fewer = np.zeros(len(records), kept)
        fewer["head"], fewer["data"] = records["head"], records["data"]
        file["dataset/data"] = fewer
    refused(tmp_path / "a.h5", r"missing trajectory: .*no field 'traj'")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"trajectory": "spiral"}, "not Cartesian: the header's trajectory is 'spiral'"),
        ({"trajectory": "other"}, "not Cartesian.*'other'; expected k-space on a grid, or 'rad"),
        ({"recon": (32, 32)}, "undersampled: 40 spokes .*of 32 x 32 has at least 50"),
        ({"more": "<multiband/>"}, "multiband"),
        (
            {
                "parameters": "<userParameters><userParameterLong><name>ChopY</name>"
                "<value>0</value></userParameterLong></userParameters>"
            },
            "ChopY is 0",
        ),
    ],
)
def test_radial_headers_that_cannot_be_read_are_named(
    tmp_path: Path, header: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnreadableError, match=message):
        read_spokes(tmp_path / "a.h5", spokes_of(SPOKES), **header)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or Inf"), (0, "all zero")])
def test_unusable_samples_of_spokes_are_named(tmp_path: Path, value: float, message: str) -> None:
    lines = spokes_of(SPOKES)
    for line in lines:
        line.samples = line.samples * np.complex64(value)
    with pytest.raises(UnreadableError, match=message):
        read_spokes(tmp_path / "a.h5", lines)
