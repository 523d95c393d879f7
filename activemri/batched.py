"""Records of a batch of scans: one row of every tensor for each scan."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Self

import torch
from torch import Tensor


class Batched:
    """A dataclass whose tensors, lists, dicts and batched records have a row for each scan.

    All other fields are shared. Fields with ``metadata={"fixed": True}`` never change.
    """

    def select(self, rows: Sequence[int] | Tensor) -> Self:
        """Some of the scans, copied; bool or int64 (n,), or a list of numbers."""

        def listed(value: list[Any]) -> list[Any]:
            numbers = torch.arange(len(value))[torch.as_tensor(rows).cpu()]
            return [value[number] for number in numbers.tolist()]

        chosen: dict[int, Tensor] = {}  # what is one tensor stays one

        def taken(value: Tensor) -> Tensor:
            if id(value) not in chosen:
                chosen[id(value)] = value[torch.as_tensor(rows, device=value.device)]
            return chosen[id(value)]

        return self.rowwise(taken, listed)

    def clone(self) -> Self:
        """A copy that shares what never changes."""
        copies: dict[int, Tensor] = {}  # what is one tensor stays one
        return self.rowwise(
            lambda value: copies.setdefault(id(value), value.clone()), list, skip_fixed=True
        )

    def put(self, rows: Sequence[int], other: Self) -> None:
        """Replace some of the scans by those of another record, in place."""

        def tensors(mine: Tensor, new: Tensor) -> Tensor:
            return mine.index_copy_(0, torch.as_tensor(rows, device=mine.device), new)

        def lists(mine: list[Any], new: list[Any]) -> list[Any]:
            for row, value in zip(rows, new, strict=True):
                mine[row] = value
            return mine

        changed = self.rowwise(tensors, lists, other)
        for field in fields(self):  # type: ignore[arg-type]  # new records: they cached nothing yet
            object.__setattr__(self, field.name, getattr(changed, field.name))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Scans of several records, one after the other."""

        def lists(*values: list[Any]) -> list[Any]:
            return [item for value in values for item in value]

        return parts[0].rowwise(lambda *values: torch.cat(values), lists, *parts[1:])

    def rowwise(
        self,
        on_tensor: Callable[..., Tensor],
        on_list: Callable[..., list[Any]],
        *others: Self,
        skip_fixed: bool = False,
    ) -> Self:
        """Apply functions to all tensors and lists of records of the same structure."""
        changed = {}
        for field in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            values = [getattr(record, field.name) for record in (self, *others)]
            fixed = skip_fixed and field.metadata.get("fixed", False)
            changed[field.name] = (
                values[0] if fixed else _changed(on_tensor, on_list, values, skip_fixed)
            )
        return type(self)(**changed)


def _changed(on_tensor: Any, on_list: Any, values: list[Any], skip_fixed: bool) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return on_tensor(*values)
    if isinstance(first, list):
        return on_list(*values)
    if isinstance(first, dict):
        return {
            key: _changed(on_tensor, on_list, [value[key] for value in values], skip_fixed)
            for key in first
        }
    if isinstance(first, Batched):
        return first.rowwise(on_tensor, on_list, *values[1:], skip_fixed=skip_fixed)
    return first
