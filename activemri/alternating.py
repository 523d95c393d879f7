"""Train a policy and the reconstructor together, in turns.

A reconstructor is trained on masks of many policies, and a policy for the reconstructor as it is.
Each can become better for the other: the policy, once it knows what this network can fill in; the
network, once it knows which masks it will be given. A round trains the policy with the
reconstructor frozen, records the masks that it visits on training scans, and fine-tunes the
reconstructor on these and on random ones, so that it does not forget the rest. One more training
of the policy ends it, so that policy and reconstructor belong together.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from activemri.agents.learning.environment import (
    environment_options,
    lean_acquisition,
    make_task,
    metric_of,
)
from activemri.agents.learning.registry import parse_settings
from activemri.agents.learning.run import evaluate, train_policy
from activemri.agents.registry import make_policy
from activemri.agents.rollout import rollout_dataset
from activemri.agents.visits import VisitedMasks, visits_of
from activemri.data.slices import SliceDataset, SliceList
from activemri.data.volumes import evenly_spaced
from activemri.files import write_together
from activemri.reconstruction.registry import make_reconstructor, save_reconstructor
from activemri.runs.folder import RunFolder
from activemri.settings import (
    EnvironmentSettings,
    TrainAlternatingSettings,
    TrainPolicySettings,
    TrainReconstructorSettings,
)
from activemri.tables import format_table
from activemri.training.reconstructor import train_reconstructor

_POLICY, _RECONSTRUCTOR = "policy", "reconstructor"


@dataclass(frozen=True)
class Alternation:
    """What the rounds have reached.

    Attributes:
        out: folder of policy and reconstructor.
        rounds: validation scores after each of them, the first one before any fine-tuning.
    """

    out: Path
    rounds: tuple[Mapping[str, float], ...]

    def text(self) -> str:
        """A table with one line a round."""
        lines = [(n, *(scores[name] for name in _SHOWN)) for n, scores in enumerate(self.rounds)]
        table = format_table(("fine-tunings", *_SHOWN), lines)
        return (
            f"{table}\n\n{self.out / _POLICY} is the policy, {self.out / _RECONSTRUCTOR} the "
            "reconstructor that it was trained for; scores are those of validation scans"
        )


_SHOWN = ("area", "final", "return")


def train_alternating(
    settings: TrainAlternatingSettings,
    *,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
) -> Alternation:
    """Train a policy and a reconstructor in turns; continue after a kill.

    Args:
        settings: see there.
        train: scans to learn from; None opens the environment's train split.
        validation: scans that choose the best weights; None opens the val split.

    Raises:
        ValueError: unusable settings or data; a folder that is taken; a reconstructor that has
            nothing to train.
        OSError: `settings.out` cannot be written.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    parse_settings(settings.algo, settings.learner)
    start = make_reconstructor(str(environment_options(settings)["reconstructor"]))
    if not any(True for _ in start.parameters()):
        raise ValueError(
            "--reconstructor: expected one that can be trained, e.g. cresnet or unet; this one has "
            "no weights"
        )
    folder = RunFolder(settings.out)
    folder.open(settings, given={})
    reconstructor = settings.out / "start" / "best"
    if not reconstructor.with_suffix(".json").exists():
        save_reconstructor(reconstructor, start, info={"from": str(settings.reconstructor)})
    scores: list[Mapping[str, float]] = []
    policy: Path | None = None
    for number in range(settings.rounds + 1):
        turn = _Turn(settings, number, reconstructor, train, validation)
        policy = turn.train_policy(policy)
        scores.append(turn.evaluate(policy))
        if number < settings.rounds:
            reconstructor = turn.fine_tune(policy)
    assert policy is not None
    make_policy(policy).save(settings.out / _POLICY, info={"algo": settings.algo})  # type: ignore[attr-defined]
    save_reconstructor(
        settings.out / _RECONSTRUCTOR,
        make_reconstructor(reconstructor),
        info={"fine_tunings": settings.rounds},
    )
    summary = json.dumps({"rounds": [dict(score) for score in scores]}, indent=2) + "\n"
    write_together({settings.out / "summary.json": summary.encode()})
    return Alternation(settings.out, tuple(scores))


