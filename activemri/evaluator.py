"""The network that says of every k-space line how real it looks in a reconstruction.

Zhang et al., "Reducing uncertainty in undersampled MRI reconstruction with active acquisition",
CVPR 2019. Lines are columns here (phase encoding along the width); for lines along the other axis
give it transposed images.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from activemri import checkpoints
from activemri.checkpoints import CheckpointError
from activemri.mri import fourier
from activemri.options import require_types
from activemri.reconstruction.cresnet import MaskEmbedding
from activemri.reconstruction.image_channels import InstanceNorm, normalised, scale_and_phase
from activemri.reconstruction.registry import WEIGHTS

KIND = "evaluator"  # in checkpoints

_SLOPE = 0.2  # of the leaky ReLUs
_KERNEL, _STRIDE = 4, 2


def column_errors(image: Tensor, reference: Tensor) -> Tensor:
    """1/2 H^-1 sum over rows of |K^_i - K_i|^2, in units of the reference's mean square.

    Of complex images (batch, height, width): float (batch, width).
    """
    difference = fourier.fft(image - reference, (-1,))  # unitary along the rows: sums are equal
    unit = reference.abs().square().mean(dim=(-2, -1)).clamp(min=torch.finfo(torch.float32).tiny)
    return difference.abs().square().mean(dim=-2) / (2 * unit[:, None])


def kernel_targets(errors: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Targets of the evaluator, (batch, line): exp(-gamma error), and 1 where acquired."""
    return torch.exp(-gamma * errors).masked_fill(mask, 1.0)


