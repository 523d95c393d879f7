"""Networks that score actions, by what they look at: lines, images, the time, or complex images.

All are for readouts that are lines, or score actions by their number. :func:`make_network` makes
one that fits a scan.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from activemri.devices import seeded
from activemri.envs.line_features import N_FEATURES, NAMES, feature_names, mirror_of
from activemri.envs.observation import Frame, make_observation
from activemri.evaluator import Evaluator
from activemri.mri.geometry import Geometry

_KERNEL = 5
_ACQUIRED, _MEASURABLE = NAMES.index("acquired"), NAMES.index("measurable")

# Of networks of images: places along each side that the summary keeps apart, its length, and the
# numbers that it gives each line.
_GRID, _SUMMARY, _CONTEXT = 8, 128, 8
_WIDTHS = (16, 32, 32, 32)

#: Lines of each action; None where action i acquires line i.
Groups = Sequence[Sequence[int]] | None

#: Observations of a batch, by part; under "observation" where there is one part only.
Observations = Mapping[str, Tensor]


class ActionNetwork(nn.Module):
    """Scores every action: logits, values or predicted gains; higher is better.

    Attributes:
        kind: in :data:`NETWORKS`.
        observation: name of its input, see :mod:`activemri.envs.observation`.
        n_actions: actions of the geometry, without STOP.
        stops: one more score, the last one, is that of STOP.
        needs: traits of the policy that it is, see :class:`activemri.agents.policy.Traits`.
        settings: arguments that make the same network, as JSON holds them.
    """

    kind: ClassVar[str]
    observation: str
    n_actions: int
    stops: bool
    needs: frozenset[str] = frozenset({"lines"})
    settings: dict[str, Any]

    def forward(self, observation: Observations) -> Tensor:
        """Scores of all actions, illegal ones too: float (batch, n_actions + stops)."""
        raise NotImplementedError


def make_network(
    kind: str,
    geometry: Geometry,
    frame: Frame,
    *,
    budget: int | None = None,
    observation: str = "image",
    channels: int = 32,
    blocks: int = 2,
    stops: bool = False,
    seed: int = 0,
) -> ActionNetwork:
    """A new network for the actions of a geometry.

    Args:
        kind: "lines", "image", "schedule", "evaluator" or "varnet".
        geometry: of the scans.
        frame: their largest sizes.
        budget: lines that a scan acquires, for "schedule"; None for all.
        observation: for "image": "image", "uncertainty", "roi" or "complex".
        channels: numbers kept for each line; of an evaluator's first layer, a schedule's layers.
        blocks: residual blocks of "lines" and "image".
        stops: score STOP as well.
        seed: of the first weights.

    Raises:
        ValueError: an unknown kind, or one that does not fit.
    """
    groups = None if geometry.readouts_per_action == 1 else geometry.groups.tolist()
    along_height = geometry.are_rows
    if kind in ("image", "evaluator", "varnet") and not geometry.has_lines:
        raise ValueError(
            f"geometry {geometry.name!r}: a network of the kind {kind!r} scores whole lines "
            "(columns or rows); choose --learner.network lines or schedule"
        )
    common: dict[str, Any] = {"groups": groups, "channels": channels}

    def make() -> ActionNetwork:
        if kind == "schedule":
            most = budget or geometry.n_readouts
            return ScheduleNetwork(geometry.n_actions, most, hidden=channels, stops=stops)
        if kind == "lines":
            n_features = len(feature_names(geometry.has_lines))
            return LineNetwork(
                n_features, geometry.n_readouts, blocks=blocks, stops=stops, **common
            )
        if kind == "image":
            parts: Any = make_observation(observation).space(frame)
            if "image" not in getattr(parts, "spaces", ()):
                raise ValueError(
                    f"--learner.observation {observation}: expected one of lines, image, "
                    "uncertainty, roi, complex"
                )
            return ImageNetwork(
                parts["image"].shape,
                geometry.n_readouts,
                observation=observation,
                repeats="repeats" in parts.spaces,
                blocks=blocks,
                stops=stops,
                **common,
            )
        if kind not in ("evaluator", "varnet"):
            raise ValueError(
                f"--learner.network {kind}: expected one of lines, varnet, evaluator, schedule"
            )
        if stops:
            raise ValueError(
                f"--learner.network {kind}: it cannot stop; choose another network, or scans "
                "without STOP"
            )
        if kind == "evaluator":
            layers = most_layers(geometry.n_readouts)
            return EvaluatorNetwork(
                geometry.n_readouts, along_height=along_height, layers=layers, **common
            )
        return VarNetNetwork(
            geometry.shape,
            along_height=along_height,
            groups=groups,
            pools=most_pools(geometry.shape),
        )

    return seeded(make, seed)


def copied(network: ActionNetwork) -> ActionNetwork:
    """Another network with the same weights, ready to learn."""
    copy = type(network)(**network.settings)
    copy.load_state_dict(network.state_dict())
    device = next(network.parameters()).device
    return copy.to(device).train().requires_grad_(True)


class LineNetwork(ActionNetwork):
    """Residual one-dimensional convolutions along the lines, or other readouts, of k-space.

    Every line sees its neighbours, its mirror image, and the mean over all lines. The weights are
    shared by all lines, so that a few subjects teach a lot; distance from the centre is one of the
    features. An action's score is the mean of its lines' scores. With `stops` the last score is
    that of STOP: the best score of a line not yet acquired, plus a number made of the mean over
    all lines, which says by its sign whether to stop.

    Args:
        n_features: of each line; see :mod:`activemri.envs.line_features`.
        n_lines: length of a mask.
        groups: lines of each action; None where action i acquires line i.
        channels: numbers that the network keeps for each line.
        blocks: residual blocks.
        stops: score STOP as well.
    """

    kind = "lines"
    observation = "lines"

    def __init__(
        self,
        n_features: int,
        n_lines: int,
        *,
        groups: Groups = None,
        channels: int = 48,
        blocks: int = 4,
        stops: bool = False,
    ) -> None:
        super().__init__()
        self.groups, self.channels, self.stops = _listed(groups), channels, stops
        self.names = feature_names(n_features == N_FEATURES)
        self.needs = frozenset({"lines"} if self.names == NAMES else ())
        self.settings = {
            "n_features": n_features,
            "n_lines": n_lines,
            "groups": self.groups,
            "channels": channels,
            "blocks": blocks,
            "stops": stops,
        }
        self.n_actions = n_lines if groups is None else len(groups)
        # One more feature: the share of the budget that is left.
        self.enter = nn.Conv1d(2 * (n_features + 1), channels, 1)
        self.blocks = nn.ModuleList(LineBlock(channels) for _ in range(blocks))
        self.leave = nn.Conv1d(channels, 1, 1)
        self.stop = nn.Linear(channels, 1) if stops else None

    def forward(self, observation: Observations) -> Tensor:
        return self.score(self.embed(observation), observation)

    def embed(self, observation: Observations) -> Tensor:
        """Numbers of every line: float (batch, channels, n_lines)."""
        lines, budget = observation["lines"].float(), observation["budget"].float()
        left = budget[:, :, None].expand(-1, 1, lines.shape[-1])
        known = torch.cat([lines, left], dim=1)
        hidden: Tensor = self.enter(torch.cat([known, mirrored(known)], dim=1))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def score(self, hidden: Tensor, observation: Observations) -> Tensor:
        """Scores of all actions, STOP included, from what :meth:`embed` gives."""
        scores = of_actions(self.leave(hidden).squeeze(1), self.groups)
        if self.stop is None:
            return scores
        urge = self.stop(hidden.mean(dim=-1))
        return torch.cat([scores, self.best_new(scores, observation["lines"]) + urge], dim=1)

    def best_new(self, scores: Tensor, lines: Tensor) -> Tensor:
        """Largest score of an action that acquires something new: (batch, 1)."""
        new = (lines[:, _MEASURABLE] > 0) & (lines[:, _ACQUIRED] <= 0)
        return best_of_new(scores, new, self.groups)

    def point_outwards(self, spread: float) -> None:
        """Have new lines near the centre score highest; see the function of that name."""
        point_outwards(self, spread, distance=self.names.index("distance"), acquired=_ACQUIRED)


class ImageNetwork(ActionNetwork):
    """Strided convolutions over the image, whose summary speaks of every line of k-space.

    Lines of k-space are no places in the image: a summary of the whole image is turned into a few
    numbers for each line by a dense layer, and joined with what was acquired, the budget and the
    distance from the centre. From there on it is :class:`LineNetwork`, weights shared by all lines.

    Args:
        shape: channels, height and width of the image.
        n_lines: length of a mask.
        observation: which image: "image", "uncertainty", "roi" or "complex".
        groups: lines of each action; None where action i acquires line i.
        repeats: lines may be measured again, and the observation says how often they were.
        channels: numbers that the network keeps for each line.
        blocks: residual blocks along the lines.
        stops: score STOP as well.
    """

    kind = "image"

    def __init__(
        self,
        shape: Sequence[int],
        n_lines: int,
        *,
        observation: str = "image",
        groups: Groups = None,
        repeats: bool = False,
        channels: int = 32,
        blocks: int = 2,
        stops: bool = False,
    ) -> None:
        super().__init__()
        self.observation, self.n_lines, self.repeats = observation, n_lines, repeats
        self.groups, self.channels, self.stops = _listed(groups), channels, stops
        self.settings = {
            "shape": list(shape),
            "n_lines": n_lines,
            "observation": observation,
            "groups": self.groups,
            "repeats": repeats,
            "channels": channels,
            "blocks": blocks,
            "stops": stops,
        }
        self.n_actions = n_lines if groups is None else len(groups)
        self.look = _summary(shape[0])
        self.speak = nn.Linear(_SUMMARY, _CONTEXT * n_lines)
        # Acquired, budget, distance; how often and how well, where lines repeat.
        self.enter = nn.Conv1d(2 * (_CONTEXT + 3 + 2 * repeats), channels, 1)
        self.blocks = nn.ModuleList(LineBlock(channels) for _ in range(blocks))
        self.leave = nn.Conv1d(channels, 1, 1)
        self.stop = nn.Linear(channels, 1) if stops else None

    def forward(self, observation: Observations) -> Tensor:
        return self.score(self.embed(observation), observation)

    def embed(self, observation: Observations) -> Tensor:
        """Numbers of every line: float (batch, channels, n_lines).

        Images of bytes are brought to 0 to 1; others are taken as they are.
        """
        image = observation["image"]
        image = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        context = self.speak(self.look(image)).unflatten(1, (_CONTEXT, self.n_lines))
        mask = observation["mask"].float()[:, None]
        left = observation["budget"].float()[:, :, None].expand_as(mask)
        half = max(self.n_lines // 2, 1)
        place = torch.arange(self.n_lines, device=mask.device) - self.n_lines // 2
        parts = [context, mask, left, (place / half).abs().expand_as(mask)]
        if self.repeats:
            parts.append(observation["repeats"].float())
        known = torch.cat(parts, dim=1)
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
    needs: frozenset[str] = frozenset()

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
        self.settings = {
            "n_actions": n_actions,
            "budget": budget,
            "hidden": hidden,
            "layers": layers,
            "stops": stops,
        }
        if min(n_actions, budget, hidden, layers) < 1:
            raise ValueError(f"a schedule has at least one of each; got {self.settings}")
        self.n_actions, self.budget, self.stops = n_actions, budget, stops
        widths = [budget + 1] + layers * [hidden]
        parts: list[nn.Module] = []
        for before, after in pairwise(widths):
            parts += [nn.Linear(before, after), nn.ReLU()]
        self.network = nn.Sequential(*parts, nn.Linear(hidden, n_actions + stops))

    def forward(self, observation: Observations) -> Tensor:
        left = observation["budget"].float().squeeze(1)  # as a fraction of the scan's own budget
        n_acquired = ((1 - left) * self.budget).round().long().clamp(0, self.budget)
        scores: Tensor = self.network(functional.one_hot(n_acquired, self.budget + 1).float())
        return scores


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
        groups: Groups = None,
        channels: int = 16,
        layers: int = 4,
    ) -> None:
        super().__init__()
        self.along_height, self.groups = along_height, _listed(groups)
        self.settings = {
            "width": width,
            "along_height": along_height,
            "groups": self.groups,
            "channels": channels,
            "layers": layers,
        }
        self.evaluator = Evaluator(width, channels=channels, layers=layers)
        self.n_actions = width if groups is None else len(groups)

    def forward(self, observation: Observations) -> Tensor:
        real, imaginary = observation["image"].float().unbind(1)
        image = torch.complex(real, imaginary)
        image = image.transpose(-2, -1) if self.along_height else image
        return of_actions(self.evaluator(image, observation["mask"].bool()), self.groups)


class VarNetNetwork(ActionNetwork):
    """Convolutions and pooling over the image, then layers that give every line a score.

    ``fastmri.models.policy.LineConvSampler`` of Bakker et al., On learning adaptive acquisition
    policies for undersampled multi-coil MRI reconstruction, MIDL 2022: blocks of convolution,
    instance normalisation, ReLU and pooling that double the channels, and fully connected layers.
    Ours differs: its heat map is taken before it is squashed and rescaled, as
    :mod:`activemri.agents.relaxations` does both. The network sees real and imaginary part of the
    current reconstruction, and neither mask nor budget, as in the paper.

    Args:
        shape: height and width of the frame.
        along_height: lines are rows; else columns.
        groups: lines of each action; None where action i acquires line i.
        channels: of the first block.
        pools: how often the image is halved; at least two pixels must be left.
        hidden: width of the fully connected layers.
    """

    kind = "varnet"
    observation = "complex"
    stops = False

    def __init__(
        self,
        shape: Sequence[int],
        *,
        along_height: bool = False,
        groups: Groups = None,
        channels: int = 16,
        pools: int = 4,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        from fastmri.models.policy import LineConvSampler  # here: it takes a second to import

        height, width = shape
        if min(height, width) < 2 ** (pools + 1):
            raise ValueError(
                f"{pools} poolings need images of at least {2 ** (pools + 1)} pixels a side; got "
                f"{height} x {width}"
            )
        self.along_height, self.groups = along_height, _listed(groups)
        self.settings = {
            "shape": [height, width],
            "along_height": along_height,
            "groups": self.groups,
            "channels": channels,
            "pools": pools,
            "hidden": hidden,
        }
        size = (2, width, height) if along_height else (2, height, width)
        sampler = LineConvSampler(size, chans=channels, num_pool_layers=pools, fc_size=hidden)
        # These two are all that its heat map needs; the sampler holds the first one's parts twice.
        self.features: nn.Module = sampler.feature_extractor
        self.head: nn.Module = sampler.fc_out
        self.n_actions = size[-1] if groups is None else len(groups)

    def forward(self, observation: Observations) -> Tensor:
        image = observation["image"].float()
        image = image.transpose(-2, -1) if self.along_height else image
        return of_actions(self.head(self.features(image).flatten(1)), self.groups)


#: Classes by the kind that checkpoints name.
NETWORKS: dict[str, type[ActionNetwork]] = {
    network.kind: network
    for network in (LineNetwork, ImageNetwork, ScheduleNetwork, EvaluatorNetwork, VarNetNetwork)
}


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


def of_actions(values: Tensor, groups: Groups) -> Tensor:
    """Values of lines (..., n_lines) as those of actions: the mean over an action's lines."""
    if groups is None:
        return values
    return values[..., torch.tensor(groups, device=values.device)].mean(dim=-1)


