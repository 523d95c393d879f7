"""Write scans of any readable format in the fast generic layout: `activemri data convert`.

A volume becomes one file of :class:`activemri.data.formats.hdf5.HDF5Reader`, uncompressed, in
which a slice lies in one piece: read in about the time that a copy of its bytes takes.
"""

import errno
import json
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import h5py
import torch
from numpy.typing import NDArray
from torch import Tensor
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from activemri import files
from activemri.data.formats.registry import all_readers
from activemri.data.index import Entry, Index, index_path
from activemri.data.isolation import Isolation, Run
from activemri.data.readers import HDF5, UnreadableError, Volume, guarded, one_line
from activemri.data.simulated_coils import with_coils
from activemri.data.slices import COMBINED, RSS, measured_samples
from activemri.data.splits import assign_splits
from activemri.data.standard import magnitude_reference, with_target
from activemri.progress import Progress

MOST_COILS = 32  # that are simulated
VERSION = 1  # raise it when the same source is written differently

Origin = dict[str, str | int]  # all that a converted file depends on; kept in it


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
    overwrite: FlagCreatePairsOff[bool] = False
    """Replace converted files whose source or settings were others."""
    coils: int | None = None
    """Let scans of one coil be seen by this many simulated coils, each with noise of its own."""
    isolation: OmitArgPrefixes[Isolation] = Isolation()

    def __post_init__(self) -> None:
        if self.coils is not None and not 2 <= self.coils <= MOST_COILS:
            raise ValueError(
                f"--coils: expected 2 to {MOST_COILS} coils to simulate; got {self.coils}"
            )


def convert(settings: ConvertSettings) -> str:
    """Convert every readable scan under a path; says what was written, kept, or a problem.

    Folders below the path stay folders. Places of slices that cannot be read are filled with zeros,
    so that the numbers of the others stay the same.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        FileExistsError: if a file of a destination's name came from elsewhere, without --overwrite.
        UnreadableError: if nothing at all could be converted, with the first reasons.
        ValueError: if the splits contradict each other, `out` lies where the scans are, or belongs
            to another command or another process.
    """
    source, out = files.expanded(settings.path), files.expanded(settings.out)
    files.require_claimable(out, "data convert")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"--out must lie outside of {source}; got {out}")
    # Magnitudes stay bare, and get their synthetic phase when the converted file is read; but what
    # coils receive has a phase.
    readers = all_readers(synthetic_phase=settings.coils is not None)
    with settings.isolation.reading() as run:
        index = index_path(source, readers, run=run)
        splits = assign_splits(index.entries, index.root, split_file=settings.split_file)
        with files.claimed(out, "data convert"):
            return _convert(settings, out, index, splits, run)


def _convert(
    settings: ConvertSettings, out: Path, index: Index, splits: Mapping[str, str], run: Run
) -> str:
    names = [f"{entry.reader.container.stem(entry.file)}.h5" for entry in index.entries]
    counts = Counter(names)
    problems = [one_line(f"{file}: {reason}") for file, reason in index.problems.items()]
    n_written = n_kept = 0
    pending: list[tuple[str, Entry, Volume, Origin]] = []
    for name, entry in zip(names, index.entries, strict=True):
        volume, reader = entry.volume, entry.reader.name
        if settings.coils is not None and volume.n_coils == 1:
            made = "phase and coils" if volume.magnitude_only else "coils"
            volume = replace(volume, n_coils=settings.coils, magnitude_only=False, simulated=made)
            reader = f"{reader}, {settings.coils} simulated coils"
        status = (index.root / entry.file).stat()
        origin: Origin = {
            "source": entry.file,
            "reader": reader,
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "split": splits[volume.subject],
            "version": VERSION,
        }
        if counts[name] > 1:
            problems.append(f"{entry.file}: another file would be converted to the same name")
        elif _is_converted(out / name, origin, overwrite=settings.overwrite):
            n_kept += 1
        else:
            pending.append((name, entry, volume, origin))
    sizes = [v.n_slices * v.n_coils * v.shape[0] * v.shape[1] * 8 for _, _, v, _ in pending]
    with Progress("convert", sum(sizes), unit="") as progress:
        for (name, entry, volume, origin), size in zip(pending, sizes, strict=True):
            try:
                source = index.root / entry.file
                problems += run(_write_volume, out / name, source, entry, volume, origin)
                n_written += 1
            except UnreadableError as error:
                _partial(out / name).unlink(missing_ok=True)  # of an isolated process that ended
                problems.append(f"{entry.file}: {error}")
            progress(progress.at + size)
    if n_written + n_kept == 0:
        raise UnreadableError(f"nothing could be converted: {'; '.join(problems[:5])}")
    lines = [f"{out}: {n_written} file(s) written, {n_kept} kept"]
    if problems:
        lines += [f"{len(problems)} problem(s):", *(f"  {problem}" for problem in problems)]
    return "\n".join(lines)


