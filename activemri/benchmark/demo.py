"""A first look: every policy on held-out phantoms, in a few minutes, with nothing to download."""

from activemri.agents.learning.run import train_policy
from activemri.agents.policy import Traits
from activemri.agents.registry import POLICIES, SHIPPED, traits_of
from activemri.benchmark.results import example_gif
from activemri.benchmark.run import run_benchmark
from activemri.settings import BenchmarkSettings, DemoSettings, TrainPolicySettings


def run_demo(settings: DemoSettings) -> str:
    """Run the demonstration: the text that the command prints."""
    names = tuple(name for name in POLICIES if _is_shown(traits_of(name)))
    learned = train_policy(
        TrainPolicySettings(
            algo="imitation",
            budget=settings.budget,
            max_steps=settings.training_steps,
            validate_every=max(1, settings.training_steps // 2),
            validation_scans=6,
            learner=(f"states={settings.training_states}", "rounds=1"),
            seed=settings.seed,
            threads=1,
            out=settings.out / "trained-now",
            resume=(settings.out / "trained-now" / "settings.json").exists(),
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
    return f"{outcome.text()}, episode.gif\n\nOpen {report.as_uri()} in a browser."


def _is_shown(traits: Traits) -> bool:
    """Those that are of use in ideal scans whose reconstructor draws no samples."""
    return not traits.repeats and "samples" not in traits.needs
