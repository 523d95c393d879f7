"""What every algorithm that learns a policy takes and gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from activemri.agents.policy import Policy
from activemri.data.slices import SliceDataset
from activemri.envs.acquisition import Acquisition
from activemri.envs.observation import Frame
from activemri.envs.protocol import EnvOptions


class DivergedError(ValueError):
    """A loss, a gradient or a weight is no longer a finite number."""


class SavedPolicy(Policy, Protocol):
    """A policy that can be written to disk, and loaded by :func:`make_policy`."""

    def save(self, path: Any, *, info: Mapping[str, object]) -> Any: ...


@dataclass(frozen=True, eq=False)
class Workplace:
    """What a policy learns with.

    Attributes:
        task: options of the environment, on the train split.
        scans: of the train split.
        acquisition: the scan protocol.
        metric: what to improve.
        max_steps: length of the training, in the algorithm's own steps: schedules end there.
        seed: of all draws.
        warm_start: policy to begin with, if any.
        name: of the policy, as in tables.
        on_progress: told how many states were collected, while that takes long.
    """

    task: EnvOptions
    scans: SliceDataset
    acquisition: Acquisition
    metric: str
    max_steps: int
    seed: int
    warm_start: Policy | None
    name: str
    on_progress: Callable[[int], None] | None = None

    @property
    def frame(self) -> Frame:
        """Sizes that hold every scan."""
        return Frame.of(self.scans, self.acquisition)


class Learner(Protocol):
    """One algorithm at work.

    Attributes:
        step: how far it has come, in its own steps.
    """

    @property
    def step(self) -> int: ...

    def learn(self, n_steps: int) -> Mapping[str, float]:
        """Go on for so many steps (or a few more); what to log, e.g. the mean loss.

        Raises:
            DivergedError: a loss that is not finite.
        """
        ...

    def policy(self) -> SavedPolicy:
        """The policy as it stands, without exploration."""
        ...

    def state(self) -> dict[str, Any]:
        """Tensors and plain Python: all that :meth:`restore` needs to go on."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Algorithm:
    """A way to learn a policy.

    Attributes:
        make: "module:name" of what makes a :class:`Learner` from a :class:`Workplace` and the
            settings; imported when it is needed.
        settings: "module:class" of the settings, a frozen dataclass whose defaults work.
        summary: one line for tables.
        max_steps: a sensible length.
        unit: what a step is, e.g. "action".
    """

    make: str
    settings: str
    summary: str
    max_steps: int
    unit: str
