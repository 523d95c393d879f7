"""Every policy with every reconstructor, as a heat map: does what it learned carry over?"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from numpy.typing import NDArray

from activemri.benchmark.curves import STYLE, as_svg, canvas, metric_name

Row = Mapping[str, object]

# Worse and better than the reference, told apart by all kinds of colour vision; text stays legible.
_DIFFERENCE = LinearSegmentedColormap.from_list("difference", ["#e8a96a", "#f4f4f2", "#7fb8dd"])
_DARK = "#111418"  # text on any of these colours, in light mode and in dark mode


def transfer_figure(
    summary: Sequence[Row], *, metric: str, reference: str, quantity: str = "auc"
) -> str:
    """Scores of policies (rows) with reconstructors (columns).

    Colours compare within a column: by how much a policy is better than the reference with the same
    reconstructor. Between columns scores say more about the reconstructors.

    Args:
        summary: of :func:`activemri.benchmark.statistics.summarise`.
        metric: which rows of it.
        reference: policy to compare with; where it was not run, the first one.
        quantity: "auc" (area) or "final".

    Raises:
        ValueError: the summary has no such rows.
    """
    scores, policies, reconstructors = transfer_table(summary, metric=metric, quantity=quantity)
    place = policies.index(reference) if reference in policies else 0
    own = [row for row in summary if row["metric"] == metric]
    sign = 1 if own[0]["higher_is_better"] else -1
    gains = sign * (scores - scores[place])
    largest = float(np.nanmax(np.abs(gains))) or 1.0
    with mpl.rc_context(STYLE):
        height = 1.3 + 0.34 * len(policies)
        figure, axes = canvas(3.2 + 1.25 * len(reconstructors), height)
        axes.imshow(gains, cmap=_DIFFERENCE, vmin=-largest, vmax=largest, aspect="auto")
        for row, column in np.argwhere(np.isfinite(scores)):
            text = f"{scores[row, column]:.3f}"
            axes.text(column, row, text, ha="center", va="center", color=_DARK, fontsize=9)
        axes.set_xticks(range(len(reconstructors)), reconstructors)
        axes.set_yticks(range(len(policies)), policies)
        axes.tick_params(length=0, top=False)
        axes.xaxis.tick_top()
        axes.spines[:].set_visible(False)
        what = "area" if quantity == "auc" else quantity
        axes.set_title(
            f"{metric_name(metric)}, {what}; colour: against {policies[place]}",
            fontsize=10,
            loc="left",
        )
        return as_svg(figure, f"transfer-{metric}-{quantity}")


def transfer_table(
    summary: Sequence[Row], *, metric: str, quantity: str = "auc"
) -> tuple[NDArray[np.float64], list[str], list[str]]:
    """The same numbers: (policy, reconstructor), NaN where one was not run, and the names.

    Raises:
        ValueError: the summary has no rows of that metric.
    """
    own = [row for row in summary if row["metric"] == metric]
    if not own:
        raise ValueError(f"the summary has no rows of the metric {metric!r}")
    policies = list(dict.fromkeys(str(row["policy"]) for row in own))
    reconstructors = list(dict.fromkeys(str(row["reconstructor"]) for row in own))
    scores = np.full((len(policies), len(reconstructors)), np.nan)
    for row in own:
        place = policies.index(str(row["policy"])), reconstructors.index(str(row["reconstructor"]))
        scores[place] = float(str(row[quantity]))
    return scores, policies, reconstructors
