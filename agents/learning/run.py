"""Train a policy: learn, look how it does on validation subjects, keep the best, go on."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from activemri.agents.learning.environment import (
    environment_options,
    lean_acquisition,
    make_task,
    metric_of,
)
from activemri.agents.learning.learner import DivergedError, Learner, Workplace
from activemri.agents.learning.registry import find_algorithm, make_learner, parse_settings
from activemri.agents.policy import Policy
from activemri.agents.registry import make_policy
from activemri.agents.rollout import Episodes, rollout_dataset
from activemri.data.orientation import STORED
from activemri.data.slices import SliceDataset, SliceList
from activemri.data.volumes import evenly_spaced
from activemri.devices import usable
from activemri.envs.acquisition import Acquisition
from activemri.metrics import find_metric
from activemri.runs.diary import Diary, summary_writer
from activemri.runs.folder import RunFolder, command
from activemri.settings import TrainPolicySettings


@dataclass(frozen=True)
class PolicyResult:
    """What a training has made.

    Attributes:
        checkpoint: path of the best policy, without suffix.
        best_step: after which it was taken.
        best_score: what it reached on the validation scans.
        select: what that score is.
    """

    checkpoint: Path
    best_step: int
    best_score: float
    select: str

    def text(self) -> str:
        """One line."""
        return (
            f"{self.checkpoint}: best after {self.best_step} steps, validation {self.select} "
            f"{self.best_score:.4f}"
        )


def check_settings(settings: TrainPolicySettings) -> None:
    """Refuse now what :func:`train_policy` would refuse, before data are read.

    Raises:
        ValueError: an unknown algorithm, argument, environment, metric or device; a folder that is
            taken, or was started with other settings.
        OSError: `settings.out` cannot be written.
        ModuleNotFoundError: an extra is missing.
    """
    parse_settings(settings.algo, settings.learner)
    environment_options(settings)
    if settings.metric is not None:
        find_metric(settings.metric)
    usable(settings.device)
    if settings.tensorboard:
        summary_writer()
    RunFolder(settings.out).check(settings)


def train_policy(
    settings: TrainPolicySettings,
    *,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
) -> PolicyResult:
    """Train a policy; continue after a kill.

    The folder `settings.out` gets the best policy (``best.safetensors`` and ``best.json``),
    ``last.pt`` (state to resume from), ``settings.json``, and ``log.jsonl`` with one line for each
    validation.

    Args:
        settings: see there.
        train: scans to learn from; None opens the environment's train split.
        validation: scans that choose the best policy; None opens the val split.

    Raises:
        ValueError: as :func:`check_settings`, and subjects in both splits.
        DivergedError: a loss that is not finite; the best policy so far is kept.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    check_settings(settings)
    return _PolicyRun(settings, train, validation).run()


