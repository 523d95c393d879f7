"""Deep Q-learning of quantiles of the return (Dabney et al. 2018) by sb3-contrib, without masks."""

from dataclasses import dataclass

from activemri.agents.learning.dqn import DQNSettings, arguments, explore_less
from activemri.agents.learning.learner import Workplace
from activemri.agents.learning.sb3 import SB3Learner
from activemri.agents.sb3_contrib_policies import QRDQN, ScoringQRDQNPolicy


@dataclass(frozen=True)
class QRDQNSettings(DQNSettings):
    """Settings of QR-DQN.

    Attributes:
        n_quantiles: of the return of each action.
    """

    n_quantiles: int = 16


def make_qrdqn(workplace: Workplace, settings: QRDQNSettings) -> SB3Learner:
    """QR-DQN at work, from the start."""
    learner = SB3Learner(
        workplace,
        settings,
        make_model=lambda env, network, rate: QRDQN(
            ScoringQRDQNPolicy,
            env,
            learning_rate=rate,
            policy_kwargs={"network": network, "n_quantiles": settings.n_quantiles},
            seed=workplace.seed,
            device=workplace.task.device,
            **arguments(settings),
        ),
        network_of=lambda model: model.quantile_net.quantile_net,
    )
    explore_less(learner, settings)
    return learner
