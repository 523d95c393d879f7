"""A number of episodes side by side: what single and vector environments have in common."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.devices import usable
from activemri.envs.acquisition import View
from activemri.envs.legality import check_actions
from activemri.envs.observation import Frame, make_observation
from activemri.envs.protocol import EnvOptions
from activemri.envs.reset_options import choose_scans, start_masks
from activemri.envs.reward import earned, make_reward
from activemri.envs.state import IDLE, STOP, WASTE, State, kind

Infos = dict[str, NDArray[Any]]  # one row an episode

# What a saved episode consists of; the rest of its state follows from the scan.
_SAVED = (
    "mask",
    "budget",
    "start_budget",
    "n_acquired",
    "scale",
    "zero_filled",
    "stopped",
    "legal",
)


@dataclass(eq=False)
class Group:
    """Episodes whose scans are of one kind, so that they can be stepped as one batch."""

    rows: list[int]
    state: State


class Episodes:
    """Episodes of one protocol, stepped together.

    Scans of one kind form a batch: one reconstruction a step. If the scans of the data differ in
    size, there is one batch for each size.
    """

    def __init__(self, options: EnvOptions, n: int) -> None:
        self.options = options
        usable(options.device)  # to be told before scans are opened
        self.dataset = options.dataset()
        self.acquisition = options.scan(self.dataset, device=options.device)
        self.geometry = self.acquisition.geometry
        self.observation = make_observation(options.observation)
        self.frame = Frame.of(self.dataset, self.acquisition)
        self.reward = make_reward(options.reward)
        self.n = n
        self.index = np.full(n, -1)  # which scan of the data set each episode acquires
        self.history: list[list[float]] = [[] for _ in range(n)]
        self.actions: list[list[int]] = [[] for _ in range(n)]
        self.illegal = np.zeros(n, dtype=bool)  # whether the last action was illegal
        self.groups: list[Group] = []
        self.views: list[View] = []  # of the groups, as they stand

    @property
    def n_actions(self) -> int:
        """Actions, STOP included."""
        return self.geometry.n_actions + self.options.stop_action

    @property
    def score_name(self) -> str:
        """The score that the reward is about: its history is kept."""
        return self.reward.scores[0]

    @property
    def observation_space(self) -> gymnasium.Space[Any]:
        """Space of one episode's observation."""
        return self.observation.space(self.frame)

    def reset(
        self,
        rows: Sequence[int],
        generators: Sequence[np.random.Generator],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin new episodes.

        Args:
            rows: which of the episodes.
            generators: one for each of them; draws the scan and random starting lines.
            options: see :class:`activemri.envs.env.ActiveMRIEnv`.
        """
        options = dict(options or {})
        mask = options.pop("initial_mask", None)
        masks = start_masks(mask, len(rows), n_lines=self.geometry.n_lines)
        chosen = choose_scans(self.dataset, options, generators)
        scans = [self.dataset[i] for i in chosen]
        kinds = [kind(scan) for scan in scans]
        for one in dict.fromkeys(kinds):
            places = [p for p, k in enumerate(kinds) if k == one]
            state = self.acquisition.start(
                [scans[p] for p in places],
                start_masks=None if masks is None else masks[places],
                generators=[generators[p] for p in places],
            )
            self._check_reward(state)
            self._place([rows[p] for p in places], state)
        for row, index in zip(rows, chosen, strict=True):
            self.index[row] = index
            self.history[row], self.actions[row] = [], []
            self.illegal[row] = False
        self._look(rows)

    def step(
        self, actions: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Take one action in every active episode: rewards and whether each has ended.

        Raises:
            ValueError: for an action out of range, or an illegal one where those raise.
        """
        rewards = np.zeros(self.n)
        finished = np.zeros(self.n, dtype=bool)
        plans = [self._plan(group, actions, active) for group in self.groups]
        if len(self.groups) > 1:  # an error in one batch must not leave others a step ahead
            for group, plan in zip(self.groups, plans, strict=True):
                check_actions(self.geometry, group.state, plan)
        for group, plan in zip(self.groups, plans, strict=True):
            before = group.state.scores
            group.state = self.acquisition.acquire(group.state, plan)
            gains = earned(self.reward, before, group.state.scores)
            cost = self.options.step_cost * ((plan >= 0) | (plan == WASTE)).double()
            rewards[group.rows] = (torch.where(plan >= 0, gains, 0.0) - cost).cpu().numpy()
            finished[group.rows] = group.state.finished.cpu().numpy()
            self.illegal[group.rows] = (plan == WASTE).cpu().numpy()
            for row, action in zip(group.rows, plan.tolist(), strict=True):
                if action != IDLE:
                    self.actions[row].append(action)
        self._look(np.flatnonzero(active).tolist())
        return rewards, finished & active

    def observe(self) -> Any:
        """Observations of all episodes, as torch tensors (n, ...) in the space's structure."""
        parts = [
            (group.rows, self.observation(view, self.frame))
            for group, view in zip(self.groups, self.views, strict=True)
        ]
        if len(parts) == 1 and parts[0][0] == list(range(self.n)):
            return parts[0][1]
        return _interleave(parts, self.n)

    def infos(self, rows: Sequence[int], *, ended: bool = False) -> Infos:
        """What Gymnasium calls `info`, for some of the episodes: arrays with a row for each.

        Args:
            rows: which of the episodes.
            ended: these episodes have just ended: add `auc`, the mean height of the score's curve.
        """
        if len(self.groups) == 1 and self.groups[0].rows == list(rows):
            infos = self._group_infos(self.groups[0].state, self.views[0])
        else:
            infos = self._gather_infos(rows)
        infos["illegal_action"] = self.illegal[rows]
        if self.options.tr is not None:
            infos["time"] = np.array([self.options.tr * self._n_shots(row) for row in rows])
        if ended:
            infos["auc"] = np.array([self.auc(row) for row in rows])
        return infos

    def legal(self) -> NDArray[np.bool_]:
        """Actions that may be taken, (n, n_actions); STOP, if there is one, always may."""
        legal = np.ones((self.n, self.n_actions), dtype=bool)
        for group in self.groups:
            legal[group.rows, : self.geometry.n_actions] = group.state.legal.cpu().numpy()
        return legal

    def auc(self, row: int) -> float:
        """Area under the score's curve so far, divided by the number of actions."""
        scores = np.array(self.history[row])
        return float(np.trapezoid(scores) / (len(scores) - 1))

    def simulate(self, actions: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Scores after each of several actions, none of which is taken.

        Args:
            actions: (n, trial). Actions that acquire nothing new, STOP included, keep the score.

        Returns:
            (n, trial) by metric.
        """
        if actions.ndim != 2 or len(actions) != self.n:
            raise ValueError(f"expected actions of shape ({self.n}, trials); got {actions.shape}")
        results = {name: np.zeros(actions.shape) for name in self.acquisition.metrics}
        for group in self.groups:
            trials = torch.as_tensor(actions[group.rows], device=self.acquisition.device)
            stop = self._stops(trials)
            previews = self.acquisition.preview(group.state, torch.where(stop, 0, trials))
            for name, values in previews.items():
                kept = group.state.scores[name][:, None]
                results[name][group.rows] = torch.where(stop, kept, values).cpu().numpy()
        return results

    def locate(self, row: int) -> tuple[State, int]:
        """The batch that an episode is part of, and its place there.

        Raises:
            gymnasium.error.ResetNeeded: if the episode has not begun.
        """
        for group in self.groups:
            if row in group.rows:
                return group.state, group.rows.index(row)
        raise gymnasium.error.ResetNeeded("there is no episode yet: call reset() first")

    def save(self, row: int) -> dict[str, Any]:
        """Everything that is needed to come back to this point of an episode."""
        state, place = self.locate(row)
        one = state.select([place])
        return {
            "index": int(self.index[row]),
            "history": list(self.history[row]),
            "actions": list(self.actions[row]),
            "illegal": bool(self.illegal[row]),
            "start_mask": one.start_mask,
            "scores": one.scores,
            "reconstruction": one.reconstruction,
            "course": one.course,
            "sensitivity": one.sensitivity,
            **{name: getattr(one, name) for name in _SAVED},
        }

    def restore(self, row: int, saved: Mapping[str, Any]) -> None:
        """Come back to a saved point, to the bit."""
        scan = self.dataset[saved["index"]]
        course = None if saved["course"] is None else saved["course"].clone()
        seeds = None if course is None else course.conditions.seed
        fresh = self.acquisition.start([scan], start_masks=saved["start_mask"], seeds=seeds)
        copied = {name: saved[name].clone() for name in _SAVED}
        state = replace(
            fresh,
            scores={name: value.clone() for name, value in saved["scores"].items()},
            reconstruction=replace(saved["reconstruction"]),
            course=course,
            sensitivity=saved["sensitivity"],
            **copied,
        )
        self._place([row], state)
        self.index[row] = saved["index"]
        self.history[row] = list(saved["history"])
        self.actions[row] = list(saved["actions"])
        self.illegal[row] = saved["illegal"]
        self._look([])

    def replay(
        self, row: int, index: int, *, start_mask: Tensor, seed: int, actions: Sequence[int]
    ) -> None:
        """Begin an episode anew and bring it to where actions lead, as if they were taken now.

        Args:
            row: which of the episodes.
            index: of its scan in the data set.
            start_mask: lines that it starts with, bool (n_lines,).
            seed: of its imperfections, if there are any.
            actions: as :attr:`actions` keeps them.
        """
        seeds = None if self.acquisition.imperfection is None else torch.tensor([seed])
        state = self.acquisition.start(
            [self.dataset[index]], start_masks=start_mask[None], seeds=seeds
        )
        self.history[row] = [float(state.scores[self.score_name])]
        for action in torch.tensor(actions, dtype=torch.int64, device=state.mask.device):
            state = self.acquisition.acquire(state, action[None])
            self.history[row].append(float(state.scores[self.score_name]))
        self._place([row], state)
        self.index[row], self.actions[row] = index, list(actions)
        self.illegal[row] = list(actions[-1:]) == [WASTE]
        self._look([])

    def _plan(self, group: Group, actions: NDArray[np.int64], active: NDArray[np.bool_]) -> Tensor:
        """What to do in each scan of a batch: an action, STOP, IDLE or WASTE."""
        wanted = torch.as_tensor(actions[group.rows], device=self.acquisition.device)
        awake = torch.as_tensor(active[group.rows], device=self.acquisition.device)
        outside = awake & ((wanted < 0) | (wanted >= self.n_actions))
        if bool(outside.any()):
            raise ValueError(
                f"actions are 0 to {self.n_actions - 1}; got {int(wanted[outside][0])}"
            )
        plan = torch.where(self._stops(wanted), STOP, wanted)
        if self.options.invalid_action == "noop":
            possible = plan.clamp(0, self.geometry.n_actions - 1)
            legal = group.state.legal.gather(1, possible[:, None]).squeeze(1)
            plan = torch.where((plan >= 0) & ~legal, WASTE, plan)
        return torch.where(awake, plan, IDLE)

    def _stops(self, actions: Tensor) -> Tensor:
        """Which actions, of any shape, are the one that ends the scan."""
        return (actions == self.geometry.n_actions) & self.options.stop_action

    def _place(self, rows: list[int], state: State) -> None:
        """Give episodes new scans: in place where the kind stays, else by regrouping."""
        new_kind = kind(state.slices[0])
        for group in self.groups:
            if group.rows == rows:
                group.state = state
                break
            if kind(group.state.slices[0]) == new_kind and set(rows) <= set(group.rows):
                group.state.put([group.rows.index(row) for row in rows], state)
                break
        else:
            self._regroup(rows, state)
        self.groups.sort(key=lambda group: group.rows[0])

    def _regroup(self, rows: list[int], state: State) -> None:
        parts = [(rows, state)]
        groups = []
        for group in self.groups:
            kept = [place for place, row in enumerate(group.rows) if row not in rows]
            if not kept:
                continue
            left = Group([group.rows[place] for place in kept], group.state.select(kept))
            if kind(left.state.slices[0]) == kind(state.slices[0]):
                parts.append((left.rows, left.state))
            else:
                groups.append(left)
        order = np.argsort([row for part, _ in parts for row in part])
        joined = State.join([part for _, part in parts]) if len(parts) > 1 else state
        all_rows = [row for part, _ in parts for row in part]
        groups.append(Group([all_rows[i] for i in order], joined.select(order.tolist())))
        self.groups = groups

    def _check_reward(self, state: State) -> None:
        for name in self.reward.scores:
            if name not in state.scores:
                raise ValueError(
                    f"the reward needs the score {name!r}, which the reconstructor does not give; "
                    f"it gives {', '.join(state.scores)}"
                )

    def _look(self, rows: Sequence[int]) -> None:
        """Note where the episodes stand, and the scores of some of them."""
        self.views = [self.acquisition.view(group.state) for group in self.groups]
        for group in self.groups:
            scores = group.state.scores[self.score_name].tolist()
            for row, score in zip(group.rows, scores, strict=True):
                if row in rows:
                    self.history[row].append(score)

    def _n_shots(self, row: int) -> int:
        """Shots fired since the scan began, those for the start's lines included."""
        state, place = self.locate(row)
        per_shot = self.geometry.groups.shape[1]
        at_start = math.ceil(int(state.start_mask[place].sum()) / per_shot)
        return at_start + sum(action != STOP for action in self.actions[row])

    def _gather_infos(self, rows: Sequence[int]) -> Infos:
        """Infos of rows that lie in several groups, or in part of one."""
        place_of = {row: place for place, row in enumerate(rows)}
        infos: Infos = {}
        for group, view in zip(self.groups, self.views, strict=True):
            pairs = [(at, place_of[row]) for at, row in enumerate(group.rows) if row in place_of]
            if not pairs:
                continue
            sources, places = (list(column) for column in zip(*pairs, strict=True))
            for name, values in self._group_infos(group.state, view).items():
                if name not in infos:
                    infos[name] = np.empty((len(rows), *values.shape[1:]), values.dtype)
                infos[name][places] = values[sources]
        return infos

    def _group_infos(self, state: State, view: View) -> Infos:
        legal = state.legal.to(torch.int8).cpu().numpy()
        if self.options.stop_action:
            legal = np.concatenate([legal, np.ones((len(state), 1), np.int8)], axis=1)
        return {
            **{name: values.cpu().numpy() for name, values in state.scores.items()},
            "action_mask": legal,
            "volume": np.array([scan.volume for scan in state.slices], dtype=object),
            "slice": np.array([scan.index for scan in state.slices]),
            "subject": np.array([scan.subject for scan in state.slices], dtype=object),
            "n_acquired": state.n_acquired.cpu().numpy(),
            "acceleration": view.acceleration.cpu().numpy(),
            "budget": state.budget.cpu().numpy(),
            "scale": state.scale.double().cpu().numpy(),
        }


def _interleave(parts: list[tuple[list[int], Any]], n: int) -> Any:
    """Put the observations of several batches into one, by row."""
    first = parts[0][1]
    if isinstance(first, dict):
        return {key: _interleave([(r, o[key]) for r, o in parts], n) for key in first}
    result = first.new_zeros((n, *first.shape[1:]))
    for rows, values in parts:
        result[rows] = values
    return result
