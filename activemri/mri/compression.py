"""Fewer and cleaner coil channels: prewhitening and coil compression."""

import torch
from torch import Tensor


def noise_covariance(noise: Tensor) -> Tensor:
    """Covariance of the coils' noise, complex (coil, coil).

    Args:
        noise: samples without signal, complex (coil, ...), at least as many as coils.

    Raises:
        ValueError: too few samples, or none that differs from zero.
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
    _check(len(calibration), n_coils)
    directions, _, _ = torch.linalg.svd(calibration.flatten(1), full_matrices=False)
    combinations: Tensor = directions[:, :n_coils].conj().T
    return combinations


def geometric_compression(calibration: Tensor, n_coils: int, *, window: int = 5) -> Tensor:
    """Combinations of their own for every place along the readout.

    Zhang et al., Coil compression for accelerated imaging with Cartesian sampling, MRM 69:571
    (2013). The readout is always complete, so k-space separates into one problem for each place
    along it, and each has fewer degrees of freedom than all together. Neighbouring places get
    combinations that are as alike as can be, so that the virtual coils stay smooth.

    Args:
        calibration: acquired lines, transformed to image space along the readout, complex
            (coil, place along the readout, line).
        n_coils: virtual coils.
        window: places that decide together, odd.

    Returns:
        Matrices with orthonormal rows (place, virtual coil, coil).

    Raises:
        ValueError: more virtual coils than coils, or an even window.
    """
    _check(len(calibration), n_coils)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"expected an odd window of at least 1; got {window}")
    n_places, half = calibration.shape[1], window // 2
    matrices: list[Tensor] = []
    for place in range(n_places):
        near = calibration[:, max(place - half, 0) : place + half + 1].flatten(1)
        found = svd_compression(near, n_coils)
        if matrices:
            # The rotation among virtual coils that comes closest to the last place's (Procrustes).
            left, _, right = torch.linalg.svd(matrices[-1] @ found.conj().T)
            found = left @ right @ found
        matrices.append(found)
    return torch.stack(matrices)


def mix_coils_by_place(kspace: Tensor, matrices: Tensor) -> Tensor:
    """:func:`mix_coils` for k-space (..., coil, place, line), with a matrix for each place."""
    return torch.einsum("pvc,...cpl->...vpl", matrices.to(kspace.dtype), kspace)


def _check(n_given: int, n_coils: int) -> None:
    if not 1 <= n_coils <= n_given:
        raise ValueError(f"expected 1 to {n_given} virtual coils; got {n_coils}")