def best_of_new(scores: Tensor, new: Tensor, groups: Groups) -> Tensor:
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


def point_outwards(
    network: LineNetwork | ImageNetwork, spread: float, *, distance: int, acquired: int
) -> None:
    """Begin as low-frequency-first: what a learner has no need to find out again.

    Two of the numbers that the network keeps for each line become its distance from the centre
    and whether it was acquired, and its score ``-spread * (distance + acquired)``. Everything
    else is left to learn.

    Args:
        network: to change.
        spread: by how much the centre is ahead of the edge.
        distance: place of that feature among the numbers of a line.
        acquired: place of that one.
    """
    enter, leave = network.enter, network.leave
    assert enter.bias is not None and leave.bias is not None
    with torch.no_grad():
        for place, feature in enumerate((distance, acquired)):
            enter.weight[place], enter.bias[place] = 0.0, 0.0
            enter.weight[place, feature] = 1.0
        for block in network.blocks:
            assert isinstance(block, LineBlock) and block.out.bias is not None
            block.out.weight[:2], block.out.bias[:2] = 0.0, 0.0
        leave.weight[:], leave.bias[:] = 0.0, 0.0
        leave.weight[0, :2] = -spread


def mirrored(values: Tensor) -> Tensor:
    """Values of the lines at the opposite side of the centre, (batch, channel, line).

    The line at n // 2 stays; the first of an even number has no opposite and stays as well.
    """
    return values[..., mirror_of(values.shape[-1], values.device)]


def most_layers(width: int, *, wanted: int = 4) -> int:
    """Convolutions of the evaluator that a number of lines allows, up to those of the paper."""
    return max(1, min(wanted, width.bit_length() - 1))


def most_pools(shape: Sequence[int], *, wanted: int = 4) -> int:
    """Poolings of VarNet's policy that a size allows, up to those of the paper."""
    return max(1, min(wanted, min(shape).bit_length() - 2))


def _summary(n_channels: int) -> nn.Sequential:
    """From images of any size to one vector each."""
    layers: list[nn.Module] = []
    for before, after in pairwise((n_channels, *_WIDTHS)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(_GRID),
        nn.Flatten(),
        nn.Linear(_WIDTHS[-1] * _GRID**2, _SUMMARY),
        nn.SiLU(),
    )


def _listed(groups: Groups) -> list[list[int]] | None:
    return None if groups is None else [list(group) for group in groups]
