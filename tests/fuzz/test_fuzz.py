"""Damaged files are used or refused, and nothing that reads files is left out."""

import ast
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from activemri.agents.networks import NETWORKS
from activemri.data.formats.registry import all_readers
from activemri.reconstruction.registry import RECONSTRUCTORS, WRAPPERS
from tests.fuzz.campaign import Worker, campaign, table
from tests.fuzz.cases import ACCEPTED, known, made, put, run, used
from tests.fuzz.targets import targets
from tests.test_structure import MODULES

CASES = 40  # of each target; `make fuzz` runs many more

#: What takes the content of a file.
READ = {
    *("loads", "parse_json", "read_json", "read_csv", "read_log", "read_text", "read_bytes"),
    *("memmap", "dcmread", "read_table", "read_parquet", "read_metadata", "File", "fromfile"),
}
#: Modules that read files, but none that another program or another command has written.
OWN = {
    "activemri.cli": "a table of commands",
    "activemri.devices": "files of the operating system",
    "activemri.files": "functions that the others call",
    "activemri.options": "a copy of settings by way of JSON",
    "activemri.data.isolation": "files of the operating system",
    "activemri.data.phantoms.dataset": "its own source, for a digest",
    "activemri.benchmark.plan": "bytes, for a digest",
    "activemri.benchmark.statistics": "a column that the benchmark has written",
    "activemri.training.joint": "checkpoints that it has just written",
    "activemri.training.reconstructor": "checkpoints that it has just written",
}


@pytest.mark.parametrize("name", targets())
def test_sound_files_are_used_and_damaged_ones_used_or_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIVEMRI_CACHE", "")
    monkeypatch.setenv("ACTIVEMRI_MAX_GIB", "0.1")
    target = known()[name]
    for sound in target.seeds():
        assert used(target, put(sound, tmp_path / "case")).kind == ACCEPTED
    defects = {}
    for seed in range(CASES):
        outcome = run(target, seed, tmp_path / "case")
        if outcome.is_defect:
            defects[f"--target {name!r} --seed {seed}"] = f"{outcome.kind}: {outcome.words}"
    assert not defects


@pytest.mark.parametrize("name", targets())
def test_a_case_follows_from_its_target_and_number_alone(name: str) -> None:
    one, other = targets()[name], targets()[name]
    for seed in range(5):
        assert made(one, seed) == made(other, seed)


def test_everything_that_is_registered_has_sound_files_to_begin_with() -> None:
    kinds = [reader.name for reader in all_readers()]
    kinds += [f"checkpoint of {kind}" for kind in RECONSTRUCTORS | WRAPPERS]
    kinds += [f"policy of {kind}" for kind in NETWORKS]
    assert [kind for kind in kinds if kind not in known() or not known()[kind].write] == []


def test_every_module_that_reads_files_is_a_target_or_says_why_not() -> None:
    reading = set()
    for module, path in MODULES.items():
        calls = [
            node.func
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        ]
        names = {
            call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")
            for call in calls
        }
        loads = [c for c in calls if isinstance(c, ast.Attribute) and c.attr == "load"]
        by = {ast.unparse(call.value) for call in loads}
        if names & READ or by & {"np", "torch", "nibabel", "checkpoints"}:
            reading.add(module)
    covered = {module for target in known().values() for module in target.covers}
    assert sorted(reading - covered - OWN.keys()) == []


def work_that_fails(there: Connection, folder: Path) -> None:
    """A process that hangs at case 1, dies at case 3, and uses the others."""
    _, first, last = there.recv()
    there.send(None)
    for seed in range(first, last):
        if seed == 1:
            time.sleep(60)
        elif seed == 3:
            os._exit(7)
        there.send((seed, ACCEPTED, ""))


@pytest.mark.long
def test_cases_that_hang_or_kill_a_process_are_defects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.campaign._work", work_that_fails)
    monkeypatch.setattr("tests.fuzz.campaign.LIMIT_S", 1.0)
    worker = Worker(tmp_path)
    kinds = [kind for _, kind, _ in worker.outcomes("any", 0, 5)]
    worker.stop()
    assert kinds == [ACCEPTED, "hang", ACCEPTED, "crash with status 7", ACCEPTED]


@pytest.mark.long
def test_a_campaign_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    first = campaign(["split", "rule"], 60, tmp_path)
    assert [tally.done for tally in first.values()] == [30, 30]
    both = campaign(["split", "rule"], 101, tmp_path)
    assert [tally.done for tally in both.values()] == [51, 50]
    assert both == campaign(["split", "rule"], 101, tmp_path / "at once")
    assert "all" in table(both).text()
