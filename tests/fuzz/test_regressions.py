"""Damage that once went through, or broke something, as small as it can be."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from tests.fuzz.cases import ACCEPTED, REFUSED, known, put, used

Change = Callable[[bytes], bytes]


def entries(*path: str | int, **changes: Any) -> Change:
    """Change entries of the object at a path of a JSON file; None takes one away."""

    def change(content: bytes) -> bytes:
        tree = here = json.loads(content)
        for name in path:
            here = here[name]
        here.update(changes)
        for name in [name for name, value in changes.items() if value is None]:
            del here[name]
        return json.dumps(tree).encode()

    return change


def text(old: str, new: str, *, encoding: str = "utf-8") -> Change:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.decode().replace(old, new, 1).encode(encoding)

    return change


def weights(factor: float) -> Change:
    def change(content: bytes) -> bytes:
        tensors = {name: weight * factor for name, weight in load(content).items()}
        return save(tensors)

    return change


def column(name: str, value: object) -> Change:
    """Another value in the first row of a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    def change(content: bytes) -> bytes:
        table = parquet.read_table(io.BytesIO(content))
        values = table.column(name).to_pylist()
        values = [value, *values[1:]] if not isinstance(value, type) else list(map(value, values))
        place = table.column_names.index(name)
        stream = io.BytesIO()
        parquet.write_table(table.set_column(place, name, pyarrow.array(values)), stream)
        return stream.getvalue()

    return change


def member(content: bytes) -> bytes:
    """One bit of a tensor, in an archive whose sums stay."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        inside = archive.read("archive/data/0")
    assert content.count(inside) == 1
    return content.replace(inside, bytes([inside[0] ^ 1]) + inside[1:])


DEEP = "[" * 100_000 + "]" * 100_000
LONG_HEADER = (200_002).to_bytes(8, "little") + b'"' + b"x" * 200_000 + b'"'
CASES: list[tuple[str, str, Change]] = [
    # Checkpoints: numbers that are none, sizes of any amount, types that fail later.
    ("checkpoint of unet", "best.safetensors", weights(torch.nan)),
    ("checkpoint of varnet", "best.safetensors", weights(1e20)),
    ("policy of lines", "best.safetensors", weights(torch.inf)),
    ("evaluator", "best.safetensors", weights(torch.nan)),
    ("checkpoint of unet", "best.json", entries("settings", channels=10**9)),
    ("checkpoint of unet", "best.json", entries(sha256="not sealed" * 20_000)),
    ("checkpoint of cresnet", "best.json", entries("settings", blocks=2**31)),
    ("checkpoint of dropout", "best.json", entries("settings", n_samples="8")),
    ("checkpoint of recalibrated", "best.json", entries("settings", reconstructor=1)),
    ("checkpoint of unet", "best.json", text('"channels": 2', f'"channels": {DEEP}')),
    ("policy of schedule", "best.json", entries("settings", "network", layers=2**40)),
    ("policy of lines", "best.json", entries("settings", frame=[])),
    ("evaluator", "best.json", entries("settings", layers=2**62)),
    ("checkpoint of cg-sense", "best.json", entries(kind="x" * 200_000)),
    ("policy of lines", "best.json", entries(kind="x" * 200_000)),
    ("evaluator", "best.json", entries(kind="x" * 200_000)),
    ("checkpoint of diffusion", "best.json", entries("settings", n_samples=2**15 - 1)),
    ("policy of varnet", "best.json", entries("settings", "frame", shape=[18, 13])),
    ("checkpoint of unet", "best.safetensors", lambda content: LONG_HEADER),
    # JSON of other kinds: types, numbers, depth, missing entries.
    ("order", "order.json", entries(n_scans="many")),
    ("order", "order.json", text('"info": {', f'"more": {DEEP}, "info": {{')),
    ("rule", "rule.json", text('"target": 0.8', '"target": 1e400')),
    ("rule", "rule.json", entries(alpha="0.1")),
    ("split", "splits.json", text('"val"', DEEP)),
    ("result of a training", "result.json", entries(best_step=None)),
    ("result of a training", "result.json", entries(best_score="good")),
    ("speed", "speed.json", entries("rows", "step", baseline_seconds=0)),
    ("speed", "speed.json", entries("rows", "step", baseline_seconds="1/0")),
    # Logs and the state of a training.
    ("log of a training", "log.jsonl", text('"step": 10', '"step": "10"')),
    ("log of a training", "log.jsonl", text('"step": 10, ', "")),
    ("log of a training", "log.jsonl", text("0.10", "[]")),
    ("log of a training", "log.jsonl", text("policy", "pölicy", encoding="latin-1")),
    ("folder of a training", "log.jsonl", text('"training"', '"name"')),
    ("folder of a training", "settings.json", text('"ddqn"', f'"{"x" * 200_000}"')),
    ("folder of a training", "last.pt", lambda content: content[:22]),
    ("folder of a training", "last.pt", member),
    # Tables.
    ("annotations", "boxes.csv", text(",2,", ",1e400,")),
    ("annotations", "boxes.csv", text(",2,", ",nan,")),
    ("annotations", "boxes.csv", text("lesion", "läsion", encoding="latin-1")),
    ("annotations", "boxes.csv", text("lesion", "x" * 200_000)),
    ("demonstrations", "file.parquet", column("lines", [10**9])),
    ("demonstrations", "file.parquet", column("lines", None)),
    ("demonstrations", "file.parquet", column("actions", [])),
    ("demonstrations", "file.parquet", column("scores", [torch.nan])),
    ("demonstrations", "file.parquet", column("score", torch.inf)),
    ("demonstrations", "file.parquet", column("volume", None)),
    ("demonstrations", "file.parquet", column("budget", str)),
    ("demonstrations", "file.parquet", lambda content: content.replace(b"volume", b"vol\xffme")),
    ("part of a benchmark", "part.parquet", column("value", torch.nan)),
    ("part of a benchmark", "part.parquet", column("value", torch.inf)),
    ("part of a benchmark", "part.parquet", column("volume", "another")),
    ("part of a benchmark", "part.parquet", column("step", 7)),
]


@pytest.mark.parametrize(("name", "file", "change"), CASES)
def test_damage_that_went_through_is_refused(
    name: str, file: str, change: Change, tmp_path: Path
) -> None:
    outcome = _used(name, file, change, tmp_path)
    assert outcome.kind == REFUSED, outcome


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        ("cache of an index", "headers.json", text('"facts": {', f'"more": {DEEP}, "facts": {{')),
        ("cache of an index", "headers.json", text("[8, 10]", "[10, 8]")),
        ("cache of an index", "samples.json", text('"volume_max": ', '"volume_max": -')),
    ],
)
def test_what_is_damaged_in_a_cache_is_made_anew(
    name: str, file: str, change: Change, tmp_path: Path
) -> None:
    outcome = _used(name, file, change, tmp_path)
    assert outcome.kind == ACCEPTED, outcome


def _used(name: str, file: str, change: Change, folder: Path) -> Any:
    target = known()[name]
    content = dict(next(files for files in target.seeds() if file in files))
    content[file] = change(content[file])
    if target.seal is not None and b"not sealed" not in content[file]:
        content = dict(target.seal(content))
    return used(target, put(content, folder / "case"))
