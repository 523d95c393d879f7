"""A small network that scores every line from features of lines, the same weights for all."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from activemri.agents.learned import ActionNetwork, Observations
from activemri.envs.line_features import NAMES, mirror_of

_KERNEL = 5
_ACQUIRED, _MEASURABLE = NAMES.index("acquired"), NAMES.index("measurable")


class LineNetwork(ActionNetwork):
    """Residual one-dimensional convolutions along the lines of k-space.

    Every line sees its neighbours, its mirror image, and the mean over all lines. The weights are
    shared by all lines, so that a few subjects teach a lot; distance from the centre is one of the
    features. An action's score is the mean of its lines' scores. With `stops` the last score is
    that of STOP: the best score of a line not yet acquired, plus a number made of the mean over
    all lines, which says by its sign whether to stop.

    Args:
        n_features: of each line; see :mod:`activemri.envs.line_features`.
        groups: lines of each action; None where action i acquires line i.
        n_lines: length of a mask.
        channels: numbers that the network keeps for each line.
        blocks: how many residual blocks.
        stops: score STOP as well.
    """

    kind = "lines"
    observation = "lines"

    def __init__(
        self,
        n_features: int,
        n_lines: int,
        *,
        groups: Sequence[Sequence[int]] | None = None,
        channels: int = 48,
        blocks: int = 4,
        stops: bool = False,
    ) -> None:
        super().__init__()
        self.n_features, self.n_lines = n_features, n_lines
        self.groups = None if groups is None else [list(group) for group in groups]
        self.channels, self.n_blocks, self.stops = channels, blocks, stops
        self.n_actions = n_lines if groups is None else len(groups)
        # One more feature: the share of the budget that is left.
        self.enter = nn.Conv1d(2 * (n_features + 1), channels, 1)
        self.blocks = nn.ModuleList(LineBlock(channels) for _ in range(blocks))
        self.leave = nn.Conv1d(channels, 1, 1)
        self.stop = nn.Linear(channels, 1) if stops else None

    @property
    def settings(self) -> dict[str, object]:
        return {
            "n_features": self.n_features,
            "n_lines": self.n_lines,
            "groups": self.groups,
            "channels": self.channels,
            "blocks": self.n_blocks,
            "stops": self.stops,
        }

    def forward(self, observation: Observations) -> Tensor:
        return self.score(self.embed(observation), observation)

    def score(self, hidden: Tensor, observation: Observations) -> Tensor:
        """Scores of all actions, STOP included, from what :meth:`embed` gives."""
        scores = self.head(hidden)
        if self.stop is None:
            return scores
        urge = self.stop(hidden.mean(dim=-1))
        return torch.cat([scores, self.best_new(scores, observation["lines"]) + urge], dim=1)

    def embed(self, observation: Observations) -> Tensor:
        """What is known of every line: float (batch, channels, n_lines)."""
        lines, budget = observation["lines"].float(), observation["budget"].float()
        left = budget[:, :, None].expand(-1, 1, lines.shape[-1])
        known = torch.cat([lines, left], dim=1)
        hidden: Tensor = self.enter(torch.cat([known, mirrored(known)], dim=1))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Scores of actions, without STOP, from what :meth:`embed` gives."""
        return of_actions(self.leave(hidden).squeeze(1), self.groups)

    def point_outwards(self, spread: float) -> None:
        """Have new lines near the centre score highest; see the function of that name."""
        point_outwards(self, spread, distance=NAMES.index("distance"), acquired=_ACQUIRED)

    def best_new(self, scores: Tensor, lines: Tensor) -> Tensor:
        """Largest score of an action that acquires something new: (batch, 1)."""
        new = (lines[:, _MEASURABLE] > 0) & (lines[:, _ACQUIRED] <= 0)
        return best_of_new(scores, new, self.groups)


class LineBlock(nn.Module):
    """Mixes every line with its neighbours, its mirror image and the mean of all.

    From and to float (batch, channels, n_lines).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.normalise = nn.GroupNorm(1, channels)
        self.mix = nn.Conv1d(3 * channels, channels, _KERNEL, padding=_KERNEL // 2)
        self.out = nn.Conv1d(channels, channels, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        normal = self.normalise(hidden)
        mean = normal.mean(dim=-1, keepdim=True).expand_as(normal)
        mixed = functional.silu(self.mix(torch.cat([normal, mirrored(normal), mean], dim=1)))
        result: Tensor = hidden + self.out(mixed)
        return result


def of_actions(values: Tensor, groups: Sequence[Sequence[int]] | None) -> Tensor:
    """Values of lines (..., n_lines) as those of actions: the mean over an action's lines."""
    if groups is None:
        return values
    return values[..., torch.tensor(groups, device=values.device)].mean(dim=-1)


def best_of_new(scores: Tensor, new: Tensor, groups: Sequence[Sequence[int]] | None) -> Tensor:
    """Largest score of an action that acquires a new line: (batch, 1); 0 where none does.

    Args:
        scores: of actions, (batch, n_actions).
        new: lines that are worth something, bool (batch, n_lines).
        groups: lines of each action; None where action i acquires line i.
    """
    if groups is not None:
        new = new[:, torch.tensor(groups, device=new.device)].any(dim=-1)
    lowest = torch.finfo(scores.dtype).min
    best = scores.masked_fill(~new, lowest).amax(dim=1, keepdim=True)
    return best.masked_fill(~new.any(dim=1, keepdim=True), 0.0)


def point_outwards(network: ActionNetwork, spread: float, *, distance: int, acquired: int) -> None:
    """Begin as low-frequency-first: what a learner has no need to find out again.

    Two of the numbers that the network keeps for each line become its distance from the centre
    and whether it was acquired, and its score ``-spread * (distance + acquired)``. Everything
    else is left to learn.

    Args:
        network: to change, with weights named as in :class:`LineNetwork`.
        spread: by how much the centre is ahead of the edge.
        distance: place of that feature among what the network is told of a line.
        acquired: place of that one.
    """
    enter, leave, blocks = (network.get_submodule(name) for name in ("enter", "leave", "blocks"))
    assert isinstance(enter, nn.Conv1d) and isinstance(leave, nn.Conv1d)
    assert enter.bias is not None and leave.bias is not None
    with torch.no_grad():
        for place, feature in enumerate((distance, acquired)):
            enter.weight[place], enter.bias[place] = 0.0, 0.0
            enter.weight[place, feature] = 1.0
        for out in (block.get_submodule("out") for block in blocks.children()):
            assert isinstance(out, nn.Conv1d) and out.bias is not None
            out.weight[:2], out.bias[:2] = 0.0, 0.0
        leave.weight[:], leave.bias[:] = 0.0, 0.0
        leave.weight[0, :2] = -spread


def mirrored(values: Tensor) -> Tensor:
    """Values of the lines at the opposite side of the centre, (batch, channel, line).

    The line at n // 2 stays; the first of an even number has no opposite and stays as well.
    """
    return values[..., mirror_of(values.shape[-1], values.device)]
