"""Networks that score actions, and the policies that they are.

They look at lines, images, the time, complex images, or energies.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from activemri import checkpoints
from activemri.agents.policy import Traits, choose
from activemri.checkpoints import CheckpointError
from activemri.devices import seeded
from activemri.envs.line_features import N_FEATURES, NAMES, OF_MASK, feature_names, mirror_of
from activemri.envs.observation import Frame, make_observation
from activemri.envs.scan import STOP, View
from activemri.evaluator import Evaluator
from activemri.mri.geometry import Geometry
from activemri.options import require_types

_KIND = "policy/"
_KERNEL = 5
_ACQUIRED, _MEASURABLE = NAMES.index("acquired"), NAMES.index("measurable")

# Of networks of images: places along each side that the summary keeps apart, its length, and the
# numbers that it gives each line.
_GRID, _SUMMARY, _CONTEXT = 8, 128, 8
_WIDTHS = (16, 32, 32, 32)

_SIDE = 16  # patches along each side of what the start of a scan shows
_FLOOR = 1e-10  # energy, relative to the start's, below which an action counts as empty

#: Lines of each action; None where action i acquires line i.
Groups = Sequence[Sequence[int]] | None

#: Features that a network of lines sees: all, or those that follow from mask, counts and place.
Sees = Literal["all", "mask"]

#: Observations of a batch, by part; under "observation" where there is one part only.
Observations = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class LearnedPolicy:
    """Takes the legal action that a network scores highest.

    Attributes:
        network: scores actions.
        name: as in tables.
        frame: sizes that the network was made for.
        info: how it was trained, of its file.
    """

    network: "ActionNetwork"
    name: str
    frame: Frame
    info: Mapping[str, object] = field(default_factory=dict)

    @property
    def traits(self) -> Traits:
        """An order if nothing that the network sees of a scan varies."""
        network, may_repeat = self.network, self.frame.repeats > 1
        # Masks come with outlier scores where lines repeat; rejections make them differ.
        varies = self.frame.rejects or (may_repeat and network.observation == "mask")
        return Traits(
            is_order=network.is_order and not varies,
            repeats=network.repeats_lines and may_repeat,
            needs=network.needs,
        )

    def check(self, geometry: Geometry) -> None:
        """Refuse scans with other actions than those that were learned.

        Raises:
            ValueError: for another number of actions, or what else the network refuses.
        """
        if geometry.n_actions != self.network.n_actions:
            raise ValueError(
                f"policy {self.name!r} was trained for {self.network.n_actions} actions; these "
                f"scans have {geometry.n_actions} (geometry {geometry.name!r}): bring them to the "
                "size that it was trained for, e.g. with --matrix-size, or train another"
            )
        if refusal := self.network.refusal(geometry):
            raise ValueError(f"policy {self.name!r} {refusal}")

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        scores = self.scores(view)
        n_actions = self.network.n_actions
        legal = view.legal if self.network.repeats_lines else view.due
        actions = choose(scores[:, :n_actions], legal)
        if not self.network.stops:
            return actions
        best = scores[:, :n_actions].masked_fill(~view.legal, -torch.inf).amax(dim=1)
        return torch.where(scores[:, n_actions] > best, STOP, actions)

    def scores(self, view: View) -> Tensor:
        """Scores of every action by the network: float (batch, n_actions + stops)."""
        self.check(view.geometry)
        network = self.network.to(view.legal.device)
        was_training = network.training
        network.eval()
        with torch.no_grad():
            scores: Tensor = network(network.observe(view, self.frame))
        network.train(was_training)
        return scores

    def save(self, path: str | Path, *, info: Mapping[str, object]) -> Path:
        """Write weights and settings; the path without suffix. See :func:`load_policy`."""
        network, frame = self.network, asdict(self.frame)
        return checkpoints.save(
            path,
            kind=_KIND + network.kind,
            settings={"network": network.settings, "frame": frame, "name": self.name},
            state_dict=network.state_dict(),
            info=info,
        )


def load_policy(path: str | Path, *, name: str | None = None) -> LearnedPolicy:
    """The policy of a checkpoint.

    Args:
        path: what :meth:`LearnedPolicy.save` wrote; see :func:`activemri.checkpoints.load`.
        name: as in tables; None keeps the name it was saved with.

    Raises:
        CheckpointError: missing, damaged, or not a policy.
        ModuleNotFoundError: the network needs an extra that is not installed.
    """
    checkpoint = checkpoints.load(path)
    kind = checkpoint.kind.removeprefix(_KIND)
    if not checkpoint.kind.startswith(_KIND) or kind not in NETWORKS:
        raise CheckpointError(
            f"{checkpoint.path} holds a {checkpoint.kind!r:.60}, which is no policy; expected one "
            "made by 'activemri train policy'"
        )
    settings: dict[str, Any] = checkpoint.settings

    def make() -> ActionNetwork:
        if settings.keys() != {"network", "frame", "name"}:
            raise ValueError(f"expected network, frame and name; got {', '.join(settings):.100}")
        require_types(NETWORKS[kind], settings["network"])
        require_types(Frame, settings["frame"])
        return NETWORKS[kind](**settings["network"])

    network = checkpoint.build(make, "a policy").eval().requires_grad_(False)
    sizes: dict[str, Any] = settings["frame"]
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()}
    return LearnedPolicy(network, name or str(settings["name"]), Frame(**sizes), checkpoint.info)


def make_network(
    kind: str,
    geometry: Geometry,
    frame: Frame,
    *,
    budget: int | None = None,
    observation: str = "image",
    channels: int = 32,
    blocks: int = 2,
    sees: Sees = "all",
    stops: bool = False,
    seed: int = 0,
) -> "ActionNetwork":
    """A new network for the actions of a geometry.

    Args:
        kind: in :data:`NETWORKS`.
        geometry: of the scans.
        frame: their largest sizes.
        budget: lines that a scan acquires, for "schedule"; None for all.
        observation: for "image": "image", "uncertainty", "roi" or "complex".
        channels: numbers kept for each line; of an evaluator's first layer, a schedule's layers.
        blocks: residual blocks of "lines" and "image".
        sees: features that "lines" sees.
        stops: score STOP as well.
        seed: of the first weights.

    Raises:
        ValueError: an unknown kind, or one that does not fit.
    """
    n_readouts, rows = geometry.n_readouts, geometry.are_rows
    if kind in ("image", "evaluator", "varnet") and not geometry.has_lines:
        raise ValueError(
            f"geometry {geometry.name!r}: a network of the kind {kind!r} scores whole lines "
            "(columns or rows); choose --learner.network lines or schedule"
        )
    if kind in ("evaluator", "varnet") and stops:
        raise ValueError(
            f"--learner.network {kind}: it cannot stop; choose another network, or scans "
            "without STOP"
        )
    if sees != "all" and kind != "lines":
        raise ValueError(
            f"--learner.sees {sees}: only networks of lines leave features out; got the kind "
            f"{kind!r}: choose --learner.network lines"
        )
    groups = None if geometry.readouts_per_action == 1 else geometry.groups.tolist()
    of_lines: dict[str, Any] = {"groups": groups, "channels": channels}
    scoring: dict[str, Any] = {**of_lines, "blocks": blocks, "stops": stops}

    def make() -> ActionNetwork:
        match kind:
            case "schedule":
                most = budget or n_readouts
                return ScheduleNetwork(geometry.n_actions, most, hidden=channels, stops=stops)
            case "lines":
                n_features = len(feature_names(geometry.has_lines))
                return LineNetwork(n_features, n_readouts, sees=sees, **scoring)
            case "image":
                space: Any = make_observation(observation).space(frame)
                if "image" not in getattr(space, "spaces", ()):
                    raise ValueError(
                        f"--learner.observation {observation}: expected one of lines, image, "
                        "uncertainty, roi, complex"
                    )
                scoring.update(observation=observation, repeats="repeats" in space.spaces)
                return ImageNetwork(space["image"].shape, n_readouts, **scoring)
            case "evaluator":
                layers = max(1, min(4, n_readouts.bit_length() - 1))  # 4 in the paper
                return EvaluatorNetwork(n_readouts, along_height=rows, layers=layers, **of_lines)
            case "varnet":
                pools = max(1, min(4, min(geometry.shape).bit_length() - 2))  # 4 in the paper
                return VarNetNetwork(geometry.shape, along_height=rows, groups=groups, pools=pools)
        raise ValueError(
            f"--learner.network {kind}: expected one of lines, varnet, evaluator, schedule"
        )

    return seeded(make, seed)


def copied(network: "ActionNetwork") -> "ActionNetwork":
    """Another network with the same weights, ready to learn."""
    copy = NETWORKS[network.kind](**network.settings)
    copy.load_state_dict(network.state_dict())
    device = next(network.parameters()).device
    return copy.to(device).train().requires_grad_(True)


class ActionNetwork(nn.Module):
    """Scores every action, legal or not: logits, values or predicted gains; higher is better.

    From an observation to float (batch, n_actions + stops).

    Args:
        n_lines: length of a mask.
        **settings: arguments that make the same network, as JSON holds them. In all networks
            `groups` are the lines of each action (None where action i acquires line i); with
            `stops` there is one more score, the last one, which is that of STOP. Lines are rows
            with `along_height`, else columns.

    Attributes:
        kind: in :data:`NETWORKS`.
        observation: name of its input, see :mod:`activemri.envs.observation`.
        n_actions: without STOP.
        needs: as of :class:`activemri.agents.policy.Traits`.
        repeats_lines: its scores say when to measure a line again.
    """

    kind: ClassVar[str]
    observation: str
    needs: frozenset[str] = frozenset({"lines"})
    repeats_lines: ClassVar[bool] = True

    def __init__(self, n_lines: int, /, **settings: Any) -> None:
        super().__init__()
        if settings.get("groups") is not None:
            settings["groups"] = [list(group) for group in settings["groups"]]
        self.settings = settings
        self.groups: Groups = settings.get("groups")
        self.stops: bool = settings.get("stops", False)
        self.n_actions = n_lines if self.groups is None else len(self.groups)

    @property
    def is_order(self) -> bool:
        """All scans get the same scores: of the mask alone, whose course does not vary."""
        return self.observation == "mask"

    def observe(self, view: View, frame: Frame) -> Observations:
        """The observation of scans that :meth:`forward` takes."""
        seen = make_observation(self.observation)(view, frame)
        return seen if isinstance(seen, Mapping) else {"observation": seen}

    def refusal(self, geometry: Geometry) -> str:
        """Reason why scans of as many actions are none of the network's, or nothing."""
        return ""


