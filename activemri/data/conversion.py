"""Write scans of any readable format in the fast generic layout: `activemri data convert`.

A volume becomes one file of :class:`activemri.data.formats.hdf5.HDF5Reader`, uncompressed, in
which a slice lies in one piece: read in about the time that a copy of its bytes takes.
"""

import errno
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import h5py
import numpy as np
import torch
from torch import Tensor
from tyro.conf import Positional, arg

from activemri.data.formats.registry import all_readers
from activemri.data.index import Entry, Index, index_path
from activemri.data.readers import READ_FAILURES, UnreadableError
from activemri.data.reference import magnitude_reference
from activemri.data.simulated_coils import CoilReader
from activemri.data.slices import Slice, measured_samples
from activemri.data.splits import assign_splits
from activemri.files import replacing
from activemri.progress import Progress

#: Most coils that are simulated.
MOST_COILS = 32

#: Raise it when the same source is written differently.
VERSION = 1


@dataclass(frozen=True)
class ConvertSettings:
    """Write scans of any readable format in the layout that is read fastest.

    Finished files are kept, so that an interrupted conversion can be started again.
    """

    path: Positional[Path]
    """A folder of scans, or one file."""
    out: Annotated[Path, arg(metavar="PATH")]
    """Folder for the converted files; made if missing."""
    split_file: Annotated[Path | None, arg(metavar="PATH")] = None
    """JSON or CSV file with the split of every subject, which the files then name."""
    coils: int | None = None
    """Let scans of one coil be seen by this many simulated coils, each with noise of its own."""

    def __post_init__(self) -> None:
        if self.coils is not None and not 2 <= self.coils <= MOST_COILS:
            raise ValueError(
                f"--coils: expected 2 to {MOST_COILS} coils to simulate; got {self.coils}"
            )


@dataclass(frozen=True)
class Conversion:
    """What became of the scans under a path.

    Attributes:
        out: the folder with the converted files.
        written: names of the files written now.
        kept: names of those that had been written before, from the same source.
        problems: what could not be converted, with the reasons.
    """

    out: Path
    written: tuple[str, ...]
    kept: tuple[str, ...]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        """A summary for people."""
        lines = [f"{self.out}: {len(self.written)} file(s) written, {len(self.kept)} kept"]
        if self.problems:
            lines.append(f"{len(self.problems)} problem(s):")
            lines += [f"  {problem}" for problem in self.problems]
        return "\n".join(lines)


def convert(settings: ConvertSettings) -> Conversion:
    """Convert every readable scan under a path. Finished files are kept, started ones are not.

    Folders below the path stay folders. Slices that cannot be read are named among the problems,
    and their places are filled with zeros, so that the numbers of the others stay the same.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        FileExistsError: if a file of a destination's name came from elsewhere.
        UnreadableError: if nothing at all could be converted, with the first reasons.
        ValueError: if the splits contradict each other, or `out` lies where the scans are.
    """
    source, out = settings.path.expanduser(), settings.out.expanduser()
    _refuse_inside(out, source)
    # Magnitudes stay bare, and get their synthetic phase when the converted file is read; but what
    # coils receive has a phase.
    index = index_path(source, all_readers(synthetic_phase=settings.coils is not None))
    if settings.coils is not None:
        seen = tuple(_seen_by_coils(entry, settings.coils) for entry in index.entries)
        index = replace(index, entries=seen)
    splits = assign_splits(index.entries, index.root, split_file=settings.split_file)
    problems = [str(problem) for problem in index.problems]
    written: list[str] = []
    kept: list[str] = []
    destinations = _destinations(index)
    for entry in index.entries:
        name = destinations[entry.file]
        split = splits[entry.volume.subject]
        if name is not None and _is_converted(out / name, _origin(index.root, entry, split)):
            kept.append(name)
    sizes = sum(_expected_bytes(e) for e in index.entries if destinations[e.file] not in kept)
    with Progress("convert", sizes, unit="") as progress:
        for entry in index.entries:
            name = destinations[entry.file]
            if name is None:
                problems.append(f"{entry.file}: another file would be converted to the same name")
            elif name not in kept:
                split = splits[entry.volume.subject]
                try:
                    problems += _write_volume(out / name, index.root, entry, split, progress)
                    written.append(name)
                except UnreadableError as error:
                    problems.append(f"{entry.file}: {error}")
    if not written and not kept:
        raise UnreadableError(f"nothing could be converted: {'; '.join(problems[:5])}")
    return Conversion(out, tuple(written), tuple(kept), tuple(problems))


def _seen_by_coils(entry: Entry, n_coils: int) -> Entry:
    """The same scan with simulated coils, if it has but one."""
    if entry.volume.n_coils != 1:
        return entry
    reader = CoilReader(entry.reader, entry.volume, n_coils)
    return replace(entry, reader=reader, volume=reader.volume)


def _refuse_inside(out: Path, source: Path) -> None:
    """Converted files must not be found as scans of their own source."""
    folder = source if source.is_dir() else source.parent
    if source.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--out must lie outside of {source}; got {out}")


