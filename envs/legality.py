"""Refuses what cannot be done in a scan, and says why."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from activemri.data.slices import Slice
from activemri.envs.state import State
from activemri.mri.geometry import CartesianGeometry


def check_counts(budget: int | None, *, center: int, random: int) -> None:
    """Refuse numbers of lines that are none: fractions, text, truth values, too small ones."""
    counts = [("n_center_lines", center, 0), ("n_random_lines", random, 0)]
    if budget is not None:
        counts.append(("budget", budget, 1))
    for name, count, least in counts:
        is_whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if not is_whole or count < least:
            raise ValueError(f"{name} must be a whole number of at least {least}; got {count!r}")


def lines_of_budget(budget: int | float | None, n_lines: int) -> int | None:
    """Lines that a budget stands for; None for all.

    Args:
        budget: lines, or a fraction between 0 and 1 of all.
        n_lines: how many the frame has.

    Raises:
        ValueError: for another fraction.
    """
    if not isinstance(budget, float | np.floating):
        return budget
    if not 0 < budget < 1:
        raise ValueError(
            "budget must be a whole number of at least 1, or a fraction between 0 and 1 of the "
            f"frame's lines; got {budget!r}"
        )
    return max(1, round(float(budget) * n_lines))


def check_samples(slices: Sequence[Slice], scan: Tensor) -> None:
    """Refuse NaN and Inf, which would be seen even where they were not acquired: 0 * NaN = NaN.

    Args:
        slices: who is scanned, for the message.
        scan: their k-space, complex (batch, coil, height, width).
    """
    # A sum is finite if all samples are, and costs a fraction of looking at each.
    finite = torch.view_as_real(scan).flatten(1).sum(dim=1).isfinite()
    if not bool(finite.all()):
        wrong = slices[int((~finite).nonzero()[0])]
        raise ValueError(
            f"k-space must be finite; that of {wrong.volume}, slice {wrong.index} holds NaN or Inf"
        )


def check_begun(state: State) -> None:
    """Refuse scans that end before their first action."""
    if bool(state.finished.any()):
        raise ValueError(
            "nothing is left to acquire after the start: expected a start mask that leaves at "
            f"least one measurable line; got {state.n_acquired.tolist()} of "
            f"{state.measurable.sum(dim=1).tolist()} lines acquired"
        )


def check_actions(geometry: CartesianGeometry, state: State, actions: Tensor) -> None:
    """Refuse illegal actions.

    Raises:
        ValueError: with the first scan whose action is illegal, and why it is.
    """
    if actions.shape != (len(state),):
        raise ValueError(f"expected {len(state)} actions; got shape {tuple(actions.shape)}")
    possible = actions.clamp(0, geometry.n_actions - 1)
    legal = state.legal.gather(1, possible[:, None]).squeeze(1) & (possible == actions)
    refused = (actions >= 0) & (~legal | state.stopped)
    if bool(refused.any()):
        row = int(refused.nonzero()[0])
        raise ValueError(_refusal(geometry, state, row, int(actions[row])))


def check_trials(geometry: CartesianGeometry, actions: Tensor) -> None:
    """Refuse actions, of any shape, that do not exist at all."""
    if not bool(((actions >= 0) & (actions < geometry.n_actions)).all()):
        raise ValueError(
            f"actions must be in 0 to {geometry.n_actions - 1}; got "
            f"{actions.min().item()} to {actions.max().item()}"
        )


def checked_masks(measurable: Tensor, given: Tensor, *, holding: Tensor | None = None) -> Tensor:
    """Masks from outside, copied; bool (batch, n_lines) like `measurable`, what the scans have.

    Raises:
        ValueError: for another shape or type, lines that were never measured, or masks without all
            lines of the start, `holding`.
    """
    if given.dtype != torch.bool or given.shape != measurable.shape:
        raise ValueError(
            f"a mask must be boolean with {measurable.shape[1]} lines for each of "
            f"{len(measurable)} scans; got {given.dtype} {tuple(given.shape)}"
        )
    given = given.to(measurable.device)
    if bool((given & ~measurable).any()):
        missing = (given & ~measurable).any(dim=0).nonzero().flatten().tolist()
        raise ValueError(
            f"the mask holds lines that were never measured: {_shorten(missing)}; leave them out"
        )
    if holding is not None and bool((holding & ~given).any()):
        raise ValueError("expected masks that hold all lines of the start masks; some do not")
    return given.clone()


def _refusal(geometry: CartesianGeometry, state: State, row: int, action: int) -> str:
    if action >= geometry.n_actions:
        why = f"is out of range; there are {geometry.n_actions} actions"
    elif bool(state.finished[row]):
        why = "comes after the end of the scan; reset first"
    else:
        group = geometry.groups[action]
        if bool(state.spent[row, group].any()):
            often = "already" if state.course is None else "as often as a line may be measured"
            why = f"was acquired {often}"
        elif not bool(state.measurable[row, group].any()):
            why = "was never measured (zero padding)"
        else:
            why = f"needs more lines than the budget has left ({int(state.budget[row])})"
    legal = state.legal[row].nonzero().flatten().tolist()
    return f"action {action} of scan {row} {why}; legal actions: {_shorten(legal)}"


def _shorten(numbers: Sequence[int], most: int = 12) -> str:
    shown = ", ".join(str(n) for n in numbers[:most])
    return shown + (f", ... ({len(numbers)} in all)" if len(numbers) > most else "") or "none"
