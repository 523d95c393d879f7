"""What a training tells about itself: log, pictures, and TensorBoard on request."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from activemri.runs.folder import RunFolder

#: An image: uint8 (height, width, 3).
Picture = NDArray[np.uint8]


class Diary:
    """Writes an entry after every validation: into ``log.jsonl``, ``images/`` and TensorBoard.

    Args:
        folder: of the training.
        name: of what is trained.
        step: that the training goes on from; what TensorBoard has of later ones is dropped.
        pictures: whether to draw.
        tensorboard: whether to show all of it there as well.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        name: str,
        step: int,
        pictures: bool = False,
        tensorboard: bool = False,
    ) -> None:
        self.folder = folder
        self.name = name
        self.pictures = pictures
        self.tensorboard = tensorboard
        self._step = step
        self._board: Any = None

    def __enter__(self) -> "Diary":
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()

    def write(
        self, entry: Mapping[str, object], *, picture: Callable[[], Picture | None] | None = None
    ) -> None:
        """Write an entry, and draw a picture if pictures are wanted."""
        self.folder.log(entry)
        step = entry["step"]
        assert isinstance(step, int)
        drawn = picture() if picture is not None and self.pictures else None
        if drawn is not None:
            self.folder.save_picture(f"{self.name}-{step:06}", drawn)
        if self.tensorboard:
            self._show(entry, drawn, step)

    def _show(self, entry: Mapping[str, object], picture: Picture | None, step: int) -> None:
        if self._board is None:
            writer = summary_writer()
            path = self.folder.path / "tensorboard" / self.name
            self._board = writer(str(path), purge_step=self._step)
        for name, value in entry.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{self.name}/{name}", value, step)
        if picture is not None:
            self._board.add_image(f"{self.name}/validation", picture, step, dataformats="HWC")
        self._board.flush()


def summary_writer() -> Any:
    """TensorBoard's class that writes.

    Raises:
        ModuleNotFoundError: says how to install it.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            '--tensorboard: TensorBoard is not installed: pip install "activemri[log]"',
            name=error.name,
        ) from error
    return SummaryWriter
