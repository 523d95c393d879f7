"""What ``reset(options=...)`` may ask for: a scan, and the lines to start with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from activemri.data.slices import SliceDataset


def choose_scans(
    dataset: SliceDataset, options: dict[str, Any], generators: Sequence[np.random.Generator]
) -> list[int]:
    """Positions of the scans of new episodes in the data set.

    Args:
        dataset: where they come from.
        options: `index`, or `volume` and `slice`; nothing else.
        generators: one for each episode; draws where the options leave it open.

    Raises:
        ValueError: for options that are unknown or name no scan.
    """
    index = options.pop("index", None)
    volume, place = options.pop("volume", None), options.pop("slice", None)
    if options:
        raise ValueError(
            f"unknown reset option {', '.join(options)}; "
            "choose from index, volume, slice, initial_mask"
        )
    if volume is not None or place is not None:
        if index is not None:
            raise ValueError("reset takes either an index or a volume and slice; got both")
        index = _find(dataset, volume, place)
    if index is None:
        return [int(generator.integers(len(dataset))) for generator in generators]
    given = np.asarray(index)
    if given.shape not in ((), (len(generators),)):
        raise ValueError(
            f"index must be one number, or one for each of {len(generators)} scan(s); got {index!r}"
        )
    chosen: list[int] = np.broadcast_to(given, (len(generators),)).tolist()
    for one in chosen:
        if not isinstance(one, int) or not 0 <= one < len(dataset):
            raise ValueError(f"index must be in 0 to {len(dataset) - 1}; got {one!r}")
    return chosen


def start_masks(mask: Any, n: int, *, n_lines: int) -> Tensor | None:
    """The masks that new episodes begin with, bool (n, n_lines), or None where none is given.

    Raises:
        ValueError: for what is no mask, or one of another length.
    """
    if mask is None:
        return None
    try:
        masks = torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError) as error:  # text, ragged lists
        raise ValueError(
            f"initial_mask must be boolean with {n_lines} lines; got {mask!r}"
        ) from error
    if masks.shape not in ((n_lines,), (n, n_lines)):
        raise ValueError(
            f"initial_mask must be boolean with {n_lines} lines; "
            f"got {masks.dtype} {tuple(masks.shape)}"
        )
    return masks.expand(n, -1)


def _find(dataset: SliceDataset, volume: Any, place: Any) -> int:
    infos = [dataset.describe(i) for i in range(len(dataset))]
    for position, info in enumerate(infos):
        if info.volume == volume and place in (None, info.index):
            return position
    slices = [info.index for info in infos if info.volume == volume]
    if not slices:
        some = ", ".join(sorted({info.volume for info in infos})[:5])
        raise ValueError(f"there is no volume {volume!r} in {dataset.name}; e.g. {some}")
    raise ValueError(f"volume {volume!r} has the slices {slices}; got {place!r}")
