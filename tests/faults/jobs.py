"""Long jobs with settings of a second or so, and the scans and networks that they take."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from activemri.cli import COMMANDS
from tests.training.scans import discs

SUBJECTS = {"train": 4, "val": 3, "test": 3}
OUT = "out"  # of every job, in the folder that it runs in


@dataclass(frozen=True)
class Job:
    """A command that works for long.

    Attributes:
        name: as in the table.
        arguments: of the command line; `{data}` stands for the folder of scans.
        resumes: has the option --resume; others are started again as they were.
        slow: takes many seconds, so that it is killed more rarely.
        writes: has an output folder.
        surveys: reads the scans of all splits, or such as stand for those jobs that do not.
    """

    name: str
    arguments: Sequence[str]
    resumes: bool = True
    slow: bool = False
    writes: bool = True
    surveys: bool = False

    @property
    def command(self) -> str:
        """Its name at the command line."""
        words = " ".join(self.arguments)
        return next(name for name in COMMANDS if words.startswith(f"{name} "))


_SCANS = "--data {data} --n-center-lines 4 --budget 6"
_UNET = "--reconstructor unet --network.channels 2 --network.pools 1"
_DESCENT = f"{_SCANS} {_UNET} --max-steps 12 --validate-every 3 --batch-size 2 --images 1"
_POLICY = f"train policy {_SCANS} --reconstructor zero-filled --validation-scans 2"
_FEW = "--learner.n-envs 4 --learner.channels 4 --learner.batch 4"
_OFF_POLICY = f"{_FEW} --learner.max-steps 96 --learner.burn-in 16 --learner.memory 64"


def _job(name: str, words: str, **traits: bool) -> Job:
    out = f" --out {OUT}" if traits.get("writes", True) else ""
    return Job(name, (words + out).split(), **traits)


JOBS = (
    _job("train reconstructor", f"train reconstructor {_DESCENT}", surveys=True),
    _job(
        "train joint",
        f"train joint {_DESCENT} --evaluator-steps 6 --evaluator.layers 1"
        " --evaluator.line-channels 2",
    ),
    _job(
        "train policy, imitation",
        f"{_POLICY} --learner.max-steps 20 --learner.states 16 --learner.rounds 1"
        " --learner.channels 4 --validate-every 5",
    ),
    _job(
        "train policy, ddqn",
        f"{_POLICY} --algo ddqn {_OFF_POLICY} --validate-every 24",
    ),
    _job("train policy, dqn", f"{_POLICY} --algo dqn {_OFF_POLICY} --validate-every 24"),
    _job(
        "train policy, ppo",
        f"{_POLICY} --algo ppo {_FEW} --learner.max-steps 96 --learner.n-steps 6"
        " --validate-every 24",
    ),
    _job(
        "train policy, greedy-pg",
        f"{_POLICY} --algo greedy-pg --learner.max-steps 8 --learner.channels 4 --validate-every 2",
    ),
    _job(
        "train policy, loupe",
        f"{_POLICY} --algo loupe --learner.max-steps 12 --learner.batch 2 --validate-every 3",
    ),
    _job(
        "train policy, straight-through",
        f"{_POLICY} --algo straight-through --learner.max-steps 12 --learner.batch 2"
        " --learner.channels 4 --validate-every 3",
    ),
    _job("train order", f"train order {_SCANS}", resumes=False),
    _job(
        "train alternating",
        f"train alternating {_SCANS} --reconstructor {{network}} --rounds 1"
        " --reconstructor-steps 6 --recorded-scans 3 --validation-scans 2 --learner.max-steps 6"
        " --learner.states 8 --learner.rounds 1 --learner.channels 4",
    ),
    _job(
        "demonstrate",
        f"demonstrate {_SCANS} --reconstructor zero-filled --states 24",
        resumes=False,
    ),
    _job("sweep, folds", f"sweep --out {OUT} --folds 2 train reconstructor {_DESCENT}"),
    _job(
        "sweep, search",
        f"sweep --out {OUT} --vary lr=1e-4:1e-2:log --trials 3 train reconstructor {_DESCENT}",
    ),
    _job(
        "benchmark",
        f"benchmark {_SCANS} --policies random lbcs oracle --n-fit-scans 2",
        resumes=False,
        surveys=True,
    ),
    _job("data convert", "data convert {data}", resumes=False, surveys=True),
    _job("data inspect", "data inspect {data}", resumes=False, writes=False, surveys=True),
    _job(
        "calibrate",
        f"calibrate {_SCANS} --reconstructor cresnet --n-knots 4",
        resumes=False,
    ),
    _job("demo", "demo --n-scans 1 --budget 1", resumes=False, slow=True),
)


def make_scans(folder: Path) -> None:
    """Scans of a few subjects, two slices of 20 x 24 samples each."""
    folder.mkdir(parents=True)
    splits = [split for split, n in SUBJECTS.items() for _ in range(n)]
    slices = discs([f"subject-{number}" for number in range(len(splits))], shape=(20, 24))
    for number, split in enumerate(splits):
        with h5py.File(folder / f"scan-{number}.h5", "w") as file:
            own = [slices[2 * number + place].kspace.numpy() for place in range(2)]
            file["kspace"] = np.stack(own)
            file.attrs.update(subject_id=f"subject-{number}", split=split)


def make_network(path: Path) -> None:
    """A checkpoint of an untrained network."""
    from activemri.devices import seeded
    from activemri.reconstruction.registry import save_reconstructor
    from activemri.reconstruction.unet import UNet

    save_reconstructor(path, seeded(lambda: UNet(channels=2, pools=1), 0), info={})