def _destinations(index: Index) -> dict[str, str | None]:
    """File -> name of its converted file, or None where two would be the same."""
    names = {entry.file: f"{entry.reader.container.stem(entry.file)}.h5" for entry in index.entries}
    counts = Counter(names.values())
    return {file: name if counts[name] == 1 else None for file, name in names.items()}


def _origin(root: Path, entry: Entry, split: str) -> dict[str, str | int]:
    """What a converted file depends on; kept in it."""
    status = (root / entry.file).stat()
    return {
        "source": entry.file,
        "reader": entry.reader.name,
        "bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "split": split,
        "version": VERSION,
    }


def _is_converted(path: Path, origin: dict[str, str | int]) -> bool:
    """Whether the file is there and made from this source.

    Raises:
        FileExistsError: if it is another file, with what differs.
    """
    if not path.exists():
        return False
    try:
        with h5py.File(path, "r") as file:
            found = json.loads(str(file.attrs["converted_from"]))
        differences = [
            f"{key} was {found.get(key)!r}, is {value!r}"
            for key, value in origin.items()
            if found.get(key) != value
        ]
    except READ_FAILURES:
        differences = ["it was not made by this command"]
    if differences:
        raise FileExistsError(
            errno.EEXIST,
            f"is in the way ({'; '.join(differences)}); delete it or choose another --out",
            str(path),
        )
    return True


def _expected_bytes(entry: Entry) -> int:
    volume = entry.volume
    return volume.n_slices * volume.n_coils * volume.shape[0] * volume.shape[1] * 8


def _write_volume(
    path: Path, root: Path, entry: Entry, split: str, progress: Progress
) -> list[str]:
    """Write one file under another name and rename it when it is whole; returns the problems."""
    problems: list[str] = []
    with (
        replacing(path) as partial,
        entry.reader.container.open(root / entry.file) as source,
        h5py.File(partial, "w") as file,
    ):
        file.attrs.update(_attributes(root, entry, split))
        writer = _Writer(file, entry)
        for index in range(entry.volume.n_slices):
            try:
                scan = entry.reader.read(source, entry.volume, index)
            except READ_FAILURES as error:
                problems.append(f"{entry.file}, slice {index}: {error}")
            else:
                writer.write(index, scan)
            progress(progress.at + _expected_bytes(entry) // entry.volume.n_slices)
        if not writer.started:
            raise UnreadableError(f"no slice can be read, the first: {problems[0]}")
        writer.finish()
    return problems


def _attributes(root: Path, entry: Entry, split: str) -> dict[str, str | float]:
    volume = entry.volume
    found: dict[str, str | float] = {
        "subject_id": volume.subject,
        "contrast": volume.contrast,
        "scanner": volume.scanner,
        "split": split,
        "converted_from": json.dumps(_origin(root, entry, split)),
    }
    if volume.field_strength is not None:
        found["field_strength"] = volume.field_strength
    if volume.magnitude_only:
        found["phase"] = "magnitude only"
    if volume.simulated is not None:
        found["simulated"] = volume.simulated
    return found


class _Writer:
    """Fills the data sets of a file slice by slice; they are made by the first slice."""

    def __init__(self, file: h5py.File, entry: Entry) -> None:
        self._file = file
        self._volume = entry.volume
        self._padding: dict[int, Tensor] = {}
        self.started = False

    def write(self, index: int, scan: Slice) -> None:
        if not self.started:
            self._file.attrs["processing"] = json.dumps(list(scan.processing))
            self.started = True
        if self._volume.magnitude_only:
            self._write_image(index, scan)
            return
        self._put("kspace", index, scan.kspace)
        self._put("target", index, scan.target)
        if scan.sensitivity is not None:
            self._put("sensitivity", index, scan.sensitivity)
        if scan.label is not None:
            self._put("label", index, scan.label)
        if not torch.equal(scan.measured, measured_samples(scan.kspace)):
            self._padding[index] = scan.measured

    def _write_image(self, index: int, scan: Slice) -> None:
        if scan.target.shape == scan.shape:
            self._put("image", index, scan.target)
        else:
            self._file.attrs["readout_oversampling"] = scan.shape[0] / scan.target.shape[0]
            self._put("image", index, magnitude_reference(scan.kspace))

    def finish(self) -> None:
        """Write which samples were measured, if k-space does not tell it by itself."""
        if not self._padding:
            return
        for index in range(self._volume.n_slices):
            measured = self._padding.get(index)
            if measured is None:
                kspace = torch.from_numpy(self._file["kspace"][index])
                measured = measured_samples(kspace)
            self._put("measured", index, measured)

    def _put(self, key: str, index: int, values: Tensor) -> None:
        array: np.ndarray = values.numpy()
        if key not in self._file:
            shape = (self._volume.n_slices, *array.shape)
            self._file.create_dataset(key, shape=shape, dtype=array.dtype)
        if self._file[key].shape[1:] != array.shape:
            raise UnreadableError(
                f"{key} has the shape {array.shape}; slices before it {self._file[key].shape[1:]}"
            )
        self._file[key][index] = array
