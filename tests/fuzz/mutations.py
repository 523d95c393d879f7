"""Damage to files: to bytes of any of them, and to the structure of kinds that are known.

A mutation takes a file's content and a generator, and gives other content. Those of structure may
fail in any way on files that have none; the bytes are damaged instead.
"""

import csv
import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np
from numpy.random import Generator

Mutation = Callable[[bytes, Generator], bytes]

WHOLE = (0, 1, -1, 2, 7, 127, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1)
REAL = (0.0, -0.0, 0.5, -1.0, 5e-324, 1e-30, 1e20, 3e38, 1e300, np.nan, np.inf, -np.inf)
#: Texts as numbers, names, dates and paths may be given.
WORDS = (
    *("", " ", "0", "1", "-1", "2.5", "1e400", "-1e400", "nan", "inf", "1e20", "1e-30", "00", "٣"),
    *(
        "9" * 400,
        "9" * 5000,
        "x" * 200_000,
        "²",
        "\0",
        "\ud800",
        "a\nb",
        "é",
        "../../x",
        "{}",
        "[]",
    ),
    *("true", "None", "ssim", "nmse", "train", "columns", "1/0", "0x10", "1_000", "2147483648"),
)
#: Written into JSON as they are, since no value stands for them.
RAW = {
    "@deep list": "[" * 100_000 + "]" * 100_000,
    "@deep object": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "@overflow": "1e400",
    "@long": "9" * 5000,
    "@nan": "NaN",
    "@infinity": "-Infinity",
}


def pick(options: Sequence[Any], rng: Generator) -> Any:
    return options[int(rng.integers(len(options)))]


def damaged(content: bytes, rng: Generator) -> bytes:
    """Bytes flipped, cut, inserted, repeated, zeroed, or made a huge length."""
    data = bytearray(content)
    for _ in range(int(rng.geometric(0.5))):
        start, end = sorted(int(rng.integers(len(data) + 1)) for _ in range(2))
        near = min(start + int(rng.integers(1, 65)), len(data))
        match int(rng.integers(9)):
            case 0 if data:
                data[start % len(data)] ^= 1 << int(rng.integers(8))
            case 1 if data:
                data[start % len(data)] = pick((0, 1, 127, 128, 255), rng)
            case 2:
                del data[start:]
            case 3:
                del data[start:near]
            case 4:
                data[start:start] = rng.bytes(near - start)
            case 5:
                data[start:near] = data[end : end + near - start]
            case 6:
                data[start:near] = bytes(near - start)
            case 7:
                size, order = pick((2, 4, 8), rng), pick(("little", "big"), rng)
                value = (pick(WHOLE, rng) % 256**size).to_bytes(size, order)
                data[start : start + size] = value
            case 8:
                data += data[start:near]
    return bytes(data)


def text(content: bytes, rng: Generator) -> bytes:
    """Numbers and words of a text (headers, XML) become others; tags go, or nest for ever."""
    words = content.decode("utf-8")
    for _ in range(int(rng.geometric(0.6))):
        pattern = pick((r"\d+(?:\.\d+)?", r"<[^<>]*>", r"(?<=>)[^<>]+(?=<)", r"\w+"), rng)
        found = list(re.finditer(pattern, words))
        if not found:
            continue
        one = pick(found, rng)
        other = pick(
            (
                *(str(pick(WHOLE, rng)), str(pick(REAL, rng)), pick(WORDS, rng), ""),
                *(one.group() * 2, pick(found, rng).group(), "<a>" * 20_000, "&b;"),
            ),
            rng,
        )
        words = words[: one.start()] + other + words[one.end() :]
    if "<?xml" in words and rng.random() < 0.05:
        entity = '<!DOCTYPE x [<!ENTITY a "' + "a" * 1000 + '"><!ENTITY b "' + "&a;" * 1000 + '">]>'
        words = words.replace("?>", f"?>{entity}", 1)
    return encoded(words, rng)


