"""Observations: shapes, types, bounds, and what they are made of."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from activemri.data.slices import Slice
from activemri.envs.observation import (
    BOUND,
    OBSERVATIONS,
    Frame,
    make_observation,
)
from activemri.envs.scan import WHITE, Scan, View
from activemri.metrics.reference import to_uint8
from activemri.mri import fourier
from activemri.mri.geometry import make_geometry
from tests.envs.scans import Unsure, mixed_scans, scan


def seen(scans: list[Slice], kind: str, *, steps: int = 0) -> tuple[Any, View, Frame]:
    """The observation of scans in the frame of all, after some actions."""
    data = mixed_scans()
    geometry = make_geometry("columns", data.shape)
    acquisition = Scan(geometry, Unsure(), n_center_lines=3)
    observation, frame = make_observation(kind), Frame.of(data, acquisition)
    state = acquisition.start(scans)
    for _ in range(steps):
        state = acquisition.acquire(state, state.view.legal.long().argmax(dim=1))
    view = state.view
    return observation(view, frame), view, frame


def rows_of(observation: dict[str, Tensor] | Tensor, row: int) -> Any:
    if isinstance(observation, dict):
        return {key: value[row].numpy() for key, value in observation.items()}
    return observation[row].numpy()


@pytest.mark.parametrize("kind", OBSERVATIONS)
@pytest.mark.parametrize("first", [0, 4, 7])
def test_every_observation_lies_in_its_space_with_its_type(kind: str, first: int) -> None:
    one = mixed_scans()[first]
    for steps in (0, 2):
        observation, _, frame = seen([one, one], kind, steps=steps)
        space: gymnasium.Space[Any] = OBSERVATIONS[kind].space(frame)
        for row in range(2):
            assert space.contains(rows_of(observation, row))


def test_the_default_image_is_the_magnitude_with_white_at_twice_the_scale() -> None:
    observation, view, _ = seen([scan(0)], "image", steps=2)
    grey = 255 * view.reconstruction.image[0].abs() / (WHITE * view.scale[0])
    image = observation["image"][0, 0]
    # The frame of the targets is (16, 18), the largest of them.
    assert image.shape == (16, 18)
    assert (image.double() - grey.clamp(max=255).double()).abs().max() <= 1


def test_a_smaller_scan_lies_in_the_centre_of_a_black_frame() -> None:
    observation, _, frame = seen([mixed_scans()[7]], "image")
    image = observation["image"][0, 0]
    assert frame.target_shape == (16, 18)
    assert (image[1:16, 3:16] > 0).float().mean() > 0.5
    image[1:16, 3:16] = 0
    assert (image == 0).all()


def test_the_uncertainty_is_a_second_channel() -> None:
    observation, view, _ = seen([scan(0)], "uncertainty")
    assert observation["image"].shape[1] == 2
    assert view.reconstruction.uncertainty is not None
    gain = 255 / (WHITE * view.scale)
    expected = to_uint8(view.reconstruction.uncertainty, gain, view.target_shape)
    assert torch.equal(observation["image"][:, 1], expected)
    assert expected.max() > 0


def test_the_complex_image_is_the_reconstruction_in_units_of_the_scale() -> None:
    observation, view, frame = seen([scan(0)], "complex", steps=1)
    assert frame.shape == (20, 22)
    inner = observation["image"][0, :, 2:18, 2:20]
    image = torch.complex(inner[0], inner[1]) * view.scale
    assert torch.allclose(image, view.reconstruction.image[0], atol=1e-5 * float(view.scale))


@pytest.mark.parametrize(("first", "n_coils"), [(0, 1), (7, 3)])
def test_kspace_and_coil_images_tell_the_same(first: int, n_coils: int) -> None:
    one = mixed_scans()[first]
    kspace = seen([one], "kspace", steps=1)[0]["kspace"][0]
    images, view, frame = seen([one], "multicoil", steps=1)
    assert frame.n_coils == 3
    height, width = one.shape
    top, left = 20 // 2 - height // 2, 22 // 2 - width // 2
    window = (..., slice(top, top + height), slice(left, left + width))
    real, imaginary = kspace[window][:n_coils], kspace[window][3 : 3 + n_coils]
    samples = torch.complex(real, imaginary) * (height * width) ** 0.5
    coils = images["image"][0][window]
    expected = torch.complex(coils[:n_coils], coils[3 : 3 + n_coils])
    assert torch.allclose(fourier.ifft2(samples), expected, atol=1e-4)
    assert (kspace[n_coils:3] == 0).all()
    assert torch.allclose(
        samples * view.scale, view.measurement.kspace[0], atol=1e-4 * float(view.scale)
    )


def test_mask_and_budget_count_what_was_done() -> None:
    observation, view, _ = seen([scan(0)], "mask", steps=3)
    assert observation["mask"].dtype == torch.int8
    assert int(observation["mask"].sum()) == 3 + 3
    assert observation["budget"][0].item() == pytest.approx(12 / 15)
    assert view.budget.item() == 12


def test_the_flat_observation_is_the_default_one_laid_out() -> None:
    flat, _, _ = seen([scan(0)], "flat", steps=1)
    parts, _, _ = seen([scan(0)], "image", steps=1)
    n = parts["image"].numel()
    assert torch.equal((flat[0, :n] * 255).round().to(torch.uint8), parts["image"].flatten())
    assert torch.equal(flat[0, n:-1], parts["mask"][0].float())
    assert flat[0, -1] == parts["budget"][0, 0]


@pytest.mark.parametrize("size", [(5, 7), (16, 18)])
def test_grey_is_cut_off_at_white_and_black_without_gain(size: tuple[int, int]) -> None:
    image = torch.full((2, *size), 3 + 4j, dtype=torch.complex64)
    gain = torch.tensor([255.0, 0.0])
    for values in (image, image.abs()):
        grey = to_uint8(values, gain, size)
        assert grey.dtype == torch.uint8
        assert (grey[0] == 255).all()
        assert (grey[1] == 0).all()
    half = to_uint8(image, torch.tensor([25.5, 25.5]), size)
    assert ((half == 127) | (half == 128)).all()


def test_large_values_are_clipped_to_the_bound_of_the_space() -> None:
    """A scan whose first lines hold almost nothing gets values far above its scale."""
    one = scan(0)
    one.kspace[..., 8:11] *= 1e-4
    observation, _, frame = seen([one], "complex", steps=8)
    assert observation["image"].abs().max() == BOUND
    assert OBSERVATIONS["complex"].space(frame).contains(rows_of(observation, 0))


def test_unknown_observations_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown observation 'images'; choose from image"):
        make_observation("images")


def test_an_observation_may_be_an_object_of_ones_own() -> None:
    class Budget:
        def space(self, frame: Frame) -> gymnasium.spaces.Box:
            return gymnasium.spaces.Box(0, np.inf, (1,), np.float32)

        def __call__(self, view: View, frame: Frame) -> Tensor:
            return view.budget.float()[:, None]

    mine = Budget()
    assert make_observation(mine) is mine
