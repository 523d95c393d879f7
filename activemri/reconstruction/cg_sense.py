"""CG-SENSE: least squares over what all coils have measured."""

from typing import ClassVar

from activemri.mri.solvers import conjugate_gradient
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor


class CGSense(Reconstructor):
    """x = argmin |A x - y|^2 + weight |x|^2, by conjugate gradients from the zero-filled image.

    Pruessmann et al., Advances in sensitivity encoding with arbitrary k-space trajectories, MRM
    46:638 (2001). Few steps regularise as well: noise is amplified late. A single coil on a
    Cartesian grid gives the zero-filled image.

    Args:
        steps: of conjugate gradients at most.
        weight: of the image's energy, in units of the operator's norm.
        tolerance: of the residual's norm, in units of the zero-filled image's.
    """

    is_differentiable = True
    grid: ClassVar = {"weight": (1e-3, 3e-3, 0.03, 0.1, 0.3), "steps": (3, 5, 20)}

    def __init__(self, steps: int = 10, *, weight: float = 1e-2, tolerance: float = 1e-4) -> None:
        super().__init__()
        if steps < 1 or not weight >= 0 or not tolerance >= 0:
            raise ValueError(
                "expected at least one step, and a weight and a tolerance of at least 0; got "
                f"steps={steps}, weight={weight}, tolerance={tolerance}"
            )
        self.settings = {"steps": steps, "weight": weight, "tolerance": tolerance}
        self.steps, self.weight, self.tolerance = steps, weight, tolerance

    def solve(self, measurement: Measurement) -> Reconstruction:
        operator, image = measurement.operator, measurement.zero_filled
        if not operator.is_diagonal:
            image = conjugate_gradient(
                lambda image: operator.gram(image) + self.weight * image,
                measurement.zero_filled,
                start=measurement.zero_filled,
                max_steps=self.steps,
                tolerance=self.tolerance,
            )
        return Reconstruction(image)
