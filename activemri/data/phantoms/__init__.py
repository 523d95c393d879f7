"""Procedural subjects with exact k-space: brain, knee and abdomen drawn from closed forms."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from activemri.data.phantoms.dataset import PhantomDataset

__all__ = ["PhantomDataset"]


def __getattr__(name: str) -> object:
    if name == "PhantomDataset":
        from activemri.data.phantoms.dataset import PhantomDataset

        return PhantomDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
