"""What every reconstruction method takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from activemri.mri.operators import CartesianOperator


@dataclass(frozen=True, eq=False)
class Measurement:
    """What has been acquired of a batch of scans of one size.

    Attributes:
        kspace: complex, (batch, coil, height, width); zero where not acquired.
        operator: how an image leads to that k-space (mask and coil sensitivities).
        zero_filled: the adjoint reconstruction, complex, (batch, height, width).
    """

    kspace: Tensor
    operator: CartesianOperator
    zero_filled: Tensor

    @classmethod
    def of(cls, kspace: Tensor, operator: CartesianOperator) -> "Measurement":
        """Measure: keep what the operator's mask selects of fully or partly sampled k-space."""
        acquired = kspace * operator.mask.unsqueeze(1)
        return cls(acquired, operator, operator.adjoint(acquired))

    def of_scan(self, row: int) -> "Measurement":
        """One scan of the batch, as a batch of one."""
        one = slice(row, row + 1)
        return Measurement(self.kspace[one], self.operator.of_scan(row), self.zero_filled[one])


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A reconstructed batch.

    Attributes:
        image: complex, (batch, height, width).
        uncertainty: standard deviation per pixel, float (batch, height, width), or None where
            the method does not give one.
        samples: plausible images, complex (batch, sample, height, width), each with the measured
            data in it if the method keeps data; None where the method draws none anyway.
    """

    image: Tensor
    uncertainty: Tensor | None = None
    samples: Tensor | None = None


class Reconstructor(nn.Module):
    """A method that turns a measurement into an image.

    Subclasses implement :meth:`forward`. They must depend on nothing but the measurement.
    """

    #: Settings that rebuild the object: ``type(r)(**r.settings)``. Written into checkpoints; may
    #: hold other reconstructors, which are described there by their own kinds and settings.
    settings: dict[str, object]

    def forward(self, measurement: Measurement) -> Reconstruction:
        raise NotImplementedError

    def __call__(self, measurement: Measurement) -> Reconstruction:
        return super().__call__(measurement)  # type: ignore[no-any-return]


def checked(result: object, zero_filled: Tensor, *, by: object) -> Reconstruction:
    """A reconstruction in the form that everything else relies on.

    What is unambiguous is brought into it: a bare tensor, double precision, a real image.

    Args:
        result: what a reconstructor returned.
        zero_filled: complex64 (batch, height, width), of the same scans.
        by: the reconstructor, for messages.

    Raises:
        ValueError: another type or shape, or values that are not finite.
    """
    made = Reconstruction(result) if isinstance(result, Tensor) else result
    wanted, name = tuple(zero_filled.shape), f"reconstructor {type(by).__name__}"
    if not isinstance(made, Reconstruction) or not isinstance(made.image, Tensor):
        raise ValueError(
            f"{name}: expected a Reconstruction, or its complex image of shape {wanted}; "
            f"got {type(made).__name__}"
        )
    image, uncertainty = made.image, made.uncertainty
    if image.shape != zero_filled.shape or not (image.is_complex() or image.is_floating_point()):
        raise ValueError(
            f"{name}: expected a complex image of shape {wanted}; "
            f"got {image.dtype} of shape {tuple(image.shape)}"
        )
    if uncertainty is not None and (
        uncertainty.shape != zero_filled.shape or not uncertainty.is_floating_point()
    ):
        raise ValueError(
            f"{name}: expected a real uncertainty of shape {wanted}; "
            f"got {uncertainty.dtype} of shape {tuple(uncertainty.shape)}"
        )
    total = image.sum() if uncertainty is None else image.sum() + uncertainty.sum()
    if not bool(total.isfinite()):  # a sum is finite if all values are, and costs little
        raise ValueError(f"{name}: expected finite values; got NaN or Inf")
    if image.dtype == zero_filled.dtype and (
        uncertainty is None or uncertainty.dtype == torch.float32
    ):
        return made
    return replace(
        made,
        image=image.to(zero_filled.dtype),
        uncertainty=None if uncertainty is None else uncertainty.float(),
    )


def solved_one_by_one(measurement: Measurement, solve: Callable[[Measurement], Tensor]) -> Tensor:
    """What a method makes of every scan, on a CPU each alone.

    There the result of a scan then does not depend on its batch to the last bit, and many small
    steps stay in the cache. Other devices want batches.

    Args:
        measurement: of any number of scans.
        solve: measurement to complex image (batch, height, width).
    """
    if measurement.zero_filled.device.type != "cpu":
        return solve(measurement)
    return torch.cat([solve(measurement.of_scan(row)) for row in range(len(measurement.kspace))])


@torch.no_grad()
def gives_uncertainty(reconstructor: Reconstructor) -> bool:
    """Whether its reconstructions come with an uncertainty, found out on a tiny scan.

    Args:
        reconstructor: in evaluation mode.
    """
    weight = next(iter(reconstructor.state_dict().values()), torch.empty(0))
    kspace = torch.ones(1, 1, 16, 16, dtype=torch.complex64, device=weight.device)
    operator = CartesianOperator(torch.ones(1, 1, 16, dtype=torch.bool, device=weight.device))
    return reconstructor(Measurement.of(kspace, operator)).uncertainty is not None
