"""The cascaded residual network of Zhang et al., with an uncertainty for every pixel."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from activemri.reconstruction.image_channels import (
    InstanceNorm,
    from_channels,
    normalised,
    pad_to_multiple,
    padding,
    scale_and_phase,
    to_channels,
    zeroed,
)
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor

#: Bounds of the predicted log variance, in units of the image's mean square.
LOG_VARIANCE = (-13.8, 1.609)  # variances from 1e-6 to 5
_START = -6.0  # of the log variance, before training: 5 % of the root mean square
_DOWNSAMPLING = 8  # from the image to the bottleneck


class CResNet(Reconstructor):
    """r_b = DC(r_{b-1} + N_b(r_{b-1}, mask)), with a log variance u from the last block.

    Zhang et al., "Reducing uncertainty in undersampled MRI reconstruction with active
    acquisition", CVPR 2019 (c-ResNet). Each block N_b is an encoder (three strided convolutions),
    residual blocks at an eighth of the resolution, and a decoder (three transposed convolutions);
    the bottleneck of a block is added to the encoder's result in the next one. After each block
    the measured samples are put back (DC). The standard deviation of the magnitude is
    s exp(u / 2), with the root mean square s of the zero-filled image.

    Ours differs from the paper by default: images are normalised by s and by their mean phase,
    blocks predict a change instead of the image, encoder features are handed on to the decoder
    (`skips`) and a convolution at full resolution precedes the output, and log variances may go
    down to -13.8 instead of -9.2. The paper has 4 blocks and a dropout of 0.2, with 128 channels
    and 5 residual blocks for DICOM images of 128 x 128, 256 and 3 for raw knee scans of 640 x 368.

    Args:
        channels: width f of the first level; 2 f and 4 f follow.
        residual_blocks: in every block of the cascade.
        dropout: probability of dropping a channel inside residual blocks.
        mask_features: length of the mask's embedding, which every pixel gets as further input. It
            tells something at the edges of images that are padded; elsewhere the norms take out
            what is the same for all pixels, and it is left out.
        data_consistency: put measured samples back; False only to study what that is worth.
    """

    needs = frozenset({"grid"})
    is_differentiable = True

    def __init__(
        self,
        channels: int = 16,
        *,
        blocks: int = 3,
        residual_blocks: int = 1,
        dropout: float = 0.0,
        mask_features: int = 6,
        skips: bool = True,
        data_consistency: bool = True,
    ) -> None:
        super().__init__()
        if channels < 2 or channels % 2 or blocks < 1 or residual_blocks < 0 or mask_features < 0:
            raise ValueError(
                "expected an even number of channels, at least one block, and no negative number; "
                f"got channels={channels}, blocks={blocks}, residual_blocks={residual_blocks}, "
                f"mask_features={mask_features}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1; got {dropout}")
        of_block: Any = dict(residual_blocks=residual_blocks, dropout=dropout, skips=skips)
        self.settings = dict(channels=channels, blocks=blocks, mask_features=mask_features)
        self.settings |= {**of_block, "data_consistency": data_consistency}
        self.data_consistency = data_consistency
        self.embedding = MaskEmbedding(mask_features)
        made = [_Block(channels, n_inputs=2 + mask_features, **of_block) for _ in range(blocks)]
        self.blocks = nn.ModuleList(made)

    def solve(self, measurement: Measurement) -> Reconstruction:
        zero_filled, operator = measurement.zero_filled, measurement.operator
        scale, phase = scale_and_phase(zero_filled)
        start = normalised(zero_filled, scale, phase)
        # A channel that is the same everywhere adds one number to each output of a convolution,
        # which the norm behind it takes out again. Zeros around an image give it edges to be seen.
        constant: tuple[Tensor, ...] = ()
        if any(padding(size, _DOWNSAMPLING) for size in start.shape[1:]):
            constant = (self.embedding(operator.grid_mask).expand(-1, -1, *start.shape[1:]),)
        image, bottleneck, log_variance = start, None, None
        for block in self.blocks:
            channels = torch.cat([to_channels(image), *constant], dim=1)
            padded, (rows, columns) = pad_to_multiple(channels, _DOWNSAMPLING)
            answer, bottleneck = block(padded, bottleneck)
            answer = answer[..., rows, columns]
            image = image + from_channels(answer[:, :2])
            if self.data_consistency:
                image = operator.data_consistency(image, start)
            log_variance = answer[:, 2]
        assert log_variance is not None
        deviation = torch.exp((log_variance.float() + _START).clamp(*LOG_VARIANCE) / 2)
        return Reconstruction(image * (scale * phase), deviation * scale)


class MaskEmbedding(nn.Module):
    """A linear map of which lines have been acquired to a few numbers.

    The weights of a line are interpolated from `n_positions` across k-space, so that scans of every
    width can be reconstructed.
    """

    def __init__(self, n_features: int, *, n_positions: int = 128) -> None:
        super().__init__()
        self.n_features = n_features
        self.weight = nn.Parameter(torch.randn(n_features, n_positions) / n_positions**0.5)

    def forward(self, mask: Tensor) -> Tensor:
        """Bool or soft (batch, height or 1, width or 1) to float (batch, n_features, 1, 1)."""
        acquired = mask.to(self.weight.dtype)
        # of points: any of a column, as a polynomial for the sake of soft masks
        lines = 1 in mask.shape[1:]
        acquired = acquired.flatten(1) if lines else 1 - (1 - acquired).prod(dim=1)
        n_lines = acquired.shape[1]
        if self.n_features == 0:
            return acquired.new_zeros(len(mask), 0, 1, 1)
        weight = nn.functional.interpolate(
            self.weight[None], n_lines, mode="linear", align_corners=False
        )[0]
        per_line = self.weight.shape[1] / n_lines  # the same sum at every matrix size
        embedded = acquired @ weight.T * per_line
        return embedded[:, :, None, None]


class _Convolution(nn.Conv2d):
    """A convolution that may be given the first of its channels alone: others count as zero."""

    def forward(self, channels: Tensor) -> Tensor:
        weight = self.weight[:, : channels.shape[1]]
        result: Tensor = self._conv_forward(channels, weight, self.bias)
        return result


class _Block(nn.Module):
    """Encoder, bottleneck, decoder: (batch, n_inputs or the first 2, h, w) to (batch, 3, h, w)."""

    def __init__(
        self, f: int, *, n_inputs: int, residual_blocks: int, dropout: float, skips: bool
    ) -> None:
        super().__init__()
        self.skips = skips
        widths = [n_inputs, f, 2 * f, 4 * f]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                _Convolution(a, b, 3, stride=2, padding=1, padding_mode="reflect"),
                InstanceNorm(b, 0.0),
            )
            for a, b in itertools.pairwise(widths)
        )
        # x + IN(conv(dropout(ReLU(IN(conv x))))), each
        self.bottleneck: Any = nn.ModuleList()
        for _ in range(residual_blocks):
            layers = nn.Sequential(
                nn.Conv2d(4 * f, 4 * f, 3, padding=1, padding_mode="reflect"),
                InstanceNorm(4 * f, 0.0),
                nn.Identity(),  # numbers of layers are names of their weights
                nn.Dropout2d(dropout),
                nn.Conv2d(4 * f, 4 * f, 3, padding=1, padding_mode="reflect"),
                InstanceNorm(4 * f),
            )
            self.bottleneck.append(nn.ModuleDict({"layers": layers}))
        narrow = [4 * f, 2 * f, f, f // 2]
        handed_on = [0, 2 * f, f, n_inputs] if skips else [0, 0, 0, 0]
        self.decoder = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(a + extra, b, 4, stride=2, padding=1),
                InstanceNorm(b, 0.0),
            )
            for a, b, extra in zip(narrow, narrow[1:], handed_on, strict=False)
        )
        # Real part, imaginary part, log variance.
        n_last, width = f // 2 + handed_on[-1], f // 2
        self.head: nn.Module = zeroed(nn.Conv2d(width if skips else n_last, 3, 1))
        if skips:
            # Details need a look at full resolution; the transposed convolutions alone blur them.
            look = _Convolution(n_last, width, 3, padding=1, padding_mode="reflect")
            self.head = nn.Sequential(look, InstanceNorm(width, 0.0), nn.Identity(), self.head)

    def forward(self, channels: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """The block's answer, and its bottleneck for the next block."""
        levels = [channels]
        for down in self.encoder:
            levels.append(down(levels[-1]))
        features = levels.pop()
        if before is not None:
            features = features + before
        for residual in self.bottleneck:
            features = features + residual["layers"](features)
        bottleneck = features
        for up in self.decoder:
            features = up(features)
            if self.skips:
                features = torch.cat([features, levels.pop()], dim=1)
        return self.head(features), bottleneck
