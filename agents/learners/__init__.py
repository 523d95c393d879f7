"""Algorithms that learn policies, one a file, and their registry.

::

    policy = train_policy(protocol, learners.DoubleDQN(lr=1e-4))

At the command line: ``activemri train policy --algo ddqn --learner.lr 1e-4``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from activemri import plugins

if TYPE_CHECKING:
    from activemri.agents.learners.ddqn import DatasetDoubleDQN as DatasetDoubleDQN
    from activemri.agents.learners.ddqn import DoubleDQN as DoubleDQN
    from activemri.agents.learners.factor import Factor as Factor
    from activemri.agents.learners.greedy_pg import GreedyPG as GreedyPG
    from activemri.agents.learners.imitation import Imitation as Imitation
    from activemri.agents.learners.learner import LearnerSettings
    from activemri.agents.learners.loupe import Loupe as Loupe
    from activemri.agents.learners.nearest_neighbour import NearestNeighbour as NearestNeighbour
    from activemri.agents.learners.one_shot import OneShot as OneShot
    from activemri.agents.learners.sb3 import DQN as DQN
    from activemri.agents.learners.sb3 import PPO as PPO
    from activemri.agents.learners.sb3 import QRDQN as QRDQN
    from activemri.agents.learners.sb3 import MaskablePPO as MaskablePPO
    from activemri.agents.learners.straight_through import SeqMRI as SeqMRI
    from activemri.agents.learners.straight_through import StraightThrough as StraightThrough

#: Settings of the algorithms by name, "module:class", imported when they are needed.
LEARNERS: dict[str, str] = {
    "imitation": "activemri.agents.learners.imitation:Imitation",
    "factor": "activemri.agents.learners.factor:Factor",
    "nearest-neighbour": "activemri.agents.learners.nearest_neighbour:NearestNeighbour",
    "one-shot": "activemri.agents.learners.one_shot:OneShot",
    "ppo": "activemri.agents.learners.sb3:PPO",
    "maskable-ppo": "activemri.agents.learners.sb3:MaskablePPO",
    "dqn": "activemri.agents.learners.sb3:DQN",
    "qrdqn": "activemri.agents.learners.sb3:QRDQN",
    "greedy-pg": "activemri.agents.learners.greedy_pg:GreedyPG",
    "loupe": "activemri.agents.learners.loupe:Loupe",
    "straight-through": "activemri.agents.learners.straight_through:StraightThrough",
    "seqmri": "activemri.agents.learners.straight_through:SeqMRI",
    "ddqn": "activemri.agents.learners.ddqn:DoubleDQN",
    "ds-ddqn": "activemri.agents.learners.ddqn:DatasetDoubleDQN",
}

_NAMES = {path.rpartition(":")[2]: name for name, path in LEARNERS.items()}


def find_learner(name: str) -> "type[LearnerSettings]":
    """Settings of an algorithm by its name, or by "package.module:class" of the user's own.

    Raises:
        ValueError: an unknown name, or one that is no class of settings.
        ModuleNotFoundError: the algorithm needs an extra that is not installed.
    """
    if name in LEARNERS:
        module, _, attribute = LEARNERS[name].partition(":")
        found = getattr(import_module(module), attribute)
    elif ":" in name:
        found = plugins.load(name, what="--algo")
    else:
        raise ValueError(
            f"--algo {name}: expected one of {', '.join(LEARNERS)}, or package.module:class"
        )
    if not (isinstance(found, type) and callable(getattr(found, "start", None))):
        raise ValueError(
            f"--algo {name}: expected a class of settings with a method `start`; got {found!r}"
        )
    return found


def learner_name(settings: object) -> str:
    """The name by which :func:`find_learner` finds the class of these settings."""
    path = f"{type(settings).__module__}:{type(settings).__qualname__}"
    return next((name for name, known in LEARNERS.items() if known == path), path)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return find_learner(_NAMES[name])


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
