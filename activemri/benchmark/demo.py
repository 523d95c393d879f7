"""A first look: every policy on held-out phantoms, in a few minutes, with nothing to download."""

from activemri.agents.registry import POLICIES
from activemri.benchmark.results import example_gif
from activemri.benchmark.run import run_benchmark
from activemri.settings import BenchmarkSettings, DemoSettings


def run_demo(settings: DemoSettings) -> str:
    """Run the demonstration: the text that the command prints."""
    outcome = run_benchmark(
        BenchmarkSettings(
            data="phantom",
            split="test",
            policies=tuple(POLICIES),
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
