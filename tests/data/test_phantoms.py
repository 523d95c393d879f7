"""Phantoms: k-space against slower truths, subjects that are always the same, clear refusals."""

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special

from activemri.data.phantoms import scanner
from activemri.data.phantoms.contour import band, blob, curve, fold, inset, spline
from activemri.data.phantoms.dataset import (
    DRAW,
    PhantomDataset,
    Subject,
    add_lesion,
    lesion_box,
)
from activemri.data.phantoms.shapes import Array, Drawing, rotation, signed_area
from activemri.data.slices import Slice
from activemri.mri import fourier
from activemri.mri.coils import combine
from activemri.mri.operators import Operator

ROWS, COLUMNS = np.arange(-5.0, 6), np.arange(-7.0, 8)
PENTAGON = np.array([[-0.30, -0.20], [0.10, -0.25], [0.25, 0.10], [0.0, 0.30], [-0.20, 0.05]])
CROOKED = np.array([[0.9, 0.3], [-0.2, 1.1]])


def rectangle(width: float, height: float) -> Array:
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2]


def drawing_of_everything() -> Drawing:
    drawing = Drawing()
    drawing.polygon(1.3, PENTAGON)
    drawing.polygon(0.4, rectangle(0.2, 0.1) @ rotation(0.4).T + [-0.1, 0.2])
    drawing.ellipse(0.7, (0.05, -0.1), radii=(0.2, 0.07), angle=0.5)
    drawing.wave(0.5, (0.1, 0.1), widths=(0.05, 0.07), frequency=(5, -3), phase=0.7, angle=0.3)
    drawing.wave(0.6, (-0.1, -0.1), widths=(0.04, 0.06), frequency=(0, 0), phase=0, angle=-0.2)
    return drawing


def rastered(drawing: Drawing, x: Array, y: Array) -> Array:
    """The drawing's values at points: another way to say what the shapes are."""
    values = np.zeros(np.broadcast(x, y).shape)
    for weight, points in drawing.polygons:
        inside = np.zeros(values.shape, bool)
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if y0 != y1:
                crossing = (x1 - x0) * (y - y0) / (y1 - y0) + x0
                inside ^= ((y0 > y) != (y1 > y)) & (x < crossing)
        values += weight * inside
    for row in (*drawing.ellipses, *drawing.waves):
        inverse = np.linalg.inv(np.array(row[3:7]).reshape(2, 2))
        u = inverse[0, 0] * (x - row[1]) + inverse[0, 1] * (y - row[2])
        v = inverse[1, 0] * (x - row[1]) + inverse[1, 1] * (y - row[2])
        if len(row) == 7:
            values += row[0] * (u**2 + v**2 <= 1)
        else:
            angle = 2 * math.pi * (row[7] * (x - row[1]) + row[8] * (y - row[2])) + row[9]
            values += row[0] * np.exp(-(u**2 + v**2) / 2) * np.cos(angle)
    return values


def integrated(values: Array, place: Array, rows: Array, columns: Array) -> Array:
    """Fourier integral of values on a fine square grid, by the midpoint rule."""
    down = np.exp(-2j * math.pi * rows[:, None] * place)
    right = np.exp(-2j * math.pi * place[:, None] * columns)
    return np.asarray(down @ values @ right / len(place) ** 2)


def grid(n: int) -> Array:
    return (np.arange(n) + 0.5) / n - 0.5


def test_spectra_are_the_fourier_integrals_of_the_shapes() -> None:
    place = grid(1200)
    drawing = drawing_of_everything()
    truth = integrated(rastered(drawing, place[None], place[:, None]), place, ROWS, COLUMNS)
    error = np.abs(drawing.spectrum(ROWS, COLUMNS) - truth).max()
    assert error < 1e-4 * np.abs(truth).max()


