"""Input and output of every reconstruction method."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from activemri.batched import Batched
from activemri.mri.geometry import Geometry, cartesian
from activemri.mri.operators import Operator


@dataclass(frozen=True, eq=False)
class Measurement:
    """Acquired samples of a batch of scans of one size, and how images lead to them.

    ::

        residual = measurement.operator.forward(image) - measurement.samples
    """

    samples: Tensor  # complex (batch, readout, coil, sample); zero where not acquired
    operator: Operator
    zero_filled: Tensor  # adjoint of the samples, complex (batch, height, width)

    @classmethod
    def of(cls, samples: Tensor, operator: Operator) -> "Measurement":
        """Measure: keep what the operator's mask selects of fully or partly known samples."""
        acquired = samples * operator.mask[:, :, None, None]
        # not of the acquired ones: the derivative of a squared mask is 0 where nothing is acquired
        return cls(acquired, operator, operator.zero_filled(samples))

    @classmethod
    def of_grid(cls, kspace: Tensor, operator: Operator) -> "Measurement":
        """The same of k-space on the Cartesian grid, complex (batch, coil, height, width)."""
        return cls.of(operator.transform.of_grid(kspace), operator)

    @property
    def kspace(self) -> Tensor:
        """The samples of a Cartesian scan on their grid, complex (batch, coil, height, width)."""
        return cartesian(self.operator.transform).grid(self.samples)

    def of_scan(self, row: int, n: int = 1) -> "Measurement":
        """Some `n` scans of the batch, one as a batch of one."""
        some = slice(row, row + n)
        operator = self.operator.of_scan(row, n)
        return Measurement(self.samples[some], operator, self.zero_filled[some])


@dataclass(frozen=True, eq=False)
class Reconstruction(Batched):
    """A reconstructed batch, with an uncertainty and samples where the method has them anyway.

    ::

        result = Reconstruction(image, uncertainty=deviation)

    Samples hold the measured data if the image does.
    """

    image: Tensor  # complex (batch, height, width)
    uncertainty: Tensor | None = None  # standard deviation, float (batch, height, width)
    samples: Tensor | None = None  # plausible images, complex (batch, sample, height, width)


class Reconstructor(nn.Module):
    """A method that turns a measurement, and nothing but it, into an image.

    ::

        class Damped(Reconstructor):
            # The zero-filled image after one step of gradient descent.
            settings = {}

            def forward(self, measurement):
                image = measurement.zero_filled
                residual = measurement.operator.gram(image) - image
                return Reconstruction(image - 0.5 * residual)

    Subclasses implement :meth:`forward`, or :meth:`solve`.
    """

    #: The image is the zero-filled one, so that it may be kept up to date by increments.
    is_zero_filled = False
    #: What the geometry must offer: "grid" (Cartesian samples).
    needs: frozenset[str] = frozenset()
    #: In evaluation, gradients of the image with respect to a soft mask of the operator are those
    #: of what it computes. Policies that learn by such gradients refuse what does not say so.
    is_differentiable = False

    #: Values that may be tried for settings, by name, those that matter most first.
    grid: ClassVar[Mapping[str, Sequence[object]]] = {}

    #: Settings that rebuild the object: ``type(r)(**r.settings)``. Written into checkpoints; may
    #: hold other reconstructors, which are described there by their own kinds and settings.
    settings: dict[str, object]

    def forward(self, measurement: Measurement) -> Reconstruction:
        """Solve; in evaluation on a CPU every scan alone.

        There the result of a scan then does not depend on its batch to the last bit, and many small
        steps stay in the cache.
        """
        return self._solve_in_parts(measurement, 1)

    def try_out(self, measurement: Measurement) -> Reconstruction:
        """The same up to rounding, of trials: four at a time, which suits a CPU best."""
        if type(self).forward is not Reconstructor.forward:
            return self(measurement)
        return self._solve_in_parts(measurement, 4)

    def _solve_in_parts(self, measurement: Measurement, size: int) -> Reconstruction:
        n = len(measurement.zero_filled)
        if self.training or measurement.zero_filled.device.type != "cpu" or n <= size:
            return self.solve(measurement)
        parts = [measurement.of_scan(row, size) for row in range(0, n, size)]
        solved = [checked(self.solve(part), part.zero_filled, by=self) for part in parts]
        return Reconstruction.join(solved)

    def solve(self, measurement: Measurement) -> Reconstruction:
        raise NotImplementedError

    def __call__(self, measurement: Measurement) -> Reconstruction:
        """Reconstruct; a ValueError says in what form an image is expected that is in none."""
        return checked(super().__call__(measurement), measurement.zero_filled, by=self)


