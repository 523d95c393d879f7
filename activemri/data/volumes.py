"""Slices read from files on demand, and surveys: facts that only reading all samples shows."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from activemri.data.formats.stored import refuse_unusable
from activemri.data.index import Entry, FileFacts
from activemri.data.readers import READ_FAILURES, Container, UnreadableError
from activemri.data.regions import Box, Findings, region_of, upright
from activemri.data.slices import Slice, SliceInfo
from activemri.data.standard import magnitude_reference, to_matrix
from activemri.metrics import SSIM_WINDOW
from activemri.progress import Progress

MAX_OPEN_FILES = 32

#: A stored reference may differ this much (root mean square, relative) from the image of its
#: k-space. More means another convention of the Fourier transform, or another image.
MISMATCH = 0.05

#: The strongest sample of k-space may lie this share of a side away from the centre. More means
#: that the low frequencies are not in the middle.
OFF_CENTER = 0.25

log = logging.getLogger(__name__)


class VolumeDataset:
    """The slices of some volumes, each read from its file when asked for.

    Can be pickled and forked: every process opens its own files.

    Args:
        root: folder that the entries' names are relative to.
        entries: files to take slices from.
        name: short name for reports.
        matrix_size: bring every slice to this (height, width).
        slices_per_volume: take at most this many slices of a volume, evenly spaced.
        findings: boxes by volume and slice; only slices that have one are taken, and the boxes
            become their region of interest.

    Raises:
        UnreadableError: if no slice can be used.
        ValueError: if no usable slice has a finding.
    """

    def __init__(
        self,
        root: Path,
        entries: Sequence[Entry],
        *,
        name: str,
        matrix_size: tuple[int, int] | None = None,
        slices_per_volume: int | None = None,
        findings: Findings | None = None,
    ) -> None:
        self.name = name
        self._findings = findings or {}
        self._matrix_size = matrix_size
        self._files = OpenFiles(root)
        surveys = survey(root, entries, matrix_size=matrix_size)
        unusable: list[str] = []
        self._slices: list[tuple[Entry, int, float]] = []
        for entry, found in zip(entries, surveys, strict=True):
            unusable += [f"{entry.file}, slice {i}: {reason}" for i, reason in found.problems]
            if found.warning is not None:
                log.warning("%s: %s", entry.file, found.warning)
            volume = entry.volume.name
            usable = [i for i in found.usable if findings is None or (volume, i) in findings]
            chosen = evenly_spaced(usable, slices_per_volume)
            self._slices += [(entry, index, found.volume_max) for index in chosen]
        if unusable:
            log.warning("left out %d slice(s), the first: %s", len(unusable), unusable[0])
        if not self._slices and findings is not None and any(found.usable for found in surveys):
            raise ValueError(
                f"none of the slices of {name} has a box: volumes are called e.g. "
                f"{entries[0].volume.name!r}, the annotations are for e.g. {next(iter(findings))}"
            )
        if not self._slices:
            raise UnreadableError(f"no usable slice in {name}; left out {len(unusable)} slices")
        used = {entry.file: entry.volume for entry, _, _ in self._slices}.values()
        self.n_coils = max(volume.n_coils for volume in used)
        self.shape = matrix_size or (
            max(volume.shape[0] for volume in used),
            max(volume.shape[1] for volume in used),
        )

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, position: int) -> Slice:
        entry, index, volume_max = self._slices[position]
        try:
            file = self._files.open(entry.file, entry.reader.container)
            findings = self._findings.get((entry.volume.name, index), ())
            scan = _read_slice(file, entry, index, matrix_size=self._matrix_size, findings=findings)
        except READ_FAILURES as error:
            raise UnreadableError(
                f"{entry.file}, slice {index}, was readable when it was indexed: {error}"
            ) from error
        return replace(scan, volume_max=volume_max)

    def describe(self, position: int) -> SliceInfo:
        """Labels and sizes of a slice; reads nothing."""
        entry, index, _ = self._slices[position]
        volume = entry.volume
        return SliceInfo(
            volume=volume.name,
            index=index,
            subject=volume.subject,
            contrast=volume.contrast,
            shape=self._matrix_size or volume.shape,
            target_shape=self._matrix_size or volume.target_shape,
            n_coils=volume.n_coils,
            field_strength=volume.field_strength,
            scanner=volume.scanner,
        )


class OpenFiles:
    """Keeps the files used last open, separately in every process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._process = os.getpid()
        self._open: OrderedDict[str, Any] = OrderedDict()

    def open(self, name: str, kind: Container) -> Any:
        """The open file of that name, relative to the root."""
        if self._process != os.getpid():
            # Handles inherited by a fork share their file positions with the parent.
            self._process, self._open = os.getpid(), OrderedDict()
        if name not in self._open:
            self._open[name] = kind.open(self.root / name)
            if len(self._open) > MAX_OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(name)
        return self._open[name]

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "_process": -1, "_open": OrderedDict()}


