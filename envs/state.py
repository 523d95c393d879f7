"""Everything about a batch of scans under way, secrets included."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor

from activemri.data.slices import Slice
from activemri.envs.course import Course
from activemri.reconstruction.reconstructor import Reconstruction
from activemri.scoring import Reference

#: Actions below zero acquire nothing.
STOP = -1  # ends the episode
IDLE = -2  # changes nothing
WASTE = -3  # costs one line of the budget


T = TypeVar("T")

#: Metadata of a record's field that all scans of a batch share: no rows are taken from it.
SHARED = {"shared": True}


@dataclass(eq=False)
class State:
    """A batch of scans under way. Rows are independent of each other.

    Attributes other than those of :class:`activemri.envs.acquisition.View`:
        slices: who is scanned.
        scan: fully sampled k-space, complex (batch, coil, height, width). Secret.
        readout: its lines, transformed along the readout. Secret.
        reference: targets. Secret.
        scores: float64 (batch,) by metric, and "uncertainty" if the reconstructor gives one: its
            mean over the pixels in units of the scale.
        stopped: bool (batch,): ended by choice.
        course: of imperfect scans: their measurements. Holds secrets. None for ideal scanners.
    """

    slices: list[Slice]
    scan: Tensor
    readout: Tensor
    reference: Reference
    sensitivity: Tensor | None
    mask: Tensor
    start_mask: Tensor
    measurable: Tensor
    legal: Tensor
    budget: Tensor
    start_budget: Tensor
    n_acquired: Tensor
    scale: Tensor
    zero_filled: Tensor
    reconstruction: Reconstruction
    scores: dict[str, Tensor]
    stopped: Tensor
    course: Course | None = None

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the scans."""
        return self.scan.shape[-2], self.scan.shape[-1]

    @property
    def rows(self) -> Tensor:
        """Numbers of the scans, int64 (batch,)."""
        return torch.arange(len(self), device=self.mask.device)

    @property
    def target_shape(self) -> tuple[int, int]:
        """Height and width of the targets."""
        return self.reference.target.shape[-2], self.reference.target.shape[-1]

    @property
    def spent(self) -> Tensor:
        """Lines that may not be measured (again), bool (batch, n_lines)."""
        return self.mask if self.course is None else self.course.spent

    @property
    def finished(self) -> Tensor:
        """Stopped, budget spent, or nothing left to acquire: bool (batch,)."""
        return self.stopped | ~self.legal.any(dim=1)

    def select(self, rows: Sequence[int] | Tensor) -> Self:
        """Some of the scans, copied."""
        index = torch.as_tensor(rows, device=self.mask.device)
        return select_rows(self, index)

    def clone(self) -> Self:
        """A copy that shares what never changes."""
        kept = ("scan", "readout", "reference", "sensitivity", "measurable")
        cleared: dict[str, Any] = dict.fromkeys((*kept, "course"))
        copy = rowwise(lambda value: value.clone(), list, replace(self, **cleared))
        course = None if self.course is None else self.course.clone()
        return replace(copy, course=course, **{name: getattr(self, name) for name in kept})

    def put(self, rows: Sequence[int] | Tensor, other: "State") -> None:
        """Replace some of the scans, in place."""
        index = torch.as_tensor(rows, device=self.mask.device)
        for position, row in enumerate(index.tolist()):
            self.slices[row] = other.slices[position]
        rowwise(
            lambda mine, new: mine.index_copy_(0, index, new),
            lambda a, b: a,
            self,
            other,
        )

    @classmethod
    def join(cls, states: "Sequence[State]") -> "State":
        """Scans of one kind, one after the other."""
        return rowwise(
            lambda *values: torch.cat(values), lambda *parts: [s for p in parts for s in p], *states
        )


def kind(scan: Slice) -> tuple[object, ...]:
    """What scans of one batch must have in common: sizes, and which of maps, roi, label it has."""
    return (
        tuple(scan.kspace.shape),
        tuple(scan.target.shape),
        scan.sensitivity is not None,
        scan.roi is not None,
        None if scan.label is None else tuple(scan.label.shape),
    )


def references(slices: Sequence[Slice], device: torch.device | str) -> Reference:
    """Targets of slices of one kind, and all about them that scores need."""

    def stack(tensors: list[Tensor | None]) -> Tensor | None:
        given = [tensor for tensor in tensors if tensor is not None]
        return torch.stack(given).to(device) if given else None

    return Reference.of(
        torch.stack([s.target for s in slices]).to(device),
        torch.tensor([s.volume_max for s in slices], device=device),
        region=stack([s.roi for s in slices]),
        label=stack([s.label for s in slices]),
    )


def check_one_kind(slices: Sequence[Slice]) -> None:
    """Refuse scans that cannot share a batch."""
    if len({kind(scan) for scan in slices}) != 1:
        raise ValueError(
            "scans of one batch must agree in size, coils, maps, roi and label; got "
            f"{sorted({str(kind(scan)) for scan in slices})}"
        )


def select_rows(record: T, index: Tensor) -> T:
    """Rows of every tensor (and list) of nested records, copied; see :data:`SHARED`."""
    return rowwise(lambda value: value[index], lambda s: [s[i] for i in index.tolist()], record)


def rowwise(on_tensor: Any, on_list: Any, first: T, *others: T) -> T:
    """Apply a function to every tensor (and list) of nested records, field by field.

    Fields marked as :data:`SHARED` are those of the first record.
    """
    changed: Any = _changed(on_tensor, on_list, first, *others)
    return cast(T, changed)


def _changed(on_tensor: Any, on_list: Any, *values: Any) -> Any:
    first = values[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return on_tensor(*values)
    if isinstance(first, list):
        return on_list(*values)
    if isinstance(first, dict):
        return {k: _changed(on_tensor, on_list, *(v[k] for v in values)) for k in first}
    assert is_dataclass(first) and not isinstance(first, type)
    parts = {
        f.name: getattr(first, f.name)
        if f.metadata.get("shared")
        else _changed(on_tensor, on_list, *(getattr(v, f.name) for v in values))
        for f in fields(first)
    }
    return type(first)(**parts)
