"""The Gymnasium environment: one scan at a time, and what it shares with many side by side."""

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from activemri import kernels
from activemri.devices import usable
from activemri.envs.observation import Frame, make_observation, require_in_space
from activemri.envs.protocol import EnvOptions, ScanProtocol, typed_as
from activemri.envs.reward import make_reward
from activemri.envs.scan import STOP, WASTE, State, kind
from activemri.registration import find_protocol

Infos = dict[str, NDArray[Any]]  # one row an episode


class ActiveMRIEnv(gymnasium.Env[Any, Any]):
    """Acquire one MR scan line by line.

    ::

        env = ActiveMRIEnv(data="phantom", budget=24)
        observation, info = env.reset(seed=0)
        action = env.action_space.sample(info["action_mask"])
        observation, reward, terminated, truncated, info = env.step(action)

    Every episode is one slice and starts with a few lines around the centre of k-space.

    Actions: ``Discrete(n_actions)``, the lines of the geometry (for columns: as many as the
    widest scan has), plus a last one that stops if `stop_action`. ``info["action_mask"]`` (int8,
    1 = legal) tells which may be taken. Lines that are acquired already, that the scanner never
    measured (zero padding), or that exceed the budget are illegal: they waste one line of the
    budget, gain nothing, cost `step_cost` as any other, and set ``info["illegal_action"]``; with
    `invalid_action="raise"` they raise. Numbers that are no action at all always raise.

    Observations: by default ``Dict(image=Box(0, 255, (1, height, width), uint8),
    mask=MultiBinary(n_lines), budget=Box(0, 1, (1,), float32))``: the magnitude of the
    reconstruction, the acquired lines, and the fraction of the budget that is left. Others by
    name: :mod:`activemri.envs.observation`. Nothing in them depends on what was not acquired.

    With a `scanner` that is not ideal (noisy, moving or spiking, see
    :mod:`activemri.envs.scanner`), what is measured differs from the target's samples. A readout
    then stays legal until it was measured `repeats` times, every measurement costs one of the
    budget and counts in `n_acquired`, and observations have a part `repeats`, float32 (2, n_lines):
    how often each readout was measured, and how much its last measurement looked like an outlier.

    Rewards: by default the gain in SSIM; others by name: :mod:`activemri.envs.reward`. Summed over
    an episode they give the whole gain, minus `step_cost` for each action.

    Episode end: `terminated` when the budget is spent, nothing is left to acquire, or the agent
    stopped. `truncated` is left to ``max_episode_steps``.

    `info`: the scores (`ssim`, `psnr`, `nmse`, `nrmse`, `mse`), `action_mask`, `volume`, `slice`,
    `subject`, `n_acquired`, `acceleration` (readouts that exist over readouts acquired),
    `remaining` (readouts left to acquire), `illegal_action`, `scale` (of intensities, from the
    first zero-filled image), `time` (seconds since the scan began) if `tr` is given, `uncertainty`
    (its mean over the scale) if the reconstructor gives one, and `auc`, the mean height of the
    curve of the score that the reward is about, so far.

    ``reset(options=...)``: `index` (position in the data), or `volume` and `slice`, choose the
    scan; `initial_mask` (bool, (n_lines,)) the lines to start with.

    Options are the fields of :class:`activemri.envs.protocol.EnvOptions`; unknown ones, and those
    that do not fit together, raise a ValueError.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012  # as the base class declares it
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 4,
    }

    @typed_as(EnvOptions)
    def __init__(self, **options: Any) -> None:
        self.options = EnvOptions.of(options)
        self.render_mode = self.options.render_mode
        self.episodes = Episodes(self.options, 1)
        self.action_space = spaces.Discrete(self.episodes.n_actions)
        self.observation_space = self.episodes.observation_space
        self._running = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a scan: a random one of the split unless `options` choose it."""
        super().reset(seed=seed)
        self.episodes.reset([0], [self.np_random], options)
        self._running = True
        return self._seen()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Acquire.

        Raises:
            ValueError: for an illegal or impossible action; the scan goes on unchanged.
            gymnasium.error.ResetNeeded: before the first reset and after the end.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded("the scan has ended or not begun: call reset()")
        number = np.asarray(action)
        if number.size != 1 or number.dtype.kind not in "iu":
            raise ValueError(f"expected one whole number as the action; got {action!r}")
        actions, active = number.reshape(1).astype(np.int64), np.ones(1, dtype=bool)
        rewards, finished = self.episodes.step(actions, active)
        self._running = not finished[0]
        observation, info = self._seen()
        return observation, float(rewards[0]), bool(finished[0]), False, info

    def simulate(
        self, actions: Sequence[int] | NDArray[np.int64]
    ) -> dict[str, NDArray[np.float64]]:
        """Scores after each of several actions (trial,), none of which is taken, by metric.

        Actions that acquire nothing new keep the score. This asks the target: it is for oracles and
        for analysis, not for policies.
        """
        trials = np.asarray(actions, dtype=np.int64)
        if trials.ndim != 1:
            raise ValueError(f"expected a list of actions; got shape {trials.shape}")
        return {name: v[0] for name, v in self.episodes.simulate(trials[None]).items()}

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal actions as sb3-contrib's MaskablePPO asks for them, bool (n_actions,)."""
        legal: NDArray[np.bool_] = self.episodes.legal()[0]
        return legal

    def state_dict(self) -> dict[str, Any]:
        """This point of the episode, the random numbers included, for :meth:`load_state_dict`."""
        return self.episodes.save(np.array([not self._running]), [self.np_random])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Come back to a point saved by :meth:`state_dict` under the same protocol, on these scans.

        Raises:
            ValueError: any other state; nothing is changed then.
        """
        self._running = not self.episodes.restore(state, [self.np_random])[0]

    def render(self) -> Any:
        """The scan so far: an image, uint8 (height, width, 3), or text."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode: gymnasium.make(..., render_mode=)")
            return None
        return self.episodes.render(0)

    def _seen(self) -> tuple[Any, dict[str, Any]]:
        """Observation and info of the only episode."""
        observation, info = self.episodes.observe(), self.episodes.infos()
        if isinstance(observation, dict):
            for key, values in observation.items():
                observation[key] = values[0]
        else:
            observation = observation[0]
        for key, values in info.items():
            info[key] = values[0] if values.ndim > 1 else values.item()
        return observation, info


