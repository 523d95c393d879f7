"""The evaluator's architecture as a network of actions: a score for every line, from the image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from activemri.agents.learned import ActionNetwork, Observations
from activemri.evaluator import Evaluator


class EvaluatorNetwork(ActionNetwork):
    """Scores lines by the images that they make, as in Pineda et al., MICCAI 2020.

    The architecture is that of :class:`activemri.evaluator.Evaluator`, trained for another
    purpose: spectral maps of the reconstruction and the mask's embedding go through strided
    convolutions. An action's score is the mean of its lines' scores. The paper has 128 channels
    and 4 layers. The budget is not seen, as in the paper.

    Args:
        width: lines of k-space of the largest scan.
        along_height: lines are rows; else columns.
        groups: lines of each action; None where action i acquires line i.
        channels: width of the first convolution.
        layers: strided convolutions; each halves the image.
    """

    kind = "evaluator"
    observation = "complex"
    stops = False

    def __init__(
        self,
        width: int,
        *,
        along_height: bool = False,
        groups: Sequence[Sequence[int]] | None = None,
        channels: int = 16,
        layers: int = 4,
    ) -> None:
        super().__init__()
        self.width, self.along_height = width, along_height
        self.groups = None if groups is None else [list(group) for group in groups]
        self.channels, self.layers = channels, layers
        self.evaluator = Evaluator(width, channels=channels, layers=layers)
        self.n_actions = width if groups is None else len(groups)

    @property
    def settings(self) -> dict[str, object]:
        return {
            "width": self.width,
            "along_height": self.along_height,
            "groups": self.groups,
            "channels": self.channels,
            "layers": self.layers,
        }

    def forward(self, observation: Observations) -> Tensor:
        real, imaginary = observation["image"].float().unbind(1)
        image = torch.complex(real, imaginary)
        if self.along_height:
            image = image.transpose(-2, -1)
        scores: Tensor = self.evaluator(image, observation["mask"].bool())
        if self.groups is None:
            return scores
        return scores[:, torch.tensor(self.groups, device=scores.device)].mean(dim=-1)


def most_layers(width: int, *, wanted: int = 4) -> int:
    """Convolutions that a number of lines allows, up to those of the paper."""
    return max(1, min(wanted, width.bit_length() - 1))