def checked(result: object, zero_filled: Tensor, *, by: Reconstructor) -> Reconstruction:
    """A reconstruction, made of a bare tensor, double precision or a real image where need be.

    Raises:
        ValueError: another type or shape than the zero-filled image's; on a CPU in evaluation also
            values that are not finite. A training finds them in its loss, and on other devices,
            which are not waited for, they show in scores.
    """
    made = Reconstruction(result) if isinstance(result, Tensor) else result
    wanted, name = tuple(zero_filled.shape), f"reconstructor {type(by).__name__}"
    if not isinstance(made, Reconstruction) or not isinstance(made.image, Tensor):
        raise ValueError(
            f"{name}: expected a Reconstruction, or its complex image of shape {wanted}; "
            f"got {type(made).__name__}"
        )
    is_looked_at, total = zero_filled.device.type == "cpu" and not by.training, 0.0
    for noun, found, shape in (
        ("complex image", made.image, wanted),
        ("real uncertainty", made.uncertainty, wanted),
        ("complex stack of samples", made.samples, (wanted[0], ..., *wanted[1:])),
    ):
        if found is None:
            continue
        came = tuple(getattr(found, "shape", ()))
        fits = (
            isinstance(found, Tensor)
            and (found.is_floating_point() or (found.is_complex() and "complex" in noun))
            and len(came) == len(shape)
            and all(size in (..., own) for size, own in zip(shape, came, strict=True))
        )
        if not fits:
            words = str(shape).replace("Ellipsis", "samples")
            kind = getattr(found, "dtype", type(found).__name__)
            raise ValueError(
                f"{name}: expected a {noun} of shape {words}; got {kind} of shape {came}"
            )
        if is_looked_at:  # a sum is finite if all values are, and costs little
            total += abs(complex(found.detach().sum()))
    if not math.isfinite(total):
        raise ValueError(f"{name}: expected finite values; got NaN or Inf")
    return replace(
        made,
        image=made.image.to(zero_filled.dtype),
        uncertainty=None if made.uncertainty is None else made.uncertainty.float(),
        samples=None if made.samples is None else made.samples.to(zero_filled.dtype),
    )


@torch.no_grad()
def gives_uncertainty(reconstructor: Reconstructor) -> bool:
    """Its reconstructions come with an uncertainty, as found out on a tiny scan."""
    weight = next(iter(reconstructor.state_dict().values()), torch.empty(0))
    kspace = torch.ones(1, 1, 16, 16, dtype=torch.complex64, device=weight.device)
    mask = torch.ones(1, 1, 16, dtype=torch.bool, device=weight.device)
    operator = Operator.on_grid(mask, (16, 16))
    return reconstructor(Measurement.of_grid(kspace, operator)).uncertainty is not None


def require_served(reconstructor: Reconstructor, geometry: Geometry) -> None:
    """Refuse a reconstructor that cannot serve a geometry by a ValueError: what it needs."""
    if "grid" in reconstructor.needs and not geometry.transform.is_cartesian:
        raise ValueError(
            f"reconstructor {type(reconstructor).__name__} needs samples on a Cartesian grid; "
            f"geometry {geometry.name!r} has none; choose e.g. zero-filled, cg-sense, wavelet, "
            "total-variation, modl or unet"
        )