def test_a_rectangle_is_a_product_of_sincs_and_a_circle_a_jinc() -> None:
    drawing = Drawing()
    drawing.polygon(2.0, rectangle(0.3, 0.2))
    truth = 2 * 0.06 * np.sinc(0.2 * ROWS)[:, None] * np.sinc(0.3 * COLUMNS)
    np.testing.assert_allclose(drawing.spectrum(ROWS, COLUMNS), truth, atol=1e-14)
    disc = Drawing()
    disc.ellipse(1.0, (0, 0), radii=(0.2, 0.2))
    rows = np.concatenate((ROWS, np.sort(np.random.default_rng(0).uniform(6, 400, 300))))
    k = np.hypot(rows[:, None], COLUMNS)
    k[k == 0] = 1e-9
    truth = 0.2 * special.j1(2 * math.pi * 0.2 * k) / k
    np.testing.assert_allclose(disc.spectrum(rows, COLUMNS), truth, atol=1e-7 * truth.max())


def test_a_polygon_with_many_corners_is_an_ellipse() -> None:
    around = np.linspace(0, 2 * math.pi, 2000, endpoint=False)
    polygon, ellipse = Drawing(), Drawing()
    polygon.polygon(1.0, np.stack((0.1 + 0.3 * np.cos(around), 0.1 * np.sin(around)), axis=1))
    ellipse.ellipse(1.0, (0.1, 0), radii=(0.3, 0.1))
    np.testing.assert_allclose(
        polygon.spectrum(ROWS, COLUMNS), ellipse.spectrum(ROWS, COLUMNS), atol=3e-7
    )


def test_shifts_turn_the_phase_and_maps_of_the_object_map_its_spectrum() -> None:
    drawing = drawing_of_everything()
    plain, square = drawing.spectrum(ROWS, COLUMNS), np.arange(-6.0, 7)
    moved = drawing.transformed(np.eye(2), (0.11, -0.07)).spectrum(ROWS, COLUMNS)
    phase = np.exp(-2j * math.pi * (0.11 * COLUMNS - 0.07 * ROWS[:, None]))
    np.testing.assert_allclose(moved, plain * phase, atol=1e-8)
    half = drawing.transformed(np.diag([2.0, 0.5]), (0, 0)).spectrum(2 * ROWS, COLUMNS / 2)
    np.testing.assert_allclose(half, plain, atol=1e-8)
    turned = drawing.transformed(rotation(math.pi / 2), (0, 0)).spectrum(square, square)
    # x goes to y and y to -x, as rot90 backwards does with rows counted downwards
    np.testing.assert_allclose(turned, np.rot90(drawing.spectrum(square, square), -1), atol=1e-8)


def test_any_linear_map_keeps_the_spectrum_true() -> None:
    place = grid(1200)
    drawing = drawing_of_everything().transformed(0.8 * CROOKED, (0.03, -0.02))
    truth = integrated(rastered(drawing, place[None], place[:, None]), place, ROWS, COLUMNS)
    error = np.abs(drawing.spectrum(ROWS, COLUMNS) - truth).max()
    assert error < 2e-4 * np.abs(truth).max()


def test_spectra_add_and_do_not_depend_on_the_direction_of_contours() -> None:
    one, two, both = Drawing(), Drawing(), Drawing()
    one.polygon(0.5, PENTAGON)
    two.ellipse(2.0, (0.1, 0), radii=(0.1, 0.2))
    both.polygon(1.0, PENTAGON[::-1])
    both.ellipse(-2.0, (0.1, 0), radii=(0.1, 0.2))
    np.testing.assert_allclose(
        both.spectrum(ROWS, COLUMNS),
        2 * one.spectrum(ROWS, COLUMNS) - two.spectrum(ROWS, COLUMNS),
        atol=1e-14,
    )


def test_softness_blurs_with_a_gaussian() -> None:
    drawing = drawing_of_everything()
    drawing.waves.clear()
    sharp = drawing.spectrum(ROWS, COLUMNS)
    drawing.softness = 0.02
    square = ROWS[:, None] ** 2 + COLUMNS**2
    blur = np.exp(-2 * math.pi**2 * 0.02**2 * square)
    np.testing.assert_allclose(drawing.spectrum(ROWS, COLUMNS), sharp * blur, atol=1e-14)


def test_cropping_keeps_what_lies_in_the_field_of_view() -> None:
    place = grid(1000)
    drawing = Drawing()
    drawing.polygon(1.0, 2.2 * PENTAGON)
    drawing.polygon(1.0, PENTAGON + np.array([2.0, 0.0]))
    cropped = drawing.cropped((1.0, 1.0))
    truth = integrated(rastered(drawing, place[None], place[:, None]), place, ROWS, COLUMNS)
    assert np.abs(cropped.spectrum(ROWS, COLUMNS) - truth).max() < 3e-4
    assert len(cropped.polygons) == 1


