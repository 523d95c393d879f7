"""Recognises k-space that was undersampled, where a file does not say so."""

from torch import Tensor

from activemri.data.readers import UnreadableError

#: Scans of which only an ellipse was acquired lack 1 - pi / 4 = 0.21 of the samples; published
#: undersampled sets lack more than half.
MISSING = 0.3


def refuse_undersampled(kspace: Tensor) -> None:
    """Refuse k-space (coil, height, width) with columns or many samples missing in its midst.

    Zeros around what was acquired, by zero padding and partial Fourier, are all right.

    Raises:
        UnreadableError: with how much is missing.
    """
    present = (kspace != 0).any(dim=0)
    rows, columns = (present.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    if len(columns) == 0:
        return
    within = present[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    empty = int((~within.any(dim=0)).sum())
    missing = 1 - float(within.double().mean())
    if empty or missing > MISSING:
        raise UnreadableError(
            f"undersampled ({empty} of {within.shape[1]} columns and {missing:.0%} of the samples "
            "within the acquired range are zero): no fully sampled truth"
        )
