"""An algorithm whose policies are known beforehand, to test the run that trains."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from activemri.agents.heuristic import frequency
from activemri.agents.learning.learner import Algorithm, DivergedError, Workplace
from activemri.agents.order import FixedOrder, Order

SCRIPTED = Algorithm(
    make="tests.agents.learning.scripted:Scripted",
    settings="tests.agents.learning.scripted:ScriptedSettings",
    summary="follows a script",
    max_steps=6,
    unit="step",
)


@dataclass(frozen=True)
class ScriptedSettings:
    """What happens.

    Attributes:
        good: steps after which the policy goes outwards, as text; else it goes inwards.
        diverges_at: step at which the loss is no number; 0 for never.
        killed_at: step at which the process is interrupted; 0 for never.
    """

    good: str = ""
    diverges_at: int = 0
    killed_at: int = 0


class Scripted:
    """See :class:`ScriptedSettings`."""

    def __init__(self, workplace: Workplace, settings: ScriptedSettings) -> None:
        self.workplace, self.settings, self.step = workplace, settings, 0

    def learn(self, n_steps: int) -> Mapping[str, float]:
        for _ in range(n_steps):
            self.step += 1
            if self.step == self.settings.diverges_at:
                raise DivergedError("the loss is not a finite number")
            if self.step == self.settings.killed_at:
                raise KeyboardInterrupt
        return {"loss": 1.0 / self.step}

    def policy(self) -> FixedOrder:
        geometry = self.workplace.acquisition.geometry
        outwards = frequency(geometry).argsort(stable=True).tolist()
        is_good = str(self.step) in self.settings.good.split(",")
        order = Order(
            kind="scripted",
            actions=tuple(outwards if is_good else reversed(outwards)),
            n_learned=len(outwards),
            geometry=geometry.name,
            lines_per_action=1,
            shape=geometry.shape,
            metric=self.workplace.metric,
            reconstructor="zero-filled",
            data="discs",
            n_scans=len(self.workplace.scans),
        )
        return FixedOrder(order, self.workplace.name)

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
