"""Receive coils: sensitivities from physics, how images combine, prewhitening."""

import math

import numpy as np
import torch
from torch import Tensor

SEGMENTS = 48  # straight pieces of a wire loop


def biot_savart_sensitivity(
    n_coils: int,
    height: int,
    width: int,
    *,
    generator: np.random.Generator | None = None,
    distance: float = 0.85,
    jitter: float = 0.06,
) -> Tensor:
    """Sensitivities of circular loops on a cylinder around the body, by the law of Biot-Savart.

    The slice is the plane z = 0 and the main field points along z. By reciprocity a coil that
    would produce the field (B_x, B_y) with unit current receives with B_x - i B_y (Hoult and
    Richards 1976; Roemer et al. 1990). The wires lie outside the field of view's inner circle.

    Args:
        n_coils: loops, evenly around the body from a random start; 1 gives a map of ones.
        height, width: of the grid; pixels are square and the smaller side has length 1.
        generator: moves the loops a little; None leaves them at their nominal places, the first
            one on the right.
        distance: of the loops from the centre, in units of the smaller side.
        jitter: standard deviation of what the generator does to angle, distance, tilt and radius,
            as a fraction of the spacing, distance, a radian and the radius.

    Returns:
        complex64 (coil, height, width), of unit norm over the coils in every pixel.
    """
    if n_coils == 1:
        return torch.ones(1, height, width, dtype=torch.complex64)
    side = min(height, width)
    y = torch.from_numpy((np.arange(height) - height // 2) / side)
    x = torch.from_numpy((np.arange(width) - width // 2) / side)
    draws = np.zeros((5, n_coils))
    start = 0.0
    if generator is not None:
        start = generator.uniform(0, 2 * math.pi)
        draws = jitter * generator.standard_normal((5, n_coils)).clip(-2, 2)
    angle = start + 2 * math.pi * (np.arange(n_coils) + draws[0]) / n_coils
    # neighbours overlap by a quarter to decouple them; a loop never grows beyond 0.4
    radius = np.minimum(1.25 * distance * math.sin(math.pi / max(n_coils, 3)), 0.4)
    radius = radius * (1 + draws[1])
    apart = distance * (1 + draws[2])
    normal = angle + draws[3]
    around = np.linspace(0, 2 * math.pi, SEGMENTS + 1)[None]
    tangent = radius[:, None] * np.cos(around)
    corners = (
        (apart * np.cos(angle))[:, None] - np.sin(normal)[:, None] * tangent,
        (apart * np.sin(angle))[:, None] + np.cos(normal)[:, None] * tangent,
        radius[:, None] * np.sin(around) + draws[4][:, None] * distance,
    )
    wires = torch.from_numpy(np.stack(corners, axis=-1))  # closed: (coil, segment + 1, xyz)
    step = wires[:, 1:] - wires[:, :-1]  # (coil, segment, xyz)
    middle = (wires[:, 1:] + wires[:, :-1]) / 2
    # B_x - i B_y of unit currents (up to mu_0 / 4 pi)
    field = torch.zeros(n_coils, height, width, dtype=torch.complex128)
    for segment in range(SEGMENTS):  # one at a time: the grid is large, the loop short
        d_x, d_y, d_z = (step[:, segment, axis, None, None] for axis in range(3))
        to_x, to_y, to_z = (-middle[:, segment, axis, None, None] for axis in range(3))
        to_x, to_y = to_x + x, to_y + y[:, None]
        weight = (to_x**2 + to_y**2 + to_z**2).clamp_min(1e-6) ** -1.5
        field += torch.complex(
            (d_y * to_z - d_z * to_y) * weight, -(d_z * to_x - d_x * to_z) * weight
        )
    return unit_norm(field).to(torch.complex64)


def root_sum_of_squares(images: Tensor) -> Tensor:
    """Coil images (..., coil, height, width) to a magnitude image (..., height, width)."""
    if images.requires_grad or not images.is_complex():
        # A root of zero has no finite gradient; this has one, but takes 20 times as long.
        norm: Tensor = torch.linalg.vector_norm(images, dim=-3)
        return norm
    return torch.view_as_real(images).square().sum(dim=-4).sum(dim=-1).sqrt()


def combine(images: Tensor, sensitivity: Tensor) -> Tensor:
    """Coil images to one complex image, sum conj(S) x, both (..., coil, height, width).

    The adjoint of "seeing with the coils"; with maps of unit norm the signal-to-noise optimal
    combination for independent noise (Roemer et al. 1990).
    """
    return torch.sum(sensitivity.conj() * images, dim=-3)


def unit_norm(maps: Tensor) -> Tensor:
    """Divide maps (..., coil, height, width) by their norm; a pixel of zeros gets equal coils."""
    norm = root_sum_of_squares(maps).unsqueeze(-3)
    tiny = torch.finfo(norm.dtype).tiny
    return torch.where(norm > tiny, maps / norm.clamp_min(tiny), 1 / math.sqrt(maps.shape[-3]))


def noise_covariance(noise: Tensor) -> Tensor:
    """Covariance (coil, coil) of samples without signal, complex (coil, ...).

    Raises:
        ValueError: fewer samples than coils, or none that differs from zero.
    """
    samples = noise.flatten(1)
    n_coils, n_samples = samples.shape
    if n_samples < n_coils or not bool(samples.abs().amax() > 0):
        raise ValueError(
            f"expected at least {n_coils} noise samples of each of {n_coils} coils, and not zeros "
            f"only; got {n_samples}"
        )
    return samples @ samples.conj().T / n_samples


def whitening(covariance: Tensor) -> Tensor:
    """The matrix that makes noise of that covariance independent and of variance one.

    Inverse of the Cholesky factor: W C W^H = 1 (Pruessmann et al., MRM 46:638, 2001).

    Raises:
        ValueError: a covariance that is not positive definite, e.g. with a broken coil.
    """
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed):
        raise ValueError(
            "the noise covariance is not positive definite: a coil may be broken or there twice; "
            "expected independent noise in every coil"
        )
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, eye, upper=False)
    return inverse


def mix_coils(kspace: Tensor, matrix: Tensor) -> Tensor:
    """Combine coils: (..., coil, height, width) to (..., virtual coil, height, width)."""
    return torch.einsum("vc,...chw->...vhw", matrix.to(kspace.dtype), kspace)


def svd_compression(calibration: Tensor, n_coils: int) -> Tensor:
    """The combinations that hold most of the signal (Buehrer et al., MRM 57:1131, 2007).

    Args:
        calibration: k-space that decides, complex (coil, ...), e.g. the lines acquired first.
        n_coils: virtual coils, at most as many as coils.

    Returns:
        Matrix with orthonormal rows (virtual coil, coil), strongest first, for :func:`mix_coils`.
    """
    if not 1 <= n_coils <= len(calibration):
        raise ValueError(f"expected 1 to {len(calibration)} virtual coils; got {n_coils}")
    directions, _, _ = torch.linalg.svd(calibration.flatten(1), full_matrices=False)
    combinations: Tensor = directions[:, :n_coils].mH
    return combinations


def geometric_compression(calibration: Tensor, n_coils: int, *, window: int = 5) -> Tensor:
    """Combinations of their own for every place along the readout, as alike as can be.

    Zhang et al., Coil compression for accelerated imaging with Cartesian sampling, MRM 69:571
    (2013). The readout is complete: each place along it has fewer degrees of freedom than all.

    Args:
        calibration: acquired lines in image space along the readout, complex (coil, place, line).
        n_coils: virtual coils.
        window: places that decide together, odd.

    Returns:
        Matrices with orthonormal rows (place, virtual coil, coil), for
        ``einsum("pvc,...cpl->...vpl", matrices, kspace)``.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"expected an odd window of at least 1; got {window}")
    matrices: list[Tensor] = []
    for place in range(calibration.shape[1]):
        near = calibration[:, max(place - window // 2, 0) : place + window // 2 + 1]
        found = svd_compression(near, n_coils)
        if matrices:  # turned to the last place's among virtual coils (Procrustes)
            left, _, right = torch.linalg.svd(matrices[-1] @ found.mH)
            found = left @ right @ found
        matrices.append(found)
    return torch.stack(matrices)