def encoded(words: str, rng: Generator) -> bytes:
    """UTF-8, now and then another encoding."""
    encoding = pick((*["utf-8"] * 12, "utf-16", "latin-1", "utf-8-sig"), rng)
    return words.encode(encoding, errors="surrogatepass" if "utf" in encoding else "replace")


def strange(value: object, rng: Generator) -> object:
    """A value of another type or size, or a little other than it was."""
    if isinstance(value, int | float) and rng.random() < 0.3:
        return pick((value + 1, -value, value * 2, float(value), str(value), [value]), rng)
    if isinstance(value, list) and value and rng.random() < 0.5:
        return pick((value[:-1], value + value, [], value[::-1], value[0], [value]), rng)
    return pick(
        (
            *(pick(WHOLE, rng), pick(WORDS, rng), pick(tuple(RAW), rng), None, True, [], {}),
            *([None], [[]], {"a": 1}, {"kind": "unet", "settings": {}}, 0.5, -0.5, 1e300, 10**400),
        ),
        rng,
    )


def changed(tree: Any, rng: Generator) -> Any:
    """A JSON value in which one node is strange, missing, renamed or new."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.05:
        return strange(tree, rng)
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = pick(keys, rng)
    tree = tree.copy()
    match int(rng.integers(10)):
        case 0:
            del tree[key]
        case 1 if isinstance(tree, dict):
            tree[pick(WORDS, rng)] = tree.pop(key)
        case 2 if isinstance(tree, dict):
            tree[pick(WORDS, rng)] = strange(None, rng)
        case 3:
            tree[key] = tree[pick(keys, rng)]
        case _:
            tree[key] = changed(tree[key], rng)
    return tree


def dumped(tree: object) -> str:
    words = json.dumps(tree)
    for name, raw in RAW.items():
        words = words.replace(json.dumps(name), raw)
    return words


def as_json(content: bytes, rng: Generator) -> bytes:
    return encoded(dumped(changed(json.loads(content), rng)), rng)


def as_json_lines(content: bytes, rng: Generator) -> bytes:
    lines = content.decode().splitlines()
    place = int(rng.integers(len(lines)))
    if rng.random() < 0.2:
        lines[place : place + 1] = pick(([], [""], ["{"], lines[place : place + 1] * 2), rng)
    else:
        lines[place] = dumped(changed(json.loads(lines[place]), rng))
    return encoded("\n".join(lines) + "\n", rng)


def as_csv(content: bytes, rng: Generator) -> bytes:
    """A cell, row or column of a table with a header is other, gone, or there twice."""
    table = list(csv.reader(content.decode().splitlines()))
    row = pick(table, rng)
    place = int(rng.integers(len(row)))
    match int(rng.integers(5)):
        case 0:
            row.insert(place, pick(WORDS, rng))
        case 1:
            del row[place]
        case 2:
            table.insert(int(rng.integers(len(table))), list(row))
        case _:
            row[place] = str(pick((pick(WORDS, rng), pick(WHOLE, rng), pick(REAL, rng)), rng))
    stream = io.StringIO()
    csv.writer(stream, delimiter=pick((*[","] * 9, ";"), rng)).writerows(table)
    return encoded(stream.getvalue(), rng)


def as_zip(content: bytes, rng: Generator) -> bytes:
    """A member of an archive (of torch.save) is damaged, other, gone, renamed; its sums fit."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    place = int(rng.integers(len(members)))
    name, inside = members[place]
    match int(rng.integers(5)):
        case 0:
            del members[place]
        case 1:
            members[place] = pick(WORDS[14:], rng)[:60000] + name, inside
        case 2:
            members[place] = name, pick(members, rng)[1]
        case _:
            members[place] = name, damaged(inside, rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, inside in members:
            archive.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode()), inside)
    return stream.getvalue()