def _is_converted(path: Path, origin: Origin, *, overwrite: bool) -> bool:
    """True for a file that was made from this source, False where there is none or it may go.

    Raises:
        FileExistsError: if it is another file, with what differs.
    """
    if not path.exists():
        return False
    try:
        with guarded(), HDF5.open(path) as file:
            found = files.parse_json(str(file.attrs["converted_from"]), str(path))
        if not isinstance(found, dict):
            raise UnreadableError("'converted_from' is no JSON object")
        differences = [
            f"{key} was {found.get(key)!r}, is {value!r}"
            for key, value in origin.items()
            if found.get(key) != value
        ]
    except UnreadableError:
        differences = ["it was not made by this command"]
    if differences and not overwrite:
        raise FileExistsError(
            errno.EEXIST,
            f"is in the way ({'; '.join(differences)}); --overwrite replaces it",
            str(path),
        )
    return not differences


def _write_volume(
    path: Path, source: Path, entry: Entry, volume: Volume, origin: Origin
) -> list[str]:
    """Write one file under another name and rename it when it is whole; returns the problems.

    Where the volume has other coils than that of the entry, they are simulated.
    """
    problems: list[str] = []
    measured: dict[int, Tensor] = {}  # where k-space does not tell it by itself
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        with (
            entry.reader.container.open(source) as opened,
            files.named(path, partial),
            h5py.File(partial, "w") as file,
        ):
            largest, simulated = 0.0, volume.n_coils != entry.volume.n_coils
            for index in range(volume.n_slices if simulated else 0):
                with suppress(UnreadableError), guarded():  # named below
                    scan = entry.reader.read(opened, entry.volume, index)
                    largest = max(largest, scan.volume_max)
            for index in range(volume.n_slices):
                try:
                    with guarded():
                        scan = entry.reader.read(opened, entry.volume, index)
                        if entry.volume.target == RSS:  # else the copy's "own"
                            scan = with_target(scan, COMBINED)
                        if simulated:
                            scan = with_coils(scan, volume.n_coils, largest=largest)
                except UnreadableError as error:
                    problems.append(f"{entry.file}, slice {index}: {error}")
                    continue
                attributes: dict[str, str | float | None] = {
                    "subject_id": volume.subject,
                    "contrast": volume.contrast,
                    "scanner": volume.scanner,
                    "field_strength": volume.field_strength,
                    "simulated": volume.simulated,
                    "split": origin["split"],
                    "converted_from": json.dumps(origin),
                    "processing": json.dumps(list(scan.processing)),
                }
                if volume.magnitude_only:
                    whole = scan.target.shape == scan.shape
                    image = scan.target if whole else magnitude_reference(scan.kspace)
                    stored: dict[str, Tensor | None] = {"image": image}
                    attributes["phase"] = "magnitude only"
                    if not whole:
                        attributes["readout_oversampling"] = scan.shape[0] / scan.target.shape[0]
                else:
                    stored = {"kspace": scan.kspace, "target": scan.target}
                    stored |= {"sensitivity": scan.sensitivity, "label": scan.label}
                if "converted_from" not in file.attrs:
                    file.attrs.update({k: v for k, v in attributes.items() if v is not None})
                for key, values in stored.items():
                    if values is not None:
                        _put(file, key, volume.n_slices, index, values)
                if not torch.equal(scan.measured, measured_samples(scan.kspace)):
                    measured[index] = scan.measured
            if "converted_from" not in file.attrs:
                raise UnreadableError(f"no slice can be read, the first: {problems[0]}")
            for index in range(volume.n_slices if measured and not volume.magnitude_only else 0):
                usual = measured_samples(torch.from_numpy(file["kspace"][index]))
                _put(file, "measured", volume.n_slices, index, measured.get(index, usual))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return problems


def _partial(path: Path) -> Path:
    """Name of a file until it is whole; the next run overwrites what a killed one leaves."""
    return path.with_name(f".{path.name}.partial")


def _put(file: h5py.File, key: str, n_slices: int, index: int, values: Tensor) -> None:
    array: NDArray[Any] = values.numpy()
    if key not in file:
        file.create_dataset(key, shape=(n_slices, *array.shape), dtype=array.dtype)
    if file[key].shape[1:] != array.shape:
        raise UnreadableError(
            f"{key} has the shape {array.shape}; slices before it {file[key].shape[1:]}"
        )
    file[key][index] = array
