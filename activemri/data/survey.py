"""Reads every sample once, to find what headers do not tell. Remembered like the index."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from activemri.data.annotations import Finding
from activemri.data.cache import FileFacts
from activemri.data.formats.stored import refuse_unusable
from activemri.data.index import Entry
from activemri.data.readers import READ_FAILURES, UnreadableError
from activemri.data.reference import magnitude_reference
from activemri.data.regions import region_of
from activemri.data.slices import Slice
from activemri.data.standard import to_matrix
from activemri.metrics import SSIM_WINDOW
from activemri.progress import Progress

#: A stored reference may differ this much (root mean square, relative) from the image of its
#: k-space. More means another convention of the Fourier transform, or another image.
MISMATCH = 0.05

#: The strongest sample of k-space may lie this share of a side away from the centre. More means
#: that the low frequencies are not in the middle.
OFF_CENTER = 0.25


@dataclass(frozen=True)
class Survey:
    """What reading all slices of a volume has shown.

    Attributes:
        volume_max: largest value of the target in the volume.
        usable: positions of the usable slices.
        problems: position and reason of each unusable slice.
        never_acquired: number of columns that were never acquired, the most in any slice.
        mismatch: relative difference between the reference and the image of the fully sampled
            k-space, in the middle slice.
        off_center: distance of the strongest sample from the centre of k-space, as a share of
            the side, in the middle slice.
    """

    volume_max: float = 0.0
    usable: tuple[int, ...] = ()
    problems: tuple[tuple[int, str], ...] = ()
    never_acquired: int = 0
    mismatch: float = 0.0
    off_center: float = 0.0

    @property
    def warning(self) -> str | None:
        """What is suspicious about the volume, though it can be used."""
        if self.off_center > OFF_CENTER:
            return (
                f"the strongest sample lies {self.off_center:.0%} of a side away from the centre "
                "of k-space; expected low frequencies in the middle"
            )
        if self.mismatch > MISMATCH:
            return (
                "the stored reference differs from the image of the k-space by "
                f"{self.mismatch:.0%}; expected a centred, orthonormal Fourier transform"
            )
        return None


def survey(
    root: Path, entries: Sequence[Entry], *, matrix_size: tuple[int, int] | None = None
) -> list[Survey]:
    """Read every slice of some files, or remember what that has shown before.

    Args:
        root: the index's root.
        entries: files of the index.
        matrix_size: look at the slices in this standard form; remembered apart.
    """
    readers = sorted({repr(entry.reader) for entry in entries})
    cache = FileFacts(root, f"samples {readers} {matrix_size} {SSIM_WINDOW}")
    sizes = [(root / entry.file).stat().st_size for entry in entries]
    surveys: list[Survey] = []
    try:
        with Progress("check", sum(sizes), unit="") as progress:
            for entry, size in zip(entries, sizes, strict=True):
                surveys.append(_remembered(root, entry, matrix_size, cache))
                progress(progress.at + size)
    finally:
        cache.save()
    return surveys


def read_slice(
    file: Any,
    entry: Entry,
    index: int,
    *,
    matrix_size: tuple[int, int] | None,
    findings: Sequence[Finding] = (),
) -> Slice:
    """A slice in the form asked for, with the region that findings mark.

    Its values are not looked at: that takes longer than reading them, and the survey has done it.

    Raises:
        UnreadableError: if it cannot be read.
    """
    scan = entry.reader.read(file, entry.volume, index)
    if findings:
        rows, columns = scan.target.shape
        boxes = [finding.box(rows) for finding in findings]
        scan = replace(scan, roi=region_of(boxes, (rows, columns)))
    if matrix_size is not None:
        scan = to_matrix(scan, matrix_size)
    return scan


def _refuse_unusable(scan: Slice) -> None:
    """Refuse damaged slices, and what SSIM is not defined for: it would end a whole run."""
    target = scan.target
    refuse_unusable(scan.kspace, "k-space")
    refuse_unusable(target, "the reference")
    if min(target.shape) < SSIM_WINDOW:
        raise UnreadableError(
            f"too small to be scored: expected a reference of at least {SSIM_WINDOW} x "
            f"{SSIM_WINDOW} pixels; got {target.shape[0]} x {target.shape[1]}"
        )


def _remembered(
    root: Path, entry: Entry, matrix_size: tuple[int, int] | None, cache: FileFacts
) -> Survey:
    status = (root / entry.file).stat()
    if (known := _from_json(cache.of(entry.file, status))) is not None:
        return known
    try:
        found, lasting = _read_all(root, entry, matrix_size)
    except READ_FAILURES as error:
        every = range(entry.volume.n_slices)
        return Survey(problems=tuple((index, str(error)) for index in every))
    if lasting:
        cache.keep(entry.file, status, asdict(found))
    return found


def _read_all(root: Path, entry: Entry, matrix_size: tuple[int, int] | None) -> tuple[Survey, bool]:
    """The survey, and whether it would come out the same next time (no failed reads)."""
    found, lasting = Survey(), True
    middle = entry.volume.n_slices // 2
    with entry.reader.container.open(root / entry.file) as file:
        for index in range(entry.volume.n_slices):
            try:
                scan = read_slice(file, entry, index, matrix_size=matrix_size)
                _refuse_unusable(scan)
            except READ_FAILURES as error:
                found = replace(found, problems=(*found.problems, (index, str(error))))
                lasting = lasting and isinstance(error, UnreadableError)
                continue
            found = _with_slice(found, scan, index)
            if index == middle:
                found = replace(found, mismatch=_mismatch(scan), off_center=_off_center(scan))
    return found, lasting


def _with_slice(found: Survey, scan: Slice, index: int) -> Survey:
    never_acquired = int((~scan.measured.any(dim=0)).sum())
    return replace(
        found,
        volume_max=max(found.volume_max, float(scan.target.max())),
        usable=(*found.usable, index),
        never_acquired=max(found.never_acquired, never_acquired),
    )


def _mismatch(scan: Slice) -> float:
    shape = (scan.target.shape[0], scan.target.shape[1])
    image = magnitude_reference(scan.kspace, shape, sensitivity=scan.sensitivity)
    norm = torch.linalg.vector_norm
    return float(norm(image - scan.target) / norm(scan.target))


def _off_center(scan: Slice) -> float:
    height, width = scan.shape
    row, column = divmod(int(scan.kspace.abs().amax(dim=0).argmax()), width)
    return max(abs(row - height // 2) / height, abs(column - width // 2) / width)


def _from_json(facts: dict[str, Any]) -> Survey | None:
    """What was remembered of a file; None if that is nothing, or of another version."""
    try:
        problems = tuple((index, reason) for index, reason in facts["problems"])
        return Survey(**(facts | {"usable": tuple(facts["usable"]), "problems": problems}))
    except (KeyError, TypeError, ValueError):
        return None
