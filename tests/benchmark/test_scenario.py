"""What is acquired: what an id says, and what overrides it."""

from collections.abc import Iterator
from dataclasses import replace

import gymnasium
import pytest

from activemri.benchmark.scenario import Scenario
from activemri.data.sources import open_dataset
from activemri.registration import ENTRY_POINT, find_protocol
from activemri.settings import BenchmarkSettings


@pytest.fixture
def priced() -> Iterator[str]:
    """An id with options of all kinds."""
    keywords = {"data": "phantom", "budget": 6, "lines_per_action": 2, "step_cost": 0.01}
    gymnasium.register("Priced-v0", entry_point=ENTRY_POINT, kwargs=keywords)
    yield "Priced-v0"
    del gymnasium.registry["Priced-v0"]


def test_without_an_id_the_old_defaults_hold() -> None:
    found = Scenario.of(BenchmarkSettings())
    assert (found.data, found.budget, found.n_center_lines) == ("phantom", 24, 8)
    assert (found.reconstructors, found.matrix, found.step_cost) == (("zero-filled",), None, 0)
    assert found.options == {}


def test_an_id_gives_its_options() -> None:
    found = Scenario.of(BenchmarkSettings(env="ActiveMRI/Pineda2020-2L-v0", data="there"))
    assert (found.data, found.budget, found.n_center_lines) == ("there", 98, 2)
    assert Scenario.of(BenchmarkSettings(env="ActiveMRI/Phantom-v0")).reconstructors == ("cresnet",)


def test_what_is_said_overrides_the_id(priced: str) -> None:
    settings = BenchmarkSettings(env=priced)
    assert Scenario.of(settings).budget == 6
    assert Scenario.of(replace(settings, budget=24)).budget == 24
    assert Scenario.of(replace(settings, budget=None)).budget is None
    assert Scenario.of(replace(settings, step_cost=0.0)).step_cost == 0
    assert Scenario.of(replace(settings, reconstructors=("unet",))).reconstructors == ("unet",)


def test_further_options_reach_the_acquisition(priced: str) -> None:
    scenario = Scenario.of(BenchmarkSettings(env=priced, matrix=24))
    scans = open_dataset("phantom", split="test", matrix_size=24)
    task = scenario.task(scans, reconstructor="zero-filled", metrics=("psnr",))
    assert task.scan(scans).geometry.groups.shape[1] == 2
    assert (task.budget, task.step_cost) == (6, 0.01)
    assert {"psnr", "ssim"} <= set(task.scan(scans).metrics)


def test_unknown_ids_and_missing_scans_are_told() -> None:
    with pytest.raises(ValueError, match=r"unknown environment 'Phantom'; expected one of ActiveM"):
        find_protocol("Phantom")
    with pytest.raises(ValueError, match="needs scans: say where they are with --data"):
        Scenario.of(BenchmarkSettings(env="ActiveMRI/HDF5-v0"))


def test_what_was_left_open_is_filled_in_where_settings_are_written() -> None:
    plain, named = BenchmarkSettings(), BenchmarkSettings(data="phantom", budget=24)
    assert Scenario.of(plain).described == Scenario.of(named).described
