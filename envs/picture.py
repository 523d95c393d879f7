"""What a rendered frame shows of an episode. Rendering is for people, so the target is shown."""

import numpy as np

from activemri.envs.episodes import Episodes
from activemri.envs.rendering import Frame
from activemri.scoring import center_crop


def picture(episodes: Episodes, row: int) -> Frame:
    """The frame of one episode as it stands."""
    state, place = episodes.locate(row)
    view = episodes.acquisition.view(state.select([place]))
    scan = state.slices[place]
    height, width = scan.target.shape
    samples = view.operator.mask.expand(1, *state.shape)[0]
    uncertainty = view.reconstruction.uncertainty
    return Frame(
        kspace=view.kspace[0].abs().square().sum(dim=0).sqrt().cpu().numpy(),
        mask=samples.cpu().numpy(),
        reconstruction=center_crop(view.reconstruction.image[0].abs(), (height, width))
        .cpu()
        .numpy(),
        target=scan.target.numpy(),
        scores=episodes.history[row],
        score_name=episodes.score_name.upper(),
        n_acquired=int(view.n_acquired[0]),
        n_lines=int(view.measurable[0].sum()),
        budget=int(np.ceil(int(view.start_budget[0]) / episodes.task.lines_per_action)),
        title=f"{scan.volume}, slice {scan.index} ({scan.contrast})",
        uncertainty=None
        if uncertainty is None
        else center_crop(uncertainty[0], (height, width)).cpu().numpy(),
        latest=_latest(episodes, row, state.shape),
    )


def _latest(episodes: Episodes, row: int, shape: tuple[int, int]) -> int | None:
    """Column acquired last, in the scan's own numbering; None where actions are not columns."""
    actions, geometry = episodes.actions[row], episodes.geometry
    if not actions or actions[-1] < 0 or geometry.selected != (False, True):
        return None
    line = int(geometry.groups[actions[-1]][0])
    return line - geometry.shape[1] // 2 + shape[1] // 2
