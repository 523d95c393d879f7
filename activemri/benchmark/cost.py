"""Costs of a benchmark before it is run: reconstructions counted, one of each kind timed."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from activemri.agents.oracles import N_SCREENED, ExchangeOracle
from activemri.agents.rollout import episode_generator, start_scans
from activemri.benchmark.plan import Plan, Shard
from activemri.benchmark.timing import clock_of
from activemri.benchmark.tuning import n_trials
from activemri.envs.scan import Scan, State
from activemri.progress import duration
from activemri.tables import Table

# The exchange oracle plays the screened one's episode, and then tries all actions so many times
# until no exchange helps: 5 to 21 on phantoms, with budgets of 6 to 60 lines.
_EXCHANGES = 10
_N_TRIALS = 8  # timed at once
_SECONDS = 0.3  # for each thing that is timed; it is done twice at least
_WORTH_A_WORD = 0.5  # share of a benchmark's time


@dataclass(frozen=True)
class Cost:
    """Work: steps of scans, trials of actions that are not taken, CPU seconds of all."""

    steps: int = 0
    trials: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.steps + other.steps, self.trials + other.trials, self.seconds + other.seconds
        )

    @property
    def reconstructions(self) -> int:
        return self.steps + self.trials


class Costs:
    """Costs of a plan's shards and orders.

    Counts are those of the first scan: its legal actions and its budget. They are exact for ideal
    scans of one size in which every action acquires as much, except for the exchange oracle, whose
    search ends when it ends; trials by policies that imagine the truth are part of their time
    alone. Times are those of the first scan on its own.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        device, threads = plan.settings.compute.device, torch.get_num_threads()
        self._clock = clock_of(device, threads)
        self._first = plan.scored.dataset[plan.scored.positions[0]]
        self._starts: dict[str, State] = {}
        self._times: dict[str, tuple[float, float, float]] = {}  # of a start, a step, a trial
        for label, scan in plan.acquisitions.items():
            begin = partial(start_scans, scan, [self._first], seed=plan.settings.run.seed)
            self._starts[label] = begin()
            step, trial = self._timed(scan, self._starts[label])
            self._times[label] = self._seconds(begin), step, trial
        self._episodes: dict[tuple[str, str], Cost] = {}

    def shard(self, shard: Shard) -> Cost:
        """The cost of a shard; a start counts as a step."""
        key = shard.policy, shard.reconstructor
        if key not in self._episodes:
            self._episodes[key] = self._episode(*key)
        one, n = self._episodes[key], len(shard.positions)
        return Cost(n * one.steps, n * one.trials, n * one.seconds)

    def order(self, kind: str, reconstructor: str) -> Cost:
        """The cost of learning an order of a kind."""
        assert self.plan.train is not None
        n_train = len(self.plan.train.positions)
        n_decide = min(n_train, self.plan.settings.n_fit_scans or n_train)
        legal = self._legal(reconstructor)
        # Greedy orders are acquired in all scans, and decided on some.
        steps = (n_decide if kind == "average-oracle" else n_train) * (1 + len(legal))
        trials = n_decide * sum(legal)
        if kind == "lbcs-final":  # several greedy orders, and exchanges
            trials = 3 * trials + _EXCHANGES * n_decide * (len(legal) + 2 * legal[0])
        return self._of(reconstructor, steps, trials)

    def tuning(self, policy: str, reconstructor: str) -> Cost:
        """The cost of tuning a reconstructor for a policy."""
        assert self.plan.tuning is not None
        played = self.shard(Shard(reconstructor, policy, 0, self.plan.tuning.positions))
        n = len(self.plan.tuning.positions)
        n *= n_trials(self.plan.acquisitions[reconstructor].reconstructor)
        return played + self._of(reconstructor, 0, n)

    def rank(self, shard: Shard) -> int:
        """Order of magnitude of the reconstructions that a scan takes.

        Policies of one rank are played on a scan one after the other, those of a lower one before.
        """
        return int(math.log10(self.shard(shard).reconstructions / len(shard.positions)))

    def _episode(self, policy: str, reconstructor: str) -> Cost:
        legal, seed = self._legal(reconstructor), self.plan.settings.run.seed
        traits, trials, act = self.plan.traits[policy], 0, 0.0
        steps = 1 + len(legal)
        if traits.is_oracle:
            scan, tried = self.plan.acquisitions[reconstructor], traits.n_tried
            exchanges = isinstance(
                self.plan.policy(policy, reconstructor, order=None), ExchangeOracle
            )
            if exchanges:
                steps, trials, tried = 4 * steps, _EXCHANGES * legal[0], N_SCREENED
            if tried is None or scan.reconstructor.is_zero_filled:
                tried = legal[0]
            trials += sum(min(n, tried) for n in legal)
        elif policy not in self.plan.orders:
            chosen = self.plan.policy(policy, reconstructor, order=None)
            generators = [episode_generator(seed, self._first, policy)]
            view = self._starts[reconstructor].view
            act = self._seconds(lambda: chosen.act(view, generators)) * len(legal)
        cost = self._of(reconstructor, steps, trials)
        return Cost(steps, trials, cost.seconds + self._times[reconstructor][0] + act)

    def _of(self, reconstructor: str, steps: int, trials: int) -> Cost:
        _, step, trial = self._times[reconstructor]
        return Cost(steps, trials, steps * step + trials * trial)

    def _legal(self, reconstructor: str) -> Sequence[int]:
        """Legal actions before every step of an episode."""
        scan, view = self.plan.acquisitions[reconstructor], self._starts[reconstructor].view
        n_legal = int(view.legal.sum())
        repeats, group = scan.scanner.repeats, scan.geometry.readouts_per_action
        n_steps = min(n_legal * repeats, math.ceil(int(view.budget) / group))
        return [max(1, n_legal - step // repeats) for step in range(n_steps)]

    def _timed(self, scan: Scan, start: State) -> tuple[float, float]:
        """Seconds of a step, and of a trial."""
        actions = start.view.legal[0].nonzero()[:_N_TRIALS, 0]
        states = [start.clone() for _ in range(8)]
        step = self._seconds(lambda: scan.acquire(states.pop(), actions[:1]), most=len(states))
        trials = self._seconds(lambda: scan.preview(start, actions[None], (self.plan.metric,)))
        return step, trials / len(actions)

    def _seconds(self, work: Callable[[], object], *, most: int = 8) -> float:
        """The shortest of a few times; the first call warms up."""
        found: list[float] = []
        while len(found) < 2 or (len(found) < most and sum(found) < _SECONDS):
            begin = self._clock()
            work()
            found.append(self._clock() - begin)
        return min(found)


def announcement(
    costs: Costs,
    shards: Iterable[Shard],
    orders: Iterable[tuple[str, str]],
    tunings: Iterable[tuple[str, str]] = (),
) -> str:
    """Table of the work that is left and its cost, the cheapest first."""
    by_work: dict[str, Cost] = {}
    n_scans: dict[str, int] = {}
    for shard in shards:
        by_work[shard.policy] = by_work.get(shard.policy, Cost()) + costs.shard(shard)
        n_scans[shard.policy] = n_scans.get(shard.policy, 0) + len(shard.positions)
    for kind, reconstructor in orders:
        name = f"learn the order {kind}"
        by_work[name] = by_work.get(name, Cost()) + costs.order(kind, reconstructor)
    for policy, reconstructor in tunings:
        name = f"tune {reconstructor}"
        by_work[name] = by_work.get(name, Cost()) + costs.tuning(policy, reconstructor)
    plan, total = costs.plan, sum(by_work.values(), Cost())
    lines = [
        (name, n_scans.get(name), cost.reconstructions, _words(cost.seconds))
        for name, cost in sorted(by_work.items(), key=lambda item: item[1].seconds)
    ]
    lines.append(("all", sum(n_scans.values()), total.reconstructions, _words(total.seconds)))
    n, notes = plan.settings.workers, list[str]()
    if n > 1:
        notes.append(f"With {n} workers: {_words(total.seconds / n)}, if cores are free.")
    exact = [
        name
        for name in by_work
        if name in plan.traits and plan.traits[name].is_oracle and plan.traits[name].n_tried is None
    ]
    share = sum(by_work[name].seconds for name in exact) / max(total.seconds, 1e-9)
    if plan.has_network and share > _WORTH_A_WORD:
        verb = "takes" if len(exact) == 1 else "take"
        notes.append(
            f"{' and '.join(exact)} {verb} {100 * share:.0f} % of it; screened-oracle is a bound "
            "for about a fifteenth of the exact one's time."
        )
    return Table(
        ("policy", "scans", "reconstructions", "CPU time, estimated"),
        lines,
        title="To be done",
        notes=notes,
    ).text()


def _words(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else "< 1 s"