class ScoringNetwork(ActionNetwork):
    """Makes numbers of every line, and of these the scores.

    Residual one-dimensional convolutions run along the lines, or other readouts, of k-space. Every
    line sees its neighbours, its mirror image, and the mean over all lines, by weights that all
    share, so that a few subjects teach a lot. An action's score is the mean of its lines' scores.
    That of STOP is the best score of a line not yet acquired, plus a number made of the mean over
    all lines, which says by its sign whether to stop.

    Attributes:
        channels: numbers that the network keeps for each line.
        blocks: residual blocks along the lines.
        places: of a line's distance from the centre, and of whether it was acquired, among its
            features.
    """

    channels: int
    places: tuple[int, int]

    def build(self, n_features: int, *, channels: int, blocks: int) -> None:
        """Make the layers that lead from features of lines to scores; last of all layers."""
        self.channels = channels
        self.enter = nn.Conv1d(2 * n_features, channels, 1)
        self.blocks: Any = nn.ModuleList()
        for _ in range(blocks):
            normalise = nn.GroupNorm(1, channels)
            mix = nn.Conv1d(3 * channels, channels, _KERNEL, padding=_KERNEL // 2)
            out = nn.Conv1d(channels, channels, 1)
            self.blocks.append(nn.ModuleDict({"normalise": normalise, "mix": mix, "out": out}))
        self.leave = nn.Conv1d(channels, 1, 1)
        self.stop = nn.Linear(channels, 1) if self.stops else None

    def features(self, observation: Observations) -> Tensor:
        """Known numbers of every line: float (batch, n_features, n_lines)."""
        raise NotImplementedError

    def new(self, observation: Observations) -> Tensor:
        """Lines that are worth something: bool (batch, n_lines)."""
        raise NotImplementedError

    def forward(self, observation: Observations) -> Tensor:
        return self.score(self.embed(observation), observation)

    def embed(self, observation: Observations) -> Tensor:
        """Numbers of every line: float (batch, channels, n_lines)."""
        known = self.features(observation)
        # The line at n // 2 is its own mirror image; so is the first one of an even number.
        mirror = mirror_of(known.shape[-1], known.device)
        hidden: Tensor = self.enter(torch.cat([known, known[..., mirror]], dim=1))
        for block in self.blocks:
            normal = block["normalise"](hidden)
            mean = normal.mean(dim=-1, keepdim=True).expand_as(normal)
            mixed = block["mix"](torch.cat([normal, normal[..., mirror], mean], dim=1))
            hidden = hidden + block["out"](functional.silu(mixed))
        return hidden

    def score(self, hidden: Tensor, observation: Observations) -> Tensor:
        """Scores of all actions, STOP included, from what :meth:`embed` gives."""
        scores = of_actions(self.leave(hidden).squeeze(1), self.groups)
        if self.stop is None:
            return scores
        urge = self.stop(hidden.mean(dim=-1))
        return torch.cat([scores, self.best_new(scores, observation) + urge], dim=1)

    def best_new(self, scores: Tensor, observation: Observations) -> Tensor:
        """Largest score of an action that acquires a new line: (batch, 1); 0 where none does."""
        new = self.new(observation)
        if self.groups is not None:
            new = new[:, torch.tensor(self.groups, device=new.device)].any(dim=-1)
        lowest = torch.finfo(scores.dtype).min
        best = scores.masked_fill(~new, lowest).amax(dim=1, keepdim=True)
        return best.masked_fill(~new.any(dim=1, keepdim=True), 0.0)

    def point_outwards(self, spread: float) -> None:
        """Begin as low-frequency-first: what a learner has no need to find out again.

        Two numbers of each line become its distance from the centre and whether it was acquired,
        and its score ``-spread * (distance + acquired)``. Everything else is left to learn.
        """
        assert self.enter.bias is not None and self.leave.bias is not None
        with torch.no_grad():
            for place, feature in enumerate(self.places):
                self.enter.weight[place], self.enter.bias[place] = 0.0, 0.0
                self.enter.weight[place, feature] = 1.0
            for block in self.blocks:
                block["out"].weight[:2], block["out"].bias[:2] = 0.0, 0.0
            self.leave.weight[:], self.leave.bias[:] = 0.0, 0.0
            self.leave.weight[0, :2] = -spread


class LineNetwork(ScoringNetwork):
    """Looks at features of every line of k-space, and the share of the budget that is left.

    One that sees the mask alone takes the same actions in every scan of one start, and says,
    trained in the same way, what looking at the samples is worth.

    Args:
        n_features: of each line; see :mod:`activemri.envs.line_features`.
        n_lines, groups, stops: see :class:`ActionNetwork`.
        sees: "all" features, or those of the "mask", which no sample changes; others are 0.
        channels, blocks: see :class:`ScoringNetwork`.
    """

    kind = "lines"
    observation = "lines"
    seen: Tensor

    def __init__(
        self,
        n_features: int,
        n_lines: int,
        *,
        groups: Groups = None,
        channels: int = 48,
        blocks: int = 4,
        sees: Sees = "all",
        stops: bool = False,
    ) -> None:
        sizes = dict(n_features=n_features, n_lines=n_lines, channels=channels, blocks=blocks)
        super().__init__(n_lines, groups=groups, stops=stops, sees=sees, **sizes)
        names = feature_names(n_features == N_FEATURES)
        self.sees = sees
        seen = torch.tensor([sees == "all" or name in OF_MASK for name in names])
        self.register_buffer("seen", seen.float()[:, None], persistent=False)
        self.needs = frozenset({"lines"} if names == NAMES else ())
        self.places = (names.index("distance"), _ACQUIRED)
        self.build(n_features + 1, channels=channels, blocks=blocks)

    def features(self, observation: Observations) -> Tensor:
        lines, budget = observation["lines"].float() * self.seen, observation["budget"].float()
        return torch.cat([lines, budget[:, :, None].expand(-1, 1, lines.shape[-1])], dim=1)

    @property
    def is_order(self) -> bool:
        return self.sees == "mask"

    def new(self, observation: Observations) -> Tensor:
        lines = observation["lines"]
        return (lines[:, _MEASURABLE] > 0) & (lines[:, _ACQUIRED] <= 0)


class ImageNetwork(ScoringNetwork):
    """Looks at the image by strided convolutions, whose summary speaks of every line of k-space.

    Lines of k-space are no places in the image: a dense layer turns a summary of the whole image
    into a few numbers for each line, which are joined with what was acquired, the budget and the
    distance from the centre. Images of bytes are brought to 0 to 1; others are taken as they are.

    Args:
        shape: channels, height and width of the image.
        n_lines, groups, stops: see :class:`ActionNetwork`.
        observation: which image: "image", "uncertainty", "roi" or "complex".
        repeats: lines may be measured again, and the observation says how often they were.
        channels, blocks: see :class:`ScoringNetwork`.
    """

    kind = "image"
    places = (_CONTEXT + 2, _CONTEXT)

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
        sizes = dict(shape=list(shape), n_lines=n_lines, channels=channels, blocks=blocks)
        seen = dict(observation=observation, repeats=repeats)
        super().__init__(n_lines, groups=groups, stops=stops, **sizes, **seen)
        self.observation, self.n_lines, self.repeats = observation, n_lines, repeats
        layers: list[nn.Module] = []
        for before, after in pairwise((shape[0], *_WIDTHS)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
        summary = nn.Linear(_WIDTHS[-1] * _GRID**2, _SUMMARY)
        layers += [nn.AdaptiveAvgPool2d(_GRID), nn.Flatten(), summary, nn.SiLU()]
        self.look = nn.Sequential(*layers)
        self.speak = nn.Linear(_SUMMARY, _CONTEXT * n_lines)
        # Acquired, budget, distance; how often and how well, where lines repeat.
        self.build(_CONTEXT + 3 + 2 * repeats, channels=channels, blocks=blocks)

    def features(self, observation: Observations) -> Tensor:
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
        return torch.cat(parts, dim=1)

    def new(self, observation: Observations) -> Tensor:
        return observation["mask"] <= 0


class ScheduleNetwork(ActionNetwork):
    """Fully connected layers on the number of acquired lines: the same order for every scan.

    The data-set-specific network of Pineda et al., MICCAI 2020: the number of lines acquired since
    the start, one-hot, goes through layers with ReLU to a score for every action. Comparing it with
    a network that sees the scan, trained in the same way, says what adapting to the scan is worth.

    Args:
        n_actions, stops: see :class:`ActionNetwork`.
        budget: lines to acquire in a whole scan.
        hidden: width of a layer.
        layers: hidden layers.
    """

    kind = "schedule"
    observation = "mask"
    needs: frozenset[str] = frozenset()

    def __init__(
        self, n_actions: int, budget: int, *, hidden: int = 32, layers: int = 3, stops: bool = False
    ) -> None:
        super().__init__(
            n_actions, n_actions=n_actions, budget=budget, hidden=hidden, layers=layers, stops=stops
        )
        self.budget = budget
        parts: list[nn.Module] = []
        for before, after in pairwise([budget + 1] + layers * [hidden]):
            parts += [nn.Linear(before, after), nn.ReLU()]
        self.network = nn.Sequential(*parts, nn.Linear(hidden, n_actions + stops))

    def forward(self, observation: Observations) -> Tensor:
        left = observation["budget"].float().squeeze(1)  # as a fraction of the scan's own budget
        n_acquired = ((1 - left) * self.budget).round().long().clamp(0, self.budget)
        scores: Tensor = self.network(functional.one_hot(n_acquired, self.budget + 1).float())
        return scores


class EvaluatorNetwork(ActionNetwork):
    """Scores lines by the images that they make, as in Pineda et al., MICCAI 2020.

    The architecture is that of :class:`activemri.evaluator.Evaluator`, trained for another purpose.
    An action's score is the mean of its lines' scores. The paper has 128 channels and 4 layers, and
    does not see the budget either.

    Args:
        width: lines of k-space of the largest scan.
        along_height, groups: see :class:`ActionNetwork`.
        channels: width of the first convolution.
        layers: strided convolutions; each halves the image.
    """

    kind = "evaluator"
    observation = "complex"

    def __init__(
        self,
        width: int,
        *,
        along_height: bool = False,
        groups: Groups = None,
        channels: int = 16,
        layers: int = 4,
    ) -> None:
        sizes = dict(width=width, channels=channels, layers=layers)
        super().__init__(width, along_height=along_height, groups=groups, **sizes)
        self.along_height = along_height
        self.evaluator = Evaluator(width, channels=channels, layers=layers)

    def forward(self, observation: Observations) -> Tensor:
        real, imaginary = observation["image"].float().unbind(1)
        image = torch.complex(real, imaginary)
        image = image.transpose(-2, -1) if self.along_height else image
        return of_actions(self.evaluator(image, observation["mask"].bool()), self.groups)


class VarNetNetwork(ActionNetwork):
    """Convolutions and pooling over the image, then layers that give every line a score.

    ``fastmri.models.policy.LineConvSampler`` of Bakker et al., On learning adaptive acquisition
    policies for undersampled multi-coil MRI reconstruction, MIDL 2022. Ours differs: its heat map
    is taken before it is squashed and rescaled, as :mod:`activemri.agents.relaxations` does both.
    The network sees real and imaginary part of the current reconstruction, and neither mask nor
    budget, as in the paper.

    Args:
        shape: height and width of the frame.
        along_height, groups: see :class:`ActionNetwork`.
        channels: of the first block.
        pools: how often the image is halved; at least two pixels must be left.
        hidden: width of the fully connected layers.
    """

    kind = "varnet"
    observation = "complex"

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
        from fastmri.models.policy import LineConvSampler  # here: it takes a second to import

        height, width = shape
        n_lines = height if along_height else width
        sizes = dict(shape=[height, width], channels=channels, pools=pools, hidden=hidden)
        super().__init__(n_lines, along_height=along_height, groups=groups, **sizes)
        self.along_height, self.shape = along_height, (height, width)
        size = (2, width, height) if along_height else (2, height, width)
        sampler = LineConvSampler(size, chans=channels, num_pool_layers=pools, fc_size=hidden)
        # These two are all that its heat map needs; the sampler holds the first one's parts twice.
        self.features: nn.Module = sampler.feature_extractor
        self.head: nn.Module = sampler.fc_out

    def forward(self, observation: Observations) -> Tensor:
        image = observation["image"].float()
        if (found := tuple(image.shape[-2:])) != self.shape:
            raise ValueError(f"this network chooses by images of {self.shape} pixels; got {found}")
        image = image.transpose(-2, -1) if self.along_height else image
        return of_actions(self.head(self.features(image).flatten(1)), self.groups)


class FittedNetwork(ActionNetwork):
    """Fitted to the actions of one geometry and frame; it has no rule for measuring lines again.

    Args:
        n_actions: number of actions.
        geometry, shape, readouts_per_action: name and frame of the only geometry that it serves.
        **sizes: other settings, as JSON holds them.
    """

    needs: frozenset[str] = frozenset()
    repeats_lines = False

    def __init__(
        self,
        n_actions: int,
        *,
        geometry: str,
        shape: Sequence[int],
        readouts_per_action: int,
        **sizes: int,
    ) -> None:
        place = dict(geometry=geometry, shape=list(shape), readouts_per_action=readouts_per_action)
        super().__init__(n_actions, n_actions=n_actions, **place, **sizes)
        self.serves = (geometry, tuple(shape), readouts_per_action)

    @staticmethod
    def place(geometry: Geometry) -> dict[str, Any]:
        """Arguments that say which geometry is served."""
        return {
            "n_actions": geometry.n_actions,
            "geometry": geometry.name,
            "shape": geometry.shape,
            "readouts_per_action": geometry.readouts_per_action,
        }

    def refusal(self, geometry: Geometry) -> str:
        given = (geometry.name, geometry.shape, geometry.readouts_per_action)
        if given == self.serves:
            return ""
        words = "geometry {!r} of {} with {} readouts per action".format
        return f"was fitted for {words(*self.serves)}; the scans have {words(*given)}: fit another"


class FactorNetwork(FittedNetwork):
    """Log-normal factor model of the energies of all actions, conditioned on those acquired.

    The log energies x of a scan's actions, relative to the energy of the lines that it started
    with, are jointly Gaussian, so that a few factors z say together which actions are strong:

        x = mean + loadings z + e,   z ~ N(0, 1),   e_a ~ N(0, variance_a).

    An action's score is the logarithm of its expected energy given the acquired ones, posterior
    mean + posterior variance / 2, and of the part of it that is still unseen; of equals
    the lower frequency is first. Zero-filled images lose the energy that was not acquired
    (Parseval's theorem), and energies add up: the action of largest expected energy lowers the
    expected squared error of the complex image most, and no rule that sees the same energies
    chooses a better next one. To take an action for its own worth, and not for what it tells,
    costs little in such scans (Bakker, van Hoof and Welling, NeurIPS 2020; Bakker et al., MIDL
    2022). With other scores it is a heuristic: errors of the magnitude, as NMSE is here, also
    forgive a line whose mirror image was acquired.

    Energies are sums over coils, of spokes weighted by the area of k-space that a sample stands for
    when all are acquired. The learner :mod:`activemri.agents.learners.factor` fits it.

    Args:
        n_actions: number of actions.
        n_factors: length of z; without factors it is a fixed order.
        geometry, shape, readouts_per_action: name and frame of the only geometry that it serves.
    """

    kind = "factor"
    observation = "energies"  # its own

    def __init__(
        self,
        n_actions: int,
        n_factors: int,
        *,
        geometry: str,
        shape: Sequence[int],
        readouts_per_action: int,
    ) -> None:
        super().__init__(
            n_actions,
            n_factors=n_factors,
            geometry=geometry,
            shape=shape,
            readouts_per_action=readouts_per_action,
        )
        self.mean = nn.Parameter(torch.zeros(n_actions, dtype=torch.float64))
        self.loadings = nn.Parameter(torch.zeros(n_actions, n_factors, dtype=torch.float64))
        self.variance = nn.Parameter(torch.ones(n_actions, dtype=torch.float64))

    @classmethod
    def of(cls, geometry: Geometry, n_factors: int = 0) -> "FactorNetwork":
        """One that knows nothing yet: the lowest frequency first."""
        return cls(n_factors=n_factors, **cls.place(geometry))

    @property
    def is_order(self) -> bool:
        return self.loadings.shape[1] == 0

    def observe(self, view: View, frame: Frame) -> Observations:
        return energies(view)

    def posterior(self, observation: Observations) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of log energies: float64 (batch, n_actions) each.

        Kalman's update for all acquired actions at once, in its information form: policies remember
        nothing between calls. Acquired actions have the energy that was measured, and deviation 0.

        Args:
            observation: of :func:`energies`.
        """
        acquired, energy = observation["acquired"] > 0, observation["energy"]
        weight = acquired / self.variance
        precision = (self.loadings.T * weight[:, None]) @ self.loadings
        precision = precision + torch.eye(precision.shape[-1]).to(precision)
        root = torch.linalg.cholesky(precision)
        evidence = (weight * (energy - self.mean)) @ self.loadings
        factors = torch.cholesky_solve(evidence[..., None], root).squeeze(-1)
        spread = torch.linalg.solve_triangular(root, self.loadings.T[None], upper=False)
        deviation = (self.variance + spread.square().sum(dim=1)).sqrt()
        mean = self.mean + factors @ self.loadings.T
        return torch.where(acquired, energy, mean), deviation.masked_fill(acquired, 0.0)

    def forward(self, observation: Observations) -> Tensor:
        mean, deviation = self.posterior(observation)
        left = observation["left"].clamp(min=torch.finfo(torch.float32).tiny)
        return mean + deviation.square() / 2 + left.log() - 1e-9 * observation["frequency"]


def energies(view: View) -> Observations:
    """Energies of actions, as far as they are acquired: float64 (batch, n_actions) each.

    `energy` is the logarithm of an action's energy relative to that of the readouts that the scan
    started with (as it is where it started with none), 0 where not all of the action is acquired;
    `acquired` is 1 where it is; `left` is the part of its readouts that is still unseen, of spokes
    in proportion to the angle to the nearest acquired one, as neighbours show nearly the same;
    `frequency` is its distance from the centre of k-space.
    """
    geometry, mask, there = view.geometry, view.mask, view.measurable
    samples, density = view.log.samples, view.transform.density(torch.ones_like(mask[:1]))
    if density is not None:
        samples = samples * density.sqrt()[:, :, None]
    parts = torch.view_as_real(samples).flatten(2)
    of_readouts = torch.linalg.vector_norm(parts, dim=2).double().square()
    start = (of_readouts * view.start_mask).sum(dim=1, keepdim=True)
    share = geometry.by_action(of_readouts, "sum") / torch.where(start > 0, start, 1.0)
    acquired = geometry.by_action(mask | ~there, "all") & geometry.by_action(mask, "any")
    return {
        "energy": share.clamp(min=_FLOOR).log().masked_fill(~acquired, 0.0),
        "acquired": acquired.double(),
        "left": geometry.by_action(there * view.transform.unseen(mask), "mean"),
        "frequency": geometry.frequency.expand(acquired.shape),
    }


class StartNetwork(FittedNetwork):
    """Chooses one of several orders by what the start of the scan shows, and follows it.

    With x the features of the start (:func:`start_features`), order k is worth w_k x + b_k, and the
    order that is worth most is followed, of equals the first. To take the nearest of given x_k is
    the same rule, with w_k = 2 x_k and b_k = -|x_k|^2. The learners
    :mod:`activemri.agents.learners.nearest_neighbour` and
    :mod:`activemri.agents.learners.one_shot` fit it.

    Args:
        n_actions: number of actions.
        n_orders: number of orders.
        geometry, shape, readouts_per_action: name and frame of the only geometry that it serves.
    """

    kind = "start"
    observation = "start"  # its own

    def __init__(
        self,
        n_actions: int,
        n_orders: int,
        *,
        geometry: str,
        shape: Sequence[int],
        readouts_per_action: int,
    ) -> None:
        super().__init__(
            n_actions,
            n_orders=n_orders,
            geometry=geometry,
            shape=shape,
            readouts_per_action=readouts_per_action,
        )
        self.priority = nn.Parameter(torch.zeros(n_orders, n_actions, dtype=torch.float64))
        self.weight = nn.Parameter(torch.zeros(n_orders, _SIDE**2, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(n_orders, dtype=torch.float64))

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        orders: Sequence[Sequence[int]] = (),
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> "StartNetwork":
        """One that follows these orders; without any, from the centre outwards.

        Args:
            geometry: of the scans.
            orders: every action, the first one first; one that is named again counts once.
            weight, bias: float64 (order, feature) and (order,); None for zeros: the first order.
        """
        once = [torch.tensor(list(dict.fromkeys(order))) for order in orders]
        places = [actions.argsort() for actions in once] or [geometry.frequency]
        made = cls(n_orders=len(places), **cls.place(geometry))
        with torch.no_grad():
            made.priority.copy_(-torch.stack(places))
            if weight is not None and bias is not None:
                made.weight.copy_(weight)
                made.bias.copy_(bias)
        return made

    @property
    def is_order(self) -> bool:
        return len(self.bias) == 1

    def observe(self, view: View, frame: Frame) -> Observations:
        return {"start": start_features(view)}

    def forward(self, observation: Observations) -> Tensor:
        worth = observation["start"] @ self.weight.T + self.bias
        return self.priority[worth.argmax(dim=1)]


def start_features(view: View) -> Tensor:
    """Look of the start: float64 (batch, 16 * 16), of length 1.

    It is the magnitude of the image that the samples of the start readouts show, coils combined by
    the root of their sum of squares, averaged over a grid of 16 x 16 patches. What is acquired
    later changes it only where readouts of the start are measured again.
    """
    start = view.start_mask
    samples, density = view.log.samples * start[:, :, None, None], view.transform.density(start)
    if density is not None:
        samples = samples * density[:, :, None]
    power = view.transform.adjoint(samples).abs().double().square().sum(dim=1)
    patches = functional.adaptive_avg_pool2d(power.sqrt()[:, None], _SIDE).flatten(1)
    return functional.normalize(patches, eps=torch.finfo(torch.float64).tiny)


#: Classes by the kind that checkpoints name.
NETWORKS: dict[str, Callable[..., ActionNetwork]] = {
    network.kind: network
    for network in (
        LineNetwork,
        ImageNetwork,
        ScheduleNetwork,
        EvaluatorNetwork,
        VarNetNetwork,
        FactorNetwork,
        StartNetwork,
    )
}


def of_actions(values: Tensor, groups: Groups) -> Tensor:
    """Values of lines (..., n_lines) as those of actions: the mean over an action's lines."""
    if groups is None:
        return values
    return values[..., torch.tensor(groups, device=values.device)].mean(dim=-1)
