"""A network that looks at the reconstruction itself, and scores every line."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from activemri.agents.learned import ActionNetwork, Observations
from activemri.agents.line_network import (
    LineBlock,
    best_of_new,
    mirrored,
    of_actions,
    point_outwards,
)

_GRID = 8  # places along each side of the image that the summary keeps apart
_SUMMARY = 128
_CONTEXT = 8  # numbers that the summary says of each line
_WIDTHS = (16, 32, 32, 32)


class ImageNetwork(ActionNetwork):
    """Strided convolutions over the image, whose summary speaks of every line of k-space.

    Lines of k-space are no places in the image: a summary of the whole image is turned into a few
    numbers for each line by a dense layer, and joined with what was acquired, the budget and the
    distance from the centre. From there on it is the network of lines
    (:class:`activemri.agents.line_network.LineNetwork`), weights shared by all of them.

    Args:
        shape: channels, height and width of the image.
        n_lines: length of a mask.
        observation: which image: "image", "uncertainty", "roi" or "complex".
        groups: lines of each action; None where action i acquires line i.
        repeats: whether lines may be measured again, so that the observation says how often.
        channels: numbers that the network keeps for each line.
        blocks: how many residual blocks along the lines.
        stops: score STOP as well.
    """

    kind = "image"

    def __init__(
        self,
        shape: Sequence[int],
        n_lines: int,
        *,
        observation: str = "image",
        groups: Sequence[Sequence[int]] | None = None,
        repeats: bool = False,
        channels: int = 32,
        blocks: int = 2,
        stops: bool = False,
    ) -> None:
        super().__init__()
        self.shape, self.n_lines, self.observation = tuple(shape), n_lines, observation
        self.groups = None if groups is None else [list(group) for group in groups]
        self.repeats, self.channels, self.n_blocks, self.stops = repeats, channels, blocks, stops
        self.n_actions = n_lines if groups is None else len(groups)
        self.look = _summary(self.shape[0])
        self.speak = nn.Linear(_SUMMARY, _CONTEXT * n_lines)
        # Acquired, budget, distance; how often and how well, where that is told.
        self.enter = nn.Conv1d(2 * (_CONTEXT + 3 + 2 * repeats), channels, 1)
        self.blocks = nn.ModuleList(LineBlock(channels) for _ in range(blocks))
        self.leave = nn.Conv1d(channels, 1, 1)
        self.stop = nn.Linear(channels, 1) if stops else None

    @property
    def settings(self) -> dict[str, object]:
        return {
            "shape": list(self.shape),
            "n_lines": self.n_lines,
            "observation": self.observation,
            "groups": self.groups,
            "repeats": self.repeats,
            "channels": self.channels,
            "blocks": self.n_blocks,
            "stops": self.stops,
        }

    def forward(self, observation: Observations) -> Tensor:
        return self.score(self.embed(observation), observation)

    def embed(self, observation: Observations) -> Tensor:
        """What is known of every line: float (batch, channels, n_lines).

        Images of bytes are brought to 0 to 1; others are taken as they are.
        """
        image = observation["image"]
        image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        context = self.speak(self.look(image)).unflatten(1, (_CONTEXT, self.n_lines))
        known = torch.cat([context, *self._of_lines(observation)], dim=1)
        hidden: Tensor = self.enter(torch.cat([known, mirrored(known)], dim=1))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def score(self, hidden: Tensor, observation: Observations) -> Tensor:
        """Scores of all actions, STOP included, from what :meth:`embed` gives."""
        scores = of_actions(self.leave(hidden).squeeze(1), self.groups)
        if self.stop is None:
            return scores
        best = best_of_new(scores, observation["mask"] <= 0, self.groups)
        return torch.cat([scores, best + self.stop(hidden.mean(dim=-1))], dim=1)

    def point_outwards(self, spread: float) -> None:
        """Have new lines near the centre score highest; see the function of that name."""
        point_outwards(self, spread, distance=_CONTEXT + 2, acquired=_CONTEXT)

    def _of_lines(self, observation: Observations) -> list[Tensor]:
        """What the rest of the observation says of lines, (batch, any, n_lines) each."""
        mask = observation["mask"].float()[:, None]
        left = observation["budget"].float()[:, :, None].expand_as(mask)
        half = max(self.n_lines // 2, 1)
        place = torch.arange(self.n_lines, device=mask.device) - self.n_lines // 2
        parts = [mask, left, (place / half).abs().expand_as(mask)]
        return [*parts, observation["repeats"].float()] if self.repeats else parts


def _summary(n_channels: int) -> nn.Sequential:
    """From images of any size to one vector each."""
    widths = (n_channels, *_WIDTHS)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(_GRID),
        nn.Flatten(),
        nn.Linear(_WIDTHS[-1] * _GRID**2, _SUMMARY),
        nn.SiLU(),
    )
