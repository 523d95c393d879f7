"""Pictures of an episode: shape, content, robustness."""

import dataclasses
import importlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from activemri.envs import rendering
from activemri.envs.rendering import Frame, describe, draw, gif_bytes

SHAPES = [((8, 10), (8, 10)), ((20, 31), (20, 31)), ((64, 36), (32, 32)), ((9, 200), (9, 150))]


def frame(
    shape: tuple[int, int] = (24, 32), target_shape: tuple[int, int] | None = None, **changes: Any
) -> Frame:
    rng = np.random.default_rng(0)
    width = shape[1]
    mask = np.zeros(shape, dtype=bool)
    mask[:, width // 2 - 2 : width // 2 + 2] = True
    target = rng.random(target_shape or shape)
    plain = Frame(
        kspace=(rng.normal(size=shape) + 1j * rng.normal(size=shape)) * mask,
        mask=mask,
        reconstruction=target + 0.1 * rng.normal(size=target.shape),
        target=target,
        scores=[0.5, 0.6, 0.65],
        score_name="SSIM",
        n_acquired=4,
        n_lines=width,
        budget=6,
        title="random, volume 3",
    )
    return dataclasses.replace(plain, **changes)


def column(place: int, shape: tuple[int, int]) -> Any:
    latest = np.zeros(shape, dtype=bool)
    latest[:, place] = True
    return latest


def panel(picture: rendering.Pixels, column: int, row: int, *, size: int) -> rendering.Pixels:
    left, top = rendering.corner(column, row, size=size)
    return picture[top : top + size, left : left + size]


@pytest.mark.parametrize(("shape", "target_shape"), SHAPES)
@pytest.mark.parametrize("size", [64, 97, 128])
def test_shape_is_even_and_depends_on_the_size_alone(
    shape: tuple[int, int], target_shape: tuple[int, int], size: int
) -> None:
    picture = draw(frame(shape, target_shape), size=size)
    later = frame(
        (8, 10), scores=[0.1], latest=column(3, (8, 10)), uncertainty=np.ones((8, 10)), title=""
    )
    assert picture.dtype == np.uint8
    assert picture.shape == draw(later, size=size).shape
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    assert picture.std() > 5


def test_equal_images_look_equal_and_have_no_error() -> None:
    plain = frame()
    picture = draw(dataclasses.replace(plain, reconstruction=plain.target), size=96)
    reconstruction, target = (panel(picture, column, 0, size=96) for column in (1, 2))
    np.testing.assert_array_equal(reconstruction, target)
    assert panel(picture, 0, 1, size=96)[12:84].max() == 0  # 24 x 32 fills rows 12 to 84


def test_reconstruction_is_shown_in_the_window_of_the_target() -> None:
    plain = frame()
    half = draw(dataclasses.replace(plain, reconstruction=plain.target * 0.5), size=96)
    reconstruction, target = (panel(half, column, 0, size=96)[20:76] for column in (1, 2))
    assert reconstruction.mean() == pytest.approx(target.mean() / 2, rel=0.03)


def test_brightness_of_the_error_does_not_depend_on_the_largest_error() -> None:
    plain = frame()
    patch = np.zeros_like(plain.target)
    patch[4:8, 4:8] = 0.1
    spike = patch.copy()
    spike[20, 20] = 1e6
    pictures = [
        panel(
            draw(dataclasses.replace(plain, reconstruction=plain.target + e), size=96),
            0,
            1,
            size=96,
        )
        for e in (patch, spike)
    ]
    np.testing.assert_array_equal(pictures[0][:50, :50], pictures[1][:50, :50])
    assert pictures[0][:50, :50].max() > 100


def test_scale_of_the_scan_does_not_change_the_picture() -> None:
    plain = frame(uncertainty=np.full((24, 32), 0.1))
    names = ("kspace", "reconstruction", "target", "uncertainty")
    tiny = {name: getattr(plain, name) * 2.0**-40 for name in names}
    np.testing.assert_array_equal(draw(plain), draw(dataclasses.replace(plain, **tiny)))


def test_acquired_columns_are_brighter_than_the_rest() -> None:
    picture = panel(draw(frame((32, 32)), size=128), 0, 0, size=128)
    assert picture[:110, 14 * 4 : 18 * 4].min() > 20
    assert picture[:110, : 14 * 4].max() == picture[:110, 18 * 4 :].max() == 0


def test_only_acquired_samples_are_drawn() -> None:
    plain = frame()
    leaked = dataclasses.replace(plain, kspace=plain.kspace + np.where(plain.mask, 0, 1e3))
    np.testing.assert_array_equal(draw(plain), draw(leaked))


def test_latest_column_is_marked_where_it_is() -> None:
    plain, marked = (
        panel(draw(frame((32, 32), latest=latest), size=128), 0, 0, size=128)
        for latest in (None, column(5, (32, 32)))
    )
    changed = np.flatnonzero((plain != marked).any(axis=(0, 2)))
    np.testing.assert_array_equal(changed, np.arange(5 * 4, 6 * 4))


def test_uncertainty_has_a_panel_of_its_own() -> None:
    with_it = panel(
        draw(frame((32, 32), uncertainty=np.full((32, 32), 1e9)), size=96), 1, 1, size=96
    )
    assert (with_it == with_it[0, 0]).all() and with_it.min() > 150


def test_the_curve_rises_to_the_right_with_the_scores() -> None:
    picture = draw(frame(scores=[0.2, 0.4, 0.6, 0.8], budget=3), size=128)
    plot = panel(picture, 2, 1, size=128).astype(int)
    blue = np.argwhere((plot[..., 2] > 200) & (plot[..., 0] < 120))
    left, right = blue[blue[:, 1] < 20, 0].mean(), blue[blue[:, 1] > 110, 0].mean()
    assert left > right + 15  # row numbers grow downwards


def test_curves_that_share_a_span_share_an_axis() -> None:
    low, high = ([0.5, 0.55], [0.5, 0.9])
    drawn = [draw(frame(scores=scores, span=(0.5, 0.9)), size=96) for scores in (low, high)]
    labels = [panel(picture, 1, 1, size=96)[:-14, :20] for picture in drawn]
    np.testing.assert_array_equal(labels[0], labels[1])
    alone = panel(draw(frame(scores=low), size=96), 1, 1, size=96)[:-14, :20]
    assert not np.array_equal(alone, labels[0])


@pytest.mark.parametrize(
    "scores", [[0.0], [0.0, 0.0, 0.0], [float("nan"), 0.5], [31.5], [-1.0, 1.0], [1e-9, 2e-9]]
)
def test_any_scores_can_be_drawn(scores: list[float]) -> None:
    assert draw(frame(scores=scores)).shape == draw(frame()).shape
    assert describe(frame(scores=scores))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf, 1e38])
