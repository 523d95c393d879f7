"""What a rendered frame shows of a scan. Rendering is for people, so the target is shown."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from activemri.data.slices import Slice
from activemri.envs.acquisition import View
from activemri.envs.episodes import Episodes
from activemri.envs.rendering import Frame
from activemri.scoring import center_crop


def picture(episodes: Episodes, row: int) -> Frame:
    """The frame of one running episode."""
    state, place = episodes.locate(row)
    return scan_picture(
        episodes.acquisition.view(state.select([place])),
        state.slices[place],
        actions=episodes.actions[row],
        scores=episodes.history[row],
        score_name=episodes.score_name,
    )


def scan_picture(
    view: View, scan: Slice, *, actions: Sequence[int], scores: Sequence[float], score_name: str
) -> Frame:
    """The frame of a scan under way.

    Args:
        view: of this scan alone (a batch of one).
        scan: who is scanned.
        actions: taken so far.
        scores: one before the first action and one after each.
        score_name: of the scores.
    """
    shape = scan.shape
    uncertainty = view.reconstruction.uncertainty
    lines_per_action = view.geometry.groups.shape[1]
    return Frame(
        kspace=view.kspace[0].abs().square().sum(dim=0).sqrt().cpu().numpy(),
        mask=view.operator.mask.expand(1, *shape)[0].cpu().numpy(),
        reconstruction=_shown(view.reconstruction.image[0].abs(), scan),
        target=scan.target.numpy(),
        scores=scores,
        score_name=score_name.upper(),
        n_acquired=int(view.n_acquired[0]),
        n_lines=int(view.measurable[0].sum()),
        budget=-(-int(view.start_budget[0]) // lines_per_action),
        title=f"{scan.volume}, slice {scan.index} ({scan.contrast})",
        uncertainty=None if uncertainty is None else _shown(uncertainty[0], scan),
        latest=_latest(view, actions, shape),
    )


def _shown(image: Tensor, scan: Slice) -> NDArray[np.float32]:
    height, width = scan.target.shape
    cropped: NDArray[np.float32] = center_crop(image, (height, width)).cpu().numpy()
    return cropped


def _latest(view: View, actions: Sequence[int], shape: tuple[int, int]) -> int | None:
    """Column acquired last, in the scan's own numbering; None where actions are not columns."""
    if not actions or actions[-1] < 0 or view.geometry.selected != (False, True):
        return None
    line = int(view.geometry.groups[actions[-1]][0])
    return line - view.geometry.shape[1] // 2 + shape[1] // 2