class _PolicyRun:
    """One training, from its folder to its best policy."""

    def __init__(
        self,
        settings: TrainPolicySettings,
        train: SliceDataset | None,
        validation: SliceDataset | None,
    ) -> None:
        self.settings = settings
        self.bar: tqdm[Any] | None = None  # shown while it learns
        self.folder = RunFolder(settings.out)
        self.algorithm = find_algorithm(settings.algo)
        self.task = make_task(settings, split="train", scans=train)
        self.metric = metric_of(settings, self.task)
        scans, self.validation = self.task.dataset(), self._validation(validation)
        _refuse_shared_subjects(scans, self.validation)
        self.acquisition = lean_acquisition(self.task, scans, metric=self.metric)
        self.select = settings.select
        if self.select == "auto":
            self.select = "return" if self.task.step_cost > 0 else "area"
        self.max_steps = settings.max_steps or self.algorithm.max_steps
        self.interval = settings.validate_every or max(1, self.max_steps // 10)
        workplace = Workplace(
            # What the task does to its data was done.
            task=replace(self.task, data=scans, orientation=STORED, roi=None, annotations=None),
            scans=scans,
            acquisition=self.acquisition,
            metric=self.metric,
            max_steps=self.max_steps,
            seed=settings.seed,
            warm_start=None if settings.warm_start is None else make_policy(settings.warm_start),
            name=settings.out.name,
            on_progress=self._tell,
        )
        arguments = parse_settings(settings.algo, settings.learner)
        given = {"n_train_scans": len(scans), "n_validation_scans": len(self.validation)}
        self.learner: Learner = make_learner(settings.algo, workplace, arguments)
        self.state = self.folder.open(settings, given=given)  # when nothing more can be refused
        self.best_step, self.best_score = 0, -math.inf

    def run(self) -> PolicyResult:
        if self.state is not None:
            self.best_step, self.best_score = self.state["best_step"], self.state["best_score"]
            self.learner.restore(self.state["learner"])
        diary = Diary(
            self.folder,
            name="policy",
            step=self.learner.step,
            tensorboard=self.settings.tensorboard,
        )
        self.bar = tqdm(
            total=self.max_steps,
            initial=self.learner.step,
            desc=f"train {self.settings.algo}",
            unit=self.algorithm.unit,
        )
        with diary, self.bar:
            if self.state is None:
                self._validate({}, time.monotonic(), diary)
            while self.learner.step < self.max_steps and not self._is_out_of_patience():
                self._learn_until_validation(diary)
        return PolicyResult(self.folder.best, self.best_step, self.best_score, self.select)

    def _learn_until_validation(self, diary: Diary) -> None:
        started, before = time.monotonic(), self.learner.step
        n_steps = min(self.interval - before % self.interval, self.max_steps - before)
        try:
            losses = self.learner.learn(n_steps)
        except DivergedError as error:
            raise DivergedError(
                f"training of {self.settings.algo} stopped after step {self.learner.step}: {error}."
                f" The best policy, from step {self.best_step}, is in {self.folder.best}; try a "
                "smaller learning rate (--learner lr=...)"
            ) from error
        self._validate(losses, started, diary)
        if self.bar is not None:
            self.bar.update(self.learner.step - before)
            self.bar.set_postfix(best=f"{self.best_score:.4f}")

    def _validate(self, losses: Mapping[str, float], started: float, diary: Diary) -> None:
        trained_s = time.monotonic() - started
        policy = self.learner.policy()
        results = evaluate(
            self.acquisition,
            policy,
            self.validation,
            metric=self.metric,
            step_cost=self.task.step_cost,
        )
        if results[self.select] > self.best_score:
            self.best_step, self.best_score = self.learner.step, results[self.select]
            policy.save(self.folder.best, info=self._info(results))
        entry = {
            "training": "policy",
            "step": self.learner.step,
            **{name: float(value) for name, value in losses.items()},
            **{f"validation_{name}": value for name, value in results.items()},
            "best_step": self.best_step,
            "seconds": round(trained_s, 3),
        }
        diary.write(entry)
        self.folder.save(
            {
                "best_step": self.best_step,
                "best_score": self.best_score,
                "learner": self.learner.state(),
            }
        )

    def _tell(self, n_states: int) -> None:
        """Show that something is going on while states are collected."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"asked the oracle in {n_states} states")

    def _is_out_of_patience(self) -> bool:
        patience = self.settings.patience
        waited = self.learner.step - self.best_step
        return patience is not None and waited >= patience * self.interval

    def _validation(self, given: SliceDataset | None) -> SliceList:
        scans = given if given is not None else make_task(self.settings, split="val").dataset()
        chosen = evenly_spaced(range(len(scans)), self.settings.validation_scans)
        return SliceList([scans[i] for i in chosen], scans.name)

    def _info(self, results: Mapping[str, float]) -> dict[str, object]:
        return {
            "algo": self.settings.algo,
            "seed": self.settings.seed,
            "env": self.settings.env,
            "data": str(self.task.data) if isinstance(self.task.data, str | Path) else "objects",
            "reconstructor": str(self.settings.reconstructor or self.task.reconstructor),
            "step": self.learner.step,
            "validation": dict(results),
            "command": command(self.settings),
        }


def evaluate(
    acquisition: Acquisition,
    policy: Policy,
    scans: SliceDataset,
    *,
    metric: str,
    step_cost: float = 0.0,
    seed: int = 0,
) -> dict[str, float]:
    """Means over scans: `area` under the score's curve, `final` score, `return`, `n_actions`.

    The return is the gain of the score minus the price of all actions. Errors count negatively.
    """
    parts = [
        _outcomes(episodes, metric, step_cost)
        for _, episodes in rollout_dataset(acquisition, policy, scans, seed=seed)
    ]
    return {name: float(np.concatenate([part[name] for part in parts]).mean()) for name in parts[0]}


def _outcomes(episodes: Episodes, metric: str, step_cost: float) -> dict[str, Any]:
    sign = 1.0 if find_metric(metric).higher_is_better else -1.0
    curve = sign * episodes.scores[metric]
    n_actions = episodes.n_steps.double()
    gain = curve[:, -1] - curve[:, 0]
    return {
        "area": sign * episodes.area(metric).numpy(),
        "final": curve[:, -1].numpy(),
        "return": (gain - step_cost * n_actions).numpy(),
        "n_actions": n_actions.numpy(),
    }


def _refuse_shared_subjects(train: SliceDataset, validation: SliceDataset) -> None:
    subjects = [
        {scans.describe(i).subject for i in range(len(scans))} for scans in (train, validation)
    ]
    if shared := subjects[0] & subjects[1]:
        raise ValueError(
            "train and validation scans must come from different subjects; found in both: "
            + ", ".join(sorted(shared)[:5])
        )
