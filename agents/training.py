"""Train a policy: learn, validate, keep the best, go on."""

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

from activemri.agents.learners import learner_name
from activemri.agents.learners.imitation import Imitation
from activemri.agents.learners.learner import LearnerSettings, Problem, Report, silent
from activemri.agents.policy import Policy, Training, signed
from activemri.agents.registry import make_policy
from activemri.agents.rollout import rollout_dataset
from activemri.data.slices import SliceDataset, SliceList
from activemri.data.views import STORED, require_other_subjects, subjects_of
from activemri.data.volumes import evenly_spaced
from activemri.envs.protocol import EnvOptions, ScanProtocol
from activemri.options import Compute, RunOptions, command_line, described, require_positive
from activemri.registration import find_protocol
from activemri.training import loop
from activemri.training.folder import RunFolder
from activemri.training.loop import DivergedError, OnValidation, Trained

if TYPE_CHECKING:
    LearnerLike = LearnerSettings
else:  # the command line reads the fields of the default's own class
    LearnerLike = Any

_COSTS = "seconds_of_training", "actions_of_training"  # of a state


@dataclass(frozen=True, kw_only=True)
class TrainPolicySettings:
    """Train a policy that decides which line to acquire next.

    ``--algo NAME`` chooses the algorithm: imitation, factor, nearest-neighbour, one-shot, ppo,
    maskable-ppo, dqn, qrdqn, ddqn, ds-ddqn, greedy-pg, loupe, straight-through, seqmri, or
    package.module:class of your own. Its settings follow as ``--learner.lr 1e-4`` and so on;
    ``--algo NAME --help`` shows them.

    Writes a checkpoint (safetensors and JSON) of the policy that did best on validation subjects,
    a log, and what `--resume` needs to continue after an interruption. The checkpoint can be given
    wherever a policy is named, e.g. `activemri benchmark --policies lbcs PATH`.
    """

    protocol: OmitArgPrefixes[ScanProtocol] = field(
        default_factory=lambda: find_protocol("ActiveMRI/Phantom-v0")
    )
    run: OmitArgPrefixes[RunOptions] = RunOptions(out=Path("runs/policy"))
    compute: OmitArgPrefixes[Compute] = Compute()
    learner: LearnerLike = field(default_factory=Imitation)
    """Settings of the algorithm."""
    warm_start: str | None = None
    """Policy whose network (or order) the training begins with."""
    validate_every: int | None = None
    """Steps between validations; None takes a tenth of the training, or fewer and smaller
    validations where steps are actions: all together at most a fifth of the actions."""
    validation_scans: int = 32
    """Scans, spread evenly over the validation split, that choose the best policy."""
    select: Literal["auto", "area", "final", "return"] = "auto"
    """Score that makes a policy the best: the area under the score's curve, the score at the end,
    or the sum of rewards; auto takes the sum of rewards where lines have a price, else the area."""
    patience: int | None = None
    """Stop after this many validations without a better one; None trains to the end."""
    tensorboard: FlagCreatePairsOff[bool] = False
    """Show losses and scores in TensorBoard as well."""

    def __post_init__(self) -> None:
        require_positive(
            validate_every=self.validate_every,
            validation_scans=self.validation_scans,
            patience=self.patience,
        )


