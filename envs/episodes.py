"""A number of episodes side by side: what single and vector environments have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from activemri.devices import usable
from activemri.envs.observation import Frame, make_observation
from activemri.envs.protocol import EnvOptions
from activemri.envs.reset_options import choose_scans, start_masks
from activemri.envs.reward import earned, make_reward
from activemri.envs.scan import IDLE, STOP, WASTE, State, kind

Infos = dict[str, NDArray[Any]]  # one row an episode


@dataclass(eq=False)
class Bucket:
    """Episodes whose scans are of one kind, so that they can be stepped as one batch."""

    rows: list[int]
    state: State


class Episodes:
    """Episodes of one protocol, stepped together.

    There is a bucket for every kind of scans (size, coils, maps, region): one reconstruction a
    step for each.
    """

    def __init__(self, options: EnvOptions, n: int) -> None:
        self.options = options
        usable(options.device)  # to be told before scans are opened
        self.dataset = options.dataset()
        self.scan = options.scan(self.dataset, device=options.device)
        self.geometry = self.scan.geometry
        self.observation = make_observation(options.observation)
        self.frame = Frame.of(self.dataset, self.scan)
        self.reward = make_reward(options.reward)
        self.score_name = self.reward.scores[0]  # its history is kept
        self.n = n
        self.n_actions = self.geometry.n_actions + options.stop_action
        self.observation_space = self.observation.space(self.frame)
        self.index = np.full(n, -1)  # which scan of the data set each episode acquires
        self.history: list[list[float]] = [[] for _ in range(n)]
        self.actions: list[list[int]] = [[] for _ in range(n)]
        self.illegal = np.zeros(n, dtype=bool)  # whether the last action was illegal
        self.n_shots = np.zeros(n, dtype=np.int64)  # those for the start's readouts included
        self.area = np.zeros(n)  # under the curve of the score
        self.buckets: list[Bucket] = []

    def reset(
        self,
        rows: Sequence[int],
        generators: Sequence[np.random.Generator],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin new episodes.

        Args:
            rows: which of the episodes.
            generators: one for each of them; draws the scan and random starting readouts.
            options: see :class:`activemri.envs.env.ActiveMRIEnv`.
        """
        options = dict(options or {})
        mask = options.pop("initial_mask", None)
        masks = start_masks(mask, len(rows), n_lines=self.geometry.n_readouts)
        chosen = choose_scans(self.dataset, options, generators)
        scans = [self.dataset[i] for i in chosen]
        kinds = [kind(scan) for scan in scans]
        for one in dict.fromkeys(kinds):
            places = [place for place, other in enumerate(kinds) if other == one]
            state = self.scan.start(
                [scans[place] for place in places],
                start_masks=None if masks is None else masks[places],
                generators=[generators[place] for place in places],
            )
            self._check_reward(state)
            self._begin([rows[place] for place in places], state)
        self.index[rows] = chosen

    def step(
        self, actions: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Take one action in every active episode: rewards and whether each has ended.

        Raises:
            ValueError: for an action out of range, or an illegal one where those raise.
        """
        rewards, finished = np.zeros(self.n), np.zeros(self.n, dtype=bool)
        plans = [self._plan(bucket, actions, active) for bucket in self.buckets]
        if len(plans) > 1:  # an error in one batch must not leave others a step ahead
            for bucket, plan in zip(self.buckets, plans, strict=True):
                self.scan.check_actions(bucket.state, plan)
        for bucket, plan in zip(self.buckets, plans, strict=True):
            rows, before = bucket.rows, bucket.state.scores
            bucket.state = self.scan.acquire(bucket.state, plan)
            gains = earned(self.reward, before, bucket.state.scores)
            taken = plan.cpu().numpy()
            paid = (taken >= 0) | (taken == WASTE)
            rewards[rows] = np.where(taken >= 0, gains.cpu().numpy(), 0.0)
            rewards[rows] -= self.options.step_cost * paid
            finished[rows] = bucket.state.finished.cpu().numpy()
            self.illegal[rows] = taken == WASTE
            self.n_shots[rows] += paid
            scores = bucket.state.scores[self.score_name].tolist()
            for row, action, score in zip(rows, taken.tolist(), scores, strict=True):
                if action != IDLE:
                    self.area[row] += (self.history[row][-1] + score) / 2
                    self.history[row].append(score)
                    self.actions[row].append(action)
        return rewards, finished & active

    def observe(self) -> Any:
        """Observations of all episodes, as torch tensors (n, ...) in the space's structure."""
        parts = [(b.rows, self.observation(b.state.view, self.frame)) for b in self.buckets]
        return parts[0][1] if len(parts) == 1 else _in_order(parts, self.n)

    def infos(self, rows: Sequence[int]) -> Infos:
        """Infos of some of the episodes: arrays with a row for each."""
        parts = [(bucket.rows, self._infos(bucket.state)) for bucket in self.buckets]
        infos: Infos = parts[0][1] if len(parts) == 1 else _in_order(parts, self.n)
        infos["illegal_action"] = self.illegal.copy()
        n_steps = np.array([len(actions) for actions in self.actions])
        first = np.array([history[0] if history else 0.0 for history in self.history])
        infos["auc"] = np.where(n_steps > 0, self.area / np.maximum(n_steps, 1), first)
        if self.options.tr is not None:
            infos["time"] = self.options.tr * self.n_shots
        if len(rows) == self.n:
            return infos
        return {name: values[list(rows)] for name, values in infos.items()}

    def legal(self) -> NDArray[np.bool_]:
        """Actions that may be taken, (n, n_actions); STOP, if there is one, always may."""
        legal = np.ones((self.n, self.n_actions), dtype=bool)
        for bucket in self.buckets:
            legal[bucket.rows, : self.geometry.n_actions] = bucket.state.view.legal.cpu().numpy()
        return legal

    def simulate(self, actions: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Scores after each of several actions, none of which is taken.

        Args:
            actions: (n, trial). Actions that acquire nothing new, STOP included, keep the score.

        Returns:
            (n, trial) by metric.
        """
        if actions.ndim != 2 or len(actions) != self.n:
            raise ValueError(f"expected actions of shape ({self.n}, trials); got {actions.shape}")
        results = {name: np.zeros(actions.shape) for name in self.scan.metrics}
        for bucket in self.buckets:
            trials = torch.as_tensor(actions[bucket.rows], device=self.scan.device)
            stop = self._stops(trials)
            previews = self.scan.preview(bucket.state, torch.where(stop, 0, trials))
            for name, values in previews.items():
                kept = bucket.state.scores[name][:, None]
                results[name][bucket.rows] = torch.where(stop, kept, values).cpu().numpy()
        return results

    def locate(self, row: int) -> tuple[State, int]:
        """The batch that an episode is part of, and its place there.

        Raises:
            gymnasium.error.ResetNeeded: if the episode has not begun.
        """
        for bucket in self.buckets:
            if row in bucket.rows:
                return bucket.state, bucket.rows.index(row)
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
            "n_shots": int(self.n_shots[row]),
            "area": float(self.area[row]),
            "seed": one.secret.conditions.seed,
            "view": one.view,
            "scores": one.scores,
            "stopped": one.stopped,
        }

    def restore(self, row: int, saved: Mapping[str, Any]) -> None:
        """Come back to a saved point, to the last bit."""
        scan, view = self.dataset[saved["index"]], saved["view"]
        fresh = self.scan.start([scan], start_masks=view.start_mask, seeds=saved["seed"])
        state = replace(
            fresh,
            view=view.clone(),
            scores={name: value.clone() for name, value in saved["scores"].items()},
            stopped=saved["stopped"].clone(),
        )
        self._begin([row], state)
        self.index[row], self.actions[row] = saved["index"], list(saved["actions"])
        self.history[row], self.illegal[row] = list(saved["history"]), saved["illegal"]
        self.n_shots[row], self.area[row] = saved["n_shots"], saved["area"]

    def replay(
        self, row: int, index: int, *, start_mask: Tensor, seed: int, actions: Sequence[int]
    ) -> None:
        """Begin an episode anew and bring it to where actions lead, as if they were taken now.

        Args:
            row: which of the episodes.
            index: of its scan in the data set.
            start_mask: readouts that it starts with, bool (n_readouts,).
            seed: of its scanner.
            actions: as :attr:`actions` keeps them.
        """
        scan, seeds = self.dataset[index], torch.tensor([seed])
        state = self.scan.start([scan], start_masks=start_mask[None], seeds=seeds)
        scores = [float(state.scores[self.score_name])]
        for action in torch.tensor(actions, dtype=torch.int64, device=state.stopped.device):
            state = self.scan.acquire(state, action[None])
            scores.append(float(state.scores[self.score_name]))
        self._begin([row], state)
        self.index[row], self.actions[row], self.history[row] = index, list(actions), scores
        self.illegal[row] = list(actions[-1:]) == [WASTE]
        self.n_shots[row] += sum(action != STOP for action in actions)
        self.area[row] = float(np.trapezoid(scores))

    def shown(self, row: int) -> dict[str, Any]:
        """What :func:`activemri.envs.rendering.frame_of` shows of an episode."""
        state, place = self.locate(row)
        return {
            "view": state.view.select([place]),
            "scan": state.secret.slices[place],
            "actions": self.actions[row],
            "scores": self.history[row],
            "score_name": self.score_name,
        }

    def _plan(
        self, bucket: Bucket, actions: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> Tensor:
        """What to do in each scan of a batch: an action, STOP, IDLE or WASTE."""
        wanted = torch.as_tensor(actions[bucket.rows], device=self.scan.device)
        awake = torch.as_tensor(active[bucket.rows], device=self.scan.device)
        outside = awake & ((wanted < 0) | (wanted >= self.n_actions))
        if bool(outside.any()):
            raise ValueError(
                f"actions are 0 to {self.n_actions - 1}; got {int(wanted[outside][0])}"
            )
        plan = torch.where(self._stops(wanted), STOP, wanted)
        if self.options.invalid_action == "noop":
            possible = plan.clamp(0, self.geometry.n_actions - 1)
            legal = bucket.state.view.legal.gather(1, possible[:, None]).squeeze(1)
            plan = torch.where((plan >= 0) & ~legal, WASTE, plan)
        return torch.where(awake, plan, IDLE)

    def _stops(self, actions: Tensor) -> Tensor:
        """Which actions, of any shape, are the one that ends the scan."""
        return (actions == self.geometry.n_actions) & self.options.stop_action

    def _begin(self, rows: list[int], state: State) -> None:
        """Give episodes new scans: in place where the kind stays, else in another bucket."""
        shots = -(-state.view.start_mask.sum(dim=1) // self.geometry.readouts_per_action)
        self.n_shots[rows] = shots.cpu().numpy()
        for row, score in zip(rows, state.scores[self.score_name].tolist(), strict=True):
            self.history[row], self.actions[row] = [score], []
        self.illegal[rows], self.area[rows] = False, 0.0
        taken, new_kind = set(rows), kind(state.secret.slices[0])
        for bucket in self.buckets:
            if bucket.rows == rows:
                bucket.state = state
                return
            if taken <= set(bucket.rows) and kind(bucket.state.secret.slices[0]) == new_kind:
                bucket.state.put([bucket.rows.index(row) for row in rows], state)
                return
        joined = Bucket(list(rows), state)
        others = []
        for bucket in self.buckets:
            kept = [place for place, row in enumerate(bucket.rows) if row not in taken]
            if kind(bucket.state.secret.slices[0]) != new_kind:
                if len(kept) == len(bucket.rows):
                    others.append(bucket)
                elif kept:
                    others.append(
                        Bucket([bucket.rows[place] for place in kept], bucket.state.select(kept))
                    )
            elif kept:
                left = bucket.state.select(kept)
                both = [*joined.rows, *(bucket.rows[place] for place in kept)]
                order = np.argsort(both).tolist()
                state = State.join([joined.state, left]).select(order)
                joined = Bucket([both[place] for place in order], state)
        self.buckets = sorted([*others, joined], key=lambda bucket: bucket.rows[0])

    def _check_reward(self, state: State) -> None:
        for name in self.reward.scores:
            if name not in state.scores:
                raise ValueError(
                    f"the reward needs the score {name!r}, which the reconstructor does not give; "
                    f"it gives {', '.join(state.scores)}"
                )

    def _infos(self, state: State) -> Infos:
        view, slices = state.view, state.secret.slices
        legal = view.legal.to(torch.int8).cpu().numpy()
        if self.options.stop_action:
            legal = np.concatenate([legal, np.ones((len(state), 1), np.int8)], axis=1)
        return {
            **{name: values.cpu().numpy() for name, values in state.scores.items()},
            "action_mask": legal,
            "volume": np.array([scan.volume for scan in slices], dtype=object),
            "slice": np.array([scan.index for scan in slices]),
            "subject": np.array([scan.subject for scan in slices], dtype=object),
            "n_acquired": view.n_acquired.cpu().numpy(),
            "acceleration": view.acceleration.cpu().numpy(),
            "remaining": view.budget.cpu().numpy(),
            "scale": view.scale.double().cpu().numpy(),
        }


def _in_order(parts: list[tuple[list[int], Any]], n: int) -> Any:
    """Values of several batches as those of all episodes, by row; zero for missing rows."""
    first = parts[0][1]
    if isinstance(first, dict):
        return {key: _in_order([(r, values[key]) for r, values in parts], n) for key in first}
    zeros = first.new_zeros if isinstance(first, Tensor) else np.zeros
    result = zeros((n, *first.shape[1:]), dtype=first.dtype)
    for rows, values in parts:
        result[rows] = values
    return result
