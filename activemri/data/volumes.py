"""Slices read from files on demand, and surveys: facts that only reading all samples shows."""

import logging
import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from activemri.data.contents import marks_of_files
from activemri.data.formats.stored import refuse_unusable
from activemri.data.index import Entry, FileFacts
from activemri.data.isolation import Run, here
from activemri.data.readers import UnreadableError, guarded
from activemri.data.regions import Box, Findings, region_of, upright
from activemri.data.slices import COMBINED, TARGETS, Slice, SliceInfo
from activemri.data.standard import magnitude_reference, to_matrix, with_target
from activemri.metrics import SSIM_WINDOW
from activemri.progress import Progress

MAX_OPEN_FILES = 32

#: A stored reference may differ this much (root mean square, relative) from the image of its
#: k-space. More means another convention of the Fourier transform, or another image.
MISMATCH = 0.05

#: The strongest sample of k-space may lie this share of a side away from the centre. More means
#: that the low frequencies are not in the middle.
OFF_CENTER = 0.25

#: Least and most of the largest value of k-space and of the reference. Within them scores do not
#: depend on the scale to 1e-4; beyond 1e-12 and 1e16 squares in float32 get lost in CG-SENSE.
MAGNITUDES = (1e-10, 1e10)

#: Columns and rows that were measured are more than this share of all, and more than one: scans
#: start with some of them, and something must be left to choose.
LEAST_MEASURED = 1 / 8

#: Targets of a file and wanted, where the file's stays: whoever made it wants it.
_STAYS = ("own", COMBINED)

log = logging.getLogger(__name__)


