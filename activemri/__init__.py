"""Acquire an MRI scan line by line: simulator, Gymnasium environments, policies, benchmark.

Importing this package registers the Gymnasium environments and does nothing else::

    import gymnasium as gym
    env = gym.make("activemri:ActiveMRI/Phantom-v0")

Where to look:
    activemri.mri: physics, from Fourier transforms to sampling geometries.
    activemri.data: readers of scans, splits by subject, phantoms.
    activemri.reconstruction: methods that turn a measurement into an image.
    activemri.training: training of reconstructors.
    activemri.envs: the scan as a Gymnasium environment, single and batched.
    activemri.agents: policies, from a fixed order to bounds that know the target.
    activemri.benchmark: policies and reconstructors compared, with intervals and a report.
"""

from activemri.registration import ENVIRONMENTS, register_environments

__version__ = "0.1.0"
__all__ = ["ENVIRONMENTS", "__version__"]

register_environments()
