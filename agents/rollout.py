"""Play whole episodes: one policy, many scans."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from activemri.agents.policy import Policy, decide, require_played
from activemri.data.slices import Slice, SliceDataset, SliceInfo, SliceList
from activemri.envs.protocol import ScanProtocol
from activemri.envs.scan import IDLE, STOP, Scan, State, Truth, kind

#: What fills the place of actions after the end of an episode.
PADDING = -1

#: Called with the number of steps taken and the state; the state's buffers pass on to the next
#: step, so what is kept of it must be cloned.
OnStep = Callable[[int, State], None]


@dataclass(frozen=True, eq=False)
class Episodes:
    """History of a batch of scans. Values stay as they are after the end of an episode.

    Attributes:
        policy: its name.
        scans: who was scanned, without samples.
        start_mask: lines that the scans began with, bool (batch, n_lines).
        actions: int64 (batch, steps), PADDING after the end.
        n_acquired: lines acquired, int64 (batch, steps + 1).
        scores: float64 (batch, steps + 1) by metric.
    """

    policy: str
    scans: tuple[SliceInfo, ...]
    start_mask: Tensor
    actions: Tensor
    n_acquired: Tensor
    scores: dict[str, Tensor]

    @property
    def n_steps(self) -> Tensor:
        """Actions taken in each scan, int64 (batch,)."""
        return (self.actions != PADDING).sum(dim=1)

    def area(self, metric: str) -> Tensor:
        """Area under the score curve over steps, divided by their number: float64 (batch,)."""
        curve = self.scores[metric]
        return (curve[:, 1:] + curve[:, :-1]).mean(dim=1) / 2


def rollout(
    scan: Scan | ScanProtocol,
    policy: Policy,
    slices: Sequence[Slice] | SliceDataset,
    *,
    seed: int = 0,
    start_masks: Tensor | None = None,
    starts: Sequence[State] | None = None,
    on_step: OnStep | None = None,
) -> Episodes:
    """Scan slices to the end, those of one kind in one batch.

    ::

        episodes = rollout(protocol, make_policy("oracle"), protocol.dataset("val"))
        print(episodes.area("ssim").mean())

    What happens to a slice depends on the seed and the slice, and not on the rest of the batch.

    Args:
        scan: the scan protocol, or what was made of it.
        policy: who decides.
        slices: who is scanned.
        seed: of random start lines, which all policies share, and of the policy's draws.
        start_masks: lines to begin with instead of the protocol's, bool (batch, n_lines).
        starts: what :func:`prepare_starts` made of these slices; left as it is.
        on_step: called after the start and after every step of a batch.

    Raises:
        ValueError: if the policy cannot play on the geometry, takes an illegal action, or none in
            an unfinished scan.
    """
    slices = SliceList([slices[place] for place in range(len(slices))])
    if isinstance(scan, ScanProtocol):
        scan = scan.scan(slices)
    require_played(policy, scan)
    groups, masks, taken = rows_of_a_kind(slices.slices), list[Tensor](), list[Tensor]()
    curves: dict[str, list[Tensor]] = {}  # n_acquired and scores, (batch, step + 1) each
    for number, rows in enumerate(groups):
        batch = [slices[row] for row in rows]
        if starts is None:
            given = None if start_masks is None else start_masks[rows]
            start = start_scans(scan, batch, seed=seed, start_masks=given)
        else:
            start = starts[number].clone()
        masks.append(start.view.start_mask.cpu().clone())
        generators = [episode_generator(seed, one, policy.name) for one in batch]
        actions, points = list[Tensor](), dict[str, list[Tensor]]()
        for step, (chosen, state) in enumerate(play(scan, policy, start, generators)):
            if on_step is not None:
                on_step(step, state)
            if chosen is not None:
                actions.append(chosen.cpu().clamp(min=PADDING))
            for name, value in {"n_acquired": state.view.n_acquired, **state.scores}.items():
                points.setdefault(name, []).append(value.cpu().clone())
        taken.append(torch.stack(actions, dim=1))
        for name, values in points.items():
            curves.setdefault(name, []).append(torch.stack(values, dim=1))
    for name, values in curves.items():
        if any(bool(part.isnan().any()) for part in values):
            raise ValueError(f"policy {policy.name!r}: the score {name!r} is NaN on the way")
    place = torch.tensor([row for rows in groups for row in rows]).argsort()
    longest = max(actions.shape[1] for actions in taken)

    def joined(parts: list[Tensor], length: int) -> Tensor:
        """Parts in the order of the slices, each continued with its last values."""
        steps = [torch.arange(length).clamp(max=part.shape[1] - 1) for part in parts]
        return torch.cat([p[:, step] for p, step in zip(parts, steps, strict=True)])[place]

    ended = [torch.nn.functional.pad(part, (0, 1), value=PADDING) for part in taken]
    return Episodes(
        policy=policy.name,
        scans=tuple(slices.describe(row) for row in range(len(slices))),
        start_mask=torch.cat(masks)[place],
        actions=joined(ended, longest),
        n_acquired=joined(curves.pop("n_acquired"), longest + 1),
        scores={name: joined(parts, longest + 1) for name, parts in curves.items()},
    )


def rollout_dataset(
    scan: Scan,
    policy: Policy,
    dataset: SliceDataset,
    *,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Iterator[Episodes]:
    """Scan all slices of a data set, at most sixteen of equal size at a time."""
    for group in batches_of_a_kind(dataset, range(len(dataset)), 16):
        scans = [dataset[position] for position in group]
        yield rollout(scan, policy, scans, seed=seed, on_step=on_step)


def play(
    scan: Scan, policy: Policy, state: State, generators: Sequence[np.random.Generator]
) -> Iterator[tuple[Tensor | None, State]]:
    """From a state to the end: yields (None, start), then (actions taken, state) for each step."""
    yield None, state
    while not bool(state.finished.all()):
        view = state.view
        if policy.traits.is_oracle:
            view = replace(view, truth=Truth(scan, state))
        actions = torch.where(state.finished, IDLE, decide(policy, view, generators))
        idle = ~state.finished & (actions < 0) & (actions != STOP)
        if bool(idle.any()):
            row = int(idle.nonzero()[0])
            raise ValueError(
                f"policy {policy.name!r} chose {int(actions[row])} for scan {row}, which is not "
                f"finished; expected a legal action, or {STOP} to stop"
            )
        try:
            scan.check_actions(state, actions)
        except ValueError as error:
            raise ValueError(f"policy {policy.name!r}: {error}") from error
        state = scan.acquire(state, actions)
        yield actions, state


def prepare_starts(scan: Scan, slices: Sequence[Slice], *, seed: int) -> list[State]:
    """Begin scans, a batch of each kind, for any number of policies to play on."""
    groups = rows_of_a_kind(slices)
    return [start_scans(scan, [slices[row] for row in rows], seed=seed) for rows in groups]


def start_scans(
    scan: Scan, slices: Sequence[Slice], *, seed: int, start_masks: Tensor | None = None
) -> State:
    """Begin scans of one kind; random start lines are the same for every policy."""
    generators = [episode_generator(seed, one, "start") for one in slices]
    return scan.start(slices, start_masks=start_masks, generators=generators)


def episode_generator(seed: int, scanned: Slice, purpose: str) -> np.random.Generator:
    """The generator of one episode: the same in every process, batch and order of episodes."""
    identity = json.dumps([seed, scanned.volume, scanned.index, purpose])
    digest = hashlib.blake2b(identity.encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def batches_of_a_kind(
    dataset: SliceDataset, positions: Sequence[int], batch_size: int
) -> Iterator[list[int]]:
    """Positions of slices of equal sizes, without reading the slices."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    groups: dict[object, list[int]] = {}
    for position in positions:
        info = dataset.describe(position)
        key = (info.shape, info.target_shape, info.n_coils)
        groups.setdefault(key, []).append(position)
    for group in groups.values():
        for first in range(0, len(group), batch_size):
            yield group[first : first + batch_size]


def rows_of_a_kind(slices: Sequence[Slice]) -> list[list[int]]:
    """Rows of slices that may share a batch."""
    groups: dict[object, list[int]] = {}
    for row, one in enumerate(slices):
        groups.setdefault(kind(one), []).append(row)
    return list(groups.values())
