"""Features of every line of k-space: a few dozen numbers a line, for small networks.

A network that sees an image has to find out that it is a Fourier transform away from the lines that
may be chosen. Here the transform is done. Everything is made of a :class:`View`: of acquired
samples.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.envs import line_kernels as kernels
from activemri.envs.line_kernels import N_BANDS, N_PLACES
from activemri.envs.scan import View
from activemri.metrics.reference import center_crop
from activemri.mri import fourier
from activemri.mri.geometry import Cartesian, cartesian
from activemri.mri.spectrum import line_distances, power_law

_BANDS = (0.0, 0.125, 0.25, 0.5, 1.01)  # along the readout, in shares of the largest frequency
_FLOOR = 1e-7  # share of the energy that counts as nothing

_Runs = tuple[NDArray[np.int64], NDArray[np.int64]]

NAMES: tuple[str, ...] = (
    "acquired",
    "measurable",
    "energy",
    *(f"energy at frequency {i}" for i in range(N_BANDS)),
    *(f"energy at place {i}" for i in range(N_PLACES)),
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
_OTHER_NAMES: tuple[str, ...] = (
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


#: Features that follow from what was acquired, how often, and where; no sample changes them.
OF_MASK = frozenset({
    "acquired",
    "measurable",
    "mirror acquired",
    "times measured",
    "distance",
    "signed distance",
    "lines to the left",
    "lines to the right",
    "share acquired",
    "cosine",
    "sine",
    "nearest acquired",
})  # fmt: skip


def feature_names(has_lines: bool) -> tuple[str, ...]:
    """Names of the features of readouts: of lines, or of others."""
    return NAMES if has_lines else _OTHER_NAMES


def readout_features(view: View) -> Tensor:
    """Features of every readout: float32 (batch, feature, n_readouts), of order one.

    Energies of lines are shares of the reconstruction's energy, as logarithms. `expected energy` is
    the power law that fits the acquired lines; `uncertain energy` that of the standard deviation of
    the pixels; `size of the region` the spectrum of its shape; `mismatch` says by how much the
    reconstruction contradicts the samples of acquired lines; `symmetry` is how Hermitian the
    acquired k-space is: 1 for images without phase. Lines that a smaller scan lacks are zero.

    Points and spokes have fewer: `energy` is a share of that of all acquired samples; `distance` is
    that from the centre of k-space; `cosine` and `sine` are those of a point's direction or of
    twice a spoke's angle; `nearest acquired` is a distance, in angle for spokes.
    """
    if view.geometry.has_lines:
        on_cpu = view.mask.device.type == "cpu"
        return _compiled_line_features(view) if on_cpu else _line_features(view)
    place = view.transform.coordinates.to(view.mask.device).float()
    acquired, log = view.mask.float(), view.log
    energy = _energy(log.samples).sum(dim=(2, 3))
    tiny = torch.finfo(torch.float32).tiny
    if view.transform.is_cartesian:
        radius = torch.linalg.vector_norm(place, dim=1)
        angle = torch.atan2(place[:, 0], place[:, 1])
        grid = cartesian(view.transform).mask_shape
        nearest = [_nearest_point(mask.unflatten(0, grid), place) for mask in view.mask]
    else:
        radius, angle = place[:, 0], 2 * place[:, 1]
        apart = (angle[:, None] - angle).abs()
        apart = torch.minimum(apart, 2 * math.pi - apart) / math.pi
        far = apart.amax()  # where nothing is acquired yet
        nearest = [apart.masked_fill(~mask, far).amin(dim=1) for mask in view.mask]
    parts = [
        acquired,
        view.measurable.float(),
        _logarithm(energy / energy.sum(dim=1, keepdim=True).clamp(min=tiny)),
        torch.log1p(log.n_measured.float()),
        log.outlier_score / (1 + log.outlier_score),
        radius,
        angle.cos(),
        angle.sin(),
        torch.stack(nearest),
        acquired.mean(dim=1, keepdim=True),
    ]
    return torch.stack([part.expand_as(acquired) for part in parts], dim=1)


def _nearest_point(acquired: Tensor, place: Tensor) -> Tensor:
    """Distance of every point of a grid to the nearest acquired one: (height * width,).

    `acquired` is bool (height, width), `place` (height * width, 2). Squares of distances along the
    two axes add up: the nearest in each row first, then the nearest row. With nothing acquired it
    is the largest distance of all.
    """
    down, right = place.unflatten(0, acquired.shape)[:, 0, 0], place[: acquired.shape[1], 1]
    between_rows = (down[:, None] - down).square()
    between_columns = (right[:, None] - right).square()
    in_row = torch.where(acquired[:, None], between_columns, torch.inf).amin(dim=2)
    squared = (between_rows[:, :, None] + in_row).amin(dim=1)
    farthest = between_rows.amax() + between_columns.amax()
    nearest: Tensor = squared.minimum(farthest).sqrt().flatten()
    return nearest


def _compiled_line_features(view: View) -> Tensor:
    """Features of lines on the CPU: as few transforms as possible, and compiled passes.

    A zero-filled image of one coil has the acquired samples as its spectrum. Other images take two
    transforms, each scan alone.
    """
    transform, log, image = cartesian(view.transform), view.log, view.reconstruction.image

    def own(values: Tensor) -> Tensor:
        return transform.own(values).contiguous()

    samples, acquired = own(log.samples), own(view.mask)
    n_scans, width, _, height = samples.shape
    taken = samples.flatten(0, 1).index_select(0, acquired.flatten().nonzero().squeeze(1))
    # Along the readout: places of acquired lines, from the centre of the image on.
    profiles = torch.fft.ifftshift(taken, dim=-1)
    if len(taken):  # the library refuses to transform nothing
        profiles = torch.fft.ifft(profiles, norm="ortho")
    sums = torch.zeros((n_scans, kernels.N_SLOTS, width))
    if image is view.zero_filled and view.sensitivity is None:
        arrays = (samples.numpy(), profiles.numpy(), acquired.numpy())
        kernels.add_line_energies(*arrays, *_runs(height)[0], sums.numpy())
    else:
        taken_of = profiles.split([np.count_nonzero(mask) for mask in acquired.numpy()])
        for row, (lines, result) in enumerate(zip(taken_of, sums.numpy(), strict=True)):
            _add_image(view, row, lines, result)
    if view.reconstruction.uncertainty is not None:
        for one, result in zip(view.reconstruction.uncertainty, sums.numpy(), strict=True):
            _add_energy(_turned(one, view), result[kernels.UNCERTAIN])
    if view.region is not None:
        for one, where, result in zip(image, _inside(view), sums.numpy(), strict=True):
            _add_energy(_turned(where, view), result[kernels.SIZE])
            _add_energy(_turned(one * where, view), result[kernels.SHOWN])
    features = torch.empty((n_scans, N_FEATURES, width))
    kernels.put_features(
        profiles.numpy(),
        acquired.numpy(),
        own(view.measurable).numpy(),
        own(log.n_measured).numpy(),
        own(log.outlier_score).numpy(),
        sums.numpy(),
        kernels.fourth_powers(image.contiguous().numpy()),
        height * width,
        view.region is not None,
        features.numpy(),
    )
    return _framed(features, transform)


def _add_image(view: View, row: int, profiles: Tensor, sums: NDArray[np.float32]) -> None:
    """Energies of one scan's image, and how far it contradicts `profiles` of acquired lines."""
    image = _turned(view.reconstruction.image[row], view)
    height, width = image.shape
    frequency = np.arange(width) - width // 2
    mask, maps = view.transform.own(view.mask)[row].numpy(), view.sensitivity
    hybrid = torch.fft.fft(image, norm="ortho")
    spectrum = torch.fft.fft(hybrid, dim=0, norm="ortho")
    energy = np.zeros_like(sums)
    for values, runs in zip((spectrum, hybrid), _runs(height)[1], strict=True):
        kernels.add_energies(values.contiguous().numpy(), *runs, energy)
    sums += energy[:, frequency]
    # Phases that a transform with its origin in the centre would have.
    turn = np.exp(2j * np.pi / width * (frequency * (width // 2) % width)).astype(np.complex64)
    seen = [hybrid]
    if maps is not None:
        seen = [torch.fft.fft(_turned(one, view) * image, norm="ortho") for one in maps[row]]
    for coil, own in zip(seen, profiles.unbind(1), strict=True):
        arrays = (coil.numpy(), own.contiguous().numpy(), np.flatnonzero(mask), turn)
        kernels.add_mismatch(*arrays, sums[kernels.MISMATCH])


def _add_energy(image: Tensor, sums: NDArray[np.float32]) -> None:
    """Add the energy of every line of an image (height, width): to (width,)."""
    height, width = image.shape
    energy = np.zeros((1, width), np.float32)
    frequency = np.arange(width) - width // 2
    if image.is_complex():
        lines = torch.fft.fft(image, norm="ortho")
    else:  # the other half is the mirror image
        lines, frequency = torch.fft.rfft(image, norm="ortho"), np.abs(frequency)
    kernels.add_energies(lines.numpy(), np.array([0, height]), np.array([0]), energy)
    sums += energy[0, frequency]


@lru_cache(maxsize=16)
def _runs(height: int) -> tuple[tuple[_Runs, _Runs], tuple[_Runs, _Runs]]:
    """Runs of samples along the readout that count together, by band and by place: starts, slots.

    First those for samples and profiles of lines, then those for a spectrum from frequency zero on
    and for an image.
    """
    number, turn = np.arange(height), -(height // 2)
    frequency = np.abs(number + turn) / max(height // 2, 1)
    band = np.searchsorted(_BANDS, frequency, side="right") - 1
    place = N_BANDS + number * N_PLACES // height

    def runs(slots: NDArray[np.int64]) -> _Runs:
        starts = np.flatnonzero(np.diff(slots, prepend=-1))
        return np.append(starts, height), slots[starts]

    return (runs(band), runs(np.roll(place, turn))), (runs(np.roll(band, turn)), runs(place))


def _turned(values: Tensor, view: View) -> Tensor:
    """Images (..., height, width) with lines as columns."""
    return values.transpose(-2, -1).contiguous() if view.geometry.are_rows else values


def _inside(view: View) -> Tensor:
    """The region of interest in whole images: float32 (batch, height, width)."""
    assert view.region is not None
    inside = torch.zeros_like(view.reconstruction.image, dtype=torch.float32)
    center_crop(inside, view.target_shape).copy_(view.region)
    return inside


def _framed(features: Tensor, transform: Cartesian) -> Tensor:
    """Features of the frame's lines, (batch, feature, n_readouts), from those of the scan's own."""
    on_grid = features.reshape(-1, *transform.own_shape)
    return transform.of_grid_values(on_grid).reshape(*features.shape[:2], -1)


def _line_features(view: View) -> Tensor:
    """The same in plain torch, for other devices.

    Scans whose lines are rows are turned: here, lines are columns.
    """
    operator, transform, log = view.operator, view.transform, view.log
    image, uncertainty = _turned(view.reconstruction.image, view), view.reconstruction.uncertainty
    acquired = transform.own(view.mask)
    n_scans, height, width = image.shape
    tiny, device = torch.finfo(torch.float32).tiny, image.device
    column, row = torch.arange(width, device=device), torch.arange(height, device=device)

    # Complex (batch, height, width): place along the readout, frequency along the lines.
    hybrid = fourier.fft(image.to(torch.complex64), (-1,))
    energy = _energy(hybrid)
    total = energy.sum(dim=(-2, -1)).clamp(min=tiny)[:, None]
    share = energy.sum(dim=1) / total
    expected = power_law(share.double(), acquired, line_distances((1, width), device)).float()
    outer = (energy.sum(dim=1) * ~acquired).sum(dim=1, keepdim=True) / total
    squared = image.abs().float().square()
    peak = squared.square().sum(dim=(-2, -1))[:, None] / total.square().clamp(min=tiny)

    spectrum = _energy(fourier.fft(hybrid, (-2,)))
    frequency = (row - height // 2).abs() / max(height // 2, 1)
    band = torch.stack([frequency >= edge for edge in _BANDS[1:-1]]).sum(dim=0)
    bands = energy.new_zeros((n_scans, N_BANDS, width)).index_add_(1, band, spectrum)
    places = energy.new_zeros((n_scans, N_PLACES, width))
    places.index_add_(1, row * N_PLACES // height, energy)

    wrong = operator.forward(view.reconstruction.image.to(torch.complex64)) - log.samples
    mismatch = transform.own(_energy(wrong).sum(dim=(2, 3))) * acquired / total

    uncertain, noise = torch.zeros_like(share), torch.zeros_like(total)
    if uncertainty is not None:
        deviation = _turned(uncertainty, view)
        noise = deviation.float().square().sum(dim=(-2, -1))[:, None] / total
        uncertain = _energy(fourier.fft(deviation.to(torch.complex64), (-1,))).sum(dim=1) / total

    shown = size = torch.zeros_like(share)
    if view.region is not None:
        inside = _turned(_inside(view), view)
        shape = fourier.fft(inside.to(torch.complex64), (-1,))
        part = fourier.fft((image * inside).to(torch.complex64), (-1,))
        size = _logarithm(_energy(shape).sum(dim=1) / inside[0].numel())
        shown = _logarithm(_energy(part).sum(dim=1) / total)

    # An image of constant phase p has K(-k)* = exp(-2ip) K(k): the products of all pairs of samples
    # then have one phase. In hybrid space the mirror of a real image's line is its conjugate.
    mirror = mirror_of(width, device)
    lines = fourier.ifft(
        _turned(view.measurement.kspace, view), (-2,)
    )  # (batch, coil, height, width)
    product = (lines * lines[..., mirror]).sum(dim=(1, 2))
    norm = (lines.abs() * lines[..., mirror].abs()).sum(dim=(1, 2))
    both = acquired & acquired[:, mirror]
    pair = product.abs() / norm.clamp(min=tiny) * both
    apart = both & (mirror != column)  # all but the centre
    symmetry = (product * apart).sum(dim=1, keepdim=True).abs()
    symmetry = symmetry / (norm * apart).sum(dim=1, keepdim=True).clamp(min=tiny)

    # Lines to the nearest acquired one on either side; to the border if there is none.
    before = torch.where(acquired, column, -1).cummax(dim=1).values
    after = torch.where(acquired, column, width).flip(1).cummin(dim=1).values.flip(1)
    signed = (column - width // 2) / max(width // 2, 1)
    outlier = transform.own(log.outlier_score)
    parts = [
        acquired,
        transform.own(view.measurable),
        _logarithm(share),
        *_logarithm(bands / total[:, None]).unbind(1),
        *_logarithm(places / total[:, None]).unbind(1),
        _logarithm(expected),
        _logarithm(uncertain),
        _logarithm(mismatch),
        acquired[:, mirror],
        pair,
        shown,
        size,
        torch.log1p(transform.own(log.n_measured).float()),
        outlier / (1 + outlier),
        signed.abs(),
        signed,
        torch.log1p((column - before).float()) / 3,
        torch.log1p((after - column).float()) / 3,
        acquired.float().mean(dim=1, keepdim=True),
        symmetry,
        _logarithm(noise),
        torch.log10((peak * squared[0].numel()).clamp(min=1.0)) / 2,
        _logarithm(outer),
    ]
    own = torch.stack([part.float().expand(n_scans, width) for part in parts], dim=1)
    return _framed(own, cartesian(transform))


def _energy(values: Tensor) -> Tensor:
    return torch.view_as_real(values.resolve_conj()).square().sum(dim=-1)


def _logarithm(share: Tensor) -> Tensor:
    """Shares of energy as numbers of order one: 1 is -1, a millionth is -0.6."""
    return torch.log10(share.clamp(min=0) + _FLOOR) / 3 + 1


def mirror_image(lines: Tensor) -> Tensor:
    """Features (batch, N_FEATURES, n_lines) of the same scans' conjugate images.

    What a policy should do then is the mirror image as well: learners may show states both ways.
    """
    turned = lines[..., mirror_of(lines.shape[-1], lines.device)].clone()
    left, right = NAMES.index("lines to the left"), NAMES.index("lines to the right")
    turned[:, [left, right]] = turned[:, [right, left]]
    turned[:, NAMES.index("signed distance")] *= -1
    return turned


def mirror_of(n_lines: int, device: torch.device | str = "cpu") -> Tensor:
    """The line at the opposite side of the centre, for every line: int64 (n_lines,)."""
    return (2 * (n_lines // 2) - torch.arange(n_lines, device=device)) % n_lines