@pytest.mark.parametrize("shape", [(10, 14), (15, 9)])
@pytest.mark.parametrize("n_coils", [1, 3])
def test_kspace_is_the_integral_of_drawing_times_phase_times_coils(
    shape: tuple[int, int], n_coils: int
) -> None:
    drawing = drawing_of_everything()
    coils = scanner.coil_polynomials(n_coils, shape, generator=np.random.default_rng(0))
    shading = scanner.shading_polynomial(
        shape, generator=np.random.default_rng(1), strength=1.0, fade=False
    )
    kspace = scanner.exact_kspace(drawing, shape, coils=coils, shading=shading).numpy()
    height, width = scanner.field_of_view(shape)
    n = 1200
    y, x = height * grid(n)[:, None], width * grid(n)[None]
    values = rastered(drawing, x, y)
    # the polynomials by their definition, at places where no FFT grid lies
    harmonics = [
        np.exp(2j * math.pi * np.outer(grid(n), np.arange(c.shape[-1]) - c.shape[-1] // 2))
        for c in (coils, shading)
    ]
    phase = harmonics[1] @ shading[0] @ harmonics[1].T
    rows, columns = (np.arange(size) - size // 2 for size in shape)
    for coil in range(n_coils):
        product = values * phase * (harmonics[0] @ coils[coil] @ harmonics[0].T)
        truth = integrated(product, grid(n), rows.astype(float), columns.astype(float))
        # integral over the field of view -> orthonormal sum over its pixels
        truth *= math.sqrt(shape[0] * shape[1])
        assert np.abs(kspace[coil] - truth).max() < 3e-4 * np.abs(truth).max()


def test_without_phase_kspace_is_conjugate_symmetric() -> None:
    one = np.ones((1, 1, 1), complex)
    kspace = scanner.exact_kspace(drawing_of_everything(), (9, 11), coils=one, shading=one)[0]
    torch.testing.assert_close(kspace, kspace.flip(0, 1).conj(), atol=1e-10, rtol=0)
    direct = drawing_of_everything().spectrum(np.arange(-4.0, 5), np.arange(-5.0, 6) * 9 / 11)
    np.testing.assert_allclose(kspace.numpy(), direct * 81 / math.sqrt(99), atol=1e-10)


def test_the_maps_of_a_slice_explain_its_coil_images() -> None:
    dataset = PhantomDataset(
        family="brain", n_coils=4, matrix_size=(64, 60), n_subjects=1, slices_per_subject=1,
        snr=math.inf, known_maps=True,
    )  # fmt: skip
    scan = dataset[0]
    assert scan.sensitivity is not None
    norm = torch.linalg.vector_norm(scan.sensitivity, dim=0)
    torch.testing.assert_close(norm, torch.ones(64, 60), atol=1e-5, rtol=0)
    images = fourier.ifft2(scan.kspace)
    left_over = images - scan.sensitivity * combine(images, scan.sensitivity)
    # what is left over is only that edges ring a little differently in each coil
    assert float(left_over.norm() / images.norm()) < 0.02


def test_coil_polynomials_follow_biot_savart_where_bodies_are() -> None:
    from activemri.mri.coils import biot_savart_sensitivity

    coils = scanner.coil_polynomials(8, (48, 48), generator=np.random.default_rng(0))
    physical = biot_savart_sensitivity(8, 48, 48, generator=np.random.default_rng(0)).numpy()
    place = (np.arange(48) - 24) / 48
    body = np.hypot(place[:, None], place) < 0.42
    error = np.abs(scanner.evaluate(coils, (48, 48)) - physical)[:, body]
    assert error.max() < 0.04 and math.sqrt((error**2).mean()) < 0.008


def everything(scan: Slice) -> tuple[torch.Tensor, ...]:
    return scan.kspace, scan.target, torch.tensor(scan.volume_max)


def small(split: str = "train", **settings: Any) -> PhantomDataset:
    sizes: dict[str, Any] = {"matrix_size": (20, 24), "n_subjects": 4, "slices_per_subject": 2}
    return PhantomDataset(split, **(sizes | settings))


def test_slices_are_the_same_to_the_bit_in_whatever_order_they_are_asked_for() -> None:
    forwards, backwards, larger = small(), small(), small(n_subjects=9)
    first = [forwards[i] for i in range(len(forwards))]
    again = [backwards[i] for i in reversed(range(len(backwards)))][::-1]
    more = [larger[i] for i in range(len(forwards))]
    for one, two, three in zip(first, again, more, strict=True):
        for a, b, c in zip(everything(one), everything(two), everything(three), strict=True):
            assert torch.equal(a, b) and torch.equal(a, c)


def test_slices_are_kept_and_counted_from_both_ends() -> None:
    dataset = small()
    assert dataset[3] is dataset[3] is dataset[-5]
    with pytest.raises(IndexError, match="slice 8 of 8"):
        dataset[8]


def test_subjects_and_slices_and_noise_differ() -> None:
    dataset = small()
    targets = [dataset[i].target for i in range(len(dataset))]
    for i, one in enumerate(targets):
        assert all(not torch.allclose(one, other, atol=1e-3) for other in targets[:i])


def test_splits_share_no_subject() -> None:
    names = {
        split: {PhantomDataset(split).describe(i).subject for i in range(0, 160, 4)}
        for split in ("train", "val", "calibration", "test")
    }
    assert all(len(subjects) == 40 for subjects in names.values())
    assert len(set().union(*names.values())) == 160


def test_default_sizes() -> None:
    sizes = {"train": 800, "val": 160, "calibration": 240, "test": 160}
    assert {split: len(PhantomDataset(split)) for split in sizes} == sizes
    assert PhantomDataset().shape == (128, 128) and PhantomDataset().n_coils == 1


def test_mixed_takes_the_families_in_turn_with_the_same_subjects() -> None:
    mixed = small(family="mixed")
    assert [mixed.describe(2 * i).volume for i in range(4)] == [
        "phantom-brain-000000", "phantom-knee-000001", "phantom-abdomen-000002",
        "phantom-brain-000003",
    ]  # fmt: skip
    assert torch.equal(mixed[2].kspace, small(family="knee")[2].kspace)


def test_a_description_is_true_of_the_slice() -> None:
    dataset = small(n_coils=2)
    for i in range(len(dataset)):
        info, scan = dataset.describe(i), dataset[i]
        assert (info.volume, info.index, info.subject) == (scan.volume, scan.index, scan.subject)
        assert info.contrast == scan.contrast and info.contrast in ("T1", "T2", "PD")
        assert info.shape == scan.shape == dataset.shape
        assert info.target_shape == tuple(scan.target.shape)
        assert info.n_coils == scan.n_coils == dataset.n_coils == 2
        assert scan.measured.all()


def test_acquiring_everything_gives_the_target() -> None:
    for n_coils in (1, 3):
        scan = small(n_coils=n_coils, known_maps=True)[1]
        maps = None if scan.sensitivity is None else scan.sensitivity[None]
        mask = torch.ones(1, 1, 24, dtype=torch.bool)
        operator = Operator.on_grid(mask, (20, 24), maps)
        samples = operator.transform.of_grid(scan.kspace[None])
        image = operator.adjoint(samples)[0].abs()
        torch.testing.assert_close(image, scan.target, atol=1e-6, rtol=1e-5)
        assert scan.kspace.dtype == torch.complex64 and scan.target.dtype == torch.float32


def test_volume_max_is_the_largest_target_of_the_volume() -> None:
    dataset = small(slices_per_subject=3)
    for start in (0, 3):
        volume = [dataset[start + i] for i in range(3)]
        largest = max(float(scan.target.max()) for scan in volume)
        assert [scan.volume_max for scan in volume] == [largest] * 3


def test_the_signal_to_noise_ratio_is_as_defined() -> None:
    clean, noisy = (
        small(snr=snr, matrix_size=(64, 64), n_subjects=1, slices_per_subject=1, n_coils=3)[0]
        for snr in (math.inf, 20.0)
    )
    noise = (noisy.kspace - clean.kspace).abs().square().mean().sqrt()
    body = clean.target > 0.1 * clean.target.max()
    assert float(clean.target[body].mean() / noise) == pytest.approx(20, rel=0.03)


@pytest.mark.parametrize("family", DRAW)
def test_bodies_lie_in_the_field_of_view_and_change_smoothly(family: str) -> None:
    dataset = PhantomDataset(
        "train", family=family, n_subjects=3, slices_per_subject=6, matrix_size=(48, 48), snr=1e6
    )
    for start in range(0, 18, 6):
        targets = [dataset[start + i].target for i in range(6)]
        for target in targets:
            edge = torch.cat((target[:, :1], target[:, -1:]))
            assert float(edge.mean()) < 0.05 * float(target.max())
            assert 0.05 < float((target > 0.1 * target.max()).float().mean()) < 0.9
        steps = [float((b - a).norm()) for a, b in itertools.pairwise(targets)]
        across = float((targets[-1] - targets[0]).norm())
        assert 0 < max(steps) < 0.8 * float(targets[0].norm()) and across > 0


def test_subjects_of_a_family_need_different_lines() -> None:
    """Energy of mid-frequency columns: of two subjects it correlates less than of two slices."""
    dataset = PhantomDataset("train", family="knee", n_subjects=8, slices_per_subject=2)

    def profile(index: int) -> Array:
        energy = dataset[index].kspace.abs().square().sum(dim=(0, 1)).double().log().numpy()
        order = np.abs(np.arange(128) - 64)
        smooth = np.array([energy[np.abs(order - o) <= 3].mean() for o in order])
        return np.asarray((energy - smooth)[(order > 10) & (order < 40)])

    slices = [np.corrcoef(profile(2 * i), profile(2 * i + 1))[0, 1] for i in range(8)]
    others = [np.corrcoef(profile(2 * i), profile((2 * i + 2) % 16))[0, 1] for i in range(8)]
    assert np.mean(slices) > np.mean(others) + 0.3


def test_number_decides_about_the_subject() -> None:
    one, same, other = Subject(7, "brain"), Subject(7, "brain"), Subject(8, "brain")
    assert one.name == "phantom-brain-000007"
    extents = [subject.draw(0.1).extent()[0] for subject in (one, same, other)]
    assert np.array_equal(extents[0], extents[1])
    assert not np.allclose(extents[0], extents[2])


def test_non_square_pictures_show_the_same_body_at_the_same_size() -> None:
    square, wide = (
        small(family="abdomen", matrix_size=(48, width), phase=0.0, snr=math.inf)[0].target
        for width in (48, 64)
    )
    wide = wide[:, 8:-8]
    # the shading differs, the outline does not
    inside, same = square > 0.1 * square.max(), wide > 0.1 * wide.max()
    assert float((inside != same).float().mean()) < 0.03


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "dev"}, "split must be one of train, val, calibration, test; got 'dev'"),
        ({"family": "heart"}, "family must be one of brain, knee, abdomen, mixed; got 'heart'"),
        ({"n_subjects": 0}, "n_subjects must be a whole number from 1"),
        ({"split": "val", "n_subjects": 200_001}, "n_subjects must be .* to 100000"),
        ({"matrix_size": (4, 64)}, "height of matrix_size must be"),
        ({"matrix_size": (64, 4.5)}, "width of matrix_size must be"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhantomDataset(**settings)  # type: ignore[arg-type]


def test_importing_phantoms_does_not_import_the_compiler() -> None:
    code = (
        "import sys, activemri.data.phantoms.dataset; "
        "sys.exit(any(m in sys.modules for m in ('numba', 'scipy.special')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_furrows_cut_area_off_and_lie_in_the_outline() -> None:
    circle = blob(np.random.default_rng(0), (0.3, 0.3), roughness=0.0, n=100)
    outer, inner = fold(
        circle, [(i / 10, 0.08, 0.0, 0.0, 0.006) for i in range(10)], thickness=0.015
    )
    areas = [abs(signed_area(points)) for points in (circle, outer, inner)]
    assert areas[0] > areas[1] + 10 * 0.08 * 0.003 and areas[1] > areas[2]
    assert np.hypot(*inner.T).max() < np.hypot(*outer.T).max() < 0.301


def test_contours_pass_where_they_should() -> None:
    square = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    np.testing.assert_allclose(spline(square, pieces=5)[::5], square, atol=1e-12)
    line = curve([(0.0, 0.0), (0.5, 0.2), (1.0, 0.0)], n=9)
    np.testing.assert_allclose(line[[0, 4, 8]], [(0, 0), (0.5, 0.2), (1, 0)], atol=1e-12)
    ribbon = band([(0.0, 0.0), (0.5, 0.0), (1.0, 0.0)], 0.1)
    assert abs(signed_area(ribbon)) == pytest.approx(0.1)
    circle = blob(np.random.default_rng(0), (0.3, 0.3), roughness=0.0, n=200)
    assert np.hypot(*inset(circle, 0.1).T).mean() == pytest.approx(0.2, rel=1e-3)


@pytest.fixture(scope="module")
def with_lesions() -> PhantomDataset:
    return PhantomDataset(lesions=True, n_subjects=5, slices_per_subject=2, matrix_size=(64, 64))


def test_a_lesion_lies_in_its_box_and_changes_nothing_far_from_it() -> None:
    options: dict[str, Any] = {"n_subjects": 4, "slices_per_subject": 2, "matrix_size": (64, 64)}
    options |= {"snr": math.inf, "phase": 0.0}
    plain, lesions = PhantomDataset(**options), PhantomDataset(lesions=True, **options)
    for position in range(len(plain)):
        one = lesions[position]
        assert one.roi is not None
        assert plain[position].roi is None
        added = fourier.ifft2(one.kspace - plain[position].kspace)[0].abs().square()
        assert float(added[one.roi].sum() / added.sum()) > 0.9
        assert 9 <= int(one.roi.sum()) <= 24**2


def test_the_subjects_differ_in_where_a_lesion_lies_and_which_lines_show_it(
    with_lesions: PhantomDataset,
) -> None:
    boxes = set()
    for position in range(0, len(with_lesions), 2):
        roi = with_lesions[position].roi
        assert roi is not None
        first, second = (index[0].item() for index in roi.nonzero(as_tuple=True))
        boxes.add((first, second))
    assert len(boxes) == 5
    subjects = [Subject(number, "brain") for number in range(8)]
    drawings = [(Drawing([(1.0, PENTAGON)]), subject.generator("lesion")) for subject in subjects]
    for drawing, generator in drawings:
        add_lesion(drawing, generator, 0.0)
    along_phase_encode = [abs(drawing.waves[-1][7]) for drawing, _ in drawings]
    assert max(along_phase_encode) > 2 * min(along_phase_encode)


def test_a_box_is_in_pixels_of_any_matrix() -> None:
    drawing = Drawing()
    drawing.ellipse(1.0, (0.25, -0.125), radii=(0.1, 0.05))
    top, left, height, width = lesion_box(drawing, (64, 32))
    # The smaller side has length one: 32 pixels a unit; the centre is pixel (32, 16).
    assert top <= 32 - 32 * (0.125 + 0.05) <= 32 - 32 * (0.125 - 0.05) <= top + height - 1
    assert left <= 16 + 32 * (0.25 - 0.1) <= 16 + 32 * (0.25 + 0.1) <= left + width - 1
    assert (height, width) == (7, 11)


def test_wider_fields_of_view_narrow_the_body_and_stretch_its_spectrum() -> None:
    sizes: dict[str, Any] = {"n_subjects": 8, "slices_per_subject": 1, "matrix_size": (64, 64)}
    usual = PhantomDataset(family="abdomen", **sizes)
    wider = PhantomDataset(family="abdomen", widest_view=2.0, **sizes)

    def width(dataset: PhantomDataset, i: int) -> int:
        target = dataset[i].target
        return int((target > 0.15 * target.max()).any(dim=0).sum())

    shrink = [width(wider, i) / width(usual, i) for i in range(8)]
    assert all(0.45 < factor < 1.05 for factor in shrink)
    assert max(shrink) - min(shrink) > 0.2
    narrowest = int(np.argmin(shrink))
    outer = torch.arange(64).sub(32).abs() > 16
    share = [
        float(s.kspace.abs().square()[..., outer].sum() / s.kspace.abs().square().sum())
        for s in (usual[narrowest], wider[narrowest])
    ]
    assert share[1] > share[0]
