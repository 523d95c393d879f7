"""Slices read from files on demand."""

import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from activemri.data.annotations import Findings
from activemri.data.containers import Container
from activemri.data.index import Entry
from activemri.data.readers import READ_FAILURES, UnreadableError
from activemri.data.slices import Slice, SliceInfo
from activemri.data.survey import Survey, read_slice, survey

MAX_OPEN_FILES = 32

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

    Attributes:
        problems: number of slices left out because they cannot be used.

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
        self.problems = _report_problems(entries, surveys)
        self._slices = [
            (entry, index, found.volume_max)
            for entry, found in zip(entries, surveys, strict=True)
            for index in evenly_spaced(
                found.usable if findings is None else marked(entry, found.usable, findings),
                slices_per_volume,
            )
        ]
        if not self._slices and findings is not None and any(found.usable for found in surveys):
            raise ValueError(
                f"none of the slices of {name} has a box: volumes are called e.g. "
                f"{entries[0].volume.name!r}, the annotations are for e.g. {next(iter(findings))}"
            )
        if not self._slices:
            raise UnreadableError(f"no usable slice in {name}; left out {self.problems} slices")
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
            scan = read_slice(file, entry, index, matrix_size=self._matrix_size, findings=findings)
        except READ_FAILURES as error:
            raise UnreadableError(
                f"{entry.file}, slice {index}, was readable when it was indexed: {error}"
            ) from error
        return replace(scan, volume_max=volume_max)

    def describe(self, position: int) -> SliceInfo:
        """What is known of a slice; reads nothing."""
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


def marked(entry: Entry, usable: Sequence[int], findings: Findings) -> list[int]:
    """Those of some slices of a volume that have a finding."""
    return [index for index in usable if (entry.volume.name, index) in findings]


def _report_problems(entries: Sequence[Entry], surveys: Sequence[Survey]) -> int:
    unusable = [
        f"{entry.file}, slice {index}: {reason}"
        for entry, found in zip(entries, surveys, strict=True)
        for index, reason in found.problems
    ]
    if unusable:
        log.warning("left out %d slice(s), the first: %s", len(unusable), unusable[0])
    for entry, found in zip(entries, surveys, strict=True):
        if found.warning is not None:
            log.warning("%s: %s", entry.file, found.warning)
    return len(unusable)
