"""Deep Q-learning (Mnih et al. 2015) by Stable-Baselines3, without masks.

Illegal actions waste a line of the budget, and the network learns that they are worth nothing; once
trained, the policy takes legal actions only. `ddqn` knows what is legal while it learns, and has a
memory a hundred times smaller.
"""

from dataclasses import dataclass
from typing import Any

from stable_baselines3 import DQN

from activemri.agents.learning.learner import Workplace
from activemri.agents.learning.sb3 import SB3Learner, SB3Settings
from activemri.agents.sb3_policies import ScoringDQNPolicy


@dataclass(frozen=True)
class DQNSettings(SB3Settings):
    """Settings of DQN.

    Attributes:
        memory: actions that are remembered; 28 kB each for 128 lines.
        burn_in: random actions before anything is learned.
        batch: actions in a step of descent.
        updates: steps of descent after every action of all scans.
        target_every: actions after which the network of the targets is renewed.
        exploration: share of the training in which random actions become rare.
        epsilon_last: share of random actions from then on.
        max_grad_norm: gradients are no larger than that.
    """

    spread: float = 1.0
    memory: int = 10_000
    burn_in: int = 1000
    batch: int = 64
    updates: int = 4
    target_every: int = 500
    exploration: float = 0.4
    epsilon_last: float = 0.05
    max_grad_norm: float = 10.0


def make_dqn(workplace: Workplace, settings: DQNSettings) -> SB3Learner:
    """DQN at work, from the start."""
    learner = SB3Learner(
        workplace,
        settings,
        make_model=lambda env, network, rate: DQN(
            ScoringDQNPolicy,
            env,
            learning_rate=rate,
            policy_kwargs={"network": network},
            seed=workplace.seed,
            device=workplace.task.device,
            **arguments(settings),
        ),
        network_of=lambda model: model.q_net.q_net,
    )
    explore_less(learner, settings)
    return learner


def arguments(settings: DQNSettings) -> dict[str, Any]:
    """Settings by the names that Stable-Baselines3 gives them."""
    return {
        "gamma": settings.gamma,
        "buffer_size": max(settings.memory, settings.n_envs),
        "learning_starts": settings.burn_in,
        "batch_size": settings.batch,
        "train_freq": 1,
        "gradient_steps": settings.updates,
        "target_update_interval": max(settings.target_every, settings.n_envs),
        "max_grad_norm": settings.max_grad_norm,
    }


def explore_less(learner: SB3Learner, settings: DQNSettings) -> None:
    """Have random actions become rare over the whole training, not over one call of learn()."""

    def epsilon(_: float) -> float:
        done = min(1.0, learner.done / settings.exploration)
        return 1 - done * (1 - settings.epsilon_last)

    learner.model.exploration_schedule = epsilon  # type: ignore[attr-defined]
