"""Train a policy and the reconstructor together, in turns.

A reconstructor is trained on masks of many policies, and a policy for the reconstructor as it is.
Each can become better for the other: the policy, once it knows what this network can fill in; the
network, once it knows which masks it will be given. A round trains the policy with the
reconstructor frozen, records its episodes on training scans, and fine-tunes the
reconstructor on these and on random ones, so that it does not forget the rest. One more training
of the policy ends it, so that policy and reconstructor belong together.
"""

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
from activemri.tables import Table
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
    run: OmitArgPrefixes[RunOptions] = RunOptions(out=Path("runs/alternating"))
    compute: OmitArgPrefixes[Compute] = Compute()
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
        require_positive(rounds=self.rounds, reconstructor_steps=self.reconstructor_steps)
        require_positive(recorded_scans=self.recorded_scans, lr=self.lr)
        require_positive(validation_scans=self.validation_scans)


def train_alternating(
    settings: TrainAlternatingSettings, *, validation: SliceDataset | None = None
) -> str:
    """Train a policy and a reconstructor in turns; a table of scores of each round to print.

    The scans of validation choose the best weights; None takes the split "val" of the data.

    Raises:
        ValueError: unusable settings or data; a folder that is taken; a reconstructor that has
            nothing to train.
        OSError: the folder cannot be written.
    """
    settings.compute.prepare()
    out, algo = settings.run.out, learner_name(settings.learner)
    start = make_reconstructor(settings.protocol.reconstructor)
    if not any(True for _ in start.parameters()):
        raise ValueError(
            "--reconstructor: expected one that can be trained, e.g. cresnet or unet; this one has "
            "no weights"
        )
    same = {"algo": algo, **described(settings)}
    with RunFolder(settings.run, "train alternating").open(same):
        reconstructor = out / "start" / "best"
        if not reconstructor.with_suffix(".json").exists():
            save_reconstructor(
                reconstructor, start, info={"from": str(settings.protocol.reconstructor)}
            )
        rounds: list[dict[str, float]] = []
        policy: Path | None = None
        for number in range(settings.rounds + 1):
            folder = out / f"round-{number}"
            protocol = replace(settings.protocol, reconstructor=str(reconstructor))
            options = as_environment(protocol, device=settings.compute.device)
            training = TrainPolicySettings(
                protocol=protocol,
                run=_run(settings, folder / _POLICY),
                compute=settings.compute,
                learner=settings.learner,
                validation_scans=settings.validation_scans,
                warm_start=None if policy is None else str(policy),  # the last round's
            )
            policy = run_training(training, validation=validation).checkpoint

            scans = validation_of(options, validation, settings.validation_scans)
            problem = Problem(replace(options, data=scans))
            scores = evaluate(problem, make_policy(policy), problem.scans)
            rounds.append(scores)
            if number == settings.rounds:
                break

            # The policy's episodes on training scans, and random ones, are what to fine-tune on.
            problem = Problem(options, seed=settings.run.seed)
            scan, seed = problem.scan, settings.run.seed
            drawn = np.random.default_rng(seed).permutation(len(problem.scans))
            chosen = sorted(drawn[: settings.recorded_scans].tolist())
            played = SliceList([problem.scans[i] for i in chosen], problem.scans.name)
            batches = rollout_dataset(scan, make_policy(policy), played, seed=seed)
            episodes = [one for batch in batches for one in recorded_episodes(batch, scan)]
            fine_tuning = TrainReconstructorSettings(
                protocol=protocol,
                run=_run(settings, folder / _RECONSTRUCTOR),
                compute=settings.compute,
                max_steps=settings.reconstructor_steps,
                validate_every=max(1, settings.reconstructor_steps // 5),
                lr=settings.lr,
                images=0,
            )
            reconstructor = train_reconstructor(
                fine_tuning,
                moments=EpisodeMasks(
                    {"policy": episodes},
                    scan=replace(scan, reconstructor=ZeroFilled(), metrics=(), task=None),
                    drawn=("variable-density",),
                ),
                train=problem.scans,
                validation=validation,
            ).checkpoint
        assert policy is not None
        make_policy(policy).save(out / _POLICY, info={"algo": algo})  # type: ignore[attr-defined]
        save_reconstructor(
            out / _RECONSTRUCTOR,
            make_reconstructor(reconstructor),
            info={"fine_tunings": settings.rounds},
        )
        files.write_json(out / "summary.json", {"rounds": rounds})
    lines = [(n, *(scores[name] for name in _SHOWN)) for n, scores in enumerate(rounds)]
    return (
        f"{Table(('fine-tunings', *_SHOWN), lines).text()}\n\n{out / _POLICY} is the policy, "
        f"{out / _RECONSTRUCTOR} the reconstructor that it was trained for; scores are those of "
        "validation scans"
    )


def _run(settings: TrainAlternatingSettings, out: Path) -> RunOptions:
    """Options of one training of several."""
    resume = (out / "settings.json").exists()
    return replace(settings.run, out=out, resume=resume, overwrite=False)
