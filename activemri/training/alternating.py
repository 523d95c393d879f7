"""Train a policy and the reconstructor together, in turns.

A reconstructor is trained on masks of many policies, and a policy for the reconstructor as it is.
Each can become better for the other: the policy, once it knows what this network can fill in; the
network, once it knows which masks it will be given. A round trains the policy with the
reconstructor frozen, records its episodes on training scans, and fine-tunes the
reconstructor on these and on random ones, so that it does not forget the rest. One more training
of the policy ends it, so that policy and reconstructor belong together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tyro.conf import OmitArgPrefixes

from activemri import files
from activemri.agents.episode_masks import EpisodeMasks, recorded_episodes
from activemri.agents.learners import learner_name
from activemri.agents.learners.imitation import Imitation
from activemri.agents.learners.learner import Problem
from activemri.agents.registry import make_policy
from activemri.agents.rollout import rollout_dataset
from activemri.agents.training import (
    LearnerLike,
    TrainPolicySettings,
    as_environment,
    evaluate,
    run_training,
    validation_of,
)
from activemri.data.slices import SliceDataset, SliceList
from activemri.envs.protocol import ScanProtocol
from activemri.options import Compute, RunOptions, described, require_positive
from activemri.reconstruction.registry import make_reconstructor, save_reconstructor
from activemri.reconstruction.zero_filled import ZeroFilled
from activemri.registration import find_protocol
from activemri.tables import format_table
from activemri.training.folder import RunFolder
from activemri.training.reconstructor import TrainReconstructorSettings, train_reconstructor

_POLICY, _RECONSTRUCTOR = "policy", "reconstructor"
_SHOWN = ("area", "final", "return")


@dataclass(frozen=True, kw_only=True)
class TrainAlternatingSettings:
    """Train a policy and the reconstructor together, in turns.

    Every round trains the policy for the reconstructor as it is, and then fine-tunes the
    reconstructor on the masks of this policy's episodes. Writes the last policy (policy) and the
    reconstructor that it was trained for (reconstructor), a folder for every round, and a table
    of validation scores (summary.json). The same command with --resume goes on after a kill.
    ``--algo NAME`` chooses the policy's algorithm, see `activemri train policy`.
    """

    protocol: OmitArgPrefixes[ScanProtocol] = field(
        default_factory=lambda: find_protocol("ActiveMRI/Phantom-v0")
    )
    run: OmitArgPrefixes[RunOptions] = field(
        default_factory=lambda: RunOptions(out=Path("runs/alternating"))
    )
    compute: OmitArgPrefixes[Compute] = field(default_factory=Compute)
    learner: LearnerLike = field(default_factory=Imitation)
    """Settings of the algorithm that trains the policy."""
    rounds: int = 2
    """Fine-tunings of the reconstructor."""
    reconstructor_steps: int = 1000
    """Optimiser steps of each fine-tuning."""
    lr: float = 1e-3
    """Largest learning rate of the fine-tuning."""
    recorded_scans: int = 128
    """Train scans that the policy is played on to record its masks."""
    validation_scans: int = 32
    """Scans, spread evenly over the validation split, that choose the best weights."""

    def __post_init__(self) -> None:
        require_positive(
            rounds=self.rounds,
            reconstructor_steps=self.reconstructor_steps,
            lr=self.lr,
            recorded_scans=self.recorded_scans,
            validation_scans=self.validation_scans,
        )


@dataclass(frozen=True)
class Alternation:
    """Result of the rounds.

    Attributes:
        out: folder of policy and reconstructor.
        rounds: validation scores after each of them, the first one before any fine-tuning.
    """

    out: Path
    rounds: tuple[Mapping[str, float], ...]

    def __str__(self) -> str:
        """A table with one line a round."""
        lines = [(n, *(scores[name] for name in _SHOWN)) for n, scores in enumerate(self.rounds)]
        table = format_table(("fine-tunings", *_SHOWN), lines)
        return (
            f"{table}\n\n{self.out / _POLICY} is the policy, {self.out / _RECONSTRUCTOR} the "
            "reconstructor that it was trained for; scores are those of validation scans"
        )


def train_alternating(
    settings: TrainAlternatingSettings, *, validation: SliceDataset | None = None
) -> Alternation:
    """Train a policy and a reconstructor in turns; continue after a kill.

    Args:
        settings: of the command.
        validation: scans that choose the best weights; None takes the split "val" of the data.

    Raises:
        ValueError: unusable settings or data; a folder that is taken; a reconstructor that has
            nothing to train.
        OSError: the folder cannot be written.
    """
    settings.compute.prepare()
    out = settings.run.out
    start = make_reconstructor(settings.protocol.reconstructor)
    if not any(True for _ in start.parameters()):
        raise ValueError(
            "--reconstructor: expected one that can be trained, e.g. cresnet or unet; this one has "
            "no weights"
        )
    same = {"algo": learner_name(settings.learner), **described(settings)}
    RunFolder(out).open(same, resume=settings.run.resume)
    reconstructor = out / "start" / "best"
    if not reconstructor.with_suffix(".json").exists():
        save_reconstructor(
            reconstructor, start, info={"from": str(settings.protocol.reconstructor)}
        )
    scores: list[Mapping[str, float]] = []
    policy: Path | None = None
    for number in range(settings.rounds + 1):
        folder = out / f"round-{number}"
        protocol = replace(settings.protocol, reconstructor=str(reconstructor))
        policy = _train_policy(settings, protocol, folder / _POLICY, policy, validation)
        scores.append(_evaluate(settings, protocol, policy, validation))
        if number < settings.rounds:
            reconstructor = _fine_tune(
                settings, protocol, folder / _RECONSTRUCTOR, policy, validation
            )
    assert policy is not None
    info = {"algo": learner_name(settings.learner)}
    make_policy(policy).save(out / _POLICY, info=info)  # type: ignore[attr-defined]
    save_reconstructor(
        out / _RECONSTRUCTOR,
        make_reconstructor(reconstructor),
        info={"fine_tunings": settings.rounds},
    )
    files.write_json(out / "summary.json", {"rounds": [dict(score) for score in scores]})
    return Alternation(out, tuple(scores))


def _train_policy(
    settings: TrainAlternatingSettings,
    protocol: ScanProtocol,
    out: Path,
    warm_start: Path | None,
    validation: SliceDataset | None,
) -> Path:
    """Train the policy for the reconstructor as it is, from the last round's on."""
    trained = run_training(
        TrainPolicySettings(
            protocol=protocol,
            run=_run(settings, out),
            compute=settings.compute,
            learner=settings.learner,
            validation_scans=settings.validation_scans,
            warm_start=None if warm_start is None else str(warm_start),
        ),
        validation=validation,
    )
    return trained.checkpoint


