from dataclasses import replace

import pytest
import torch
from torch import Tensor

from activemri.data.slices import Slice
from activemri.envs.line_features import (
    N_FEATURES,
    NAMES,
    _line_features,
    feature_names,
    mirror_image,
    mirror_of,
    readout_features,
)
from activemri.envs.scan import Scan, View
from activemri.mri import fourier
from activemri.mri.geometry import make_geometry
from activemri.reconstruction.zero_filled import ZeroFilled
from tests.envs.scans import Unsure, scan


def view_of(
    slices: list[Slice],
    *,
    geometry: str = "columns",
    frame: tuple[int, int] = (15, 17),
    taken: tuple[int, ...] = (),
    unsure: bool = True,
) -> View:
    made = make_geometry(geometry, frame)
    acquisition = Scan(made, Unsure() if unsure else ZeroFilled(), n_center_lines=3)
    state = acquisition.start(slices)
    for action in taken:
        state = acquisition.acquire(state, torch.full((len(slices),), action))
    return state.view


def feature(features: Tensor, name: str) -> Tensor:
    return features[:, NAMES.index(name)]


def seen_from_the_other_side(one: Slice) -> Slice:
    """The scan whose column c is this one's column at the opposite side of the centre."""
    index = mirror_of(one.shape[1])
    kspace = one.kspace[..., index]
    return replace(one, kspace=kspace, target=fourier.ifft2(kspace)[0].abs())


def test_every_line_of_every_scan_has_all_features_and_they_are_of_order_one() -> None:
    features = readout_features(view_of([scan(i, shape=(15, 17)) for i in range(3)], taken=(2,)))
    assert features.shape == (3, N_FEATURES, 17)
    assert features.dtype == torch.float32
    assert features.abs().max() < 3


@pytest.mark.parametrize("n_coils", [1, 2])
@pytest.mark.parametrize("unsure", [False, True])
@pytest.mark.parametrize(
    ("geometry", "shape", "frame"),
    [
        ("columns", (15, 17), (15, 17)),
        ("columns", (16, 18), (16, 18)),
        ("columns", (16, 13), (18, 17)),
        ("rows", (15, 18), (19, 18)),
        ("conjugate-columns", (7, 16), (7, 16)),
    ],
)
def test_the_compiled_features_are_those_of_plain_torch(
    geometry: str, shape: tuple[int, int], frame: tuple[int, int], unsure: bool, n_coils: int
) -> None:
    roi = torch.zeros(shape, dtype=torch.bool)
    roi[3:5, 4:9] = True
    slices = [
        replace(scan(i, shape=shape, n_coils=n_coils, maps=n_coils > 1, padding=1), roi=roi)
        for i in range(3)
    ]
    view = view_of(slices, geometry=geometry, frame=frame, taken=(4, 5), unsure=unsure)
    torch.testing.assert_close(readout_features(view), _line_features(view), rtol=0, atol=1e-5)
    # An image that contradicts the samples.
    image = view.reconstruction.image * torch.linspace(0.5, 2, shape[1]) + 0.2j
    wrong = replace(view, reconstruction=replace(view.reconstruction, image=image))
    torch.testing.assert_close(readout_features(wrong), _line_features(wrong), rtol=0, atol=1e-5)
    mismatch = feature(readout_features(wrong), "mismatch")[wrong.mask]
    assert bool((mismatch > 0.3).any())


def test_a_scan_does_not_depend_on_those_beside_it() -> None:
    both = readout_features(view_of([scan(i, shape=(15, 17)) for i in range(2)], taken=(2,)))
    alone = readout_features(view_of([scan(1, shape=(15, 17))], taken=(2,)))
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)


def test_rows_are_columns_of_the_turned_scan() -> None:
    one = scan(0, shape=(15, 17))
    turned = replace(
        one, kspace=one.kspace.transpose(1, 2), target=one.target.T, measured=one.measured.T
    )
    columns = readout_features(view_of([one], taken=(2, 11)))
    rows = readout_features(view_of([turned], geometry="rows", frame=(17, 15), taken=(2, 11)))
    torch.testing.assert_close(rows, columns, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [16, 17])
def test_the_mirrored_scan_has_mirrored_features(width: int) -> None:
    one = scan(0, shape=(15, width))
    opposite = int(mirror_of(width)[3])
    here = readout_features(view_of([one], frame=(15, width), taken=(3,), unsure=False))
    # An even number of columns starts with a block that is not its own mirror image.
    start = view_of([one], frame=(15, width)).mask[:, mirror_of(width)]
    acquisition = Scan(make_geometry("columns", (15, width)), ZeroFilled())
    state = acquisition.start([seen_from_the_other_side(one)], start_masks=start)
    there = readout_features(acquisition.acquire(state, torch.tensor([opposite])).view)
    inner = slice(1, None) if width % 2 == 0 else slice(None)
    kept = [i for i, name in enumerate(NAMES) if not name.startswith("lines to")]
    turned = mirror_image(here)
    torch.testing.assert_close(
        turned[:, kept][..., inner], there[:, kept][..., inner], rtol=1e-4, atol=1e-4
    )


def test_mirroring_twice_changes_nothing() -> None:
    features = readout_features(view_of([scan(0, shape=(15, 17))], taken=(2,)))
    torch.testing.assert_close(mirror_image(mirror_image(features)), features)


def test_what_is_acquired_and_how_far_the_next_such_line_is() -> None:
    features = readout_features(view_of([scan(0, shape=(15, 17))], taken=(2,)))[0]
    acquired = features[NAMES.index("acquired")]
    assert acquired.nonzero().squeeze(1).tolist() == [2, 7, 8, 9]
    left = torch.expm1(3 * features[NAMES.index("lines to the left")])
    right = torch.expm1(3 * features[NAMES.index("lines to the right")])
    assert left[:5].round().tolist() == [1, 2, 0, 1, 2]
    assert right[:3].round().tolist() == [2, 1, 0]
    assert right[-2:].round().tolist() == [2, 1]


