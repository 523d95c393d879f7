"""Acquire an MRI scan readout by readout: simulator, Gymnasium environments, policies, benchmark.

Importing this package registers the Gymnasium environments and does nothing else; all names below
are imported when they are used::

    import activemri as am

    protocol = am.ScanProtocol(data="phantom", budget=24, reconstructor="cresnet")
    env = am.make_env(protocol)  # or gymnasium.make("activemri:ActiveMRI/Phantom-v0")
    order = am.learn_order("lbcs", protocol)
    policy = am.train_policy(protocol, am.learners.Imitation(states=500))
    episodes = am.rollout(protocol, am.make_policy("oracle"), protocol.dataset("val"))
    table = am.benchmark(protocol, policies=[policy, order, "random"])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from activemri.registration import ENVIRONMENTS as ENVIRONMENTS
from activemri.registration import register_environments

if TYPE_CHECKING:
    from activemri.agents import learners as learners
    from activemri.agents.order import learn_order as learn_order
    from activemri.agents.policy import Policy as Policy
    from activemri.agents.policy import Traits as Traits
    from activemri.agents.registry import make_policy as make_policy
    from activemri.agents.rollout import rollout as rollout
    from activemri.agents.sb3 import make_sb3_env as make_sb3_env
    from activemri.agents.training import train_policy as train_policy
    from activemri.benchmark.run import benchmark as benchmark
    from activemri.data.slices import Slice as Slice
    from activemri.data.slices import SliceList as SliceList
    from activemri.data.sources import open_dataset as open_dataset
    from activemri.envs.env import ActiveMRIEnv as ActiveMRIEnv
    from activemri.envs.env import make_env as make_env
    from activemri.envs.protocol import ScanProtocol as ScanProtocol
    from activemri.envs.scan import Scan as Scan
    from activemri.envs.scan import View as View
    from activemri.mri.geometry import Cartesian as Cartesian
    from activemri.mri.geometry import Geometry as Geometry
    from activemri.mri.geometry import Spokes as Spokes
    from activemri.reconstruction.reconstructor import Measurement as Measurement
    from activemri.reconstruction.reconstructor import Reconstruction as Reconstruction
    from activemri.reconstruction.reconstructor import Reconstructor as Reconstructor
    from activemri.reconstruction.registry import make_reconstructor as make_reconstructor
    from activemri.registration import find_protocol as find_protocol

__version__ = "0.2.0"

_LAZY = {
    "ScanProtocol": "envs.protocol",
    "find_protocol": "registration",
    "make_env": "envs.env",
    "ActiveMRIEnv": "envs.env",
    "make_sb3_env": "agents.sb3",
    "Scan": "envs.scan",
    "View": "envs.scan",
    "Policy": "agents.policy",
    "Traits": "agents.policy",
    "make_policy": "agents.registry",
    "learn_order": "agents.order",
    "train_policy": "agents.training",
    "learners": "agents.learners",
    "rollout": "agents.rollout",
    "benchmark": "benchmark.run",
    "Reconstructor": "reconstruction.reconstructor",
    "Measurement": "reconstruction.reconstructor",
    "Reconstruction": "reconstruction.reconstructor",
    "make_reconstructor": "reconstruction.registry",
    "Geometry": "mri.geometry",
    "Cartesian": "mri.geometry",
    "Spokes": "mri.geometry",
    "Slice": "data.slices",
    "SliceList": "data.slices",
    "open_dataset": "data.sources",
}

__all__ = ["ENVIRONMENTS", "__version__", *_LAZY]

register_environments()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_LAZY[name]}")
    found = module if name == "learners" else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
