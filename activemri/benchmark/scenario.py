"""What is acquired: the options of an environment's id, and what overrides them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from activemri.data.slices import SliceDataset
from activemri.envs.task import Task
from activemri.registration import find_environment
from activemri.settings import BenchmarkSettings

#: What holds where neither a command nor an id says anything.
_DEFAULTS = {
    "data": "phantom",
    "reconstructor": "zero-filled",
    "n_center_lines": 8,
    "budget": 24,
    "matrix_size": None,
    "step_cost": 0.0,
}


@dataclass(frozen=True)
class Scenario:
    """The scans of a benchmark and how they are acquired.

    Attributes:
        env: id whose options these are, or None.
        data: where the scans come from.
        reconstructors: names or checkpoints.
        n_center_lines: lines that a scan starts with.
        budget: lines still to acquire, or None for all.
        matrix: rows and columns of every scan, or None for native sizes.
        step_cost: price of an action in units of the score.
        options: of :class:`activemri.envs.task.Task`, all others that the id sets.
    """

    env: str | None
    data: str
    reconstructors: tuple[str, ...]
    n_center_lines: int
    budget: int | None
    matrix: int | tuple[int, int] | None
    step_cost: float
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: BenchmarkSettings) -> "Scenario":
        """What settings ask for.

        Raises:
            ValueError: an unknown id, or one that needs scans and has none.
        """
        given = {
            "data": settings.data,
            "n_center_lines": settings.n_center_lines,
            "matrix_size": settings.matrix,
            "step_cost": settings.step_cost,
        }
        options: dict[str, Any] = dict(_DEFAULTS)
        if settings.env is not None:
            options |= find_environment(settings.env).arguments
        options |= {name: value for name, value in given.items() if value is not None}
        if settings.budget != "env":
            options["budget"] = settings.budget
        if options["data"] is None:
            raise ValueError(f"--env {settings.env} needs scans: say where they are with --data")
        reconstructor = options.pop("reconstructor")
        return cls(
            env=settings.env,
            data=options.pop("data"),
            reconstructors=settings.reconstructors or (reconstructor,),
            n_center_lines=options.pop("n_center_lines"),
            budget=options.pop("budget"),
            matrix=options.pop("matrix_size"),
            step_cost=options.pop("step_cost"),
            options={name: value for name, value in options.items() if name != "split"},
        )

    def task(self, dataset: SliceDataset, *, reconstructor: str, metrics: tuple[str, ...]) -> Task:
        """The same with given scans, one of the reconstructors, and at least these scores."""
        own = tuple(self.options.get("metrics", ()))
        options = {
            "data": dataset,
            "reconstructor": reconstructor,
            "budget": self.budget,
            "n_center_lines": self.n_center_lines,
            "step_cost": self.step_cost,
        }
        wanted = {"metrics": tuple(dict.fromkeys((*metrics, *own)))}
        return Task.of({**self.options, **options, **wanted})

    @property
    def described(self) -> dict[str, Any]:
        """For settings that are written down: what they left open, filled in."""
        return asdict(self)
