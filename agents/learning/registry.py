"""Algorithms by name: one entry adds one."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from activemri.agents.learning.learner import Algorithm, Learner, Workplace
from activemri.construction import parse_arguments

ALGORITHMS: dict[str, Algorithm] = {
    "imitation": Algorithm(
        make="activemri.agents.learning.imitation:Imitation",
        settings="activemri.agents.learning.imitation:ImitationSettings",
        summary="predicts what each line gains, taught by the one-step oracle",
        max_steps=1500,
        unit="descent step",
    ),
    "ppo": Algorithm(
        make="activemri.agents.learning.ppo:make_ppo",
        settings="activemri.agents.learning.ppo:PPOSettings",
        summary="PPO of Stable-Baselines3; illegal actions waste lines while it learns",
        max_steps=20_000,
        unit="action",
    ),
    "maskable-ppo": Algorithm(
        make="activemri.agents.learning.maskable_ppo:make_maskable_ppo",
        settings="activemri.agents.learning.maskable_ppo:MaskablePPOSettings",
        summary="PPO over legal actions, of sb3-contrib",
        max_steps=20_000,
        unit="action",
    ),
    "dqn": Algorithm(
        make="activemri.agents.learning.dqn:make_dqn",
        settings="activemri.agents.learning.dqn:DQNSettings",
        summary="DQN of Stable-Baselines3; illegal actions waste lines while it learns",
        max_steps=20_000,
        unit="action",
    ),
    "qrdqn": Algorithm(
        make="activemri.agents.learning.qrdqn:make_qrdqn",
        settings="activemri.agents.learning.qrdqn:QRDQNSettings",
        summary="DQN of quantiles of the return, of sb3-contrib; illegal actions waste lines",
        max_steps=20_000,
        unit="action",
    ),
    "greedy-pg": Algorithm(
        make="activemri.agents.learning.greedy_pg:PolicyGradient",
        settings="activemri.agents.learning.greedy_pg:PolicyGradientSettings",
        summary="policy gradient whose rewards are one line ahead, or the whole scan",
        max_steps=320,
        unit="scan",
    ),
    "loupe": Algorithm(
        make="activemri.agents.learning.loupe:Loupe",
        settings="activemri.agents.learning.loupe:LoupeSettings",
        summary="the best fixed order, by gradients through the reconstructor",
        max_steps=600,
        unit="descent step",
    ),
    "straight-through": Algorithm(
        make="activemri.agents.learning.straight_through:StraightThrough",
        settings="activemri.agents.learning.straight_through:StraightThroughSettings",
        summary="adaptive VarNet's policy: gradients through the reconstructor at one look",
        max_steps=600,
        unit="descent step",
    ),
    "seqmri": Algorithm(
        make="activemri.agents.learning.straight_through:StraightThrough",
        settings="activemri.agents.learning.straight_through:SeqMriSettings",
        summary="SeqMRI's sampler: gradients through the reconstructor at several looks",
        max_steps=300,
        unit="descent step",
    ),
    "ddqn": Algorithm(
        make="activemri.agents.learning.ddqn:DoubleDqnLearner",
        settings="activemri.agents.learning.ddqn:DoubleDqnSettings",
        summary="double DQN over legal actions, of what the scan shows (SS-DDQN)",
        max_steps=20_000,
        unit="action",
    ),
    "ds-ddqn": Algorithm(
        make="activemri.agents.learning.ddqn:DoubleDqnLearner",
        settings="activemri.agents.learning.ddqn:DatasetDoubleDqnSettings",
        summary="double DQN that sees only how many lines were acquired (DS-DDQN)",
        max_steps=20_000,
        unit="action",
    ),
}


def find_algorithm(name: str) -> Algorithm:
    """The algorithm of that name.

    Raises:
        ValueError: there is none; the message lists all.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"--algo {name}: expected one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def parse_settings(name: str, words: Sequence[str]) -> Any:
    """Settings of an algorithm from texts ``key=value``.

    Raises:
        ValueError: an unknown key or a value of another type.
        ModuleNotFoundError: the algorithm needs an extra that is not installed.
    """
    kind = _found(find_algorithm(name).settings)
    return kind(**parse_arguments(kind, words, option="--learner", name=name))


def make_learner(name: str, workplace: Workplace, settings: Any) -> Learner:
    """An algorithm at work, from the start."""
    learner: Learner = _found(find_algorithm(name).make)(workplace, settings)
    return learner


def _found(address: str) -> Any:
    module, _, attribute = address.partition(":")
    return getattr(import_module(module), attribute)
