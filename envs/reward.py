"""What an action earns, from the scores before and after it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from activemri.metrics import METRICS, find_metric
from activemri.scoring import TaskFunction

Scores = Mapping[str, Tensor]  # metric -> float64 (batch,)


class Reward(Protocol):
    """Turns the scores before and after an action into a reward.

    Attributes:
        scores: names of the scores that must be kept for it.
    """

    @property
    def scores(self) -> tuple[str, ...]: ...

    def __call__(self, before: Scores, after: Scores) -> Tensor:
        """Rewards of a batch, float64 (batch,)."""
        ...


@dataclass(frozen=True)
class Gain:
    """Improvement of one score. Summed over an episode it telescopes to the whole improvement.

    Attributes:
        score: name of a metric, or "uncertainty".
        sign: 1 if higher is better, -1 if lower is.
    """

    score: str
    sign: int = 1

    @property
    def scores(self) -> tuple[str, ...]:
        return (self.score,)

    def __call__(self, before: Scores, after: Scores) -> Tensor:
        return self.sign * (after[self.score] - before[self.score])


@dataclass(frozen=True, eq=False)
class TaskLoss:
    """Drop of a downstream network's loss: acquire what the network needs.

    The score is called "task_loss": it appears in `info`, and oracles may minimise it.

    Attributes:
        loss: takes magnitudes (batch, height, width), cropped to the target's size and in units of
            its largest value, and labels (batch, ...): the slices' labels or, for slices without,
            the targets in the same units. Gives the loss of each image, (batch,). A torch module
            or any function; called without gradients, on the task's device.
    """

    loss: TaskFunction

    @property
    def scores(self) -> tuple[str, ...]:
        return ("task_loss",)

    def __call__(self, before: Scores, after: Scores) -> Tensor:
        return before["task_loss"] - after["task_loss"]


#: Rewards by name. The name is the formula: lower is better for NMSE, hence the minus.
REWARDS: dict[str, Reward] = {
    **{
        f"{'' if metric.higher_is_better else '-'}delta_{name}": Gain(
            name, 1 if metric.higher_is_better else -1
        )
        for name, metric in METRICS.items()
        if metric.needs != "task"  # that takes a network: see TaskLoss
    },
    "uncertainty_drop": Gain("uncertainty", -1),
}


def make_reward(reward: str | Reward) -> Reward:
    """The reward of that name; an object is taken as it is.

    Raises:
        ValueError: for an unknown name, or an object that asks for an unknown score.
    """
    if not isinstance(reward, str):
        for name in reward.scores:
            if name != "uncertainty":
                find_metric(name)
        return reward
    if reward not in REWARDS:
        raise ValueError(f"unknown reward {reward!r}; choose from {', '.join(REWARDS)}")
    return REWARDS[reward]
