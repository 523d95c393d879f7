"""One scan at a time: the Gymnasium environment."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from activemri.envs.episodes import Episodes
from activemri.envs.protocol import EnvOptions, typed_as


class ActiveMRIEnv(gymnasium.Env[Any, Any]):
    """Acquire one MR scan line by line.

    Every episode is one slice. It starts with a few lines around the centre of k-space; an action
    acquires a line; the reward is what the line gained.

    Actions: ``Discrete(n_actions)``, the lines of the geometry (for columns: as many as the
    widest scan has), plus a last one that stops if `stop_action`. ``info["action_mask"]`` (int8,
    1 = legal) tells which may be taken: ``env.action_space.sample(info["action_mask"])``. Lines
    that are acquired already, that the scanner never measured (zero padding), or that exceed the
    budget are illegal: they waste one line of the budget, earn 0 and set
    ``info["illegal_action"]``, so that learners without masks can run; with
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

    Args:
        **options: the fields of :class:`activemri.envs.protocol.EnvOptions`.

    Raises:
        ValueError: for unknown names or options that do not fit together.
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
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Acquire.

        Raises:
            ValueError: for an illegal or impossible action; the scan goes on unchanged.
            gymnasium.error.ResetNeeded: before the first reset and after the end.
        """
        if not self._running:
            raise gymnasium.error.ResetNeeded("the scan has ended or not begun: call reset()")
        rewards, finished = self.episodes.step(
            np.array([_whole_number(action)]), np.ones(1, dtype=bool)
        )
        self._running = not finished[0]
        return self._observe(), float(rewards[0]), bool(finished[0]), False, self._info()

    def simulate(
        self, actions: Sequence[int] | NDArray[np.int64]
    ) -> dict[str, NDArray[np.float64]]:
        """Scores after each of several actions, none of which is taken.

        This asks the target, so it is for oracles and for analysis, not for policies.

        Args:
            actions: what to try, (trial,). Actions that acquire nothing new keep the score.

        Returns:
            (trial,) by metric.
        """
        trials = np.asarray(actions, dtype=np.int64)
        if trials.ndim != 1:
            raise ValueError(f"expected a list of actions; got shape {trials.shape}")
        self.episodes.locate(0)
        return {name: v[0] for name, v in self.episodes.simulate(trials[None]).items()}

    def action_masks(self) -> NDArray[np.bool_]:
        """Legal actions as sb3-contrib's MaskablePPO asks for them, bool (n_actions,)."""
        legal: NDArray[np.bool_] = self.episodes.legal()[0]
        return legal

    def state_dict(self) -> dict[str, Any]:
        """This point of the episode, the random numbers included, for :meth:`load_state_dict`."""
        return {
            "episode": self.episodes.save(0),
            "running": self._running,
            "random": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Come back to a point saved by :meth:`state_dict` under the same protocol."""
        self.episodes.restore(0, state["episode"])
        self._running = state["running"]
        self.np_random.bit_generator.state = state["random"]

    def render(self) -> Any:
        """The scan so far: an image, uint8 (height, width, 3), or text."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs a render_mode: gymnasium.make(..., render_mode=)")
            return None
        from activemri.envs import rendering

        frame = rendering.frame_of(**self.episodes.shown(0))
        return (
            rendering.draw(frame) if self.render_mode == "rgb_array" else rendering.describe(frame)
        )

    def _observe(self) -> Any:
        observation = self.episodes.observe()
        if isinstance(observation, dict):
            return {key: self._export(value[0]) for key, value in observation.items()}
        return self._export(observation[0])

    def _export(self, value: Any) -> Any:
        return value.cpu().numpy() if self.options.to_numpy else value

    def _info(self) -> dict[str, Any]:
        infos = self.episodes.infos([0])
        return {k: v[0] if v.ndim > 1 else v[0:1].tolist()[0] for k, v in infos.items()}


def _whole_number(action: ArrayLike) -> int:
    """One action, as Gymnasium and its users pass it: an int or an array with one entry."""
    number = np.asarray(action)
    if number.size != 1 or not np.issubdtype(number.dtype, np.integer):
        raise ValueError(f"expected one whole number as the action; got {action!r}")
    return int(number.reshape(()))