def evenly_spaced(positions: Sequence[int], count: int | None) -> list[int]:
    """At most `count` of the positions, in the middles of as many equal parts."""
    if count is None or count >= len(positions):
        return list(positions)
    if count < 1:
        raise ValueError(f"expected at least one slice per volume; got {count}")
    return [positions[(2 * part + 1) * len(positions) // (2 * count)] for part in range(count)]


@dataclass(frozen=True)
class Survey:
    """Facts about a volume that reading all of its slices has shown.

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
        """Something suspicious about the volume, though it can be used."""
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


def _read_slice(
    file: Any,
    entry: Entry,
    index: int,
    *,
    matrix_size: tuple[int, int] | None,
    findings: Sequence[Box] = (),
) -> Slice:
    """A slice in the standard form of a size, with the region that findings mark.

    Its values are not looked at: that takes longer than reading them, and the survey has done it.
    """
    scan = entry.reader.read(file, entry.volume, index)
    if findings:
        rows, columns = scan.target.shape
        boxes = [upright(box, rows) for box in findings]
        scan = replace(scan, roi=region_of(boxes, (rows, columns)))
    return scan if matrix_size is None else to_matrix(scan, matrix_size)


def _remembered(
    root: Path, entry: Entry, matrix_size: tuple[int, int] | None, cache: FileFacts
) -> Survey:
    status = (root / entry.file).stat()
    facts = cache.of(entry.file, status)
    try:
        problems = tuple((index, reason) for index, reason in facts["problems"])
        return Survey(**(facts | {"usable": tuple(facts["usable"]), "problems": problems}))
    except (KeyError, TypeError, ValueError):  # nothing, or of another version
        pass
    try:
        found, lasting = _read_all(root, entry, matrix_size)
    except READ_FAILURES as error:
        return Survey(problems=tuple((i, str(error)) for i in range(entry.volume.n_slices)))
    if lasting:
        cache.keep(entry.file, status, asdict(found))
    return found


def _read_all(root: Path, entry: Entry, matrix_size: tuple[int, int] | None) -> tuple[Survey, bool]:
    """The survey, and whether it would come out the same next time (no failed reads)."""
    found, lasting = Survey(), True
    with entry.reader.container.open(root / entry.file) as file:
        for index in range(entry.volume.n_slices):
            try:
                scan = _read_slice(file, entry, index, matrix_size=matrix_size)
                refuse_unusable(scan.kspace, "k-space")
                refuse_unusable(scan.target, "the reference")
                height, width = scan.target.shape
                if min(height, width) < SSIM_WINDOW:  # it would end a whole run
                    raise UnreadableError(
                        f"too small to be scored: expected a reference of at least {SSIM_WINDOW} "
                        f"x {SSIM_WINDOW} pixels; got {height} x {width}"
                    )
            except READ_FAILURES as error:
                found = replace(found, problems=(*found.problems, (index, str(error))))
                lasting = lasting and isinstance(error, UnreadableError)
                continue
            never_acquired = int((~scan.measured.any(dim=0)).sum())
            found = replace(
                found,
                volume_max=max(found.volume_max, float(scan.target.max())),
                usable=(*found.usable, index),
                never_acquired=max(found.never_acquired, never_acquired),
            )
            if index == entry.volume.n_slices // 2:
                image = magnitude_reference(
                    scan.kspace, (height, width), sensitivity=scan.sensitivity
                )
                norm = torch.linalg.vector_norm
                n_rows, n_columns = scan.shape
                row, column = divmod(int(scan.kspace.abs().amax(dim=0).argmax()), n_columns)
                off = abs(row - n_rows // 2) / n_rows, abs(column - n_columns // 2) / n_columns
                mismatch = float(norm(image - scan.target) / norm(scan.target))
                found = replace(found, mismatch=mismatch, off_center=max(off))
    return found, lasting
