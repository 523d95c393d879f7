"""Rewards of actions, from the scores before and after it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from activemri import plugins
from activemri.metrics import METRICS, find_metric
from activemri.metrics.reference import TaskFunction

Scores = Mapping[str, Tensor]  # metric -> float64 (batch,)

#: A function or object: (before, after) to float (batch,). Its attribute `scores`, if there is one,
#: names the scores that must be kept for it.
RewardFunction = Callable[[Scores, Scores], Tensor]


@dataclass(frozen=True, eq=False)
class Reward:
    """A function of all scores that are kept; those in `scores` are kept for it."""

    function: RewardFunction
    scores: tuple[str, ...] = ("ssim",)

    def __call__(self, before: Scores, after: Scores) -> Tensor:
        """Rewards of a batch, float64 (batch,)."""
        return self.function(before, after)


@dataclass(frozen=True, eq=False)
class TaskLoss:
    """Drop of a downstream network's loss, the score "task_loss": acquire what the network needs.

    The loss (called without gradients, on the task's device) takes magnitudes (batch, height,
    width), cropped to the target's size and in units of its largest value, and labels (batch, ...):
    the slices' or, where there are none, the targets in the same units. It gives numbers (batch,).
    """

    loss: TaskFunction
    scores: tuple[str, ...] = field(default=("task_loss",), init=False)

    def __call__(self, before: Scores, after: Scores) -> Tensor:
        return before["task_loss"] - after["task_loss"]


def gain(score: str, higher_is_better: bool = True) -> Reward:
    """Improvement of a metric or of "uncertainty". It adds up to that of the whole episode."""
    if higher_is_better:
        return Reward(lambda before, after: after[score] - before[score], (score,))
    return Reward(lambda before, after: before[score] - after[score], (score,))


#: Rewards by name. The name is the formula: lower is better for NMSE, hence the minus.
REWARDS: dict[str, Reward] = {
    f"{'' if metric.higher_is_better else '-'}delta_{name}": gain(name, metric.higher_is_better)
    for name, metric in METRICS.items()
    if metric.needs != "task"  # that takes a network: see TaskLoss
}
REWARDS["uncertainty_drop"] = gain("uncertainty", higher_is_better=False)


def make_reward(reward: str | Reward | RewardFunction) -> Reward:
    """The reward of that name, or ``package.module:object``.

    SSIM is kept for a function that names no scores.

    Raises:
        ValueError: for an unknown name or score, or anything that cannot be called.
    """
    if isinstance(reward, str):
        found = plugins.find(reward, REWARDS, what="reward")
        return found if reward in REWARDS else make_reward(found)
    if not callable(reward) or isinstance(reward, type):
        raise ValueError(
            "reward: expected a name, or a function or object that takes the scores before and "
            f"after an action; got {reward!r}"
        )
    if not isinstance(reward, Reward):
        reward = Reward(reward, getattr(reward, "scores", Reward.scores))
    if isinstance(reward.scores, str) or not reward.scores:
        raise ValueError(f"reward: expected its scores as a tuple of names; got {reward.scores!r}")
    for name in reward.scores:
        if name != "uncertainty":
            find_metric(name)
    return reward
