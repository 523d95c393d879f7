"""A fixed order of actions, as it is learned from data and kept in a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from activemri import __version__, files
from activemri.agents.policy import Traits, choose
from activemri.envs.scan import View
from activemri.mri.geometry import Geometry

_FORMAT = "activemri-order"


class OrderError(ValueError):
    """A file that holds no order, or an order for another geometry."""


@dataclass(frozen=True)
class Order:
    """Actions in the order in which they are taken, and where the order comes from.

    Attributes:
        kind: how it was learned, e.g. "lbcs".
        actions: every action of the geometry once, the first one first.
        n_learned: how many of them were learned; the rest comes from the centre outwards.
        geometry: name of the geometry.
        lines_per_action: most lines that one action acquires.
        shape: height and width of the frame.
        metric: what was maximised.
        reconstructor: what made the images that were scored.
        data: what it was learned on.
        n_scans: how many scans were seen.
        version: of this package.
        info: how it was trained, if that is not all: command, validation.
    """

    kind: str
    actions: tuple[int, ...]
    n_learned: int
    geometry: str
    lines_per_action: int
    shape: tuple[int, int]
    metric: str
    reconstructor: str
    data: str
    n_scans: int
    version: str = __version__
    info: Mapping[str, object] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if sorted(self.actions) != list(range(len(self.actions))):
            raise OrderError(
                f"an order holds each of its {len(self.actions)} actions once; "
                f"got {len(set(self.actions))} different ones"
            )

    def check(self, geometry: Geometry) -> None:
        """Make sure that the actions mean the same in a geometry.

        Raises:
            OrderError: if not.
        """
        learned = (self.geometry, self.lines_per_action, len(self.actions))
        asked = (geometry.name, geometry.readouts_per_action, geometry.n_actions)
        if learned != asked:
            raise OrderError(
                f"the order {self.kind!r} was learned for {_words(*learned)}, "
                f"the scans have {_words(*asked)}; learn an order on scans of this size"
            )

    def save(self, path: str | Path) -> Path:
        """Write to a JSON file, completely or not at all. Returns its path, ending in .json."""
        target = Path(path)
        if target.suffix != ".json":
            target = target.with_name(target.name + ".json")
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(target, {"format": _FORMAT, **asdict(self)})
        return target

    @classmethod
    def load(cls, path: str | Path) -> "Order":
        """Read a file that :meth:`save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            OrderError: if it holds something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"expected a file with an order of actions; none is at {path}")
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise OrderError(f"{path} is not a JSON file: {error}") from error
        if not isinstance(record, dict) or record.pop("format", None) != _FORMAT:
            raise OrderError(
                f'{path} holds no order of actions (expected "format": "{_FORMAT}"); '
                "make one with 'activemri train order'"
            )
        return cls._of(record, path)

    @classmethod
    def _of(cls, record: dict[str, Any], path: str | Path) -> "Order":
        expected = {entry.name for entry in fields(cls)}
        record.setdefault("info", {})  # files of earlier versions have none
        if set(record) != expected or not isinstance(record["info"], dict):
            wrong = sorted(expected ^ set(record))
            raise OrderError(f"{path}: missing or unknown entries: {', '.join(wrong)}")
        if not _are_whole_numbers(record["actions"]) or not _are_whole_numbers(record["shape"]):
            raise OrderError(f"{path}: 'actions' and 'shape' must be lists of whole numbers")
        record["actions"], record["shape"] = tuple(record["actions"]), tuple(record["shape"])
        try:
            return cls(**record)
        except OrderError as error:
            raise OrderError(f"{path}: {error}") from error


@dataclass(frozen=True)
class FixedOrder:
    """Takes the first legal action of an order; through with it, begins anew where that is legal.

    Attributes:
        order: which one; it must have been learned for the geometry of the scans.
        name: as in tables.
    """

    order: Order
    name: str
    traits: ClassVar[Traits] = Traits(is_order=True)

    def act(self, view: View, generators: Sequence[np.random.Generator]) -> Tensor:
        self.order.check(view.geometry)
        actions = torch.tensor(self.order.actions, device=view.legal.device)
        priority = torch.empty(len(actions), dtype=torch.float64, device=view.legal.device)
        priority[actions] = -torch.arange(len(actions), device=priority.device).double()
        return choose(priority, view.due)

    def save(self, path: str | Path, *, info: Mapping[str, object]) -> Path:
        """Write the order with `info` in it; see :meth:`Order.save`."""
        return replace(self.order, info=dict(info)).save(path)


def _are_whole_numbers(values: object) -> bool:
    # A bool is an int to Python, but not here.
    return isinstance(values, list) and all(type(value) is int for value in values)


def _words(geometry: str, lines_per_action: int, n_actions: int) -> str:
    return f"{n_actions} actions of geometry {geometry!r} with {lines_per_action} lines each"
