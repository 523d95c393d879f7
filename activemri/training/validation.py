"""Scores and pictures of a reconstructor on fixed scans at fixed moments of an episode."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from activemri import metrics
from activemri.agents.episode_masks import EpisodeMasks
from activemri.data.slices import SliceDataset
from activemri.reconstruction.reconstructor import Reconstructor
from activemri.training.batches import Batch, infos_of, make_batch
from activemri.training.folder import Picture

N_SCANS = 32  # spread evenly over the validation split
N_MOMENTS = 4  # of an episode, from its first to its last

WIDTH = 220  # of an image on the page, in pixels
GAP = 6
TITLE = 18  # height of a line of text
ERROR_SCALE = 0.15  # of the data range: the brightest error and uncertainty
_DARK, _LIGHT = 24, 232  # background and text


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Compute without gradients, in evaluation mode; the networks' modes are restored."""
    modes = [network.training for network in networks]
    for network in networks:
        network.eval()
    with torch.no_grad():
        yield
    for network, mode in zip(networks, modes, strict=True):
        network.train(mode)


class Validation:
    """The same scans and moments of episodes every time, drawn once from the seed.

    Of the scans those at `indices`; without them up to N_SCANS.
    """

    def __init__(
        self,
        scans: SliceDataset,
        moments: EpisodeMasks,
        *,
        seed: int,
        indices: Sequence[int] | None = None,
    ) -> None:
        self.scans, self.moments, self.seed = scans, moments, seed
        self.infos = infos_of(scans)
        places = np.linspace(0, len(scans) - 1, min(N_SCANS, len(scans)))
        usual = [int(i) for i in np.unique(places.round())]
        self.indices = usual if indices is None else indices
        self.steps = [int(s) for s in np.unique(np.linspace(0, moments.budget, N_MOMENTS).round())]

    def score(
        self, reconstructor: Reconstructor, progress: Callable[[], None] = lambda: None
    ) -> tuple[float, dict[int, float]]:
        """SSIM with the data range of the slice, averaged over scans; `progress` after each.

        Returns:
            Its mean over all moments, and its value at each, by readouts since the start.
        """
        total = torch.zeros(len(self.steps), dtype=torch.float64)
        with evaluating(reconstructor):
            for index in self.indices:
                batch = self.batch(index)
                image = batch.magnitude(reconstructor)
                total += metrics.ssim(image, batch.target, data_range=batch.data_range).cpu()
                progress()
        by_step = (total / len(self.indices)).tolist()
        return float(np.mean(by_step)), dict(zip(self.steps, by_step, strict=True))

    def batch(self, index: int, *, steps: Sequence[int] | None = None) -> Batch:
        """One scan at all moments, or some; every scan has its own draw of masks."""
        steps = self.steps if steps is None else steps
        drawn = [np.random.default_rng([self.seed, index, step]) for step in steps]
        moments = [
            self.moments(self.infos[index], generator, step=step)
            for generator, step in zip(drawn, steps, strict=True)
        ]
        seeds = torch.tensor([int(generator.integers(2**62)) for generator in drawn])
        return make_batch(
            self.moments.scan, [self.scans[index]] * len(moments), moments, seeds=seeds
        )


def draw(validation: Validation, reconstructor: Reconstructor, *, n_scans: int) -> Picture:
    """Draw validation scans, spread evenly, in the middle of their episodes: a row for each.

    Columns: zero-filled, reconstruction, target, error, and the uncertainty where there is one.
    Error and uncertainty have one scale.
    """
    places = np.linspace(0, len(validation.indices) - 1, min(n_scans, len(validation.indices)))
    moment = len(validation.steps) // 2
    rows = []
    for place in np.unique(places.round()):
        batch = validation.batch(validation.indices[int(place)])
        with evaluating(reconstructor):
            prediction = batch.prediction(reconstructor(batch.measurement))
        image, target = (x[moment] for x in prediction.scaled())
        zero_filled = (batch.cropped(batch.measurement.zero_filled) / prediction.unit)[moment]
        scores = [
            metrics.ssim(x[None], target[None], data_range=torch.ones(1, device=x.device)).item()
            for x in (zero_filled, image)
        ]
        n_readouts = int(batch.acquired[moment].sum())
        error = (image - target).abs() / ERROR_SCALE
        panels = [
            _panel(f"zero-filled, {n_readouts} readouts: SSIM {scores[0]:.3f}", zero_filled),
            _panel(f"reconstruction: SSIM {scores[1]:.3f}", image),
            _panel(f"target: {batch.names[moment]}", target),
            _panel(f"error, 0 to {ERROR_SCALE}", error, colour=True),
        ]
        if prediction.uncertainty is not None:
            deviation = (prediction.uncertainty / prediction.unit)[moment] / ERROR_SCALE
            panels.append(_panel(f"uncertainty, 0 to {ERROR_SCALE}", deviation, colour=True))
        rows.append(np.concatenate(panels, axis=1))
    return np.concatenate(rows)


def _panel(title: str, image: Tensor, *, colour: bool = False) -> Picture:
    """An image from 0 to 1 below its title, in grey or in black, red, yellow and white."""
    from PIL import Image, ImageDraw

    values = image.clamp(0, 1).float().cpu().numpy()
    heat = [np.clip(3 * values - offset, 0, 1) for offset in (0.0, 1.0, 2.0)]
    pixels = np.stack(heat if colour else [values] * 3, axis=-1) * 255
    height = round(WIDTH * values.shape[0] / values.shape[1])
    picture = Image.fromarray(pixels.astype(np.uint8)).resize(
        (WIDTH, height), Image.Resampling.NEAREST if values.shape[1] < WIDTH else None
    )
    fits = WIDTH // 6  # the built-in font is about six pixels wide
    title = title if len(title) <= fits else title[: fits - 3] + "..."
    page = Image.new("RGB", (WIDTH + GAP, height + TITLE + GAP), (_DARK,) * 3)
    page.paste(picture, (GAP // 2, TITLE))
    ImageDraw.Draw(page).text((GAP // 2, 3), title, fill=(_LIGHT,) * 3)
    return np.asarray(page, dtype=np.uint8)
