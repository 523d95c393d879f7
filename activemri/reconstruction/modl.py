"""MoDL: one denoiser, used again and again between solutions of least squares."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from activemri.mri.operators import Operator
from activemri.mri.solvers import conjugate_gradient
from activemri.reconstruction.image_channels import (
    Convolutions,
    checked_sizes,
    normalised,
    scale_and_phase,
)
from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor


class MoDL(Reconstructor):
    """x <- (A^H A + w)^-1 (A^H y + w z) with z = x + N(x), the same network N every time.

    Aggarwal, Mani and Jacob, MoDL: model-based deep learning architecture for inverse problems,
    IEEE TMI 38:394 (2019). The weight w is learned; the systems are solved by conjugate gradients.

    Ours differs from the paper: images are normalised by their root mean square and mean phase;
    there is no batch normalisation, which ties scans of a batch together; and gradients go through
    the steps of the solutions instead of through solutions of their own, which for eight coils and
    eight steps are 1.4 times as large as the slope with respect to a mask. The paper's recipe of
    training one iteration first: ``--network.iterations 1``, then ``--reconstructor`` with the path
    of the result and ``--network.iterations 10``. It has 64 channels, 5 layers and 10 steps.

    Args:
        iterations: how often the network is used.
        cg_steps: conjugate gradients of each solution at most.
    """

    is_differentiable = True

    def __init__(
        self, channels: int = 32, *, layers: int = 5, iterations: int = 5, cg_steps: int = 8
    ) -> None:
        super().__init__()
        self.settings = checked_sizes(
            channels=channels, layers=layers, iterations=iterations, cg_steps=cg_steps
        )
        self.iterations, self.cg_steps = iterations, cg_steps
        self.network = Convolutions(channels, layers)
        # so that the weight starts at 0.05
        self.raw_weight = nn.Parameter(torch.tensor(math.log(math.expm1(0.05))))

    @property
    def weight(self) -> Tensor:
        """w, positive whatever is learned."""
        return functional.softplus(self.raw_weight) + 1e-4

    def solve(self, measurement: Measurement) -> Reconstruction:
        operator, weight = measurement.operator, self.weight
        scale, phase = scale_and_phase(measurement.zero_filled)
        start = normalised(measurement.zero_filled, scale, phase)
        image = start
        for _ in range(self.iterations):
            right = start + weight * (image + self.network(image))
            if operator.is_diagonal:
                image = Operator(operator.transform, 1 / (operator.mask + weight)).gram(right)
            else:
                image = conjugate_gradient(
                    lambda image: operator.gram(image) + weight * image,
                    right,
                    max_steps=self.cg_steps,
                )
        return Reconstruction(scale * phase * image)
