"""Demonstrations of an oracle: states of scans, actions tried there, and the scores they lead to.

On disk they are one Parquet file, one row a state, readable by anything. Columns: `volume`,
`slice`, `subject`, `start_lines` and `lines` (numbers of the lines acquired at the start and until
now), `budget` and `start_budget` (lines still to acquire), `score` (before the action), `action`
(the best of those tried), `actions` and `scores` (those tried, and the score after each),
`prospect` (what the rest of the episode gained at best). Errors such as NMSE have their sign
turned: higher is better. The file's metadata say which metric, reconstructor, geometry and data
these are. Samples are not stored: whoever reads the file has the scans.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tyro.conf import OmitArgPrefixes

from activemri import files
from activemri.agents.learners.learner import Problem, Report, silent
from activemri.agents.networks import LearnedPolicy
from activemri.agents.policy import Policy, decide, require_played, signed
from activemri.agents.registry import make_policy
from activemri.agents.rollout import PADDING, rows_of_a_kind
from activemri.data.slices import Slice
from activemri.envs.line_features import readout_features
from activemri.envs.protocol import EnvOptions, ScanProtocol
from activemri.envs.scan import IDLE, View
from activemri.options import Compute, RunOptions, require_positive, require_types
from activemri.progress import Progress
from activemri.registration import find_protocol

#: How much every action is worth trying, higher first: view -> float (batch, n_actions).
Priority = Callable[[View], Tensor]

_BATCH, _KEPT = 8, 8  # scans side by side, and states that are kept of each episode
_KEY = b"activemri-demonstrations"
MOST_STATES = 10_000_000  # a table of nothing but nulls takes no room in a file


@dataclass(frozen=True, kw_only=True)
class DemonstrateSettings:
    """Write down what lines would gain, by an oracle that knows the target.

    Writes one Parquet file with a row for every state: who was scanned, the lines acquired, the
    actions tried, and the score that each would lead to. `activemri train policy --algo imitation
    --learner.demonstrations FILE` learns from it.
    """

    protocol: OmitArgPrefixes[ScanProtocol] = field(
        default_factory=lambda: find_protocol("ActiveMRI/Phantom-v0")
    )
    run: OmitArgPrefixes[RunOptions] = RunOptions(out=Path("runs/demonstrations.parquet"))
    compute: OmitArgPrefixes[Compute] = Compute()
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
        ValueError: unknown names, an oracle as policy, a scanner that is not ideal, or a file that
            is there already.
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
    out = settings.run.out.with_suffix(".parquet")
    files.require_free(out, overwrite=settings.run.overwrite)
    protocol = EnvOptions(**vars(settings.protocol), device=str(device))
    problem = Problem(protocol, seed=settings.run.seed)
    require_played(policy, problem.scan)
    with Progress("query the oracle", settings.states, unit="state") as progress:
        found = collect(
            problem,
            settings.states,
            priority=priority_of(policy, seed=settings.run.seed),
            generator=np.random.default_rng(settings.run.seed),
            n_tried=settings.n_tried,
            horizon=settings.horizon,
            follow=0.5,
            report=lambda **moved: progress(min(int(moved["states"]), settings.states)),
        )
    return write_demonstrations(out, found, problem, horizon=settings.horizon)


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
        features: see :func:`activemri.envs.line_features.readout_features`, (n, feature, n_lines).
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
    features: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def action(self) -> Tensor:
        """The best of the actions tried: int64 (n,)."""
        return self.tried.gather(1, self.scores.argmax(dim=1, keepdim=True)).squeeze(1)

    def select(self, rows: Tensor) -> "Demonstrations":
        """Some of the states."""
        return Demonstrations(**{name: values[rows] for name, values in vars(self).items()})

    @classmethod
    def join(cls, parts: "Sequence[Demonstrations]") -> "Demonstrations":
        """All states of several collections."""
        joined = {name: [getattr(part, name) for part in parts] for name in vars(parts[0])}
        n_trials = max(part.tried.shape[1] for part in parts)
        for name, fill in (("tried", PADDING), ("scores", -torch.inf)):
            joined[name] = [
                torch.nn.functional.pad(value, (0, n_trials - value.shape[1]), value=fill)
                for value in joined[name]
            ]
        return cls(**{name: torch.cat(values) for name, values in joined.items()})


def collect(
    problem: Problem,
    n_states: int,
    *,
    priority: Priority,
    generator: np.random.Generator,
    n_tried: int | None = 24,
    horizon: int = 1,
    exploration: tuple[float, ...] = (0.0, 0.1, 0.3),
    follow: float = 0.0,
    report: Report = silent,
) -> Demonstrations:
    """Play episodes and query the oracle along the way; all lies on the CPU.

    Args:
        problem: scans, and the score that the oracle maximises.
        n_states: states to collect, or a few more; at most eight of an episode.
        priority: of the actions, by which episodes go on.
        generator: of all draws.
        n_tried: actions tried in a state; None tries all legal ones.
        horizon: lines after which the oracle compares scores: the action tried, and then those of
            highest priority. 1 is the one-step oracle.
        exploration: chances that an action is drawn rather than the best, of which every episode
            has one.
        follow: chance that the episode takes the oracle's action in states that are kept.
        report: called with the number of states so far.
    """
    scan, metric = problem.scan, problem.metric

    def episodes(group: Sequence[int], slices: Sequence[Slice]) -> list[Demonstrations]:
        """Play scans of one kind, numbers `group` of the data set, to the end."""
        state = scan.start(slices, generators=generator.spawn(len(group)))
        length = int(state.view.start_budget.max())
        kept = set(generator.choice(length, size=min(_KEPT, length), replace=False).tolist())
        chance = torch.from_numpy(generator.choice(exploration, size=len(group)))
        draws = torch.Generator().manual_seed(int(generator.integers(1 << 62)))
        found = list[tuple[Demonstrations, Tensor, int]]()  # some scans, which ones, and the step
        curve = [signed(state.scores[metric], metric).cpu().clone()]
        while not bool(state.finished.all()):
            view, step, device = state.view, len(curve) - 1, state.finished.device
            legal = view.legal.cpu()
            liking = priority(view).cpu().masked_fill(~legal, -torch.inf)
            # The most liked actions, or, by chance, others drawn by how much they are liked.
            finite = liking.masked_fill(~liking.isfinite(), -1e9)
            other = torch.multinomial(torch.softmax(2 * finite, dim=1), 1, generator=draws)
            explores = torch.rand(len(liking), generator=draws) < chance
            actions = torch.where(explores, other.squeeze(1), liking.argmax(dim=1))
            if step in kept:
                tried = _trials(view, liking, n=n_tried, draws=draws)
                if horizon == 1:
                    scores = scan.preview(state, tried.to(device), (metric,))[metric]
                else:
                    masks = _masks_ahead(view, tried.to(device), liking.to(device), horizon)
                    scores = scan.preview_masks(state, masks, (metric,))[metric]
                illegal = ~legal.gather(1, tried)
                active = (~state.finished.cpu()).nonzero().squeeze(1)
                problem.n_actions += int((~illegal[active]).sum())
                part = Demonstrations(
                    index=torch.tensor(group),
                    start_mask=view.start_mask.cpu(),
                    mask=view.mask.cpu(),
                    budget=view.budget.cpu(),
                    start_budget=view.start_budget.cpu(),
                    score=curve[-1],
                    tried=tried.masked_fill(illegal, PADDING),
                    scores=signed(scores.cpu(), metric).masked_fill(illegal, -torch.inf),
                    prospect=curve[-1],  # is not known yet
                    features=readout_features(view).cpu(),
                )
                follows = torch.rand(len(group), generator=draws) < follow
                actions = torch.where(follows, part.action, actions)
                found.append((part.select(active), active, step))
            problem.n_actions += int((~state.finished).sum())
            state = scan.acquire(state, torch.where(state.finished, IDLE, actions.to(device)))
            curve.append(signed(state.scores[metric], metric).cpu().clone())
        # Largest gain, after its price, that comes after every step.
        worth = torch.stack(curve, dim=1)
        worth = worth - problem.protocol.step_cost * torch.arange(len(curve), dtype=worth.dtype)
        prospect = worth[:, 1:].flip(1).cummax(dim=1).values.flip(1) - worth[:, :-1]
        return [replace(part, prospect=prospect[rows, step]) for part, rows, step in found]

    parts = list[Demonstrations]()
    while sum(map(len, parts)) < n_states:
        chosen = problem.draw(_BATCH, generator)
        slices = {i: problem.scans[i] for i in dict.fromkeys(chosen)}
        for rows in rows_of_a_kind([slices[i] for i in chosen]):
            group = [chosen[row] for row in rows]
            parts += episodes(group, [slices[i] for i in group])
        report(states=sum(map(len, parts)))
    return Demonstrations.join(parts)


def _trials(view: View, liking: Tensor, *, n: int | None, draws: torch.Generator) -> Tensor:
    """Actions to try: the most liked ones, some near the centre, some anywhere."""
    legal = view.legal.cpu()
    most = int(legal.sum(dim=1).max())
    if n is None or n >= most:
        return legal.byte().sort(dim=1, descending=True, stable=True).indices[:, :most]
    n_best = n_low = max(1, int(0.4 * n))
    weight = torch.exp(-view.geometry.frequency.cpu() / 0.3).expand(legal.shape)
    chosen = liking.topk(n_best, dim=1).indices
    for n_more, wanted in ((n_low, weight), (n - n_best - n_low, torch.ones_like(weight))):
        if n_more >= 1:  # illegal ones come last; they are marked as not tried afterwards
            open_ = (wanted * legal + 1e-12).scatter(1, chosen, 0.0)
            chosen = torch.cat([chosen, torch.multinomial(open_, n_more, generator=draws)], dim=1)
    return chosen


def _masks_ahead(view: View, tried: Tensor, liking: Tensor, horizon: int) -> Tensor:
    """Masks after each trial action and the most liked ones that come next."""
    order = liking.topk(min(horizon, liking.shape[1]), dim=1)
    room = (view.budget - 1).clamp(max=horizon - 1)
    masks = []
    for first in tried.T:
        mask = view.geometry.acquire(view.mask, first)
        taken = torch.zeros_like(room)
        for action, value in zip(order.indices.T, order.values.T, strict=True):
            wanted = (action != first) & value.isfinite() & (taken < room)
            mask = torch.where(wanted[:, None], view.geometry.acquire(mask, action), mask)
            taken = taken + wanted.long()
        masks.append(mask)
    return torch.stack(masks, dim=1)


def outwards(view: View) -> Tensor:
    """Priority of actions near the centre: float (batch, n_actions)."""
    return -4 * view.geometry.frequency.float().expand(len(view.mask), -1)


def priority_of(policy: Policy, *, seed: int = 0) -> Priority:
    """Priorities of a policy's actions.

    Of all but networks only the choice is known: it comes first, and the rest from the centre of
    k-space outwards.
    """
    generator = np.random.default_rng(seed)

    def priority(view: View) -> Tensor:
        if isinstance(policy, LearnedPolicy):
            return policy.scores(view)[:, : policy.network.n_actions].float()
        liking = outwards(view)
        chosen = decide(policy, view, generator.spawn(len(view.mask))).clamp(min=0)
        return liking.scatter(1, chosen[:, None], 1.0)

    return priority


def write_demonstrations(
    path: Path, found: Demonstrations, problem: Problem, *, horizon: int = 1
) -> Path:
    """Write a Parquet file, completely or not at all. Returns its path, ending in .parquet."""
    arrow, parquet = _arrow()
    infos = [problem.scans.describe(i) for i in found.index.tolist()]
    tried = list(zip(found.tried, found.scores, found.tried >= 0, strict=True))
    columns = {
        "volume": [info.volume for info in infos],
        "slice": [info.index for info in infos],
        "subject": [info.subject for info in infos],
        "start_lines": [row.nonzero().squeeze(1).tolist() for row in found.start_mask],
        "lines": [row.nonzero().squeeze(1).tolist() for row in found.mask],
        "budget": found.budget.tolist(),
        "start_budget": found.start_budget.tolist(),
        "score": found.score.tolist(),
        "action": found.action.tolist(),
        "actions": [actions[known].tolist() for actions, _, known in tried],
        "scores": [scores[known].tolist() for _, scores, known in tried],
        "prospect": found.prospect.tolist(),
    }
    reconstructor = type(problem.scan.reconstructor).__name__
    facts = {"reconstructor": reconstructor, "data": problem.scans.name, "horizon": horizon}
    facts |= _facts(problem)
    table = arrow.table(columns).replace_schema_metadata({_KEY: json.dumps(facts)})
    target = path.with_suffix(".parquet")
    with arrow.BufferOutputStream() as stream:
        parquet.write_table(table, stream, write_page_checksum=True)
        files.write(target, stream.getvalue().to_pybytes())
    return target


def read_demonstrations(path: str | Path, problem: Problem) -> Demonstrations:
    """Read a file that :func:`write_demonstrations` wrote, and bring the scans to its states.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else, or demonstrations for other scans or actions or
            another metric.
        ModuleNotFoundError: pyarrow is not installed.
    """
    arrow, parquet = _arrow()
    if not Path(path).is_file():
        raise FileNotFoundError(f"expected a file of demonstrations; none is at {path}")
    try:
        if (n_rows := parquet.read_metadata(path).num_rows) > MOST_STATES:
            raise ValueError(f"expected at most {MOST_STATES} states; got {n_rows}")
        table = parquet.read_table(path, page_checksum_verification=True)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} is not such a Parquet file: {error!s:.300}") from error
    facts = files.parse_json((table.schema.metadata or {}).get(_KEY, "0"), str(path))
    if not isinstance(facts, dict):
        raise ValueError(f"{path} holds no demonstrations; make some with 'activemri demonstrate'")
    for name, here in _facts(problem).items():
        if facts.get(name) != here:
            raise ValueError(
                f"{path} holds demonstrations for {name} {facts.get(name)!r:.100}; this training "
                f"needs {here!r}"
            )
    try:
        return _demonstrations(table.to_pydict(), problem)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


@dataclass(frozen=True)
class _Rows:
    """Columns of a file, one entry a state."""

    volume: list[str]
    slice: list[int]
    subject: list[str]
    start_lines: list[list[int]]
    lines: list[list[int]]
    budget: list[int]
    start_budget: list[int]
    score: list[float]
    action: list[int]
    actions: list[list[int]]
    scores: list[list[float]]
    prospect: list[float]


def _demonstrations(columns: dict[str, Any], problem: Problem) -> Demonstrations:
    """Columns as demonstrations, or else a ValueError that says what does not fit."""
    require_types(_Rows, columns)
    rows, scans, geometry = _Rows(**columns), problem.scans, problem.scan.geometry
    for name, most in (("start_lines", geometry.n_readouts), ("lines", geometry.n_readouts),
                       ("actions", geometry.n_actions)):  # fmt: skip
        for row, numbers in enumerate(columns[name]):
            if not all(0 <= number < most for number in numbers):
                raise ValueError(f"row {row}: expected {name} from 0 to {most - 1}; got {numbers}")
    for row, (actions, scores) in enumerate(zip(rows.actions, rows.scores, strict=True)):
        if not 0 < len(actions) == len(scores):
            raise ValueError(f"row {row}: expected a score for each action, and at least one")
        if not np.isfinite([*scores, rows.score[row], rows.prospect[row]]).all():
            raise ValueError(f"row {row}: expected finite scores")
    infos = enumerate(map(scans.describe, range(len(scans))))
    known = {(info.volume, info.index): place for place, info in infos}
    wanted = list(zip(rows.volume, rows.slice, strict=True))
    if missing := [scan for scan in wanted if scan not in known]:
        raise ValueError(
            f"it is about scans that are not among those of {scans.name}, the first: slice "
            f"{missing[0][1]} of {missing[0][0]:.100}; name the data that it was made from"
        )

    def padded(values: Sequence[Sequence[float]], fill: float) -> Tensor:
        each = [torch.from_numpy(np.array(value)) for value in values]
        return torch.nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=fill)

    def masks(lines: list[list[int]]) -> Tensor:
        mask = torch.zeros((len(wanted), geometry.n_readouts), dtype=torch.bool)
        for row, own in zip(mask, lines, strict=True):
            row[torch.tensor(own, dtype=torch.int64)] = True
        return mask

    index = torch.tensor([known[scan] for scan in wanted])
    start_mask, mask = masks(rows.start_lines), masks(rows.lines)
    budget = torch.tensor(rows.budget)
    features = dict[int, Tensor]()
    for place in index.unique().tolist():
        for some in (index == place).nonzero().squeeze(1).split(16):
            state = problem.scan.resume(
                [scans[place]] * len(some),
                start_masks=start_mask[some],
                masks=mask[some],
                budgets=budget[some],
            )
            seen = readout_features(state.view).cpu()
            features.update(zip(some.tolist(), seen, strict=True))
    return Demonstrations(
        index=index,
        start_mask=start_mask,
        mask=mask,
        budget=budget,
        start_budget=torch.tensor(rows.start_budget),
        score=torch.tensor(rows.score, dtype=torch.float64),
        tried=padded(rows.actions, PADDING),
        scores=padded(rows.scores, -torch.inf),
        prospect=torch.tensor(rows.prospect, dtype=torch.float64),
        features=torch.stack([features[row] for row in range(len(index))]),
    )


def _facts(problem: Problem) -> dict[str, Any]:
    """Facts in which a file of demonstrations must agree with a problem."""
    geometry = problem.scan.geometry
    return {
        "metric": problem.metric,
        "geometry": geometry.name,
        "n_lines": geometry.n_readouts,
        "n_actions": geometry.n_actions,
    }


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'demonstrations are Parquet files: pip install "activemri[benchmark]"', name=error.name
        ) from error
    return pyarrow, pyarrow.parquet