def test_bad_pixels_and_empty_images_can_be_drawn(value: float) -> None:
    flat = np.full((24, 32), value, dtype=np.float32)
    bad = frame(reconstruction=flat, target=flat, uncertainty=flat, kspace=flat)
    assert draw(bad).shape == draw(frame()).shape


def test_more_steps_than_the_budget_and_a_long_title_stay_inside() -> None:
    picture = draw(frame(scores=np.linspace(0, 1, 50), title="long " * 100), size=64)
    assert picture.shape == draw(frame(), size=64).shape


def test_drawing_changes_nothing_it_was_given() -> None:
    given = frame(latest=column(2, frame().mask.shape))
    for value in (given.kspace, given.mask, given.reconstruction, given.target):
        value.setflags(write=False)
    first = draw(given)
    np.testing.assert_array_equal(first, draw(given))


def test_too_small_panels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 pixels a panel; got 10"):
        draw(frame(), size=10)


def test_description_shows_the_mask_and_the_latest_line() -> None:
    mask = np.zeros((3, 6), dtype=bool)
    mask[:, [0, 3]] = True
    mask[1, 5] = True
    text = describe(frame((3, 6), mask=mask, latest=column(3, (3, 6)))).splitlines()
    assert text[:3] == ["random, volume 3", "#..#.+", "   ^"]
    assert text[3] == "step 2/6, 4/6 lines, SSIM 0.6500 (+0.1500 since the start)"


def test_description_of_a_wide_mask_fits_into_its_width() -> None:
    mask = np.zeros((2, 200), dtype=bool)
    mask[:, :100] = True
    text = describe(frame((2, 200), mask=mask, latest=column(199, (2, 200))), width=50).splitlines()
    assert text[1] == "#" * 25 + "." * 25
    assert text[2] == " " * 49 + "^"


def test_animation_can_be_read_back() -> None:
    pictures = [draw(frame(scores=[0.1 * k for k in range(n + 1)]), size=64) for n in range(4)]
    with Image.open(io.BytesIO(gif_bytes(pictures, fps=5))) as animation:
        assert animation.n_frames == 4  # type: ignore[attr-defined]
        assert animation.size == pictures[0].shape[1::-1]
        assert animation.info["duration"] == 200
        animation.seek(3)
        assert animation.info["duration"] == 1500
        last = np.asarray(animation.convert("RGB"), dtype=float)
    assert np.abs(last - pictures[3]).mean() < 6  # 128 colours


def test_an_animation_of_one_frame_is_a_picture() -> None:
    with Image.open(io.BytesIO(gif_bytes([draw(frame(), size=64)]))) as animation:
        assert animation.format == "GIF"


def test_an_empty_animation_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        gif_bytes([])


def test_without_pillow_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    rendering._font.cache_clear()
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'pip install "activemri\[benchmark\]"'):
        draw(frame())
