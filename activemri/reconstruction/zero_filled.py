"""The plainest reconstruction: samples that were not acquired count as zero."""

from activemri.reconstruction.reconstructor import Measurement, Reconstruction, Reconstructor


class ZeroFilled(Reconstructor):
    """The adjoint of the measurement, as it is."""

    is_zero_filled = is_differentiable = True

    def __init__(self) -> None:
        super().__init__()
        self.settings = {}

    def forward(self, measurement: Measurement) -> Reconstruction:
        return Reconstruction(measurement.zero_filled)
