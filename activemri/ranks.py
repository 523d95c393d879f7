"""Rank correlation, for images and for lines of k-space."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Rank correlation, equal values sharing their mean rank; NaN if one of them is constant.

    scipy.stats.spearmanr gives the same, but warns about constants.
    """
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 0 else float("nan")