class Evaluator(nn.Module):
    """A score for every k-space line: near 1 if it looks as in a fully sampled image.

    Spectral maps of the reconstruction (the images M_i = F^-1 (1_i K) that single lines of k-space
    make) and an embedding of the mask (`mask_features`) go through strided 4 x 4 convolutions (the
    first without normalisation) and an average over all pixels to one score a line, as in the
    paper. Ours differs: images are normalised by their root mean square and mean phase; a small
    network along the lines (`line_channels`) refines the scores, seeing each line's energy, which
    lines have been acquired, and both on the other side of k-space. Either is left out by 0; with
    `channels` of 0 the maps are, and the small network scores the lines alone.

    Each map has rank one, M_i(h, w) = k_i(h) exp(2 pi i (i - c)(w - c) / W) / sqrt(W), where k_i is
    line i of the image's transform along the width. So the first convolution, by far the largest,
    needs no maps: the sum over kernel columns becomes a product with a phase, which leaves one
    matrix product for all maps together.

    Args:
        width: lines of k-space. Narrower images are padded with empty lines; wider are refused.
        channels: width of the first convolution; doubled at each further one but the last.
        layers: strided convolutions.
    """

    def __init__(
        self,
        width: int,
        *,
        channels: int = 16,
        layers: int = 4,
        mask_features: int = 6,
        line_channels: int = 32,
    ) -> None:
        super().__init__()
        fewest = min(channels, mask_features, line_channels)
        if min(width, layers) < 1 or fewest < 0 or not channels + line_channels:
            raise ValueError(
                "expected width and layers of at least 1, no negative number, and channels or "
                f"line_channels above 0; got width={width}, channels={channels}, layers={layers}, "
                f"mask_features={mask_features}, line_channels={line_channels}"
            )
        if layers >= width.bit_length():
            raise ValueError(
                f"{layers} layers, which halve the width each, need at least {2**layers} lines; "
                f"got width={width}. Choose fewer layers"
            )
        self.settings: dict[str, object] = dict(width=width, channels=channels, layers=layers)
        self.settings |= dict(mask_features=mask_features, line_channels=line_channels)
        self.width = width
        self.smallest = 2 ** (layers + 1)  # image sides: what is left needs a variance
        self.has_maps = channels > 0
        if self.has_maps:
            self.embedding = MaskEmbedding(mask_features)
            widths = [channels * 2 ** min(n, max(0, layers - 2)) for n in range(layers)]
            self.first = nn.Conv2d(2 * width + mask_features, channels, _KERNEL, _STRIDE, padding=1)
            self.convolutions = nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(a, b, _KERNEL, _STRIDE, padding=1),
                    InstanceNorm(b, _SLOPE),
                )
                for a, b in itertools.pairwise(widths)
            )
            self.scores = nn.Linear(widths[-1], width)
        self.along_lines = nn.ModuleDict()
        if line_channels:
            self.along_lines["layers"] = nn.Sequential(
                nn.Conv1d(6, line_channels, 7, padding=3),
                nn.LeakyReLU(_SLOPE),
                nn.Conv1d(line_channels, line_channels, 7, padding=9, dilation=3),
                nn.LeakyReLU(_SLOPE),
                nn.Conv1d(line_channels, 1, 1),
            )

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Score lines, (batch, line), of complex images (batch, height, width).

        The mask, bool (batch, line), may have more lines than the image is wide; both are aligned
        at their centres.

        Raises:
            ValueError: for more lines than the evaluator was made for.
        """
        if self.training or image.device.type != "cpu":
            return self._score(image, mask)
        rows = zip(image.split(1), mask.split(1), strict=True)
        return torch.cat([self._score(one, its_mask) for one, its_mask in rows])

    def features(self, image: Tensor, mask: Tensor) -> list[Tensor]:
        """Response of each convolution to the image, for perceptual losses: first to last.

        Raises:
            ValueError: the evaluator sees no maps.
        """
        if not self.has_maps:
            raise ValueError("perceptual losses need an evaluator with maps: channels above 0")
        return self._features(*self._lines(image, mask))

    def _score(self, image: Tensor, mask: Tensor) -> Tensor:
        lines, acquired = self._lines(image, mask)
        scores = lines.real.new_zeros(acquired.shape)
        if self.has_maps:
            scores = self.scores(self._features(lines, acquired)[-1].mean(dim=(-2, -1)))
        if self.along_lines:  # corrects by what is near a line, and opposite of it
            energy = torch.log(lines.abs().square().mean(dim=1) + 1e-6) / 5
            known = acquired.to(energy.dtype)
            position = torch.linspace(-1, 1, self.width, device=energy.device).abs()
            # Frequency k has its mirror image at -k: index i at 2 (n // 2) - i.
            indices = torch.arange(self.width, device=energy.device)
            opposite = (2 * (self.width // 2) - indices) % self.width
            seen = [scores, energy, known, energy[:, opposite], known[:, opposite]]
            seen.append(position.expand_as(energy))
            scores = scores + self.along_lines["layers"](torch.stack(seen, dim=1)).squeeze(1)
        return scores[:, self._part(mask.shape[1])]

    def _features(self, lines: Tensor, acquired: Tensor) -> list[Tensor]:
        features = [functional.leaky_relu(self._first_layer(lines, acquired), _SLOPE)]
        for convolution in self.convolutions:
            features.append(convolution(features[-1]))
        return features

    def _lines(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """k_i(h), (batch, height, line), and whether line i was acquired, (batch, line)."""
        n_lines, size = mask.shape[1], image.shape[-1]
        if max(n_lines, size) > self.width or size > n_lines:
            raise ValueError(
                f"this evaluator scores {self.width} lines, at least as many as images are wide; "
                f"got {n_lines} lines and images of width {size}: train one for that size"
            )
        if size < self.width:
            lines = image.new_zeros(*image.shape[:-1], self.width)
            lines[..., self._part(size)] = fourier.fft(image, (-1,))
            image = fourier.ifft(lines, (-1,))
        whole = fourier.fft(normalised(image, *scale_and_phase(image)), (-1,))
        missing = max(0, self.smallest - whole.shape[-2])
        whole = functional.pad(whole, (0, 0, missing // 2, missing - missing // 2))
        acquired = mask.new_zeros(len(mask), self.width)
        acquired[:, self._part(n_lines)] = mask
        return whole, acquired

    def _part(self, size: int) -> slice:
        """Place of an object of that many lines among those of the evaluator."""
        first = self.width // 2 - size // 2
        return slice(first, first + size)

    def _first_layer(self, lines: Tensor, acquired: Tensor) -> Tensor:
        """The first convolution, of all spectral maps and the embedding.

        With a complex weight C = a - i b for the pair of channels (Re M_i, Im M_i), the
        convolution is the real part of

            sum_i sum_dh [ sum_dw C_i(dh, dw) e_i(dw - 1) ] k_i(2 h + dh - 1) e_i(2 w),

        e_i(w) = exp(2 pi i (i - c)(w - c) / W) / sqrt(W), but for the first and last column of
        the result, where the kernel reaches into the zero padding while e_i goes on: that share is
        taken out again.
        """
        n = self.width
        weight, embedding_weight = self.first.weight.split([2 * n, self.embedding.n_features], 1)
        kernel = torch.complex(weight[:, :n], -weight[:, n:])  # (f, line, dh, dw)
        windows = functional.pad(torch.view_as_real(lines), (0, 0, 0, 0, 1, 1))
        windows = torch.view_as_complex(windows).unfold(1, _KERNEL, _STRIDE)
        # (line, batch * h, dh): every line is a small matrix product of its own.
        batch, height = windows.shape[:2]
        per_line = windows.permute(2, 0, 1, 3).reshape(n, batch * height, _KERNEL)
        frequency = torch.arange(n, device=lines.device) - n // 2
        shift = torch.arange(_KERNEL, device=lines.device) - 1
        turn = torch.exp(2j * torch.pi * frequency[:, None] * shift / n).to(lines.dtype)
        turned = torch.einsum("fidw,iw->idf", kernel, turn)
        position = torch.arange(n, device=lines.device, dtype=torch.float64) - n // 2
        angle = torch.remainder(position[:, None] * position, n) * (2 * torch.pi / n)
        waves = torch.polar(torch.full_like(angle, n**-0.5), angle).to(torch.complex64)
        waves = waves[:, : n - n % 2 : _STRIDE].contiguous()
        waves = waves[:, : (n + 2 - _KERNEL) // _STRIDE + 1]
        products = per_line @ turned
        both = torch.cat([products.real, products.imag]).permute(1, 2, 0)
        result = both @ torch.cat([waves.real, -waves.imag])  # Re sum_i: (batch * h, f, w)
        # What the padding must not give: column -1 to the first, column W to the last.
        beyond = [(0, 0, waves[:, 0] * turn[:, 0])]
        if n % 2 == 0:
            beyond.append((-1, _KERNEL - 1, waves[:, -1] * turn[:, _KERNEL - 1]))
        excess = torch.zeros_like(result)
        for place, column, wave in beyond:
            outer = kernel[..., column].permute(1, 2, 0) * wave[:, None, None]  # (line, dh, f)
            flat = per_line.permute(1, 0, 2).reshape(batch * height, -1)
            excess[..., place] += (flat @ outer.reshape(-1, outer.shape[-1])).real
        maps: Tensor = (result - excess).unflatten(0, (batch, height)).permute(0, 2, 1, 3)
        assert self.first.bias is not None
        if self.embedding.n_features == 0:
            return maps + self.first.bias[:, None, None]
        constant = self.embedding(acquired[:, None]).expand(-1, -1, lines.shape[1], n)
        offset = functional.conv2d(constant, embedding_weight, self.first.bias, _STRIDE, padding=1)
        return maps + offset


def save_evaluator(path: str | Path, evaluator: Evaluator, *, info: Mapping[str, object]) -> Path:
    """As :func:`activemri.reconstruction.registry.save_reconstructor`."""
    settings, weights = evaluator.settings, evaluator.state_dict()
    return checkpoints.save(path, kind=KIND, settings=settings, state_dict=weights, info=info)


def make_evaluator(
    evaluator: str | Path | Evaluator | None = None, *, device: str | torch.device = "cpu"
) -> Evaluator:
    """The evaluator of a checkpoint, or else the package's (128 lines, trained on phantoms).

    Raises:
        CheckpointError: if there is none, it is damaged, or it is of something else.
    """
    if isinstance(evaluator, Evaluator):
        return evaluator.to(device).eval()
    checkpoint = checkpoints.load(WEIGHTS / KIND if evaluator is None else evaluator)
    if checkpoint.kind != KIND:
        raise CheckpointError(
            f"{checkpoint.path} holds a {checkpoint.kind!r:.60}, not an evaluator"
        )
    settings: dict[str, Any] = checkpoint.settings

    def make() -> Evaluator:
        require_types(Evaluator, settings)
        return Evaluator(**settings)

    return checkpoint.build(make, "an evaluator").to(device).eval()