class VolumeDataset:
    """The slices of some volumes, each read from its file when asked for.

    Can be pickled and forked: every process opens its own files.

    Args:
        root, entries: of an index.
        name, matrix_size, slices_per_volume, target: as of
            :func:`activemri.data.sources.open_dataset`.
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
        target: str = COMBINED,
    ) -> None:
        self.name, self._target = name, target
        self._root = root
        self._findings = findings or {}
        self._matrix_size = matrix_size
        self._contents: FileFacts | None = None
        self._process = os.getpid()
        self._files: OrderedDict[str, Any] = OrderedDict()  # those used last stay open
        surveys = survey(root, entries, matrix_size=matrix_size, target=target)
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
        if not self._slices:
            if findings is not None and any(found.usable for found in surveys):
                raise ValueError(
                    f"none of the slices of {name} has a box: volumes are called e.g. "
                    f"{entries[0].volume.name!r}, the annotations are for e.g. "
                    f"{next(iter(findings))}"
                )
            raise UnreadableError(f"no usable slice in {name}; left out {len(unusable)} slices")
        used = {entry.file: entry.volume for entry, _, _ in self._slices}.values()
        self.n_coils = max(volume.n_coils for volume in used)
        rows, columns = zip(*(volume.shape for volume in used), strict=True)
        self.shape = matrix_size or (max(rows), max(columns))

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, position: int) -> Slice:
        entry, index, volume_max = self._slices[position]
        findings = self._findings.get((entry.volume.name, index), ())
        try:
            with guarded():
                scan = _read_slice(
                    self._open(entry),
                    entry,
                    index,
                    matrix_size=self._matrix_size,
                    target=self._target,
                    findings=findings,
                )
        except UnreadableError as error:
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
            phase=volume.phase,
        )

    def marks(self, positions: Sequence[int], *, anew: bool) -> list[str]:
        """SHA-256 of the file of each slice, or a digest of those of its files."""
        used = {self._slices[position][0].file: self._slices[position][0] for position in positions}
        parts = [entry.reader.container.parts(self._root / file) for file, entry in used.items()]
        self._contents = self._contents or FileFacts(self._root, "contents")
        found = marks_of_files(self._root, parts, self._contents, anew=anew)
        by_file = dict(zip(used, found, strict=True))
        return [by_file[self._slices[position][0].file] for position in positions]

    def _open(self, entry: Entry) -> Any:
        if self._process != os.getpid():
            # Handles inherited by a fork share their file positions with the parent.
            self._process, self._files = os.getpid(), OrderedDict()
        if entry.file not in self._files:
            self._files[entry.file] = entry.reader.container.open(self._root / entry.file)
            if len(self._files) > MAX_OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(entry.file)
        return self._files[entry.file]

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_process": -1, "_files": OrderedDict()}


def evenly_spaced(positions: Sequence[int], count: int | None) -> list[int]:
    """At most `count` of the positions, in the middles of as many equal parts."""
    if count is None or count >= len(positions):
        return list(positions)
    if count < 1:
        raise ValueError(f"expected at least one slice per volume; got {count}")
    return [positions[(2 * part + 1) * len(positions) // (2 * count)] for part in range(count)]


@dataclass(frozen=True)
class Survey:
    """Facts about a volume that reading all of its slices has shown."""

    volume_max: float = 0.0  # of the target
    usable: tuple[int, ...] = ()  # positions
    problems: tuple[tuple[int, str], ...] = ()  # position and reason of each unusable slice
    never_acquired: int = 0  # columns, the most in any slice
    # Of the middle slice: relative difference between the reference and the image of the k-space,
    # and distance of the strongest sample from the centre of k-space as a share of the side.
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
    root: Path,
    entries: Sequence[Entry],
    *,
    matrix_size: tuple[int, int] | None = None,
    target: str = COMBINED,
    run: Run = here,
) -> list[Survey]:
    """Read every slice of some files of an index, or remember what that has shown before.

    Slices are looked at in the standard form of a matrix size and with a target, which are
    remembered apart. `run`
    runs the function that reads.
    """
    readers = sorted({repr(entry.reader) for entry in entries})
    cache = FileFacts(root, f"samples {readers} {matrix_size} {target} {SSIM_WINDOW}")
    statuses = [(root / entry.file).stat() for entry in entries]
    surveys: list[Survey] = []
    try:
        with Progress("check", sum(one.st_size for one in statuses), unit="") as progress:
            for entry, status in zip(entries, statuses, strict=True):
                facts = cache.of(entry.file, status)
                try:
                    problems = tuple((index, reason) for index, reason in facts["problems"])
                    known = facts | {"usable": tuple(facts["usable"]), "problems": problems}
                    found = Survey(**known)
                except (KeyError, TypeError, ValueError):  # nothing, or of another version
                    try:
                        found, lasting = run(_read_all, root, entry, matrix_size, target)
                    except UnreadableError as error:  # of a process that has ended
                        found, lasting = _without_slices(entry, error), False
                    if lasting:
                        cache.keep(entry.file, status, asdict(found))
                surveys.append(found)
                progress(progress.at + status.st_size)
    finally:
        cache.save()
    return surveys


def _read_slice(
    file: Any,
    entry: Entry,
    index: int,
    *,
    matrix_size: tuple[int, int] | None,
    target: str,
    findings: Sequence[Box] = (),
) -> Slice:
    """A slice in the standard form of a size, with a target and the region that findings mark.

    Of several coils a reference that is not the wanted one is made anew.

    Its values are not looked at: that takes longer than reading them, and the survey has done it.
    """
    scan, volume = entry.reader.read(file, entry.volume, index), entry.volume
    shapes = tuple(scan.kspace.shape), tuple(scan.target.shape)
    if shapes != ((volume.n_coils, *volume.shape), volume.target_shape):
        raise UnreadableError(f"k-space and reference of {shapes}; expected those of its volume")
    if findings:
        rows, columns = scan.target.shape
        boxes = [upright(box, rows) for box in findings]
        scan = replace(scan, roi=region_of(boxes, (rows, columns)))
    read = scan.target
    if matrix_size is not None:
        scan = to_matrix(scan, matrix_size, target=target)
    if scan.target is read and volume.target != target and (volume.target, target) != _STAYS:
        scan = with_target(scan, target)  # not before: maps of large images take long
    return scan


def _read_all(
    root: Path, entry: Entry, matrix_size: tuple[int, int] | None, target: str
) -> tuple[Survey, bool]:
    """The survey, and whether it would come out the same next time (no failed reads)."""
    problems: list[tuple[int, str]] = []
    usable: list[int] = []
    volume_max, never_acquired, mismatch, off_center, lasting = 0.0, 0, 0.0, 0.0, True
    try:
        with guarded(), entry.reader.container.open(root / entry.file) as file:
            for index in range(entry.volume.n_slices):
                try:
                    with guarded():
                        scan = _read_slice(
                            file, entry, index, matrix_size=matrix_size, target=target
                        )
                        _refuse_unusable(scan)
                except UnreadableError as error:
                    problems.append((index, str(error)))
                    lasting = lasting and error.__cause__ is None
                    continue
                usable.append(index)
                volume_max = max(volume_max, float(scan.target.max()))
                never_acquired = max(never_acquired, int((~scan.measured.any(dim=0)).sum()))
                if index == entry.volume.n_slices // 2:
                    kept = entry.volume.target  # what the file itself holds
                    scan = _read_slice(file, entry, index, matrix_size=matrix_size, target=kept)
                    mismatch, off_center = _conventions(scan)
    except UnreadableError as error:  # of opening it
        return _without_slices(entry, error), False
    facts = (volume_max, tuple(usable), tuple(problems), never_acquired, mismatch, off_center)
    return Survey(*facts), lasting


def _without_slices(entry: Entry, error: UnreadableError) -> Survey:
    return Survey(problems=tuple((i, str(error)) for i in range(entry.volume.n_slices)))


def _refuse_unusable(scan: Slice) -> None:
    """Refuse a slice that would end a run, or spoil its numbers, by UnreadableError."""
    if scan.sensitivity is not None:
        refuse_unusable(scan.sensitivity, "the coil maps")
    least, most = MAGNITUDES
    samples = torch.view_as_real(scan.kspace)
    for values, what in ((samples, "k-space"), (scan.target, "the reference")):
        refuse_unusable(values, what)
        largest = float(torch.linalg.vector_norm(values, ord=math.inf))
        if not least <= largest <= most:
            raise UnreadableError(
                f"the largest value of {what} is {'below' if largest < least else 'above'} the "
                f"range from {least:g} to {most:g}: multiply k-space and reference by a constant"
            )
    if bool((scan.target < 0).any()):
        raise UnreadableError("the reference has negative values; expected magnitudes")
    for name, axis in (("columns", 0), ("rows", 1)):
        lines = scan.measured.any(dim=axis)
        n_measured, fewest = int(lines.sum()), max(2, int(len(lines) * LEAST_MEASURED) + 1)
        if n_measured < fewest:
            raise UnreadableError(
                f"only {n_measured} of {len(lines)} {name} were measured; expected at least "
                f"{fewest}, so that there is something to choose"
            )
    height, width = scan.target.shape
    if min(height, width) < SSIM_WINDOW:
        raise UnreadableError(
            f"too small to be scored: expected a reference of at least {SSIM_WINDOW} x "
            f"{SSIM_WINDOW} pixels; got {height} x {width}"
        )


def _conventions(scan: Slice) -> tuple[float, float]:
    """Mismatch of the reference, and distance of the strongest sample; see :class:`Survey`."""
    (height, width), (n_rows, n_columns) = scan.target.shape, scan.shape
    images = (
        magnitude_reference(scan.kspace, (height, width), sensitivity=scan.sensitivity, target=one)
        for one in TARGETS
    )
    norm = torch.linalg.vector_norm
    row, column = divmod(int(scan.kspace.abs().amax(dim=0).argmax()), n_columns)
    aside = max(abs(row - n_rows // 2) / n_rows, abs(column - n_columns // 2) / n_columns)
    mismatch = min(float(norm(image - scan.target) / norm(scan.target)) for image in images)
    return mismatch, aside
