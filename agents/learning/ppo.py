"""Proximal policy optimisation (Schulman et al. 2017) by Stable-Baselines3, without masks.

Illegal actions waste a line of the budget, and the policy learns to avoid them; once trained, it
takes legal actions only. With sb3-contrib, `maskable-ppo` need not learn that.
"""

from dataclasses import dataclass
from typing import Any

from stable_baselines3 import PPO

from activemri.agents.learning.learner import Workplace
from activemri.agents.learning.sb3 import SB3Learner, SB3Settings
from activemri.agents.sb3_policies import ScoringActorCritic


@dataclass(frozen=True)
class PPOSettings(SB3Settings):
    """Settings of PPO.

    Attributes:
        n_steps: actions in each scan between updates.
        batch: actions in a step of descent; divides ``n_envs * n_steps``.
        n_epochs: how often an update goes through all actions.
        gae_lambda: trade-off of bias against variance in advantages; 1 takes whole returns.
        clip: how much likelier an action may become in an update.
        ent_coef: weight of the entropy, which keeps the policy exploring.
        vf_coef: weight of the value's loss.
        max_grad_norm: gradients are no larger than that.
    """

    n_steps: int = 64
    batch: int = 256
    n_epochs: int = 4
    gae_lambda: float = 0.9
    clip: float = 0.2
    ent_coef: float = 0.003
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        if self.batch < 2 or self.n_envs * self.n_steps % self.batch:
            raise ValueError(
                "--learner batch: expected at least 2, and a divisor of n_envs * n_steps = "
                f"{self.n_envs * self.n_steps}; got {self.batch}"
            )


def make_ppo(workplace: Workplace, settings: PPOSettings) -> SB3Learner:
    """PPO at work, from the start."""
    return SB3Learner(
        workplace,
        settings,
        make_model=lambda env, network, rate: PPO(
            ScoringActorCritic,
            env,
            learning_rate=rate,
            policy_kwargs={"network": network},
            seed=workplace.seed,
            device=workplace.task.device,
            **arguments(settings),
        ),
        network_of=lambda model: model.policy.pi_features_extractor.network,
    )


def arguments(settings: PPOSettings) -> dict[str, Any]:
    """Settings by the names that Stable-Baselines3 gives them."""
    return {
        "n_steps": settings.n_steps,
        "batch_size": settings.batch,
        "n_epochs": settings.n_epochs,
        "gamma": settings.gamma,
        "gae_lambda": settings.gae_lambda,
        "clip_range": settings.clip,
        "ent_coef": settings.ent_coef,
        "vf_coef": settings.vf_coef,
        "max_grad_norm": settings.max_grad_norm,
    }
