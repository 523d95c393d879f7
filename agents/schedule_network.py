"""A network that is told how many lines were acquired, and nothing of the scan."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from activemri.agents.learned import ActionNetwork, Observations


class ScheduleNetwork(ActionNetwork):
    """Fully connected layers on the number of acquired lines: the same order for every scan.

    The data-set-specific network of Pineda et al., MICCAI 2020: the number of lines acquired since
    the start, one-hot, goes through layers with ReLU to a score for every action. What order comes
    out is decided by the scans that it was trained on. Comparing it with a network that sees the
    scan, trained in the same way, says what adapting to the scan is worth.

    Args:
        n_actions: of the geometry.
        budget: lines to acquire in a whole scan.
        hidden: width of a layer.
        layers: hidden layers.
        stops: score STOP as well.
    """

    kind = "schedule"
    observation = "mask"

    def __init__(
        self,
        n_actions: int,
        budget: int,
        *,
        hidden: int = 32,
        layers: int = 3,
        stops: bool = False,
    ) -> None:
        super().__init__()
        if min(n_actions, budget, hidden, layers) < 1:
            raise ValueError(
                "expected at least one action, one line to acquire and one hidden layer; got "
                f"n_actions={n_actions}, budget={budget}, hidden={hidden}, layers={layers}"
            )
        self.n_actions, self.budget = n_actions, budget
        self.hidden, self.n_layers, self.stops = hidden, layers, stops
        widths = [budget + 1] + layers * [hidden]
        parts: list[nn.Module] = []
        for before, after in pairwise(widths):
            parts += [nn.Linear(before, after), nn.ReLU()]
        self.network = nn.Sequential(*parts, nn.Linear(hidden, n_actions + stops))

    @property
    def settings(self) -> dict[str, object]:
        return {
            "n_actions": self.n_actions,
            "budget": self.budget,
            "hidden": self.hidden,
            "layers": self.n_layers,
            "stops": self.stops,
        }

    def forward(self, observation: Observations) -> Tensor:
        left = observation["budget"].float().squeeze(1)  # as a fraction of the scan's own budget
        n_acquired = ((1 - left) * self.budget).round().long().clamp(0, self.budget)
        scores: Tensor = self.network(functional.one_hot(n_acquired, self.budget + 1).float())
        return scores
