"""What is acquired: the options of an environment's id, and what overrides them."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from activemri.data.slices import SliceDataset
from activemri.data.sources import open_dataset
from activemri.envs.protocol import EnvOptions
from activemri.envs.reward import make_reward
from activemri.registration import find_protocol
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
#: What a data set is opened with, besides those above.
_OF_DATA = ("annotations",)


@dataclass(frozen=True)
class Scenario:
    """The scans of a benchmark and how they are acquired.

    Attributes:
        env: id whose options these are, or None.
        data: where the scans come from.
        reconstructors: names or checkpoints.
        n_center_lines: lines that a scan starts with.
        budget: lines still to acquire, a fraction of all lines, or None for all.
        matrix: rows and columns of every scan, or None for native sizes.
        step_cost: price of an action in units of the score.
        metric: the score that counts first.
        options: of :class:`activemri.envs.protocol.ScanProtocol`, all others that are set.
    """

    env: str | None
    data: str
    reconstructors: tuple[str, ...]
    n_center_lines: int
    budget: int | float | None
    matrix: int | tuple[int, int] | None
    step_cost: float
    metric: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: BenchmarkSettings) -> "Scenario":
        """What settings ask for.

        Raises:
            ValueError: an unknown id or option, or an id that needs scans and has none.
        """
        given = {
            "data": settings.data,
            "n_center_lines": settings.n_center_lines,
            "matrix_size": settings.matrix,
            "step_cost": settings.step_cost,
        }
        options: dict[str, Any] = dict(_DEFAULTS)
        if settings.env is not None:
            options |= find_protocol(settings.env).changes
        options |= _parsed(settings.options)
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
            metric=settings.metric or _rewarded(options),
            options={name: value for name, value in options.items() if name != "split"},
        )

    def dataset(
        self,
        split: str,
        *,
        data: str | None = None,
        slices_per_volume: int | None = None,
        n_subjects: int | None = None,
    ) -> SliceDataset:
        """The scans of a split; see :func:`activemri.data.sources.open_dataset`.

        Args:
            split: which subjects.
            data: take them from here instead.
            slices_per_volume: as there.
            n_subjects: as there.
        """
        scans = open_dataset(
            data or self.data,
            split=split,
            matrix_size=self.matrix,
            slices_per_volume=slices_per_volume,
            n_subjects=n_subjects,
            **{name: self.options[name] for name in _OF_DATA if name in self.options},
        )
        return EnvOptions.of({**self._options, "data": scans}).dataset()

    def task(
        self, dataset: SliceDataset, *, reconstructor: str, metrics: tuple[str, ...]
    ) -> EnvOptions:
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
        return EnvOptions.of({**self._options, **options, **wanted})

    @property
    def _options(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name not in _OF_DATA}

    @property
    def described(self) -> dict[str, Any]:
        """For settings that are written down: what they left open, filled in."""
        return asdict(self)


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE: numbers, None and the like as Python writes them, all else as text."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name in (*_DEFAULTS, "split", "device"):
            raise ValueError(
                f"--options: expected KEY=VALUE, and none that has an option of its own; got {word}"
            )
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _rewarded(options: Mapping[str, Any]) -> str:
    """The score that the environment rewards."""
    scores = make_reward(options["reward"]).scores if "reward" in options else ()
    return next((name for name in scores if name != "uncertainty"), "ssim")