def test_energies_are_shares_of_the_reconstruction() -> None:
    view = view_of([scan(0, shape=(15, 17))], taken=(2,), unsure=False)
    energy = fourier.fft2(view.reconstruction.image).abs().square().sum(dim=1)
    share = 10 ** (3 * (feature(readout_features(view), "energy") - 1)) - 1e-7
    torch.testing.assert_close(share, (energy / energy.sum()).float(), rtol=1e-3, atol=1e-6)


def test_bands_and_places_add_up_to_the_whole_line() -> None:
    features = readout_features(view_of([scan(0, shape=(15, 17))], taken=(2,)))

    def total(prefix: str) -> Tensor:
        rows = [i for i, name in enumerate(NAMES) if name.startswith(prefix)]
        return (10 ** (3 * (features[:, rows] - 1)) - 1e-7).sum(dim=1)

    whole = 10 ** (3 * (feature(features, "energy") - 1)) - 1e-7
    torch.testing.assert_close(total("energy at frequency"), whole, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(total("energy at place"), whole, rtol=1e-3, atol=1e-6)


def test_an_image_of_constant_phase_is_symmetric_and_a_random_one_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(1, 15, 17, generator=generator)
    plain = (real * torch.exp(torch.tensor(0.7j))).to(torch.complex64)
    slices = [
        replace(scan(0, shape=(15, 17)), kspace=fourier.fft2(image), target=image[0].abs())
        for image in (plain, plain * torch.exp(6j * torch.rand(1, 15, 17, generator=generator)))
    ]
    values = [float(feature(readout_features(view_of([s])), "symmetry")[0, 0]) for s in slices]
    assert values[0] == pytest.approx(1, abs=1e-4)
    assert values[1] < 0.8


def test_a_region_tells_what_it_shows_and_how_large_it_is() -> None:
    roi = torch.zeros(15, 17, dtype=torch.bool)
    roi[3:8, 4:10] = True
    one = scan(0, shape=(15, 17))
    without = readout_features(view_of([one], unsure=False))
    view = view_of([replace(one, roi=roi)], unsure=False)
    features = readout_features(view)
    assert not feature(without, "energy in the region").any()
    shown = fourier.fft2(view.reconstruction.image * roi).abs().square().sum(dim=1)
    share = shown / view.reconstruction.image.abs().square().sum()
    found = 10 ** (3 * (feature(features, "energy in the region") - 1)) - 1e-7
    torch.testing.assert_close(found, share.float(), rtol=1e-3, atol=1e-6)
    size = 10 ** (3 * (feature(features, "size of the region") - 1)) - 1e-7
    assert float(size.sum()) == pytest.approx(30 / (15 * 17), rel=1e-3)
    rest = [i for i, name in enumerate(NAMES) if "region" not in name]
    torch.testing.assert_close(features[:, rest], without[:, rest])


def test_a_smaller_scan_lies_in_the_centre_of_the_frame() -> None:
    alone = readout_features(view_of([scan(0, shape=(15, 13))], frame=(15, 13)))
    framed = readout_features(view_of([scan(0, shape=(15, 13))], frame=(15, 17)))
    torch.testing.assert_close(framed[..., 2:15], alone)
    assert not framed[..., :2].any()
    assert not framed[..., 15:].any()


@pytest.mark.parametrize("geometry", ["points", "radial"])
def test_readouts_that_are_no_lines_have_features_of_their_own(
    geometry: str,
) -> None:
    view = view_of([scan(i, shape=(15, 17)) for i in range(2)], geometry=geometry, taken=(9,))
    features = dict(zip(feature_names(False), readout_features(view).unbind(1), strict=True))
    assert all(value.shape == view.mask.shape for value in features.values())
    assert all(
        bool(value.isfinite().all()) and value.abs().max() < 4 for value in features.values()
    )
    assert torch.equal(features["acquired"].bool(), view.mask)
    assert torch.equal(features["nearest acquired"] == 0, view.mask)
    strength = view.log.samples.abs().square().sum(dim=(2, 3))
    share = 10 ** (3 * (features["energy"] - 1)) - 1e-7
    expected = strength / strength.sum(dim=1, keepdim=True)
    torch.testing.assert_close(share, expected, rtol=1e-3, atol=1e-6)
    turn = features["cosine"].square() + features["sine"].square()
    torch.testing.assert_close(turn, torch.ones_like(turn))
    assert bool((features["distance"] > 0).any()) == (geometry == "points")


@pytest.mark.parametrize("geometry", ["columns", "points", "radial"])
def test_scans_that_begin_with_nothing_have_features_too(geometry: str) -> None:
    acquisition = Scan(make_geometry(geometry, (15, 17)), ZeroFilled(), n_center_lines=0)
    features = readout_features(acquisition.start([scan(0, shape=(15, 17))]).view)
    assert bool((features.abs() < 4).all())


@pytest.mark.parametrize("n_center", [0, 9])
def test_the_nearest_acquired_point_is_found_among_all(n_center: int) -> None:
    acquisition = Scan(make_geometry("points", (9, 8)), ZeroFilled(), n_center_lines=n_center)
    view = acquisition.start([scan(0, shape=(9, 8))]).view
    place = view.transform.coordinates.float()
    apart = (place[:, None] - place).square().sum(dim=-1).sqrt()
    expected = apart[:, view.mask[0]].amin(dim=1) if n_center else apart.amax().expand(72)
    nearest = readout_features(view)[0, feature_names(False).index("nearest acquired")]
    torch.testing.assert_close(nearest, expected)