def train_policy(
    protocol: ScanProtocol,
    learner: LearnerSettings,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    warm_start: str | Path | Policy | None = None,
    validation: SliceDataset | None = None,
    validate_every: int | None = None,
    validation_scans: int = 32,
    patience: int | None = None,
    device: str = "cpu",
) -> Policy:
    """Train a policy; the one that did best on validation scans.

    ::

        protocol = ScanProtocol(data="phantom", budget=24)
        policy = train_policy(protocol, learners.Imitation(states=500))

    Args:
        protocol: its data are the scans to learn from.
        learner: settings of the algorithm.
        seed, resume, validate_every, validation_scans, patience, device: see
            :class:`TrainPolicySettings`.
        out: folder for checkpoint, log and state to continue from; None keeps nothing on disk.
        warm_start: policy to begin with, or its name or path.
        validation: scans that choose the best policy; None takes the split "val" of the data.

    Raises:
        ValueError: parts that do not fit, subjects in both splits, a folder that is taken.
        DivergedError: a loss that is not finite.
    """
    named = warm_start if isinstance(warm_start, str | Path | None) else warm_start.name
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(out or Path(temporary) / learner_name(learner).rpartition(":")[2])
        settings = TrainPolicySettings(
            protocol=protocol,
            run=RunOptions(out=folder, seed=seed, resume=resume),
            compute=Compute(device=device, threads=None),
            learner=learner,
            warm_start=None if named is None else str(named),
            validate_every=validate_every,
            validation_scans=validation_scans,
            patience=patience,
        )
        trained = run_training(settings, validation=validation, warm_start=warm_start)
        return make_policy(trained.checkpoint)


def run_training(
    settings: TrainPolicySettings,
    *,
    train: SliceDataset | None = None,
    validation: SliceDataset | None = None,
    warm_start: str | Path | Policy | None = None,
    on_validation: OnValidation | None = None,
) -> Trained:
    """Train a policy in a folder; continue after a kill.

    Args:
        settings: of the command.
        train, validation, warm_start: instead of what the settings name.
        on_validation: called with step and score after every validation; what it raises ends the
            training.

    Raises:
        ValueError: as :func:`train_policy`.
        OSError: the folder cannot be written.
        DivergedError: a loss that is not finite; the best policy so far is kept.
    """
    run, learner = settings.run, settings.learner
    protocol = as_environment(settings.protocol, device=str(settings.compute.prepare()))
    same = {"algo": learner_name(learner), **described(settings)}
    folder = RunFolder(run, "train policy", tensorboard=settings.tensorboard)
    folder.check(same)  # before data are read
    begin = settings.warm_start if warm_start is None else warm_start
    if train is not None:  # as the protocol opens scans
        protocol = replace(protocol, data=train, orientation=STORED, roi=None, annotations=None)
    problem = Problem(
        protocol,
        seed=run.seed,
        warm_start=None if begin is None else make_policy(begin),
        name=run.out.name,
    )
    n_scans, every = settings.validation_scans, settings.validate_every
    if every is None:
        n_scans, every = validation_plan(learner, problem, most=n_scans)
    scans = validation_of(settings.protocol, validation, n_scans)
    require_other_subjects(problem.scans, scans)
    training = _Training(settings, problem, scans)
    same |= {"n_train_scans": len(problem.scans), "n_validation_scans": len(scans)}
    with folder.open(same) as state:  # when nothing more can be refused
        trained = loop.train(
            training,
            folder,
            name="policy",
            n_steps=learner.max_steps,
            validate_every=every,
            patience=settings.patience,
            state=state,
            on_validation=on_validation,
        )
    return replace(trained, score=training.select)


