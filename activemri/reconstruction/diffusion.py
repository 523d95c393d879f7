"""Posterior samples from a diffusion model: many images that fit what has been measured."""

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from activemri.mri.operators import Operator
from activemri.reconstruction.cresnet import MaskEmbedding
from activemri.reconstruction.ensemble import pooled
from activemri.reconstruction.image_channels import (
    from_channels,
    normalised,
    pad_to_multiple,
    scale_and_phase,
    to_channels,
    zeroed,
)
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor

#: Standard deviations of the noise, per real number and in units of the image's root mean square.
LARGEST, SMALLEST = 10.0, 0.01
_CURVATURE = 7.0  # of the levels between them: most lie close to the smallest
_LOG_LEVELS = (-1.0, 1.4)  # mean and standard deviation of the logarithms seen in training
_MASK_FEATURES = 16
_FOLD = 2  # pixels of 2 x 2 become channels: a quarter of the work at full resolution
_GROUPS = 8  # of the normalisation
MOST_DRAWN = 1024  # samples, and steps
_FREQUENCIES = 8  # that a noise level is described with


class Diffusion(Reconstructor):
    """Denoises its way from noise to images that agree with the measurement.

    A network D learns to take the noise off images, x = D(x + s n, s), at all noise levels s, with
    the scaling and weighting of Karras et al., "Elucidating the design space of diffusion-based
    generative models", NeurIPS 2022. A sample starts as the zero-filled image plus strong noise;
    from level to level (DDIM, Song et al., ICLR 2021)

        c = DC(D(x, s)),    x' = c + s' (x - c) / s,

    where DC puts the measured samples back (null-space method of Wang et al., ICLR 2023). Active
    Diffusion Subsampling (Nolan 2025) takes 10 000 steps with gradients through the network (DPS)
    instead. With several coils, DC of the combined image is close, not exact.

    With `conditional` the network models what is missing: noise lies on lines alone that were not
    acquired, and the network is given the zero-filled image and the mask (Xie and Li, MICCAI 2022).
    Without, it is a prior of images, which DC alone leads to the scan.

    Samples are summarised by :func:`activemri.reconstruction.ensemble.pooled`. The noise is drawn
    from `seed` alone: a scan is reconstructed alike twice, in any batch, and on every device.

    Args:
        channels: width of the network, a multiple of 8.
        n_samples: images drawn, at least two.
        n_steps: noise levels from the strongest to none.
    """

    needs = frozenset({"grid"})

    def __init__(
        self,
        channels: int = 16,
        *,
        n_samples: int = 4,
        n_steps: int = 8,
        conditional: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        some = 2 <= n_samples <= MOST_DRAWN and 1 <= n_steps <= MOST_DRAWN
        if channels < 8 or channels % 8 or not some or seed < 0:
            raise ValueError(
                f"expected channels in eights, 2 to {MOST_DRAWN} samples, 1 to {MOST_DRAWN} steps, "
                f"and a seed of at least 0; got channels={channels}, n_samples={n_samples}, "
                f"n_steps={n_steps}, seed={seed}"
            )
        self.settings = dict(channels=channels, n_samples=n_samples, n_steps=n_steps)
        self.settings |= dict(conditional=conditional, seed=seed)
        self.n_samples, self.n_steps, self.seed = n_samples, n_steps, seed
        self.conditional = conditional
        # Spread of a real number of what the network models, in units of the image's root mean
        # square: of the missing lines' share in phantoms, or of whole images.
        self.spread = 0.2 if conditional else math.sqrt(0.5)
        self.denoiser = Denoiser(
            4 if conditional else 2, channels, mask_features=_MASK_FEATURES if conditional else 0
        )

    @torch.no_grad()
    def solve(self, measurement: Measurement) -> Reconstruction:
        scale, phase = scale_and_phase(measurement.zero_filled)
        start = normalised(measurement.zero_filled, scale, phase)
        n, operator, maps = self.n_samples, measurement.operator, measurement.operator.sensitivity
        # On the CPU, because a seed means other numbers on other devices.
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn((n, *start.shape[1:]), dtype=start.dtype, generator=generator)
        noise = noise.to(start.device).repeat(len(start), 1, 1)  # the same for every scan
        start = start.repeat_interleave(n, dim=0)
        operator = replace(
            operator,
            mask=operator.mask.repeat_interleave(n, dim=0),
            sensitivity=None if maps is None else maps.repeat_interleave(n, dim=0),
        )
        levels = noise_levels(self.n_steps)
        image = start + levels[0] * self._where_free(math.sqrt(2) * noise, operator)
        for level, following in zip(levels, [*levels[1:], 0.0], strict=True):
            all_levels = start.real.new_full((len(start),), level)
            answer = self._denoise(image, all_levels, start, operator)
            answer = operator.data_consistency(answer, start)
            image = answer + (image - answer) * (following / level)
        samples = image.unflatten(0, (-1, n)) * (scale * phase).unsqueeze(1)
        return pooled([Reconstruction(sample) for sample in samples.unbind(dim=1)])

    def training_loss(self, measurement: Measurement, image: Tensor) -> Tensor:
        """Weighted squared error of complex images whose noise the network has taken off: (batch,).

        Levels and noise come from torch's global generator, as dropout does.
        """
        scale, phase = scale_and_phase(measurement.zero_filled)
        start = normalised(measurement.zero_filled, scale, phase)
        clean = normalised(image, scale, phase)
        mean, deviation = _LOG_LEVELS
        level = (mean + deviation * torch.randn(len(clean), device=clean.device)).exp()
        noise = self._where_free(math.sqrt(2) * torch.randn_like(clean), measurement.operator)
        noisy = clean + level[:, None, None] * noise
        answer = self._denoise(noisy, level, start, measurement.operator)
        if self.conditional:
            answer = measurement.operator.data_consistency(answer, start)
        error = (answer - clean).abs().square().mean(dim=(-2, -1))
        return error * (level**2 + self.spread**2) / (level * self.spread) ** 2

    def _denoise(self, noisy: Tensor, level: Tensor, start: Tensor, operator: Operator) -> Tensor:
        """D(noisy, level), before the measured samples are put back."""
        level = level[:, None, None]
        total = (level**2 + self.spread**2).sqrt()
        channels = to_channels(noisy / (level**2 + 1).sqrt())
        if self.conditional:
            channels = torch.cat([channels, to_channels(start)], dim=1)
        answer = self.denoiser(channels, level.flatten().log(), operator.grid_mask)
        share = (self.spread / total) ** 2
        return share * noisy + level * self.spread / total * from_channels(answer)

    def _where_free(self, noise: Tensor, operator: Operator) -> Tensor:
        """Noise on the lines alone that were not acquired, if that is what is modelled."""
        return noise - operator.gram(noise) if self.conditional else noise


def noise_levels(n_steps: int) -> list[float]:
    """Falling standard deviations from :data:`LARGEST` to :data:`SMALLEST`, after Karras et al."""
    high, low = LARGEST ** (1 / _CURVATURE), SMALLEST ** (1 / _CURVATURE)
    steps = [step / max(n_steps - 1, 1) for step in range(n_steps)]
    return [(high + share * (low - high)) ** _CURVATURE for share in steps]


class Denoiser(nn.Module):
    """A small U-Net at a half, a fourth and an eighth of the resolution.

    Noise level and, with `mask_features`, mask set scale and shift of every block (FiLM).
    """

    def __init__(self, n_inputs: int, width: int, *, mask_features: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 3 * width]
        self.mask = MaskEmbedding(mask_features)
        self.condition = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES + mask_features, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, 2 * width),
            nn.SiLU(),
        )
        self.stem = nn.Conv2d(n_inputs * _FOLD**2, width, 3, padding=1)
        self.down = nn.ModuleList(_Block(w, w, n_conditions=2 * width) for w in widths)
        self.shrink = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.middle = _Block(widths[-1], widths[-1], n_conditions=2 * width)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_Block(2 * w, w, n_conditions=2 * width) for w in widths)
        self.head = nn.Sequential(
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            zeroed(nn.Conv2d(width, 2 * _FOLD**2, 3, padding=1)),
        )

    def forward(self, channels: Tensor, level: Tensor, mask: Tensor) -> Tensor:
        """Answer (batch, 2, height, width) to noisy images (batch, n_inputs, height, width).

        The level is the logarithm of the noise's standard deviation, (batch,); the mask bool
        (batch, height or 1, width or 1).
        """
        octave = 2.0 ** torch.arange(-2, _FREQUENCIES - 2, device=level.device)
        angle = level[:, None] * octave / 2
        described = [angle.sin(), angle.cos(), self.mask(mask).flatten(1)]
        condition = self.condition(torch.cat(described, dim=1))
        padded, (rows, columns) = pad_to_multiple(channels, _FOLD * 4)
        features = self.stem(functional.pixel_unshuffle(padded, _FOLD))
        kept = []
        for number, block in enumerate(self.down):
            features = block(features, condition)
            kept.append(features)
            if number < len(self.shrink):
                features = self.shrink[number](features)
        features = self.middle(features, condition)
        for number in reversed(range(len(self.up))):
            features = self.up[number](torch.cat([features, kept[number]], dim=1), condition)
            if number:
                features = functional.interpolate(self.grow[number - 1](features), scale_factor=2.0)
        answer = functional.pixel_shuffle(self.head(features), _FOLD)
        return answer[..., rows, columns]


class _Block(nn.Module):
    """x + conv(SiLU(norm(FiLM(conv(SiLU(norm x)))))), the way past it a 1 x 1 convolution."""

    def __init__(self, n_inputs: int, width: int, *, n_conditions: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(_GROUPS, n_inputs), nn.SiLU(), nn.Conv2d(n_inputs, width, 3, padding=1)
        )
        self.film = nn.Linear(n_conditions, 2 * width)
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.second = zeroed(nn.Conv2d(width, width, 3, padding=1))
        self.past = nn.Identity() if n_inputs == width else nn.Conv2d(n_inputs, width, 1)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        changed = self.norm(self.first(features)) * (1 + scale) + shift
        result: Tensor = self.past(features) + self.second(functional.silu(changed))
        return result