class _Turn:
    """One training of the policy, and the fine-tuning that follows."""

    def __init__(
        self,
        settings: TrainAlternatingSettings,
        number: int,
        reconstructor: Path,
        train: SliceDataset | None,
        validation: SliceDataset | None,
    ) -> None:
        self.settings, self.reconstructor = settings, reconstructor
        self.folder = settings.out / f"round-{number}"
        self.train, self.validation = train, validation

    def train_policy(self, warm_start: Path | None) -> Path:
        """Train it for the reconstructor as it is; from the last round's on."""
        settings, out = self.settings, self.folder / _POLICY
        result = train_policy(
            TrainPolicySettings(
                **self._environment(),
                algo=settings.algo,
                learner=settings.learner,
                max_steps=settings.policy_steps,
                validation_scans=settings.validation_scans,
                warm_start=warm_start,
                out=out,
                resume=(out / "settings.json").exists(),
            ),
            train=self.train,
            validation=self.validation,
        )
        return result.checkpoint

    def evaluate(self, policy: Path) -> Mapping[str, float]:
        """Validation scores of policy and reconstructor together."""
        task = make_task(self._as_policy(), split="val", scans=self.validation)
        scans = task.dataset()
        chosen = evenly_spaced(range(len(scans)), self.settings.validation_scans)
        metric = metric_of(self.settings, task)
        return evaluate(
            lean_acquisition(task, scans, metric=metric),
            make_policy(policy),
            SliceList([scans[i] for i in chosen], scans.name),
            metric=metric,
            step_cost=task.step_cost,
        )

    def fine_tune(self, policy: Path) -> Path:
        """Fine-tune the reconstructor on the masks that the policy visits."""
        settings, out = self.settings, self.folder / _RECONSTRUCTOR
        task = make_task(self._as_policy(), split="train", scans=self.train)
        scans = task.dataset()
        validation = make_task(self._as_policy(), split="val", scans=self.validation).dataset()
        result = train_reconstructor(
            TrainReconstructorSettings(
                data="objects" if not isinstance(task.data, str) else task.data,
                warm_start=self.reconstructor,
                max_steps=settings.reconstructor_steps,
                validate_every=max(1, settings.reconstructor_steps // 5),
                lr=settings.lr,
                n_center_lines=task.n_center_lines,
                budget=task.budget or scans.shape[1] - task.n_center_lines,
                sensitivity=str(task.sensitivity),
                seed=settings.seed,
                threads=settings.threads,
                device=settings.device,
                images=0,
                out=out,
                resume=(out / "settings.json").exists(),
            ),
            masks=self._visited(policy, scans),
            train=scans,
            validation=validation,
        )
        return result.checkpoint

    def _visited(self, policy: Path, scans: SliceDataset) -> VisitedMasks:
        """Masks of the policy's episodes on training scans, and random ones."""
        settings = self.settings
        task = make_task(self._as_policy(), split="train", scans=scans)
        acquisition = lean_acquisition(task, scans, metric=metric_of(settings, task))
        generator = np.random.default_rng(settings.seed)
        drawn = generator.permutation(len(scans))[: settings.visited_scans]
        chosen = SliceList([scans[i] for i in sorted(drawn.tolist())], scans.name)
        batches = rollout_dataset(acquisition, make_policy(policy), chosen, seed=settings.seed)
        visits = [visit for _, episodes in batches for visit in visits_of(episodes, acquisition)]
        length = acquisition.budget or scans.shape[1] - acquisition.n_center_lines
        return VisitedMasks(
            {"policy": visits},
            n_center_lines=acquisition.n_center_lines,
            budget=length,
            drawn=("variable-density",),
        )

    def _as_policy(self) -> TrainPolicySettings:
        return TrainPolicySettings(**self._environment())

    def _environment(self) -> dict[str, Any]:
        names = [field.name for field in fields(EnvironmentSettings)]
        asked = {name: getattr(self.settings, name) for name in names}
        return asked | {"reconstructor": str(self.reconstructor)}