def as_safetensors(content: bytes, rng: Generator) -> bytes:
    """The header is another JSON object, or numbers of the weights are no numbers."""
    (size,) = struct.unpack("<Q", content[:8])
    header, weights = content[8 : 8 + size], content[8 + size :]
    if rng.random() < 0.7:
        header = dumped(changed(json.loads(header), rng)).encode("utf-8", "surrogatepass")
    else:
        weights = with_values(np.frombuffer(weights, "<f4"), rng).astype("<f4").tobytes()
    return struct.pack("<Q", len(header)) + header + weights


def as_parquet(content: bytes, rng: Generator) -> bytes:
    """A column has other values or another type, or is gone; metadata are strange."""
    import pyarrow
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(content))
    name = pick(table.column_names, rng)
    values = table.column(name).to_pylist()
    metadata = dict(table.schema.metadata or {})
    match int(rng.integers(5)):
        case 0:
            table = table.drop_columns([name])
        case 1 if metadata:
            key = pick(sorted(metadata), rng)
            metadata[key] = as_json(metadata[key], rng)
        case 2:
            other = pick(("a", b"a", 1.5, None, [1], ["a"], True, -1, {"a": 1}), rng)
            column = pyarrow.array([other] * len(values))
            table = table.set_column(table.column_names.index(name), name, column)
        case _:
            place = int(rng.integers(len(values)))
            one = values[place]
            if isinstance(one, list):
                choices: tuple[Any, ...] = ([], one * 2, one[1:], [-1], [None], [10**9], None)
                values[place] = pick(choices, rng)
            elif isinstance(one, str):
                values[place] = pick((*WORDS[:16], None), rng).replace("\ud800", "")
            else:
                values[place] = pick((*(WHOLE if isinstance(one, int) else REAL), None), rng)
            column = pyarrow.array(values, table.schema.field(name).type)
            table = table.set_column(table.column_names.index(name), name, column)
    stream = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(metadata), stream)
    return stream.getvalue()


def with_values(values: np.ndarray[Any, Any], rng: Generator) -> np.ndarray[Any, Any]:
    """Some or all numbers are none, huge, tiny, negative, or zero."""
    values = values.copy()
    flat = values.reshape(-1)
    with np.errstate(all="ignore"):
        match int(rng.integers(5)):
            case 0:
                flat[int(rng.integers(len(flat)))] = pick(REAL, rng)
            case 1:
                flat *= pick((1e20, 1e-30, 1e30, -1, 0, 1e-20), rng)
            case 2:
                flat[int(rng.integers(len(flat))) :] = 0
            case 3:
                axis = int(rng.integers(values.ndim))
                place = int(rng.integers(values.shape[axis]))
                lines = np.moveaxis(values, axis, 0)
                kept = lines[place].copy()
                lines[:] = 0
                lines[place] = kept
            case 4:
                flat[:] = pick(REAL, rng)
    return values


#: Names that readers look for, in any format of HDF5.
KEYS = (
    *("kspace", "image", "target", "sensitivity", "measured", "label", "trajectory", "mask"),
    *("maps", "ismrmrd_header", "reconstruction_rss", "reconstruction_esc", "calibration_data"),
    *("coil_sens_maps", "dataset", "xml", "data", "kspace_full", "kspace_sub04", "mask04"),
)
ATTRIBUTES = (
    *("acquisition", "patient_id", "subject_id", "split", "contrast", "field_strength", "scanner"),
    *("phase", "readout_oversampling", "processing", "simulated", "max", "converted_from"),
)


def as_hdf5(content: bytes, rng: Generator) -> bytes:
    """Data sets, groups, links and attributes are gone, renamed, of other types and shapes."""
    stream = io.BytesIO(content)
    with h5py.File(stream, "a") as file:
        for _ in range(int(rng.geometric(0.7))):
            names: list[str] = []
            file.visit(names.append)
            _change_hdf5(file, names, rng)
    return stream.getvalue()


