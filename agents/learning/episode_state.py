"""Episodes under way, as tensors and plain Python, for trainings that are resumed."""

from collections.abc import Mapping
from typing import Any

import torch

from activemri.envs.replay import Points
from activemri.envs.vector_env import ActiveMRIVectorEnv


def episode_state(env: ActiveMRIVectorEnv) -> dict[str, Any]:
    """Where the episodes stand and what comes next, for :func:`restore_episodes`."""
    points = Points.of(env.episodes)
    return {
        "index": points.index.tolist(),
        "start_mask": torch.from_numpy(points.start_mask),
        "seed": points.seed.tolist(),
        "actions": [list(actions) for actions in env.episodes.actions],
        "random": [generator.bit_generator.state for generator in env.np_random],
    }


def restore_episodes(env: ActiveMRIVectorEnv, state: Mapping[str, Any]) -> Any:
    """Bring episodes to where they were, action by action; what is seen there, as NumPy arrays.

    The environment must be one of the same task, that begins finished scans in the same step.
    """
    env.reset()
    for row, actions in enumerate(state["actions"]):
        env.episodes.replay(
            row,
            state["index"][row],
            start_mask=state["start_mask"][row],
            seed=state["seed"][row],
            actions=actions,
        )
        env.np_random[row].bit_generator.state = state["random"][row]
    seen = env.episodes.observe()
    if isinstance(seen, Mapping):
        return {key: values.cpu().numpy() for key, values in seen.items()}
    return seen.cpu().numpy()