def _evaluate(
    settings: TrainAlternatingSettings,
    protocol: ScanProtocol,
    policy: Path,
    validation: SliceDataset | None,
) -> Mapping[str, float]:
    """Validation scores of policy and reconstructor together."""
    options = as_environment(protocol, device=settings.compute.device)
    scans = validation_of(options, validation, settings.validation_scans)
    problem = Problem(replace(options, data=scans))
    return evaluate(problem, make_policy(policy), problem.scans)


def _fine_tune(
    settings: TrainAlternatingSettings,
    protocol: ScanProtocol,
    out: Path,
    policy: Path,
    validation: SliceDataset | None,
) -> Path:
    """Fine-tune the reconstructor on the masks of the policy's episodes, and on random ones."""
    problem = Problem(
        as_environment(protocol, device=settings.compute.device), seed=settings.run.seed
    )
    scans, scan = problem.scans, problem.scan
    drawn = np.random.default_rng(settings.run.seed).permutation(len(scans))
    chosen = sorted(drawn[: settings.recorded_scans].tolist())
    played = SliceList([scans[i] for i in chosen], scans.name)
    batches = rollout_dataset(scan, make_policy(policy), played, seed=settings.run.seed)
    episodes = [one for batch in batches for one in recorded_episodes(batch, scan)]
    moments = EpisodeMasks(
        {"policy": episodes},
        scan=replace(scan, reconstructor=ZeroFilled(), metrics=(), task=None),
        drawn=("variable-density",),
    )
    if validation is None:
        validation = protocol.dataset("val")
    result = train_reconstructor(
        TrainReconstructorSettings(
            protocol=protocol,
            run=_run(settings, out),
            compute=settings.compute,
            max_steps=settings.reconstructor_steps,
            validate_every=max(1, settings.reconstructor_steps // 5),
            lr=settings.lr,
            images=0,
        ),
        moments=moments,
        train=scans,
        validation=validation,
    )
    return result.checkpoint


def _run(settings: TrainAlternatingSettings, out: Path) -> RunOptions:
    """Options of one training of several."""
    return replace(settings.run, out=out, resume=(out / "settings.json").exists())
