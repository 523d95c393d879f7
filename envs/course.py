"""The course of imperfect scans: what was measured, when, how often, and what came out.

Without an imperfection none of this exists: a line is measured once, and gives its samples.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from activemri.envs.imperfections import Asked, Conditions, Imperfection, Start
from activemri.mri import lines
from activemri.mri.geometry import CartesianGeometry


@dataclass(eq=False)
class Record:
    """What a scanner knows of its measurements, line by line.

    Attributes:
        n_measured: how often each line was measured, int64 (batch, n_lines).
        last_measured: measurements made before its last one, -1 for none, int64 (batch, n_lines).
        suspicion: what the scanner noticed at its last measurement, float32 (batch, n_lines): above
            1 where it would object; see :mod:`activemri.envs.imperfections`.
    """

    n_measured: Tensor
    last_measured: Tensor
    suspicion: Tensor

    def least_measured(self, legal: Tensor, measurable: Tensor, groups: Tensor) -> Tensor:
        """Legal actions whose lines, the least measured of each, were measured least.

        Args:
            legal: bool (batch, n_actions).
            measurable: lines that the scans have, bool (batch, n_lines).
            groups: lines of each action, int64 (n_actions, k).

        Returns:
            bool (batch, n_actions).
        """
        last = torch.iinfo(torch.int64).max  # rank of what does not exist
        rounds = self.n_measured.masked_fill(~measurable, last)[:, groups].amin(dim=-1)
        return legal & (rounds == rounds.masked_fill(~legal, last).amin(dim=1, keepdim=True))

    def clone(self) -> Self:
        return replace(self, **{f.name: getattr(self, f.name).clone() for f in fields(self)})


@dataclass(eq=False)
class Course:
    """A batch of imperfect scans; rows are independent.

    Attributes:
        conditions: what the scans meet. Secret.
        record: what the scanner knows.
        samples: k-space as measured so far, zero elsewhere, complex
            (batch, line of the scan, coil, samples).
        spent: lines that may not be measured again, bool (batch, n_lines).
        log: lines measured after the start, in order, -1 for those to come, int64 (batch, horizon).
    """

    conditions: Conditions
    record: Record
    samples: Tensor
    spent: Tensor
    log: Tensor

    def clone(self) -> Self:
        """A copy that shares what never changes."""
        return replace(
            self,
            record=self.record.clone(),
            samples=self.samples.clone(),
            spent=self.spent.clone(),
            log=self.log.clone(),
        )


@dataclass(frozen=True, eq=False)
class Wanted:
    """Lines to be measured in scans, one action a row.

    Attributes:
        row: which scan of the batch, int64 (n,).
        group: lines of the frame, int64 (n, k).
        new: which of them to measure, bool (n, k).
        time: measurements made before, int64 (n,).
    """

    row: Tensor
    group: Tensor
    new: Tensor
    time: Tensor

    def of(self, places: Tensor) -> "Wanted":
        """Some of the rows."""
        return Wanted(self.row[places], self.group[places], self.new[places], self.time[places])


@dataclass(frozen=True, eq=False)
class Measuring:
    """Measures lines of scans of one size.

    Attributes:
        imperfection: what keeps measurements from being those of the target.
        geometry: whose lines are measured.
        shape: height and width of the scans.
    """

    imperfection: Imperfection
    geometry: CartesianGeometry
    shape: tuple[int, int]

    def begin(self, kspace: Tensor, mask: Tensor, *, seeds: Tensor, horizon: int) -> Course:
        """Measure the starting lines, from the centre of k-space outwards.

        Args:
            kspace: of the targets, complex (batch, coil, height, width).
            mask: lines to start with, bool (batch, n_lines).
            seeds: one for each episode, int64 (batch,).
            horizon: measurements after the start, at most.
        """
        acquired, n_lines = self.geometry.kspace_mask(mask, self.shape), mask.sum(dim=1)
        start = Start(kspace, acquired, n_lines, seeds, horizon, self.geometry)
        course = Course(
            conditions=self.imperfection.conditions(start),
            record=Record(
                n_measured=torch.zeros_like(mask, dtype=torch.int64),
                last_measured=torch.full_like(mask, -1, dtype=torch.int64),
                suspicion=torch.zeros_like(mask, dtype=torch.float32),
            ),
            samples=torch.zeros_like(
                lines.lines_of(kspace, self.geometry), memory_format=torch.contiguous_format
            ),
            spent=torch.zeros_like(mask),
            log=torch.full((len(mask), horizon), -1, device=mask.device),
        )
        rows, order = torch.arange(len(mask), device=mask.device), self.geometry.outwards
        wanted = Wanted(rows, order.expand(mask.shape), mask[:, order], torch.zeros_like(n_lines))
        self._measure(course, wanted)
        return course

    def measure(self, course: Course, wanted: Wanted) -> Tensor:
        """Measure lines, in place; one row for each scan.

        Returns:
            What that adds to the samples of the lines, transformed along the readout: complex
            (batch, k, coil, samples), zero for lines that are not measured.
        """
        row, place = wanted.new.nonzero(as_tuple=True)
        n_before = (course.log >= 0).sum(dim=1, keepdim=True)
        course.log[row, (n_before + wanted.new.cumsum(dim=1) - 1)[row, place]] = wanted.group[
            row, place
        ]
        return self._measure(course, wanted)

    def replay(self, course: Course, log: Tensor, time: Tensor) -> None:
        """Measure the lines of a log, int64 (batch, horizon), after `time` measurements, (batch,).

        Raises:
            ValueError: for a log of another shape.
        """
        if log.shape != course.log.shape:
            raise ValueError(
                f"expected a log of shape {tuple(course.log.shape)}; got {tuple(log.shape)}"
            )
        rows = torch.arange(len(log), device=log.device)
        for line in log.T[:, :, None]:
            new = line >= 0
            if not bool(new.any()):
                break
            self.measure(course, Wanted(rows, line.clamp(min=0), new, time))
            time = time + new[:, 0]

    def change(self, course: Course, wanted: Wanted) -> Tensor:
        """What :meth:`measure` would return for any number of rows, none of which is measured."""
        return self._spread(wanted, self._outcome(course, wanted).change)

    def left(self, course: Course, measurable: Tensor) -> Tensor:
        """How often each line may still be measured, int64 (batch, n_lines)."""
        return (self.imperfection.repeats - course.record.n_measured) * measurable

    def kspace(self, course: Course, wanted: Wanted | None = None) -> Tensor:
        """As measured, complex (batch, coil, height, width); with more lines on trial, (n, ...)."""
        samples = course.samples
        if wanted is not None:
            outcome = self._outcome(course, wanted)
            samples = samples[wanted.row]
            samples[outcome.place[0], outcome.asked.line] = outcome.total
        return lines.kspace_of(samples, self.geometry, self.shape).contiguous()

    def _measure(self, course: Course, wanted: Wanted) -> Tensor:
        outcome, record = self._outcome(course, wanted), course.record
        asked, at = outcome.asked, (outcome.asked.row, wanted.group[outcome.place])
        course.samples[asked.row, asked.line] = outcome.total
        record.n_measured[at] = asked.nth + 1
        record.last_measured[at] = asked.time
        record.suspicion[at] = outcome.suspicion
        course.spent[at] = asked.nth + 1 >= self.imperfection.repeats
        return self._spread(wanted, outcome.change)

    def _outcome(self, course: Course, wanted: Wanted) -> "_Outcome":
        place = wanted.new.nonzero(as_tuple=True)
        row, line = wanted.row[place[0]], wanted.group[place]
        asked = Asked(
            row=row,
            line=self.geometry.line_of_scan(line, self.shape),
            nth=course.record.n_measured[row, line],
            time=(wanted.time[:, None] + wanted.new.cumsum(dim=1) - 1)[place],
        )
        received = self.imperfection.measure(course.conditions, asked)
        before = course.samples[asked.row, asked.line]
        total = received
        if self.imperfection.averages:
            weight = (1 / (asked.nth + 1).to(torch.float32))[:, None, None]
            total = before + (received - before) * weight
        return _Outcome(
            asked=asked,
            place=place,
            total=total,
            change=lines.read_out(total - before, self.geometry),
            suspicion=self.imperfection.suspicion(course.conditions, asked, received),
        )

    def _spread(self, wanted: Wanted, change: Tensor) -> Tensor:
        everything = change.new_zeros((*wanted.new.shape, *change.shape[1:]))
        everything[wanted.new] = change
        return everything


@dataclass(frozen=True, eq=False)
class _Outcome:
    """Measurements as they come out, one a row.

    `place` is where they are in the lines wanted; `total` what the lines then hold, complex
    (n, coil, samples); `change` what that adds, transformed along the readout.
    """

    asked: Asked
    place: tuple[Tensor, ...]
    total: Tensor
    change: Tensor
    suspicion: Tensor
