"""Demonstrations of an oracle: states of scans, actions tried there, and the scores they lead to.

On disk they are one Parquet file, one row a state, readable by anything. Columns: `volume`,
`slice`, `subject`, `start_lines` and `lines` (numbers of the lines acquired at the start and until
now), `budget` and `start_budget` (lines still to acquire), `score` (before the action), `action`
(the best of those tried), `actions` and `scores` (those tried, and the score after each),
`prospect` (what the rest of the episode gained at best). Errors such as NMSE have their sign
turned: higher is better. The file's metadata say which metric, reconstructor, geometry and data
these are. Samples are not stored: whoever reads the file has the scans, and
:meth:`activemri.envs.scan.Scan.resume` brings a scan to a state in one call.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tyro.conf import OmitArgPrefixes

from activemri import files
from activemri.agents.learners.learner import Problem, Report, silent
from activemri.agents.networks import LearnedPolicy
from activemri.agents.policy import Policy, require_played, signed
from activemri.agents.registry import make_policy
from activemri.data.slices import Slice, SliceDataset
from activemri.envs.protocol import EnvOptions, ScanProtocol
from activemri.envs.scan import IDLE, Scan, State, View, kind
from activemri.options import Compute, RunOptions, require_positive
from activemri.progress import Progress
from activemri.registration import find_protocol

#: How much every action is worth trying, higher first: view -> float (batch, n_actions).
Priority = Callable[[View], Tensor]

_PADDING = -1
_KEY = b"activemri-demonstrations"


@dataclass(frozen=True, kw_only=True)
class DemonstrateSettings:
    """Write down what lines would gain, by an oracle that knows the target.

    Writes one Parquet file with a row for every state: who was scanned, the lines acquired, the
    actions tried, and the score that each would lead to. `activemri train policy --algo imitation
    --learner.demonstrations FILE` learns from it, and so can anything that reads tables.
    """

    protocol: OmitArgPrefixes[ScanProtocol] = field(
        default_factory=lambda: find_protocol("ActiveMRI/Phantom-v0")
    )
    run: OmitArgPrefixes[RunOptions] = field(
        default_factory=lambda: RunOptions(out=Path("runs/demonstrations.parquet"))
    )
    compute: OmitArgPrefixes[Compute] = field(default_factory=Compute)
    policy: str = "low-frequency-first"
    """Policy whose episodes lead to the states: a name or a trained policy. Some actions are drawn
    at random, and in states that are kept the episode follows the oracle as often as not."""
    horizon: int = 1
    """Lines after which the oracle compares: the line tried, then those that the policy would
    take next. 1 is the one-step oracle."""
    states: int = 500
    """States to write."""
    n_tried: int | None = None
    """Actions to try in each state; None tries all, which is what an oracle does."""

    def __post_init__(self) -> None:
        require_positive(horizon=self.horizon, states=self.states, n_tried=self.n_tried)


def demonstrate(settings: DemonstrateSettings) -> Path:
    """Write demonstrations; the path of the file.

    Raises:
        ValueError: unknown names, a policy that needs the truth itself, or a scanner that is not
            ideal.
        OSError: the file cannot be written.
        ModuleNotFoundError: pyarrow is not installed.
    """
    device = settings.compute.prepare()
    if settings.run.resume:
        raise ValueError("--resume: demonstrations are not continued; leave it out")
    if settings.protocol.scanner != "ideal":
        raise ValueError(
            f"--scanner {settings.protocol.scanner}: such scans depend on when each line was "
            "measured and on what noise was drawn, and a table of masks cannot say that; expected "
            "an ideal scanner. `activemri train policy --algo imitation` works with the others"
        )
    _arrow()
    policy = make_policy(settings.policy, metric=settings.protocol.metric)
    if policy.traits.is_oracle:
        raise ValueError(f"--policy {settings.policy}: the oracle judges anyway; name another")
    files.make_writable(settings.run.out.parent)
    protocol = EnvOptions(**vars(settings.protocol), device=str(device))
    problem = Problem(protocol, seed=settings.run.seed)
    require_played(policy, problem.scan.geometry)
    collector = Collector(problem, n_tried=settings.n_tried, horizon=settings.horizon, follow=0.5)
    with Progress("query the oracle", settings.states, unit="state") as progress:
        found, _ = collector.collect(
            settings.states,
            priority=priority_of(policy, seed=settings.run.seed),
            look=lambda view: view.mask,
            generator=np.random.default_rng(settings.run.seed),
            report=lambda **moved: progress(min(int(moved["states"]), settings.states)),
        )
    facts = facts_of(problem, horizon=settings.horizon)
    return write_demonstrations(settings.run.out, found, scans=problem.scans, facts=facts)


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """States, and what actions would have led to. One row a state.

    Attributes:
        index: scan of the data set, int64 (n,).
        start_mask: lines that the scan began with, bool (n, n_lines).
        mask: lines acquired when the action was to be chosen, bool (n, n_lines).
        budget: lines still to acquire then, int64 (n,).
        start_budget: the budget at the start, int64 (n,).
        score: before the action, higher is better, float64 (n,).
        tried: actions, int64 (n, trial); -1 fills shorter rows.
        scores: after each of them, float64 (n, trial); -inf where none was tried.
        prospect: what the rest of this episode gained at best, after its price, float64 (n,).
    """

    index: Tensor
    start_mask: Tensor
    mask: Tensor
    budget: Tensor
    start_budget: Tensor
    score: Tensor
    tried: Tensor
    scores: Tensor
    prospect: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def action(self) -> Tensor:
        """The best of the actions tried: int64 (n,)."""
        return self.tried.gather(1, self.scores.argmax(dim=1, keepdim=True)).squeeze(1)

    def select(self, rows: Sequence[int] | Tensor) -> "Demonstrations":
        """Some of the states."""
        index = torch.as_tensor(rows)
        return Demonstrations(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @classmethod
    def join(cls, parts: "Sequence[Demonstrations]") -> "Demonstrations":
        """All states of several collections."""
        n_trials = max(part.tried.shape[1] for part in parts)
        fill = {"tried": _PADDING, "scores": -torch.inf}

        def joined(name: str) -> Tensor:
            values = [getattr(part, name) for part in parts]
            if name in fill:
                pad = torch.nn.functional.pad
                values = [pad(v, (0, n_trials - v.shape[1]), value=fill[name]) for v in values]
            return torch.cat(values)

        return cls(**{f.name: joined(f.name) for f in fields(cls)})


@dataclass(frozen=True)
class Collector:
    """Plays episodes and queries the oracle along the way; results lie on the CPU.

    Attributes:
        problem: scans, and the score that the oracle maximises.
        n_tried: actions tried in a state; None tries all legal ones.
        horizon: lines after which the oracle compares scores: the action tried, and then those of
            highest priority. 1 is the one-step oracle.
        states_per_episode: states of an episode that are kept; None keeps all.
        exploration: chances that an action is drawn rather than the best: one for each episode,
            chosen at random.
        follow: chance that the episode takes the oracle's action in states that are kept.
        batch_size: scans side by side.
    """

    problem: Problem
    n_tried: int | None = 24
    horizon: int = 1
    states_per_episode: int | None = 8
    exploration: tuple[float, ...] = (0.0, 0.1, 0.3)
    follow: float = 0.0
    batch_size: int = 8

    def collect(
        self,
        n_states: int,
        *,
        priority: Priority,
        look: Callable[[View], Tensor],
        generator: np.random.Generator,
        report: Report = silent,
    ) -> tuple[Demonstrations, Tensor]:
        """At least so many states, and what `look` saw of each: (n, ...)."""
        parts: list[Demonstrations] = []
        seen: list[Tensor] = []
        while sum(map(len, parts)) < n_states:
            chosen = self.problem.draw(self.batch_size, generator)
            slices = {i: self.problem.scans[i] for i in dict.fromkeys(chosen)}
            for one in dict.fromkeys(kind(s) for s in slices.values()):
                group = [i for i in chosen if kind(slices[i]) == one]
                found, looks = self._episodes(group, slices, priority, look, generator)
                parts.append(found)
                seen.append(looks)
            report(states=sum(map(len, parts)))
        return Demonstrations.join(parts), torch.cat(seen)

    def _episodes(
        self,
        group: Sequence[int],
        slices: dict[int, Slice],
        priority: Priority,
        look: Callable[[View], Tensor],
        generator: np.random.Generator,
    ) -> tuple[Demonstrations, Tensor]:
        problem, metric = self.problem, self.problem.metric
        state = problem.scan.start(
            [slices[i] for i in group], generators=generator.spawn(len(group))
        )
        length = int(state.view.start_budget.max())
        n_kept = length if self.states_per_episode is None else min(self.states_per_episode, length)
        kept = set(generator.choice(length, size=n_kept, replace=False).tolist())
        chance = torch.from_numpy(generator.choice(self.exploration, size=len(group)))
        draws = torch.Generator().manual_seed(int(generator.integers(1 << 62)))
        parts: list[Demonstrations] = []
        seen: list[Tensor] = []
        moments: list[tuple[int, int]] = []
        curve = [signed(state.scores[metric], metric).cpu().clone()]
        while not bool(state.finished.all()):
            view, step = state.view, len(curve) - 1
            liking = priority(view).cpu().masked_fill(~view.legal.cpu(), -torch.inf)
            # The most liked actions, or, by chance, others drawn by how much they are liked.
            finite = liking.masked_fill(~liking.isfinite(), -1e9)
            other = torch.multinomial(torch.softmax(2 * finite, dim=1), 1, generator=draws)
            explores = torch.rand(len(liking), generator=draws) < chance
            actions = torch.where(explores, other.squeeze(1), liking.argmax(dim=1))
            if step in kept:
                part = self._queried(state, liking, torch.tensor(group), draws)
                follow = torch.rand(len(group), generator=draws) < self.follow
                actions = torch.where(follow, part.action, actions)
                active = (~state.finished.cpu()).nonzero().squeeze(1)
                parts.append(part.select(active))
                seen.append(look(view).cpu()[active].clone())
                moments.extend((row, step) for row in active.tolist())
            actions = torch.where(state.finished, IDLE, actions.to(state.finished.device))
            state = problem.scan.acquire(state, actions)
            curve.append(signed(state.scores[metric], metric).cpu().clone())
        # Largest gain, after its price, that comes after every step.
        worth = torch.stack(curve, dim=1)
        worth = worth - problem.protocol.step_cost * torch.arange(len(curve), dtype=worth.dtype)
        prospect = worth[:, 1:].flip(1).cummax(dim=1).values.flip(1) - worth[:, :-1]
        ahead = torch.stack([prospect[row, at] for row, at in moments])
        return replace(Demonstrations.join(parts), prospect=ahead), torch.cat(seen)

    def _queried(
        self, state: State, liking: Tensor, index: Tensor, draws: torch.Generator
    ) -> Demonstrations:
        """Scores after trial actions."""
        view, metric = state.view, self.problem.metric
        tried = self._trials(view.legal.cpu(), liking, draws)
        legal = view.legal.cpu().gather(1, tried)
        trials = tried.to(view.legal.device)
        if self.horizon == 1:
            found = self.problem.scan.preview(state, trials, (metric,))[metric]
        else:
            masks = self._masks_ahead(view, trials, liking.to(trials.device))
            found = self.problem.scan.preview_masks(state, masks, (metric,))[metric]
        return Demonstrations(
            index=index,
            start_mask=view.start_mask.cpu().clone(),
            mask=view.mask.cpu().clone(),
            budget=view.budget.cpu().clone(),
            start_budget=view.start_budget.cpu().clone(),
            score=signed(state.scores[metric], metric).cpu().clone(),
            tried=tried.masked_fill(~legal, _PADDING),
            scores=signed(found.cpu(), metric).masked_fill(~legal, -torch.inf),
            prospect=torch.zeros(len(index), dtype=torch.float64),
        )

    def _trials(self, legal: Tensor, liking: Tensor, draws: torch.Generator) -> Tensor:
        """Actions to try: the most liked ones, some near the centre, some anywhere."""
        most = int(legal.sum(dim=1).max())
        if self.n_tried is None or self.n_tried >= most:
            return legal.byte().sort(dim=1, descending=True, stable=True).indices[:, :most]
        n_best = n_low = max(1, int(0.4 * self.n_tried))
        weight = torch.exp(-self.problem.scan.geometry.frequency.cpu() / 0.3).expand(legal.shape)
        chosen = liking.topk(n_best, dim=1).indices
        n_more = self.n_tried - n_best - n_low
        for n, wanted in ((n_low, weight), (n_more, torch.ones_like(weight))):
            if n >= 1:  # illegal ones come last; they are marked as not tried afterwards
                open_ = (wanted * legal + 1e-12).scatter(1, chosen, 0.0)
                more = torch.multinomial(open_, n, generator=draws)
                chosen = torch.cat([chosen, more], dim=1)
        return chosen

    def _masks_ahead(self, view: View, tried: Tensor, liking: Tensor) -> Tensor:
        """Masks after each trial action and the most liked ones that come next."""
        geometry, n_next = self.problem.scan.geometry, self.horizon - 1
        order = liking.topk(min(n_next + 1, liking.shape[1]), dim=1)
        room = (view.budget - 1).clamp(max=n_next)
        masks = []
        for first in tried.T:
            mask = geometry.acquire(view.mask, first)
            taken = torch.zeros_like(room)
            for action, value in zip(order.indices.T, order.values.T, strict=True):
                wanted = (action != first) & value.isfinite() & (taken < room)
                mask = torch.where(wanted[:, None], geometry.acquire(mask, action), mask)
                taken = taken + wanted.long()
            masks.append(mask)
        return torch.stack(masks, dim=1)


def outwards(view: View) -> Tensor:
    """Priority of actions near the centre: float (batch, n_actions)."""
    return -4 * view.geometry.frequency.float().expand(len(view.mask), -1)


def priority_of(policy: Policy, *, seed: int = 0) -> Priority:
    """Priorities of a policy's actions, for a :class:`Collector`.

    Networks say it. Of all others only the choice is known: it comes first, and the rest from the
    centre of k-space outwards.
    """
    generator = np.random.default_rng(seed)

    def priority(view: View) -> Tensor:
        if isinstance(policy, LearnedPolicy):
            return policy.scores(view)[:, : policy.network.n_actions].float()
        liking = outwards(view)
        chosen = policy.act(view, generator.spawn(len(view.mask))).clamp(min=0)
        return liking.scatter(1, chosen[:, None], 1.0)

    return priority


def view_states(
    scan: Scan,
    scans: SliceDataset,
    found: Demonstrations,
    *,
    batch_size: int = 16,
    report: Report = silent,
) -> Iterator[tuple[list[int], View]]:
    """Views of every state: rows of the demonstrations, and the view of these."""
    done = 0
    by_kind: dict[object, list[int]] = {}
    # Scans are read once, one after the other.
    for row in found.index.argsort(stable=True).tolist():
        info = scans.describe(int(found.index[row]))
        by_kind.setdefault((info.shape, info.target_shape, info.n_coils), []).append(row)
    for rows in by_kind.values():
        for first in range(0, len(rows), batch_size):
            some = rows[first : first + batch_size]
            part = found.select(some)
            slices = {i: scans[i] for i in dict.fromkeys(part.index.tolist())}
            state = scan.resume(
                [slices[i] for i in part.index.tolist()],
                start_masks=part.start_mask,
                masks=part.mask,
                budgets=part.budget,
            )
            yield some, state.view
            done += len(some)
            report(states=done)


def facts_of(problem: Problem, *, horizon: int = 1) -> dict[str, Any]:
    """Facts that a file says about its demonstrations: metric, geometry, origin of the scans."""
    geometry = problem.scan.geometry
    return {
        "metric": problem.metric,
        "reconstructor": type(problem.scan.reconstructor).__name__,
        "data": problem.scans.name,
        "geometry": geometry.name,
        "n_lines": geometry.n_readouts,
        "n_actions": geometry.n_actions,
        "horizon": horizon,
    }


def write_demonstrations(
    path: str | Path, found: Demonstrations, *, scans: SliceDataset, facts: Mapping[str, Any]
) -> Path:
    """Write a Parquet file, completely or not at all. Returns its path, ending in .parquet.

    Raises:
        OSError: the file cannot be written.
        ModuleNotFoundError: pyarrow is not installed; the message says which extra has it.
    """
    arrow, parquet = _arrow()
    infos = [scans.describe(i) for i in found.index.tolist()]
    known = found.tried >= 0
    columns: Mapping[str, Any] = {
        "volume": [info.volume for info in infos],
        "slice": [info.index for info in infos],
        "subject": [info.subject for info in infos],
        "start_lines": [row.nonzero().squeeze(1).tolist() for row in found.start_mask],
        "lines": [row.nonzero().squeeze(1).tolist() for row in found.mask],
        "budget": found.budget.tolist(),
        "start_budget": found.start_budget.tolist(),
        "score": found.score.tolist(),
        "action": found.action.tolist(),
        "actions": [row[k].tolist() for row, k in zip(found.tried, known, strict=True)],
        "scores": [row[k].tolist() for row, k in zip(found.scores, known, strict=True)],
        "prospect": found.prospect.tolist(),
    }
    table = arrow.table(dict(columns)).replace_schema_metadata({_KEY: json.dumps(dict(facts))})
    target = Path(path).with_suffix(".parquet")
    with files.replacing(target) as partial:
        parquet.write_table(table, partial)
    return target


def read_demonstrations(
    path: str | Path, *, scans: SliceDataset
) -> tuple[Demonstrations, dict[str, Any]]:
    """Read a file that :func:`write_demonstrations` wrote.

    Args:
        path: of the file.
        scans: whom it is about, in any order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else, or scans that are not among those given.
        ModuleNotFoundError: pyarrow is not installed.
    """
    arrow, parquet = _arrow()
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected a file of demonstrations; none is at {path}")
    try:
        table = parquet.read_table(path)
    except arrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from error
    described = (table.schema.metadata or {}).get(_KEY)
    if described is None:
        raise ValueError(f"{path} holds no demonstrations; make some with 'activemri demonstrate'")
    facts = dict(json.loads(described))
    rows = table.to_pydict()
    infos = [scans.describe(position) for position in range(len(scans))]
    known = {(info.volume, info.index): at for at, info in enumerate(infos)}
    wanted = list(zip(rows["volume"], rows["slice"], strict=True))
    if missing := [scan for scan in wanted if scan not in known]:
        raise ValueError(
            f"{path} is about scans that are not among those of {scans.name}, the first: slice "
            f"{missing[0][1]} of {missing[0][0]}; name the data that it was made from"
        )
    n_trials = max(map(len, rows["actions"]), default=0)
    tried = torch.full((len(wanted), n_trials), _PADDING)
    scores = torch.full((len(wanted), n_trials), -torch.inf, dtype=torch.float64)
    masks = torch.zeros((2, len(wanted), facts["n_lines"]), dtype=torch.bool)
    for row, (actions, values) in enumerate(zip(rows["actions"], rows["scores"], strict=True)):
        tried[row, : len(actions)] = torch.tensor(actions, dtype=torch.int64)
        scores[row, : len(values)] = torch.tensor(values, dtype=torch.float64)
        for mask, name in zip(masks, ("start_lines", "lines"), strict=True):
            mask[row, torch.tensor(rows[name][row], dtype=torch.int64)] = True
    found = Demonstrations(
        index=torch.tensor([known[scan] for scan in wanted], dtype=torch.int64),
        start_mask=masks[0],
        mask=masks[1],
        budget=torch.tensor(rows["budget"]),
        start_budget=torch.tensor(rows["start_budget"]),
        score=torch.tensor(rows["score"], dtype=torch.float64),
        tried=tried,
        scores=scores,
        prospect=torch.tensor(rows["prospect"], dtype=torch.float64),
    )
    return found, facts


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'demonstrations are Parquet files: pip install "activemri[benchmark]"', name=error.name
        ) from error
    return pyarrow, pyarrow.parquet
