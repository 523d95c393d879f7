"""What an oracle would do: states of scans, actions tried there, and the scores they lead to."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from activemri.agents.greedy import signed
from activemri.agents.learning.drawing import ScanDraw
from activemri.data.slices import Slice, SliceDataset
from activemri.envs.acquisition import Acquisition, View
from activemri.envs.state import State, kind

#: How much every action is worth trying, higher first: view -> float (batch, n_actions).
Priority = Callable[[View], Tensor]

#: Called with every view of which a state is kept; what it gives is kept too.
Look = Callable[[View], Tensor]

_PADDING = -1


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
        n = max(part.tried.shape[1] for part in parts)
        padded = [part.padded(n) for part in parts]
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in padded]) for f in fields(cls)})

    def padded(self, n_trials: int) -> "Demonstrations":
        """The same with room for more trials."""
        missing = (0, n_trials - self.tried.shape[1])
        pad = torch.nn.functional.pad
        return replace(
            self,
            tried=pad(self.tried, missing, value=_PADDING),
            scores=pad(self.scores, missing, value=-torch.inf),
        )


@dataclass(frozen=True)
class Collector:
    """Plays episodes and asks the oracle along the way; what it found lies on the CPU.

    Attributes:
        acquisition: the scan protocol.
        scans: who is scanned.
        metric: what the oracle maximises.
        n_tried: actions tried in a state; None tries all legal ones.
        horizon: lines after which the oracle compares scores: the action tried, and then those of
            highest priority. 1 is the one-step oracle.
        states_per_episode: states of an episode that are kept; None keeps all.
        exploration: chances that an action is drawn rather than the best: one for each episode,
            chosen at random.
        follow: chance that the episode takes the oracle's action where it was asked.
        step_cost: price of an action in :attr:`Demonstrations.prospect`.
        batch_size: scans side by side.
    """

    acquisition: Acquisition
    scans: SliceDataset
    metric: str = "ssim"
    n_tried: int | None = 24
    horizon: int = 1
    states_per_episode: int | None = 8
    exploration: tuple[float, ...] = (0.0, 0.1, 0.3)
    follow: float = 0.0
    step_cost: float = 0.0
    batch_size: int = 8

    def collect(
        self,
        n_states: int,
        *,
        priority: Priority,
        look: Look,
        generator: np.random.Generator,
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[Demonstrations, Tensor]:
        """At least so many states, and what `look` saw of each: (n, ...).

        Half of the scans are drawn evenly over subjects, half over volumes: large volumes do not
        drown small ones.
        """
        parts: list[Demonstrations] = []
        seen: list[Tensor] = []
        draw = ScanDraw(self.scans)
        while sum(map(len, parts)) < n_states:
            chosen = draw(self.batch_size, generator)
            slices = {i: self.scans[i] for i in dict.fromkeys(chosen)}
            for one in dict.fromkeys(kind(s) for s in slices.values()):
                group = [i for i in chosen if kind(slices[i]) == one]
                found, looks = self._episodes(group, slices, priority, look, generator)
                parts.append(found)
                seen.append(looks)
            if on_progress is not None:
                on_progress(sum(map(len, parts)))
        return Demonstrations.join(parts), torch.cat(seen)

    def _episodes(
        self,
        group: Sequence[int],
        slices: dict[int, Slice],
        priority: Priority,
        look: Look,
        generator: np.random.Generator,
    ) -> tuple[Demonstrations, Tensor]:
        scans = [slices[i] for i in group]
        generators = generator.spawn(len(scans))
        state = self.acquisition.start(scans, generators=generators)
        length = int(state.start_budget.max())
        kept = self._kept_steps(length, generator)
        chance = torch.from_numpy(generator.choice(self.exploration, size=len(scans)))
        draws = torch.Generator().manual_seed(int(generator.integers(1 << 62)))
        parts: list[Demonstrations] = []
        seen: list[Tensor] = []
        moments: list[tuple[int, int]] = []
        curve = [self._score(state)]
        step = 0
        while not bool(state.finished.all()):
            view = self.acquisition.view(state)
            liking = priority(view).cpu().masked_fill(~view.legal.cpu(), -torch.inf)
            actions = _drawn(liking, chance, draws)
            if step in kept:
                part = self._ask(state, liking, torch.tensor(group), draws)
                follow = torch.rand(len(scans), generator=draws) < self.follow
                actions = torch.where(follow, part.action, actions)
                active = (~state.finished.cpu()).nonzero().squeeze(1)
                parts.append(part.select(active))
                seen.append(look(view).cpu()[active].clone())
                moments.extend((row, step) for row in active.tolist())
            actions = actions.to(state.finished.device)
            state = self.acquisition.acquire(state, torch.where(state.finished, -2, actions))
            curve.append(self._score(state))
            step += 1
        found = Demonstrations.join(parts)
        prospect = _prospect(torch.stack(curve, dim=1), self.step_cost)
        ahead = torch.stack([prospect[row, at] for row, at in moments])
        return replace(found, prospect=ahead), torch.cat(seen)

    def _kept_steps(self, length: int, generator: np.random.Generator) -> set[int]:
        n = length if self.states_per_episode is None else min(self.states_per_episode, length)
        return set(generator.choice(length, size=n, replace=False).tolist())

    def _score(self, state: State) -> Tensor:
        return signed(state.scores[self.metric], self.metric).cpu().clone()

    def _ask(
        self, state: State, liking: Tensor, index: Tensor, draws: torch.Generator
    ) -> Demonstrations:
        """Scores after trial actions."""
        legal = state.legal.cpu()
        tried = self._trials(legal, liking, draws)
        legal = legal.gather(1, tried)
        trials, liked = tried.to(state.legal.device), liking.to(state.legal.device)
        if self.horizon == 1:
            found = self.acquisition.preview(state, trials, (self.metric,))
        else:
            masks = self._masks_ahead(state, trials, liked)
            found = self.acquisition.preview_masks(state, masks, (self.metric,))
        scores = found[self.metric].cpu()
        return Demonstrations(
            index=index,
            start_mask=state.start_mask.cpu().clone(),
            mask=state.mask.cpu().clone(),
            budget=state.budget.cpu().clone(),
            start_budget=state.start_budget.cpu().clone(),
            score=self._score(state),
            tried=tried.masked_fill(~legal, _PADDING),
            scores=signed(scores, self.metric).masked_fill(~legal, -torch.inf),
            prospect=torch.zeros(len(index), dtype=torch.float64),
        )

    def _trials(self, legal: Tensor, liking: Tensor, draws: torch.Generator) -> Tensor:
        """Which actions to try: the most liked ones, some near the centre, some anywhere."""
        most = int(legal.sum(dim=1).max())
        if self.n_tried is None or self.n_tried >= most:
            return legal.byte().sort(dim=1, descending=True, stable=True).indices[:, :most]
        n_best = max(1, int(0.4 * self.n_tried))
        n_low = max(1, int(0.4 * self.n_tried))
        weight = torch.exp(-self.acquisition.geometry.frequency().cpu() / 0.3).expand(legal.shape)
        chosen = liking.topk(n_best, dim=1).indices
        for n, wanted in (
            (n_low, weight),
            (self.n_tried - n_best - n_low, torch.ones_like(weight)),
        ):
            if n < 1:
                continue
            # Illegal ones come last; they are marked as not tried afterwards.
            open_ = (wanted * legal + 1e-12).scatter(1, chosen, 0.0)
            more = torch.multinomial(open_, n, generator=draws)
            chosen = torch.cat([chosen, more], dim=1)
        return chosen

    def _masks_ahead(self, state: State, tried: Tensor, liking: Tensor) -> Tensor:
        """Masks after each trial action and the most liked ones that come next."""
        geometry, n_next = self.acquisition.geometry, self.horizon - 1
        order = liking.topk(min(n_next + 1, liking.shape[1]), dim=1)
        room = (state.budget - 1).clamp(max=n_next)
        masks = []
        for first in tried.T:
            mask = geometry.acquire(state.mask, first)
            taken = torch.zeros_like(room)
            for action, value in zip(order.indices.T, order.values.T, strict=True):
                wanted = (action != first) & value.isfinite() & (taken < room)
                mask = torch.where(wanted[:, None], geometry.acquire(mask, action), mask)
                taken = taken + wanted.long()
            masks.append(mask)
        return torch.stack(masks, dim=1)


def view_states(
    acquisition: Acquisition,
    scans: SliceDataset,
    found: Demonstrations,
    *,
    batch_size: int = 16,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[list[int], View]]:
    """What was to be seen in every state: rows of the demonstrations, and a view of them."""
    done = 0
    by_kind: dict[object, list[int]] = {}
    for row, index in enumerate(found.index.tolist()):
        info = scans.describe(index)
        by_kind.setdefault((info.shape, info.target_shape, info.n_coils), []).append(row)
    for rows in by_kind.values():
        rows.sort(key=lambda row: int(found.index[row]))  # scans are read once, one after the other
        for first in range(0, len(rows), batch_size):
            some = rows[first : first + batch_size]
            part = found.select(some)
            slices = {i: scans[i] for i in dict.fromkeys(part.index.tolist())}
            state = acquisition.resume(
                [slices[i] for i in part.index.tolist()],
                start_masks=part.start_mask,
                masks=part.mask,
                budgets=part.budget,
            )
            yield some, acquisition.view(state)
            done += len(some)
            if on_progress is not None:
                on_progress(done)


def _drawn(liking: Tensor, chance: Tensor, draws: torch.Generator) -> Tensor:
    """The most liked actions, or, by chance, actions drawn by how much they are liked."""
    best = liking.argmax(dim=1)
    finite = liking.masked_fill(~liking.isfinite(), -1e9)
    other = torch.multinomial(torch.softmax(2 * finite, dim=1), 1, generator=draws).squeeze(1)
    explores = torch.rand(len(liking), generator=draws) < chance
    return torch.where(explores, other, best)


def _prospect(curve: Tensor, price: float) -> Tensor:
    """Largest gain, after its price, that comes after every step: (batch, steps)."""
    steps = torch.arange(curve.shape[1], dtype=curve.dtype)
    worth = curve - price * steps
    later = worth[:, 1:].flip(1).cummax(dim=1).values.flip(1)
    return later - worth[:, :-1]