@typed_as(EnvOptions)
def make_env(protocol: ScanProtocol | str, **options: Any) -> ActiveMRIEnv:
    """An environment of a protocol, or of an id, as ``gymnasium.make`` makes it, but typed.

    ::

        env = make_env("ActiveMRI/Motion-v0", reconstructor="unet")

    Options override the protocol.
    """
    found = find_protocol(protocol) if isinstance(protocol, str) else protocol
    return ActiveMRIEnv(**found.changes | options)


class Episodes:
    """Episodes of one protocol, stepped together.

    A bucket is the numbers of the episodes whose scans are of one kind (size, coils, maps, region),
    in order, and these scans as one batch.
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
        self.buckets: list[tuple[NDArray[np.int64], State]] = []
        self._is_shown = False  # an observation has been given
        self.illegal = np.zeros(n, dtype=bool)  # was the last action?
        self.n_steps = np.zeros(n, dtype=np.int64)
        self.n_shots = np.zeros(n, dtype=np.int64)  # those for the start's readouts included
        self.area = np.zeros(n)  # under the curve of the score
        self._size = np.zeros((2, n))  # measurable readouts, and the scale
        self._taken = np.zeros((n, 64), dtype=np.int32)  # actions, as wide as needed
        self._curve = np.zeros((n, 65))  # the score before the first action and after each
        self._prepared = OrderedDict[int, State]()  # starts by index, the last used one last
        self._names = {key: np.full(n, None, dtype=object) for key in ("volume", "subject")}
        self._names["slice"] = np.zeros(n, dtype=np.int64)

    @property
    def actions(self) -> list[list[int]]:
        """Actions taken in every episode, STOP and WASTE included."""
        return [self._taken[row, :length].tolist() for row, length in enumerate(self.n_steps)]

    @property
    def history(self) -> list[list[float]]:
        """Scores of every episode, the first one before any action."""
        return [self._curve[row, : length + 1].tolist() for row, length in enumerate(self.n_steps)]

    def reset(
        self,
        rows: Sequence[int],
        generators: Sequence[np.random.Generator],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin new episodes in some rows; their generators draw scans and starting readouts."""
        known = ("index", "volume", "slice", "initial_mask")
        given: dict[str, Any] = dict.fromkeys(known) | dict(options or {})
        if unknown := ", ".join(name for name in given if name not in known):
            raise ValueError(f"unknown reset option {unknown}; choose from {', '.join(known)}")
        masks, n_lines = given["initial_mask"], self.geometry.n_readouts
        if masks is not None:
            expected = f"initial_mask must be boolean with {n_lines} lines"
            try:
                masks = torch.as_tensor(masks)
            except (TypeError, ValueError, RuntimeError) as error:  # text, ragged lists
                raise ValueError(f"{expected}; got {masks!r}") from error
            if masks.shape not in ((n_lines,), (len(rows), n_lines)):
                raise ValueError(f"{expected}; got {masks.dtype} {tuple(masks.shape)}")
            masks = masks.expand(len(rows), -1)
        chosen = self._chosen_scans(given, generators)
        for places, state in self._starts(chosen, masks, generators):
            for name in self.reward.scores:
                if name not in state.scores:
                    raise ValueError(
                        f"the reward needs the score {name!r}, which the reconstructor does not "
                        f"give; it gives {', '.join(state.scores)}"
                    )
            self._begin([rows[place] for place in places], state)
        self.index[rows] = chosen

    def step(
        self, actions: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Take one action in every active episode: rewards and whether each has ended."""
        plans: list[NDArray[np.int64]] = []
        forgives = self.options.invalid_action == "noop"
        for rows, state in self.buckets:
            legal = state.view.legal.cpu().numpy()
            plan, outside = kernels.plan(rows, actions, active, legal, self.n_actions, forgives)
            if outside >= 0:
                raise ValueError(
                    f"actions are 0 to {self.n_actions - 1}; got {actions[rows[outside]]}"
                )
            plans.append(plan)
        if len(plans) > 1:  # an error in one batch must not leave others a step ahead
            for (_, state), plan in zip(self.buckets, plans, strict=True):
                self.scan.check_actions(state, torch.from_numpy(plan).to(self.scan.device))
        if self.n_steps.max() >= self._taken.shape[1]:
            self._taken = np.pad(self._taken, ((0, 0), (0, self._taken.shape[1])))
            self._curve = np.pad(self._curve, ((0, 0), (0, self._curve.shape[1])))
        rewards, finished = np.zeros(self.n), np.zeros(self.n, dtype=bool)
        for place, plan in enumerate(plans):
            rows, state = self.buckets[place]
            before, planned = state.scores, torch.from_numpy(plan).to(self.scan.device)
            state = self.scan.acquire(state, planned)
            self.buckets[place] = rows, state
            gains = self.reward(before, state.scores)
            if not isinstance(gains, Tensor) or gains.shape != planned.shape:
                came = tuple(gains.shape) if isinstance(gains, Tensor) else type(gains).__name__
                raise ValueError(
                    f"reward: expected a tensor of shape {tuple(planned.shape)}, one number a "
                    f"scan; got {came}"
                )
            wrong = kernels.note(
                rows,
                plan,
                gains.double().cpu().numpy(),
                self.options.step_cost,
                state.scores[self.score_name].cpu().numpy(),
                state.stopped.cpu().numpy(),
                state.view.legal.cpu().numpy(),
                rewards,
                finished,
                self.illegal,
                self.n_shots,
                self.n_steps,
                self.area,
                self._taken,
                self._curve,
            )
            if wrong >= 0:
                raise ValueError(
                    f"reward: expected finite numbers; got {float(gains[wrong])} after action "
                    f"{plan[wrong]}; the scores are "
                    + ", ".join(f"{k} {float(v[wrong]):.6g}" for k, v in state.scores.items())
                )
        return rewards, finished & active

    def observe(self) -> Any:
        """Observations of all episodes, (n, ...) in the space's structure."""
        parts = [(rows, self.observation(state.view, self.frame)) for rows, state in self.buckets]
        if not self._is_shown:  # that its form is right is found out once
            require_in_space(parts[0][1], self.observation_space)
            self._is_shown = True
        observation: Any = parts[0][1] if len(parts) == 1 else in_order(parts, self.n)
        if not self.options.to_numpy:
            return observation
        if not isinstance(observation, dict):
            return observation.cpu().numpy()
        return {key: value.cpu().numpy() for key, value in observation.items()}

    def infos(self) -> Infos:
        """Infos of all episodes: arrays (n, ...)."""
        counts, numbers = np.empty((2, self.n), np.int64), np.empty((3, self.n))
        parts = []
        for rows, state in self.buckets:
            view = state.view
            kernels.count(
                rows,
                view.log.n_measured.cpu().numpy(),
                view.budget.cpu().numpy(),
                self._size,
                self.n_steps,
                self.area,
                self._curve,
                counts,
                numbers,
            )
            scores = {name: values.cpu().numpy() for name, values in state.scores.items()}
            parts.append((rows, scores))
        infos: Infos = parts[0][1] if len(parts) == 1 else in_order(parts, self.n)
        infos["action_mask"] = self.legal().view(np.int8)
        infos["n_acquired"], infos["remaining"] = counts
        infos["acceleration"], infos["scale"], infos["auc"] = numbers
        for key, names in self._names.items():
            infos[key] = names.copy()
        infos["illegal_action"] = self.illegal.copy()
        if self.options.tr is not None:
            infos["time"] = self.options.tr * self.n_shots
        return infos

    def legal(self) -> NDArray[np.bool_]:
        """Actions that may be taken, (n, n_actions); STOP, if there is one, always may."""
        legal = np.empty((self.n, self.n_actions), dtype=bool)
        legal[:, self.geometry.n_actions :] = True
        for rows, state in self.buckets:
            legal[rows, : self.geometry.n_actions] = state.view.legal.cpu().numpy()
        return legal

    def simulate(self, actions: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """As :meth:`ActiveMRIEnv.simulate`, of all episodes: actions and scores (n, trial)."""
        self.locate(0)
        if actions.ndim != 2 or len(actions) != self.n:
            raise ValueError(f"expected actions of shape ({self.n}, trials); got {actions.shape}")
        results = {name: np.zeros(actions.shape) for name in self.scan.metrics}
        for rows, state in self.buckets:
            trials = torch.as_tensor(actions[rows], device=self.scan.device)
            stop = (trials == self.geometry.n_actions) & self.options.stop_action
            previews = self.scan.preview(state, torch.where(stop, 0, trials))
            for name, values in previews.items():
                kept = state.scores[name][:, None]
                results[name][rows] = torch.where(stop, kept, values).cpu().numpy()
        return results

    def locate(self, row: int) -> tuple[State, int]:
        """The batch that an episode is part of, and its place there."""
        for rows, state in self.buckets:
            place = int(np.searchsorted(rows, row))
            if place < len(rows) and rows[place] == row:
                return state, place
        raise gymnasium.error.ResetNeeded("there is no episode yet: call reset() first")

    def save(
        self, ended: NDArray[np.bool_], generators: Sequence[np.random.Generator]
    ) -> dict[str, Any]:
        """All that it takes to come back to this point of all episodes, with their generators."""
        points = []
        for row in range(self.n):
            state, place = self.locate(row)
            one = state.select([place])
            points.append(
                {
                    "index": int(self.index[row]),
                    "scan": tuple(str(names[row]) for names in self._names.values()),
                    "history": self.history[row],
                    "actions": self.actions[row],
                    "seed": one.secret.conditions.seed,
                    "view": one.view,
                    "scores": one.scores,
                    "stopped": one.stopped,
                }
            )
        random = [generator.bit_generator.state for generator in generators]
        return {"episodes": points, "ended": ended.copy(), "random": random}

    def restore(
        self, saved: Mapping[str, Any], generators: Sequence[np.random.Generator]
    ) -> NDArray[np.bool_]:
        """Come back to a saved point, to the last bit, and tell which episodes have ended there.

        Raises:
            ValueError: for a state of other scans, or of another protocol; nothing is changed then.
        """
        try:
            points, random = saved["episodes"], saved["random"]
            ended = np.array(saved["ended"], dtype=bool)
            if not len(points) == len(random) == len(ended) == self.n:
                raise ValueError(f"it is of {len(points)} scan(s) side by side, not of {self.n}")
            found = [self._found_again(point) for point in points]
            for generator, numbers in zip(generators, random, strict=True):
                type(generator.bit_generator)().state = numbers  # refuses what it cannot take
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            why = error if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
            raise ValueError(
                f"expected a state of the same protocol and scans, as state_dict() gives it; {why}"
            ) from error
        for row, (state, point) in enumerate(zip(found, points, strict=True)):
            self._recall(row, state, point["index"], point["actions"], point["history"])
            generators[row].bit_generator.state = random[row]
        return ended

    def _found_again(self, point: Mapping[str, Any]) -> State:
        """An episode's state at a saved point; a ValueError where this is not its scan."""
        index, view = point["index"], point["view"]
        if not 0 <= index < len(self.dataset):
            raise ValueError(f"there is no scan {index}")
        scan, history = self.dataset[index], np.asarray(point["history"], dtype=np.float64)
        if history.shape != (len(np.asarray(point["actions"], dtype=np.int32)) + 1,):
            raise ValueError(f"it has {len(history)} scores of {len(point['actions'])} actions")
        fresh = self.scan.start([scan], start_masks=view.start_mask, seeds=point["seed"])
        first = float(fresh.scores[self.score_name])
        # What a state of other samples, another scanner or another reconstructor differs in.
        for name, was, now in (
            ("scan", point["scan"], (scan.volume, scan.subject, str(scan.index))),
            ("geometry", view.geometry.name, self.geometry.name),
            ("budget", view.start_budget.tolist(), fresh.view.start_budget.tolist()),
            ("set of scores", [*point["scores"]], [*fresh.scores]),
            ("scale", view.scale.tolist(), fresh.view.scale.tolist()),
            (f"{self.score_name} at the start", history[:1].tolist(), [first]),
        ):
            alike = np.allclose(was, now, rtol=1e-4) if isinstance(now[0], float) else was == now
            if not alike:
                raise ValueError(f"its {name} is {was}, not {now}")

        def of_one_form(own: Tensor, given: Tensor) -> Tensor:
            if (given.shape, given.dtype, given.device) != (own.shape, own.dtype, own.device):
                raise ValueError(f"{given.dtype} {tuple(given.shape)} is not {tuple(own.shape)}")
            return given

        kept = fresh.changed(**{name: point[name] for name in ("view", "scores", "stopped")})
        return fresh.rowwise(of_one_form, lambda own, _: own, kept, skip_fixed=True).clone()

    def replay(
        self, row: int, index: int, *, start_mask: Tensor, seed: int, actions: Sequence[int]
    ) -> None:
        """Begin an episode anew with the scanner's `seed`, and bring it to where actions lead."""
        scan, seeds = self.dataset[index], torch.tensor([seed])
        state = self.scan.start([scan], start_masks=start_mask[None], seeds=seeds)
        scores = [float(state.scores[self.score_name])]
        for action in torch.tensor(actions, dtype=torch.int64, device=state.stopped.device):
            state = self.scan.acquire(state, action[None])
            scores.append(float(state.scores[self.score_name]))
        self._recall(row, state, index, actions, scores)

    def render(self, row: int) -> Any:
        """A scan so far in the render mode: an image, uint8 (height, width, 3), or text."""
        from activemri.envs import rendering

        state, place = self.locate(row)
        frame = rendering.frame_of(
            state.view.select([place]),
            state.secret.slices[place],
            actions=self.actions[row],
            scores=self.history[row],
            score_name=self.score_name,
        )
        is_picture = self.options.render_mode == "rgb_array"
        return rendering.draw(frame) if is_picture else rendering.describe(frame)

    def _recall(
        self, row: int, state: State, index: int, actions: Sequence[int], scores: Sequence[float]
    ) -> None:
        """Take over an episode with its past."""
        n = len(actions)
        more = max(0, n + 1 - self._taken.shape[1])
        self._taken = np.pad(self._taken, ((0, 0), (0, more)))
        self._curve = np.pad(self._curve, ((0, 0), (0, more)))
        self._begin([row], state)
        self.index[row], self.n_steps[row] = index, n
        self._taken[row, :n], self._curve[row, : n + 1] = actions, scores
        for before, after in itertools.pairwise(scores):
            self.area[row] += (before + after) / 2
        self.illegal[row] = list(actions[-1:]) == [WASTE]
        self.n_shots[row] += sum(action != STOP for action in actions)

    def _begin(self, new: Sequence[int], state: State) -> None:
        """Give episodes new scans: in place where the kind stays, else in another bucket."""
        rows = np.asarray(new)
        shots = -(-state.view.start_mask.sum(dim=1) // self.geometry.readouts_per_action)
        self.n_shots[rows] = shots.cpu().numpy()
        self._curve[rows, 0] = state.scores[self.score_name].cpu().numpy()
        self.n_steps[rows], self.illegal[rows], self.area[rows] = 0, False, 0.0
        self._size[:, rows] = state.view.n_measurable.cpu(), state.view.scale.cpu()
        for key, names in self._names.items():
            names[rows] = [
                getattr(s, "index" if key == "slice" else key) for s in state.secret.slices
            ]
        alike, others = [(rows, state)], list[tuple[NDArray[np.int64], State]]()
        for place, (held, old) in enumerate(self.buckets):
            if np.array_equal(held, rows):
                self.buckets[place] = rows, state
                return
            is_alike = kind(old.secret.slices[0]) == kind(state.secret.slices[0])
            taken = np.isin(held, rows)
            if is_alike and taken.sum() == len(rows):
                # Observations and infos that were given out share pixels and scores.
                old.view = old.view.changed(pixels=old.view.pixels.clone())
                old.scores = {name: values.clone() for name, values in old.scores.items()}
                old.put(np.flatnonzero(taken).tolist(), state)
                return
            if taken.all():
                continue
            if taken.any():
                held, old = held[~taken], old.select(np.flatnonzero(~taken).tolist())
            (alike if is_alike else others).append((held, old))
        if len(alike) > 1:
            joined = np.concatenate([held for held, _ in alike])
            order = np.argsort(joined)
            state = State.join([old for _, old in alike]).select(order.tolist())
            rows = joined[order]
        self.buckets = sorted([*others, (rows, state)], key=lambda bucket: bucket[0][0])

    def _starts(
        self,
        chosen: list[int],
        masks: Tensor | None,
        generators: Sequence[np.random.Generator],
    ) -> Iterator[tuple[list[int], State]]:
        """Starts of the chosen scans, those of one kind as one batch, and their places.

        Scans that start alike whenever they are chosen are prepared once, as long as they fit into
        the memory for them.
        """
        scan, limit = self.scan, self.options.prepared_gb * 2**30
        info = self.dataset.describe(chosen[0])
        n_bytes = 40 * info.n_coils * math.prod(info.shape)  # about, of one; more cannot be kept
        fits = n_bytes * len(set(chosen)) <= limit
        keeps = masks is None and fits and not scan.starts_by_chance
        new = list(range(len(chosen)))
        if keeps:
            first = {index: place for place, index in reversed([*enumerate(chosen)])}
            new = sorted(place for index, place in first.items() if index not in self._prepared)
        kinds: dict[object, list[int]] = {}
        scans = {place: self.dataset[chosen[place]] for place in new}
        for place, one in scans.items():
            kinds.setdefault(kind(one), []).append(place)
        for places in kinds.values():
            state = scan.start(
                [scans[place] for place in places],
                start_masks=None if masks is None else masks[places],
                generators=[generators[place] for place in places],
            )
            if not keeps:
                yield places, state
            for row, place in enumerate(places if keeps else []):
                self._prepared[chosen[place]] = state.select([row])
        if not keeps:
            return
        kinds = {}
        for place, index in enumerate(chosen):
            self._prepared.move_to_end(index)
            kinds.setdefault(kind(self._prepared[index].secret.slices[0]), []).append(place)
        for places in kinds.values():
            kept = [self._prepared[chosen[place]] for place in places]
            yield places, kept[0].clone() if len(kept) == 1 else State.join(kept)
        n_bytes = sum(state.nbytes for state in self._prepared.values()) if new else 0
        while n_bytes > limit:
            n_bytes -= self._prepared.popitem(last=False)[1].nbytes

    def _chosen_scans(
        self, options: Mapping[str, Any], generators: Sequence[np.random.Generator]
    ) -> list[int]:
        """Positions of the scans of new episodes; drawn where the options leave it open."""
        index, volume, place = options["index"], options["volume"], options["slice"]
        n_scans = len(self.dataset)
        if volume is not None or place is not None:
            if index is not None:
                raise ValueError("reset takes either an index or a volume and slice; got both")
            infos = [self.dataset.describe(i) for i in range(n_scans)]
            slices = [(info.index, i) for i, info in enumerate(infos) if info.volume == volume]
            numbers, fitting = [n for n, _ in slices], [i for n, i in slices if place in (None, n)]
            if not slices:
                some = ", ".join(sorted({info.volume for info in infos})[:5])
                name = self.dataset.name
                raise ValueError(f"there is no volume {volume!r} in {name}; e.g. {some}")
            if not fitting:
                raise ValueError(f"volume {volume!r} has the slices {numbers}; got {place!r}")
            index = fitting[0]
        if index is None:
            return [int(generator.integers(n_scans)) for generator in generators]
        given = np.asarray(index)
        if given.shape not in ((), (len(generators),)):
            raise ValueError(
                f"index must be one number, or one for each of {len(generators)} scan(s); "
                f"got {index!r}"
            )
        chosen: list[int] = np.broadcast_to(given, (len(generators),)).tolist()
        for one in chosen:
            if not isinstance(one, int) or not 0 <= one < n_scans:
                raise ValueError(f"index must be in 0 to {n_scans - 1}; got {one!r}")
        return chosen


def in_order(parts: Sequence[tuple[Any, Any]], n: int) -> Any:
    """Rows of several batches, dicts of them included, as one of n; zero for missing rows."""
    first = parts[0][1]
    if isinstance(first, dict):
        return {key: in_order([(r, values[key]) for r, values in parts], n) for key in first}
    zeros = first.new_zeros if isinstance(first, Tensor) else np.zeros
    result = zeros((n, *first.shape[1:]), dtype=first.dtype)
    for rows, values in parts:
        result[rows] = values
    return result