class _Training:
    """A learner and its validation, for the loop."""

    def __init__(
        self, settings: TrainPolicySettings, problem: Problem, validation: SliceDataset
    ) -> None:
        self.settings, self.problem, self.validation = settings, problem, validation
        begin = time.monotonic()
        self.learner = settings.learner.start(problem)
        self.seconds: float | None = time.monotonic() - begin
        self.policy = self.learner.policy()
        usual = "return" if problem.protocol.step_cost > 0 else "area"
        self.select = usual if settings.select == "auto" else settings.select

    @property
    def step(self) -> int:
        return self.learner.step

    def learn(self, n_steps: int, report: Report, /) -> Mapping[str, Any]:
        begin = time.monotonic()
        try:
            losses = self.learner.learn(n_steps, report)
        except FloatingPointError as error:
            raise DivergedError(f"{error}; try a smaller --learner.lr") from error
        if self.seconds is not None:
            self.seconds += time.monotonic() - begin
        return losses

    def state(self) -> dict[str, Any]:
        costs = (self.seconds, self.problem.n_actions)
        return {**self.learner.state(), **dict(zip(_COSTS, costs, strict=True))}

    def restore(self, state: Mapping[str, Any], /) -> None:
        # None of a training begun before they were kept.
        self.seconds, n_actions = (state.get(name) for name in _COSTS)
        self.problem.n_actions = n_actions or 0
        self.learner.restore({name: kept for name, kept in state.items() if name not in _COSTS})

    def validate(self, progress: Report, /) -> tuple[float, dict[str, float]]:
        self.policy = self.learner.policy()
        results = evaluate(self.problem, self.policy, self.validation, progress)
        entries = {f"validation_{name}": value for name, value in results.items()}
        return results[self.select], entries

    def save(self, path: Path, entries: Mapping[str, Any], /) -> None:
        algo = learner_name(self.settings.learner)
        facts = {"algo": algo, **described(self.settings), "step": self.step, **entries}
        acts = getattr(self.settings.learner, "steps_are_actions", False)
        n_actions = self.step if acts else self.problem.n_actions
        facts["training"] = asdict(
            Training(
                taught_by=getattr(self.settings.learner, "taught_by", "learned"),
                subjects=len(set(subjects_of(self.problem.scans))),
                seconds=None if self.seconds is None else round(self.seconds, 1),
                actions=n_actions or None,
            )
        )
        command = command_line(f"train policy --algo {algo}", self.settings)
        self.policy.save(path, info={**facts, "command": command})


def as_environment(protocol: ScanProtocol, *, device: str = "cpu") -> EnvOptions:
    """A protocol as options of an environment; where actions have a price, it may be stopped."""
    options = {**vars(protocol), "device": device}
    return EnvOptions.of(options | ({"stop_action": True} if protocol.step_cost > 0 else {}))


def evaluate(
    problem: Problem, policy: Policy, scans: SliceDataset, progress: Report = silent
) -> dict[str, float]:
    """Means over scans: `area` under the score's curve, `final` score, `return`, `n_actions`.

    The return is the gain of the score minus the price of all actions. Errors count negatively.
    """
    metric, price = problem.metric, problem.protocol.step_cost
    found: dict[str, list[Tensor]] = {"area": [], "final": [], "return": [], "n_actions": []}
    for episodes in rollout_dataset(problem.scan, policy, scans, on_step=lambda *_: progress()):
        curve, n_actions = signed(episodes.scores[metric], metric), episodes.n_steps.double()
        found["area"].append(signed(episodes.area(metric), metric))
        found["final"].append(curve[:, -1])
        found["return"].append(curve[:, -1] - curve[:, 0] - price * n_actions)
        found["n_actions"].append(n_actions)
    return {name: float(np.concatenate(values).mean()) for name, values in found.items()}


def validation_plan(learner: LearnerSettings, problem: Problem, *, most: int) -> tuple[int, int]:
    """Scans of a validation, at most so many, and steps between validations.

    Where steps are actions, all validations take at most a fifth as many, if two scans are enough.
    """
    steps = learner.max_steps
    if not getattr(learner, "steps_are_actions", False):
        return most, max(1, steps // 10)
    episodes = steps // (5 * (problem.scan.budget or problem.scan.geometry.n_readouts))
    n_scans = min(most, max(2, episodes // 3))
    n_rounds = min(10, max(1, episodes // n_scans - 1))  # after the one before the first step
    return n_scans, math.ceil(steps / n_rounds)


def validation_of(protocol: ScanProtocol, given: SliceDataset | None, n: int) -> SliceList:
    """So many validation scans, spread evenly."""
    if given is None and not isinstance(protocol.data, str | Path):
        raise ValueError("expected validation scans as well: the protocol's data are objects")
    chosen = replace(protocol, split="val") if given is None else replace(protocol, data=given)
    scans = chosen.dataset()
    places = evenly_spaced(range(len(scans)), n)
    return SliceList([scans[i] for i in places], scans.name)
