"""Ask an oracle in many states, and write down what it says."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from activemri.agents.learned import LearnedPolicy
from activemri.agents.learning.demonstration_file import About, write_demonstrations
from activemri.agents.learning.demonstrations import Collector, Priority
from activemri.agents.learning.environment import lean_acquisition, make_task, metric_of
from activemri.agents.policy import Policy
from activemri.agents.registry import make_policy
from activemri.envs.acquisition import View
from activemri.settings import DemonstrateSettings

# Chances that an action is drawn, one for each episode, and that the oracle's is taken.
_EXPLORATION, _FOLLOW = (0.0, 0.1, 0.3), 0.5


def demonstrate(settings: DemonstrateSettings) -> Path:
    """Write demonstrations; the path of the file.

    Raises:
        ValueError: unknown names, a policy that needs the truth itself, or imperfect scans.
        OSError: the file cannot be written.
        ModuleNotFoundError: pyarrow is not installed.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    task = make_task(settings, split=settings.split)
    if task.scanner != "ideal":
        raise ValueError(
            f"--env {settings.env}: its scans depend on when each line was measured and on what "
            "noise was drawn, and a table of masks cannot say that; expected an environment "
            "without imperfection. `activemri train policy --algo imitation` asks the oracle there"
        )
    metric = metric_of(settings, task)
    policy = make_policy(settings.policy, metric=metric)
    if policy.traits.is_oracle:
        raise ValueError(f"--policy {settings.policy}: the oracle is asked anyway; name another")
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    scans = task.dataset()
    acquisition = lean_acquisition(task, scans, metric=metric)
    collector = Collector(
        acquisition,
        scans,
        metric=metric,
        n_tried=settings.n_tried,
        horizon=settings.horizon,
        exploration=_EXPLORATION,
        follow=_FOLLOW,
        step_cost=task.step_cost,
    )
    with tqdm(total=settings.states, desc="ask the oracle", unit="state") as bar:
        found, _ = collector.collect(
            settings.states,
            priority=priority_of(policy, seed=settings.seed),
            look=lambda view: view.mask,
            generator=np.random.default_rng(settings.seed),
            on_progress=lambda n: bar.update(n - bar.n) and None,
        )
    about = About(
        metric=metric,
        reconstructor=str(task.reconstructor),
        data=str(task.data),
        geometry=acquisition.geometry.name,
        n_lines=acquisition.geometry.n_lines,
        n_actions=acquisition.geometry.n_actions,
        horizon=settings.horizon,
    )
    return write_demonstrations(settings.out, found, scans=scans, about=about)


def priority_of(policy: Policy, *, seed: int = 0) -> Priority:
    """How much a policy likes every action.

    Networks say it. Of all others only the choice is known: it comes first, and the rest from the
    centre of k-space outwards.
    """
    generator = np.random.default_rng(seed)

    def priority(view: View) -> Tensor:
        if isinstance(policy, LearnedPolicy):
            return policy.scores(view)[:, : policy.network.n_actions].float()
        liking = -4 * view.geometry.frequency().float().expand(len(view.mask), -1)
        chosen = policy.act(view, generator.spawn(len(view.mask))).clamp(min=0)
        return liking.scatter(1, chosen[:, None], 1.0)

    return priority
