"""Pictures of validations: a row for every scan, from zero-filled to target."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri import metrics
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.training.batches import Batch
from activemri.training.folder import Picture
from activemri.training.validation import Validation

WIDTH = 220  # of an image on the page, in pixels
GAP = 6
TITLE = 18  # height of a line of text
ERROR_SCALE = 0.15  # of the data range: the brightest error and uncertainty
_DARK, _LIGHT = 24, 232  # background and text


@torch.no_grad()
def draw(validation: Validation, reconstructor: Reconstructor, *, n_scans: int) -> Picture:
    """Draw validation scans in the middle of their episodes.

    Columns: zero-filled, reconstruction, target, error, and the uncertainty where there is one.
    Error and uncertainty have one scale.

    Args:
        validation: whose scans are shown, spread evenly.
        reconstructor: drawn in evaluation mode; its mode is restored.
        n_scans: at most so many rows.
    """
    was_training = reconstructor.training
    reconstructor.eval()
    places = np.linspace(0, len(validation.indices) - 1, min(n_scans, len(validation.indices)))
    chosen = [validation.indices[int(place)] for place in np.unique(places.round())]
    rows = [
        _row(validation.batch(index), reconstructor, len(validation.steps) // 2) for index in chosen
    ]
    reconstructor.train(was_training)
    return _stacked(rows)


def _row(batch: Batch, reconstructor: Reconstructor, moment: int) -> Picture:
    """One scan at one moment, with titles."""
    prediction = batch.prediction(reconstructor(batch.measurement))
    unit = prediction.unit
    image, target = (x[moment] for x in prediction.scaled())
    zero_filled = (batch.cropped(batch.measurement.zero_filled) / unit)[moment]
    scores = [
        metrics.ssim(x[None], target[None], data_range=torch.ones(1, device=x.device)).item()
        for x in (zero_filled, image)
    ]
    n_readouts = int(batch.acquired[moment].sum())
    panels = [
        _panel(f"zero-filled, {n_readouts} readouts: SSIM {scores[0]:.3f}", zero_filled),
        _panel(f"reconstruction: SSIM {scores[1]:.3f}", image),
        _panel(f"target: {batch.names[moment]}", target),
        _panel(f"error, 0 to {ERROR_SCALE}", (image - target).abs() / ERROR_SCALE, colour=True),
    ]
    if prediction.uncertainty is not None:
        deviation = (prediction.uncertainty / unit)[moment] / ERROR_SCALE
        panels.append(_panel(f"uncertainty, 0 to {ERROR_SCALE}", deviation, colour=True))
    return np.concatenate(panels, axis=1)


def _panel(title: str, image: Tensor, *, colour: bool = False) -> Picture:
    """An image from 0 to 1 below its title."""
    from PIL import Image, ImageDraw

    values = image.clamp(0, 1).float().cpu().numpy()
    pixels = _heat(values) if colour else np.repeat((values * 255)[..., None], 3, axis=-1)
    height = round(WIDTH * values.shape[0] / values.shape[1])
    picture = Image.fromarray(pixels.astype(np.uint8)).resize(
        (WIDTH, height), Image.Resampling.NEAREST if values.shape[1] < WIDTH else None
    )
    page = Image.new("RGB", (WIDTH + GAP, height + TITLE + GAP), (_DARK,) * 3)
    page.paste(picture, (GAP // 2, TITLE))
    ImageDraw.Draw(page).text((GAP // 2, 3), _short(title), fill=(_LIGHT,) * 3)
    return np.asarray(page, dtype=np.uint8)


def _short(title: str) -> str:
    """As much of a title as fits above an image: the built-in font is about six pixels wide."""
    n = WIDTH // 6
    return title if len(title) <= n else title[: n - 3] + "..."


def _heat(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Black, red, yellow, white."""
    channels = [np.clip(3 * values - offset, 0, 1) for offset in (0.0, 1.0, 2.0)]
    heat: NDArray[np.float32] = np.stack(channels, axis=-1) * 255
    return heat


def _stacked(rows: list[Picture]) -> Picture:
    """Rows of several widths below each other."""
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=_DARK)
        for row in rows
    ]
    return np.concatenate(padded)
