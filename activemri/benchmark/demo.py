"""A first look: policies on held-out phantoms, in a minute or two, with nothing to download."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, arg

from activemri import files
from activemri.benchmark.plan import BenchmarkSettings
from activemri.benchmark.run import run_benchmark
from activemri.options import RunOptions, require_positive
from activemri.reconstruction.registry import WEIGHTS
from activemri.registration import find_protocol

#: A choice of each kind that takes seconds a scan; lbcs was learned for these phantoms.
_POLICIES = (
    "random", "equispaced", "low-frequency-first", "conjugate-symmetric", str(WEIGHTS / "lbcs"),
    "uncertainty-greedy", "evaluator-greedy", "imitation", "oracle",
)  # fmt: skip
_N_WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Acquire held-out phantom scans with a learned policy and others, and report.

    Prints a table with confidence intervals; writes report.html (curves, an example episode to
    scrub through) and episode.gif.
    """

    run: OmitArgPrefixes[RunOptions] = RunOptions(out=Path("demo"))
    n_scans: Annotated[int, arg(metavar="INT")] = 3
    """Held-out phantom scans to acquire, each of another subject."""
    budget: int = 8
    """Lines still to acquire when a scan starts."""
    train: FlagCreatePairsOff[bool] = False
    """Train a policy now, as well; some minutes more."""

    def __post_init__(self) -> None:
        require_positive(n_scans=self.n_scans, budget=self.budget)


def run_demo(settings: DemoSettings) -> str:
    """Run the demonstration, and give the text that the command prints."""
    run, trained = settings.run, list[str]()
    with files.claimed(run.out, "benchmark", shared=True):
        pass  # the folder holds that of the training too
    protocol = replace(find_protocol("ActiveMRI/Phantom-v0"), budget=settings.budget)
    if settings.train:  # by imitation, for two minutes or so
        from activemri.agents.learners.imitation import Imitation
        from activemri.agents.training import TrainPolicySettings, run_training

        out = run.out / "trained-now"
        training = TrainPolicySettings(
            protocol=protocol,
            run=replace(
                run, out=out, resume=(out / "settings.json").exists() and not run.overwrite
            ),
            learner=Imitation(max_steps=150, states=150, rounds=1),
            validate_every=75,
            validation_scans=6,
        )
        trained.append(f"trained-now={run_training(training).checkpoint}")
    outcome = run_benchmark(
        BenchmarkSettings(
            protocol=replace(protocol, split="test"),
            run=run,
            policies=(*_POLICIES, *trained),
            max_slices=settings.n_scans,
            workers=_N_WORKERS,
        )
    )
    files.write(run.out / "episode.gif", outcome.report.gif())
    page = (run.out / "report.html").resolve()
    return f"{outcome}, episode.gif\n\nOpen {page.as_uri()} in a browser."