def _change_hdf5(file: h5py.File, names: list[str], rng: Generator) -> None:
    # Without those that an earlier change has made huge.
    sets = [n for n in names if isinstance(file[n], h5py.Dataset) and (file[n].size or 0) < 10**6]
    kind = int(rng.integers(10))
    if kind == 0 or not sets:
        holder = file[pick([*sets, "/"], rng)]
        holder.attrs[pick((*ATTRIBUTES, *ATTRIBUTES, pick(KEYS, rng)), rng)] = _attribute(file, rng)
        return
    name = pick(sets, rng)
    found = file[name]
    if kind == 1:
        del file[name]
    elif kind == 2:
        file.move(name, pick(KEYS, rng))
    elif kind == 3:
        new = pick(KEYS, rng)
        if new in file:
            del file[new]
        file[new] = pick((found, np.zeros(3), found[()], 1.0), rng)
    elif kind == 4:
        _link(file, name, rng)
    elif found.dtype.names or found.dtype.kind in "OS":
        _records(file, name, rng)
    elif kind in (5, 6):
        _replace(file, name, with_values(found[()], rng))
    elif kind == 7:
        values = found[()]
        dtype = pick(("i2", "u1", "f2", "f8", "c16", "?", "S4", "V8", h5py.string_dtype()), rng)
        _replace(file, name, _cast(values, dtype))
    elif kind == 8:
        values = found[()]
        axis = int(rng.integers(values.ndim))
        some = [slice(None)] * values.ndim
        some[axis] = slice(int(rng.integers(values.shape[axis])))
        shapes = (
            values.swapaxes(axis, -1),
            values[None],
            values.take(0, axis),
            values[tuple(some)],
        )
        _replace(file, name, pick((*shapes, values.flat[0], h5py.Empty("f4"), values.ravel()), rng))
    else:
        shape, dtype = list(found.shape), found.dtype
        shape[int(rng.integers(len(shape)))] = pick((1000, 10**6, 2**31, 2**40), rng)
        fill = pick((0, 1, np.nan), rng)
        del file[name]
        file.create_dataset(
            name, shape, dtype, chunks=tuple(min(n, 8) for n in shape), fillvalue=fill
        )


def _cast(values: Any, dtype: Any) -> Any:
    if dtype == "V8":
        return values.view("V8")
    return (values.real if dtype != "c16" else values).astype(dtype)


def _replace(file: h5py.File, name: str, values: Any) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(attributes)


def _attribute(file: h5py.File, rng: Generator) -> Any:
    record = np.zeros(2, [("a", "f4"), ("b", "i4")])
    made = (np.arange(3), h5py.Empty("f4"), np.bytes_(b"\xff\xfe"), record, file.ref, np.nan, 1e300)
    return pick(
        (*made, np.void(b"abc"), ["a", "b"], pick(WORDS, rng)[:60000].replace("\0", "")), rng
    )


def _link(file: h5py.File, name: str, rng: Generator) -> None:
    """Something else in the place of a data set."""
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    match int(rng.integers(7)):
        case 0:
            file[name] = h5py.SoftLink(pick(("/nowhere", name, "/"), rng))
        case 1:
            file[name] = h5py.ExternalLink(pick(("gone.h5", "/etc/passwd", "/dev/zero"), rng), "/x")
        case 2:
            file.create_group(name)
        case 3:
            file[name] = file["/"]
        case 4:
            file[name] = np.dtype("f4")
        case 5:
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            file.create_dataset(name, shape, dtype, external=[("/dev/zero", 0, size)])
        case 6:
            layout = h5py.VirtualLayout(shape, dtype)
            layout[...] = h5py.VirtualSource("gone.h5", "x", shape)
            file.create_virtual_dataset(name, layout)


