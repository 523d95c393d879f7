"""Fixed orders of actions, the best that a policy can do which does not look at the subject.

One that is learned from data is hard to beat: any adaptive policy should be compared with it.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

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
from activemri.envs.scan import IDLE, Scan, State, Truth, View
from activemri.envs.scanner import Scanner
from activemri.metrics import find_metric
from activemri.mri.geometry import Geometry
from activemri.options import Compute, RunOptions, require_positive, require_types
from activemri.progress import Progress, track
from activemri.reconstruction.zero_filled import ZeroFilled

_FORMAT = "activemri-order"
_REPEATS = frozenset({"repeats"})

# Of `lbcs-final`: rounds of exchanges at most, actions tried for removal in each, and rounds in a
# row without an exchange, of scans drawn anew, after which it ends.
_ROUNDS, _DROPS, _PATIENCE = 40, 4, 3
# It begins with orders decided on all, a half ... of the scans of a step: fewer, other orders.
_PARTS = (1, 2, 4, 8)
_MARGIN = 1e-9  # of the score: less is no improvement

Kind = Literal["lbcs", "lbcs-final", "average-oracle"]
#: Orders that are learned from training scans; see :func:`fit_order`.
KINDS: tuple[Kind, ...] = get_args(Kind)

#: Called after every step of a search, with its share of the work.
OnStep = Callable[[float], object]

#: A step of an order: an action, and how often its readouts are measured then, the start included.
_Step = tuple[int, int]

#: So many of the scans as a step is decided on.
_Draw = Callable[[list[State]], list[State]]
_Tell = Callable[[], object]  # called after every step of a search


@dataclass(frozen=True)
class Order:
    """Takes the first legal action that is still to do; through with all, those measured least.

    An action that stands in the order for the k-th time is done as soon as all of its readouts were
    measured k times, the start included: where readouts may be measured again, an order shares out
    the measurements, and what the start measures takes up a place too.

    Attributes:
        kind: how it was learned, e.g. "lbcs".
        actions: every action of the geometry, some more than once, the first one first.
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

    def __post_init__(self) -> None:
        known = set(self.actions)
        if not known or (min(known), max(known)) != (0, len(known) - 1):
            raise ValueError(
                "an order holds every action from 0 on at least once; got "
                f"{len(self.actions)} actions, {len(known)} different ones"
            )
        object.__setattr__(self, "name", self.name or self.kind)

    @property
    def traits(self) -> Traits:
        """An order; one that names an action again needs a scanner that measures again."""
        repeats = len(set(self.actions)) < len(self.actions)
        return Traits(is_order=True, repeats=repeats, needs=_REPEATS if repeats else frozenset())

    def check(self, geometry: Geometry) -> None:
        """Refuse a geometry in which the actions mean something else.

        Raises:
            ValueError: another number of actions or lines, or another name.
        """
        learned = (len(set(self.actions)), self.geometry, self.lines_per_action)
        given = (geometry.n_actions, geometry.name, geometry.readouts_per_action)
        if learned != given:
            words = "{} actions of geometry {!r:.60} with {} lines each".format
            raise ValueError(
                f"the order {self.kind!r} was learned for {words(*learned)}, the scans have "
                f"{words(*given)}; learn an order on scans of this size"
            )

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        self.check(view.geometry)
        device = view.legal.device
        actions, nth = (torch.tensor(each, device=device) for each in (self.actions, self._nth))
        places = torch.arange(len(actions), dtype=torch.float64, device=device)
        place = choose(-places, view.legal[:, actions] & (view.rounds[:, actions] < nth))
        again = choose(-places[nth == 1][actions[nth == 1].argsort()], view.due)
        return torch.where(place >= 0, actions[place.clamp(min=0)], again)

    @cached_property
    def _nth(self) -> list[int]:
        """Numbers that count how often the order has named each action so far, from 1 on."""
        named, nth = Counter[int](), []
        for action in self.actions:
            named[action] += 1
            nth.append(named[action])
        return nth

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


def may_repeat(kind: str, scanner: Scanner) -> bool:
    """Orders of a kind measure readouts again: `lbcs` and `lbcs-final`, where averages count.

    Where the last measurement counts, one that is made unseen is no better than the one before.
    """
    return kind in ("lbcs", "lbcs-final") and scanner.repeats > 1 and scanner.averages


