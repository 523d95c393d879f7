"""Proximal policy optimisation over legal actions, by sb3-contrib (Huang and Ontañón 2022)."""

from dataclasses import dataclass

from activemri.agents.learning.learner import Workplace
from activemri.agents.learning.ppo import PPOSettings, arguments
from activemri.agents.learning.sb3 import SB3Learner
from activemri.agents.sb3_contrib_policies import MaskablePPO, MaskableScoringActorCritic


@dataclass(frozen=True)
class MaskablePPOSettings(PPOSettings):
    """Settings of MaskablePPO: those of PPO."""


def make_maskable_ppo(workplace: Workplace, settings: MaskablePPOSettings) -> SB3Learner:
    """MaskablePPO at work, from the start."""
    return SB3Learner(
        workplace,
        settings,
        make_model=lambda env, network, rate: MaskablePPO(
            MaskableScoringActorCritic,
            env,
            learning_rate=rate,
            policy_kwargs={"network": network},
            seed=workplace.seed,
            device=workplace.task.device,
            **arguments(settings),
        ),
        network_of=lambda model: model.policy.pi_features_extractor.network,
    )
