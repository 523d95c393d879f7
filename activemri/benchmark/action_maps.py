"""Figures of what policies do: which line is taken when, and how much that depends on the scan."""

from collections.abc import Collection, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from activemri.benchmark.curves import INK, STYLE, as_svg, canvas, name_ends

# From nothing to every scan, to be told apart on light and on dark ground; a single scan of a
# hundred must be seen, so that the scale rises as the square root of the share.
_SHARES = LinearSegmentedColormap.from_list(
    "shares", ["#eef0f3", "#9fc6e6", "#3f8fc9", "#0b4f8a", "#08223f"]
)
_START = "#c9ccd2"


def action_map_figure(
    actions: pd.DataFrame,
    *,
    n_actions: int,
    initial: NDArray[np.bool_] | None = None,
    notes: Mapping[str, str] | None = None,
) -> str:
    """The share of scans in which each line was taken at each step, one map a policy.

    A fixed order is one dark dot a step; a policy that looks at the scan spreads out.

    Args:
        actions: columns policy, volume, slice, step (1 = first action), action; seeds if any.
        n_actions: number of actions to choose from.
        initial: the actions that scans start with, bool (n_actions,), or None.
        notes: what to write below a policy's name.
    """
    policies = [str(policy) for policy in actions["policy"].unique()]
    n_columns = min(len(policies), 3)
    n_rows = -(-len(policies) // n_columns)
    n_steps = int(actions["step"].max())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.6 + 2.1 * n_rows), layout="constrained")
        grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
        for axes, policy in zip(grid.flat, policies, strict=False):
            share = taken_share(actions[actions["policy"] == policy], n_actions=n_actions)
            shown = np.zeros((n_steps, n_actions))
            shown[: len(share)] = share
            image = axes.imshow(
                np.sqrt(shown).T,
                aspect="auto",
                cmap=_SHARES,
                vmin=0,
                vmax=1,
                interpolation="none",  # so that the browser draws all lines equally thick
                extent=(0.5, n_steps + 0.5, n_actions - 0.5, -0.5),
            )
            for first, last in _runs(initial):
                axes.axhspan(first - 0.5, last + 0.5, color=_START, lw=0)
            note = (notes or {}).get(policy, "")
            axes.set_title(f"{policy}\n{note}" if note else policy, fontsize=8.5, loc="left")
        for axes in list(grid.flat)[len(policies) :]:
            axes.set_visible(False)
        bar = figure.colorbar(image, ax=grid, shrink=0.9 / n_rows**0.5, aspect=24, pad=0.02)
        bar.set_ticks([0, 0.1, 0.1**0.5, 0.5, 0.5**0.5, 1], labels="0 0.01 0.1 0.25 0.5 1".split())
        bar.set_label("share of scans", fontsize=9)
        bar.outline.set_visible(False)
        figure.supxlabel("step", fontsize=10)
        figure.supylabel("line", fontsize=10)
        return as_svg(figure, "action-map" + ",".join(policies))


def taken_share(actions: pd.DataFrame, *, n_actions: int) -> NDArray[np.float64]:
    """Share of the episodes that took each action at each step, (n_steps, n_actions)."""
    keys = [key for key in ("volume", "slice", "seed", "reconstructor") if key in actions]
    n_episodes = len(actions[keys].drop_duplicates())
    counts = np.zeros((int(actions["step"].max()), n_actions))
    np.add.at(counts, (actions["step"].to_numpy() - 1, actions["action"].to_numpy()), 1)
    return counts / n_episodes


def information_figure(
    rows: Sequence[Mapping[str, object]],
    *,
    palette: Mapping[str, str],
    bounds: Collection[str],
    name: str,
) -> str | None:
    """Bits that image and action share at every step, one line a policy; None if all are zero.

    Args:
        rows: of :func:`activemri.benchmark.information.adaptivity_of_actions`, one reconstructor.
        palette: colours of the policies.
        bounds: policies to dash.
        name: makes the parts of this figure differ from those of others on the page.
    """
    curves = {
        str(row["policy"]): np.array(row["bits"], np.float64)
        for row in rows
        if row["mean_bits"]  # neither None nor 0: orders would only draw a line at zero
    }
    if not curves:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = canvas(7.6, 3.4)
        ceiling = max(float(str(row["ceiling"])) for row in rows)
        axes.axhline(ceiling, color=INK, lw=1, ls=(0, (1, 2)), alpha=0.7)
        axes.annotate(
            "all scans differ", (1, ceiling), (0, 3), textcoords="offset points", fontsize=8.5
        )
        ends: dict[str, float] = {}
        for policy, bits in curves.items():
            dashed = policy in bounds
            steps = np.arange(1, len(bits) + 1)
            style = (0, (4, 2)) if dashed else "-"
            axes.plot(steps, bits, color=palette[policy], lw=1.5 if dashed else 2, ls=style)
            ends[policy] = float(bits[np.isfinite(bits)][-1])
        axes.set_ylim(0, None)
        axes.margins(x=0.01)
        axes.set_xlabel("step")
        axes.set_ylabel("information in bits")
        axes.grid(axis="y", color=INK, alpha=0.12, lw=0.8)
        name_ends(axes, ends, palette=palette, bounds=bounds)
        return as_svg(figure, f"information{name}")


def _runs(chosen: NDArray[np.bool_] | None) -> list[tuple[int, int]]:
    """First and last of every run of True."""
    if chosen is None or not chosen.any():
        return []
    places = np.flatnonzero(chosen)
    parts = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return [(int(part[0]), int(part[-1])) for part in parts]