def order_of(
    kind: str, chosen: Sequence[int], scan: Scan, *, metric: str, data: str, n_scans: int
) -> Order:
    """The order of learned actions, then the others from the centre outwards."""
    geometry = scan.geometry
    outwards = geometry.frequency.argsort(stable=True).tolist()
    return Order(
        kind=kind,
        actions=(*chosen, *(action for action in outwards if action not in set(chosen))),
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
    Where the scanner averages repeated measurements, actions taken before are among those tried.

    `lbcs-final` is about the score at the end alone, where `lbcs` is about every step. Of greedy
    orders that are decided on all, a half, a quarter and an eighth of as many scans it takes the
    one that ends best on all of them, and exchanges its actions: drops the one whose loss costs
    least, adds the best other one, and keeps the change if the mean final score of all scans
    improves, until none of the 4 cheapest drops helps (with `n_scans` in 3 rounds), or 40 rounds
    are over. The set, measured in greedy order, never ends below `lbcs` on these scans. A round
    costs (actions chosen) + (drops tried) x (actions left) reconstructions of each scan drawn, and
    (drops tried) of every scan: in all some three to six times those of `lbcs`. Zero-filled, where
    to acquire costs as much as to score, it takes up to twenty times as long.

    `average-oracle` is in the spirit of the average oracle of Bakker, van Hoof and Welling, NeurIPS
    2020. Every scan follows its own one-step oracle. An action's gain in a scan at a step is the
    change of the score that it brings there; once the scan's oracle has taken the action, the gain
    that it had then. Step t of the order takes, of the actions that are not in it yet, the one of
    the largest mean gain at step t. With `n_scans` it uses that many scans, drawn once. It names
    every action once, also where readouts may be measured again.

    Args:
        kind: "lbcs", "lbcs-final" or "average-oracle".
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
    most = scan.scanner.repeats if may_repeat(kind, scan.scanner) else 1
    generator, places = np.random.default_rng(seed), np.arange(len(slices))
    if kind == "average-oracle":
        places = np.sort(generator.permutation(len(slices))[:n_scans])
    chosen = [slices[place] for place in places.tolist()]
    if not chosen:
        raise ValueError("an order is learned from at least one scan; got none")
    groups = [[chosen[row] for row in rows] for rows in rows_of_a_kind(chosen)]
    states = [start_scans(scan, group, seed=seed) for group in groups]
    n = len(chosen) if n_scans is None else min(n_scans, len(chosen))
    draws = [partial(_drawn, n=max(1, n // part), generator=generator) for part in _PARTS]
    n_steps = max(int(state.view.start_budget.max()) for state in states)
    if kind == "lbcs-final":
        n_steps = (len(draws) + 1) * n_steps + _ROUNDS
    n_told = 0

    def tell(n: int = 1) -> None:
        nonlocal n_told
        n_told += n
        if on_step is not None and n > 0:
            on_step(n / n_steps)

    if kind == "average-oracle":
        steps = _average_oracle_steps(scan, states, metric, tell)
    elif kind == "lbcs":
        steps = _lbcs_steps(scan, states, metric, draws[0], tell, most)
    else:
        steps = _final_steps(scan, states, metric, draws, tell, most)
    tell(n_steps - n_told)  # a search may end before its longest
    named, actions = Counter[int](), list[int]()
    for action, nth in steps:
        # What the start has measured is named as well.
        actions += [action] * (nth - named[action])
        named[action] = nth
    return order_of(kind, actions, scan, metric=metric, data=data, n_scans=len(chosen))


def _lbcs_steps(
    scan: Scan,
    states: list[State],
    metric: str,
    drawn: _Draw,
    tell: _Tell,
    most: int | Tensor,
) -> list[_Step]:
    """Steps after which the mean score of the scans is best, one after the other."""
    steps = []
    while (step := _best_step(states, drawn(states), scan, metric, most)) is not None:
        steps.append(step)
        states = [_taken(scan, state, step) for state in states]
        tell()
    return steps


def _best_step(
    states: list[State], drawn: list[State], scan: Scan, metric: str, most: int | Tensor
) -> _Step | None:
    """The step after which the mean score of the drawn scans is best; None if none is legal.

    It brings an action to one measurement more than the scan that has fewest of it; `most` says how
    many an action may have, in all or int64 (n_actions,).
    """
    legal = torch.cat([state.view.legal for state in states])
    rounds = torch.cat([state.view.rounds for state in states])
    nth = rounds.masked_fill(~legal, int(rounds.max())).amin(dim=0) + 1
    possible = legal.any(dim=0) & (nth <= most)
    if not bool(possible.any()):
        return None
    total = torch.zeros(len(possible), dtype=torch.float64, device=possible.device)
    for state in drawn:
        tried = state.view.legal & possible & (state.view.rounds < nth)
        scores = score_actions(Truth(scan, state), tried, metric)
        # A scan in which an action is not legal keeps its score.
        now = signed(state.scores[metric], metric)[:, None]
        total = total + torch.where(tried, scores, now).sum(dim=0)
    action = int(choose(total[None], possible[None]))
    return action, int(nth[action])


def _taken(scan: Scan, state: State, step: _Step) -> State:
    """Scans after a step, where it is legal and not done yet."""
    action, nth = step
    wanted = state.view.legal[:, action] & (state.view.rounds[:, action] < nth)
    return scan.acquire(state, torch.where(wanted, action, IDLE))


def _final_steps(
    scan: Scan,
    starts: list[State],
    metric: str,
    draws: Sequence[_Draw],
    tell: _Tell,
    most: int,
) -> list[_Step]:
    """Steps of the best greedy order, exchanged until none improves the mean final score."""
    # Scores count at the end alone.
    lean = replace(scan, reconstructor=ZeroFilled(), metrics=())

    def ends(starts: list[State], steps: Sequence[_Step]) -> list[State]:
        found = []
        for start in starts:
            state = start.clone()
            for step in steps:
                state = _taken(lean, state, step)
            mask = state.view.mask[:, None]
            scores = scan.preview_masks(state, mask, (metric,))[metric][:, 0]
            found.append(state.changed(scores={metric: scores}))
        return found

    def total(states: list[State]) -> float:
        return sum(float(signed(state.scores[metric], metric).sum()) for state in states)

    def exchanged(chosen: list[_Step], best: float, some: list[State]) -> tuple[list[_Step], float]:
        """After the first exchange that helps, cheapest removal first; else as they were."""
        # Of an action that is measured several times, the last one can go.
        last = {action: (action, nth) for action, nth in chosen}
        worth, before = dict[_Step, float](), [state.clone() for state in some]
        for place, step in enumerate(chosen):
            if step == last[step[0]]:
                worth[step] = total(ends(before, chosen[place + 1 :]))
            before = [_taken(lean, state, step) for state in before]
        for step in sorted(worth, key=lambda step: -worth[step])[:_DROPS]:
            rest = [other for other in chosen if other != step]
            states = ends(some, rest)
            added = _best_step(states, states, scan, metric, most)
            if added is not None and added != step:
                changed = [*rest, added]
                if (score := total(ends(starts, changed))) > best + _MARGIN * abs(best):
                    return changed, score
        return chosen, best

    def greedy(drawn: _Draw, most: int | Tensor) -> list[_Step]:
        states = [start.clone() for start in starts]
        return _lbcs_steps(scan, states, metric, drawn, tell, most)

    orders = [greedy(drawn, most) for drawn in draws]
    finals = [total(ends(starts, order)) for order in orders]
    least = best = max(finals)
    first = chosen = orders[finals.index(best)]
    n_idle = 0
    for _ in range(_ROUNDS):
        some, before = draws[0](starts), best
        chosen, best = exchanged(chosen, best, some)
        n_idle = n_idle + 1 if best == before else 0
        tell()
        if n_idle == (1 if some is starts else _PATIENCE):  # other scans may find another one
            break
    if chosen is first:
        return first
    wanted = starts[0].view.rounds.new_zeros(scan.geometry.n_actions)
    for action, nth in chosen:
        wanted[action] = max(int(wanted[action]), nth)
    ordered = greedy(draws[0], wanted)
    # Where what is measured depends on when, another sequence ends elsewhere.
    return ordered if total(ends(starts, ordered)) >= least else first


def _average_oracle_steps(scan: Scan, states: list[State], metric: str, tell: _Tell) -> list[_Step]:
    """Actions of the largest mean gain while every scan follows its own oracle."""
    gains = [torch.zeros_like(state.view.legal, dtype=torch.float64) for state in states]
    free, steps = torch.ones_like(states[0].view.legal[0]), []
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
        steps.append((int(action), 1))
        tell()
    return steps


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
    """Greedy order on the train scans (lbcs), the same exchanged for the score at the end
    (lbcs-final), or mean preference of the scans' greedy oracles."""
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
        kind: greedy order on the train scans (lbcs), the same exchanged for the score at the end
            (lbcs-final), or mean preference of the scans' greedy oracles.
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
