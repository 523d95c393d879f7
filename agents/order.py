"""Fixed orders of actions, the best that a policy can do which does not look at the subject.

One that is learned from data is hard to beat: any adaptive policy should be compared with it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from tyro.conf import OmitArgPrefixes

from activemri import __version__, files
from activemri.agents.policy import Training, Traits, choose, score_actions, signed
from activemri.agents.rollout import rows_of_a_kind, start_scans
from activemri.data.slices import Slice, SliceDataset
from activemri.data.volumes import evenly_spaced
from activemri.envs.protocol import ScanProtocol
from activemri.envs.scan import Scan, State, Truth, View
from activemri.metrics import find_metric
from activemri.mri.geometry import Geometry
from activemri.options import Compute, RunOptions, require_positive, require_types
from activemri.progress import Progress, track

_FORMAT = "activemri-order"

Kind = Literal["lbcs", "average-oracle"]
#: Orders that are learned from training scans; see :func:`fit_order`.
KINDS: tuple[Kind, ...] = get_args(Kind)

#: Called after every step of a search, with its share of the work.
OnStep = Callable[[float], object]


@dataclass(frozen=True)
class Order:
    """Takes the first legal action of an order; through with it, begins anew where that is legal.

    Attributes:
        kind: how it was learned, e.g. "lbcs".
        actions: every action of the geometry once, the first one first.
        n_learned: how many of them were learned; the rest comes from the centre outwards.
        geometry: its name.
        lines_per_action: most lines that one action acquires.
        shape: height and width of the frame.
        metric: what was maximised.
        reconstructor: what made the images that were scored.
        data: what it was learned on.
        n_scans: how many scans were seen.
        version: of this package.
        info: how it was trained, if that is not all: command, validation.
        name: as in tables, not in the file; the kind unless given.
    """

    kind: str
    actions: tuple[int, ...]
    n_learned: int
    geometry: str
    lines_per_action: int
    shape: tuple[int, int]
    metric: str
    reconstructor: str
    data: str
    n_scans: int
    version: str = __version__
    info: Mapping[str, object] = field(default_factory=dict, compare=False)
    name: str = field(default="", compare=False, kw_only=True)
    traits: ClassVar[Traits] = Traits(is_order=True)

    def __post_init__(self) -> None:
        if sorted(self.actions) != list(range(len(self.actions))):
            raise ValueError(
                f"an order holds each of its {len(self.actions)} actions once; "
                f"got {len(set(self.actions))} different ones"
            )
        object.__setattr__(self, "name", self.name or self.kind)

    def check(self, geometry: Geometry) -> None:
        """Refuse a geometry in which the actions mean something else.

        Raises:
            ValueError: another number of actions or lines, or another name.
        """
        learned = (len(self.actions), self.geometry, self.lines_per_action)
        given = (geometry.n_actions, geometry.name, geometry.readouts_per_action)
        if learned != given:
            words = "{} actions of geometry {!r:.60} with {} lines each".format
            raise ValueError(
                f"the order {self.kind!r} was learned for {words(*learned)}, the scans have "
                f"{words(*given)}; learn an order on scans of this size"
            )

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        self.check(view.geometry)
        actions = torch.tensor(self.actions, device=view.legal.device)
        return choose(-actions.argsort().double(), view.due)

    def timed(self, slices: Sequence[Slice] | SliceDataset, seconds: float) -> "Order":
        """The order with the record of its fit to some scans."""
        subjects = {slices[place].subject for place in range(len(slices))}
        record = asdict(Training("fitted", len(subjects), round(seconds, 1)))
        return replace(self, info={**self.info, "training": record})

    def save(self, path: str | Path, *, info: Mapping[str, object] | None = None) -> Path:
        """Write to a JSON file, completely or not at all. Returns its path, ending in .json.

        Args:
            path: with or without suffix; missing folders are made.
            info: instead of its own.
        """
        target = Path(path)
        if target.suffix != ".json":
            target = target.with_name(target.name + ".json")
        record = {"format": _FORMAT, **asdict(self), **({} if info is None else {"info": info})}
        del record["name"]
        files.write_json(target, record)
        return target

    @classmethod
    def load(cls, path: str | Path, *, name: str = "") -> "Order":
        """Read a file that :meth:`save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"expected a file with an order of actions; none is at {path}")
        try:
            record: dict[str, Any] = {"info": {}, **files.read_json(Path(path))}
        except ValueError as error:
            raise ValueError(f"{path} holds no order of actions: {error}") from error
        if record.pop("format", None) != _FORMAT:
            raise ValueError(
                f'{path} holds no order of actions (expected "format": "{_FORMAT}"); '
                "make one with 'activemri train order'"
            )
        try:
            require_types(cls, record)
            lists = {entry: tuple(record[entry]) for entry in ("actions", "shape")}
            return cls(**record | lists, name=name)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def order_of(
    kind: str, chosen: Sequence[int], scan: Scan, *, metric: str, data: str, n_scans: int
) -> Order:
    """The order of learned actions, then the others from the centre outwards."""
    geometry = scan.geometry
    outwards = geometry.frequency.argsort(stable=True).tolist()
    return Order(
        kind=kind,
        actions=tuple(dict.fromkeys([*chosen, *outwards])),
        n_learned=len(chosen),
        geometry=geometry.name,
        lines_per_action=geometry.readouts_per_action,
        shape=geometry.shape,
        metric=metric,
        reconstructor=type(scan.reconstructor).__name__,
        data=data,
        n_scans=n_scans,
    )


def fit_order(
    kind: str,
    scan: Scan,
    slices: Sequence[Slice] | SliceDataset,
    *,
    metric: str = "ssim",
    n_lines: int | None = None,
    n_scans: int | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
    data: str = "unknown",
) -> Order:
    """Learn an order from training scans.

    `lbcs` is the greedy order: next comes the action after which the mean score of the scans is
    best. Gözcü et al., Learning-based compressive MRI, IEEE Trans Med Imaging 37:1394-1406 (2018).
    Every step costs (actions left) x (scans) reconstructions. With `n_scans` each step is decided
    on that many scans, drawn anew, as in Sanchez et al., Scalable learning-based sampling
    optimization for compressive dynamic MRI, ICASSP 2020 (who draw candidate actions as well).

    `average-oracle` is in the spirit of the average oracle of Bakker, van Hoof and Welling, NeurIPS
    2020. Every scan follows its own one-step oracle. An action's gain in a scan at a step is the
    change of the score that it brings there; once the scan's oracle has taken the action, the gain
    that it had then. Step t of the order takes, of the actions that are not in it yet, the one of
    the largest mean gain at step t. With `n_scans` it uses that many scans, drawn once.

    Args:
        kind: "lbcs" or "average-oracle".
        scan: the scan protocol; its budget is not used if `n_lines` is given.
        slices: training scans, of any sizes that fit the frame. All are held in memory.
        metric: what to maximise (errors: minimise).
        n_lines: how many lines to learn (default: the protocol's budget, or all).
        n_scans: scans to decide on (default: all).
        seed: of random start lines and of the scans drawn.
        on_step: called after every step, with its share of the work.
        data: name of the training data, for the record.

    Raises:
        ValueError: without scans, or for an unknown kind or metric.
    """
    if kind not in KINDS:
        raise ValueError(f"an order of the kind {kind!r}: expected one of {', '.join(KINDS)}")
    budget = scan.budget if n_lines is None else n_lines
    scan = replace(scan, budget=budget, metrics=(find_metric(metric).name,))
    generator, places = np.random.default_rng(seed), np.arange(len(slices))
    if kind == "average-oracle":
        places = np.sort(generator.permutation(len(slices))[:n_scans])
    chosen = [slices[place] for place in places.tolist()]
    if not chosen:
        raise ValueError("an order is learned from at least one scan; got none")
    groups = [[chosen[row] for row in rows] for rows in rows_of_a_kind(chosen)]
    states = [start_scans(scan, group, seed=seed) for group in groups]
    if kind == "average-oracle":
        steps = _average_oracle_steps(scan, states, metric)
    else:
        steps = _lbcs_steps(scan, states, metric, n_scans=n_scans, generator=generator)
    n_steps = max(int(state.view.start_budget.max()) for state in states)
    actions = []
    for action in steps:
        actions.append(action)
        if on_step is not None:
            on_step(1 / n_steps)
    return order_of(kind, actions, scan, metric=metric, data=data, n_scans=len(chosen))


def _lbcs_steps(
    scan: Scan,
    states: list[State],
    metric: str,
    *,
    n_scans: int | None,
    generator: np.random.Generator,
) -> Iterator[int]:
    """Actions after which the mean score of the scans is best, one after the other."""
    free = torch.ones_like(states[0].view.legal[0])
    while bool((possible := torch.cat([s.view.legal for s in states]).any(dim=0) & free).any()):
        total = torch.zeros(len(possible), dtype=torch.float64, device=possible.device)
        for state in _drawn(states, n_scans, generator):
            tried = state.view.legal & possible
            scores = score_actions(Truth(scan, state), tried, metric)
            # A scan in which an action is not legal keeps its score.
            now = signed(state.scores[metric], metric)[:, None]
            total = total + torch.where(tried, scores, now).sum(dim=0)
        action = choose(total[None], possible[None])
        free[action] = False
        yield int(action)
        for place, state in enumerate(states):
            legal = torch.zeros_like(state.view.legal)
            legal[:, action] = state.view.legal[:, action]
            states[place] = scan.acquire(state, choose(legal.double(), legal))


def _average_oracle_steps(scan: Scan, states: list[State], metric: str) -> Iterator[int]:
    """Actions of the largest mean gain while every scan follows its own oracle."""
    gains = [torch.zeros_like(state.view.legal, dtype=torch.float64) for state in states]
    free = torch.ones_like(states[0].view.legal[0])
    # Lines may be measured again, but an order names them once.
    while bool(free.any()) and not all(bool(state.finished.all()) for state in states):
        for place, state in enumerate(states):
            legal = state.view.legal
            scores = score_actions(Truth(scan, state), legal, metric)
            now = signed(state.scores[metric], metric)[:, None]
            gains[place] = torch.where(legal, scores - now, gains[place])
            states[place] = scan.acquire(state, choose(scores, legal))
        total = torch.stack([gain.sum(dim=0) for gain in gains]).sum(dim=0)
        action = choose(total[None], free[None])
        free[action] = False
        yield int(action)


def _drawn(states: list[State], n: int | None, generator: np.random.Generator) -> list[State]:
    """So many of the scans."""
    owner = np.repeat(np.arange(len(states)), [len(state) for state in states])
    if n is None or n >= len(owner):
        return states
    row = np.concatenate([np.arange(len(state)) for state in states])
    drawn = np.sort(generator.choice(len(row), n, replace=False))
    return [
        states[i].select(row[drawn[owner[drawn] == i]].tolist()) for i in np.unique(owner[drawn])
    ]


@dataclass(frozen=True, kw_only=True)
class TrainOrderSettings:
    """Learn a fixed order of actions from the train split and write it to a file.

    It is learned for --reconstructor, and for the score that --reward is about.
    """

    protocol: OmitArgPrefixes[ScanProtocol] = ScanProtocol(budget=24)
    run: OmitArgPrefixes[RunOptions] = RunOptions(out=Path("runs/order"))
    compute: OmitArgPrefixes[Compute] = Compute()
    kind: Kind = "lbcs"
    """Greedy order on the train scans (lbcs), or mean preference of their greedy oracles."""
    slices_per_volume: int | None = None
    """Take this many evenly spaced slices of each volume; None takes all."""
    n_fit_scans: int | None = 64
    """Scans that each step is decided on, drawn anew; None takes all."""
    max_fit_slices: int | None = 256
    """Train scans, spread evenly, that are seen at all; None takes all."""

    def __post_init__(self) -> None:
        require_positive(
            slices_per_volume=self.slices_per_volume,
            n_fit_scans=self.n_fit_scans,
            max_fit_slices=self.max_fit_slices,
        )
        if self.run.resume:
            raise ValueError("--resume: an order is learned in one go; leave --resume out")


def train_order(settings: TrainOrderSettings) -> Path:
    """Learn an order and write it; the path of its file.

    Raises:
        ValueError: unusable settings or data; a folder of something else, or with such an order.
        OSError: the output folder cannot be written.
    """
    device = settings.compute.prepare()
    out, target = settings.run.out, settings.run.out / f"{settings.kind}.json"
    files.require_free(target, overwrite=settings.run.overwrite)  # now rather than after hours
    with files.claimed(out, "train order"):
        order = learn_order(
            settings.kind,
            settings.protocol,
            seed=settings.run.seed,
            n_fit_scans=settings.n_fit_scans,
            max_fit_slices=settings.max_fit_slices,
            slices_per_volume=settings.slices_per_volume,
            device=device,
            show=True,
        )
        return order.save(target)


def learn_order(
    kind: Kind,
    protocol: ScanProtocol,
    *,
    seed: int = 0,
    n_fit_scans: int | None = 64,
    max_fit_slices: int | None = 256,
    slices_per_volume: int | None = None,
    device: torch.device | str = "cpu",
    show: bool = False,
) -> Order:
    """Learn a fixed order of actions from the train split.

    ::

        order = learn_order("lbcs", ScanProtocol(budget=24))

    Args:
        kind: greedy order on the train scans (lbcs), or mean preference of their greedy oracles.
        protocol: its reconstructor and the score of its reward are those that it is learned for.
        seed: of all draws.
        n_fit_scans, max_fit_slices, slices_per_volume: as of :class:`TrainOrderSettings`.
        device: where to compute.
        show: show progress.

    Raises:
        ValueError: for data or parts that do not fit.
    """
    more = {} if slices_per_volume is None else {"slices_per_volume": slices_per_volume}
    scans = protocol.dataset("train", **more)
    chosen = evenly_spaced(range(len(scans)), max_fit_slices)
    loaded = [scans[i] for i in track(chosen, f"load {scans.name}", unit="slice", show=show)]
    begin = time.monotonic()
    with Progress("learn an order", 1, unit="", show=show) as progress:
        order = fit_order(
            kind,
            protocol.scan(scans, device=device),
            loaded,
            metric=protocol.metric,
            n_scans=n_fit_scans,
            seed=seed,
            on_step=lambda share: progress(progress.at + share),
            data=str(protocol.data) if isinstance(protocol.data, str) else scans.name,
        )
    return order.timed(loaded, time.monotonic() - begin)
