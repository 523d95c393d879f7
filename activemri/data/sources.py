"""Opens data: phantoms by name, files and folders by path."""

import logging
from numbers import Integral
from pathlib import Path
from typing import Any

from activemri import files
from activemri.data.regions import read_findings
from activemri.data.slices import COMBINED, TARGETS, SliceDataset, SliceList
from activemri.data.views import MIXED, oriented
from activemri.progress import track

#: How each kind of phantoms differs from the plain ones.
PHANTOMS: dict[str, dict[str, Any]] = {
    "phantom": {"n_coils": 1},
    "phantom-multicoil": {"n_coils": 8},
    "phantom-mixed": {"widest_view": 1.8},
    "phantom-mixed-multicoil": {"widest_view": 1.8, "n_coils": 8},
    "phantom-lesion": {"lesions": True},
}
PHANTOM_SIZE = 128
MOST_PIXELS = 65_536  # along either side

log = logging.getLogger(__name__)


def open_dataset(
    data: str | Path,
    *,
    split: str = "train",
    matrix_size: int | tuple[int, int] | None = None,
    preload: bool = False,
    slices_per_volume: int | None = None,
    split_file: str | Path | None = None,
    synthetic_phase: bool = True,
    n_subjects: int | None = None,
    annotations: str | Path | None = None,
    target: str = COMBINED,
    known_maps: bool = False,
) -> SliceDataset:
    """Open slices for an environment, for training or for a benchmark.

    ::

        scans = open_dataset("path/to/scans", split="val", matrix_size=128)

    Args:
        data: one of :data:`PHANTOMS` ("mixed": fields of view and orientations differ; "lesion": in
            every slice, its region of interest), a file, or a folder of files; see `docs/data.md`.
        split: "train", "val", "test", any other that the data define, or "all"; see
            :mod:`activemri.data.splits`.
        matrix_size: bring all slices to this size (one number: square), so that different scans
            share an action space; see :func:`activemri.data.standard.to_matrix`. None: files
            as they are, phantoms 128 x 128.
        preload: read everything into memory at once.
        slices_per_volume: take at most this many of a volume, evenly spaced; for files only.
        split_file: JSON or CSV, subject -> split; for files only.
        synthetic_phase: give magnitude-only images a phase and noise; for files only.
        n_subjects: how many subjects the split shall have; for phantoms only.
        annotations: boxes, see :func:`activemri.data.regions.read_findings`; only slices that
            have one are taken, and it is their region of interest; for files only.
        target: reference of several coils, one of :data:`activemri.data.slices.TARGETS`.
        known_maps: phantoms bring their true coil maps, as no scanner has them; files bring what
            they hold in any case.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if there is no such split, nothing usable (with the reasons), or an argument
            that makes no sense.
    """
    size = matrix_shape(matrix_size)
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}; got {target!r}")
    if str(data) in PHANTOMS:
        if slices_per_volume is not None or split_file is not None or annotations is not None:
            raise ValueError(
                f"slices_per_volume, split_file and annotations are for files; got {data}"
            )
        from activemri.data.phantoms.dataset import PhantomDataset

        dataset: SliceDataset = PhantomDataset(
            split=split,
            matrix_size=size or (PHANTOM_SIZE, PHANTOM_SIZE),
            n_subjects=n_subjects,
            target=target,
            known_maps=known_maps,
            **PHANTOMS[str(data)],
        )
        dataset = oriented(dataset, MIXED) if "widest_view" in PHANTOMS[str(data)] else dataset
        return load(dataset) if preload else dataset
    if n_subjects is not None:
        raise ValueError(f"n_subjects is for phantoms; the subjects of {data} are what they are")
    from activemri.data.formats.registry import all_readers
    from activemri.data.index import index_path
    from activemri.data.splits import assign_splits, select
    from activemri.data.volumes import VolumeDataset

    findings = None if annotations is None else read_findings(annotations)
    path = files.expanded(data)
    if not path.exists():
        raise FileNotFoundError(
            f"expected {', '.join(PHANTOMS)}, or the path of a scan or of a folder of scans; "
            f"nothing is at {path}"
        )
    index = index_path(path, all_readers(synthetic_phase=synthetic_phase))
    if index.problems:
        first = ": ".join(next(iter(index.problems.items())))
        log.warning("left out %d file(s), the first: %s", len(index.problems), first)
    listed = None if split_file is None else files.expanded(split_file)
    splits = assign_splits(index.entries, index.root, split_file=listed)
    dataset = VolumeDataset(
        index.root,
        select(index.entries, splits, split),
        name=path.stem if split == "all" else f"{path.stem} {split}",
        matrix_size=size,
        slices_per_volume=slices_per_volume,
        findings=findings,
        target=target,
    )
    return load(dataset) if preload else dataset


def load(dataset: SliceDataset) -> SliceList:
    """Read all slices of a data set into memory."""
    positions = track(range(len(dataset)), f"load {dataset.name}", unit="slice")
    return SliceList([dataset[position] for position in positions], name=dataset.name)


def matrix_shape(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width of a matrix size; one number stands for both. Others are refused."""
    if size is None:
        return None
    sides = (size, size) if isinstance(size, Integral) else size
    if (
        not isinstance(sides, tuple | list)
        or len(sides) != 2
        or not all(isinstance(side, Integral) for side in sides)
    ):
        raise ValueError(
            f"matrix size must be a whole number, or height and width as two; got {size!r}"
        )
    height, width = sides
    if not (2 <= height <= MOST_PIXELS and 2 <= width <= MOST_PIXELS):
        raise ValueError(
            f"matrix size must be 2 x 2 to {MOST_PIXELS} x {MOST_PIXELS}; got {height} x {width}"
        )
    return height, width
