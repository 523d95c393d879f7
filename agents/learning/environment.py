"""The environment that a policy learns in: what its id stands for, and what overrides that."""

from dataclasses import replace
from typing import Any

from activemri.data.slices import SliceDataset
from activemri.envs.acquisition import Acquisition
from activemri.envs.reward import make_reward
from activemri.envs.task import Task
from activemri.metrics import find_metric
from activemri.registration import find_environment
from activemri.settings import EnvironmentSettings


def make_task(
    settings: EnvironmentSettings, *, split: str, scans: SliceDataset | None = None
) -> Task:
    """Options of an environment.

    Args:
        settings: what was asked for.
        split: which subjects.
        scans: take these instead.

    Raises:
        ValueError: an id that is not ours, or one that needs data and has none.
    """
    options = environment_options(settings)
    task = Task.of({**options, "split": split})
    return task if scans is None else replace(task, data=scans)


def environment_options(settings: EnvironmentSettings) -> dict[str, Any]:
    """Arguments of the environment's id, and what settings override, e.g. for `gymnasium.make`.

    Raises:
        ValueError: as :func:`make_task`.
    """
    given = {
        "data": settings.data,
        "reconstructor": settings.reconstructor,
        "matrix_size": settings.matrix,
        "n_center_lines": settings.n_center_lines,
        "budget": settings.budget,
        "sensitivity": settings.sensitivity,
        "step_cost": settings.step_cost,
    }
    options: dict[str, Any] = dict(find_environment(settings.env).kwargs)
    options |= {name: value for name, value in given.items() if value is not None}
    if options.get("step_cost", 0.0) > 0:
        options["stop_action"] = True
    if options.get("data", "phantom") is None:
        raise ValueError(f"--env {settings.env} needs scans: say where they are with --data PATH")
    if settings.metric is not None:
        better = find_metric(settings.metric).higher_is_better
        options.setdefault("reward", f"{'' if better else '-'}delta_{settings.metric}")
    return {**options, "device": settings.device}


def metric_of(settings: EnvironmentSettings, task: Task) -> str:
    """What to improve: what settings name, or else the score that the environment rewards."""
    rewarded = [name for name in make_reward(task.reward).scores if name != "uncertainty"]
    return settings.metric or (rewarded[0] if rewarded else "ssim")


def lean_acquisition(task: Task, scans: SliceDataset, *, metric: str) -> Acquisition:
    """The scan protocol with no other scores than are needed: each costs time."""
    acquisition = task.acquisition(scans)
    rewarded = [name for name in make_reward(task.reward).scores if name in acquisition.metrics]
    return replace(acquisition, metrics=tuple(dict.fromkeys([metric, *rewarded])))