def _records(file: h5py.File, name: str, rng: Generator) -> None:
    """Fields of records or texts, e.g. XML, are other ones."""
    found = file[name]
    values = found[()]
    if not found.dtype.names:
        texts = np.atleast_1d(np.asarray(values, object))
        texts[0] = text(bytes(texts[0]), rng).replace(b"\0", b"")
        _replace(file, name, texts[0] if found.shape == () else texts.astype(h5py.string_dtype()))
        return
    flat = values.reshape(-1)
    rows = pick((slice(None), int(rng.integers(len(flat)))), rng)
    part, dtype = flat, flat.dtype
    while dtype.names:
        field = pick(dtype.names, rng)
        part, dtype = part[field], dtype[field]
    if dtype.kind == "O":
        row = int(rng.integers(len(flat)))
        own = part[row]
        part[row] = pick((own[:-1], own[:0], np.repeat(own, 2), own * np.float32(np.nan)), rng)
    elif dtype.kind == "f":
        part[rows] = pick(REAL, rng)
    else:
        limits = np.iinfo(dtype.base)
        part[rows] = pick((0, 1, 2, 3, 100, limits.max, limits.min, 1 << 20 & limits.max), rng)
    _replace(file, name, values)


#: Offsets and types of the fields of a NIfTI header that decide about what is read.
NIFTI = (
    *((0, "<i4"), (70, "<i2"), (72, "<i2"), (108, "<f4"), (112, "<f4"), (116, "<f4"), (123, "<i1")),
    *((40 + 2 * n, "<i2") for n in range(8)),
    *((76 + 4 * n, "<f4") for n in range(8)),
    *((252, "<i2"), (254, "<i2"), (256, "<f4"), (280, "<f4"), (300, "<f4"), (344, "<i4")),
)


def as_nifti(content: bytes, rng: Generator) -> bytes:
    zipped = content[:2] == b"\x1f\x8b"
    data = bytearray(gzip.decompress(content) if zipped else content)
    if rng.random() < 0.2:
        data[352:] = with_values(np.frombuffer(bytes(data[352:]), "<f4"), rng).tobytes()
    for _ in range(int(rng.geometric(0.6))):
        place, kind = pick(NIFTI, rng)
        value = _fitting(pick(REAL if "f" in kind else (*WHOLE, -2, 3, 4, 8, 16), rng), kind)
        data[place : place + len(value)] = value
    return gzip.compress(bytes(data), mtime=0) if zipped else bytes(data)


def _fitting(value: float, kind: str) -> bytes:
    with np.errstate(all="ignore"):
        if "f" in kind:
            return bytes(np.array(value).astype(kind).tobytes())
    size = np.dtype(kind).itemsize
    return bytes((int(value) % 256**size).to_bytes(size, "little"))


def as_dicom(content: bytes, rng: Generator) -> bytes:
    """Elements are gone, or hold what nothing but their type allows."""
    import pydicom

    dataset = pydicom.dcmread(io.BytesIO(content))
    for _ in range(int(rng.geometric(0.6))):
        element = dataset[pick(sorted(dataset.keys()), rng)]
        if rng.random() < 0.2:
            del dataset[element.tag]
        elif element.VR in ("US", "UL", "SS", "SL"):
            element.value = pick(WHOLE, rng) % 65536
        elif element.VR == "OW":
            element.value = damaged(element.value, rng)
        else:
            words = pick((*WORDS[:15], pick(WHOLE, rng), "1\\2\\3", "MONOCHROME1"), rng)
            # As it stands in the file: pydicom would refuse to write some of it.
            raw = str(words).encode("utf-8", "surrogatepass")[:60000]
            dataset[element.tag] = pydicom.DataElement(
                element.tag, "UN", raw + b" " * (len(raw) % 2), already_converted=True
            )
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset)
    return stream.getvalue()


#: By the ending of a file's name.
STRUCTURE: dict[str, Mutation] = {
    ".json": as_json,
    ".jsonl": as_json_lines,
    ".csv": as_csv,
    ".pt": as_zip,
    ".safetensors": as_safetensors,
    ".parquet": as_parquet,
    ".h5": as_hdf5,
    ".hdf5": as_hdf5,
    ".mrd": as_hdf5,
    ".mat": as_hdf5,
    ".nii": as_nifti,
    ".gz": as_nifti,
    ".dcm": as_dicom,
    ".hdr": text,
    ".cfl": damaged,
}
