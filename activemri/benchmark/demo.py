"""A first look: every policy on held-out phantoms, in a few minutes, with nothing to download."""

from dataclasses import replace

from activemri.agents.learners.imitation import Imitation
from activemri.agents.policy import Traits
from activemri.agents.registry import POLICIES, SHIPPED, traits_of
from activemri.agents.training import TrainPolicySettings, run_training
from activemri.benchmark.results import example_gif
from activemri.benchmark.run import run_benchmark
from activemri.options import Compute, RunOptions
from activemri.registration import find_protocol
from activemri.settings import BenchmarkSettings, DemoSettings


def run_demo(settings: DemoSettings) -> str:
    """Run the demonstration: the text that the command prints."""
    names = tuple(name for name in POLICIES if _is_shown(traits_of(name)))
    out = settings.out / "trained-now"
    learned = run_training(
        TrainPolicySettings(
            protocol=replace(find_protocol("ActiveMRI/Phantom-v0"), budget=settings.budget),
            run=RunOptions(out=out, seed=settings.seed, resume=(out / "settings.json").exists()),
            compute=Compute(threads=1),
            learner=Imitation(
                max_steps=settings.training_steps, states=settings.training_states, rounds=1
            ),
            validate_every=max(1, settings.training_steps // 2),
            validation_scans=6,
        )
    )
    outcome = run_benchmark(
        BenchmarkSettings(
            data="phantom",
            split="test",
            policies=(*names, *SHIPPED, f"trained-now={learned.checkpoint}"),
            reconstructors=("cresnet",),
            budget=settings.budget,
            seed=settings.seed,
            max_slices=settings.n_scans,
            n_fit_scans=4,
            max_fit_slices=32,
            workers=2,
            out=settings.out,
        )
    )
    gif = settings.out / "episode.gif"
    gif.write_bytes(example_gif(outcome.plan, outcome.table))
    report = (settings.out / "report.html").resolve()
    return f"{outcome}, episode.gif\n\nOpen {report.as_uri()} in a browser."


def _is_shown(traits: Traits) -> bool:
    """Those that are of use in ideal scans whose reconstructor draws no samples."""
    return not traits.repeats and "samples" not in traits.needs
