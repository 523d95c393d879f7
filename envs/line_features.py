"""Features of every line of k-space: a few dozen numbers a line, for small networks.

An image of 128 x 128 pixels holds 16384 numbers, and a network has to find out by itself that they
are a Fourier transform away from the lines that it may choose. Here the transform is done: for
every line, how strong the reconstruction believes it to be (in all, by frequency along the
readout, and by place along the readout), what its neighbours and its mirror image say, and what
all lines share. Everything is made of a :class:`View`, so of acquired samples alone.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from activemri.envs.scan import View
from activemri.metrics.reference import center_crop
from activemri.mri import fourier
from activemri.mri.geometry import cartesian
from activemri.mri.spectrum import line_distances, power_law

#: Bands of frequency along the readout, as shares of the largest frequency.
_BANDS = (0.0, 0.125, 0.25, 0.5, 1.01)
#: Equal parts of the readout's field of view.
_N_PLACES = 8
#: Share of the energy that counts as nothing.
_FLOOR = 1e-7

NAMES: tuple[str, ...] = (
    "acquired",
    "measurable",
    "energy",
    *(f"energy at frequency {i}" for i in range(len(_BANDS) - 1)),
    *(f"energy at place {i}" for i in range(_N_PLACES)),
    "expected energy",
    "uncertain energy",
    "mismatch",
    "mirror acquired",
    "mirror symmetry",
    "energy in the region",
    "size of the region",
    "times measured",
    "outlier score",
    "distance",
    "signed distance",
    "lines to the left",
    "lines to the right",
    "share acquired",
    "symmetry",
    "mean uncertainty",
    "concentration",
    "outer energy",
)

N_FEATURES = len(NAMES)

#: Features of readouts that are no lines: points and spokes.
OTHER_NAMES: tuple[str, ...] = (
    "acquired",
    "measurable",
    "energy",
    "times measured",
    "outlier score",
    "distance",
    "cosine",
    "sine",
    "nearest acquired",
    "share acquired",
)


def feature_names(has_lines: bool) -> tuple[str, ...]:
    """Names of the features of readouts: of lines, or of others."""
    return NAMES if has_lines else OTHER_NAMES


def readout_features(view: View) -> Tensor:
    """Features of every readout: float32 (batch, feature, n_readouts), of order one.

    Lines have those of :func:`line_features`. Points and spokes have fewer: `energy` is that of the
    acquired samples, as a share of all that were acquired, on a logarithmic scale; `distance` is
    that from the centre of k-space; `cosine` and `sine` are those of a point's direction or of
    twice a spoke's angle; `nearest acquired` is the distance to the nearest readout that was
    acquired, in angle for spokes.
    """
    if view.geometry.has_lines:
        return line_features(view)
    place = view.transform.coordinates.to(view.mask.device).float()
    acquired, log = view.mask.float(), view.log
    energy = _energy(log.samples).sum(dim=(2, 3))
    tiny = torch.finfo(torch.float32).tiny
    share = energy / energy.sum(dim=1, keepdim=True).clamp(min=tiny)
    if view.transform.is_cartesian:
        radius, angle = (
            torch.linalg.vector_norm(place, dim=1),
            torch.atan2(place[:, 0], place[:, 1]),
        )
        apart = torch.cdist(place, place)
    else:
        radius, angle = place[:, 0], 2 * place[:, 1]
        apart = (angle[:, None] - angle).abs()
        apart = torch.minimum(apart, 2 * math.pi - apart) / math.pi
    far = float(apart.amax())  # where nothing is acquired yet
    nearest = torch.stack([apart.masked_fill(~mask, far).amin(dim=1) for mask in view.mask])
    parts = [
        acquired,
        view.measurable,
        _logarithm(share),
        torch.log1p(log.n_measured.float()),
        log.outlier_score / (1 + log.outlier_score),
        radius.expand_as(acquired),
        angle.cos().expand_as(acquired),
        angle.sin().expand_as(acquired),
        nearest,
        acquired.mean(dim=1, keepdim=True).expand_as(acquired),
    ]
    return torch.stack([part.float() for part in parts], dim=1)


def line_features(view: View) -> Tensor:
    """Features of every line: float32 (batch, N_FEATURES, n_lines), of order one.

    Energies are shares of the reconstruction's energy, as logarithms. `expected energy` is the
    power law that fits the acquired lines; `uncertain energy` that of the standard deviation of
    the pixels; `energy in the region` is what the reconstruction shows there, and `size of the
    region` the spectrum of its shape, where a region of interest is known; `times measured` and
    `outlier score` are what the scanner reports of its lines; `mismatch` says by how
    much the reconstruction contradicts the samples of acquired lines; `symmetry` is how Hermitian
    the acquired k-space is: 1 for images without phase, whose mirrored lines say the same. Lines
    that a smaller scan does not have are zero.

    Raises:
        ValueError: if the geometry acquires no lines.
    """
    if not view.geometry.has_lines:
        raise ValueError(
            f"features of lines need whole lines; geometry {view.geometry.name!r} has none"
        )
    along_height = view.geometry.are_rows
    columns = _Columns(view, swap=along_height)
    parts = [*columns.of_lines(), *columns.of_all()]
    own = torch.stack([part.float() for part in parts], dim=1)
    return _in_frame(own, view, swap=along_height)


class _Columns:
    """Scans whose lines are columns; those whose lines are rows are turned."""

    def __init__(self, view: View, *, swap: bool) -> None:
        image, mask = view.reconstruction.image, view.operator.grid_mask
        kspace = view.measurement.kspace
        uncertainty = view.reconstruction.uncertainty
        if swap:
            image, mask, kspace = (t.transpose(-2, -1) for t in (image, mask, kspace))
            uncertainty = None if uncertainty is None else uncertainty.transpose(-2, -1)
        self.view = view
        self.image, self.uncertainty = image, uncertainty
        self.acquired = mask[:, 0]  # (batch, width)
        self.measurable = torch.ones_like(self.acquired)
        self.width = image.shape[-1]
        # Complex (batch, height, width): place along the readout, frequency along the lines.
        self.hybrid = fourier.fft(image.to(torch.complex64), (-1,))
        self.energy = _energy(self.hybrid)
        self.total = self.energy.sum(dim=(-2, -1)).clamp(min=torch.finfo(torch.float32).tiny)
        self.measured = kspace

    def of_lines(self) -> list[Tensor]:
        """Features that differ from line to line, (batch, width) each."""
        per_line = self.energy.sum(dim=1)
        share = per_line / self.total[:, None]
        distance = line_distances((1, self.width), share.device)
        expected = power_law(share.double(), self.acquired, distance).float()
        left, right = _gaps(self.acquired)
        mirror = mirror_of(self.width, self.image.device)
        half = max(self.width // 2, 1)
        signed = (torch.arange(self.width, device=share.device) - self.width // 2) / half
        everywhere = torch.ones_like(share)
        return [
            self.acquired,
            self.measurable,
            _logarithm(share),
            *_logarithm(self._by_frequency()).unbind(1),
            *_logarithm(self._by_place()).unbind(1),
            _logarithm(expected),
            _logarithm(self._uncertain()),
            _logarithm(self._mismatch()),
            self.acquired[:, mirror],
            self._mirror_symmetry(mirror),
            *self._region(),
            *self._measurements(),
            signed.abs() * everywhere,
            signed * everywhere,
            torch.log1p(left) / 3,
            torch.log1p(right) / 3,
        ]

    def of_all(self) -> list[Tensor]:
        """Features that all lines share, (batch, width) each."""
        deviation = self.uncertainty
        noise = self.total.new_zeros(len(self.total))
        if deviation is not None:
            noise = deviation.float().square().sum(dim=(-2, -1)) / self.total
        squared = self.image.abs().float().square()
        power = self.total.square().clamp(min=torch.finfo(torch.float32).tiny)
        peak = squared.square().sum(dim=(-2, -1)) / power * squared[0].numel()
        outer = (_energy(self.hybrid).sum(dim=1) * (~self.acquired)).sum(dim=1) / self.total
        values = [
            self.acquired.float().mean(dim=1),
            self._symmetry(),
            _logarithm(noise),
            torch.log10(peak.clamp(min=1.0)) / 2,
            _logarithm(outer),
        ]
        return [value[:, None].expand(-1, self.width) for value in values]

    def _by_frequency(self) -> Tensor:
        """Share of energy in bands of frequency along the readout: (batch, band, width)."""
        energy = _energy(fourier.fft(self.hybrid, (-2,)))
        height = energy.shape[1]
        frequency = (torch.arange(height, device=energy.device) - height // 2).abs()
        frequency = frequency / max(height // 2, 1)
        bands = [
            energy[:, (frequency >= low) & (frequency < high)].sum(dim=1)
            for low, high in pairwise(_BANDS)
        ]
        return torch.stack(bands, dim=1) / self.total[:, None, None]

    def _by_place(self) -> Tensor:
        """Share of energy in parts of the readout's field of view: (batch, place, width)."""
        height = self.energy.shape[1]
        place = torch.arange(height, device=self.energy.device) * _N_PLACES // height
        parts = self.energy.new_zeros((len(self.energy), _N_PLACES, self.width))
        parts.index_add_(1, place, self.energy)
        return parts / self.total[:, None, None]

    def _uncertain(self) -> Tensor:
        """Share of energy of the standard deviation on every line, (batch, width)."""
        if self.uncertainty is None:
            return self.total.new_zeros((len(self.total), self.width))
        deviation = fourier.fft(self.uncertainty.to(torch.complex64), (-1,))
        return _energy(deviation).sum(dim=1) / self.total[:, None]

    def _region(self) -> tuple[Tensor, Tensor]:
        """Energy of the region, and of its shape, on every line, or zeros: (batch, width) each."""
        region = self.view.region
        if region is None:
            nothing = torch.zeros_like(self.acquired, dtype=torch.float32)
            return nothing, nothing
        inside = torch.zeros_like(self.view.reconstruction.image, dtype=torch.float32)
        center_crop(inside, self.view.target_shape).copy_(region)
        if self.view.geometry.are_rows:
            inside = inside.transpose(-2, -1)
        shape = fourier.fft(inside.to(torch.complex64), (-1,))
        shown = fourier.fft((self.image * inside).to(torch.complex64), (-1,))
        size = _energy(shape).sum(dim=1) / inside[0].numel()
        return _logarithm(_energy(shown).sum(dim=1) / self.total[:, None]), _logarithm(size)

    def _measurements(self) -> tuple[Tensor, Tensor]:
        """Number of measurements of lines, and how much they are doubted: (batch, width) each."""
        log, transform = self.view.log, self.view.transform
        times = transform.own(log.n_measured).float()
        outlier = transform.own(log.outlier_score)
        return torch.log1p(times), outlier / (1 + outlier)

    def _mismatch(self) -> Tensor:
        """Contradiction of the samples on acquired lines, as a share of energy: (batch, width)."""
        operator = self.view.operator
        image = self.view.reconstruction.image.to(torch.complex64)
        wrong = _energy(operator.forward(image) - self.view.log.samples).sum(dim=(2, 3))
        energy = operator.transform.own(wrong)
        return energy * self.acquired / self.total[:, None]

    def _mirror_symmetry(self, mirror: Tensor) -> Tensor:
        """Hermitian symmetry of a line and its mirror, where both were acquired: (batch, width)."""
        product, norm = self._pairs(mirror)
        both = self.acquired & self.acquired[:, mirror]
        return product.abs() / norm.clamp(min=torch.finfo(torch.float32).tiny) * both

    def _symmetry(self) -> Tensor:
        """Hermitian symmetry of the acquired k-space, without its centre: (batch,)."""
        mirror = mirror_of(self.width, self.image.device)
        product, norm = self._pairs(mirror)
        both = self.acquired & self.acquired[:, mirror]
        both = both & (mirror != torch.arange(self.width, device=mirror.device))
        over = (product * both).sum(dim=1).abs()
        under = (norm * both).sum(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        return over / under

    def _pairs(self, mirror: Tensor) -> tuple[Tensor, Tensor]:
        """Product and norm of every line with its mirror image, summed over coils: (batch, width).

        An image of constant phase p has K(-k)* = exp(-2ip) K(k): the products of all pairs of
        samples then have one phase.
        """
        lines = fourier.ifft(self.measured, (-2,))  # (batch, coil, height, width)
        # In hybrid space the mirror of a real image's line is its conjugate, place by place.
        product = (lines * lines[..., mirror]).sum(dim=(1, 2))
        norm = (lines.abs() * lines[..., mirror].abs()).sum(dim=(1, 2))
        return product, norm


def _energy(values: Tensor) -> Tensor:
    return torch.view_as_real(values.resolve_conj()).square().sum(dim=-1)


def _logarithm(share: Tensor) -> Tensor:
    """Shares of energy as numbers of order one: 1 is -1, a millionth is -0.6."""
    return torch.log10(share.clamp(min=0) + _FLOOR) / 3 + 1


def _gaps(acquired: Tensor) -> tuple[Tensor, Tensor]:
    """Lines to the nearest acquired one on either side, (batch, width); to the border if none."""
    width = acquired.shape[1]
    index = torch.arange(width, device=acquired.device)
    before = torch.where(acquired, index, -1).cummax(dim=1).values
    after = torch.where(acquired, index, width).flip(1).cummin(dim=1).values.flip(1)
    return (index - before).float(), (after - index).float()


def _in_frame(own: Tensor, view: View, *, swap: bool) -> Tensor:
    """(batch, feature, lines of the scan) to (batch, feature, lines of the frame)."""
    batch, n_features, n = own.shape
    flat = own.reshape(batch * n_features, *((n, 1) if swap else (1, n)))
    framed = cartesian(view.transform).of_grid_values(flat).reshape(batch, n_features, -1)
    framed[:, NAMES.index("measurable")] = view.measurable.float()
    return framed


def mirror_image(lines: Tensor) -> Tensor:
    """Features of the same scans seen from the other side: the lines of the conjugate image.

    Line i changes places with its mirror image; so do left and right. What a policy should do then
    is the mirror image as well, so that learners may show every state both ways.

    Args:
        lines: (batch, N_FEATURES, n_lines).
    """
    turned = lines[..., mirror_of(lines.shape[-1], lines.device)].clone()
    left, right = NAMES.index("lines to the left"), NAMES.index("lines to the right")
    turned[:, [left, right]] = turned[:, [right, left]]
    turned[:, NAMES.index("signed distance")] *= -1
    return turned


def mirror_of(n_lines: int, device: torch.device | str = "cpu") -> Tensor:
    """The line at the opposite side of the centre, for every line: int64 (n_lines,)."""
    return (2 * (n_lines // 2) - torch.arange(n_lines, device=device)) % n_lines
